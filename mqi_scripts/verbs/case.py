"""mqi-case - the story of a case, its result verified byte for byte, and what a person decides about it

examples:
  mqi-case show 3fa9c1                 its events with times, reasons, attempts, and where its files are
  mqi-case verify --all                every result here against its record
  mqi-case release 3fa9c1 --deliveries 2026110309100000,2026110309220000 --reason "the first one broke off"
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, tables
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world import config, folder

RECORD = "mqi-result.json"
LINE = 160  # characters of an event in the story


def show(run: cli.Run) -> None:
    """Each case on one screen: where it stands and why, where its files are, what happened when, and who did it."""
    cases = asked(run)
    stories = told(run, {case.key for case in cases})
    for case in cases:
        if run.args.jsonl:
            sys.stdout.writelines(json.dumps(record) + "\n" for record, _ in stories[case.key])
            continue
        sys.stdout.write("\n".join([*heading(run.site, case), *story(stories[case.key])]) + "\n")


def told(run: cli.Run, keys: set[str]) -> dict[str, list[tuple[dict[str, Any], w.Case]]]:
    """Of each of these cases every record, and the case behind it."""
    stories: dict[str, list[tuple[dict[str, Any], w.Case]]] = {key: [] for key in keys}
    for record, _ in run.book.records():
        if (story := stories.get(record["case"])) is not None:
            story.append((record, evolve(story[-1][1] if story else None, codec.from_dict(record))))
    return stories


def heading(site: config.Site, case: w.Case) -> Iterator[str]:
    facts, reason = case.facts, tables.printable(case.reason)
    yield f"{case.id}  {tables.printable(case.path)}  {case.status}" + (f": {reason}" if reason and not case.reasons else "")
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
    if case.attempt:
        yield f"  on {case.host:6} {roots.get(case.host, '?')}/cases/{case.key}/attempt-{case.attempt} ({case.group})"


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


# --- verify


def verify(run: cli.Run) -> None:
    """Every byte of the results here against their records; 65 if one differs."""
    cases = asked(run, *([w.COMPLETED] if run.args.all else []))
    for case in cases:
        final = os.path.join(run.site.results, case.path)
        for path in [final] if case.status == w.COMPLETED else [f"{final}.partial"] if case.salvaged else []:
            faults = list(differs(run.site, case, path))
            sys.stdout.write("".join(f"{case.id} {tables.printable(fault)}\n" for fault in faults))
            if faults:
                run.code = w.Damaged.code
            elif not run.args.jsonl:
                sys.stdout.write(f"{case.id} {tables.printable(path)}: as recorded, every byte\n")
            break
        else:
            sys.stdout.write(f"{case.id} {tables.printable(case.path)}: {case.status}, it has no result here\n")
            run.code = max(run.code, 1 if run.args.case else 0)


def differs(site: config.Site, case: w.Case, path: str) -> Iterator[str]:
    """What is not as its record, and the ledger, say."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    try:
        with open(os.path.join(path, RECORD), encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError) as error:
        yield f"{path}/{RECORD} cannot be read: {error}: restore it from a backup, or mqi-case retry {case.id}"
        return
    with open(config.schema_file("result"), encoding="utf-8") as file:
        fault = next(Draft202012Validator(json.load(file)).iter_errors(record), None)
    if fault:
        yield f"{path}/{RECORD}: {'.'.join(map(str, fault.absolute_path))}: {fault.message[:200]}"
        return
    ours = {"case": case.key, "input": case.digest, "attempt": case.attempt} | (
        {"output": case.manifest} if case.status == w.COMPLETED else {}
    )
    for word, value in ours.items():
        if record[word] != value:
            yield f"{path}/{RECORD}: its {word} is {record[word]}, the ledger's {value}"
    names = {RECORD}
    with folder.opened(path) as top:
        for one in record["files"]:
            names.add(one["name"])
            try:
                if folder.read(top, one["name"]) != one["sha256"]:
                    yield f"{path}/{one['name']}: its bytes are not those that were verified: restore it from a backup"
            except w.Unreachable:
                yield f"{path}/{one['name']} is missing: restore it from a backup"
    for above, _, inside in os.walk(path):
        for name in inside:
            here = os.path.relpath(os.path.join(above, name), path)
            if here not in names:
                yield f"{path}/{here} is not of this result: somebody put it there"


