"""What did not happen: scripts without a success, hosts that are silent, a day without cases. Pure; `now` is local time."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.checks import OK, gateway
from mqi_scripts.pure import explain
from mqi_scripts.pure.explain import span
from mqi_scripts.pure.order import seconds

DAY = 86400.0
SHORT = 600.0  # seconds that a job may run whatever is usual
MOST = 10  # cases that a sentence names
ALARM = 7200.0  # seconds without a success of a script from which on a person is needed: a run may take that long
NIGHTS = 3 * 86400.0  # the same, of a script that runs once a night
WEEKS = 8  # that make the rhythm of a weekday
FEW = 3  # such days before there is a rhythm

# One thing that did not happen, a sentence; whether a person is needed for it.
Silence = NamedTuple("Silence", [("text", str), ("person", bool)])


Notes = Mapping[str, Mapping[str, Any]]


def silences(told: Notes, notes: Notes, hosts: Iterable[str], found: Sequence[datetime], now: datetime) -> list[Silence]:
    """notes: each script's health note; told: the same, as it may be told. found: when cases were found, local time."""
    return [*_scripts(told, found, now), *_hosts(notes, hosts, now), *_cases(found, now)]


def _scripts(notes: Notes, found: Sequence[datetime], now: datetime) -> Iterator[Silence]:
    """Without a success: since the first case was found."""
    first = min(found, default=now).isoformat()
    if not any(notes.values()) and gateway.ago(first, now) > ALARM:
        yield Silence("no program has left a note of a run: are the timers on? See: mqi-check --fast", True)
    for probe in gateway.scripts(notes, {}, (), now):
        if probe.level != OK:
            last = notes[probe.what].get("success") or first
            yield Silence(f"{probe.what}: {probe.found}", gateway.ago(str(last), now) > ALARM)


def past_usual(cases: Iterable[w.Case], known: explain.Notes, now: str) -> Iterator[Silence]:
    """Jobs that run for more than twice the median of their group."""
    for case in cases:
        usual, runs = explain.usual_of(case, known), seconds(case.started, now) if case.started else 0.0
        if case.status == w.RUNNING and usual and runs > max(2 * usual, SHORT):
            yield Silence(f"{case.id} runs for {span(runs)} already, the median of its group is {span(usual)}", False)


def again(cases: Iterable[w.Case], now: str) -> Iterator[Silence]:
    """Which cases took more than one attempt in the last day, and how many."""
    more = [case for case in cases if case.attempt > 1 and seconds(case.since, now) < DAY]
    if more:
        which = ", ".join(f"{case.id} ({case.attempt} attempts)" for case in more[:MOST]) + (", ..." if more[MOST:] else "")
        yield Silence(f"retried in the last day: {len(more)} cases: {which}", False)


def nightly(name: str, note: Mapping[str, Any], now: datetime) -> Iterator[Silence]:
    """A script that runs once a night. note: its health note, as it may be told."""
    success, trouble = str(note.get("success", "")), str(note.get("trouble", ""))
    late = gateway.ago(success, now) if success else 0.0
    if trouble:
        met = f"its last run, {span(gateway.ago(str(note['run']), now))} ago, met trouble: {trouble}"
        yield Silence(f"{name}: {met}", late > NIGHTS)
    elif late > NIGHTS:
        yield Silence(f"{name}: last success {span(late)} ago", True)


def _hosts(notes: Notes, hosts: Iterable[str], now: datetime) -> Iterator[Silence]:
    """A host whose name a script's trouble begins with, since the last time that such a script had none."""
    for host in hosts:
        named = re.compile(rf"(?:^|; )(?:the queue of )?{re.escape(host)}(?: \(| does not answer|:/(?!\S*: no room))")
        mute = {name: str(note.get("success", "")) for name, note in notes.items() if named.search(str(note.get("trouble", "")))}
        since = max(mute.values(), default="")
        if since:
            at = datetime.fromisoformat(since).astimezone(now.tzinfo)
            late = (now - at).total_seconds()
            yield Silence(f"{host} is silent, or its queue, since {at:%Y-%m-%d %H:%M}, {span(late)}", late > ALARM)
        elif mute:
            yield Silence(f"{host} is silent, or its queue, and has never answered {', '.join(mute)}", True)


def _cases(found: Sequence[datetime], now: datetime) -> Iterator[Silence]:
    """No case today, where the same weekday usually had some by this time."""
    days = [now - timedelta(weeks=back) for back in range(1, WEEKS + 1) if found and now - timedelta(weeks=back) >= min(found)]
    counts = [sum(at.date() == day.date() and at.time() <= now.time() for at in found) for day in days]
    if len(counts) >= FEW and (usual := median(counts)) >= 1 and not any(at.date() == now.date() for at in found):
        last = max(found)
        yield Silence(
            f"no new case today; on a {now:%A} there are usually {usual:.0f} by now. The last came {last:%Y-%m-%d %H:%M}: "
            "see mqi-check for the inbox", True)  # fmt: skip
