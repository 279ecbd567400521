"""Made-up cases for the tests: whole ones, and every shape that holds a case, one keyword each (BAD)."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from mqi_scripts.demo.make_case import START, TINY, Beam, Size, dose, make_case, make_delivery

BEAMS = (Beam(2, "1G180:TX", 3), Beam(4, "2G270:TX", 2), Beam(5, "3G000:TX", 4))
PHOTON = "1.2.840.10008.5.1.4.1.1.481.5"
DAY, TURN = timedelta(days=1), timedelta(minutes=6)


def case(inbox: Path, bad: str | Sequence[str] = (), *, beams: Sequence[Beam] = BEAMS, size: Size = TINY, seed: int = 1) -> Path:
    """A case of tiny files below the inbox. bad: keywords of BAD; shapes may be combined, each is made in its turn."""
    folder = make_case(inbox, beams=beams, size=size, seed=seed)
    for word in [bad] if isinstance(bad, str) else bad:
        BAD[word][0](folder)
    return folder


def deliveries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def add(folder: Path, beam: Beam, field: int, after: timedelta, layers: range | None = None, seed: int = 1) -> Path:
    """One more delivery of the case, `after` the start of its first."""
    return make_delivery(folder, START + after, beam, field, size=TINY, seed=seed, chance=random.Random(7), layers=layers)


def fraction(folder: Path, after: timedelta, beams: Sequence[Beam] = BEAMS, seed: int = 1) -> list[Path]:
    """All beams once more, `after` the first time."""
    return [add(folder, beam, n + 1, after + n * TURN, seed=seed) for n, beam in enumerate(beams)]


def swap(path: Path, old: str, new: str, count: int = -1) -> None:
    """Text of a file replaced, which must be there."""
    text = path.read_bytes().decode("latin-1")
    assert old in text, f"{path}: {old}"
    path.write_bytes(text.replace(old, new, count).encode("latin-1"))


def info(folder: Path, key: str, value: str | None, which: int = 0) -> None:
    """A key of a delivery's PlanInfo gets another value, or goes."""
    path = deliveries(folder)[which] / "PlanInfo.txt"
    lines = path.read_text().splitlines()
    assert any(line.startswith(f"{key},") for line in lines)
    kept = [line if not line.startswith(f"{key},") else f"{key},{value}" for line in lines if value is not None or not line.startswith(f"{key},")]
    path.write_text("".join(f"{line}\r\n" for line in kept))


def rows(folder: Path, change: Callable[[list[list[str]]], object], which: int = 0) -> None:
    """A delivery's PlanRange, as a table with its header, changed in place."""
    path = deliveries(folder)[which] / "PlanRange.txt"
    table = [line.split(",") for line in path.read_text().splitlines()]
    change(table)
    path.write_text("".join(",".join(cells) + "\r\n" for cells in table))


def plan(folder: Path, change: Callable[[Any], object], **how: Any) -> None:
    """The plan, as pydicom has it, changed in place."""
    import pydicom

    path = next(folder.glob("*.dcm"))
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path, **how)


def log(folder: Path, kind: str, which: int = 0) -> Path:
    """The delivery's second log of that kind."""
    return sorted(deliveries(folder)[which].glob(f"*.{kind}"))[1]


def cut(path: Path, count: int) -> None:
    """Its last bytes gone."""
    path.write_bytes(path.read_bytes()[:-count])


def _setup(data: Any) -> None:
    for beam in data.IonBeamSequence:
        beam.TreatmentDeliveryType = "SETUP"


def _a_layer_less(data: Any) -> None:
    for _ in range(2):
        data.IonBeamSequence[1].IonControlPointSequence.pop()


def _photon(data: Any) -> None:
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = PHOTON


def _other(folder: Path) -> None:
    next(folder.glob("*.dcm")).write_bytes(dose("2.25.1", "2.25.2", 2, range(64)))


