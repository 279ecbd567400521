"""The commissioning self-test, mqi-check --faults: a sound site passes, a broken product does not, and nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import JOB, REPO, Place, Pueued, Ran, Sshd, close_gate, gate_options, host_text
from jsonschema import validate
from test_ground import PACKAGE, SIX, needed

FAULTS = ["cut transfer", "disk room refused", "lost reply after submit", "killed scripts", "duplicate submission", "daemon answers empty",
          "late data"]  # fmt: skip
WAIT = 'until [ -e "{folder}/go" ]; do sleep 0.1; done; cp "$MQI_INPUT/plan.txt" plan.out'


@contextmanager
def running(place: Place, *words: str, package: Path = REPO, site: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """The self-test while it runs; it is ended with the test."""
    argv = [sys.executable, "-P", "-m", "mqi_scripts", "mqi-check", "--config", str(site or place.config), "--faults", *words]
    env = {**os.environ, "PYTHONPATH": str(package)}
    run = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield run
    finally:
        if run.poll() is None:
            run.terminate()
            run.communicate(timeout=200)


def ended(run: subprocess.Popen[str]) -> Ran:
    out, err = run.communicate(timeout=550)
    assert "Traceback" not in err, err
    return Ran(run.returncode, out, err)


def sight(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder but the lock file, which stays as those of all scripts do, and the configuration that was checked last."""
    kept = {"run.mqi-check-faults", "config"}
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*")) if p.name not in kept}


def nothing_left(place: Place) -> None:
    """No folder, and no process that has one of them on its command line."""
    for folder in (place.state / "selftest", place.root / "selftest", place.root.with_name(f"{place.root.name}.selftest")):
        assert not folder.exists()
        assert subprocess.run(["pgrep", "-af", f"{folder}/"], capture_output=True, text=True).stdout == ""


