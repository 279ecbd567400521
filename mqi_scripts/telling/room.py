"""How much room is left here and there, and how many days it will do: pure; bytes, and times as in the ledger."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure.explain import ago
from mqi_scripts.pure.order import seconds

DAY = 86400.0
WEEKS = 4  # that make the rate
LONG = 3650  # days; more of them say nothing

# where: a host, or what of the gateway; free: bytes, seen at that time; reserve: those that stay free; key: that says so;
# bytes_a_day: of cases found; days: until the reserve is reached at this rate, -1 if never.
Room = NamedTuple("Room", [
    ("where", str), ("free", int), ("reserve", int), ("key", str), ("at", str), ("bytes_a_day", int), ("days", int),
])  # fmt: skip


def rate(cases: Iterable[w.Case], now: str) -> int:
    """Bytes of the cases that were found in the last four weeks, a day; since the first case, if there are not four yet."""
    ages = [(max(seconds(case.found, now), 0.0) / DAY, case.bytes) for case in cases]
    days = min(max([1.0, *(age for age, _ in ages)]), 7.0 * WEEKS)
    return int(sum(size for age, size in ages if age <= days) / days)


def room(where: str, free: int, reserve: int, key: str, at: str, bytes_a_day: int) -> Room:
    days = max(free - reserve, 0) // bytes_a_day if bytes_a_day else -1
    return Room(where, free, reserve, key, at, bytes_a_day, days)


def of_hosts(notes: Iterable[Mapping[str, Any]], reserves: Mapping[str, int], bytes_a_day: int) -> Iterator[Room]:
    """The newest that a run's note tells of each host. reserves: bytes by host."""
    known = [*notes]
    for host, reserve in reserves.items():
        seen = sorted((note[f"room {host}"][::-1] for note in known if f"room {host}" in note), reverse=True)
        for at, free in seen[:1]:
            yield room(host, free, reserve, f"hosts.{host}.reserve", at, bytes_a_day)


def is_full(one: Room) -> bool:
    return one.free < one.reserve


def told(one: Room, now: str) -> str:
    """For a person."""
    free = f"room, {one.where}: {one.free / 1e9:.1f} GB free"
    seen = f" (seen {ago(one.at, now)} ago)"
    if is_full(one):
        stops = "nothing new is pushed there" if one.key != "site.reserve" else "nothing is pushed, no results are brought"
        return f"{free}, and {one.key} keeps {one.reserve / 1e9:.1f} GB: {stops}{seen}"
    if one.days < 0:
        return free + seen
    days = f"{one.days} days" if one.days < LONG else "over ten years"
    return f"{free}, enough for {days} at {one.bytes_a_day / 1e9:.2f} GB of cases a day{seen}"
