"""A gateway and a compute host for a month: their clock, disks, timers, versions, what goes wrong, and the person who looks in once a day.

Both live in a mount name space of their own, in which state, results and the host's root are small disks and the boot id can change.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import laws
from conftest import REPO, Place, Pueued, Sshd, host_text, need
from proxy import MODES, Cut, Proxy

DAYS = 30
SIZES = {"state": "300m", "results": "200m", "host": "1g"}  # push keeps 64 MiB free
FILES = 64  # that a program may have open
LATEST = 14400  # seconds that a soak may take at most
# What the plan says is what the job does.
WORK = """case $(head -n 1 "$MQI_INPUT/plan.txt") in
bad*) exit 3 ;;
silent*) exit 0 ;;
flaky*) [ "$MQI_ATTEMPT" -gt 1 ] || exit 4 ;;
slow*) exec sleep 600 ;;
*) sleep 0.3 ;;
esac
cp "$MQI_INPUT/plan.txt" plan.out"""


class Kind(NamedTuple):
    """share: of a hundred cases. ends: where such a case may stand at the end of the month."""

    share: int
    ends: tuple[str, ...]


DONE = ("completed",)
KINDS = {
    "good": Kind(44, DONE), "big": Kind(5, DONE), "sparse": Kind(2, DONE), "late": Kind(8, DONE), "changed": Kind(6, DONE),
    "more": Kind(4, DONE), "hostile $(touch CANARY-name) 한글": Kind(4, DONE), "mended": Kind(3, DONE), "flaky": Kind(6, DONE),
    "bad": Kind(5, ("failed",)), "silent": Kind(3, ("failed",)), "slow": Kind(2, ("failed",)), "link": Kind(2, ("held",)),
    "same": Kind(2, ("held",)), "cancel": Kind(2, ("cancelled", "completed")), "gone": Kind(2, ("cancelled", "completed")),
}  # fmt: skip


# Stands between programs and the wall's clock, and nothing else: libfaketime also bends Python's sleep, and a process that is
# killed while it holds the lock that all of them share stops the rest.
AHEAD = """#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static const volatile long long *ahead;
__attribute__((constructor)) static void look(void) {
  int fd = open(getenv("MQI_AHEAD") ? getenv("MQI_AHEAD") : "", O_RDONLY | O_CLOEXEC);
  void *seen = fd < 0 ? MAP_FAILED : mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
  ahead = seen == MAP_FAILED ? 0 : seen;
  if (fd >= 0) close(fd);
}
int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, id, now);
  if (!failed && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec got;
  clock_gettime(CLOCK_REALTIME, &got);
  now->tv_sec = got.tv_sec, now->tv_usec = got.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *now) {
  struct timespec got;
  clock_gettime(CLOCK_REALTIME, &got);
  return now ? *now = got.tv_sec : got.tv_sec;
}
"""


class Clock:
    """A clock that can be set while programs run: env is for those that shall see it. What no setting changes stays real."""

    def __init__(self, folder: Path) -> None:
        self.file, library = folder / "ahead", folder / "clock.so"
        subprocess.run([need("cc"), "-shared", "-fPIC", "-O", "-x", "c", "-o", library, "-"], input=AHEAD, text=True, check=True)
        self.set(timedelta(0))
        self.env = {"LD_PRELOAD": str(library), "MQI_AHEAD": str(self.file)}

    def set(self, ahead: timedelta) -> None:
        self.ahead = ahead
        fd = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o644)  # in place: it is mapped
        os.pwrite(fd, struct.pack("q", int(ahead.total_seconds())), 0)
        os.close(fd)


class Disks:
    """The name space. front: what starts a program in it; seen: where we see a folder of it."""

    def __init__(self, folder: Path) -> None:
        boot = folder / "boot_id"
        mounts = []
        for name, size in SIZES.items():
            (folder / "site" / name).mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount -t tmpfs -o size={size},mode=700 none {folder}/site/{name}")
        self.boot = boot
        self.reboot()
        text = " && ".join([*mounts, f"mount --bind {boot} /proc/sys/kernel/random/boot_id", "echo ready", f"exec sleep {LATEST}"])
        self.holder = subprocess.Popen(["unshare", "-m", "/bin/sh", "-c", text], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout
        assert self.holder.stdout.readline() == "ready\n"
        self.front = [need("nsenter"), "-t", str(self.holder.pid), "-m"]
        self.folder = folder

    def reboot(self) -> None:
        with self.boot.open("w") as file:  # in place: it is mounted
            file.write(f"{os.urandom(4).hex()}-0000-4000-8000-{os.urandom(6).hex()}\n")

    def seen(self, name: str) -> Path:
        return Path(f"/proc/{self.holder.pid}/root{self.folder}/site/{name}")

    def fill(self, name: str) -> None:
        with suppress(OSError), (self.seen(name) / "filler").open("wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            while file.write(bytes(1 << 12)) == 1 << 12:
                pass

    def free(self, name: str) -> None:
        (self.seen(name) / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


class Ran(NamedTuple):
    program: str
    code: int
    memory: int  # the most of it, KiB
    said: int  # bytes on stderr


class Month:
    """The site, and what is due at which tick. count: how many cases."""

    def __init__(self, folder: Path, disks: Disks, sshd: Sshd, queue: Pueued, proxy: Proxy, clock: Clock, count: int, seed: str) -> None:  # noqa: PLR0913
        self.folder, self.disks, self.queue, self.proxy, self.clock = folder, disks, queue, proxy, clock
        self.port, self.chance, self.count = sshd.port, random.Random(seed), count
        text = host_text("ssh", "pueue", "scp", sshd, queue).replace(f"port = {sshd.port}\n", f'port = {proxy.port}\ntimeout = "6s"\n')
        self.place = Place(folder / "site", text.replace("queue_depth = 100", "queue_depth = 3"), laws.job(folder / "site", WORK))
        self.place.env = {**clock.env, "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        self.place.front = [*disks.front, f"--wd={folder}/current", "prlimit", f"--nofile={FILES}", "env", f"PYTHONPATH={folder}/current"]
        config = self.place.config.read_text()
        self.place.config.write_text(config.replace('quiet = "0s"', 'quiet = "2s"').replace('time_limit = "60s"', 'time_limit = "15s"'))
        self.place.state, self.place.results, self.place.root = map(disks.seen, SIZES)
        laws.plant(self.place)
        self.kinds: dict[str, str] = {}
        self.acknowledged: list[dict[str, Any]] = []
        self.ran: list[Ran] = []
        self.odd: list[str] = []
        self.happened: Counter[str] = Counter()
        self.visits: Counter[str] = Counter()
        self.later: list[tuple[int, Callable[[], object]]] = []
        self.tick = 0
        self.deck: list[str] = []

    # --- versions

    def install(self, number: int) -> None:
        """Another version of the package in place of the one in use; its job wrapper differs, and the fold's cache."""
        there = self.folder / f"version-{number}"
        for name in ("mqi_scripts", "schemas", "systemd"):
            shutil.copytree(REPO / name, there / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name, old, new in (("__init__.py", r'__version__ = ".*"', f'__version__ = "0.0.{number}"'), ("world/ledger.py", r"\nFOLD = \d+", f"\nFOLD = {100 + number}"),
                               ("far/mqi-job.sh", "\n# ", f"\n# version {number}\n# ")):  # fmt: skip
            text = (there / "mqi_scripts" / name).read_text()
            assert re.search(old, text), name
            (there / "mqi_scripts" / name).write_text(re.sub(old, new, text, count=1))
        beside = self.folder / "current.new"
        beside.symlink_to(there)
        beside.rename(self.folder / "current")

    # --- the timers

    def starts(self, program: str, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
        said = self.folder / "said" / f"{self.tick}-{program}-{len(self.ran)}-{self.chance.random()}"
        env = {**os.environ, **self.place.env}
        with said.open("wb") as out, said.with_suffix(".err").open("wb") as err:
            return subprocess.Popen(self.place.argv(program, *words), env=env, stdout=out, stderr=err, start_new_session=True), said

    def ends(self, program: str, child: subprocess.Popen[bytes], said: Path) -> None:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        errors = said.with_suffix(".err")
        self.ran.append(Ran(program, child.returncode, used.ru_maxrss, errors.stat().st_size))
        text = errors.read_text(errors="replace")
        self.acknowledged += laws.told(said.read_text(errors="replace")) if program in laws.LINE else []
        cut_off = program == "mqi-ledger" and "no newline: a write was cut off" in text  # so it should say
        if "Traceback" in text or child.returncode not in (0, 1, 69, 74, 75, -signal.SIGKILL, *([65] if cut_off else [])):
            self.odd.append(f"tick {self.tick}, day {self.day():.1f}: {program} ended with {child.returncode}: {text[-1500:]}")
        with (self.folder / "journal").open("a") as journal:
            journal.write("".join(f"{self.tick} {program} {line}\n" for line in text.splitlines()))
        errors.unlink()
        said.unlink()

    def line(self, kills: bool = False, group: bool = False) -> None:
        """The line's five timers: their programs overlap as they do, or one after the other. kills: one of them dies."""
        together, victim = self.chance.random() < 0.5, self.chance.choice(laws.LINE) if kills else ""
        children = []
        for program in laws.LINE:
            child, said = self.starts(program, "--jsonl")
            if program == victim:
                time.sleep(self.chance.uniform(0.02, 0.6))
                with suppress(ProcessLookupError):
                    (os.killpg if group else os.kill)(child.pid, signal.SIGKILL)
            if together:
                children.append((program, child, said))
                time.sleep(self.chance.uniform(0.0, 0.3))
            else:
                self.ends(program, child, said)
        for one in children:
            self.ends(*one)

    def calendar(self, days: float) -> Iterator[list[str]]:
        """What the other timers start between the last tick and this one: the programs of the units, by the days of their timers."""
        for path in sorted((REPO / "systemd").glob("*.timer")):
            when = re.search(r"^OnCalendar=(.*)$", path.read_text(), re.M)
            every = 0 if not when else 7 if when[1].startswith(("Sun", "Mon", "weekly")) else 1
            if every and int(self.day() / every) > int((self.day() - days) / every):
                name = path.stem.removeprefix("mqi-")
                own = REPO / "systemd" / f"mqi@{name}.service.d" / "command.conf"
                command = re.findall(r"^ExecStart=\S*/(mqi-.+)$", own.read_text(), re.M) if own.exists() else [f"mqi-{name}"]
                yield command[0].replace("/var/backups/mqi", f"{self.folder}/backups").split()

    def day(self) -> float:
        return (self.clock.ahead - self.began) / timedelta(days=1) if hasattr(self, "began") else 0.0

    # --- what arrives

    def drops(self) -> None:
        """The next case comes into the inbox."""
        if not self.deck:
            self.deck = [name for name, kind in KINDS.items() for _ in range(kind.share)]
            self.chance.shuffle(self.deck)
        # the rare kinds come in a short month, too
        kind = next((name for name in KINDS if name not in self.kinds.values()), "") if self.chance.random() < 0.4 else ""
        kind = kind or self.deck.pop()
        name, inbox = f"{kind} {len(self.kinds)}", self.place.inbox
        goods = [one for one, other in self.kinds.items() if other == "good" and (inbox / one).exists()]
        if kind == "same" and not goods:
            kind, name = "good", f"good {len(self.kinds)}"
        self.kinds[name] = kind
        if kind == "same":
            shutil.copytree(inbox / goods[0], inbox / name)
            return
        folder = self.place.case(name, f"{name}\n")
        if kind == "big":
            (folder / "big").write_bytes(self.chance.randbytes(3 << 20))
        elif kind == "sparse":
            (folder / "sparse").touch()
            os.truncate(folder / "sparse", 16 << 20)
        elif kind in ("link", "mended"):
            (folder / "link").symlink_to("/etc/passwd")
        if kind == "mended":
            self.after(self.chance.randint(5, 20), (folder / "link").unlink)
        elif kind == "late":
            for ticks in (1, 2, 3):
                self.after(ticks, lambda: (folder / f"more-{self.tick}").write_bytes(self.chance.randbytes(2000)))
        elif kind == "changed":
            self.after(self.chance.randint(1, 3), lambda: (folder / "plan.txt").write_text(f"{name}, again\n"))
        elif kind == "more":
            self.after(self.chance.randint(10, 40), lambda: (folder / "more").write_text("more\n"))
        elif kind == "gone":
            self.after(self.chance.randint(1, 4), lambda: shutil.rmtree(folder))

    def after(self, ticks: int, what: Callable[[], object]) -> None:
        self.later.append((self.tick + ticks, what))

    # --- what goes wrong

    def goes_wrong(self) -> None:
        """One fault, and when it is over."""
        fault = self.chance.choice([name for name in FAULTS if self.happened[name] == min(self.happened[one] for one in FAULTS)])
        self.happened[fault] += 1
        FAULTS[fault](self)

    def kill(self) -> None:
        self.line(kills=True)

    def kill_group(self) -> None:
        self.line(kills=True, group=True)

    def cut(self) -> None:
        after = int(2 ** self.chance.uniform(6, 16))
        self.proxy.aim(Cut(self.chance.randint(1, 5), self.chance.choice(["up", "down"]), after, self.chance.choice(MODES)))
        self.after(1, lambda: self.proxy.aim(None))

    def outage(self) -> None:
        self.proxy.target = 9  # nobody listens there
        self.after(self.chance.randint(1, 6), self.reachable)

    def reachable(self) -> None:
        self.proxy.target = self.port

    def daemon_killed(self) -> None:
        self.queue.signal(signal.SIGKILL)
        self.after(self.chance.randint(1, 3), self.daemon_starts)

    def daemon_starts(self) -> None:
        if self.queue.daemon and self.queue.daemon.poll() is not None:
            self.queue.start()
        self.queue.groups(gpu0=1, gpu1=1)  # of a queue that forgot them

    def daemon_wiped(self) -> None:
        self.queue.wipe()
        self.after(self.chance.randint(0, 2), self.daemon_starts)

    def job_killed(self) -> None:
        if busy := laws.busy(self.folder / "site" / "host"):
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(busy), signal.SIGKILL)

    def group_paused(self) -> None:
        self.queue.client("pause", "-g", self.chance.choice(["gpu0", "gpu1"]))

    def task_removed(self) -> None:
        if (self.queue.daemon and self.queue.daemon.poll() is None) and (tasks := sorted(self.queue.state()["tasks"])):
            self.queue.client(self.chance.choice(["remove", "kill", "restart"]), self.chance.choice(tasks))

    def full(self, name: str) -> None:
        self.disks.fill(name)
        self.after(2, lambda: self.disks.free(name))

    def torn(self) -> None:
        """As the power leaves a write behind."""
        path = sorted(self.place.state.glob("ledger-*.jsonl"))[-1]
        with path.open("ab") as file:
            file.write(b'{"v":1,"seq":')

    def inbox_unmounted(self) -> None:
        inbox, away = self.place.inbox, self.place.inbox.with_name("away")
        inbox.rename(away)
        inbox.mkdir()
        def back() -> None:
            inbox.rmdir()
            away.rename(inbox)
        self.line()
        back()

    def clock_back(self) -> None:
        self.clock.set(self.clock.ahead - timedelta(hours=1))

    def reboot(self) -> None:
        """Gateway and compute host at once, in the middle of what they do: nothing of /run or of memory is left."""
        running = [(program, *self.starts(program, "--jsonl")) for program in laws.LINE]
        time.sleep(self.chance.uniform(0.1, 1.0))
        for program, child, said in running:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            self.ends(program, child, said)
        with suppress(ProcessLookupError):
            self.queue.signal(signal.SIGKILL)
        for _ in range(50):  # who is killed may just have started another
            for pid in (left := laws.busy(self.folder / "site" / "host", timers=True)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
        for path in (self.queue.folder / "run", self.folder / "tmp", self.folder / "far-tmp"):
            shutil.rmtree(path)
            path.mkdir()
        self.disks.reboot()
        self.after(1, self.daemon_starts)

    # --- the person

    def looks_in(self) -> None:
        """Once a day: read what needs a person, and do what it says. Nothing but what mqi-case and the queue offer."""
        self.visits["visits"] += 1
        if self.queue.daemon and self.queue.daemon.poll() is None:
            for name, group in self.queue.state()["groups"].items():
                if group["status"] != "Running":
                    self.visits["start a group"] += 1
                    self.queue.client("start", "-g", name)
        for group in json.loads(self.place("mqi-report", "--json").out)["groups"]:
            if group["broken"]:
                self.visits["release a group"] += 1
                self.place("mqi-case", "release", "--group", group["group"], "--reason", "the daily look")
        for name, row in self.rows().items():
            kind = self.kinds[name]
            if row["status"] in KINDS[kind].ends and not (kind == "gone" and row["status"] == "found"):
                continue
            if kind in ("cancel", "gone") and row["status"] in ("found", "pushed", "held", "submitted", "failed"):
                self.says("cancel", row)
            elif row["status"] == "failed":
                self.says("retry", row)
            elif row["status"] == "held" and kind not in ("mended", "late"):
                self.says("release", row)

    def says(self, word: str, row: dict[str, Any]) -> None:
        self.visits[word] += 1
        ran = self.place("mqi-case", word, row["case_id"], "--reason", "the daily look")
        if ran.code:
            self.visits[f"{word} refused"] += 1

    def rows(self) -> dict[str, dict[str, Any]]:
        return self.place.rows()

    # --- all of it

    def lives(self, ticks: int, say: Callable[[str], None]) -> None:
        """The month: its cases, its faults, two upgrades, a reboot in the middle."""
        self.began = timedelta(days=20)  # the year ends on the way
        self.clock.set(self.began)
        step, upgrades = timedelta(days=DAYS) / ticks, {ticks // 3: 2, 2 * ticks // 3: 3}
        for self.tick in range(ticks):
            before = self.day()
            self.clock.set(self.clock.ahead + step * self.chance.uniform(0.5, 1.5))
            for due in [one for one in self.later if one[0] <= self.tick]:
                self.later.remove(due)
                due[1]()
            while len(self.kinds) < min(self.count, (self.tick + 1) * self.count * 10 // (ticks * 9)):
                self.drops()
            if self.tick in upgrades:
                self.install(upgrades[self.tick])
            if self.tick == ticks // 2:
                self.happened["reboot"] += 1
                self.reboot()
            elif self.chance.random() < 0.35:
                self.goes_wrong()
            self.line()
            for words in self.calendar(self.day() - before):
                self.ends(words[0], *self.starts(*words))
            if int(self.day()) > int(before):
                self.looks_in()
            if self.tick % 50 == 49:
                say(f"tick {self.tick + 1} of {ticks}, day {self.day():.1f}: {Counter(row['status'] for row in self.rows().values())}")

    def rests(self, seconds: float) -> None:
        """No more faults; the line and the person go on until every case stands where its kind ends."""
        for _, what in sorted(self.later, key=lambda one: one[0]):
            what()
        self.later = []
        self.proxy.aim(None)
        self.reachable()
        self.daemon_starts()
        deadline = time.monotonic() + seconds
        while left := self.misplaced():
            assert time.monotonic() < deadline, left
            self.tick += 1
            self.clock.set(self.clock.ahead + timedelta(minutes=30))
            self.line()
            if self.tick % 4 == 0:
                self.looks_in()
        laws.quiet(self.folder / "site" / "host", timers=True)

    def misplaced(self) -> dict[str, Any]:
        """Cases that are not where their kind ends."""
        rows = self.rows()
        left: dict[str, Any] = {name: "unknown" for name in self.kinds if name not in rows and (self.place.inbox / name).exists()}
        return left | {name: row for name, row in rows.items() if row["status"] not in KINDS[self.kinds[name]].ends}


FAULTS: dict[str, Callable[[Month], None]] = {
    "a program killed": Month.kill, "a program killed with all it started": Month.kill_group, "a connection cut": Month.cut, "an outage": Month.outage,
    "the queue's daemon killed": Month.daemon_killed, "the queue wiped": Month.daemon_wiped, "a process of a job killed": Month.job_killed,
    "a group paused": Month.group_paused, "somebody at the queue": Month.task_removed, "the state's disk full": lambda month: month.full("state"),
    "the results' disk full": lambda month: month.full("results"), "the host's disk full": lambda month: month.full("host"),
    "a torn line": Month.torn, "the inbox not mounted": Month.inbox_unmounted, "the clock set back": Month.clock_back,
}  # fmt: skip


def front_of_sshd(clock: Clock, folder: Path) -> str:
    """sshd's configuration: whatever a session starts sees the clock, and has a folder of its own for temporary files."""
    program = folder / "far"
    faked = shlex.join(f"{name}={value}" for name, value in {**clock.env, "TMPDIR": f"{folder}/far-tmp"}.items())
    program.write_text(f'#!/bin/sh\nexec env {faked} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    program.chmod(0o755)
    return f"ForceCommand {program}\n"


def started(month: Month) -> None:
    for name in ("said", "tmp", "far-tmp"):
        (month.folder / name).mkdir()
    month.install(1)
    assert json.loads(month.place("mqi-report", "--json").out)["cases"] == []
