"""Which stories are legal: the only definition of how a case changes. Replaying a ledger is folding `evolve`."""

from __future__ import annotations

from collections.abc import Callable

from mqi_scripts import words as w

EARLY = (w.HELD, w.FOUND, w.PUSHED)  # no attempt of the case is open, or one is only intended
LIVE = (w.PUSHED, w.SUBMITTED, w.RUNNING)  # an attempt may be seen on the far side


def evolve(case: w.Case | None, event: w.Event) -> w.Case:
    """The case after one more event. Raises Illegal if that event cannot follow: somebody else was there first."""
    if isinstance(event, w.Found | w.Held) and case is None:
        born = w.Case(event.case, event.path, w.FOUND, event.at, event.at)
        return _with_content(born, event) if isinstance(event, w.Found) else _stop(born, event)
    step = STEPS.get(type(event))
    if case is None or step is None or getattr(event, "attempt", case.attempt) not in (case.attempt, case.attempt + 1):
        raise w.Illegal(case, event)
    changed = step(case, event)
    if changed is None:
        raise w.Illegal(case, event)
    return changed if changed.status == case.status else changed._replace(since=event.at)


def _with_content(case: w.Case, event: w.Found | w.Released | w.Changed) -> w.Case:
    """A new input: counted afresh, but attempts count on."""
    return case._replace(
        status=w.FOUND, digest=event.digest, files=event.files, bytes=event.bytes, pending=None, intent=False,
        open=False, missing=False, strikes=0, interruptions=0, reason="", reasons=(), category="", gone=False,
        stale="", stale_digest="",
    )  # fmt: skip


def _held(case: w.Case, event: w.Held) -> w.Case | None:
    if case.status not in EARLY or case.open or case.intent or case.reasons == event.reasons:
        return None
    return _stop(case, event)


def _stop(case: w.Case, event: w.Held) -> w.Case:
    return case._replace(
        status=w.HELD, reasons=event.reasons, reason="; ".join(r.text for r in event.reasons), category="application",
        gone=False,
    )  # fmt: skip


def _released(case: w.Case, event: w.Released) -> w.Case | None:
    return _with_content(case, event) if case.status == w.HELD else None


def _changed(case: w.Case, event: w.Changed) -> w.Case | None:
    """Before the job begins the case is found again, at once where no attempt is out, else after its revocation."""
    if event.digest in (case.digest if not case.pending else "", (case.pending or ("",))[0]):
        return None
    if case.status in (w.FOUND, w.PUSHED) and not case.intent:
        return _with_content(case, event)
    if case.status in (w.PUSHED, w.SUBMITTED):
        return case._replace(pending=(event.digest, event.files, event.bytes), gone=False)
    return None


def _stale(case: w.Case, event: w.Stale) -> w.Case | None:
    if case.status in (w.HELD, w.FOUND, w.PUSHED, w.SUBMITTED) or case.stale_digest == event.digest:
        return None
    back = event.digest == case.digest  # the old content is there again
    return case._replace(stale="" if back else event.what, stale_digest="" if back else event.digest, gone=False)


def _gone(case: w.Case, event: w.Gone) -> w.Case | None:
    return None if case.gone else case._replace(gone=True)


def _back(case: w.Case, event: w.Back) -> w.Case | None:
    return case._replace(gone=False) if case.gone else None


def _pushed(case: w.Case, event: w.Pushed) -> w.Case | None:
    if case.status != w.FOUND or event.digest != case.digest:
        return None
    return case._replace(status=w.PUSHED, host=event.host, reason="", category="")


def _submitting(case: w.Case, event: w.Submitting) -> w.Case | None:
    again = case.intent and event.attempt == case.attempt and event.host == case.host
    first = not case.intent and event.attempt == case.attempt + 1
    if case.status != w.PUSHED or event.digest != case.digest or case.pending or not (again or first):
        return None
    if again and event.group == case.group:
        return case
    return case._replace(
        attempt=event.attempt, intent=True, open=True, missing=False, group=event.group, task="", exit=-1, manifest="",
        started="", ended="",
    )  # fmt: skip


