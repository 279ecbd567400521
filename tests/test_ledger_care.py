"""The ledger's care over real parts: every damage is found and mended, copies are whole, and what is lost is told anew."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import make
import pytest
import test_truth
from conftest import REPO, Place, Pueued, Sshd, close_gate, gate_options, host_text

from test_ledger import WRITER
from test_trouble import in_a_small_disk

from mqi_scripts import words as w
from mqi_scripts.care import evidence, rebuild, recover
from mqi_scripts.care import verify as care
from mqi_scripts.pure import codec, decide
from mqi_scripts.pure.evolve import evolve
from mqi_scripts.world.ledger import Ledger

JOB = 'sh "$MQI_INPUT/do.sh"'
GOOD = 'cp "$MQI_INPUT/plan.txt" plan.out\n'
DO = {
    "done": GOOD,
    "cut": 'if [ "$MQI_ATTEMPT" = 1 ]; then kill -TERM 0; sleep 60; fi\n' + GOOD,
    "failed": "echo no beam; exit 3\n",
    "partial": GOOD + "exit 4\n",
    "empty": "true\n",
    "computed": GOOD,
    "running": "while [ ! -e {go} ]; do sleep 0.1; done\n" + GOOD,
    "running2": "while [ ! -e {go} ]; do sleep 0.1; done\n" + GOOD,
    "waiting": GOOD,
    "pushed": GOOD,
    "found": GOOD,
    "held": GOOD,
}
ENDED = ("done", "cut", "failed", "partial", "empty")
STATUS = {"done": "completed", "cut": "completed", "failed": "failed", "partial": "failed", "empty": "failed", "computed": "computed",
          "running": "running", "running2": "running", "waiting": "submitted", "pushed": "pushed", "found": "found", "held": "held"}  # fmt: skip


def a_site(folder: Path, sshd: Sshd, pueued: Pueued) -> Place:
    """Over real ssh, with a real queue; jobs may take as long as a test does."""
    place = Place(folder, host_text("ssh", "pueue", "scp", sshd, pueued), JOB)
    place.config.write_text(place.config.read_text().replace('time_limit = "60s"', 'time_limit = "1h"'))
    return place


def add(place: Place, *names: str) -> None:
    for name in names:
        folder = place.case(name)
        (folder / "do.sh").write_text(DO[name].format(go=place.folder / "go"))
        if name == "held":
            (folder / "link").symlink_to("/etc/passwd")


def run(place: Place, *programs: str) -> None:
    for program in programs:
        ran = place(program)
        assert ran.code in (0, 1), (program, ran)


def statuses(place: Place) -> dict[str, str]:
    return {path: row["status"] for path, row in place.rows().items()}


def until(place: Place, **wanted: str) -> None:
    """Tick until the cases stand like this."""
    deadline = time.monotonic() + 240
    while statuses(place) != wanted:
        assert time.monotonic() < deadline, statuses(place)
        place.tick()


@pytest.fixture
def busy(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> Place:
    """A site with a case in every status that there is; two jobs run until the file `go` is there."""
    place = a_site(tmp_path / "site", sshd, pueued)
    add(place, *ENDED)
    place.until("completed", "failed")
    add(place, "computed")
    run(place, "mqi-scan", "mqi-push", "mqi-submit")
    for _ in range(200):
        run(place, "mqi-poll")
        if statuses(place)["computed"] == "computed":
            break
    for names in (("running", "running2"), ("waiting",)):
        add(place, *names)
        run(place, "mqi-scan", "mqi-push", "mqi-submit")
    for _ in range(600):
        time.sleep(0.05 * (len(place.executions()) < 9))
    run(place, "mqi-poll")
    add(place, "pushed")
    run(place, "mqi-scan", "mqi-push")
    add(place, "found", "held")
    run(place, "mqi-scan")
    assert statuses(place) == STATUS
    return place


def finish(place: Place) -> dict[str, dict[str, object]]:
    """Let the jobs go on; to the end of every case."""
    (place.folder / "go").touch()
    rows = place.until("completed", "failed", "held")
    runs = place.executions()
    assert len(runs) == len(set(runs)), runs
    assert {path: row["status"] for path, row in rows.items() if path != "held"} == {
        name: "failed" if STATUS[name] == "failed" else "completed" for name in STATUS if name != "held"
    }  # fmt: skip
    assert rows["held"]["status"] == "held"
    assert len(runs) == len(STATUS) - 1 + 1  # held never, cut twice
    assert {row["attempt"] for path, row in rows.items() if path not in ("cut", "held")} == {1}
    assert rows["cut"]["attempt"] == 2
    for name in STATUS:
        if rows[name]["status"] == "completed":
            assert (place.results / name / "plan.out").read_text() == f"plan of {name}\n"
    assert not list(place.results.glob("*.superseded-*")), "a result was fetched twice"
    verified = place("mqi-ledger", "verify")
    assert verified.code == 0, verified.err
    return rows


def sight(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_lost_ledger_is_told_anew_while_its_jobs_run(busy: Place) -> None:
    place = busy
    before, results = place.rows(), sight(place.results)
    for path in place.state.glob("ledger-*"):
        path.unlink()
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        assert place(program).code == 65
    ran = place("mqi-ledger", "rebuild", "--reason", "the disk is gone")
    assert ran.code == 0, ran
    assert sight(place.results) == results
    after = place.rows()
    assert after.pop("empty")["status"] == "computed"  # nothing but mqi-fetch can say that its results are missing
    assert set(after) == set(STATUS) - {"empty", "pushed", "found", "held"}
    for name, row in after.items():
        assert [row[word] for word in ("case_id", "status", "attempt")] == [before[name][word] for word in ("case_id", "status", "attempt")]
        assert str(row["completed_at"])[:19] == str(before[name]["completed_at"])[:19]
    assert place("mqi-ledger", "verify").code == 0
    finish(place)


def test_with_all_of_the_state_gone_and_another_ledger_begun_meanwhile(busy: Place) -> None:
    """The timers went on: a new ledger with another id found all cases anew, and could not touch the root."""
    place = busy
    before = place.rows()
    shutil.rmtree(place.state)
    away = place.folder / "away"
    (place.inbox / "waiting").rename(away)  # its path stands nowhere any more
    place("mqi-scan")
    ran = place("mqi-push")
    assert ran.code == 65
    assert "belongs to another ledger" in ran.err
    ran = place("mqi-ledger", "rebuild", "--reason", "the disk is gone")
    assert ran.code == 65
    begun = place.ledger()
    ledger = re.search(r"--ledger (\w+) --reason", ran.err)
    assert ledger
    dry = place("mqi-ledger", "rebuild", "--dry-run", "--ledger", ledger[1])
    assert (dry.code, place.ledger()) == (1, begun)
    assert "would record: " in dry.out
    ran = place("mqi-ledger", "rebuild", "--reason", "the disk is gone", "--ledger", ledger[1])
    assert ran.code == 1
    assert next(place.state.glob("ledger-*.aside-*")).read_bytes() == begun
    lost = before["waiting"]["case_id"]
    assert f"NOT recovered: {lost} (far: attempts 1): nothing names its path" in ran.out
    assert "waiting" not in place.rows()
    away.rename(place.inbox / "waiting")  # and now it does: the scan finds it, and what the host has of it is adopted
    rows = finish(place)
    assert rows["waiting"]["case_id"] == lost


def test_a_restored_backup_is_refused_and_then_goes_on_where_the_world_is(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = a_site(tmp_path / "site", sshd, pueued)
    for group in ("gpu0", "gpu1"):
        pueued.client("parallel", "4", "-g", group)
    add(place, "running", "cut", "partial")
    run(place, "mqi-scan", "mqi-push", "mqi-submit")
    copied = place("mqi-ledger", "backup", str(tmp_path / "copies"))
    assert copied.code == 0, copied
    add(place, "done", "computed")
    until(place, running="running", cut="completed", partial="failed", done="completed", computed="completed")
    add(place, "held", "waiting")
    run(place, "mqi-scan", "mqi-push", "mqi-submit")
    before, results, head = place.rows(), sight(place.results), json.loads(place("mqi-report", "--json").out)["head"]
    copy = next((tmp_path / "copies").iterdir())
    restore(place, copy)
    for program in ("mqi-scan", "mqi-push", "mqi-poll", "mqi-report"):
        assert place(program).code == 65
    assert place("mqi-ledger", "verify").code == 65
    shutil.rmtree(place.state / "cache")  # nothing here remembers the lost lines; the root does
    assert place("mqi-scan").code == 1
    ran = place("mqi-push")
    assert (ran.code, "mqi-ledger rebuild --reason" in ran.err) == (65, True)
    assert place("mqi-poll").code == 65
    ran = place("mqi-ledger", "rebuild", "--reason", "restored")
    assert ran.code == 0, ran
    after = {name: (row["status"], row["attempt"]) for name, row in place.rows().items()}
    assert after.pop("waiting") in (("submitted", 1), ("running", 1), ("computed", 1))
    assert after == {name: (row["status"], row["attempt"]) for name, row in before.items() if name != "waiting"}
    assert sight(place.results) == results
    lines = [json.loads(line) for line in place.ledger().splitlines()]
    lost = next(line for line in lines if line["type"] == "lost")
    assert lost["upto"] >= head["seq"] - 5  # the root's: it was shown every line that led to an act
    assert [line["seq"] for line in lines if line["seq"] > lost["seq"]] == list(range(lost["seq"] + 1, lines[-1]["seq"] + 1))
    verified = place("mqi-ledger", "verify", "--head", f"{lost['upto'] - 1}:abc")
    assert verified.code == 65
    assert "are missing" in verified.err
    (place.folder / "go").touch()
    place.until("completed", "failed", "held")
    assert len(place.executions()) == len(set(place.executions())) == 7
    assert place("mqi-ledger", "verify").code == 0


def test_a_lost_ledger_is_told_anew_through_a_gate(tmp_path: Path, sshd: Sshd) -> None:
    """With all of the state gone, manifests, too: they come from the host, where the inbox has nothing any more."""
    place = Place(tmp_path / "site", host_text("ssh", "direct", "tar", sshd, None), JOB)
    close_gate(place, sshd, *gate_options("direct", None))
    add(place, "done", "running", "computed")
    until(place, done="completed", running="running", computed="completed")
    before = sight(place.results)
    shutil.rmtree(place.state)
    (place.inbox / "running").rename(tmp_path / "away")
    ran = place("mqi-ledger", "rebuild", "--reason", "the disk is gone")
    assert ran.code == 1  # nothing names the path of what runs
    assert "NOT recovered" in ran.out
    (place.inbox / "running").mkdir()
    (place.inbox / "running" / "other.txt").write_text("not what runs\n")
    assert place("mqi-ledger", "rebuild", "--reason", "its name is known now").code == 0
    assert statuses(place) == {"done": "completed", "running": "running", "computed": "completed"}
    assert sight(place.results) == before
    shutil.rmtree(place.inbox / "running")
    (place.folder / "go").touch()
    rows = place.until("completed")
    assert len(place.executions()) == len(rows) == 3
    assert len(json.loads((place.results / "running" / "mqi-result.json").read_text())["inputs"]) == 3


def restore(place: Place, copy: Path) -> None:
    """As RESTORE.txt says."""
    text = (copy / "RESTORE.txt").read_text()
    assert "move what is left of ledger-*.jsonl* in the state folder away" in text
    for path in place.state.glob("ledger-*.jsonl*"):
        path.rename(place.folder / f"left-{path.name}")
    for path in copy.glob("ledger-*.jsonl*"):
        shutil.copy(path, place.state)
    shutil.copytree(copy / "manifests", place.state / "manifests", dirs_exist_ok=True)


def test_a_cloned_gateway_is_refused_and_whoever_rebuilds_takes_the_root(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = a_site(tmp_path / "site", sshd, pueued)
    add(place, "done")
    run(place, "mqi-scan", "mqi-push")
    shutil.copytree(place.state, tmp_path / "clone")
    clone = a_site(tmp_path / "other", sshd, pueued)
    text = place.config.read_text().replace(f'state = "{place.state}"', f'state = "{tmp_path / "clone"}"')
    clone.config.write_text(text)
    add(place, "computed")
    run(place, "mqi-scan", "mqi-push", "mqi-submit")
    assert clone("mqi-submit").code == 65
    place.until("completed")
    assert clone("mqi-submit").code == 65
    assert clone("mqi-ledger", "rebuild", "--reason", "this one is the gateway now").code == 0
    assert statuses(clone) == {"done": "completed", "computed": "completed"}
    add(place, "failed")
    place("mqi-scan")
    ran = place("mqi-push")
    assert ran.code == 65
    assert "a restored backup or a cloned" in ran.err
    assert place.executions() == list(dict.fromkeys(place.executions()))


def test_a_rebuild_that_is_killed_again_and_again_costs_nothing(busy: Place) -> None:
    place, chance = busy, random.Random(1)
    for path in place.state.glob("ledger-*"):
        path.unlink()
    argv, env = place.argv("mqi-ledger", "rebuild", "--reason", "lost"), {**os.environ, "PYTHONPATH": str(REPO)}
    started = time.monotonic()
    assert place("mqi-ledger", "rebuild", "--dry-run").code == 0
    takes = time.monotonic() - started
    whole = 0
    for _ in range(12):
        child = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            whole += child.wait(chance.uniform(0.3, 1.1) * takes) == 0
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        place("mqi-push")
        place("mqi-submit")
        place("mqi-poll")
    assert whole < 12
    ran = place("mqi-ledger", "rebuild", "--reason", "lost")
    assert ran.code == 0, ran
    finish(place)


# --- damage: what verify says of it, and what repair makes of it


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A site with a ledger of two years, the first one compressed: three cases completed, two found. Local, without a queue."""
    place = Place(tmp_path_factory.mktemp("grown") / "site", host_text("local", "direct", "scp", None, None), GOOD)
    for name in "abc":
        place.case(name)
    place.until("completed")
    new(place).rename(place.state / "ledger-2020.jsonl")
    (place.state / "cache" / "fold").unlink()
    for name in "de":
        place.case(name)
    run(place, "mqi-scan", "mqi-report")
    before = place("mqi-report", "--csv").out
    ran = place("mqi-ledger", "compress")
    assert ran.code == 0, ran
    assert not (place.state / "ledger-2020.jsonl").exists()
    for _ in range(2):
        assert place("mqi-report", "--csv").out == before
        assert place("mqi-ledger", "verify").code == 0
        (place.state / "cache" / "fold").unlink(missing_ok=True)
    run(place, "mqi-report")
    for name in ("state", "host", "results"):
        shutil.copytree(place.folder / name, place.folder / "kept" / name)
    return place


