"""A machine that boots: gateway and compute host in one, set up by mqi-init as a person would, and then left to its timers.

With `tests/run --boot`, or where CI=true.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, need
from machine import Machine
from test_upgrade import version

pytestmark = pytest.mark.boot
COMMAND = 'sleep 8; mkdir Dose && cp "$MQI_INPUT/plan.txt" Dose/1_Dose.dcm && date +%s >Dose/2_Dose.dcm'
ANSWERS = f"""
[site]
name = "boot"
[scan]
quiet = "0s"
profile = "files"
[job]
command = {json.dumps(COMMAND)}
[hosts.gpu1]
address = "calc@127.0.0.1"
root = "/data/mqi"
groups = ["gpu*"]
[hosts.gpu1.pueue]
command = "/usr/local/bin/pueue"
config = "/etc/pueue/pueue.yml"
"""
FAST = "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=1s\nRandomizedDelaySec=0\n"  # as `systemctl edit` would
PATIENCE = 180.0


def rows(machine: Machine) -> dict[str, dict[str, Any]]:
    said = machine.sh("runuser -u mqi -- mqi-report --jsonl").stdout
    return {row["case_path"]: row for row in map(json.loads, said.splitlines())}


def until_all(machine: Machine, *statuses: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = rows(machine)
        there = set(machine.ok("ls /srv/mqi/inbox").split())
        if there <= found.keys() and all(row["status"] in statuses for row in found.values()):
            return
        assert time.monotonic() < deadline, f"{found}\n{machine.sh('journalctl -n 60 --no-pager').stdout}"
        time.sleep(0.5)


def drop(machine: Machine, *names: str) -> None:
    """Cases into the inbox."""
    for name in names:
        machine.ok(f"mkdir /srv/mqi/inbox/{name} && echo 'plan of {name}' >/srv/mqi/inbox/{name}/plan.txt")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Booted, with the bundle unpacked; nothing of ours in it yet."""
    folder = tmp_path_factory.mktemp("boot")
    bundle = folder / "mqi.tar.gz"
    made = subprocess.run([sys.executable, "-m", "mqi_scripts", "mqi-init", "--bundle", str(bundle), "--python", "3.11"],
                          cwd=REPO, capture_output=True, text=True, timeout=600)  # fmt: skip
    assert made.returncode == 0, made.stderr
    it = Machine(folder / "machine", far=True, network=False)
    try:
        shutil.unpack_archive(bundle, it.root / "root", filter="data")
        (it.root / "root" / next((it.root / "root").glob("mqi-*")).name).rename(it.root / "root" / "mqi")
        (it.root / "root/answers.toml").write_text(ANSWERS)
        for name in ("pueue", "pueued"):
            shutil.copy(need(name), it.root / "usr/local/bin" / name)
        it.boot()
        it.before = set(listing(it))  # type: ignore[attr-defined]
        yield it
    finally:
        it.stop()


def listing(machine: Machine) -> list[str]:
    return machine.ok("find / -xdev \\( -type f -o -type l \\) ! -path '/proc/*' ! -path '/tmp/*' ! -path '/var/log/*' ! -path '/var/tmp/*'").splitlines()


