"""mqi-report - where every case stands, why, and what happens next

examples:
  mqi-report                              a table for people
  mqi-report --status failed,held         what needs a person
  mqi-report --csv --since 2026-11-01     for a spreadsheet, or `| mail`
  mqi-report --json                       everything, with the ledger's head
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.operator import STEPS, health, notes
from mqi_scripts.pure import codec, explain, tables
from mqi_scripts.world import config, files
from mqi_scripts.world.ledger import Ledger

NARROW = ("case_id", "case_path", "status", "progress", "attempt", "pueue_group", "status_updated_at", "reason", "next")


def report(args: argparse.Namespace) -> int:
    """Print what was asked; 1 if a case that is shown needs a person."""
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    book, damaged = Ledger(site.state, {}), ""
    try:
        cases, head = book.cases(), book.state().head
    except w.Damaged as error:
        damaged, (cases, head) = str(error), book.readable()
    kept = health(site)
    known = notes(kept, cases)
    shown = [case for case in sorted(cases.values(), key=lambda case: (case.found, case.path)) if is_shown(case, args)]
    rows = [explain.row(case, known) for case in shown]
    steps = [{"step": name} | {word: kept[name].get(word, "") for word in ("run", "success", "trouble")} for name in STEPS]
    if args.csv:
        sys.stdout.write(tables.comma_separated(rows))
    elif args.jsonl:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    elif args.json:
        slots = kept["mqi-poll"].get("groups", {})
        groups = [{"host": host, "group": g[0], "slots": g[1], "running": g[2]} for host, found in slots.items() for g in found]
        body = {"v": 1, "site": site.name, "generated_at": codec.stamp(datetime.now(UTC)), "head": head._asdict(),
                "cases": rows, "groups": groups, "steps": steps}  # fmt: skip
        sys.stdout.write(json.dumps(body, indent=1) + "\n")
    else:
        sys.stdout.write(f"{site.name}: {len(rows)} cases, ledger at line {head.seq}, digest {head.digest[:16]}\n")
        sys.stdout.write(people(rows, steps, kept["mqi-scan"].get("arriving", [])))
    if damaged:
        sys.stderr.write(f"mqi-report: LEDGER CORRUPT after line {head.seq}; what could be read is shown. {damaged}\n")
        return w.Damaged.code
    files.write_note(os.path.join(site.state, "health", "mqi-report.json"), {"head": list(head)})
    return int(any(explain.needs_person(case) for case in shown))


def is_shown(case: w.Case, args: argparse.Namespace) -> bool:
    return (
        case.status in (args.status or w.STATUSES)
        and case.group == (args.group or case.group)
        and (args.since or "") <= case.since
        and (not args.until or case.since < args.until)
        and (not args.search or args.search.lower() in f"{case.key} {case.path} {case.reason}".lower())
    )


def people(rows: list[dict[str, Any]], steps: list[dict[str, str]], arriving: list[str]) -> str:
    """The table, in the site's local time, and below it what is wrong with the steps."""
    from tabulate import tabulate  # noqa: PLC0415

    cells = [[_local(row[name]) if name.endswith("_at") else row[name] for name in NARROW] for row in rows]
    lines = [tabulate(cells, NARROW, disable_numparse=True, maxcolwidths=[None] * 7 + [48, 40]) if rows else "no cases"]
    lines += [f"arriving: {tables.printable(path)}" for path in arriving]
    lines += [f"{step['step']} {_local(step['run'])}: {step['trouble']}" for step in steps if step["trouble"]]
    return "\n".join(lines) + "\n"


def _local(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}" if text else ""


def moment(text: str) -> str:
    """A time on the command line: ISO, or whatever dateutil reads; local time where it names no zone."""
    from dateutil.parser import ParserError, parse  # noqa: PLC0415

    try:
        return codec.stamp(parse(text))
    except (ParserError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; for example 2026-11-24 or 2026-11-24T08:00") from None


def statuses(text: str) -> list[str]:
    words = text.split(",")
    if odd := set(words) - set(w.STATUSES):
        raise argparse.ArgumentTypeError(f"no such status: {', '.join(sorted(odd))}; there are {', '.join(w.STATUSES)}")
    return words


def main(argv: Sequence[str] | None = None) -> int:
    parse = cli.parser("mqi-report", __doc__ or "")
    form = parse.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values; the first eight columns never change")
    form.add_argument("--json", action="store_true", help="one object: cases, groups, steps, the ledger's head")
    form.add_argument("--jsonl", action="store_true", help="a JSON line a case")
    parse.add_argument("--status", type=statuses, metavar="WORDS", help=f"only these: {', '.join(w.STATUSES)}")
    parse.add_argument("--group", help="only cases of this group")
    parse.add_argument("--since", type=moment, metavar="TIME", help="status changed at or after")
    parse.add_argument("--until", type=moment, metavar="TIME", help="status changed before")
    parse.add_argument("--search", metavar="TEXT", help="in id, path or reason")
    args = parse.parse_args(argv)
    return cli.boundary("mqi-report", lambda: report(args))
