"""What is sound, late or wrong on the gateway: pure functions over values; `now` is an argument."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.checks import Probe, fail, ok, warn
from mqi_scripts.pure.explain import LATE, span
from mqi_scripts.pure import tables

SCRIPTS = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")
TIMERS = ("mqi-clean", "mqi-report", "mqi-report-notify", "mqi-ledger-backup", "mqi-ledger-verify")  # beside those of the line
ROOM = 1 << 30  # bytes below which a disk is called nearly full
NODES = 1000  # files, the same
SKEW = 60  # seconds between clocks that nobody minds
OLD = 86400.0  # seconds that a case may stand where it is before it is worth a look
SILENT = 7 * 86400.0  # seconds without a new folder in the inbox
FRESH = 300.0  # seconds in which the first run of a timer comes
STUCK = 7200.0  # seconds that a run may take: TimeoutStartSec of the units


def ago(text: str, now: datetime) -> float:
    """Seconds since a time of an event or a note."""
    return (now - datetime.fromisoformat(text)).total_seconds()


def room(where: str, free: int, nodes: int, reserve: int, key: str) -> Probe:
    """nodes: inodes that are free, -1 where the file system counts none. reserve: bytes that `key` keeps."""
    figures = f"{free / 1e9:.1f} GB free" + (f", {nodes} files" if nodes >= 0 else "")
    if free < max(ROOM, reserve) or 0 <= nodes < NODES:
        more = f", and {key} keeps {reserve / 1e9:.1f}: nothing more is copied" if free < reserve else ""
        return fail(where, f"only {figures}{more}", "make room there (df -h, df -i)", w.Disk)
    return ok(where, figures)


def inbox(path: str, matching: Mapping[str, float], entries: int, pattern: str, known: int, now: float) -> Probe:
    """matching: mtime by folder that can be a case. entries: all names in there. known: cases that were there when last seen."""
    if not matching and known:
        return fail(f"inbox {path}", f"no case is in it, and {known} were: a lost mount?",
                    "mount it; if it was emptied on purpose: mqi-scan --accept-empty", w.Unreachable)  # fmt: skip
    if not matching and entries:
        return warn(f"inbox {path}", f"none of its {entries} entries is a folder that matches scan.cases = {pattern!r}",
                    "correct scan.cases: a glob, a part for each level of folders")  # fmt: skip
    if not matching:
        return ok(f"inbox {path}", "empty")
    newest = max(matching, key=lambda name: matching[name])
    age = now - matching[newest]
    figures = f"{len(matching)} folders, the newest is {tables.printable(newest)}, changed "
    if age < -SKEW:
        return warn(f"inbox {path}", f"{figures}{span(-age)} from now", "set the clock of the machine that writes it, or ours")
    if age > SILENT:
        return warn(f"inbox {path}", f"{figures}{span(age)} ago", "is it still the folder that the treatment machine writes to?")
    return ok(f"inbox {path}", f"{figures}{span(age)} ago")


def waiting(cases: Iterable[w.Case], why: Mapping[str, Sequence[str]], now: datetime) -> Iterator[Probe]:
    """The oldest case that moves by itself, and those that need a person. why: status, reason and category by key."""
    stands = sorted((case for case in cases if case.status not in w.CLOSED), key=lambda case: case.since)
    person = [case for case in stands if case.status in w.PERSON]
    moving = [case for case in stands if case.status not in w.PERSON]
    if person:
        count = f"{len(person)} cases need a person" if person[1:] else "a case needs a person"
        fix = "mqi-report --needs-me; why and what helps: mqi-case explain"
        yield warn("people", f"{count}; {_stands(person[0], person[0].reason, now)}", fix)
    if not moving:
        yield ok("waiting", "" if person else "nothing")
        return
    status, reason, category = [*why.get(moving[0].key, ()), "", "", ""][:3]
    met = status == moving[0].status
    found = "the oldest: " + _stands(moving[0], reason if met else "", now)
    wrong = met and (category in (w.Unreachable.category, w.Configuration.category) or "`" in reason)
    late = ago(moving[0].since, now) > OLD
    yield warn("waiting", found, f"mqi-case explain {moving[0].id}") if late or wrong else ok("waiting", found)


def _stands(case: w.Case, reason: str, now: datetime) -> str:
    text = f"{case.id} {tables.printable(case.path)} is {case.status} for {span(ago(case.since, now))}"
    return text + (f": {tables.printable(reason)}" if reason else "")


def scripts(
    notes: Mapping[str, Mapping[str, Any]], units: Mapping[str, tuple[str, str]], runs: Iterable[str], now: datetime,
    idle: float = 0.0,
) -> Iterator[Probe]:  # fmt: skip
    """Each script of the line. notes: its health note. units: what systemctl says of its timer (is-enabled, is-active), "" where
    it says nothing. runs: those that run at this moment. idle: seconds for which there could have been notes."""
    on = [name for name, (enabled, _) in units.items() if enabled == "enabled"]
    every = " ".join(f"{name}.timer" for name in SCRIPTS)
    if not any(notes.values()):
        if on and idle < FRESH:
            yield ok("timers", "they are on, the first runs come within a minute or two")
        elif on:
            yield warn("timers", "they are enabled, and no script has run yet", "see journalctl -u 'mqi@*'")
        else:
            yield ok("timers", f"none is on and no script has run yet; when all is well: systemctl enable --now {every}")
        return
    if units.get("mqi.target", ("", ""))[0] == "disabled" and on:
        found = "it is disabled: after the next boot no timer starts"
        yield fail("mqi.target", found, "systemctl enable mqi.target", w.Configuration)
    for name, note in notes.items():
        yield _script(name, note, units.get(name, ("", "")), on, name in runs, now)
    yield from filter(None, (_timer(name, units[name], on, "") for name in TIMERS if name in units))


def _script(
    name: str, note: Mapping[str, Any], unit: tuple[str, str], on: Sequence[str], runs: bool, now: datetime
) -> Probe:
    last, trouble = str(note.get("success", "")), tables.printable(str(note.get("trouble", "")))
    late = ago(last, now) if last else 0.0
    figures = f"last success {span(late)} ago" if last else "it never had a success"
    by_hand = f"run it by hand: {name}; what it said: journalctl -u mqi@{name.removeprefix('mqi-')}"
    if wrong := _timer(name, unit, on, f"; {figures}"):
        return wrong
    if runs:
        return ok(name, f"it runs now; {figures}")
    if trouble:
        return warn(name, f"its last run, {span(ago(note['run'], now))} ago, met trouble: {trouble}", by_hand)
    if not last or late > LATE:
        return warn(name, figures, by_hand + ("" if on else "; no timer of systemd starts it: does cron?"))
    return ok(name, figures)


def _timer(name: str, unit: tuple[str, str], on: Sequence[str], more: str) -> Probe | None:
    """That it does not start, though others do."""
    if on and unit[0] in ("disabled", "masked", "static", "linked"):
        again = f"systemctl {'unmask' if unit[0] == 'masked' else 'enable --now'} {name}.timer"
        return fail(name, f"its timer is {unit[0]}{more}", again, w.Configuration)
    if unit[0] == "enabled" and unit[1] in ("inactive", "failed"):
        return fail(name, f"its timer is enabled, but stopped{more}", f"systemctl start {name}.timer", w.Configuration)
    return None


def lock(name: str, holder: str, lives: bool, since: float) -> Probe:
    """A lock of ours that somebody holds. holder: what stands in it. since: seconds."""
    found = f"{holder or 'somebody'} holds it for {span(since)}"
    if holder and not lives:
        return warn(f"lock {name}", f"{found}, and is no more: a child has inherited it", f"fuser -v {name} names it: end it")
    if since > STUCK:
        fix = f"is it stuck? Ending it loses nothing, the next run goes on: kill {holder.rpartition(' ')[2]}"
        return warn(f"lock {name}", found, fix)
    return ok(f"lock {name}", found)
