"""What a person wants of one case: the events that say so. Raises Usage with the reason, and the command that helps instead."""

from mqi_scripts import words as w

OVER = (w.FAILED, w.COMPLETED, w.CANCELLED)  # no attempt is out


def cancel(case: w.Case, reason: str, who: str, now: str) -> list[w.Event]:
    """What has not begun is cancelled at once; of the rest it is said when the job was seen gone."""
    if case.status == w.CANCELLED or case.unwanted:
        raise w.Usage(f"{case.id}: {asked(case) if case.unwanted else case.reason}, already")
    if case.status in (w.COMPUTED, w.COMPLETED):
        what = "its results come with the next mqi-fetch" if case.status == w.COMPUTED else "its result stands"
        raise w.Usage(f"{case.id} is {case.status}, there is nothing to cancel: {what}. See: mqi-case show {case.id}")
    return [w.Asked(case.key, now, w.CANCEL, reason, who)]


def hold(case: w.Case, reason: str, who: str, now: str) -> list[w.Event]:
    """It is not carried further until a person releases it; an attempt that has not begun is taken back."""
    if case.asked:
        raise w.Usage(f"{case.id}: {asked(case)}")
    if case.status not in (w.HELD, w.FOUND, w.PUSHED, w.SUBMITTED):
        helps = f"mqi-case cancel {case.id} --reason ... ends it" if case.status == w.RUNNING else "it does not move"
        raise w.Usage(f"{case.id} is {case.status}, there is nothing to hold: {helps}")
    return [w.Asked(case.key, now, w.HOLD, reason, who)]


def release(case: w.Case, reason: str, who: str, now: str) -> list[w.Event]:
    """What a person held, or *never starts*; a cancel that is not done yet is taken back."""
    if not case.asked and not any(one.code == w.NEVER_STARTS for one in case.reasons):
        if case.status == w.HELD:
            text = f"{case.id} is held by what is wrong with it: {case.reason}"
            raise w.Usage(f"{text}: mend its folder, the next mqi-scan releases it")
        raise w.Usage(f"{case.id} is {case.status}, nobody holds it. See: mqi-case explain {case.id}")
    return [w.Lifted(case.key, now, reason, who)]


def retry(case: w.Case, reason: str, who: str, now: str, *, host_is_gone: bool = False) -> list[w.Event]:
    """A new attempt. host_is_gone: it was tried, and the host does not answer."""
    if host_is_gone and (case.status == w.HELD or not case.host):
        raise w.Usage(f"{case.id} is {case.status}, on no host: --host-is-gone says nothing of it. See: mqi-case explain {case.id}")
    if not host_is_gone and case.status not in OVER:
        raise w.Usage(f"{case.id} is {case.status}, {_instead(case)}")
    return [w.Retried(case.key, now, reason, who, host_is_gone)]


def _instead(case: w.Case) -> str:
    """Why a case that is not over gets no new attempt, and what helps."""
    if case.status == w.HELD:
        return f"nothing of it was tried: {case.reason}. See: mqi-case explain {case.id}"
    if case.status == w.COMPUTED:
        return f"its results come with the next mqi-fetch; if {case.host} will never answer again: --host-is-gone"
    if case.open:
        text = f"attempt {case.attempt} may still run or start on {case.host}: mqi-case cancel {case.id} --reason ... first"
        return f"{text}; if {case.host} will never answer again: --host-is-gone"
    return f"it is on its way. See: mqi-case explain {case.id}"


def priority(case: w.Case, reason: str, to: int, now: str) -> list[w.Event]:
    """It counts from the next mqi-submit on; who it was stands in the record's `by`."""
    if case.priority == to:
        raise w.Usage(f"{case.id} has priority {to} already")
    return [w.Prioritized(case.key, now, to, reason)]


def note(case: w.Case, reason: str, who: str, now: str) -> list[w.Event]:
    return [w.Noted(case.key, now, reason, who)]


def asked(case: w.Case) -> str:
    """What a person asked for, in a sentence."""
    what, who, why = case.asked
    if what == w.HOLD and case.status == w.HELD:
        return f"{who} holds it: {why}"
    return f"{who} asked to {what} it: {why}"
