"""Mending a ledger: damaged lines go into a file of their own, one line stands where they were, all others stay as they are."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.care import evidence, rebuild, verify
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, tables
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world import files, lock
from mqi_scripts.world.ledger import Ledger

# One line as it stands in its file. wrong: why it is none of a ledger by itself, "" if it could be one.
Piece = NamedTuple("Piece", [
    ("file", str), ("number", int), ("text", bytes), ("seq", int), ("prev", str), ("digest", str), ("wrong", str),
])  # fmt: skip


class Mended(NamedTuple):
    """A ledger as it will be. files: lines by file. aside: pieces that go, with why. gaps: missing lines as (first, last).

    id: "" if the line that tells it is gone.
    """

    files: dict[str, list[bytes]]
    aside: list[tuple[Piece, str]]
    gaps: list[tuple[int, int]]
    id: str
    cases: dict[str, w.Case]


def pieces(book: Ledger) -> Iterator[Piece]:
    for name in book.files():
        number = 0
        try:
            for text in book.texts(name):
                number += 1
                yield _piece(name, number, text)
        except w.Damaged as error:
            yield Piece(name, number + 1, b"", 0, "", "", f"the rest of the file is lost: {error}")


def _piece(file: str, number: int, text: bytes) -> Piece:
    """A last line that lacks nothing but its newline is one."""
    body = text.removesuffix(b"\n")
    try:
        if not codec.is_whole(body):
            raise w.Damaged("does not fit its own digest" if text.endswith(b"\n") else "was cut off")
        record = json.loads(body)
        codec.read_line(body, w.Head(record["seq"] - 1, record["prev"]))
        return Piece(file, number, body + b"\n", record["seq"], record["prev"], codec.after(record).digest, "")
    except (w.Damaged, ValueError, KeyError, TypeError, RecursionError) as error:
        return Piece(file, number, text, 0, "", "", f"{error}")


def mend(found: list[Piece], why: str, now: str, by: Mapping[str, Any]) -> Mended:
    """Lines in the order of their numbers, each behind the one that it follows; where some are missing, a `lost` line.

    What cannot stand there goes aside: what is damaged, what is there twice, what follows another line than the one before it,
    what no version wrote, and what tells what cannot be, once the lines that it was built on are gone. Nothing is changed or
    made up.
    """
    mended, head, file = Mended({}, [(p, p.wrong) for p in found if p.wrong], [], "", {}), codec.START, ""
    named = {(p.seq - 1, p.prev) for p in found if not p.wrong}
    for piece in sorted((p for p in found if not p.wrong), key=lambda p: (p.seq, (p.seq, p.digest) not in named)):
        record = json.loads(piece.text)
        is_gap = record["type"] != "lost" and piece.seq > head.seq + 1
        if piece.seq <= head.seq:
            wrong = "has the number of another line, or is there twice"
        elif piece.prev != head.digest and not is_gap:
            wrong = "does not follow the line before it"
        else:
            wrong = verify.shapes()(record) or _fold(mended.cases, record)
        if wrong:
            mended.aside.append((piece, wrong))
            continue
        if record["type"] == "opened":
            mended = mended._replace(id=record["id"])
        file = max(file, piece.file)
        lines = mended.files.setdefault(file, [])
        if is_gap:
            mended.gaps.append((head.seq + 1, piece.seq - 1))
            lines.append(codec.line(w.Lost("", now, piece.seq - 1, piece.prev, why), head, by)[0])
        lines.append(piece.text)
        head = w.Head(piece.seq, piece.digest)
    return mended


def _fold(cases: dict[str, w.Case], record: Mapping[str, Any]) -> str:
    """Why that event cannot follow, "" if it can."""
    event = codec.from_dict(record)
    try:
        if event.case:
            cases[event.case] = evolve(cases.get(event.case), event)
    except w.Illegal:
        return "tells what cannot be, without the lines that are gone"
    return ""


def changes(book: Ledger, mended: Mended) -> dict[str, bytes]:
    """The new bytes of each file that will not stay as it is."""
    new = {name: b"".join(mended.files.get(name, [])) for name in book.files()}
    return {name: text for name, text in new.items() if not _is(book, name, text)}


def _is(book: Ledger, name: str, text: bytes) -> bool:
    try:
        return b"".join(book.texts(name)) == text
    except w.Damaged:
        return False


def replace(book: Ledger, mended: Mended) -> tuple[str, list[tuple[str, str]]]:
    """Write what mend made: the name of the file with what went aside, (old digest, new digest) of each file that was replaced.
    The old ones stay, as <name>.damaged-<digest>. The caller holds the ledger's lock."""
    aside, replaced = "", list[tuple[str, str]]()
    if mended.aside:
        aside = f"ledger.aside.{1 + sum(name.startswith('ledger.aside.') for name in os.listdir(book.folder))}"
        lines = (piece.text.removesuffix(b"\n") + b"\n" for piece, _ in mended.aside if piece.text)
        files.write_whole(os.path.join(book.folder, aside), b"".join(lines))
    for name, new in sorted(changes(book, mended).items(), reverse=True):  # a line that moves stands in both files for a moment
        path = os.path.join(book.folder, name)
        packed = not os.path.exists(path)
        with open(f"{path}.gz" if packed else path, "rb") as file:
            old = codec.sha256(file.read())
        kept = f"{path}{'.gz' if packed else ''}.damaged-{old[:16]}"
        if not packed:
            with suppress(FileExistsError):  # of a repair that was stopped here
                os.link(path, kept)
        files.write_whole(path, new)
        if packed:
            os.rename(f"{path}.gz", kept)
        replaced.append((old, codec.sha256(new)))
    files.sync(book.folder)
    return aside, replaced


