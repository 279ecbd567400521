"""Which of the waiting cases goes first: by priority, in shares, or as they came; and who waits too long, before all."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from mqi_scripts import words as w

GOLDEN = 2654435769  # of 2^32: its multiples fill a circle evenly, wherever one begins and stops

# order: strict, weighted or fifo. aging: seconds of waiting that raise a case by one priority; starvation: seconds of waiting
# after which a case goes first; 0 for never.
Schedule = NamedTuple("Schedule", [("order", str), ("aging", float), ("starvation", float)])


def urgent(waiting: Sequence[w.Case], rules: Schedule, turn: int, now: str) -> Iterator[w.Case]:
    """The waiting cases, the next one first; of one level, who was found first.

    weighted: while several levels wait, each gets its share of the turns, as its level + 1 is to theirs. turn: how many cases
    went before these, ever.
    """
    levels: dict[int, list[w.Case]] = {}
    for case in sorted(waiting, key=lambda case: (case.found, case.path), reverse=True):
        levels.setdefault(level(case, rules, now), []).append(case)
    while levels:
        best = max(levels)
        if rules.order == "weighted" and best <= w.TOP:
            at = spin(turn, sum(levels) + len(levels))
            best = min(n for n in levels if at < sum(m + 1 for m in levels if m <= n))
        yield levels[best].pop()
        levels, turn = {n: cases for n, cases in levels.items() if cases}, turn + 1


def level(case: w.Case, rules: Schedule, now: str) -> int:
    """0 to TOP, or above it: nobody goes before this one. A case waits for as long as it has its status."""
    waited = max(seconds(case.since, now), 0.0)
    if rules.order == "fifo" or 0 < rules.starvation <= waited:
        return w.TOP + 1
    return min(case.priority + int(waited // rules.aging if rules.aging else 0), w.TOP)


def spin(turn: int, count: int) -> int:
    """One of `count` things, each equally often over any stretch of turns."""
    return (turn * GOLDEN % (1 << 32)) * count >> 32


def seconds(start: str, end: str) -> float:
    """From one time to another; -1 where one of them is none, as a wrapper's words may be."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):  # no time; only one of them with a zone
        return -1.0
