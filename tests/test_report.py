"""Being told: a report without names, what did not happen, what needs a person, what is new since last time."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import JOB, REPO, Place, Pueued, host_text
from jsonschema import validate

from mqi_scripts import words as w
from mqi_scripts.pure import explain
from mqi_scripts.telling import changes
from mqi_scripts.telling.silence import Silence, again, past_usual, silences
from mqi_scripts.world.ledger import Ledger

ENV = {**os.environ, "PYTHONPATH": str(REPO)}
HERE = timezone(timedelta(hours=9))
NOW = datetime(2026, 11, 24, 12, tzinfo=HERE)  # a Tuesday


@pytest.fixture
def place(local_place: Place) -> Place:
    """A completed case, a held one and one that is arriving, all of a patient whose name is KIM."""
    local_place.case("KIM 1")
    (local_place.case("KIM 2") / "KIM.txt").symlink_to("/etc/passwd")
    (local_place.inbox / "KIM 3").mkdir()
    local_place.until("completed", "held")
    return local_place


def test_a_redacted_report_has_no_name_in_any_form_and_the_same_columns(place: Place) -> None:
    (place.inbox / "KIM 1" / "KIM late.txt").write_text("x")
    place("mqi-scan")
    for form in ("--csv", "--json", "--jsonl", "--needs-me", "--changes", None):
        words = [form] if form else []
        keep = ["--dry-run"] if form == "--changes" else []
        open_, hidden = place("mqi-report", *words, *keep), place("mqi-report", "--redact", *words, *keep)
        assert "KIM" in open_.out
        assert "KIM" not in hidden.out
        assert open_.code == hidden.code == 1
    rows = list(csv.DictReader(io.StringIO(place("mqi-report", "--csv", "--redact").out)))
    assert [(row["case_path"] == row["case_id"], row["status"], row["reason"], row["stale"]) for row in rows] == [
        (True, "completed", "", "new data"),
        (True, "held", "symlink", ""),
    ]
    body = json.loads(place("mqi-report", "--json", "--redact").out)
    validate(body, json.loads((REPO / "schemas" / "report.schema.json").read_text()))


def test_report_redact_holds_wherever_the_report_does_not_go_to_a_terminal(place: Place) -> None:
    place.config.write_text(place.config.read_text() + "[report]\nredact = true\n")
    assert "KIM" not in place("mqi-report", "--csv").out
    assert "KIM" in place("mqi-report", "--csv", "--no-redact").out
    ours, theirs = pty.openpty()
    child = subprocess.Popen(place.argv("mqi-report", "--csv"), env=ENV, stdin=subprocess.DEVNULL, stdout=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # the other end is closed
        pass
    assert child.wait() == 1
    os.close(ours)
    assert b"KIM" in said


def test_a_script_s_trouble_is_not_told_where_names_are_not(place: Place) -> None:
    note = place.state / "health" / "mqi-push.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"trouble": "KIM 4: cannot be read"}))
    assert re.search(r"^mqi-push: its last run, \d+ s ago, met trouble: KIM 4: cannot be read$", place("mqi-report").out, re.M)
    for form in ("--json", "--needs-me"):
        ran = place("mqi-report", "--redact", form)
        assert "KIM" not in ran.out
    assert "met trouble: it met trouble" not in ran.out


# --- what did not happen


def notes(**changed: dict[str, str]) -> dict[str, dict[str, str]]:
    at = (NOW - timedelta(minutes=1)).isoformat()
    steps = {f"mqi-{step}": {"run": at, "success": at, "trouble": ""} for step in ("scan", "push", "submit", "poll", "fetch")}
    return {name: {**note, **changed.get(name.removeprefix("mqi-"), {})} for name, note in steps.items()}


def back(hours: float) -> dict[str, str]:
    return {"success": (NOW - timedelta(hours=hours)).isoformat()}


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (notes(), []),
        (dict.fromkeys(notes(), {}), []),  # nothing has begun
        (notes(scan=back(1)), [("mqi-scan: last success 60 min ago", False)]),
        (notes(scan=back(3)), [("mqi-scan: last success 3 h ago", True)]),
        (
            notes(poll={**back(3), "trouble": "gpu1 (mqi@192.0.2.5): it refused the connection"}, push={**back(5), "trouble": "x; gpu1 (mqi@192.0.2.5): no answer"}),
            [
                ("mqi-push: its last run, 60 s ago, met trouble: x; gpu1 (mqi@192.0.2.5): no answer", True),
                ("mqi-poll: its last run, 60 s ago, met trouble: gpu1 (mqi@192.0.2.5): it refused the connection", True),
                ("gpu1 is silent, or its queue, since 2026-11-24 09:00, 3 h", True),
            ],
        ),
        (
            notes(poll={**back(0.1), "trouble": "the queue of gpu1 does not answer: refused"}),
            [
                ("mqi-poll: its last run, 60 s ago, met trouble: the queue of gpu1 does not answer: refused", False),
                ("gpu1 is silent, or its queue, since 2026-11-24 11:54, 6 min", False),
            ],
        ),
        (
            notes(poll={"success": "", "trouble": "gpu1:/data/mqi has no `ledger` file"}),
            [
                ("mqi-poll: its last run, 60 s ago, met trouble: gpu1:/data/mqi has no `ledger` file", False),
                ("gpu1 is silent, or its queue, and has never answered mqi-poll", True),
            ],
        ),
    ],
)
def test_what_did_not_happen_is_a_sentence(health: dict[str, dict[str, str]], expected: list[Silence]) -> None:
    assert silences(health, health, ["gpu1", "gpu10", "gpu"], [], NOW) == expected


def test_a_program_that_never_had_a_success_is_measured_from_the_first_case(place: Place) -> None:
    found = [NOW - timedelta(hours=4)]
    never = {**notes(), "mqi-poll": {}}
    assert silences(never, never, [], found, NOW) == [Silence("mqi-poll: it never had a success", True)]
    assert silences(never, never, [], [NOW], NOW) == [Silence("mqi-poll: it never had a success", False)]
    none = dict.fromkeys(notes(), {})
    assert silences(none, none, [], [NOW], NOW) == []
    (one,) = silences(none, none, [], found, NOW)
    assert (one.person, one.text) == (True, "no program has left a note of a run: are the timers on? See: mqi-check --fast")


def test_a_job_past_its_usual_time_and_what_was_tried_again_are_told(tmp_path: Path, pueued: Pueued) -> None:
    place = Place(tmp_path / "site", host_text("local", "pueue", "scp", None, pueued), 'grep -q long "$MQI_INPUT/plan.txt" && sleep 600; ' + JOB)
    place.case("a")
    place.until("completed")
    place.case("long")
    for _ in range(200):
        place.tick()
        if place.rows()["long"]["status"] == "running":
            break
    (id_,) = (row["case_id"] for name, row in place.rows().items() if name == "long")
    assert "already, the median" not in place("mqi-report").out
    case = next(case for case in Ledger(str(place.state), {}).state().open.values())
    slow = case._replace(started=(datetime.now(UTC) - timedelta(hours=2)).isoformat(timespec="milliseconds").replace("+00:00", "Z"), attempt=3)
    known = explain.NOTHING._replace(runs={"": 600.0})
    now = datetime.now(UTC).isoformat()
    assert [one.text for one in past_usual([case, slow], known, now)] == [f"{id_} runs for 2 h already, the median of its group is 10 min"]
    assert [one.text for one in again([case, slow], now)] == [f"retried in the last day: 1 cases: {id_} (3 attempts)"]
    assert place("mqi-case", "cancel", "long", "--reason", "done").code == 0
    place("mqi-poll")


def tuesdays(weeks: int, *hours: int) -> list[datetime]:
    return [(NOW - timedelta(weeks=week)).replace(hour=hour) for week in range(1, weeks + 1) for hour in hours]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], ""),
        (tuesdays(2, 9, 10), ""),  # too few Tuesdays for a rhythm
        (tuesdays(5, 8, 10, 14), "no new case today; on a Tuesday there are usually 2 by now. The last came 2026-11-17 14:00"),
        (tuesdays(5, 14), ""),  # they come later in the day
        ([*tuesdays(5, 8), NOW.replace(hour=7)], ""),
        ([at - timedelta(days=2) for at in tuesdays(6, 8)], ""),  # they come on Sundays
    ],
)
def test_a_day_without_cases_is_measured_by_the_weekday_s_rhythm(found: list[datetime], expected: str) -> None:
    told = silences(notes(), notes(), [], found, NOW)
    assert [one.text.partition(": ")[0] for one in told] == ([expected] if expected else [])
    assert all(one.person for one in told)


def test_a_queue_that_is_down_is_in_the_report_and_raises_the_alarm_when_it_lasts(far_place: Place, pueued: Pueued) -> None:
    far_place.case("a")
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        assert far_place(program).code == 0
    assert far_place("mqi-report").code == 0
    pueued.signal(9)
    far_place.case("b")
    far_place("mqi-scan")
    far_place("mqi-push")
    far_place("mqi-submit")
    ran = far_place("mqi-report")
    assert ran.code == 0
    assert re.search(r"^far is silent, or its queue, since \d{4}-\d\d-\d\d \d\d:\d\d, \d+ s$", ran.out, re.M)
    note = far_place.state / "health" / "mqi-submit.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"success": (datetime.now(UTC) - timedelta(hours=4)).isoformat()}))
    ran = far_place("mqi-report", "--needs-me")
    assert ran.code == 1
    assert "T: 0 cases" in ran.out
    assert re.search(r"^far is silent, or its queue, since .*, 4 h$", ran.out, re.M)
    body = json.loads(far_place("mqi-report", "--json").out)
    assert {"text", "person"} == set(body["silences"][0])


def test_what_needs_a_person_is_held_failed_or_stale_and_nothing_else(place: Place) -> None:
    place.case("KIM 5")
    place.until("completed", "held")
    ran = place("mqi-report", "--needs-me", "--jsonl")
    assert (ran.code, [json.loads(line)["case_path"] for line in ran.out.splitlines()]) == (1, ["KIM 2"])
    assert "arriving" not in place("mqi-report", "--needs-me").out
    (place.inbox / "KIM 1" / "late.txt").write_text("x")
    (place.inbox / "KIM 2" / "KIM.txt").unlink()
    place.until("completed")
    ran = place("mqi-report", "--needs-me", "--jsonl")
    assert (ran.code, [json.loads(line)["case_path"] for line in ran.out.splitlines()]) == (1, ["KIM 1"])
    assert place("mqi-report").code == 0


# --- what is new


def told(place: Place, *words: str) -> list[str]:
    return place("mqi-report", "--changes", *words).out.splitlines()


def test_each_change_is_told_once_to_each_name(place: Place) -> None:
    first = told(place, "--as", "physicist")
    assert sorted(re.sub(r"^\S+ \S+ [0-9a-f]{12} ", "", line).partition(":")[0] for line in first) == ["KIM 1", "KIM 1", "KIM 2"]
    assert any("completed: 1 results" in line for line in first)
    assert told(place, "--as", "physicist") == []
    assert told(place) == first  # the default name was told nothing yet
    (place.inbox / "KIM 2" / "KIM.txt").unlink()
    place("mqi-scan")
    assert told(place, "--as", "physicist", "--dry-run") == told(place, "--as", "physicist")
    (line,) = told(place)
    assert re.search("KIM 2: found, 2 files, .*: the folder has no fault any more", line)
    assert told(place) == []
    place.until("completed")
    records = [json.loads(line) for line in told(place, "--jsonl")]
    assert [record["type"] for record in records] == ["completed"]
    assert place("mqi-report", "--changes").code == 0


def test_what_is_appended_while_changes_are_told_is_told_the_next_time(place: Place) -> None:
    """A writer between the head and the lines, or behind them: nothing is left out and nothing comes twice."""
    class Beside(Ledger):
        def records(self) -> Iterator[tuple[dict[str, Any], w.Head]]:
            key = next(iter(self.cases()))
            for number, line in enumerate(super().records()):
                if not number:
                    Ledger(self.folder, {}).append([w.Noted(key, "2026-11-01T00:00:00.000Z", "beside", "kim")], "2026-11-01T00:00:00.000Z")
                yield line

    now, book = datetime(2026, 11, 1, tzinfo=UTC), Ledger(str(place.state), {})
    first, head, _ = changes.since(Beside(str(place.state), {}), "x", now)
    assert not [event for _, event, _ in first if isinstance(event, w.Noted)]
    changes.keep(book, "x", head)
    then, head, _ = changes.since(book, "x", now)
    assert [event.reason for _, event, _ in then if isinstance(event, w.Noted)] == ["beside"]


def test_a_change_that_nobody_read_is_told_again(place: Place) -> None:
    command = " ".join(map(str, place.argv("mqi-report", "--changes")))
    ran = subprocess.run(["/bin/bash", "-c", f"{command} >/dev/full"], env=ENV, capture_output=True, text=True)
    assert ran.returncode == 74, ran.stderr
    assert not (place.state / "told" / "default.json").exists()
    assert len(told(place)) == 3


def test_a_cursor_of_another_ledger_is_said_and_the_last_day_told_again(place: Place) -> None:
    told(place)
    cursor = place.state / "told" / "default.json"
    assert cursor.stat().st_mode & 0o077 == 0
    cursor.write_text(json.dumps({"head": [3, "f" * 64]}))
    ran = place("mqi-report", "--changes")
    assert ran.err == "mqi-report: default was told up to line 3 of a ledger that is not this one any more: the last day is told again\n"
    assert len(ran.out.splitlines()) == 3


def test_changes_end_with_1_only_for_what_still_needs_a_person(place: Place) -> None:
    row = place.rows()["KIM 2"]
    assert place("mqi-report", "--changes", "--as", "a").code == 1
    assert place("mqi-case", "cancel", row["case_id"], "--reason", "not needed").code == 0
    ran = place("mqi-report", "--changes", "--as", "b")
    assert (ran.code, "KIM 2: held" in ran.out) == (0, True)


def test_a_name_is_no_path_and_changes_have_no_table(place: Place) -> None:
    assert place("mqi-report", "--changes", "--as", "../x").code == 2
    assert place("mqi-report", "--changes", "--csv").code == 2
    for words in (["--needs-me"], ["--status", "held"], ["--search", "KIM"]):  # what it left out would be told to nobody
        assert place("mqi-report", "--changes", *words).code == 2
    assert place("mqi-report", "--as", "bob").code == 2
    assert not Path(place.state / "told").exists()


def test_that_no_case_needs_a_person_is_not_all_where_there_is_no_room(local_place: Place) -> None:
    local_place("mqi-scan")
    assert local_place("mqi-report", "--needs-me").out.endswith("\nno case needs a person\n")
    text = local_place.config.read_text()
    local_place.config.write_text(text.replace(f"reserve = {64 << 20}\n[scan]", f"reserve = {10**18}\n[scan]"))
    assert "\nno case needs a person, but\nroom, state: " in local_place("mqi-report", "--needs-me").out