@pytest.fixture
def aged(grown: Place) -> Place:
    """That site as it was before any test."""
    for name in ("state", "host", "results"):
        shutil.rmtree(grown.folder / name)
        shutil.copytree(grown.folder / "kept" / name, grown.folder / name)
    return grown


def old(place: Place) -> list[bytes]:
    return gzip.decompress((place.state / "ledger-2020.jsonl.gz").read_bytes()).splitlines(keepends=True)


def write_old(place: Place, lines: list[bytes]) -> None:
    (place.state / "ledger-2020.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))


def new(place: Place) -> Path:
    return next(place.state.glob("ledger-*.jsonl"))


def flip(place: Place) -> None:
    lines = old(place)
    lines[4] = lines[4][:100] + bytes([lines[4][100] ^ 1]) + lines[4][101:]
    write_old(place, lines)


def moved(change: Callable[[list[bytes]], None]) -> Callable[[Place], None]:
    def damage(place: Place) -> None:
        lines = old(place)
        change(lines)
        write_old(place, lines)

    return damage


def swap(lines: list[bytes]) -> None:
    lines[6], lines[7] = lines[7], lines[6]


def cut_gz(place: Place) -> None:
    path = place.state / "ledger-2020.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])


def append_text(text: bytes) -> Callable[[Place], None]:
    def damage(place: Place) -> None:
        new(place).write_bytes(new(place).read_bytes() + text)

    return damage


def impossible(place: Place) -> None:
    """A line with right digests, written by something that does not know the rules."""
    lines = new(place).read_bytes().splitlines(keepends=True)
    record = json.loads(lines[-1])
    event = w.Completed(record["case"], record["at"], 1, "0" * 64, 1, 1)
    append_text(codec.line(event, codec.after(record), record["by"])[0])(place)


def misshapen(place: Place) -> None:
    record = json.loads(new(place).read_bytes().splitlines()[-1])
    event = w.Gone(record["case"], "yesterday")
    append_text(codec.line(event, codec.after(record), record["by"])[0])(place)


def sealed(old: bytes, new_text: bytes) -> Callable[[Place], None]:
    """A line in which something else stands, with right digests all the same."""

    def damage(place: Place) -> None:
        record = json.loads(new(place).read_bytes().splitlines()[-1])
        line, _ = codec.line(w.Gone(record["case"], record["at"]), codec.after(record), record["by"])
        body = re.sub(old, new_text, line[: line.rindex(b',"sha256"')])
        append_text(body + b',"sha256":"' + codec.sha256(body + b"}").encode() + b'"}\n')(place)

    return damage


DAMAGES: dict[str, tuple[Callable[[Place], None], str]] = {
    "a bit flipped": (flip, "line 5 of the ledger, at byte .*: its text does not fit its own digest"),
    "a line deleted": (moved(lambda lines: lines.__delitem__(6)), "line 7 of the ledger, .*: it is number 8, expected 7"),
    "three lines deleted": (moved(lambda lines: lines.__delitem__(slice(6, 9))), "it is number 10, expected 7"),
    "lines swapped": (moved(swap), "line 7 of the ledger, .*: it is number 8, expected 7"),
    "a line doubled": (moved(lambda lines: lines.insert(6, lines[6])), "line 8 of the ledger, .*: it is number 7, expected 8"),
    "the first line gone": (moved(lambda lines: lines.__delitem__(0)), "line 1 of the ledger, .*: it is number 2, expected 1"),
    "the first file cut": (moved(lambda lines: lines.__delitem__(slice(-2, None))), "lines are missing or moved"),
    "the packed file cut": (cut_gz, "ledger-2020.jsonl.gz cannot be unpacked: "),
    "garbage inside": (moved(lambda lines: lines.insert(6, b"\x00\xff{}\n")), "it is not a whole ledger line"),
    "the last line dropped": (lambda place: new(place).write_bytes(b"".join(new(place).read_bytes().splitlines(True)[:-1])),
                              r"line \d+ is not here \(the last one is \d+\), but its digest .* was seen: the tail is cut"),
    "the last line torn": (append_text(b'{"v":1,"seq":'), "its last line has no newline: a write was cut off"),
    "a story that cannot be": (impossible, "tells what cannot be: completed, while its case is found, attempt 0"),
    "a shape that is wrong": (misshapen, "is not as its schema wants it: at "),
    "a type of the future": (sealed(b'"gone"', b'"teleported"'), "has the type 'teleported', which this version does not know"),
    "a list for a type": (sealed(b'"gone"', b'["gone"]'), r"has the type \['gone'\], which this version does not know"),
    "no type": (sealed(b'"type":"gone",', b""), "no version of mqi wrote it: KeyError"),
    "lost without what": (sealed(b'"gone"', b'"lost"'), "no version of mqi wrote it: KeyError"),
    "half a number": (sealed(rb'"seq":([0-9]+)', rb'"seq":\1.0'), r"it is number \d+\.0, expected \d+"),
}  # fmt: skip


WHOLE = ("lines swapped", "a line doubled", "garbage inside", "the last line torn", "a story that cannot be", "a shape that is wrong",
         "a type of the future", "a list for a type", "no type", "lost without what", "half a number")  # fmt: skip


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_every_damage_is_found_and_mended(aged: Place, damage: str) -> None:
    place, (make, sentence) = aged, DAMAGES[damage]
    before, lines, results = place.rows(), [*old(place), *new(place).read_bytes().splitlines(keepends=True)], sight(place.results)
    make(place)
    broken = sight(place.state)
    found = place("mqi-ledger", "verify")
    assert found.code == 65
    assert re.search(sentence, found.err), found.err
    dry = place("mqi-ledger", "repair", "--dry-run")
    assert dry.code == 0, dry
    assert damage == "the last line dropped" or re.search(r'^ledger-\d+\.jsonl.* would be replaced, and the old kept; to do it: mqi-ledger repair --reason "..."$', dry.out, re.M)
    assert ledgers(sight(place.state)) == ledgers(broken)
    ran = place("mqi-ledger", "repair", "--reason", "a test broke it")
    assert ran.code == 0, ran
    if damage == "the last line dropped":
        assert ran.out == dry.out == "nothing to repair; what hosts and results can prove beside it: mqi-ledger rebuild --reason ...\n"
        ran = place("mqi-ledger", "rebuild", "--reason", "a test cut it")
        assert ran.code == 0, ran
    good = place("mqi-ledger", "verify")
    assert good.code == 0, good.err
    years = sorted(path for path in place.state.iterdir() if re.fullmatch(r"ledger-\d+\.jsonl(\.gz)?", path.name))
    text = b"".join(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in years)
    gone = [line for line in lines if line not in text.splitlines(keepends=True)]
    assert bool(gone) == (damage not in WHOLE)
    if damage in ("a bit flipped", "a line deleted", "the last line dropped", "the first line gone"):  # of one case, from there on
        assert len({json.loads(line)["case"] for line in gone}) == 1
    aside = b"".join(path.read_bytes() for path in sorted(place.state.glob("ledger.aside.*")))
    if damage in ("a bit flipped", "garbage inside", "a line doubled"):
        assert aside.splitlines(keepends=True)[0] in broken_lines(broken)
    for path, (_, content) in ledgers(broken).items():  # it is still the beginning of the file, or it is kept
        stays = Path(path).exists() and Path(path).read_bytes().startswith(content)
        assert stays or content in [kept.read_bytes() for kept in place.state.glob(f"{Path(path).name}.damaged-*")]
    run(place, "mqi-scan")
    rows = place.rows()
    assert {name: row["status"] for name, row in rows.items()} == {name: row["status"] for name, row in before.items()}
    assert {name: row["case_id"] for name, row in rows.items()} == {name: row["case_id"] for name, row in before.items()}
    assert sight(place.results) == results
    assert len(place.executions()) == 3
    assert place("mqi-push").code == 0


def ledgers(seen: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bytes]]:
    return {path: file for path, file in seen.items() if "/ledger" in path and "ledger.lock" not in path}


