"""The demo's computation: reads every measured log of a case, writes a table and one dose file a beam.

`python -m mqi_scripts.demo.compute INPUT OUTPUT`; exit 1 with the reason on a case that it cannot compute. The same input gives
the same output, byte for byte.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from array import array
from pathlib import Path

from mqi_scripts.demo.make_case import dose

COLUMNS = 8  # int16 a row of a .ptn
BEAM = re.compile(rb"\x0a\x30\xc0\x00IS..([0-9]+) ?\x0a\x30\xc2\x00LO..([ -~]+?) ?\x0a\x30\xce\x00CS..TREATMENT", re.S)
UIDS = (re.compile(rb"\x08\x00\x18\x00UI..([0-9.]+)", re.S), re.compile(rb"\x20\x00\x0d\x00UI..([0-9.]+)", re.S))


def compute(source: Path, target: Path) -> None:
    """Raises ValueError, KeyError or OSError on a malformed case. Knows the plans of make_case only."""
    plans = list(source.glob("RP.*.dcm"))
    deliveries = sorted(path for path in source.iterdir() if path.is_dir())
    if len(plans) != 1 or not deliveries:
        raise ValueError(f"expected one plan and deliveries, found {len(plans)} and {len(deliveries)}")
    plan, start = plans[0].read_bytes(), time.monotonic()
    names = {int(number): name.decode() for number, name in BEAM.findall(plan)}
    of, study = (form.findall(plan)[0].decode() for form in UIDS)
    for folder in (target / "Dose", target / "log"):
        folder.mkdir(parents=True, exist_ok=True)
    for number, delivery in enumerate(deliveries):
        sys.stdout.write(f"Generating particles for ({number + 1} of {len(deliveries)} batches)\n")
        sys.stdout.flush()
        info = dict(line.strip().split(",", 1) for line in (delivery / "PlanInfo.txt").read_text().splitlines() if line.strip())
        beam = int(info["DICOM_BEAM_NUMBER"])
        layers = [_layer(path) for path in sorted(delivery.glob("*.ptn"))]
        with (target / "log" / f"beam{beam}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("layer", "rows", "mean_x", "mean_y"))
            writer.writerows((i + 1, rows, f"{x:.3f}", f"{y:.3f}") for i, (rows, x, y) in enumerate(layers))
        values = [abs(round(1000 * value)) for _, x, y in layers for value in (x, y)] * 32  # a whole number of rows of 8
        (target / "Dose" / f"{names[beam]}_{beam}_Dose.dcm").write_bytes(dose(of, study, beam, values))
    sys.stdout.write(f"Total execution time: {time.monotonic() - start:.2f} s\n")


def _layer(path: Path) -> tuple[int, float, float]:
    raw = path.read_bytes()
    if not raw or len(raw) % (2 * COLUMNS):
        raise ValueError(f"{path.name}: its size {len(raw)} is no whole number of rows")
    numbers = array("h", raw)
    numbers.byteswap()
    rows = len(numbers) // COLUMNS
    return rows, sum(numbers[0::COLUMNS]) / rows, sum(numbers[1::COLUMNS]) / rows


def main(argv: list[str]) -> int:
    try:
        compute(Path(argv[1]), Path(argv[2]))
    except (ValueError, OSError, KeyError, IndexError) as error:
        sys.stderr.write(f"ERROR: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