def test_one_command_here_and_the_printed_ones_there_set_everything_up(machine: Machine) -> None:
    """The bundle's installer without any network; then what --compute-host prints, word by word; then mqi-check is content."""
    print_of = machine.ok("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    first = machine.sh(f"/root/mqi/mqi-init --yes --answers /root/answers.toml --accept-fingerprint {print_of}", 300)
    assert first.returncode == 69, first.stdout + first.stderr  # the account there is still to be made
    assert "make the account mqi" in first.stdout
    there = machine.ok("mqi-init --compute-host --gpus 3")
    (machine.root / "root/far.sh").write_text(there)
    machine.ok("mkdir -p /data && sh -eu /root/far.sh")
    drop_in = machine.root / "etc/systemd/system/mqi-.timer.d"
    drop_in.mkdir()
    (drop_in / "fast.conf").write_text(FAST)
    second = machine.sh("mqi-init --yes")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "everything is as it should be: nothing was changed" in second.stdout
    assert "FAIL" not in second.stdout
    assert machine.ok("stat -c '%U %a' /var/lib/mqi /etc/mqi/ssh/id_ed25519").splitlines() == ["mqi 700", "mqi 600"]


def test_systemd_finds_nothing_to_say_about_the_installed_units(machine: Machine) -> None:
    ran = machine.sh("cd /etc/systemd/system && systemd-analyze verify mqi-*.timer mqi@scan.service mqi@ledger-verify.service mqi-notify@scan.service")
    assert ran.stdout + ran.stderr == ""
    for unit in ("mqi@scan.service", "mqi-notify@scan.service"):
        said = machine.ok(f"systemd-analyze security {unit} --no-pager")
        assert float(re.search(r"exposure level for \S+: ([0-9.]+)", said)[1]) <= 1.5  # type: ignore[index]


def test_three_cases_come_back_by_timers_alone_with_a_reboot_in_the_middle(machine: Machine) -> None:
    machine.ok("systemctl daemon-reload && systemctl restart mqi.target")
    drop(machine, "one", "two", "three")
    deadline = time.monotonic() + PATIENCE
    while [row["status"] for row in rows(machine).values()] != ["running"] * 3:  # with one still queued pueue would pause its group
        assert time.monotonic() < deadline, machine.sh("journalctl -n 80 --no-pager").stdout
        time.sleep(0.3)
    machine.reboot()
    until_all(machine, "completed")
    assert {row["attempt"] for row in rows(machine).values()} == {2}  # the first ones were cut off by the reboot, and are shown as such
    for name in ("one", "two", "three"):
        assert machine.ok(f"cat /srv/mqi/results/{name}/Dose/1_Dose.dcm") == f"plan of {name}\n"
        assert json.loads(machine.ok(f"cat /srv/mqi/results/{name}/mqi-result.json"))["exit"] == 0
    machine.ok("runuser -u mqi -- mqi-ledger verify")
    assert machine.ok("systemctl list-units --failed --plain --no-legend") == ""


PROBE = """
try() { "$@" >/dev/null 2>&1 && echo "yes $*" || echo "no $*"; }
try touch /var/lib/mqi/probe
try touch /srv/mqi/results/probe
try cat /srv/mqi/inbox/one/plan.txt
try touch /srv/mqi/inbox/probe
try touch /etc/mqi/probe
try cat /etc/mqi/ssh/id_ed25519
try test -e /etc/shadow
try ls /root
try test -e /home
try test -e /srv/other/secret
try test -e /var/log
try test -e /etc/ssh
try test -e /data
try sh -c 'cp /bin/true /var/lib/mqi/x && /var/lib/mqi/x'
try sh -c 'cp /bin/true /tmp/x && chmod 700 /tmp/x && /tmp/x'
try unshare --user true
try test -e /proc/1/environ
try dd if=/dev/sda of=/dev/null count=1
try python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
try python3 -c 'import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)'
try python3 -c 'import socket; socket.create_connection(("127.0.0.1", 22))'
try /opt/mqi/current/bin/mqi-scan --version
rm -f /var/lib/mqi/probe /var/lib/mqi/x /srv/mqi/results/probe
"""
ALLOWED = {
    "touch /var/lib/mqi/probe", "touch /srv/mqi/results/probe", "cat /srv/mqi/inbox/one/plan.txt", "cat /etc/mqi/ssh/id_ed25519",
    'python3 -c import socket; socket.create_connection(("127.0.0.1", 22))', "/opt/mqi/current/bin/mqi-scan --version",
}  # fmt: skip


def service(machine: Machine, name: str, command: str, extra: str = "") -> None:
    """mqi@NAME.service runs this instead of a program, in the sandbox of all of them."""
    folder = machine.root / f"etc/systemd/system/mqi@{name}.service.d"
    folder.mkdir(exist_ok=True)
    (machine.root / f"usr/local/{name}.sh").write_text(command)
    (folder / "zz.conf").write_text(f"[Service]\nExecStart=\nExecStart=/bin/sh /usr/local/{name}.sh\n{extra}")
    machine.ok("systemctl daemon-reload")


def test_a_program_reaches_its_state_its_results_the_inbox_and_the_host_and_nothing_else(machine: Machine) -> None:
    machine.ok("mkdir -p /srv/other && echo secret >/srv/other/secret && chmod -R a+rX /srv/other")
    service(machine, "probe", PROBE)
    machine.ok("systemctl start mqi@probe.service")
    said = machine.ok("journalctl -u mqi@probe.service -o cat --no-pager")
    found = dict(line.split(" ", 1)[::-1] for line in said.splitlines() if line.startswith(("yes ", "no ")))
    assert len(found) == PROBE.count("\ntry ")
    assert {what for what, answer in found.items() if answer == "yes"} == ALLOWED


def test_a_program_that_hangs_is_ended_with_all_it_started_and_somebody_is_told_once(machine: Machine) -> None:
    hang = "trap '' TERM; setsid sleep 4321 & while :; do sleep 1; done"
    service(machine, "hang", hang, "TimeoutStartSec=2s\nTimeoutStopSec=1s\n")
    for _ in range(2):
        assert machine.sh("systemctl start mqi@hang.service").returncode != 0
    assert "Result=timeout" in machine.ok("systemctl show -p Result mqi@hang.service")
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x004321" in read(path)]
    time.sleep(1)
    alerts = [line for line in machine.ok("journalctl -p 1 -o cat --no-pager").splitlines() if "mqi-hang" in line]
    assert alerts == ["mqi-hang failed (timeout TERM). See: journalctl -u mqi@hang; mqi-check"] or alerts == [
        "mqi-hang failed (timeout KILL). See: journalctl -u mqi@hang; mqi-check"]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("code", "fails"), [(1, False), (69, False), (75, False), (65, True), (70, True), (74, True), (78, True)])
