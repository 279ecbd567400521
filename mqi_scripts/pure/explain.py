"""Why a case stands where it stands, what happens next and when, what helps: the sentences of mqi-report and mqi-case explain.

All of it comes from the ledger and the notes that the last runs left, so that it can be told with every host down; what a look
adds is in looked.py.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure import wish
from mqi_scripts.pure.evolve import AGAIN
from mqi_scripts.pure.order import seconds
from mqi_scripts.pure.retry import CHANGE
from mqi_scripts.pure.tables import printable

# What the last runs left, deletable: waits: (status, why, category, what the next try waits for) by key; progress: (percentage,
# last line) by key; steps: of each program its last run, last success and trouble; runs: the median run time by host/group, ""
# for all of them, seconds.
Notes = NamedTuple("Notes", [
    ("waits", Mapping[str, Any]), ("progress", Mapping[str, Any]), ("steps", Mapping[str, Mapping[str, Any]]),
    ("runs", Mapping[str, float]),
])  # fmt: skip
NOTHING = Notes({}, {}, {}, {})

# why it stands; what happens next by itself, or what a person does; the command that helps, "" if none is needed; whether
# nothing happens without a person
Plain = NamedTuple("Plain", [("why", str), ("next", str), ("helps", str), ("person", bool)])

LATE = 900.0  # seconds without a run after which a program is called late; the timers start it every minute
STILL = 3600.0  # seconds at one place after which a case is told, whatever the reason
STEP = {w.HELD: "mqi-scan", w.FOUND: "mqi-push", w.PUSHED: "mqi-submit", w.SUBMITTED: "mqi-poll", w.RUNNING: "mqi-poll",
        w.COMPUTED: "mqi-fetch"}  # fmt: skip
NEXT = {
    w.HELD: "mend its folder in the inbox, the next mqi-scan looks again",
    w.FOUND: "mqi-push copies it to a compute host",
    w.PUSHED: "mqi-submit gives it to the queue",
    w.SUBMITTED: "the queue starts it, mqi-poll sees it",
    w.RUNNING: "mqi-poll sees how it ends",
    w.COMPUTED: "mqi-fetch brings its results",
}
SOUND = {  # why, where nothing is wrong
    w.FOUND: "it is found, and its turn to be copied comes",
    w.PUSHED: "its input is on {c.host}, and its turn to be submitted comes",
    w.SUBMITTED: "attempt {c.attempt} waits in group {c.group} of {c.host}",
    w.RUNNING: "attempt {c.attempt} runs in group {c.group} of {c.host}",
    w.COMPUTED: "its job succeeded, its results are still on {c.host}",
    w.COMPLETED: "it is completed, every byte of its results was verified",
}
GIVEN = "attempt {c.attempt} was given to {c.host}, the next look tells what became of it"
# nobody can tell how it ended: if its folder comes back, mqi-poll goes on; else a person gives it up
LOST = ("what {c.host} had of attempt {c.attempt} is not there any more: a lost mount? If it is gone for good, see that nothing "
        "of it runs there, and cancel it")  # fmt: skip
LIMIT = "time limit"  # the reason of whoever ends a job that takes too long
CHOICE = ("parts", "delivered twice", "fractions")  # reasons that a choice of deliveries can take away


def explain(case: w.Case, notes: Notes, now: str) -> Plain:
    why, category = reason(case, notes)
    text = why or (GIVEN if case.intent else SOUND.get(case.status, "")).format(c=case)
    if case.gone and case.status not in w.CLOSED:
        text += "; its source folder is gone"
    step, command, helps = step_of(case), command_in(why), _helps(case)
    if category == w.Unreachable.category and not command:
        command = f"mqi-check --host {case.host}" if case.host else "mqi-check"
    late = late_step(step, notes, now)
    person = needs_person(case) or in_its_way(case, notes)
    if late and not person:
        return Plain(f"{text}; {late}", next_of(case), helps or command or "mqi-check --fast", True)
    return Plain(text, follows(case, notes, now, _when(case, step, notes, now)), helps or command, person)


def in_its_way(case: w.Case, notes: Notes) -> bool:
    """Whether something outside the case keeps it, which a person is told how to mend."""
    why, category = reason(case, notes)
    return case.status not in w.CLOSED and (category == "config" or (not case.asked and "`" in why))


def follows(case: w.Case, notes: Notes, now: str, when: str = "") -> str:
    """What happens next, after what, and when its host is tried again, where timers leave it alone; else `when`."""
    first = "when that is over, " if in_its_way(case, notes) and not needs_person(case) else ""
    return first + next_of(case) + (left_alone(case, notes, now) or when)


def noted(case: w.Case, notes: Notes) -> tuple[str, str, str, str]:
    """What the last run noted: the status that the case had, why it waited, the category, what its host's next try waits for."""
    status, why, category, until = [*notes.waits.get(case.key, ()), "", "", "", ""][:4]
    return status, why, category, until