def broken_lines(broken: dict[str, tuple[int, bytes]]) -> list[bytes]:
    return gzip.decompress(next(text for path, (_, text) in broken.items() if path.endswith(".gz"))).splitlines(keepends=True)


@pytest.mark.parametrize(("damage", "sentence"), [("changed", "was changed: its digest is not the one in its name"),
                                                  ("missing", "No such file or directory, but the ledger names it")])  # fmt: skip
def test_a_manifest_that_is_not_what_the_ledger_names_is_found(aged: Place, damage: str, sentence: str) -> None:
    there = {path.name for path in (aged.root / "cases").iterdir()}  # of a case that went to its host, which has it, too
    manifest = next(path for path in sorted((aged.state / "manifests").iterdir()) if path.name.partition("-")[0] in there)
    if damage == "changed":
        manifest.write_bytes(manifest.read_bytes().replace(b"plan.txt", b"plan.tx2"))
    else:
        manifest.unlink()
    found = aged("mqi-ledger", "verify")
    assert found.code == 65
    assert f"{manifest}" in found.err
    assert sentence in found.err
    again = aged("mqi-ledger", "rebuild", "--reason", "a manifest")
    assert again.code == 0, again
    assert aged("mqi-ledger", "verify").code == 0
    assert codec.sha256(manifest.read_bytes()) == manifest.name.partition("-")[2]


