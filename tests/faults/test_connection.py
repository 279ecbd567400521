"""The connection: cut, reset, stalled, swallowed or slow, either way, at any byte of any session; and a host that is another one."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import laws
import pytest
from conftest import JOB, Place, Pueued, host_text, queueing, serving
from proxy import MODES, Cut, Proxy
from scenes import FAR_SCENES, SCENES, Bench, Played, folder_of_its_own, revision

SAMPLE, WHOLE = 5, 8  # cuts of a scene in the plain command; parts of each session and direction with --faults
SCENE = {scene.name: scene for scene in SCENES}


def through(proxy: Proxy, port: int, text: str) -> str:
    """A host table that goes through the proxy, and gives up on a session after four seconds."""
    return text.replace(f"port = {port}\n", f'port = {proxy.port}\ntimeout = "4s"\n')


def cuts(proxy: Proxy, parts: int, chance: random.Random) -> list[Cut]:
    """Each mode somewhere in each part of each session and direction that the proxy has counted."""
    return [Cut(session, way, int((part + chance.random()) * size / parts), mode)
            for (session, way), size in sorted(proxy.passed.items()) for part in range(parts) for mode in MODES]  # fmt: skip


def score(name: str, seed: str, whole: bool) -> tuple[int, list[Played]]:
    chance = random.Random(seed + name)
    with ExitStack() as parts:
        folder = parts.enter_context(folder_of_its_own())
        sshd, queue = parts.enter_context(serving()), parts.enter_context(queueing())
        proxy = parts.enter_context(closing(Proxy(sshd.port)))
        bench = Bench(folder, sshd, queue)
        bench.hosts = through(proxy, sshd.port, bench.hosts)
        bench.make(SCENE[name])
        parts.callback(bench.stop)
        proxy.aim(None)
        bench.run(SCENE[name].script)
        every = cuts(proxy, WHOLE, chance)
        chosen = every if whole else chance.sample(every, SAMPLE)
        ends = bench.ends(SCENE[name])

        def landed() -> bool:
            hit = proxy.hit
            proxy.aim(None)
            return hit

        return len(every), [bench.play(SCENE[name], "-".join(map(str, cut)), partial(aim, proxy, cut), landed, ends) for cut in chosen]


def aim(proxy: Proxy, cut: Cut) -> list[str]:
    proxy.aim(cut)
    return []


@pytest.fixture(scope="module")
def scores(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[tuple[int, list[Played]]]]]:
    """The scenes, two at a time."""
    seed, whole = request.config.getoption("--seed") or revision(), request.config.getoption("--faults")
    wanted = " ".join(item.name for item in request.session.items)
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(score, name, seed, whole) for name in FAR_SCENES if f"[{name}]" in wanted}


@pytest.mark.parametrize("scene", FAR_SCENES)
def test_a_connection_that_fails_at_any_byte_breaks_no_law(
    scene: str, scores: dict[str, Future[tuple[int, list[Played]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    there, played = scores[scene].result()
    with capsys.disabled():
        sys.stdout.write(f"\n  connection, {scene}: {len(played)} of {there} cuts, {sum(one.landed for one in played)} fell\n")
    assert not [(one.name, one.broken) for one in played if one.broken]
    assert not [one.name for one in played if not one.as_ever], "a cut of the connection changed how cases end"
    assert sum(not one.landed for one in played) <= max(1, len(played) // 20)  # sessions differ by some bytes


def test_a_slow_connection_is_only_slow(tmp_path: Path, pueued: Pueued, sshd: Any) -> None:
    with closing(Proxy(sshd.port)) as proxy:
        proxy.delay = 0.02
        text = through(proxy, sshd.port, host_text("ssh", "pueue", "scp", sshd, pueued)).replace('"4s"', '"60s"')
        place = Place(tmp_path / "site", text, laws.job(tmp_path))
        laws.plant(place)
        place.case("a")
        assert place.until("completed")["a"]["attempt"] == 1
        assert proxy.sessions > 5
    assert laws.broken(place) == []


def test_a_host_with_another_key_gets_nothing_and_raises_the_alarm(tmp_path: Path, pueued: Pueued, sshd: Any) -> None:
    """Somebody else answers at the known address: each script says so, records nothing and sends nothing."""
    with closing(Proxy(sshd.port)) as proxy, serving() as impostor:
        place = Place(tmp_path / "site", through(proxy, sshd.port, host_text("ssh", "pueue", "scp", sshd, pueued)), JOB)
        place.case("a")
        place("mqi-scan")
        for program in laws.LINE[1:]:
            before, proxy.target = place.ledger(), impostor.port
            ran = place(program)
            assert (ran.code, place.ledger()) == (69, before), ran.err
            assert "host key is not the known one: ALARM" in ran.err
            assert os.path.getsize(impostor.log) > 0
            assert impostor.sessions() == 0
            assert "Accepted" not in impostor.log.read_text()
            proxy.target = sshd.port
            before_it = {"mqi-push": ("found",), "mqi-submit": ("pushed",), "mqi-poll": ("submitted", "running"), "mqi-fetch": ("computed",)}[program]
            deadline = time.monotonic() + 120
            while place.rows()["a"]["status"] in before_it:
                assert time.monotonic() < deadline, ran.err
                ran = place(program)
        assert place.rows()["a"]["status"] == "completed"
