"""The order of truth, cell by cell: every decision against every kind of sight."""

from __future__ import annotations

import itertools
import json

import pytest

from mqi_scripts import words as w
from mqi_scripts.pure import codec, decide, place
from mqi_scripts.pure.evolve import evolve

NOW = "2026-11-24T03:00:00.000Z"
KEY, RULES = "k" * 20, decide.Rules(3, 86400.0)
BORN = w.Case(KEY, "p", w.FOUND, NOW, NOW, digest="d")
CASES = {
    "nothing": None,
    "held": BORN._replace(status=w.HELD, reasons=(w.Reason("symlink", "x", "x is a symlink"),)),
    "found": BORN,
    "pushed": BORN._replace(status=w.PUSHED, host="far"),
    "intended": BORN._replace(status=w.PUSHED, host="far", attempt=1, intent=True, open=True, group="g"),
    "submitted": BORN._replace(status=w.SUBMITTED, host="far", attempt=1, open=True, group="g", task="7"),
    "missing": BORN._replace(status=w.SUBMITTED, host="far", attempt=1, open=True, group="g", task="7", missing=True),
    "running": BORN._replace(status=w.RUNNING, host="far", attempt=1, open=True, group="g", task="7"),
    "interrupted": BORN._replace(status=w.PUSHED, host="far", attempt=1, interruptions=1),
    "computed": BORN._replace(status=w.COMPUTED, host="far", attempt=1, manifest="m"),
    "completed": BORN._replace(status=w.COMPLETED, host="far", attempt=1),
    "failed": BORN._replace(status=w.FAILED, host="far", attempt=1),
    "cancelled": BORN._replace(status=w.CANCELLED, host="far", attempt=1),
    "by kim": BORN._replace(status=w.HELD, asked=(w.HOLD, "kim", "wait")),
    "unwanted": BORN._replace(status=w.SUBMITTED, host="far", attempt=1, open=True, group="g", task="7", asked=(w.CANCEL, "kim", "no")),
    "ending": BORN._replace(status=w.RUNNING, host="far", attempt=1, open=True, group="g", task="7", asked=(w.CANCEL, "kim", "no")),
    "to be held": BORN._replace(status=w.SUBMITTED, host="far", attempt=1, open=True, group="g", task="7", asked=(w.HOLD, "kim", "wait")),
}
REASON = (w.Reason("FIFO", "y", "y is a FIFO"),)
EVENTS = {
    "found": w.Found(KEY, NOW, "p", "d", 1, 1), "held": w.Held(KEY, NOW, "p", REASON), "released": w.Released(KEY, NOW, "e", 1, 1, ""),
    "changed": w.Changed(KEY, NOW, "e", 1, 1, "x"), "stale": w.Stale(KEY, NOW, "e", "x"), "gone": w.Gone(KEY, NOW),
    "back": w.Back(KEY, NOW), "pushed": w.Pushed(KEY, NOW, "far", "d"), "submitting1": w.Submitting(KEY, NOW, 1, "d", "far", "g"),
    "submitting2": w.Submitting(KEY, NOW, 2, "d", "far", "g"), "submitted": w.Submitted(KEY, NOW, 1, "g", "8"),
    "missing": w.Missing(KEY, NOW, 1), "revoked": w.Revoked(KEY, NOW, 1), "started": w.Started(KEY, NOW, 1, "g", "0", "7", ""),
    "succeeded": w.Succeeded(KEY, NOW, 1, "m", "", ""), "failed": w.Failed(KEY, NOW, 1, "r", "application", "computing", 3, ""),
    "interrupted": w.Interrupted(KEY, NOW, 1, "r"), "cancelled": w.Cancelled(KEY, NOW, 1), "completed": w.Completed(KEY, NOW, 1, "m", 1, 1),
    "unsound": w.Changed(KEY, NOW, "e", 1, 1, "x", {}, REASON), "chosen": w.Chosen(KEY, NOW, ("A", "B"), "because", "kim"),
    "salvaged": w.Salvaged(KEY, NOW, 1, 2, 9), "cancel": w.Asked(KEY, NOW, w.CANCEL, "no", "kim"), "hold": w.Asked(KEY, NOW, w.HOLD, "wait", "kim"),
    "lifted": w.Lifted(KEY, NOW, "go", "kim"), "retried": w.Retried(KEY, NOW, "again", "kim", False),
    "given up": w.Retried(KEY, NOW, "burned", "kim", True), "noted": w.Noted(KEY, NOW, "called", "kim"),
    "prioritized": w.Prioritized(KEY, NOW, 9, "because"),
    "recovered1": w.Recovered(KEY, NOW, "p", 1, "e", "far", "g", "", {"plan": "x"}),
    "recovered2": w.Recovered(KEY, NOW, "p", 2, "d", "far", "g"), "cleaned": w.Cleaned(KEY, NOW, 0, "far", 9),
}  # fmt: skip
# Every status x every event: where the case stands afterwards, "." where it stays, "-" where the event cannot follow.
COLUMNS = list(EVENTS)
TABLE = """
nothing      found     held      -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         submitted submitted -
held         -         .         found     -         -         .         -         -         -         -         -         -         -         -         -         -         -         -         -         -         .         -         cancelled .         -         -         -         .         .         submitted submitted -
found        -         held      -         .         .         .         -         pushed    -         -         -         -         -         -         -         -         -         -         -         held      -         -         cancelled held      -         -         -         .         .         submitted submitted -
pushed       -         held      -         found     .         .         -         -         .         -         -         -         -         -         -         -         -         -         -         held      -         -         cancelled held      -         -         found     .         .         submitted submitted found
intended     -         -         -         .         .         .         -         -         .         -         submitted -         .         running   -         -         -         -         -         .         -         -         .         .         -         -         found     .         .         submitted submitted .
submitted    -         -         -         .         .         .         -         -         -         -         .         .         pushed    running   -         -         -         -         -         .         -         -         .         .         -         -         found     .         .         -         submitted -
missing      -         -         -         .         .         .         -         -         -         -         .         -         pushed    running   -         -         -         -         -         .         -         -         .         .         -         -         found     .         .         -         submitted -
running      -         -         -         -         .         .         -         -         -         -         -         .         -         -         computed  failed    pushed    cancelled -         -         -         -         .         -         -         -         found     .         .         -         submitted -
interrupted  -         held      -         found     .         .         -         -         -         .         -         -         -         -         -         failed    -         -         -         held      -         -         cancelled held      -         -         found     .         .         -         submitted found
computed     -         -         -         -         .         .         -         -         -         -         -         -         -         -         -         failed    -         -         completed -         -         -         -         -         -         -         found     .         .         -         submitted -
completed    -         -         -         found     .         .         -         -         -         -         -         -         -         -         -         -         -         -         -         held      -         -         -         -         -         held      found     .         .         -         submitted .
failed       -         -         -         found     .         .         -         -         -         -         -         -         -         -         -         -         -         -         -         held      -         .         cancelled -         -         pushed    found     .         .         -         submitted .
cancelled    -         -         -         -         .         .         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         -         held      found     .         .         -         submitted .
by-kim       -         -         -         -         -         .         -         -         -         -         -         -         -         -         -         -         -         -         -         -         .         -         cancelled -         held      -         -         .         .         submitted submitted -
unwanted     -         -         -         -         .         .         -         -         -         -         .         .         cancelled running   -         -         -         -         -         -         -         -         -         -         .         -         found     .         .         -         .         -
ending       -         -         -         -         .         .         -         -         -         -         -         .         -         -         computed  failed    cancelled cancelled -         -         -         -         -         -         .         -         found     .         .         -         submitted -
to-be-held   -         -         -         -         .         .         -         -         -         -         .         .         held      running   -         -         -         -         -         -         -         -         .         -         .         -         found     .         .         -         .         -
"""
CELLS = [(row.split()[0].replace("-", " "), event, cell) for row in TABLE.strip().splitlines() for event, cell in zip(COLUMNS, row.split()[1:], strict=True)]


