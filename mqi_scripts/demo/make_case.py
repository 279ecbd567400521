"""Made-up cases of the shape that the field delivers, and dose files: every value is synthesised.

Shape and sizes: reference/case-on-disk.md. The plan is a valid RT Ion Plan and the dose a valid RTDOSE, written with a few lines
of explicit VR little endian, so that the demo needs no DICOM library.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

LAYERS = (34, 32, 42)
BEAMS = ("1G180:TX", "2G270:TX", "3G000:TX")
STUDY, PLAN = "2.25.1001", "2.25.1002"
START = datetime(2026, 11, 3, 9, 10, tzinfo=UTC)  # of the first delivery; the next ones follow in steps of six minutes
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")  # value representations with a length of four bytes
ION, DOSE = "1.2.840.10008.5.1.4.1.1.481.8", "1.2.840.10008.5.1.4.1.1.481.2"
RANGE = ("RESULT_ID,LAYER_NO,LAYER_ENERGY,PATIENT_ID,FLD_NO,DOSE1_RANGE,DOSE2_RANGE,PLAN_DOSE1_RANGE,PLAN_DOSE2_RANGE,"
         "SCAN_OUT_FL_NM,PLAN_SCAN_OUT_FL_NM")  # fmt: skip


class Beam(NamedTuple):
    """A treatment beam. Its number is not its ordinal."""

    number: int
    name: str
    layers: int


TREATED = tuple(map(Beam, (2, 4, 5), BEAMS, LAYERS))


class Size(NamedTuple):
    """How large a made-up case is: rows of a .ptn, from and to; positions of the spots of a layer."""

    rows: tuple[int, int]
    spots: int


SMALL, FULL, TINY = Size((2000, 3600), 20), Size((18000, 32400), 200), Size((20, 40), 2)  # 5 MB; 45 MB, as measured; for tests


def make_case(inbox: Path, *, beams: Sequence[Beam] = TREATED, size: Size = SMALL, seed: int = 1) -> Path:
    """Write one case below the inbox, a delivery a beam, and return its folder."""
    chance = random.Random(seed)  # noqa: S311  # made-up data, not a secret
    folder = inbox / f"{STUDY}.{seed}"
    folder.mkdir(parents=True)
    (folder / f"RP.{PLAN}.{seed}.{seed}.dcm").write_bytes(plan(beams, seed, size.spots))
    for field, beam in enumerate(beams, 1):
        start = START + (field - 1) * timedelta(minutes=6)
        make_delivery(folder, start, beam, field, size=size, seed=seed, chance=chance)
    return folder


def make_delivery(
    case: Path, start: datetime, beam: Beam, field: int, *, size: Size, seed: int, chance: random.Random,
    layers: range | None = None,
) -> Path:  # fmt: skip
    """Write one delivery of a beam, of all its layers or of these, and return its folder."""
    folder = case / f"{start:%Y%m%d%H%M%S}00"
    folder.mkdir()
    numbers = layers or range(1, beam.layers + 1)
    info = {
        "DICOM_PATIENT_ID": f"DEMO{seed:03}", "DICOM_STUDY_INS_UID": f"{STUDY}.{seed}", "DICOM_BEAM_NUMBER": str(beam.number),
        "TCSC_IRRAD_DATETIME": folder.name, "TCSC_PATIENT_ID": f"{7000 + seed}", "TCSC_PLAN_NUMBER": "1",
        "TCSC_FIELD_NUMBER": str(field), "START_LAYER_NUMBER": str(numbers[0]), "STOP_LAYER_NUMBER": str(numbers[-1]),
        "SHARE_DIR": "/demo", "ACTUAL_DIR": "/demo",
    }  # fmt: skip
    (folder / "PlanInfo.txt").write_text("".join(f"{key},{value}\r\n" for key, value in info.items()))
    lines = [RANGE]
    for layer in numbers:
        stem = f"RR_{7000 + seed:08}_001_{field:03}_{layer:03}"
        energy = 190 - layer * 2.5
        lines.append(f"{layer},{layer},{energy:.1f},{7000 + seed},{field},0.5,0.5,0.5,0.5,{stem}.ptn,{stem}.mgn")
        rows = chance.randint(*size.rows)
        (folder / f"{stem}.ptn").write_bytes(_measured(rows, chance))
        (folder / f"{stem}.mgn").write_bytes(_planned(rows, chance))
    (folder / "PlanRange.txt").write_text("\r\n".join(lines) + "\r\n")
    return folder


def _measured(rows: int, chance: random.Random) -> bytes:
    """Rows of eight big-endian int16."""
    period = array("h", (chance.randint(-2000, 2000) for _ in range(8 * 97)))
    period.byteswap()
    one = period.tobytes()
    return (one * (rows // 97 + 1))[: rows * 16]


def _planned(rows: int, chance: random.Random) -> bytes:
    """Rows of 14 bytes, the first four a big-endian time that never falls; the last is (rows - 1.5) * 60."""
    last, count = int((rows - 1.5) * 60), chance.randint(80, 200)
    return b"".join(struct.pack(">I5h", last * i // (count - 1), i, -i, i % 7, 0, 1) for i in range(count))


# --- DICOM


def plan(beams: Sequence[Beam], seed: int, spots: int) -> bytes:
    """An RT Ion Plan: a SETUP beam with number 1, then the treatment beams, two control points a layer."""
    used = [_text(0x300C, 0x0006, b"IS", str(number)) for number in (1, *(beam.number for beam in beams))]
    group = b"".join((
        _text(0x300A, 0x0071, b"IS", "1"), _text(0x300A, 0x0078, b"IS", "1"), _text(0x300A, 0x0080, b"IS", str(len(used))),
        _text(0x300A, 0x00A0, b"IS", "0"), _sequence(0x300C, 0x0004, used),
    ))  # fmt: skip
    items = [_beam(1, "Setup", "SETUP", 2, spots), *(_beam(b.number, b.name, "TREATMENT", 2 * b.layers, spots) for b in beams)]
    return _file(ION, f"{PLAN}.{seed}", (
        _text(0x0008, 0x0060, b"CS", "RTPLAN"), _text(0x0010, 0x0010, b"PN", "Made^Up"),
        _text(0x0010, 0x0020, b"LO", f"DEMO{seed:03}"), _text(0x0020, 0x000D, b"UI", f"{STUDY}.{seed}"),
        _text(0x300A, 0x0002, b"SH", "DEMO"), _sequence(0x300A, 0x0070, [group]), _sequence(0x300A, 0x03A2, items),
        _sequence(0x300C, 0x0060, [_reference("1.2.840.10008.5.1.4.1.1.481.3", f"2.25.1003.{seed}")]),
        _text(0x300E, 0x0002, b"CS", "APPROVED"), _text(0x300E, 0x0004, b"DA", "20261102"), _text(0x300E, 0x0008, b"PN", "Made^Up"),
    ))  # fmt: skip


def dose(of: str, study: str, beam: int, values: Sequence[int], columns: int = 8) -> bytes:
    """An RTDOSE of one frame: what `beam` of the plan `of` gave, as unsigned numbers of 32 bits in rows of `columns`."""
    pixels = struct.pack(f"<{len(values)}I", *values)
    rows = len(values) // columns
    numbers = ((0x0002, 1), (0x0010, rows), (0x0011, columns), (0x0100, 32), (0x0101, 32), (0x0102, 31), (0x0103, 0))
    grid = [_element(0x0028, tag, b"US", struct.pack("<H", number)) for tag, number in numbers]
    grid[1:1] = [_text(0x0028, 0x0004, b"CS", "MONOCHROME2"), _text(0x0028, 0x0008, b"IS", "1")]
    group = _sequence(0x300C, 0x0004, [_text(0x300C, 0x0006, b"IS", str(beam))]) + _text(0x300C, 0x0022, b"IS", "1")
    return _file(DOSE, f"{of}.{beam}", (
        _text(0x0008, 0x0060, b"CS", "RTDOSE"), _text(0x0020, 0x000D, b"UI", study), *grid,
        _text(0x3004, 0x0002, b"CS", "GY"), _text(0x3004, 0x0004, b"CS", "PHYSICAL"), _text(0x3004, 0x000A, b"CS", "BEAM"),
        _text(0x3004, 0x000C, b"DS", "0"), _text(0x3004, 0x000E, b"DS", "0.000001"),
        _sequence(0x300C, 0x0002, [_reference(ION, of) + _sequence(0x300C, 0x0020, [group])]),
        _element(0x7FE0, 0x0010, b"OW", pixels),
    ))  # fmt: skip


def _file(kind: str, uid: str, elements: Sequence[bytes]) -> bytes:
    """A DICOM file of that SOP class and instance."""
    meta = b"".join((
        _element(0x0002, 0x0001, b"OB", b"\0\1"), _text(0x0002, 0x0002, b"UI", kind), _text(0x0002, 0x0003, b"UI", uid),
        _text(0x0002, 0x0010, b"UI", "1.2.840.10008.1.2.1"), _text(0x0002, 0x0012, b"UI", "2.25.1000"),
    ))  # fmt: skip
    start = bytes(128) + b"DICM" + _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta))) + meta
    return start + _reference(kind, uid, 0x0016, 0x0018) + b"".join(elements)


def _reference(kind: str, uid: str, first: int = 0x1150, second: int = 0x1155) -> bytes:
    return _text(0x0008, first, b"UI", kind) + _text(0x0008, second, b"UI", uid)


def _beam(number: int, name: str, kind: str, points: int, spots: int) -> bytes:
    places = struct.pack(f"<{2 * spots}f", *(float(i) for i in range(2 * spots)))
    spot = b"".join((
        _text(0x300A, 0x0392, b"IS", str(spots)), _element(0x300A, 0x0394, b"FL", places),
        _element(0x300A, 0x0396, b"FL", places[: 4 * spots]),
    ))  # fmt: skip
    controls = [
        _text(0x300A, 0x0112, b"IS", str(i)) + _text(0x300A, 0x0114, b"DS", f"{190 - i // 2 * 2.5:.1f}") + spot
        for i in range(points)
    ]
    return b"".join((
        _text(0x300A, 0x00C0, b"IS", str(number)), _text(0x300A, 0x00C2, b"LO", name), _text(0x300A, 0x00CE, b"CS", kind),
        _text(0x300A, 0x0110, b"IS", str(points)), _sequence(0x300A, 0x03A8, controls),
    ))  # fmt: skip


def _sequence(group: int, element: int, items: Sequence[bytes]) -> bytes:
    return _element(group, element, b"SQ", b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items))


def _text(group: int, element: int, kind: bytes, text: str) -> bytes:
    pad = b"\0" if kind == b"UI" else b" "
    return _element(group, element, kind, text.encode() + pad * (len(text) % 2))


def _element(group: int, element: int, kind: bytes, value: bytes) -> bytes:
    size = struct.pack("<xxI" if kind in LONG else "<H", len(value))
    return struct.pack("<HH", group, element) + kind + size + value
