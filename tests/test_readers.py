"""Foreign bytes to values: what pueue, sha256sum and a session really said (tests/data, recorded), and what nobody should say."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from conftest import need

from mqi_scripts import words as w
from mqi_scripts.pure import readers
from mqi_scripts.verbs import poll
from mqi_scripts.world.host import FAR

DATA = Path(__file__).parent / "data"
VERSIONS = ("4.0.4", "3.4.1")
LABEL = "mqi1:3fa9c1:1"


def recorded(version: str, name: str) -> str:
    return (DATA / f"pueue-{version}-{name}.json").read_text()


def tasks(version: str, name: str) -> dict[str, w.Task]:
    return {task.id: task for task in readers.pueue(recorded(version, name), {})[0]}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_state_of_a_task_is_understood(version: str) -> None:
    states = [task.state for task in tasks(version, "status-all-states").values()]
    assert states == ["ended"] * 5 + ["running"] * 2 + ["waiting"] * 3 + ["ended"]
    labels = [task.label for task in tasks(version, "status-all-states").values()]
    assert labels == [f"mqi1:{number:06x}:1" for number in range(1, 11)] + [""]
    assert {task.state for task in tasks(version, "status-locked").values()} == {"waiting"}
    assert {task.state for task in tasks(version, "status-after-daemon-sigkill").values()} == {"ended", "waiting"}


@pytest.mark.parametrize("version", VERSIONS)
def test_groups_slots_and_pauses_are_understood(version: str) -> None:
    groups = {group.name: group for group in readers.pueue(recorded(version, "status-all-states"), {})[1]}
    assert groups == {"default": w.Group("default", 1, True), "gpu0": w.Group("gpu0", 9, True), "gpu1": w.Group("gpu1", 1, False)}
    assert not {g.name: g.running for g in readers.pueue(recorded(version, "status-group-paused"), {})[1]}["gpu0"]
    assert readers.pueue(recorded(version, "status-empty"), {}) == ((), (w.Group("default", 1, True),))


@pytest.mark.parametrize("version", VERSIONS)
def test_labels_are_compared_whole_whatever_strangers_put_into_theirs(version: str) -> None:
    ours = [task.id for task in tasks(version, "status-hostile").values() if task.label == LABEL]
    assert ours == ["0"]
    assert len(tasks(version, "status-hostile")) == 8
    assert [task.label for task in tasks(version, "status-duplicate-label-after-restart").values()] == [LABEL] * 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_far_side_finds_a_label_only_in_what_says_so(version: str, shell: str, tmp_path: Path) -> None:
    """find_label of mqi-remote over recorded answers: 0 found, 1 absent, 2 unknown."""
    program = (Path(FAR) / "mqi-remote.sh").read_text()
    failures = {case["situation"]: case for case in json.loads(recorded(version, "failures"))}
    stopped = failures["daemon stopped: no socket"]
    cases = [
        ("status-hostile-query", LABEL, 0, 0), ("status-query-found-two", LABEL, 0, 0), ("status-query-found", "mqi1:7b20de:1", 0, 0),
        ("status-query-absent", LABEL, 0, 1), ("status-groups", LABEL, 0, 1), ("status-query-found", LABEL, 0, 2),
        ("status-query-absent", LABEL, stopped["rc"], 2),
    ]  # fmt: skip
    for name, label, code, expected in cases:
        script = f'{program}\npq() {{ cat "$0"; return {code}; }}\nengine=pueue\nfind_label "$1"'
        argv = [need(shell), "-c", script, str(DATA / f"pueue-{version}-{name}.json"), label]
        assert subprocess.run(argv, capture_output=True).returncode == expected, (name, label)
    for text in ("", "[]", "{}", "null", stopped["stderr"], recorded(version, "status-empty")[:30]):
        (tmp_path / "said").write_text(text)
        script = f'{program}\npq() {{ cat "$0"; }}\nengine=pueue\nfind_label "$1"'
        assert subprocess.run([need(shell), "-c", script, str(tmp_path / "said"), LABEL], capture_output=True).returncode == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_failing_queue_says_is_trouble_and_no_task_list(version: str) -> None:
    for case in json.loads(recorded(version, "failures")):
        if "status" not in case["argv"] or case["rc"] == 0:
            continue
        said = " ".join((case["stdout"] + case["stderr"]).split())
        look = readers.look(readers.Answer((("queue", said, str(case["rc"])),), "", 0), "pueue", "/r")
        assert look.tasks is None
        assert look.groups == ()
        assert look.trouble
        assert look.trouble.isprintable()
        assert "[91m" not in look.trouble


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"x"', "{}", '{"tasks":{}}', '{"tasks":[],"groups":{}}', '{"tasks":{"0":3},"groups":{}}',
     '{"tasks":{"0":{"id":"0"}},"groups":{}}', '{"tasks":{},"groups":{"g":{}}}', '{"tasks":{},"groups":{"g":3}}',
     '{"tasks":{},"groups":{"g":{"parallel_tasks":-1}}}', "[" * 100_000, '{"tasks":{},"groups":{"g":{"parallel_tasks":true}}}'],
)  # fmt: skip
def test_garbage_from_the_queue_is_unknown(text: str) -> None:
    with pytest.raises(readers.Unreadable):
        readers.pueue(text, {})
    assert readers.look(readers.Answer((("queue", text, "0"),), "", 0), "pueue", "/r").tasks is None


@pytest.mark.parametrize("status", ['"Sleeping"', '{"Done":{"result":"Vanished"}}', '{"Done":3}', "null", "3", "{}", '{"New":{}}'])
def test_an_unknown_word_of_a_task_is_unknown_and_lives(status: str) -> None:
    text = '{"tasks":{"0":{"id":0,"label":"L","group":"g","status":?}},"groups":{"g":{"parallel_tasks":1}}}'.replace("?", status)
    ((task,), _) = readers.pueue(text, {})
    assert (task.id, task.label, task.state) == ("0", "L", "unknown")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cut_or_flipped_answer_is_never_a_shorter_list(version: str) -> None:
    """A session is framed and over ssh it is not flipped; all the same: no cut of the JSON reads as fewer tasks."""
    whole = recorded(version, "status-all-states").strip()
    for size in range(len(whole)):
        with pytest.raises(readers.Unreadable):
            readers.pueue(whole[:size], {})


NONCE = "0123456789abcdef"


def framed(body: str, code: int = 0) -> bytes:
    return f"MQI-BEGIN {NONCE}\n{body}MQI-END {NONCE} {code}\n".encode()


def test_a_session_is_what_stands_between_its_markers() -> None:
    said = readers.answer(b"Welcome!\nMQI-BEGIN other\n" + framed("root\t-\nnote\ta b\nlogs\n==> x <==\n") + b"bye\n", NONCE)
    assert said == readers.Answer((("root", "-"), ("note", "a b")), "==> x <==\n", 0, b"Welcome!\nMQI-BEGIN other\n")
    assert readers.answer(framed("", 75), NONCE).code == 75


def test_a_session_without_its_end_is_no_evidence() -> None:
    whole = framed("root\t-\nroom\t12\n")
    for size in range(len(whole) - 1):
        with pytest.raises(readers.Unreadable):
            readers.answer(whole[:size], NONCE)
    for text in (b"", framed("x")[::-1], whole.replace(NONCE.encode(), b"another")):
        with pytest.raises(readers.Unreadable):
            readers.answer(text, NONCE)


def test_random_bytes_never_become_a_task_or_a_trace() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        noise = bytes(chance.choice(b'\t\n {}":,0123mqiattemptqueue\xff\x00') for _ in range(chance.randrange(80)))
        said = readers.answer(framed("")[:27] + noise + b"\n" + framed("")[27:], NONCE)
        look = readers.look(said, "pueue", "/r")
        assert look.tasks is None
        assert look.trouble


def test_tails_go_to_the_attempts_whose_logs_they_are() -> None:
    lines = tuple(("attempt", f"mqi1:k{n}:1", "1", "begun", "1", "0", "5", "group=g slot=0", "", "", "") for n in range(3))
    logs = "==> /r/cases/k0/attempt-1/job.log <==\nzero\n\n==> /r/cases/k2/attempt-1/job.log <==\n" \
           "==> /r/cases/k0/attempt-1/job.log <==\nnot a header of ours\n\x1b[2J\n"  # fmt: skip
    look = readers.look(readers.Answer(lines, logs, 0), "direct", "/r")
    assert look.traces["mqi1:k0:1"].tail == "zero"
    assert look.traces["mqi1:k1:1"].tail == ""
    assert "\x1b" not in look.traces["mqi1:k2:1"].tail
    assert look.traces["mqi1:k2:1"].tail.endswith("\\x1b[2J")


def test_manifests_are_those_of_sha256sum(tmp_path: Path) -> None:
    names = ["a", "b c", "d/e", "-n", "back\\slash", "new\nline", "한글", "*", "tab\t"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    listed = subprocess.run(["sh", "-c", "find . -type f -print0 | xargs -0 sha256sum"], cwd=tmp_path, capture_output=True, text=True)
    sums = readers.manifest(listed.stdout)
    assert set(sums) == set(names)
    plain = {name: digest for name, digest in sums.items() if name.isprintable() and "\\" not in name}
    assert readers.manifest(readers.write_manifest(plain.items()).decode()) == plain


@pytest.mark.parametrize(
    "line",
    ["", "x", f"{'0' * 64}  /etc/passwd", f"{'0' * 64}  ../up", f"{'0' * 64}  a/../../b", f"{'0' * 64} a", f"{'0' * 63}  a",
     f"{'G' * 64}  a", f"{'0' * 64}  a\n{'0' * 64}  a", f"\\{'0' * 64}  a\\/../x", f"{'0' * 64}  "],
)  # fmt: skip
def test_manifests_of_nobody_are_refused(line: str) -> None:
    with pytest.raises(readers.Unreadable):
        readers.manifest(line + "\n")


@pytest.mark.parametrize(
    ("tail", "pattern", "expected"),
    [
        ("Generating particles for (3 of 12 batches)\n", r"\((\d+) of (\d+) batches\)", ("25%", "Generating particles for (3 of 12 batches)")),
        ("1 %\n57 %\nlast\n", r"(\d+) %", ("57%", "last")), ("x\n", "", ("", "x")), ("", r"(\d+)", ("", "")),
        ("(1 of 0)", r"(\d+) of (\d+)", ("", "(1 of 0)")), ("none", r"(\d+) of (\d+)", ("", "none")),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_log(tail: str, pattern: str, expected: tuple[str, str]) -> None:
    assert poll.progress(tail, pattern) == expected
