"""mqi-report - where every case stands, why, and what happens next

examples:
  mqi-report                              a table for people
  mqi-report --status failed,held         what needs a person
  mqi-report --csv --since 2026-11-01     for a spreadsheet, or `| mail`
  mqi-report --json                       everything, with the ledger's head
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, tables
from mqi_scripts.world import config, notes
from mqi_scripts.world.ledger import Ledger

NARROW = ("case_id", "case_path", "status", "progress", "attempt", "pueue_group", "status_updated_at", "reason", "next")


def report(args: argparse.Namespace) -> int:
    """Print what was asked; 1 if a case that is shown needs a person."""
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    book, damaged = Ledger(site.state, {}), ""
    try:
        cases = sorted(book.cases().values(), key=lambda case: (case.found, case.path))
        head = book.state().head
    except w.Damaged as error:
        damaged = str(error)
        cases, head = readable(book)
    health = {name: notes.read(os.path.join(site.state, "health", f"{name}.json")) for name in STEPS}
    shown = [case for case in cases if is_shown(case, args)]
    waits = {**health["mqi-submit"].get("waits", {}), **health["mqi-poll"].get("waits", {})}
    rows = [tables.row(case, {"waits": waits, "progress": health["mqi-poll"].get("progress", {})}) for case in shown]
    if args.csv:
        sys.stdout.write(tables.comma_separated(rows))
    elif args.jsonl:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    elif args.json:
        body = {"v": 1, "site": site.name, "generated_at": codec.stamp(datetime.now(UTC)), "head": head._asdict(),
                "cases": rows, "groups": groups(health), "steps": steps(health)}  # fmt: skip
        sys.stdout.write(json.dumps(body, indent=1) + "\n")
    else:
        sys.stdout.write(people(rows, site.name, head, health))
    notes.write(os.path.join(site.state, "health", "mqi-report.json"), {"head": list(head)} if not damaged else {})
    if damaged:
        sys.stderr.write(f"mqi-report: LEDGER CORRUPT after line {head.seq}; what could be read is shown. {damaged}\n")
        return w.Damaged.code
    return int(any(case.status in w.PERSON for case in shown))


STEPS = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")


def readable(book: Ledger) -> tuple[list[w.Case], w.Head]:
    """The cases as far as the ledger can be read."""
    from mqi_scripts.pure.evolve import evolve  # noqa: PLC0415

    cases: dict[str, w.Case] = {}
    head = codec.START
    for record, head in book.records([]):  # noqa: B007
        try:
            event = codec.from_dict(record)
            if event.case:
                cases[event.case] = evolve(cases.get(event.case), event)
        except (KeyError, TypeError, ValueError, w.Illegal):
            continue
    return list(cases.values()), head


def is_shown(case: w.Case, args: argparse.Namespace) -> bool:
    words = args.status.split(",") if args.status else w.STATUSES
    return (
        case.status in words
        and (not args.group or case.group == args.group)
        and (not args.since or case.since >= args.since)
        and (not args.until or case.since < args.until)
        and (not args.search or args.search.lower() in f"{case.key} {case.path} {case.reason}".lower())
    )


def groups(health: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    known = health["mqi-poll"].get("groups", {})
    return [{"host": host, "group": g[0], "slots": g[1], "running": g[2]} for host, found in known.items() for g in found]


def steps(health: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"step": name, "run": note.get("run", ""), "success": note.get("success", ""), "trouble": note.get("trouble", "")}
        for name, note in health.items()
    ]


def people(rows: list[dict[str, Any]], site: str, head: w.Head, health: dict[str, dict[str, Any]]) -> str:
    """The table, in the site's local time, and below it what is wrong with the steps."""
    from tabulate import tabulate  # noqa: PLC0415

    cells = [[_local(row[name]) if name.endswith("_at") else row[name] for name in NARROW] for row in rows]
    wide = [None] * 7 + [48, 40]
    table = tabulate(cells, NARROW, disable_numparse=True, maxcolwidths=wide) if rows else "no cases"
    lines = [f"{site}: {len(rows)} cases, ledger at line {head.seq}, digest {head.digest[:16]}", table]
    lines += [f"arriving: {tables.printable(path)}" for path in health["mqi-scan"].get("arriving", [])]
    for step in steps(health):
        if step["trouble"]:
            lines.append(f"{step['step']} {_local(step['run'])}: {step['trouble']}")
    return "\n".join(lines) + "\n"


def _local(text: str) -> str:
    return f"{codec.instant(text).astimezone():%Y-%m-%d %H:%M}" if text else ""


def moment(text: str) -> datetime:
    """A time on the command line: ISO, or whatever dateutil reads; local time where it names no zone."""
    from dateutil.parser import ParserError, parse  # noqa: PLC0415

    try:
        return parse(text).astimezone(UTC)
    except (ParserError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; for example 2026-11-24 or 2026-11-24T08:00") from None


def main(argv: Sequence[str] | None = None) -> int:
    parse = cli.parser("mqi-report", __doc__ or "")
    form = parse.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values; the first eight columns never change")
    form.add_argument("--json", action="store_true", help="one object: cases, groups, steps, the ledger's head")
    form.add_argument("--jsonl", action="store_true", help="a JSON line a case")
    parse.add_argument("--status", metavar="WORDS", help=f"only these: {', '.join(w.STATUSES)}")
    parse.add_argument("--group", help="only cases of this group")
    parse.add_argument("--since", type=moment, metavar="TIME", help="status changed at or after")
    parse.add_argument("--until", type=moment, metavar="TIME", help="status changed before")
    parse.add_argument("--search", metavar="TEXT", help="in id, path or reason")
    args = parse.parse_args(argv)
    odd = set(args.status.split(",")) - set(w.STATUSES) if args.status else None
    if odd:
        parse.error(f"no such status: {', '.join(sorted(odd))}; there are {', '.join(w.STATUSES)}")
    return cli.boundary("mqi-report", lambda: report(args))


if __name__ == "__main__":
    raise SystemExit(main())
