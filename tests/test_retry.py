"""A compute host that failed is left alone by what timers start, and tried again later and later; a person's run always tries."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text, need

from mqi_scripts import words as w
from mqi_scripts.pure import explain, retry

NOW = "2026-11-24T03:00:00.000Z"
RULES = '[retry]\nfirst = "1h"\nmost = "8h"\n'
TIMER = {"MQI_TIMER": "1"}


# --- when


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [(1, 0.0, 30.0), (2, 0.0, 60.0), (3, 0.0, 120.0), (4, 0.0, 240.0), (5, 0.0, 480.0), (6, 0.0, 600.0), (10_000, 0.0, 600.0),
     (1, 0.5, 26.25), (6, 0.5, 525.0)],
)  # fmt: skip
def test_each_failure_doubles_the_wait_up_to_the_longest(failures: int, jitter: float, seconds: float) -> None:
    assert retry.delay(failures, 30.0, 2, 600.0, jitter) == seconds


def test_whatever_the_rules_are_the_wait_grows_and_has_its_bounds() -> None:
    chance = random.Random(6)
    for _ in range(2000):
        first, factor = chance.uniform(0, 1e6), chance.uniform(1, 10)
        most, jitter = chance.uniform(0, 1e7), chance.random()
        waits = [retry.delay(count, first, factor, most, jitter) for count in range(1, 80)]
        assert waits == sorted(waits)
        assert all(0.75 * min(first, most) <= wait <= most for wait in waits)


@pytest.mark.parametrize(
    ("note", "sign", "expected"),
    [
        ({}, 1, False),
        ({"category": "network", "until": "2026-11-24T03:00:01.000Z", "sign": 0}, 1, True),
        ({"category": "network", "until": "2026-11-24T03:00:00.000Z", "sign": 1}, 1, False),
        ({"category": "system", "until": "2026-11-24T02:59:59.000Z", "sign": 1}, 1, False),
        ({"category": "network", "until": "2026-11-24T04:00:00.000Z", "sign": 1}, 1, False),  # the clock was set back since
        ({"category": "network", "until": "no time", "sign": 1}, 1, False),
        ({"category": "config", "until": retry.CHANGE, "sign": 1}, 1, True),
        ({"category": "config", "until": retry.CHANGE, "sign": 1}, 2, False),
    ],
)
def test_a_host_rests_until_its_time_or_until_something_changes(note: dict[str, object], sign: int, expected: bool) -> None:
    assert retry.rests(note, sign, 600.0, NOW) is expected


# --- on real parts


class Door:
    """A machine that takes every connection and says nothing; knocks: how many."""

    def __init__(self) -> None:
        self.listener, self.knocks = socket.create_server(("127.0.0.1", 0)), 0
        self.port = int(self.listener.getsockname()[1])
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            one, _ = self.listener.accept()
            one.close()
            if self.knocks < 0:
                return
            self.knocks += 1

    def close(self) -> None:
        self.knocks = -1
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join(10)
        self.listener.close()


@pytest.fixture
def door() -> Iterator[Door]:
    one = Door()
    yield one
    one.close()


def site(tmp_path: Path, sshd: Sshd, pueued: Pueued, job: str = "sleep 600") -> Place:
    return Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), job, RULES)


def note_of(place: Place) -> dict[str, dict[str, object]]:
    kept: dict[str, dict[str, object]] = json.loads((place.state / "health" / "host.far.json").read_text())
    return kept


def make_due(place: Place) -> None:
    """The time of the next try comes."""
    kept = note_of(place)
    for note in kept.values():
        note["until"] = "2026-01-01T00:00:00.000Z"
    (place.state / "health" / "host.far.json").write_text(json.dumps(kept))


def with_every_step_due(place: Place) -> None:
    """A running case for mqi-poll, a pushed one for mqi-submit, a found one for mqi-push; no name can be the beginning of an id."""
    for name, steps in (("xa", ["mqi-push", "mqi-submit"]), ("xb", ["mqi-push"]), ("xc", [])):
        place.case(name)
        for program in ["mqi-scan", *steps]:
            assert place(program).code == 0


def test_a_host_that_is_down_is_knocked_on_once_until_it_is_due_whoever_asks(
    tmp_path: Path, sshd: Sshd, pueued: Pueued, door: Door
) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    text, before = place.config.read_text(), place.ledger()
    place.config.write_text(text.replace(f"port = {sshd.port}", f"port = {door.port}"))
    place.env = TIMER
    for _ in range(3):
        for program in ("mqi-poll", "mqi-push", "mqi-submit", "mqi-tick"):
            ran = place(program)
            assert (ran.code, "; timers leave it alone until 2" in ran.err) == (69, True), ran
    assert door.knocks == 1
    (note,) = note_of(place).values()
    assert (note["failures"], note["category"]) == (1, "network")
    for name, row in place.rows().items():
        assert row["category"] == "network", name
        assert row["reason"].startswith("far ("), row
        assert f", at the next try, {str(note['until'])[:19]}Z (in " in row["next"], row
    assert re.search(r"next     mqi-push copies it to a compute host, at the next try, 2\S+Z \(in \d+ min\)", place("mqi-case", "explain", "xc").out)
    assert "far is silent, or its queue" in place("mqi-report").out
    assert f"warn  far: left alone: the timers try it again at {str(note['until'])[:19]}Z: far (" in place("mqi-check", "--fast").out
    make_due(place)
    place("mqi-tick")
    assert door.knocks == 2
    (later,) = note_of(place).values()
    assert later["failures"] == 2
    assert str(later["until"]) > str(note["until"])
    assert place.ledger() == before  # an outage decides nothing
    assert f"gives it to the queue, at the next try, {str(later['until'])[:19]}Z (in " in place("mqi-case", "explain", "xb", "--look").out
    place.config.write_text(text)
    make_due(place)
    place("mqi-poll")
    assert note_of(place) == {}
    place("mqi-push")
    assert place.rows()["xc"]["status"] == "pushed"


def test_a_run_by_hand_always_tries_and_its_failures_make_nobody_wait_longer(
    tmp_path: Path, sshd: Sshd, pueued: Pueued, door: Door
) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    text = place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", f"port = {door.port}"))
    for _ in range(2):
        for program in ("mqi-poll", "mqi-push", "mqi-submit"):
            assert place(program).code == 69
    assert door.knocks == 6
    (note,) = note_of(place).values()
    assert note["failures"] == 1
    before = note_of(place)
    assert place("mqi-poll", "--dry-run").code == 69
    assert note_of(place) == before
    place.config.write_text(text)
    place.env = TIMER
    assert place("mqi-poll").code == 69  # not due yet
    place.env = {}
    assert place("mqi-poll").code == 0
    assert note_of(place) == {}
    place.env = TIMER
    assert place("mqi-push").code == 0
    assert {name: row["reason"] for name, row in place.rows().items()} == {"xa": "", "xb": place.rows()["xb"]["reason"], "xc": ""}


def test_a_found_case_goes_to_another_host_while_one_rests(tmp_path: Path, sshd: Sshd, pueued: Pueued, door: Door) -> None:
    place = site(tmp_path, sshd, pueued)
    near = f'[hosts.a]\nroot = "{place.folder}/near"\ntransport = "local"\nengine = "direct"\n'
    place.config.write_text(near + place.config.read_text().replace(f"port = {sshd.port}", f"port = {door.port}"))
    place.env = TIMER
    for name in "abcdef":
        place.case(name)
    place("mqi-scan")
    assert place("mqi-push").code == 69
    assert {(row["host"], row["status"]) for row in place.rows().values()} == {("a", "pushed"), ("", "found")}
    assert place("mqi-push").code == 0
    assert {(row["host"], row["status"]) for row in place.rows().values()} == {("a", "pushed")}
    assert door.knocks == 1


def test_a_refused_key_stops_the_host_until_something_changes_or_a_person_tries(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    other = tmp_path / "other"
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    text = place.config.read_text()
    place.config.write_text(text.replace(f'identity = "{sshd.identity}"', f'identity = "{other}"'))
    place.env = TIMER

    def knocks() -> int:
        return sshd.log.read_text(errors="replace").count("Connection from")

    start = knocks()
    for _ in range(3):
        assert place("mqi-tick").code == 69
    assert knocks() == start + 1
    row = place.rows()["xc"]
    assert (row["category"], "it refused our key" in row["reason"]) == ("config", True)
    assert row["next"] == "when that is over, mqi-push copies it to a compute host; the timers wait until the configuration changes, mqi-tick by hand does not"
    said = place("mqi-case", "explain", "xc")
    assert ("needs a person" in said.out, "helps    mqi-check" in said.out) == (True, True), said
    assert "far: left alone: the timers try it again when the configuration changes: far (" in place("mqi-check", "--fast").out
    other.touch()  # a key that was put there anew is a change
    place("mqi-tick")
    assert knocks() == start + 2
    place.config.write_text(text)
    assert place("mqi-push").code == 0
    assert note_of(place) == {}


def test_a_good_session_of_the_doctor_ends_what_stopped_the_timers(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    keys = sshd.folder / "authorized_keys"
    allowed, place.env = keys.read_text(), TIMER
    keys.write_text("")
    try:
        place("mqi-poll")
    finally:
        keys.write_text(allowed)
    assert note_of(place)[""]["category"] == "config"
    assert place("mqi-push").code == 69
    place("mqi-check")
    assert place("mqi-push").code == 0


def test_a_queue_that_is_down_keeps_only_who_needs_it_away(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    pueued.signal(9)
    place.env = TIMER
    start = sshd.sessions()
    assert place("mqi-submit").code == 69
    assert sshd.sessions() == start + 1
    assert place("mqi-submit").code == 69
    assert sshd.sessions() == start + 1
    assert note_of(place)["mqi-submit"]["category"] == "system"
    assert place("mqi-push").code == 0
    assert "mqi-submit" in note_of(place)
    pueued.start()
    place.env = {}
    place("mqi-submit")
    assert note_of(place) == {}


def test_a_disk_that_is_full_there_is_the_pushs_own_trouble(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    (place.root / "ledger.new").mkdir()  # no head can be left there, as on a full disk
    place.env = TIMER
    assert place("mqi-push").code == 74
    start = sshd.sessions()
    assert place("mqi-push").code == 74
    assert sshd.sessions() == start
    assert place("mqi-poll").code == 0
    assert [*note_of(place)] == ["mqi-push"]


def test_a_note_that_is_deleted_or_garbage_only_means_another_knock(tmp_path: Path, sshd: Sshd, pueued: Pueued, door: Door) -> None:
    place = site(tmp_path, sshd, pueued)
    with_every_step_due(place)
    place.config.write_text(place.config.read_text().replace(f"port = {sshd.port}", f"port = {door.port}"))
    place.env = TIMER
    for knocks, content in enumerate(("", "not JSON", "[1]", "{}", '{"": null}'), 1):
        place("mqi-poll")
        place("mqi-poll")
        assert door.knocks == knocks
        (place.state / "health" / "host.far.json").write_text(content)


def test_who_starts_a_program_by_a_timer_says_so() -> None:
    assert "MQI_TIMER=1" in (REPO / "systemd" / "mqi@.service").read_text()
    assert "MQI_TIMER=1\n" in (REPO / "mqi_scripts" / "install" / "units.py").read_text()


def test_a_reason_of_another_status_tells_no_next_try() -> None:
    case = w.Case("k" * 20, "p", w.PUSHED, NOW, NOW, host="far")
    notes = explain.NOTHING._replace(waits={case.key: (w.FOUND, "far is down", "network", NOW)})
    assert explain.left_alone(case, notes, NOW) == ""
    assert explain.left_alone(case._replace(status=w.FOUND), notes, NOW) == ", at the next try, which is due"
    assert explain.left_alone(case._replace(status=w.FOUND), notes, "2000-01-01T00:00:00.000Z").startswith(f", at the next try, {NOW[:19]}Z (in ")
