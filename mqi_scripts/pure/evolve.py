"""Which stories are legal: the only definition of how a case changes. Replaying a ledger is folding `evolve`."""

from collections.abc import Callable
from typing import Any

from mqi_scripts import words as w

EARLY = (w.HELD, w.FOUND, w.PUSHED)
OUT = (w.PUSHED, w.SUBMITTED)  # an open attempt here is intended or submitted, and has not been seen to begin
BEGUN = (w.RUNNING, w.COMPUTED, w.COMPLETED, w.FAILED, w.CANCELLED)


def evolve(case: w.Case | None, event: w.Event) -> w.Case:
    """The case after one more event. Raises Illegal if that event cannot follow: somebody else was there first."""
    if case is None and isinstance(event, w.Found | w.Held | w.Recovered):
        case = w.Case(event.case, event.path, w.FOUND, event.at, event.at, part=event.part)
        if not isinstance(event, w.Recovered):
            return _with_content(case, event) if isinstance(event, w.Found) else _stop(case, event)
    statuses, step = STEPS.get(type(event), ((), _changed))
    attempt = getattr(event, "attempt", 0)
    new = isinstance(event, w.Submitting | w.Recovered)
    if case is None or case.status not in statuses or (attempt not in (0, case.attempt) and not new):
        raise w.Illegal(case, event)
    changed: w.Case | None = step(case, event)
    if changed is None:
        raise w.Illegal(case, event)
    return changed if changed.status == case.status else changed._replace(since=event.at)


def _with_content(case: w.Case, event: w.Found | w.Released | w.Changed) -> w.Case:
    """A new input: counted afresh, but attempts count on."""
    fresh = w.Case(
        case.key, case.path, w.FOUND, case.since, case.found, event.digest, event.files, event.bytes, attempt=case.attempt,
        submitted=case.submitted, part=case.part, facts=event.facts, chosen=case.chosen, decisions=case.decisions,
    )  # fmt: skip
    return _stop(fresh, event) if isinstance(event, w.Changed) and event.reasons else fresh


def _held(case: w.Case, event: w.Held) -> w.Case | None:
    return None if case.open or case.reasons == event.reasons else _stop(case, event)


def _stop(case: w.Case, event: w.Held | w.Changed) -> w.Case:
    text = "; ".join(r.text for r in event.reasons)
    return case._replace(status=w.HELD, reasons=event.reasons, reason=text, category="application", gone=False)


def _changed(case: w.Case, event: w.Changed) -> w.Case | None:
    """Before the job begins the case is found again, at once where no attempt is out, else after its revocation."""
    if event.digest == (case.pending or case).digest:
        return None
    return case._replace(pending=event, gone=False) if case.open else _with_content(case, event)


def _stale(case: w.Case, event: w.Stale) -> w.Case | None:
    if case.stale_digest == event.digest:
        return None
    back = event.digest == case.digest  # the old content is there again
    return case._replace(stale="" if back else event.what, stale_digest="" if back else event.digest, gone=False)


def _pushed(case: w.Case, event: w.Pushed) -> w.Case | None:
    if event.digest != case.digest:
        return None
    return case._replace(status=w.PUSHED, host=event.host, reason="", category="")


def _submitting(case: w.Case, event: w.Submitting) -> w.Case | None:
    again = case.intent and event.attempt == case.attempt and event.host == case.host
    first = not case.intent and event.attempt == case.attempt + 1
    if event.digest != case.digest or case.pending or not (again or first):
        return None
    if again and event.group == case.group:
        return case
    return case._replace(
        attempt=event.attempt, intent=True, open=True, missing=False, group=event.group, task="", exit=-1, manifest="",
        started="", ended="", salvaged=False,
    )  # fmt: skip


def _submitted(case: w.Case, event: w.Submitted) -> w.Case | None:
    known = case.status == w.SUBMITTED
    if not case.open or (known and not case.missing and (event.task or case.task) == case.task):
        return None
    return case._replace(
        status=w.SUBMITTED, intent=False, missing=False, group=event.group or case.group, task=event.task or case.task,
        submitted=case.submitted if known else event.at, reason="",
    )  # fmt: skip


