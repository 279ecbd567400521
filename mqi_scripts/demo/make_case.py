"""A made-up case of the shape that the field delivers: three treatment beams, 108 layers; every value is synthesised.

Shape and sizes: reference/case-on-disk.md. The plan is a valid RT Ion Plan, written with a few lines of explicit VR little
endian, so that the demo needs no DICOM library.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

LAYERS = (34, 32, 42)
BEAMS = ("1G180:TX", "2G270:TX", "3G000:TX")
STUDY, PLAN = "2.25.1001", "2.25.1002"
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")  # value representations with a length of four bytes
RANGE = ("RESULT_ID,LAYER_NO,LAYER_ENERGY,PATIENT_ID,FLD_NO,DOSE1_RANGE,DOSE2_RANGE,PLAN_DOSE1_RANGE,PLAN_DOSE2_RANGE,"
         "SCAN_OUT_FL_NM,PLAN_SCAN_OUT_FL_NM")  # fmt: skip


def make_case(inbox: Path, *, layers: Sequence[int] = LAYERS, full: bool = False, seed: int = 1) -> Path:
    """Write one case below the inbox and return its folder. full: the measured 45 MB instead of 5."""
    chance = random.Random(seed)  # noqa: S311  # made-up data, not a secret
    folder = inbox / f"{STUDY}.{seed}"
    folder.mkdir(parents=True)
    (folder / f"RP.{PLAN}.{seed}.dcm").write_bytes(plan(layers, seed))
    for beam, count in enumerate(layers):
        delivery = folder / f"2026110309{10 + 6 * beam:02}0000"
        delivery.mkdir()
        _delivery(delivery, beam, count, seed, 9 if full else 1, chance)
    return folder


def _delivery(folder: Path, beam: int, layers: int, seed: int, scale: int, chance: random.Random) -> None:
    info = {
        "DICOM_PATIENT_ID": f"DEMO{seed:03}", "DICOM_STUDY_INS_UID": f"{STUDY}.{seed}", "DICOM_BEAM_NUMBER": str(beam + 2),
        "TCSC_IRRAD_DATETIME": folder.name, "TCSC_PATIENT_ID": f"DEMO{seed:03}", "TCSC_PLAN_NUMBER": "1",
        "TCSC_FIELD_NUMBER": str(beam + 1), "START_LAYER_NUMBER": "1", "STOP_LAYER_NUMBER": str(layers),
        "SHARE_DIR": "/demo", "ACTUAL_DIR": "/demo",
    }  # fmt: skip
    (folder / "PlanInfo.txt").write_text("".join(f"{key},{value}\r\n" for key, value in info.items()))
    lines = [RANGE]
    for layer in range(1, layers + 1):
        stem = f"RR_{seed:04}_001_{beam + 1:03}_{layer:03}"
        energy = 190 - layer * 2.5
        lines.append(f"{layer},{layer},{energy:.1f},DEMO{seed:03},{beam + 1},0.5,0.5,0.5,0.5,{stem}.ptn,{stem}.mgn")
        rows = scale * chance.randint(2000, 3600)
        (folder / f"{stem}.ptn").write_bytes(_measured(rows, chance))
        (folder / f"{stem}.mgn").write_bytes(_planned(rows, chance))
    (folder / "PlanRange.txt").write_text("\r\n".join(lines) + "\r\n")


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


def plan(layers: Sequence[int], seed: int) -> bytes:
    """An RT Ion Plan: a SETUP beam with number 1, then one treatment beam per entry, two control points a layer."""
    beams = [_beam(1, "Setup", "SETUP", 1)]
    beams += [_beam(n + 2, name, "TREATMENT", 2 * count) for n, (name, count) in enumerate(zip(BEAMS, layers, strict=False))]
    body = b"".join((
        _text(0x0008, 0x0016, b"UI", "1.2.840.10008.5.1.4.1.1.481.8"), _text(0x0008, 0x0018, b"UI", f"{PLAN}.{seed}"),
        _text(0x0008, 0x0060, b"CS", "RTPLAN"), _text(0x0010, 0x0010, b"PN", "Made^Up"),
        _text(0x0010, 0x0020, b"LO", f"DEMO{seed:03}"), _text(0x0020, 0x000D, b"UI", f"{STUDY}.{seed}"),
        _text(0x300A, 0x0002, b"SH", "DEMO"), _sequence(0x300A, 0x03A2, beams),
    ))  # fmt: skip
    meta = b"".join((
        _element(0x0002, 0x0001, b"OB", b"\0\1"), _text(0x0002, 0x0002, b"UI", "1.2.840.10008.5.1.4.1.1.481.8"),
        _text(0x0002, 0x0003, b"UI", f"{PLAN}.{seed}"), _text(0x0002, 0x0010, b"UI", "1.2.840.10008.1.2.1"),
        _text(0x0002, 0x0012, b"UI", "2.25.1000"),
    ))  # fmt: skip
    return bytes(128) + b"DICM" + _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta))) + meta + body


def _beam(number: int, name: str, kind: str, points: int) -> bytes:
    spots = _element(0x300A, 0x0394, b"FL", struct.pack("<200f", *(float(i) for i in range(200))))
    controls = [
        _text(0x300A, 0x0112, b"IS", str(i)) + _text(0x300A, 0x0114, b"DS", f"{190 - i // 2 * 2.5:.1f}") + spots
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
