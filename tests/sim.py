"""A small faulty world in memory, in which the real core and the real submit and poll run, and the laws that must hold.

`python -m sim FIRST COUNT` runs seeds and prints the first broken law with its story. Nothing here decides anything that the
product decides: the far side below does what mqi-remote.sh and mqi-job.sh do, step by step, and faults fall in between.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from mqi_scripts import words as w
from mqi_scripts.pure import codec, decide, order, wish
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.verbs import poll as poll_verb
from mqi_scripts.verbs import submit as submit_verb
from mqi_scripts.world.ledger import State

START = datetime(2026, 11, 24, tzinfo=UTC)
WISHES = (wish.cancel, wish.cancel, wish.hold, wish.release)
RETRIES = 5  # of one life: what people want does not end by itself
TROUBLES = ("daemon", "daemon term", "wipe", "empty", "wrapper", "job", "term", "remove", "again", "pause", "change")


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

    def __init__(self, key: str, number: int, task: int, exit_code: int, length: int) -> None:
        self.key, self.number, self.task, self.exit, self.left = key, number, task, exit_code, length
        self.stage, self.wrapper, self.job, self.termed, self.waited = "lock", True, False, False, 0


class World:
    """The compute host, its queue, and the inbox."""

    def __init__(self, seed: int) -> None:
        self.chance, self.story, self.faulty = random.Random(seed), [], True
        self.clock, self.sources, self.published = 0, {}, set()
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.locks: dict[str, Process] = {}
        self.processes: list[Process] = []
        self.tasks: dict[int, dict] = {}
        self.groups, self.daemon, self.next_id, self.empty_once = {"gpu0": True, "gpu1": True}, True, 0, False
        self.executed: Counter[tuple[str, int]] = Counter()
        self.added: Counter[str] = Counter()
        self.book, self.nested, self.retries = None, False, 0

    def tell(self, text: str) -> None:
        self.story.append(f"{self.clock:3} {text}")

    def now(self) -> str:
        return codec.stamp(START + timedelta(minutes=self.clock))

    def maybe(self, odds: float) -> bool:
        return self.faulty and self.chance.random() < odds

    def point(self, where: str) -> None:
        """Between two effects: the script may die here, or another script may run in full."""
        if self.maybe(0.04):
            self.tell(f"-- SIGKILL at {where}")
            raise Crash(where)
        if not self.nested and self.maybe(0.06):
            self.nested = True
            try:
                self.tell(f"-- at {where} the other script runs")
                tick(self, "poll" if "submit" in where else "submit")
            finally:
                self.nested = False

    # the host by itself

    def step(self) -> None:
        self.clock += 1
        for group, running in self.groups.items():
            busy = sum(t["state"] == "running" and t["group"] == group for t in self.tasks.values())
            waiting = [i for i, t in self.tasks.items() if t["state"] == "waiting" and t["group"] == group]
            if self.daemon and running and waiting and not busy:
                self.begin(waiting[0])
        for process in list(self.processes):
            self.advance(process)
        for key, count in Counter(p.key for p in self.processes if p.job).items():
            if count > 1:
                raise Broken("never two alive", key)

    def begin(self, number: int) -> None:
        task = self.tasks[number]
        task["state"] = "running"
        _, key, attempt = task["label"].split(":")
        code = 3 if self.chance.random() < 0.15 else 0
        self.processes.append(Process(key, int(attempt), number, code, self.chance.randint(1, 4)))

    def advance(self, p: Process) -> None:
        attempt = self.attempts.get((p.key, p.number))
        if p.stage == "lock":
            p.waited += 1
            if attempt is None or attempt.claim != "none" or p.waited > 6:
                self.leave(p)
            elif p.key not in self.locks:
                self.locks[p.key], p.stage = p, "claim"
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
            if p.wrapper and attempt:
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
        if kind in ("daemon", "daemon term", "wipe"):
            if kind == "daemon term":
                for process in list(self.processes):
                    self.leave(process)
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
                self.enqueue(task["label"], task["group"])
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
        if of is wish.retry and self.retries > RETRIES:
            return
        try:
            events = of(case, "because", "kim", self.now())
        except w.Usage:
            return
        self.tell(f"-- {of.__name__} {case.key}")
        self.retries += of is wish.retry
        self.book.append(events)

    def enqueue(self, label: str, group: str) -> None:
        self.tasks[self.next_id] = {"label": label, "group": group, "state": "waiting"}
        self.next_id += 1

    def heal(self) -> None:
        self.daemon = True
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
        if world.daemon and not world.maybe(0.05):
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
        for key, number in revoke:
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
            known = any(t["label"] == label for t in world.tasks.values()) or not world.daemon
            if (add.key, add.attempt) not in world.attempts and (add.key, add.digest) in world.published and not known:
                world.attempts[add.key, add.attempt] = Attempt(add.digest, add.group)
                made.append(add)
        for add in made:
            world.point("submit, between folder and add")
            if world.daemon and not world.maybe(0.05):
                label = f"mqi1:{add.key}:{add.attempt}"
                world.enqueue(label, add.group)
                world.added[label] += 1
                world.tell(f"   {label} is added to {add.group}")
                if world.added[label] > 1:
                    raise Broken("one add an attempt", label)
        world.point("submit, before the look")
        return self.look(look)

    def end(self, why, grace, wanted, head):
        world = self.world
        self.reach("end")
        for key, number in wanted:
            for p in [p for p in world.processes if p.stage == "job" and (p.key, p.number) == (key, number)]:
                attempt = world.attempts[key, number]
                attempt.ending = attempt.ending or why
                world.point("end, between why and TERM")
                if p not in world.processes:
                    continue
                if p.wrapper and world.maybe(0.5):  # a wrapper that is quicker than KILL writes what TERM left
                    attempt.result = {"exit": "143", "signal": "TERM", "fault": "", "manifest": ""}
                world.leave(p)
                world.tell(f"   {key}:{number} is ended: {why}")

    def reach(self, what: str) -> None:
        if self.world.maybe(0.06):
            raise w.Unreachable(f"no way to the host for {what}")


class Book:
    """world.ledger.Ledger's face in memory: what is appended is durable; what was acknowledged is remembered apart."""

    def __init__(self, world: World) -> None:
        self.world, self.log, self.acknowledged, self.refused = world, [], [], []
        self.all: dict[str, w.Case] = {}

    def state(self) -> State:
        opened = {key: case for key, case in self.all.items() if case.status not in w.CLOSED}
        return State("ledger", w.Head(len(self.log), "0" * 64), "", 0, {"far": "/"}, opened, {}, sum(record["type"] == "submitting" for record in self.log))

    def append(self, events):
        self.world.point("append, before the write")
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
            self.all[event.case] = case
            self.log.append(codec.to_dict(event))
            stored.append(event)
            self.world.tell(f"{type(event).__name__.lower()} {event.case}:{getattr(event, 'attempt', '')}")
        self.world.point("append, behind the write")
        self.acknowledged += [codec.to_dict(event) for event in stored]
        return stored

    def witness_end(self, case: w.Case) -> None:
        """Law: a case is cancelled when nothing of it runs, or can start."""
        attempts = {number: attempt.claim for (key, number), attempt in self.world.attempts.items() if key == case.key}
        if any(p.key == case.key and p.job for p in self.world.processes) or "none" in attempts.values():
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
            w.Failed: lambda: exits not in ("", "0") or "interrupted" in event.reason or event.phase == "results",
            w.Revoked: lambda: attempt and attempt.claim == "revoked",
            w.Started: lambda: begun,
            w.Submitted: lambda: attempt is not None,
        }.get(type(event), lambda: True)
        if not true():
            raise Broken("a verdict needs its witness", f"{type(event).__name__} {name}")
        if isinstance(event, w.Submitting) and any(p.key == event.case and p.job for p in self.world.processes):
            running = [p.number for p in self.world.processes if p.key == event.case and p.job]
            if event.attempt not in running:
                raise Broken("no successor while an attempt lives", name)


