"""The table of events in docs/ledger.md is made of the schema: `python tests/events.py` writes it; a test compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "ledger.md"
BEGIN, END = "<!-- events: made of schemas/event.schema.json by `python tests/events.py` -->\n", "<!-- end of events -->\n"


def table(schema: dict[str, Any]) -> str:
    text = "\n| type | field | kind | what it is |\n|---|---|---|---|\n"
    for rule in schema["oneOf"]:
        fields = {name: one for name, one in rule["properties"].items() if name != "type"}
        for name, one in fields.items():
            missing = "" if name in rule["required"] else " *(may be missing)*"
            text += f"| `{rule['properties']['type']['const']}` | `{name}` | {one.get('type', 'one of ' + ', '.join(one.get('enum', [])))} | {one['description'].replace('|', '/')}{missing} |\n"
        if not fields:
            text += f"| `{rule['properties']['type']['const']}` | | | |\n"
    return text + "\n"


def page(now: str, schema: dict[str, Any]) -> str:
    head, _, rest = now.partition(BEGIN)
    return head + BEGIN + table(schema) + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), json.loads((REPO / "schemas" / "event.schema.json").read_text())))
    sys.stdout.write("docs/ledger.md is written\n")
