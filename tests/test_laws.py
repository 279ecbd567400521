"""The laws hold in thousands of faulty lives, and each seeded bug breaks one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

BUGS = tomllib.loads((REPO / "tests" / "bugs.toml").read_text())["bug"]
HALF = 1000
SHORT = 25  # steps of a life, once it is shrunk


def lives(package: Path, first: int, count: int) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(package)}
    argv = [sys.executable, "-P", str(REPO / "tests" / "sim.py"), str(first), str(count)]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def seeded(bug: dict[str, Any], folder: Path) -> Path:
    """A copy of the real code with that defect in it."""
    for name in ("mqi_scripts", "schemas", "tests"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    broken = folder / "mqi_scripts" / bug["file"]
    text = broken.read_text()
    for old, new in [(bug["old"], bug["new"])] if isinstance(bug["old"], str) else zip(bug["old"], bug["new"], strict=True):
        assert text.count(old) == 1, f"{bug['file']} has changed: mend the patch of this bug"
        text = text.replace(old, new)
    broken.write_text(text)
    return folder


def test_the_laws_hold_in_thousands_of_faulty_lives(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """Two thousand, ten thousand with --faults; some of them long."""
    half = 5 * HALF if request.config.getoption("--faults") else HALF
    days = long = 0
    for run in [lives(REPO, 0, half), lives(REPO, half, half)]:
        story, _ = run.communicate(timeout=600)
        assert run.returncode == 0, story
        found = re.findall(r"(\d+) days under faults, (\d+) of 30 days or more", story)
        days, long = days + int(found[0][0]), long + int(found[0][1])
        with capsys.disabled():
            sys.stdout.write(f"\n  {story.strip()}")
    assert days > 10 * half and long > half / 10  # docs/promises.md


FEWEST = """
import sys, sim
seed = int(sys.argv[1])
try:
    sim.live(sim.life(seed))
except sim.Broken as error:
    one, broken = sim.shrunk(sim.life(seed), error)
fewer = [one.steps[:at] + one.steps[at + 1:] for at in range(len(one.steps))]
calmer = [(*one.steps[:at], step._replace(faulty=False), *one.steps[at + 1:]) for at, step in enumerate(one.steps) if step.faulty]
for steps in [*fewer, *calmer]:
    try:
        sim.live(one._replace(steps=steps))
    except sim.Broken as other:
        assert other.law != broken.law, steps
print(len(sim.life(seed).steps), len(one.steps), len(broken.story))
"""


def test_nothing_can_be_left_out_of_the_story_of_a_broken_law(tmp_path: Path) -> None:
    """A seeded bug: its story is short, names the fault, the case and the law, and each of its steps and their faults is needed."""
    package = seeded(next(bug for bug in BUGS if bug["name"].startswith("results are not compared")), tmp_path)
    story, _ = lives(package, 0, 2 * HALF).communicate(timeout=600)
    assert re.search(r"^minute: .*^ *\d+ -- .*^ *\d+ succeeded c.*^LAW completed with true bytes$.*^steps .*fetch!", story, re.M | re.S), story
    seed = re.findall(r"^seed (\d+)", story, re.M)[0]
    ran = subprocess.run([sys.executable, "-P", "-c", FEWEST, seed], env={**os.environ, "PYTHONPATH": f"{package}:{REPO / 'tests'}"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    before, after, lines = map(int, ran.stdout.split())
    assert after < before / 2 and lines < 60


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    """Which law, or which test, caught which bug."""
    return {}


@pytest.mark.parametrize("bug", [pytest.param(bug, id=bug["name"], marks=[pytest.mark.whole] if bug.get("whole") else []) for bug in BUGS])
def test_each_seeded_bug_is_caught(bug: dict[str, Any], tmp_path: Path, table: dict[str, str]) -> None:
    seeded(bug, tmp_path)
    if bug.get("by", "sim") == "sim":
        run = lives(tmp_path, 0, 2 * HALF)
        story, _ = run.communicate(timeout=600)
        laws = [line for line in story.splitlines() if line.startswith("LAW ")]
        assert not laws or int(re.findall(r"^seed \d+, (\d+) steps", story, re.M)[0]) < SHORT, f"a story that nobody reads:\n{story}"
        caught = laws[0][4:] if laws else (story.splitlines()[-1] if run.returncode else "")
    else:
        words = [tmp_path / word if word.startswith("tests/") else word for word in shlex.split(bug["by"])]
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, *words]
        ran = subprocess.run(argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
        caught = shlex.split(bug["by"])[0].partition("::")[2] if " failed" in ran.stdout else ""
        assert "error" not in ran.stdout.splitlines()[-1], ran.stdout
    table[bug["name"]] = caught
    assert caught, f"nothing noticed: {bug['name']}"


def test_the_table_of_bugs_is_printed(table: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(f"  {bug[:62]:62} {law}" for bug, law in table.items()) + "\n")
    assert len(BUGS) > 40  # docs/promises.md
