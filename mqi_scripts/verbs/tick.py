"""mqi-tick - the whole line once, scan to fetch, in one process: for cron, and for small sites

What each of the five does and records, its locks and its notes are its own, and what one saw of a host the next need not look at
again; one that fails does not stop the next. The exit code is the highest of theirs.

examples:
  mqi-tick                       what one minute of the timers does
  mqi-tick --dry-run             what it would do
  mqi-tick --config FILE --jsonl what happened, a JSON line an event
"""

import argparse
from collections.abc import Sequence
from importlib import import_module

from mqi_scripts.frame import cli
from mqi_scripts.world.host import Host

LINE = ("scan", "push", "submit", "poll", "fetch")
STOPPED = 130  # Ctrl-C ends the line


def tick(words: Sequence[str]) -> int:
    worst, Host.sharing = 0, True
    for name in LINE:
        code = import_module(f"mqi_scripts.verbs.{name}").main(words)
        worst = max(worst, code)
        if code == STOPPED:
            break
    return worst


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-tick", __doc__ or "")
    parse.add_argument("--jsonl", action="store_true", help="one JSON line an event on stdout")
    parse.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    words = [*(["--config", args.config] if args.config else []), *(["--jsonl"] if args.jsonl else [])]
    return tick([*words, *(["--dry-run"] if args.dry_run else [])])
