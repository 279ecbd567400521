"""A small faulty world in memory, in which the real core and the real submit and poll run, and the laws that must hold.

`python -m sim FIRST COUNT` runs seeds and prints the first broken law with its story, shrunk to the fewest steps that still break
it. Nothing here decides anything that the product decides: the far side below does what mqi-remote.sh and mqi-job.sh do, step by
step, and faults fall in between.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure import codec, decide, order, place, wish
from mqi_scripts.pure.evolve import evolve, streak
from mqi_scripts.verbs import poll as poll_verb
from mqi_scripts.verbs import submit as submit_verb
from mqi_scripts.world.ledger import State

START = datetime(2026, 11, 24, tzinfo=UTC)
WISHES = (wish.cancel, wish.cancel, wish.hold, wish.release)
RETRIES = 5  # of one life: what people want does not end by itself
TROUBLES = ("daemon", "daemon term", "wipe", "empty", "wrapper", "job", "term", "remove", "again", "pause", "change", "reboot", "stop", "outage",
            "disk here", "disk there", "clock", "stranger", "relabel", "force")  # fmt: skip
PACES = (1, 1, 5, 60, 720, 2880)  # minutes that a step of the world takes
SKEWS = (10 * 1440, -3 * 365 * 1440, -60, 0)  # minutes that the gateway's clock is set by


class Step(NamedTuple):
    """One thing that happens in a life; its chances are its own, so that it is the same when others are left out."""

    kind: str
    seed: int
    faulty: bool = True


class Life(NamedTuple):
    cases: int
    pace: int
    steps: tuple[Step, ...]


class Crash(BaseException):
    """SIGKILL of the script that runs."""


class Broken(Exception):
    """A law did not hold."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


class Attempt:
    def __init__(self, digest: str, group: str) -> None:
        self.digest, self.group, self.claim, self.result, self.status, self.ending = digest, group, "none", {}, {}, ""


class Process:
    """A wrapper with its job: waits for the lock, claims, computes, writes its result."""

    def __init__(self, key: str, number: int, task: int, exit_code: int, length: int, slot: int) -> None:
        self.key, self.number, self.task, self.exit, self.left, self.slot = key, number, task, exit_code, length, slot
        self.stage, self.wrapper, self.job, self.termed, self.waited = "lock", True, False, False, 0


