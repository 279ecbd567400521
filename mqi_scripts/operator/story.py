"""The story of a case on one screen, from the ledger alone."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.operator import asked, health, notes
from mqi_scripts.pure import codec, explain, tables
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world import config

LINE = 160  # characters of an event in the story


def show(run: cli.Run) -> None:
    """Each case on one screen: where it stands and why, where its files are, what happened when, and who did it."""
    cases = asked(run)
    stories, known = told(run, {case.key for case in cases}), notes(health(run.site), run.book.state().runs)
    for case in cases:
        if run.args.jsonl:
            sys.stdout.writelines(json.dumps(record) + "\n" for record, _ in stories[case.key])
            continue
        why = explain.explain(case, known, run.now()).why
        sys.stdout.write("\n".join([*heading(run.site, case, why), *story(stories[case.key])]) + "\n")


def told(run: cli.Run, keys: set[str]) -> dict[str, list[tuple[dict[str, Any], w.Case]]]:
    """Of each of these cases every record, and the case behind it."""
    stories: dict[str, list[tuple[dict[str, Any], w.Case]]] = {key: [] for key in keys}
    for record, _ in run.book.records():
        if (story := stories.get(record["case"])) is not None:
            story.append((record, evolve(story[-1][1] if story else None, codec.from_dict(record))))
    return stories


def heading(site: config.Site, case: w.Case, why: str) -> Iterator[str]:
    facts, reason = case.facts, tables.printable(case.reason)
    yield f"{case.id}  {tables.printable(case.path)}  {case.status}" + (f": {reason}" if reason and not case.reasons else "")
    if case.status not in (*w.PERSON, *w.CLOSED):  # the reasons of these stand in the record
        yield f"  why       {tables.printable(why)}"
    for one in case.reasons:
        yield f"  held  {one.code}: {tables.printable(one.text)}"
    if facts.get("beams"):
        yield "  beams     " + ", ".join(f"{beam['number']} {beam['name']} ({beam['layers']} layers)" for beam in facts["beams"])
    for word, values in (("left out", facts.get("left", ())), ("remark", facts.get("remarks", ()))):
        yield from (f"  {word:9} {tables.printable(value)}" for value in values)
    for at, who, what in case.decisions:
        yield f"  decided   {local(at)} {who}: {tables.printable(what)}"
    if case.stale:
        yield f"  stale     {tables.printable(case.stale)}"
    yield f"  source    {tables.printable(os.path.join(site.inbox, case.folder))}" + (" (gone)" if case.gone else "")
    result = os.path.join(site.results, case.path)
    for word, path in (("result", result), ("partial", f"{result}.partial")):
        if os.path.isdir(path):
            yield f"  {word:9} {tables.printable(path)}"
    roots = {host.name: host.root for host in site.hosts}
    if case.attempt and case.host:
        yield f"  on {case.host:6} {roots.get(case.host, '?')}/cases/{case.key}/attempt-{case.attempt} ({case.group})"
        if case.cleaned:
            yield "  cleaned   its input and output are not there any more"


def story(records: Sequence[tuple[dict[str, Any], w.Case]]) -> Iterator[str]:
    """One line an event: local time, how long after the one before it, what happened, and who did it where it was a person."""
    before = ""
    for record, case in records:
        at, by = record["at"], record["by"]
        text = tables.printable(tables.happened(codec.from_dict(record), case))
        who = f"  ({by.get('user')})" if by.get("script") == "mqi-case" else ""
        shown = text if len(text) <= LINE else f"{text[:LINE]}…"
        yield f"  {local(at)}  {since(before, at):>9}  {shown}{who}"
        before = at


def local(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def since(before: str, at: str) -> str:
    """How long it took; a clock that was set back shows as a negative time."""
    if not before:
        return ""
    took = datetime.fromisoformat(at) - datetime.fromisoformat(before)
    sign, took = ("-", -took) if took < timedelta(0) else ("+", took)
    return f"{sign}{timedelta(seconds=round(took.total_seconds()))}".replace(" days, ", "d ").replace(" day, ", "d ")
