"""The troubles of a night, staged on real parts: `mqi-case explain` or `mqi-check` names the cause and a command, and the command,
run as printed, resolves it or shows the next step. With `-s` the table is printed: trouble, sentence, command, what it did.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import JOB, REPO, Place, Pueued, Ran, Sshd, free_port, host_text
from test_check import another_sshd, apart, sound, stranger
from test_operator import fill, submitted
from test_trouble import in_a_small_disk

TABLE: list[tuple[str, str, str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    sys.stdout.write("\n| trouble | what is printed | the command | what it did |\n|---|---|---|---|\n")
    for row in TABLE:
        sys.stdout.write("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n")


def shown(text: str) -> str:
    """A sentence for the table: without this run's folders and ids."""
    short = re.sub(r"(/tmp|/root)/[^\s'`;,:]*/", "/.../", text)
    return re.sub(r"\b[0-9a-f]{12,20}\b", "ID", short).strip()


def row(trouble: str, sentence: str, command: str, outcome: str) -> None:
    TABLE.append((trouble, shown(sentence), f"`{shown(command)}`", outcome))


def explained(place: Place, name: str = "ma", *words: str) -> dict[str, str]:
    ran = place("mqi-case", "explain", name, *words, "--jsonl")
    found: dict[str, str] = json.loads(ran.out)
    return found


def probe(ran: Ran, what: str) -> tuple[str, str]:
    """What a probe found, and its fix."""
    for one in json.loads(ran.out)["probes"]:
        if one["what"] == what and one["level"] != "ok":
            return f"{one['level']} {one['host']}{': ' if one['host'] else ''}{what}: {one['found']}", one["fix"]
    raise AssertionError(ran.out)


def checked(place: Place, what: str, *words: str) -> tuple[str, str]:
    return probe(place("mqi-check", "--json", *words), what)


def typed(place: Place, command: str) -> Ran:
    """A command as it was printed, typed into a shell where the programs of the suite are found."""
    shims = place.folder / "bin"
    if not shims.exists():
        shims.mkdir()
        for path in (REPO / "bin").iterdir():
            (shims / path.name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mqi_scripts {path.name} "$@"\n')
            (shims / path.name).chmod(0o755)
    env = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}", "PYTHONPATH": str(REPO), "MQI_CONFIG": str(place.config)}
    out, err = place.folder / "typed.out", place.folder / "typed.err"
    with out.open("w") as one, err.open("w") as other:  # no pipes: a daemon that it starts would keep them open
        ran = subprocess.run(["/bin/sh", "-c", command], env=env, stdin=subprocess.DEVNULL, stdout=one, stderr=other, timeout=120)
    return Ran(ran.returncode, out.read_text(), err.read_text())


def in_backticks(fix: str, which: int = 0) -> str:
    return re.findall(r"`([^`]+)`", fix)[which]


def waits(place: Place) -> None:
    """A case that was pushed, and its next step tried."""
    place.case("ma")
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll"):
        place(program)


# --- the compute host


def test_the_daemon_is_down(far_place: Place, pueued: Pueued) -> None:
    pueued.signal(signal.SIGKILL)
    waits(far_place)
    first = explained(far_place)
    assert "Connection refused" in first["why"] or "does not answer" in first["why"]
    assert first["helps"] == "mqi-check --host far"
    assert "FAIL  far: queue: it does not answer" in typed(far_place, first["helps"]).out
    found, fix = checked(far_place, "queue")
    command = in_backticks(fix, 1)
    try:
        assert typed(far_place, command).code == 0
        deadline = time.monotonic() + 60
        while "ok    far: queue: " not in far_place("mqi-check").out:
            assert time.monotonic() < deadline
        row("daemon down", f"{first['why']}; then: {found}", command, "resolved: the queue answers, the case is computed")
        far_place.until("completed")
    finally:
        pueued.client("shutdown")


def test_the_host_is_down(far_place: Place, sshd: Sshd) -> None:
    place, text = far_place, far_place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", f"port = {free_port()}"))
    waits(place)
    first = explained(place)
    assert first["why"].startswith("far (")
    assert "it refused the connection: start sshd there" in first["why"]
    assert first["helps"] == "mqi-check"
    found, fix = checked(place, "session")
    command = fix.partition("by hand: ")[2]
    ran = typed(place, command)
    assert (ran.code, "Connection refused" in ran.err) == (255, True)
    row("host down", f"{first['why']}; then: {found}", command, "shows the next step: connection refused; 0 once sshd runs")
    place.config.write_text(text)
    assert typed(place, checked_by_hand(place)).code == 0


def checked_by_hand(place: Place) -> str:
    from mqi_scripts.world import config
    from mqi_scripts.world.host import hosts
    from mqi_scripts.world.ledger import Ledger

    site = config.load(str(place.config), {})
    return shlex.join(hosts(site, Ledger(site.state, {}))[0].reach("true"))