# --- what a person decides


def release(run: cli.Run) -> None:
    """Choose which deliveries of a held case count; recorded only if that makes a sound case."""
    picked = [word for word in run.args.deliveries.split(",") if word]
    for case in asked(run):
        if case.status != w.HELD:
            raise w.Usage(f"{case.id} is {case.status}, not held: there is nothing to release. See: mqi-case show {case.id}")
        seen = folder.look_at(run.site, case.folder)
        there = sorted({name.partition("/")[0] for name in seen.sizes if "/" in name})
        if lost := [word for word in picked if word not in there]:
            raise w.Usage(f"{case.id} has no delivery {', '.join(lost)}; there are {', '.join(map(tables.printable, there))}")
        reasons = [*seen.reasons, *remaining(run, case, seen, picked)]
        if reasons:
            run.code = 1
            run.say(f"{case.id} would still be held, nothing was recorded:")
            for reason in reasons:
                run.say(f"  {reason.code}: {reason.text}")
            continue
        run.record([w.Chosen(case.key, run.now(), tuple(sorted(picked)), run.args.reason, cli.user())])
        run.say(f"{case.id}: the next mqi-scan releases it")


def remaining(run: cli.Run, case: w.Case, seen: folder.Folder, picked: list[str]) -> Sequence[w.Reason]:
    """What would still hold the case with this choice."""
    of, salt = profiles.named(run.site.scan.profile), run.book.state().id
    with folder.opened(os.path.join(run.site.inbox, case.folder)) as top:
        name = os.path.basename(case.folder)
        contents = of.read(top, seen, name, run.site.scan, salt, picked, lambda part: part == case.part)
    mine = [one for one in contents if one.part == case.part]
    return mine[0].reasons if mine else [w.Reason("choice", "", "these deliveries make no such case")]


# --- arguments


def asked(run: cli.Run, *statuses: str) -> list[w.Case]:
    """The cases that were named, or all of a status."""
    if statuses and not run.args.case:
        return sorted((case for case in run.book.cases().values() if case.status in statuses), key=lambda case: case.found)
    named = [cli.find(run.book, word) for word in run.named()]
    return list({case.key: case for case in named}.values())


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-case", __doc__ or "")
    commands = parse.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for act, about in (
        (show, "where it stands and why, its events, its files"),
        (verify, "its result here against its record, byte for byte"),
        (release, "choose which of its deliveries count"),
    ):
        one = commands.add_parser(act.__name__, help=about, description=about, allow_abbrev=False)
        one.set_defaults(act=act, dry_run=False, jsonl=False, accept_empty=False)
        count = "*" if act is verify else "+"  # --all names them instead
        one.add_argument("case", nargs=count, metavar="CASE", help="ids, unique prefixes or paths; - reads them from stdin")
        one.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        one.add_argument("--jsonl", action="store_true", help="JSON lines on stdout")
        if act is verify:
            one.add_argument("--all", action="store_true", help="every completed case")
        if act is release:
            one.add_argument("--deliveries", metavar="A,B,C", required=True, help="the folders that count; the others are left out")
            one.add_argument("--reason", metavar="TEXT", required=True, help="why; for the ledger and the result's record")
            one.add_argument("--dry-run", action="store_true", help="say whether it could be released, record nothing")
    return parse


def work(args: argparse.Namespace) -> int:
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    run = cli.Run("mqi-case", args, site)
    args.act(run)
    return run.code


def main(argv: Sequence[str] | None = None) -> int:
    parse = parser()
    args = parse.parse_args(argv)
    if args.act is verify and bool(args.case) == args.all:
        parse.error("verify needs cases, or --all")
    return cli.boundary("mqi-case", lambda: work(args))
