"""What stands still says why: waiting cases, full disks, a job that outlives its wrapper, progress."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import termios
import time
from pathlib import Path

import pytest
from conftest import REPO, Place, Pueued, Sshd, alive, host_text

from mqi_scripts import words as w
from mqi_scripts.verbs import push

ENV = {**os.environ, "PYTHONPATH": str(REPO)}


def pushed(place: Place, *names: str) -> None:
    for name in names:
        place.case(name)
    for program in ("mqi-scan", "mqi-push"):
        assert place(program).code == 0


# --- why a case waits


def test_paused_groups_are_the_reason_with_the_command_that_helps(far_place: Place, pueued: Pueued) -> None:
    pushed(far_place, "a")
    for group in ("gpu0", "gpu1"):
        pueued.client("pause", "-g", group)
    before = far_place.ledger()
    ran = far_place("mqi-submit")
    assert (ran.code, far_place.ledger()) == (0, before)
    pueue = f"{pueued.command} -c {pueued.config}"  # as it has to be typed there
    assert f"every group of far is paused (gpu0, gpu1): on far, `{pueue} start -g gpu0 && {pueue} start -g gpu1`" in far_place.rows()["a"]["reason"]
    pueued.client("start", "-g", "gpu1")
    far_place.until("completed")
    assert far_place.rows()["a"]["pueue_group"] == "gpu1"


def test_a_group_that_is_paused_after_the_submit_is_the_reason(far_place: Place, pueued: Pueued) -> None:
    for group in ("gpu0", "gpu1"):
        pueued.client("add", "-g", group, "--", "sleep 600")
    pushed(far_place, "a")
    far_place("mqi-submit")
    pueued.client("pause", "-g", "gpu0")
    far_place("mqi-poll")
    row = far_place.rows()["a"]
    start = f"{pueued.command} -c {pueued.config} start -g gpu0"
    assert (row["status"], row["reason"]) == ("submitted", f"group gpu0 of far is paused: on far, `{start}`")


def test_a_missing_group_is_the_reason(far_place: Place, pueued: Pueued) -> None:
    pushed(far_place, "a")
    far_place.config.write_text(far_place.config.read_text().replace('groups = ["gpu*"]', 'groups = ["tpu*"]'))
    far_place("mqi-submit")
    assert "no group of far matches tpu* (there: default, gpu0, gpu1)" in far_place.rows()["a"]["reason"]
    assert f"`{pueued.command} -c {pueued.config} group add tpu0`" in far_place.rows()["a"]["reason"]


def test_a_queue_that_is_down_is_the_reason_and_decides_nothing(far_place: Place, pueued: Pueued) -> None:
    pushed(far_place, "a")
    pueued.signal(9)
    before = far_place.ledger()
    ran = far_place("mqi-submit")
    assert (ran.code, far_place.ledger()) == (69, before)
    assert "Connection refused" in far_place.rows()["a"]["reason"]
    assert "the queue of far does not answer" in far_place("mqi-report").out
    pueued.start()
    assert far_place.until("completed")["a"]["attempt"] == 1


@pytest.mark.parametrize("steps", [["mqi-push"], ["mqi-push", "mqi-submit", "mqi-poll"]])
def test_a_host_that_is_unreachable_is_the_reason_of_each_case_there(steps: list[str], far_place: Place, sshd: Sshd) -> None:
    place = far_place
    place.config.write_text(place.config.read_text().replace('cp "$MQI_INPUT/plan.txt" plan.out', "sleep 600"))
    place.case("a")
    for program in ["mqi-scan", *steps[:-1]]:
        place(program)
    text = place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", "port = 1"))
    before = place.ledger()
    assert place(steps[-1]).code == 69
    row = place.rows()["a"]
    assert place.ledger() == before
    assert "it refused the connection: start sshd there" in row["reason"]
    assert row["category"] == "network"
    place.config.write_text(text)
    assert place(steps[-1]).code == 0
    assert place.rows()["a"]["reason"] == ""


def test_a_host_that_left_the_configuration_is_the_reason_of_its_cases(local_place: Place) -> None:
    pushed(local_place, "a")
    text = local_place.config.read_text()
    local_place.config.write_text(text.replace("hosts.far", "hosts.new"))
    ran = local_place("mqi-submit")
    assert ran.code == 78
    row = local_place.rows()["a"]
    assert row["reason"] == "hosts.far left the configuration with 1 cases on it: put it back"
    assert row["category"] == "config"
    local_place.config.write_text(text)
    local_place.until("completed")


def test_the_least_loaded_group_gets_the_case_everybodys_tasks_counted(far_place: Place, pueued: Pueued) -> None:
    for _ in range(3):
        pueued.client("add", "-g", "gpu0", "--", "sleep 600")
    pushed(far_place, "a", "b")
    far_place("mqi-submit")
    assert {row["pueue_group"] for row in far_place.rows().values()} == {"gpu1"}


def test_only_a_shallow_queue_is_kept(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    text = host_text("ssh", "pueue", "scp", sshd, pueued).replace("queue_depth = 100", "queue_depth = 2")
    place = Place(tmp_path / "site", text, "sleep 600")
    pushed(place, *"abcdefghij")
    place("mqi-submit")
    time.sleep(0.5)
    for _ in range(3):
        place("mqi-poll")
        place("mqi-submit")
    rows = place.rows().values()
    assert len(pueued.state()["tasks"]) == 6  # one runs and two wait in each group
    assert [row["reason"] for row in rows if row["status"] == "pushed"] == ["every slot has enough tasks waiting"] * 4


def test_a_result_that_cannot_be_placed_does_not_hold_up_the_others(local_place: Place) -> None:
    for name in "ab":
        local_place.case(name)
    (local_place.results / ".mqi-results").write_text("")
    (local_place.results / "a").write_text("a file of a stranger\n")
    (local_place.results / "a").chmod(0o444)
    long = "x" * 250
    local_place.case(long)
    (local_place.results / long).write_text("in the way, and its name leaves no room to set it aside\n")
    deadline = time.monotonic() + 60
    while sorted(row["status"] for row in local_place.rows().values()) != ["completed", "completed", "computed"]:
        local_place.tick()
        assert time.monotonic() < deadline
    row = local_place.rows()[long]
    assert "File name too long" in row["reason"]
    assert row["status"] == "computed"


def test_not_before_that_is_moved_marks_no_finished_case(local_place: Place) -> None:
    local_place.case("a")
    local_place.until("completed")
    text = local_place.config.read_text()
    local_place.config.write_text(text.replace('quiet = "0s"', 'quiet = "0s"\nnot_before = "2100-01-01"'))
    local_place.case("b")
    local_place("mqi-scan")
    rows = local_place.rows()
    assert (rows["a"]["status"], rows["a"]["stale"]) == ("completed", False)
    assert (rows["b"]["status"], rows["b"]["category"]) == ("held", "application")


def test_nothing_is_said_of_closed_cases_when_the_way_that_the_inbox_is_read_changes(local_place: Place) -> None:
    local_place.case("done")
    local_place.until("completed")
    local_place.case("whole")
    (local_place.case("odd") / "link").symlink_to("plan.txt")
    local_place("mqi-scan")
    for name in ("odd", "whole"):
        assert local_place("mqi-case", "cancel", name, "--reason", "a test").code == 0
    before, text = local_place.ledger(), local_place.config.read_text()
    for more in ("", "max_depth = 7\n"):
        local_place.config.write_text(text.replace("[scan]\n", f"[scan]\n{more}"))
        for _ in range(3):
            ran = local_place("mqi-scan")
            assert (ran.code, ran.out) == (0, ""), ran
            assert "quicker" not in ran.err, ran
        memo = json.loads((local_place.state / "cache" / "scan").read_text())
        assert {path: entry["settled"] == entry["sign"] for path, entry in memo.items()} == dict.fromkeys(("done", "odd", "whole"), True)
    assert local_place.ledger() == before


def test_a_new_ledger_finds_what_the_memory_of_an_older_one_calls_settled(local_place: Place) -> None:
    local_place.case("a")
    local_place.until("completed")
    for _ in range(2):
        local_place("mqi-scan")
    for path in (*local_place.state.glob("ledger*"), *local_place.state.glob("cache/fold*")):
        path.unlink()
    local_place("mqi-scan")
    assert local_place.rows()["a"]["status"] == "found"


def test_a_scan_that_is_killed_remembers_what_it_has_read(local_place: Place) -> None:
    for name in "abcdef":
        with (local_place.case(name) / "large").open("wb") as file:
            file.truncate(18 << 30)  # read for long
    memo = local_place.state / "cache" / "scan"
    scan = subprocess.Popen(local_place.argv("mqi-scan"), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not memo.exists():
        assert scan.poll() is None
    scan.kill()
    scan.wait()
    read = sum("cases" in entry for entry in json.loads(memo.read_text()).values())
    assert 0 < read < 6
    assert local_place.ledger().count(b'"found"') == read


def test_an_input_that_cannot_get_its_name_there_is_told(local_place: Place) -> None:
    pushed(local_place, "first")
    local_place.case("second")
    local_place("mqi-scan")
    before = local_place.ledger()
    key = json.loads(before.splitlines()[-1])["case"]
    (local_place.root / "cases" / key).touch()
    ran = local_place("mqi-push")
    assert ran.code == 69, ran
    assert f"it cannot be moved into {local_place.root}/cases/{key}" in ran.err
    assert local_place.ledger() == before
    assert "it cannot be moved" in local_place.rows()["second"]["reason"]
    assert local_place("mqi-case", "explain", "second").out.splitlines()[-1].split() == ["helps", "mqi-check"]
    (local_place.root / "cases" / key).unlink()
    assert local_place("mqi-push").code == 0
    assert local_place.rows()["second"]["status"] == "pushed"


# --- full disks: real ones, of 70 MB, in a name space of their own


def in_a_small_disk(place: Place, folder: Path, fill: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The program, with a small file system over the folder, its content copied there and `fill` left free."""
    folder.mkdir(exist_ok=True)
    script = (
        'small=$1 fill=$2; shift 2; kept=$(mktemp -d) && cp -a "$small/." "$kept" && mount -t tmpfs -o size=70m,mode=700 none "$small" &&'
        'cp -a "$kept/." "$small" && rm -rf "$kept" && head -c "$fill" /dev/zero >"$small/filler"; "$@"; code=$?; ls -R "$small"; exit $code'
    )
    flags = ["-m"] if os.geteuid() == 0 else ["-rm"]
    argv = ["unshare", *flags, "/bin/sh", "-c", script, "sh", str(folder), fill, *place.argv(program, *words)]
    return subprocess.run(argv, env=ENV, capture_output=True, text=True)


