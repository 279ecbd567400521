"""What a person decides, over real parts: cancel, retry, hold, release, note; and why a case does not move, in sentences."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, Place, Pueued, Sshd, alive, host_text

from mqi_scripts import words as w
from mqi_scripts.checks import compute
from mqi_scripts.pure import explain, looked, tables, wish

NOW = "2026-11-24T03:00:00.000Z"
STUBBORN = 'trap "" TERM; while :; do sleep 0.1; done'
BECAUSE = ("--reason", "wrong plan")


def site(folder: Path, sshd: Sshd, pueued: Pueued, job: str) -> Place:
    return Place(folder / "site", host_text("ssh", "pueue", "scp", sshd, pueued), job)


def submitted(place: Place, *names: str) -> None:
    for name in names:
        place.case(name)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        assert place(program).code == 0


def running(place: Place, *names: str) -> list[int]:
    """Cases whose jobs run, and the leaders of their groups."""
    submitted(place, *names)
    deadline = time.monotonic() + 60
    while len(place.executions()) < len(names) or len(list(place.root.glob("cases/*/attempt-*/status"))) < len(names):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert place("mqi-poll").code == 0
    return [int(path.read_text().split(" ")[1]) for path in place.root.glob("cases/*/attempt-*/status")]


def fill(pueued: Pueued) -> None:
    """Somebody else's tasks in every slot."""
    for group in ("gpu0", "gpu1"):
        pueued.client("add", "-g", group, "--label", "theirs", "--", "sleep 600")


def status(place: Place, name: str = "ma") -> str:
    return str(place.rows()[name]["status"])


# --- cancel


@pytest.mark.parametrize("steps", [["mqi-scan"], ["mqi-scan", "mqi-push"]])
def test_what_was_not_submitted_is_cancelled_at_once_and_stays_so(steps: list[str], local_place: Place) -> None:
    place = local_place
    place.case("ma")
    for program in steps:
        place(program)
    ran = place("mqi-case", "cancel", "ma", *BECAUSE)
    assert ran.code == 0, ran.err
    assert "asked to cancel it: wrong plan; it is cancelled" in ran.out
    row = place.rows()["ma"]
    assert row["status"] == "cancelled"
    assert row["reason"].endswith(": wrong plan")
    place.tick()
    assert (status(place), place.executions()) == ("cancelled", [])
    again = place("mqi-case", "cancel", "ma", *BECAUSE)
    assert (again.code, "cancelled by" in again.err) == (2, True)


def test_a_held_and_a_failed_case_can_be_put_aside_for_good(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), "exit 3")
    place.case("ma")
    place.until("failed")
    (place.case("mb") / "link").symlink_to("plan.txt")
    place("mqi-scan")
    assert {status(place, "ma"), status(place, "mb")} == {"failed", "held"}
    assert place("mqi-case", "cancel", "ma", "mb", *BECAUSE).code == 0
    assert {status(place, "ma"), status(place, "mb")} == {"cancelled"}
    assert place("mqi-report").code == 0
    assert place("mqi-case", "retry", "mb", "--reason", "mended").code == 0
    assert "the next mqi-scan reads its folder again" in place.rows()["mb"]["next"]
    place("mqi-scan")
    assert "is a symlink" in place.rows()["mb"]["reason"]


def test_a_waiting_attempt_is_taken_out_of_the_queue_and_nothing_else_is(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, "true")
    fill(pueued)
    submitted(place, "ma", "mb")
    ran = place("mqi-case", "cancel", "ma", *BECAUSE)
    assert (ran.code, status(place)) == (0, "submitted")
    assert "next: mqi-submit takes it back" in ran.err
    assert "asked to cancel it: wrong plan" in place.rows()["ma"]["reason"]
    assert place("mqi-poll").code == 0
    assert status(place) == "submitted"
    key = place.rows()["ma"]["case_id"]
    done = place("mqi-submit")
    assert (done.code, status(place), status(place, "mb")) == (0, "cancelled", "submitted")
    assert "it can never start; it is cancelled" in done.out
    labels = [task["label"] for task in pueued.state()["tasks"].values()]
    assert sorted(label[:5] for label in labels) == ["mqi1:", "their", "their"]
    assert key not in "".join(labels)
    assert os.readlink(next(place.root.glob(f"cases/{key}*/attempt-1")) / "claim") == "revoked"
    assert place.executions() == []


