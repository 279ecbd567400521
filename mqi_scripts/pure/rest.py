"""Which cases are at rest, so that what their compute host has of them may go: deciding only, over values."""

from mqi_scripts import words as w
from mqi_scripts.pure.explain import span
from mqi_scripts.pure.order import seconds


def why_kept(case: w.Case, keep: float | None, now: str) -> str:
    """Why its host must keep its input and output, in a sentence; "" if it need not. keep: hosts.<name>.keep, in seconds; None
    where its host left the configuration."""
    if not case.host or case.cleaned:
        return f"{case.id} is {case.status}, and no host has anything of it"
    if case.open or case.status not in (*w.CLOSED, w.FAILED):
        return f"{case.id} is {case.status}, it is not at rest"
    if case.status == w.FAILED and case.manifest and not case.salvaged:
        return f"{case.id} is failed, and what is good of its results is not here yet: mqi-fetch brings it"
    if case.status != w.COMPLETED and case.gone:
        return f"{case.id} is {case.status} and its source folder is gone: {case.host} may have the last copy of its input"
    if keep is None:
        return f"hosts.{case.host} left the configuration, and what {case.id} has there stays"
    if (rests := seconds(case.since, now)) < keep:
        return f"{case.id} is {case.status} for {span(max(rests, 0))}, hosts.{case.host}.keep is {span(keep)}"
    return ""
