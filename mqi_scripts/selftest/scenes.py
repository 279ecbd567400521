"""The faults, one scene each: it makes its fault, lets the line go on, and tells what it saw: (whether as promised, sentence)."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mqi_scripts import words as w
from mqi_scripts.selftest.scratch import Scratch, told
from mqi_scripts.world.files import read_note
from mqi_scripts.world.run import Ran

RESTING = (w.COMPLETED, w.FAILED, w.HELD, w.CANCELLED)
Saw = Iterator[tuple[bool, str]]
# tasks: how many it gives to the queue. engine: the only one that it is about; "": any.
Scene = NamedTuple("Scene", [("name", str), ("made", str), ("tasks", int), ("play", Callable[[Scratch], Saw]), ("engine", str)])


def completes(at: Scratch, name: str, tasks: int = 1) -> Saw:
    """The line without a fault: it ends completed, executed once by the job's own word, with true bytes, and the ledger verifies.
    tasks: with its label, which the queue must have."""
    at.until(lambda: at.of(name).status in RESTING, "mqi-tick")
    case = at.of(name)
    reason = f": {case.reason}" if case.reason else ""
    yield case.status == w.COMPLETED, f"without a fault the line went on by itself: the case is {case.status}{reason}"
    seen = at.settled()
    runs = [f"attempt {line.partition(' ')[2]}: {count}" for line, count in sorted(seen.runs.items()) if line.startswith(case.key)]
    good = [seen.runs[f"{case.key} {n}"] for n in range(1, case.attempt + 1)] == [1] and case.key not in seen.two
    yield good, f"executed, by the job's own word: {', '.join(runs) or 'never'}{'; two at a time' if case.key in seen.two else ''}"
    if at.host.engine == "pueue":
        yield seen.tasks[case.label] == tasks, f"the queue has {seen.tasks[case.label]} tasks with its label, for {tasks} expected"
    same = case.status == w.COMPLETED and content(f"{at.results}/{name}/data") == content(f"{at.inbox}/{name}/data")
    yield same, f"its result is {'byte for byte what its input asks for' if same else 'not what its input asks for'}"
    ran = at.run("mqi-ledger", "verify")
    yield ran.code == 0, f"the ledger {'verifies' if ran.code == 0 else 'does not verify: ' + told('mqi-ledger', ran)}"


def content(path: str) -> bytes:
    """Of a file; what is not there has none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def ended(program: str, ran: Ran, code: int) -> tuple[bool, str]:
    return ran.code == code, f"{told(program, ran)}{'' if ran.code == code else f' (as promised: {code})'}"


def stands(at: Scratch, name: str, status: str) -> tuple[bool, str]:
    case = at.of(name)
    return case.status == status, f"the case is {case.status}{': ' + case.reason if case.reason else ''}"


def nothing_there(at: Scratch, name: str, what: str) -> tuple[bool, str]:
    """what: input or attempt."""
    key = at.of(name).key
    have = [have for have in at.look().have if have.startswith(f"{key}/{what}")]
    return not have, f"under its final name there is {'no ' + what if not have else ', '.join(have)} of it on the host"


# --- the scenes


def cut(at: Scratch) -> Saw:
    at.case("cut")
    at.line("mqi-scan")
    for fault in ("cut", "cut-unnoticed"):
        yield ended("mqi-push", at.run("mqi-push", fault=f"{fault} transfer"), 69)
        yield nothing_there(at, "cut", "input")
        yield stands(at, "cut", w.FOUND)
    yield from completes(at, "cut")


def room(at: Scratch) -> Saw:
    at.case("room")
    size = at.ledger_size()
    yield ended("mqi-scan", at.run("mqi-scan", most=size + 20), 74)
    yield at.ledger_size() == size, f"the ledger has {at.ledger_size()} bytes, as before {size}"
    at.line("mqi-scan")
    yield ended("mqi-push", at.run("mqi-push", fault="full publish"), 74)
    yield nothing_there(at, "room", "input")
    at.line("mqi-push")
    yield stands(at, "room", w.PUSHED)
    yield ended("mqi-submit", at.run("mqi-submit", fault="full submit"), 74)
    yield nothing_there(at, "room", "attempt")
    waits = read_note(f"{at.state}/health/mqi-submit.json").get("trouble", "")
    yield bool(waits), f"the report would say why it waits: {waits or 'nothing'}"
    yield from completes(at, "room")


def lost(at: Scratch) -> Saw:
    at.case("lost")
    at.line("mqi-scan", "mqi-push")
    yield ended("mqi-submit", at.run("mqi-submit", fault="lost submit"), 69)
    at.line("mqi-submit", "mqi-submit")
    yield from completes(at, "lost")