def _two_kinds(folder: Path) -> None:
    path = next(folder.glob("*.dcm"))
    kept = path.read_bytes()
    plan(folder, _photon)
    path.rename(folder / "photon.dcm")
    path.write_bytes(kept)


def _below(folder: Path) -> None:
    (folder / "plans").mkdir()
    path = next(folder.glob("*.dcm"))
    path.rename(folder / "plans" / path.name)


def _sparse(folder: Path) -> None:
    with next(folder.glob("*.dcm")).open("r+b") as file:
        file.truncate((64 << 20) + 1)


def _parts(folder: Path, *layers: range) -> None:
    """The third beam in two deliveries of these layers."""
    shutil.rmtree(deliveries(folder)[2])
    for number, one in enumerate(layers):
        add(folder, BEAMS[2], 3, (2 + number) * TURN, one)


def _named(folder: Path, old: str, new: str) -> None:
    """Another name for the logs of the first delivery, in PlanRange too."""
    first = deliveries(folder)[0]
    swap(first / "PlanRange.txt", old, new)
    for path in [*first.glob("*.ptn"), *first.glob("*.mgn")]:
        path.rename(path.with_name(path.name.replace(old, new)))


def _replanned(folder: Path) -> None:
    """A delivery of another plan of the patient, in itself all of one piece."""
    _named(folder, "RR_00007001_001_", "RR_00007001_002_")
    info(folder, "TCSC_PLAN_NUMBER", "2")


def _mistaken(folder: Path) -> None:
    """A delivery of another patient of the machine, in itself all of one piece."""
    _named(folder, "RR_00007001_", "RR_00007002_")
    rows(folder, lambda table: [cells.__setitem__(3, "7002") for cells in table[1:]])
    info(folder, "TCSC_PATIENT_ID", "7002")


def _renamed(folder: Path, name: str) -> None:
    deliveries(folder)[0].rename(folder / name)


def _impossible(folder: Path) -> None:
    info(folder, "TCSC_IRRAD_DATETIME", "2026133109100000")
    _renamed(folder, "2026133109100000")


def _info_file(folder: Path, text: bytes) -> None:
    path = deliveries(folder)[0] / "PlanInfo.txt"
    path.write_bytes(path.read_bytes() + text)



