"""What nobody should put into an inbox costs little: `tests/run --quick tests/bench/bench_inbox.py -s`. A line a figure."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import make
from bench_line import ENV, tell
from conftest import Place, host_text


def test_a_million_files_and_a_sparse_giant_are_held_at_once_and_others_go_on(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), "true")
    place.config.write_text(place.config.read_text().replace('quiet = "0s"', 'quiet = "0s"\nprofile = "moqui-log"'))
    make.case(place.inbox)
    place("mqi-scan")
    garbage, giant = place.inbox / "garbage", place.inbox / "giant"
    for number in range(1000):
        (garbage / f"{number:03}").mkdir(parents=True)
        for name in range(1000):
            os.close(os.open(garbage / f"{number:03}" / f"{name:03}", os.O_CREAT | os.O_WRONLY))
    giant.mkdir()
    with (giant / "x.ptn").open("wb") as file:
        file.truncate(300 << 30)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(["/usr/bin/env", "bash", "-c", 'TIMEFORMAT=%R; time "$@"', "-", *place.argv("mqi-scan")], env=ENV, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = place.rows()
    assert (rows["garbage"]["status"], rows["giant"]["status"]) == ("held", "held")
    assert "more than 20000 files" in rows["garbage"]["reason"]
    assert "more than 20000000000 bytes" in rows["giant"]["reason"]
    assert rows["2.25.1001.1"]["status"] == "found"
    tell("scan with a million files and a sparse giant, seconds", float(ran.stderr.splitlines()[-1]), 1)
    tell("its memory, MB", max(before.ru_maxrss, after.ru_maxrss) / 1024, 100)
