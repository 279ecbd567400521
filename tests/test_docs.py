"""docs/operations.md, docs/security.md, docs/promises.md: their commands run, their figures, paths, timers and tests are there."""

from __future__ import annotations

import re
import subprocess

import pytest
from conftest import REPO, need
from test_ground import project

OPERATIONS = (REPO / "docs" / "operations.md").read_text()
SECURITY = (REPO / "docs" / "security.md").read_text()
SERVICE = (REPO / "systemd" / "mqi@.service").read_text()


def test_every_timer_stands_in_the_table_with_its_time() -> None:
    timers = {path.stem: path.read_text() for path in (REPO / "systemd").glob("*.timer")}
    rows = re.findall(r"^\| ((?:`mqi-[\w-]+` ?)+) \| ([^|]+) \|", OPERATIONS, re.M)
    told = {name: when for names, when in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert set(told) == set(timers)
    for name, text in timers.items():
        if hour := re.search(r"^OnCalendar=(\w*) ?\*-\*-\* 0?(\d+:\d+)", text, re.M):
            assert f"{hour[2]}" in told[name]
            assert hour[1] == "" or told[name].startswith(hour[1])
        elif "OnCalendar=*:0/5\n" in text:
            assert told[name] == "every five minutes"
        else:
            assert "a minute after" in told[name]


def test_the_programs_and_options_that_they_name_are_there() -> None:
    for text in (OPERATIONS, SECURITY):
        for name in set(re.findall(r"`(?:sudo -u mqi )?(?:bin/)?(mqi-[a-z]+)[ `]", text)):
            assert name in project() or (REPO / "systemd" / f"{name}.timer").exists(), name
    said = subprocess.run([REPO / ".venv/bin/mqi-init", "--help"], capture_output=True, text=True, check=True).stdout
    for option in set(re.findall(r"`mqi-init (--[\w-]+)", OPERATIONS + SECURITY)):
        assert option in said


@pytest.mark.parametrize("line", [line for block in re.findall(r"```sh\n(.*?)```", OPERATIONS, re.S) for line in block.splitlines()])
def test_the_shell_of_operations_is_right_and_boots_run_it(line: str) -> None:
    """Here its syntax; tests/test_boot.py runs each line on a machine that has booted."""
    assert subprocess.run([need("dash"), "-n"], input=line, text=True, capture_output=True).stderr == ""


def test_the_figures_of_the_cage_are_the_unit_s() -> None:
    rated = subprocess.run([need("systemd-analyze"), "security", "--offline=true", str(REPO / "systemd/mqi@.service")], capture_output=True, text=True).stdout
    assert re.search(r"exposure level for \S+: ([0-9.]+)", rated)[1] in re.search(r"rates it ([0-9.]+) ", SECURITY)[1]  # type: ignore[index]
    assert "TimeoutStartSec=2h\n" in SERVICE
    assert "live 2 h, with 1 GB and 64 processes" in SECURITY
    assert "MemoryMax=1G\n" in SERVICE
    assert "TasksMax=64\n" in SERVICE
    for path in ("/var/lib/mqi", "/srv/mqi/results", "/opt/mqi"):
        assert path in SERVICE or path == "/var/lib/mqi"


def test_every_test_that_the_promises_name_is_there() -> None:
    """A promise whose test was renamed or deleted is no longer shown."""
    text = (REPO / "docs" / "promises.md").read_text()
    written = {path.name: path.read_text() for path in (REPO / "tests").rglob("test_*.py")}
    functions = {name for source in written.values() for name in re.findall(r"^def (test_\w+)", source, re.M)}
    named = set(re.findall(r"`(test_\w+)`", text)) | set(re.findall(r"`(test_\w+\.py)`", text))
    assert len(named) > 30
    assert named <= functions | set(written)
    for number in range(1, 9):
        section = text.partition(f"\n## {number}. ")[2].partition("\n## ")[0]
        assert re.search(r"`test_\w+", section), f"promise {number} is shown by no test"
