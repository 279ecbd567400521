"""The far side by itself: claim, locks, verification, under dash and bash, and with a real queue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import JOB, REPO, Place, Pueued, host_text, need

from mqi_scripts.pure import readers
from mqi_scripts.world.host import FAR

SHELLS = ["dash", "bash"]


def submitted(place: Place, name: str = "a") -> Path:
    """A case whose attempt folder was made by the real submit, its job not yet begun: the queue's group is paused."""
    place.case(name)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        ran = place(program)
        assert ran.code == 0, ran.err
    return next(place.root.glob("cases/*/attempt-1"))


@pytest.fixture
def paused(tmp_path: Path, pueued: Pueued) -> Place:
    """A site whose queue takes tasks and starts none: every group was paused after the submit's look."""
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB)
    submitted_with_busy_slots(pueued)
    return place


def submitted_with_busy_slots(pueued: Pueued) -> None:
    for group in ("gpu0", "gpu1"):
        pueued.client("add", "-g", group, "--", "sleep 600")


def launch(attempt: Path, shell: str, **env: str) -> subprocess.Popen[bytes]:
    key, number = attempt.parent.name, attempt.name.removeprefix("attempt-")
    argv = [shell, os.path.join(FAR, "mqi-job.sh"), str(attempt.parent.parent.parent), key, number]
    env = {"HOME": "/", "PATH": os.environ["PATH"], **env}
    none = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=none, stdout=none, stderr=subprocess.PIPE, start_new_session=True, env=env)


def forgotten(place: Place, pueued: Pueued, shell: str) -> tuple[Path, subprocess.Popen[bytes]]:
    """A case whose job runs, started by us; the queue has no task of it, so that it does not vouch for its life."""
    submitted_with_busy_slots(pueued)
    attempt = submitted(place)
    run = launch(attempt, shell)
    while not place.executions():
        time.sleep(0.02)
    pueued.client("remove", *[number for number, task in pueued.state()["tasks"].items() if task["label"]])
    assert not [task for task in pueued.state()["tasks"].values() if task["label"]]
    return attempt, run


@pytest.mark.parametrize("shell", SHELLS)
def test_the_wrapper_runs_a_job_once_and_writes_its_result(paused: Place, shell: str) -> None:
    attempt = submitted(paused)
    first = launch(attempt, shell)
    assert first.wait(60) == 0, first.stderr.read() if first.stderr else ""
    assert launch(attempt, shell).wait(60) == 75
    result = (attempt / "result").read_text()
    assert " exit=0 signal= fault= manifest=" in result
    assert paused.executions() == [f"{attempt.parent.name} 1"]
    assert (attempt / "output.sha256").read_text().endswith("  ./plan.out\n")


@pytest.mark.parametrize("shell", ["dash"])
def test_sixty_launches_of_one_attempt_are_one_run(paused: Place, shell: str) -> None:
    attempt = submitted(paused)
    runs = [launch(attempt, shell) for _ in range(60)]
    codes = [run.wait(120) for run in runs]
    assert codes.count(0) == 1
    assert set(codes) == {0, 75}
    assert len(paused.executions()) == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_a_damaged_input_is_not_computed(paused: Place, shell: str) -> None:
    attempt = submitted(paused)
    plan = next(attempt.parent.glob("input-*/plan.txt"))
    plan.chmod(0o600)
    plan.write_text("something else\n")
    assert launch(attempt, shell).wait(60) == 65
    assert "fault=input-damaged" in (attempt / "result").read_text()
    assert paused.executions() == []
    paused("mqi-poll")
    assert paused.rows()["a"]["reason"] == "input-damaged"


