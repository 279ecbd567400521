"""Many at once: eight copies of every script under random SIGKILLs, a person beside the timer, gateways that share what they must not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import laws
import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text
from scenes import folder_of_its_own

ENV = {**os.environ, "PYTHONPATH": str(REPO)}
WORK = 'sleep 0.2; cp "$MQI_INPUT/plan.txt" plan.out'
COPIES, CASES = 8, 20


def begun(place: Place, program: str, said: Path) -> subprocess.Popen[bytes]:
    with said.open("ab") as out, said.with_suffix(".err").open("ab") as err:
        return subprocess.Popen(place.argv(program, "--jsonl"), env=ENV, stdout=out, stderr=err)


def storm(place: Place, seconds: float, chance: random.Random) -> tuple[int, list[dict[str, Any]], str]:
    """Eight copies of every script all the time, one of them killed every 50 ms: kills, what was acknowledged, what went wrong."""
    running: dict[subprocess.Popen[bytes], str] = {}
    end, number, files, killed = time.monotonic() + seconds, 0, list[Path](), list[subprocess.Popen[bytes]]()

    def kill() -> None:
        while time.monotonic() < end:
            time.sleep(0.05)
            if alive := [child for child in tuple(running) if child.returncode is None]:
                killed.append(chance.choice(alive))
                killed[-1].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    while time.monotonic() < end:
        running = {child: program for child, program in running.items() if child.poll() is None}
        for program in laws.LINE:
            for _ in range(COPIES - list(running.values()).count(program)):
                files.append(place.folder / f"said.{len(files)}")
                running = {**running, begun(place, program, files[-1]): program}
        if chance.random() < 0.2 and number < CASES:
            place.case(f"case{number:02}")
            number += 1
    killer.join()
    for child in running:
        child.kill()
        child.wait()
    errors = "".join(path.with_suffix(".err").read_text(errors="replace") for path in files)
    kills = sum(child.returncode == -signal.SIGKILL for child in killed)
    return kills, [event for path in files for event in laws.told(path.read_text())], errors


@pytest.mark.parametrize("far", [False, pytest.param(True, marks=pytest.mark.whole)])
def test_eight_copies_of_every_script_and_a_kill_every_50_ms(
    far: bool, sshd: Sshd, pueued: Pueued, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 60.0 if request.config.getoption("--faults") else 10.0
    with folder_of_its_own() as folder:
        text = host_text("ssh", "pueue", "scp", sshd, pueued) if far else host_text("local", "direct", "tar", None, None)
        place = Place(folder / "site", text, laws.job(folder / "site", WORK))
        laws.plant(place)
        for name in "ab":
            place.case(name)
        kills, acknowledged, errors = storm(place, seconds, random.Random(seconds))
        assert "Traceback" not in errors, errors[-3000:]
        assert laws.broken(place, acknowledged) == []
        laws.quiet(place.root)
        rows = place.until("completed")
        assert laws.broken(place, acknowledged) == []
        with capsys.disabled():
            sys.stdout.write(f"\n  {'ssh, pueue' if far else 'local'}: {kills} kills in {seconds:.0f} s, {len(acknowledged)} acknowledged events, {len(rows)} cases, "
                             f"{len(place.executions())} executions, attempts {dict(Counter(row['attempt'] for row in rows.values()))}\n")  # fmt: skip
        assert kills > seconds * 3  # on two cores the next forty take a while to start


def test_a_poll_by_hand_beside_the_timers_sees_everything_once(far_place: Place) -> None:
    place = far_place
    for name in "abc":
        place.case(name)
    for program in laws.LINE[:3]:
        place(program)
    codes = Counter[int]()
    deadline = time.monotonic() + 60
    while any(row["status"] != "computed" for row in place.rows().values()):
        both = [subprocess.Popen(place.argv("mqi-poll"), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for child in both:
            _, err = child.communicate()
            codes[child.returncode] += 1
            assert child.returncode in (0, 75), err
            assert child.returncode == 0 or "wait until it is done" in err
        assert time.monotonic() < deadline
    assert codes[75]
    for word in (b'"started"', b'"succeeded"'):
        assert place.ledger().count(b'"type":' + word) == 3
    assert all(row["attempt"] == 1 for row in place.until("completed").values())


# --- gateways


def test_two_gateways_with_two_roots_share_one_queue(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """The same names on both, each with its own ledger: keys, labels and roots keep them apart."""
    places = [Place(tmp_path / name, host_text("ssh", "pueue", "scp", sshd, pueued), laws.job(tmp_path / name, WORK)) for name in ("one", "two")]
    for place in places:
        laws.plant(place)
        for name in "abc":
            place.case(name, f"{name} of {place.folder.name}\n")
    deadline = time.monotonic() + 90
    while any(row["status"] != "completed" for place in places for row in place.rows().values()) or not places[0].rows():
        for place in places:
            place.tick()
        assert time.monotonic() < deadline
    for place in places:
        assert laws.broken(place) == []
        assert len(place.executions()) == 3
        for name in "abc":
            assert (place.results / name / "plan.out").read_text() == f"{name} of {place.folder.name}\n"
    assert len({task["label"] for task in pueued.state()["tasks"].values()}) == 6


def refused(place: Place, word: str, root: Path, *programs: str) -> None:
    """These scripts, which have something to do, are refused by the root, and leave it and the ledger as they are."""

    def seen() -> list[tuple[str, int]]:
        return sorted((str(path), path.lstat().st_mtime_ns) for path in root.rglob("*") if path.is_file() and path.name != "lock")

    before, there = place.ledger(), seen()
    for program in programs:
        ran = place(program)
        assert ran.code == 65, (program, ran)
        assert word in ran.err
    assert (place.ledger(), seen()) == (before, there)


def test_a_second_gateway_on_the_same_root_is_refused(tmp_path: Path) -> None:
    first = Place(tmp_path / "one", host_text("local", "direct", "tar", None, None), WORK)
    second = Place(tmp_path / "two", host_text("local", "direct", "tar", None, None), WORK)
    second.config.write_text(second.config.read_text().replace(str(second.root), str(first.root)))
    first.case("a")
    first.until("completed")
    second.case("b")
    second("mqi-scan")
    refused(second, "belongs to another ledger", first.root, "mqi-push")


@pytest.mark.parametrize("how", ["an older backup", "a clone"])
def test_a_ledger_that_lacks_what_its_root_was_shown_is_refused(how: str, tmp_path: Path) -> None:
    """A backup that was put back, or a copy of the gateway that runs beside it: both would start again what the other one started."""
    place = Place(tmp_path / "site", host_text("local", "direct", "tar", None, None), laws.job(tmp_path / "site", "sleep 1; " + WORK))
    for name in "ab":
        place.case(name)
        for program in laws.LINE[: 3 if name == "a" else 2]:
            place(program)
    shutil.copytree(place.state, tmp_path / "kept")
    place("mqi-submit")
    laws.quiet(place.root)
    real = place.state
    if how == "a clone":  # another folder, the same ledger id
        text = place.config.read_text()
        place.config.write_text(text.replace(f'"{real}"', f'"{tmp_path}/kept"'))
        place.state = tmp_path / "kept"
        place.case("d")
        place("mqi-scan")
    else:
        real.rename(tmp_path / "newest")
        shutil.copytree(tmp_path / "kept", real)
    programs = ["mqi-submit", "mqi-poll", *(["mqi-push"] if how == "a clone" else [])]
    refused(place, "a restored backup or a cloned gateway", place.root, *programs)
    if how == "a clone":
        place.config.write_text(text)
        place.state = real
    else:
        shutil.rmtree(real)
        (tmp_path / "newest").rename(real)
    place.until("completed")
    assert laws.broken(place) == []
    assert all(row["attempt"] == 1 for row in place.rows().values())


# --- one at a time, over ssh and pueue


def test_each_script_killed_at_twenty_moments_loses_nothing_and_runs_nothing_twice(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """Twenty cases come in four waves; each script is killed twenty times, at moments spread over what its run takes by then."""
    for group in ("gpu0", "gpu1"):
        pueued.client("parallel", "3", "-g", group)
    chance = random.Random(1)
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), laws.job(tmp_path / "site", WORK))
    kills, takes = dict.fromkeys(laws.LINE, 0), dict.fromkeys(laws.LINE, 0.5)
    while min(kills.values()) < 20:
        if sum(kills.values()) >= 25 * len(list(place.inbox.iterdir())) / 5 and len(list(place.inbox.iterdir())) < 20:
            for _ in range(5):
                place.case(f"case{len(list(place.inbox.iterdir())):02}")
        program = chance.choice([name for name in laws.LINE if kills[name] < 20])
        start = time.monotonic()
        child = subprocess.Popen(place.argv(program), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(chance.uniform(0.02, takes[program]))
            takes[program] = 0.7 * takes[program] + 0.3 * (time.monotonic() - start)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills[program] += 1
            takes[program] *= 1.1
    rows = place.until("completed")
    assert len(rows) == 20
    assert laws.broken(place) == []
    assert len({line.split()[0] for line in place.executions()}) == 20
    for number in range(20):
        assert (place.results / f"case{number:02}" / "plan.out").read_text() == f"plan of case{number:02}\n"