class Run:
    """frame.cli.Run's face."""

    args = SimpleNamespace(dry_run=False, jsonl=True, case=[])
    site = SimpleNamespace(job=SimpleNamespace(time_limit=1e6, progress="", results=("*",), groups={}),
                           retry=SimpleNamespace(interrupted=3), schedule=order.Schedule("strict", 600.0, 3600.0))  # fmt: skip

    def __init__(self, world: World) -> None:
        self.world, self.book, self.note, self.now, self.code = world, world.book, {"waits": {}, "progress": {}}, world.now, 0

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
    run, host = Run(world), Host(world)
    cases = list(world.book.state().open.values())
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
        with run.isolated():
            submit_verb.submit(run, host, [case for case in cases if case.status in (w.PUSHED, w.SUBMITTED)])
    elif name == "poll":
        mine = [case for case in cases if case.open and case.status in (w.PUSHED, w.SUBMITTED, w.RUNNING)]
        if mine:
            with run.isolated():
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


def simulate(seed: int) -> World:
    """One faulty life of a small site, then calm; raises Broken with the world's story in args."""
    world = World(seed)
    world.book = Book(world)
    world.sources = {f"c{n}": 1 for n in range(world.chance.randint(1, 4))}
    try:
        for _ in range(world.chance.randint(20, 60)):
            roll = world.chance.random()
            if roll < 0.12:
                world.trouble()
            elif roll < 0.2:
                world.heal()
            elif roll < 0.27:
                with suppress(Crash):
                    world.person()
            elif roll < 0.55:
                world.step()
            else:
                try:
                    tick(world, world.chance.choice(SCRIPTS))
                except Crash:
                    continue
        calm(world)
        judge(world)
    except Broken as error:
        error.story = world.story
        raise
    return world


OVER = (w.COMPLETED, w.FAILED, w.HELD, w.CANCELLED)


def calm(world: World) -> None:
    """Faults end; a person starts what is paused; the scripts go on."""
    world.faulty = world.empty_once = False
    world.tell("== calm")
    for _ in range(80):
        world.heal()
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
    for seed in range(first, first + count):
        try:
            simulate(seed)
        except Broken as error:
            sys.stdout.write("\n".join([*error.story, f"LAW {error.law}", f"seed {seed}: {error}"]) + "\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