@pytest.mark.parametrize("shell", SHELLS)
def test_term_is_recorded_and_the_attempt_is_interrupted(tmp_path: Path, pueued: Pueued, shell: str) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), "sleep 300")
    submitted_with_busy_slots(pueued)
    attempt = submitted(place)
    run = launch(attempt, shell)
    while not place.executions():
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(60) == 143
    assert "signal=TERM" in (attempt / "result").read_text()
    place("mqi-poll")
    assert b'"type":"interrupted"' in place.ledger()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_time_limit_is_kept_although_the_job_ignores_term(tmp_path: Path, pueued: Pueued, shell: str) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), "trap '' TERM; while :; do sleep 1; done")
    place.config.write_text(place.config.read_text().replace('"60s"', '"1s"'))
    submitted_with_busy_slots(pueued)
    attempt = submitted(place)
    run = launch(attempt, shell)
    assert run.wait(60) == -signal.SIGKILL
    assert (attempt / "ending").read_text() == "time limit\n"
    assert not (attempt / "result").exists()
    place("mqi-poll")
    row = place.rows()["a"]
    assert (row["status"], row["reason"]) == ("failed", "time limit")


def test_a_wrapper_that_is_killed_leaves_the_lock_with_its_job(tmp_path: Path, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), "sleep 30")
    attempt, run = forgotten(place, pueued, "dash")
    run.kill()
    run.wait()
    assert subprocess.run(["flock", "-n", str(attempt.parent / "lock"), "true"]).returncode == 1
    for _ in range(3):
        place("mqi-poll")
    assert place.rows()["a"]["status"] == "running"
    os.killpg(run.pid, signal.SIGKILL)


def test_the_job_sees_its_environment_and_its_device(tmp_path: Path, pueued: Pueued) -> None:
    pueued.client("parallel", "2", "-g", "gpu0")
    text = host_text("local", "pueue", "scp", None, pueued).replace("gpu*", "gpu0") + '[hosts.far.devices]\ngpu0 = ["3", "5"]\n'
    place = Place(tmp_path / "site", text, 'env | sort >env.out; ls "$MQI_INPUT" >ls.out')
    for name in "ab":
        place.case(name)
    place.until("completed")
    seen = [(place.results / name / "env.out").read_text().splitlines() for name in "ab"]
    for lines, name in zip(seen, "ab", strict=True):
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        assert values["MQI_ATTEMPT"] == "1"
        assert values["MQI_GROUP"] == "gpu0"
        assert values["CUDA_VISIBLE_DEVICES"] == {"0": "3", "1": "5"}[values["MQI_SLOT"]]
        assert values["MQI_CASE"].startswith(place.rows()[name]["case_id"])
        assert (place.results / name / "ls.out").read_text().split() == ["d", "plan.txt"]


def test_what_does_not_verify_is_not_published(tmp_path: Path) -> None:
    """Somebody swaps a byte in the staging folder while the push is under way: stage it by hand, then push."""
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), JOB)
    place.case("first")
    place("mqi-scan")
    place("mqi-push")
    place.case("a")
    event = place("mqi-scan", "--jsonl").out
    import json

    found = json.loads(event.splitlines()[0])
    files = place.root / "staging" / f"{found['case']}-{found['digest']}" / "files"
    shutil.copytree(place.inbox / "a", files)
    (files / "plan.txt").write_text("PLAN OF A\n"[: (place.inbox / "a" / "plan.txt").stat().st_size].ljust(10)[:10])
    assert (files / "plan.txt").stat().st_size == (place.inbox / "a" / "plan.txt").stat().st_size
    ran = place("mqi-push")
    assert ran.code == 69
    assert "not all of its files verified" in ran.err
    assert not list(place.root.glob(f"cases/{found['case']}/input-*"))
    assert place("mqi-push").code == 0  # only what did not verify travels again
    published = next(place.root.glob(f"cases/{found['case']}/input-*/plan.txt"))
    assert published.read_text() == "plan of a\n"


def test_a_comparison_that_cannot_be_made_is_no_agreement(tmp_path: Path) -> None:
    """Where `comm` dies, nothing is published; and what was published before is not computed."""
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), JOB)
    comm = shutil.which("comm", path="/usr/local/bin:/usr/bin:/bin")

    def without_comm(program: str) -> subprocess.CompletedProcess[str]:
        argv = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "/bin/sh", "-ec", f'mount --bind /bin/false {comm}\nexec "$@"', "sh"]
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.run([*argv, *place.argv(program)], env=env, capture_output=True, text=True, timeout=60, check=False)

    place.case("a")
    place("mqi-scan")
    assert without_comm("mqi-push").returncode == 69
    assert not list(place.root.glob("cases/*/input-*"))
    assert place("mqi-push").code == 0
    without_comm("mqi-submit")
    assert place.until("failed")["a"]["reason"] == "input-damaged"
    assert place.executions() == []


