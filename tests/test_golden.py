"""A record that was written once is readable for ever: each version's ledger replays, verifies and reports what it reported then."""

from __future__ import annotations

import json
import re
from pathlib import Path

import golden
import pytest
from conftest import REPO

from mqi_scripts import __version__

KEPT = sorted(golden.DATA.glob("ledger-*.jsonl"))
CHANGES = (REPO / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_ledger_of_an_older_version_verifies_and_reports_the_same_for_ever(path: Path, tmp_path: Path) -> None:
    wanted = json.loads(path.with_suffix(".report.json").read_text())
    place = golden.site(tmp_path)
    found = golden.reported(place, path.read_bytes())
    assert found["head"] == wanted["head"]
    assert [row["case_id"] for row in found["cases"]] == [row["case_id"] for row in wanted["cases"]]
    for row, then in zip(found["cases"], wanted["cases"], strict=True):
        assert {name: row.get(name) for name in then} == then  # columns may come, none may go or change
    assert len(wanted["cases"]) > 3


def test_each_released_version_left_its_ledger_and_its_report() -> None:
    versions = re.findall(r"^## (\S+)(.*)$", CHANGES, re.M)
    assert versions
    assert versions[0][0] == __version__, "CHANGELOG begins with the version that this is"
    for version, note in versions:
        if "unreleased" not in note:
            assert golden.DATA / f"ledger-{version}.jsonl" in KEPT, f"{version} is released: python tests/golden.py"


def test_what_a_release_leaves_has_cases_in_every_resting_place_and_is_reported_alike_elsewhere(tmp_path: Path) -> None:
    place = golden.site(tmp_path / "one")
    ledger = golden.written(place)
    report = golden.reported(golden.site(tmp_path / "two"), ledger)
    assert {row["status"] for row in report["cases"]} == {"completed", "failed", "held", "cancelled"}
    assert any(row["stale"] for row in report["cases"])
    assert {row["attempt"] for row in report["cases"]} == {0, 1, 2}
    assert {row["priority"] for row in report["cases"]} == {5, 9}
    assert report == golden.reported(place, ledger)
