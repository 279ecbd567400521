"""Events as text, one sentence each. Nothing here reads a clock or prints."""

from typing import Any

from mqi_scripts import words as w

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
    w.Revoked: "attempt {e.attempt} never began and is revoked: it can never start{done}",
    w.Started: "attempt {e.attempt} runs on {group}{slot}",
    w.Succeeded: "attempt {e.attempt} computed; its results are still on the host",
    w.Failed: "failed: {e.reason}{log}",
    w.Salvaged: "{e.files} results of the failed attempt brought, {size}, marked as partial",
    w.Recovered: "attempt {e.attempt}, made on {e.host}, is in the ledger again",
    w.Interrupted: "attempt {e.attempt} was interrupted: {e.reason}",
    w.Cancelled: "attempt {e.attempt} was cancelled, its job is gone",
    w.Asked: "{e.who} asked to {e.what} it: {e.reason}{done}",
    w.Lifted: "{e.who} released it: {e.reason}",
    w.Retried: "{e.who} wants a new attempt{gone}: {e.reason}",
    w.Noted: "{e.who} notes: {e.reason}",
    w.Reopened: "{e.who} lets cases go to group {e.group} of {e.host} again: {e.reason}",
    w.Completed: "completed: {e.files} results, {size}, every byte verified here",
    w.Cleaned: "its input and output are not on {e.host} any more, {size} were removed",
    w.Prioritized: "priority {e.priority}: {e.reason}",
}


def sentence(event: Any, case: w.Case | None) -> str:
    """What happened, for a person; the case by id and path."""
    text = happened(event, case)
    return f"{case.id} {printable(case.path)}: {text}" if case else text


def happened(event: Any, case: w.Case | None) -> str:
    """The event alone; case: as it stands behind it."""
    return SENTENCES.get(type(event), type(event).__name__.lower()).format(
        e=event, size=megabytes(getattr(event, "bytes", 0)), reasons="; ".join(r.text for r in getattr(event, "reasons", ())),
        parts=", ".join(getattr(event, "parts", ())), slot=getattr(event, "slot", "") and f", slot {event.slot}",
        group=getattr(event, "group", "") or (case.group if case else ""), task=getattr(event, "task", "") or "unknown",
        done=f"; it is {case.status}" if case and case.status in (w.CANCELLED, w.HELD) else "",
        gone="; its host is gone for ever, whatever runs there is given up" if getattr(event, "host_is_gone", False) else "",
        log="".join(f"; its log ends: {line}" for line in getattr(event, "tail", "").splitlines()[-1:]),
    )  # fmt: skip


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"  # noqa: PLR2004


def printable(text: str) -> str:
    """Text with what a terminal would obey or cannot show as \\xNN."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