def _submitted(case: w.Case, event: w.Submitted) -> w.Case | None:
    if not _is_out(case, event.attempt):
        return None
    if case.status == w.SUBMITTED and not case.missing and (event.task or case.task) == case.task:
        return None
    return case._replace(
        status=w.SUBMITTED, intent=False, open=True, missing=False, group=event.group or case.group,
        task=event.task or case.task, submitted=case.submitted if case.status == w.SUBMITTED else event.at, reason="",
    )  # fmt: skip


def _missing(case: w.Case, event: w.Missing) -> w.Case | None:
    if case.missing or case.status not in (w.SUBMITTED, w.RUNNING) or event.attempt != case.attempt:
        return None
    return case._replace(missing=True)


def _revoked(case: w.Case, event: w.Revoked) -> w.Case | None:
    if not _is_out(case, event.attempt):
        return None
    freed = case._replace(
        status=w.PUSHED, open=False, intent=False, missing=False, task="",
        strikes=case.strikes + 1 if case.task else case.strikes,
    )  # fmt: skip
    if case.pending:
        digest, files, size = case.pending
        return _with_content(freed, w.Changed(case.key, event.at, digest, files, size, ""))
    return freed


def _started(case: w.Case, event: w.Started) -> w.Case | None:
    if not _is_out(case, event.attempt):
        return None
    late = case.pending[0] if case.pending else case.stale_digest
    return case._replace(
        status=w.RUNNING, intent=False, open=True, missing=False, strikes=0, pending=None, started=event.since,
        group=event.group or case.group, task=event.task or case.task, submitted=case.submitted or event.at,
        stale_digest=late, stale="new data came while it started" if case.pending else case.stale,
    )  # fmt: skip


def _succeeded(case: w.Case, event: w.Succeeded) -> w.Case | None:
    if case.status != w.RUNNING or event.attempt != case.attempt:
        return None
    return case._replace(
        status=w.COMPUTED, open=False, missing=False, exit=0, manifest=event.manifest, started=event.started,
        ended=event.ended, reason="", category="",
    )  # fmt: skip


def _failed(case: w.Case, event: w.Failed) -> w.Case | None:
    if event.attempt != case.attempt or case.intent or case.status not in (w.PUSHED, w.RUNNING, w.COMPUTED):
        return None
    return case._replace(
        status=w.FAILED, open=False, missing=False, exit=event.exit, reason=event.reason, category=event.category
    )


def _interrupted(case: w.Case, event: w.Interrupted) -> w.Case | None:
    if case.status != w.RUNNING or event.attempt != case.attempt:
        return None
    return case._replace(
        status=w.PUSHED, open=False, missing=False, task="", interruptions=case.interruptions + 1, reason=event.reason,
        category="system",
    )  # fmt: skip


def _cancelled(case: w.Case, event: w.Cancelled) -> w.Case | None:
    if case.status != w.RUNNING or event.attempt != case.attempt:
        return None
    return case._replace(status=w.CANCELLED, open=False, missing=False, reason="cancelled")


def _completed(case: w.Case, event: w.Completed) -> w.Case | None:
    if case.status != w.COMPUTED or event.attempt != case.attempt:
        return None
    return case._replace(status=w.COMPLETED, completed=event.at, result=event.digest, reason="", category="")


def _is_out(case: w.Case, attempt: int) -> bool:
    """The attempt is the open one, intended or submitted, and has not been seen to begin."""
    return case.open and attempt == case.attempt and case.status in (w.PUSHED, w.SUBMITTED)


STEPS: dict[type, Callable[..., w.Case | None]] = {
    w.Held: _held, w.Released: _released, w.Changed: _changed, w.Stale: _stale, w.Gone: _gone, w.Back: _back,
    w.Pushed: _pushed, w.Submitting: _submitting, w.Submitted: _submitted, w.Missing: _missing, w.Revoked: _revoked,
    w.Started: _started, w.Succeeded: _succeeded, w.Failed: _failed, w.Interrupted: _interrupted,
    w.Cancelled: _cancelled, w.Completed: _completed,
}  # fmt: skip