@pytest.mark.parametrize(("status", "event", "expected"), CELLS)
def test_every_status_meets_every_event(status: str, event: str, expected: str) -> None:
    case = CASES[status]
    if expected == "-":
        with pytest.raises(w.Illegal):
            evolve(case, EVENTS[event])
        return
    after = evolve(case, EVENTS[event])
    assert after.status == (case.status if case and expected == "." else expected)
    assert after.key == KEY


def test_the_table_has_every_status_and_every_event() -> None:
    assert {row.split()[0].replace("-", " ") for row in TABLE.strip().splitlines()} == set(CASES)
    ledger_only = {"opened", "rooted", "repaired", "lost", "reopened"}
    assert {type(event).__name__.lower() for event in EVENTS.values()} | ledger_only == set(codec.TYPES)


@pytest.mark.parametrize("name", list(EVENTS))
@pytest.mark.parametrize("hostile", ['"\\\n\t\x00', "환자^이름", "\udcff", "=1+1", "\u202e", "x" * 5000])
def test_every_event_comes_back_from_its_line_whatever_text_it_holds(name: str, hostile: str) -> None:
    fields = EVENTS[name]._asdict()
    text = {key: hostile for key, value in fields.items() if isinstance(value, str) and key != "case"}
    event = EVENTS[name]._replace(**text)
    line, head = codec.line(event, codec.START, {"script": "t"})
    assert line.isascii()
    assert line.count(b"\n") == 1
    record, after = codec.read_line(line[:-1], codec.START)
    assert after == head
    assert codec.from_dict(record) == event