@pytest.mark.parametrize("side", ["there", "here"])
def test_room_is_looked_for_on_both_sides_before_anything_is_copied(side: str, local_place: Place) -> None:
    place = local_place
    pushed(place, "first")
    place.case("a")
    place("mqi-scan")
    before = place.ledger()
    ran = in_a_small_disk(place, place.root if side == "there" else place.state, "20M", "mqi-push")
    assert ran.returncode == 74, ran.stderr
    assert ("far:/" in ran.stderr) == (side == "there")
    assert "no room" in ran.stderr
    assert "make room" in ran.stderr
    assert place.ledger() == before
    assert place("mqi-push").code == 0


def test_more_than_fits_into_the_outbox_at_once_travels_in_batches_without_an_alarm(local_place: Place) -> None:
    place = local_place
    place.config.write_text(place.config.read_text().replace(f"reserve = {64 << 20}", f"reserve = {1 << 20}", 1))
    for name in "abc":
        (place.case(name) / "large").write_bytes(name.encode() * (20 << 20))
    place("mqi-scan")
    ran = in_a_small_disk(place, place.state, "20M", "mqi-push", "--jsonl")
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["type"] for line in ran.stdout.splitlines() if line.startswith("{")].count("pushed") == 3


def fetched_into_a_small_disk(folder: Path, sizes: dict[str, int]) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """Computed cases whose results have so many MiB, and a fetch of them with 50 MB for the state."""
    place = Place(folder, host_text("local", "direct", "tar", None, None), 'cp "$MQI_INPUT/large" large.out')
    place.config.write_text(place.config.read_text().replace(f"reserve = {64 << 20}", f"reserve = {1 << 20}", 1))
    for name, size in sizes.items():
        (place.case(name) / "large").write_bytes(name.encode() * (size << 20))
    deadline = time.monotonic() + 60
    while {row["status"] for row in place.rows().values()} != {"computed"}:
        for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll"):
            place(program)
        assert time.monotonic() < deadline
    return place, in_a_small_disk(place, place.state, "20M", "mqi-fetch", "--jsonl")


