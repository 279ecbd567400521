"""What to do about one case, from its story and one look at the world: `decide.<verb>(...)` over values only.

An event is a fact to store. An action (imperative) is work to do and is never stored. None or nothing: wait.
A look that did not answer raised before it came here; what is unknown in a look decides nothing.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mqi_scripts import words as w

TRIES = 3  # fetches of results that do not verify
OVERTIME = 600  # seconds that the wrapper has beside the job's: to read the input and the output, and to end the job by itself
SILENT = "its log did not grow for job.silent_limit"  # why a job is ended
OLD = "0" * 64  # the sum of what the wrapper found in the output that its job did not write
SIGNALS = {
    4: "SIGILL", 6: "SIGABRT (aborted)", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL (out of memory, or killed)",
    11: "SIGSEGV (segmentation fault)", 15: "SIGTERM",
}  # fmt: skip
STRIKES = 3  # revoked attempts in a row whose task was shown: design.md, "The compute host"

# The site's numbers that verdicts depend on.
Rules = NamedTuple("Rules", [("interrupted", int), ("time_limit", float)])
# Make the attempt's folder and add its task, once; make sure that the attempt can never start.
Submit = NamedTuple("Submit", [("case", w.Case), ("attempt", int)])
Revoke = NamedTuple("Revoke", [("case", w.Case)])


# A case as the scan sees it. digest "": not read. what: how it differs from the known content. facts: what its profile tells.
Sight = NamedTuple("Sight", [
    ("path", str), ("reasons", tuple[w.Reason, ...]), ("digest", str), ("files", int), ("bytes", int), ("what", str),
    ("part", str), ("facts", Mapping[str, Any]),
])  # fmt: skip
# What a fetch holds of an attempt: the digest of the manifest it got, that manifest, sums and sizes of the files it has by
# name, what the markers say of the log, what the profile finds wrong: (name or "", sentence).
Brought = NamedTuple("Brought", [
    ("digest", str), ("manifest", Mapping[str, str]), ("sums", Mapping[str, str]), ("sizes", Mapping[str, int]),
    ("marks", Sequence[str]), ("wrong", Sequence[tuple[str, str]]),
])  # fmt: skip


def scan(key: str, case: w.Case | None, sight: Sight | None, twin: str, late: str, now: str) -> w.Event | None:
    """One event for a case whose folder is quiet, or gone (sight None).

    twin: id of another case with this content. late: scan.late_data.
    """
    if sight is None:
        return w.Gone(key, now) if case and not case.gone else None
    if case and case.asked:
        return _back(case, now)
    reasons = sight.reasons
    if twin and (case is None or case.status in (w.HELD, w.FOUND)):
        reasons = (*reasons, w.Reason("same content", "", f"same content as {twin}"))
    if case is None:
        if reasons:
            return w.Held(key, now, sight.path, reasons, sight.part)
        return w.Found(key, now, sight.path, sight.digest, sight.files, sight.bytes, sight.part, sight.facts)
    if case.status in (w.HELD, w.FOUND, w.PUSHED) and not case.open and reasons:
        return w.Held(key, now, case.path, reasons) if reasons != case.reasons else _back(case, now)
    digest = sight.digest or "held:" + ",".join(sorted({r.code for r in reasons}))
    if case.status == w.HELD:
        if digest == case.digest and any(r.code == w.NEVER_STARTS for r in case.reasons):
            return _back(case, now)
        why = f"the folder has no fault any more (was: {', '.join(dict.fromkeys(r.code for r in case.reasons))})"
        return w.Released(key, now, digest, sight.files, sight.bytes, why, sight.facts)
    new = case.status in (w.FOUND, w.PUSHED, w.SUBMITTED) and digest != (case.pending or case).digest
    again = late == "recompute" and case.status in (w.COMPLETED, w.FAILED) and digest != case.digest and not reasons
    if new or again:
        return w.Changed(key, now, digest, sight.files, sight.bytes, sight.what, sight.facts, reasons)
    left = [one for one in sight.facts.get("left", ()) if one not in case.facts.get("left", ())]
    seen = f"{digest}+{','.join(left)}" if left else digest
    unread = case.status == w.CANCELLED and not case.digest
    if seen == (case.stale_digest or (case.pending or case).digest) or unread:
        return _back(case, now)
    beside = f"new beside what is computed: {', '.join(left)}" if left else ""
    return w.Stale(key, now, seen, "; ".join(filter(None, [sight.what, beside, *(r.text for r in reasons[:3])])))


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
        return w.Held(case.key, now, case.path, (w.Reason(w.NEVER_STARTS, case.host, text),))
    return Submit(case, case.attempt + 1)


def _outstanding(case: w.Case, look: w.Look, now: str) -> w.Event | Submit | Revoke | None:
    trace = own_trace(case, look)
    if trace is None:
        return None
    gone = case.missing and not trace.held and (not trace.folder or trace.claim == "revoked")  # it ran, and nothing shows it now
    if case.status == w.RUNNING and not (gone and case.unwanted):
        return None
    if trace.claim == "revoked":
        return w.Revoked(case.key, now, case.attempt)
    if trace.claim == "none" and case.asked:
        return Revoke(case)
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


def own_trace(case: w.Case, look: w.Look) -> w.Trace | None:
    """The newest attempt's, if it was looked at. An attempt of that number that was made of another input is not the ledger's: a
    ledger that lost lines meets it. Nothing of it is adopted, ended or revoked."""
    trace = look.traces.get(case.label)
    return None if trace and trace.digest not in ("", case.digest) else trace


def _tasks(case: w.Case, look: w.Look) -> tuple[list[w.Task], list[w.Task]]:
    """All tasks with the case's label, and those that have not ended."""
    tasks = [task for task in look.tasks or () if task.label == case.label]
    return tasks, [task for task in tasks if task.state != "ended"]


