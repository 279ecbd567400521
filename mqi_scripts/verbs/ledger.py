"""mqi-ledger - verify the chain of the ledger, repair it, or start its fold anew

examples:
  mqi-ledger verify                       every line, the chain, and the head that the last report showed
  mqi-ledger verify --head 57:3fa9c1      also: line 57 must have the digest that begins so
  mqi-ledger repair --reason "bad disk"   keep the readable lines, set the damaged file aside, record both digests
  mqi-ledger rebuild --reason "restored"  accept a ledger that is shorter than the one seen before (a restored backup)
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec
from mqi_scripts.world import config, lock, files
from mqi_scripts.world.files import write_whole
from mqi_scripts.world.ledger import Ledger


def verify(book: Ledger, heads: Sequence[str]) -> int:
    """Stream every line; 65 with the first bad line, why, and what to do."""
    wanted = dict(_head(text) for text in heads)
    shown = files.read_note(os.path.join(book.folder, "health", "mqi-report.json")).get("head")
    if shown and shown[0]:
        wanted.setdefault(shown[0], shown[1])
    damaged: list[str] = []
    head, cases = codec.START, set[str]()
    try:
        for record, head in book.records():  # noqa: B007
            cases.add(record["case"])
            expected = wanted.pop(head.seq, "")
            if not head.digest.startswith(expected):
                damaged.append(f"line {head.seq} has digest {head.digest[:16]}, a report showed {expected[:16]}: it was rewritten")
    except w.Damaged as error:
        damaged.append(str(error))
    damaged += torn(book)
    damaged += [
        f"line {seq} is missing (the last one here is {head.seq}), but a report showed it, digest {digest[:16]}: the tail is cut. "
        "Restore the newest backup, or accept the loss: mqi-ledger rebuild --reason ..."
        for seq, digest in wanted.items()
    ]
    for text in damaged:
        sys.stderr.write(f"mqi-ledger: {text}\n")
    sys.stdout.write(f"{head.seq} lines, {len(cases - {''})} cases, head {head.seq}:{head.digest}\n")
    return w.Damaged.code if damaged else 0


def torn(book: Ledger) -> list[str]:
    for name in book.files()[-1:]:
        with open(os.path.join(book.folder, name), "rb") as file:
            end = file.read()[-(1 << 20) :]
        if not end.endswith(b"\n") and end:
            return [f"{name}: its last line has no newline: a write was cut off; the next script that records sets it aside"]
    return []


def repair(book: Ledger, reason: str) -> int:
    """Each file keeps its readable beginning; the old file stays as <name>.damaged-<digest>; what follows is set aside too."""
    damaged: list[str] = []
    good: dict[str, bytes] = {}
    head = codec.START
    with lock.held(os.path.join(book.folder, "ledger.lock"), 30):
        for name in book.files():
            path, kept = os.path.join(book.folder, name), b""
            with open(path, "rb") as file:
                whole = file.read()
            for text in whole.splitlines(keepends=True):
                try:
                    if damaged or not text.endswith(b"\n"):
                        raise w.Damaged("it follows a damaged line")
                    head = codec.read_line(text[:-1], head)[1]
                except w.Damaged as error:
                    damaged.append(f"{name}: {error}")
                    break
                kept += text
            if kept != whole:
                good[name] = kept
                old = sha256(whole).hexdigest()
                os.link(path, f"{path}.damaged-{old[:16]}")
                write_whole(path, kept)
                damaged.append(f"{path}.damaged-{old[:16]} {old} {sha256(kept).hexdigest()}")
        forget(book)
    if not good:
        sys.stdout.write("nothing to repair\n")
        return 0
    _, old, new = damaged[-1].rsplit(" ", 2)
    now = codec.stamp(datetime.now(UTC))
    book.append([w.Repaired("", now, f"repair: {reason}", old, new)], now)
    sys.stdout.write(f"kept {head.seq} lines; the damaged file stays beside; the next scripts look at the world again\n")
    return 0


def forget(book: Ledger) -> None:
    """Delete the caches of the fold, and the head that reports remember."""
    for name in ("cache/fold", "health/mqi-report.json"):
        if os.path.exists(path := os.path.join(book.folder, name)):
            os.unlink(path)


def rebuild(book: Ledger, reason: str) -> int:
    forget(book)
    now = codec.stamp(datetime.now(UTC))
    book.append([w.Repaired("", now, f"rebuild: {reason}", "", book.state().head.digest)], now)
    sys.stdout.write(f"the fold was made anew; head {book.state().head.seq}\n")
    return 0


def _head(text: str) -> tuple[int, str]:
    seq, _, digest = text.partition(":")
    if not seq.isdigit() or not digest:
        raise w.Usage(f"--head {text!r}: expected SEQ:DIGEST as a report shows it")
    return int(seq), digest


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-ledger", __doc__ or "")
    parse.add_argument("action", choices=("verify", "repair", "rebuild"))
    parse.add_argument("--head", action="append", default=[], metavar="SEQ:DIGEST", help="a head that was seen")
    parse.add_argument("--reason", help="why; required for repair and rebuild")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    parse = parser()
    args = parse.parse_args(argv)
    if args.action != "verify" and not args.reason:
        parse.error(f"{args.action} changes the record: say why with --reason")
    return cli.boundary("mqi-ledger", lambda: work(args))


def work(args: argparse.Namespace) -> int:
    site = config.load(args.config, os.environ)
    cli.check_state(site.state)
    by = {"script": "mqi-ledger", "host": os.uname().nodename, "pid": os.getpid(), "user": cli.user()}
    book = Ledger(site.state, by)
    if args.action == "verify":
        return verify(book, args.head)
    return repair(book, args.reason) if args.action == "repair" else rebuild(book, args.reason)