def test_a_label_that_is_in_the_queue_is_not_added_again(tmp_path: Path, pueued: Pueued) -> None:
    """The root was emptied, the queue was not: the task that is there is adopted."""
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), JOB)
    submitted_with_busy_slots(pueued)
    place.case("a")
    for program in ("mqi-scan", "mqi-push"):
        place(program)
    key = next(place.root.glob("cases/*")).name
    pueued.client("add", "-g", "gpu0", f"--label=mqi1:{key}:1", "--", "true")
    place("mqi-submit")
    labels = [task["label"] for task in pueued.state()["tasks"].values()]
    assert labels.count(f"mqi1:{key}:1") == 1


def test_results_with_hostile_names_stay_in_their_place(tmp_path: Path) -> None:
    job = """mkdir -p 'sub dir' && echo 1 >'sub dir/1G180:TX.out' && echo 2 >"$(printf 'esc\\033[31m.out')"; ln -s /etc dir
    ln -s /etc/passwd link.out; echo 3 >'-rf $(touch CANARY) *.out'; echo 4 >'a\\b.out'; echo 5 >"$(printf 'two\\nlines.out')" """
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), job)
    place.case("a")
    place.until("completed")
    names = sorted(str(p.relative_to(place.results / "a")) for p in (place.results / "a").rglob("*") if p.is_file())
    there = ["-rf $(touch CANARY) *.out", "a_b.out", "esc_[31m.out", "mqi-result.json", "sub dir/1G180_TX.out", "two_lines.out"]
    assert names == there
    assert not list(tmp_path.rglob("CANARY"))


def test_jobs_that_end_at_once_have_their_exit_codes(tmp_path: Path) -> None:
    """Forty at once on two cores: a shell may have reaped its job before it waits for it."""
    text = host_text("local", "direct", "scp", None, None).replace("slots = 2", "slots = 40")
    place = Place(tmp_path / "site", text, "true")
    for number in range(40):
        place.case(f"{number:02}")
    rows = place.until("failed")
    assert {row["reason"] for row in rows.values()} == {"the job ended with exit 0 without a result that matches *.out"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_that_let_go_of_the_lock_is_seen_alive_by_its_group(tmp_path: Path, pueued: Pueued, shell: str) -> None:
    """The wrapper is killed, the job has closed what it inherited: only its process group tells that it lives."""
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), "exec 8>&- 9>&-; exec sleep 300")
    attempt, run = forgotten(place, pueued, shell)
    run.kill()
    run.wait()
    time.sleep(2)  # its timer ends with it, and is of the group until then
    assert subprocess.run(["flock", "-n", str(attempt.parent / "lock"), "true"]).returncode == 0
    for _ in range(3):
        place("mqi-poll")
    assert place.rows()["a"]["status"] == "running"
    os.killpg(run.pid, signal.SIGKILL)
    while b'"type":"interrupted"' not in place.ledger():  # in two looks, once nobody is left
        place("mqi-poll")


@pytest.mark.parametrize("shell", SHELLS)
def test_an_input_that_is_gone_is_not_computed(paused: Place, shell: str) -> None:
    attempt = submitted(paused)
    next(path for path in attempt.parent.glob("input-*") if path.is_dir()).rename(attempt.parent / "away")
    assert launch(attempt, shell).wait(60) == 65
    assert "fault=input-damaged" in (attempt / "result").read_text()
    assert paused.executions() == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_wrapper_that_is_killed_leaves_no_timer_that_looks_alive(tmp_path: Path, pueued: Pueued, shell: str) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), "sleep 1")
    _, run = forgotten(place, pueued, shell)
    run.kill()
    run.wait()
    deadline = time.monotonic() + 30  # the time limit is 60 s
    while subprocess.run(["pgrep", "-g", str(run.pid)], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_case_of_two_thousand_files_verifies(tmp_path: Path) -> None:
    """Several processes print their sums into one pipe: no line of them may be torn."""
    place = Place(tmp_path / "site", host_text("local", "direct", "tar", None, None), JOB)
    case = place.case("a")
    for number in range(2000):
        (case / f"layer-{number:04}.ptn").write_text(str(number))
    place("mqi-scan")
    ran = place("mqi-push")
    assert ran.code == 0, ran.err
    assert place.rows()["a"]["status"] == "pushed"


def test_an_input_that_went_away_on_the_host_is_the_reason(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), JOB)
    place.case("a")
    for program in ("mqi-scan", "mqi-push"):
        place(program)
    next(path for path in place.root.glob("cases/*/input-*") if path.is_dir()).rename(tmp_path / "away")
    place("mqi-submit")
    assert "its input is not on the host any more" in place.rows()["a"]["reason"]


