"""notify.command is run when a person is needed: each thing once, not more often than the site wants, and without a name.

What the program did not take, or what came too soon after the last message, is told with the next one.
"""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure import codec, tables
from mqi_scripts.telling import changes, redact
from mqi_scripts.telling.silence import Silence
from mqi_scripts.world import lock
from mqi_scripts.world.config import Notify, Site
from mqi_scripts.world.ledger import Ledger
from mqi_scripts.world.run import run

CURSOR = "notify"  # the name that --changes --as would use
SECONDS = 50.0  # that the program may take
MOST = 50  # lines of one kind in a message
DAMAGED = Silence("the ledger is damaged: mqi-ledger verify", True)

# What there is to tell. cases: a line each, of those that began to need a person; silent: what did not happen, and what of it
# was told before (by `subject`); failed: runs that failed.
Needs = NamedTuple("Needs", [
    ("cases", Sequence[str]), ("silent", Sequence[Silence]), ("told", Sequence[str]), ("failed", Sequence[str]),
])  # fmt: skip


def tell(site: Site, book: Ledger, silent: Sequence[Silence], failed: str, *, dry: bool) -> str:
    """Run the program if somebody is to be told. What was done, in a sentence, "" if nothing was to do. dry: only say what.

    failed: a run that failed, in a sentence. Raises Configuration if the program did not take the text; nothing is lost then.
    """
    with lock.held(os.path.join(book.folder, "run.mqi-notify"), SECONDS):
        now, kept = datetime.now(UTC), changes.kept(book, CURSOR)
        known = [*kept.get("failed", ()), *filter(None, [failed])][-MOST:]
        needs = Needs([], [one for one in silent if one.person], kept.get("silent", ()), known)
        head = w.Head(*kept.get("head") or [0, ""])
        try:
            new, head, _ = changes.since(book, CURSOR, now)
            needs = needs._replace(cases=lines(new, book.cases()))
        except w.Damaged:
            needs = needs._replace(silent=[DAMAGED, *needs.silent])
        still = [name for name in map(subject, needs.silent) if name in needs.told]
        kept |= {"silent": still, "failed": known}
        if dry:
            return f"would tell: {text(site.name, needs)}" if is_due(needs) else ""
        _keep(book, kept)  # what is over can begin again; a run that failed is told some time
        if not is_due(needs):
            return ""
        if (rest := wait(kept.get("at", ""), site.notify, now)) > 0:
            return f"somebody is to be told, in {rest:.0f} s (notify.most_every)"
        send(site.notify.command, text(site.name, needs))
        _keep(book, {"head": [*head], "at": codec.stamp(now), "silent": [*map(subject, needs.silent)], "failed": []})
        return "somebody was told"


def lines(new: Sequence[tuple[dict[str, Any], w.Event, w.Case | None]], cases: Mapping[str, w.Case]) -> list[str]:
    """Of what is new, where a case began to need a person, and still does; the newest of each."""
    found = dict[str, str]()
    for record, event, case in new:
        if not case or isinstance(event, w.Salvaged | w.Noted | w.Prioritized):  # they tell less than what was before them
            continue
        if changes.needs_person(case) and changes.needs_person(cases[case.key]):
            found.pop(case.key, None)
            found[case.key] = redact.change(record, case)
    return list(found.values())


def subject(one: Silence) -> str:
    """What a silence is about, however long it lasts by now."""
    return re.split(r"[:,;]", one.text)[0]


def is_due(needs: Needs) -> bool:
    return bool(needs.cases or needs.failed or any(subject(one) not in needs.told for one in needs.silent))


def wait(last: str, rules: Notify, now: datetime) -> float:
    """Seconds until the next message may go; a clock that was set back holds nobody up for longer than the rule says."""
    since = (now - datetime.fromisoformat(last)).total_seconds() if last else rules.most_every
    return rules.most_every - since if since >= 0 else 0.0


def text(site: str, needs: Needs) -> str:
    """The message: what it is about in its first line, and at the end where to read on."""
    parts = (needs.cases, [one.text for one in needs.silent], needs.failed)
    count = sum(map(len, parts))
    head = f"{site}: {count} things need a person" if count > 1 else f"{site}: a thing needs a person"
    body = [line for some in parts for line in (*some[:MOST], *([f"and {len(some) - MOST} more"] if some[MOST:] else []))]
    return "\n".join([head, "", *body, "", f"on {os.uname().nodename}: mqi-report --needs-me, and mqi-case explain", ""])


def send(command: Sequence[str], message: str) -> None:
    """Raises Configuration with what the program said if it did not take the text."""
    fix = "nothing is lost; mend it, then: mqi-check --notify"
    try:
        ran = run(command, seconds=SECONDS, stdin=message.encode())
    except OSError as error:
        raise w.Configuration(f"notify.command {command[0]}: {error.strerror}: {fix}") from None
    if ran.code or ran.ended:
        ended = "it did not end within its time" if ran.ended else f"it ended with {ran.code}"
        said = tables.printable(ran.err.decode("utf-8", "replace").strip()[-300:])
        raise w.Configuration(f"notify.command {command[0]}: {ended}. It said: {said or '(nothing)'}: {fix}")


def _keep(book: Ledger, kept: Mapping[str, Any]) -> None:
    if kept != changes.kept(book, CURSOR):
        changes.keep(book, CURSOR, kept)
