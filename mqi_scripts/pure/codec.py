"""Events to ledger lines and back, and the chain of digests. ASCII only; a line carries its own digest at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from mqi_scripts import words as w

VERSION = 1
START = w.Head(0, "0" * 64)  # what stands before the first line
TYPES: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(w.Event)}
_TAIL = len(',"sha256":""}') + 64


def stamp(at: datetime) -> str:
    """UTC, ISO 8601 with milliseconds and Z."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def plain(value: Any) -> Any:
    """A word as JSON has it: NamedTuples of events as objects, times as text."""
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, w.Reason):
        return value._asdict()
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    return value


def to_dict(event: w.Event) -> dict[str, Any]:
    fields = {name: plain(value) for name, value in event._asdict().items() if name not in ("case", "at")}
    return {"type": type(event).__name__.lower(), "case": event.case, "at": stamp(event.at), **fields}


def from_dict(record: Mapping[str, Any]) -> w.Event:
    """The event of a record; fields it does not know are passed over. Raises KeyError, TypeError or ValueError."""
    kind = TYPES[record["type"]]
    fields = {name: record[name] for name in kind._fields if name in record}
    fields["at"] = instant(fields["at"])
    if "reasons" in fields:
        fields["reasons"] = tuple(w.Reason(r["code"], r["place"], r["text"]) for r in fields["reasons"])
    event: w.Event = kind(**fields)
    return event


def sha256(text: bytes) -> str:
    import hashlib  # noqa: PLC0415  # loads OpenSSL, which a tick with nothing to do does not need

    return hashlib.sha256(text).hexdigest()


def line(event: w.Event, head: w.Head, by: Mapping[str, Any]) -> tuple[bytes, w.Head]:
    """The ledger line that follows head, newline included, and the new head."""
    record = {"v": VERSION, "seq": head.seq + 1, **to_dict(event), "by": by, "prev": head.digest}
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    digest = sha256(body)
    return body[:-1] + b',"sha256":"' + digest.encode() + b'"}\n', w.Head(head.seq + 1, digest)


def read_line(text: bytes, head: w.Head) -> tuple[dict[str, Any], w.Head]:
    """The record of a line (without its newline) that must follow head. Raises Damaged with the reason."""
    if not text[-_TAIL:].startswith(b',"sha256":"') or not text.endswith(b'"}'):
        raise w.Damaged("it is not a whole ledger line (no digest at its end)")
    digest = text[-66:-2].decode("ascii", "replace")
    if not is_whole(text):
        raise w.Damaged("its text does not fit its own digest: it was changed")
    try:
        record: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise w.Damaged(f"it is not JSON: {error}") from None
    if record.get("seq") != head.seq + 1:
        raise w.Damaged(f"it is number {record.get('seq')}, expected {head.seq + 1}: lines are missing or moved")
    if record.get("prev") != head.digest:
        raise w.Damaged("it does not follow the line before it: that line was replaced")
    return record, w.Head(head.seq + 1, digest)


def is_whole(text: bytes) -> bool:
    """Whether a line that only lacks its newline fits its own digest."""
    digest = text[-66:-2].decode("ascii", "replace")
    return text.endswith(b'"}') and sha256(text[:-_TAIL] + b"}") == digest


def case_to_list(case: w.Case) -> list[Any]:
    """A case for the cache of the fold."""
    return [plain(value) for value in case]


def case_from_list(values: list[Any]) -> w.Case:
    case = w.Case(*values)
    return case._replace(
        since=instant(values[3]),
        found=instant(values[4]),
        reasons=tuple(w.Reason(**r) for r in case.reasons),  # type: ignore[arg-type]
        pending=(case.pending[0], case.pending[1], case.pending[2]) if case.pending else None,
        submitted=instant(str(case.submitted)) if case.submitted else None,
        completed=instant(str(case.completed)) if case.completed else None,
    )
