"""Speed, as ratios within one run: `tests/run --quick tests/bench/bench_line.py -s`. A line a figure; fails past its bound."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from conftest import REPO, Place, Pueued, Sshd, host_text

from mqi_scripts import words as w
from mqi_scripts.demo.make_case import FULL, make_case
from mqi_scripts.world.ledger import Ledger

ENV = {**os.environ, "PYTHONPATH": str(REPO)}
AT = "2026-11-24T08:00:00.000Z"
LINE = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")


def tell(what: str, value: float, bound: float, unit: str = "") -> None:
    sys.stdout.write(f"\nBENCH {what}: {value:.2f}{unit} (at most {bound}{unit})\n")
    assert value <= bound, what


def cpu(argv: list[str], times: int = 1) -> float:
    """Seconds of CPU of a command and its children, the least of `times`."""
    best = 1e9
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, env=ENV, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def wall(argv: list[str]) -> float:
    start = time.monotonic()
    ran = subprocess.run(argv, env=ENV, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    return time.monotonic() - start


def test_a_hundred_tiny_cases_take_few_sessions(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    pueued.client("parallel", "10", "-g", "gpu0")
    pueued.client("parallel", "10", "-g", "gpu1")
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), 'cp "$MQI_INPUT/plan.txt" plan.out')
    for number in range(100):
        place.case(f"case{number:03}")
    sessions, start = 0, time.monotonic()
    while any(row["status"] != "completed" for row in place.rows().values()) or not place.rows():
        for name in LINE:
            before, ledger = sshd.sessions(), place.ledger()
            ran = place(name)
            assert ran.code == 0, ran.err
            if name != "mqi-poll" or place.ledger() != ledger:  # polls that only wait are left out
                sessions += sshd.sessions() - before
    sys.stdout.write(f"\nBENCH 100 cases, wall: {time.monotonic() - start:.1f} s\n")
    assert len(place.executions()) == 100
    tell("ssh sessions for 100 cases", sessions, 20)


def test_a_tick_with_nothing_to_do_is_cheap(far_place: Place) -> None:
    place = far_place
    place("mqi-scan")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(REPO / "mqi_scripts")], check=True)  # as pip does
    floor = cpu([sys.executable, "-c", "import json, argparse"], 15)
    for name in LINE:
        installed = [str(Path(sys.executable).with_name(name)), "--config", str(place.config)]
        tell(f"idle {name}, of `import json, argparse`", cpu(installed, 15) / floor, 2)


def test_push_of_a_real_size_case(tmp_path: Path, sshd: Sshd) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "direct", "scp", sshd, None), "true")
    ratios = []
    for seed in range(1, 4):
        case = make_case(place.inbox, size=FULL, seed=seed)
        place("mqi-scan")
        if seed == 1:
            place("mqi-push", "--dry-run")
        os.sync()
        push = wall(place.argv("mqi-push"))
        config = str(place.state / "cache" / "ssh-far")
        plain = wall(["scp", "-F", config, "-r", "-q", str(case), f"mqi-far:{tmp_path}/plain{seed}"])
        plain += wall(["ssh", "-F", config, "mqi-far", "true"]) + wall(["ssh", "-F", config, "mqi-far", "true"])
        plain += wall(["sh", "-c", f"find {case} -type f -print0 | xargs -0 sha256sum"])
        ratios.append(push / plain)
        sys.stdout.write(f"\nBENCH push {push:.2f} s, plain {plain:.2f} s\n")
    tell("push of 223 files, of scp + 2 ssh + sha256sum", median(ratios), 1.3)


def test_a_second_push_sends_the_rest(tmp_path: Path, sshd: Sshd) -> None:
    chance, ratios = random.Random(1), []
    for number in range(3):
        place = Place(tmp_path / f"site{number}", host_text("ssh", "direct", "scp", sshd, None), "true")
        seconds = {name: _push_a_gigabyte(place, name, chance) for name in ("whole", "cut")}
        ratios.append(seconds["cut"] / seconds["whole"])
        sys.stdout.write(f"\nBENCH first {seconds['whole']:.2f} s, second {seconds['cut']:.2f} s\n")
        shutil.rmtree(place.folder)
    tell("second push after a cut at 90 %, of the first", median(ratios), 0.25)


def _push_a_gigabyte(place: Place, name: str, chance: random.Random) -> float:
    """Seconds of a push of 100 files; for `cut`, of the one after a first whose scp was killed at 90 %."""
    folder = place.inbox / name
    folder.mkdir()
    for number in range(100):
        (folder / f"f{number:02}").write_bytes(chance.randbytes(10_000_000))
    place("mqi-scan")
    os.sync()
    if name == "cut":
        child = subprocess.Popen(place.argv("mqi-push"), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(p.stat().st_size for p in place.root.glob("staging/*/files/*")) < 0.9e9 and child.poll() is None:
            time.sleep(0.01)
        for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
            os.killpg(int(pid), signal.SIGKILL)
        assert child.wait() == 69
        os.sync()
    return wall(place.argv("mqi-push"))


def test_poll_of_a_thousand_running_cases(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), "true")
    place.case("first")
    for name in LINE[:2]:
        place(name)
    owner = Ledger(str(place.state), {"script": "bench", "host": "-", "pid": 0, "user": "-"})
    now, digest, locks = AT, "0" * 64, []
    events: list[w.Event] = []
    for number in range(1000):
        key = f"{number:020x}"
        events += [w.Found(key, now, f"c{number}", digest, 1, 1), w.Pushed(key, now, "far", digest),
                   w.Submitting(key, now, 1, digest, "far", "gpu0"), w.Submitted(key, now, 1, "gpu0", str(number)),
                   w.Started(key, now, 1, "gpu0", "0", str(number), "")]  # fmt: skip
        folder = place.root / "cases" / key / "attempt-1"
        (folder / "claim").mkdir(parents=True)
        (folder / "status").write_text(f"mqi1:{key}:1 1 - x 1 group=gpu0 slot=0 since=x host=h pid=1\n")
        (folder / "job.log").write_text("".join(f"Generating particles for ({i} of 12 batches)\n" for i in range(12)))
        lock = (folder.parent / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        locks.append(lock)
    owner.append(events, now)
    before = sshd.sessions()
    argv = place.argv("mqi-poll")
    here = cpu(argv, 3)
    assert sshd.sessions() - before == 3
    rows = place.rows()
    assert sum(row["status"] == "running" for row in rows.values()) == 1000
    tell("poll of 1,000 running cases, CPU of the gateway", here, 1, " s")
    script = place.folder / "look.sh"
    from mqi_scripts.world.host import _far

    words = [item for number in range(1000) for item in (f"{number:020x}", "1")]
    text = f'{_far("mqi-remote.sh")}\nset -- n {place.root} pueue {pueued.command} {pueued.config} 1 x - x look '
    text += f'{" ".join(words)}\nmain "$@"\n'
    script.write_text(text)
    tell("poll of 1,000 running cases, CPU of the far side", cpu(["sh", str(script)], 3), 2, " s")


def test_memory_with_a_thousand_open_cases_and_a_hundred_thousand_events(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), "true")
    place("mqi-scan")
    owner = Ledger(str(place.state), {"script": "bench", "host": "gateway", "pid": 12345, "user": "mqi"})
    now, digest = AT, "0" * 64
    events: list[w.Event] = []
    for number in range(12_900):
        key = f"{number:020x}"
        events += [w.Found(key, now, f"study/{number:040}", digest, 223, 45_000_000), w.Pushed(key, now, "far", digest),
                   w.Submitting(key, now, 1, digest, "far", "gpu0"), w.Submitted(key, now, 1, "gpu0", str(number)),
                   w.Started(key, now, 1, "gpu0", "0", str(number), "2026-11-24T00:00:00Z")]  # fmt: skip
        if number >= 1000:
            events += [w.Succeeded(key, now, 1, digest, "", ""), w.Completed(key, now, 1, digest, 3, 100), w.Gone(key, now)]
    for start in range(0, len(events), 5000):
        owner.append(events[start : start + 5000], now)
    sys.stdout.write(f"\nBENCH ledger of {len(place.ledger().splitlines())} events, {len(place.ledger()) / 1e6:.0f} MB\n")
    for warm in (False, True):
        for name in (*LINE, "mqi-report"):
            if not warm and (place.state / "cache" / "fold").exists():
                (place.state / "cache" / "fold").unlink()
            ran = subprocess.run([sys.executable, "-c", MEASURE, *place.argv(name)], env=ENV, capture_output=True, text=True)
            tell(f"memory of {name}, {'warm' if warm else 'cold'}", int(ran.stdout.split()[-1]) / 1024, 80, " MB")
    shutil.rmtree(place.state)


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