CLAIMS, RESULTS = ("none", "begun", "revoked", "strange"), ("", "0", "1", "signal", "fault", "garbage")
QUEUES = ("unknown", "absent", "waiting", "running", "ended", "other")
WROTE = {"": {}, "0": {"exit": "0", "manifest": "m"}, "1": {"exit": "1"}, "signal": {"exit": "143", "signal": "TERM"},
         "fault": {"exit": "", "fault": "input-damaged"}, "garbage": {"exit": "?"}}  # fmt: skip
SIGHTS = list(itertools.product(CLAIMS, (False, True), (False, True), RESULTS, ("", "time limit", "cancelled"), QUEUES))


def a_look(
    case: w.Case, claim: str, held: bool, alive: bool, result: str, ending: str, queue: str, folder: bool = True, digest: str = ""
) -> w.Look:
    task = w.Task("7", case.label if queue != "other" else "mqi1:other:1", "g", queue if queue != "other" else "running")
    tasks = None if queue == "unknown" else () if queue == "absent" else (task,)
    trace = w.Trace(folder, claim, held, alive, {}, WROTE[result], ending, "tail", digest)
    return w.Look({case.label: trace}, tasks, (), "" if tasks is not None else "silent", ())


def kinds(events: list[w.Event]) -> list[str]:
    return [type(event).__name__.lower() for event in events]


@pytest.mark.parametrize("status", ["intended", "submitted", "missing", "running"])
def test_poll_keeps_the_order_of_truth_in_every_sight(status: str) -> None:
    """Result, then liveness, then who ended it, then the queue's end state, then absence, and that in two looks."""
    case = CASES[status]
    assert case
    for claim, held, alive, result, ending, queue in SIGHTS:
        said = kinds(decide.poll(case, a_look(case, claim, held, alive, result, ending, queue), RULES, NOW))
        where = (status, claim, held, alive, result, ending, queue)
        gone = queue in ("absent", "other")
        start = ["started"] if status != "running" else []
        if claim == "strange" or (status == "intended" and claim != "begun"):
            assert said == [], where
        elif claim == "revoked":
            assert said == ["revoked"], where
        elif claim == "none":
            if queue == "unknown":
                expected = []
            elif held or queue in ("waiting", "running"):
                expected = ["submitted"] if status == "missing" else []
            else:
                expected = [] if status == "missing" else ["missing"]
            assert said == expected, where
        elif result and not ending:
            verdict = {"0": ["succeeded"], "1": ["failed"], "signal": ["interrupted"], "fault": ["failed"], "garbage": ["failed"]}[result]
            assert said == start + verdict, where
        elif held or alive:
            assert said == start, where
        elif ending:
            assert said == [*start, "cancelled" if ending == "cancelled" else "failed"], where
        elif queue in ("unknown", "waiting", "running"):
            assert said == start, where
        elif gone and not case.missing:
            assert said == [*start, "missing"], where
        else:
            assert said == [*start, "interrupted"], where