class World:
    """The compute host, its queue, and the inbox."""

    def __init__(self, life: Life) -> None:
        self.chance, self.story, self.faulty = random.Random(0), [], True
        self.clock, self.calmed, self.pace, self.skew, self.published = 0, 0, life.pace, 0, set()
        self.sources = {f"c{n}": 1 for n in range(life.cases)}
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.locks: dict[str, Process] = {}
        self.processes: list[Process] = []
        self.tasks: dict[int, dict] = {}
        self.groups, self.daemon, self.next_id, self.empty_once = {"gpu0": True, "gpu1": True}, True, 0, False
        self.executed: Counter[tuple[str, int]] = Counter()
        self.added: Counter[str] = Counter()
        self.book, self.nested, self.retries, self.running = Book(self), False, 0, ""
        self.stopped, self.outage, self.full_here, self.full_there = False, 0, False, False
        self.delayed: list[tuple[str, str]] = []  # adds that a stopped daemon has not read yet
        self.strangers = set[str]()
        self.given_up = set[tuple[str, int]]()  # attempts whose host somebody called gone for ever

    def tell(self, text: str) -> None:
        self.story.append(f"{self.clock:3} {text}")

    def now(self) -> str:
        return codec.stamp(START + timedelta(minutes=self.clock + self.skew))

    def maybe(self, odds: float) -> bool:
        return self.faulty and self.chance.random() < odds

    def point(self, where: str) -> None:
        """Between two effects: the script may die here, or another script may run in full."""
        if self.maybe(0.04):
            self.tell(f"-- SIGKILL at {where}")
            raise Crash(where)
        if not self.nested and self.maybe(0.06):
            name = self.chance.choice([*(one for one in SCRIPTS if one != self.running), "a person", "new data"])
            self.nested, running = True, self.running
            try:
                self.tell(f"-- at {where}: {name}")
                if name == "a person":
                    self.person()
                elif name == "new data":
                    self.sources[self.chance.choice(list(self.sources))] += 1
                    tick(self, "scan" if running != "scan" else "submit")
                else:
                    tick(self, name)
            finally:
                self.nested, self.running = False, running

    # the host by itself

    def step(self) -> None:
        self.clock += self.pace
        self.outage = max(self.outage - 1, 0)
        for task in self.tasks.values():  # a stranger's runs by itself
            if task["state"] == "running" and task["job"] is None:
                task["state"] = "ended" if self.chance.random() < 0.3 else "running"
        for group, running in self.groups.items():
            busy = sum(t["state"] == "running" and t["group"] == group for t in self.tasks.values())
            waiting = [i for i, t in self.tasks.items() if t["state"] == "waiting" and t["group"] == group]
            if self.daemon and not self.stopped and running and waiting and not busy:
                self.begin(waiting[0])
        for process in list(self.processes):
            self.advance(process)
        for key, count in Counter(p.key for p in self.processes if p.job).items():
            if count > 1:
                raise Broken("never two alive", key)

    def begin(self, number: int) -> None:
        task = self.tasks[number]
        task["state"] = "running"
        if task["job"] is None:
            return
        key, attempt = task["job"]
        code = 3 if self.chance.random() < 0.15 else 0
        self.processes.append(Process(key, attempt, number, code, self.chance.randint(1, 4), self.chance.choice((0, 0, 0, 1, 3))))

    def advance(self, p: Process) -> None:
        attempt = self.attempts.get((p.key, p.number))
        if p.stage == "lock":
            p.waited += 1
            if attempt is None or attempt.claim != "none" or p.waited > 6:
                self.leave(p)
            elif p.key not in self.locks:
                self.locks[p.key], p.stage = p, "slot"
        elif p.stage == "slot":
            p.slot -= 1
            if attempt is None or attempt.claim != "none":
                self.leave(p)
            elif p.slot < 0:
                p.stage = "claim"
        elif p.stage == "claim":
            if attempt is None or attempt.claim != "none":
                self.leave(p)
                return
            attempt.claim, p.stage, p.job = "begun", "job", True
            attempt.status = {"group": attempt.group, "slot": "0", "since": str(self.clock)}
            self.executed[p.key, p.number] += 1
            self.tell(f"   attempt {p.key}:{p.number} begins")
            if (p.key, attempt.digest) not in self.published:
                raise Broken("only published input", f"{p.key}:{p.number}")
        elif p.stage == "job":
            p.left -= 1
            if p.left > 0:
                return
            p.job = False
            if p.wrapper and attempt and self.full_there:
                if self.chance.random() < 0.5:  # else there is room for nothing at all
                    attempt.result = {"exit": "", "signal": "", "fault": "disk-full-or-output-unreadable", "manifest": ""}
            elif p.wrapper and attempt:
                attempt.result = {"exit": str(p.exit), "signal": "TERM" if p.termed else "", "fault": "",
                                  "manifest": f"out-{p.key}-{p.number}-{attempt.digest}"}  # fmt: skip
                self.tell(f"   attempt {p.key}:{p.number} wrote its result")
            self.leave(p)

    def leave(self, p: Process) -> None:
        if self.locks.get(p.key) is p:
            del self.locks[p.key]
        self.processes.remove(p)
        if p.wrapper and p.task in self.tasks:
            self.tasks[p.task]["state"] = "ended"

    def alive(self, key: str, number: int) -> bool:
        return any(p.job and (p.key, p.number) == (key, number) for p in self.processes)

    # what people and fate do to it

    def trouble(self) -> None:
        kind = self.chance.choice(TROUBLES)
        self.tell(f"-- {kind}")
        processes = [p for p in self.processes if p.stage == "job"]
        p = self.chance.choice(processes) if processes else None
        ours = [task for task in self.tasks.values() if task["state"] == "waiting" and task["job"]]
        if kind in ("daemon", "daemon term", "wipe", "reboot"):
            if kind in ("daemon term", "reboot"):
                for process in list(self.processes):
                    self.leave(process)
            self.stopped, self.delayed = False, []
            for task in self.tasks.values():
                task["state"] = "ended" if task["state"] == "running" else task["state"]
                if task["state"] == "waiting":
                    self.groups[task["group"]] = False
            self.daemon = False
            if kind == "wipe":
                self.tasks, self.next_id = {}, 0
        elif kind == "empty":
            self.empty_once = True
        elif kind == "wrapper" and p and p.wrapper:
            p.wrapper = False
            if p.task in self.tasks:
                self.tasks[p.task]["state"] = "ended"
        elif kind == "job" and p:
            self.leave(p)
        elif kind == "term" and p:
            p.termed, p.left = True, 1
        elif kind == "remove":
            for number in [i for i, t in self.tasks.items() if t["state"] == "waiting"][:1]:
                del self.tasks[number]
        elif kind == "again":
            for task in [t for t in self.tasks.values() if t["state"] == "ended"][:1]:
                self.enqueue(task["label"], task["group"], task["job"])
        elif kind == "stop":
            self.stopped = self.daemon
        elif kind == "outage":
            self.outage = self.chance.choice((3, 10, 60))
        elif kind == "disk here":
            self.full_here = True
        elif kind == "disk there":
            self.full_there = True
        elif kind == "clock":
            self.skew = self.chance.choice(SKEWS)
        elif kind == "stranger" and self.book.all:
            case = self.chance.choice(list(self.book.all.values()))
            label = f"mqi1:{case.key}:{case.attempt + self.chance.randint(0, 1)}"
            self.strangers.add(label)
            self.enqueue(label, self.chance.choice(list(self.groups)), None)
        elif kind == "relabel" and ours:
            ours[0]["label"] = "mqi1:somebody:1"
        elif kind == "force" and ours and self.daemon and not self.stopped:
            self.begin(next(number for number, task in self.tasks.items() if task is ours[0]))
        elif kind == "pause":
            self.groups[self.chance.choice(list(self.groups))] = False
        elif kind == "change":
            key = self.chance.choice(list(self.sources))
            self.sources[key] += 1

    def person(self) -> None:
        """Somebody decides something about a case, as mqi-case would record it."""
        if not self.book.all:
            return
        case, of = self.chance.choice(list(self.book.all.values())), self.chance.choice((*WISHES, wish.retry))
        of = wish.retry if self.outage and self.chance.random() < 0.5 else of
        if of is wish.retry and self.retries > RETRIES:
            return
        gone = {"host_is_gone": True} if of is wish.retry and self.outage and case.open else {}
        try:
            events = of(case, "because", "kim", self.now(), **gone)
        except w.Usage:
            return
        self.tell(f"-- {of.__name__} {case.key}{', its host is gone' if gone else ''}")
        self.retries += of is wish.retry
        with suppress(w.Disk):
            self.book.append(events)

    def enqueue(self, label: str, group: str, job: tuple[str, int] | None) -> None:
        self.tasks[self.next_id] = {"label": label, "group": group, "state": "waiting", "job": job}
        self.next_id += 1

    def heal(self) -> None:
        self.daemon, self.stopped, self.outage, self.full_here, self.full_there = True, False, 0, False, False
        for label, group in self.delayed:
            _, key, number = label.split(":")
            self.enqueue(label, group, (key, int(number)))
            self.tell(f"   {label} is added late to {group}")
        self.delayed = []
        self.groups = dict.fromkeys(self.groups, True)


