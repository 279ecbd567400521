"""The truth of a case, end to end: nothing incomplete or ambiguous is computed, and nothing wrong is called completed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import make
import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text
from jsonschema import Draft202012Validator

COMPUTE = f'PYTHONPATH={REPO} {sys.executable} -m mqi_scripts.demo.compute "$MQI_INPUT" .'
LOCAL = host_text("local", "direct", "scp", None, None)
PER_BEAM = 'results_per_beam = "Dose/*_Dose.dcm"'


def site(folder: Path, job: str = COMPUTE, host: str = LOCAL, scan: str = "", wanted: str = "") -> Place:
    """A place whose cases are of the profile moqui-log."""
    place = Place(folder, host, job)
    text = place.config.read_text().replace('quiet = "0s"', f'quiet = "0s"\nprofile = "moqui-log"\n{scan}')
    place.config.write_text(text.replace('results = ["*.out"]', f'results = ["log/*.csv"]\n{PER_BEAM}\n{wanted}'))
    return place


def record(place: Place, path: str) -> dict:
    """The record of a result, which is as its schema says."""
    said = json.loads((place.results / path / "mqi-result.json").read_text())
    Draft202012Validator(json.loads((REPO / "schemas" / "result.schema.json").read_text())).validate(said)
    return said


def codes(place: Place) -> dict[str, set[str]]:
    """The codes that hold each case, by its path, as the ledger has them."""
    lines = [json.loads(line) for line in place.ledger().splitlines()]
    return {line["path"]: {reason["code"] for reason in line["reasons"]} for line in lines if line["type"] == "held"}


# --- what is not computed


def test_every_bad_shape_is_held_over_ssh_and_the_whole_case_is_computed(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path / "site", host=host_text("ssh", "pueue", "scp", sshd, pueued), scan='cases = "*/*"')
    names = {f"{n}/{make.case(place.inbox / str(n), word).name}": word for n, word in enumerate(make.BAD)}
    good = make.case(place.inbox / "good")
    assert place("mqi-scan").code == 1
    for _ in range(2):
        place.tick()
    rows = place.until("completed", "held")
    assert {path for path, row in rows.items() if row["status"] == "completed"} == {f"good/{good.name}"}
    held = codes(place)
    for path, word in names.items():
        assert held[path] == make.BAD[word][1], word
        assert rows[path]["reason"], word
    assert len(place.executions()) == 1
    assert len(pueued.state()["tasks"]) == 1
    direct = tmp_path / "direct"
    direct.mkdir()
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-m", "mqi_scripts.demo.compute", str(good), str(direct)], env=env, check=True, stdout=subprocess.DEVNULL)
    made = {str(p.relative_to(direct)).replace(":", "_"): p.read_bytes() for p in direct.rglob("*") if p.is_file()}
    there = place.results / "good" / good.name
    came = {str(p.relative_to(there)): p.read_bytes() for p in there.rglob("*") if p.is_file()}
    assert came.pop("mqi-result.json")
    assert came == made
    said = record(place, f"good/{good.name}")
    assert [beam["number"] for beam in said["beams"]] == [2, 4, 5]
    assert {one["beam"] for one in said["files"]} == {"", "1G180:TX", "2G270:TX", "3G000:TX"}
    assert len(said["inputs"]) == len([p for p in good.rglob("*") if p.is_file()])


def test_a_delivery_that_comes_in_the_evening_releases_the_case_by_itself(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    kept = tmp_path / "kept"
    shutil.move(make.deliveries(folder)[2], kept)
    place("mqi-scan")
    assert "beam 5 (3G000:TX) has no delivery" in place.rows()[folder.name]["reason"]
    before = place.ledger()
    place.tick()
    assert place.ledger() == before
    shutil.move(kept, folder / "2026110309220000")
    ran = place("mqi-scan")
    assert "no fault any more (was: no delivery)" in ran.out
    assert place.until("completed")


def test_a_folder_with_the_bytes_of_a_known_case_is_held_under_any_name(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    place.until("completed")
    key = place.rows()[folder.name]["case_id"]
    for name in ("copy", "2.25.1001.77"):
        shutil.copytree(folder, place.inbox / name)
    place.tick()
    for name in ("copy", "2.25.1001.77"):
        row = place.rows()[name]
        assert row["status"] == "held"
        assert f"same content as {key}" in row["reason"]
    assert len(place.executions()) == 1


def test_the_profile_without_its_library_is_refused_with_the_command(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    make.case(place.inbox)
    for program in ("mqi-scan", "mqi-check"):
        hide = "import sys; sys.modules['pydicom'] = None; sys.path_importer_cache.clear(); import importlib.util as u; " \
               "f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'pydicom' else f(n, *a); "  # a venv without it costs a minute
        module = program.removeprefix("mqi-")
        code = f"{hide}from mqi_scripts.verbs import {module} as v; raise SystemExit(v.main(['--config', {str(place.config)!r}]))"
        ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
        assert ran.returncode == 78, ran
        assert "pip install 'mqi[dicom]'" in ran.stdout + ran.stderr


# --- fractions, parts, a person's choice


def test_each_fraction_is_a_case_of_its_own_with_its_own_input(tmp_path: Path) -> None:
    place = site(tmp_path / "site", scan='fractions = "each"')
    folder = make.case(place.inbox)
    away = tmp_path / "away"
    away.mkdir()
    for delivery in make.deliveries(folder):
        delivery.rename(away / delivery.name)
    place.tick()
    assert place.rows()[folder.name]["status"] == "held"  # the plan alone came first
    for delivery in away.iterdir():
        delivery.rename(folder / delivery.name)
    place.tick()
    assert (place.rows()[folder.name]["status"], place.rows()[folder.name]["reason"]) == (
        "cancelled", "cancelled by mqi-scan: its fractions are cases of their own now")  # fmt: skip
    place.until("completed", "cancelled")
    second = make.fraction(folder, make.DAY)
    rows = place.until("completed", "cancelled")
    assert rows.pop(folder.name)["status"] == "cancelled"
    assert sorted(rows) == [f"{folder.name}/2026110309100000", f"{folder.name}/{second[0].name}"]
    assert len(place.executions()) == 2
    for path, row in rows.items():
        assert row["stale"] is False
        own = {one["name"].partition("/")[0] for one in record(place, path)["inputs"]}
        assert len(own) == 4  # the plan and three deliveries
    before = place.ledger()
    place.tick()
    assert place.ledger() == before
    shutil.rmtree(make.deliveries(folder)[5])
    place.tick()
    row = place.rows()[f"{folder.name}/{second[0].name}"]
    assert row["status"] == "completed"
    assert "gone" in row["stale"]


def test_the_first_whole_fraction_is_computed_and_the_next_is_shown(tmp_path: Path) -> None:
    place = site(tmp_path / "site", scan='fractions = "first"')
    folder = make.case(place.inbox)
    place.until("completed")
    second = make.fraction(folder, make.DAY)
    place.tick()
    row = place.rows()[folder.name]
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert f"new beside what is computed: {second[0].name}" in row["stale"]
    assert len(place.executions()) == 1


def test_a_person_chooses_deliveries_and_the_choice_is_in_the_record(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox, "broken off")
    place("mqi-scan")
    short, whole = make.deliveries(folder)[2:]
    row = place.rows()[folder.name]
    assert f"{short.name} has layers 1; {whole.name} has layers 1-4" in row["reason"]
    key, three = row["case_id"], [path.name for path in make.deliveries(folder) if path != short]
    before = place.ledger()
    wrong = place("mqi-case", "release", key, "--deliveries", ",".join([*three[:2], short.name]), "--reason", "x")
    assert wrong.code == 1
    assert "would still be held" in wrong.err
    unknown = place("mqi-case", "release", key, "--deliveries", "2026110300000000", "--reason", "x")
    assert unknown.code == 2
    assert short.name in unknown.err
    dry = place("mqi-case", "release", key, "--deliveries", ",".join(three), "--reason", "x", "--dry-run")
    assert (dry.code, place.ledger()) == (0, before)
    ran = place("mqi-case", "release", key, "--deliveries", ",".join(three), "--reason", "interlock, $(touch x)\nthen all again")
    assert ran.code == 0, ran
    place.until("completed")
    said = record(place, folder.name)
    assert said["left_out"] == [short.name]
    assert "interlock, $(touch x)\nthen all again" in said["decisions"][0]["what"]
    assert not any(one["name"].startswith(short.name) for one in said["inputs"])
    shown = place("mqi-case", "show", key)
    assert f"left out  {short.name}" in shown.out
    assert "chosen: interlock" in shown.out
    assert place("mqi-case", "release", key, "--deliveries", ",".join(three), "--reason", "x").code == 2


# --- late data


def late(folder: Path) -> None:
    """A layer's log is written once more, a little longer."""
    with make.log(folder, "ptn").open("ab") as file:
        file.write(bytes(16))