@pytest.mark.parametrize("status", ["pushed", "intended", "submitted", "missing", "running", "interrupted"])
def test_submit_adopts_revokes_or_wants_in_every_sight(status: str) -> None:
    case = CASES[status]
    assert case
    for claim, held, alive, result, ending, queue in SIGHTS:
        for folder in (True, False):
            if not folder and claim != "none":
                continue
            wish = decide.submit(case, a_look(case, claim, held, alive, result, ending, queue, folder), NOW)
            said = type(wish).__name__.lower()
            where = (status, claim, held, alive, queue, folder)
            if status in ("pushed", "interrupted"):
                assert said == ("nonetype" if queue == "unknown" else "submit"), where
            elif status == "running" or claim in ("begun", "strange"):
                assert said == "nonetype", where
            elif claim == "revoked":
                assert said == "revoked", where
            elif queue == "unknown":
                assert said == "nonetype", where
            elif status == "intended":
                assert said == ("submitted" if folder or queue in ("waiting", "running", "ended") else "submit"), where
            elif status == "missing" and queue in ("absent", "ended", "other") and not held:
                assert said == "revoke", where
            else:
                assert said == "nonetype", where


@pytest.mark.parametrize("status", ["intended", "submitted", "missing"])
def test_new_content_revokes_what_has_not_begun(status: str) -> None:
    case = CASES[status]
    assert case
    late = case._replace(pending=w.Changed(KEY, NOW, "e", 1, 1, "x"))
    for claim, expected in (("none", "Revoke"), ("begun", "NoneType"), ("revoked", "Revoked"), ("strange", "NoneType")):
        wish = decide.submit(late, a_look(late, claim, False, False, "", "", "absent", claim != "none"), NOW)
        assert type(wish).__name__ == expected, (status, claim)


@pytest.mark.parametrize("status", ["intended", "submitted", "missing", "running"])
def test_an_attempt_of_that_number_with_another_input_is_never_ours(status: str) -> None:
    """A ledger that lost lines meets it: nothing is adopted, judged, ended or revoked, and the reason is told."""
    case = CASES[status]
    assert case
    for sight in SIGHTS:
        for late in (case, case._replace(pending=EVENTS["changed"])):
            look = a_look(late, *sight, digest="another")
            assert decide.poll(late, look, RULES, NOW) == [], sight
            assert decide.submit(late, look, NOW) is None, sight
            assert decide.end(late, look, decide.Rules(3, -100)) == "", sight
            assert "another input" in place.why_waiting(late, look._replace(trouble=""), "far"), sight
        own = a_look(case, *sight, digest=case.digest)
        assert decide.poll(case, own, RULES, NOW) == decide.poll(case, a_look(case, *sight), RULES, NOW)
        assert decide.submit(case, own, NOW) == decide.submit(case, a_look(case, *sight), NOW)


def test_lines_that_are_missing_are_stood_for_by_one() -> None:
    """It has the number of the last of them, and the next line follows what that one was."""
    first, head = codec.line(w.Opened("", NOW, "i"), codec.START, {})
    lines, was = [first], head
    for _ in range(3):
        line, was = codec.line(EVENTS["gone"], was, {})
        lines.append(line)
    gap, after = codec.line(w.Lost("", NOW, 3, codec.read_line(lines[3][:-1], w.Head(3, json.loads(lines[3])["prev"]))[0]["prev"], "x"), head, {})
    assert codec.read_line(gap[:-1], head)[1] == after == w.Head(3, json.loads(lines[3])["prev"])
    assert codec.read_line(lines[3][:-1], after)[1] == was
    for upto in (0, 1):
        with pytest.raises((w.Damaged, w.Illegal)):
            codec.read_line(codec.line(w.Lost("", NOW, upto, "0" * 64, "x"), head, {})[0][:-1], head)


