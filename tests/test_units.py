"""The units: what systemd says of them, how open they are, and that each timer starts a program that there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPO, need
from test_ground import project

UNITS = REPO / "systemd"
LINE = ("scan", "push", "submit", "poll", "fetch")
CALENDAR = {"clean": "clean", "report": "report", "report-notify": "report --notify", "ledger-verify": "ledger verify",
            "ledger-backup": "ledger backup /var/backups/mqi"}  # timers by the calendar, and what they run
# of the list in the reference, what is not there: why stands in the unit
LEFT_OUT = {"LogsDirectory", "LogsDirectoryMode", "LoadCredential", "TemporaryFileSystem", "IPAddressDeny", "IPAddressAllow", "ReadOnlyPaths"}
LIST = re.findall(r"\w+", """UMask StateDirectory StateDirectoryMode RuntimeDirectory RuntimeDirectoryMode SuccessExitStatus TimeoutStartSec TimeoutStopSec KillMode
SendSIGKILL MemoryMax MemorySwapMax TasksMax LimitNOFILE LimitCORE ProtectSystem ProtectHome ReadWritePaths BindPaths PrivateTmp PrivateDevices
PrivateUsers PrivateIPC PrivateMounts ProtectClock ProtectControlGroups ProtectHostname ProtectKernelLogs ProtectKernelModules
ProtectKernelTunables ProtectProc ProcSubset NoNewPrivileges RestrictNamespaces RestrictRealtime RestrictSUIDSGID RestrictAddressFamilies
LockPersonality MemoryDenyWriteExecute RemoveIPC KeyringMode CapabilityBoundingSet AmbientCapabilities SystemCallArchitectures
SystemCallFilter SystemCallErrorNumber DevicePolicy SocketBindDeny NoExecPaths ExecPaths User Group Environment""")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The units where programs are that exist, the examples of drop-ins in force."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    for path in [*folder.rglob("*.service"), *folder.rglob("*.conf*")]:
        path.write_text(re.sub(r"/opt/mqi/current/bin/mqi\S*|/usr/sbin/sendmail", "/bin/true", path.read_text()))
        if path.suffix == ".example":
            path.rename(path.with_suffix(""))
    return folder


def said(*words: str) -> str:
    ran = subprocess.run([need("systemd-analyze"), *words], capture_output=True, text=True)
    return ran.stdout + ran.stderr


def verified(folder: Path) -> str:
    """All of systemd's words on the units of a folder, templates with an instance: it prints a line for a misspelt directive."""
    units = [str(path) for path in folder.iterdir() if path.is_file() and "@." not in path.name]
    return said("verify", *units, str(folder / "mqi@scan.service"), str(folder / "mqi@ledger-verify.service"), str(folder / "mqi@ledger-backup.service"), str(folder / "mqi@report-notify.service"), str(folder / "mqi-notify@scan.service"))


def test_systemd_finds_nothing_to_say_about_the_units(there: Path) -> None:
    assert verified(there) == ""


@pytest.mark.parametrize("where", ["mqi@.service", "mqi-notify@.service", "mqi-scan.timer", "mqi@ledger-verify.service.d/command.conf"])
def test_a_misspelt_directive_would_be_seen(where: str, there: Path) -> None:
    text = (there / where).read_text()
    (there / where).write_text(re.sub(r"^(\[(Service|Timer)\])$", r"\1\nTimoutSec=5", text, flags=re.M))
    assert "Unknown key 'TimoutSec'" in verified(there)


@pytest.mark.parametrize("unit", ["mqi@.service", "mqi@scan.service", "mqi@ledger-verify.service", "mqi@ledger-backup.service", "mqi@report-notify.service", "mqi-notify@.service"])
def test_no_service_is_more_open_than_1_5(unit: str, there: Path) -> None:
    shutil.rmtree(there / "mqi-notify@.service.d")  # mail opens it: said there
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said("security", "--offline=true", str(there / unit)))
    assert found
    assert float(found[1]) <= 1.5


def test_every_directive_of_the_list_is_there_or_has_its_reason() -> None:
    text = (UNITS / "mqi@.service").read_text()
    keys = set(re.findall(r"^(\w+)=", text, re.M))
    assert set(LIST) <= keys
    reasons = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert not LEFT_OUT & keys
    assert {"LogsDirectory", "LoadCredential", "TemporaryFileSystem", "IPAddressDeny"} <= set(re.findall(r"\w+", reasons))


def test_every_timer_starts_a_program_that_there_is_and_belongs_to_the_target() -> None:
    timers = {path.stem.removeprefix("mqi-"): path.read_text() for path in UNITS.glob("*.timer")}
    assert set(timers) == {*LINE, *CALENDAR}
    for name, text in timers.items():
        assert f"Unit=mqi@{name}.service\n" in text
        assert "PartOf=mqi.target\nAfter=mqi.target\n" in text  # so stopping the target waits for it
        assert "WantedBy=mqi.target\n" in text
        command = UNITS / f"mqi@{name}.service.d" / "command.conf"
        run = re.findall(r"^ExecStart=/opt/mqi/current/bin/(.+)$", command.read_text() if command.exists() else f"ExecStart=/opt/mqi/current/bin/mqi-{name}", re.M)
        assert run == [f"mqi-{CALENDAR.get(name, name)}"]
        assert run[0].split()[0] in project()


@pytest.mark.parametrize("name", LINE)
def test_the_line_s_timers_spread_and_do_not_overlap(name: str) -> None:
    text = (UNITS / f"mqi-{name}.timer").read_text()
    assert "OnUnitInactiveSec=1min\n" in text
    assert "RandomizedDelaySec=" in text
    assert "\nOnActiveSec=" in text  # OnBootSec alone never fires on a gateway that has been up for longer
    assert "OnCalendar" not in text


@pytest.mark.parametrize("name", sorted(CALENDAR))
def test_what_was_missed_while_the_gateway_was_off_is_made_up_for(name: str) -> None:
    text = (UNITS / f"mqi-{name}.timer").read_text()
    assert "OnCalendar=" in text
    assert "Persistent=true\n" in text


def test_what_needs_a_person_an_unreachable_host_and_another_run_alarm_nobody() -> None:
    assert "\nSuccessExitStatus=1 69 75\n" in (UNITS / "mqi@.service").read_text()


def test_the_notice_is_locked_in_as_the_programs_are() -> None:
    """One list of directives, but for what each needs of its own."""
    ours, notice = ({line for line in (UNITS / name).read_text().splitlines() if re.match(r"(Protect|Private|Restrict|System|No|Lock)\w+=", line)}
                    for name in ("mqi@.service", "mqi-notify@.service"))  # fmt: skip
    differ = {line.split("=")[0] for line in ours ^ notice}
    assert differ <= {"RestrictAddressFamilies", "PrivateNetwork", "NoExecPaths"}