def completed(ran: subprocess.CompletedProcess[str]) -> int:
    return [json.loads(line)["type"] for line in ran.stdout.splitlines() if line.startswith("{")].count("completed")


def test_results_that_do_not_fit_here_at_once_come_in_batches(tmp_path: Path) -> None:
    place, ran = fetched_into_a_small_disk(tmp_path / "site", dict.fromkeys("abc", 20))
    assert ran.returncode == 0, ran.stderr
    assert completed(ran) == 3
    assert [(place.results / name / "large.out").stat().st_size for name in "abc"] == [20 << 20] * 3


def test_one_case_that_does_not_fit_here_keeps_no_other_back(tmp_path: Path) -> None:
    place, ran = fetched_into_a_small_disk(tmp_path / "site", {"a": 60, "b": 1, "c": 1})
    assert ran.returncode == 74, ran.stderr
    assert f"{place.rows()['a']['case_id']} did not come, the others go on without it" in ran.stderr
    assert "no room" in ran.stderr
    assert completed(ran) == 2
    assert not (place.results / "a").exists()
    place.until("completed")


def test_what_travels_together_is_bounded_in_files_and_bytes_and_never_nothing() -> None:
    cases = [w.Case("k", "p", w.FOUND, "", "", files=files, bytes=size) for files, size in ((30_000, 9), (1, 5), (1, 5), (1, 1), (20_000, 1))]
    assert [len(push.batch(cases[at:], 10)) for at in range(5)] == [1, 2, 2, 1, 1]
    assert push.batch([], 10) == []
    assert len(push.batch(cases[1:4], 100)) == 3