class Host:
    """world.host.Host's face over the world, with lost replies."""

    name = "far"
    config = SimpleNamespace(groups=("gpu*",), queue_depth=2)

    def __init__(self, world: World) -> None:
        self.world = world

    def look(self, wanted):
        world = self.world
        self.reach("look")
        tasks = None
        if world.daemon and not world.stopped and not world.maybe(0.05):
            tasks = tuple(w.Task(str(i), t["label"], t["group"], t["state"]) for i, t in world.tasks.items())
            if world.empty_once:
                tasks, world.empty_once = (), False
        groups = tuple(w.Group(name, 1, running) for name, running in world.groups.items())
        if world.faulty and world.chance.random() < 0.5:
            world.step()  # a look is no snapshot: the queue is asked first
        traces = {f"mqi1:{key}:{n}": self.trace(key, n) for key, n in wanted}
        world.point("look, before the reply to submit" if world.chance.random() < 0.5 else "look, before the reply to poll")
        return w.Look(traces, tasks, groups if tasks is not None else (), "" if tasks is not None else "no answer", ())

    def trace(self, key: str, number: int) -> w.Trace:
        attempt = self.world.attempts.get((key, number))
        if attempt is None:
            return w.Trace(False, "none", False, False, {}, {}, "", "", "")
        return w.Trace(True, attempt.claim, key in self.world.locks, False, attempt.status, attempt.result, attempt.ending, "", attempt.digest)

    def submit(self, job, revoke, adds, look, head):
        world = self.world
        self.reach("submit")
        if world.full_there and world.chance.random() < 0.8:
            raise w.Disk("far: could not write there")
        for key, number in revoke:
            if world.full_there:
                continue
            attempt = world.attempts.setdefault((key, number), Attempt("", ""))
            if attempt.claim == "none":
                attempt.claim = "revoked"
                world.tell(f"   {key}:{number} is revoked")
                for task in [i for i, t in world.tasks.items() if t["label"] == f"mqi1:{key}:{number}" and t["state"] == "waiting"]:
                    del world.tasks[task]
            world.point("submit, behind a revocation")
        made = []
        for add in adds:
            label = f"mqi1:{add.key}:{add.attempt}"
            known = any(t["label"] == label for t in world.tasks.values()) or not world.daemon or world.stopped or world.full_there
            if (add.key, add.attempt) not in world.attempts and (add.key, add.digest) in world.published and not known:
                world.attempts[add.key, add.attempt] = Attempt(add.digest, add.group)
                made.append(add)
        for add in made:
            world.point("submit, between folder and add")
            world.stopped = world.stopped or (world.daemon and world.maybe(0.03))
            if world.daemon and not world.maybe(0.05):
                label = f"mqi1:{add.key}:{add.attempt}"
                if world.stopped:
                    world.delayed.append((label, add.group))
                else:
                    world.enqueue(label, add.group, (add.key, add.attempt))
                world.added[label] += 1
                world.tell(f"   {label} is added to {add.group}")
                if world.added[label] > 1:
                    raise Broken("one add an attempt", label)
        world.point("submit, before the look")
        seen = self.look(look)
        self.reach("the reply to submit")
        return seen

    def end(self, why, grace, wanted, head):
        world = self.world
        self.reach("end")
        for key, number in wanted:
            for p in [p for p in world.processes if p.stage == "job" and (p.key, p.number) == (key, number)]:
                attempt = world.attempts[key, number]
                attempt.ending = attempt.ending or ("" if world.full_there else why)
                world.point("end, between why and TERM")
                if p not in world.processes:
                    continue
                if p.wrapper and world.maybe(0.5):  # a wrapper that is quicker than KILL writes what TERM left
                    attempt.result = {"exit": "143", "signal": "TERM", "fault": "", "manifest": ""}
                world.leave(p)
                world.tell(f"   {key}:{number} is ended: {why}")

    def reach(self, what: str) -> None:
        if self.world.outage or self.world.maybe(0.06):
            raise w.Unreachable(f"no way to the host for {what}")


