"""What is logged: levels and fields in the journal, JSON lines in log.file, what -v shows; and that no folder's name is in any of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import JOB, REPO, Place, Ran, Sshd, host_text

from mqi_scripts import words as w
from mqi_scripts.pure import codec

LINE = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")


def in_the_journal(place: Place, program: str, *words: str) -> Ran:
    """The program as systemd starts it, stdout and stderr one stream; a file stands in for the socket."""
    path = place.folder / "journal"
    with path.open("w") as stream:
        info = os.fstat(stream.fileno())
        env = {**os.environ, "PYTHONPATH": str(REPO), "JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"}
        ran = subprocess.run(place.argv(program, *words), env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    return Ran(ran.returncode, path.read_text(), "")


def logging(place: Place, path: Path) -> Path:
    place.config.write_text(place.config.read_text().replace("[job]", f'[log]\nfile = "{path}"\n[job]', 1))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Cases of a patient whose name is KIM; one that can be computed, one that fails and says the name, one that is held."""
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), f'grep KIM "$MQI_INPUT/plan.txt"\n{JOB}\n! grep bad plan.out')
    place.case("KIM 1", "KIM good\n")
    place.case("KIM 2", "KIM bad\n")
    (place.case("KIM 3") / "KIM.txt").symlink_to("/etc/passwd")
    return place


def test_the_journal_gets_a_line_a_happening_with_level_and_fields_and_no_name(place: Place) -> None:
    said, ids = "", r"[0-9a-f]{12}"
    for _ in range(200):
        said += "".join(in_the_journal(place, program).out for program in LINE)
        rows = place.rows()
        if {row["status"] for row in rows.values()} == {"completed", "failed", "held"}:
            break
    assert "KIM" not in said
    assert re.search(rf"^<6>mqi-scan: found case={ids} files=2 bytes=\d+$", said, re.M), said
    assert re.search(rf"^<6>mqi-scan: held case={ids} codes=symlink$", said, re.M), said
    assert re.search(rf"^<6>mqi-poll: succeeded case={ids} attempt=1 host=far duration=\d+\.\d+$", said, re.M), said
    assert re.search(rf"^<6>mqi-\w+: failed case={ids} attempt=1 host=far category=application phase=computing exit=1$", said, re.M), said
    assert all(re.match(r"<[3467]>mqi-\w+: ", line) for line in said.splitlines())
    table = in_the_journal(place, "mqi-report").out
    assert rows["KIM 1"]["case_id"] in table
    assert "KIM" not in table
    assert "KIM" in place("mqi-report").out


def test_a_trouble_is_a_warning_and_what_ends_a_run_is_an_error_without_the_names_below_the_inbox(place: Place) -> None:
    place("mqi-scan")
    place.inbox.rename(place.inbox.with_name("away"))
    said = in_the_journal(place, "mqi-scan").out
    assert re.search(r"^<4>mqi-scan: .*inbox", said, re.M), said
    place.inbox.with_name("away").rename(place.inbox)
    (place.inbox / "KIM 1").rename(place.inbox / "KIM 4")
    said = in_the_journal(place, "mqi-push").out
    assert "<4>mqi-push: " in said
    assert "KIM" not in said
    place.case("x", "x")
    (place.inbox / "x" / "KIM.txt").write_text("KIM")
    place("mqi-scan")
    (place.inbox / "x" / "KIM.txt").write_text("MIK")
    said = in_the_journal(place, "mqi-push").out
    assert "/...' changed since it was found" in said, said
    assert "KIM" not in said
    place.config.write_text("[site]\nnome = 1\n")
    said = in_the_journal(place, "mqi-push").out
    assert said.count("\n<3>mqi-push: ") >= 2, said