def test_absence_needs_two_looks() -> None:
    case = CASES["running"]
    assert case
    look = a_look(case, "begun", False, False, "", "", "absent")
    assert kinds(decide.poll(case, look, RULES, NOW)) == ["missing"]
    assert kinds(decide.poll(case._replace(missing=True), look, RULES, NOW)) == ["interrupted"]


def test_an_unknown_queue_decides_nothing() -> None:
    case = CASES["running"]
    assert case
    look = a_look(case, "begun", False, False, "", "", "unknown")
    assert decide.poll(case._replace(missing=True), look, RULES, NOW) == []


def test_what_was_not_looked_at_is_unknown() -> None:
    empty = w.Look({}, (), (), "", ())
    for status in ("intended", "submitted", "missing", "running"):
        case = CASES[status]
        assert case
        assert decide.poll(case, empty, RULES, NOW) == []
        assert decide.submit(case, empty, NOW) is None


def test_interruptions_end_in_a_failure_after_the_allowed_number() -> None:
    case = CASES["running"]
    assert case
    look = a_look(case, "begun", False, False, "", "", "ended")
    for before in range(5):
        said = kinds(decide.poll(case._replace(interruptions=before), look, RULES, NOW))
        assert said == (["interrupted"] if before < 3 else ["interrupted", "failed"])


def test_three_shown_and_revoked_attempts_hold_the_case() -> None:
    case = CASES["pushed"]
    assert case
    look = w.Look({}, (), (), "", ())
    assert isinstance(decide.submit(case._replace(strikes=2), look, NOW), decide.Submit)
    event = decide.submit(case._replace(strikes=3), look, NOW)
    assert isinstance(event, w.Held)
    assert event.reasons[0].code == w.NEVER_STARTS


def test_a_job_that_outlives_its_limit_and_its_wrapper_is_overdue() -> None:
    case = CASES["running"]
    assert case
    for age, held, result, expected in (("86399", True, "", False), ("87000", True, "", False), ("87001", True, "", True), ("87001", False, "", False),
                                        ("87001", True, "0", False), ("", True, "", False)):  # fmt: skip
        look = a_look(case, "begun", held, False, result, "", "absent")
        trace = look.traces[case.label]._replace(status={"age": age})
        assert decide.end(case, look._replace(traces={case.label: trace}), RULES) == ("time limit" if expected else "")


def test_a_job_is_ended_when_a_person_asked_for_it_while_it_lives() -> None:
    for status, held, alive, expected in (("ending", True, False, "cancelled"), ("ending", False, True, "cancelled"), ("ending", False, False, ""),
                                          ("running", True, True, ""), ("unwanted", True, False, "cancelled")):  # fmt: skip
        case = CASES[status]
        assert decide.end(case, a_look(case, "begun", held, alive, "", "", "absent"), RULES) == expected, (status, held, alive)
        assert decide.end(case, a_look(case, "none", held, alive, "", "", "waiting"), RULES) == ""


@pytest.mark.parametrize("status", ["unwanted", "to be held"])
def test_what_has_not_begun_is_taken_back_when_a_person_asked_for_it_even_with_the_queue_down(status: str) -> None:
    case = CASES[status]
    for queue in QUEUES:
        assert decide.submit(case, a_look(case, "none", False, False, "", "", queue), NOW) == decide.Revoke(case)
        assert decide.submit(case, a_look(case, "begun", True, False, "", "", queue), NOW) is None


def test_an_intent_is_not_carried_out_again_once_a_person_asked_to_cancel_it() -> None:
    case = evolve(CASES["intended"], EVENTS["cancel"])
    assert case.unwanted
    with pytest.raises(w.Illegal):
        evolve(case, EVENTS["submitting1"]._replace(group="other"))