def test_a_running_job_that_ignores_term_is_killed_and_then_it_is_cancelled(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, STUBBORN)
    (leader,) = running(place, "ma")
    ran = place("mqi-case", "cancel", "ma", *BECAUSE)
    assert (ran.code, status(place)) == (0, "running")
    assert alive(leader)
    assert "mqi-poll ends its job until it is seen gone" in place("mqi-case", "explain", "ma").out
    dry = place("mqi-poll", "--dry-run")
    assert "would end 1 jobs: cancelled" in dry.err
    assert alive(leader)
    done = place("mqi-poll")
    assert done.code == 0, done.err
    assert "attempt 1 was cancelled, its job is gone" in done.out
    assert (status(place), alive(leader)) == ("cancelled", [])
    assert next(place.root.glob("cases/*/attempt-1/ending")).read_text() == "cancelled\n"
    place.tick()
    assert (status(place), len(place.executions())) == ("cancelled", 1)


def test_a_result_that_a_cancelled_job_writes_on_term_does_not_count_and_one_from_before_does(tmp_path: Path) -> None:
    job = 'trap "exit 0" TERM; cp "$MQI_INPUT/plan.txt" plan.out; while [ ! -e ../../../../go ]; do sleep 0.1; done'
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), job)
    running(place, "ma")
    place("mqi-case", "cancel", "ma", *BECAUSE)
    place("mqi-poll")
    assert (status(place), (place.results / "ma").exists()) == ("cancelled", False)
    running(place, "mb")
    (place.root / "go").touch()
    while not list(place.root.glob(f"cases/{place.rows()['mb']['case_id']}*/attempt-1/result")):
        time.sleep(0.05)
    place("mqi-case", "cancel", "mb", *BECAUSE)
    assert "computed" in place("mqi-poll").out
    place("mqi-fetch")
    assert status(place, "mb") == "completed"


def test_a_cancel_needs_no_queue(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, STUBBORN)
    pueued.client("add", "-g", "gpu1", "--", "sleep 600")
    (leader,) = running(place, "ma")
    submitted(place, "mb")
    pueued.signal(signal.SIGKILL)
    place("mqi-case", "cancel", "ma", "mb", *BECAUSE)
    assert place("mqi-submit").code == 69
    assert place("mqi-poll").code == 69
    assert (status(place), status(place, "mb"), alive(leader)) == ("cancelled", "cancelled", [])
    pueued.start()
    for group in ("gpu0", "gpu1"):
        pueued.client("start", "-g", group)
    time.sleep(1)
    place.tick()
    assert {row["status"] for row in place.rows().values()} == {"cancelled"}
    assert len(place.executions()) == 1


def test_a_cancel_waits_for_a_host_that_is_down_and_says_so(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, STUBBORN)
    (leader,) = running(place, "ma")
    text = place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", "port = 1"))
    assert place("mqi-case", "cancel", "ma", *BECAUSE).code == 0
    before = place.ledger()
    assert place("mqi-poll").code == 69
    assert (place.ledger(), status(place)) == (before, "running")
    seen = place("mqi-case", "explain", "ma", "--look")
    assert "it refused the connection: start sshd there" in seen.out
    assert "asked to cancel it: wrong plan" in seen.out
    place.config.write_text(text)
    assert alive(leader)
    place("mqi-poll")
    assert (status(place), alive(leader)) == ("cancelled", [])


def test_a_job_whose_wrapper_was_killed_is_cancelled_all_the_same(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, STUBBORN)
    (leader,) = running(place, "ma")
    os.kill(leader, signal.SIGKILL)
    place("mqi-poll")
    assert (status(place), bool(alive(leader))) == ("running", True)
    place("mqi-case", "cancel", "ma", *BECAUSE)
    place("mqi-poll")
    assert (status(place), alive(leader)) == ("cancelled", [])


