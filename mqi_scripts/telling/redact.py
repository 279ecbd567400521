"""A report that may leave the house: no path, file name, log line or anything else that a patient's data could stand in. Pure."""

from collections.abc import Mapping
from typing import Any

from mqi_scripts import words as w

TROUBLE = "it met trouble: mqi-report on the gateway tells it"


def row(cells: Mapping[str, Any], case: w.Case) -> dict[str, Any]:
    """A row of the report with the same columns. What a rule of ours is called stays, what it found does not."""
    codes = "; ".join(dict.fromkeys(reason.code for reason in case.reasons)) if case.status == w.HELD else ""
    why = codes or (f"mqi-case explain {case.id} tells why" if cells["reason"] else "")
    return {**cells, "case_path": case.id, "reason": why, "stale": "new data" if cells["stale"] else False}


def change(record: Mapping[str, Any], case: w.Case | None) -> str:
    """What happened to a case, or to the ledger."""
    codes = [reason["code"] for reason in record.get("reasons", ())] or filter(None, [record.get("category"), record.get("phase")])
    more = ", ".join(dict.fromkeys(codes))
    return f"{case.id if case else 'the ledger'}: {record['type']}{f' ({more})' if more else ''}"


def note(of: Mapping[str, Any]) -> dict[str, Any]:
    """A script's note."""
    return {**of, "trouble": TROUBLE if of.get("trouble") else ""}
