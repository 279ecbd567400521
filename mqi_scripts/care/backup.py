"""Copies of the ledger: taken while scripts run, verified before they count; and older years, compressed in their place."""

import gzip
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress

from mqi_scripts import words as w
from mqi_scripts.care import verify
from mqi_scripts.pure import codec
from mqi_scripts.world import files, lock
from mqi_scripts.world.ledger import Ledger

TRIES = 3  # a writer that sets a torn line aside while we copy spoils a copy
RESTORE = """How to restore this copy of a ledger
====================================

1. As root: systemctl stop mqi.target  (timers that cron plays: take its file away)
2. As the account that owns the state folder (site.state of the configuration; as root: sudo -u mqi /bin/bash):
   move what is left of ledger-*.jsonl* in the state folder away, and copy ledger-*.jsonl* and manifests/ from here to there.
3. As that account: mqi-ledger verify  (it may end with 65: reports remember lines that are newer than this copy),
   then: mqi-ledger rebuild --reason "restored the backup of ..."
   It learns from the compute hosts, all of which must answer, and from the results what was recorded after this copy was taken.
4. As root: systemctl start mqi.target
"""


def backup(book: Ledger, target: str, stamp: str) -> tuple[str, verify.Story, list[str]]:
    """A folder below target with the ledger and its manifests, verified; files that have not changed since the newest copy there
    are hard links to it. And what is wrong with manifests here, which no copy can have: that keeps no ledger from being copied.
    Raises Damaged if what is copied does not verify, Disk or OSError where there is no room."""
    ledger, head = book.state().id, book.state().head
    if not ledger:
        raise w.Usage(f"{book.folder} has no ledger yet: there is nothing to copy")
    os.makedirs(target, 0o700, exist_ok=True)
    final, fresh = (os.path.join(target, f"{lead}mqi-ledger-{ledger}-{end}") for lead, end in (("", stamp), (".", "new")))
    older = sorted(name for name in os.listdir(target) if name.startswith(f"mqi-ledger-{ledger}-"))
    trouble = ["nothing was copied"]
    try:
        for attempt in range(TRIES):
            shutil.rmtree(fresh, ignore_errors=True)  # of one that was killed, too
            _copy(book, fresh, [os.path.join(target, name) for name in older[-1:]] if attempt == 0 else [])
            copied = Ledger(fresh, {})
            story = verify.read(copied, [head])
            lost = dict(verify.manifests(book.folder, story.manifests))
            spoilt = [text for _, text in verify.manifests(fresh, story.manifests - lost.keys())]
            trouble = [*story.trouble, *story.strange.values(), *spoilt]
            if not trouble:
                os.rename(fresh, final)
                files.sync(target)
                return final, story, [*lost.values()]
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    raise w.Damaged(f"the copy does not verify, so it was not kept: {trouble[0]} ({len(trouble)} in all). See: mqi-ledger verify")


def _copy(book: Ledger, fresh: str, older: Sequence[str]) -> None:
    """Lines first, then the manifests: a manifest is there before the line that names it."""
    os.makedirs(os.path.join(fresh, "manifests"), 0o700)
    names = book.files()
    for name in names:
        there = [one for one in (name, f"{name}.gz") if os.path.exists(os.path.join(book.folder, one))][:1]
        for one in there:
            _take(book.folder, fresh, one, older if name != names[-1] else [])
    _cut_to_lines(os.path.join(fresh, names[-1]))
    with os.scandir(os.path.join(book.folder, "manifests")) as entries:
        kept = [entry.name for entry in entries if entry.is_file() and not entry.name.endswith(".new")]
    for name in kept:
        _take(book.folder, fresh, os.path.join("manifests", name), older)
    files.write_whole(os.path.join(fresh, "RESTORE.txt"), RESTORE.encode())
    for path in (os.path.join(fresh, "manifests"), fresh):
        files.sync(path)


def _take(source: str, target: str, name: str, older: Sequence[str]) -> None:
    """A link to the file of an older copy, if it is as large; else a copy, flushed."""
    old, new = os.path.join(source, name), os.path.join(target, name)
    for copy in older:
        with suppress(OSError):  # there is none, or the file system has no links
            if os.path.getsize(os.path.join(copy, name)) == os.path.getsize(old):
                os.link(os.path.join(copy, name), new)
                return
    with open(old, "rb") as file, open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as copied:
        shutil.copyfileobj(file, copied)
        copied.flush()
        os.fsync(copied.fileno())


def _cut_to_lines(path: str) -> None:
    """Away with the beginning of a line that was being written."""
    with open(path, "rb+") as file:
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)


def compress(book: Ledger) -> list[tuple[str, int, int]]:
    """Every file but the newest: (name, bytes before, bytes after). Each is unpacked and compared before the plain one goes."""
    done = []
    for name in book.files()[:-1]:
        path = os.path.join(book.folder, name)
        if not os.path.exists(path):
            continue
        with open(path, "rb") as file:
            whole = file.read()
        files.write_whole(f"{path}.gz.whole", gzip.compress(whole, mtime=0))
        with gzip.open(f"{path}.gz.whole") as packed:
            same = codec.sha256(packed.read()) == codec.sha256(whole)
        if not same:
            os.unlink(f"{path}.gz.whole")
            raise w.Disk(f"{path}.gz: what was written is not what is read: a failing disk? Nothing was changed")
        with lock.held(os.path.join(book.folder, "ledger.lock"), 30):
            os.rename(f"{path}.gz.whole", f"{path}.gz")
            os.unlink(path)
            files.sync(book.folder)
        done.append((name, len(whole), os.path.getsize(f"{path}.gz")))
    return done