def test_a_result_from_before_the_end_counts_and_one_that_we_cut_short_does_not() -> None:
    case = CASES["ending"]
    before = decide.poll(case, a_look(case, "begun", False, False, "0", "", "ended"), RULES, NOW)
    assert kinds(before) == ["succeeded"]
    assert evolve(case, before[0])[:3] + evolve(case, before[0]).asked == (KEY, "p", w.COMPUTED)
    ended = decide.poll(case, a_look(case, "begun", False, False, "0", "cancelled", "ended"), RULES, NOW)
    assert kinds(ended) == ["cancelled"]
    assert evolve(case, ended[0]).reason == "cancelled by kim: no"


def test_a_hold_outlasts_new_content_and_what_was_not_read_meanwhile_is_read_first() -> None:
    held = CASES["by kim"]
    with pytest.raises(w.Illegal):
        evolve(held, EVENTS["released"])
    free = evolve(held, EVENTS["lifted"])
    assert (free.status, [reason.code for reason in free.reasons], free.asked) == (w.HELD, ["to be read again"], ())
    event = decide.scan(KEY, free, NEW, "", "hold", NOW)
    assert isinstance(event, w.Released)
    assert (evolve(free, event).status, evolve(free, event).digest) == (w.FOUND, "e")
    gone = evolve(held._replace(gone=True, host="far"), EVENTS["lifted"])
    assert (gone.status, gone.host, gone.gone) == (w.PUSHED, "far", True)
    both = evolve(held._replace(reasons=REASON), EVENTS["lifted"])
    assert (both.status, both.reasons) == (w.HELD, REASON)


def test_pending_content_is_dropped_by_a_cancel_and_kept_by_a_hold() -> None:
    late = w.Changed(KEY, NOW, "e", 1, 1, "x")
    dropped = evolve(CASES["unwanted"]._replace(pending=late), w.Revoked(KEY, NOW, 1))
    assert (dropped.status, dropped.digest, dropped.pending) == (w.CANCELLED, "d", None)
    kept = evolve(CASES["to be held"]._replace(pending=late), w.Revoked(KEY, NOW, 1))
    assert (kept.status, kept.digest, kept.asked[:1]) == (w.HELD, "e", (w.HOLD,))


def test_never_starts_is_released_to_a_fresh_count_and_other_reasons_stay() -> None:
    stuck = CASES["pushed"]._replace(status=w.HELD, strikes=3, attempt=3, reasons=(w.Reason(w.NEVER_STARTS, "far", "x"),))
    free = evolve(stuck, EVENTS["lifted"])
    assert (free.status, free.strikes, free.attempt, free.host) == (w.PUSHED, 0, 3, "far")


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (CASES["failed"], (w.PUSHED, "far")), (CASES["failed"]._replace(stale="since x", stale_digest="e"), (w.HELD, "")),
        (CASES["failed"]._replace(stale="since x", stale_digest="e", gone=True), (w.PUSHED, "far")), (CASES["completed"], (w.HELD, "")),
        (CASES["cancelled"]._replace(host="", attempt=0, gone=True), (w.FOUND, "")), (CASES["cancelled"]._replace(digest="", gone=True), (w.HELD, "")),
        (CASES["cancelled"]._replace(digest="held:FIFO", gone=True), (w.HELD, "")),
    ],
)  # fmt: skip
def test_a_retry_goes_on_with_the_same_input_or_has_the_folder_read(case: w.Case, expected: tuple[str, str]) -> None:
    again = evolve(case, EVENTS["retried"])
    assert (again.status, again.host) == expected
    assert (again.attempt, again.open, again.completed, again.stale) == (case.attempt, False, "", "")
    assert again.decisions[-1] == (NOW, "kim", "retried: again")


def test_a_host_that_is_gone_is_left_and_the_record_says_so() -> None:
    again = evolve(CASES["running"], EVENTS["given up"])
    assert (again.status, again.host, again.open, again.attempt) == (w.FOUND, "", False, 1)
    assert again.decisions[-1][2] == "retried, far is gone, whatever runs there is given up: burned"
    assert evolve(again, w.Pushed(KEY, NOW, "near", "d")).host == "near"