def reason(case: w.Case, notes: Notes) -> tuple[str, str]:
    """Why it does not go on, and the category; "" where nothing is wrong."""
    status, why, category, _ = noted(case, notes)
    if case.asked:
        more = "; ".join(one.text for one in case.reasons)
        return wish.asked(case) + (f"; beside that it is held: {more}" if more else ""), ""
    if status != case.status or status in w.PERSON:
        why, category = case.reason, case.category
    return (LOST.format(c=case), category) if case.status == w.RUNNING and case.missing else (why, category)


def left_alone(case: w.Case, notes: Notes, now: str) -> str:
    """When its host is tried again, where timers leave it alone; "" where they do not."""
    status, _, _, until = noted(case, notes)
    if not until or status != case.status:
        return ""
    if until == CHANGE:
        return f"; the timers wait until {CHANGE}, mqi-tick by hand does not"
    left = seconds(now, until)
    return f", at the next try, {until[:19]}Z (in {span(left)})" if left > 0 else ", at the next try, which is due"


def needs_person(case: w.Case) -> bool:
    """By what the ledger says of it."""
    lost = case.status == w.RUNNING and case.missing and not case.unwanted
    return lost or (case.status in w.PERSON and case.reasons != (AGAIN,))


def step_of(case: w.Case) -> str:
    """The program that does what comes next; "" if none does."""
    waits = case.status in (w.PUSHED, w.SUBMITTED) and (case.missing or case.pending or case.asked)
    if waits or (case.missing and case.unwanted):
        return "mqi-submit"
    if case.status == w.FAILED and case.manifest and not case.salvaged:
        return "mqi-fetch"
    return "" if case.status == w.HELD and case.asked else "mqi-poll" if case.intent else STEP.get(case.status, "")


def next_of(case: w.Case) -> str:
    """What happens next by itself, or what a person does."""
    if case.unwanted:
        ends = case.status == w.RUNNING and not case.missing
        return "mqi-poll ends its job until it is seen gone" if ends else "mqi-submit takes it back"
    if case.asked and case.status == w.HELD:
        return "a person releases it"
    if case.status == w.SUBMITTED and (case.missing or case.pending or case.asked):
        return "mqi-submit revokes it" + ("" if case.asked else ", and a new attempt follows")
    if case.status == w.HELD and any(one.code == w.NEVER_STARTS for one in case.reasons):
        return "a person looks at the queue, and releases it"
    if case.reasons == (AGAIN,):
        return "put its folder back into the inbox, the next mqi-scan reads it" if case.gone else AGAIN.text
    if case.status == w.FAILED:
        log = f"cases/{case.key}/attempt-{case.attempt}/job.log below the root on {case.host}"
        if case.reason == LIMIT and not case.retry:
            return f"a person reads {log}; if it only needs longer, raise job.time_limit first: the same once more would fail again"
        return f"a person reads {log}; the same once more {'can help' if case.retry else 'would fail again'}"
    if case.status == w.COMPLETED and case.stale:
        return "a person decides whether its new data are computed"
    return "mqi-submit or mqi-poll sees it" if case.intent else NEXT.get(case.status, "")


