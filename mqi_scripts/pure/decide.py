"""What to do about one case, from its story and one look at the world: `decide.<verb>(...)` over values only.

An event is a fact to store. An action (imperative) is work to do and is never stored. None or nothing: wait.
A look that did not answer raised before it came here; what is unknown in a look decides nothing.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from mqi_scripts import words as w

NEVER_STARTS = "never starts"
TRIES = 3  # fetches of results that do not verify
OVERTIME = 60  # seconds that the wrapper has to end its job by itself
STRIKES = 3  # revoked attempts in a row whose task was shown: design.md, "The compute host"

# The site's numbers that verdicts depend on.
Rules = NamedTuple("Rules", [("interrupted", int), ("time_limit", float)])
# Make the attempt's folder and add its task, once; make sure that the attempt can never start.
Submit = NamedTuple("Submit", [("case", w.Case), ("attempt", int)])
Revoke = NamedTuple("Revoke", [("case", w.Case)])


# A case folder as the scan sees it. digest "": not read. what: how it differs from the known content.
Sight = NamedTuple("Sight", [
    ("path", str), ("reasons", tuple[w.Reason, ...]), ("digest", str), ("files", int), ("bytes", int), ("what", str),
])  # fmt: skip
# What a fetch holds of an attempt: the digest of the manifest it got, that manifest, sums of the files it has by name.
Brought = NamedTuple("Brought", [("digest", str), ("manifest", Mapping[str, str]), ("sums", Mapping[str, str]), ("bytes", int)])


def scan(key: str, case: w.Case | None, sight: Sight | None, twin: str, now: str) -> w.Event | None:
    """One event for a folder that is quiet, or gone (sight None). twin: id of another case with this content."""
    if sight is None:
        return w.Gone(key, now) if case and not case.gone else None
    reasons = sight.reasons
    if twin and not reasons and (case is None or case.status in (w.HELD, w.FOUND)):
        reasons = (w.Reason("same content", "", f"same content as {twin}"),)
    if case is None:
        if reasons:
            return w.Held(key, now, sight.path, reasons)
        return w.Found(key, now, sight.path, sight.digest, sight.files, sight.bytes)
    if case.status in (w.HELD, w.FOUND, w.PUSHED) and not case.open and reasons:
        return w.Held(key, now, case.path, reasons) if reasons != case.reasons else _back(case, now)
    digest = sight.digest or "held:" + ",".join(sorted({r.code for r in reasons}))
    known = case.stale_digest or (case.pending or (case.digest,))[0]
    if case.status == w.HELD:
        if digest == case.digest and any(r.code == NEVER_STARTS for r in case.reasons):
            return _back(case, now)
        return w.Released(key, now, sight.digest, sight.files, sight.bytes, "the folder has no fault any more")
    if digest == known:
        return _back(case, now)
    if case.status in (w.FOUND, w.PUSHED, w.SUBMITTED):
        return None if reasons else w.Changed(key, now, digest, sight.files, sight.bytes, sight.what)
    what = sight.what or "; ".join(r.text for r in reasons)
    return w.Stale(key, now, digest, what) if case.status != w.CANCELLED else _back(case, now)


def _back(case: w.Case, now: str) -> w.Event | None:
    return w.Back(case.key, now) if case.gone else None


def submit(case: w.Case, look: w.Look, now: str) -> w.Event | Submit | Revoke | None:
    """Adopt what is there, revoke what can no longer start, or want an attempt. The same before and after acting."""
    if case.open:
        return _outstanding(case, look, now)
    if case.status != w.PUSHED or look.tasks is None:
        return None
    if case.strikes >= STRIKES:
        text = f"{case.strikes} attempts in a row were queued and never started: look at the queue of {case.host}"
        return w.Held(case.key, now, case.path, (w.Reason(NEVER_STARTS, case.host, text),))
    return Submit(case, case.attempt + 1)


def _outstanding(case: w.Case, look: w.Look, now: str) -> w.Event | Submit | Revoke | None:
    trace = look.traces.get(case.label)
    if trace is None or case.status == w.RUNNING:
        return None
    if trace.claim == "revoked":
        return w.Revoked(case.key, now, case.attempt)
    if trace.claim != "none" or look.tasks is None:
        return None  # it has begun, and mqi-poll says so; or nobody can tell
    tasks, live = _tasks(case, look)
    if case.intent:
        if trace.folder or tasks:
            task = (live or tasks or [w.Task("", "", "", "")])[-1]
            return w.Submitted(case.key, now, case.attempt, trace.status.get("group", "") or task.group, task.id)
        return Revoke(case) if case.pending else Submit(case, case.attempt)
    if case.pending or (case.missing and not live and not trace.held):
        return Revoke(case)
    return None


def _tasks(case: w.Case, look: w.Look) -> tuple[list[w.Task], list[w.Task]]:
    """All tasks with the case's label, and those that have not ended."""
    tasks = [task for task in look.tasks or () if task.label == case.label]
    return tasks, [task for task in tasks if task.state != "ended"]


