"""Telling a ledger anew what it lost: every case, attempt and verdict that hosts and results can prove, and nothing else."""

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence

from mqi_scripts import words as w
from mqi_scripts.care import evidence, verify
from mqi_scripts.care.recover import Learned, recover
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, tables
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world import files, folder

UNREAD = "its content could not be read again when the ledger was rebuilt, so nobody knows what its results should hold"
NEVER = (
    "Nothing outside a ledger proves a person's decisions and notes, what was held and why, or that a case was cancelled before "
    "it began: look at mqi-report before the timers start again."
)


def rebuild(run: cli.Run, reason: str, ledger: str = "", *, accept_empty: bool = False, always: bool = True) -> int:
    """With the locks of all scripts: ask, record, leave the new head in each root. Safe to be killed and run again.

    ledger: the id to go on with where another ledger was begun meanwhile. always: record that it was done, whatever it found.
    Returns the exit code: 1 if a person has to look at what could not be recovered.
    """
    roots, none = evidence.ask(run.site)
    before = verify.read(run.book, [root.head for root in roots])
    if before.trouble:
        raise w.Damaged(f"{before.trouble[0]}. First: mqi-ledger repair --reason ...")
    if not accept_empty:
        _mounted(run, before, none)
    before = _identify(run, before, roots, ledger)
    gone = [root for root in roots if root.head in before.strange or not before.lines]
    learned = learn(run, before, roots, [root for root in gone if not run.args.dry_run])
    events = _events(run, before, roots, gone, learned, reason)
    if not run.args.dry_run:
        forget(run.book.folder)
    if always or gone or any(event.case for event in events):
        _record(run, before, events)
    if not run.args.dry_run:
        lost = {one for one, _ in verify.manifests(run.book.folder, verify.read(run.book).manifests)}
        lost |= {(case.key, case.digest) for case in run.book.state().open.values() if _lacks(run, case)}
        for root in roots:
            _leave(run, root, lost, learned)
    return _conclude(run, before, events, learned, bool(gone))


def _mounted(run: cli.Run, before: verify.Story, none: Mapping[str, str]) -> None:
    """Raises Unreachable where a root or the results were used, or may have been, and lack their mark."""
    for name, why in none.items():
        if name in before.roots or not before.lines:
            raise w.Unreachable(why)
    fetched = not before.lines or any(case.status == w.COMPLETED or case.salvaged for case in before.cases.values())
    if fetched and not evidence.owner_of_results(run.site):
        raise w.Unreachable(
            f"{run.site.results} lacks the mark that the first fetch left there: a lost mount? Mount it; if nothing was ever "
            "fetched, or it is a new folder on purpose: mqi-ledger rebuild --accept-empty"
        )


def _identify(run: cli.Run, before: verify.Story, roots: Sequence[evidence.Root], ledger: str) -> verify.Story:
    """The story, with the id that it goes on with. Raises Damaged where that is not certain."""
    owners = sorted({root.owner for root in roots})
    if len(owners) > 1:
        raise w.Damaged(f"the roots of this site belong to several ledgers, {', '.join(owners)}: take the foreign hosts out")
    theirs = owners[0] if owners else before.id or evidence.owner_of_results(run.site)
    if not theirs:
        raise w.Damaged("no root and no results folder tells which ledger this was: nothing to rebuild, mqi-scan begins a new one")
    if before.lines and theirs != before.id:
        if before.roots or ledger != theirs:
            hint = f". If that was this gateway's ledger before it was lost: mqi-ledger rebuild --ledger {theirs} --reason ..."
            text = f"the roots belong to ledger {theirs}, this one is {before.id}: two gateways need two roots"
            raise w.Damaged(text if before.roots else text + hint)
        for name in run.book.files() if not run.args.dry_run else []:
            path, aside = os.path.join(run.book.folder, name), f"{name}.aside-{before.head.digest[:16]}"
            os.rename(path, os.path.join(run.book.folder, aside))
            run.say(f"{name}, which was begun meanwhile, is set aside as {aside}")
        before = before._replace(cases={}, head=codec.START, lines=0)
    return before._replace(id=theirs)


