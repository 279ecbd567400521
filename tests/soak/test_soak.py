"""A month in an hour: real sshd, real pueued, the timers' programs, hundreds of cases, and everything that goes wrong, on a clock that runs ahead.

With --soak: `tests/run --soak`, or `--soak=60` for a shorter one with so many cases.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import laws
import pytest
from conftest import queueing, serving
from month import FAULTS, KINDS, Clock, Disks, Month, front_of_sshd, started
from proxy import Proxy
from scenes import revision

pytestmark = pytest.mark.soak
TICKS = 1.2  # a case
MEMORY = 64  # MiB that no program may exceed, of the 1024 that a unit allows
GROWTH = 1.3  # by how much the line's programs may take more at the end than at the beginning
LEDGER = 5000  # bytes a case, with all its faults
STATE = 10_000  # bytes a case below the state folder, ledger included
LOG = 150  # bytes that a program says in the mean
STAGED = 20  # cases to one whose input changed on its way, so that what had travelled of it lies there until it is cleaned


def kept(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def litter(month: Month) -> list[str]:
    """Whatever is left that nobody needs any more, on either side."""
    left = [f"{path.name}/{name}" for path in (month.folder / "tmp", month.folder / "far-tmp") for name in kept(path)]
    state, results, host = month.place.state, month.place.results, month.place.root
    left += [name for name in kept(state) if name.startswith(("outbox/", "inbound/")) or name.endswith(".new")]
    left += [str(path) for path in results.rglob(".*") if not path.name.startswith(".mqi")]
    left += [str(path) for path in (*host.rglob("*.new"), *host.glob("cases/*/*.part"))]
    known = {row["case_id"] for row in month.rows().values()}
    left += [str(path) for path in host.glob("cases/*") if not path.name.startswith(tuple(known))]
    left += [f"process {pid}" for pid in laws.busy(month.folder / "site" / "host", timers=True)]
    return left


def staged(month: Month) -> list[Path]:
    return [*month.place.root.glob("staging/*"), *month.place.root.glob("outgoing/*")]


def memory(month: Month, part: slice) -> float:
    """MiB: the median of the line's programs in a part of the month."""
    used = [ran.memory for ran in month.ran if ran.program in laws.LINE and ran.code >= 0]
    return sorted(used[part])[len(used[part]) // 2] / 1024


def test_a_month_of_cases_and_faults_loses_nothing_and_leaves_nothing_behind(tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("small disks, and another boot id, need root")
    count, seed = request.config.getoption("--soak"), request.config.getoption("--seed") or revision()

    def say(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  soak, {(time.monotonic() - began) / 60:.1f} min: {text}")
            sys.stdout.flush()

    began = time.monotonic()
    with ExitStack() as parts:
        clock, disks = Clock(tmp_path), parts.enter_context(closing(Disks(tmp_path)))
        queue = parts.enter_context(queueing(front=disks.front))
        sshd = parts.enter_context(serving(front_of_sshd(clock, tmp_path), "/usr/lib/openssh/sftp-server", disks.front))
        proxy = parts.enter_context(closing(Proxy(sshd.port)))
        month = Month(tmp_path, disks, sshd, queue, proxy, clock, count, seed)
        started(month)
        say(f"{count} cases, seed {seed}")
        month.lives(int(count * TICKS), say)
        say(f"the faults are over: {len(month.misplaced())} cases are still on their way")
        month.rests(900)
        for figure in figures(month):
            say(figure)
        assert not month.odd, "\n".join(month.odd)
        rows = month.rows()
        assert len(month.kinds) == count
        assert {name for name in month.kinds if month.kinds[name] != "gone"} <= set(rows) <= set(month.kinds)  # it may go before it is found
        assert set(month.kinds.values()) == set(KINDS) or count < 60
        assert laws.broken(month.place, month.acknowledged) == []
        assert laws.standing(month.place) == []
        for name, row in rows.items():
            if row["status"] == "completed" and not row["stale"] and (month.place.inbox / name).exists():
                assert (month.place.results / name / "plan.out").read_bytes() == (month.place.inbox / name / "plan.txt").read_bytes(), name
        assert litter(month) == []
        assert len(staged(month)) <= max(6, count // STAGED), staged(month)
        landed = {name for name in FAULTS if month.happened[name]}
        assert landed == set(FAULTS) or count < 60
        assert len(list(month.place.root.glob("bin/*"))) <= 3
        assert max(ran.memory for ran in month.ran) / 1024 <= MEMORY
        assert memory(month, slice(-200, None)) <= memory(month, slice(0, 200)) * GROWTH
        assert len(month.place.ledger()) <= LEDGER * count
        assert size(month.place.state) <= STATE * count
        assert (month.folder / "journal").stat().st_size <= LOG * len(month.ran)
        assert len(list((month.folder / "backups").iterdir())) in range(2, 6)  # one a week; a short month has long ticks


def figures(month: Month) -> list[str]:
    rows, ran = month.rows(), month.ran
    return [
        f"{len(rows)} cases: {dict(Counter(row['status'] for row in rows.values()))}, {sum(row['attempt'] for row in rows.values())} attempts",
        f"{len(ran)} runs, exit codes {dict(sorted(Counter(one.code for one in ran).items()))}",
        f"faults: {dict(month.happened)}",
        f"the person: {dict(month.visits)}",
        f"memory: at most {max(one.memory for one in ran) / 1024:.0f} MiB, median {memory(month, slice(0, 200)):.0f} at first and {memory(month, slice(-200, None)):.0f} at last",
        f"ledger {len(month.place.ledger()) / len(rows):.0f} bytes a case in {len(list(month.place.state.glob('ledger-*.jsonl')))} files, state {size(month.place.state) / len(rows):.0f}, "
        f"log {(month.folder / 'journal').stat().st_size / len(ran):.0f} bytes a run, {len(list(month.place.state.glob('ledger.torn.*')))} torn lines set aside",
        f"backups {len(list((month.folder / 'backups').iterdir()))}, {size(month.folder / 'backups') / 1e6:.1f} MB",
        f"litter: {litter(month)[:20]}; still lying in staging or ready to be fetched on the host: {len(staged(month))}",
    ]
