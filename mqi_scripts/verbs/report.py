"""mqi-report - where every case stands, why, what happens next, and what did not happen

examples:
  mqi-report                              a table for people
  mqi-report --needs-me                   what needs a person, and nothing else; exit 1 if there is something
  mqi-report --changes --as physicist     what is new since `physicist` was told last, each thing once
  mqi-report --csv --redact | mail ...    for a spreadsheet, without paths and reasons
  mqi-report --notify                     run notify.command if a person is needed and was not told yet; its timer does
  mqi-report --json                       everything, with the ledger's head
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.checks.compute import typed
from mqi_scripts.checks.gateway import SCRIPTS
from mqi_scripts.frame import cli
from mqi_scripts.frame.log import is_journal, log
from mqi_scripts.operator import health, notes
from mqi_scripts.pure import codec, explain, place, tables
from mqi_scripts.telling import changes, notify, redact, room, silence, spreadsheet
from mqi_scripts.telling.silence import Silence
from mqi_scripts.world import config, files, folder
from mqi_scripts.world.ledger import Ledger, State, nothing

NAME = "mqi-report"
NARROW = ("case_id", "case_path", "status", "progress", "attempt", "pueue_group", "status_updated_at", "reason", "next")


def report(args: argparse.Namespace) -> int:
    """Print what was asked; 1 if a case that is shown, or something that did not happen, needs a person."""
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    book, noted = Ledger(site.state, {}), os.path.join(site.state, "health", "mqi-report.json")
    shown_last, (cases, head, state, damaged) = files.read_note(noted).get("head"), read(book)
    match shown_last:
        case [int(seq), str()] if seq > head.seq and not damaged:
            damaged = f"A report showed line {seq}, and the last one is {head.seq}: its tail is cut. See: mqi-ledger verify"
    kept, now = health(site), codec.stamp(datetime.now(UTC))
    hidden = args.notify is not None or (args.redact if args.redact is not None else is_hidden(site))
    if args.changes and not damaged:
        return tell_changes(book, args, hidden)
    known = notes(kept, state.runs)
    needs = {case.key for case in cases.values() if calls(case, known, now) or (args.needs_me and case.stale)}
    every = sorted(cases.values(), key=lambda case: (case.found, case.path))
    shown = [case for case in every if is_shown(case, args) and (not args.needs_me or case.key in needs)]
    rows = [row(site, case, known, now, hidden) for case in shown]
    told = {name: redact.note(note) if hidden else note for name, note in kept.items()}
    steps = [{"step": name} | {word: told[name].get(word, "") for word in ("run", "success", "trouble")} for name in SCRIPTS]
    found = [datetime.fromisoformat(case.found).astimezone() for case in cases.values()]
    silent = silence.silences(told, kept, [host.name for host in site.hosts], found, datetime.now().astimezone())
    silent += [*silence.past_usual(cases.values(), known, now), *silence.again(every, now)]
    bad = {host.name: place.broken(state.failed, host.name, site.breaker.jobs) for host in site.hosts}
    silent += [silence.Silence(text, True) for groups in bad.values() for text in groups.values()]
    cleaner = files.read_note(os.path.join(site.state, "health", "mqi-clean.json"))
    silent += silence.nightly("mqi-clean", redact.note(cleaner) if hidden else cleaner, datetime.now().astimezone())
    rooms = [*measured(site, cases.values(), [*kept.values(), cleaner], now)]
    alarm = any(one.person for one in silent) or any(map(room.is_full, rooms))
    if args.notify is not None:
        full = [Silence(f"no room left in {one.where}: {room.told(one, now)}", True) for one in rooms if room.is_full(one)]
        return tell_somebody(site, book, silent + full, args)
    if args.needs_me:
        silent, rooms = [one for one in silent if one.person], [one for one in rooms if room.is_full(one)]
    if args.csv:
        sys.stdout.write(spreadsheet.comma_separated(rows))
    elif args.jsonl:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    elif args.json:
        slots = kept["mqi-poll"].get("groups", {})
        groups = [{"host": host, "group": g[0], "slots": g[1], "running": g[2], "broken": g[0] in bad.get(host, {})}
                  for host, seen in slots.items() for g in seen]  # fmt: skip
        body = {"v": 1, "site": site.name, "generated_at": now, "head": head._asdict(), "cases": rows, "groups": groups,
                "steps": steps, "silences": [one._asdict() for one in silent],
                "room": [one._asdict() for one in rooms]}  # fmt: skip
        sys.stdout.write(json.dumps(body, indent=1) + "\n")
    else:
        sys.stdout.write(f"{site.name}: {len(rows)} cases, ledger at line {head.seq}, digest {head.digest[:16]}\n")
        arriving = [] if args.needs_me else kept["mqi-scan"].get("arriving", [])
        below = [*(one.text for one in silent), *(room.told(one, now) for one in rooms)]
        nothing = f"no case needs a person{', but' if below else ''}" if args.needs_me else "no cases"
        sys.stdout.write(people(rows, below, ["a folder"] * len(arriving) if hidden else arriving, nothing))
    if damaged:
        sys.stderr.write(f"mqi-report: LEDGER CORRUPT; shown is what was read last, up to line {head.seq}. {damaged}\n")
        return w.Damaged.code
    files.write_note(noted, {"head": list(head)})
    return int(any(case.key in needs for case in shown) or alarm)


def read(book: Ledger) -> tuple[dict[str, w.Case], w.Head, State, str]:
    """Cases, head, the fold, and what is damaged: then it is what could be read."""
    try:
        return book.cases(), book.state().head, book.state(), ""
    except w.Damaged as error:
        return *book.readable(), nothing(), str(error)


def row(site: config.Site, case: w.Case, known: explain.Notes, now: str, hidden: bool) -> dict[str, Any]:
    cells = explain.row(case, known, now)
    if hidden:
        return redact.row(cells, case)
    for host in site.hosts:
        cells |= {"reason": typed(host, cells["reason"])} if host.name == case.host else {}
    return cells


def calls(case: w.Case, known: explain.Notes, now: str) -> bool:
    """Whether nothing happens to it without a person. That a program is late is told below the table, once."""
    return case.status not in w.CLOSED and explain.explain(case, known._replace(steps={}), now).person


def is_hidden(site: config.Site) -> bool:
    """Whether names are left out if nobody says; in the journal they always are."""
    return is_journal(sys.stdout) or (site.report.redact and not sys.stdout.isatty())


def tell_changes(book: Ledger, args: argparse.Namespace, hidden: bool) -> int:
    """What is new for args.name, each thing once; told means: written out."""
    name = args.name or "default"
    new, head, odd = changes.since(book, name, datetime.now(UTC))
    if odd:
        sys.stderr.write(f"mqi-report: {odd}\n")
    for record, event, case in new:
        if args.jsonl:
            said = {word: record[word] for word in ("type", "case", "at")} if hidden else record
            sys.stdout.write(json.dumps(said) + "\n")
        elif hidden:
            sys.stdout.write(f"{_local(record['at'])} {redact.change(record, case)}\n")
        else:
            sys.stdout.write(f"{_local(record['at'])} {tables.printable(tables.sentence(event, case))}\n")
    sys.stdout.flush()
    if not args.dry_run:
        changes.keep(book, name, {**changes.kept(book, name), "head": [*head]})
    return int(any(case and explain.needs_person(book.case(case.key) or case) for *_, case in new))


def tell_somebody(site: config.Site, book: Ledger, silent: Sequence[Silence], args: argparse.Namespace) -> int:
    """Through notify.command; 1 if a person is needed."""
    log.file = site.log.file
    if not site.notify.command:
        log(NAME, "notify.command is not set: nobody is told. docs/configuration.md has an example")
        return 0
    done = notify.tell(site, book, silent, args.notify, dry=args.dry_run)
    if done:
        log(NAME, done)
    return int(bool(done))


def is_shown(case: w.Case, args: argparse.Namespace) -> bool:
    return (
        case.status in (args.status or w.STATUSES)
        and case.group == (args.group or case.group)
        and (args.since or "") <= case.since
        and (not args.until or case.since < args.until)
        and (not args.search or args.search.lower() in f"{case.key} {case.path} {case.reason}".lower())
    )


def measured(site: config.Site, cases: Collection[w.Case], notes: Sequence[Mapping[str, Any]], now: str) -> Iterator[room.Room]:
    """The room here as it is now, and on the hosts as it was last seen."""
    rate, seen = room.rate(cases, now), set[int]()
    for name, path in (("state", site.state), ("results", site.results)):
        if os.path.isdir(path) and (disk := os.stat(path).st_dev) not in seen:  # often one disk
            seen.add(disk)
            yield room.room(name, folder.free(path)[0], site.reserve, "site.reserve", now, rate)
    yield from room.of_hosts(notes, {host.name: host.reserve for host in site.hosts}, rate)


def people(rows: list[dict[str, Any]], silences: list[str], arriving: list[str], nothing: str) -> str:
    """The table, in the site's local time, and below it what did not happen, and how much room is left."""
    from tabulate import tabulate  # noqa: PLC0415

    cells = [[_local(row[name]) if name.endswith("_at") else row[name] for name in NARROW] for row in rows]
    lines = [tabulate(cells, NARROW, disable_numparse=True, maxcolwidths=[None] * 7 + [48, 40]) if rows else nothing]
    lines += [f"arriving: {tables.printable(path)}" for path in arriving]
    return "\n".join([*lines, *silences]) + "\n"