def learn(run: cli.Run, before: verify.Story, roots: Sequence[evidence.Root], hold: Collection[evidence.Root]) -> Learned:
    """Ask everything that can tell. hold: roots in which nothing else may work until it is recorded."""
    learned, there, told = Learned({}, {}, {}, {}, {}, set(), [], []), dict[str, list[str]](), dict[str, list[evidence.Proof]]()
    for root in roots:
        found = evidence.survey(root, before.id, hold=root in hold)
        for key, number, look in evidence.look(root, found):
            other = learned.seen.setdefault(key, {}).setdefault(number, (root.host.name, look))[0]
            if other != root.host.name:
                learned.wrong.append(f"{key[: w.ID]}: both {other} and {root.host.name} have an attempt {number}; the first counts")
        for key, numbers in found.items():
            what = f"attempts {', '.join(map(str, sorted(numbers)))}" if numbers else "its input"
            there.setdefault(key, []).append(f"{root.host.name}: {what}")
    for proof in evidence.proofs(run.site, before.id):
        told.setdefault(proof.key, []).append(proof)
    named = {proof.path for some in told.values() for proof in some} | {case.path for case in before.cases.values()}
    learned.paths.update(evidence.paths(run.site, before.id, {*there, *told}, named))
    inbox = set(evidence.candidates(run.site))
    learned.sourceless.update(key for key, path in learned.paths.items() if inbox and evidence.above(run.site, path) not in inbox)
    learned.unknown.extend(f"{key[: w.ID]} ({'; '.join(where)})" for key, where in there.items() if key not in learned.paths)
    _verify(run, [proof for some in told.values() for proof in some], before.cases, learned)
    _read(run, before, learned)
    return learned


def _verify(run: cli.Run, told: list[evidence.Proof], cases: Mapping[str, w.Case], learned: Learned) -> None:
    """Read every byte of the results that the ledger does not call completed, or salvaged, already."""
    due = []
    for proof in sorted(told, key=lambda proof: not proof.complete):
        case = cases.get(proof.key)
        told_of = case and case.attempt == proof.attempt and (case.status == w.COMPLETED or case.salvaged)
        if not case or (case.attempt <= proof.attempt and not told_of):
            due.append(proof)
    if due:
        run.say(f"reading {len(due)} results, {sum(proof.bytes for proof in due) / 1e6:.0f} MB, to verify them")
    for proof in due:
        if proof.attempt not in learned.proofs.get(proof.key, {}):  # what was replaced by the same has the same record
            if fault := proof.fault():
                learned.wrong.append(f"{proof.key[: w.ID]}: {fault}")
            else:
                learned.proofs.setdefault(proof.key, {})[proof.attempt] = proof


def _read(run: cli.Run, before: verify.Story, learned: Learned) -> None:
    """The contents that the inbox has now of the cases whose newest attempt still has to be judged."""
    due = set()
    for key, numbers in learned.seen.items():
        proof = learned.proofs.get(key, {}).get(max(numbers))
        known = key in before.cases and before.cases[key].attempt >= max(numbers)
        if key in learned.paths and not known and not (proof and proof.complete):
            due.add(evidence.above(run.site, learned.paths[key]))
    for path in sorted(due):
        for key, (digest, facts, text) in evidence.contents(run.site, before.id, path, learned.paths).items():
            learned.facts[key, digest], learned.texts[key, digest] = facts, text