def test_a_ledger_on_a_full_disk_says_so_and_stays_as_it_was(local_place: Place) -> None:
    place = local_place
    pushed(place, "a")
    before = place.ledger()
    ran = in_a_small_disk(place, place.state, "200M", "mqi-submit")
    assert ran.returncode == 74, ran.stderr
    assert "make room" in ran.stderr
    assert place.ledger() == before
    assert place.until("completed")["a"]["attempt"] == 1


def test_a_host_whose_disk_is_full_gets_no_attempt(local_place: Place) -> None:
    place = local_place
    pushed(place, "a")
    ran = in_a_small_disk(place, place.root, "200M", "mqi-submit")
    assert ran.returncode == 74, ran.stderr
    assert "make room there" in ran.stderr
    assert place.executions() == []
    assert place.until("completed")["a"]["attempt"] == 1


# --- a job that outlives its limit and its wrapper


def test_poll_ends_a_job_that_outlived_its_time_limit_and_its_wrapper(tmp_path: Path, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), "echo deep; sleep 300; true")
    pushed(place, "a")
    place("mqi-submit")
    while not place.executions():
        time.sleep(0.02)
    attempt = next(place.root.glob("cases/*/attempt-1"))
    while not (attempt / "status").exists():
        time.sleep(0.02)
    fields = (attempt / "status").read_text().split(" ")
    os.kill(int(fields[1]), 9)  # the wrapper, which leads the group
    place("mqi-poll")
    assert place.rows()["a"]["status"] == "running"
    fields[4] = str(int(fields[4]) - 1000)  # it began a thousand seconds earlier
    (attempt / "status").write_text(" ".join(fields))
    ran = place("mqi-poll")
    assert "far: ending 1 jobs: time limit" in ran.err
    assert (attempt / "ending").read_text() == "time limit\n"
    assert ran.code == 1, ran.err  # a case has failed: the look behind the end saw it gone
    row = place.rows()["a"]
    assert (row["status"], row["reason"], row["category"]) == ("failed", "time limit", "application")
    assert alive(int(fields[1])) == []


def test_the_time_limit_ends_the_whole_group_and_the_case_is_failed(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), "sleep 297 & sleep 297")
    place.config.write_text(place.config.read_text().replace('"60s"', '"1s"'))
    place.case("a")
    rows = place.until("failed")
    assert rows["a"]["reason"] == "time limit"
    left = subprocess.run(["pgrep", "-f", "sleep 297"], capture_output=True, text=True).stdout.split()
    assert not left


# --- progress


def test_a_state_folder_that_cannot_be_made_or_used_is_no_bug(local_place: Place) -> None:
    local_place.state.write_text("a file\n")
    for program in ("mqi-scan", "mqi-report"):
        ran = local_place(program)
        assert ran.code == 78
        assert f"{local_place.state}'" in ran.err
        assert "mqi-check" in ran.err
    ran = local_place("mqi-check")
    assert ran.code == 78
    assert f"FAIL  state {local_place.state}: it cannot be used: " in ran.out


def test_a_terminal_sees_the_progress_of_a_push_and_a_pipe_does_not(far_place: Place) -> None:
    case = far_place.case("a")
    for number in range(30):
        (case / f"f{number}").write_bytes(os.urandom(2_000_000))
    far_place("mqi-scan")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    child = subprocess.Popen(far_place.argv("mqi-push"), env=ENV, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        said += piece
    assert child.wait() == 0
    assert child.stdout
    assert b"pushed to far" in child.stdout.read()
    child.stdout.close()
    assert re.search(rb"mqi-push:.*\d+%\|.*B/s\]", said)
    far_place.case("b")
    far_place("mqi-scan")
    assert "%|" not in far_place("mqi-push").err


def test_reports_of_one_site_are_told_apart_by_their_names(local_place: Place) -> None:
    body = json.loads(local_place("mqi-report", "--json").out)
    assert (body["site"], body["cases"], body["head"]["seq"]) == ("T", [], 0)
    assert local_place("mqi-report").out.startswith("T: 0 cases")
