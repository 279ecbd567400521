"""mqi-clean: what goes from a compute host and what never does; a retry afterwards; killed anywhere, it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import JOB, REPO, Place, Pueued, Ran, Sshd, close_gate, gate_options, host_text
from jsonschema import validate

from mqi_scripts import words as w
from mqi_scripts.pure import codec, rest
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.telling import room

NOW = "2026-11-24T08:00:00.000Z"
MONTH = 30 * 86400.0


def at_once(place: Place) -> Place:
    """What is at rest may go at once."""
    place.config.write_text(place.config.read_text().replace("[hosts.far]\n", '[hosts.far]\nkeep = "0s"\n'))
    return place


def events(place: Place, kind: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, place.ledger().splitlines()) if record["type"] == kind]


def inputs(place: Place) -> list[Path]:
    return sorted(path for path in place.root.glob("cases/*/input-*") if path.is_dir())


def kept(place: Place) -> dict[str, bytes]:
    """All that is below the cases but inputs and outputs."""
    files = (path for path in (place.root / "cases").rglob("*") if path.is_file() and path.name != "ledger")
    return {str(path): path.read_bytes() for path in files if not {p.split("-")[0] for p in path.parts} & {"output"} and path.parent not in inputs(place) and not any(i in path.parents for i in inputs(place))}


def tasks(pueued: Pueued) -> dict[str, str]:
    """Labels of the queue's tasks by id."""
    return {number: task["label"] or "" for number, task in pueued.state()["tasks"].items()}


@pytest.fixture
def place(local_place: Place) -> Place:
    return at_once(local_place)


def quiet(place: Place) -> None:
    """Wait for the wrapper's timer, which outlives it by up to a second: while it is there, its group lives."""
    until = time.monotonic() + 20
    while time.monotonic() < until and any(map(partial(is_in, str(place.root)), filter(str.isdigit, os.listdir("/proc")))):
        time.sleep(0.05)


