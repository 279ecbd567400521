"""mqi-case - the story of a case, why it does not move, its result verified, and what a person decides about it

Every decision is an event with who, when and why; the line carries it out. Without a host nothing of it is lost.

examples:
  mqi-case explain                     everything that does not move: why, what comes next, the command that helps
  mqi-case explain 3fa9c1 --look       of one case, and what its host, its queue and its folder show now
  mqi-case show 3fa9c1                 its events with times, reasons, attempts, and where its files are
  mqi-case verify --all                every result here against its record
  mqi-case cancel 3fa9c1 --reason "wrong plan"
  mqi-report --status failed --jsonl | mqi-case retry - --reason "the node was down"
  mqi-case priority 3fa9c1 --to 9 --reason "treated tomorrow"
  mqi-case retry 3fa9c1 --host-is-gone --reason "its disks burned"
  mqi-case release --group gpu1 --reason "the card was replaced"
  mqi-case release 3fa9c1 --deliveries 2026110309100000,2026110309220000 --reason "the first one broke off"
"""

import argparse
import os
from collections.abc import Sequence

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.operator import acts, explained, story
from mqi_scripts.operator import verify as results
from mqi_scripts.world import config

LONGEST = 2000  # characters of a reason
COMMANDS = (
    (story.show, "where it stands and why, its events, its files"),
    (explained.explain, "why it does not move, what comes next, what helps; without CASE: of all that do not move"),
    (results.verify, "its result here against its record, byte for byte"),
    (acts.retry, "a new attempt of what failed, was cancelled or is completed"),
    (acts.cancel, "end it: it is not computed, or its job is ended"),
    (acts.hold, "carry it no further until it is released"),
    (acts.release, "what a person held or never started goes on; or which of its deliveries count; or a group gets cases again"),
    (acts.priority, "how urgent it is, 0 to 9, the higher the sooner"),
    (acts.note, "a remark into its story"),
)
DECISIONS = (acts.retry, acts.cancel, acts.hold, acts.release, acts.priority, acts.note)


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-case", __doc__ or "")
    commands = parse.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for act, about in COMMANDS:
        one = commands.add_parser(act.__name__, help=about, description=about, allow_abbrev=False)
        one.set_defaults(act=act, dry_run=False, jsonl=False, accept_empty=False)
        count = "*" if act in (results.verify, explained.explain, acts.release) else "+"
        one.add_argument("case", nargs=count, metavar="CASE", help="ids, unique prefixes or paths; - reads them from stdin")
        one.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        one.add_argument("-v", "--verbose", action=cli.Verbose, nargs=0, help=argparse.SUPPRESS)
        one.add_argument("--jsonl", action="store_true", help="JSON lines on stdout")
        if act is results.verify:
            one.add_argument("--all", action="store_true", help="every completed case")
        if act is explained.explain:
            one.add_argument("--look", action="store_true", help="ask the world, too: source folder, host, queue, attempt, slots")
        if act in DECISIONS:
            word = "--text" if act is acts.note else "--reason"
            one.add_argument(word, dest="reason", metavar="TEXT", type=reason, required=True, help="why; for the record")
            one.add_argument("--dry-run", action="store_true", help="say what would be recorded, record nothing")
        if act is acts.retry:
            gone = "the host of its attempt will never answer again; the record says so"
            one.add_argument("--host-is-gone", action="store_true", help=gone)
        if act is acts.priority:
            one.add_argument("--to", type=int, choices=range(w.TOP + 1), required=True, metavar="N", help="0 to 9; 5 is usual")
        if act is acts.release:
            one.add_argument("--group", default="", help="instead of cases: a group that gets none, as too many failed there")
            one.add_argument("--host", default="", metavar="NAME", help="with --group: only that host's")
            one.add_argument("--deliveries", metavar="A,B,C", default="", help="the folders that count; the others are left out")
    return parse


def reason(text: str) -> str:
    """A person's words, as they go into the record."""
    if not text.strip() or len(text) > LONGEST:
        raise argparse.ArgumentTypeError(f"a reason is a text of 1 to {LONGEST} characters")
    return text.strip()


def work(args: argparse.Namespace) -> int:
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    run = cli.Run("mqi-case", args, site)
    args.act(run)
    return run.code


def main(argv: Sequence[str] | None = None) -> int:
    parse = parser()
    args = parse.parse_args(argv)
    if args.act is results.verify and bool(args.case) == args.all:
        parse.error("verify needs cases, or --all")
    if args.act is acts.release and bool(args.case) == bool(args.group):
        parse.error("release needs cases, or --group")
    return cli.boundary("mqi-case", lambda: work(args))