def poll(case: w.Case, look: w.Look, rules: Rules, now: str) -> list[w.Event]:
    """What one look proves of a submitted or running case. Order of truth: result, liveness, queue, absence."""
    trace = own_trace(case, look)
    if trace is None or not case.open or (case.intent and trace.claim != "begun"):
        return []
    tasks, live = _tasks(case, look)
    if trace.claim == "revoked":
        return [w.Revoked(case.key, now, case.attempt)]
    if trace.claim != "begun":
        return _unclaimed(case, tasks, live, trace, now) if trace.claim == "none" and look.tasks is not None else []
    begun: list[w.Event] = []
    if case.status != w.RUNNING or (case.missing and (trace.held or trace.alive)):  # it begins, or is there again
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
        return [*begun, _fail(case, trace, trace.ending, "application", now, retry=trace.ending == SILENT)]
    if look.tasks is None or live:
        return begun
    if not tasks and not case.missing:
        return [*begun, w.Missing(case.key, now, case.attempt)]
    return begun + _cut_off(case, "it was cut off: no process, no result", rules, trace, now)


def end(case: w.Case, look: w.Look, rules: Rules) -> str:
    """Why its job, which lives, must be ended: a person asked for it, or its wrapper has not ended it in time. "": it need not."""
    trace = own_trace(case, look)
    if trace is None or trace.claim != "begun" or not case.open or not (trace.held or trace.alive):
        return ""
    age = trace.status.get("age", "")
    late = age.isdigit() and int(age) > rules.time_limit + OVERTIME and not trace.result
    return "cancelled" if case.unwanted else "time limit" if late else ""


def still(case: w.Case, look: w.Look, mark: Sequence[int]) -> Sequence[int]:
    """Of a job that runs: its attempt, the size of its log, the job's age when it was first seen at that size, and its age now, in
    seconds by the host's uptime; () where nobody can tell. mark: the same, of the look before."""
    trace = own_trace(case, look)
    size, age = (trace.status.get(word, "") for word in ("log", "age")) if trace else ("", "")
    if not trace or trace.result or not (trace.held or trace.alive) or not (size.isdigit() and age.isdigit()):
        return ()
    same = [*mark[:2]] == [case.attempt, int(size)] and mark[2] <= int(age)
    return case.attempt, int(size), mark[2] if same else int(age), int(age)