class Book:
    """world.ledger.Ledger's face in memory: what is appended is durable; what was acknowledged is remembered apart."""

    def __init__(self, world: World) -> None:
        self.world, self.log, self.acknowledged, self.refused = world, [], [], []
        self.all: dict[str, w.Case] = {}
        self.failed: dict[str, list[str]] = {}  # a person's release of a group empties its row

    def state(self) -> State:
        opened = {key: case for key, case in self.all.items() if case.status not in w.CLOSED}
        return State("ledger", w.Head(len(self.log), "0" * 64), "", 0, "", {"far": "/"}, opened, {}, sum(record["type"] == "submitting" for record in self.log),
                     self.failed)  # fmt: skip

    def append(self, events):
        self.world.point("append, before the write")
        if self.world.full_here:
            raise w.Disk("the ledger's disk is full")
        stored = []
        for event in events:
            try:
                case = evolve(self.all.get(event.case), event)
            except w.Illegal as error:
                self.refused.append(error)
                continue
            self.witness(event)
            if case.status == w.CANCELLED and event.case in self.all and self.all[event.case].status != w.CANCELLED:
                self.witness_end(case)
            if isinstance(event, w.Retried) and event.host_is_gone:  # and yet it may come back
                self.world.given_up.add((event.case, case.attempt))
            old = self.all.get(event.case) or case
            self.all[event.case], group = case, f"{old.host}/{old.group}"
            self.failed[group] = streak(self.failed.get(group, ()), case, event)
            self.log.append(codec.to_dict(event))
            stored.append(event)
            self.world.tell(f"{type(event).__name__.lower()} {event.case}:{getattr(event, 'attempt', '')}")
        self.world.point("append, behind the write")
        self.acknowledged += [codec.to_dict(event) for event in stored]
        return stored

    def witness_end(self, case: w.Case) -> None:
        """Law: a case is cancelled when nothing of it runs, or can start."""
        world, given_up = self.world, self.world.given_up
        attempts = {n: attempt.claim for (key, n), attempt in world.attempts.items() if key == case.key and (key, n) not in given_up}
        if any(p.key == case.key and p.job and (p.key, p.number) not in given_up for p in world.processes) or "none" in attempts.values():
            raise Broken("cancelled is said when nothing runs or can start", f"{case.key} {attempts}")

    def witness(self, event) -> None:
        """Law: a verdict has its witness in the world at that moment."""
        if not hasattr(event, "attempt"):
            return
        attempt, name = self.world.attempts.get((event.case, event.attempt)), f"{event.case}:{event.attempt}"
        exits = attempt.result.get("exit", "") if attempt and not attempt.result.get("signal") else ""
        begun, alive = attempt and attempt.claim == "begun", self.world.alive(event.case, getattr(event, "attempt", 0))
        true = {
            w.Interrupted: lambda: begun and not exits and not alive,
            w.Succeeded: lambda: exits == "0",
            w.Failed: lambda: exits not in ("", "0") or attempt.result.get("fault") or "interrupted" in event.reason or event.phase == "results",
            w.Revoked: lambda: attempt and attempt.claim == "revoked",
            w.Started: lambda: begun,
            w.Submitted: lambda: attempt is not None or f"mqi1:{name}" in self.world.strangers,
        }.get(type(event), lambda: True)
        if not true():
            raise Broken("a verdict needs its witness", f"{type(event).__name__} {name}")
        if isinstance(event, w.Submitting) and any(p.key == event.case and p.job for p in self.world.processes):
            running = [p.number for p in self.world.processes if p.key == event.case and p.job]
            if event.attempt not in running and not all((event.case, number) in self.world.given_up for number in running):
                raise Broken("no successor while an attempt lives", name)


