"""Cases and events as text: one sentence an event, one row a case. Nothing here reads a clock or prints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.pure.codec import stamp

COLUMNS = ("case_id", "case_path", "status", "progress", "pueue_group", "pueue_task_id", "submitted_at", "status_updated_at",
           "attempt", "reason", "category", "next", "priority", "host", "completed_at", "stale")  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run these


def sentence(event: w.Event, case: w.Case | None) -> str:
    """What happened, for a person; the case by id and path."""
    match event:
        case w.Found(files=files, bytes=size) | w.Released(files=files, bytes=size):
            text = f"found, {files} files, {megabytes(size)}"
        case w.Held(reasons=reasons):
            text = "held: " + "; ".join(reason.text for reason in reasons)
        case w.Changed(what=what):
            text = f"changed before its job began: {what}"
        case w.Stale(what=what):
            text = f"new data after its job began (the result stays, marked stale): {what}"
        case w.Pushed(host=host):
            text = f"pushed to {host}, every byte verified there"
        case w.Submitting(attempt=n, host=host, group=group):
            text = f"attempt {n} is being submitted to {group} of {host}"
        case w.Submitted(attempt=n, group=group, task=task):
            text = f"attempt {n} is in the queue ({group or 'group unknown'}{', task ' + task if task else ''})"
        case w.Missing(attempt=n):
            text = f"attempt {n} shows no sign of life; a second look decides"
        case w.Revoked(attempt=n):
            text = f"attempt {n} never began and is revoked; a new one follows"
        case w.Started(attempt=n, group=group, slot=slot):
            text = f"attempt {n} runs on {group}, slot {slot}"
        case w.Succeeded(attempt=n):
            text = f"attempt {n} computed; its results are still on the host"
        case w.Failed(reason=reason, tail=tail):
            text = f"failed: {reason}" + (f"; its log ends: {tail.splitlines()[-1]}" if tail else "")
        case w.Interrupted(attempt=n, reason=reason):
            text = f"attempt {n} was interrupted: {reason}"
        case w.Completed(files=files, bytes=size):
            text = f"completed: {files} results, {megabytes(size)}, every byte verified here"
        case w.Gone():
            text = "its source folder is gone"
        case w.Back():
            text = "its source folder is back"
        case _:
            text = type(event).__name__.lower()
    return f"{case.id} {printable(case.path)}: {text}" if case else text


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"  # noqa: PLR2004


def printable(text: str) -> str:
    """Text with what a terminal would obey or cannot show as \\xNN."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def row(case: w.Case, notes: Mapping[str, Any]) -> dict[str, Any]:
    """A case under COLUMNS. notes: what the last looks left: waits and progress by key, deletable."""
    waits, progress = notes.get("waits", {}), notes.get("progress", {})
    reason = case.reason or waits.get(case.key, "")
    if case.status == w.RUNNING and case.missing:
        reason = "no sign of life in the last look"
    return {
        "case_id": case.id,
        "case_path": printable(case.path),
        "status": case.status,
        "progress": "100%" if case.status == w.COMPLETED else progress.get(case.key, [""])[0] if case.status == w.RUNNING else "",
        "pueue_group": case.group,
        "pueue_task_id": case.task,
        "submitted_at": time(case.submitted),
        "status_updated_at": time(case.since),
        "attempt": case.attempt,
        "reason": reason,
        "category": case.category,
        "next": following(case),
        "priority": 0,
        "host": case.host,
        "completed_at": time(case.completed),
        "stale": case.stale or False,
    }


def following(case: w.Case) -> str:
    """What happens next, and who does it."""
    log = f"cases/{case.key}/attempt-{case.attempt}/job.log"
    return {
        w.HELD: "mend its folder in the inbox, the next mqi-scan looks again",
        w.FOUND: "mqi-push",
        w.PUSHED: "mqi-submit",
        w.SUBMITTED: "mqi-submit revokes it" if case.missing or case.pending else "the queue starts it, mqi-poll sees it",
        w.RUNNING: "mqi-poll",
        w.COMPUTED: "mqi-fetch",
        w.FAILED: f"a person reads {log} below the root on {case.host}",
    }.get(case.status, "")


def time(at: datetime | None) -> str:
    return stamp(at) if at else ""


def comma_separated(rows: list[dict[str, Any]]) -> str:
    """RFC 4180, everything quoted; a leading formula character gets an apostrophe."""
    import csv  # noqa: PLC0415
    import io  # noqa: PLC0415

    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for cells in rows:
        texts = ["" if cells[name] is False else str(cells[name]) for name in COLUMNS]
        writer.writerow(["'" + text if text.startswith(FORMULA) else text for text in texts])
    return out.getvalue()
