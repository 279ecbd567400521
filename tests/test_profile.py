"""The profile moqui-log: every shape that must not be computed is held with its reason, whole cases are not, results are checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import make
import pytest
from conftest import REPO

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.demo import compute
from mqi_scripts.demo.make_case import Beam, dose
from mqi_scripts.profiles import Checked, Content, moqui_rules
from mqi_scripts.world import config, folder

SALT = "the ledger's id"
SECRETS = ("DEMO001", "Made", "7001")  # of every case of seed 1: patient id, patient name, id in the names


def rules(mode: str = "hold", gap: float = 3600.0) -> config.Scan:
    """The scan's part of a site with every default, but for these."""
    schema = json.loads(Path(config.schema_file("config")).read_text())
    return config.Scan(**config._filled({}, schema["properties"]["scan"]))._replace(fractions=mode, fraction_gap=gap)


def read_all(case: Path, mode: str = "hold", chosen: Sequence[str] = (), known: Iterable[str] = (), gap: float = 3600.0) -> list[Content]:
    """The cases of a folder, as mqi-scan would ask for them."""
    sizes = {str(path.relative_to(case)): path.stat().st_size for path in case.rglob("*") if path.is_file()}
    with folder.opened(str(case)) as top:
        found = profiles.named("moqui-log").read(
            top, folder.Folder(sizes, "", 0, ()), case.name, rules(mode, gap), SALT, chosen, set(known).__contains__
        )
    told = json.dumps([(one.reasons, one.facts) for one in found])
    assert not [secret for secret in SECRETS if secret in told], told
    assert {reason.code for one in found for reason in one.reasons} <= set(moqui_rules.CODES)
    assert all(reason.text.isprintable() and reason.place.isprintable() for one in found for reason in one.reasons)
    return found


def read(case: Path, **how: Any) -> Content:
    (content,) = read_all(case, **how)
    return content


def codes(content: Content) -> set[str]:
    return {reason.code for reason in content.reasons}


def texts(content: Content) -> str:
    return "\n".join(reason.text for reason in content.reasons)


# --- whole cases


def test_a_whole_case_has_no_reason_and_says_what_to_expect(tmp_path: Path) -> None:
    case = make.case(tmp_path)
    content = read(case)
    assert content.reasons == ()
    assert content.part == ""
    assert content.left == ()
    assert content.names == tuple(sorted(str(path.relative_to(case)) for path in case.rglob("*") if path.is_file()))
    names = [path.name for path in make.deliveries(case)]
    assert content.facts == {"profile": "moqui-log", "plan": "2.25.1002.1", "remarks": [], "beams": [
        {"number": beam.number, "name": beam.name, "layers": beam.layers, "delivery": name}
        for beam, name in zip(make.BEAMS, names, strict=True)
    ]}  # fmt: skip


def test_the_profile_files_knows_nothing_and_takes_all(tmp_path: Path) -> None:
    files = profiles.named("files")
    assert files.read(0, folder.Folder({"b": 1, "a": 0}, "", 0, ()), "x", rules(), "", [], bool) == [Content("", ("a", "b"), (), (), {})]
    checked = files.results({}, "", ["a"], {"a": "/x"})
    assert checked.wrong == ()
    assert "`files`" in checked.unchecked[0]


