"""Clocks that are set: +10 days, -3 years, -1 hour, while a case is on its way, on the gateway or on the compute host.

libfaketime stands between the programs and the wall's clock; monotonic and boot time, which no clock setting changes, stay real.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import laws
import pytest
from conftest import Place, host_text, need, serving

JUMPS = ("+10d", "-3y", "-1h")
WORK = """case $(cat "$MQI_INPUT/plan.txt") in
fail*) exit 3 ;;
slow*) [ "$MQI_ATTEMPT" -gt 1 ] || exec sleep 300 ;;
esac
until [ -e "$MQI_INPUT/../../../../go" ]; do sleep 0.1; done
cp "$MQI_INPUT/plan.txt" plan.out"""


def library() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is not installed: tests/run installs it"
    return str(found[0])


class Clock:
    """A clock that can be set while programs run: env is for those that shall see it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.holder = subprocess.Popen([need("faketime"), "-f", "+0", "sleep", "600"])  # what it shares must outlive each program
        shared = b""
        deadline = time.monotonic() + 20
        while not (found := re.search(rb"FAKETIME_SHARED=([^\0]+)", shared)):
            shared = b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in [self.holder.pid, *children(self.holder.pid)])
            assert time.monotonic() < deadline
        self.env = {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1", "NO_FAKE_STAT": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1", "FAKETIME_SHARED": found[1].decode()}  # fmt: skip
        self.set("+0")

    def set(self, jump: str) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text(jump + "\n")
        beside.rename(self.file)

    def close(self) -> None:
        for pid in children(self.holder.pid):
            os.kill(pid, signal.SIGTERM)
        self.holder.wait(20)  # it takes away what it shared


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    with closing(Clock(tmp_path)) as one:
        yield one


def decisions(place: Place) -> list[tuple[str, str, int]]:
    """What was decided of each case, without the times; not whether a look came before or behind a start, which is chance."""
    records = [json.loads(line) for line in place.ledger().splitlines()]
    paths = {record["case"]: record["path"] for record in records if "path" in record}
    told = [(paths[r["case"]], r["type"], r.get("attempt", 0)) for r in records if r["case"] and r["type"] not in ("submitted", "started", "missing")]
    return sorted(told, key=lambda one: one[0])  # in its order for each case


def lived(place: Place, clock: Clock, jump: str) -> list[tuple[str, str, int]]:
    """One that is computed over the jump, one that fails, one that is cut off: what was decided of them."""
    laws.plant(place)
    for name, text in (("x", "x\n"), ("y", "fail\n"), ("z", "slow\n")):  # which no id begins with
        place.case(name, text)
    for program in laws.LINE[:3]:
        assert place(program).code == 0
    deadline = time.monotonic() + 60
    while len(place.executions()) < 3 or not list(place.root.glob("cases/*/attempt-1/result")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    place("mqi-poll")
    assert sorted(row["status"] for row in place.rows().values()) == ["failed", "running", "running"]
    clock.set(jump)
    for _ in range(2):
        place("mqi-poll")
    assert sorted(row["status"] for row in place.rows().values()) == ["failed", "running", "running"]  # no limit has passed
    slow = next(path for path in place.root.glob("cases/*/attempt-1") if (path / "../" / "lock").exists() and "slow" in next(path.parent.glob("input-*/plan.txt")).read_text())
    os.killpg(int((slow / "status").read_text().split()[1]), signal.SIGKILL)
    (place.folder / "go").touch()
    laws.quiet(place.root)
    place.until("completed", "failed")
    assert laws.broken(place) == []
    return decisions(place)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, int]]:
    """The decisions when no clock is set."""
    folder = tmp_path_factory.mktemp("still")
    place = Place(folder / "site", host_text("local", "direct", "tar", None, None).replace("slots = 2", "slots = 3"), laws.job(folder / "site", WORK))
    with closing(Clock(folder)) as clock:
        return lived(place, clock, "+0")


PLAIN = (("gateway", "-3y"), ("host", "+10d"))


@pytest.mark.parametrize(("side", "jump"), [pytest.param(side, jump, marks=[] if (side, jump) in PLAIN else pytest.mark.whole)
                                            for side in ("gateway", "host") for jump in JUMPS])  # fmt: skip
def test_a_clock_that_is_set_changes_no_decision(side: str, jump: str, tmp_path: Path, clock: Clock, still: list[tuple[str, str, int]]) -> None:
    far = tmp_path / "far"
    faked = shlex.join(f"{name}={value}" for name, value in clock.env.items()) if side == "host" else ""
    far.write_text(f'#!/bin/sh\nexec env {faked} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    far.chmod(0o755)
    with serving(f"ForceCommand {far}\n") as sshd:
        text = host_text("ssh", "direct", "tar", sshd, None).replace("slots = 2", "slots = 3")
        place = Place(tmp_path / "site", text, laws.job(tmp_path / "site", WORK))
        place.env = clock.env if side == "gateway" else {}
        assert lived(place, clock, jump) == still
        record = json.loads((place.results / "x" / "mqi-result.json").read_text())
        assert any("clock was set" in text for text in record["unchecked"]) == (side == "host")
        if side == "gateway":
            shown = place("mqi-case", "show", "x")
            ages = re.findall(r"^  [-0-9]+ [:0-9]+ +([-+]\S*(?: [0-9:]+)?)  ", shown.out, re.M)
            assert any(age.startswith("-") for age in ages) == jump.startswith("-"), shown
            assert any("d" in age or len(age) > 8 for age in ages) or jump == "-1h", shown


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_is_set_makes_no_folder_quiet_and_none_wait_longer(jump: str, local_place: Place, clock: Clock) -> None:
    place = local_place
    place.env = clock.env
    place.config.write_text(place.config.read_text().replace('quiet = "0s"', 'quiet = "3s"'))
    place.case("a")
    start = time.monotonic()
    place("mqi-scan")
    clock.set(jump)
    while "found" not in place("mqi-scan").out:
        assert time.monotonic() - start < 30
        time.sleep(0.3)
    assert time.monotonic() - start >= 3


def test_the_ledger_goes_on_in_its_newest_file_when_the_year_comes_back(local_place: Place, clock: Clock) -> None:
    place = local_place
    place.env = clock.env
    for jump in ("+0", "+400d", "-3y", "-0"):
        clock.set(jump)
        place.case(f"case{jump}")
        assert place("mqi-scan").code == 0
        assert place("mqi-ledger", "verify").code == 0
    assert len(list(place.state.glob("ledger-*.jsonl"))) == 2
    assert sorted(place.rows()) == ["case+0", "case+400d", "case-0", "case-3y"]
    assert all(row["status"] == "completed" for row in place.until("completed").values())
    assert laws.broken(place) == []
