"""A group in which case after case fails gets no more of ours, a job that says nothing is told of, and what queue and process tell differently."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Place, Pueued, Sshd, alive, host_text

from mqi_scripts import words as w
from mqi_scripts.pure import decide, place
from mqi_scripts.pure.evolve import streak
from mqi_scripts.verbs import poll
from mqi_scripts.world.ledger import Ledger

AT = "2026-11-24T08:00:00.000Z"
BECAUSE = ("--reason", "the card was replaced")
CASE = w.Case("a" * 20, "a", w.FAILED, AT, AT, host="far", group="gpu0", attempt=1)


# --- the row of failed cases


def failed(key: str, category: str = "application") -> tuple[w.Case, w.Event]:
    return CASE._replace(key=key), w.Failed(key, AT, 1, "exit 1", category, "computing", 1, "")


def completed(key: str) -> tuple[w.Case, w.Event]:
    return CASE._replace(key=key), w.Completed(key, AT, 1, "d", 1, 1)


@pytest.mark.parametrize(
    ("story", "row"),
    [
        ([failed("a"), failed("b"), failed("c")], ["a", "b", "c"]),
        ([failed("a"), failed("a"), failed("a")], ["a"]),  # one bad case is no bad group
        ([failed("a"), failed("b"), failed("a")], ["b", "a"]),
        ([failed("a"), completed("b"), failed("c")], ["c"]),
        ([failed("a", "system"), failed("b"), failed("c", "system")], ["b"]),
        ([failed("a"), (CASE, w.Succeeded("b", AT, 1, "m", AT, AT)), failed("b")], ["a", "b"]),  # exit 0 with bad results is no good job
        ([failed("a"), failed("b"), (CASE._replace(key="a"), w.Retried("a", AT, "mended", "kim", False))], ["b"]),
        ([failed("a"), (CASE, w.Interrupted("b", AT, 1, "cut off"))], ["a"]),
        ([failed(str(number)) for number in range(300)], [str(number) for number in range(200, 300)]),
    ],
)
def test_only_failures_of_different_cases_without_a_good_one_between_make_a_row(story: list[tuple[w.Case, w.Event]], row: list[str]) -> None:
    keys: list[str] = []
    for case, event in story:
        keys = list(streak(keys, case, event))
    assert keys == row


@pytest.mark.parametrize(("jobs", "groups"), [(3, {"gpu0"}), (2, {"gpu0", "gpu1"}), (4, set()), (0, set())])
def test_a_row_that_is_long_enough_shuts_its_group_of_its_host(jobs: int, groups: set[str]) -> None:
    rows = {"far/gpu0": ["a" * 20, "b" * 20, "c" * 20], "far/gpu1": ["a" * 20, "d" * 20], "far2/gpu2": list("abcdef"), "x/far/gpu3": list("abcdef")}
    bad = place.broken(rows, "far", jobs)
    assert set(bad) == groups
    for group, text in bad.items():
        assert f'`mqi-case release --group {group} --host far --reason "..."`' in text
        assert "d" * w.ID in text or group == "gpu0"


@pytest.mark.parametrize(
    ("running", "bad", "why"),
    [
        ((True, True), {}, ""), ((True, True), {"gpu0": "gpu0 is bad"}, ""), ((True, False), {"gpu0": "gpu0 is bad"}, "gpu0 is bad"),
        ((True, True), {"gpu0": "gpu0 is bad", "gpu1": "gpu1, too"}, "gpu0 is bad; gpu1, too"),
        ((False, False), {"gpu0": "gpu0 is bad"}, "every group of far is paused (gpu0, gpu1): on far, `pueue start -g gpu0 && pueue start -g gpu1`"),
    ],
)  # fmt: skip
def test_why_no_group_takes_a_case(running: tuple[bool, bool], bad: dict[str, str], why: str) -> None:
    groups = tuple(w.Group(f"gpu{number}", 1, runs) for number, runs in enumerate(running))
    assert place.why_none("far", groups, ("gpu*",), ("*",), bad) == why


def test_the_row_is_in_the_fold_and_costs_no_reading_of_old_lines(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    book = Ledger(str(tmp_path), {"script": "t", "host": "h", "pid": 1, "user": "u"})
    for number in range(4):
        key, digest = f"{number:020x}", "d" * 64
        story = [w.Found(key, AT, str(number), digest, 1, 1), w.Pushed(key, AT, "far", digest), w.Submitting(key, AT, 1, digest, "far", "gpu0"),
                 w.Submitted(key, AT, 1, "gpu0", "1"), w.Started(key, AT, 1, "gpu0", "0", "1", AT)]  # fmt: skip
        end = [w.Failed(key, AT, 1, "exit 1", "application", "computing", 1, "")]
        assert len(book.append([*story, *end], AT)) == 6
    row = [f"{number:020x}" for number in range(4)]
    assert book.state().failed == {"far/gpu0": row}
    assert Ledger(str(tmp_path), {}).state().failed == {"far/gpu0": row}
    (tmp_path / "cache" / "fold").unlink()
    again = Ledger(str(tmp_path), {"script": "t", "host": "h", "pid": 1, "user": "u"})
    assert again.state().failed == {"far/gpu0": row}
    again.append([w.Retried(row[1], AT, "mended", "kim", False)], AT)
    assert again.state().failed == {"far/gpu0": [row[0], *row[2:]]}
    again.append([w.Reopened("", AT, "far", "gpu0", "why", "kim")], AT)
    assert again.state().failed == {}


# --- over real parts


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ticked(place: Place, *statuses: str) -> dict[str, dict[str, str]]:
    """Ticks until every case has one of the statuses, or stays pushed."""
    rows: dict[str, dict[str, str]] = {}

    def seen() -> bool:
        place.tick()
        rows.update(place.rows())
        return all(row["status"] in statuses for row in rows.values())

    wait_for(seen)
    return rows


def site(tmp_path: Path, sshd: Sshd, pueued: Pueued, job: str, extra: str = "") -> Place:
    return Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), job, extra)


LIMITS = '[job.groups]\n"s0*" = ["gpu0"]\n"s1*" = ["gpu1"]\n'


def test_three_failed_cases_shut_a_group_and_another_goes_on_until_a_person_opens_it(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, f'[ "$MQI_GROUP" = gpu1 ] || [ -e {tmp_path}/mended ] || exit 3\ncp "$MQI_INPUT/plan.txt" plan.out', LIMITS)
    for name in ("s0a", "s0b", "s0c"):
        place.case(name)
    assert {row["status"] for row in ticked(place, "failed").values()} == {"failed"}
    for name in ("s0d", "s1e"):
        place.case(name)
    rows = ticked(place, "failed", "completed", "pushed")
    for _ in range(2):
        place.tick()
    rows = place.rows()
    assert {name: row["status"] for name, row in rows.items()} == {"s0a": "failed", "s0b": "failed", "s0c": "failed", "s0d": "pushed", "s1e": "completed"}
    assert '"status":"Running"' in pueued.client("status", "--json").replace(" ", "")  # the queue's own group goes on
    text = r'3 cases in a row failed in group gpu0 of far \([0-9a-f]{12}, [0-9a-f]{12}, [0-9a-f]{12}\), so it gets no more: see why, `mqi-case show [0-9a-f]{12}`; once mended'
    assert re.match(text, rows["s0d"]["reason"]), rows["s0d"]
    said = place("mqi-case", "explain", "s0d").out
    assert re.search("helps    mqi-case show [0-9a-f]{12}\n", said)
    assert "needs a person" in said
    assert re.search(text, place("mqi-case", "explain", "s0d", "--look").out)
    report = place("mqi-report")
    assert report.code == 1
    assert re.search(text, report.out.rpartition("\n\n")[2] or report.out)
    body = json.loads(place("mqi-report", "--json").out)
    assert {group["group"]: group["broken"] for group in body["groups"] if group["group"].startswith("gpu")} == {"gpu0": True, "gpu1": False}
    assert any(one["person"] and re.match(text, one["text"]) for one in body["silences"])
    assert re.search(f"warn  far: group gpu0: {text.partition(':')[0]}\n      fix: see why, `mqi-case show [0-9a-f]{{12}}`; once mended, `mqi-case release", place("mqi-check", "--fast", "--host", "far").out)
    # what a person may say wrong
    before = place.ledger()
    for words, wrong in (
        (["--group", "gpu1"], "no group gpu1 is left out for its failed cases; such groups: gpu0 of far"),
        (["--group", "gpu0", "--host", "near"], "such groups: gpu0 of far"),
        ([], "release needs cases, or --group"), (["s0d", "--group", "gpu0"], "release needs cases, or --group"),
    ):  # fmt: skip
        ran = place("mqi-case", "release", *words, *BECAUSE)
        assert (ran.code, wrong in ran.err) == (2, True), ran
    assert "would get cases again" in place("mqi-case", "release", "--group", "gpu0", "--dry-run", *BECAUSE).err
    assert place.ledger() == before
    (tmp_path / "mended").touch()
    ran = place("mqi-case", "release", "--group", "gpu0", *BECAUSE)
    assert (ran.code, "group gpu0 of far gets cases again with the next mqi-submit" in ran.err) == (0, True), ran
    line = json.loads(place.ledger().splitlines()[-1])
    assert (line["type"], line["host"], line["group"], line["reason"]) == ("reopened", "far", "gpu0", BECAUSE[1])
    assert line["who"]
    assert "lets cases go to group gpu0 of far again: the card was replaced" in place("mqi-report", "--changes").out
    assert place("mqi-ledger", "verify").code == 0
    assert ticked(place, "failed", "completed")["s0d"]["status"] == "completed"
    assert "in a row failed" not in place("mqi-report").out


def test_a_good_job_of_what_was_queued_already_opens_the_group(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    job = f'grep -q good "$MQI_INPUT/plan.txt" || exit 3\nuntil [ -e {tmp_path}/go ]; do sleep 0.1; done\ncp "$MQI_INPUT/plan.txt" plan.out'
    place = site(tmp_path, sshd, pueued, job, '[breaker]\njobs = 2\n[job.groups]\n"*" = ["gpu0"]\n')
    place.case("xa")
    place.case("xb")
    place.case("xc", "good\n")
    place("mqi-scan")
    place("mqi-push")
    assert place("mqi-submit").code == 0
    assert {row["status"] for row in place.rows().values()} <= {"submitted", "pushed"}  # of one that had begun at its look mqi-poll tells
    wait_for(lambda: [row["status"] for row in (place.tick(), place.rows())[1].values()].count("failed") == 2)
    place.case("xd", "good too\n")
    for _ in range(2):
        place.tick()
    rows = place.rows()
    assert (rows["xc"]["status"], rows["xd"]["status"]) == ("running", "pushed")
    assert rows["xd"]["reason"].startswith("2 cases in a row failed in group gpu0 of far")
    (tmp_path / "go").touch()
    rows = ticked(place, "failed", "completed")
    assert (rows["xc"]["status"], rows["xd"]["status"]) == ("completed", "completed")
    assert Ledger(str(place.state), {}).state().failed == {}


# --- a job that says nothing any more

BEGUN = w.Trace(True, "begun", True, False, {"log": "700", "age": "100"}, {}, "", "", "d")
RUNS = CASE._replace(status=w.RUNNING, digest="d", open=True)


def looked(trace: w.Trace, *tasks: w.Task) -> w.Look:
    return w.Look({RUNS.label: trace}, tasks, (), "", ())


@pytest.mark.parametrize(
    ("trace", "mark", "expected"),
    [
        (BEGUN, (), (1, 700, 100, 100)),
        (BEGUN, [1, 700, 40, 90], (1, 700, 40, 100)),
        (BEGUN, [1, 699, 40, 90], (1, 700, 100, 100)),  # it grew
        (BEGUN, [2, 700, 40, 90], (1, 700, 100, 100)),  # of another attempt
        (BEGUN, [1, 700, 140, 190], (1, 700, 100, 100)),  # of a life before
        (BEGUN._replace(held=False, alive=True), [1, 700, 40, 90], (1, 700, 40, 100)),
        (BEGUN._replace(held=False), [1, 700, 40, 90], ()),  # nothing of it lives
        (BEGUN._replace(result={"exit": "0"}), [1, 700, 40, 90], ()),
        (BEGUN._replace(status={"log": "", "age": "100"}), [1, 700, 40, 90], ()),  # there is no log
        (BEGUN._replace(status={"log": "700", "age": ""}), [1, 700, 40, 90], ()),  # another boot
        (BEGUN._replace(status={}), [1, 700, 40, 90], ()),
        (BEGUN._replace(digest="other"), [1, 700, 40, 90], ()),  # not the ledger's attempt
    ],
)
def test_how_long_a_log_has_had_its_size(trace: w.Trace, mark: list[int], expected: tuple[int, ...]) -> None:
    assert tuple(decide.still(RUNS, looked(trace), mark)) == expected


def test_a_silent_job_is_told_with_what_helps_and_nothing_happens_to_it(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, "echo begun; sleep 600")
    place.config.write_text(place.config.read_text().replace('time_limit = "60s"', 'time_limit = "1h"\nsilent_limit = "2s"'))
    place.case("xa")
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    sessions = sshd.sessions()
    wait_for(lambda: place("mqi-poll").code == 0 and "job.silent_limit" in place.rows()["xa"]["reason"])
    row, before = place.rows()["xa"], place.ledger()
    assert row["status"] == "running"
    assert re.match(r"it seems to hang: nothing new in its log for 0:00:\d\d \(job.silent_limit is 0:00:02\): read \S+/job.log on \S+; if it does hang, `mqi-case cancel ", row["reason"])
    said = place("mqi-case", "explain", "xa").out
    assert "needs a person" in said
    assert re.search(r'helps    mqi-case cancel [0-9a-f]{12} --reason "..."', said)
    polls = sshd.sessions()
    place("mqi-poll")
    assert (sshd.sessions(), place.ledger()) == (polls + 1, before)
    assert polls > sessions
    with next(place.root.glob("cases/*/attempt-1/job.log")).open("a") as log:
        log.write("it goes on\n")
    place("mqi-poll")
    assert place.rows()["xa"]["reason"] == ""
    place("mqi-case", "cancel", "xa", *BECAUSE)
    wait_for(lambda: place("mqi-poll").code == 0 and place.rows()["xa"]["status"] == "cancelled")


def test_a_silent_job_is_ended_where_the_site_says_so_and_a_talking_one_is_not(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    job = f'grep -q mute "$MQI_INPUT/plan.txt" && sleep 600\nuntil [ -e {tmp_path}/go ]; do echo on; sleep 0.2; done\ncp "$MQI_INPUT/plan.txt" plan.out'
    place = site(tmp_path, sshd, pueued, job)
    text = place.config.read_text().replace('time_limit = "60s"', 'time_limit = "1h"\nsilent_limit = "4s"\nsilent_end = true')
    place.config.write_text(text)
    place.case("xa", "mute\n")
    place.case("xb", "talks\n")
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    wait_for(lambda: (place("mqi-poll"), place.rows()["xa"]["status"])[1] == "failed")
    rows = place.rows()
    assert (rows["xa"]["reason"], rows["xa"]["category"]) == (decide.SILENT, "application")
    assert "the same once more can help" in rows["xa"]["next"]
    assert rows["xb"]["status"] == "running"
    attempts = {path.read_text().split()[0].split(":")[1][:12]: path for path in place.root.glob("cases/*/attempt-1/status")}
    assert alive(int(attempts[rows["xa"]["case_id"]].read_text().split()[1])) == []
    assert (attempts[rows["xa"]["case_id"]].parent / "ending").read_text() == f"{decide.SILENT}\n"
    (tmp_path / "go").touch()
    assert ticked(place, "failed", "completed")["xb"]["status"] == "completed"


# --- queue and process tell differently

WAITS, ITS = w.Task("7", RUNS.label, "gpu0", "waiting"), w.Task("7", RUNS.label, "gpu0", "running")


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (looked(BEGUN, ITS), ""),
        (looked(BEGUN), "its processes live, and the queue of far has no task of it any more: they run on, and their result counts"),
        (looked(BEGUN, ITS._replace(state="ended")), "they run on"),
        (looked(BEGUN._replace(held=False, alive=True), ITS._replace(label="mqi1:x:1")), "they run on"),
        (looked(BEGUN._replace(held=False), ITS), "its processes are gone, and the queue of far still has its task: on far, `pueue kill 7`"),
        (looked(BEGUN._replace(held=False), WAITS), "`pueue remove 7`"),
        (looked(BEGUN._replace(held=False)), ""),
        (looked(BEGUN._replace(held=False, result={"exit": "0"}), ITS), ""),
        (looked(BEGUN._replace(claim="none"), WAITS), ""),
        (looked(BEGUN)._replace(tasks=None, trouble="no answer"), ""),
        (w.Look({}, (), (), "", ()), ""),
    ],
)
def test_what_queue_and_process_tell_differently_is_a_sentence(look: w.Look, said: str) -> None:
    text = poll.odd(RUNS, look, "far")
    assert said in text
    assert bool(text) == bool(said)


def begun(place: Place, name: str) -> int:
    """A case that runs: its process group."""
    place.case(name)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    wait_for(lambda: [*place.root.glob("cases/*/attempt-1/status")])
    place("mqi-poll")
    assert place.rows()[name]["status"] == "running"
    return int(next(place.root.glob("cases/*/attempt-1/status")).read_text().split()[1])


def test_a_process_that_its_queue_does_not_know_any_more_is_told_and_left_to_run(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, f'until [ -e {tmp_path}/go ]; do sleep 0.1; done; cp "$MQI_INPUT/plan.txt" plan.out')
    begun(place, "xa")
    pueued.wipe()
    pueued.start()
    pueued.groups(gpu0=1, gpu1=1)
    place("mqi-poll")
    row = place.rows()["xa"]
    assert (row["status"], row["reason"]) == ("running", "its processes live, and the queue of far has no task of it any more: they run on, and their result counts")
    assert f"why      {row['reason']}" in place("mqi-case", "explain", "xa").out
    (tmp_path / "go").touch()
    row = ticked(place, "completed")["xa"]
    assert (row["attempt"], row["reason"]) == (1, "")


def test_a_task_whose_processes_are_gone_is_told_with_the_command_that_ends_it(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, 'sleep 600; cp "$MQI_INPUT/plan.txt" plan.out')
    group = begun(place, "xa")
    label = "mqi1:" + next(place.root.glob("cases/*")).name + ":1"
    pueued.client("parallel", "2", "-g", "gpu0")
    pueued.client("parallel", "2", "-g", "gpu1")
    pueued.client("add", f"--label={label}", "-g", place.rows()["xa"]["pueue_group"], "--", "sleep 601")  # as `pueue restart` would leave it
    wait_for(lambda: pueued.client("status", "--json").count('"Running"') >= 2)  # noqa: PLR2004
    os.killpg(group, 9)
    wait_for(lambda: alive(group) == [])

    def told() -> bool:
        place("mqi-poll")
        return "its processes are gone" in place.rows()["xa"]["reason"]

    wait_for(told)
    row = place.rows()["xa"]
    assert row["status"] == "running"
    task = re.search(r"its processes are gone, and the queue of far still has its task: on far, `\S*pueue -c \S+ kill (\d+)`", row["reason"])
    assert task, row
    assert re.search(rf"helps    \S*pueue (-c \S+ )?kill {task[1]}   # on far", place("mqi-case", "explain", "xa").out)
    pueued.client("kill", task[1])

    def goes_on() -> bool:
        place("mqi-poll")
        return bool(place.rows()["xa"]["status"] == "pushed")

    wait_for(goes_on)
    assert "cut off" in place.rows()["xa"]["reason"]
