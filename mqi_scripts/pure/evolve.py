"""Which stories are legal: the only definition of how a case changes. Replaying a ledger is folding `evolve`."""

from collections.abc import Callable, Sequence
from typing import Any

from mqi_scripts import words as w

EARLY = (w.HELD, w.FOUND, w.PUSHED)
OUT = (w.PUSHED, w.SUBMITTED)  # an open attempt here is intended or submitted, and has not been seen to begin
BARRED = (w.Held, w.Released, w.Changed, w.Submitting)  # while what a person asked for stands
AGAIN = w.Reason("to be read again", "", "the next mqi-scan reads its folder again")
BEGUN = (w.RUNNING, w.COMPUTED, w.COMPLETED, w.FAILED, w.CANCELLED)


def evolve(case: w.Case | None, event: w.Event) -> w.Case:
    """The case after one more event. Raises Illegal if that event cannot follow: somebody else was there first."""
    if case is None and isinstance(event, w.Found | w.Held | w.Recovered):
        case = w.Case(event.case, event.path, w.FOUND, event.at, event.at, part=event.part)
        if not isinstance(event, w.Recovered):
            return _with_content(case, event) if isinstance(event, w.Found) else _stop(case, event.reasons)
    statuses, step = STEPS.get(type(event), ((), _changed))
    attempt = getattr(event, "attempt", 0)
    new = isinstance(event, w.Submitting | w.Recovered)
    if case and case.asked and isinstance(event, BARRED):
        raise w.Illegal(case, event)
    if case is None or case.status not in statuses or (attempt not in (0, case.attempt) and not new):
        raise w.Illegal(case, event)
    changed: w.Case | None = step(case, event)
    if changed is None:
        raise w.Illegal(case, event)
    return changed if changed.status == case.status else changed._replace(since=event.at)


def _with_content(case: w.Case, event: w.Found | w.Released | w.Changed | w.Case) -> w.Case:
    """A new input: counted afresh, but attempts count on."""
    fresh = w.Case(
        case.key, case.path, w.FOUND, case.since, case.found, event.digest, event.files, event.bytes, attempt=case.attempt,
        submitted=case.submitted, part=case.part, facts=event.facts, chosen=case.chosen, decisions=case.decisions,
        priority=case.priority,
    )  # fmt: skip
    return _stop(fresh, event.reasons) if isinstance(event, w.Changed) and event.reasons else fresh


def _held(case: w.Case, event: w.Held) -> w.Case | None:
    return None if case.open or case.reasons == event.reasons else _stop(case, event.reasons)


def _stop(case: w.Case, reasons: tuple[w.Reason, ...]) -> w.Case:
    text = "; ".join(r.text for r in reasons)
    return case._replace(status=w.HELD, reasons=reasons, reason=text, category="application", gone=False)


def _changed(case: w.Case, event: w.Changed) -> w.Case | None:
    """Before the job begins the case is found again, at once where no attempt is out, else after its revocation."""
    if event.digest == (case.pending or case).digest:
        return None
    return case._replace(pending=event, gone=False) if case.open else _with_content(case, event)


def _stale(case: w.Case, event: w.Stale) -> w.Case | None:
    if case.stale_digest == event.digest:
        return None
    back = event.digest == case.digest  # the old content is there again
    return case._replace(stale="" if back else _since(event.at, event.what), stale_digest="" if back else event.digest, gone=False)


def _since(at: str, what: str) -> str:
    return f"since {at[:16]}Z: {what}"


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
    if not case.open or (case.status == w.RUNNING and not case.missing):
        return None
    if case.pending and not case.unwanted:
        return _rest(_with_content(case, case.pending)._replace(asked=case.asked))
    strikes = case.strikes + 1 if case.task else case.strikes
    return _rest(case._replace(status=w.PUSHED, open=False, intent=False, missing=False, task="", strikes=strikes))


def _started(case: w.Case, event: w.Started) -> w.Case | None:
    if not case.open or (case.status == w.RUNNING and not case.missing):
        return None
    late = (case.pending.digest, _since(case.pending.at, case.pending.what)) if case.pending else (case.stale_digest, case.stale)
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
    return _decided(case, event, f"{', '.join(event.parts)} chosen")._replace(chosen=event.parts)


def _decided(case: w.Case, event: w.Chosen | w.Asked | w.Lifted | w.Retried | w.Noted, what: str) -> w.Case:
    return case._replace(decisions=(*case.decisions, (event.at, event.who, f"{what}: {event.reason}")))


def _asked(case: w.Case, event: w.Asked) -> w.Case | None:
    begun = case.status in (w.RUNNING, w.FAILED)
    if case.unwanted or case.asked[:1] == (event.what,) or (event.what == w.HOLD and begun):
        return None
    return _rest(_decided(case, event, f"asked to {event.what} it")._replace(asked=(event.what, event.who, event.reason)))


def _rest(case: w.Case) -> w.Case:
    """Once no attempt of it is out, what a person asked for is done."""
    if case.open or not case.asked:
        return case
    what, who, why = case.asked
    if what == w.HOLD:
        return case._replace(status=w.HELD, reason=f"{who} holds it: {why}", category="")
    return _over(case, w.CANCELLED, f"cancelled by {who}: {why}", "")._replace(pending=None, reasons=())


