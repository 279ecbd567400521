"""Where the next attempts go: the group that will start them soonest, and only a shallow queue."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure.order import seconds, spin

UNLIMITED = 1 << 10  # what a group without a limit of slots counts for

# A group as the next attempt finds it. name: host/group. busy, waiting: everybody's tasks; ours: what of ours waits. run: seconds
# that a run takes there, 0: nobody knows. shut: why it takes nothing now, "" if it does.
Room = NamedTuple("Room", [
    ("name", str), ("group", w.Group), ("size", int), ("busy", int), ("waiting", int), ("ours", int), ("run", int), ("shut", str),
])  # fmt: skip
Limits = Mapping[str, Sequence[str]]  # job.groups: globs of paths, and of the groups (or host/group) that these cases may go to


def usable(groups: tuple[w.Group, ...], patterns: Sequence[str]) -> list[w.Group]:
    return [group for group in groups if fits(group.name, patterns)]


def allowed(path: str, limits: Limits) -> tuple[str, ...]:
    """Where a case may go, as globs of host/group: what the first glob says that fits its path."""
    return tuple(g if "/" in g else f"*/{g}" for g in next((limits[key] for key in limits if fnmatchcase(path, key)), "*"))


def fits(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def broken(failed: Mapping[str, Sequence[str]], host: str, jobs: int) -> dict[str, str]:
    """The groups there that get nothing more of ours: why, with the command that helps. failed: keys of the cases that failed in a
    row, by host/group. jobs: so many are too many."""
    rows = {name.removeprefix(f"{host}/"): keys for name, keys in failed.items() if name.startswith(f"{host}/")}
    return {group: f"{len(keys)} cases in a row failed in group {group} of {host} ({', '.join(key[: w.ID] for key in keys[-3:])}), "
            f"so it gets no more: see why, `mqi-case show {keys[-1][: w.ID]}`; "
            f"once mended, `mqi-case release --group {group} --host {host} --reason \"...\"`"
            for group, keys in rows.items() if len(keys) >= jobs > 0}  # fmt: skip


def why_none(
    host: str, groups: tuple[w.Group, ...], patterns: Sequence[str], may: Sequence[str] = ("*",), bad: Mapping[str, str] = w.NONE
) -> str:
    """Why no group takes tasks now, in a sentence with the command that helps; "" if one does. may: what is `allowed`. bad: those
    that are `broken`."""
    ours = [group for group in usable(groups, patterns) if fits(f"{host}/{group.name}", may)]
    if not ours:
        known = ", ".join(group.name for group in groups) or "none"
        what = " ".join(patterns) + (f" and job.groups ({' '.join(may)})" if usable(groups, patterns) else "")
        return f"no group of {host} matches {what} (there: {known}): on {host}, `pueue group add {patterns[0].replace('*', '0')}`"
    if not (able := [group.name for group in ours if group.running]):
        names, start = (mark.join(say + group.name for group in ours) for mark, say in ((", ", ""), (" && ", "pueue start -g ")))
        return f"every group of {host} is paused ({names}): on {host}, `{start}`"
    return "; ".join(bad[name] for name in able) if all(name in bad for name in able) else ""


def rooms(host: str, look: w.Look, patterns: Sequence[str], runs: Mapping[str, Any], bad: Container[str] = ()) -> Iterator[Room]:
    """Our groups as a look shows them. runs: start and end of the last ones by host/group. bad: those that are `broken`."""
    usual = middle([run for known in runs.values() for run in known])
    for group in usable(look.groups, patterns):
        tasks = [task for task in look.tasks or () if task.state != "ended" and task.group == group.name]
        busy = sum(task.state == "running" for task in tasks)
        ours = sum(task.state == "waiting" and task.label.startswith("mqi1:") for task in tasks)
        name, shut = f"{host}/{group.name}", "broken" if group.name in bad else "" if group.running else "paused"
        yield Room(name, group, group.slots or UNLIMITED, busy, len(tasks) - busy, ours, middle(runs.get(name, ())) or usual, shut)


def middle(runs: Sequence[Sequence[str]]) -> int:
    """The median of runs in whole seconds, 0 if there is none."""
    known = sorted(time for run in runs if (time := int(seconds(*run))) > 0)
    return known[len(known) // 2] if known else 0


def choose(wanting: Iterable[w.Case], found: list[Room], depth: int, limits: Limits, turn: int) -> list[tuple[w.Case, w.Group]]:
    """A group for as many of the wanting, in their order, as the shallow queue takes: at most `depth` of ours wait for a slot.

    The one that starts it soonest, everybody's tasks counted; turn picks among equals.
    """
    able, placed = {room.name: room for room in found if not room.shut}, list[tuple[w.Case, w.Group]]()
    for case in wanting:
        free = [r for r in able.values() if (r.ours < depth * r.size or ahead(r) < 1) and fits(r.name, allowed(case.path, limits))]
        if equal := [room for room in free if soon(room) == min(map(soon, free))]:
            best = equal[spin(turn + len(placed), len(equal))]
            placed.append((case, best.group))
            able[best.name] = best._replace(waiting=best.waiting + 1, ours=best.ours + (ahead(best) > 0))
    return placed


def ahead(room: Room) -> int:
    """How many tasks end there before the next one starts; below 1: a slot is free."""
    return room.busy + room.waiting + 1 - room.size


def soon(room: Room) -> tuple[float, float]:
    """When the next one starts there, in seconds (in runs, where nobody knows how long they are); and how full it is."""
    return max(ahead(room), 0) * (room.run or 1) / room.size, (ahead(room) - 1) / room.size


def told(room: Room, takes: int) -> str:
    """For the log: what was found there, how many attempts it takes, and why."""
    why = room.shut or (f"{ahead(room)} runs of {room.run or '?'} s end before the next" if ahead(room) > 0 else "a slot is free")
    seen = f"slots {room.group.slots or 'unlimited'}, running {room.busy}, waiting {room.waiting}, ours {room.ours}"
    return f"{room.name}: {seen}; {f'takes {takes}, it starts them soonest' if takes else 'takes none'}: {why}"


def why_waiting(case: w.Case, look: w.Look, host: str) -> str:
    """Why a submitted case has not begun, with the command that helps; "" if nothing is wrong."""
    if look.trouble:
        return f"the queue of {host} does not answer: {look.trouble}"
    if any(group.name == case.group and not group.running for group in look.groups):
        return f"group {case.group} of {host} is paused: on {host}, `pueue start -g {case.group}`"
    if look.groups and case.group not in {group.name for group in look.groups}:
        return f"group {case.group} of {host} is gone. See: mqi-check --host {host}"
    trace = look.traces.get(case.label)
    if trace and trace.digest not in ("", case.digest):
        return f"attempt {case.attempt} on {host} has another input than the ledger knows: mqi-ledger rebuild --reason ..."
    if trace and trace.claim == "strange":
        return f"cases/{case.key}/attempt-{case.attempt}/claim on {host} is neither a folder nor the link `revoked`: who made it?"
    return "it waits for a slot" if trace and trace.held else ""
