"""What is wrong with a case of the profile moqui-log: rules over values; no clock, disk or network here.

`contents` groups deliveries into cases and judges each by RULES; a new rule is one more function there. `assigned` gives dose
files to beams.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mqi_scripts.profiles import Content
from mqi_scripts.profiles.moqui_case import (
    DELIVERY, ION, KINDS, LOG, MEASURED, PLANNED, PLANS, TOLD, Beam, Case, Delivery, Plan,
)  # fmt: skip
from mqi_scripts.pure.tables import printable
from mqi_scripts.words import Reason

CODES = {
    "no plan": "no RT Ion Plan (*.dcm) lies in the case folder itself",
    "two plans": "more than one radiotherapy plan lies in the folder",
    "plan unreadable": "a *.dcm is truncated, too large, no DICOM, or its parts contradict each other",
    "not an ion plan": "the only DICOM files are of another kind",
    "no beam": "the plan has no treatment beam, only SETUP beams or none",
    "no PlanInfo": "a delivery has neither PlanInfo.txt nor PlanInfo.csv",
    "no PlanRange": "a delivery has neither PlanRange.txt nor PlanRange.csv",
    "PlanInfo": "a delivery's PlanInfo lacks a key, has one twice, or cannot be read",
    "PlanRange": "a delivery's PlanRange lacks a column, has a broken row, or cannot be read",
    "no delivery": "a treatment beam of the plan has no delivery",
    "delivered twice": "a beam has more than one delivery",
    "parts": "the deliveries of one beam have layers that differ: broken off, or delivered in parts",
    "unknown beam": "a delivery is of a beam that the plan lacks",
    "setup beam": "a delivery is of a SETUP beam",
    "missing log": "a .ptn or .mgn that PlanRange names is not there",
    "extra log": "a .ptn or .mgn is there that PlanRange does not name",
    "log name": "a name in PlanRange is not <room>_<id>_<plan>_<field>_<layer> with .ptn or .mgn",
    "empty log": "a .ptn or .mgn has no bytes",
    "torn log": "a .ptn's size is no multiple of 16, or a .mgn's none of 14",
    "short log": "a .ptn ends before the last time of its .mgn",
    "layer count": "PlanRange, START/STOP_LAYER_NUMBER and the plan disagree on the layers of a beam",
    "ids": "study, plan or patient ids disagree between plan, PlanInfo, PlanRange and names",
    "delivery name": "a delivery's folder is not named by its TCSC_IRRAD_DATETIME, or by no possible time",
    "strange folder": "files of a delivery lie outside of a delivery's folder",
    "fractions": "deliveries are further apart than scan.fraction_gap",
    "choice": "a delivery that a person chose is not there",
}
PLACES = 20  # reasons of one code that are listed
UID = re.compile(r"[0-9]+(\.[0-9]+)+")
PLAN_NAME = re.compile(r"RP\.([0-9.]+)\.[0-9]+\.dcm", re.IGNORECASE)
TICKS = 60  # of a .mgn's time for one row of the .ptn
SLACK = (0.67, 10.0)  # rows of a .ptn beyond the last time of its .mgn that need no remark; measured: 0.67 to 2.33


class Part(NamedTuple):
    """What is judged: a plan (None: there is no sound one) and deliveries that are to be computed together."""

    case: Case
    plan: Plan | None
    deliveries: tuple[Delivery, ...]

    @property
    def treated(self) -> list[Beam]:
        return [beam for beam in self.plan.beams if not beam.setup] if self.plan else []

    def beam(self, delivery: Delivery) -> Beam | None:
        number = delivery.number("DICOM_BEAM_NUMBER")
        return next((beam for beam in self.plan.beams if beam.number == number), None) if self.plan else None

    def of(self, beam: Beam) -> list[Delivery]:
        return [d for d in self.deliveries if d.number("DICOM_BEAM_NUMBER") == beam.number]

    def hashed(self, text: str) -> str:
        """What is shown of an id: it can be compared, and not be read."""
        return hashlib.sha256((self.case.salt + text).encode("utf-8", "surrogateescape")).hexdigest()[:8]

    def shown(self, name: str) -> str:
        """A file's name without the ids in it."""
        if form := LOG.fullmatch(name):
            return printable("_".join((form[1], self.hashed(form[2]), *form.groups()[2:5]))) + form[6]
        told = [d.info.get(key, "") for d in self.deliveries for key in ("DICOM_PATIENT_ID", "TCSC_PATIENT_ID")]
        for known in {*told, self.plan.patient if self.plan else ""}:
            if len(known) > 3:  # noqa: PLR2004  # a shorter one hides nothing and spoils every name
                name = name.replace(known, self.hashed(known))
        return printable(name)[:120]