def test_the_key_is_wrong(far_place: Place, sshd: Sshd, tmp_path: Path) -> None:
    stranger(far_place, sshd, tmp_path)
    waits(far_place)
    first = explained(far_place)
    assert "it refused our key: put it back in authorized_keys there" in first["why"]
    found, fix = checked(far_place, "session")
    command = fix.partition("by hand: ")[2]
    ran = typed(far_place, command)
    assert (ran.code, "Permission denied" in ran.err) == (255, True)
    row("wrong key", f"{first['why']}; then: {found}", command, "shows the next step: permission denied; 0 once the key is in authorized_keys")


def test_its_login_shell_prints_a_banner(far_place: Place, sshd: Sshd) -> None:
    with another_sshd(sshd, "echo 'Welcome to gpu1!'") as port:
        far_place.config.write_text(far_place.config.read_text().replace(f"port = {sshd.port}", f"port = {port}"))
        found, fix = checked(far_place, "login shell")
        command = fix.partition("nothing: ")[2]
        assert typed(far_place, command).out == "Welcome to gpu1!\n"
    row("banner", found, command, "shows the next step: what is printed, until nothing is")


def test_its_groups_are_paused(far_place: Place, pueued: Pueued) -> None:
    for group in ("gpu0", "gpu1"):
        pueued.client("pause", "-g", group)
    waits(far_place)
    first = explained(far_place)
    assert first["why"].startswith("every group of far is paused (gpu0, gpu1)")
    assert first["helps"].endswith("   # on far")
    assert typed(far_place, first["helps"]).code == 0
    row("paused group", first["why"], first["helps"], "resolved: the next mqi-submit gives it the case")
    far_place.until("completed")


def test_the_queue_was_wiped_while_an_attempt_waited(far_place: Place, pueued: Pueued) -> None:
    fill(pueued)
    submitted(far_place, "ma")
    pueued.wipe()
    pueued.start()
    far_place("mqi-submit")
    far_place("mqi-poll")
    pueued_is_bare = explained(far_place, "ma", "--look")
    assert re.search("group gpu[01] of far is gone", pueued_is_bare["why"]), pueued_is_bare
    found, fix = checked(far_place, "groups")
    command = in_backticks(fix)
    assert typed(far_place, command).code == 0
    row("wiped queue", f"{pueued_is_bare['why']}; then: {found}", command, "resolved: the attempt that never began is revoked, a new one is computed")
    assert far_place.until("completed")["ma"]["attempt"] == 2


def test_the_queue_has_a_task_with_our_label_that_the_ledger_does_not_know(far_place: Place, pueued: Pueued) -> None:
    pueued.client("add", "--label=mqi1:0123456789abcdef0123:1", "-g", "gpu0", "--", "sleep 600")
    (number,) = pueued.state()["tasks"]
    found, fix = checked(sound(far_place), f"task {number}")
    command = in_backticks(fix)
    assert typed(far_place, command).code == 0
    deadline = time.monotonic() + 60
    while f"task {number}:" in far_place("mqi-check").out:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    row("unknown task with our label", found, command, "resolved: it is gone")


# --- disks


@pytest.mark.parametrize("side", ["there", "here"])
def test_a_disk_is_full(side: str, local_place: Place) -> None:
    place, folder = sound(local_place), local_place.root if side == "there" else local_place.results
    folder.mkdir(exist_ok=True)
    found, fix = probe(apart(place, f'mount -t tmpfs -o size=70m,mode=700 none "{folder}"'), "room" if side == "there" else f"room in {folder}")
    assert re.search("only 0.1 GB free", found)
    command = re.search(r"\((df -h), df -i\)", fix)
    assert command
    assert "Use%" in typed(place, command[1]).out
    place.config.write_text(place.config.read_text().replace('quiet = "15m"', 'quiet = "0s"'))
    for name in ("first", "ma"):
        place.case(name)
        place("mqi-scan")
        assert name == "ma" or place("mqi-push").code == 0
    ran = in_a_small_disk(place, place.root if side == "there" else place.state, "20M", "mqi-push")
    assert ran.returncode == 74
    row(f"full disk {side}", f"{found}; mqi-push: {ran.stderr.splitlines()[0]}", command[1], "shows the next step: which disk; the case waits, and goes on when there is room")
    assert place("mqi-push").code == 0


# --- cases


def test_a_case_is_held(local_place: Place) -> None:
    (local_place.case("ma") / "away").symlink_to("/etc/passwd")
    local_place("mqi-scan")
    first = explained(local_place)
    assert first["why"] == "away is a symlink, not a regular file"
    assert "mend its folder in the inbox" in first["next"]
    ran = typed(local_place, first["helps"])
    assert (ran.code, "away is a symlink" in ran.out) == (0, True)
    row("held case", f"{first['why']}; next: {first['next']}", first["helps"], "shows the next step: every reason with its file, and where the folder is")


def test_the_time_limit_has_passed(tmp_path: Path) -> None:
    job = f'[ "$MQI_ATTEMPT" -gt 1 ] || sleep 297\n{JOB}'
    place = Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), job)
    place.config.write_text(place.config.read_text().replace('"60s"', '"2s"'))
    place.case("ma")
    place.until("failed")
    first = explained(place)
    assert first["why"] == "time limit"
    assert typed(place, first["helps"]).code == 0
    place.config.write_text(place.config.read_text().replace('"2s"', '"60s"'))
    row("expired time limit", f"{first['why']}; next: {first['next']}", first["helps"], "resolved: a new attempt, recorded with who and why")
    assert place.until("completed")["ma"]["attempt"] == 2


