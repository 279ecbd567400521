"""The one bounded runner of processes: a deadline, limits for what they say, and nobody of their group left over."""

import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

GRACE = 2.0  # seconds between TERM and KILL
DRAIN = 0.3  # seconds for what a dead child's pipe still holds, when somebody else keeps the pipe open
MOST_ERR = 1 << 16  # bytes of stderr that are kept

WORD, LINE = 160, 800  # characters that are told of a word, and of a command

tell: Callable[[str], None] | None = None  # -v: who is told of each process


# What became of a process. ended: "" by itself, else `deadline` or `stdout limit`. err is cut at its limit.
Ran = NamedTuple("Ran", [("code", int), ("out", bytes), ("err", bytes), ("ended", str)])


def run(
    argv: Sequence[str], *, seconds: float, stdin: bytes | int = b"", stdout: int | None = None, most: int = 16 << 20,
    on_tick: Callable[[int], object] | None = None, about: Sequence[object] = (),
) -> Ran:  # fmt: skip
    """Run to its end or to a limit; stdin is ours or a descriptor, stdout is collected or goes to a descriptor.

    The whole process group gets TERM, then KILL, at the deadline (monotonic clock) and on any exception. on_tick is called
    with the child's pid now and then. about: what it is told over stdin, for a person. Raises OSError.
    """
    begin = time.monotonic()
    with open(os.memfd_create("stdin"), "w+b", buffering=0) as ours:  # a file, not a pipe: nobody has to feed it
        if isinstance(stdin, bytes):
            ours.write(stdin)
            ours.seek(0)
        child = subprocess.Popen(  # noqa: S603  # an argument tuple, no shell
            argv, stdin=ours if isinstance(stdin, bytes) else stdin, stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE, start_new_session=True, bufsize=0,
        )  # fmt: skip
    out, err = bytearray(), bytearray()
    try:
        ended = _listen(child, out, err, time.monotonic() + seconds, most, on_tick)
    finally:
        _end_group(child)
        for pipe in filter(None, (child.stdout, child.stderr)):
            pipe.close()
    if tell:
        words = shlex.join(word if len(word) <= WORD else f"{word[:WORD]}..." for word in map(str, (*argv, *about)))
        tell(f"ran {words[:LINE]}: {ended or f'exit {child.returncode}'}, {time.monotonic() - begin:.2f} s")
    return Ran(child.returncode, bytes(out), bytes(err), ended)


def _listen(
    child: subprocess.Popen[bytes], out: bytearray, err: bytearray, deadline: float, most: int,
    on_tick: Callable[[int], object] | None,
) -> str:  # fmt: skip
    """Collect what it says until it has ended. Returns why it must be ended, "" if it ended by itself."""
    gone = 0.0
    with selectors.DefaultSelector() as pipes:
        for pipe, kept, limit in ((child.stdout, out, most), (child.stderr, err, MOST_ERR)):
            if pipe:
                pipes.register(pipe, selectors.EVENT_READ, (kept, limit))
        while True:
            now = time.monotonic()
            if child.poll() is not None:
                gone = gone or now
                if not pipes.get_map() or now - gone > DRAIN:
                    return ""
            if now >= deadline:
                return "deadline"
            if on_tick:
                on_tick(child.pid)
            for key, _ in pipes.select(min(0.2 if pipes.get_map() and not gone else 0.02, deadline - now)):
                piece, (kept, limit) = os.read(key.fd, 1 << 16), key.data
                kept += piece[: limit - len(kept)]
                if not piece:
                    pipes.unregister(key.fileobj)
                elif len(kept) == limit and kept is out:
                    return "stdout limit"


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """TERM, grace, KILL for the child's whole group; the child is reaped."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        lives = _signal(child, number)
        while lives and time.monotonic() < until:
            time.sleep(0.01)
            lives = _signal(child, 0)
        if not lives:
            break
    child.wait()


def _signal(child: subprocess.Popen[bytes], number: int) -> bool:
    """False if nobody of the group is left; the child itself is reaped here."""
    child.poll()
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
