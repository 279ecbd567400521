"""What a look adds to the sentences of a case: what its compute host and its queue show of it now."""

import re
from collections.abc import Iterable, Iterator, Mapping

from mqi_scripts import words as w
from mqi_scripts.pure.explain import Notes, Plain, span, usual_of
from mqi_scripts.pure.tables import printable

LABEL = re.compile(r"mqi1:([0-9a-f]+):([0-9]+)")


def seen(case: w.Case, look: w.Look, notes: Notes, cases: Mapping[str, w.Case]) -> Iterator[tuple[str, str]]:
    """What the compute host shows of the case, as (thing, sentence). cases: all by key."""
    groups = ", ".join(f"{g.name} ({g.slots or 'unlimited'}{'' if g.running else ', paused'})" for g in look.groups)
    yield "queue", f"does not answer: {look.trouble}" if look.trouble else f"answers; groups and slots: {groups}"
    trace = look.traces.get(case.label) if case.attempt else None
    if trace:
        yield "attempt", _attempt(trace)
        if trace.tail:
            yield "log", "ends: " + printable(trace.tail.strip().rpartition("\n")[2])[:200]
    if case.status == w.SUBMITTED and look.tasks is not None:
        yield "ahead", _ahead(case, look, notes, cases)


def waits_for_slot(case: w.Case, look: w.Look) -> bool:
    """Its wrapper runs, and has no slot yet."""
    trace = look.traces.get(case.label) if case.attempt else None
    return bool(trace and trace.claim == "none" and trace.held)


def over(case: w.Case, look: w.Look | w.Failure | None, plain: Plain, late: str) -> Plain:
    """The same, where a look shows that the job has ended since the record was made. late: that mqi-poll does not run."""
    trace = look.traces.get(case.label) if isinstance(look, w.Look) and case.open else None
    if not trace or trace.held or trace.alive or not (trace.result or trace.ending):
        return plain
    how = trace.ending or f"exit {trace.result.get('exit') or trace.result.get('fault') or '?'}"
    why = f"its job is over on {case.host} ({how}), and mqi-poll has not recorded it" + (late and f"; {late}")
    return plain._replace(why=why, next="the next mqi-poll records it", helps="mqi-check --fast" if late else f"mqi-poll {case.id}")


def _attempt(trace: w.Trace) -> str:
    if not trace.folder:
        return "its folder is not there"
    claims = {"none": "has not begun", "begun": "has begun", "revoked": "is revoked: it can never start"}
    said = claims.get(trace.claim, "has a claim that is none of ours")
    lives = "it lives" if trace.held or trace.alive else "nothing of it lives" if trace.claim == "begun" else ""
    if trace.claim == "none" and trace.held:
        lives = "a wrapper waits for a slot, or for what is left of an older attempt"
    result = f"result: exit {trace.result.get('exit') or trace.result.get('fault') or '?'}" if trace.result else ""
    ended = f"ended by us: {trace.ending}" if trace.ending else ""
    return ", ".join(filter(None, [said, lives, result, ended]))


def ours(tasks: Iterable[w.Task], cases: Mapping[str, w.Case]) -> tuple[list[w.Task], list[w.Task]]:
    """Tasks with our label: those of an attempt in this ledger; those of none: of another gateway, or of a ledger that was lost."""
    known, strange = list[w.Task](), list[w.Task]()
    for task in tasks:
        if match := LABEL.fullmatch(task.label):
            case = cases.get(match[1])
            (known if case and int(match[2]) <= case.attempt else strange).append(task)
    return known, strange


def _ahead(case: w.Case, look: w.Look, notes: Notes, cases: Mapping[str, w.Case]) -> str:
    """Whose tasks come before it, and when it is expected to start, from the median run time of its group."""
    tasks = [task for task in look.tasks or () if task.group == case.group and task.label != case.label]
    running = [task for task in tasks if task.state == "running"]
    waiting = [task for task in tasks if task.state == "waiting" and _number(task.id) < _number(case.task)]
    before = len(running) + len(waiting)
    known, strange = ours([*running, *waiting], cases)
    text = f"{len(running)} tasks run and {len(waiting)} wait before it in group {case.group}"
    text += f", {before - len(known) - len(strange)} of these not ours"
    text += f", {len(strange)} with our label and of no attempt here, see mqi-check" if strange else ""
    slots = next((group.slots for group in look.groups if group.name == case.group), 0)
    usual = usual_of(case, notes)
    if slots and usual:
        starts = span(usual * max(before - slots + 1, 0) / slots)
        return f"{text}; it starts in about {starts}, if each takes the median run time, {span(usual)}"
    return text


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 1 << 60