def poll(case: w.Case, look: w.Look, rules: Rules, now: str) -> list[w.Event]:
    """What one look proves of a submitted or running case. Order of truth: result, liveness, queue, absence."""
    trace = look.traces.get(case.label)
    if trace is None or not case.open or (case.intent and trace.claim != "begun"):
        return []
    tasks, live = _tasks(case, look)
    if trace.claim == "revoked":
        return [w.Revoked(case.key, now, case.attempt)]
    if trace.claim != "begun":
        return _unclaimed(case, tasks, live, trace, now) if trace.claim == "none" and look.tasks is not None else []
    begun: list[w.Event] = []
    if case.status != w.RUNNING:
        task = (live or tasks)[-1].id if tasks else ""
        group, slot, since = (trace.status.get(word, "") for word in ("group", "slot", "since"))
        begun = [w.Started(case.key, now, case.attempt, group, slot, task, since)]
    if trace.result and not trace.ending:
        return begun + _verdict(case, trace, rules, now)
    if trace.held or trace.alive:
        return begun
    if trace.ending == "cancelled":
        return [*begun, w.Cancelled(case.key, now, case.attempt)]
    if trace.ending:
        return [*begun, _fail(case, trace, trace.ending, "application", now)]
    if look.tasks is None or live:
        return begun
    if not tasks and not case.missing:
        return [*begun, w.Missing(case.key, now, case.attempt)]
    return begun + _cut_off(case, "it was cut off: no process, no result", rules, trace, now)


def is_overdue(case: w.Case, look: w.Look, rules: Rules) -> bool:
    """A job that lives on after its time limit: its wrapper, which should have ended it, has not."""
    trace = look.traces.get(case.label)
    if trace is None or trace.claim != "begun" or trace.result or not (trace.held or trace.alive):
        return False
    age = trace.status.get("age", "")
    return age.isdigit() and int(age) > rules.time_limit + OVERTIME


def _unclaimed(case: w.Case, tasks: list[w.Task], live: list[w.Task], trace: w.Trace, now: str) -> list[w.Event]:
    """Waiting in the queue or for a slot; or seen again, or without any sign of life for the first time."""
    if live or trace.held:
        if case.missing or (live and case.task != live[-1].id):
            return [w.Submitted(case.key, now, case.attempt, "", live[-1].id if live else "")]
        return []
    shown: list[w.Event] = []
    if tasks and not case.task:
        shown = [w.Submitted(case.key, now, case.attempt, "", tasks[-1].id)]
    return shown if case.missing else [*shown, w.Missing(case.key, now, case.attempt)]


def _verdict(case: w.Case, trace: w.Trace, rules: Rules, now: str) -> list[w.Event]:
    result, code = trace.result, trace.result.get("exit", "")
    if result.get("signal"):
        return _cut_off(case, f"it was ended by {result['signal']} from outside", rules, trace, now)
    if result.get("fault"):
        return [_fail(case, trace, result["fault"], "system", now)]
    if code == "0":
        manifest = result.get("manifest", "")
        return [w.Succeeded(case.key, now, case.attempt, manifest, result.get("since", ""), result.get("until", ""))]
    if code.isdigit():
        return [_fail(case, trace, f"the job ended with exit {code}", "application", now, int(code))]
    return [_fail(case, trace, "its result cannot be read", "system", now)]  # it was renamed into place: it stays like this


def _cut_off(case: w.Case, reason: str, rules: Rules, trace: w.Trace, now: str) -> list[w.Event]:
    """Interrupted; and failed, once it has happened too often."""
    cut: list[w.Event] = [w.Interrupted(case.key, now, case.attempt, reason)]
    if case.interruptions >= rules.interrupted:
        cut.append(_fail(case, trace, f"interrupted {case.interruptions + 1} times: {reason}", "system", now))
    return cut


def _fail(case: w.Case, trace: w.Trace, reason: str, category: str, now: str, code: int = -1) -> w.Failed:
    return w.Failed(case.key, now, case.attempt, reason, category, "computing", code, trace.tail)


def wanted(names: list[str], globs: Sequence[str]) -> list[str]:
    """The names that come back: shell patterns, in which `*` matches a slash too, as in a sh `case`."""
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def fetch(case: w.Case, got: Brought, globs: Sequence[str], tries: int, now: str) -> w.Completed | w.Failed | None:
    """Completed, when every expected byte is here as the wrapper listed it; None: not all of it came, fetch again."""
    wrong = None
    if tries >= TRIES:
        text = f"its results did not verify in {tries} fetches: damaged on {case.host}"
        wrong = w.Failed(case.key, now, case.attempt, text, "system", "results", 0, "")
    if got.digest != case.manifest:
        return wrong  # not the list that the wrapper's result names
    for glob in globs:
        if not wanted(list(got.manifest), (glob,)):
            reason = f"the job ended with exit 0 without a result that matches {glob}"
            return w.Failed(case.key, now, case.attempt, reason, "application", "results", 0, "")
    names = wanted(list(got.manifest), globs)
    if any(got.sums.get(name) != got.manifest[name] for name in names):
        return wrong
    return w.Completed(case.key, now, case.attempt, case.manifest, len(names), got.bytes)
