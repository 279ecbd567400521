"""The one bounded runner of processes: a deadline, limits for what they say, and nobody of their group left over."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

GRACE = 2.0  # seconds between TERM and KILL
DRAIN = 0.3  # seconds for what a dead child's pipe still holds, when somebody else keeps the pipe open
CHUNK = 1 << 16


class Ran(NamedTuple):
    """What became of a process. ended: "" by itself, else `deadline` or `stdout limit`. err is cut at its limit."""

    code: int
    out: bytes
    err: bytes
    ended: str


def run(
    argv: Sequence[str], *, seconds: float, stdin: bytes | int = b"", stdout: int | None = None, most: int = 16 << 20,
    most_err: int = 1 << 16, env: Mapping[str, str] | None = None, on_tick: Callable[[], None] | None = None,
) -> Ran:  # fmt: skip
    """Run to its end or to a limit; stdin is ours or a descriptor, stdout is collected or goes to a descriptor.

    The whole process group gets TERM, then KILL, at the deadline (monotonic clock) and on any exception. Raises OSError.
    """
    give = stdin if isinstance(stdin, int) else subprocess.PIPE
    child = subprocess.Popen(  # noqa: S603  # an argument tuple, no shell
        argv, stdin=give, stdout=subprocess.PIPE if stdout is None else stdout, stderr=subprocess.PIPE, env=env,
        start_new_session=True, close_fds=True, bufsize=0,
    )  # fmt: skip
    said: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    try:
        text = stdin if isinstance(stdin, bytes) else b""
        ended = _talk(child, text, said, time.monotonic() + seconds, (most, most_err), on_tick)
    finally:
        _end_group(child)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    return Ran(child.returncode, bytes(said["out"]), bytes(said["err"]), ended)


def _talk(
    child: subprocess.Popen[bytes], text: bytes, said: dict[str, bytearray], deadline: float, most: tuple[int, int],
    on_tick: Callable[[], None] | None,
) -> str:  # fmt: skip
    """Feed stdin and collect output in one loop. Returns why it was ended, "" if it ended by itself."""
    gone = 0.0
    with selectors.DefaultSelector() as pipes:
        for pipe, name in ((child.stdout, "out"), (child.stderr, "err")):
            if pipe:
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, selectors.EVENT_READ, name)
        if child.stdin:
            os.set_blocking(child.stdin.fileno(), False)
            pipes.register(child.stdin, selectors.EVENT_WRITE, "in")
        rest = memoryview(text)
        while True:
            now = time.monotonic()
            if child.poll() is not None:
                gone = gone or now
                if not pipes.get_map() or now - gone > DRAIN:
                    return ""
            if now >= deadline:
                return "deadline"
            if on_tick:
                on_tick()
            for key, _ in pipes.select(min(0.2 if pipes.get_map() and not gone else 0.02, deadline - now)):
                if key.data == "in" and child.stdin:
                    rest = _feed(pipes, child.stdin, rest)
                elif not _hear(pipes, key, said, most):
                    return "stdout limit"


def _feed(pipes: selectors.BaseSelector, pipe: IO[bytes], rest: memoryview) -> memoryview:
    try:
        rest = rest[os.write(pipe.fileno(), rest[:CHUNK]) :]
    except BrokenPipeError:
        rest = rest[:0]
    except BlockingIOError:
        return rest
    if not rest:
        pipes.unregister(pipe)
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    return rest


def _hear(pipes: selectors.BaseSelector, key: selectors.SelectorKey, said: dict[str, bytearray], most: tuple[int, int]) -> bool:
    """Collect a piece; False when stdout says more than it may. stderr is cut, which ends nobody."""
    piece = os.read(key.fd, CHUNK)
    if not piece:
        pipes.unregister(key.fileobj)
    kept, limit = said[key.data], most[key.data == "err"]
    kept += piece[: max(limit - len(kept), 0)]
    return key.data == "err" or len(kept) < limit


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """TERM, grace, KILL for the child's whole group; the child is reaped."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        until = time.monotonic() + GRACE
        while number == signal.SIGTERM and time.monotonic() < until and _lives(child):
            time.sleep(0.01)
    child.wait()


def _lives(child: subprocess.Popen[bytes]) -> bool:
    """Somebody of the group is left, the child itself, once it is reaped, not counted."""
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