class Run:
    """frame.cli.Run's face."""

    args = SimpleNamespace(dry_run=False, jsonl=True, case=[])
    site = SimpleNamespace(job=SimpleNamespace(time_limit=1e6, progress="", results=("*",), groups={}, silent_limit=0, silent_end=False),
                           retry=SimpleNamespace(interrupted=3), breaker=SimpleNamespace(jobs=1), schedule=order.Schedule("strict", 600.0, 3600.0))  # fmt: skip

    def __init__(self, world: World) -> None:
        self.world, self.book, self.note, self.now, self.code = world, world.book, {"waits": {}, "progress": {}, "logs": {}}, world.now, 0

    def say(self, text: str) -> None:
        return None

    failed = waits = lambda *_: None  # noqa: E731

    def heard(self, host: str, look: w.Look) -> None:
        return None

    def record(self, events):
        return self.book.append(list(events)) if events else []

    @contextmanager
    def isolated(self, _=()):
        try:
            yield
        except w.Failure as error:
            self.world.tell(f"   {error}")


def tick(world: World, name: str) -> None:
    """One run of one script."""
    run, world.running = Run(world), name
    with run.isolated():
        script(world, run, name)


def script(world: World, run: Run, name: str) -> None:
    host, cases = Host(world), list(world.book.state().open.values())
    if name == "scan":
        for key, version in world.sources.items():
            sight = decide.Sight(key, (), f"{key}-v{version}", 1, 1, "changed", "", {})
            event = decide.scan(key, world.book.all.get(key), sight, "", "hold", world.now())
            run.record([event] if event else [])
    elif name == "push":
        for case in cases:
            if case.status == w.FOUND and case.digest == f"{case.key}-v{world.sources[case.key]}":
                world.published.add((case.key, case.digest))
                world.point("push, published")
                run.record([w.Pushed(case.key, world.now(), "far", case.digest)])
    elif name == "submit":
        submit_verb.submit(run, host, [case for case in cases if case.status in (w.PUSHED, w.SUBMITTED)])
    elif name == "poll":
        if mine := [case for case in cases if case.open and case.status in (w.PUSHED, w.SUBMITTED, w.RUNNING)]:
            poll_verb.poll(run, host, mine)
    elif name == "fetch":
        fetch(world, run, [case for case in cases if case.status == w.COMPUTED])