def is_in(folder: str, pid: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(folder)
    except OSError:
        return False


def clean(place: Place, *words: str) -> Ran:
    quiet(place)
    return place("mqi-clean", *words)


# --- which cases: over values


BORN = w.Case("k" * 20, "p", w.COMPLETED, "2026-09-01T08:00:00.000Z", "2026-09-01T07:00:00.000Z", "d" * 64, 3, 9, "far", "g", "7", 1)
KEPT = {
    "": [{}, {"status": w.CANCELLED}, {"status": w.FAILED}, {"status": w.FAILED, "manifest": "m", "salvaged": True}, {"gone": True}, {"stale": "x"}],
    "no host has anything of it": [{"host": ""}, {"cleaned": True}],
    "it is not at rest": [*({"status": status} for status in (w.HELD, w.FOUND, w.PUSHED, w.SUBMITTED, w.RUNNING, w.COMPUTED)), {"open": True}],
    "not here yet: mqi-fetch brings it": [{"status": w.FAILED, "manifest": "m"}],
    "the last copy of its input": [{"status": w.FAILED, "gone": True}, {"status": w.CANCELLED, "gone": True}],
    "hosts.far.keep is 30 d": [{"since": "2026-11-01T08:00:00.000Z"}, {"since": NOW}, {"since": "2026-12-24T08:00:00.000Z"}],
}  # fmt: skip


@pytest.mark.parametrize(("why", "change"), [(why, change) for why, changes in KEPT.items() for change in changes])
def test_only_what_is_at_rest_and_old_goes(why: str, change: dict[str, Any]) -> None:
    said = rest.why_kept(BORN._replace(**change), MONTH, NOW)
    assert said.endswith(why)
    assert bool(said) == bool(why)


# --- what goes, and what stays


@pytest.mark.parametrize("how", ["ssh", "gate", "local"])
def test_input_output_and_tasks_go_and_all_else_stays(how: str, tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    text = host_text("local" if how == "local" else "ssh", "pueue", "scp", sshd, pueued)
    place = at_once(Place(tmp_path / "site", text, 'cp "$MQI_INPUT/plan.txt" plan.out; mkdir -p raw; head -c 300000 /dev/zero >raw/dump; chmod -w raw'))
    if how == "gate":
        close_gate(place, sshd, *gate_options("pueue", pueued))
    for name in "ab":
        place.case(name)
    place.until("completed")
    stranger = pueued.client("add", "-p", "-g", "gpu0", "--label=mqi1:of:another", "--", "true").strip()
    waits = pueued.client("add", "-p", "-g", "gpu0", "-s", "--", "true").strip()
    ours = {number for number, label in tasks(pueued).items() if label.startswith("mqi1:") and number != stranger}
    assert len(ours) == 2
    before, results = kept(place), {path: path.read_bytes() for path in place.results.rglob("*") if path.is_file()}
    dry = clean(place, "--dry-run")
    assert dry.code == 0
    assert dry.out.count("would record: ") == 2
    assert "far: 0.6 MB of 2 cases would be removed" in dry.err or "far: 0.7 MB of 2 cases would be removed" in dry.err
    assert len(inputs(place)) == 2
    assert set(tasks(pueued)) == {*ours, stranger, waits}
    assert not events(place, "cleaned")
    sessions = sshd.sessions()
    ran = clean(place, "--jsonl")
    assert (ran.code, ran.out.count('"type": "cleaned"')) == (0, 2)
    assert how == "local" or sshd.sessions() - sessions == 2
    assert not inputs(place)
    assert not list(place.root.glob("cases/*/attempt-*/output"))
    assert not list(place.root.rglob("*.old-*"))
    assert kept(place) == before
    assert {path: path.read_bytes() for path in place.results.rglob("*") if path.is_file()} == results
    assert set(tasks(pueued)) == {stranger, waits}
    assert all(event["bytes"] > 300_000 for event in events(place, "cleaned"))
    ledger = place.ledger()
    again = clean(place)
    assert (again.code, again.out) == (0, "")
    place.tick()
    assert place.ledger() == ledger
    assert {row["status"] for row in place.rows().values()} == {"completed"}


def test_the_queue_s_highest_id_is_never_given_again(tmp_path: Path, pueued: Pueued) -> None:
    place = at_once(Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB))
    for name in "ab":
        place.case(name)
    place.until("completed")
    before = sorted(map(int, tasks(pueued)))
    clean(place)
    assert sorted(map(int, tasks(pueued))) == before[-1:]
    assert int(pueued.client("add", "-p", "-g", "gpu0", "--", "true")) == before[-1] + 1


def test_a_label_that_only_looks_like_ours_is_not_removed(tmp_path: Path, pueued: Pueued) -> None:
    place = at_once(Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB))
    place.case("a")
    place.until("completed")
    own = next(label for label in tasks(pueued).values() if label)
    near = [f"{own}0", f"{own} ", own.upper(), f"x{own}", own[:-1], f'x","label":"{own}', f"{own}\n", own.replace(":1", ":2")]
    for label in near:
        pueued.client("add", "-g", "gpu0", f"--label={label}", "--", "true")
    clean(place)
    assert sorted(tasks(pueued).values()) == sorted(near)


def test_two_gateways_clean_only_their_own(tmp_path: Path, pueued: Pueued) -> None:
    places = [at_once(Place(tmp_path / name, host_text("local", "pueue", "scp", None, pueued), JOB)) for name in ("one", "two")]
    for place in places:
        place.case("a")
    for place in places:
        place.until("completed")
    pueued.client("add", "-g", "gpu0", "--", "true")
    labels = {label for label in tasks(pueued).values() if label}
    assert len(labels) == 2
    clean(places[0])
    key = inputs(places[1])[0].parent.name
    assert not inputs(places[0])
    assert {label for label in tasks(pueued).values() if label} == {f"mqi1:{key}:1"}
    text = places[0].config.read_text()
    places[0].config.write_text(text.replace(f'root = "{places[0].root}"', f'root = "{places[1].root}"'))
    places[0].case("b")
    clean(places[0])
    assert inputs(places[1])