# --- grouping


def fractions(deliveries: Iterable[Delivery], gap: float) -> list[list[Delivery]]:
    """Deliveries whose starts are at most gap seconds apart, by time; what has no possible time may belong to each of them."""
    groups: list[list[Delivery]] = []
    last: datetime | None = None
    for one in sorted(deliveries, key=lambda d: d.name):
        if one.start and last and one.start - last <= timedelta(seconds=gap):
            groups[-1].append(one)
        elif one.start:
            groups.append([one])
        last = one.start or last
    undated = [one for one in deliveries if not one.start]
    return [group + undated for group in groups] or [undated]


def contents(case: Case, mode: str, gap: float, chosen: Sequence[str], known: Callable[[str], bool]) -> list[Content]:
    """The cases in a folder. mode: hold, first or each, see scan.fractions; chosen: only these deliveries are meant, of each
    fraction that has one of them where each is a case."""
    meant = [d for d in case.deliveries if not chosen or d.name in chosen]
    lost = sorted(set(chosen) - {d.name for d in case.deliveries})
    more = [Reason("choice", printable(name)[:40], f"the chosen delivery {printable(name)[:40]} is not there") for name in lost]
    groups = fractions(meant, gap)
    if mode == "each":
        made = []
        for every in fractions(case.deliveries, gap):
            group = [d for d in every if d in meant] or every
            dated = [d.name for d in group if d.start]
            one = _content(case, group, next(filter(known, dated), dated[0] if dated else ""), more)
            made.append(one._replace(left=tuple(d.name for d in every if d not in group)))  # other fractions are other cases
        return made
    if mode == "first":
        made = [_content(case, group, "", more) for group in groups]
        return [next((one for one in made if not one.reasons), made[0])]
    if len(groups) > 1:
        listed = " | ".join(", ".join(d.name for d in group if d.start) for group in groups)
        text = f"its deliveries make {len(groups)} fractions, further apart than scan.fraction_gap: {listed[:600]}"
        more.append(Reason("fractions", "", text))
    return [_content(case, meant, "", more)]


def _content(case: Case, group: Sequence[Delivery], part: str, more: Sequence[Reason]) -> Content:
    left = sorted({d.name for d in case.deliveries} - {d.name for d in group})
    near = [name for name in case.names if not name.startswith(tuple(f"{other}/" for other in left))]
    plan, reasons = _plan(case.plans)
    judged = Part(case, plan, tuple(sorted(group, key=lambda d: d.name)))
    found = [reason for rule in RULES for reason in rule(judged)]
    reasons = [*reasons, *found, *_strange(judged, near), *more]
    names, remarks = near, _remarks(judged, near)
    if part:
        own = tuple(f"{d.name}/" for d in group)
        plans = [one.place for one in case.plans if one.kind in PLANS or one.fault]
        names = [name for name in near if name in plans or name.startswith(own)]
    beams = [{"number": beam.number, "name": printable(beam.name), "layers": beam.layers,
              "delivery": next((d.name for d in judged.of(beam)), "")} for beam in judged.treated]  # fmt: skip
    facts = {"profile": "moqui-log", "plan": plan.uid if plan else "", "beams": beams, "remarks": remarks}
    return Content(part, tuple(names), tuple(left), tuple(_listed(reasons)), facts)


def _listed(reasons: Sequence[Reason]) -> Iterator[Reason]:
    """Grouped by code, with a number in place of what is too long to be read."""
    for code in dict.fromkeys(reason.code for reason in reasons):
        same = [reason for reason in dict.fromkeys(reasons) if reason.code == code]
        yield from same[:PLACES]
        if len(same) > PLACES:
            yield Reason(code, "", f"{len(same) - PLACES} more of the kind: {code}")


# --- rules of the folder