def fetch(world: World, run: Run, cases: list[w.Case]) -> None:
    for case in cases:
        attempt = world.attempts[case.key, case.attempt]
        manifest = attempt.result.get("manifest", "") if not world.maybe(0.1) else "cut off"
        sums = {"dose": manifest} if not world.maybe(0.1) else {}
        got = decide.Brought(manifest, {"dose": manifest}, sums, {"dose": 1}, (), ())
        events = decide.fetch(case, got, ("*",), 0, world.now())
        if any(isinstance(event, w.Completed) for event in events):
            if attempt.result.get("exit") != "0" or sums != {"dose": attempt.result["manifest"]}:
                raise Broken("completed with true bytes", case.key)
            if attempt.digest != case.digest:
                raise Broken("new data never slips into a result", case.key)
        run.record(events)


SCRIPTS = ("scan", "push", "submit", "poll", "fetch")


def life(seed: int) -> Life:
    chance, kinds = random.Random(seed), []
    cases, pace = chance.randint(1, 4), chance.choice(PACES)
    for _ in range(chance.randint(20, 60)):
        roll = chance.random()
        kinds.append("trouble" if roll < 0.12 else "heal" if roll < 0.2 else "person" if roll < 0.27 else "step" if roll < 0.55 else chance.choice(SCRIPTS))
    return Life(cases, pace, tuple(Step(kind, chance.getrandbits(32)) for kind in kinds))


def live(one: Life) -> World:
    """A faulty life of a small site, then calm; raises Broken with the world's story."""
    world = World(one)
    try:
        for step in one.steps:
            world.chance, world.faulty = random.Random(step.seed), step.faulty
            with suppress(Crash):
                if step.kind in SCRIPTS:
                    tick(world, step.kind)
                else:
                    getattr(world, step.kind)()
        world.chance, world.calmed = random.Random(0), world.clock
        calm(world)
        judge(world)
    except Broken as error:
        error.story = world.story
        raise
    return world


