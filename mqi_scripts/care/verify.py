"""Whether a ledger is whole: the chain, the shape of each line, the story, the manifests beside it, the heads that were seen."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure import codec, tables
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world import config, folder, lock
from mqi_scripts.world.ledger import Ledger

DIGEST = "[0-9a-f]{64}"
CONTENT = (w.Found, w.Released, w.Changed, w.Stale)  # the scan kept a manifest before it recorded one of these


class Story(NamedTuple):
    """A ledger, read from its first line to its last or to where it breaks.

    id: "" if no line tells it. roots: by host. lost: missing lines as (first, last, why). manifests: (case, digest) of what
    must lie beside it. strange: heads that were seen and are not its, as sentences. trouble: all that is wrong, as sentences.
    """

    id: str
    roots: dict[str, str]
    cases: dict[str, w.Case]
    head: w.Head
    lines: int
    lost: list[tuple[int, int, str]]
    manifests: set[tuple[str, str]]
    strange: dict[w.Head, str]
    trouble: list[str]


def read(book: Ledger, heads: Iterable[w.Head] = ()) -> Story:
    """heads: those that were seen; a digest may be a beginning of one. The fold's cache is not asked."""
    story, faults = Story("", {}, {}, codec.START, 0, [], set(), {}, []), shapes()
    wanted = {head.seq: [other for other in heads if other.seq == head.seq] for head in heads}
    try:
        for record, head in book.records():
            text = faults(record) or _fold(story, record)
            if text:
                story.trouble.append(f"line {record['seq']} of the ledger {text}. See: mqi-ledger repair --dry-run")
            if record["type"] == "opened":
                story = story._replace(id=record.get("id", ""))
            for other in wanted.pop(head.seq, ()):
                if not head.digest.startswith(other.digest):
                    there = f"line {head.seq} has digest {head.digest[:16]}"
                    story.strange[other] = f"{there}, but {other.digest[:16]} was seen: it was rewritten"
            story = story._replace(head=head, lines=story.lines + 1)
    except w.Damaged as error:
        story.trouble.append(str(error))
        wanted.clear()  # what is behind it was not read
    for seq, others in wanted.items():
        gap = next((f"lines {a} to {b} are missing ({why})" for a, b, why in story.lost if a <= seq <= b), "the tail is cut")
        story.strange.update({
            other: f"line {seq} is not here (the last one is {story.head.seq}), but its digest {other.digest[:16]} was seen: {gap}"
            for other in others
        })  # fmt: skip
    return story


@cache
def shapes() -> Any:
    """What is wrong with a record's shape, by schemas/event.schema.json, as a sentence; "" if nothing."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    with open(config.schema_file("event"), encoding="utf-8") as file:
        schema = json.load(file)
    checks = {}
    for kind in schema["oneOf"]:
        rules = {"properties": {**schema["properties"], **kind["properties"]}, "required": schema["required"] + kind["required"]}
        checks[kind["properties"]["type"]["const"]] = Draft202012Validator(rules)

    def fault(record: Mapping[str, Any]) -> str:
        check = checks.get(str(record["type"]))
        if check is None:
            return f"has the type {record['type']!r}, which this version does not know"
        error = next(check.iter_errors(record), None)
        return f"is not as its schema wants it: {'.'.join(map(str, error.absolute_path))} {error.message[:200]}" if error else ""

    return fault


def _fold(story: Story, record: Mapping[str, Any]) -> str:
    """One more event into the story's cases; why it cannot be, "" if it can."""
    try:
        event = codec.from_dict(record)
        if isinstance(event, w.Opened):
            return "" if story.id in ("", event.id) else "begins another ledger in the middle of this one"
        if isinstance(event, w.Rooted):
            story.roots[event.host] = event.root
        elif isinstance(event, w.Lost):
            story.lost.append((story.head.seq + 1, event.upto, event.why))
        elif not isinstance(event, w.Repaired | w.Reopened):
            story.cases[event.case] = evolve(story.cases.get(event.case), event)
            if isinstance(event, CONTENT) and re.fullmatch(DIGEST, digest := event.digest.partition("+")[0]):
                story.manifests.add((event.case, digest))
    except (KeyError, TypeError, ValueError) as error:
        return f"cannot be read: {error!r}"
    except w.Illegal as error:
        case, event = error.args
        stands = f"its case is {case.status}, attempt {case.attempt}" if case else "its case is not known yet"
        return f"tells what cannot be: {type(event).__name__.lower()}, while {stands}"
    return ""


def manifests(state: str, wanted: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], str]]:
    """(case, digest) of each manifest beside the ledger that is not as it was, and what is wrong."""
    for one in sorted(wanted):
        path = folder.manifest_file(state, *one)
        again = (
            f"copy it from a backup; or delete {state}/cache/scan, then mqi-scan makes it anew if its folder is still the same; "
            "or mqi-ledger rebuild --reason ..., which asks the case's host for it"
        )
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if codec.sha256(file.read()) != one[1]:
                    yield one, f"{path} was changed: its digest is not the one in its name: delete it; {again}"
        except OSError as error:
            yield one, f"{path}: {error.strerror}, but the ledger names it: {again}"


def unfinished(book: Ledger) -> str:
    """The newest file, if its last line has no end and nobody is writing it; else ""."""
    for path in (os.path.join(book.folder, name) for name in book.files()[-1:]):
        if os.path.exists(path) and not _is_ended(path):
            with lock.held(os.path.join(book.folder, "ledger.lock"), 30, shared=True):
                return "" if _is_ended(path) else path
    return ""


def _is_ended(path: str) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() in (b"", b"\n")


def packed(book: Ledger) -> Iterator[str]:
    """That the newest file is not plain."""
    for path in (os.path.join(book.folder, name) for name in book.files()[-1:]):
        if not os.path.exists(path):
            yield f"{path}.gz: the newest file is written to, it must be plain: gunzip it"


def examine(book: Ledger, heads: Iterable[w.Head] = ()) -> Story:
    """All that mqi-ledger verify checks, in the story's trouble."""
    story, path = read(book, heads), unfinished(book)
    if path:  # where that line was told, or the chain breaks before it, no script records anything
        who = "mqi-ledger repair" if story.strange or story.trouble else "the next script that records"
        story.trouble.append(f"{path}: its last line has no newline: a write was cut off; {who} ends it, or sets it aside")
    story.trouble.extend([*packed(book), *(text for _, text in manifests(book.folder, story.manifests))])
    only_that = path and {head.seq for head in story.strange} == {story.head.seq + 1}
    restore = "Restore the newest backup, or accept the loss: mqi-ledger rebuild --reason ..."
    accept = "See: mqi-ledger repair --dry-run" if only_that else restore
    story.trouble.extend(f"{text}. {accept}" for text in story.strange.values())
    return story


def name(key: str, cases: Mapping[str, w.Case]) -> str:
    """A case as a person finds it: id, and path if it is known."""
    return f"{key[: w.ID]} {tables.printable(cases[key].path)}" if key in cases else key[: w.ID]
