"""Foreign bytes to values: the far side's answer, pueue's state, sha256sum's lists. An unknown word stays unknown."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure.tables import printable

DONE = {"Success", "Failed", "Killed", "DependencyFailed", "FailedToSpawn", "Errored"}
STATES = {"Queued": "waiting", "Stashed": "waiting", "Locked": "waiting", "Running": "running", "Paused": "running"}
PLAIN = r"[A-Za-z0-9._-]+"  # groups whose names travel as they are
ESCAPES = {"\\": "\\", "n": "\n", "r": "\r"}
SUM = r"([0-9a-f]{64})  (?:\./)?([^\n]+)"


class Unreadable(ValueError):
    """An answer that proves nothing: what it should have told is unknown."""


class Answer(NamedTuple):
    """What a session said between its markers: lines as fields, the logs behind them, its exit code; and what came before."""

    lines: tuple[tuple[str, ...], ...]
    logs: str
    code: int
    before: bytes = b""

    def named(self, word: str) -> list[tuple[str, ...]]:
        return [line[1:] for line in self.lines if line[0] == word]

    def notes(self) -> str:
        return "; ".join(" ".join(line) for line in self.named("note"))


def answer(said: bytes, nonce: str) -> Answer:
    """The part between the markers, whatever a login shell printed around it. Raises Unreadable without the end."""
    begin, end = f"MQI-BEGIN {nonce}\n".encode(), f"MQI-END {nonce} ".encode()
    start, stop = said.find(begin), said.rfind(end)
    code = said[stop + len(end) :].split(b"\n", 1)[0]
    if start < 0 or stop < start or not code.isdigit():
        raise Unreadable("the session broke off before its end")
    body, _, logs = (b"\n" + said[start + len(begin) : stop]).partition(b"\nlogs\n")
    lines = tuple(tuple(line.split("\t")) for line in body.decode("utf-8", "replace").split("\n") if line)
    return Answer(lines, logs.decode("utf-8", "replace"), int(code), said[:start])


def root(said: Answer) -> tuple[str, w.Head] | None:
    """Which ledger owns the root, and the head it was shown last: the newest word of the session; None if nobody."""
    match = re.fullmatch(r"(\S+) (\d+) (\S+)", (said.named("root") or [("-",)])[-1][0])
    return (match[1], w.Head(int(match[2]), match[3])) if match else None


def room(said: Answer) -> int:
    """Free bytes below the root, -1 if the far side did not say."""
    kilobytes = (said.named("room") or [("",)])[0][0]
    return int(kilobytes) * 1024 if kilobytes.isdigit() else -1


def look(said: Answer, engine: str, path: str) -> w.Look:
    """The traces, tasks and groups of a session that looked. path: the root on the far side."""
    traces = {line[0]: _trace(line) for line in said.named("attempt") if len(line) == 10}  # noqa: PLR2004
    tails = _tails(said.logs, path, list(traces))
    sizes = {name: size for size, name in said.named("log")}
    for label, trace in traces.items():
        log = f"{path}/cases/{label[5:].replace(':', '/attempt-')}/job.log"
        traces[label] = trace._replace(tail=tails.get(label, ""), status={**trace.status, "log": sizes.get(log, "")})
    tasks: tuple[w.Task, ...] | None = None
    groups: tuple[w.Group, ...] = ()
    text, *code = (said.named("queue") or [("the queue was not asked",)])[0]
    trouble = "" if code[-1:] == ["0"] else _short(text)
    if not trouble:
        try:
            tasks, groups = ENGINES[engine](text, traces)
        except Unreadable as error:
            trouble = str(error)
    notes = tuple(" ".join(line) for line in (*said.named("note"), *said.named("gone")))
    return w.Look(traces, tasks, groups, trouble, notes)


def _trace(line: tuple[str, ...]) -> w.Trace:
    _, folder, claim, held, alive, age, status, result, ending, digest = line
    said = {**pairs(status), "age": age} if status else {}
    return w.Trace(folder == "1", claim, held == "1", alive == "1", said, pairs(result), ending, "", digest)


def pairs(text: str) -> dict[str, str]:
    """`name=value` words, as the wrapper writes them."""
    return {name: value for name, equals, value in (word.partition("=") for word in text.split(" ")) if equals}


def _tails(logs: str, path: str, labels: Sequence[str]) -> dict[str, str]:
    """The end of each job.log by label, from `tail -v`: the headers come in the order of the labels."""
    found = {}
    for label in reversed(labels):
        _, key, attempt = label.split(":")
        logs, header, tail = ("\n" + logs).rpartition(f"\n==> {path}/cases/{key}/attempt-{attempt}/job.log <==\n")
        logs = (logs if header else tail).removeprefix("\n")
        if header:
            found[label] = show(tail.rstrip("\n"))
    return found


def show(text: str) -> str:
    """Text from outside as one can print it: no control characters but the newline; `\\r` ends a line."""
    return "\n".join(printable(line) for line in re.split(r"\r\n|\r|\n", text))


def _short(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m|Location:.*", "", text, flags=re.S)  # colours, its source; then its chain
    return show(re.sub(r"(^Error:)? [0-9]: ", " ", re.sub(r"\s+", " ", plain)).strip())[:300] or "it said nothing"


def pueue(text: str, _: object) -> tuple[tuple[w.Task, ...], tuple[w.Group, ...]]:
    """Tasks and groups of `pueue status --json`, versions 3 and 4. Raises Unreadable."""
    try:
        state = json.loads(text, object_pairs_hook=_once, parse_constant=int)  # int refuses NaN and its kin
    except (ValueError, RecursionError):
        raise Unreadable(f"the queue answered what is not JSON: {_short(text)[:80]}") from None
    if not (isinstance(state, dict) and isinstance(state.get("tasks"), dict) and isinstance(state.get("groups"), dict)):
        raise Unreadable("the queue's answer has no tasks and groups")
    groups = tuple(_pueue_group(name, group) for name, group in state["groups"].items() if re.fullmatch(PLAIN, name))
    return tuple(_pueue_task(task) for task in state["tasks"].values()), groups


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _pueue_group(name: str, group: Any) -> w.Group:
    slots = group.get("parallel_tasks") if isinstance(group, dict) else None
    if type(slots) is not int or slots < 0:
        raise Unreadable(f"the queue's group {name} has no number of slots")
    return w.Group(name, slots, group.get("status") == "Running")


def _pueue_task(task: Any) -> w.Task:
    if not isinstance(task, dict) or type(task.get("id")) is not int:
        raise Unreadable("the queue lists a task without an id")
    status = task.get("status")
    word = next(iter(status), "") if isinstance(status, dict) else status
    body = status.get(word) if isinstance(status, dict) else None
    state = STATES.get(str(word), "unknown")
    if word == "Done":
        result = body.get("result") if isinstance(body, dict) and "result" in body else body
        name = next(iter(result), "") if isinstance(result, dict) else result
        state = "ended" if name in DONE else "unknown"
    label, group = task.get("label"), task.get("group")
    return w.Task(str(task["id"]), label if isinstance(label, str) else "", str(group), state)


def direct(text: str, traces: dict[str, w.Trace]) -> tuple[tuple[w.Task, ...], tuple[w.Group, ...]]:
    """No queue software: who holds a case's lock is a task; slots are locks."""
    if not text.isdigit():
        raise Unreadable("the number of slots is missing")
    tasks = (
        w.Task("", label, "direct", "running" if trace.claim == "begun" else "waiting")
        for label, trace in traces.items()
        if trace.held or trace.alive
    )
    return tuple(tasks), (w.Group("direct", int(text), True),)


