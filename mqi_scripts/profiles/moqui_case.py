"""A case of the profile moqui-log as values, and a delivery's texts taken apart; no clock, disk or network here.

Shapes and facts: reference/case-on-disk.md.
"""

import csv
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mqi_scripts.words import Reason

ION = "1.2.840.10008.5.1.4.1.1.481.8"
PLANS = (ION, "1.2.840.10008.5.1.4.1.1.481.5", "1.2.840.10008.5.1.4.1.1.481.7")  # ion, photon and electron, brachytherapy
INFO = ("DICOM_PATIENT_ID", "DICOM_STUDY_INS_UID", "DICOM_BEAM_NUMBER", "TCSC_IRRAD_DATETIME", "TCSC_PATIENT_ID",
        "TCSC_PLAN_NUMBER", "TCSC_FIELD_NUMBER", "START_LAYER_NUMBER", "STOP_LAYER_NUMBER")  # fmt: skip
NUMBERS = ("DICOM_BEAM_NUMBER", "START_LAYER_NUMBER", "STOP_LAYER_NUMBER")
TOLD = ("PlanInfo.txt", "PlanInfo.csv", "PlanRange.txt", "PlanRange.csv")
MEASURED, PLANNED = "SCAN_OUT_FL_NM", "PLAN_SCAN_OUT_FL_NM"
RANGE = ("LAYER_NO", "PATIENT_ID", "FLD_NO", MEASURED, PLANNED)
NUMBER = re.compile(r"[0-9]{1,9}")
LOG = re.compile(r"([^_/]+)_([^/]+)_([0-9]+)_([0-9]+)_([0-9]+)(\.ptn|\.mgn)")
DELIVERY = re.compile(r"[0-9]{16}")
KINDS = {".ptn": 16, ".mgn": 14}  # bytes of a row

# A beam of a plan; layers: pairs of control points.
Beam = NamedTuple("Beam", [("number", int), ("name", str), ("setup", bool), ("layers", int)])
# A *.dcm. kind: its SOP class, "" where that cannot be told; fault: why it cannot be used as a plan.
Plan = NamedTuple("Plan", [
    ("place", str), ("kind", str), ("fault", str), ("uid", str), ("study", str), ("patient", str), ("beams", tuple[Beam, ...]),
])  # fmt: skip


class Delivery(NamedTuple):
    """One delivery's folder, taken apart.

    start: None if its name is no possible time. info: the keys of PlanInfo; rows: of PlanRange by column; faults: what is
    wrong with the two. sizes: of its files; ends: the last time in each sound .mgn.
    """

    name: str
    start: datetime | None
    info: Mapping[str, str]
    rows: tuple[Mapping[str, str], ...]
    faults: tuple[Reason, ...]
    sizes: Mapping[str, int]
    ends: Mapping[str, int]

    def number(self, key: str) -> int | None:
        return int(self.info[key]) if NUMBER.fullmatch(self.info.get(key, "")) else None

    @property
    def layers(self) -> list[int]:
        return [int(row["LAYER_NO"]) for row in self.rows]


class Case(NamedTuple):
    """A folder as it was read. names: of all its files; folder: its own name; salt: for hashes of ids."""

    names: tuple[str, ...]
    folder: str
    plans: tuple[Plan, ...]
    deliveries: tuple[Delivery, ...]
    salt: str


def delivery(name: str, texts: Mapping[str, bytes | None], sizes: Mapping[str, int], ends: Mapping[str, int]) -> Delivery:
    """texts: of its PlanInfo.* and PlanRange.* by file name, None where it is too large to be one."""
    info, wrong_info = _told(name, "PlanInfo", texts, _info)
    rows, wrong_rows = _told(name, "PlanRange", texts, _rows)
    return Delivery(name, _start(name), dict(info), tuple(map(dict, rows)), (*wrong_info, *wrong_rows), sizes, ends)


def _start(name: str) -> datetime | None:
    """YYYYMMDDHHMMSScc in the site's own time; only differences of it mean anything."""
    try:
        return datetime(int(name[:4]), *(int(name[at : at + 2]) for at in range(4, 14, 2)), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return None


def _told(
    name: str, what: str, texts: Mapping[str, bytes | None], parse: Callable[[list[str]], tuple[Any, list[str]]]
) -> tuple[Any, list[Reason]]:
    found = [file for file in texts if file.startswith(f"{what}.")]
    if not found:
        return (), [Reason(f"no {what}", name, f"delivery {name} has no {what}.txt")]
    if len(found) > 1:
        return (), [Reason(what, name, f"delivery {name} has {' and '.join(sorted(found))}: nobody can tell which one holds")]
    place, raw = f"{name}/{found[0]}", texts[found[0]]
    if raw is None:
        return (), [Reason(what, place, f"{place} is too large to be one")]
    values, wrong = parse(_lines(raw))
    return values, [Reason(what, place, f"{place}: {text}") for text in wrong]


def _lines(raw: bytes) -> list[str]:
    """Of UTF-8 or latin-1, with CRLF or LF, without the blanks at their ends."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return [line.rstrip() for line in re.split(r"\r\n|\n|\r", text)]


def _info(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """`key,value` lines; nothing of an unknown key is repeated in a sentence, it may be a person's."""
    info: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(lines, 1):
        key, comma, value = (part.strip() for part in line.partition(","))
        if line and not comma:
            wrong.append(f"line {number} is not `key,value`")
        elif line and info.setdefault(key, value) != value:
            wrong.append(f"line {number} gives a key a second, different value")
    wrong += [f"{key} is missing" for key in INFO if not info.get(key)]
    wrong += [f"{key} is no number" for key in NUMBERS if info.get(key) and not NUMBER.fullmatch(info[key])]
    return info, wrong


def _rows(lines: list[str]) -> tuple[list[dict[str, str]], list[str]]:
    """A header and one row a layer, all of them sound or none."""
    try:
        table = [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True) if any(row)]
    except csv.Error:
        return [], ["it is no CSV table"]
    if not table:
        return [], ["it is empty"]
    header, wrong, rows = table[0], [], []
    wrong = [f"its header has {header.count(key) or 'no'} {key}" for key in RANGE if header.count(key) != 1]
    for number, cells in enumerate(table[1:] if not wrong else [], 1):
        spare = cells[len(header) :]
        if len(cells) < len(header) or any(spare):
            wrong.append(f"row {number} has {len(cells)} cells, its header {len(header)}")
            continue
        row = dict(zip(header, cells, strict=False))
        rows.append(row)
        wrong += [f"row {number} lacks its {key}" for key in RANGE if not row[key]]
        if row["LAYER_NO"] and not NUMBER.fullmatch(row["LAYER_NO"]):
            wrong.append(f"row {number}: LAYER_NO is no number")
    named = [row[key] for row in rows for key in (MEASURED, PLANNED) if row[key]]
    if len(named) > len(set(named)):
        wrong.append("it names a file twice")
    if not table[1:]:
        wrong.append("it has no rows")
    return rows if not wrong else [], wrong
