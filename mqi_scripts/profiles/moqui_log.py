"""The profile `moqui-log`: an RT Ion Plan, and one delivery a treatment beam with measured logs. Reads; moqui_rules judges.

Of a case only small files are opened: plans, PlanInfo and PlanRange, and the last row of each .mgn. Values that pydicom reads
never reach a sentence, but for the plan's UID and the beams' numbers and names.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from pydicom.dataset import Dataset

from mqi_scripts.profiles import Checked, Content, dicom, moqui_case, moqui_dose, moqui_rules
from mqi_scripts.profiles.moqui_case import KINDS, TOLD, Beam, Delivery, Plan
from mqi_scripts.pure.decide import wanted
from mqi_scripts.words import Unreachable
from mqi_scripts.world import config, folder

LIMITS = {"dcm": 64 << 20, "PlanInfo": 64 << 10, "PlanRange": 4 << 20}  # bytes beyond which a file is not read
IDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID")


# --- the case


def read(
    top: int, seen: folder.Folder, folder_name: str, scan: config.Scan, salt: str, chosen: Sequence[str],
    known: Callable[[str], bool],
) -> list[Content]:  # fmt: skip
    """See profiles.Profile.read."""
    names = tuple(sorted(seen.sizes))
    try:
        plans = tuple(_plan(top, name, seen.sizes[name]) for name in names if name.lower().endswith(".dcm"))
        folders = sorted({name.partition("/")[0] for name in names if "/" in name})
        deliveries = tuple(_delivery(top, name, seen.sizes) for name in folders if moqui_case.DELIVERY.fullmatch(name))
    except OSError as error:
        raise Unreachable(f"{folder_name}: a file of it cannot be read ({error.strerror}); the next run looks again") from None
    case = moqui_case.Case(names, folder_name, plans, deliveries, salt)
    return moqui_rules.contents(case, scan.fractions, scan.fraction_gap, chosen, known)


def _delivery(top: int, name: str, sizes: Mapping[str, int]) -> Delivery:
    own = {path.rpartition("/")[2]: size for path, size in sizes.items() if path.rpartition("/")[0] == name}
    texts: dict[str, bytes | None] = {}
    ends: dict[str, int] = {}
    for file, size in own.items():
        if file in TOLD:
            fits = size <= LIMITS[file.partition(".")[0]]
            texts[file] = _bytes(top, f"{name}/{file}", size, size) if fits else None
        elif file.endswith(".mgn") and size and size % KINDS[".mgn"] == 0:
            ends[file] = int.from_bytes(_bytes(top, f"{name}/{file}", size, KINDS[".mgn"])[:4], "big")
    return moqui_case.delivery(name, texts, own, ends)


def _bytes(top: int, name: str, size: int, count: int) -> bytes:
    """The last bytes of a file that has that size. Raises OSError where it has another now."""
    with _opened(top, name) as file:
        raw = os.pread(file.fileno(), count, size - count)
        if len(raw) != count or os.fstat(file.fileno()).st_size != size:
            raise OSError(0, "it changes")
    return raw


@contextmanager
def _opened(top: int, name: str) -> Iterator[BinaryIO]:
    """A regular file below the descriptor top, no link followed. Raises OSError."""
    *folders, last = name.split("/")
    with ExitStack() as stack:
        for part in folders:
            top = stack.enter_context(folder.opened(part, top))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = stack.enter_context(open(os.open(last, flags, dir_fd=top), "rb"))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is no regular file any more")
        yield file


# --- the plan


def _plan(top: int, name: str, size: int) -> Plan:
    if size > LIMITS["dcm"]:
        return Plan(name, "", "it is over 64 MB", "", "", "", ())
    try:
        with _opened(top, name) as file, dicom.reading():
            data, last = dicom.dataset(file, [*IDS, "FractionGroupSequence", "IonBeamSequence"], dose=False)
            kind, uid, study, patient = (dicom.text(data, tag) for tag in IDS)
            end = file.tell() if last.length == dicom.UNDEFINED else last.start + last.length
            beams, fault = _beams(data) if kind == moqui_case.ION else ((), "")
    except dicom.Unreadable:
        return Plan(name, "", "it is no DICOM file, or truncated", "", "", "", ())
    lacks = [tag for tag in IDS if not dicom.text(data, tag)]
    if end != size:
        fault = f"it is truncated: {size} bytes, where its last element ends at {end}"
    elif lacks and kind in ("", *moqui_case.PLANS):
        fault = f"it lacks {', '.join(lacks)}: truncated?"
    return Plan(name, kind, fault, uid, study, patient, beams)


def _beams(plan: Dataset) -> tuple[tuple[Beam, ...], str]:
    """The beams, and how the plan contradicts itself."""
    beams: list[Beam] = []
    for item in plan.get("IonBeamSequence") or ():
        number, kind = item.get("BeamNumber"), dicom.text(item, "TreatmentDeliveryType")
        if not isinstance(number, int) or not kind:
            return (), "one of its beams lacks its BeamNumber or TreatmentDeliveryType"
        setup, count = kind == "SETUP", len(item.get("IonControlPointSequence") or ())
        if not setup and (not count or count != item.get("NumberOfControlPoints") or count % 2):
            return (), f"its beam {number} has {count} control points: not what its NumberOfControlPoints says, or not two a layer"
        beams.append(Beam(int(number), dicom.text(item, "BeamName"), setup, count // 2))
    numbers = {beam.number for beam in beams}
    if len(numbers) != len(beams) or not beams:
        return (), "two of its beams have the same number" if beams else "it has no IonBeamSequence: truncated?"
    for group in plan.get("FractionGroupSequence") or ():
        used = [item.get("ReferencedBeamNumber") for item in group.get("ReferencedBeamSequence") or ()]
        if set(used) - numbers or (group.get("NumberOfBeams") or 0) > len(beams):
            return (), "its FractionGroupSequence has beams that its IonBeamSequence lacks"
        if used and len(used) != group.get("NumberOfBeams"):
            return (), "its FractionGroupSequence names more or fewer beams than its NumberOfBeams says"
    return tuple(beams), ""


# --- the results


def results(facts: Mapping[str, Any], per_beam: str, listed: Sequence[str], paths: Mapping[str, str]) -> Checked:
    """See profiles.Profile.results."""
    if facts.get("profile") != "moqui-log":
        return Checked((), {}, (), ("the results: the case was read under another profile than moqui-log",))
    beams, dose = facts["beams"], wanted(list(listed), (per_beam,)) if per_beam else []
    owners, wrong = moqui_rules.assigned(beams, dose) if per_beam else ({}, [])
    wrong += [(name, f"{name} did not come back: job.results does not match it") for name in dose if name not in paths]
    looked = sorted(name for name in paths if (name in dose if per_beam else name.lower().endswith(".dcm")))
    unchecked = [] if per_beam else ["whether each beam has its dose file: job.results_per_beam is not set"]
    for name in looked:
        said = moqui_dose.judged(name, paths, listed, facts["plan"], owners.get(name, {}).get("number"))
        wrong += [(name, f"{name}: {said.fault}")] if said.fault else []
        unchecked += [f"{name}: {said.open}"] if said.open else []
    rest = len(paths) - len(looked)
    unchecked += [f"the content of {rest} results that are no dose files"] if rest else []
    checked = [f"{len(dose)} dose files are named by {len(beams)} treatment beams, one each"] if per_beam else []
    checked += [f"the form of {len(looked)} dose files, and the plan and beam that they name"] if looked else []
    return Checked(tuple(wrong), {name: beam["name"] for name, beam in owners.items()}, tuple(checked), tuple(unchecked))
