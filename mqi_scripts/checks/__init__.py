"""What the doctor says: one probe a line, its level, what was found, and the fix. The line imports nothing of this."""

from collections.abc import Iterable
from typing import NamedTuple

from mqi_scripts.words import Failure

OK, WARN, FAIL = "ok", "warn", "FAIL"

# what was probed, on which host ("" for the gateway), the level, what was found, what to do about it, the exit code it asks for.
Probe = NamedTuple("Probe", [("what", str), ("level", str), ("found", str), ("fix", str), ("code", int), ("host", str)])


def ok(what: str, found: str = "") -> Probe:
    return Probe(what, OK, found, "", 0, "")


def warn(what: str, found: str, fix: str) -> Probe:
    """Nothing is broken now, and a person should look."""
    return Probe(what, WARN, found, fix, 1, "")


def fail(what: str, found: str, fix: str, kind: Failure | type[Failure]) -> Probe:
    """Something cannot work, or is lost. kind: of trouble, for the exit code."""
    return Probe(what, FAIL, found, fix, kind.code, "")


def on(host: str, probes: Iterable[Probe]) -> list[Probe]:
    return [probe._replace(host=host) for probe in probes]


def text(probe: Probe) -> str:
    """One line; where something is to do, that in the next."""
    where = f"{probe.host}: {probe.what}" if probe.host else probe.what
    line = f"{probe.level:4}  {where}{': ' if probe.found else ''}{probe.found}\n"
    return line + (f"      fix: {probe.fix}\n" if probe.fix else "")