Reader = Callable[[str, dict[str, w.Trace]], tuple[tuple[w.Task, ...], tuple[w.Group, ...]]]
ENGINES: dict[str, Reader] = {"pueue": pueue, "direct": direct}


def manifest(text: str) -> dict[str, str]:
    """Sums by name, in its order, from sha256sum's format (a line with escapes begins with a backslash).

    Raises Unreadable; names that leave their folder are refused.
    """
    sums: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n") if text else ():
        match = re.fullmatch(SUM, line.removeprefix("\\"))
        name = match[2] if match else "/"
        if line.startswith("\\"):
            name = re.sub(r"\\(.)", lambda escape: ESCAPES.get(escape[1], "/"), name)
        if not match or name.startswith("/") or ".." in name.split("/") or name in sums:
            raise Unreadable(f"not a line of a manifest: {show(line)[:120]}")
        sums[name] = match[1]
    return sums


def marks(text: str) -> list[str]:
    """What the markers say of a log, a sentence each. Raises Unreadable where its end is missing."""
    said, (*lines, end) = list[str](), text.split("\n")[:-1] or [""]
    if end != "end":
        raise Unreadable("what the markers say of the log is cut off")
    for line in lines:
        kind, _, rest = line.partition(" ")
        said.append(f"its log says: {show(rest)}" if kind == "failure" else f"its log lacks the success marker {show(rest)}")
    return said


def write_manifest(sums: Iterable[tuple[str, str]]) -> bytes:
    """sha256sum's format, sorted by name: (name, sum) pairs."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums)).encode()