def until(true: Callable[[], object], run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sound_site_holds_all_seven_and_a_case_that_runs_meanwhile_is_unharmed(far_place: Place, sshd: Sshd, pueued: Pueued) -> None:
    """Its own key opens only a gate, so the test has another one, in a copy of the configuration, as docs/operations.md says."""
    place, copy = far_place, far_place.folder / "copy.toml"
    text = place.config.read_text().replace('cp "$MQI_INPUT/plan.txt" plan.out', WAIT.format(folder=place.folder))
    place.config.write_text(text.replace('time_limit = "60s"', 'time_limit = "10m"'))
    shutil.copy(place.config, copy)
    close_gate(place, sshd, *gate_options("pueue", pueued))
    place.case("real")
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    deadline = time.monotonic() + 60
    while not place.executions():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    place("mqi-poll")
    before, queue = (sight(place.folder), pueued.state())
    given = set[str]()
    with running(place, "--json", site=copy) as run:
        while run.poll() is None:
            given |= {task["created_at"] for task in pueued.state()["tasks"].values() if f"{place.root}/selftest/bin/" in task["original_command"]}
            time.sleep(0.1)
        ran = ended(run)
    body = json.loads(ran.out)
    validate(body, json.loads((REPO / "schemas" / "faults.schema.json").read_text()))
    record = body["records"][0]
    assert (ran.code, body["exit"], record["verdict"], record["trouble"]) == (0, 0, "held", ""), ran.out
    assert [(fault["name"], fault["verdict"]) for fault in record["faults"]] == [(name, "held") for name in FAULTS]
    assert all(row["as_promised"] for fault in record["faults"] for row in fault["seen"])
    assert record["root"] == f"{place.root}/selftest"
    assert record["versions"]["queue"] == "pueue 4.0.4, pueued 4.0.4"
    assert len(given) == record["tasks"] == 7
    nothing_left(place)
    assert sight(place.folder) == before
    assert pueued.state() == queue
    (place.folder / "go").touch()
    assert place.until("completed")["real"]["attempt"] == 1
    assert len(place.executions()) == 1


BUGS = {"no verify before publish": "cut transfer", "a running process is not asked for": "daemon answers empty"}


def test_a_broken_product_is_found_and_said(pueued: Pueued, tmp_path: Path) -> None:
    """Two of the bench's seeded defects in a copy: the faults that they concern, and no others. Here the queue is on the gateway."""
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB)
    for name in ("mqi_scripts", "schemas"):
        shutil.copytree(REPO / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for bug in tomllib.loads((REPO / "tests" / "bugs.toml").read_text())["bug"]:
        path = tmp_path / "copy" / "mqi_scripts" / bug["file"]
        for old, new in zip(*([bug[key]] if isinstance(bug[key], str) else bug[key] for key in ("old", "new")), strict=True):
            if bug["name"] in BUGS:
                text = path.read_text()
                assert text.count(old) == 1
                path.write_text(text.replace(old, new))
    with running(place, package=tmp_path / "copy") as run:
        ran = ended(run)
    assert ran.code == 1
    lines = ran.out.splitlines()
    verdicts = {name: line.split("  ")[0] for line in lines for name in FAULTS if f" {name} (" in line}
    assert verdicts == {name: "BROKEN" if name in BUGS.values() else "held" for name in FAULTS}, ran.out
    wrong = [line for line in lines if line.startswith("  BROKEN")]
    for sentence in ("executed, by the job's own word: attempt 1: 1, attempt 2: 1", "BROKEN mqi-push ended with 0"):
        assert [line for line in wrong if sentence in line], ran.out
    assert lines[-1] == "verdict: BROKEN"
    nothing_left(place)
    assert pueued.state()["tasks"] == {}


def test_what_a_killed_test_left_goes_with_the_next_which_ctrl_c_ends(far_place: Place, pueued: Pueued) -> None:
    place, scratch = far_place, far_place.root.with_name(f"{far_place.root.name}.selftest")
    with running(place) as run:
        until(lambda: list(scratch.glob("cases/*/attempt-1")), run)
        run.kill()
        run.wait()
    assert scratch.exists()
    assert (place.state / "selftest").exists()
    place.root.mkdir()  # as the site's first push does, so that the next test's root is another one
    with running(place) as run:
        until(lambda: list((place.root / "selftest").glob("cases/*/attempt-1")), run)
        assert not scratch.exists()
        run.send_signal(signal.SIGINT)
        ran = ended(run)
    assert ran.code == 130
    assert "far: nothing of the test is left" in ran.err
    nothing_left(place)
    assert pueued.state()["tasks"] == {}
    assert list(place.root.iterdir()) == []


def test_it_says_before_what_it_would_do_and_does_nothing(far_place: Place, pueued: Pueued) -> None:
    before = sight(far_place.folder)
    ran = far_place("mqi-check", "--faults", "--dry-run")
    assert ran.code == 0
    assert "far: would give 7 tasks that compute nothing to groups of its queue (gpu*), at most two at a time" in ran.out
    assert [name for name in FAULTS if name not in ran.out] == []
    assert sight(far_place.folder) == before
    assert pueued.state()["tasks"] == {}


def test_an_engine_without_a_list_gets_no_empty_one(local_place: Place) -> None:
    ran = local_place("mqi-check", "--faults", "--dry-run")
    assert "would give 6 tasks that compute nothing, at most two at a time" in ran.out
    assert "daemon answers empty" not in ran.out


def test_it_waits_for_no_slot_and_breaks_no_gate(far_place: Place, sshd: Sshd, pueued: Pueued) -> None:
    for group in ("gpu0", "gpu1"):
        pueued.client("add", "-g", group, "--", "sleep 60")
    deadline = time.monotonic() + 30
    while any("Running" not in task["status"] for task in pueued.state()["tasks"].values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue = pueued.state()
    ran = far_place("mqi-check", "--faults")
    assert ran.code == 1
    assert "trouble: no slot of far is free, and the test waits for none: run it when one is" in ran.out
    assert "verdict: not tried" in ran.out
    close_gate(far_place, sshd, *gate_options("pueue", pueued))
    ran = far_place("mqi-check", "--faults")
    assert ran.code == 1
    assert f"trouble: our key there opens only the gate to {far_place.root}" in ran.out
    assert "Make a key for the test (ssh-keygen), add it to authorized_keys there without a gate" in ran.out
    nothing_left(far_place)
    assert pueued.state() == queue


def test_whatever_keeps_it_from_being_made_is_said_and_ends_with_1(far_place: Place) -> None:
    ran = far_place("mqi-check", "--faults", "--host", "near")
    assert ran.code == 1
    assert "no host 'near'" in ran.err
    text = far_place.config.read_text()
    far_place.config.write_text(text.replace("\nport = ", "\nport = 1 #"))
    ran = far_place("mqi-check", "--faults")
    assert ran.code == 1
    assert "trouble: far (" in ran.out
    assert "refused the connection" in ran.out
    nothing_left(far_place)


def test_the_line_imports_nothing_of_it() -> None:
    assert not [path for name in SIX for path in needed(name) if PACKAGE / "selftest" in path.parents]
