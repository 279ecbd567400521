"""The line, end to end, over real parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import JOB, Place, Pueued, Sshd, close_gate, gate_options, host_text

COMBINATIONS = [(t, e, f) for t in ("ssh", "local") for e in ("pueue", "direct") for f in ("scp", "tar")]
COMBINATIONS += [("ssh", e, "gate") for e in ("pueue", "direct")]


@pytest.mark.parametrize(("transport", "engine", "transfer"), COMBINATIONS)
def test_every_transport_and_engine_completes_a_case(
    transport: str, engine: str, transfer: str, tmp_path: Path, sshd: Sshd, pueued: Pueued
) -> None:
    place = Place(tmp_path / "site", host_text(transport, engine, transfer.replace("gate", "scp"), sshd, pueued), JOB)
    if transfer == "gate":
        close_gate(place, sshd, *gate_options(engine, pueued))
    place.case("one")
    place.case("two ^ 둘")
    rows = place.until("completed")
    assert {row["status"] for row in rows.values()} == {"completed"}
    assert (place.results / "one" / "plan.out").read_text() == "plan of one\n"
    record = json.loads((place.results / "two ^ 둘" / "mqi-result.json").read_text())
    assert record["attempt"] == 1
    assert sorted(line.split()[1] for line in place.executions()) == ["1", "1"]
    before = place.ledger()
    place.tick()
    assert place.ledger() == before