def test_a_running_case_whose_folder_vanished_on_the_host_waits_for_it_or_for_a_person(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """A lost mount comes back, and the case goes on; what is gone for good a person gives up, and the next attempt is another one."""
    place = site(tmp_path, sshd, pueued, STUBBORN)
    (leader,) = running(place, "ma")
    os.kill(leader, signal.SIGKILL)  # its wrapper: the job lives on, and the queue forgets it
    deadline = time.monotonic() + 60
    while "mqi1:" in pueued.client("status", "--json"):
        assert time.monotonic() < deadline
        pueued.client("clean")
    (place.root / "cases").rename(place.root / "away")
    (place.root / "cases").mkdir()
    for name in ("mqi-poll", "mqi-submit") * 2:
        place(name)
    assert status(place) == "running"
    shown = place("mqi-case", "explain", "ma")
    assert shown.code == 1
    assert "of attempt 1 is not there any more: a lost mount?" in shown.out
    assert "mqi-case cancel" in shown.out
    assert "ma" in place("mqi-report", "--needs-me").out
    (place.root / "cases").rmdir()
    (place.root / "away").rename(place.root / "cases")
    for name in ("mqi-poll", "mqi-submit") * 2:
        place(name)
    assert (status(place), place("mqi-case", "explain", "ma").code) == ("running", 0)
    os.killpg(leader, signal.SIGKILL)
    shutil.rmtree(next(place.root.glob("cases/*/attempt-1")))
    for name in ("mqi-poll", "mqi-submit") * 2:
        place(name)
    assert status(place) == "running"
    assert place("mqi-case", "cancel", "ma", *BECAUSE).code == 0
    place("mqi-submit")
    assert status(place) == "cancelled"
    assert place("mqi-case", "retry", "ma", *BECAUSE).code == 0
    place("mqi-scan")
    place("mqi-push")
    place("mqi-submit")
    deadline = time.monotonic() + 60
    while status(place) != "running":
        assert time.monotonic() < deadline
        place("mqi-poll")
    assert place.rows()["ma"]["attempt"] == 2
    place("mqi-case", "cancel", "ma", *BECAUSE)
    place("mqi-poll")
    assert status(place) == "cancelled"


def test_a_cancel_can_be_taken_back_while_it_is_not_done(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, 'cp "$MQI_INPUT/plan.txt" plan.out')
    fill(pueued)
    submitted(place, "ma")
    place("mqi-case", "cancel", "ma", *BECAUSE)
    assert place("mqi-case", "release", "ma", "--reason", "it was the right one").code == 0
    place("mqi-submit")
    assert status(place) == "submitted"
    pueued.client("kill", "--signal", "sigkill", "0", "1")
    assert place.until("completed")["ma"]["attempt"] == 1


# --- retry


def test_failed_cases_are_retried_through_one_pipe(tmp_path: Path) -> None:
    job = 'cp "$MQI_INPUT/plan.txt" plan.out; [ "$MQI_ATTEMPT" -gt 1 ]'
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), job)
    for name in ("ma", "mb", "mc"):
        place.case(name)
    place.until("failed")
    config = shlex.quote(str(place.config))
    mqi = f"{shlex.quote(sys.executable)} -m mqi_scripts"
    line = f'{mqi} mqi-report --config {config} --status failed --jsonl | {mqi} mqi-case --config {config} retry - --reason "$1"'
    ran = subprocess.run(["/bin/sh", "-c", line, "sh", "node was down; $(touch x)"], env={**os.environ, "PYTHONPATH": str(REPO)},
                         cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("wants a new attempt: node was down; $(touch x)") == 3
    assert not (tmp_path / "x").exists()
    assert {row["status"] for row in place.rows().values()} == {"pushed"}
    rows = place.until("completed")
    assert {row["attempt"] for row in rows.values()} == {2}
    record = json.loads((place.results / "ma" / "mqi-result.json").read_text())
    assert record["decisions"][0]["what"] == "retried: node was down; $(touch x)"


def test_a_completed_case_is_computed_anew_with_what_is_there_now(local_place: Place) -> None:
    place = local_place
    folder = place.case("ma")
    place.until("completed")
    (folder / "plan.txt").write_text("another plan\n")
    for _ in range(2):  # seen, then settled
        place("mqi-scan")
    assert "since " in place.rows()["ma"]["stale"]
    assert place("mqi-case", "retry", "ma", "--reason", "new data").code == 0
    row = place.until("completed")["ma"]
    assert (row["attempt"], row["stale"]) == (2, False)
    assert (place.results / "ma" / "plan.out").read_text() == "another plan\n"
    assert [path.name for path in place.results.glob("ma.superseded-*/plan.out")] == ["plan.out"]


def test_a_case_whose_attempt_may_still_run_gets_no_second_one(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, STUBBORN)
    running(place, "ma")
    before = place.ledger()
    ran = place("mqi-case", "retry", "ma", "--reason", "impatient")
    assert (ran.code, place.ledger()) == (2, before)
    assert "attempt 1 may still run or start on far: mqi-case cancel" in ran.err
    gone = place("mqi-case", "retry", "ma", "--reason", "impatient", "--host-is-gone")
    assert (gone.code, place.ledger()) == (2, before)
    assert "far answers, it is not gone" in gone.err
    place("mqi-case", "cancel", "ma", "--reason", "slow")
    place("mqi-poll")
    place.config.write_text(place.config.read_text().replace(STUBBORN, 'cp "$MQI_INPUT/plan.txt" plan.out'))
    assert place("mqi-case", "retry", "ma", "--reason", "faster now").code == 0
    assert place.until("completed")["ma"]["attempt"] == 2


def test_a_host_that_never_answers_again_is_left_behind_and_the_record_says_so(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, STUBBORN)
    running(place, "ma")
    text = place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", "port = 1"))
    assert place("mqi-case", "retry", "ma", "--reason", "x").code == 2
    ran = place("mqi-case", "retry", "ma", "--host-is-gone", "--reason", "its disks burned")
    assert ran.code == 0, ran.err
    assert "its host is gone for ever, whatever runs there is given up: its disks burned" in ran.out
    new = text.replace("hosts.far", "hosts.near").replace(str(place.root), str(place.folder / "near")).replace("mqi-far", "mqi-near")
    known = str(sshd.know("mqi-near"))
    new = "\n".join(f'known_hosts = "{known}"' if line.startswith("known_hosts") else line for line in new.splitlines())
    place.config.write_text(new.replace(STUBBORN, 'cp "$MQI_INPUT/plan.txt" plan.out') + "\n")
    row = place.until("completed")["ma"]
    assert (row["attempt"], row["host"]) == (2, "near")
    assert "far is gone, whatever runs there is given up: its disks burned" in place("mqi-case", "show", "ma").out


# --- hold, release, note


def test_a_hold_takes_a_waiting_attempt_back_and_lasts_until_it_is_released(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, 'cp "$MQI_INPUT/plan.txt" plan.out')
    fill(pueued)
    submitted(place, "ma", "mb")
    assert place("mqi-case", "hold", "ma", "--reason", "ask the planner").code == 0
    place("mqi-submit")
    row = place.rows()["ma"]
    assert row["status"] == "held"
    assert row["reason"].endswith(" holds it: ask the planner")
    (place.inbox / "ma" / "plan.txt").write_text("the right plan\n")
    pueued.client("kill", "--signal", "sigkill", "0", "1")
    for _ in range(3):
        place.tick()
    assert status(place) == "held"
    assert place("mqi-case", "hold", "ma", "--reason", "twice").code == 2
    said = place("mqi-case", "explain", "ma")
    assert (said.code, "mqi-case release " in said.out) == (1, True)
    assert place("mqi-case", "release", "ma", "--reason", "it is right now").code == 0
    rows = place.until("completed")
    assert (rows["ma"]["attempt"], rows["mb"]["attempt"]) == (2, 1)
    assert (place.results / "ma" / "plan.out").read_text() == "the right plan\n"
    shown = place("mqi-case", "show", "ma").out
    assert shown.index("asked to hold it: ask the planner") < shown.index("released it: it is right now")


def test_what_never_started_three_times_is_released_to_try_again(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, 'cp "$MQI_INPUT/plan.txt" plan.out')
    fill(pueued)
    submitted(place, "ma")
    for _ in range(12):
        if status(place) == "held":
            break
        for task, one in pueued.state()["tasks"].items():
            if one["label"] != "theirs":
                pueued.client("remove", task)
        for program in ("mqi-poll", "mqi-poll", "mqi-submit", "mqi-submit"):
            place(program)
    row = place.rows()["ma"]
    assert (row["status"], row["attempt"], "never started" in row["reason"]) == ("held", 3, True)
    assert "mqi-case release " in place("mqi-case", "explain", "ma").out
    pueued.client("kill", "--signal", "sigkill", "0", "1")
    assert place("mqi-case", "release", "ma", "--reason", "somebody tidied the queue").code == 0
    assert place.until("completed")["ma"]["attempt"] == 4


def test_what_its_content_holds_is_not_released_by_a_word(local_place: Place) -> None:
    (local_place.case("ma") / "link").symlink_to("plan.txt")
    local_place("mqi-scan")
    before = local_place.ledger()
    ran = local_place("mqi-case", "release", "ma", "--reason", "please")
    assert (ran.code, local_place.ledger()) == (2, before)
    assert "is a symlink, not a regular file: mend its folder" in ran.err


def test_one_wrong_case_does_not_stop_the_others_and_an_unknown_one_stops_all(local_place: Place) -> None:
    place = local_place
    for name in ("ma", "mb", "mc"):
        place.case(name)
    place("mqi-scan")
    place("mqi-case", "cancel", "mb", *BECAUSE)
    before = place.ledger()
    lost = place("mqi-case", "cancel", "ma", "nobody", "mc", *BECAUSE)
    assert (lost.code, place.ledger()) == (2, before)
    assert "no case 'nobody' in the ledger; closest: " in lost.err
    ran = place("mqi-case", "cancel", "-", *BECAUSE, stdin="ma\nmb\nma\nmc\n")
    assert (ran.code, {row["status"] for row in place.rows().values()}) == (2, {"cancelled"})
    assert (ran.out.count("asked to cancel it"), "already" in ran.err) == (2, True)


@pytest.mark.parametrize("words", [["cancel"], ["hold"], ["note"], ["priority", "--to", "9"], ["retry", "--host-is-gone"]])
def test_a_dry_run_records_nothing(words: list[str], local_place: Place) -> None:
    local_place.case("ma")
    local_place("mqi-scan")
    local_place("mqi-push")
    local_place.root.rename(local_place.root.with_name("away"))
    before = local_place.ledger()
    word = "--text" if words == ["note"] else "--reason"
    ran = local_place("mqi-case", *words, "ma", "--dry-run", word, "why")
    assert (ran.code, local_place.ledger()) == (0, before), ran.err
    assert "would record: " in ran.out


def test_a_decision_has_a_reason_and_a_note_is_part_of_the_story(local_place: Place) -> None:
    local_place.case("ma")
    local_place("mqi-scan")
    for words in (["cancel", "ma"], ["cancel", "ma", "--reason", "  "], ["note", "ma", "--text", "x" * 3000]):
        assert local_place("mqi-case", *words).code == 2
    ran = local_place("mqi-case", "note", "ma", "--text", "the vendor was called", "--jsonl")
    event = json.loads(ran.out)
    assert (event["type"], event["reason"], bool(event["who"])) == ("noted", "the vendor was called", True)
    assert "notes: the vendor was called" in local_place("mqi-case", "show", "ma").out
    said = local_place("mqi-case", "note", "ma", "--text", "a\x1b[31mb\n=c").out
    assert (said.count("\n"), said.rstrip("\n").isprintable()) == (1, True)
    local_place.until("completed")
    assert (local_place.results / "ma" / "plan.out").exists()


def test_a_case_is_found_by_the_path_that_a_person_pastes(local_place: Place) -> None:
    local_place.case("ma")
    local_place("mqi-scan")
    plain = local_place("mqi-case", "show", "ma").out
    source = re.search(r"^  source    (.*)$", plain, re.M)
    assert source
    for word in (source[1], f"{source[1]}/", "ma/", "./ma"):
        assert local_place("mqi-case", "show", word).out == plain
    assert local_place("mqi-case", "show", f"{local_place.results}/ma").code == 2
    local_place.tick()
    ran = local_place("mqi-case", "explain", "-")
    assert (ran.code, ran.out) == (0, "")


def test_the_more_urgent_case_goes_first_and_who_said_so_is_in_the_record(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    text = host_text("ssh", "pueue", "scp", sshd, pueued).replace("queue_depth = 100", "queue_depth = 1")
    place = Place(tmp_path / "site", text, "sleep 600")
    for name in ("ma", "mb", "mc", "md", "me"):
        place.case(name)
    for program in ("mqi-scan", "mqi-push"):
        place(program)
    assert place("mqi-case", "priority", "me", "--to", "9", "--reason", "treated tomorrow").code == 0
    assert place("mqi-case", "priority", "me", "--to", "9", "--reason", "again").code == 2
    assert place("mqi-case", "priority", "me", "--to", "10", "--reason", "more").code == 2
    ran = place("mqi-submit")
    assert ran.code == 0, ran
    place("mqi-poll")  # who had begun before mqi-submit looked again is told by it
    rows = place.rows()
    assert rows["me"]["status"] in ("submitted", "running") and rows["me"]["priority"] == 9, (ran, rows)
    assert [row["status"] for row in rows.values()].count("pushed") == 1
    assert "priority 9: treated tomorrow  (" in place("mqi-case", "show", "me").out


# --- explain


def test_explain_alone_tells_of_everything_that_does_not_move(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, 'grep -q good "$MQI_INPUT/plan.txt" && cp "$MQI_INPUT/plan.txt" plan.out')
    place.case("good", "good\n")
    place.case("sour")
    (place.case("link") / "x").symlink_to("plan.txt")
    deadline = time.monotonic() + 60
    while sorted(row["status"] for row in place.rows().values()) != ["completed", "failed", "held"]:
        place.tick()
        assert time.monotonic() < deadline
    for group in ("gpu0", "gpu1"):
        pueued.client("pause", "-g", group)
    place.case("later", "good too\n")
    place.tick()
    ran = place("mqi-case", "explain")
    assert ran.code == 1
    parts = {part.split("  ")[1]: part for part in ran.out.replace("\n  ", "~").splitlines()}
    assert set(parts) == {"sour", "link", "later"}
    assert "why      the job ended with exit 1" in parts["sour"]
    assert "helps    mqi-case show " in parts["sour"]
    assert "x is a symlink" in parts["link"]
    start = " && ".join(f"{pueued.command} -c {pueued.config} start -g {group}" for group in ("gpu0", "gpu1"))
    assert f"helps    {start}   # on far" in parts["later"]
    assert all("needs a person" in part for part in parts.values())
    lines = [json.loads(line) for line in place("mqi-case", "explain", "--jsonl").out.splitlines()]
    assert {line["case_path"] for line in lines} == set(parts)
    assert all(line["person"] for line in lines)
    pueued.client("start", "-g", "gpu0")
    looked = place("mqi-case", "explain", "later", "--look")
    assert (looked.code, "gpu0 (1), gpu1 (1, paused)" in looked.out) == (0, True), looked.out
    assert f"source   {place.inbox}/later: 2 files" in looked.out
    place("mqi-case", "cancel", "sour", "link", *BECAUSE)
    place.until("completed", "cancelled")
    quiet = place("mqi-case", "explain")
    assert (quiet.code, quiet.out) == (0, "nothing stands still, 4 cases in the ledger\n")


def test_explain_needs_no_host_and_a_look_says_what_it_could_not_see(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, "sleep 600")
    running(place, "ma")
    submitted(place, "mb")
    pueued.signal(signal.SIGKILL)
    place("mqi-poll")
    before = place.ledger()
    looked = place("mqi-case", "explain", "ma", "mb", "--look").out
    assert looked.count("does not answer: ") >= 2
    assert "attempt  has begun, it lives" in looked
    place.config.write_text(place.config.read_text().replace(f"port = {sshd.port}", "port = 1"))
    started = sshd.sessions()
    said = place("mqi-case", "explain", "ma", "mb")
    assert "attempt 1 runs in group" in said.out
    assert sshd.sessions() == started
    assert "it refused the connection" in place("mqi-case", "explain", "--look", "ma").out
    assert place.ledger() == before


def test_a_look_counts_whose_tasks_come_before_ours(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, 'sleep 2; cp "$MQI_INPUT/plan.txt" plan.out')
    place.case("done")
    place.until("completed")
    fill(pueued)
    fill(pueued)
    for group in ("gpu0", "gpu1"):
        pueued.client("add", "-g", group, "--label", f"mqi1:{'0' * 20}:1", "--", "sleep 600")
    submitted(place, "ma")
    looks = sshd.sessions()
    text = place("mqi-case", "explain", "ma", "--look").out
    assert sshd.sessions() == looks + 1
    assert re.search(r"1 tasks run and 2 wait before it in group gpu[01], 2 of these not ours, 1 with our label and of no attempt "
                     r"here, see mqi-check; it starts in about \d", text), text


def test_a_program_that_does_not_run_is_why_a_case_stands_still(local_place: Place) -> None:
    local_place.case("ma")
    local_place("mqi-scan")
    note = local_place.state / "health" / "mqi-push.json"
    assert "mqi-push has never run here: is its timer on?" in local_place("mqi-case", "explain", "ma").out
    local_place("mqi-push")
    local_place("mqi-submit")
    old = json.loads(note.read_text())
    note = local_place.state / "health" / "mqi-poll.json"
    note.write_text(json.dumps({**old, "run": "2026-01-01T00:00:00.000Z"}))
    ran = local_place("mqi-case", "explain")
    assert ran.code == 1
    assert "mqi-poll ran last " in ran.out
    assert "  helps    mqi-check --fast\n" in ran.out


BORN = w.Case("k" * 20, "p", w.FOUND, NOW, NOW, digest="d", host="far", group="g", attempt=1)
NOTES = explain.Notes({}, {}, {name: {"run": NOW} for name in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")}, {"": 1800.0})
LATER = "2026-11-24T03:10:00.000Z"


@pytest.mark.parametrize(
    ("case", "why", "follows", "helps", "person"),
    [
        (BORN, "its turn to be copied comes", "mqi-push copies it to a compute host; mqi-push ran last 10 min ago", "", False),
        (BORN._replace(status=w.PUSHED, open=True, intent=True), "attempt 1 was given to far", "mqi-submit or mqi-poll sees it", "", False),
        (BORN._replace(status=w.RUNNING, open=True, started=NOW), "attempt 1 runs in group g of far", "in about 20 min", "", False),
        (BORN._replace(status=w.RUNNING, open=True, missing=True), "is not there any more: a lost mount?", "mqi-poll sees how it ends",
         "mqi-case cancel", True),
        (BORN._replace(status=w.RUNNING, open=True, asked=(w.CANCEL, "kim", "no")), "kim asked to cancel it: no", "until it is seen gone",
         "mqi-poll kkkkkkkkkkkk", False),
        (BORN._replace(status=w.SUBMITTED, open=True, asked=(w.HOLD, "kim", "no")), "kim asked to hold it: no", "mqi-submit revokes it",
         'mqi-case release kkkkkkkkkkkk --reason "..."', False),
        (BORN._replace(status=w.HELD, asked=(w.HOLD, "kim", "no")), "kim holds it: no", "a person releases it", "mqi-case release", True),
        (BORN._replace(status=w.HELD, reason="x", reasons=(w.Reason("parts", "x", "beam 2 came in parts"),)), "x", "mend its folder",
         "--deliveries A,B,... --reason", True),
        (BORN._replace(status=w.FAILED, reason="time limit", retry=True), "time limit", "can help", "mqi-case retry", True),
        (BORN._replace(status=w.FAILED, reason="exit 1"), "exit 1", "would fail again", "mqi-case show", True),
        (BORN._replace(status=w.COMPLETED, stale="since x"), "every byte of its results was verified", "a person decides", "mqi-case retry", False),
        (BORN._replace(status=w.CANCELLED, reason="cancelled by kim: no"), "cancelled by kim: no", "", "mqi-case retry", False),
        (BORN._replace(gone=True), "its source folder is gone", "mqi-push", "", False),
    ],
)  # fmt: skip
def test_the_sentences_say_why_what_follows_and_what_helps(case: w.Case, why: str, follows: str, helps: str, person: bool) -> None:
    plain = explain.explain(case, NOTES, LATER)
    assert why in plain.why
    assert follows in plain.next
    assert plain.helps.startswith(helps) if helps.startswith("mqi") else helps in plain.helps
    assert bool(plain.helps) == bool(helps)
    assert plain.person is person
    assert explain.row(case, NOTES, LATER)["next"] in plain.next


OVER = w.Trace(True, "begun", False, False, {}, {"exit": "0"}, "", "", "d")
QUEUE = "every group of far is paused (g): on far, `pueue start -g g`"


@pytest.mark.parametrize(("late", "helps"), [("", "mqi-poll kkkkkkkkkkkk"), ("mqi-poll ran last 20 min ago: is its timer on?", "mqi-check --fast")])
def test_a_job_that_is_over_and_not_recorded_is_told_with_the_program_that_is_late(late: str, helps: str) -> None:
    case = BORN._replace(status=w.RUNNING, open=True)
    plain = looked.over(case, w.Look({case.label: OVER}, (), (), "", ()), explain.explain(case, NOTES, LATER), late)
    assert plain.why == "its job is over on far (exit 0), and mqi-poll has not recorded it" + (late and f"; {late}")
    assert plain.helps == helps
    alive = OVER._replace(held=True)
    assert looked.over(case, w.Look({case.label: alive}, (), (), "", ()), plain, "x") == plain


@pytest.mark.parametrize(
    ("case", "wait", "follows", "helps", "person"),
    [
        (BORN._replace(status=w.PUSHED, open=True), (QUEUE, ""), "when that is over, mqi-submit gives it to the queue; mqi-submit ran last",
         "pueue start -g g   # on far", True),
        (BORN, ("far: it refused our key. See: mqi-check", "config", explain.CHANGE), "when that is over, mqi-push copies it to a compute host; "
         "the timers wait until the configuration changes, mqi-tick by hand does not", "mqi-check", True),
        (BORN, ("far: no answer", "network", "2026-11-24T03:12:00.000Z"), "mqi-push copies it to a compute host, at the next try, "
         "2026-11-24T03:12:00Z (in 2 min)", "mqi-check --host far", False),
        (BORN, ("far: no answer", "network", NOW), "mqi-push copies it to a compute host, at the next try, which is due", "mqi-check --host far", False),
        (BORN, ("far:/r has no `ledger` file", "system"), "when that is over, mqi-push", "", True),
        (BORN._replace(status=w.SUBMITTED, open=True, asked=(w.HOLD, "kim", "see `mqi-case show x`")), (QUEUE, ""), "mqi-submit revokes it",
         "mqi-case release", False),
        (BORN._replace(status=w.CANCELLED, reason="cancelled by kim: see `notes.txt`"), ("", ""), "", "mqi-case retry", False),
    ],
)  # fmt: skip
def test_what_stands_in_a_case_s_way_comes_before_what_follows(case: w.Case, wait: tuple[str, ...], follows: str, helps: str, person: bool) -> None:
    notes = NOTES._replace(waits={case.key: (case.status, *wait)})
    plain = explain.explain(case, notes, LATER)
    assert plain.next.startswith(follows) if follows else not plain.next
    assert plain.helps.startswith(helps) if helps else not plain.helps
    assert plain.person is person
    assert plain.next.startswith(explain.row(case, notes, LATER)["next"])


def test_an_attempt_whose_slot_is_not_known_yet_runs_on_its_group() -> None:
    begun = w.Started(BORN.key, NOW, 1, "", "", "", NOW)
    assert tables.happened(begun, BORN) == "attempt 1 runs on g"
    assert tables.happened(begun._replace(group="gpu0", slot="0"), BORN) == "attempt 1 runs on gpu0, slot 0"


def test_show_says_why_a_case_waits_and_a_look_finds_nothing_wrong_where_we_never_were(local_place: Place) -> None:
    (local_place.case("mb") / "away").symlink_to("/etc/passwd")
    local_place.case("ma")
    local_place("mqi-scan")
    assert "\n  why       it is found, and its turn to be copied comes; mqi-push has never run here" in local_place("mqi-case", "show", "ma").out
    assert "  why " not in local_place("mqi-case", "show", "mb").out  # its record says so
    said = local_place("mqi-case", "explain", "--look", "ma", "mb").out
    assert said.count("  source   ") == 2
    assert "cannot be read" not in said


def test_every_wish_is_either_a_legal_event_or_a_sentence_with_a_command() -> None:
    from test_rules import CASES

    from mqi_scripts.pure.evolve import evolve

    legal = 0
    for name, case in CASES.items():
        for of in (wish.cancel, wish.hold, wish.release, wish.retry, wish.note):
            if case is None:
                continue
            try:
                events = of(case, "why", "kim", NOW)
            except w.Usage as error:
                assert case.id in str(error), (name, of)
                continue
            legal += all(evolve(case, event).decisions for event in events)
    assert legal > 40


def waiting_for_its_slot(place: Place, name: str) -> str:
    """`explain --look` of a case whose wrapper runs and has no slot."""
    submitted(place, name)
    deadline = time.monotonic() + 60
    while "\n  slot     " not in (said := place("mqi-case", "explain", name, "--look").out):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    return said


def test_a_look_names_who_holds_the_slot_of_a_gpu(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """A job that the wiped queue forgot."""
    place = site(tmp_path, sshd, pueued, "sleep 600")
    place.config.write_text(place.config.read_text().replace('["gpu*"]', '["gpu0"]'))
    (leader,) = running(place, "ma")
    pueued.wipe()
    pueued.start()
    pueued.groups(gpu0=1)
    said, key = waiting_for_its_slot(place, "mb"), place.rows()["ma"]["case_id"]
    assert re.search(rf"^  slot     gpu0-0 is held by processes .*\b{leader} \(sh\).* of case {key}, which is running$", said, re.M), said
    assert "a wrapper waits for a slot" in said


def test_who_waits_for_a_slot_is_not_its_holder_and_a_process_of_no_case_is_named_with_what_ends_it() -> None:
    mine = BORN._replace(status=w.SUBMITTED)
    other = BORN._replace(key="o" * 20, status=w.COMPLETED)
    held = [("cases/" + mine.key + "/lock", "/proc/1", "sh"), ("slots/g-0", "/proc/1", "sh"), ("slots/g-1", "/proc/2", "x\x1b"), ("slots/h-0", "/proc/3", "y")]
    cases = {mine.key: mine, other.key: other}
    assert compute.slot(mine, held[:2], cases) == "nobody is seen to hold one of its group's: it gets one within seconds"
    assert compute.slot(mine, held, cases) == "g-1 is held by processes 2 (x\\x1b) of no case: let them end, or on far: kill 2"
    held.append((f"cases/{other.key}/lock", "/proc/2", "x"))
    assert compute.slot(mine, held, cases) == "g-1 is held by processes 2 (x\\x1b) of case oooooooooooo, which is completed"
