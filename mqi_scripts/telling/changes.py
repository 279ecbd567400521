"""What is new since somebody was told last: a cursor a name, each thing once."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.pure import codec, explain
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world import files
from mqi_scripts.world.ledger import Ledger

# steps that every case takes, and a ledger's own: where a case stands now, the report tells
STEPS = (w.Opened, w.Rooted, w.Pushed, w.Submitting, w.Submitted, w.Missing, w.Revoked, w.Started, w.Succeeded, w.Cleaned)
FIRST = timedelta(days=1)  # what is told to a name that was told nothing yet


def since(book: Ledger, name: str, now: datetime) -> tuple[list[tuple[dict[str, Any], w.Event, w.Case | None]], w.Head, str]:
    """(record, event, its case as it stood then) of each new thing; the head to keep when they were told; "" or why they begin
    elsewhere than at the cursor. Raises Damaged."""
    at, digest = kept(book, name).get("head") or [0, ""]
    head = book.state().head
    all_ = [told for told in _told(book) if told[0] <= head.seq]  # what is appended meanwhile is told the next time
    known = not at or any(seq == at and sha == digest for seq, sha, _ in all_)
    odd = "" if known else f"{name} was told up to line {at} of a ledger that is not this one any more: the last day is told again"
    begin = codec.stamp(now - FIRST)
    new = [told for seq, _, told in all_ if told and (seq > at if at and known else told[0]["at"] >= begin)]
    return new, head, odd


def _told(book: Ledger) -> Iterator[tuple[int, str, tuple[dict[str, Any], w.Event, w.Case | None] | None]]:
    """(number, digest, what it tells) of every line; None: a step."""
    cases: dict[str, w.Case] = {}
    for record, head in book.records():
        event = codec.from_dict(record)
        if event.case:
            cases[event.case] = evolve(cases.get(event.case), event)
        yield head.seq, head.digest, None if isinstance(event, STEPS) else (record, event, cases.get(event.case))


def needs_person(case: w.Case) -> bool:
    """Also where only its new data do."""
    return explain.needs_person(case) or bool(case.stale)


def kept(book: Ledger, name: str) -> dict[str, Any]:
    """The cursor: `head`, and what else belongs to it; {} if nothing was told yet."""
    return files.read_note(_file(book, name))


def keep(book: Ledger, name: str, cursor: Mapping[str, Any]) -> None:
    """The cursor moves: when all of it was told, so that nothing is lost. Raises Disk."""
    os.makedirs(os.path.join(book.folder, "told"), 0o700, exist_ok=True)
    files.write_whole(_file(book, name), json.dumps(cursor).encode())


def _file(book: Ledger, name: str) -> str:
    return os.path.join(book.folder, "told", f"{name}.json")