def test_a_newest_file_that_is_packed_stops_writers(aged: Place) -> None:
    path = new(aged)
    (aged.state / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert aged("mqi-report").code == 0
    assert "it must be plain: gunzip it" in aged("mqi-ledger", "verify").err
    aged.case("f")
    try:
        ran = aged("mqi-scan")
        assert ran.code == 65
        assert "it must be plain: gunzip it" in ran.err
        assert not path.exists()
    finally:
        shutil.rmtree(aged.inbox / "f")


def test_repair_asks_the_host_what_the_damaged_lines_told(busy: Place) -> None:
    """Of three cases the lines about their attempts are damaged while jobs run: nothing is computed twice."""
    place, path = busy, new(busy)
    lines = path.read_bytes().splitlines(keepends=True)
    keys = {row["case_id"]: name for name, row in place.rows().items()}
    for number, line in enumerate(lines):
        record = json.loads(line)
        name = keys.get(record["case"][:12], "")
        if (name, record["type"]) in (("running", "submitting"), ("done", "succeeded"), ("cut", "interrupted"), ("partial", "failed")):
            lines[number] = line.replace(b'"at":"2', b'"at":"1')
    path.write_bytes(b"".join(lines))
    (place.state / "cache" / "fold").unlink()
    results = sight(place.results)
    assert place("mqi-poll").code == 65
    dry = place("mqi-ledger", "repair", "--dry-run")
    ran = place("mqi-ledger", "repair", "--reason", "bits flipped")
    assert ran.code == 0, ran
    for name in ("running", "done", "cut", "partial"):
        touched = f"touched: {place.rows()[name]['case_id']} {name}\n"
        assert touched in dry.out
        assert touched in ran.out
    assert "touched: " + place.rows()["failed"]["case_id"] not in ran.out
    assert statuses(place) == STATUS
    assert sight(place.results) == results
    finish(place)


def test_a_repair_whose_host_does_not_answer_says_what_is_left_to_do(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = a_site(tmp_path / "site", sshd, pueued)
    add(place, "done")
    place.until("completed")
    path = new(place)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"completed", b"c0mpleted")]))
    (place.state / "cache" / "fold").unlink()
    text = place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", "port = 1"))
    ran = place("mqi-ledger", "repair", "--reason", "a bit flipped")
    assert ran.code == 69
    assert "the ledger is mended, but what the host knows of these cases is still to be asked" in ran.err
    assert place("mqi-ledger", "verify").code == 0
    assert statuses(place) == {"done": "computed"}
    assert place("mqi-ledger", "rebuild", "--reason", "later").code == 69
    place.config.write_text(text)
    results = sight(place.results)
    assert place("mqi-ledger", "rebuild", "--reason", "later").code == 0
    assert statuses(place) == {"done": "completed"}
    assert sight(place.results) == results


