"""Being told by a program of the site's: when, what, how often; and that nothing is lost when it does not take it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import JOB, Place, host_text
from test_init import NEEDED, SCHEMA, loaded
from test_units import said, verified

from mqi_scripts import words as w
from mqi_scripts.install import answers, places, sample, units
from mqi_scripts.telling import notify
from mqi_scripts.telling.silence import Silence
from mqi_scripts.world import config
from mqi_scripts.world.config import Notify

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Phone:
    """A site's program: it keeps what it is told, a file a message, and ends with what stands in `code`."""

    def __init__(self, place: Place, most_every: str = "0s") -> None:
        self.folder = place.folder / "phone"
        self.folder.mkdir()
        program = self.folder / "ring"
        program.write_text(f'#!/bin/sh\ncat >"{self.folder}/$$.new"; echo "$*" >"{self.folder}/words"; [ ! -s "{self.folder}/code" ] || '
                           f'{{ echo "busy $1" >&2; exit $(cat "{self.folder}/code"); }}; mv "{self.folder}/$$.new" "{self.folder}/$(date +%s%N).txt"\n')  # fmt: skip
        program.chmod(0o755)
        text = f'[notify]\ncommand = ["{program}", "a b", "$(touch {self.folder}/hacked)"]\nmost_every = "{most_every}"\n[job]'
        place.config.write_text(place.config.read_text().replace("[job]", text, 1))

    def breaks(self, code: str) -> None:
        (self.folder / "code").write_text(code)

    def messages(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("*.txt"))]


@pytest.fixture
def place(local_place: Place) -> Place:
    """A completed case and a held one, of a patient whose name is KIM."""
    local_place.case("KIM 1")
    (local_place.case("KIM 2") / "KIM.txt").symlink_to("/etc/passwd")
    local_place.until("completed", "held")
    return local_place


def hold(place: Place, name: str) -> str:
    (place.case(name) / "link").symlink_to("plan.txt")
    place("mqi-scan")
    return str(place.rows()[name]["case_id"])


def test_a_person_is_told_once_of_what_needs_one_and_no_name_leaves_the_house(place: Place) -> None:
    phone = Phone(place)
    ids = {name: row["case_id"] for name, row in place.rows().items()}
    ran = place("mqi-report", "--notify")
    assert (ran.code, ran.out, ran.err) == (1, "", "mqi-report: somebody was told\n")
    (message,) = phone.messages()
    assert message == f"T: a thing needs a person\n\n{ids['KIM 2']}: held (symlink)\n\non {os.uname().nodename}: mqi-report --needs-me, and mqi-case explain\n"
    assert (phone.folder / "words").read_text() == f"a b $(touch {phone.folder}/hacked)\n"
    assert not (phone.folder / "hacked").exists()
    again = place("mqi-report", "--notify")
    assert (again.code, again.err, len(phone.messages())) == (0, "", 1)
    place.case("KIM 3")
    place.until("completed", "held")
    assert (place("mqi-report", "--notify").code, len(phone.messages())) == (0, 1)  # nobody is needed for that
    new = hold(place, "KIM 4")
    assert place("mqi-report", "--notify").code == 1
    assert f"\n{new}: held (symlink)\n" in phone.messages()[1]
    assert ids["KIM 2"] not in phone.messages()[1]
    assert "KIM" not in "".join(phone.messages())
    assert any("completed: " in line for line in place("mqi-report", "--changes").out.splitlines())  # another name's cursor


def test_a_case_that_failed_is_told_as_failed_though_its_good_results_came(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), f"{JOB}; exit 3")
    phone = Phone(place)
    place.case("ma")
    place.until("failed")
    place.tick()
    assert b'"type":"salvaged"' in place.ledger()
    assert place("mqi-report", "--notify").code == 1
    assert f"{place.rows()['ma']['case_id']}: failed (application, computing)\n" in phone.messages()[0]


def test_what_was_mended_before_anybody_could_be_told_is_not_told(place: Place) -> None:
    phone = Phone(place)
    (place.inbox / "KIM 2" / "KIM.txt").unlink()
    place.until("completed")
    assert (place("mqi-report", "--notify").code, phone.messages()) == (0, [])


