"""What a case of real size costs to judge: `tests/run --quick tests/bench/bench_profile.py -s`. A line a figure; fails past its bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench_line import ENV, cpu, tell

from mqi_scripts.demo.make_case import FULL, make_case

READ = """
import os, sys
from types import SimpleNamespace
from mqi_scripts.profiles import named
from mqi_scripts.world import folder
case, times = sys.argv[1], int(sys.argv[2])
sizes = {os.path.relpath(os.path.join(at, name), case): os.path.getsize(os.path.join(at, name))
         for at, _, names in os.walk(case) for name in names}
scan = SimpleNamespace(fractions="hold", fraction_gap=3600.0)
for _ in range(times):
    with folder.opened(case) as top:
        (content,) = named("moqui-log").read(top, folder.Folder(sizes, "", 0, ()), os.path.basename(case), scan, "", [], bool)
    assert not content.reasons and len(content.names) == 223
"""


def test_reading_a_case_of_45_mb_for_its_checks(tmp_path: Path) -> None:
    case = make_case(tmp_path, size=FULL)
    assert 40e6 < sum(path.stat().st_size for path in case.rglob("*") if path.is_file()) < 50e6
    argv = [sys.executable, "-c", READ, str(case)]
    subprocess.run([*argv, "1"], env=ENV, check=True)  # what is imported is compiled, as pip does
    tell("reading 223 files, 45 MB, CPU with the start of Python and pydicom's import", cpu([*argv, "1"], 5), 0.5, " s")
    tell("reading 223 files, 45 MB, CPU of one read", (cpu([*argv, "21"], 3) - cpu([*argv, "1"], 3)) / 20, 0.1, " s")