def test_a_case_that_runs_and_one_whose_results_are_not_as_recorded_stay(tmp_path: Path, pueued: Pueued) -> None:
    job = 'cp "$MQI_INPUT/plan.txt" plan.out; while grep -q slow plan.out && [ ! -e ' + f"{tmp_path}/go" + " ]; do sleep 0.1; done"
    place = at_once(Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), job))
    for name in ("good", "bad", "lost"):
        place.case(name)
    place.until("completed")
    place.case("slow", "slow\n")
    for _ in range(50):
        place.tick()
        if place.rows()["slow"]["status"] == "running":
            break
    (place.results / "bad" / "plan.out").write_text("PLAN of bad\n")
    (place.results / "lost" / "mqi-result.json").unlink()
    ran = place("mqi-clean")
    assert ran.code == 1
    assert ran.err.count("is kept on far: ") == 2
    assert "plan.out: its bytes are not those that were verified" in ran.err
    assert len(inputs(place)) == 3
    assert len(list(place.root.glob("cases/*/attempt-1/output"))) == 3
    slow = place("mqi-clean", "slow")
    assert (slow.code, "is running, it is not at rest" in slow.err) == (0, True)
    (tmp_path / "go").touch()
    assert place.until("completed")["slow"]["attempt"] == 1


def test_names_that_a_job_made_are_never_taken_apart(tmp_path: Path) -> None:
    """Beside its output, where a job has no business, blanks in names would make words, and words would be deleted."""
    job = f'''{JOB}; mkdir -p "../x CANARY y.old-1/d" "../../z CANARY/input-{"a" * 64}" "../../attempt-0 CANARY/output.old-1" "../x.old-1/d"'''
    place = at_once(Place(tmp_path / "site", host_text("local", "direct", "tar", None, None), job))
    place.case("p")
    place.until("completed")
    home = tmp_path / "cwd"
    for name in ("CANARY", "y.old-1", "CANARY/output.old-1", f"CANARY/input-{'a' * 64}", "2"):
        (home / name).mkdir(parents=True, exist_ok=True)
    before = sorted(home.rglob("*"))
    quiet(place)
    (next(place.root.glob("cases/*/attempt-0 CANARY"))).rename(next(place.root.glob("cases/*")) / "other CANARY")  # else nothing is done
    ran = subprocess.run(place.argv("mqi-clean"), cwd=home, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert sorted(home.rglob("*")) == before
    assert not inputs(place)
    assert {path.name for path in place.root.glob("cases/*/attempt-1/*CANARY*")} == {"x CANARY y.old-1"}
    assert not list(place.root.glob("cases/*/attempt-1/x.old-1"))


# --- the far side checks it all again, whatever the gateway says


def revoke(attempt: Path) -> None:
    (attempt / "claim").rmdir()
    (attempt / "claim").symlink_to("revoked")


ODD: dict[str, tuple[Callable[[Path], object], bool]] = {
    "as it is": (lambda attempt: None, True),
    "revoked": (revoke, True),
    "an attempt that the ledger does not know": (lambda attempt: (attempt.parent / "attempt-2" / "claim").mkdir(parents=True), False),
    "an attempt that could start": (lambda attempt: (attempt / "claim").rmdir(), False),
    "a strange claim": (lambda attempt: (revoke(attempt), (attempt / "claim").unlink(), (attempt / "claim").symlink_to("/etc")), False),
    "a name that is no attempt": (lambda attempt: (attempt.parent / "attempt-x y9").mkdir(), False),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_the_far_side_sees_decides(name: str, place: Place) -> None:
    change, goes = ODD[name]
    place.case("a")
    place.until("completed")
    attempt = next(place.root.glob("cases/*/attempt-1"))
    change(attempt)
    ran = clean(place)
    assert (not inputs(place), not (attempt / "output").exists(), len(events(place, "cleaned"))) == (goes, goes, int(goes))
    assert ("is kept on far: an attempt of it lives there, could start" in ran.err) != goes


def test_a_case_whose_lock_is_held_or_whose_group_lives_stays(place: Place) -> None:
    place.case("a")
    place.until("completed")
    attempt = next(place.root.glob("cases/*/attempt-1"))
    holder = subprocess.Popen(["flock", str(attempt.parent / "lock"), "sleep", "600"])
    while subprocess.run(["flock", "-n", str(attempt.parent / "lock"), "true"]).returncode == 0:
        time.sleep(0.02)
    clean(place)
    assert inputs(place)
    for pid in reversed(children(holder.pid)):
        os.kill(pid, signal.SIGKILL)
    holder.wait(10)
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    words = (attempt / "status").read_text().split(" ")
    words[1:3] = [str(other.pid), "-"]
    (attempt / "status").write_text(" ".join(words))
    clean(place)
    assert inputs(place)
    other.kill()
    other.wait(10)
    clean(place)
    assert not inputs(place)


def test_a_host_that_left_the_configuration_troubles_nobody(place: Place) -> None:
    place.case("p")
    place.until("completed")
    place.config.write_text(place.config.read_text().replace("[hosts.far", "[hosts.near").replace(f'root = "{place.root}"', f'root = "{place.root}2"'))
    ran = clean(place)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert "hosts.far left the configuration" in clean(place, "p").err
    assert inputs(place)


def test_a_silent_queue_keeps_everything(tmp_path: Path, pueued: Pueued) -> None:
    place = at_once(Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB))
    place.case("a")
    place.until("completed")
    pueued.signal(signal.SIGKILL)
    ran = clean(place)
    assert "is kept on far: " in ran.err
    assert inputs(place)
    assert not events(place, "cleaned")


# --- after it


def test_a_retry_after_cleaning_copies_the_input_again(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = at_once(Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), f"[ -e {tmp_path}/good ] || exit 3\n{JOB}"))
    for name in "pqr":
        place.case(name)
    place.until("failed")
    (tmp_path / "good").touch()
    place("mqi-case", "retry", "q", "--reason", "completed before it is cleaned")
    place.until("completed", "failed")
    place("mqi-case", "cancel", "r", "--reason", "not needed")
    assert clean(place).code == 0
    assert not inputs(place)
    shown = place("mqi-case", "show", "p").out
    assert "its input and output are not on far any more" in shown
    ran = place("mqi-case", "retry", "p", "q", "r", "--reason", "once more")
    assert ran.code == 0
    assert "p is found; next: mqi-push copies it" in ran.err.replace(place.rows()["p"]["case_id"], "p")
    rows = place.until("completed")
    assert {name: row["attempt"] for name, row in rows.items()} == {"p": 2, "q": 3, "r": 2}
    assert place("mqi-case", "verify", "--all").code == 0
    assert len(inputs(place)) == 3
    clean(place)
    assert not inputs(place)
    assert place("mqi-ledger", "verify").code == 0