def test_whatever_a_name_is_made_of_it_is_in_no_sentence_of_the_journal(place: Place) -> None:
    names = ("a:KIM", "KIM's", 'the "KIM"', "one; KIM: see", "KIM' x", "l'a\"KIM': b")
    for name in names:
        place.case(name, "KIM good\n")
    while {row["status"] for row in place.rows().values()} != {"computed", "failed", "held"}:
        for program in LINE[:-1]:
            place(program)
    for name in names:
        (place.results / name).symlink_to("/nowhere")
    path = logging(place, place.folder / "mqi.log")
    said = in_the_journal(place, "mqi-fetch").out
    assert len(re.findall(r"""No such file or directory: (['"])/.*/\.\.\.\1: see mqi-check$""", said, re.M)) == len(names), said
    assert "KIM" not in said
    assert "KIM" not in path.read_text()
    lines = next(place.state.glob("ledger-*.jsonl")).read_bytes().splitlines(keepends=True)
    record = json.loads(lines[-1])
    case = next(row["case_id"] for name, row in place.rows().items() if name == "KIM 3")
    key = next(json.loads(line)["case"] for line in lines if f'"case":"{case}' in line.decode())
    line, _ = codec.line(w.Completed(key, record["at"], 1, "0" * 64, 1, 1), codec.after(record), record["by"])
    next(place.state.glob("ledger-*.jsonl")).write_bytes(b"".join([*lines, line]))
    said = in_the_journal(place, "mqi-scan").out
    assert f"tells what cannot be: Illegal completed of {case}, which is held now" in said, said
    assert "KIM" not in said


def test_a_terminal_and_a_pipe_get_sentences_without_levels(place: Place) -> None:
    ran = place("mqi-scan")
    assert re.search(r"^[0-9a-f]{12} KIM 1: found, 2 files", ran.out, re.M)
    assert re.fullmatch(r"mqi-scan: ledger at line \d+, digest [0-9a-f]{16}\n", ran.err)


def test_the_log_file_has_a_json_line_a_happening_for_its_owner_alone(place: Place) -> None:
    path = logging(place, place.folder / "mqi.log")
    rows = place.until("completed", "failed", "held")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "KIM" not in path.read_text()
    found = lines(path)
    assert all({"at", "level", "script", "text"} <= set(line) for line in found)
    of = {row["case_id"]: [line["text"] for line in found if line.get("case") == row["case_id"]] for row in rows.values()}
    good, bad, held = (of[rows[name]["case_id"]] for name in ("KIM 1", "KIM 2", "KIM 3"))
    assert good[0] == "found"
    assert good[-1] == "completed"
    assert "failed" in bad
    assert held == ["held"]
    (done,) = (line for line in found if line["text"] == "succeeded")
    assert (done["attempt"], done["host"], done["level"], done["script"]) == (1, "far", "info", "mqi-poll")
    assert done["duration"] >= 0


def test_a_log_file_that_was_moved_away_is_begun_anew(place: Place) -> None:
    path = logging(place, place.folder / "mqi.log")
    place("mqi-scan")
    path.rename(place.folder / "mqi.log.1")
    place("mqi-push")
    assert {line["script"] for line in lines(path)} == {"mqi-push"}


@pytest.mark.parametrize("where", ["no/such/mqi.log", "link", "full"])
def test_a_log_file_that_cannot_be_written_is_said_once_and_the_work_is_done(where: str, place: Place) -> None:
    (place.folder / "link").symlink_to("elsewhere")
    logging(place, Path("/dev/full") if where == "full" else place.folder / where)
    ran = place("mqi-scan")
    assert ran.err.count("log.file cannot be written, the work goes on without it: ") == 1, ran.err
    assert (ran.code, len(place.rows())) == (1, 3)
    assert not (place.folder / "elsewhere").exists()


def test_v_shows_what_is_run_bounded_and_escaped_and_for_how_long(tmp_path: Path, sshd: Sshd) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "direct", "tar", sshd, None), f"{JOB}\n: {'x' * 3000}")
    place.case("ma")
    assert "ran " not in place("mqi-scan").err
    for program in LINE[1:4]:
        place.case(program)
        plain, ran = place("mqi-scan", "-v"), place(program, "-v")
        assert plain.code == ran.code == 0
        told = [line for line in ran.err.splitlines() if line.startswith(f"{program}: ran ")]
        assert told, ran.err
        assert all(re.search(r": exit 0, \d+\.\d\d s$", line) for line in told)
        assert max(map(len, told)) < 900
        assert ("\\x0a" in ran.err) == (program == "mqi-submit")  # the wrapper's text has lines
    assert re.search(r"ssh -F .* -- mqi-far 'exec /bin/sh -s' look [0-9a-f]{20} 1 [0-9a-f]{20} 1: exit 0", ran.err), ran.err
    assert "/ssh -F " in place("mqi-case", "explain", "ma", "--look", "-v").err
    assert "/ssh -F " in place("mqi-check", "-v").err