def _lifted(case: w.Case, event: w.Lifted) -> w.Case | None:
    """Other reasons stay. What the scan left alone meanwhile, it must read first."""
    left = tuple(reason for reason in case.reasons if reason.code != w.NEVER_STARTS)
    if not case.asked and left == case.reasons:
        return None
    free = _decided(case, event, "released")._replace(asked=())
    if case.status != w.HELD:
        return free
    return _stop(free, left) if left else _again(free, read=bool(case.asked))


def _retried(case: w.Case, event: w.Retried) -> w.Case | None:
    """With the same input, or with what a scan finds there now."""
    if not event.host_is_gone:
        read = bool(case.stale) or case.status != w.FAILED
        return _again(_decided(case, event, "retried"), read) if case.status in (w.FAILED, *w.CLOSED) else None
    there = _decided(case, event, f"retried, {case.host} is gone, whatever runs there is given up")
    return _again(there._replace(host=""), read=False) if case.host and case.status != w.HELD else None


def _again(case: w.Case, read: bool) -> w.Case:
    """No attempt of it is out, and a new one is wanted. read: only after a scan, if there is a folder to be scanned."""
    fresh = _with_content(case, case)._replace(gone=case.gone)
    if (read and not case.gone) or (case.cleaned and case.gone) or not case.digest or case.digest.startswith("held:"):
        return _stop(fresh, (AGAIN,))._replace(gone=case.gone)
    return fresh._replace(status=w.PUSHED, host=case.host) if case.host and not case.cleaned else fresh


def _cleaned(case: w.Case, event: w.Cleaned) -> w.Case | None:
    """What waits for an attempt must come to a host once more: it is found again, as if its content had changed."""
    if case.cleaned or case.host != event.host:
        return None
    if case.status != w.PUSHED:
        return case._replace(cleaned=True)
    same = w.Changed(case.key, event.at, case.digest, case.files, case.bytes, "its input left the host", case.facts)
    return None if case.pending else case._replace(pending=same) if case.open else _with_content(case, same)


def _cancelled(case: w.Case, _: w.Cancelled) -> w.Case:
    return _rest(case._replace(open=False)) if case.unwanted else _over(case, w.CANCELLED, "cancelled", "")


def _interrupted(case: w.Case, event: w.Interrupted) -> w.Case | None:
    cut = _over(case, w.PUSHED, event.reason, "system")
    return _rest(cut._replace(task="", interruptions=case.interruptions + 1, asked=case.asked))


def _recovered(case: w.Case, event: w.Recovered) -> w.Case | None:
    """It may still run, or be over: the next look tells. What a person asked for was done or lifted before it was made."""
    if event.attempt < case.attempt + (not case.intent):
        return None
    other = w.Changed(case.key, event.at, event.digest, 0, 0, "", event.facts)
    return (case if case.digest == event.digest else _with_content(case, other))._replace(
        status=w.SUBMITTED, attempt=event.attempt, host=event.host, group=event.group, task="", intent=False, open=True,
        missing=False, pending=None, reason="", category="", manifest="", salvaged=False, submitted=event.at, completed="",
        asked=(), cleaned=False,
    )  # fmt: skip


def streak(failed: Sequence[str], case: w.Case, event: w.Event) -> Sequence[str]:
    """Keys of the cases that failed in a row in this one's group, after one more event of it: a verified result ends the row, and a
    case that a person wants to be tried again counts no more."""
    others = [key for key in failed if key != case.key]
    if isinstance(event, w.Failed) and event.category == "application":
        return [*others, case.key][-100:]  # breaker.jobs is not more
    return () if isinstance(event, w.Completed) else others if isinstance(event, w.Retried) else failed


def _over(case: w.Case, status: str, reason: str, category: str) -> w.Case:
    """The attempt has ended."""
    return case._replace(status=status, open=False, missing=False, reason=reason, category=category, asked=())


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
    w.Revoked: ((*OUT, w.RUNNING), _revoked),
    w.Started: ((*OUT, w.RUNNING), _started),
    w.Succeeded: ((w.RUNNING,), _succeeded),
    w.Failed: ((w.PUSHED, w.RUNNING, w.COMPUTED), _failed),
    w.Interrupted: ((w.RUNNING,), _interrupted),
    w.Cancelled: ((w.RUNNING,), _cancelled),
    w.Asked: ((*EARLY, w.SUBMITTED, w.RUNNING, w.FAILED), _asked),
    w.Lifted: ((*EARLY, w.SUBMITTED, w.RUNNING), _lifted),
    w.Retried: (w.STATUSES, _retried),
    w.Noted: (w.STATUSES, lambda case, event: _decided(case, event, "noted")),
    w.Recovered: (w.STATUSES, _recovered),
    w.Cleaned: ((w.PUSHED, w.COMPLETED, w.FAILED, w.CANCELLED), _cleaned),
    w.Salvaged: ((w.FAILED,), lambda case, _: None if case.salvaged else case._replace(salvaged=True)),
    w.Completed: ((w.COMPUTED,), lambda case, event: case._replace(status=w.COMPLETED, completed=event.at, result=event.digest)),
    w.Prioritized: (w.STATUSES, lambda case, event: (
        case._replace(priority=event.priority) if event.priority in {*range(w.TOP + 1)} - {case.priority} else None)),  # fmt: skip
}