def test_a_program_that_does_not_take_it_is_said_and_nothing_is_lost(place: Place) -> None:
    phone = Phone(place)
    phone.breaks("75")
    for _ in range(2):
        ran = place("mqi-report", "--notify", "mqi-scan failed")
        assert ran.code == 78
        assert ran.err == f"mqi-report: notify.command {phone.folder}/ring: it ended with 75. It said: busy a b: nothing is lost; mend it, then: mqi-check --notify\n"
    phone.breaks("")
    assert place("mqi-report", "--notify").code == 1
    (message,) = phone.messages()
    assert message.startswith("T: 3 things need a person\n")
    assert message.count("mqi-scan failed") == 2
    assert ": held (symlink)" in message
    assert place("mqi-report", "--notify").code == 0
    (phone.folder / "ring").unlink()
    hold(place, "KIM 5")
    assert "ring: No such file or directory: nothing is lost" in place("mqi-report", "--notify").err


def test_a_run_that_dies_while_it_tells_tells_it_again(place: Place) -> None:
    phone = Phone(place)
    (phone.folder / "ring").write_text(f'#!/bin/sh\ncat >"{phone.folder}/$$.txt"\nkill -9 $PPID\n')
    child = subprocess.run(place.argv("mqi-report", "--notify"), env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}, capture_output=True)
    assert child.returncode == -signal.SIGKILL
    (phone.folder / "ring").write_text(f'#!/bin/sh\ncat >"{phone.folder}/again.txt"\n')
    assert place("mqi-report", "--notify").code == 1
    assert ": held (symlink)" in (phone.folder / "again.txt").read_text()


def test_messages_do_not_come_more_often_than_the_site_wants_and_what_was_held_back_is_told_with_the_next(place: Place) -> None:
    phone = Phone(place, "1h")
    assert place("mqi-report", "--notify").code == 1
    new = hold(place, "KIM 6")
    ran = place("mqi-report", "--notify", "mqi-push failed")
    assert (ran.code, len(phone.messages())) == (1, 1)
    assert re.fullmatch(r"mqi-report: somebody is to be told, in 3[56]\d\d s \(notify.most_every\)\n", ran.err)
    cursor = place.state / "told" / "notify.json"
    assert cursor.stat().st_mode & 0o777 == 0o600
    kept = json.loads(cursor.read_text())
    cursor.write_text(json.dumps(kept | {"at": (datetime.fromisoformat(kept["at"]) - timedelta(hours=1)).isoformat()}))
    assert place("mqi-report", "--notify").code == 1
    assert f"\n{new}: held (symlink)\nmqi-push failed\n" in phone.messages()[1]