def _unclaimed(case: w.Case, tasks: list[w.Task], live: list[w.Task], trace: w.Trace, now: str) -> list[w.Event]:
    """Waiting in the queue or for a slot; or seen again, or without any sign of life for the first time."""
    if live or trace.held:
        if case.status != w.RUNNING and (case.missing or (live and case.task != live[-1].id)):
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
        return [_fail(case, trace, result["fault"], "system", now, retry=True)]
    if code == "0":
        manifest = result.get("manifest", "")
        return [w.Succeeded(case.key, now, case.attempt, manifest, result.get("since", ""), result.get("until", ""))]
    if not code.isdigit():  # it was renamed into place: it stays like this
        return [_fail(case, trace, "its result cannot be read", "system", now, retry=True)]
    name = SIGNALS.get(int(code) - 128, "")
    killed = name.startswith("SIGKILL")
    reason = f"the job ended with exit {code}" + (f", {name}" if name else "")
    return [_fail(case, trace, reason, "system" if killed else "application", now, int(code), retry=killed)]


def _cut_off(case: w.Case, reason: str, rules: Rules, trace: w.Trace, now: str) -> list[w.Event]:
    """Interrupted; and failed, once it has happened too often."""
    cut: list[w.Event] = [w.Interrupted(case.key, now, case.attempt, reason)]
    if case.interruptions >= rules.interrupted:
        cut.append(_fail(case, trace, f"interrupted {case.interruptions + 1} times: {reason}", "system", now, retry=True))
    return cut


def _fail(
    case: w.Case, trace: w.Trace, reason: str, category: str, now: str, code: int = -1, *, retry: bool = False
) -> w.Failed:
    manifest = trace.result.get("manifest", "")
    return w.Failed(case.key, now, case.attempt, reason, category, "computing", code, trace.tail, manifest, retry)


def wanted(names: list[str], globs: Sequence[str]) -> list[str]:
    """The names that come back: shell patterns, in which `*` matches a slash too, as in a sh `case`."""
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def good(case: w.Case, got: Brought, globs: Sequence[str]) -> list[str]:
    """The results that verified, were written by this attempt, and have nothing wrong with them."""
    wrong, names = {name for name, _ in got.wrong}, wanted(list(got.manifest), globs) if got.digest == case.manifest else []
    return [name for name in names if got.sums.get(name) == got.manifest[name] and name not in wrong]


def fetch(case: w.Case, got: Brought, globs: Sequence[str], tries: int, now: str) -> list[w.Event]:
    """Completed, when every expected byte is here as the wrapper listed it and nothing is wrong; else failed, and what is good
    is salvaged, as it is of a job that failed. []: not all of it came, fetch again."""
    names = wanted(list(got.manifest), globs)
    old = [name for name in names if got.manifest[name] == OLD]
    torn = [name for name in names if name not in old and got.sums.get(name) != got.manifest[name]]
    whole = got.digest == case.manifest and not torn
    if not whole and tries < TRIES:
        return []
    keep = good(case, got, globs)
    salvaged = w.Salvaged(case.key, now, case.attempt, len(keep), sum(got.sizes[name] for name in keep))
    if case.status == w.FAILED:
        return [salvaged]
    faults = [f"{name} was not written by this attempt: it is older than its start" for name in old]
    faults += [f"the job ended with exit 0 without a result that matches {glob}" for glob in globs if not wanted(names, (glob,))]
    faults += [*got.marks, *(text for _, text in got.wrong)]
    if not whole:
        what = ", ".join(torn[:3]) or "the list of its results"
        faults = [f"{what} did not verify in {tries + 1} fetches: damaged on {case.host}"]
    if faults:
        category = "application" if whole else "system"
        reason = "; ".join(dict.fromkeys(faults))
        return [w.Failed(case.key, now, case.attempt, reason, category, "results", 0, "", "", not whole), salvaged]
    return [w.Completed(case.key, now, case.attempt, case.manifest, len(names), salvaged.bytes)]