def test_an_input_that_vanished_from_its_host_is_pushed_again(tmp_path: Path, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB)
    place.case("p")
    for program in ("mqi-scan", "mqi-push"):
        place(program)
    subprocess.run(["rm", "-rf", str(inputs(place)[0])], check=True)
    rows = place.until("completed")
    assert rows["p"]["attempt"] == 2
    assert (len(events(place, "pushed")), len(events(place, "cleaned")), len(events(place, "revoked"))) == (2, 1, 1)
    assert [line.split()[1] for line in place.executions()] == ["2"]


def test_without_its_folder_a_cleaned_case_says_what_helps(place: Place) -> None:
    folder = place.case("p")
    place.until("completed")
    clean(place)
    away = place.folder / "away"
    folder.rename(away)
    place.case("q")
    place("mqi-scan")
    place("mqi-case", "retry", "p", "--reason", "again")
    ran = place("mqi-case", "explain", "p")
    assert "put its folder back into the inbox" in ran.out
    away.rename(folder)
    assert place.until("completed")["p"]["attempt"] == 2


def test_a_failed_case_whose_folder_is_gone_keeps_its_input(place: Place) -> None:
    place.config.write_text(place.config.read_text().replace(JOB, "exit 3"))
    folder = place.case("p")
    place.until("failed")
    folder.rename(place.folder / "away")
    place.case("q")
    place.until("failed")
    clean(place)
    assert len(inputs(place)) == 1
    place.config.write_text(place.config.read_text().replace("exit 3", JOB))
    place("mqi-case", "retry", "p", "q", "--reason", "again")
    assert {row["attempt"] for row in place.until("completed").values()} == {2}