def test_the_line_with_the_ledger_s_id_can_be_damaged(aged: Place) -> None:
    """Every key hangs on it. The root tells it; without the root the results do; without both nothing is changed."""
    lines, before = old(aged), aged.rows()
    write_old(aged, [lines[0].replace(b'"id":"', b'"id":"0'), *lines[1:]])
    for mark in (aged.root / "ledger", aged.results / ".mqi-results"):
        mark.rename(f"{mark}.away")
    broken = ledgers(sight(aged.state))
    ran = aged("mqi-ledger", "repair", "--reason", "a bit flipped")
    assert (ran.code, "neither a root nor the results tell it" in ran.err) == (65, True)
    assert ledgers(sight(aged.state)) == broken
    for mark in (aged.root / "ledger", aged.results / ".mqi-results"):
        Path(f"{mark}.away").rename(mark)
    assert aged("mqi-ledger", "repair", "--reason", "a bit flipped").code == 0
    assert aged("mqi-ledger", "verify").code == 0
    run(aged, "mqi-scan")
    assert {name: row["case_id"] for name, row in aged.rows().items()} == {name: row["case_id"] for name, row in before.items()}
    assert len({json.loads(line)["id"] for line in [lines[0], *aged.ledger().splitlines()] if b'"opened"' in line}) == 1


# --- copies


