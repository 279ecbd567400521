"""The ledger: what is acknowledged stays, what is damaged is seen, whoever dies and whatever the disk does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, Place

from mqi_scripts import words as w
from mqi_scripts.pure import codec
from mqi_scripts.verbs.ledger import verify
from mqi_scripts.world.ledger import Ledger

AT = "2026-11-24T08:00:00.000Z"
BY = {"script": "test", "host": "here", "pid": 1, "user": "me"}


def found(number: int, at: str = AT) -> w.Found:
    return w.Found(f"{number:020x}", at, f"study/{number}", "held:nothing", 223, 45_000_000)


def fifty(folder: Path) -> tuple[Ledger, Path, bytes]:
    """A ledger of 50 lines in that folder, and the head that a report left."""
    folder.mkdir(0o700)
    for name in ("cache", "health"):
        (folder / name).mkdir()
    book = Ledger(str(folder), BY)
    book.append([found(number) for number in range(49)], AT)
    head = book.state().head
    assert head.seq == 50
    (folder / "health" / "mqi-report.json").write_text(json.dumps({"head": list(head)}))
    path = folder / "ledger-2026.jsonl"
    return book, path, path.read_bytes()


def is_detected(folder: Path) -> bool:
    return verify(Ledger(str(folder), BY), []) == 65


def test_every_cut_of_a_ledger_is_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every byte of the last two lines and of the first, every line's end, and 500 others."""
    _, path, whole = fifty(tmp_path / "s")
    assert not is_detected(tmp_path / "s")
    lines = whole.splitlines(keepends=True)
    ends = {sum(map(len, lines[:count])) for count in range(len(lines))}
    sizes = {*range(len(lines[0])), *range(len(whole) - len(lines[-1]) - len(lines[-2]), len(whole)), *ends}
    for size in sorted(sizes | set(random.Random(1).sample(range(len(whole)), 500)), reverse=True):
        os.truncate(path, size)
        assert is_detected(tmp_path / "s"), size
        capsys.readouterr()


def test_every_flipped_bit_of_a_ledger_is_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every bit against the reader of lines, which sees the lines before it unchanged; 500 of them through mqi-ledger verify."""
    _, path, whole = fifty(tmp_path / "s")
    head, start = codec.START, 0
    for line in whole.splitlines(keepends=True):
        for bit in range(8 * len(line)):
            flipped = bytearray(line)
            flipped[bit // 8] ^= 1 << bit % 8
            first = bytes(flipped).partition(b"\n")[0]
            if bit // 8 == len(line) - 1:  # no newline any more: it runs into the line behind it, or is the torn last one
                first += whole[start + len(line) :].partition(b"\n")[0]
            with pytest.raises(w.Damaged):
                codec.read_line(first, head)
        head = codec.read_line(line[:-1], head)[1]
        start += len(line)
    chance = random.Random(1)
    for bit in chance.sample(range(8 * len(whole)), 500):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert is_detected(tmp_path / "s"), bit
    capsys.readouterr()


@pytest.mark.parametrize("damage", ["swapped", "missing", "doubled", "foreign"])
def test_moved_missing_and_foreign_lines_are_detected(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, path, whole = fifty(tmp_path / "s")
    lines = whole.splitlines(keepends=True)
    if damage == "swapped":
        lines[7], lines[8] = lines[8], lines[7]
    elif damage == "missing":
        del lines[7]
    elif damage == "doubled":
        lines.insert(7, lines[7])
    else:
        lines[7] = fifty(tmp_path / "other")[2].splitlines(keepends=True)[7]
    path.write_bytes(b"".join(lines))
    assert is_detected(tmp_path / "s")
    said = capsys.readouterr().err
    assert f"line {9 if damage == 'doubled' else 8} of the ledger" in said
    assert "mqi-ledger repair" in said


def test_a_rewritten_tail_is_detected_by_the_head_that_the_report_showed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody cuts the tail and writes a new one whose digests are right."""
    _, path, whole = fifty(tmp_path / "s")
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:40]))
    (tmp_path / "s" / "cache" / "fold").unlink()
    Ledger(str(tmp_path / "s"), BY).append([found(number) for number in range(100, 120)], AT)
    assert is_detected(tmp_path / "s")
    assert "it was rewritten" in capsys.readouterr().err


