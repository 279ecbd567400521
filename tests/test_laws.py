"""The laws hold in thousands of faulty lives, and each seeded bug breaks one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPO

BUGS = tomllib.loads((REPO / "tests" / "bugs.toml").read_text())["bug"]
HALF = 1000


def lives(package: Path, first: int, count: int) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(package)}
    argv = [sys.executable, "-P", str(REPO / "tests" / "sim.py"), str(first), str(count)]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_laws_hold_in_two_thousand_faulty_lives() -> None:
    runs = [lives(REPO, 0, HALF), lives(REPO, HALF, HALF)]
    for run in runs:
        story, _ = run.communicate(timeout=600)
        assert run.returncode == 0, story


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    """Which law, or which test, caught which bug."""
    return {}


@pytest.mark.parametrize("bug", BUGS, ids=[bug["name"] for bug in BUGS])
def test_each_seeded_bug_is_caught(bug: dict[str, str], tmp_path: Path, table: dict[str, str]) -> None:
    for name in ("mqi_scripts", "schemas", "tests"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    broken = tmp_path / "mqi_scripts" / bug["file"]
    text = broken.read_text()
    for old, new in [(bug["old"], bug["new"])] if isinstance(bug["old"], str) else zip(bug["old"], bug["new"], strict=True):
        assert text.count(old) == 1, f"{bug['file']} has changed: mend the patch of this bug"
        text = text.replace(old, new)
    broken.write_text(text)
    if bug.get("by", "sim") == "sim":
        run = lives(tmp_path, 0, 2 * HALF)
        story, _ = run.communicate(timeout=600)
        laws = [line for line in story.splitlines() if line.startswith("LAW ")]
        caught = laws[0][4:] if laws else (story.splitlines()[-1] if run.returncode else "")
    else:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path / bug["by"]]
        ran = subprocess.run(argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
        caught = bug["by"].partition("::")[2] if " failed" in ran.stdout else ""
        assert "error" not in ran.stdout.splitlines()[-1], ran.stdout
    table[bug["name"]] = caught
    assert caught, f"nothing noticed: {bug['name']}"


def test_the_table_of_bugs_is_printed(table: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(f"  {bug[:62]:62} {law}" for bug, law in table.items()) + "\n")
    assert len(table) >= 10
