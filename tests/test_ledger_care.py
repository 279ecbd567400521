"""The ledger's care over real parts: every damage is found and mended, copies are whole, and what is lost is told anew."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text

from mqi_scripts import words as w
from mqi_scripts.pure import codec
from mqi_scripts.world.ledger import Ledger

JOB = 'sh "$MQI_INPUT/do.sh"'
GOOD = 'cp "$MQI_INPUT/plan.txt" plan.out\n'
DO = {
    "done": GOOD,
    "cut": 'if [ "$MQI_ATTEMPT" = 1 ]; then kill -TERM 0; sleep 60; fi\n' + GOOD,
    "failed": "echo no beam; exit 3\n",
    "partial": GOOD + "exit 4\n",
    "empty": "true\n",
    "computed": GOOD,
    "running": "while [ ! -e {go} ]; do sleep 0.1; done\n" + GOOD,
    "running2": "while [ ! -e {go} ]; do sleep 0.1; done\n" + GOOD,
    "waiting": GOOD,
    "pushed": GOOD,
    "found": GOOD,
    "held": GOOD,
}
ENDED = ("done", "cut", "failed", "partial", "empty")
STATUS = {"done": "completed", "cut": "completed", "failed": "failed", "partial": "failed", "empty": "failed", "computed": "computed",
          "running": "running", "running2": "running", "waiting": "submitted", "pushed": "pushed", "found": "found", "held": "held"}  # fmt: skip


def add(place: Place, *names: str) -> None:
    for name in names:
        folder = place.case(name)
        (folder / "do.sh").write_text(DO[name].format(go=place.folder / "go"))
        if name == "held":
            (folder / "link").symlink_to("/etc/passwd")


def run(place: Place, *programs: str) -> None:
    for program in programs:
        ran = place(program)
        assert ran.code in (0, 1), (program, ran)


def statuses(place: Place) -> dict[str, str]:
    return {path: row["status"] for path, row in place.rows().items()}


@pytest.fixture
def busy(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> Place:
    """A site with a case in every status that there is; two jobs run until the file `go` is there."""
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), JOB)
    add(place, *ENDED)
    place.until("completed", "failed")
    add(place, "computed")
    run(place, "mqi-scan", "mqi-push", "mqi-submit")
    while statuses(place)["computed"] != "computed":
        run(place, "mqi-poll")
    for names in (("running", "running2"), ("waiting",)):
        add(place, *names)
        run(place, "mqi-scan", "mqi-push", "mqi-submit")
    while len(place.executions()) < 9:
        time.sleep(0.05)
    run(place, "mqi-poll")
    add(place, "pushed")
    run(place, "mqi-scan", "mqi-push")
    add(place, "found", "held")
    run(place, "mqi-scan")
    assert statuses(place) == STATUS
    return place


def finish(place: Place) -> dict[str, dict[str, object]]:
    """Let the jobs go on; to the end of every case."""
    (place.folder / "go").touch()
    rows = place.until("completed", "failed", "held")
    runs = place.executions()
    assert len(runs) == len(set(runs)), runs
    assert {path: row["status"] for path, row in rows.items() if path != "held"} == {
        name: "failed" if STATUS[name] == "failed" else "completed" for name in STATUS if name != "held"
    }  # fmt: skip
    assert rows["held"]["status"] == "held"
    assert len(runs) == len(STATUS) - 1 + 1  # held never, cut twice
    assert {row["attempt"] for path, row in rows.items() if path not in ("cut", "held")} == {1}
    assert rows["cut"]["attempt"] == 2
    for name in STATUS:
        if rows[name]["status"] == "completed":
            assert (place.results / name / "plan.out").read_text() == f"plan of {name}\n"
    assert not list(place.results.glob("*.superseded-*")), "a result was fetched twice"
    verified = place("mqi-ledger", "verify")
    assert verified.code == 0, verified.err
    return rows


def sight(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_lost_ledger_is_told_anew_while_its_jobs_run(busy: Place) -> None:
    place = busy
    before, results = place.rows(), sight(place.results)
    for path in place.state.glob("ledger-*"):
        path.unlink()
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        assert place(program).code == 65
    ran = place("mqi-ledger", "rebuild", "--reason", "the disk is gone")
    assert ran.code == 0, ran
    assert sight(place.results) == results
    after = place.rows()
    assert after.pop("empty")["status"] == "computed"  # nothing but mqi-fetch can say that its results are missing
    assert set(after) == set(STATUS) - {"empty", "pushed", "found", "held"}
    for name, row in after.items():
        assert [row[word] for word in ("case_id", "status", "attempt")] == [before[name][word] for word in ("case_id", "status", "attempt")]
        assert str(row["completed_at"])[:19] == str(before[name]["completed_at"])[:19]
    assert place("mqi-ledger", "verify").code == 0
    finish(place)
