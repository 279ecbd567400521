"""When a compute host that failed is tried again: later and later, and after a refusal only when something has changed."""

from collections.abc import Mapping
from typing import Any

from mqi_scripts.pure.order import seconds
from mqi_scripts.words import Configuration

CHANGE = "the configuration changes"  # what the next try after a refusal waits for


def delay(failures: int, first: float, factor: float, most: float, jitter: float) -> float:
    """Seconds from the last of so many failures in a row (1 or more) to the next try: `first`, after each more `factor` times as
    long, at most `most`. jitter, of [0, 1), takes up to a quarter of it away: not all gateways knock at one moment."""
    return min(first * factor ** min(failures - 1, 60), most) * (1 - jitter / 4)


def rests(note: Mapping[str, Any], sign: int, most: float, now: str) -> bool:
    """Whether the host is still left alone for the trouble that was noted. sign: of the configuration as it is now. A time that is
    further away than any delay was noted by a clock that was set back since."""
    if note.get("category") == Configuration.category:
        return bool(note["sign"] == sign)
    return 0 < seconds(now, note.get("until", "")) <= most