def _plan(files: Sequence[Plan]) -> tuple[Plan | None, list[Reason]]:
    """The one plan there must be, and what is wrong with it."""
    plans = [file for file in files if file.kind in PLANS]
    reasons = [Reason("plan unreadable", p.place, f"{p.place}: {p.fault}") for p in files if p.fault]
    if len(plans) > 1:
        names = ", ".join(plan.place for plan in plans)
        reasons.append(Reason("two plans", "", f"{len(plans)} plans: {names[:600]}"))
    elif not files:
        reasons.append(Reason("no plan", "", "no RT Ion Plan (*.dcm) is there"))
    elif not plans and not reasons:
        reasons.append(Reason("not an ion plan", files[0].place, f"{files[0].place} is no plan, and no other *.dcm is one"))
    elif plans and plans[0].kind != ION:
        reasons.append(Reason("not an ion plan", plans[0].place, f"{plans[0].place} is a plan, but no RT Ion Plan"))
    elif plans and "/" in plans[0].place:
        reasons.append(Reason("no plan", plans[0].place, f"the plan is {plans[0].place}, not in the case folder itself"))
    if reasons:
        return None, reasons
    lacks = [Reason("no beam", plans[0].place, f"{plans[0].place} has no treatment beam")]
    return plans[0], lacks if all(beam.setup for beam in plans[0].beams) else []


def _strange(part: Part, names: Sequence[str]) -> Iterator[Reason]:
    """A delivery's files where no delivery is."""
    places = {name.rpartition("/")[0] for name in names if _of_delivery(name)}
    for place in sorted(places - {d.name for d in part.case.deliveries}):
        shown = part.shown(place) or "the case folder itself"
        yield Reason("strange folder", part.shown(place), f"{shown} has files of a delivery, and its name is not one's 16 digits")


def _of_delivery(name: str) -> bool:
    last = name.rpartition("/")[2].lower()
    return last.endswith(tuple(KINDS)) or last in map(str.lower, TOLD)


def _remarks(part: Part, names: Sequence[str]) -> list[str]:
    """What holds nothing and should be known."""
    plan = part.plan.place if part.plan else ""
    unknown = [part.shown(name) for name in names if name != plan and not _of_delivery(name)]
    remarks = [f"{len(unknown)} files that the profile does not know: {', '.join(unknown[:5])}"] if unknown else []
    for one in part.deliveries:
        odd = [f"layer {row['LAYER_NO']} by {beyond:.1f} rows" for row in one.rows if (beyond := _beyond(one, row)) is not None
               and beyond >= 0 and not SLACK[0] <= beyond <= SLACK[1]]  # fmt: skip
        if odd:
            remarks.append(f"{one.name}: {len(odd)} .ptn outlast their .mgn unusually: {', '.join(odd[:5])}")
    return remarks


# --- rules of the deliveries


def _told_by_itself(part: Part) -> Iterator[Reason]:
    for one in part.deliveries:
        yield from one.faults
        said = one.info.get("TCSC_IRRAD_DATETIME", one.name)
        if said != one.name:
            text = f"delivery {one.name}: its PlanInfo has another TCSC_IRRAD_DATETIME"
            yield Reason("delivery name", one.name, text + (f", {said}" if DELIVERY.fullmatch(said) else ""))
        if not one.start:
            yield Reason("delivery name", one.name, f"delivery {one.name}: its name is no possible time")


def _beams(part: Part) -> Iterator[Reason]:
    """Each treatment beam has one delivery, and each delivery is of a treatment beam."""
    if not part.plan:
        return
    untold = [one for one in part.deliveries if one.number("DICOM_BEAM_NUMBER") is None]
    lonely = [beam for beam in part.treated if not part.of(beam)]
    for beam in lonely if len(lonely) > len(untold) else []:  # which it is of, is not known: unknown is not absent
        yield Reason("no delivery", f"beam {beam.number}", f"{_called(beam)} has no delivery")
    for one in part.deliveries:
        number, beam_or_none = one.number("DICOM_BEAM_NUMBER"), part.beam(one)
        if number is not None and not beam_or_none:
            yield Reason("unknown beam", one.name, f"delivery {one.name} is of beam {number}, which the plan lacks")
        elif beam_or_none and beam_or_none.setup:
            yield Reason("setup beam", one.name, f"delivery {one.name} is of beam {number}, which is a SETUP beam")
    for beam in part.treated:
        yield from _repeats(beam, part.of(beam))


