"""Why cases do not move: from the ledger and the notes alone; with --look, also from what the world says now."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.checks import compute
from mqi_scripts.frame import cli
from mqi_scripts.operator import asked, health, notes, story
from mqi_scripts.pure import explain as sentences
from mqi_scripts.pure import looked, place
from mqi_scripts.pure.tables import megabytes, printable
from mqi_scripts.world import folder
from mqi_scripts.world.host import NOBODY, hosts

LINES = 3  # of a failed job's log that are shown
Holders = dict[str, Sequence[Sequence[str]]]  # by host, what mqi-remote's check says of locks that are held


def explain(run: cli.Run) -> None:
    """Why they stand where they stand, what happens next and when, what helps; without CASE: of everything that does not move."""
    every = run.book.cases()
    known, now = notes(health(run.site), run.book.state().runs), run.now()
    still = (case for case in every.values() if sentences.is_still(case, known, now))
    cases = asked(run) if run.args.case else sorted(still, key=lambda case: (case.found, case.path))
    looks, holders = dict[str, w.Look | w.Failure](), Holders()
    if run.args.look and cases:
        looks = look(run, cases)
        holders = slots(run, cases, looks)
        known = known._replace(waits={**known.waits, **waits(run, cases, looks, known)})
    failed = story.told(run, {case.key for case in cases if case.status == w.FAILED}) if run.args.case else {}
    late = sentences.late_step("mqi-poll", known, now)
    for case in cases:
        plain = looked.over(case, looks.get(case.host), sentences.explain(case, known, now), late)
        for host in run.site.hosts:
            if host.name == case.host:
                plain = plain._replace(why=compute.typed(host, plain.why), helps=compute.typed(host, plain.helps))
        seen = [*last_words(failed.get(case.key, ())), *(world(run, case, looks, known, holders, every) if run.args.look else ())]
        run.code = max(run.code, int(plain.person))
        if run.args.jsonl:
            sys.stdout.write(json.dumps(record(case, plain, seen)) + "\n")
        else:
            sys.stdout.write("\n".join(told(case, plain, seen, now)) + "\n")
    if not cases and not run.args.jsonl and not run.args.case:
        sys.stdout.write(f"nothing stands still, {len(every)} cases in the ledger\n")


def told(case: w.Case, plain: sentences.Plain, seen: list[tuple[str, str]], now: str) -> Iterator[str]:
    """One case, for a person."""
    needs = ", needs a person" if plain.person else ""
    yield f"{case.id}  {printable(case.path)}  {case.status} for {sentences.ago(case.since, now)}{needs}"
    for word, text in (("why", plain.why), ("next", plain.next), ("helps", plain.helps), *seen):
        if text:
            yield f"  {word:8} {printable(text)}"


def record(case: w.Case, plain: sentences.Plain, seen: list[tuple[str, str]]) -> dict[str, Any]:
    return {"case_id": case.id, "case_path": printable(case.path), "status": case.status, "since": case.since, **plain._asdict(),
            "seen": dict(seen)}  # fmt: skip


def last_words(told: Sequence[tuple[dict[str, Any], w.Case]]) -> Iterator[tuple[str, str]]:
    """The last lines of the log of an attempt that failed, as the ledger has them."""
    logs = [record["tail"] for record, _ in told if record["type"] == "failed"]
    yield from (("log", line) for line in (logs or [""])[-1].splitlines()[-LINES:])


def look(run: cli.Run, cases: list[w.Case]) -> dict[str, w.Look | w.Failure]:
    """One session a host, whatever the number of cases: what it shows, or why it does not. None where we never were."""
    looks = dict[str, w.Look | w.Failure]()
    for host in hosts(run.site, run.book):
        mine = [(case.key, case.attempt) for case in cases if case.host == host.name and case.attempt]
        if not host.used and not any(case.host == host.name for case in cases):
            continue
        try:
            looks[host.name] = host.look(mine)
        except w.Failure as error:
            looks[host.name] = error
    return looks


def waits(
    run: cli.Run, cases: list[w.Case], looks: dict[str, w.Look | w.Failure], known: sentences.Notes
) -> dict[str, tuple[str, ...]]:
    """Why each waits, by what its host says now; this takes the place of what the last runs noted."""
    groups, found = {host.name: host.groups for host in run.site.hosts}, dict[str, tuple[str, ...]]()
    failed, jobs, limits = run.book.state().failed, run.site.breaker.jobs, run.site.job.groups
    for case in cases:
        seen = looks.get(case.host)
        if isinstance(seen, w.Failure):
            status, _, category, until = sentences.noted(case, known)
            same = (status, category) == (case.status, seen.category)  # else the next try waits for something else
            found[case.key] = (case.status, str(seen), seen.category, until if same else "")
        elif seen and case.status == w.PUSHED:
            why = f"the queue of {case.host} does not answer: {seen.trouble}" if seen.trouble else ""
            bad, may = place.broken(failed, case.host, jobs), place.allowed(case.path, limits)
            why = why or place.why_none(case.host, seen.groups, groups[case.host], may, bad)
            if why or sentences.command_in(sentences.reason(case, known)[0]):  # what was noted to be mended is
                found[case.key] = (case.status, why, _category(seen))
        elif seen and case.status == w.SUBMITTED:
            found[case.key] = (case.status, place.why_waiting(case, seen, case.host), _category(seen))
        elif case.host and seen is None and case.status not in w.CLOSED:
            found[case.key] = (case.status, f"hosts.{case.host} left the configuration: put it back", w.Configuration.category)
    return found


def _category(seen: w.Look) -> str:
    return w.Unreachable.category if seen.trouble else ""


def slots(run: cli.Run, cases: list[w.Case], looks: dict[str, w.Look | w.Failure]) -> Holders:
    """Who holds locks on the hosts where a wrapper of these waits for a slot: one more session for each of them."""
    found = Holders()
    for host in hosts(run.site, run.book):
        seen = looks.get(host.name)
        if isinstance(seen, w.Look) and any(looked.waits_for_slot(case, seen) for case in cases if case.host == host.name):
            with suppress(w.Failure):  # that the host answers was told by the look
                found[host.name] = host.session("check", [], NOBODY, judged=False).named("holds")
    return found


def world(
    run: cli.Run, case: w.Case, looks: dict[str, w.Look | w.Failure], known: sentences.Notes, holders: Holders,
    every: dict[str, w.Case],
) -> Iterator[tuple[str, str]]:
    """What the world says of one case now, as (thing, sentence)."""
    yield "source", source(run, case)
    for name in [case.host] if case.host else looks:
        seen = looks.get(name)
        if not isinstance(seen, w.Look):
            yield "host", f"{seen}" if seen else f"{name} is not in the configuration"
            continue
        yield "host", f"{name} answers" + "".join(f"; {text}" for text in seen.notes)
        yield from looked.seen(case, seen, known, every)
        if looked.waits_for_slot(case, seen):
            yield "slot", compute.slot(case, holders.get(name, ()), every)


def source(run: cli.Run, case: w.Case) -> str:
    """Its folder in the inbox, as it is now."""
    path = os.path.join(run.site.inbox, case.folder)
    try:
        there = folder.look_at(run.site, case.folder, [case.part] if case.part else ())
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    wrong = "".join(f"; {reason.text}" for reason in there.reasons[:3])
    return f"{path}: {len(there.sizes)} files, {megabytes(sum(there.sizes.values()))}{wrong}"