SIGHT = decide.Sight("p", (), "d", 1, 1, "", "", {})
BAD = decide.Sight("p", REASON, "", 1, 1, "", "", {})
NEW = decide.Sight("p", (), "e", 1, 1, "1 new", "", {})
UNSOUND = decide.Sight("p", REASON, "e", 1, 1, "1 new", "", {})
MORE = decide.Sight("p", (), "d", 1, 1, "", "", {"left": ["D9"]})
# what the scan says of: the known content, a folder that cannot be read, new content, new content that is unsound, the known
# content with something new beside it, nothing there; and of new content where late data is computed
SCANNED = """
nothing      found    held    found    held    found    -    found
held         released held    released held    released gone released
found        -        held    changed  held    stale    gone changed
pushed       -        held    changed  held    stale    gone changed
intended     -        changed changed  changed stale    gone changed
submitted    -        changed changed  changed stale    gone changed
running      -        stale   stale    stale   stale    gone stale
computed     -        stale   stale    stale   stale    gone stale
completed    -        stale   stale    stale   stale    gone changed
failed       -        stale   stale    stale   stale    gone changed
cancelled    -        stale   stale    stale   stale    gone stale
by-kim       -        -       -        -       -        gone -
unwanted     -        -       -        -       -        gone -
ending       -        -       -        -       -        gone -
to-be-held   -        -       -        -       -        gone -
"""
SEEN = [(SIGHT, "hold"), (BAD, "hold"), (NEW, "hold"), (UNSOUND, "hold"), (MORE, "hold"), (None, "hold"), (NEW, "recompute")]


@pytest.mark.parametrize("row", SCANNED.strip().splitlines())
def test_scan_decides_in_every_status(row: str) -> None:
    name, *expected = row.split()
    status = name.replace("-", " ")
    for (sight, late), word in zip(SEEN, expected, strict=True):
        event = decide.scan(KEY, CASES[status], sight, "", late, NOW)
        assert ("-" if event is None else type(event).__name__.lower()) == word, (status, sight)


def test_scan_is_quiet_about_what_it_has_said() -> None:
    for status, (sight, late) in itertools.product(CASES, SEEN):
        case = CASES[status]
        event = decide.scan(KEY, case, sight, "", late, NOW)
        if event is not None:
            assert decide.scan(KEY, evolve(case, event), sight, "", late, NOW) is None, (status, sight)


def test_unsound_content_that_comes_before_the_start_is_held_once_the_attempt_is_revoked_and_never_pushed() -> None:
    for status in ("submitted", "missing"):
        case = CASES[status]
        event = decide.scan(KEY, case, UNSOUND, "", "hold", NOW)
        assert isinstance(event, w.Changed)
        pending = evolve(case, event)
        assert isinstance(decide.submit(pending, a_look(pending, "none", False, False, "", "", "ended"), NOW), decide.Revoke)
        held = evolve(pending, w.Revoked(KEY, NOW, 1))
        assert (held.status, held.reasons, held.open) == (w.HELD, REASON, False)


def test_what_a_person_chose_outlives_the_release_and_is_told_in_the_record() -> None:
    case = evolve(CASES["held"], w.Chosen(KEY, NOW, ("A",), "the first broke off", "kim"))
    case = evolve(case, w.Released(KEY, NOW, "e", 1, 1, "", {"left": ["B"]}))
    assert (case.status, case.chosen, case.facts) == (w.FOUND, ("A",), {"left": ["B"]})
    assert case.decisions == ((NOW, "kim", "A chosen: the first broke off"),)


def test_a_case_comes_back_from_the_cache_of_the_fold_as_it_was() -> None:
    import json

    for case in filter(None, CASES.values()):
        full = case._replace(pending=EVENTS["unsound"], decisions=((NOW, "kim", "x"),), chosen=("A",), facts={"beams": [1]})
        assert codec.case_from_list(json.loads(json.dumps(full))) == full


def test_the_same_content_is_held_and_says_where_it_is() -> None:
    event = decide.scan(KEY, None, SIGHT, "abc", "hold", NOW)
    assert isinstance(event, w.Held)
    assert event.reasons[0].text == "same content as abc"


