"""Folders of strangers: what is no regular file with a name that may travel is held, and nothing is ever followed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import JOB, REPO, Place, host_text

from mqi_scripts.words import Unreachable
from mqi_scripts.world import folder


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def deep(path: Path) -> None:
    (path / "b" / "c" / "d").mkdir(parents=True)
    (path / "b" / "c" / "d" / "e").write_text("x")


NASTY: dict[str, tuple[Callable[[Path], object], str]] = {
    "symlink": (lambda path: path.symlink_to("/etc/passwd"), "symlink"),
    "link to a folder": (lambda path: path.symlink_to("/etc"), "symlink"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "symlink"),
    "FIFO": (os.mkfifo, "FIFO"),
    "socket": (bound, "socket"),
    "hard link": (lambda path: os.link(path.parent / "plan.txt", path), "hard link"),
    "too deep": (deep, "too deep"),
}
if os.geteuid() == 0:
    NASTY["device"] = (lambda path: os.mknod(path, 0o20600, os.makedev(1, 3)), "device")


@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("below", ["", "d"])
def test_what_is_no_regular_file_is_held_with_its_reason(kind: str, below: str, local_place: Place) -> None:
    make, code = NASTY[kind]
    text = local_place.config.read_text().replace('quiet = "0s"', 'quiet = "0s"\nmax_depth = 3')
    local_place.config.write_text(text)
    case = local_place.case("a")
    (case / "d" / "plan.txt").write_text("x")
    make(case / below / "nasty")
    ran = local_place("mqi-scan")
    assert ran.code == 1, ran
    row = local_place.rows()["a"]
    assert row["status"] == "held"
    assert "nasty" in row["reason"]
    assert f'"code":"{code}"'.encode() in local_place.ledger()
    before = local_place.ledger()
    local_place("mqi-scan")
    assert local_place.ledger() == before
    path = case / below / "nasty"
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert "has no fault any more" in local_place("mqi-scan").out
    assert local_place.rows()["a"]["status"] == "found"


@pytest.mark.parametrize(
    "name",
    ["-rf", "a\nb", "a;b", "$(touch x)", "a'b", 'a"b', "a|b", "a*b", "a?b", "~", "`x`", "a&b", "é", "한글", "a\x1b[2Jb", ".hidden", " lead",
     "a\\b", "a<b", "#x", "x" * 201, os.fsdecode(b"bad\xff")],
)  # fmt: skip
def test_names_that_may_not_travel_are_held_and_the_reason_can_be_printed(name: str, local_place: Place) -> None:
    (local_place.case("a") / name).write_text("x")
    ran = local_place("mqi-scan")
    row = local_place.rows()["a"]
    assert (ran.code, row["status"]) == (1, "held")
    assert "characters that may not travel" in row["reason"]
    assert row["reason"].isascii()
    assert row["reason"].isprintable()
    assert local_place("mqi-report").out.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["a", "A b", "1G180:TX.ptn", "a+b=c@d,(e)-f", "_x", "0", "x" * 200])
def test_names_that_may_travel_do(name: str, local_place: Place) -> None:
    (local_place.case("a") / name).write_text("x")
    assert local_place("mqi-scan").code == 0
    assert local_place("mqi-push").code == 0
    assert next(local_place.root.glob("cases/*/input-*/plan.txt")).with_name(name).read_text() == "x"


@pytest.mark.parametrize("name", ["한글 ^ 100% [x]", "a b", "Ünï", "$(touch CANARY)", "';--", "x" * 255])
def test_the_path_of_a_case_may_be_any_printable_text(name: str, local_place: Place) -> None:
    local_place.case(name)
    rows = local_place.until("completed")
    assert rows[name]["case_path"] == name
    assert (local_place.results / name / "plan.out").exists()
    assert not list(local_place.folder.rglob("CANARY"))
    assert not [path for path in local_place.root.rglob("*") if name in str(path)]


def test_a_name_that_results_of_another_case_get_is_held(local_place: Place) -> None:
    for name in ("a.partial", "a.superseded-1"):
        local_place.case(name)
    local_place("mqi-scan")
    assert {name: (row["status"], row["reason"]) for name, row in local_place.rows().items()} == {
        name: ("held", "its name is one that results of another case get: rename the folder") for name in ("a.partial", "a.superseded-1")
    }


def test_a_case_whose_path_cannot_be_printed_is_held(local_place: Place) -> None:
    local_place.case("bad\x07name")
    local_place.case(os.fsdecode(b"bad\xff"), "x")
    assert local_place("mqi-scan").code == 1
    assert {row["status"] for row in local_place.rows().values()} == {"held"}
    assert all(path.isprintable() for path in local_place.rows())


@pytest.mark.parametrize(("rule", "code"), [("max_files = 2", "too many"), ("max_bytes = 50", "too large")])
def test_too_many_and_too_large_are_held(rule: str, code: str, local_place: Place) -> None:
    local_place.config.write_text(local_place.config.read_text().replace('quiet = "0s"', f'quiet = "0s"\n{rule}'))
    (local_place.case("a") / "more").write_text("x" * 60)
    assert local_place("mqi-scan").code == 1
    reason = local_place.rows()["a"]["reason"]
    assert f"scan.{rule.split(maxsplit=1)[0]}" in reason
    assert f'"code":"{code}"'.encode() in local_place.ledger()


def test_a_linked_case_folder_and_an_unreadable_one_are_held(local_place: Place) -> None:
    elsewhere = local_place.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("x")
    (local_place.inbox / "linked").symlink_to(elsewhere)
    assert local_place("mqi-scan").code == 1
    assert local_place.rows()["linked"]["reason"] == "the case folder is a symlink"


def test_ignored_names_and_files_beside_the_cases_are_not_there(local_place: Place) -> None:
    case = local_place.case("a")
    for name in ("Thumbs.db", "x.zip.tmp", ".DS_Store", "d/desktop.ini"):
        (case / name).write_text("x")
    (local_place.inbox / "a.file").write_text("x")
    (local_place.inbox / "b.extracting").mkdir()
    assert "found, 2 files" in local_place("mqi-scan").out
    assert list(local_place.rows()) == ["a"]


def test_cases_below_several_rooms(local_place: Place) -> None:
    local_place.config.write_text(local_place.config.read_text().replace('quiet = "0s"', 'quiet = "0s"\ncases = "G[12]/*/*"'))
    for path in ("G1/p1/a", "G2/p1/a", "G3/p1/a", "G1/.hidden/a"):
        local_place.case(path, path)
    (local_place.inbox / "G1" / "link").symlink_to(local_place.inbox / "G3")
    local_place("mqi-scan")
    assert list(local_place.rows()) == ["G1/p1/a", "G2/p1/a"]
    assert sorted(row["status"] for row in local_place.until("completed").values()) == ["completed"] * 2
    assert (local_place.results / "G2" / "p1" / "a" / "plan.out").read_text() == "G2/p1/a"


def test_an_empty_folder_arrives_until_it_has_taken_too_long(local_place: Place) -> None:
    (local_place.inbox / "empty").mkdir()
    assert local_place("mqi-scan").out == ""
    assert "arriving: empty" in local_place("mqi-report").out
    local_place.config.write_text(local_place.config.read_text().replace('quiet = "0s"', 'quiet = "0s"\narriving_limit = "0s"'))
    assert local_place("mqi-scan").code == 1
    assert "longer than scan.arriving_limit" in local_place.rows()["empty"]["reason"]


@pytest.mark.parametrize("part", ["d", "d/log.bin"])
def test_a_swap_for_a_link_between_look_and_read_is_not_followed(part: str, tmp_path: Path) -> None:
    (tmp_path / "case" / "d").mkdir(parents=True)
    (tmp_path / "case" / "d" / "log.bin").write_text("data")
    (tmp_path / "secret" / "d").mkdir(parents=True)
    (tmp_path / "secret" / "log.bin").write_text("secret")
    with folder.opened(str(tmp_path / "case")) as top:
        target = tmp_path / "case" / part
        target.rename(tmp_path / "away")
        target.symlink_to(tmp_path / "secret" / ("log.bin" if part.endswith("bin") else ""))
        with pytest.raises(Unreachable, match="cannot be read any more"):
            folder.read(top, "d/log.bin", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_a_file_that_becomes_a_fifo_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with folder.opened(str(tmp_path)) as top, pytest.raises(Unreachable, match="no regular file any more"):
        folder.read(top, "f")


def test_while_somebody_swaps_files_for_links_no_secret_is_copied(tmp_path: Path) -> None:
    """A folder that is a real one and a link by turns, as fast as a thread can, while it is read."""
    (tmp_path / "case" / "d").mkdir(parents=True)
    (tmp_path / "case" / "d" / "f").write_text("data")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "f").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    over = threading.Event()

    def swap() -> None:
        place, real, link = tmp_path / "case" / "d", tmp_path / "real", tmp_path / "link"
        while not over.is_set():
            place.rename(real)
            link.rename(place)
            place.rename(link)
            real.rename(place)

    thread = threading.Thread(target=swap)
    thread.start()
    read, refused = 0, 0
    try:
        for number in range(2000):
            copy = tmp_path / f"copy{number}"
            try:
                with folder.opened(str(tmp_path / "case")) as top:
                    folder.read(top, "d/f", str(copy))
                assert copy.read_text() == "data"
                read += 1
            except Unreachable:
                refused += 1
    finally:
        over.set()
        thread.join()
    assert read
    assert refused


def test_a_file_that_changes_between_scan_and_push_does_not_travel(local_place: Place) -> None:
    case = local_place.case("a")
    local_place("mqi-scan")
    stat = (case / "plan.txt").stat()
    (case / "plan.txt").write_text("PLAN OF A\n")
    os.utime(case / "plan.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its ctime tells, its content tells
    ran = local_place("mqi-push")
    assert ran.code == 69
    assert "changed since it was found" in ran.err
    assert not list(local_place.root.glob("cases/*"))
    rows = local_place.until("completed")
    assert (local_place.results / "a" / "plan.out").read_text() == "PLAN OF A\n"
    assert rows["a"]["attempt"] == 1


def test_a_case_that_grows_while_it_is_copied_is_not_published(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("local", "direct", "tar", None, None), JOB)
    case = place.case("a")
    place("mqi-scan")
    (case / "late.txt").write_text("late\n")
    ran = place("mqi-push")
    assert ran.code == 69
    assert "is not as it was found" in ran.err
    assert not list(place.root.glob("cases/*/input-*"))
    place.until("completed")
    assert len(list(place.root.glob("cases/*/input-*/late.txt"))) == 1


def test_a_copy_that_the_disk_took_only_a_part_of_is_an_error(tmp_path: Path) -> None:
    """A real short write: the last piece of the file goes beyond what may be written."""
    (tmp_path / "whole").write_bytes(b"x" * 100_000)
    code = (
        "import os, resource, sys; from mqi_scripts.world import folder; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
        "folder.read(os.open('.', os.O_RDONLY), 'whole', 'copy')"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "the disk is full" in ran.stderr
    assert (tmp_path / "copy").stat().st_size == 60_000
