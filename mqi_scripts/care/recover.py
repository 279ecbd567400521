"""What a ledger lacks of one case, by what hosts and results prove: deciding only, over values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.care.evidence import Proof
from mqi_scripts.pure import decide
from mqi_scripts.pure.evolve import evolve

UNSEEN = w.Look({}, None, (), "", ())


class Learned(NamedTuple):
    """What the world tells. seen: by key and attempt, the host's name and the look that shows it. facts, texts: of the contents
    that the inbox has now, by key and digest: what their profile tells, and their manifests. sourceless: keys whose folder is
    surely not in the inbox any more. unknown: keys without a path, and wrong: what does not fit together, as sentences."""

    seen: dict[str, dict[int, tuple[str, w.Look]]]
    proofs: dict[str, dict[int, Proof]]
    paths: dict[str, str]
    facts: dict[tuple[str, str], Mapping[str, Any]]
    texts: dict[tuple[str, str], bytes]
    sourceless: set[str]
    unknown: list[str]
    wrong: list[str]


def recover(
    key: str, path: str, part: str, case: w.Case | None, learned: Learned, unread: Mapping[str, Any], rules: decide.Rules, now: str
) -> list[w.Event]:
    """What the ledger lacks of one case, attempt by attempt, as it can be told. unread: facts of a content that is not there."""
    seen, proofs, events = learned.seen.get(key, {}), learned.proofs.get(key, {}), list[w.Event]()

    def tell(*more: w.Event) -> None:
        nonlocal case
        for event in more:
            try:
                case = evolve(case, event)
            except w.Illegal:
                return
            events.append(event)

    for number in sorted({*seen, *proofs}):
        look, proof, label = _alone(seen, key, number), proofs.get(number), f"mqi1:{key}:{number}"
        trace, task = look.traces.get(label), next((task for task in look.tasks or () if task.label == label), None)
        digest = (trace.digest if trace else "") or (proof.input if proof else "")
        foreign = case is not None and case.intent and case.attempt == number and digest not in ("", case.digest)
        if case is None or number > case.attempt or foreign:
            host = seen[number][0] if number in seen else proof.host if proof else ""
            group = (trace.status.get("group", "") if trace else "") or (task.group if task else proof.group if proof else "")
            facts = learned.facts.get((key, digest), proof.facts if proof and proof.input == digest else unread)
            tell(w.Recovered(key, now, path, number, digest, host, group, part, facts))
        if case is None or case.attempt != number or (number in seen and seen[number][0] != case.host):
            continue
        tell(*decide.poll(case, look, rules, now))
        if proof and proof.input == case.digest:
            tell(*_told(case, proof, now))
    again = case and case.status == w.PUSHED and (key not in learned.sourceless or not case.digest)
    if case and again and any(isinstance(event, w.Recovered) for event in events):
        text = f"attempt {case.attempt} was over without a verdict when the ledger was rebuilt; the next mqi-scan looks again"
        tell(w.Held(key, now, case.path, (w.Reason("recovered", case.host, text),)))
    return events


def _alone(seen: Mapping[int, tuple[str, w.Look]], key: str, number: int) -> w.Look:
    """The look at one attempt: the case's lock is held by the newest that has begun, not by those before it."""
    if number not in seen:
        return UNSEEN
    host, look = seen[number]
    label = f"mqi1:{key}:{number}"
    later = [other.traces.get(f"mqi1:{key}:{n}") for n, (there, other) in seen.items() if n > number and there == host]
    if label in look.traces and any(trace and trace.claim == "begun" for trace in later):
        return look._replace(traces={label: look.traces[label]._replace(held=False)})
    return look


def _told(case: w.Case, proof: Proof, now: str) -> list[w.Event]:
    """What the record of a verified result adds to a case at that attempt: all of it, where its host tells nothing."""
    key, number, size, events = case.key, case.attempt, (len(proof.sums), proof.bytes), list[w.Event]()
    failed = (proof.reason, "application", "results" if proof.exit == 0 else "computing", proof.exit, "", proof.output)
    if not case.open and case.manifest != proof.output:
        return []
    if case.open:
        events.append(w.Started(key, now, number, proof.group, "", "", proof.started))
        if proof.exit == 0:
            events.append(w.Succeeded(key, now, number, proof.output, proof.started, proof.ended))
    if proof.complete:
        return [*events, w.Completed(key, proof.fetched, number, proof.output, *size)]
    if case.status != w.FAILED:
        events.append(w.Failed(key, proof.fetched, number, *failed))
    return [*events, w.Salvaged(key, proof.fetched, number, *size)]
