"""Taps: places where strace can stand in the way of a process, and the points where it can let a fault fall.

A tap is a small program in front of a real one (sh, ssh, scp, the pueue client, the far side's shell, the job wrapper). It
counts its starts; where a plan lies ready for that start it execs strace around the real program, else only the program.
`main`, the script itself, needs no tap: strace starts it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from conftest import need

FILES = ("openat", "write", "pwrite64", "fsync", "fdatasync", "syncfs", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
         "symlinkat", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "ftruncate", "flock", "fcntl")  # fmt: skip
STEPS = ("vfork", "clone", "write")  # what a shell does next: a child, or a word
CLIENT = ("connect", "write", "sendto")
COUNTED = (*FILES, "execve", *STEPS[:2], "connect", "sendto")
FAULTS = {"kill": "signal=SIGKILL", "nospace": "error=ENOSPC", "eio": "error=EIO"}
SHELLS = ("sh", "far", "job")

TAP = """#!/bin/sh
# a tap: {real}, under strace where the bench has a plan for this start of it
set -f
here={here} n=1
if [ {name} = job ]; then n=$2.$3 # wrappers start in any order: its case and attempt
else until mkdir "$here/starts/{name}.$n" 2>/dev/null; do n=$((n + 1)); [ $n -lt 999 ] || exit 99; done; fi
plan=$here/plan/{name}.$n
[ -f "$plan" ] || plan=$here/plan/any
IFS='
'
if [ -f "$plan" ] && [ "$(sed -n 's/^TracerPid:.//p' /proc/$$/status)" != 0 ]; then # two cannot trace one process
  : >"$here/out/{name}.$n"
  exec {real}
fi
[ ! -f "$plan" ] || exec {strace} -DDD -qq -o "$here/out/{name}.$n" $(cat "$plan") {real}
exec {real}
"""


class Point(NamedTuple):
    """Where a fault falls: the nth call of a kind on a path ("": on any) in one start of what is behind a tap.

    start: the first is "1", a wrapper's is <key>.<attempt>. follow: in any process below it, each with a count of its own; else only in the first.
    """

    tap: str
    start: str
    call: str
    path: str
    n: int
    fault: str
    follow: bool

    def plan(self) -> list[str]:
        """strace's arguments. seccomp makes following cheap, but forgets signals."""
        seccomp = ["--seccomp-bpf"] if self.follow and self.fault != "kill" else []
        path = ["-P", self.path] if self.path else []
        inject = f"inject={self.call}:{FAULTS[self.fault]}:when={self.n}"
        return [*(["-f"] if self.follow else []), *seccomp, *path, "-e", f"trace={self.call}", "-e", inject]

    def name(self, site: str) -> str:
        """Short, without blanks, the same in every run."""
        path = re.sub(r"\b([0-9a-f]{4})[0-9a-f]{16}\b", r"\1", self.path.removeprefix(site)) if self.path else "any"
        path = re.sub(r"-([0-9a-f]{4})[0-9a-f]{60}\b", r"-\1", path)
        return f"{self.tap}.{self.start[:4]}{'+' if self.follow else ''}/{self.call}.{self.n}/{self.fault}/{path}"