def test_a_queue_in_its_default_place_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pueued: Pueued) -> None:
    """pueued as a person starts it: no configuration is named, its socket is in $XDG_RUNTIME_DIR."""
    runtime = pueued.folder / "xdg"
    runtime.mkdir(0o700)
    home = pueued.folder / "home"
    home.mkdir()
    for name, value in (("XDG_RUNTIME_DIR", str(runtime)), ("HOME", str(home))):
        monkeypatch.setenv(name, value)
    daemon = subprocess.Popen(["pueued"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run([pueued.command, "status"], capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        text = host_text("local", "pueue", "scp", None, pueued).replace(f'config = "{pueued.config}"\n', "").replace("gpu*", "default")
        place = Place(tmp_path / "site", text, JOB)
        place.case("a")
        assert place.until("completed")["a"]["pueue_group"] == "default"
    finally:
        daemon.terminate()
        daemon.wait(20)


@pytest.mark.parametrize("locked", ["echo x >locked.out; chmod 0 locked.out", "mkdir d; echo x >d/x.out; chmod 0 d"], ids=["a file", "a folder"])
def test_a_result_that_cannot_be_read_is_not_just_left_out_of_the_list(locked: str, paused: Place) -> None:
    """Without a list of all that came out there is no verdict of success, whatever else came out."""
    attempt = submitted(paused)
    (attempt / "command").write_text(f'cp "$MQI_INPUT/plan.txt" plan.out; {locked}\n')
    as_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    key, number = attempt.parent.name, "1"
    argv = [*as_anybody, "dash", os.path.join(FAR, "mqi-job.sh"), str(paused.root), key, number]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, start_new_session=True, check=False)
    assert " exit= signal= fault=disk-full-or-output-unreadable " in (attempt / "result").read_text()


@pytest.mark.parametrize(("failure", "success", "log", "said"), [
    ("", "", "all good", "end\n"), ("CUDA error", "", "all good", "end\n"), ("CUDA error", "all good", "all good", "end\n"),
    ("CUDA error\nNaN", "done", "a NaN here\nb", "failure a NaN here\nmissing done\nend\n"), ("NaN", "", None, ""), ("", "done", None, ""), ("NaN", "done", None, ""),
])  # fmt: skip
def test_the_markers_have_an_end_only_if_all_of_the_log_was_read(failure: str, success: str, log: str | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir() if log is None else (tmp_path / "log").write_text(f"{log}\n")
    text = f'. {FAR}/mqi-remote.sh; failure=$1 success=$2; marks "$3"'
    for shell in ("dash", "bash"):
        ran = subprocess.run([need(shell), "-c", text, "sh", failure, success, str(tmp_path / "log")], capture_output=True, text=True)
        assert (ran.stdout, ran.returncode == 0) == (said, bool(said)), ran
    if said:
        assert len(readers.marks(said)) == said.count("\n") - 1
    for cut in range(len(said)):
        with pytest.raises(readers.Unreadable):
            readers.marks(said[:cut])


def test_markers_that_the_disk_has_no_room_for_are_no_answer() -> None:
    text = f'. {FAR}/mqi-remote.sh; failure=x success=y; marks {FAR}/mqi-job.sh >/dev/full'
    for shell in ("dash", "bash"):
        assert subprocess.run([need(shell), "-c", text], capture_output=True).returncode