def test_which_exit_codes_alarm(code: int, fails: bool, machine: Machine) -> None:
    service(machine, f"exit{code}", f"exit {code}")
    assert (machine.sh(f"systemctl start mqi@exit{code}.service").returncode != 0) == fails
    machine.ok("sleep 0.5")
    assert (f"mqi-exit{code} failed" in machine.ok("journalctl -p 1 -o cat --no-pager")) == fails


def test_an_outage_alarms_nobody_and_the_case_goes_on_afterwards(machine: Machine) -> None:
    machine.ok("systemctl reset-failed; systemctl stop ssh.service")
    drop(machine, "four")
    machine.ok("sleep 8")
    assert machine.ok("systemctl list-units --failed --plain --no-legend") == ""
    assert rows(machine)["four"]["status"] in ("found", "pushed")
    machine.ok("systemctl start ssh.service")
    until_all(machine, "completed")


def test_an_upgrade_stops_the_timers_switches_and_starts_them_again(machine: Machine, tmp_path: Path) -> None:
    source = version(tmp_path / "new", "9.9.9")
    wheels = machine.root / "root/new/wheels"
    shutil.copytree(machine.root / "root/mqi", wheels.parent)
    next(wheels.glob("mqi-*.whl")).unlink()
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(source)], check=True)
    ran = machine.sh("/root/new/mqi-init --yes --upgrade", 400)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "mqi-9.9.9" not in ran.stderr
    assert machine.ok("mqi-scan --version") == "mqi-scan 9.9.9\n"
    assert machine.ok("ls /var/backups/mqi").startswith("mqi-ledger-")
    assert int(machine.ok("systemctl list-units --state=active --plain --no-legend 'mqi-*.timer' | wc -l")) >= 8
    drop(machine, "five")
    until_all(machine, "completed")


def test_the_target_stops_and_starts_everything(machine: Machine) -> None:
    active = "systemctl list-units --state=active --plain --no-legend 'mqi-*.timer' | wc -l"
    running = int(machine.ok(active))
    assert running >= 9
    machine.ok("systemctl stop mqi.target")
    assert int(machine.ok(active)) == 0
    assert machine.ok("systemctl list-units --state=activating --plain --no-legend 'mqi@*.service'") == ""
    machine.ok("systemctl start mqi.target; sleep 1")
    assert int(machine.ok(active)) == running


def test_every_command_of_the_page_on_operations_runs(machine: Machine) -> None:
    machine.ok("runuser -u mqi -- true")
    (machine.root / "usr/local/bin/sudo").write_text('#!/bin/sh\n[ "$1" = -u ] && shift && user=$1 && shift && exec runuser -u "$user" -- "$@"\n')
    machine.ok("chmod 755 /usr/local/bin/sudo")  # a gateway has it; this root has not
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "docs" / "operations.md").read_text(), re.S)
    assert len(blocks) >= 4
    for block in blocks:  # mqi-check warns of a quiet time of 0s; no group is left out here; the timers' runs go on beside
        text = block.replace("mqi-check\n", "mqi-check || [ $? -eq 1 ]\n").replace('was replaced"\n', 'was replaced" || [ $? -eq 2 ]\n')
        text = re.sub(r"^(sudo -u mqi mqi-tick)$", r"until \1 || { [ $? -ne 75 ] && exit 1; }; do sleep 1; done", text, flags=re.M)
        machine.ok(f"set -e\n{text}", 600)  # the self-test's timeouts are those of a site


def test_removal_leaves_no_file_but_state_results_configuration_and_what_the_test_made(machine: Machine) -> None:
    ran = machine.sh("mqi-init --remove --yes")
    assert ran.returncode == 0, ran.stderr
    left = set(listing(machine)) - machine.before  # type: ignore[attr-defined]
    allowed = ("/etc/mqi/", "/var/lib/mqi/", "/var/backups/mqi/", "/srv/", "/data/", "/home/calc/", "/etc/machine-id", "/root/")
    made = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/pueue/", "/var/lib/pueue/",
            "/etc/systemd/system/pueued.service", "/etc/systemd/system/multi-user.target.wants/pueued.service", "/usr/local/")  # fmt: skip
    ours = {path for path in left if not path.startswith((*allowed, *made)) and not path.endswith(("zz.conf", "fast.conf"))}
    assert ours == set()
    assert not [path for path in left if "/mqi" in path and path.startswith("/usr/local/")]
    assert machine.sh("systemctl list-units --all --plain --no-legend 'mqi*.timer' 'mqi.target'").stdout == ""
    assert machine.ok("ls /srv/mqi/results").split() == ["five", "four", "one", "three", "two"]
