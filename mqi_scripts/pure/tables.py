"""Cases and events as text: one sentence an event, one row a case. Nothing here reads a clock or prints."""

from collections.abc import Mapping
from typing import Any

from mqi_scripts import words as w

COLUMNS = ("case_id", "case_path", "status", "progress", "pueue_group", "pueue_task_id", "submitted_at", "status_updated_at",
           "attempt", "reason", "category", "next", "priority", "host", "completed_at", "stale")  # fmt: skip
SENTENCES: dict[type, str] = {
    w.Found: "found, {e.files} files, {size}",
    w.Held: "held: {reasons}",
    w.Released: "found, {e.files} files, {size}: {e.why}",
    w.Changed: "its content changed, it is found anew: {e.what}",
    w.Chosen: "{e.who} chose {parts}: {e.reason}",
    w.Stale: "new data after its job began (the result stays, marked stale): {e.what}",
    w.Gone: "its source folder is gone",
    w.Back: "its source folder is back",
    w.Pushed: "pushed to {e.host}, every byte verified there",
    w.Submitting: "attempt {e.attempt} is being submitted to {e.group} of {e.host}",
    w.Submitted: "attempt {e.attempt} is in the queue, task {task} of {group}",
    w.Missing: "attempt {e.attempt} shows no sign of life; a second look decides",
    w.Revoked: "attempt {e.attempt} never began and is revoked; a new one follows",
    w.Started: "attempt {e.attempt} runs on {e.group}, slot {e.slot}",
    w.Succeeded: "attempt {e.attempt} computed; its results are still on the host",
    w.Failed: "failed: {e.reason}{log}",
    w.Salvaged: "{e.files} results of the failed attempt brought, {size}, marked as partial",
    w.Recovered: "attempt {e.attempt}, made on {e.host}, is in the ledger again",
    w.Interrupted: "attempt {e.attempt} was interrupted: {e.reason}",
    w.Cancelled: "attempt {e.attempt} was cancelled, its job is gone",
    w.Completed: "completed: {e.files} results, {size}, every byte verified here",
}
NEXT = {
    w.HELD: "mend its folder in the inbox, the next mqi-scan looks again",
    w.FOUND: "mqi-push",
    w.PUSHED: "mqi-submit",
    w.SUBMITTED: "the queue starts it, mqi-poll sees it",
    w.RUNNING: "mqi-poll",
    w.COMPUTED: "mqi-fetch",
    w.FAILED: "a person reads cases/{c.key}/attempt-{c.attempt}/job.log below the root on {c.host}{retry}",
}


def sentence(event: Any, case: w.Case | None) -> str:
    """What happened, for a person; the case by id and path."""
    text = SENTENCES.get(type(event), type(event).__name__.lower()).format(
        e=event, size=megabytes(getattr(event, "bytes", 0)), reasons="; ".join(r.text for r in getattr(event, "reasons", ())),
        parts=", ".join(getattr(event, "parts", ())), task=getattr(event, "task", "") or "unknown",
        group=getattr(event, "group", "") or (case.group if case else ""),
        log="".join(f"; its log ends: {line}" for line in getattr(event, "tail", "").splitlines()[-1:]),
    )  # fmt: skip
    return f"{case.id} {printable(case.path)}: {text}" if case else text


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"  # noqa: PLR2004


def printable(text: str) -> str:
    """Text with what a terminal would obey or cannot show as \\xNN."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def row(case: w.Case, notes: Mapping[str, Any]) -> dict[str, Any]:
    """A case under COLUMNS. notes: what the last looks left: waits and progress by key, deletable."""
    runs, (status, why, category) = case.status == w.RUNNING, notes.get("waits", {}).get(case.key, ("", "", ""))
    if status != case.status or status in w.PERSON:
        why, category = case.reason, case.category
    percent = notes.get("progress", {}).get(case.key, [""])[0] if runs else ""
    retry = "; the same once more can help" if case.retry else "; the same once more would fail again"
    blocked = case.status == w.SUBMITTED and (case.missing or case.pending)
    cells = (
        case.id, printable(case.path), case.status, "100%" if case.status == w.COMPLETED else percent, case.group, case.task,
        case.submitted, case.since, case.attempt, "no sign of life in the last look" if runs and case.missing else why,
        category, "mqi-submit revokes it" if blocked else NEXT.get(case.status, "").format(c=case, retry=retry), 0, case.host,
        case.completed, case.stale or False,
    )  # fmt: skip
    return dict(zip(COLUMNS, cells, strict=True))


def comma_separated(rows: list[dict[str, Any]]) -> str:
    """RFC 4180, everything quoted; a leading formula character gets an apostrophe."""
    import csv  # noqa: PLC0415
    import io  # noqa: PLC0415

    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for cells in rows:
        texts = ["" if cells[name] is False else str(cells[name]) for name in COLUMNS]
        writer.writerow(["'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text for text in texts])
    return out.getvalue()
