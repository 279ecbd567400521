"""mqi-init --upgrade: another version in the place of the one in use, and back again; the ledger is copied before."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import checkout
from test_init import Gateway

ENV = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def version(folder: Path, number: str, patch: tuple[str, str] = ("", "")) -> Path:
    """A checkout of another version. patch: a line of mqi-check, and what stands there instead."""
    checkout(folder)
    for path, old, new in ((folder / "mqi_scripts/__init__.py", r'__version__ = ".*"', f'__version__ = "{number}"'), (folder / "mqi_scripts/verbs/check.py", *patch)):
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, lambda _, new=new: new, text, count=1) if old else text)
    return folder


def init(source: Path, gateway: Gateway, *words: str, wait: bool = True) -> subprocess.Popen[str]:
    argv = [source / "bin/mqi-init", "--prefix", str(gateway.folder), "--yes", *words]
    ran = subprocess.Popen(argv, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if wait:
        ran.said = ran.communicate(timeout=400)[0]  # type: ignore[attr-defined]
    return ran


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the version 0.0.1 and a ledger of its own; its compute host does not answer."""
    folder = tmp_path_factory.mktemp("upgrade")
    gateway = Gateway(folder / "gw")
    ran = init(version(folder / "old", "0.0.1"), gateway, "--answers", str(gateway.answers))
    assert ran.returncode in (69, 78), ran.said  # type: ignore[attr-defined]
    (gateway.folder / "srv/mqi/inbox/one").mkdir()
    (gateway.folder / "srv/mqi/inbox/one/plan.txt").write_text("plan\n")
    assert "found" in program(gateway, "mqi-scan")
    yield gateway


def program(gateway: Gateway, *words: str) -> str:
    argv = [str(gateway.folder / "usr/local/bin" / words[0]), *words[1:]]
    return subprocess.run(argv, env={**ENV, "MQI_CONFIG": str(gateway.etc / "mqi.toml")}, stdout=subprocess.PIPE, text=True, check=True).stdout


def in_use(gateway: Gateway) -> str:
    said = program(gateway, "mqi-scan", "--version").strip()
    assert os.readlink(gateway.folder / "opt/mqi/current").split("/")[-1].startswith(said.split()[-1])
    return said.split()[-1]


def ledger(gateway: Gateway) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((gateway.folder / "var/lib/mqi").glob("ledger-*.jsonl")))


@pytest.mark.parametrize("patch", [
    (r"    yield from here\.site\(path, site\)\n", '    yield from here.site(path, site)\n    yield fail("everything", "is broken", "go back", w.Damaged)\n'),
    (r"    said = \[\]\n", '    raise RuntimeError("broken")\n'),
    (r"    args = parser\(\)\.parse_args\(argv\)\n", "    os._exit(3)\n"),
], ids=["it fails a probe", "it raises", "it does not start"])  # fmt: skip
def test_a_version_whose_check_fails_is_gone_back_from(patch: tuple[str, str], old: Gateway, tmp_path: Path) -> None:
    before, units = ledger(old), {path: path.read_bytes() for path in (old.folder / "etc").rglob("*") if path.is_file()}
    source = version(tmp_path / "new", "0.0.2", patch)
    ran = init(source, old, "--upgrade")
    assert ran.returncode == 78, ran.said  # type: ignore[attr-defined]
    assert "is in use again, nothing else was changed" in ran.said  # type: ignore[attr-defined]
    assert in_use(old) == "0.0.1"
    assert ledger(old) == before
    assert {path: path.read_bytes() for path in units} == units


def test_another_version_is_not_put_in_place_by_accident(old: Gateway, tmp_path: Path) -> None:
    ran = init(version(tmp_path / "new", "0.0.3"), old)
    assert ran.returncode == 2
    assert "mqi-init --upgrade puts it in its place" in ran.said  # type: ignore[attr-defined]
    assert in_use(old) == "0.0.1"


def test_an_upgrade_waits_for_what_runs_copies_the_ledger_and_switches_and_can_go_back(old: Gateway, tmp_path: Path) -> None:
    source = version(tmp_path / "new", "0.0.4")
    before = ledger(old)
    with (old.folder / "var/lib/mqi/run.mqi-scan").open("r+") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        ran = init(source, old, "--upgrade", wait=False)
        deadline = time.monotonic() + 120
        while not list((old.folder / "opt/mqi/versions").glob("0.0.4-*/complete")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)
        assert ran.poll() is None
        assert in_use(old) == "0.0.1"
    said = ran.communicate(timeout=300)[0]
    assert ran.returncode in (69, 78), said  # the host that does not answer failed mqi-check before, too
    assert "0.0.1" in said
    assert in_use(old) == "0.0.4"
    assert ledger(old)[: len(before)] == before
    copies = list((old.folder / "var/backups/mqi").glob("mqi-ledger-*/ledger-*.jsonl"))
    assert before in {path.read_bytes() for path in copies}
    assert "0.0.4" in (old.folder / "usr/local/share/man/man1/mqi-scan.1").read_text()
    back = init(old.folder.parent / "old", old, "--upgrade")
    assert in_use(old) == "0.0.1", back.said  # type: ignore[attr-defined]
