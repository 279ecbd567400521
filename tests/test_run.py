"""The bounded runner against real processes that misbehave."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO

from mqi_scripts.world.run import run


def alive(pid: int) -> bool:
    """A zombie is not alive: whoever adopted it may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(folder: Path) -> list[int]:
    return [int(word) for word in (folder / "pids").read_text().split()]


def test_what_it_says_comes_back_as_bytes_with_its_exit_code() -> None:
    ran = run(("sh", "-c", "cat; printf '\\377' >&2; exit 3"), seconds=20, stdin=b"\x00\xfe\n")
    assert ran == (3, b"\x00\xfe\n", b"\xff", "")


def test_stdin_is_ours_or_empty_never_the_terminal() -> None:
    assert run(("cat",), seconds=20).out == b""


def test_stdin_and_stdout_can_be_descriptors(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 1_000_000)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        assert run(("cat",), seconds=20, stdin=source.fileno(), stdout=target.fileno()).out == b""
    assert (tmp_path / "out").stat().st_size == 1_000_000


def test_much_on_stdin_and_nobody_reads_it() -> None:
    assert run(("true",), seconds=20, stdin=b"x" * 5_000_000).code == 0


def test_a_child_that_ignores_term_is_killed_at_the_deadline() -> None:
    ran = run(("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"), seconds=1)
    assert (ran.code, ran.out, ran.ended) == (-9, b"ready\n", "deadline")


def test_a_grandchild_that_holds_the_pipe_holds_nobody(tmp_path: Path) -> None:
    ran = run(("sh", "-c", f"sleep 300 & echo $! >{tmp_path}/pids; echo done"), seconds=60)
    assert (ran.code, ran.out, ran.ended) == (0, b"done\n", "")
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_a_grandchild_that_ignores_term_and_holds_the_pipe_is_killed(tmp_path: Path) -> None:
    script = f"(trap '' TERM; while :; do sleep 0.1; done) & echo $! >{tmp_path}/pids; wait"
    assert run(("sh", "-c", script), seconds=1).ended == "deadline"
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_a_grandchild_that_left_the_group_and_holds_the_pipe_holds_nobody(tmp_path: Path) -> None:
    """setsid puts it out of reach; the pipe it keeps is not waited for."""
    ran = run(("sh", "-c", f"setsid sleep 300 & echo $! >{tmp_path}/pids; echo done"), seconds=60)
    assert (ran.code, ran.out, ran.ended) == (0, b"done\n", "")
    for pid in pids(tmp_path):
        os.kill(pid, 9)


def test_an_exception_leaves_nobody_behind(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(("sh", "-c", f"echo $$ >{tmp_path}/pids; sleep 300"), seconds=60, on_tick=stop)
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_a_program_that_is_not_there_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        run(("/no/such/program",), seconds=5)


@pytest.mark.parametrize(
    ("stream", "ended"), [("yes", "stdout limit"), ("yes >&2", "deadline"), ("yes & yes >&2 & (trap '' TERM; yes)", "stdout limit")]
)
def test_endless_output_ends_with_little_memory(stream: str, ended: str) -> None:
    """In a process of its own, whose peak of memory is read when it has ended."""
    code = f"from mqi_scripts.world.run import run\nr = run(('sh', '-c', {stream!r}), seconds=2)\nprint(r.ended, len(r.out), len(r.err))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    ran = subprocess.run([sys.executable, "-c", MEASURE, code], env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True,
                         text=True, timeout=60)  # fmt: skip
    *words, out, err, peak = ran.stdout.split()
    assert " ".join(words) == ended, ran
    assert int(out) <= 16 << 20
    assert int(err) <= 1 << 16
    assert int(peak) < 100 * 1024, before


MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_the_deadline_is_kept_when_the_clock_says_nothing() -> None:
    """Silent and alive: ended at the deadline, not at the next word."""
    start = time.monotonic()
    assert run(("sleep", "300"), seconds=0.5).ended == "deadline"
    assert time.monotonic() - start < 30
