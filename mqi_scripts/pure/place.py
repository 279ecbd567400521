"""Where the next attempts go: the group that will start them soonest, and only a shallow queue."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from mqi_scripts import words as w

UNLIMITED = 1 << 10  # what a group without a limit of slots counts for


def usable(groups: tuple[w.Group, ...], patterns: Sequence[str]) -> list[w.Group]:
    return [group for group in groups if any(fnmatchcase(group.name, pattern) for pattern in patterns)]


def why_none(host: str, groups: tuple[w.Group, ...], patterns: Sequence[str]) -> str:
    """Why no group takes tasks now, in a sentence with the command that helps; "" if one does."""
    ours = usable(groups, patterns)
    if not ours:
        known = ", ".join(group.name for group in groups) or "none"
        return f"no group of {host} matches {' '.join(patterns)} (there: {known}): make one there, `pueue group add`"
    if not any(group.running for group in ours):
        names = ", ".join(group.name for group in ours)
        return f"every group of {host} is paused ({names}): on {host}, `pueue start -g {ours[0].name}`"
    return ""


def choose(wanting: list[str], look: w.Look, patterns: Sequence[str], depth: int) -> list[tuple[str, w.Group]]:
    """A group for as many of the wanting (labels, in order of urgency) as the shallow queue takes.

    Least load per slot first, everybody's tasks counted; at most `depth` tasks of ours wait for each slot.
    """
    tasks = [task for task in look.tasks or () if task.state != "ended"]
    groups = [group for group in usable(look.groups, patterns) if group.running]
    load = {group: sum(task.group == group.name for task in tasks) for group in groups}
    ours = [task.group for task in tasks if task.state == "waiting" and task.label.startswith("mqi1:")]
    waiting = {group: ours.count(group.name) for group in groups}
    placed = []
    for label in wanting:
        free = [g for g in groups if waiting[g] < depth * slots(g) or load[g] < slots(g)]
        if not free:
            break
        best = min(free, key=lambda g: (load[g] / slots(g), g.name))
        placed.append((label, best))
        load[best] += 1
        waiting[best] += load[best] > slots(best)
    return placed


def slots(group: w.Group) -> int:
    return group.slots or UNLIMITED


def share(due: list[w.Case], open_cases: list[w.Case], hosts: list[str]) -> list[w.Case]:
    """The due cases, each with the host it goes to: the one with the fewest open cases."""
    load = {host: sum(case.host == host for case in open_cases) for host in hosts}
    shared = []
    for case in due:
        host = min(load, key=lambda name: (load[name], name))
        load[host] += 1
        shared.append(case._replace(host=host))
    return shared


def why_waiting(case: w.Case, look: w.Look, host: str) -> str:
    """Why a submitted case has not begun, with the command that helps; "" if nothing is wrong."""
    if look.trouble:
        return f"the queue of {host} does not answer: {look.trouble}"
    if any(group.name == case.group and not group.running for group in look.groups):
        return f"group {case.group} of {host} is paused: on {host}, `pueue start -g {case.group}`"
    if look.groups and case.group not in {group.name for group in look.groups}:
        return f"group {case.group} of {host} is gone"
    trace = look.traces.get(case.label)
    if trace and trace.digest not in ("", case.digest):
        return f"attempt {case.attempt} on {host} has another input than the ledger knows: mqi-ledger rebuild --reason ..."
    return "it waits for a slot" if trace and trace.held else ""
