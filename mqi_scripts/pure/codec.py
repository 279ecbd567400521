"""Events to ledger lines and back, and the chain of digests. ASCII only; a line carries its own digest at its end."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from mqi_scripts import words as w

VERSION = 1
START = w.Head(0, "0" * 64)  # what stands before the first line
TYPES: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(w.Event)}
PLURAL = ("reasons", "parts", "chosen", "decisions", "asked")  # fields that are tuples
_TAIL = len(',"sha256":""}') + 64


def stamp(at: datetime) -> str:
    """UTC, ISO 8601 with milliseconds and Z."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def to_dict(event: w.Event) -> dict[str, Any]:
    fields: dict[str, Any] = event._asdict()
    if isinstance(event, w.Held | w.Changed):
        fields["reasons"] = [reason._asdict() for reason in event.reasons]
    return {"type": type(event).__name__.lower(), **fields}


def from_dict(record: Mapping[str, Any]) -> w.Event:
    """The event of a record; fields it does not know are passed over. Raises KeyError, TypeError or ValueError."""
    kind = TYPES[record["type"]]
    event: w.Event = _whole(kind(**{name: record[name] for name in kind._fields if name in record}))
    return event


def case_from_list(values: list[Any]) -> w.Case:
    """A case as the cache of the fold has it: JSON knows no tuples."""
    case: w.Case = _whole(w.Case(*values))
    return case._replace(pending=_whole(w.Changed(*case.pending))) if case.pending else case


def _whole(value: Any) -> Any:
    """A value that JSON gave, with its tuples."""
    plural = [name for name in value._fields if name in PLURAL]
    return value._replace(**{name: tuple(_item(name, one) for one in getattr(value, name)) for name in plural})


def _item(name: str, one: Any) -> Any:
    if name == "reasons":
        return w.Reason(one["code"], one["place"], one["text"]) if isinstance(one, dict) else w.Reason(*one)
    return tuple(one) if isinstance(one, list) else one


def sha256(text: bytes) -> str:
    import hashlib  # noqa: PLC0415  # loads OpenSSL, which a tick with nothing to do does not need

    return hashlib.sha256(text).hexdigest()


def key(ledger: str, path: str) -> str:
    """A case's key, which names its remote folder and its label: ledger id and path, hashed."""
    return sha256(f"{ledger}\0{path}".encode("utf-8", "surrogateescape"))[:20]


def line(event: w.Event, head: w.Head, by: Mapping[str, Any]) -> tuple[bytes, w.Head]:
    """The ledger line that follows head, newline included, and the new head. Raises Illegal for a `lost` that loses nothing."""
    if isinstance(event, w.Lost) and event.upto <= head.seq:
        raise w.Illegal(None, event)
    seq = event.upto if isinstance(event, w.Lost) else head.seq + 1
    record = {"v": VERSION, "seq": seq, **to_dict(event), "by": by, "prev": head.digest}
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    digest = sha256(body)
    return body[:-1] + b',"sha256":"' + digest.encode() + b'"}\n', after({**record, "sha256": digest})


def after(record: Mapping[str, Any]) -> w.Head:
    """What the line behind that one must follow."""
    return w.Head(record["seq"], record["digest" if record["type"] == "lost" else "sha256"])


def read_line(text: bytes, head: w.Head) -> tuple[dict[str, Any], w.Head]:
    """The record of a line (without its newline) that must follow head. Raises Damaged with the reason."""
    if not text[-_TAIL:].startswith(b',"sha256":"') or not text.endswith(b'"}'):
        raise w.Damaged("it is not a whole ledger line (no digest at its end)")
    if not is_whole(text):
        raise w.Damaged("its text does not fit its own digest: it was changed")
    try:
        record: dict[str, Any] = json.loads(text)
        behind = after(record)
    except (ValueError, RecursionError, KeyError) as error:
        raise w.Damaged(f"no version of mqi wrote it: {error!r}") from None
    if record.get("v", 0) not in range(VERSION + 1):  # nobody may repair it away
        raise w.Configuration(f"a newer mqi wrote this ledger: version {record['v']}, this one knows {VERSION}. Install that")
    seq, lost = record.get("seq"), record.get("type") == "lost"
    if not isinstance(seq, int) or (seq != head.seq + 1 and not (lost and seq == record.get("upto") and seq > head.seq)):
        raise w.Damaged(f"it is number {seq}, expected {head.seq + 1}: lines are missing or moved")
    if record.get("prev") != head.digest:
        raise w.Damaged("it does not follow the line before it: that line was replaced")
    return record, behind


def is_whole(text: bytes) -> bool:
    """Whether a line that only lacks its newline fits its own digest."""
    digest = text[-66:-2].decode("ascii", "replace")
    return text.endswith(b'"}') and sha256(text[:-_TAIL] + b"}") == digest
