"""Kill and error sweep: each script, the far side and the job wrapper, with one fault at each call on a path of the site.

After each fault the line runs twice without one, and the laws are asked. `tests/run --faults` plays every point; the plain test
command a sample of them that is another one for each commit (`--seed` plays it again, `--point` those whose name begins so).
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

import pytest
from conftest import queueing, serving
from scenes import FAR_SCENES, SCENES, Bench, Played, Scene, folder_of_its_own, revision
from tap import Point

NEAR, FAR = 19, 7  # points of a scene in the sample: on this machine, and over ssh and pueue
PARTS, BENCHES = 4, 6  # of the whole sweep: what a scene is cut into, and how many of these are played at a time
TRIES = 3  # of a point whose call was not made: what a look does depends on how far the jobs are
T = TypeVar("T")
WHOLE = [(scene, far) for far in (True, False) for scene in SCENES if not far or scene.name in FAR_SCENES]


class Scored(NamedTuple):
    there: int
    played: list[Played]
    seconds: float


def counted(bench: Bench, scene: Scene) -> list[Point]:
    """The points of a scene."""
    bench.make(scene)
    ran = bench.run(scene.script, bench.taps.count())
    bench.settle()
    found, nested = list(bench.taps.points(str(bench.place.folder))), bench.taps.nested()
    assert "Traceback" not in ran.err, ran.err
    if nested:
        bench.restore(scene.name)
        bench.run(scene.script, bench.taps.count(nested))
        bench.settle()
        found += bench.taps.points(str(bench.place.folder), nested=True)
    return found


def score(scene: Scene, far: bool, seed: str, only: str, part: int = 0, parts_of: int = 1) -> Scored:
    """Play a scene's points: those of the seed, all for "", or those whose names begin with `only`; one of so many parts of them."""
    start = time.monotonic()
    with ExitStack() as parts:
        folder = parts.enter_context(folder_of_its_own())
        bench = Bench(folder)
        if far:
            tapped = f"ForceCommand {folder}/taps/bin/far\n"
            sshd = parts.enter_context(serving(tapped, "/usr/lib/openssh/sftp-server"))
            bench = Bench(folder, sshd, parts.enter_context(queueing()))
        if not seed and not only:
            bench.line = ("mqi-tick",)  # in one process, as a person runs it: two fifths of the time
        points = counted(bench, scene)
        parts.callback(bench.stop)
        named = {f"{scene.name} {point.name(str(bench.place.folder))}": point for point in points}
        chosen = {name: point for name, point in named.items() if name.startswith(only)} if only else named
        if seed and not only:
            chosen = dict(spread(list(named.items()), seed, FAR if far else NEAR))
        chosen = {name: point for name, point in chosen.items() if crc32(name.encode()) % parts_of == part}
        ends, played = bench.ends(scene), []
        for name, point in chosen.items():
            for _ in range(TRIES):
                try:
                    one = bench.play(scene, name, partial(bench.taps.aim, point), bench.taps.landed, ends)
                except AssertionError as stuck:  # the next point still has its turn
                    one = Played(name, True, 0, False, [str(stuck)])
                if one.landed or one.broken:
                    break
            played.append(one)
            if one.broken or len(played) % 100 == 0:
                sys.__stdout__.write(f"{ident(scene.name, far)} {part}: {len(played)} of {len(chosen)} played; {one.name} {one.broken}\n")
        return Scored(len(points), played, time.monotonic() - start)


def spread(points: Sequence[T], seed: str, count: int) -> list[T]:
    """So many points, evenly over all of them in their order, each anywhere in its part."""
    chance, part = random.Random(seed), len(points) / count
    return [points[int((number + chance.random()) * part)] for number in range(count)] if part >= 1 else list(points)


@pytest.fixture(scope="module")
def scores(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, bool], list[Future[Scored]]]]:
    """The scenes that are asked for, in parts."""
    wanted = {item.callspec.id for item in request.session.items if item.path == Path(__file__)}
    seed = request.config.getoption("--seed") or revision()
    whole, only = request.config.getoption("--faults"), request.config.getoption("--point") or ""
    chosen = "all points" if whole else f"--point {only}" if only else f"sample --seed {seed}"
    sys.__stdout__.write(f"\nfault sweep: {chosen}\n")
    parts, benches = (PARTS, BENCHES) if whole else (1, 2)
    with ThreadPoolExecutor(benches) as pool:
        yield {(s.name, far): [pool.submit(score, s, far, "" if whole else f"{seed}{s.name}{far}", only, part, parts) for part in range(parts)]
               for s, far in WHOLE if ident(s.name, far) in wanted}  # fmt: skip


def ident(scene: str, far: bool) -> str:
    return f"{scene}-{'far' if far else 'near'}"


@pytest.mark.parametrize(("scene", "far"), [(s.name, far) for s, far in WHOLE], ids=[ident(s.name, far) for s, far in WHOLE])
def test_one_fault_at_any_call_breaks_no_law(scene: str, far: bool, scores: dict[tuple[str, bool], list[Future[Scored]]], capsys: pytest.CaptureFixture[str]) -> None:
    parts = [part.result() for part in scores[scene, far]]
    there, played, seconds = max(part.there for part in parts), [one for part in parts for one in part.played], sum(part.seconds for part in parts)
    with capsys.disabled():
        kinds = Counter("as without a fault" if one.as_ever else "in a named state" for one in played)
        late = sum(one.ticks > 2 for one in played)
        sys.stdout.write(f"\n  {scene} {'ssh, pueue' if far else 'local'}: {there} points, {len(played)} played, "
                         f"{sum(one.landed for one in played)} faults landed, {seconds:.0f} s; ends {dict(kinds)}, {late} after more than two ticks\n")  # fmt: skip
    assert not [(one.name, one.broken) for one in played if one.broken]
    missed = [one.name for one in played if not one.landed]
    sys.__stdout__.write("".join(f"  did not land: {name}\n" for name in missed))
    assert len(missed) <= max(1, len(played) // 50), f"faults that did not land: {missed}"
    elsewhere = [one.name for one in played if not one.as_ever and not is_of_the_job(one.name)]
    assert not elsewhere, "a fault of the line changed how cases end"


def is_of_the_job(name: str) -> bool:
    """A fault within a job or its wrapper may fail the attempt, with its reason; any other must not."""
    return name.startswith("submit ") and ("job." in name or "sh.2+" in name)