def killed(at: Scratch) -> Saw:
    at.case("killed")
    at.line("mqi-scan")
    for program, fault in (
        ("mqi-push", "kill-after stage"), ("mqi-push", "kill-after publish"), ("mqi-submit", "kill-before submit"),
        ("mqi-submit", "kill-after submit"), ("mqi-poll", "kill-after look"), ("mqi-fetch", "kill-after results"),
    ):  # fmt: skip
        if fault == "kill-before submit":
            at.line("mqi-push")
        if program == "mqi-poll":
            at.line("mqi-submit")
        if program == "mqi-fetch":
            at.until(lambda: at.of("killed").status in (w.COMPUTED, *RESTING), "mqi-poll")
        ran = at.run(program, fault=fault)
        when, _, session = fault.removeprefix("kill-").partition(" ")
        yield ran.code == -signal.SIGKILL, f"{told(program, ran).partition(':')[0]} {when} its session `{session}`"
    yield from completes(at, "killed")


def twice(at: Scratch) -> Saw:
    at.case("twice", waits=True)
    at.line("mqi-scan", "mqi-push")
    with ThreadPoolExecutor(4) as pool:
        codes = [ran.code for ran in pool.map(at.run, ["mqi-submit"] * 4)]
    yield 0 in codes and set(codes) <= {0, 75}, f"four mqi-submit at once ended with {', '.join(map(str, sorted(codes)))}"
    yield runs(at, "twice")
    case = at.of("twice")
    at.ask("again", case.key, case.attempt, case.group)
    yield len([have for have in at.look().have if have.startswith(f"{case.key}/attempt")]) == 1, "there is one attempt of it"
    at.ask("put", "go")
    yield from completes(at, "twice", 2)
    at.ask("take", "go")


def empty(at: Scratch) -> Saw:
    at.case("empty", waits=True)
    at.line("mqi-scan", "mqi-push", "mqi-submit")
    yield runs(at, "empty")
    at.ask("put", "empty")
    for _ in range(2):
        at.line("mqi-submit", "mqi-poll")
        yield stands(at, "empty", w.RUNNING)
    at.ask("take", "empty")
    at.ask("put", "go")
    yield from completes(at, "empty")
    at.ask("take", "go")


def late(at: Scratch) -> Saw:
    name = next((case.path for case in at.cases() if case.status == w.COMPLETED), "")
    if not name:
        yield False, "none of the cases above is completed, so that nothing can be late"
        return
    files = [f"{at.results}/{name}/{file}" for file in ("mqi-result.json", "data")]
    before, executed = [content(file) for file in files], at.look().runs
    with open(f"{at.inbox}/{name}/late", "xb") as file:
        file.write(b"late\n")
    at.line("mqi-tick", "mqi-tick")
    stale = at.of(name).stale
    yield bool(stale), f"the new file is {'shown: ' + stale if stale else 'not shown'}"
    yield stands(at, name, w.COMPLETED)
    same = before == [content(file) for file in files] and all(before)
    yield same, f"the result and its record are {'as they were' if same else 'changed'}"
    same = at.settled().runs == executed
    yield same, f"{'nothing' if same else 'something'} was executed anew"


def runs(at: Scratch, name: str) -> tuple[bool, str]:
    """Wait until its job does."""
    key = at.of(name).key
    begun = at.until(lambda: f"{key} 1" in at.look().runs)
    return begun, f"its job {'runs' if begun else 'does not run: has the queue no free slot?'}"


SCENES = (
    Scene("cut transfer", "the stream of the copy ended after 100,000 bytes: once so that the copy failed, once so that it claimed "
          "success", 1, cut, ""),
    Scene("disk room refused", "the kernel let no file grow (RLIMIT_FSIZE): the ledger under mqi-scan, all files on the host under "
          "mqi-push and mqi-submit; no disk was filled", 1, room, ""),
    Scene("lost reply after submit", "the session of mqi-submit did all of its work on the host, and its whole answer was thrown "
          "away", 1, lost, ""),
    Scene("killed scripts", "SIGKILL for mqi-push, mqi-submit, mqi-poll and mqi-fetch, after the host did what they asked and "
          "before they could record it; for mqi-submit also before", 1, killed, ""),
    Scene("duplicate submission", "four mqi-submit at once; then the task was added to the queue a second time, under the same "
          "label", 2, twice, ""),
    Scene("daemon answers empty", "a relay before the queue's client asked for the tasks of a label that none has, so that the "
          "daemon itself answered with none: in each look of two runs of mqi-submit and mqi-poll, while the job ran",
          1, empty, "pueue"),
    Scene("late data", "a file was added to the folder of a case above, after its result was complete", 0, late, ""),
)  # fmt: skip
