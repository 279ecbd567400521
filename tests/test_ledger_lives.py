"""Thousands of faulty lives in which the ledger loses its end, or all of it, and is told anew from what the world can prove."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import sim

from mqi_scripts import words as w
from mqi_scripts.care import evidence
from mqi_scripts.care.recover import Learned, recover
from mqi_scripts.pure import codec, decide
from mqi_scripts.pure.evolve import evolve


def life(seed: int) -> Counter:
    """One life with a loss in its middle: what the ledger was told anew. Raises sim.Broken with its story."""
    chance, told = random.Random(seed), Counter()
    world = sim.World(sim.Life(chance.randint(1, 4), chance.choice(sim.PACES), ()))
    world.chance = chance
    try:
        live(world, world.chance.randint(10, 60))
        told += lose(world)
        live(world, world.chance.randint(0, 30))
        sim.calm(world)
        told += tell_anew(world, [*world.sources])  # what had no path: now the scan has seen it, and the hosts are asked again
        sim.calm(world)
        sim.judge(world)
    except sim.Broken as error:
        error.story = world.story
        raise
    return told


def live(world: sim.World, steps: int) -> None:
    for _ in range(steps):
        roll = world.chance.random()
        if roll < 0.12:
            world.trouble()
        elif roll < 0.2:
            world.heal()
        elif roll < 0.55:
            world.step()
        else:
            try:
                sim.tick(world, world.chance.choice(sim.SCRIPTS))
            except sim.Crash:
                continue


def lose(world: sim.World) -> Counter:
    """The ledger is an older copy of itself, or nothing. A case in five has no path any more."""
    book = world.book
    world.results = {
        (record["case"], record["attempt"]): record["digest"] for record in book.log if record["type"] == "completed"
    }
    kept = world.chance.choice((0, world.chance.randint(0, len(book.log))))
    world.tell(f"== the ledger loses {len(book.log) - kept} of {len(book.log)} lines")
    book.log = book.log[:kept]
    book.acknowledged, book.all = list(book.log), {}
    for record in book.log:
        event = codec.from_dict(record)
        book.all[event.case] = evolve(book.all.get(event.case), event)
    return tell_anew(world, [key for key in world.sources if world.chance.random() < 0.8 or key in book.all])


def tell_anew(world: sim.World, keys: list[str]) -> Counter:
    """What care.rebuild does, with the world's attempts and results."""
    world.full_here, world.outage = False, 0  # who tells it anew sees to that first
    was, world.faulty, world.nested = world.faulty, False, True
    look, seen, proofs = sim.Host(world).look(list(world.attempts)), {}, {}
    for key, number in world.attempts:
        seen.setdefault(key, {})[number] = ("far", look)
    for (key, number), output in getattr(world, "results", {}).items():
        digest = world.attempts[key, number].digest
        proofs.setdefault(key, {})[number] = evidence.Proof(key, key, number, "far", "gpu0", digest, output, "", "", world.now(), 0, True, "", {}, (), 1)
    learned, told = Learned(seen, proofs, {}, {}, {}, set(), [], []), Counter()
    for key in keys:
        case = world.book.all.get(key)
        events = recover(key, key, "", case, learned, {}, decide.Rules(3, 1e6), world.now())
        for event in events:
            attempt = world.attempts.get((key, getattr(event, "attempt", 0)))
            if isinstance(event, w.Completed) and (attempt.result.get("exit") != "0" or attempt.result["manifest"] != event.digest):
                raise sim.Broken("completed with true bytes", key)
            if isinstance(event, w.Recovered) and (not attempt or attempt.digest not in (event.digest, "")):
                raise sim.Broken("what is recovered is there", key)
        world.book.refused.clear()
        world.book.append(events)
        if world.book.refused:
            raise sim.Broken("what is told can be told", f"{world.book.refused}")
        told.update(type(event).__name__.lower() for event in events)
    world.faulty, world.nested = was, False
    return told


def test_what_is_told_anew_lets_every_life_go_on() -> None:
    """The laws of tests/sim.py hold in two thousand lives; together they told everything that can be told."""
    told = Counter()
    for seed in range(2000):
        try:
            told += life(seed)
        except sim.Broken as error:
            pytest.fail("\n".join([*error.story, f"LAW {error.law}", f"seed {seed}: {error}"]))
    assert {"recovered", "started", "succeeded", "completed", "revoked", "interrupted", "missing", "failed", "held"} <= set(told), told