@pytest.mark.parametrize(
    ("manifest", "sums", "digest", "tries", "expected"),
    [
        ({"x.out": "1"}, {"x.out": "1"}, "m", 0, "completed"), ({"x.out": "1"}, {"x.out": "2"}, "m", 0, None),
        ({"x.out": "1"}, {}, "m", 0, None), ({"x.out": "1"}, {"x.out": "2"}, "m", 3, "failed"), ({"y": "1"}, {"y": "1"}, "m", 0, "failed"),
        ({}, {}, "m", 0, "failed"), ({"x.out": "1"}, {"x.out": "1"}, "other", 0, None), ({}, {}, "", 3, "failed"),
    ],
)  # fmt: skip
def test_only_whole_results_complete_a_case(
    manifest: dict[str, str], sums: dict[str, str], digest: str, tries: int, expected: str | None
) -> None:
    case = CASES["computed"]
    assert case
    got = decide.Brought(digest, manifest, sums, dict.fromkeys(sums, 1), (), ())
    events = decide.fetch(case, got, ("*.out",), tries, NOW)
    assert (type(events[0]).__name__.lower() if events else None) == expected


GOT = decide.Brought("m", {"a.out": "1", "b.out": "2"}, {"a.out": "1", "b.out": "2"}, {"a.out": 3, "b.out": 4}, (), ())


@pytest.mark.parametrize(
    ("got", "reason", "salvaged"),
    [
        (GOT._replace(marks=["its log says: FATAL ERROR"]), "its log says: FATAL ERROR", 2),
        (GOT._replace(wrong=[("b.out", "b.out is empty")]), "b.out is empty", 1),
        (GOT._replace(wrong=[("", "beam 2 has no dose file")]), "beam 2 has no dose file", 2),
        (GOT._replace(manifest={"a.out": decide.OLD, "b.out": "2"}), "a.out was not written by this attempt: it is older than its start", 1),
        (GOT._replace(manifest={"y": "1"}), "the job ended with exit 0 without a result that matches *.out", 0),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_result_fails_the_case_and_the_good_ones_come_back(got: decide.Brought, reason: str, salvaged: int) -> None:
    case = CASES["computed"]
    assert case
    failed, after = decide.fetch(case, got, ("*.out",), 0, NOW)
    assert isinstance(failed, w.Failed)
    assert isinstance(after, w.Salvaged)
    assert reason in failed.reason + "; "
    assert (failed.category, failed.retry, after.files) == ("application", False, salvaged)
    assert evolve(evolve(case, failed), after).salvaged


def test_what_a_failed_job_left_is_salvaged_once_it_came_whole() -> None:
    case = CASES["failed"]._replace(manifest="m")
    assert decide.fetch(case, GOT._replace(sums={"a.out": "1"}), ("*.out",), 0, NOW) == []
    assert decide.fetch(case, GOT, ("*.out",), 0, NOW) == [w.Salvaged(KEY, NOW, 1, 2, 7)]
    assert decide.fetch(case, GOT._replace(digest="other"), ("*.out",), 3, NOW) == [w.Salvaged(KEY, NOW, 1, 0, 0)]


@pytest.mark.parametrize(
    ("code", "says", "category", "retry"),
    [("139", "SIGSEGV (segmentation fault)", "application", False), ("137", "SIGKILL", "system", True), ("1", "exit 1", "application", False),
     ("134", "SIGABRT", "application", False)],
)  # fmt: skip
def test_an_exit_code_names_its_signal_and_says_whether_a_retry_can_help(code: str, says: str, category: str, retry: bool) -> None:
    case = CASES["running"]
    look = a_look(case, "begun", False, False, "", "", "absent")
    trace = look.traces[case.label]._replace(result={"exit": code, "manifest": "m"})
    (event,) = decide.poll(case, look._replace(traces={case.label: trace}), RULES, NOW)
    assert says in event.reason
    assert (event.category, event.retry, event.manifest) == (category, retry, "m")
