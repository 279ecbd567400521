"""Scenes: a site at a moment, and the script that runs then, with a fault in it. Each is made once by the real scripts.

A Bench is one place where scenes are played: always the same folder, so that paths and keys are the same each time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import laws
from conftest import REPO, Place, Pueued, Ran, Sshd, host_text
from tap import Point, Taps

from mqi_scripts import words as w
from mqi_scripts.pure import codec

BY = {"script": "scene", "host": "gateway", "pid": 1, "user": "nobody"}  # who wrote a scene's first line

TICKS = 8  # of the line: more than any one fault needs
# What the plan says is what the job does: ends with 3, is cut off in its first attempt, or copies it.
WORK = """case $(cat "$MQI_INPUT/plan.txt") in
fail*) exit 3 ;;
slow*) [ "$MQI_ATTEMPT" -gt 1 ] || exec sleep 300 ;;
esac
cp "$MQI_INPUT/plan.txt" plan.out"""


class Played(NamedTuple):
    """What became of one point. ticks: of the line, until every case stood as it does without a fault, or rested otherwise."""

    name: str
    landed: bool
    ticks: int
    as_ever: bool
    broken: list[str]


class Ready(Place):
    """A site whose programs have started before they are asked for: ready.py."""

    server: subprocess.Popen[str] | None = None

    def __call__(self, program: str, *words: str, stdin: str = "") -> Ran:
        assert not stdin
        self.server = server = self.server or subprocess.Popen([sys.executable, str(Path(__file__).with_name("ready.py"))], env=self.around(),
                                                               text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert server.stdin
        assert server.stdout
        files = [self.folder.parent / name for name in ("ready.out", "ready.err")]
        server.stdin.write(json.dumps([program, ["--config", str(self.config), *words], *map(str, files)]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        assert code != -signal.SIGALRM, f"{program} did not end"
        return Ran(code, *(file.read_text() for file in files))

    def stop(self) -> None:
        if self.server:
            self.server.communicate(timeout=60)
            self.server = None


class Bench:
    """A folder in which scenes are made, kept, and played again and again. far: over ssh and pueue, else on this machine."""

    line = laws.LINE  # the line once, as the timers run it

    def __init__(self, folder: Path, sshd: Sshd | None = None, queue: Pueued | None = None) -> None:
        self.folder, self.queue = folder, queue
        self.taps = Taps(folder / "taps", queue.command if queue else "")
        self.hosts = host_text("local", "direct", "tar", None, None)
        if sshd and queue:
            self.hosts = host_text("ssh", "pueue", "scp", sshd, queue).replace(f'"{queue.command}"', f'"{self.taps.folder}/bin/pueue"')
        self.acknowledged: list[dict[str, Any]] = []

    def new(self) -> None:
        """An empty site, whose ledger always has the same id."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        self.place = Ready(self.folder / "work" / "site", self.hosts, laws.job(self.folder / "work", WORK))
        self.place.runs = self.folder / "work" / "runs"
        text = self.place.config.read_text()
        self.place.config.write_text(text.replace(str(self.place.folder / "runs"), str(self.place.runs)))
        self.place.env = {"PATH": f"{self.taps.folder}/bin:{os.environ['PATH']}"}
        laws.plant(self.place)
        self.acknowledged = []
        self.empty_queue()

    def opened(self) -> None:
        state = self.place.state
        state.mkdir(0o700)
        path = state / f"ledger-{time.gmtime().tm_year}.jsonl"
        path.write_bytes(codec.line(w.Opened("", f"{path.stem[7:]}-01-01T00:00:00.000Z", "5eed5eed5eed5eed"), codec.START, BY)[0])
        path.chmod(0o600)

    def keep(self, name: str) -> None:
        laws.quiet(self.place.root, timers=True)
        shutil.copytree(self.folder / "work", self.folder / "kept" / name, symlinks=True)

    def restore(self, name: str) -> None:
        self.end()
        self.empty_queue()
        self.taps.clear()
        self.acknowledged = []
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.folder / "kept" / name), str(self.folder / "work")], check=True)

    def end(self) -> None:
        """Whoever is left of the last scene, by its id."""
        for pid in laws.busy(self.place.root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def empty_queue(self) -> None:
        if self.queue:
            for _ in range(100):
                tasks = self.queue.state()["tasks"]
                if not tasks:
                    return
                self.queue.client("kill", "--signal", "sigkill", *tasks)
                self.queue.client("remove", *tasks)
                time.sleep(0.02)

    def run(self, program: str, strace: Sequence[str] = ()) -> Ran:
        """One run of a script; what it acknowledges is remembered."""
        if strace:
            argv = [*strace, *self.place.argv(program, "--jsonl")]
            done = subprocess.run(argv, capture_output=True, text=True, env=self.place.around(), timeout=120)
            ran = Ran(done.returncode, done.stdout, done.stderr)
        else:
            ran = self.place(program, "--jsonl")
        self.acknowledged += laws.told(ran.out)
        return ran

    def statuses(self) -> list[str]:
        return sorted(row["status"] for row in self.place.rows().values())

    def tick(self) -> list[Ran]:
        """The line once, without a fault; then until the queue has run."""
        ran = [self.run(program) for program in self.line]
        self.settle()
        return ran

    def stop(self) -> None:
        self.end()
        self.place.stop()

    def settle(self) -> None:
        """Wait until nothing waits or runs."""
        deadline = time.monotonic() + 60
        while self.queue and any("Done" not in task["status"] for task in self.queue.state()["tasks"].values()):
            assert time.monotonic() < deadline, f"{laws.processes(self.place.root)}\n{self.queue.client('status')}"
            time.sleep(0.05)
        laws.quiet(self.place.root)

    def make(self, scene: Scene) -> None:
        """The scene, ready to be played."""
        self.new()
        scene.make(self)
        self.keep(scene.name)
        self.restore(scene.name)

    def ends(self, scene: Scene) -> list[str]:
        """How its cases end without a fault."""
        self.restore(scene.name)
        for _ in range(TICKS):
            self.tick()
        return self.statuses()

    def play(self, scene: Scene, name: str, aim: Callable[[], Sequence[str]], landed: Callable[[], int | bool], ends: list[str]) -> Played:
        """The scene with a fault, the line twice without, and the laws; then more of it, until all stand where they should.

        aim sets the fault, and gives strace's arguments for the script if it falls there. ends: statuses without a fault.
        """
        self.restore(scene.name)
        ran, odd = self.run(scene.script, aim()), []
        self.settle()
        hit = bool(landed())
        self.taps.clear()
        odd += laws.nothing_half(self.place)
        if "Traceback" in ran.err or ran.code == 70:
            odd.append(f"{scene.script} ended with {ran.code}: {ran.err}")
        for tick in range(1, TICKS + 1):
            odd += [after.err for after in self.tick() if "Traceback" in after.err]
            if tick == 2:
                odd += laws.standing(self.place)
            if tick > 1 and ((stand := self.statuses()) == ends or set(stand) <= set(laws.RESTING)):
                break
        odd += laws.broken(self.place, self.acknowledged)
        return Played(name, hit, tick, stand == ends, odd)

    def tap_the_wrapper(self) -> None:
        """The wrapper on the host is the tap, and the real one stands behind it."""
        for wrapper in self.place.root.glob("bin/*/mqi-job"):
            shutil.move(wrapper, self.taps.folder / "mqi-job")
            shutil.copy(self.taps.folder / "bin" / "job", wrapper)


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """In memory, if there is room: no disk is asked to flush what will be thrown away."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mqi-bench-", dir=shared if shared.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def revision() -> str:
    """What makes the sample of each commit another one."""
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True).stdout.strip()[:16] or "0"


class Scene(NamedTuple):
    """make prepares the site of a fresh bench; then `script` runs, with the fault."""

    name: str
    script: str
    make: Callable[[Bench], None]


def first_scan(bench: Bench) -> None:
    """Nothing of ours is there yet; two folders, one of which is held."""
    bench.place.case("a")
    (bench.place.case("b") / "link").symlink_to("/etc/passwd")


def scan(bench: Bench) -> None:
    """One of each: stale, changed, released, gone, found, the same content."""
    bench.opened()
    cases = {name: bench.place.case(name) for name in "a"}
    until_completed(bench)
    cases |= {name: bench.place.case(name) for name in "bcd"}
    (cases["c"] / "link").symlink_to("/etc/passwd")
    bench.run("mqi-scan")
    (cases["a"] / "late").write_text("late\n")
    (cases["b"] / "plan.txt").write_text("changed\n")
    (cases["c"] / "link").unlink()
    shutil.rmtree(cases["d"])
    shutil.copytree(bench.place.case("e"), bench.place.inbox / "f")


def first_push(bench: Bench) -> None:
    bench.opened()
    for name in "ab":
        bench.place.case(name)
    bench.run("mqi-scan")


def push(bench: Bench) -> None:
    """A root that was used, and one case of which a part is there, and that part is wrong."""
    bench.opened()
    bench.place.case("z")
    until_completed(bench)
    first = {path.name for path in (bench.place.state / "manifests").iterdir()}
    for name in "ab":
        bench.place.case(name)
    bench.run("mqi-scan")
    staging = sorted({path.name for path in (bench.place.state / "manifests").iterdir()} - first)[0]
    (bench.place.root / "staging" / staging / "files").mkdir(parents=True)
    (bench.place.root / "staging" / staging / "files" / "plan.txt").write_text("plan of ?\n")
    bench.tap_the_wrapper()


def submit(bench: Bench) -> None:
    """Two to submit, one whose attempt never began and has been missed once, one that changed behind its submit."""
    never_begun(bench, "c", "d")
    (bench.place.inbox / "d" / "plan.txt").write_text("changed\n")
    for name in "ab":
        bench.place.case(name)
    for program in ("mqi-scan", "mqi-push", "mqi-poll"):
        bench.run(program)


def never_begun(bench: Bench, *names: str) -> None:
    """Submitted cases whose wrappers were killed before their claim."""
    bench.opened()
    bench.place.case("z")
    until_completed(bench)
    bench.tap_the_wrapper()
    for name in names:
        bench.place.case(name)
    for program in ("mqi-scan", "mqi-push"):
        bench.run(program)
    for case in bench.place.root.glob("cases/*"):
        bench.taps.aim(Point("job", f"{case.name}.1", "mkdir", "claim", 1, "kill", follow=True))
    bench.run("mqi-submit")
    bench.settle()
    bench.taps.clear()
    bench.empty_queue()
    assert not list(bench.place.root.glob("cases/*/attempt-1/claim")) or len(bench.place.executions()) == 1


def poll(bench: Bench) -> None:
    """One that succeeded, one that failed, one that was cut off, one that never began."""
    never_begun(bench, "d")
    for name, text in (("a", "a\n"), ("b", "fail\n"), ("c", "slow\n")):
        bench.place.case(name, text)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        bench.run(program)
    deadline = time.monotonic() + 60
    while len(list(bench.place.root.glob("cases/*/attempt-1/result"))) < 3 or len(bench.place.executions()) < 4:  # z, a, b; c runs
        assert time.monotonic() < deadline
        time.sleep(0.05)
    bench.end()
    bench.empty_queue()


def fetch(bench: Bench) -> None:
    """Two that are computed; where one of them goes there is a folder already."""
    bench.opened()
    for name in "ab":
        bench.place.case(name)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        bench.run(program)
    bench.settle()
    bench.run("mqi-poll")
    (bench.place.results / "a").mkdir()
    (bench.place.results / "a" / "old").write_text("of a stranger\n")


def clean(bench: Bench) -> None:
    """Two that are completed, one that failed; and staged files that nobody came back for."""
    bench.opened()
    for name, text in (("a", "a\n"), ("b", "b\n"), ("c", "fail\n")):
        bench.place.case(name, text)
    for _ in range(4):
        bench.tick()
    old = bench.place.root / "staging" / f"{'a' * 20}-{'b' * 64}"
    (old / "files").mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    text = bench.place.config.read_text()
    bench.place.config.write_text(text.replace("[hosts.far]\n", '[hosts.far]\nkeep = "0s"\n'))


def until_completed(bench: Bench) -> None:
    for _ in range(4):
        bench.tick()
    assert {row["status"] for row in bench.place.rows().values()} == {"completed"}


SCENES = (
    Scene("first-scan", "mqi-scan", first_scan), Scene("scan", "mqi-scan", scan), Scene("first-push", "mqi-push", first_push),
    Scene("push", "mqi-push", push), Scene("submit", "mqi-submit", submit), Scene("poll", "mqi-poll", poll),
    Scene("fetch", "mqi-fetch", fetch), Scene("clean", "mqi-clean", clean),
)  # fmt: skip
FAR_SCENES = ("first-push", "submit", "poll", "fetch")