# --- the gateway


def test_the_ledger_s_tail_is_damaged(local_place: Place) -> None:
    place = local_place
    place.case("ma")
    place.until("completed")
    path = next(place.state.glob("ledger-*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b'"files":1', b'"files":7'))
    shutil.rmtree(place.state / "cache")
    found, fix = checked(place, "ledger")
    first = re.match(r"mqi-ledger verify", fix)
    assert first
    said = typed(place, first[0])
    assert said.code == 65
    second = re.search(r"mqi-ledger repair (--reason|--dry-run)", said.out + said.err)
    assert second, said
    ran = typed(place, 'mqi-ledger repair --reason "..."')
    assert ran.code in (0, 1), ran
    row("damaged ledger tail", found, f'{first[0]}, then mqi-ledger repair --reason "..."', "resolved: the line is set aside, the old file kept, and what it told is asked of the world")
    assert place("mqi-ledger", "verify").code == 0
    place.until("completed")


def test_a_timer_is_disabled(local_place: Place, tmp_path: Path) -> None:
    place = sound(local_place)
    place.tick()
    units = tmp_path / "units"
    shutil.copytree(REPO / "systemd", units)
    on = [path.name for path in units.iterdir() if path.suffix in (".timer", ".target")]
    script = (
        f"mount --bind {units} /etc/systemd/system; [ ! -d /run/systemd/system ] || mount -t tmpfs none /run/systemd\n"
        f"systemctl -q enable {' '.join(on)} 2>/dev/null\nsystemctl -q disable mqi-poll.timer 2>/dev/null\n"
    )
    found, fix = probe(apart(place, script), "mqi-poll")
    assert fix == "systemctl enable --now mqi-poll.timer"
    ran = apart(place, f"{script}{fix} >/dev/null 2>&1 || {fix.replace('--now ', '')} 2>/dev/null")  # there is no systemd to start it now
    assert not [one for one in json.loads(ran.out)["probes"] if one["what"] == "mqi-poll" and one["level"] == "FAIL"]
    row("disabled timer", found, fix, "resolved: it is enabled")


def test_a_key_of_the_configuration_is_misspelt(local_place: Place) -> None:
    text = local_place.config.read_text()
    local_place.config.write_text(text.replace("quiet = ", "quite = "))
    ran = local_place("mqi-scan")
    assert (ran.code, "scan.quite is no key of this file: did you mean quiet?" in ran.err) == (78, True)
    command = ran.err.strip().rpartition("then: ")[2]
    again = typed(local_place, command)
    assert (again.code, "did you mean quiet?" in again.out) == (78, True)
    row("misspelt key", ran.err.splitlines()[1].strip(), command, "shows the next step: the same sentence, until it is mended")
    local_place.config.write_text(text)
    assert "configuration: " not in [line for line in typed(local_place, command).out.splitlines() if line.startswith("FAIL")]


# --- broken groups, silent jobs


def test_a_gpu_is_broken(far_place: Place, pueued: Pueued) -> None:
    place = far_place
    place.config.write_text(place.config.read_text().replace('["gpu*"]', '["gpu0"]').replace(JOB, f'[ -e {place.folder}/mended ] || exit 3\n{JOB}'))
    for name in ("ma", "mb", "mc", "md"):
        place.case(name)
        deadline = time.monotonic() + 120
        while name != "md" and place.rows().get(name, {}).get("status") != "failed":
            place.tick()
            assert time.monotonic() < deadline
    place.tick()
    first = explained(place, "md")
    assert "gpu0" in first["why"]
    assert first["helps"].startswith("mqi-case show "), first
    assert "the job ended with exit 3" in typed(place, first["helps"]).out
    command = in_backticks(first["why"], 1)
    assert command.startswith("mqi-case release --group gpu0"), first
    (place.folder / "mended").touch()
    assert typed(place, command).code == 0
    row("broken GPU group", first["why"], f"{first['helps']}; {command}", "shows the next step: how the last one failed; resolved: the group gets cases again")
    deadline = time.monotonic() + 120
    while place.rows()["md"]["status"] != "completed":
        place.tick()
        assert time.monotonic() < deadline


def test_a_job_is_silent(far_place: Place) -> None:
    place = far_place
    place.config.write_text(place.config.read_text().replace(JOB, "echo begun; sleep 600").replace("[job]", '[job]\nsilent_limit = "1s"', 1))
    submitted(place, "ma")
    deadline = time.monotonic() + 60
    while "log" not in (first := explained(place))["why"]:
        place("mqi-poll")
        assert time.monotonic() < deadline, first
        time.sleep(0.5)
    ran = typed(place, first["helps"])
    assert ran.code == 0, first
    row("silent job", first["why"], first["helps"], "shows the next step, or ends it")
