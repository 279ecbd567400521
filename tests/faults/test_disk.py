"""Disks that are full, or out of inodes, on either side, before and while each script runs; and writes that end half-way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import laws
import pytest
from conftest import REPO, Place, host_text, need

PAGE = 4096
LEFT = (0, 1, 2, 3, 5, 8)  # pages or inodes


class Small:
    """A small file system of its own over a folder, in a name space that ends with the process that holds it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, root = folder, os.geteuid() == 0
        folder.mkdir(exist_ok=True)
        make = {"tmpfs": "mount -t tmpfs -o size=90m,nr_inodes=4000,mode=700 none {0}", "ext4": "truncate -s 90m {0}.img && mkfs.ext4 -q -N 4000 {0}.img && mount -o loop {0}.img {0} && chmod 700 {0}"}
        text = f'{make[kind].format(folder)} && echo ready && exec sleep 600'
        self.holder = subprocess.Popen(["unshare", "-m" if root else "-rm", "/bin/sh", "-c", text], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout
        assert self.holder.stdout.readline() == "ready\n"
        self.seen = Path(f"/proc/{self.holder.pid}/root{folder}")
        self.front = [need("nsenter"), "-t", str(self.holder.pid), "-m", *([] if root else ["-U", "--preserve-credentials"]), f"--wd={REPO}"]

    def fill(self, kind: str, left: int) -> None:
        """All but so many pages, or inodes."""
        with suppress(OSError):
            if kind == "inodes":
                for number in range(5000):
                    (self.seen / f"filler-{number}").touch(0o600)
            else:
                (self.seen / "filler-bytes").touch(0o600)
                with (self.seen / "filler-bytes").open("wb", buffering=0) as file:
                    while file.write(bytes(PAGE)) == PAGE:
                        pass
        if kind == "inodes":
            for path in sorted(self.seen.glob("filler-*"))[:left]:
                path.unlink()
        elif left:
            os.truncate(self.seen / "filler-bytes", max((self.seen / "filler-bytes").stat().st_size - left * PAGE, 0))

    def free(self) -> None:
        for path in self.seen.glob("filler-*"):
            path.unlink()


@contextmanager
def over(place: Place, side: str, kind: str = "tmpfs") -> Iterator[Small]:
    """The state, the results or the compute host's root on a small disk."""
    small = Small({"state": place.state, "results": place.results, "host": place.root}[side], kind)
    place.front = small.front
    setattr(place, "root" if side == "host" else side, small.seen)
    try:
        yield small
    finally:
        for pid in laws.busy(place.root):
            os.kill(pid, signal.SIGKILL)
        small.holder.kill()
        small.holder.wait()


def site(folder: Path) -> Place:
    place = Place(folder / "site", host_text("local", "direct", "tar", None, None), laws.job(folder / "site"))
    laws.plant(place)
    return place


DISKS = [(side, kind, "tmpfs") for side in ("state", "results", "host") for kind in ("bytes", "inodes")]
WHOLE = [pytest.param(side, kind, "ext4", marks=pytest.mark.whole) for side, kind, _ in DISKS] if os.geteuid() == 0 else []


@pytest.mark.parametrize(("side", "kind", "system"), [*DISKS, *WHOLE])
def test_a_disk_that_is_or_becomes_full_costs_nothing_and_the_line_goes_on_when_there_is_room(
    side: str, kind: str, system: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each script with so much room left, a little more each time: it runs out at one place after the other."""
    place, codes = site(tmp_path), []
    with over(place, side, system) as small:
        laws.plant(place)  # what lay there is under the mount
        for program in laws.LINE:
            for left in LEFT if request.config.getoption("--faults") else LEFT[::2]:
                place.case(f"{program}-{left}")
                if program != "mqi-scan":
                    for before in laws.LINE[: laws.LINE.index(program)]:
                        place(before)
                    laws.quiet(small.folder)
                small.fill(kind, left)
                ran = place(program)
                codes.append(ran.code)
                assert ran.code in (0, 1, 69, 74), ran.err
                if ran.code == 74:
                    assert "make room" in ran.err
                laws.quiet(small.folder)
                small.free()
                assert laws.broken(place) == []
        assert 74 in codes
        rows = place.until("completed", "failed")
        assert laws.broken(place) == []
        failed = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
        assert set(failed.values()) <= {"disk-full-or-output-unreadable", "the job ended with exit 1"}, failed  # it could not write its own output
        assert not failed or side == "host"


def test_a_disk_that_fills_up_while_cases_travel(tmp_path: Path) -> None:
    """There is room when the push looks, and none when it writes."""
    place, codes = site(tmp_path), []
    with over(place, "host") as small:
        for number in range(4):
            (place.case(str(number)) / "big").write_bytes(os.urandom(3 << 20))
            place("mqi-scan")
            child = subprocess.Popen(place.argv("mqi-push"), env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            while child.poll() is None and not list(small.seen.glob("staging/*/*")):
                time.sleep(0.002 * number)
            small.fill("bytes", number)
            codes.append(child.wait())
            assert laws.broken(place) == []
            small.free()
        assert set(codes) <= {0, 69, 74}
        place.until("completed")
        assert laws.broken(place) == []


def test_a_write_that_ends_half_way_records_nothing(tmp_path: Path) -> None:
    """A limit on the size of files, which falls anywhere in the ledger's next lines: the disk takes a part of the one write."""
    place, refused = site(tmp_path), 0
    for name in "ab":
        place.case(name)
    for program in laws.LINE:
        for more in (1, 150, 400, 700):
            before = place.ledger()
            place.front = ["prlimit", f"--fsize={len(before) + more}"]
            ran = place(program, "--jsonl")
            place.front = []
            laws.quiet(place.root)
            if ran.code == 74 and "took only a part" in ran.err:
                refused += 1
                assert place.ledger().startswith(before)
                assert place.ledger().endswith(b"\n") or not before
            assert "Traceback" not in ran.err
            assert laws.broken(place, laws.told(ran.out)) == []
        place(program)
    assert refused >= 4
    place.until("completed")
    assert laws.broken(place) == []