def test_a_torn_tail_is_set_aside_and_a_whole_one_gets_its_newline(tmp_path: Path) -> None:
    _, path, whole = fifty(tmp_path / "s")
    last = whole.splitlines(keepends=True)[-1]
    for kept in (len(whole) - len(last) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        (tmp_path / "s" / "cache" / "fold").unlink()  # the lines were never folded: nobody was told of them
        said: list[str] = []
        book = Ledger(str(tmp_path / "s"), BY, said.append)
        assert book.state().head.seq == 49  # a reader passes over it
        book.append([found(1000)], AT)
        torn = kept < len(whole) - 1
        assert book.state().head.seq == (50 if torn else 51)
        assert [record["seq"] for record, _ in book.records()] == list(range(1, 51 if torn else 52))
        assert bool(said) == torn
        assert len(list((tmp_path / "s").glob("ledger.torn.*"))) == 1
    assert (tmp_path / "s" / "ledger.torn.1").read_bytes() == last[: len(last) - len(last) // 2]


def test_a_torn_tail_may_be_long(tmp_path: Path) -> None:
    """A power loss can leave a file longer than what was written to it."""
    book, path, whole = fifty(tmp_path / "s")
    os.truncate(path, len(whole) + (2 << 20))
    book.append([found(1000)], AT)
    assert (tmp_path / "s" / "ledger.torn.1").stat().st_size == 2 << 20
    assert path.read_bytes().startswith(whole)
    assert [record["seq"] for record, _ in Ledger(str(tmp_path / "s"), BY).records()] == list(range(1, 52))


@pytest.mark.parametrize("names", [("ledger-2024.jsonl", "ledger-2025.jsonl"), ("ledger-2026.jsonl", "ledger-2026b.jsonl"), ("ledger-2026.jsonl", "ledger-old.jsonl")])
@pytest.mark.parametrize("first", [0, 20])
def test_a_file_that_was_renamed_or_divided_is_the_same_ledger(tmp_path: Path, first: int, names: tuple[str, str]) -> None:
    book, path, whole = fifty(tmp_path / "s")
    expected, lines = book.cases(), whole.splitlines(keepends=True)
    path.unlink()
    path.with_name(names[0]).write_bytes(b"".join(lines[:first]))
    path.with_name(names[1]).write_bytes(b"".join(lines[first:]))
    assert not is_detected(tmp_path / "s")
    for number, reader in enumerate((book, Ledger(str(tmp_path / "s"), BY)), 1000):
        assert reader.cases() == expected
        assert len(reader.append([found(number)], AT)) == 1
        expected = reader.cases()
    assert not is_detected(tmp_path / "s")


def test_a_cut_tail_is_told_by_the_report_though_the_caches_are_gone(local_place: Place) -> None:
    place = local_place
    place.case("a")
    place("mqi-scan")
    assert place("mqi-report").code == 0
    path = next(place.state.glob("ledger-*.jsonl"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    shutil.rmtree(place.state / "cache")
    for _ in range(2):  # it does not forget it by telling it
        ran = place("mqi-report")
        assert ran.code == 65, ran
        assert "LEDGER CORRUPT" in ran.err
        assert "A report showed line 2, and the last one is 1: its tail is cut. See: mqi-ledger verify" in ran.err
    assert place("mqi-ledger", "verify").code == 65


def test_a_damaged_line_stops_writers_and_not_the_report(local_place: Place) -> None:
    place = local_place
    for name in "abc":
        place.case(name)
    place("mqi-scan")
    path = next(place.state.glob("ledger-*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"files":2', b'"files":3')
    path.write_bytes(b"".join(lines))
    (place.state / "cache" / "fold").unlink()
    for name in ("mqi-push", "mqi-scan"):
        ran = place(name)
        assert ran.code == 65
        assert f"{path}: line 3 of the ledger" in ran.err
        assert "mqi-ledger repair" in ran.err
    assert path.read_bytes() == b"".join(lines)
    report = place("mqi-report")
    assert report.code == 65
    assert "LEDGER CORRUPT; shown is what was read last, up to line 2." in report.err
    assert " a " in report.out
    assert place("mqi-ledger", "verify").code == 65
    assert place("mqi-ledger", "repair").code == 2
    mended = place("mqi-ledger", "repair", "--reason", "a bit flipped")
    assert mended.code == 0, mended.err
    assert place("mqi-ledger", "verify").code == 0
    old = next(place.state.glob("ledger-*.damaged-*"))
    assert old.read_bytes() == b"".join(lines)
    record = json.loads(path.read_bytes().splitlines()[-1])
    assert (record["type"], record["what"]) == ("repaired", "repair: a bit flipped; 1 lines went to ledger.aside.1")
    assert record["old"] == codec.sha256(old.read_bytes())
    kept = path.read_bytes().splitlines(keepends=True)
    assert record["new"] == codec.sha256(b"".join(kept[:-1]))
    assert kept[:2] + kept[3:4] == lines[:2] + lines[3:4]
    assert json.loads(kept[2])["type"] == "lost"
    assert (place.state / "ledger.aside.1").read_bytes() == lines[2]
    assert all(row["status"] == "completed" for row in place.until("completed").values())
    assert len(place.rows()) == 3


def test_the_report_of_a_damaged_ledger_has_completed_cases_too(local_place: Place) -> None:
    local_place.case("a")
    local_place.until("completed")
    local_place.case("b")
    local_place("mqi-scan")
    path = next(local_place.state.glob("ledger-*.jsonl"))
    path.write_bytes(path.read_bytes()[:-10])
    report = local_place("mqi-report")
    assert report.code == 65
    assert " a " in report.out
    assert " completed " in report.out


def test_a_ledger_that_got_shorter_stops_everybody(local_place: Place) -> None:
    place = local_place
    place.case("a")
    place("mqi-scan")
    path = next(place.state.glob("ledger-*.jsonl"))
    before = path.read_bytes()
    place("mqi-push")
    path.write_bytes(before)
    ran = place("mqi-push")
    assert ran.code == 65
    assert "its tail is cut or overwritten, or it is an older copy" in ran.err
    assert path.read_bytes() == before
    (place.state / "cache" / "fold").unlink()  # even without its memory: the host was shown a later line
    ran = place("mqi-push")
    assert (ran.code, path.read_bytes()) == (65, before)
    assert "a restored backup or a cloned gateway" in ran.err


@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"\0" * 300, b'{"v":1,"seq":'])
def test_an_acknowledged_line_that_is_overwritten_is_no_torn_write(local_place: Place, tail: bytes) -> None:
    place = local_place
    place.case("a")
    place("mqi-scan")
    place("mqi-push")
    path = next(place.state.glob("ledger-*.jsonl"))
    damaged = path.read_bytes()[:-100] + tail
    path.write_bytes(damaged)
    for words in (("mqi-submit",), ("mqi-case", "explain", "a"), ("mqi-report",), ("mqi-check",)):
        ran = place(*words)
        assert (ran.code, "does not have line 4 any more" in ran.out + ran.err) == (65, True)
        assert path.read_bytes() == damaged
    ran = place("mqi-ledger", "verify")
    assert ran.code == 65
    assert "line 4 is not here (the last one is 3), but its digest" in ran.err
    assert "a write was cut off; mqi-ledger repair ends it, or sets it aside" in ran.err
    assert "mqi-ledger rebuild" not in ran.err  # one way, not two
    assert place("mqi-ledger", "repair", "--reason", "power loss").code == 0
    assert damaged in [kept.read_bytes() for kept in place.state.glob("*.damaged-*")]
    assert place.until("completed")["a"]["attempt"] == 1


def test_who_had_read_a_line_that_is_overwritten_writes_nothing_behind_it(tmp_path: Path) -> None:
    book, _, _ = fifty(tmp_path / "s")
    book.state()
    path = next((tmp_path / "s").glob("ledger-*.jsonl"))
    damaged = path.read_bytes()[:-20]
    path.write_bytes(damaged)
    with pytest.raises(w.Damaged, match="does not have line"):
        book.append([w.Noted("", AT, "x", "kim")], AT)
    assert path.read_bytes() == damaged
    assert not list((tmp_path / "s").glob("ledger.torn.*"))


def test_a_ledger_may_end_with_a_line_that_tells_of_lost_ones(tmp_path: Path) -> None:
    book, _, _ = fifty(tmp_path / "s")
    head = book.state().head
    book.append([w.Lost("", AT, head.seq + 5, "f" * 64, "a test")], AT)
    for fresh in (book, Ledger(str(tmp_path / "s"), BY)):
        assert [fresh.state().head.seq for _ in range(2)] == [head.seq + 5] * 2
    assert Ledger(str(tmp_path / "s"), BY).seen() == w.Head(head.seq + 5, "f" * 64)


@pytest.mark.parametrize("lines", [1, 3])
def test_verify_offers_repair_for_a_last_line_that_is_half_there_and_a_backup_for_more(local_place: Place, lines: int) -> None:
    place = local_place
    place.case("a")
    place.until("completed")
    path = next(place.state.glob("ledger-*.jsonl"))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-lines]) + whole[-lines][:40])
    ran = place("mqi-ledger", "verify")
    assert ran.code == 65
    assert ("See: mqi-ledger repair --dry-run" in ran.err, "Restore the newest backup" in ran.err) == (lines == 1, lines == 3), ran.err


def test_a_ledger_file_that_is_gone_stops_everybody(local_place: Place) -> None:
    local_place.case("a")
    local_place("mqi-scan")
    next(local_place.state.glob("ledger-*.jsonl")).rename(local_place.folder / "away")
    for program in ("mqi-scan", "mqi-push", "mqi-report"):
        ran = local_place(program)
        assert ran.code == 65, ran
        assert "its tail is cut or overwritten, or it is an older copy" in ran.err
    assert not list(local_place.state.glob("ledger-*.jsonl"))


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped", "garbage", "a folder"])
def test_the_cached_fold_can_be_lost_or_damaged(tmp_path: Path, damage: str) -> None:
    book, _, _ = fifty(tmp_path / "s")
    expected, cache = book.cases(), tmp_path / "s" / "cache" / "fold"
    kept = cache.read_bytes()
    cache.unlink()
    if damage == "cut":
        cache.write_bytes(kept[:500])
    elif damage == "flipped":
        cache.write_bytes(kept.replace(b"study/7", b"study/8", 1))
    elif damage == "garbage":
        cache.write_bytes(b"\x00\xff" * 100)
    elif damage == "a folder":
        cache.mkdir()
    again = Ledger(str(tmp_path / "s"), BY)
    assert again.cases() == expected
    assert len(again.append([found(2000)], AT)) == 1


def test_the_chain_goes_on_across_years_and_a_clock_that_goes_back(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    (folder / "cache").mkdir(parents=True)
    book = Ledger(str(folder), BY)
    for number, year in enumerate(("2026", "2027", "2026", "2029")):
        book.append([found(number, AT.replace("2026", year))], AT.replace("2026", year))
    assert book.files() == ["ledger-2026.jsonl", "ledger-2027.jsonl", "ledger-2029.jsonl"]
    assert [record["seq"] for record, _ in Ledger(str(folder), BY).records()] == [1, 2, 3, 4, 5]
    (folder / "cache" / "fold").unlink()
    assert len(Ledger(str(folder), BY).cases()) == 4
    (folder / "ledger-2027.jsonl").unlink()
    with pytest.raises(w.Damaged, match="lines are missing"):
        list(book.records())


def test_what_cannot_follow_is_refused_and_the_rest_is_stored(tmp_path: Path) -> None:
    book, _, _ = fifty(tmp_path / "s")
    stored = book.append([w.Completed(found(1).case, AT, 1, "0" * 64, 1, 1), found(500), found(1)], AT)
    assert [event.case for event in stored] == [found(500).case]
    assert len(book.refused) == 2


def test_a_disk_that_takes_only_a_part_changes_nothing(local_place: Place) -> None:
    """The file-size limit of the process makes the kernel take only a part of the write, as a full disk does."""
    place = local_place
    for number in range(100):  # the ledger is longer than any other file that a push writes
        place.case(f"{number:02}")
    place("mqi-scan")
    before = place.ledger()
    limit = ["prlimit", f"--fsize={len(before) + 100}"]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run([*limit, *place.argv("mqi-push")], env=env, capture_output=True, text=True)
    assert ran.returncode == 74, ran.stderr
    assert "make room" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert place.ledger() == before
    assert place("mqi-ledger", "verify").code == 0
    assert place("mqi-push").code == 0
    assert {row["status"] for row in place.rows().values()} == {"pushed"}


WRITER = """
import itertools, os, sys
from mqi_scripts import words as w
from mqi_scripts.world.ledger import Ledger
book = Ledger(sys.argv[1], {"script": "writer", "host": "here", "pid": os.getpid(), "user": "me"})
told = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
at, key = "2026-11-24T08:00:00.000Z", f"{os.getpid():020x}"
for event in itertools.chain([w.Found(key, at, key, "held:nothing", 1, 1)], itertools.cycle([w.Gone(key, at), w.Back(key, at)])):
    for stored in book.append([event], at):
        os.write(told, f"{key} {type(stored).__name__.lower()} {book.state().head.seq}\\n".encode())
"""


def test_eight_writers_with_forty_kills_lose_no_acknowledged_event(tmp_path: Path) -> None:
    folder, chance = tmp_path / "s", random.Random(1)
    for name in ("cache", "health"):
        (folder / name).mkdir(parents=True)
    told = [tmp_path / f"told{number}" for number in range(8)]

    def start(number: int) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", WRITER, str(folder), str(told[number])]
        return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(REPO)})

    writers = [start(number) for number in range(8)]
    for _ in range(40):
        number = chance.randrange(8)
        before = told[number].stat().st_size if told[number].exists() else 0
        while writers[number].poll() is None and (not told[number].exists() or told[number].stat().st_size == before):
            time.sleep(0.001)  # it is at work
        time.sleep(chance.uniform(0, 0.03))
        writers[number].send_signal(signal.SIGKILL)
        assert writers[number].wait() == -signal.SIGKILL
        writers[number] = start(number)
    for writer in writers:
        writer.kill()
        writer.wait()
    book = Ledger(str(folder), BY)
    book.append([found(1)], AT)
    stored = [(record["case"], record["type"]) for record, _ in book.records()]
    acknowledged = [line.split() for path in told for line in path.read_text().splitlines()]
    assert len(acknowledged) > 100
    for key in {key for key, _, _ in acknowledged}:  # the head may be a later line than the event's: then others wrote
        mine, kept = [word for case, word, _ in acknowledged if case == key], [word for case, word in stored if case == key]
        assert kept[: len(mine)] == mine
        assert len(kept) <= len(mine) + 1  # the one it was killed over
    assert all(int(seq) <= len(stored) for _, _, seq in acknowledged)
    assert verify(book, []) == 0