def _repeats(beam: Beam, deliveries: Sequence[Delivery]) -> Iterator[Reason]:
    if len(deliveries) > 1:
        place, names = f"beam {beam.number}", ", ".join(one.name for one in deliveries)
        yield Reason("delivered twice", place, f"{_called(beam)} has {len(deliveries)} deliveries: {names}")
        if any(one.rows and len(one.rows) != beam.layers for one in deliveries):
            lie = "; ".join(f"{one.name} has layers {_ranges(one.layers)}" for one in deliveries)
            yield Reason("parts", place, f"{_called(beam)} of {beam.layers} layers came in parts or broke off: {lie}")


def _called(beam: Beam) -> str:
    return f"beam {beam.number} ({printable(beam.name)})"


def _ranges(numbers: Sequence[int]) -> str:
    """1-3, 5, 7-8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs[:PLACES]) or "unknown"


def _logs(part: Part) -> Iterator[Reason]:
    """The files that PlanRange names are those that are there."""
    for one in part.deliveries:
        named = [row[key] for row in one.rows for key in (MEASURED, PLANNED)]
        for name in named:
            if name not in one.sizes:
                yield _log("missing log", part, one, name, "is named by PlanRange and is not there")
        for name in sorted(one.sizes):
            if name.lower().endswith(tuple(KINDS)) and one.rows and name not in named:
                yield _log("extra log", part, one, name, "is there, and PlanRange does not name it")


def _sizes(part: Part) -> Iterator[Reason]:
    for one in part.deliveries:
        for name, size in sorted(one.sizes.items()):
            unit = KINDS.get(name[-4:].lower(), 0)
            if unit and not size:
                yield _log("empty log", part, one, name, "is empty")
            elif unit and size % unit:
                yield _log("torn log", part, one, name, f"has {size} bytes, which is no whole number of rows of {unit}")
        for row in one.rows:
            beyond = _beyond(one, row)
            if beyond is not None and beyond < 0:
                yield _log("short log", part, one, row[MEASURED], f"ends {-beyond:.1f} rows before the last time of its .mgn")


def _beyond(one: Delivery, row: Mapping[str, str]) -> float | None:
    """How many rows a sound .ptn has beyond the last time of its .mgn; None if it cannot be told."""
    size, end = one.sizes.get(row[MEASURED], 0), one.ends.get(row[PLANNED])
    return size / KINDS[".ptn"] - end / TICKS if size and size % KINDS[".ptn"] == 0 and end is not None else None


def _log(code: str, part: Part, one: Delivery, name: str, text: str) -> Reason:
    place = f"{one.name}/{part.shown(name)}"
    return Reason(code, place, f"{place} {text}")


def _layers(part: Part) -> Iterator[Reason]:
    for one in part.deliveries:
        first, last, beam = one.number("START_LAYER_NUMBER"), one.number("STOP_LAYER_NUMBER"), part.beam(one)
        lists = f"delivery {one.name}: PlanRange lists {len(one.rows)} layers ({_ranges(one.layers)})"
        if one.rows and first is not None and last is not None and (
            len(one.rows) != last - first + 1 or any(n != first + i for i, n in enumerate(one.layers))
        ):  # fmt: skip
            yield Reason("layer count", one.name, f"{lists}, PlanInfo says {first} to {last}")
        if one.rows and beam and not beam.setup and len(one.rows) != beam.layers:
            yield Reason("layer count", one.name, f"{lists}, {_called(beam)} of the plan has {beam.layers}")


# --- rules of the ids: what disagrees is shown as hashes, see Part.hashed


def _ids(part: Part) -> Iterator[Reason]:
    plan, folder = part.plan, part.case.folder
    if plan and UID.fullmatch(folder):
        yield from _differ(part, "", "study UID", [("the folder's name", folder), ("the plan", plan.study)])
    if plan and (form := PLAN_NAME.fullmatch(plan.place)):
        yield from _differ(part, "plan", "SOP instance UID", [("the plan's file name", form[1]), ("the plan", plan.uid)])
    for one in part.deliveries:
        info, first = one.info, part.deliveries[0]
        if plan:
            told = [("PlanInfo", info.get("DICOM_PATIENT_ID", "")), ("the plan", plan.patient)]
            yield from _differ(part, one.name, "patient id", told)
            told = [("PlanInfo", info.get("DICOM_STUDY_INS_UID", "")), ("the plan", plan.study)]
            yield from _differ(part, one.name, "study UID", told)
        for key in ("TCSC_PATIENT_ID", "TCSC_PLAN_NUMBER"):
            told = [("PlanInfo", _bare(info.get(key, ""))), (f"that of {first.name}", _bare(first.info.get(key, "")))]
            yield from _differ(part, one.name, key, told)
        yield from _names(part, one)


def _names(part: Part, one: Delivery) -> Iterator[Reason]:
    """Of the logs that PlanRange names, and its own columns, against PlanInfo."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for row in one.rows:
        known = {"TCSC_PATIENT_ID": one.info.get("TCSC_PATIENT_ID", ""), "plan number": one.info.get("TCSC_PLAN_NUMBER", ""),
                 "field number": one.info.get("TCSC_FIELD_NUMBER", ""), "layer number": row["LAYER_NO"]}  # fmt: skip
        pairs.setdefault("PATIENT_ID of PlanRange", []).append((row["PATIENT_ID"], known["TCSC_PATIENT_ID"]))
        pairs.setdefault("FLD_NO of PlanRange", []).append((row["FLD_NO"], known["field number"]))
        for key, kind in ((MEASURED, ".ptn"), (PLANNED, ".mgn")):
            form = LOG.fullmatch(row[key])
            if not form or form[6] != kind:
                yield _log("log name", part, one, row[key], f"is no <room>_<id>_<plan>_<field>_<layer>{kind}")
                continue
            for what, said in zip(known, form.groups()[1:5], strict=True):
                pairs.setdefault(f"{what} in {kind} names", []).append((said, known[what]))
    for what, both in pairs.items():
        other = [(_bare(said), _bare(meant)) for said, meant in both if meant and _bare(said) != _bare(meant)]
        if other:
            (reason,) = _differ(part, one.name, what, [("there", other[0][0]), ("expected", other[0][1])])
            yield reason._replace(text=f"{reason.text}, in {len(other)} of {len(both)}")