def _helps(case: w.Case) -> str:
    """The command that a person types, where it is the case's own state that needs one."""
    because = '--reason "..."'
    codes = {one.code for one in case.reasons}
    if case.unwanted:
        return f"{step_of(case)} {case.id}"
    if case.asked or w.NEVER_STARTS in codes:
        return f"mqi-case release {case.id} {because}"
    if codes & {*CHOICE}:
        return f"mqi-case release {case.id} --deliveries A,B,... {because}"
    if case.reasons == (AGAIN,):
        return f"mqi-scan {case.id}"
    again = case.status == w.FAILED and (case.retry or case.reason == LIMIT)
    if case.status == w.CANCELLED or again or (case.status == w.COMPLETED and case.stale):
        return f"mqi-case retry {case.id} {because}"
    if needs_person(case) and case.status == w.RUNNING:
        return f"mqi-case cancel {case.id} {because}"
    return f"mqi-case show {case.id}" if case.status in w.PERSON else ""


def command_in(why: str) -> str:
    """The command that a sentence ends with: in backticks, on which host, or behind `See: `."""
    if match := re.search(r"(?:on (\S+), )?`((?:mqi-|pueue |df )[^`]+)`", why):
        return f"{match[2]}   # on {match[1]}" if match[1] else match[2]
    return match[1] if (match := re.search(r"See: (mqi-[\w -]+)$", why)) else ""


def late_step(step: str, notes: Notes, now: str) -> str:
    """That the program which is due does not run, in a sentence; "" if it does, or nobody kept notes."""
    if not step or not notes.steps:
        return ""
    run = notes.steps.get(step, {}).get("run", "")
    if run and seconds(run, now) <= LATE:
        return ""
    return f"{step} ran last {ago(run, now)} ago: is its timer on?" if run else f"{step} has never run here: is its timer on?"


def _when(case: w.Case, step: str, notes: Notes, now: str) -> str:
    """When that is, as far as it can be told."""
    usual = usual_of(case, notes)
    if case.status == w.RUNNING and case.started and usual and not case.asked:
        runs = seconds(case.started, now)
        if runs <= usual:
            return f", in about {span(usual - runs)} (median of its group: {span(usual)})"
        return f"; it runs for {span(runs)} already, the median of its group is {span(usual)}"
    run = notes.steps.get(step, {}).get("run", "")
    return f"; {step} ran last {ago(run, now)} ago" if run else ""


def usual_of(case: w.Case, notes: Notes) -> float:
    """Seconds that a run takes there, 0 if nobody knows."""
    return notes.runs.get(f"{case.host}/{case.group}") or notes.runs.get("", 0.0)


def is_still(case: w.Case, notes: Notes, now: str) -> bool:
    """It does not move, as far as ledger and notes tell."""
    if case.status in w.CLOSED:
        return False
    usual = usual_of(case, notes) if case.status == w.RUNNING else 0.0
    why, _ = reason(case, notes)
    return bool(why or late_step(step_of(case), notes, now)) or seconds(case.since, now) > max(STILL, 2 * usual)


# --- time


def ago(then: str, now: str) -> str:
    return span(seconds(then, now))


def span(length: float) -> str:
    """A length of time in seconds, as coarse as a person says it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(length) >= 2 * size:
            return f"{length / size:.0f} {unit}"
    return f"{length:.0f} s"


# --- the report's row

COLUMNS = ("case_id", "case_path", "status", "progress", "pueue_group", "pueue_task_id", "submitted_at", "status_updated_at",
           "attempt", "reason", "category", "next", "priority", "host", "completed_at", "stale")  # fmt: skip


def row(case: w.Case, notes: Notes, now: str) -> dict[str, Any]:
    """A case under COLUMNS."""
    why, category = reason(case, notes)
    percent = notes.progress.get(case.key, [""])[0] if case.status == w.RUNNING else ""
    cells = (
        case.id, printable(case.path), case.status, "100%" if case.status == w.COMPLETED else percent, case.group, case.task,
        case.submitted, case.since, case.attempt, why, category, follows(case, notes, now), case.priority, case.host,
        case.completed, case.stale or False,
    )  # fmt: skip
    return dict(zip(COLUMNS, cells, strict=True))