def test_two_at_once_tell_it_once(place: Place) -> None:
    phone = Phone(place)
    threads = [threading.Thread(target=place, args=("mqi-report", "--notify")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(phone.messages()) == 1


def test_what_did_not_happen_is_told_once_and_again_when_it_begins_again(place: Place) -> None:
    phone = Phone(place)
    place("mqi-report", "--notify")
    note = place.state / "health" / "mqi-poll.json"
    good = json.loads(note.read_text())

    def late(hours: float) -> None:
        note.write_text(json.dumps(good | {"success": (datetime.now(UTC) - timedelta(hours=hours)).isoformat()}))
        place("mqi-report", "--notify")

    late(3)
    assert "\nmqi-poll: last success 3 h ago\n" in phone.messages()[1]
    late(5)
    assert len(phone.messages()) == 2
    late(0)
    late(4)
    assert "\nmqi-poll: last success 4 h ago\n" in phone.messages()[2]


def test_a_damaged_ledger_is_told(place: Place) -> None:
    phone = Phone(place)
    path = next(place.state.glob("ledger-*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"found"', b'"fould"', 1))
    assert place("mqi-report", "--notify").code == 1
    assert "\nthe ledger is damaged: mqi-ledger verify\n" in phone.messages()[0]
    assert place("mqi-report", "--notify").code == 0


def test_a_dry_run_shows_the_message_and_sends_nothing(place: Place) -> None:
    phone = Phone(place)
    ran = place("mqi-report", "--notify", "--dry-run")
    assert "would tell: T: a thing needs a person\n" in ran.err
    assert (phone.messages(), (place.state / "told").exists()) == ([], False)


def test_without_a_program_nobody_is_told_and_that_is_said(place: Place) -> None:
    ran = place("mqi-report", "--notify")
    assert (ran.code, "notify.command is not set" in ran.err) == (0, True)
    ran = place("mqi-check", "--notify")
    assert (ran.code, ran.out.splitlines()[0]) == (78, "FAIL  notify: notify.command is not set: nobody is told")


def test_the_doctor_sends_a_test_message_and_says_whether_the_program_took_it(place: Place) -> None:
    phone = Phone(place)
    ran = place("mqi-check", "--notify")
    assert (ran.code, ran.out) == (0, f"ok    notify: {phone.folder}/ring took a test message: see that it arrives\n")
    assert phone.messages()[0].startswith("T: a test message\n")
    phone.breaks("1")
    ran = place("mqi-check", "--notify")
    assert ran.code == 78
    assert ran.out == f"FAIL  notify: notify.command {phone.folder}/ring: it ended with 1. It said: busy a b\n      fix: mend it, then: mqi-check --notify\n"
    (phone.folder / "ring").unlink()
    assert f"FAIL  notify: no program {phone.folder}/ring here\n" in place("mqi-check", "--fast").out


# --- when and what, as values


@pytest.mark.parametrize(
    ("last", "most_every", "rest"),
    [("", 900.0, 0.0), (NOW.isoformat(), 900.0, 900.0), ((NOW - timedelta(seconds=890)).isoformat(), 900.0, 10.0),
     ((NOW + timedelta(days=1)).isoformat(), 900.0, 0.0), (NOW.isoformat(), 0.0, 0.0)],
)  # fmt: skip
def test_the_rate_is_a_function_of_the_last_message_and_the_clock(last: str, most_every: float, rest: float) -> None:
    assert notify.wait(last, Notify([], most_every), NOW) == rest


def test_a_message_has_its_sum_in_the_first_line_and_bounded_lists_below() -> None:
    needs = notify.Needs([f"c{n}: failed" for n in range(80)], [Silence("gpu1 is silent, or its queue, since 3", True)], [], ["mqi-scan failed"])
    text = notify.text("G1", needs)
    assert text.splitlines()[0] == "G1: 82 things need a person"
    assert text.splitlines()[51:55] == ["c49: failed", "and 30 more", "gpu1 is silent, or its queue, since 3", "mqi-scan failed"]


@pytest.mark.parametrize(
    ("cases", "silent", "told", "failed", "due"),
    [
        ([], [], [], [], False),
        (["x: failed"], [], [], [], True),
        ([], [], [], ["mqi-scan failed"], True),
        ([], [Silence("gpu1 is silent, or its queue, since 3", True)], [], [], True),
        ([], [Silence("gpu1 is silent, or its queue, since 4", True)], ["gpu1 is silent"], [], False),
        ([], [Silence("gpu2 is silent, or its queue, since 4", True)], ["gpu1 is silent"], [], True),
    ],
)
def test_somebody_is_told_of_what_was_not_told(cases: list[str], silent: list[Silence], told: list[str], failed: list[str], due: bool) -> None:
    assert notify.is_due(notify.Needs(cases, silent, told, failed)) is due


def test_a_case_that_failed_twice_is_one_line_its_newest() -> None:
    case = w.Case("k" * 20, "KIM", w.FAILED, "", "", reason="exit 1")
    old, new = ({"type": "failed", "at": "", "category": category, "phase": "computing"} for category in ("application", "system"))
    event = w.Gone(case.key, "")
    assert notify.lines([(old, event, case), (new, event, case)], {case.key: case}) == ["kkkkkkkkkkkk: failed (system, computing)"]
    assert notify.lines([(old, event, case)], {case.key: case._replace(status=w.COMPLETED)}) == []


# --- the units that run it


def written(folder: Path, command: str) -> Path:
    """The units of a site as mqi-init writes them, each program /bin/true."""
    site = loaded(folder, sample.text(SCHEMA, answers.merged(NEEDED, {"notify": {"command": [command] if command else []}})))
    where = places.places(str(folder), False, {})
    for file in units.files(where, site, config.DEFAULT, "qa"):
        path = Path(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(rf"{where.programs}/current/bin/mqi\S*", "/bin/true", file.text))
    return Path(where.units)


def test_only_the_units_that_tell_somebody_are_open_and_only_where_there_is_a_program(tmp_path: Path) -> None:
    def rated(folder: Path, unit: str) -> float:
        words = ["security", "--offline=true", str(folder / unit)]
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said(*words))
        assert found
        return float(found[1])

    for name in ("without", "with"):
        (tmp_path / name).mkdir()
    without, told = written(tmp_path / "without", ""), written(tmp_path / "with", "/usr/bin/mail")
    assert verified(told) == ""
    for unit in ("mqi@report-notify.service", "mqi-notify@scan.service"):
        assert rated(without, unit) <= 1.5 < rated(told, unit)
    assert rated(told, "mqi@scan.service") <= 1.5
    notice = (told / "mqi-notify@.service.d/told.conf").read_text()
    assert 'ExecStart=-/bin/true --notify "mqi-%i failed (' in notice
    assert "User=qa\n" in notice