def test_backups_are_whole_while_eight_processes_append(tmp_path: Path) -> None:
    """Writers die and tear lines meanwhile; every copy verifies, has all that was acknowledged before it began, and stays."""
    place, chance = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), GOOD), random.Random(1)
    place.case("a")
    run(place, "mqi-scan")
    told = [tmp_path / f"told{number}" for number in range(8)]

    def start(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WRITER, str(place.state), str(told[number])], env={**os.environ, "PYTHONPATH": str(REPO)})

    writers, copies, heads = [start(number) for number in range(8)], tmp_path / "copies", [0]
    try:
        for turn in range(8):
            number = chance.randrange(8)
            writers[number].kill()
            writers[number].wait()
            writers[number] = start(number)
            acknowledged = max([int(path.read_text().rpartition(" ")[2] or 0) for path in told if path.exists() and path.read_text()], default=0)
            ran = place("mqi-ledger", "backup", str(copies))
            assert ran.code == 0, ran
            seq = int(ran.out.split(", head ")[1].split(":")[0])
            assert seq >= max(acknowledged, heads[-1])
            heads.append(seq)
            assert len(list(copies.iterdir())) == turn + 1
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert heads[-1] > heads[1]
    for copy, seq in zip(sorted(copies.iterdir()), heads[1:], strict=True):
        story = care.read(Ledger(str(copy), {}))
        assert (story.trouble, story.head.seq) == ([], seq)
        assert not list(care.manifests(str(copy), story.manifests))
        assert {path.stat().st_mode & 0o077 for path in copy.rglob("*")} == {0}


def test_a_repair_that_is_killed_at_any_unlink_or_rename_leaves_what_the_next_one_mends(local_place: Place, tmp_path: Path) -> None:
    place = local_place
    for name in ("a", "b"):
        place.case(name)
    place.until("completed")
    path = new(place)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5].replace(b'"by"', b'"bY"', 1), *lines[6:]]))
    for name in ("state", "host", "results"):
        shutil.copytree(place.folder / name, tmp_path / "kept" / name, symlinks=True)
    kills = 0
    for call in ("unlink", "rename"):
        for number in range(1, 20):
            for name in ("state", "host", "results"):
                shutil.rmtree(place.folder / name)
                shutil.copytree(tmp_path / "kept" / name, place.folder / name, symlinks=True)
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
            argv = ["strace", "-qq", "-o", "/dev/null", *inject, *place.argv("mqi-ledger", "repair", "--reason", "a test")]
            killed = subprocess.run(argv, env=place.around(), capture_output=True).returncode == -signal.SIGKILL
            kills += killed
            for words in (["repair", "--reason", "again"], ["verify"]):
                ran = place("mqi-ledger", *words)
                assert ran.code == 0, (call, number, ran)
            assert place("mqi-report").code != 65, (call, number)
            assert place("mqi-ledger", "rebuild", "--reason", "again").code == 0, (call, number)
            assert {name: row["status"] for name, row in place.until("completed").items()} == dict.fromkeys("ab", "completed")
            if not killed:
                break
    assert kills > 3


def test_what_did_not_change_is_one_file_in_all_copies_unless_it_rotted(aged: Place, tmp_path: Path) -> None:
    for _ in range(2):
        assert aged("mqi-ledger", "backup", str(tmp_path)).code == 0
    first, second = sorted(path for path in tmp_path.iterdir() if path.name.startswith("mqi-ledger-"))
    same = [path.relative_to(first) for path in first.rglob("*") if path.is_file() and path.samefile(second / path.relative_to(first))]
    assert {str(name).split("/")[0] for name in same} == {"manifests", "ledger-2020.jsonl.gz"}
    rotten = second / same[0]
    rotten.write_bytes(bytes(rotten.stat().st_size))
    assert aged("mqi-ledger", "backup", str(tmp_path)).code == 0
    third = sorted(tmp_path.glob("mqi-ledger-*"))[-1]
    assert (third / same[0]).read_bytes() == (aged.state / same[0]).read_bytes() != rotten.read_bytes()


def test_a_damaged_ledger_gives_no_backup_and_a_full_disk_leaves_none(aged: Place, tmp_path: Path) -> None:
    full = tmp_path / "full"
    ran = in_a_small_disk(aged, full, "200M", "mqi-ledger", "backup", str(full))
    assert ran.returncode == 74, ran.stderr
    assert "make room" in ran.stderr
    assert ran.stdout.split() == [f"{full}:", "filler"]
    manifest = next((aged.state / "manifests").iterdir())
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-2])
    os.mkfifo(manifest.with_name("fifo"))
    damaged = aged("mqi-ledger", "backup", str(full))  # it is told, and keeps nobody from a copy of the ledger
    assert damaged.code == 65
    assert f"{manifest} was changed" in damaged.err
    assert re.search(r"4 manifests, head .*, verified\.", damaged.out), damaged.out
    (kept,) = full.iterdir()
    assert not (kept / "manifests" / "fifo").exists()
    shutil.rmtree(kept)
    manifest.write_bytes(whole)
    ran = aged("mqi-ledger", "backup", str(aged.inbox / "copies"))
    assert (ran.code, "is in the inbox" in ran.err, (aged.inbox / "copies").exists()) == (2, True, False)
    flip(aged)
    damaged = aged("mqi-ledger", "backup", str(full))
    assert damaged.code == 65
    assert list(full.iterdir()) == []
    assert aged("mqi-ledger", "backup").code == 2
    assert aged("mqi-ledger", "verify", str(full)).code == 2


# --- what is recovered of one case, from values