def test_times_users_and_scripts_stand_in_every_line(local_place: Place) -> None:
    local_place.case("a")
    local_place.until("completed")
    for line in local_place.ledger().splitlines():
        record = json.loads(line)
        assert line.isascii()
        assert record["v"] == 1
        assert record["at"].endswith("Z")
        assert set(record["by"]) == {"script", "host", "pid", "user"}
        assert record["by"]["script"].startswith("mqi-")


@pytest.mark.parametrize("words", [("mqi-scan",), ("mqi-report",), ("mqi-ledger", "verify"), ("mqi-ledger", "repair", "--reason", "x")])
@pytest.mark.parametrize("version", [2, "next"])
def test_a_ledger_of_a_newer_version_is_refused_with_its_number_and_left_alone(version: object, words: tuple[str, ...], local_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    local_place.case("one")
    local_place("mqi-scan")
    path = next(local_place.state.glob("ledger-*.jsonl"))
    head = codec.START
    for text in path.read_bytes().splitlines():
        head = codec.read_line(text, head)[1]
    monkeypatch.setattr(codec, "VERSION", version)
    key = str(json.loads(local_place.ledger().splitlines()[-1])["case"])
    path.write_bytes(path.read_bytes() + codec.line(w.Gone(key, AT), head, BY)[0])
    before = {name: name.read_bytes() for name in local_place.state.glob("ledger-*")}
    ran = local_place(*words)
    assert ran.code == 78
    assert f"a newer mqi wrote this ledger: version {version}, this one knows 1" in ran.err
    assert {name: name.read_bytes() for name in local_place.state.glob("ledger-*")} == before


def test_what_a_full_disk_did_not_take_is_not_believed_by_the_same_run(tmp_path: Path) -> None:
    """One host's events do not fit, the next one's do: the fold is that of the lines on the disk."""
    code = """
import resource, sys
from mqi_scripts import words as w
from mqi_scripts.world.ledger import Ledger
now = "2026-11-25T00:00:00.000Z"
found = lambda name: w.Found(name * 20, now, name, "d" * 64, 1, 1, "", {})
book = Ledger(".", {})
book.append([found("a")], now)
size = book.state().size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    book.append([w.Held("a" * 20, now, "a", (w.Reason("x", "", "x"),)), found("b")], now)
    sys.exit("it was written")
except w.Disk:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert book.cases().keys() == {"a" * 20}, book.cases()
assert book.cases()["a" * 20].status == w.FOUND
assert book.append([found("c")], now)
assert Ledger(".", {}).cases() == book.cases()
"""
    (tmp_path / "cache").mkdir()
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