def _events(
    run: cli.Run, before: verify.Story, roots: Sequence[evidence.Root], gone: Sequence[evidence.Root], learned: Learned, reason: str
) -> list[w.Event]:
    """What there is to record. The ledger goes on above each line that a root was shown and that is gone."""
    now, rules = run.now(), decide.Rules(run.site.retry.interrupted, run.site.job.time_limit)
    events: list[w.Event] = [] if before.lines else [w.Opened("", now, before.id)]
    above = before.head.seq + len(events)
    for root in sorted(gone, key=lambda root: root.head.seq):
        digest = root.head.digest.removeprefix(evidence.REBUILDING)
        if root.head.seq > above and len(digest) == len(codec.START.digest):
            why = f"{root.host.name} was shown line {root.head.seq}; rebuild: {reason}"
            events.append(w.Lost("", now, root.head.seq, digest, why))
            above = root.head.seq
        events.append(w.Repaired("", now, f"rebuild: {reason}", digest, before.head.digest))
        above += 1
    if not gone:
        events.append(w.Repaired("", now, f"rebuild: {reason}", "", before.head.digest))
    events += [w.Rooted("", now, root.host.name, root.host.config.root) for root in roots if root.host.name not in before.roots]
    unread = {"profile": "files", "remarks": [UNREAD]} if run.site.scan.profile != "files" else {}
    for key, path in sorted(learned.paths.items(), key=lambda item: item[1]):
        events += recover(key, path, evidence.part(run.site, path), before.cases.get(key), learned, unread, rules, now)
    return events


def _record(run: cli.Run, before: verify.Story, events: list[w.Event]) -> None:
    """Append all at once; say what was told of each case."""
    if not run.args.dry_run:
        events = run.book.append(events, run.now())
        while run.book.refused:
            run.say(f"left alone, somebody else was quicker: {run.book.refused.pop()}")
    cases = dict(before.cases)
    for event in events:
        if event.case:
            cases[event.case] = evolve(cases.get(event.case), event)
            would = "would record: " if run.args.dry_run else ""
            sys.stdout.write(f"{would}{tables.sentence(event, cases[event.case])}\n")


def _lacks(run: cli.Run, case: w.Case) -> bool:
    """Whether its manifest is missing here; what is held for its shape has none."""
    known = re.fullmatch(verify.DIGEST, case.digest)
    return bool(known) and not os.path.exists(folder.manifest_file(run.site.state, case.key, case.digest))


def _leave(run: cli.Run, root: evidence.Root, lost: set[tuple[str, str]], learned: Learned) -> None:
    """The new head for a root; and manifests that are lost here, (case, digest), from the inbox or from there."""
    known = lost & learned.texts.keys()
    sent = list(evidence.settle(root, run.book.state().head, sorted(lost - known)))
    for key, digest, text in (*((*one, learned.texts[one]) for one in known), *sent):
        files.write_whole(folder.manifest_file(run.site.state, key, digest), text)
        lost.discard((key, digest))


def _conclude(run: cli.Run, before: verify.Story, events: Sequence[w.Event], learned: Learned, lossy: bool) -> int:
    """Say what could be recovered, and what could not."""
    recovered = [event for event in events if isinstance(event, w.Recovered)]
    keys = {event.case for event in events if event.case}
    out = [f"{len(recovered)} attempts recovered, the story of {len(keys)} cases told on"]
    if not keys:
        out = ["the ledger has all that the hosts and the results can prove"]
    out += [f"NOT recovered: {text}: nothing names its path; what runs of it is left alone" for text in learned.unknown]
    out += [f"NOT clear: {text}" for text in learned.wrong]
    unread = [event for event in recovered if UNREAD in event.facts.get("remarks", ())]
    out += [f"NOT known: {event.case[: w.ID]} {event.path}: {UNREAD}; that will stand in its result's record" for event in unread]
    names = {host.name for host in run.site.hosts}
    left = [case for case in before.cases.values() if case.host and case.host not in names and case.open]
    out += [f"NOT asked: hosts.{case.host}, which left the configuration, for {case.id}" for case in left]
    out += [NEVER] if lossy else []
    if not run.args.dry_run:
        head = run.book.state().head
        out.append(f"ledger at line {head.seq}, digest {head.digest}")
    sys.stdout.write("\n".join(map(tables.printable, out)) + "\n")
    return int(bool(learned.unknown or learned.wrong or unread or left))


def forget(state: str) -> None:
    """Delete what remembers lines that are gone: the fold, the scan's memory, the head that reports showed. Nothing is lost."""
    for name in ("cache/fold", "cache/scan", "health/mqi-report.json"):
        if os.path.exists(path := os.path.join(state, name)):
            os.unlink(path)