KEY, NOW, DIGEST, OUT = "k" * 20, "2026-11-24T03:00:00.000Z", "d" * 64, "e" * 64
BEGUN = w.Trace(True, "begun", False, False, {"group": "gpu0"}, {"exit": "0", "manifest": OUT}, "", "", DIGEST)
PROOF = evidence.Proof(KEY, "p", 1, "far", "gpu0", DIGEST, OUT, "s", "e", NOW, 0, True, "", {"plan": "P"}, (("x", "0"),), 9)
CUT = BEGUN._replace(result={"exit": "143", "signal": "TERM"})
NEVER = w.Trace(True, "revoked", False, False, {}, {}, "", "", "")
LIVES = BEGUN._replace(result={}, held=True)
FAILED = BEGUN._replace(result={"exit": "3", "manifest": OUT})
KNOWN = w.Case(KEY, "p", w.SUBMITTED, NOW, NOW, digest=DIGEST, host="far", attempt=1, open=True)
INTENT = KNOWN._replace(status=w.PUSHED, intent=True, digest="f" * 64)
STORIES: dict[str, tuple[w.Case | None, list[w.Trace], list[evidence.Proof], str]] = {
    "nothing": (None, [], [], ""),
    "one that ended": (None, [BEGUN], [], "recovered started succeeded"),
    "with its result": (None, [BEGUN], [PROOF], "recovered started succeeded completed"),
    "with the result of another output": (None, [BEGUN], [PROOF._replace(output="f" * 64)], "recovered started succeeded"),
    "with the result of another input": (None, [BEGUN], [PROOF._replace(input="f" * 64)], "recovered started succeeded"),
    "with a partial result": (None, [BEGUN], [PROOF._replace(complete=False, reason="r")], "recovered started succeeded failed salvaged"),
    "failed, with a partial result": (None, [FAILED], [PROOF._replace(complete=False, exit=3)], "recovered started failed salvaged"),
    "only a result": (None, [], [PROOF], "recovered started succeeded completed"),
    "only a partial result": (None, [], [PROOF._replace(complete=False, exit=3)], "recovered started failed salvaged"),
    "a result that only failed checks": (None, [], [PROOF._replace(complete=False)], "recovered started succeeded failed salvaged"),
    "one that lives": (None, [LIVES], [], "recovered started"),
    "one that lives behind one that was cut off": (None, [CUT, LIVES], [], "recovered started interrupted recovered started"),
    "one that lives behind one whose wrapper died": (None, [LIVES._replace(held=True), LIVES], [], "recovered started missing recovered started"),
    "one that was revoked": (None, [NEVER], [], "recovered revoked held"),
    "one that was cut off": (None, [CUT], [], "recovered started interrupted held"),
    "one that waits": (None, [w.Trace(True, "none", True, False, {}, {}, "", "", DIGEST)], [], "recovered"),
    "known, and nothing new": (KNOWN._replace(status=w.COMPLETED, open=False), [BEGUN], [PROOF], ""),
    "known, its end is new": (KNOWN, [BEGUN], [PROOF], "started succeeded completed"),
    "known, a newer one is new": (KNOWN, [CUT, BEGUN], [], "started interrupted recovered started succeeded"),
    "intended, and another input has the number": (INTENT, [BEGUN], [], "recovered started succeeded"),
    "intended, and revoked before it was made": (INTENT, [NEVER], [], ""),
    "of another host": (KNOWN._replace(host="gone"), [BEGUN], [], ""),
    "held by a person, then released": (KNOWN._replace(status=w.HELD, open=False, asked=(w.HOLD, "kim", "r")), [CUT, LIVES], [],
                                        "recovered started"),
    "cancel asked, then tried again": (KNOWN._replace(asked=(w.CANCEL, "kim", "r")), [NEVER, LIVES], [], "revoked recovered started"),
}  # fmt: skip


@pytest.mark.parametrize("story", list(STORIES))
def test_what_can_be_told_of_a_case_is_told_and_nothing_else(story: str) -> None:
    case, traces, proofs, expected = STORIES[story]
    look = w.Look({f"mqi1:{KEY}:{n}": trace for n, trace in enumerate(traces, 1)}, (), (), "", ())
    seen = {KEY: {n: ("far", look) for n in range(1, len(traces) + 1)}}
    learned = recover.Learned(seen, {KEY: {proof.attempt: proof for proof in proofs}}, {}, {}, {}, set(), [], [])
    events = recover.recover(KEY, "p", "", case, learned, {"remarks": ["unread"]}, decide.Rules(3, 1e6), NOW)
    assert [type(event).__name__.lower() for event in events] == expected.split()
    for event in events:
        case = evolve(case, event)
    if events and isinstance(events[0], w.Recovered):
        facts = {"plan": "P"} if proofs and proofs[0].input == DIGEST else {"remarks": ["unread"]}
        assert events[0].facts == facts
        assert case and not case.asked
    if expected:  # once it is told, it is not told again
        assert recover.recover(KEY, "p", "", case, learned, {}, decide.Rules(3, 1e6), NOW) == []


def test_a_case_whose_folder_is_gone_goes_on_with_its_published_input() -> None:
    """Else it would be held for a scan that can find nothing. Where even its input is not known, a person has to look."""
    for trace, status in ((CUT, w.PUSHED), (NEVER, w.HELD)):
        learned = recover.Learned({KEY: {1: ("far", w.Look({f"mqi1:{KEY}:1": trace}, (), (), "", ()))}}, {}, {}, {}, {}, {KEY}, [], [])
        case = None
        for event in recover.recover(KEY, "p", "", None, learned, {}, decide.Rules(3, 1e6), NOW):
            case = evolve(case, event)
        assert case
        assert case.status == status