def test_a_profile_without_its_library_names_the_command(tmp_path: Path) -> None:
    """A real interpreter that cannot find pydicom."""
    code = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; import mqi_scripts.profiles as p; "
    code += "print(p.missing('files') + '|' + p.missing('moqui-log')); p.named('moqui-log')"
    ran = subprocess.run([sys.executable, "-S", "-c", code], env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert ran.stdout.startswith("|"), ran
    assert "pip install 'mqi[dicom]'" in ran.stdout
    assert "words.Configuration" in ran.stderr
    assert profiles.missing("moqui-log") == ""


def test_the_faces_import_pydicom_only_when_it_is_used() -> None:
    code = "import sys, mqi_scripts.profiles as p; p.missing('moqui-log'); p.named('files'); assert 'pydicom' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPO)}).returncode == 0


def _txt_to_csv(case: Path) -> None:
    for path in [*case.rglob("PlanInfo.txt"), *case.rglob("PlanRange.txt")]:
        path.rename(path.with_suffix(".csv"))


def _text(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def to_all(case: Path) -> None:
        for path in [*case.rglob("PlanInfo.txt"), *case.rglob("PlanRange.txt")]:
            path.write_bytes(change(path.read_bytes()))

    return to_all


def _only_treated(data: Any) -> None:
    data.FractionGroupSequence[0].ReferencedBeamSequence.pop(0)
    data.FractionGroupSequence[0].NumberOfBeams = 3


def _undefined(data: Any) -> None:
    for element in data.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True


def _shifted(case: Path) -> None:
    """Another first number; the names follow."""
    first = make.deliveries(case)[0]
    make.info(case, "START_LAYER_NUMBER", "11")
    make.info(case, "STOP_LAYER_NUMBER", "13")
    make.rows(case, lambda table: [cells.__setitem__(1, str(int(cells[1]) + 10)) for cells in table[1:]])
    for number in (3, 2, 1):
        make.swap(first / "PlanRange.txt", f"_00{number}.", f"_01{number}.")
        for path in first.glob(f"*_00{number}.*"):
            path.rename(path.with_name(path.name.replace(f"_00{number}.", f"_01{number}.")))


FINE: dict[str, Callable[[Path], Any]] = {
    "LF": _text(lambda raw: raw.replace(b"\r\n", b"\n")),
    "CRLF": _text(lambda raw: raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")),
    "no end of the last line": _text(lambda raw: raw.rstrip(b"\r\n")),
    "trailing blanks": _text(lambda raw: raw.replace(b"\r\n", b" \t \r\n")),
    "blanks around cells": _text(lambda raw: raw.replace(b",", b" , ")),
    "empty lines": _text(lambda raw: b"\r\n" + raw.replace(b"\r\n", b"\r\n\r\n") + b"\r\n  \r\n"),
    "a byte order mark": _text(lambda raw: b"\xef\xbb\xbf" + raw),
    "latin-1": lambda case: make.info(case, "SHARE_DIR", "x") or make.swap(make.deliveries(case)[0] / "PlanInfo.txt", "SHARE_DIR,x", "SHARE_DIR,K\xfcche \x85"),
    "UTF-8": _text(lambda raw: raw.replace(b"/demo", "/한글".encode())),
    "extra keys": lambda case: make._info_file(case, b"NEW_KEY,what, ever\r\nNEW_KEY,what, ever\r\n"),
    "a key twice, the same": lambda case: make._info_file(case, b"TCSC_PLAN_NUMBER,1\r\n"),
    "no SHARE_DIR": lambda case: make.info(case, "SHARE_DIR", None),
    "extra columns": lambda case: make.rows(case, lambda table: [cells.append("x") for cells in table]),
    "other order of columns": lambda case: make.rows(case, lambda table: [cells.reverse() for cells in table]),
    "a comma too many a row": lambda case: make.rows(case, lambda table: [cells.append("") for cells in table[1:]]),
    "quoted cells": lambda case: make.rows(case, lambda table: table[1].__setitem__(2, '"1"')),
    "as .csv": _txt_to_csv,
    "leading zeros": lambda case: make.info(case, "TCSC_PLAN_NUMBER", "001") or make.info(case, "TCSC_FIELD_NUMBER", "01"),
    "layers from 11": _shifted,
    "a folder that is no UID": lambda case: case.rename(case.with_name("a case")) and None,
    "a plan's name of no form": lambda case: next(case.glob("*.dcm")).rename(case / "plan.DCM") and None,
    "implicit VR": lambda case: make.plan(case, lambda data: setattr(data.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2")),
    "two fraction groups": lambda case: make.plan(case, lambda data: data.FractionGroupSequence.append(data.FractionGroupSequence[0])),
    "no fraction group": lambda case: make.plan(case, lambda data: data.__delattr__("FractionGroupSequence")),
    "only treated beams in the fraction group": lambda case: make.plan(case, _only_treated),
    "nested undefined lengths": lambda case: make.plan(case, _undefined),
}  # fmt: skip


@pytest.mark.parametrize("shape", FINE)
def test_what_senders_may_write_otherwise_holds_nothing(shape: str, tmp_path: Path) -> None:
    case = make.case(tmp_path)
    FINE[shape](case)
    (case,) = [path for path in tmp_path.iterdir() if path.name != "home"]
    assert texts(read(case)) == ""


def test_a_deflated_plan_is_read(tmp_path: Path) -> None:
    case = make.case(tmp_path)
    make.plan(case, lambda data: setattr(data.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2.1.99"))
    assert texts(read(case)) == ""
    make.cut(next(case.glob("*.dcm")), 30)
    assert codes(read(case)) == {"plan unreadable"}


# --- each reason, alone and with another


@pytest.mark.parametrize("shape", make.BAD)
def test_a_bad_shape_is_held_with_its_reason_and_no_other(shape: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = read(make.case(tmp_path, shape))
    assert codes(content) == make.BAD[shape][1], texts(content)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", make.BAD)
def test_a_reason_hides_no_other(shape: str, tmp_path: Path) -> None:
    case = make.case(tmp_path, shape)
    damaged = make.log(case, "mgn", 1)
    make.cut(damaged, 3)
    assert codes(read(case)) == make.BAD[shape][1] | {"torn log"}


def test_every_code_has_its_shape_and_every_reason_its_code(tmp_path: Path) -> None:
    assert {code for _, found in make.BAD.values() for code in found} | {"choice"} == set(moqui_rules.CODES)
    assert all(len(code.split()) <= 2 or code == "not an ion plan" for code in moqui_rules.CODES)


def test_bad_shapes_are_told_all_at_once(tmp_path: Path) -> None:
    words = ["two plans", "no delivery", "missing ptn", "torn mgn", "another patient", "strange folder"]
    content = read(make.case(tmp_path, words))
    assert codes(content) >= {"two plans", "missing log", "torn log", "strange folder"}
    assert [reason.code for reason in content.reasons] == sorted((r.code for r in content.reasons), key=[r.code for r in content.reasons].index)


@pytest.mark.parametrize(("bad", "says"), [
    ("no delivery", "beam 5 (3G000:TX) has no delivery"),
    ("delivered twice", "beam 5 (3G000:TX) has 2 deliveries: 2026110309220000, 2026110309280000"),
    ("parts", "2026110309220000 has layers 1-2; 2026110309280000 has layers 3-4"),
    ("broken off", "2026110309220000 has layers 1; 2026110309280000 has layers 1-4"),
    ("unknown beam", "delivery 2026110309280000 is of beam 9, which the plan lacks"),
    ("setup beam", "delivery 2026110309280000 is of beam 1, which is a SETUP beam"),
    ("missing ptn", "2026110309100000/RR_{id}_001_001_002.ptn is named by PlanRange and is not there"),
    ("torn mgn", "which is no whole number of rows of 14"),
    ("short log", "RR_{id}_001_001_002.ptn ends 0.5 rows before the last time of its .mgn"),
    ("a layer fewer", "PlanRange lists 2 layers (1-2), beam 2 (1G180:TX) of the plan has 3"),
    ("another patient", "the patient id differs: PlanInfo has #"),
    ("another id in names", "the TCSC_PATIENT_ID in .ptn names differs"),
    ("another field in PlanRange", "in 1 of 3"),
    ("delivery name", "its PlanInfo has another TCSC_IRRAD_DATETIME, 2026110309100000"),
    ("fractions", "2026110309100000, 2026110309160000 | 2026110409100000"),
    ("no plan", "no RT Ion Plan (*.dcm) is there"),
    ("photon plan", "is a plan, but no RT Ion Plan"),
    ("plan too large", "it is over 64 MB"),
    ("PlanInfo lacks a key", "TCSC_PLAN_NUMBER is missing"),
    ("PlanRange torn", "row 3 has 5 cells, its header 11"),
])  # fmt: skip
def test_a_reason_says_what_a_person_needs(bad: str, says: str, tmp_path: Path) -> None:
    shown = hashlib.sha256(f"{SALT}00007001".encode()).hexdigest()[:8]
    assert says.replace("{id}", shown) in texts(read(make.case(tmp_path, bad)))


def test_ids_that_differ_are_shown_as_hashes_that_can_be_compared(tmp_path: Path) -> None:
    case = make.case(tmp_path, ["another patient", "another study"])
    told = texts(read(case))
    for value in ("OTHER77", "DEMO001", "2.25.99", "2.25.1001.1"):
        assert value not in told
        assert "#" + hashlib.sha256((SALT + value).encode()).hexdigest()[:8] in told


def test_many_faults_of_a_kind_are_cut_with_their_number(tmp_path: Path) -> None:
    case = make.case(tmp_path, beams=[Beam(2, "a", 30)])
    for path in case.rglob("*.ptn"):
        path.unlink()
    content = read(case)
    assert [reason.code for reason in content.reasons] == ["missing log"] * 21
    assert content.reasons[-1].text == "10 more of the kind: missing log"


def test_a_delivery_whose_beam_is_not_known_may_be_the_one_that_is_missing(tmp_path: Path) -> None:
    assert codes(read(make.case(tmp_path, ["PlanInfo lacks its beam"]))) == {"PlanInfo"}
    both = make.case(tmp_path / "b", ["PlanInfo lacks its beam", "no delivery"])
    assert codes(read(both)) == {"PlanInfo", "no delivery"}


def test_a_case_without_deliveries_lacks_every_beam(tmp_path: Path) -> None:
    case = make.case(tmp_path)
    for path in make.deliveries(case):
        shutil.rmtree(path)
    assert [reason.place for reason in read(case).reasons] == ["beam 2", "beam 4", "beam 5"]
    make.plan(case, make._setup)
    assert codes(read(case)) == {"no beam"}


@pytest.mark.parametrize(("rows", "held", "remark"), [(-4, True, False), (-2, True, False), (-1, False, True), (0, False, False),
                                                      (8, False, False), (9, False, True), (500, False, True)])  # fmt: skip
def test_a_log_that_is_too_short_is_held_and_one_that_is_too_long_remarked(rows: int, held: bool, remark: bool, tmp_path: Path) -> None:
    """As made, each .ptn has 1.5 rows more than the last time of its .mgn says."""
    case = make.case(tmp_path)
    path = make.log(case, "ptn")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) + 16 * rows] if rows < 0 else raw + raw[:16] * rows)
    content = read(case)
    assert codes(content) == ({"short log"} if held else set())
    assert bool(content.facts["remarks"]) == remark


def test_what_the_profile_does_not_know_travels_and_is_remarked(tmp_path: Path) -> None:
    case = make.case(tmp_path)
    (case / "notes of DEMO001.txt").write_text("x")
    (make.deliveries(case)[0] / "extra.log").write_text("x")
    (case / "dose.dcm").write_bytes(dose("2.25.1", "2.25.2", 2, range(64)))
    content = read(case)
    assert content.reasons == ()
    assert {"notes of DEMO001.txt", "dose.dcm", "2026110309100000/extra.log"} <= set(content.names)
    (remark,) = content.facts["remarks"]
    assert remark.startswith("3 files that the profile does not know: ")
    assert "dose.dcm" in remark


# --- the plan, cut


def _boundaries(raw: bytes) -> set[int]:
    """Where the elements behind IonBeamSequence begin: a cut there loses nothing that is needed, and cannot be seen."""
    at, found = raw.index(b"\x0a\x30\xa2\x03SQ\0\0"), set()
    while at < len(raw):
        long = raw[at + 4 : at + 6] == b"SQ"
        size = struct.unpack("<I", raw[at + 8 : at + 12])[0] if long else struct.unpack("<H", raw[at + 6 : at + 8])[0]
        at += (12 if long else 8) + size
        found.add(at)
    return found


@pytest.mark.parametrize("form", ["explicit", "undefined"])
def test_a_plan_that_is_cut_anywhere_is_held(form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = make.case(tmp_path)
    raw, path = next(case.glob("*.dcm")).read_bytes(), next(case.glob("*.dcm"))
    blind = _boundaries(raw)
    if form == "undefined":
        make.plan(case, _undefined)
        raw = path.read_bytes()
        blind = set(range(raw.index(b"\x0c\x30\x60\x00SQ"), len(raw)))  # a sequence's end has no length that could be compared
    assert len(raw) > 2500
    passed = []
    for at in range(0, len(raw), 1 if form == "explicit" else 7):
        if at not in blind:
            path.write_bytes(raw[:at])
            if read(case).reasons == ():
                passed.append(at)
    assert passed == []
    assert capfd.readouterr() == ("", "")


def test_plans_with_flipped_bytes_raise_nothing_and_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = make.case(tmp_path)
    path, chance = next(case.glob("*.dcm")), random.Random(5)
    raw = path.read_bytes()
    logging.getLogger().addHandler(handler := logging.StreamHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(600):
                bad = bytearray(raw)
                for _ in range(chance.choice((1, 3, 20))):
                    bad[chance.randrange(132, len(bad))] = chance.randrange(256)
                path.write_bytes(bad)
                read_all(case)
    finally:
        logging.getLogger().removeHandler(handler)
    assert capfd.readouterr() == ("", "")


# --- fractions and choices


def two(tmp_path: Path) -> tuple[Path, list[str], list[str]]:
    """A case of two fractions, each whole, and their deliveries."""
    case = make.case(tmp_path)
    first = [path.name for path in make.deliveries(case)]
    return case, first, [path.name for path in make.fraction(case, make.DAY)]


def test_deliveries_within_the_gap_are_one_fraction(tmp_path: Path) -> None:
    case = make.case(tmp_path)
    assert codes(read(case, gap=6 * 60.0)) == set()
    assert codes(read(case, gap=6 * 60.0 - 0.5)) == {"fractions"}


def test_the_first_whole_fraction_is_computed_where_the_site_says_so(tmp_path: Path) -> None:
    case, first, second = two(tmp_path)
    content = read(case, mode="first")
    assert (content.reasons, content.left, content.part) == ((), tuple(second), "")
    assert not [name for name in content.names if name.startswith(tuple(second))]
    shutil.rmtree(case / first[1])
    content = read(case, mode="first")
    assert (content.reasons, content.left) == ((), (first[0], first[2]))
    assert {beam["delivery"] for beam in content.facts["beams"]} == set(second)
    shutil.rmtree(case / second[0])
    content = read(case, mode="first")
    assert "beam 4 (2G270:TX) has no delivery" in texts(content)
    assert content.left == tuple(second[1:])


def test_each_fraction_is_a_case_of_its_own_where_the_site_says_so(tmp_path: Path) -> None:
    case, first, second = two(tmp_path)
    (case / "notes.txt").write_text("x")
    shutil.rmtree(case / second[2])
    one, other = read_all(case, mode="each")
    assert (one.part, one.reasons) == (first[0], ())
    assert (other.part, codes(other)) == (second[0], {"no delivery"})
    plan = next(case.glob("*.dcm")).name
    assert {name.partition("/")[0] for name in one.names} == {plan, *first}
    assert {name.partition("/")[0] for name in other.names} == {plan, *second[:2]}
    (case / f"{plan}.bak").write_text("x")
    assert f"{plan}.bak" not in read_all(case, mode="each")[0].names


def test_a_delivery_that_comes_late_does_not_change_which_case_it_is(tmp_path: Path) -> None:
    case, first, second = two(tmp_path)
    kept = tmp_path / "kept"
    (case / first[0]).rename(kept)
    assert [one.part for one in read_all(case, mode="each")] == [first[1], second[0]]
    kept.rename(case / first[0])
    assert [one.part for one in read_all(case, mode="each", known=[first[1], second[0]])] == [first[1], second[0]]


def test_a_delivery_of_no_possible_time_may_be_of_any_fraction(tmp_path: Path) -> None:
    case, first, _ = two(tmp_path)
    make._impossible(case)
    assert [codes(one) for one in read_all(case, mode="each")] == [{"delivery name"}, {"delivery name", "delivered twice"}]
    assert codes(read(case, mode="first")) == {"delivery name"}


def test_a_person_chooses_deliveries_and_the_others_are_left(tmp_path: Path) -> None:
    case = make.case(tmp_path, "broken off")
    names = [path.name for path in make.deliveries(case)]
    content = read(case, chosen=[*names[:2], names[3]])
    assert (content.reasons, content.left) == ((), (names[2],))
    assert not [name for name in content.names if name.startswith(names[2])]
    assert content.facts["beams"][2]["delivery"] == names[3]


def test_a_choice_overrides_no_rule(tmp_path: Path) -> None:
    case = make.case(tmp_path, "broken off")
    names = [path.name for path in make.deliveries(case)]
    assert codes(read(case, chosen=names[:2])) == {"no delivery"}
    assert codes(read(case, chosen=names[:3])) == {"layer count"}
    assert codes(read(case, chosen=names)) == make.BAD["broken off"][1]
    assert codes(read(case, chosen=[*names[:2], names[3], "2026110309999999"])) == {"choice"}


# --- damage at random


def damage(case: Path, chance: random.Random) -> str:
    """One real damage to a good case, and what it was."""
    plan = next(case.glob("*.dcm"))
    folders = make.deliveries(case)
    one = chance.choice(folders)
    logs, measured = sorted([*one.glob("*.ptn"), *one.glob("*.mgn")]), sorted(one.glob("*.ptn"))
    path = chance.choice(logs)
    kind = chance.choice(("drop", "truncate", "duplicate", "rename", "swap", "flip"))
    match kind, chance.randrange(4):
        case "drop", 0:
            shutil.rmtree(one)
        case "drop", _:
            (path := chance.choice([*logs, plan, one / "PlanInfo.txt", one / "PlanRange.txt"])).unlink()
        case "truncate", 0:
            path = plan
            raw = path.read_bytes()
            path.write_bytes(raw[: chance.randrange(min(_boundaries(raw)))])
        case "truncate", 1:
            path = chance.choice(measured)  # a row or two less cannot be told from a log that is whole
            path.write_bytes(path.read_bytes()[: 16 * chance.randrange(path.stat().st_size // 16 - 1)])
        case "truncate", 2:
            path = one / chance.choice(("PlanInfo.txt", "PlanRange.txt"))
            raw = path.read_bytes()
            last = raw.index(b"\r\nSHARE_DIR") if path.name == "PlanInfo.txt" else len(raw) - 2
            path.write_bytes(raw[: chance.randrange(last)])
        case "truncate", _:
            unit = 16 if path.suffix == ".ptn" else 14
            size = chance.choice([n for n in range(path.stat().st_size) if n % unit or not n])
            path.write_bytes(path.read_bytes()[:size])
        case "duplicate", 0:
            path = plan
            shutil.copy(plan, case / "copy.dcm")
        case "duplicate", 1:
            shutil.copytree(one, case / f"{int(one.name) + chance.randrange(1, 50):016}")
        case "duplicate", 2:
            path = one / chance.choice(("PlanInfo.txt", "PlanRange.txt"))
            shutil.copy(path, path.with_suffix(".csv"))
        case "duplicate", _:
            shutil.copy(path, path.with_name("RR_00007001_001_001_099" + path.suffix))
        case "rename", 0:
            one.rename(case / f"{int(one.name) + chance.randrange(1, 50):016}")
        case "rename", 1:
            (path := chance.choice([plan, one / "PlanInfo.txt", one / "PlanRange.txt"])).rename(path.with_name("x"))
        case "rename", _:
            path.rename(path.with_name(path.name.replace("_001_", "_009_", 1)))
        case "swap", 0:
            other = chance.choice([path for path in folders if path != one])
            one.rename(case / "x"), other.rename(one), (case / "x").rename(other)
        case "swap", n:
            other = chance.choice([path for path in folders if path != one])
            name = ("PlanInfo.txt", "PlanRange.txt")[n % 2]
            raw = (one / name).read_bytes()
            (one / name).write_bytes((other / name).read_bytes())
            (other / name).write_bytes(raw)
        case "flip", n:
            path = plan if n < 2 else one / "PlanInfo.txt"
            uid = b"2.25.1001.1" if n else b"2.25.1002.1"
            raw = path.read_bytes()
            at = raw.rindex(uid) + chance.randrange(len(uid)) if uid in raw else raw.index(b"2.25.1001.1") + 10
            path.write_bytes(raw[:at] + (b"7" if raw[at : at + 1] != b"7" else b"3") + raw[at + 1 :])
    return f"{kind} {one.name if path.parent != case else ''}/{path.name}"


def test_a_good_case_that_is_damaged_at_random_is_held_every_time(tmp_path: Path) -> None:
    seed = int(os.environ.get("MQI_SEED") or random.SystemRandom().randrange(1 << 30))
    sys.stdout.write(f"MQI_SEED={seed}\n")
    good, chance = make.case(tmp_path / "good"), random.Random(seed)
    for number in range(500):
        case = tmp_path / "bad" / good.name
        shutil.copytree(good, case)
        what = damage(case, chance)
        for mode in ("hold", "first", "each"):
            assert all(one.reasons for one in read_all(case, mode=mode)), f"MQI_SEED={seed}, {number}: {what}, {mode}"
        shutil.rmtree(case)


# --- results


def computed(case: Path, target: Path) -> dict[str, str]:
    """What the demo computes, straight on the source: result names and paths."""
    compute.compute(case, target)
    return {str(path.relative_to(target)): str(path) for path in target.rglob("*") if path.is_file()}


GLOB = "Dose/*_Dose.*"


class Result:
    """A computed case; a test changes its results and asks."""

    def __init__(self, folder: Path) -> None:
        self.case = make.case(folder)
        self.facts = read(self.case).facts
        self.paths = computed(self.case, folder / "out")
        self.doses = sorted(name for name in self.paths if name.startswith("Dose/"))

    def asked(self, per_beam: str = GLOB, listed: Sequence[str] | None = None) -> Checked:
        return profiles.named("moqui-log").results(self.facts, per_beam, listed or sorted(self.paths), self.paths)

    def put(self, name: str, raw: bytes, instead: str = "") -> None:
        """A result of that name, instead of another."""
        path = Path(self.paths[self.doses[-1]]).with_name(os.path.basename(name))
        if instead:
            Path(self.paths.pop(instead)).unlink()
        path.write_bytes(raw)
        self.paths[name] = str(path)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return Result(tmp_path)


def test_good_results_are_checked_and_given_to_their_beams(result: Result) -> None:
    said = result.asked()
    assert said.wrong == ()
    assert said.beams == {f"Dose/{beam.name}_{beam.number}_Dose.dcm": beam.name for beam in make.BEAMS}
    assert said.checked[0] == "3 dose files are named by 3 treatment beams, one each"
    assert said.unchecked == ("the content of 3 results that are no dose files",)


def test_the_demo_computes_the_same_bytes_from_the_same_input(result: Result, tmp_path: Path) -> None:
    again = computed(result.case, tmp_path / "again")
    assert again.keys() == result.paths.keys()
    assert all(Path(path).read_bytes() == Path(again[name]).read_bytes() for name, path in result.paths.items())


def test_the_dose_files_of_the_demo_are_true_ones(result: Result) -> None:
    import pydicom

    for name, beam in zip(result.doses, make.BEAMS, strict=True):
        data = pydicom.dcmread(result.paths[name])
        assert data.Modality == "RTDOSE"
        assert len(data.PixelData) == 4 * data.Rows * data.Columns
        assert data.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == "2.25.1002.1"
        group = data.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence[0]
        assert group.ReferencedBeamSequence[0].ReferencedBeamNumber == beam.number


FIRST = "Dose/1G180:TX_2_Dose.dcm"
GOOD = dose("2.25.1002.1", "2.25.1001.1", 2, range(64))


@pytest.mark.parametrize(("raw", "says"), [
    (b"", "it is empty"),
    (GOOD[:-1], "it has 255 bytes of pixel data"),
    (GOOD[:-200], "it has 56 bytes of pixel data"),
    (GOOD[:300], "it is no DICOM file, or truncated|it lacks its pixel data|modality"),
    (GOOD[:140], "modality is not RTDOSE|it is no DICOM"),
    (b"x" * 500, "modality is not RTDOSE|it is no DICOM"),
    (GOOD.replace(b"RTDOSE", b"RTPLAN"), "its modality is not RTDOSE"),
    (GOOD.replace(struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 8), struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 9)), "demand 288"),
    (dose("2.25.1002.2", "2.25.1001.2", 2, range(64)), "it is the dose of another plan"),
    (dose("2.25.1002.1", "2.25.1001.1", 4, range(64)), "it is named by beam 2 and is of beam 4"),
])  # fmt: skip
def test_a_dose_file_that_is_wrong_is_named_with_what_is_wrong(raw: bytes, says: str, result: Result) -> None:
    result.put(FIRST, raw, instead=FIRST)
    ((name, text),) = result.asked().wrong
    assert name == FIRST
    assert text.startswith(f"{FIRST}: ")
    assert any(one in text for one in says.split("|")), text


def test_a_dose_that_is_cut_anywhere_is_wrong(result: Result, capfd: pytest.CaptureFixture[str]) -> None:
    for at in range(len(GOOD)):
        result.put(FIRST, GOOD[:at], instead=FIRST)
        assert [name for name, _ in result.asked().wrong] == [FIRST], at
    assert capfd.readouterr() == ("", "")


def test_a_dose_without_references_is_remarked(result: Result) -> None:
    import pydicom

    path = result.paths[FIRST]
    data = pydicom.dcmread(path)
    del data.ReferencedRTPlanSequence
    data.save_as(path)
    said = result.asked()
    assert said.wrong == ()
    assert f"{FIRST}: it names no plan" in said.unchecked


def test_a_beam_without_its_dose_file_is_named(result: Result) -> None:
    result.paths.pop(FIRST)
    assert result.asked().wrong == (("", "beam 1G180:TX (2) has no dose file"),)


def test_dose_files_that_are_too_many_are_named(result: Result) -> None:
    result.put("Dose/1G180:TX_2_b_Dose.dcm", GOOD)
    result.put("Dose/other_7_Dose.dcm", GOOD)
    wrong = dict(result.asked().wrong)
    assert wrong["Dose/1G180:TX_2_b_Dose.dcm"] == "Dose/1G180:TX_2_b_Dose.dcm is a second dose file of beam 1G180:TX (2)"
    assert wrong["Dose/other_7_Dose.dcm"] == "Dose/other_7_Dose.dcm is named by no treatment beam"


def test_a_dose_file_that_did_not_come_back_is_named(result: Result) -> None:
    listed = sorted(result.paths)
    result.paths.pop(FIRST)
    assert result.asked(listed=listed).wrong == ((FIRST, f"{FIRST} did not come back: job.results does not match it"),)


def test_without_a_glob_for_the_beams_nothing_is_demanded_and_that_is_said(result: Result) -> None:
    result.paths.pop(FIRST)
    said = result.asked(per_beam="")
    assert said.wrong == ()
    assert said.unchecked[0] == "whether each beam has its dose file: job.results_per_beam is not set"


def test_facts_of_another_profile_are_not_compared(result: Result) -> None:
    result.facts = {}
    said = result.asked()
    assert (said.wrong, said.beams) == ((), {})
    assert "another profile" in said.unchecked[0]


FLOATS = struct.pack("<4f", 0, 1, 2, 3)
MHD = b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 1\nElementType = MET_FLOAT\nElementDataFile = 1G180_TX_2_Dose.raw\n"


@pytest.mark.parametrize(("name", "raw", "beside", "wrong", "open_"), [
    ("raw", FLOATS, b"", "", "its first 4 are finite"),
    ("raw", FLOATS[:-1], b"", "its size 15 is no whole number of float32", ""),
    ("raw", FLOATS + struct.pack("<f", float("nan")), b"", "no finite float32", ""),
    ("raw", struct.pack("<f", float("inf")), b"", "no finite float32", ""),
    ("mhd", MHD, FLOATS, "", ""),
    ("mhd", MHD, FLOATS[:-4], "have 12 bytes, its DimSize demands 16", ""),
    ("mhd", MHD, b"", "is not among the results", ""),
    ("mhd", MHD.replace(b"NDims", b"Dims"), FLOATS, "it lacks NDims", ""),
    ("mhd", MHD.replace(b"2 2 1", b"2 x 1"), FLOATS, "DimSize is not NDims numbers", ""),
    ("mhd", MHD.replace(b"MET_FLOAT", b"MET_OTHER"), FLOATS, "", "of a type that is not known"),
    ("mhd", MHD.replace(b"1G180_TX_2_Dose.raw", b"LOCAL"), FLOATS, "", "its data are in it"),
    ("mhd", MHD.replace(b"2 2 1", b"2 2 " + b"9" * 5000), FLOATS, "DimSize is not NDims numbers", ""),
    ("csv", b"x,y\n1,2\n3,4\n", b"", "", "first 2 rows are finite numbers"),
    ("csv", b"# a\n1,2e-3\n", b"", "", "first 1 rows are finite numbers"),
    ("csv", b"x,y\n", b"", "there are none", ""),
    ("csv", b"x,y\n1,nan\n", b"", "not finite numbers", ""),
    ("csv", b"x,y\n1,z\n", b"", "not finite numbers", ""),
    ("bin", b"?", b"", "", "its format is not known"),
    ("bin", b"", b"", "it is empty", ""),
])  # fmt: skip
def test_results_that_are_no_dicom_are_checked_as_far_as_they_tell(
    name: str, raw: bytes, beside: bytes, wrong: str, open_: str, result: Result
) -> None:
    mine = f"Dose/1G180_TX_2_Dose.{name}"
    result.put(mine, raw, instead=FIRST)
    if beside:
        result.put("Dose/1G180_TX_2_Dose.raw", beside)
    said = result.asked(per_beam="Dose/*_Dose.[!r]*" if beside or name != "raw" else GLOB)
    assert [text for _, text in said.wrong if wrong in text] if wrong else said.wrong == ()
    assert all(text.startswith(mine) for _, text in said.wrong)
    assert not open_ or [text for text in said.unchecked if text.startswith(mine) and open_ in text]


def beams(*names: str) -> list[dict[str, Any]]:
    return [{"number": number, "name": name} for number, name in enumerate(names, 2)]


@pytest.mark.parametrize(("names", "files", "owners"), [
    (["A:1", "B"], ["A:1_2_Dose.dcm", "B_3_Dose.dcm"], [2, 3]),
    (["A:1", "B"], ["x/A_1_2_Dose.dcm", "y/B.dcm"], [2, 3]),
    (["TX", "TX_a"], ["TX_2_Dose", "TX_a_3_Dose"], [2, 3]),  # the longest name wins
    (["TX", "TX"], ["TX_3_Dose.dcm", "TX_2_Dose.dcm"], [3, 2]),  # equal names: the number
    (["A:b", "A_b"], ["A:b_2_Dose.dcm", "A_b_3_Dose.dcm"], [2, 3]),
])  # fmt: skip
def test_dose_files_find_their_beams_by_name(names: list[str], files: list[str], owners: list[int]) -> None:
    found, wrong = moqui_rules.assigned(beams(*names), files)
    assert wrong == []
    assert [found[name]["number"] for name in files] == owners


@pytest.mark.parametrize(("names", "files", "says"), [
    (["TX", "TX"], ["TX_a_Dose.dcm", "TX_b_Dose.dcm"], "may be of beam TX (2) and TX (3)"),
    (["TX", "TX_2"], ["TX_2_Dose.dcm", "TX_2_3_Dose.dcm"], "is a second dose file of beam TX_2 (3)"),
    (["A", "B"], ["AB_2_Dose.dcm", "B_3_Dose.dcm"], "AB_2_Dose.dcm is named by no treatment beam"),
    (["A", "B"], ["A_2_Dose.dcm"], "beam B (3) has no dose file"),
])  # fmt: skip
def test_dose_files_that_may_be_of_another_beam_are_wrong(names: list[str], files: list[str], says: str) -> None:
    _, wrong = moqui_rules.assigned(beams(*names), files)
    assert says in "\n".join(text for _, text in wrong)


def test_a_file_that_changes_while_it_is_read_is_unknown_not_bad(tmp_path: Path) -> None:
    case = make.case(tmp_path)
    sizes = {str(path.relative_to(case)): path.stat().st_size for path in case.rglob("*") if path.is_file()}

    def again(what: Callable[[], object]) -> None:
        what()
        with folder.opened(str(case)) as top, pytest.raises(w.Unreachable, match="the next run looks again"):
            profiles.named("moqui-log").read(top, folder.Folder(sizes, "", 0, ()), case.name, rules(), SALT, [], lambda part: False)

    path = make.log(case, "mgn")
    raw = path.read_bytes()
    again(lambda: path.write_bytes(raw[:-14]))
    again(lambda: path.write_bytes(raw + raw[-14:]))
    again(path.unlink)
    again(lambda: path.symlink_to("/etc/passwd"))
    path.unlink()
    again(lambda: os.mkfifo(path))
    path.unlink()
    path.write_bytes(raw)
    assert read(case).reasons == ()
    again(next(case.glob("*.dcm")).unlink)


def test_only_small_files_are_opened(tmp_path: Path) -> None:
    """As the kernel sees it: no .ptn is opened, and of a .mgn its last row is read."""
    case = make.case(tmp_path)
    code = ("import sys, pathlib; from types import SimpleNamespace as S; from mqi_scripts import profiles; from mqi_scripts.world import folder; "
            "c = pathlib.Path(sys.argv[1]); z = {str(p.relative_to(c)): p.stat().st_size for p in c.rglob('*') if p.is_file()}; "
            "kept = folder.opened(str(c)); top = kept.__enter__(); "
            "profiles.named('moqui-log').read(top, folder.Folder(z, '', 0, ()), 'x', S(fractions='hold', fraction_gap=1e4), '', [], bool)")  # fmt: skip
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-e", "trace=openat,pread64", "-o", str(trace), sys.executable, "-c", code, str(case)]
    subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(REPO)}, check=True)
    lines = [line for line in trace.read_text().splitlines() if "ENOENT" not in line]
    assert not [line for line in lines if ".ptn" in line]
    assert len([line for line in lines if ".mgn" in line]) == sum(beam.layers for beam in make.BEAMS)
    assert len([line for line in lines if "pread64" in line and ", 14, " in line]) == sum(beam.layers for beam in make.BEAMS)
