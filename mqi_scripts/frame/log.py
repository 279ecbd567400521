"""Where talk goes: sentences to stderr; with levels and fields, where that is the journal; and JSON lines into log.file.

Neither journal nor file gets a folder's name: a case is its id there.
"""

import json
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from mqi_scripts import words as w
from mqi_scripts.pure import codec, order, tables

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7  # as syslog and the journal count
NAMES = {ERROR: "error", WARNING: "warning", INFO: "info", DEBUG: "debug"}
FIELDS = ("attempt", "host", "group", "slot", "task", "category", "phase", "exit", "files", "bytes")  # of events; the rest may name


class Log:
    """The talk of this process. file: log.file, "" for none. hidden: folders below which nothing is named."""

    file = ""
    hidden: tuple[str, ...] = ()

    def __call__(self, script: str, text: str, level: int = INFO, *, aloud: bool = True, **about: Any) -> None:
        """aloud: for a person, too; else only for journal and file. about: fields of the line, those that are "" left out."""
        below = "|".join(map(re.escape, self.hidden)) or "$."
        plain = re.sub(rf"(['\"])?({below})/.*(?(1)(?=\1))", r"\1\2/...", text)  # names hold anything
        about = {name: value for name, value in about.items() if value != ""}
        if is_journal(sys.stderr):
            fields = "".join(f" {name}={tables.printable(str(value))}" for name, value in about.items())
            sys.stderr.writelines(f"<{level}>{script}: {line}{fields}\n" for line in plain.splitlines())
        elif aloud:
            sys.stderr.write(f"{script}: {text}\n")
        if self.file:
            self._keep(script, {"level": NAMES[level], "script": script, **about, "text": plain})

    def _keep(self, script: str, record: dict[str, Any]) -> None:
        """One write, at the end, whoever else writes there or moved the file away. What fails is said once and stops nobody."""
        path, flags = self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(path, flags, 0o600), "ab", buffering=0) as file:
                file.write(json.dumps({"at": codec.stamp(datetime.now(UTC)), **record}).encode() + b"\n")
        except OSError as error:
            self.file = ""
            self(script, f"log.file cannot be written, the work goes on without it: {error}", WARNING)

    def event(self, script: str, event: w.Event, case: w.Case | None) -> None:
        """A happening, without what a name could stand in."""
        told = {"host": case.host if case else "", **codec.to_dict(event)}
        about = {name: told[name] for name in FIELDS if name in told}
        codes = ",".join(reason["code"] for reason in told.get("reasons", ()))
        duration = order.seconds(told["started"], told["ended"]) if "ended" in told else ""
        self(script, told["type"], aloud=False, case=event.case[: w.ID], **about, codes=codes, duration=duration)


def is_journal(stream: TextIO) -> bool:
    """Whether systemd connected it with the journal: JOURNAL_STREAM in systemd.exec(5)."""
    info = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


log = Log()
