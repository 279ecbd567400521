"""The commissioning self-test, mqi-check --faults: faults made for real on the site's own gateway, host and queue, and the record
of what was seen. The line imports nothing of this."""

from typing import Any, NamedTuple

from mqi_scripts.pure.tables import printable

HELD, BROKEN, NOT = "held", "BROKEN", "does not apply"

# One fault. made: by which means. seen: (whether it is as promised, the sentence).
Fault = NamedTuple("Fault", [
    ("name", str), ("made", str), ("verdict", str), ("seconds", float), ("seen", list[tuple[bool, str]]),
])  # fmt: skip


class Record(NamedTuple):
    """What is filed of one host. trouble: why not all was tried, or what was not cleaned up; "" if nothing."""

    site: str
    host: str
    address: str
    root: str
    by: str
    begun: str
    ended: str
    verdict: str
    trouble: str
    versions: dict[str, str]
    tasks: int
    faults: list[Fault]

    def tables(self) -> dict[str, Any]:
        """As schemas/faults.schema.json has it."""
        rows = [{**one._asdict(), "seen": [{"as_promised": ok, "what": what} for ok, what in one.seen]} for one in self.faults]
        return {**self._asdict(), "faults": rows}

    def text(self) -> str:
        """For a person, and for paper."""
        lines = [f"mqi self-test of faults: {self.verdict} on {self.host} of site {self.site}", ""]
        lines += [f"  {name:15} {value}" for name, value in {
            "begun": self.begun, "ended": self.ended, "by": self.by, "address": self.address, "scratch root": self.root,
            **self.versions, "tasks": str(self.tasks)}.items()]  # fmt: skip
        for fault in self.faults:
            lines += ["", f"{fault.verdict:14} {fault.name} ({fault.seconds:.0f} s)", f"  made: {fault.made}"]
            lines += [f"  {'ok' if held else BROKEN:7}{what}" for held, what in fault.seen]
        lines += ["", *([f"trouble: {self.trouble}"] if self.trouble else []), f"verdict: {self.verdict}"]
        return "".join(f"{printable(line)}\n" for line in lines)