def shrunk(one: Life, error: Broken, tries: int = 5000) -> tuple[Life, Broken]:
    """The shortest life found that breaks the same law: with fewer cases, without steps, in halves, then singly, and without their
    faults; again until nothing more can be left out."""

    def breaks(fewer: Life) -> bool:
        nonlocal one, error, tries
        tries -= 1
        try:
            live(fewer) if tries > 0 else None
        except Broken as found:
            if found.law == error.law:
                one, error = fewer, found
                return True
        return False

    before = None
    while one != before:
        before = one
        for cases in range(1, one.cases):
            if breaks(one._replace(cases=cases)):
                break
        size = len(one.steps)
        while size:
            at = 0
            while at < len(one.steps):
                if not breaks(one._replace(steps=one.steps[:at] + one.steps[at + size :])):
                    at += size
            size //= 2
        for at, step in enumerate(one.steps):
            if step.faulty:
                breaks(one._replace(steps=(*one.steps[:at], step._replace(faulty=False), *one.steps[at + 1 :])))
    return one, error


OVER = (w.COMPLETED, w.FAILED, w.HELD, w.CANCELLED)


def calm(world: World) -> None:
    """Faults end; a person starts what is paused; the scripts go on."""
    world.faulty = world.empty_once = False
    world.tell("== calm")
    for _ in range(80):
        world.heal()
        if place.broken(world.book.failed, "far", Run.site.breaker.jobs):
            world.tell("-- a person releases the groups")
            world.book.failed.clear()
        for name in SCRIPTS:
            tick(world, name)
        world.step()
        if all(case.status in OVER for case in world.book.all.values()) and world.book.all:
            return


def judge(world: World) -> None:
    """The laws that hold at the end of every life."""
    for (key, number), times in world.executed.items():
        if times > 1:
            raise Broken("no attempt is executed twice", f"{key}:{number}")
        if world.attempts[key, number].claim == "revoked":
            raise Broken("revoked never starts", f"{key}:{number}")
    if [event for event in world.book.acknowledged if event not in world.book.log]:
        raise Broken("no acknowledged event is missing", "")
    replayed: dict[str, w.Case] = {}
    for record in world.book.log:
        event = codec.from_dict(record)
        replayed[event.case] = evolve(replayed.get(event.case), event)
    if {key: case.status for key, case in replayed.items()} != {key: case.status for key, case in world.book.all.items()}:
        raise Broken("the ledger replays", "")
    for key in world.sources:
        case = world.book.all.get(key)
        if case is None or case.status not in OVER:
            raise Broken("no case is lost or stuck", f"{key} is {case and case.status}")
        if case.asked and (case.unwanted or case.status != w.HELD):
            raise Broken("what a person asked for is done", f"{key} is {case.status}: {case.asked}")
        if case.status != w.COMPLETED and not case.reason:
            raise Broken("what stands still has a reason", key)
        if any(number > 12 for k, number in world.attempts if k == key):
            raise Broken("attempts do not run away", key)


def main(first: int, count: int) -> int:
    days = []
    for seed in range(first, first + count):
        one = life(seed)
        try:
            days.append(live(one).calmed / 1440)
        except Broken as error:
            one, error = shrunk(one, error)
            sys.stdout.write("\n".join([*told(seed, one, error)]) + "\n")
            return 1
    sys.stdout.write(f"{count} lives, {sum(days):.0f} days under faults, {sum(day >= 30 for day in days)} of 30 days or more, the longest of {max(days):.0f} days\n")
    return 0


def told(seed: int, one: Life, error: Broken) -> Iterator[str]:
    """A story for a person: what happened, the law that it broke, the steps that it takes."""
    yield "minute: what happened (-- a fault, or a person; from == on nothing fails)"
    yield from error.story
    yield f"LAW {error.law}"
    yield f"seed {seed}, {len(one.steps)} steps: {error}"
    yield f"steps (! with faults in it): {' '.join(step.kind + '!' * step.faulty for step in one.steps) or 'none but the calm'}"


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