def _bare(text: str) -> str:
    """Without leading zeros, which names have and tables may lack."""
    return text.lstrip("0") or text[:1]


def _differ(part: Part, place: str, what: str, told: Sequence[tuple[str, str]]) -> Iterator[Reason]:
    """A reason if both have the id and they are not the same."""
    (one, a), (other, b) = told
    if a and b and a != b:
        where = f"delivery {place}: " if DELIVERY.fullmatch(place) else ""
        yield Reason("ids", place, f"{where}the {what} differs: {one} has #{part.hashed(a)}, {other} #{part.hashed(b)}")


RULES: tuple[Callable[[Part], Iterator[Reason]], ...] = (_told_by_itself, _beams, _logs, _sizes, _layers, _ids)


# --- results


def assigned(beams: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The beam of each dose file, by its base name; and what is wrong: a file without one beam, a beam without one file."""
    found: dict[str, Any] = {}
    wrong = []
    for name in names:
        fits = _fitting(beams, name.rpartition("/")[2])
        if len(fits) == 1:
            found[name] = fits[0]
        else:
            several = " and ".join(f"{beam['name']} ({beam['number']})" for beam in fits)
            wrong.append((name, f"{name} is named by no treatment beam" if not fits else f"{name} may be of beam {several}"))
    for beam in beams:
        mine = [name for name, owner in found.items() if owner is beam]
        called = f"beam {beam['name']} ({beam['number']})"
        if not mine:
            wrong.append(("", f"{called} has no dose file"))
        wrong += [(name, f"{name} is a second dose file of {called}") for name in mine[1:]]
    return found, wrong


def _fitting(beams: Sequence[Mapping[str, Any]], base: str) -> list[Mapping[str, Any]]:
    """Of the beams whose name begins the base name, those with the longest; of equal names, the one that `<name>_<number>_` says.

    A name may stand there as it is, or with `_` for what SMB does not allow.
    """
    fits = [beam for beam in beams
            if base.startswith(tuple(name + end for name in (beam["name"], smb(beam["name"])) for end in "_."))]  # fmt: skip
    fits = [beam for beam in fits if len(beam["name"]) == max(len(other["name"]) for other in fits)]
    if len(fits) > 1:
        said = [beam for beam in fits if re.match(rf"_{beam['number']}_", base[len(beam["name"]) :])]
        fits = said or fits
    return fits


def smb(name: str) -> str:
    """A name with `_` for the characters that SMB does not allow."""
    return re.sub(r'[:\\/*?"<>|]', "_", name)
