"""The queue: its daemon killed, stopped, on a full disk or without its state, its answers lost or wrong, and people at it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import laws
import pytest
from conftest import Place, Pueued, Sshd, host_text, queueing
from relay import Relay

SLOW = 'sleep 0.2; cp "$MQI_INPUT/plan.txt" plan.out'
GATED = 'until [ -e "$MQI_INPUT/../../../../go" ]; do sleep 0.1; done; cp "$MQI_INPUT/plan.txt" plan.out'  # <site>/go
SLOWER = 'sleep 2; cp "$MQI_INPUT/plan.txt" plan.out'


@pytest.fixture
def relay(pueued: Pueued) -> Relay:
    return Relay(pueued)


def site(folder: Path, sshd: Sshd, pueued: Pueued, work: str = SLOW, relay: Relay | None = None) -> Place:
    """Over ssh and pueue, with a job that tells of a second one alive, and canaries."""
    text = host_text("ssh", "pueue", "scp", sshd, pueued)
    if relay:
        text = text.replace(f'"{pueued.command}"', f'"{relay.command}"')
    place = Place(folder / "site", text, laws.job(folder / "site", work))
    laws.plant(place)
    return place


def submitted(place: Place, names: str, begun: int = 0) -> None:
    """These cases in the queue, so many of their jobs begun, and seen."""
    for name in names:
        place.case(name)
    for program in laws.LINE[:3]:
        place(program)
    until(lambda: len(place.executions()) >= begun)
    place("mqi-poll")


def until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lawful(place: Place, *statuses: str) -> dict[str, dict[str, Any]]:
    """The line until all cases have one of the statuses; then every law."""
    rows = place.until(*statuses or ["completed"])
    assert laws.broken(place) == []
    return rows


def labelled(pueued: Pueued, state: str) -> list[tuple[str, str]]:
    """Ids and labels of our tasks in that state."""
    tasks = pueued.state()["tasks"]
    return [(number, task["label"]) for number, task in tasks.items() if task["label"] and next(iter(task["status"])) == state]


# --- what it says


NONSENSE = {
    "not JSON": "Nothing found", "a list": "[]", "a number": "1", "null": "null", "nothing": "", "no groups": '{"tasks":{}}', "cut off": '{"tasks":{"0":{"id":0,',
    "NaN": '{"tasks":{"0":{"id":NaN,"label":"mqi1:LABEL:1","status":"Queued","group":"gpu0"}},"groups":{"gpu0":{"status":"Running","parallel_tasks":1}}}',
    "NaN beside": '{"tasks":{},"groups":{"gpu0":{"status":"Running","parallel_tasks":1}},"x":NaN}', "a key twice": '{"tasks":{},"groups":{},"tasks":{}}',
    "true as an id": '{"tasks":{"0":{"id":true,"label":"mqi1:LABEL:1","status":"Queued","group":"gpu0"}},"groups":{}}',
    "tasks in a list": '{"tasks":[],"groups":{}}', "deep": '{"tasks":' + "[" * 100_000, "a huge number": '{"tasks":{},"groups":{"g":{"parallel_tasks":1e999}}}',
    "negative slots": '{"tasks":{},"groups":{"gpu0":{"status":"Running","parallel_tasks":-1}}}',
    "many digits": '{"tasks":{"0":{"id":' + "9" * 5000 + '}},"groups":{}}', "tabs and newlines": '{"tasks":\t{},\n"groups":{},\n', "escapes": "\x1b]0;evil\x07\x1b[2J",
    "our own markers": "MQI-END x 0\nroot\tevil 1 x\nMQI-BEGIN y",
}  # fmt: skip


def test_an_answer_that_makes_no_sense_decides_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued, relay: Relay) -> None:
    """Each of them at submit and at poll, with a job that runs and one that waits."""
    place = site(tmp_path, sshd, pueued, GATED, relay)
    submitted(place, "a", begun=1)
    place.case("b")
    for program in laws.LINE[:2]:
        place(program)
    for kind, said in NONSENSE.items():
        relay.set("say", said.replace("LABEL", next(place.root.glob("cases/*")).name))
        for program in ("mqi-submit", "mqi-poll"):
            ran = place(program)
            assert ran.code == 69, (kind, ran)
            assert "queue of far does not answer" in ran.err, kind
            assert ran.err.replace("\n", "").isprintable(), kind
    assert {name: row["status"] for name, row in place.rows().items()}["b"] == "pushed"
    relay.set("")
    (place.folder / "go").touch()
    rows = lawful(place)
    assert {row["attempt"] for row in rows.values()} == {1}


def test_a_gigabyte_of_an_answer_is_cut_off_and_decides_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued, relay: Relay) -> None:
    place = site(tmp_path, sshd, pueued, GATED, relay)
    submitted(place, "a", begun=1)
    relay.set("gigabyte")
    before = place.ledger()
    argv = ["/bin/sh", "-c", 'ulimit -v 1000000; exec "$@"', "sh", *place.argv("mqi-poll")]  # it must not take it all in
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (ran.returncode, place.ledger()) == (69, before), ran.stderr
    relay.set("")
    (place.folder / "go").touch()
    lawful(place)


# --- its daemon


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_killed_while_tasks_run_and_wait(tmp_path: Path, sshd: Sshd, pueued: Pueued, end: int) -> None:
    place = site(tmp_path, sshd, pueued, SLOWER)
    submitted(place, "abcdef", begun=2)
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
    rows = lawful(place)
    runs = [line.split()[0] for line in place.executions()]
    if end == signal.SIGKILL:  # its jobs lived on
        assert len(runs) == len(rows)
    else:  # its jobs were killed: interrupted, and followed by a new attempt
        assert sum(row["attempt"] == 2 for row in rows.values()) >= 1


def test_a_daemon_that_stops_as_a_task_is_added_adds_it_once(tmp_path: Path, sshd: Sshd, pueued: Pueued, relay: Relay) -> None:
    """SIGSTOP: it accepts and never answers, so that nobody knows what became of the add, nor of anything else."""
    assert pueued.daemon
    place = site(tmp_path, sshd, pueued, relay=relay)
    place.case("a")
    for program in laws.LINE[:2]:
        place(program)
    relay.set("stop")
    ran = place("mqi-submit")
    assert ran.code == 69, ran.err
    assert "queue of far does not answer" in ran.err
    pueued.daemon.send_signal(signal.SIGCONT)
    assert lawful(place)["a"]["attempt"] <= 2
    assert len(place.executions()) == 1


@pytest.mark.whole
def test_a_daemon_that_is_stopped_decides_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    assert pueued.daemon
    place = site(tmp_path, sshd, pueued, SLOWER)
    submitted(place, "abc", begun=1)
    place.case("d")
    pueued.daemon.send_signal(signal.SIGSTOP)
    for program in laws.LINE:
        assert place(program).code == (69 if program in ("mqi-submit", "mqi-poll") else 0), program
    pueued.daemon.send_signal(signal.SIGCONT)
    assert {row["attempt"] for row in lawful(place).values()} == {1}


@pytest.mark.parametrize("loss", ["wiped", "unreadable"])
def test_a_queue_without_its_state_costs_no_case_and_no_second_execution(tmp_path: Path, sshd: Sshd, pueued: Pueued, loss: str) -> None:
    place = site(tmp_path, sshd, pueued, SLOWER)
    submitted(place, "abcdef", begun=2)
    if loss == "wiped":
        pueued.wipe()
    else:
        pueued.signal(signal.SIGKILL)
        (pueued.folder / "data" / "state.json").write_text('{"garbage')
    pueued.start()
    ran = place("mqi-poll")
    assert ran.code == 0, ran.err
    pueued.client("add", "--", "sleep 600")  # the ids begin again, and this one is a stranger's
    pueued.groups(gpu0=1, gpu1=1)
    rows = lawful(place)
    first = {line.split()[0] for line in place.executions() if line.split()[1] == "1"}
    for row in rows.values():  # who had begun was left alone; who had not got a new attempt, once
        claimed = any(key.startswith(row["case_id"]) for key in first)
        assert row["attempt"] == (1 if claimed else 2), (row, place.executions())


def test_a_queue_on_a_full_disk_loses_nothing_and_starts_nothing_twice(tmp_path: Path, sshd: Sshd) -> None:
    """Its state lies on a small file system of its own, which fills up: pueue then kills its jobs, and itself."""
    with queueing(small="2m") as pueued:
        assert pueued.daemon
        place = site(tmp_path, sshd, pueued, SLOWER)
        submitted(place, "abc", begun=2)
        data = Path(f"/proc/{pueued.daemon.pid}/root{pueued.folder}/data")
        subprocess.run(["dd", "if=/dev/zero", f"of={data}/filler", "bs=1k"], capture_output=True)
        place.case("d")
        for _ in range(2):
            place.tick()
        assert place.rows()["d"]["status"] in ("pushed", "submitted")
        kept = {path.name: path.read_bytes() for path in data.glob("*.json")} if data.exists() else {}
        if pueued.daemon.poll() is None:
            pueued.signal(signal.SIGKILL)
        pueued.small = ""
        for name, content in kept.items():
            (pueued.folder / "data" / name).write_bytes(content)
        pueued.start()
        pueued.groups(gpu0=1, gpu1=1)
        for group in ("gpu0", "gpu1"):
            pueued.client("start", "-g", group)
        lawful(place)


def test_a_job_that_is_killed_is_interrupted_and_done_again(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, '[ "$MQI_ATTEMPT" -gt 1 ] || sleep 60; cp "$MQI_INPUT/plan.txt" plan.out')
    submitted(place, "a", begun=1)
    pueued.client("kill", "--signal", "sigkill", "0")
    assert lawful(place)["a"]["attempt"] == 2
    assert b'"type":"interrupted"' in place.ledger()


# --- people at it


def test_people_who_remove_restart_relabel_and_swap_our_tasks_cost_no_second_execution(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued, SLOWER)
    submitted(place, "abcdefgh", begun=2)
    (gone, _), (other, _), (one, _), (two, _), *_ = labelled(pueued, "Queued")
    pueued.client("remove", gone)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i \'s/^label = .*/label = "mqi1:somebody:1"/\' "$1"\n')
    editor.chmod(0o755)
    subprocess.run([pueued.command, "-c", pueued.config, "edit", other], env={**os.environ, "EDITOR": str(editor)}, check=True, capture_output=True)
    assert "mqi1:somebody:1" in [label for _, label in labelled(pueued, "Queued")]
    pueued.client("switch", one, two)
    until(lambda: labelled(pueued, "Done"))
    pueued.client("restart", "--immediate", labelled(pueued, "Done")[0][0])
    pueued.client("start", labelled(pueued, "Queued")[-1][0])  # at once, past the slots of its group
    rows = lawful(place)
    assert sorted(row["attempt"] for row in rows.values())[-1] == 2  # what was removed was revoked
    assert len(place.executions()) == 8


def test_a_strangers_task_with_our_label_is_waited_for_and_never_taken_for_ours(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued)
    place.case("a")
    for program in laws.LINE[:2]:
        place(program)
    key = next(place.root.glob("cases/*")).name
    pueued.client("add", "-g", "gpu0", f"--label=mqi1:{key}:1", "--", "sleep 2; touch CANARY-of-the-stranger-is-his-own-affair; rm CANARY*")
    place("mqi-submit")
    assert place.executions() == []
    assert lawful(place)["a"]["attempt"] == 2
    assert [line.split()[1] for line in place.executions()] == ["2"]


def test_hostile_tasks_of_others_change_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """Labels, commands, groups and environments that look like ours, or like what we read, or like something to execute."""
    place = site(tmp_path, sshd, pueued)
    place.case("a")
    for program in laws.LINE[:2]:
        place(program)
    key = next(place.root.glob("cases/*")).name
    ours = f"mqi1:{key}:1"
    labels = [f" {ours}", f"{ours} ", f"{ours}0", ours.upper(), f"{ours}\n", f'{ours}","status":"Running', f"{ours}\t1\tbegun", "$(touch CANARY-1)", "`touch CANARY-2`",
              "'; touch CANARY-3 #", '"}},"groups":{}}', "\x1b[2J\x1b]0;x\x07", "MQI-END x 0", "x" * 100_000, "", "한글", "\u202e" + ours]  # fmt: skip
    for label in labels:
        pueued.client("add", "-s", "-g", "gpu1", f"--label={label}", "--", f"true {ours} '{{\"label\":\"{ours}\"}}'")
    env = {**os.environ, "label": ours, "MQI_CASE": key, "x": f'"label":"{ours}"'}
    subprocess.run([pueued.command, "-c", pueued.config, "add", "-s", "--", "true"], env=env, check=True, capture_output=True)
    for group in (f"gpu; touch {tmp_path}/CANARY-4", "gpu*", "gpu0 1", "gpu\t9"):
        pueued.client("group", "add", group)
    rows = lawful(place)
    assert (rows["a"]["attempt"], rows["a"]["pueue_group"]) == (1, "gpu0")
    assert len(pueued.state()["tasks"]) == len(labels) + 2
    assert not [path for where in (place.root, pueued.folder) for path in where.rglob("CANARY*")]