def _extra(kind: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(log(folder, kind), deliveries(folder)[0] / f"RR_00007001_001_001_009.{kind}")


def _layer(folder: Path) -> None:
    """A layer fewer than the plan has, everything else in accord."""
    rows(folder, lambda table: table.pop())
    info(folder, "STOP_LAYER_NUMBER", "2")
    for path in deliveries(folder)[0].glob("*_003.*"):
        path.unlink()


# keyword -> what makes a good case bad, and the codes of the reasons that hold it then, all of them
BAD: Mapping[str, tuple[Callable[[Path], object], set[str]]] = {
    "no plan": (lambda f: next(f.glob("*.dcm")).unlink(), {"no plan"}),
    "plan in a folder": (_below, {"no plan"}),
    "two plans": (lambda f: shutil.copy(next(f.glob("*.dcm")), f / "copy.DCM"), {"two plans"}),
    "photon plan beside": (_two_kinds, {"two plans"}),
    "plan cut": (lambda f: cut(next(f.glob("*.dcm")), 500), {"plan unreadable"}),
    "plan cut in its tail": (lambda f: cut(next(f.glob("*.dcm")), 1), {"plan unreadable"}),
    "plan too large": (_sparse, {"plan unreadable"}),
    "plan no DICOM": (lambda f: next(f.glob("*.dcm")).write_text("x" * 500), {"plan unreadable"}),
    "plan empty": (lambda f: next(f.glob("*.dcm")).write_bytes(b""), {"plan unreadable"}),
    "broken plan beside": (lambda f: (f / "b.dcm").write_bytes(next(f.glob("*.dcm")).read_bytes()[:900]), {"plan unreadable", "two plans"}),
    "plan without patient": (lambda f: plan(f, lambda d: d.__delattr__("PatientID")), {"plan unreadable"}),
    "control points odd": (lambda f: plan(f, lambda d: d.IonBeamSequence[1].IonControlPointSequence.pop()), {"plan unreadable"}),
    "control points fewer": (lambda f: plan(f, _a_layer_less), {"plan unreadable"}),
    "beam numbers twice": (lambda f: plan(f, lambda d: setattr(d.IonBeamSequence[2], "BeamNumber", 2)), {"plan unreadable"}),
    "fraction group of more": (lambda f: plan(f, lambda d: d.IonBeamSequence.pop()), {"plan unreadable"}),
    "fraction group of other number": (
        lambda f: plan(f, lambda d: setattr(d.FractionGroupSequence[0], "NumberOfBeams", 3)), {"plan unreadable"},
    ),
    "photon plan": (lambda f: plan(f, _photon), {"not an ion plan"}),
    "other DICOM": (_other, {"not an ion plan"}),
    "no PlanInfo": (lambda f: (deliveries(f)[0] / "PlanInfo.txt").unlink(), {"no PlanInfo"}),
    "no PlanRange": (lambda f: (deliveries(f)[0] / "PlanRange.txt").unlink(), {"no PlanRange"}),
    "PlanInfo lacks a key": (lambda f: info(f, "TCSC_PLAN_NUMBER", None), {"PlanInfo"}),
    "PlanInfo lacks a value": (lambda f: info(f, "TCSC_FIELD_NUMBER", ""), {"PlanInfo"}),
    "PlanInfo lacks its beam": (lambda f: info(f, "DICOM_BEAM_NUMBER", None), {"PlanInfo"}),
    "PlanInfo with words": (lambda f: info(f, "STOP_LAYER_NUMBER", "many"), {"PlanInfo"}),
    "PlanInfo says two things": (lambda f: _info_file(f, b"START_LAYER_NUMBER,7\n"), {"PlanInfo"}),
    "PlanInfo torn": (lambda f: _info_file(f, b"SHARE_D"), {"PlanInfo"}),
    "PlanInfo twice": (lambda f: shutil.copy(deliveries(f)[0] / "PlanInfo.txt", deliveries(f)[0] / "PlanInfo.csv"), {"PlanInfo"}),
    "PlanInfo too large": (lambda f: _info_file(f, b" " * (64 << 10)), {"PlanInfo"}),
    "PlanRange empty": (lambda f: (deliveries(f)[0] / "PlanRange.txt").write_text(""), {"PlanRange"}),
    "PlanRange without rows": (lambda f: rows(f, lambda t: t.__delitem__(slice(1, None))), {"PlanRange"}),
    "PlanRange lacks a column": (lambda f: rows(f, lambda t: t[0].__setitem__(1, "LAYER")), {"PlanRange"}),
    "PlanRange torn": (lambda f: rows(f, lambda t: t.__setitem__(-1, t[-1][:5])), {"PlanRange"}),
    "PlanRange with words": (lambda f: rows(f, lambda t: t[1].__setitem__(1, "one")), {"PlanRange"}),
    "PlanRange names twice": (lambda f: rows(f, lambda t: t[2].__setitem__(9, t[1][9])), {"PlanRange"}),
    "PlanRange too large": (lambda f: rows(f, lambda t: t.append([" " * (4 << 20)])), {"PlanRange"}),
    "PlanRange quoted badly": (lambda f: rows(f, lambda t: t[1].__setitem__(2, '"1')), {"PlanRange"}),
    "no delivery": (lambda f: shutil.rmtree(deliveries(f)[2]), {"no delivery"}),
    "delivered twice": (lambda f: add(f, BEAMS[2], 3, 3 * TURN), {"delivered twice"}),
    "parts": (lambda f: _parts(f, range(1, 3), range(3, 5)), {"delivered twice", "parts", "layer count"}),
    "broken off": (lambda f: _parts(f, range(1, 2), range(1, 5)), {"delivered twice", "parts", "layer count"}),
    "unknown beam": (lambda f: add(f, Beam(9, "x", 2), 4, 3 * TURN), {"unknown beam"}),
    "setup beam": (lambda f: add(f, Beam(1, "Setup", 2), 4, 3 * TURN), {"setup beam"}),
    "missing ptn": (lambda f: log(f, "ptn").unlink(), {"missing log"}),
    "missing mgn": (lambda f: log(f, "mgn").unlink(), {"missing log"}),
    "extra ptn": (_extra("ptn"), {"extra log"}),
    "extra mgn": (_extra("mgn"), {"extra log"}),
    "logs swapped in PlanRange": (lambda f: rows(f, lambda t: t[1].append(t[1].pop(9))), {"log name"}),
    "log name": (lambda f: _named(f, "RR_00007001_001_001_", "RR_00007001_001_"), {"log name"}),
    "empty ptn": (lambda f: log(f, "ptn").write_bytes(b""), {"empty log"}),
    "empty mgn": (lambda f: log(f, "mgn").write_bytes(b""), {"empty log"}),
    "torn ptn": (lambda f: cut(log(f, "ptn"), 33), {"torn log"}),
    "torn mgn": (lambda f: cut(log(f, "mgn"), 3), {"torn log"}),
    "short log": (lambda f: cut(log(f, "ptn"), 2 * 16), {"short log"}),
    "a layer fewer": (_layer, {"layer count"}),
    "layers not those of PlanInfo": (lambda f: info(f, "STOP_LAYER_NUMBER", "4"), {"layer count"}),
    "layers out of order": (lambda f: rows(f, lambda t: t.reverse() or t.insert(0, t.pop())), {"layer count"}),
    "another patient": (lambda f: info(f, "DICOM_PATIENT_ID", "OTHER77"), {"ids"}),
    "another study": (lambda f: info(f, "DICOM_STUDY_INS_UID", "2.25.99"), {"ids"}),
    "another study's folder": (lambda f: plan(f, lambda d: setattr(d, "StudyInstanceUID", "2.25.99")), {"ids"}),
    "another plan's name": (lambda f: next(f.glob("*.dcm")).rename(f / "RP.2.25.98.1.dcm"), {"ids"}),
    "another number": (lambda f: info(f, "TCSC_PATIENT_ID", "7009"), {"ids"}),
    "another plan number": (lambda f: info(f, "TCSC_PLAN_NUMBER", "2"), {"ids"}),
    "another patient's delivery": (_mistaken, {"ids"}),
    "another plan's delivery": (_replanned, {"ids"}),
    "another field": (lambda f: info(f, "TCSC_FIELD_NUMBER", "2"), {"ids"}),
    "another id in names": (lambda f: _named(f, "RR_00007001_", "RR_00007008_"), {"ids"}),
    "another layer in names": (lambda f: _named(f, "_001_003.", "_001_008."), {"ids"}),
    "another patient in PlanRange": (lambda f: rows(f, lambda t: t[1].__setitem__(3, "7002")), {"ids"}),
    "another field in PlanRange": (lambda f: rows(f, lambda t: t[1].__setitem__(4, "2")), {"ids"}),
    "delivery name": (lambda f: _renamed(f, "2026110309100100"), {"delivery name"}),
    "impossible time": (_impossible, {"delivery name"}),
    "strange folder": (lambda f: shutil.copytree(deliveries(f)[0], f / "copy"), {"strange folder"}),
    "strange folder below": (lambda f: shutil.copytree(deliveries(f)[0], deliveries(f)[1] / "x" / "y"), {"strange folder"}),
    "log without a folder": (lambda f: shutil.copy(log(f, "mgn"), f / "x.mgn"), {"strange folder"}),
    "fractions": (lambda f: (shutil.rmtree(deliveries(f)[2]), add(f, BEAMS[2], 3, DAY)), {"fractions"}),
    "two fractions": (lambda f: fraction(f, DAY), {"fractions", "delivered twice"}),
    "no treatment beam": (lambda f: plan(f, _setup), {"no beam", "setup beam"}),
}  # fmt: skip
