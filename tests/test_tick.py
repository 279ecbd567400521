"""mqi-tick: the line in one process. One that fails does not stop the next, and Ctrl-C ends all of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from conftest import REPO, Place, Pueued, Sshd, host_text


def test_ticks_alone_bring_a_case_from_the_inbox_to_its_result(far_place: Place) -> None:
    far_place.case("one")
    deadline = time.monotonic() + 60
    while far_place.rows().get("one", {}).get("status") != "completed":
        ran = far_place("mqi-tick")
        assert ran.code == 0, ran.err
        assert time.monotonic() < deadline
    assert (far_place.results / "one" / "plan.out").read_text() == "plan of one\n"
    assert len(far_place.executions()) == 1


def test_one_look_at_a_host_serves_the_whole_line(far_place: Place, sshd: Sshd) -> None:
    """mqi-submit looks before and after it acts; mqi-poll takes that, unless it has ended a job since."""
    for name in ("one", "two"):
        far_place.case(name)
    far_place("mqi-scan")
    far_place("mqi-push")
    before = sshd.sessions()
    assert far_place("mqi-tick").code == 0
    assert sshd.sessions() - before == 2
    deadline = time.monotonic() + 60
    while {row["status"] for row in far_place.rows().values()} != {"completed"}:
        assert far_place("mqi-tick").code == 0
        assert time.monotonic() < deadline


def test_a_job_is_ended_though_another_case_waits_for_the_queue(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "tar", None, None).replace("queue_depth = 100", "queue_depth = 1"), "sleep 300")
    for number in range(5):
        place.case(f"s{number}")
    deadline = time.monotonic() + 60
    while not {"pushed", "running"} <= {row["status"] for row in place.rows().values()}:
        place("mqi-tick")
        assert time.monotonic() < deadline
    name = next(name for name, row in place.rows().items() if row["status"] == "running")
    assert place("mqi-case", "cancel", name, "--reason", "a test").code == 0
    ran = place("mqi-tick")
    assert (ran.code, place.rows()[name]["status"]) == (0, "cancelled"), ran
    for name, row in place.rows().items():
        if row["status"] != "cancelled":
            place("mqi-case", "cancel", name, "--reason", "the test is over")
    while {row["status"] for row in place.rows().values()} != {"cancelled"}:
        assert place("mqi-tick").code == 0
        assert time.monotonic() < deadline


def test_what_happened_is_a_json_line_an_event(local_place: Place) -> None:
    local_place.case("one")
    kinds = [line.split('"type": "')[1].split('"')[0] for line in local_place("mqi-tick", "--jsonl").out.splitlines()]
    assert kinds[:3] == ["found", "pushed", "submitting"]
    assert kinds[3] in ("submitted", "started")


def test_a_dry_run_records_nothing(local_place: Place) -> None:
    local_place.case("one")
    local_place("mqi-tick", "--dry-run")
    assert local_place.ledger() == b""
    assert not local_place.executions()


def test_an_inbox_that_is_gone_does_not_stop_what_is_on_its_way(local_place: Place) -> None:
    local_place.case("one")
    local_place("mqi-tick")
    shutil.rmtree(local_place.inbox)
    deadline = time.monotonic() + 60
    while local_place.rows()["one"]["status"] != "completed":
        ran = local_place("mqi-tick")
        assert ran.code == 69  # mqi-scan's
        assert "is it mounted?" in ran.err
        assert time.monotonic() < deadline


def test_a_wrong_configuration_is_said_by_each_and_is_the_exit_code(local_place: Place) -> None:
    local_place.config.write_text(local_place.config.read_text().replace("[scan]", "[scan]\nquite = 1"))
    ran = local_place("mqi-tick")
    assert ran.code == 78
    assert ran.err.count("did you mean quiet?") == 5


def test_ctrl_c_ends_the_line(far_place: Place, pueued: Pueued) -> None:
    for name in ("one", "two"):
        far_place.case(name)
    far_place("mqi-scan")
    far_place("mqi-push")
    pueued.signal(signal.SIGSTOP)  # a queue that never answers: mqi-submit waits for it
    try:
        tick = subprocess.Popen(far_place.argv("mqi-tick"), env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE, text=True)
        deadline, lock = time.monotonic() + 60, Path(far_place.state) / "run.mqi-submit"
        while f"process {tick.pid}" not in (lock.read_text() if lock.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tick.send_signal(signal.SIGINT)
        said = tick.communicate(timeout=30)[1]
    finally:
        pueued.signal(signal.SIGCONT)
    # a shell calls both 130: where it hit a namedtuple's eval, `python -m` ends by the signal though it was caught
    assert tick.returncode in (130, -signal.SIGINT), said
    assert "mqi-submit: stopped" in said
    assert "mqi-poll" not in said