def touched(mended: Mended) -> set[str]:
    """Keys of the cases that the lines which go aside were about, as far as their text still tells."""
    texts = [piece.text for piece, _ in mended.aside]
    return {key.decode() for text in texts for key in re.findall(rb'"case":"([0-9a-f]{20})"', text)}


def repair(run: cli.Run, reason: str) -> int:
    """With the locks of all scripts: set aside what is damaged, say which cases that is about, ask the hosts what they know."""
    book, why = run.book, f"repair: {reason}"
    mended = mend(list(pieces(book)), why, run.now(), book.by)
    if not book.files():
        raise w.Damaged(f"{book.folder} has no ledger: mqi-ledger rebuild --reason ... recovers what hosts and results can prove")
    if not (changed := changes(book, mended)):
        sys.stdout.write("nothing to repair; what hosts and results can prove beside it: mqi-ledger rebuild --reason ...\n")
        return 0
    if run.args.dry_run:
        _tell(mended, "would go")
        sys.stdout.write(f'{", ".join(changed)} would be replaced, and the old kept; to do it: mqi-ledger repair --reason "..."\n')
        return 0
    opened = [] if mended.id else [w.Opened("", run.now(), _identity(run))]
    with lock.held(os.path.join(book.folder, "ledger.lock"), 30):
        mended = mend(list(pieces(book)), why, run.now(), book.by)
        rebuild.forget(book.folder)  # first: what remembers other lines than there are stops everybody
        aside, replaced = replace(book, mended)
    what = f"{why}; {len(mended.aside)} lines went to {aside}" if aside else why
    book.append([*opened, *(w.Repaired("", run.now(), what, old, new) for old, new in replaced)], run.now())
    _tell(mended, f"went to {aside}" if aside else "")
    sys.stdout.write(f"{len(replaced)} files replaced, the old ones are kept as *.damaged-*\n")
    try:
        return rebuild.rebuild(run, reason, always=False)
    except w.Unreachable as error:
        run.say(f"the ledger is mended, but what the host knows of these cases is still to be asked. {error}")
        run.say("When it answers: mqi-ledger rebuild --reason ...")
        return error.code


def _identity(run: cli.Run) -> str:
    """The ledger's id, whose line is gone, from those who know it. Raises Damaged if nobody does."""
    roots, _ = evidence.ask(run.site)
    owners = {root.owner for root in roots} or {evidence.owner_of_results(run.site)}
    if len(owners) > 1 or "" in owners:
        raise w.Damaged("the line with the ledger's id is damaged, and neither a root nor the results tell it: nothing was changed")
    return owners.pop()


def _tell(mended: Mended, went: str) -> None:
    """Each damaged line and why, the numbers that are missing, the cases."""
    for piece, wrong in mended.aside:
        sys.stdout.write(f"{piece.file}, line {piece.number} of the file: {tables.printable(wrong)}: {went}\n")
    for first, last in mended.gaps:
        sys.stdout.write(f"lines {first} to {last} of the ledger are missing: one line stands for them\n")
    keys = touched(mended)
    sys.stdout.writelines(f"touched: {verify.name(key, mended.cases)}\n" for key in sorted(keys))
    silent = sum(not re.search(rb'"case":"', piece.text) for piece, _ in mended.aside)
    if silent or sum(last - first + 1 for first, last in mended.gaps) > len(mended.aside):
        sys.stdout.write("some of what is missing names no case any more: look at mqi-report\n")