def _revoked(case: w.Case, event: w.Revoked) -> w.Case | None:
    if not case.open:
        return None
    if case.pending:
        return _with_content(case, case.pending)
    strikes = case.strikes + 1 if case.task else case.strikes
    return case._replace(status=w.PUSHED, open=False, intent=False, missing=False, task="", strikes=strikes)


def _started(case: w.Case, event: w.Started) -> w.Case | None:
    if not case.open:
        return None
    late = (case.pending.digest, "new data came while it started") if case.pending else (case.stale_digest, case.stale)
    return case._replace(
        status=w.RUNNING, intent=False, missing=False, strikes=0, pending=None, started=event.since, stale_digest=late[0],
        group=event.group or case.group, task=event.task or case.task, submitted=case.submitted or event.at, stale=late[1],
    )  # fmt: skip


def _succeeded(case: w.Case, event: w.Succeeded) -> w.Case | None:
    return _over(case, w.COMPUTED, "", "")._replace(exit=0, manifest=event.manifest, started=event.started, ended=event.ended)


def _failed(case: w.Case, event: w.Failed) -> w.Case | None:
    manifest = event.manifest or case.manifest
    over = _over(case, w.FAILED, event.reason, event.category)._replace(exit=event.exit, manifest=manifest, retry=event.retry)
    return None if case.intent else over


def _chosen(case: w.Case, event: w.Chosen) -> w.Case:
    decision = (event.at, event.who, f"{', '.join(event.parts)} chosen: {event.reason}")
    return case._replace(chosen=event.parts, decisions=(*case.decisions, decision))


def _interrupted(case: w.Case, event: w.Interrupted) -> w.Case | None:
    return _over(case, w.PUSHED, event.reason, "system")._replace(task="", interruptions=case.interruptions + 1)


def _recovered(case: w.Case, event: w.Recovered) -> w.Case | None:
    """It may still run, or be over: the next look tells."""
    if event.attempt < case.attempt + (not case.intent):
        return None
    other = w.Changed(case.key, event.at, event.digest, 0, 0, "", event.facts)
    return (case if case.digest == event.digest else _with_content(case, other))._replace(
        status=w.SUBMITTED, attempt=event.attempt, host=event.host, group=event.group, task="", intent=False, open=True,
        missing=False, pending=None, reason="", category="", manifest="", salvaged=False, submitted=event.at, completed="",
    )  # fmt: skip


def _over(case: w.Case, status: str, reason: str, category: str) -> w.Case:
    """The attempt has ended."""
    return case._replace(status=status, open=False, missing=False, reason=reason, category=category)


# By event: the statuses that it can follow, and what it does; None where this case's story forbids it all the same.
STEPS: dict[type, tuple[tuple[str, ...], Callable[[w.Case, Any], w.Case | None]]] = {
    w.Held: (EARLY, _held),
    w.Released: ((w.HELD,), _with_content),
    w.Changed: ((w.FOUND, *OUT, w.COMPLETED, w.FAILED), _changed),
    w.Chosen: ((w.HELD,), _chosen),
    w.Stale: ((w.FOUND, *OUT, *BEGUN), _stale),
    w.Gone: (w.STATUSES, lambda case, _: None if case.gone else case._replace(gone=True)),
    w.Back: (w.STATUSES, lambda case, _: case._replace(gone=False) if case.gone else None),
    w.Pushed: ((w.FOUND,), _pushed),
    w.Submitting: ((w.PUSHED,), _submitting),
    w.Submitted: (OUT, _submitted),
    w.Missing: ((w.SUBMITTED, w.RUNNING), lambda case, _: None if case.missing else case._replace(missing=True)),
    w.Revoked: (OUT, _revoked),
    w.Started: (OUT, _started),
    w.Succeeded: ((w.RUNNING,), _succeeded),
    w.Failed: ((w.PUSHED, w.RUNNING, w.COMPUTED), _failed),
    w.Interrupted: ((w.RUNNING,), _interrupted),
    w.Cancelled: ((w.RUNNING,), lambda case, _: _over(case, w.CANCELLED, "cancelled", "")),
    w.Recovered: (w.STATUSES, _recovered),
    w.Salvaged: ((w.FAILED,), lambda case, _: None if case.salvaged else case._replace(salvaged=True)),
    w.Completed: ((w.COMPUTED,), lambda case, event: case._replace(status=w.COMPLETED, completed=event.at, result=event.digest)),
}
