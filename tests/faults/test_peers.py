"""The faults that were measured on other systems, one row each, over ssh and pueue: exactly N executions, N true verdicts, no operator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import laws
import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text
from relay import Relay

ENV = {**os.environ, "PYTHONPATH": str(REPO)}


def begun(place: Place, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(place.argv(program), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def below(pid: int) -> list[int]:
    """A process and all that descend from it."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(one for word in words for one in below(int(word)))]
    return [pid]


def kill_everything(scripts: list[subprocess.Popen[bytes]], sshd: Sshd) -> int:
    """Our scripts, their ssh and scp, and our shells on the host; not the queue, and not the jobs, which are its children."""
    victims = [pid for script in scripts for pid in below(script.pid)] + below(sshd.pid)[1:]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for script in scripts:
        script.wait()
    return len(victims)


@pytest.mark.parametrize("row", ["a reply lost just after submit", "the script killed just after submit", "the queue's list empty once",
                                 "everything killed at 4, 9 and 12 s"])  # fmt: skip
def test_the_peers_table(row: str, tmp_path: Path, sshd: Sshd, pueued: Pueued, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = 20 if row.startswith("everything") else 3
    relay = Relay(pueued)
    work = f'sleep {1 if jobs == 20 else 3}; cp "$MQI_INPUT/plan.txt" plan.out'
    text = host_text("ssh", "pueue", "scp", sshd, pueued).replace(f'"{pueued.command}"', f'"{relay.command}"')
    place = Place(tmp_path / "site", text, laws.job(tmp_path / "site", work))
    laws.plant(place)
    for number in range(jobs):
        place.case(f"case{number:02}")
    start, turn = time.monotonic(), 0
    if row.startswith("everything"):
        for moment in (4, 9, 12):
            script = None
            while time.monotonic() - start < moment:
                script, turn = begun(place, laws.LINE[turn % 5]), turn + 1
                with suppress(subprocess.TimeoutExpired):
                    script.wait(max(moment - (time.monotonic() - start), 0.01))
            kill_everything([script] if script else [], sshd)
    else:
        for program in laws.LINE[:2]:
            place(program)
        if row.startswith("a reply"):
            relay.set("lost")
            ran = place("mqi-submit")
            assert ran.code == 69
            assert "broke off" in ran.err
        elif row.startswith("the script"):
            relay.set("kill")
            script = begun(place, "mqi-submit")
            (pueued.folder / "victim").write_text(str(script.pid))
            assert script.wait(60) == -signal.SIGKILL
        else:
            place("mqi-submit")
            with relay.another():
                relay.set("empty")
                place("mqi-poll")
                assert relay.mode.read_text() == ""
            assert {row["status"] for row in place.rows().values()} <= {"submitted", "running"}
    rows = place.until("completed")
    seconds = time.monotonic() - start
    assert len(rows) == jobs
    assert {row["attempt"] for row in rows.values()} == {1} or not row.startswith("the queue's")
    assert len(place.executions()) == len({line.split()[0] for line in place.executions()}) == jobs
    assert laws.broken(place) == []
    for name in rows:
        assert (place.results / name / "plan.out").read_text() == f"plan of {name}\n"
    with capsys.disabled():
        sys.stdout.write(f"\n  {row}: {jobs} jobs, {len(place.executions())} executions, {len(rows)} true verdicts, last one after {seconds:.1f} s, 0 commands\n")
