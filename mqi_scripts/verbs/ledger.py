"""mqi-ledger - verify the record, mend it, copy it, and tell it anew from what the world can prove

examples:
  mqi-ledger verify                           every line, the chain, the story, the manifests, the head that was seen last
  mqi-ledger verify --head 57:3fa9c1          also: line 57 must have the digest that begins so
  mqi-ledger backup /backup/mqi               a verified copy in a folder of its own below it; scripts may run meanwhile
  mqi-ledger repair --dry-run                 which lines are damaged, and which cases they are about
  mqi-ledger repair --reason "bad disk"       set them aside, keep the old file, ask the compute hosts what they know
  mqi-ledger rebuild --reason "disk lost"     no ledger, or an older copy of it: recover what hosts and results can prove
  mqi-ledger compress                         files of past years; every program reads them as before
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from mqi_scripts import words as w
from mqi_scripts.care import backup, rebuild, repair
from mqi_scripts.care import verify as care
from mqi_scripts.frame import cli
from mqi_scripts.pure import tables
from mqi_scripts.world import config, files, lock
from mqi_scripts.world.ledger import Ledger

ACTIONS = ("verify", "backup", "repair", "rebuild", "compress")
LINE = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch", "mqi-clean")
WAIT = 60  # seconds for a script that runs


def verify(book: Ledger, heads: Sequence[str]) -> int:
    """Read every line; 65 with all that is wrong and what to do."""
    seen = [_head(text) for text in heads]
    match files.read_note(os.path.join(book.folder, "health", "mqi-report.json")).get("head"):
        case [int(seq), str(digest)] if seq:
            seen.append(w.Head(seq, digest))
    if (head := book.seen()).seq:
        seen.append(head)
    story = care.examine(book, seen)
    for text in story.trouble:
        sys.stderr.write(f"mqi-ledger: {tables.printable(text)}\n")
    for first, last, why in story.lost:
        sys.stdout.write(tables.printable(f"lines {first} to {last} are missing: {why}") + "\n")
    sys.stdout.write(f"{story.lines} lines, {len(story.cases)} cases, head {story.head.seq}:{story.head.digest}\n")
    return w.Damaged.code if story.trouble else 0


def _head(text: str) -> w.Head:
    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or not digest:
        raise w.Usage(f"--head {text!r}: expected SEQ:DIGEST as a report shows it")
    return w.Head(int(seq), digest)


@contextmanager
def alone(state: str, line: bool) -> Iterator[None]:
    """No second mqi-ledger; line: no other script either, for as long as that lasts. Raises Busy."""
    names = {f"run.{name}" for name in LINE} | {name for name in os.listdir(state) if name.startswith("run.")} if line else set()
    with ExitStack() as locks:
        locks.enter_context(lock.held(os.path.join(state, "run.mqi-ledger"), 0))
        for name in sorted(names - {"run.mqi-ledger"}):
            locks.enter_context(lock.held(os.path.join(state, name), WAIT))
        yield


def keep(run: cli.Run, target: str) -> int:
    """A backup below target."""
    if f"{os.path.realpath(target)}/".startswith(f"{os.path.realpath(run.site.inbox)}/"):
        raise w.Usage(f"{target} is in the inbox, where a copy would be taken for a case: name a folder on another disk")
    place, story, lost = backup.backup(run.book, os.path.abspath(target), run.now().translate(str.maketrans("", "", "-:.")))
    sys.stderr.writelines(f"mqi-ledger: {tables.printable(text)}\n" for text in lost)
    sys.stdout.write(
        f"{tables.printable(place)}: {story.lines} lines, {len(story.cases)} cases, {len(story.manifests) - len(lost)} manifests, "
        f"head {story.head.seq}:{story.head.digest}, verified. To restore it: {tables.printable(place)}/RESTORE.txt\n"
    )
    return w.Damaged.code if lost else 0


def squeeze(run: cli.Run) -> int:
    done = backup.compress(run.book)
    sys.stdout.writelines(f"{name}: {before} bytes, now {after} as {name}.gz\n" for name, before, after in done)
    sys.stdout.write("" if done else "nothing to compress: the newest file stays plain, older ones are compressed\n")
    return 0


def work(args: argparse.Namespace) -> int:
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    run = cli.Run("mqi-ledger", args, site)
    if args.action == "verify":
        return verify(run.book, args.head)
    with alone(site.state, args.action in ("repair", "rebuild")):
        if args.action == "backup":
            return keep(run, args.folder)
        if args.action == "compress":
            return squeeze(run)
        if args.action == "repair":
            return repair.repair(run, args.reason or "")
        return rebuild.rebuild(run, args.reason or "", args.ledger, accept_empty=args.accept_empty)


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-ledger", __doc__ or "")
    parse.add_argument("action", choices=ACTIONS)
    parse.add_argument("folder", nargs="?", metavar="DIR", help="where backups are kept")
    parse.add_argument("--head", action="append", default=[], metavar="SEQ:DIGEST", help="verify: a head that was seen")
    parse.add_argument("--reason", help="repair, rebuild: why; it is recorded")
    parse.add_argument("--dry-run", action="store_true", help="repair, rebuild: say what would be done, do nothing")
    parse.add_argument("--ledger", default="", metavar="ID", help="rebuild: the lost ledger's id, where another was begun since")
    parse.add_argument("--accept-empty", action="store_true", help="rebuild: what lacks its mark is new on purpose")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    parse = parser()
    args = parse.parse_args(argv)
    if args.action in ("repair", "rebuild") and not (args.reason or args.dry_run):
        parse.error(f"{args.action} changes the record: say why with --reason")
    if (args.action == "backup") != bool(args.folder):
        parse.error("backup, and nothing else, needs a folder to keep copies in")
    return cli.boundary("mqi-ledger", lambda: work(args))
