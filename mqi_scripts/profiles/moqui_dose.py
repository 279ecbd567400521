"""One result of a computation of the profile moqui-log: is it a dose file that is whole, and of this case's plan and beam?"""

import os
from array import array
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import Any, BinaryIO, NamedTuple

from pydicom.dataset import Dataset

from mqi_scripts.profiles import dicom
from mqi_scripts.profiles.moqui_case import NUMBER

TAGS = ("Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "ReferencedRTPlanSequence")
FIRST = 1000  # values or rows that are looked at
ELEMENT = {"MET_FLOAT": 4, "MET_DOUBLE": 8, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_UCHAR": 1}  # bytes

# What is said of one result: why it is wrong, or what of it could not be checked.
Verdict = NamedTuple("Verdict", [("fault", str), ("open", str)])
GOOD = Verdict("", "")


def _wrong(text: str) -> Verdict:
    return Verdict(text, "")


def judged(name: str, paths: Mapping[str, str], listed: Sequence[str], plan: str, beam: int | None) -> Verdict:
    """beam: the number of the one that the file is named by, None if that is not known."""
    size, kind = os.path.getsize(paths[name]), os.path.splitext(name)[1].lower()
    if not size:
        return _wrong("it is empty")
    with open(paths[name], "rb") as file:
        magic = file.read(132)[128:]
        file.seek(0)
        if magic == b"DICM" or kind == ".dcm":
            return _dicom(file, size, plan, beam)
        if kind == ".raw":
            return _raw(file.read(4 * FIRST), size)
        if kind == ".mhd":
            return _mhd(file.read(1 << 16), name, paths, listed)
        if kind == ".csv":
            return _table(file.read(1 << 16))
    return Verdict("", "its format is not known: only that it is not empty")


def _dicom(file: BinaryIO, size: int, plan: str, beam: int | None) -> Verdict:
    try:
        with dicom.reading():
            data, last = dicom.dataset(file, TAGS, dose=True)
            kind, shape = dicom.text(data, "Modality"), [int(data.get(tag) or 0) for tag in ("Rows", "Columns", "BitsAllocated")]
            bits = prod(shape) * int(data.get("NumberOfFrames") or 1) * int(data.get("SamplesPerPixel") or 1)
            plans, beams = _references(data)
    except dicom.Unreadable:
        return _wrong("it is no DICOM file, or truncated")
    demanded = bits // 8 + bits // 8 % 2
    if kind != "RTDOSE" or last.tag != dicom.PIXELS or not bits:
        return _wrong("its modality is not RTDOSE" if kind != "RTDOSE" else "it lacks its pixel data, or their size: truncated?")
    if plans - {plan} or (beam is not None and beams - {beam}):
        said = ", ".join(str(number) for number in sorted(beams))
        return _wrong("it is the dose of another plan" if plans - {plan} else f"it is named by beam {beam} and is of beam {said}")
    if last.length == dicom.UNDEFINED:
        return Verdict("", "its pixel data are compressed, their length says nothing")
    if last.length not in (bits // 8, demanded) or last.start + last.length > size:
        there = min(last.length, size - last.start)
        return _wrong(f"it has {there} bytes of pixel data, its rows, columns, frames and bits demand {demanded}")
    return GOOD if plans else Verdict("", "it names no plan")


def _references(dose: Dataset) -> tuple[set[str], set[int]]:
    """SOP instance UIDs of the plans and numbers of the beams that a dose names."""
    plans, beams = set[str](), set[Any]()
    for item in dose.get("ReferencedRTPlanSequence") or ():
        plans.add(dicom.text(item, "ReferencedSOPInstanceUID"))
        for group in item.get("ReferencedFractionGroupSequence") or ():
            beams |= {one.get("ReferencedBeamNumber") for one in group.get("ReferencedBeamSequence") or ()}
    return plans - {""}, {int(number) for number in beams if number is not None}


def _raw(raw: bytes, size: int) -> Verdict:
    if size % 4:
        return _wrong(f"its size {size} is no whole number of float32")
    values = array("f", raw[: len(raw) // 4 * 4])
    if not all(map(isfinite, values)):
        return _wrong("it has values that are no finite float32")
    return Verdict("", f"only that its size is one of float32 and that its first {len(values)} are finite")


def _mhd(raw: bytes, name: str, paths: Mapping[str, str], listed: Sequence[str]) -> Verdict:
    pairs = [line.partition("=") for line in raw.decode("latin-1").splitlines() if "=" in line]
    keys = {key.strip(): value.strip() for key, _, value in pairs}
    lacks = [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if not keys.get(key)]
    if lacks:
        return _wrong(f"it lacks {', '.join(lacks)}")
    if keys["ElementDataFile"] == "LOCAL":
        return Verdict("", "its data are in it, their length was not compared")
    data, sizes = os.path.normpath(os.path.join(os.path.dirname(name), keys["ElementDataFile"])), keys["DimSize"].split()
    if data not in listed:
        return _wrong(f"its ElementDataFile {data} is not among the results")
    if not all(map(NUMBER.fullmatch, sizes)) or keys["NDims"] != str(len(sizes)):
        return _wrong("its DimSize is not NDims numbers")
    if data not in paths or keys["ElementType"] not in ELEMENT:
        return Verdict("", f"its data {data}: they did not come back, or are of a type that is not known")
    demanded, there = prod(map(int, sizes)) * ELEMENT[keys["ElementType"]], os.path.getsize(paths[data])
    return GOOD if demanded == there else _wrong(f"its data {data} have {there} bytes, its DimSize demands {demanded}")


def _table(raw: bytes) -> Verdict:
    """The first rows are numbers; one header row, and rows that begin with #, may stand before them."""
    lines = [line for line in raw.decode("latin-1").splitlines()[: FIRST + 1] if line.strip() and not line.startswith("#")]
    rows = [[_number(cell) for cell in line.split(",")] for line in lines[: FIRST]]
    if rows and all(value is None for value in rows[0]):
        rows = rows[1:]
    if not rows or not all(value is not None and isfinite(value) for row in rows for value in row):
        return _wrong("its first rows are not finite numbers, or there are none")
    return Verdict("", f"only that its first {len(rows)} rows are finite numbers")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
