"""As a person uses it: the pipeline, the report in a spreadsheet, bad input and trouble, each with its sentence and exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sh
from conftest import JOB, REPO, Place, Pueued, Sshd, host_text, need
from jsonschema import validate

COLUMNS = ["case_id", "case_path", "status", "progress", "pueue_group", "pueue_task_id", "submitted_at", "status_updated_at",
           "attempt", "reason", "category", "next", "priority", "host", "completed_at", "stale"]  # fmt: skip


def program(name: str) -> sh.Command:
    return sh.Command(str(REPO / "bin" / name)).bake(_tty_out=False, _encoding="utf-8")


def test_the_pipeline_completes_ten_cases_and_a_second_run_changes_nothing(far_place: Place) -> None:
    place, config = far_place, str(far_place.config)
    for number in range(10):
        place.case(f"case {number}")
    found = program("mqi-scan")("--config", config, "--jsonl")
    pushed = program("mqi-push")("--config", config, "--jsonl", "-", _in=str(found))
    submitted = program("mqi-submit")("--config", config, "--jsonl", "-", _in=str(pushed))
    events = [json.loads(line) for line in str(submitted).splitlines()]
    assert [event["type"] for event in events].count("submitting") == 10
    rows = place.until("completed")
    assert len(rows) == 10
    assert len(place.executions()) == len(set(place.executions())) == 10
    before = place.ledger()
    for _ in range(2):
        place.tick()
    assert place.ledger() == before


def test_one_shell_pipeline_of_real_programs_works(local_place: Place) -> None:
    local_place.case("a")
    line = " | ".join(
        f"{REPO}/bin/{name} --config {local_place.config} --jsonl{' -' if name != 'mqi-scan' else ''}"
        for name in ("mqi-scan", "mqi-push", "mqi-submit")
    )
    out = sh.Command("/bin/sh")("-c", line, _tty_out=False)
    assert json.loads(str(out).splitlines()[0])["type"] == "submitting"


def test_the_report_is_read_back_by_a_spreadsheet_and_fits_its_schema(local_place: Place) -> None:
    place = local_place
    empty = place("mqi-report", "--csv")
    assert empty.code == 0
    assert next(csv.reader(io.StringIO(empty.out))) == COLUMNS
    place.case("=1+1, \"quoted\"")
    place.case("한글 ^ blank")
    place.case("linked")
    (place.inbox / "linked" / "away").symlink_to("/etc/passwd")
    place.tick()
    rows = list(csv.DictReader(io.StringIO(place("mqi-report", "--csv").out)))
    assert [row["case_path"] for row in rows] == ["'=1+1, \"quoted\"", "linked", "한글 ^ blank"]
    assert all(set(row) == set(COLUMNS) for row in rows)
    report = place("mqi-report", "--json")
    assert report.code == 1  # one case needs a person
    body = json.loads(report.out)
    validate(body, json.loads((REPO / "schemas" / "report.schema.json").read_text()))
    assert body["head"]["seq"] == len(place.ledger().splitlines())
    held = [json.loads(line) for line in place("mqi-report", "--jsonl", "--status", "held").out.splitlines()]
    assert [(row["case_path"], row["reason"]) for row in held] == [("linked", "away is a symlink, not a regular file")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--status", "held"], ["b"]), (["--search", "PLAN-B"], []), (["--search", "symlink"], ["b"]),
        (["--since", "2100-01-01"], []), (["--until", "2100-01-01"], ["a", "b"]), (["--group", "direct"], []),
    ],
)  # fmt: skip
def test_the_report_filters(local_place: Place, words: list[str], expected: list[str]) -> None:
    local_place.case("a")
    local_place.case("b")
    (local_place.inbox / "b" / "away").symlink_to("/etc/passwd")
    local_place("mqi-scan")
    found = [json.loads(line)["case_path"] for line in local_place("mqi-report", "--jsonl", *words).out.splitlines()]
    assert found == expected


def test_every_event_line_fits_the_schema(local_place: Place) -> None:
    schema = json.loads((REPO / "schemas" / "event.schema.json").read_text())
    local_place.case("a")
    local_place.until("completed")
    for line in local_place.ledger().splitlines():
        validate(json.loads(line), schema)


def test_a_misspelt_key_is_named_before_any_effect(local_place: Place) -> None:
    text = local_place.config.read_text().replace("quiet =", "quite =")
    local_place.config.write_text(text)
    for name in ("scan", "push", "submit", "poll", "fetch", "report", "check"):
        ran = local_place(f"mqi-{name}")
        assert ran.code == 78
        assert "scan.quite is no key of this file: did you mean quiet?" in (ran.out if name == "check" else ran.err)
    assert not local_place.state.exists()


def test_a_lost_inbox_and_lost_results_decide_nothing(local_place: Place) -> None:
    place = local_place
    place.case("a")
    place.case("b")
    place.until("completed")
    place.case("c")
    for name in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(name)
    before = place.ledger()
    away = place.folder / "away"
    place.inbox.rename(away)
    assert place("mqi-scan").code == 69
    place.inbox.mkdir()
    ran = place("mqi-scan")
    assert (ran.code, place.ledger()) == (69, before)
    assert "mqi-scan --accept-empty" in ran.err
    place.inbox.rmdir()
    away.rename(place.inbox)
    while place.rows()["c"]["status"] != "computed":
        place("mqi-poll")
    before = place.ledger()
    shutil.rmtree(place.results)
    place.results.mkdir()
    ran = place("mqi-fetch")
    assert (ran.code, place.ledger(), list(place.results.iterdir())) == (69, before, [])
    assert "--accept-empty" in ran.err
    assert place("mqi-fetch", "--accept-empty").code == 0
    assert place.rows()["c"]["status"] == "completed"


def test_a_lost_root_on_the_host_is_no_empty_host(local_place: Place) -> None:
    place = local_place
    place.case("a")
    place.until("completed")
    place.case("b")
    place("mqi-scan")
    before = place.ledger()
    place.root.rename(place.folder / "away")
    place.root.mkdir()
    ran = place("mqi-push")
    assert (ran.code, place.ledger(), list(place.root.iterdir())) == (69, before, [])
    assert "lost mount" in ran.err
    assert "mqi-push --accept-empty" in ran.err


def test_one_vanished_case_is_one_event_and_stops_nothing(local_place: Place) -> None:
    place = local_place
    place.case("a")
    place.case("b")
    for name in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(name)
    shutil.rmtree(place.inbox / "a")
    rows = place.until("completed")
    assert rows["a"]["stale"] is False
    assert place.ledger().count(b'"type":"gone"') == 1
    before = place.ledger()
    place("mqi-scan")
    assert place.ledger() == before


def test_new_data_before_the_start_makes_a_new_input_and_afterwards_marks_it_stale(local_place: Place) -> None:
    place = local_place
    place.case("a")
    for name in ("mqi-scan", "mqi-push"):
        place(name)
    (place.inbox / "a" / "plan.txt").write_text("second\n")
    place("mqi-scan")
    assert place.rows()["a"]["status"] == "found"
    place.until("completed")
    assert (place.results / "a" / "plan.out").read_text() == "second\n"
    (place.inbox / "a" / "late.txt").write_text("late\n")
    place("mqi-scan")
    row = place.rows()["a"]
    assert row["status"] == "completed"
    assert re.fullmatch(r"since \S+Z: 1 new \(late\.txt\)", row["stale"])
    assert (place.results / "a" / "plan.out").read_text() == "second\n"


def test_the_same_content_in_another_folder_is_held(local_place: Place) -> None:
    local_place.case("a", "same\n")
    shutil.copytree(local_place.inbox / "a", local_place.inbox / "b")
    local_place("mqi-scan")
    rows = local_place.rows()
    assert rows["b"]["status"] == "held"
    assert rows["b"]["reason"] == f"same content as {rows['a']['case_id']}"


def test_a_folder_that_is_renamed_is_not_computed_again_and_goes_on_if_it_never_was(local_place: Place) -> None:
    place = local_place
    place.case("done", "one\n")
    place.until("completed")
    place.case("new", "two\n")
    place("mqi-scan")
    for name in ("done", "new"):
        (place.inbox / name).rename(place.inbox / f"{name} renamed")
    for _ in range(3):
        place.tick()
    rows = place.rows()
    assert (rows["done"]["status"], rows["done renamed"]["status"]) == ("completed", "held")
    assert rows["done renamed"]["reason"] == f"same content as {rows['done']['case_id']}"
    assert rows["new renamed"]["status"] == "completed"
    assert len(place.executions()) == 2


def test_a_pipe_that_names_nothing_does_nothing(local_place: Place) -> None:
    local_place.case("a")
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        assert local_place(program, "-").code == 0
    assert local_place.rows() == {}


def test_new_data_on_a_cancelled_case_is_shown(local_place: Place) -> None:
    place = local_place
    place.case("a", "one\n")
    place("mqi-scan")
    assert place("mqi-case", "cancel", "a", "--reason", "twice").code == 0
    (place.inbox / "a" / "more.txt").write_text("late\n")
    place.tick()
    row = place.rows()["a"]
    assert row["status"] == "cancelled"
    assert "more.txt" in row["stale"]
    assert place.executions() == []


def test_a_case_is_found_only_after_two_equal_looks(local_place: Place) -> None:
    local_place.config.write_text(local_place.config.read_text().replace('"0s"', '"1s"'))
    local_place.case("a")
    assert local_place("mqi-scan").out == ""
    assert local_place("mqi-scan").out == ""
    threading.Event().wait(1.2)
    (local_place.inbox / "a" / "more.txt").write_text("more\n")
    assert local_place("mqi-scan").out == ""
    threading.Event().wait(1.2)
    assert "found, 3 files" in local_place("mqi-scan").out


def test_the_ready_marker_is_waited_for_and_does_not_travel(local_place: Place) -> None:
    text = local_place.config.read_text().replace('quiet = "0s"', 'quiet = "0s"\nready_marker = "_CASE_READY"')
    local_place.config.write_text(text)
    local_place.case("a")
    assert local_place("mqi-scan").out == ""
    (local_place.inbox / "a" / "_CASE_READY").touch()
    assert "found, 2 files" in local_place("mqi-scan").out


def test_old_cases_are_held_before_start_and_mending_releases(local_place: Place) -> None:
    text = local_place.config.read_text().replace('quiet = "0s"', 'quiet = "0s"\nnot_before = "2026-01-01"')
    local_place.config.write_text(text)
    folder = local_place.case("old")
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    local_place("mqi-scan")
    assert "before" in local_place("mqi-report", "--csv").out or "older than" in local_place("mqi-report", "--csv").out
    (folder / "plan.txt").write_text("new\n")
    local_place("mqi-scan")
    assert local_place.rows()["old"]["status"] == "found"


def test_unknown_and_ambiguous_ids_are_told_apart(local_place: Place) -> None:
    for number in range(40):
        local_place.case(f"case{number:02}")
    local_place("mqi-scan")
    ids = [row["case_id"] for row in local_place.rows().values()]
    twice = next(first[:1] for first in ids if sum(other.startswith(first[:1]) for other in ids) > 1)
    ran = local_place("mqi-push", twice)
    assert ran.code == 2
    assert "fits more than one case" in ran.err
    assert sum(name in ran.err for name in ids) >= 2
    ran = local_place("mqi-push", "case0x")
    assert ran.code == 2
    assert "closest: " in ran.err
    assert "case0" in ran.err
    assert local_place("mqi-push", "case07").code == 0
    assert [row["case_path"] for row in local_place.rows().values() if row["status"] == "pushed"] == ["case07"]


def broken(place: Place, old: str, new: str) -> None:
    text = place.config.read_text()
    assert old in text
    place.config.write_text(text.replace(old, new))


@pytest.mark.parametrize("trouble", ["no port", "host key", "key refused", "garbage queue", "no queue", "old client"])
def test_trouble_with_a_host_is_a_sentence_and_no_event(trouble: str, far_place: Place, sshd: Sshd, tmp_path: Path) -> None:
    place = far_place
    place.case("a")
    place("mqi-scan")
    if trouble in ("garbage queue", "no queue", "old client"):
        place("mqi-push")
    before, code, word, name = place.ledger(), 69, "", "mqi-push"
    if trouble == "no port":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            broken(place, f"port = {sshd.port}", f"port = {probe.getsockname()[1]}")
        word = "refused the connection"
    elif trouble == "host key":
        other = tmp_path / "other"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        Path(sshd.know("mqi-far")).write_text("mqi-far " + " ".join(other.with_suffix(".pub").read_text().split()[:2]) + "\n")
        word = "host key is not the known one: ALARM"
    elif trouble == "key refused":
        other = tmp_path / "stranger"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        broken(place, sshd.identity, str(other))
        word = "it refused our key"
    else:
        client = tmp_path / "pueue"
        said = {"garbage queue": "echo '[]'", "no queue": "echo refused >&2; exit 1", "old client": "exec false"}[trouble]
        client.write_text(f"#!/bin/sh\n{said}\n")
        client.chmod(0o755)
        text = place.config.read_text().splitlines()
        place.config.write_text("\n".join(f'command = "{client}"' if line.startswith('command = "') else line for line in text))
        name, word = "mqi-submit", "queue of far"
    ran = place(name)
    assert (ran.code, place.ledger()) == (code, before), ran.err
    assert word in ran.err
    assert "See: mqi-check" in ran.err
    assert "Traceback" not in ran.err
    assert place("mqi-check").code != 0


@pytest.mark.parametrize("banner", ["echo hello", "printf 'MQI-END x 0\\n'; echo \"$0\" >&2"])
def test_a_banner_of_the_login_shell_does_no_harm(banner: str, tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """The remote account's shell prints before our program does: sshd's ForceCommand stands in for its .bashrc."""
    folder = Path(sshd.folder) / "banner"
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "config"
    text = (sshd.folder / "config").read_text().replace(f"Port {sshd.port}", f"Port {port}")
    text = text.replace(f"{sshd.folder}/pid", f"{folder}/pid")
    shell = folder / "shell"
    shell.write_text(f'#!/bin/sh\n{banner}\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    shell.chmod(0o755)
    config.write_text(text + f"ForceCommand {shell}\n")
    server = subprocess.Popen([need("sshd"), "-D", "-f", str(config), "-E", str(folder / "log")])
    try:
        place = Place(tmp_path / "site", host_text("ssh", "direct", "tar", sshd, pueued).replace(str(sshd.port), str(port)), JOB)
        place.case("a")
        place("mqi-scan")
        for _ in range(50):
            ran = place("mqi-check", "--host", "far")
            if "refused the connection" not in ran.out:
                break
        assert ran.code == 1, ran.out
        assert "\nwarn  far: login shell: it prints " in ran.out
        assert "FAIL" not in ran.out
    finally:
        server.terminate()
        server.wait(10)


def test_a_job_without_its_results_is_failed_with_that_reason(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), "true")
    place.case("a")
    row = place.until("failed")["a"]
    assert row["reason"] == "the job ended with exit 0 without a result that matches *.out"
    assert not (place.results / "a").exists()


def test_a_job_that_fails_is_failed_with_exit_code_and_log(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), "echo FATAL ERROR: no beam; exit 3")
    place.case("a")
    row = place.until("failed")["a"]
    assert row["reason"] == "the job ended with exit 3"
    assert b"FATAL ERROR: no beam" in place.ledger()
    ran = place("mqi-report")
    assert ran.code == 1
    assert "job.log" in ran.out


def test_progress_of_a_running_job_is_in_the_report(tmp_path: Path) -> None:
    extra = "progress = '\\((\\d+) of (\\d+) batches\\)'"
    job = 'echo "Generating particles for (3 of 12 batches)"; sleep 30'
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), job, extra)
    place.case("a")
    for _ in range(50):
        place.tick()
        if place.rows()["a"]["progress"]:
            break
    assert place.rows()["a"]["progress"] == "25%"
    for pid in subprocess.run(["pgrep", "-f", str(place.root)], capture_output=True, text=True).stdout.split():
        os.killpg(os.getpgid(int(pid)), signal.SIGKILL)


def test_ctrl_c_leaves_nothing_that_the_next_run_does_not_repair(far_place: Place) -> None:
    place = far_place
    for number in range(5):
        place.case(f"c{number}")
    for number, name in enumerate(("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")):
        child = subprocess.Popen(place.argv(name), env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE, text=True)
        threading.Event().wait(0.25 + 0.05 * number)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
        assert child.returncode in (0, 130, -signal.SIGINT), err  # the last: it was done, and Python on its way out
        assert "Traceback" not in err
    assert all(row["status"] == "completed" for row in place.until("completed").values())
    assert len(place.executions()) == len(set(place.executions())) == 5


def test_help_version_and_usage_are_those_of_a_good_unix_tool() -> None:
    for shim in sorted((REPO / "bin").glob("mqi-*")):
        if shim.name == "mqi-demo":
            continue
        assert "examples:" in str(program(shim.name)("--help"))
        assert shim.name in str(program(shim.name)("--version"))
        with pytest.raises(sh.ErrorReturnCode_2):
            program(shim.name)("--no-such-option")


def test_dry_run_changes_nothing(far_place: Place) -> None:
    far_place.case("a")
    assert "would record" in far_place("mqi-scan", "--dry-run").out
    assert far_place.ledger() == b""
    far_place("mqi-scan")
    before = far_place.ledger()
    assert "would push 1 cases" in far_place("mqi-push", "--dry-run").err
    far_place("mqi-push")
    after = far_place.ledger()
    assert "would record" in far_place("mqi-submit", "--dry-run").out
    assert far_place.ledger() == after != before


def test_two_runs_of_one_script_do_not_overlap(local_place: Place) -> None:
    from mqi_scripts.world import lock

    local_place("mqi-scan")
    with lock.held(str(local_place.state / "run.mqi-scan"), 0):
        ran = local_place("mqi-scan")
    assert ran.code == 75
    assert str(os.getpid()) in ran.err


def test_state_that_others_can_read_or_own_is_refused(local_place: Place) -> None:
    local_place("mqi-scan")
    local_place.state.chmod(0o755)
    ran = local_place("mqi-scan")
    assert ran.code == 78
    assert "chmod 700" in ran.err
    local_place.state.chmod(0o700)
    for path in local_place.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_whatever_is_made_in_the_state_folder_is_its_owners_alone(tmp_path: Path) -> None:
    """Files of all kinds, in folders of all depths, whatever the umask of whoever runs it."""
    code = "import os, sys; from mqi_scripts.frame import cli; cli.check_state('state'); os.makedirs('state/a/b'); open('state/a/b/c', 'w')"
    subprocess.run((sys.executable, "-c", code), cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, umask=0, check=True)
    made = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert len(made) > 7
    assert [path for path in made if path.stat().st_mode & 0o077] == []