def _local(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}" if text else ""


def moment(text: str) -> str:
    """A time on the command line: ISO, or whatever dateutil reads; local time where it names no zone."""
    from dateutil.parser import ParserError, parse  # noqa: PLC0415

    try:
        return codec.stamp(parse(text))
    except (ParserError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; for example 2026-11-24 or 2026-11-24T08:00") from None


def cursor(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: letters, digits, `.`, `_`, `-`")
    return text


def statuses(text: str) -> list[str]:
    words = text.split(",")
    if odd := set(words) - set(w.STATUSES):
        raise argparse.ArgumentTypeError(f"no such status: {', '.join(sorted(odd))}; there are {', '.join(w.STATUSES)}")
    return words


def parser() -> argparse.ArgumentParser:
    parse = cli.parser(NAME, __doc__ or "")
    form = parse.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values; the first eight columns never change")
    form.add_argument("--json", action="store_true", help="one object: cases, groups, steps, room, the ledger's head")
    form.add_argument("--jsonl", action="store_true", help="a JSON line a case")
    parse.add_argument("--status", type=statuses, metavar="WORDS", help=f"only these: {', '.join(w.STATUSES)}")
    parse.add_argument("--group", help="only cases of this group")
    parse.add_argument("--since", type=moment, metavar="TIME", help="status changed at or after")
    parse.add_argument("--until", type=moment, metavar="TIME", help="status changed before")
    parse.add_argument("--search", metavar="TEXT", help="in id, path or reason")
    parse.add_argument("--needs-me", action="store_true", help="only what needs a person: held, failed, stale, what did not happen")
    parse.add_argument("--changes", action="store_true", help="what is new since last time, each thing once")
    parse.add_argument("--as", dest="name", type=cursor, metavar="NAME", help="who is told, for --changes")
    about = "if a person is needed, run notify.command, which tells somebody; TEXT: a run that failed is told, too"
    parse.add_argument("--notify", nargs="?", const="", metavar="TEXT", help=about)
    parse.add_argument("--dry-run", action="store_true", help="with --changes: remember nothing; with --notify: only show it")
    parse.add_argument("--redact", action=argparse.BooleanOptionalAction, help="leave out paths and reasons (report.redact)")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    parse = parser()
    args = parse.parse_args(argv)
    if args.changes and (args.csv or args.json):
        parse.error("--changes tells sentences, or records with --jsonl")
    if args.changes and (args.needs_me or args.status or args.group or args.since or args.until or args.search):
        parse.error("--changes tells all that is new: what is not told would never be told")
    if args.name and not args.changes:
        parse.error("--as names who is told with --changes")
    if args.notify is not None and (args.changes or args.csv or args.json or args.jsonl or args.needs_me):
        parse.error("--notify sends a message of its own form, and prints nothing")
    return cli.boundary(NAME, lambda: report(args))
