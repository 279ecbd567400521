"""Rows as a spreadsheet reads them. Pure."""

import csv
import io
from typing import Any

from mqi_scripts.pure.explain import COLUMNS


def comma_separated(rows: list[dict[str, Any]]) -> str:
    """RFC 4180, everything quoted; a leading formula character gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for cells in rows:
        texts = ["" if cells[name] is False else str(cells[name]) for name in COLUMNS]
        writer.writerow(["'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text for text in texts])
    return out.getvalue()