class Taps:
    """The taps of one bench: made in `folder`; starts, plans and what strace wrote lie there."""

    def __init__(self, folder: Path, pueue: str = "") -> None:
        self.folder = folder
        for name in ("bin", "starts", "plan", "out"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        real = {"sh": '/bin/sh "$@"', "ssh": f'{need("ssh")} "$@"', "scp": f'{need("scp")} "$@"', "pueue": f'{pueue} "$@"',
                "far": '/bin/sh\n-c\n"$SSH_ORIGINAL_COMMAND"'.replace("\n", " "), "job": f'/bin/sh {folder}/mqi-job "$@"'}  # fmt: skip
        for name, text in real.items():
            (folder / "bin" / name).write_text(TAP.format(real=text, here=folder, name=name, strace=need("strace")))
            (folder / "bin" / name).chmod(0o755)

    def clear(self) -> None:
        for name in ("starts", "plan", "out"):
            shutil.rmtree(self.folder / name)
            (self.folder / name).mkdir()

    def count(self, names: Sequence[str] = ("any",)) -> list[str]:
        """Have everything written down that the next run calls behind these taps; main's own arguments for strace."""
        plan = ["-f", "-y", "-s", "0", "-e", "trace=" + ",".join(COUNTED)]
        for name in names:
            (self.folder / "plan" / name).write_text("\n".join(plan))
        return self.strace(plan[1:])

    def nested(self) -> list[str]:
        """Starts that were not counted, as another tap traced them."""
        return [path.name for path in sorted((self.folder / "out").iterdir()) if not path.stat().st_size]

    def aim(self, point: Point) -> list[str]:
        """Let that fault fall in the next run; main's own arguments for strace, if it falls there."""
        if point.tap == "main":
            return self.strace(point.plan())
        (self.folder / "plan" / f"{point.tap}.{point.start}").write_text("\n".join(point.plan()))
        return []

    def strace(self, plan: list[str]) -> list[str]:
        return [need("strace"), "-qq", "-o", str(self.folder / "out" / "main.1"), *plan]

    def landed(self) -> int:
        """Faults that fell, by strace's own word."""
        return sum(len(re.findall(r"\(INJECTED\)|\+\+\+ killed by SIGKILL", path.read_text())) for path in (self.folder / "out").iterdir())

    def points(self, site: str, *, nested: bool = False) -> Iterator[Point]:
        """Every point of the run that was counted: on paths of the site, and what shells and clients do besides.

        nested: what the other tap, which follows, has already is left out.
        """
        for path in sorted((self.folder / "out").iterdir()):
            tap, _, start = path.name.partition(".")
            calls = list(read(path.read_text(), main=tap == "main"))
            first = [call for call in calls if call.pid == calls[0].pid]
            if tap == "main":
                yield from each(tap, start, () if nested else alone(first, FILES, site), FAULTS)
            elif tap in SHELLS:
                yield from each(tap, start, alone(first, STEPS, ""), ("kill",))
                yield from each(tap, start, () if nested else followed(calls, site), FAULTS)
            else:
                yield from each(tap, start, alone(first, CLIENT, ""), ("kill", "eio"))


class Call(NamedTuple):
    """One line of strace. path: the descriptor's or the first one named. inside: where a relative one stands, if told."""

    pid: str
    name: str
    path: str
    inside: str


def read(text: str, *, main: bool) -> Iterator[Call]:
    """The calls that strace wrote down, as they were entered."""
    for line in text.splitlines():
        pid, _, rest = ("", "", line) if main else line.partition(" ")
        match = re.match(r"(\w+)\(", rest.strip())
        if not match:
            continue
        arguments = rest.strip()[match.end() :]
        fd = re.match(r"(?:\d+|AT_FDCWD)<([^>]*)>", arguments)
        named = re.search(r'"((?:[^"\\]|\\.)*)"(?!\.)', arguments.partition(", [")[0])
        fds = match[1] in ("write", "pwrite64", "fsync", "fdatasync", "syncfs", "ftruncate", "flock", "fcntl", "sendto", "connect")
        yield Call(pid, match[1], (fd[1] if fd else "") if fds else (named[1] if named else ""), fd[1] if fd else "?")


def is_of(call: Call, site: str) -> bool:
    """Whether a call is about the site: by its path, or the folder that a relative path stands in."""
    if call.path.startswith("/"):
        return call.path.startswith(site)
    return bool(call.path) and "\\" not in call.path and (call.inside == "?" or call.inside.startswith(site))


def alone(calls: list[Call], kinds: Iterable[str], site: str) -> Iterator[tuple[str, str, int, bool]]:
    """(call, path, n, follow) in one process, counted as strace counts: all calls of a kind."""
    seen = Counter[str]()
    for call in calls:
        seen[call.name] += 1
        if call.name in kinds and (not site or is_of(call, site)):
            yield call.name, "", seen[call.name], False


def followed(calls: list[Call], site: str) -> Iterator[tuple[str, str, int, bool]]:
    """The same on each path of the site, in all processes; and each program that is executed."""
    most = Counter[tuple[str, str]]()
    for (_, name, path), count in Counter((c.pid, c.name, c.path) for c in calls if c.name in FILES and is_of(c, site)).items():
        most[name, path] = max(most[name, path], count)
    for name, path in {(c.name, c.path) for c in calls[1:] if c.name == "execve" and c.path.startswith("/usr/") and c.path != need("strace")}:
        most[name, path] = 1
    yield from sorted((name, path, n, True) for (name, path), count in most.items() for n in range(1, count + 1))


def each(tap: str, start: str, places: Iterable[tuple[str, str, int, bool]], faults: Iterable[str]) -> Iterator[Point]:
    for name, path, n, follow in places:
        for fault in faults:
            yield Point(tap, start, name, path, n, fault, follow)
