"""What must hold when processes die, replies are lost, and the queue forgets: over a real sshd and a real pueued."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text

SLOW = 'sleep 0.2; cp "$MQI_INPUT/plan.txt" plan.out'
LINE = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")


class Relay:
    """A pueue client in front of the real one: loses a reply, or asks another real daemon, once or for a while."""

    def __init__(self, folder: Path, real: str, other: str) -> None:
        self.mode, self.command = folder / "mode", folder / "pueue"
        self.set("")
        self.command.write_text(f"""#!/bin/sh
mode=$(cat {self.mode})
case "$mode $*" in
lost*" add "*) # the task is added; then the whole remote session dies, as when the network does
  {real} "$@" >/dev/null
  : >{self.mode}
  up=$PPID
  while read -r line </proc/$up/stat && set -- ${{line##*) }} && [ "$2" -gt 1 ]; do
    case $(tr '\\0' ' ' </proc/$up/cmdline) in *"sh -s"*) all="$up $all" ;; esac
    up=$2
  done
  kill -9 $all
  exit 1 ;;
empty*status*) : >{self.mode}; exec {real} -c {other} status --json ;;
esac
exec {real} "$@"
""")
        self.command.chmod(0o755)

    def set(self, mode: str) -> None:
        self.mode.write_text(mode)


@pytest.fixture
def relay(pueued: Pueued) -> Relay:
    return Relay(pueued.folder, pueued.command, str(pueued.folder / "other" / "c.yml"))


def relayed(folder: Path, sshd: Sshd, pueued: Pueued, relay: Relay, job: str = SLOW) -> Place:
    text = host_text("ssh", "pueue", "scp", sshd, pueued).replace(f'"{pueued.command}"', f'"{relay.command}"')
    return Place(folder / "site", text, job)


def once_each(place: Place) -> None:
    """No attempt was executed twice, and every case that is completed was executed."""
    runs = place.executions()
    assert len(runs) == len(set(runs)), runs


def test_a_reply_lost_after_the_add_makes_no_second_execution(tmp_path: Path, sshd: Sshd, pueued: Pueued, relay: Relay) -> None:
    place = relayed(tmp_path, sshd, pueued, relay)
    for name in "abc":
        place.case(name)
    place("mqi-scan")
    place("mqi-push")
    relay.set("lost")
    ran = place("mqi-submit")
    assert ran.code == 69
    assert "broke off" in ran.err
    place.until("completed")
    once_each(place)
    assert len({line.split()[0] for line in place.executions()}) == 3


def test_a_list_that_is_empty_once_decides_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued, relay: Relay) -> None:
    (pueued.folder / "other").mkdir()
    other = Pueued(pueued.folder / "other")
    other.start()
    try:
        other.groups(gpu0=1, gpu1=1)
        place = relayed(tmp_path, sshd, pueued, relay, 'sleep 3; cp "$MQI_INPUT/plan.txt" plan.out')
        for name in "abc":
            place.case(name)
        for program in LINE[:3]:
            place(program)
        relay.set("empty")
        place("mqi-poll")
        assert {row["status"] for row in place.rows().values()} <= {"submitted", "running"}
        place.until("completed")
        assert {row["attempt"] for row in place.rows().values()} == {1}
        once_each(place)
    finally:
        other.stop()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_killed_while_tasks_run_and_wait(tmp_path: Path, sshd: Sshd, pueued: Pueued, end: int) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), 'sleep 2; cp "$MQI_INPUT/plan.txt" plan.out')
    for name in "abcdef":
        place.case(name)
    for program in LINE[:3]:
        place(program)
    while len(place.executions()) < 2:
        time.sleep(0.05)
    place("mqi-poll")
    pueued.signal(end)
    ran = place("mqi-poll")
    assert ran.code == 69
    assert "queue of far does not answer" in ran.err
    pueued.start()
    waiting = [row for row in place.rows().values() if row["status"] == "submitted"]
    place("mqi-poll")
    assert any("is paused" in row["reason"] for row in place.rows().values()) or not waiting
    for group in ("gpu0", "gpu1"):
        pueued.client("start", "-g", group)
    rows = place.until("completed")
    once_each(place)
    runs = [line.split()[0] for line in place.executions()]
    if end == signal.SIGKILL:  # its jobs lived on
        assert len(runs) == len(rows)
    else:  # its jobs were killed: interrupted, and followed by a new attempt
        assert sum(row["attempt"] == 2 for row in rows.values()) >= 1


def test_a_wiped_queue_costs_no_case_and_no_second_execution(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), 'sleep 2; cp "$MQI_INPUT/plan.txt" plan.out')
    for name in "abcdef":
        place.case(name)
    for program in LINE[:3]:
        place(program)
    while len(place.executions()) < 2:
        time.sleep(0.05)
    place("mqi-poll")
    pueued.wipe()
    pueued.start()
    ran = place("mqi-poll")
    assert ran.code == 0, ran.err
    pueued.groups(gpu0=1, gpu1=1)
    rows = place.until("completed")
    once_each(place)
    first = {line.split()[0] for line in place.executions() if line.split()[1] == "1"}
    for row in rows.values():  # who had begun was left alone; who had not got a new attempt, once
        claimed = any(key.startswith(row["case_id"]) for key in first)
        assert row["attempt"] == (1 if claimed else 2), (row, place.executions())


def test_a_job_that_is_killed_is_interrupted_and_done_again(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued),
                  '[ "$MQI_ATTEMPT" -gt 1 ] || sleep 60; cp "$MQI_INPUT/plan.txt" plan.out')  # fmt: skip
    place.case("a")
    for program in LINE[:3]:
        place(program)
    while not place.executions():
        time.sleep(0.05)
    place("mqi-poll")
    pueued.client("kill", "--signal", "sigkill", "0")
    rows = place.until("completed")
    assert rows["a"]["attempt"] == 2
    assert b'"type":"interrupted"' in place.ledger()
    once_each(place)


def test_each_script_killed_at_twenty_moments_loses_nothing_and_runs_nothing_twice(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """Twenty cases come in four waves; each script is killed twenty times, at moments spread over what its run takes by then."""
    for group in ("gpu0", "gpu1"):
        pueued.client("parallel", "3", "-g", group)
    chance, env = random.Random(1), {**os.environ, "PYTHONPATH": str(REPO)}
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), SLOW)
    kills, takes = dict.fromkeys(LINE, 0), dict.fromkeys(LINE, 0.5)
    while min(kills.values()) < 20:
        if sum(kills.values()) >= 25 * len(list(place.inbox.iterdir())) / 5 and len(list(place.inbox.iterdir())) < 20:
            for _ in range(5):
                place.case(f"case{len(list(place.inbox.iterdir())):02}")
        program = chance.choice([name for name in LINE if kills[name] < 20])
        start = time.monotonic()
        child = subprocess.Popen(place.argv(program), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(chance.uniform(0.02, takes[program]))
            takes[program] = 0.7 * takes[program] + 0.3 * (time.monotonic() - start)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills[program] += 1
            takes[program] *= 1.1
    rows = place.until("completed")
    assert len(rows) == 20
    once_each(place)
    assert len({line.split()[0] for line in place.executions()}) == 20
    for number in range(20):
        assert (place.results / f"case{number:02}" / "plan.out").read_text() == f"plan of case{number:02}\n"
    assert place("mqi-ledger", "verify").code == 0


def test_the_time_limit_ends_the_whole_group_and_the_case_is_failed(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), "sleep 297 & sleep 297")
    place.config.write_text(place.config.read_text().replace('"60s"', '"1s"'))
    place.case("a")
    rows = place.until("failed")
    assert rows["a"]["reason"] == "time limit"
    left = subprocess.run(["pgrep", "-f", "sleep 297"], capture_output=True, text=True).stdout.split()
    assert not left
