"""What a release leaves for ever: a ledger that its programs wrote, and what it reports of it. Before a release: `python tests/golden.py`
writes tests/data/ledger-<version>.jsonl and .report.json; they are never written again."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from conftest import JOB, REPO, Place, host_text

from mqi_scripts import __version__

DATA = REPO / "tests" / "data"


def site(folder: Path) -> Place:
    job = f'case $(cat "$MQI_INPUT/plan.txt") in fail*) exit 3 ;; esac\n{JOB}'
    return Place(folder / "site", host_text("local", "direct", "tar", None, None), job)


def written(place: Place) -> bytes:
    """A ledger of this version: cases that end in every way, and what a person did about them."""
    for name in ("study 1/20261101_a", "w", "한글 =1+1", "unwanted", "kept"):
        place.case(name)
    place.case("failing", "fail\n")
    (place.case("held") / "link").symlink_to("/etc/passwd")
    place("mqi-scan")
    place("mqi-case", "cancel", "unwanted", "--reason", "not needed")
    place("mqi-case", "hold", "kept", "--reason", "the plan is looked at")
    place("mqi-case", "priority", "w", "--to", "9", "--reason", "today")
    place.until("completed", "failed", "held", "cancelled")
    (place.inbox / "w" / "late").write_text("late\n")
    place("mqi-case", "retry", "failing", "--reason", "the node was down")
    place.until("completed", "failed", "held", "cancelled")
    shutil.rmtree(place.inbox / "kept")
    place("mqi-scan")
    assert place("mqi-ledger", "verify").code == 0
    return place.ledger()


def reported(place: Place, ledger: bytes) -> dict[str, Any]:
    """What is reported of a ledger: its head and its cases, without what this version would do next."""
    place.state.mkdir(0o700, exist_ok=True)
    path = place.state / f"ledger-{json.loads(ledger.splitlines()[-1])['at'][:4]}.jsonl"
    path.write_bytes(ledger)
    path.chmod(0o600)
    body = json.loads(place("mqi-report", "--json").out)
    return {"head": body["head"], "cases": [{name: value for name, value in row.items() if name != "next"} for row in body["cases"]]}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = written(site(Path(folder) / "one"))
        keep(__version__, ledger, reported(site(Path(folder) / "two"), ledger))


def keep(version: str, ledger: bytes, report: dict[str, Any]) -> None:
    path = DATA / f"ledger-{version}.jsonl"
    if path.exists():
        sys.exit(f"{path} is there: what a version left is never written again")
    path.write_bytes(ledger)
    path.with_suffix(".report.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