# --- killed anywhere


def test_killed_again_and_again_it_leaves_nothing_half(place: Place) -> None:
    """The whole tree of processes, the far side's too, at ever later moments. An input is whole or not there, and the line goes on."""
    for number in range(6):
        place.case(f"k{number}")
    place.until("completed")
    env, cut = {**os.environ, "PYTHONPATH": str(REPO)}, 0
    for step in range(40):
        child = subprocess.Popen(place.argv("mqi-clean"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while step % 2 and not list(place.root.rglob("*.old-*")) and child.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(step * 0.002 if step % 2 else step * 0.02)
        for pid in children(child.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        cut += child.wait(10) < 0
        for path in inputs(place):
            names = sorted(p.name for p in path.rglob("*") if p.is_file())
            assert ".old-" in path.name or names == ["log.bin", "plan.txt"]
        if child.returncode == 0:
            break
    assert cut > 2
    assert place("mqi-case", "retry", "k1", "k2", "--reason", "between").code == 0
    rows = place.until("completed")
    assert {name for name, row in rows.items() if row["attempt"] == 2} == {"k1", "k2"}
    assert clean(place).code == 0
    assert not inputs(place)
    assert not list(place.root.rglob("*.old-*"))
    assert not list(place.root.glob("cases/*/attempt-*/output"))
    assert place("mqi-ledger", "verify").code == 0
    assert {row["status"] for row in place.rows().values()} == {"completed"}


def children(pid: int) -> list[int]:
    """It and all below it."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        below = []
    return [pid, *(one for child in below for one in children(int(child)))]


# --- what was left by runs that were cut off


def test_old_staging_and_what_is_nobody_s_on_the_gateway_goes(place: Place) -> None:
    place.case("p")
    place.until("completed")
    staging = place.root / "staging"
    old, new = staging / f"{'a' * 20}-{'b' * 64}", staging / f"{'c' * 20}-{'d' * 64}"
    for one in (old, new):
        (one / "files").mkdir(parents=True)
        (one / "files" / "x").write_bytes(b"x" * 200_000)
    os.utime(old, (1e9, 1e9))
    (place.state / "outbox" / "far" / "x").mkdir(parents=True)
    leftover, fresh = place.state / "cache" / "fold.77.new", place.state / "cache" / "scan.78.new"
    for one in (leftover, fresh):
        one.write_text("{")
    os.utime(leftover, (1e9, 1e9))
    dry = clean(place, "--dry-run")
    assert "0.2 MB that were staged, or put aside" in dry.err
    assert f"{leftover}: would be removed" in dry.err
    assert old.exists()
    assert clean(place).code == 0
    assert (old.exists(), new.exists(), leftover.exists(), fresh.exists()) == (False, True, False, True)
    assert not list((place.state / "outbox").iterdir())


def test_the_ledger_s_story_of_a_cleaned_case_can_be_told() -> None:
    case = evolve(BORN, w.Cleaned(BORN.key, NOW, 1, "far", 5))
    assert (case.cleaned, case.status, case.host) == (True, w.COMPLETED, "far")
    for other in (w.Cleaned(BORN.key, NOW, 1, "far", 5), w.Cleaned(BORN.key, NOW, 2, "far", 5)):
        with pytest.raises(w.Illegal):
            evolve(case, other)
    with pytest.raises(w.Illegal):
        evolve(BORN, w.Cleaned(BORN.key, NOW, 1, "near", 5))
    assert codec.from_dict(codec.to_dict(w.Cleaned(BORN.key, NOW, 1, "far", 5))) == w.Cleaned(BORN.key, NOW, 1, "far", 5)


# --- room


def test_below_the_reserve_of_a_host_nothing_new_is_pushed_and_what_is_there_goes_on(place: Place) -> None:
    place.case("p")
    for program in ("mqi-scan", "mqi-push"):
        place(program)
    text = place.config.read_text()
    place.config.write_text(re.sub(r"(\[hosts.far\](?:\n.*)*?\nreserve = )\d+", rf"\g<1>{10**18}", text))
    place.case("q")
    rows = place.until("completed", "found")
    assert (rows["p"]["status"], rows["q"]["status"], rows["q"]["category"]) == ("completed", "found", "system")
    ran = place("mqi-push")
    assert ran.code == 74
    assert "hosts.far.reserve keeps 1000000000.00: make room" in ran.err
    told = place("mqi-case", "explain", "q")
    assert "no room for " in told.out
    assert f"helps    df -h {place.root}   # on far" in told.out
    report = place("mqi-report")
    assert report.code == 1
    assert re.search(r"^room, far: [0-9.]+ GB free, and hosts.far.reserve keeps 1000000000.0 GB: nothing new is pushed there \(seen \d+ s ago\)$", report.out, re.M)
    assert "room, far" in place("mqi-report", "--needs-me", "--redact").out
    place.config.write_text(text)
    assert place.until("completed")["q"]["attempt"] == 1
    assert place("mqi-report").code == 0


def test_below_the_reserve_here_no_results_are_brought(place: Place) -> None:
    place.case("p")
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    text = place.config.read_text()
    place.config.write_text(text.replace("[site]\n", f"[site]\nreserve = {10**18}\n").replace(f"reserve = {64 << 20}\n[scan]", "[scan]"))
    rows = place.until("computed")
    assert rows["p"]["reason"].startswith(f"{place.state}: no room for results: ")
    assert rows["p"]["category"] == "system"
    assert not (place.results / "p").exists()
    body = json.loads(place("mqi-report", "--json").out)
    validate(body, json.loads((REPO / "schemas" / "report.schema.json").read_text()))
    assert {one["where"]: (one["key"], one["free"] < one["reserve"]) for one in body["room"]} == {
        "state": ("site.reserve", True), "far": ("hosts.far.reserve", False)}  # fmt: skip
    assert next(one for one in body["room"] if one["where"] == "far")["bytes_a_day"] == sum(p.stat().st_size for p in (place.inbox / "p").rglob("*") if p.is_file())
    place.config.write_text(text)
    place.until("completed")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], 0), ([(0, 100)], 100), ([(0.5, 100), (0.1, 50)], 150), ([(10, 100)], 10), ([(10, 100), (1, 100)], 20),
        ([(100, 10**9), (27, 280)], 10), ([(29, 10**9), (28, 28), (1, 28)], 2), ([(-1, 100)], 100),
    ],
)  # fmt: skip
def test_the_rate_is_of_the_last_four_weeks_or_since_the_first_case(found: list[tuple[float, int]], expected: int) -> None:
    now = datetime.fromisoformat(NOW)
    cases = [BORN._replace(found=codec.stamp(now - timedelta(days=age)), bytes=size) for age, size in found]
    assert room.rate(cases, NOW) == expected


@pytest.mark.parametrize(("free", "reserve", "a_day", "days"), [(100, 40, 20, 3), (100, 40, 61, 0), (40, 40, 1, 0), (39, 40, 1, 0), (100, 40, 0, -1)])
def test_the_forecast_counts_down_to_the_reserve(free: int, reserve: int, a_day: int, days: int) -> None:
    one = room.room("far", free, reserve, "hosts.far.reserve", NOW, a_day)
    assert (one.days, room.is_full(one)) == (days, free < reserve)
    assert ("nothing new is pushed" in room.told(one, NOW)) == (free < reserve)


def test_of_several_notes_the_newest_tells_the_room_of_a_host() -> None:
    older, newer = "2026-11-24T07:00:00.000Z", "2026-11-24T07:30:00.000Z"
    notes = [{"room far": [5, newer]}, {"room far": [9, older]}, {}]
    assert [(one.where, one.free, one.at) for one in room.of_hosts(notes, {"far": 1, "new": 1}, 0)] == [("far", 5, newer)]