def finished(place: Place, path: str) -> str:
    """The input that a completed case's result was computed from."""
    rows = place.until("completed")
    assert rows[path]["status"] == "completed"
    return str(record(place, path)["input"])


def test_late_data_before_the_push_is_what_is_computed(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    place("mqi-scan")
    old = next(place.state.glob("manifests/*")).name.partition("-")[2]
    late(folder)
    ran = place("mqi-push")
    assert ran.code == 69
    assert "the next mqi-scan looks again" in ran.err
    ran = place("mqi-scan")
    assert "its content changed" in ran.out
    assert finished(place, folder.name) != old
    assert len(place.executions()) == 1


def test_late_data_during_the_push_is_never_computed_silently(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    place("mqi-scan")
    outbox, done = place.state / "outbox" / "far", threading.Event()

    def meddle() -> None:
        until = time.monotonic() + 60
        while not done.is_set() and time.monotonic() < until:
            if outbox.is_dir():
                return late(folder)

    thread = threading.Thread(target=meddle)
    thread.start()
    place("mqi-push")
    done.set()
    thread.join()
    final = finished(place, folder.name)
    found = [json.loads(line) for line in place.ledger().splitlines()]
    assert final == [line["digest"] for line in found if line["type"] in ("found", "changed")][-1]
    assert [line["type"] for line in found].count("changed") == 1


@pytest.mark.parametrize("mode", ["hold", "recompute"])
def test_late_data_while_running_and_after_completion_is_shown_and_computed_only_where_the_site_says_so(mode: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = f"until [ -e {go} ]; do sleep 0.1; done; {COMPUTE}"
    place = site(tmp_path / "site", job, scan=f'late_data = "{mode}"')
    folder = make.case(place.inbox)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    while not place.executions():
        time.sleep(0.05)
    place("mqi-poll")
    late(folder)
    ran = place("mqi-scan")
    assert "new data after its job began" in ran.out
    assert "1 changed" in place.rows()[folder.name]["stale"]
    go.touch()
    finished(place, folder.name)
    place.tick()
    first = finished(place, folder.name)
    shown = place("mqi-case", "show", folder.name).out
    assert ("new data after its job began" in shown) and len(place.executions()) == (1 if mode == "hold" else 2)
    old = place.results.glob(f"{folder.name}.superseded-*")
    assert len(list(old)) == (mode == "recompute")
    late(folder)
    extra = make.add(folder, make.BEAMS[0], 1, timedelta(minutes=40))
    place.tick()
    row = place.rows()[folder.name]
    assert row["status"] == "completed"
    assert extra.name in row["stale"]
    assert "delivered twice" in row["stale"] or "has 2 deliveries" in row["stale"]
    assert record(place, folder.name)["input"] == first
    shutil.rmtree(extra)
    place.tick()
    rows = place.until("completed")
    assert (rows[folder.name]["stale"] is False) == (mode == "recompute")
    assert len(place.executions()) == (1 if mode == "hold" else 3)


def test_unsound_late_data_takes_a_waiting_attempt_back_and_holds_the_case(tmp_path: Path, pueued: Pueued) -> None:
    pueued.client("pause", "-a")
    place = site(tmp_path / "site", host=host_text("local", "pueue", "scp", None, pueued))
    folder = make.case(place.inbox)
    pueued.client("start", "-g", "gpu0")
    pueued.client("add", "-g", "gpu0", "--", "sleep 600")
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    assert place.rows()[folder.name]["status"] == "submitted"
    extra = make.add(folder, make.BEAMS[0], 1, timedelta(minutes=40))
    place("mqi-scan")
    place("mqi-submit")
    assert place.rows()[folder.name]["status"] == "held"
    place.tick()
    pueued.client("kill", "--signal", "sigkill", "0")
    time.sleep(1.5)
    place.tick()
    assert place.executions() == []
    shutil.rmtree(extra)
    rows = place.until("completed")
    assert rows[folder.name]["attempt"] == 2
    assert len(place.executions()) == 1


# --- what counts as a result

DOSE = "Dose/2G270:TX_4_Dose.dcm"
WRONG: dict[str, tuple[str, str]] = {
    "missing": (f"{COMPUTE}; rm '{DOSE}'", "beam 2G270:TX (4) has no dose file"),
    "empty": (f"{COMPUTE}; : >'{DOSE}'", f"{DOSE}: it is empty"),
    "cut": (f"{COMPUTE}; truncate -s -100 '{DOSE}'", f"{DOSE}: it has"),
    "no dose": (f"{COMPUTE}; cp \"$MQI_INPUT\"/RP.* '{DOSE}'", f"{DOSE}: its modality is not RTDOSE"),
    "of another beam": (f"{COMPUTE}; cp 'Dose/1G180:TX_2_Dose.dcm' '{DOSE}'", f"{DOSE}: it is named by beam 4 and is of beam 2"),
    "older than the attempt": (f"{COMPUTE}; touch -d '1 hour ago' '{DOSE}'", f"{DOSE} was not written by this attempt"),
    "a second one": (f"{COMPUTE}; cp '{DOSE}' 'Dose/2G270:TX_4_b_Dose.dcm'", "is a second dose file of beam 2G270:TX"),
    "nobody's": (f"{COMPUTE}; cp '{DOSE}' 'Dose/x_4_Dose.dcm'", "Dose/x_4_Dose.dcm is named by no treatment beam"),
    "a link": (f"{COMPUTE}; mv '{DOSE}' x; ln -s ../x '{DOSE}'", "beam 2G270:TX (4) has no dose file"),
    "failure marker": (f"echo 'CUDA error: out of memory'; {COMPUTE}", "its log says: CUDA error: out of memory"),
    "no success marker": (f"{COMPUTE} >/dev/null", "its log lacks the success marker Total execution time:"),
}
MARKERS = 'failure_markers = ["FATAL ERROR", "CUDA error:"]\nsuccess_markers = ["Total execution time:"]'


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_result_is_never_completed_and_the_good_ones_come_back_marked(kind: str, tmp_path: Path) -> None:
    job, says = WRONG[kind]
    place = site(tmp_path / "site", job, wanted=MARKERS)
    folder = make.case(place.inbox)
    row = place.until("failed")[folder.name]
    assert says in row["reason"]
    assert (row["category"], "would fail again" in row["next"]) == ("application", True)
    assert not (place.results / folder.name).exists()
    partial = record(place, f"{folder.name}.partial")
    assert partial["complete"] is False
    assert says in partial["reason"]
    assert "Dose/1G180_TX_2_Dose.dcm" in {one["name"] for one in partial["files"]}
    before = place.ledger()
    place.tick()
    assert place.ledger() == before
    assert place("mqi-case", "verify", folder.name).code == 0


def test_results_whose_names_meet_on_the_gateway_fail_their_case_and_the_others_come(tmp_path: Path) -> None:
    job = 'for name in a:1 a_1 mqi-result.json "a\\b" plan; do echo $name >"$name"; done; mkdir a:b mqi-result.json.d; echo c >a:b/c; echo d >mqi-result.json.d/d'
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), job)
    place.config.write_text(place.config.read_text().replace('["*.out"]', '["*"]'))
    place.case("ma")
    row = place.until("failed")["ma"]
    for name, here in (("a:1", "a_1"), ("a_1", "a_1"), ("mqi-result.json", "mqi-result.json"), ("a\\b", "a_b")):
        assert f"{name} would be {here} here, as another result, or our record" in row["reason"]
    assert (row["category"], "would fail again" in row["next"]) == ("application", True)
    assert {one["name_there"] for one in record(place, "ma.partial")["files"]} == {"plan", "a:b/c", "mqi-result.json.d/d"}
    assert place("mqi-case", "verify", "ma").code == 0
    assert place("mqi-report", "--needs-me").code == 1


def test_a_job_that_fails_in_one_beam_brings_the_good_ones_back(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    job = f"{COMPUTE}; rm '{DOSE}'; kill -SEGV $$"
    place = site(tmp_path / "site", job, host=host_text("ssh", "pueue", "scp", sshd, pueued))
    folder = make.case(place.inbox)
    place.until("failed")
    place.tick()
    row = place.rows()[folder.name]
    assert "SIGSEGV (segmentation fault)" in row["reason"]
    assert "would fail again" in row["next"]
    partial = record(place, f"{folder.name}.partial")
    assert {one["beam"] for one in partial["files"]} == {"", "1G180:TX", "3G000:TX"}
    assert not (place.results / folder.name).exists()


def test_a_result_that_an_earlier_attempt_left_does_not_count(tmp_path: Path) -> None:
    """The first attempt is cut off; the second computes nothing and hands out what the first one had written."""
    store = tmp_path / "store"
    job = f"if [ $MQI_ATTEMPT = 1 ]; then {COMPUTE}; cp -r . {store}; kill -9 0; fi; mkdir Dose log; ln {store}/Dose/* Dose/; cp {store}/log/* log/"
    place = site(tmp_path / "site", job)
    folder = make.case(place.inbox)
    row = place.until("failed")[folder.name]
    assert row["attempt"] == 2
    assert "Dose/1G180:TX_2_Dose.dcm was not written by this attempt" in row["reason"]


def test_a_result_that_is_damaged_on_the_host_is_named_and_never_completed(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    for program in ("mqi-scan", "mqi-push", "mqi-submit"):
        place(program)
    until = time.monotonic() + 60
    while place.rows()[folder.name]["status"] != "computed":
        assert time.monotonic() < until
        place("mqi-poll")
    (damaged,) = place.root.glob(f"cases/*/attempt-1/output/{DOSE}")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    row = place.until("failed")[folder.name]
    assert f"{DOSE} did not verify in 4 fetches" in row["reason"]
    assert "can help" in row["next"]


# --- the record here




@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: (p / "Dose/1G180_TX_2_Dose.dcm").write_bytes(b"x"), "its bytes are not those that were verified"),
        (lambda p: (p / "Dose/1G180_TX_2_Dose.dcm").unlink(), "is missing"),
        (lambda p: (p / "new").write_text("x"), "is not of this result"),
        (lambda p: (p / "mqi-result.json").write_text("{}"), "mqi-result.json"),
        (lambda p: (p / "mqi-result.json").unlink(), "cannot be read"),
        (lambda p: make.swap(p / "mqi-result.json", '"attempt": 1', '"attempt": 2'), "its attempt is 2, the ledger's 1"),
    ],
)
def test_what_was_changed_in_a_result_is_found(change: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    place.until("completed")
    good = place("mqi-case", "verify", "--all")
    assert (good.code, "as recorded, every byte" in good.out) == (0, True)
    change(place.results / folder.name)
    bad = place("mqi-case", "verify", "--all")
    assert bad.code == 65
    assert says in bad.out


def test_the_story_of_a_case_is_one_screen(tmp_path: Path) -> None:
    place = site(tmp_path / "site")
    folder = make.case(place.inbox)
    place.until("completed")
    shown = place("mqi-case", "show", folder.name)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert len(lines) < 24
    for words in ("found, ", "pushed to far", "attempt 1 runs on direct", "completed: ", str(place.results), str(place.root)):
        assert any(words in line for line in lines), words
    assert [json.loads(line)["type"] for line in place("mqi-case", "show", folder.name, "--jsonl").out.splitlines()][0] == "found"
    assert place("mqi-case", "show", "nothing").code == 2