def test_a_result_that_was_changed_proves_nothing(aged: Place) -> None:
    for path in aged.state.glob("ledger-*"):
        path.unlink()
    dose = aged.results / "b" / "plan.out"
    dose.write_text("plan of x\n")
    (aged.results / "c" / "mqi-result.json").write_text("{")
    ran = aged("mqi-ledger", "rebuild", "--reason", "lost")
    assert ran.code == 1
    assert "NOT clear: " in ran.out
    assert f"{dose} is not what its record says" in ran.out
    assert statuses(aged) == {"a": "completed", "b": "computed", "c": "computed"}
    run(aged, "mqi-fetch")
    assert {name for name, status in statuses(aged).items() if status == "completed"} == {"a", "b", "c"}
    assert dose.read_text() == "plan of b\n"
    assert len(list(aged.results.glob("*.superseded-*"))) == 2


RECORDS: dict[str, Callable[[str], str]] = {
    "nested": lambda text: "[" * 200_000,
    "infinite": lambda text: text.replace('"attempt": 1', '"attempt": Infinity'),
    "a NUL in a name": lambda text: text.replace('"name": "plan.out"', '"name": "plan\\u0000out"'),
    "no files": lambda text: json.dumps(json.loads(text) | {"files": []}),
    "no time": lambda text: json.dumps(json.loads(text) | {"fetched_at": "yesterday"}),
    "no such day": lambda text: json.dumps(json.loads(text) | {"fetched_at": "2026-99-99T99:00Z"}),
    "half a letter": lambda text: json.dumps(json.loads(text) | {"path": "\ud800"}),
    "no reason": lambda text: json.dumps(json.loads(text) | {"reason": {}}),
}


@pytest.mark.parametrize("odd", RECORDS)
def test_a_record_that_no_version_wrote_proves_nothing_and_costs_no_other_case(aged: Place, odd: str) -> None:
    for path in aged.state.glob("ledger-*"):
        path.unlink()
    record = aged.results / "b" / "mqi-result.json"
    changed = RECORDS[odd](record.read_text())
    assert changed != record.read_text()
    record.write_text(changed)
    ran = aged("mqi-ledger", "rebuild", "--reason", "lost")
    assert ran.code in (0, 1), ran
    assert statuses(aged) == {"a": "completed", "b": "computed", "c": "completed"}
    assert aged("mqi-ledger", "verify").code == 0


@pytest.mark.parametrize("lost", ["root", "results"])
def test_what_may_be_a_lost_mount_is_not_taken_for_empty(aged: Place, lost: str) -> None:
    for path in aged.state.glob("ledger-*"):
        path.unlink()
    folder = aged.root if lost == "root" else aged.results
    folder.rename(f"{folder}.away")
    folder.mkdir()
    try:
        ran = aged("mqi-ledger", "rebuild", "--reason", "lost")
        assert ran.code == 69
        assert "a lost mount?" in ran.err
        assert not aged.ledger()
    finally:
        folder.rmdir()
        Path(f"{folder}.away").rename(folder)
    assert aged("mqi-ledger", "rebuild", "--reason", "lost").code == 0
    assert statuses(aged) == {"a": "completed", "b": "completed", "c": "completed"}


def test_nothing_to_rebuild_is_said_and_recorded(aged: Place) -> None:
    before = aged.rows()
    ran = aged("mqi-ledger", "rebuild", "--reason", "to be sure")
    assert ran.code == 0
    assert "the ledger has all that the hosts and the results can prove" in ran.out
    assert aged.rows() == before
    last = json.loads(new(aged).read_bytes().splitlines()[-1])
    assert (last["type"], last["what"]) == ("repaired", "rebuild: to be sure")
    assert aged("mqi-ledger", "rebuild").code == 2
    assert aged("mqi-push").code == 0


def test_what_a_case_contains_is_read_again_or_said_to_be_unknown(tmp_path: Path) -> None:
    """Facts of a profile decide what results must hold: of three cases that are computed, one lost its folder, one is a fraction."""
    place = test_truth.site(tmp_path / "site", scan='cases = "*/*"\nfractions = "each"')
    _, lost, both = (make.case(place.inbox / name, seed=seed) for seed, name in enumerate(("whole", "lost", "both")))
    make.fraction(both, make.DAY, seed=2)
    for _ in range(100):
        run(place, "mqi-scan", "mqi-push", "mqi-submit", "mqi-poll")
        if set(statuses(place).values()) == {"computed"}:
            break
    assert set(statuses(place).values()) == {"computed"}
    before = Ledger(str(place.state), {}).cases()
    assert len(before) == 4
    assert all(case.part for case in before.values())
    for path in place.state.glob("ledger-*"):
        path.unlink()
    shutil.rmtree(place.state / "manifests")
    shutil.rmtree(lost)
    ran = place("mqi-ledger", "rebuild", "--reason", "lost", "--accept-empty")  # nothing was ever fetched
    assert ran.code == 1, ran
    assert f"lost/{lost.name}/2026110309100000: {rebuild.UNREAD}" in ran.out
    assert ran.out.count(rebuild.UNREAD) == 1
    after = Ledger(str(place.state), {}).cases()
    for key, case in after.items():
        assert (case.path, case.part, case.digest, case.status) == (before[key].path, before[key].part, before[key].digest, "computed")
        if case.folder != f"lost/{lost.name}":
            assert case.facts == before[key].facts
        else:
            assert case.facts["remarks"] == [rebuild.UNREAD]
    run(place, "mqi-fetch", "mqi-scan", "mqi-scan")
    assert set(statuses(place).values()) == {"completed"}
    assert not any(row["stale"] for row in place.rows().values())
    assert len(test_truth.record(place, next(case.path for case in after.values() if case.path.startswith("whole/")))["beams"]) == 3
    assert test_truth.record(place, next(case.path for case in after.values() if case.path.startswith("lost/")))["remarks"] == [rebuild.UNREAD]
    assert len(place.executions()) == 4
    assert place("mqi-ledger", "verify").code == 0
