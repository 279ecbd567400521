"""The units as they are installed: the package's own, what this site needs beside them, and a crontab instead of them."""

import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Sequence

from mqi_scripts.install.places import Places, running
from mqi_scripts.install.things import MARK, File
from mqi_scripts.world.config import DEFAULT, HostConfig, Site, schema_file

# what a systemd of a user can do without root; the rest of the sandbox needs it, and the programs have the user's rights anyway
PLAIN = {
    "Type", "ExecStart", "UMask", "Environment", "SuccessExitStatus", "TimeoutStartSec", "TimeoutStopSec", "KillMode",
    "SendSIGKILL", "LimitNOFILE", "LimitCORE", "SyslogIdentifier", "SyslogLevel", "NoNewPrivileges", "RestrictRealtime",
    "RestrictSUIDSGID", "LockPersonality", "SystemCallArchitectures",
}  # fmt: skip
HOMES = ("/home/", "/root/", "/run/user/")
# a host of transport local: queue and jobs are on this machine, so what they need is let through; engine direct's jobs outlive
# the program that starts them
LOCAL = """\
# a compute host on this machine: its queue and its jobs are reached from here, so the sandbox is open to them
RootDirectory=
NoExecPaths=
ExecPaths=
ProtectHome=no
PrivateTmp=no
PrivateDevices=no
DevicePolicy=auto
PrivateIPC=no
RemoveIPC=no
ProtectProc=default
ProcSubset=all
MemoryDenyWriteExecute=no
RestrictAddressFamilies=
SystemCallFilter=
SocketBindDeny=
MemoryMax=infinity
TasksMax=infinity
"""
# notify.command sends something, whatever the site's program needs for that: its files, a mail server, another's rights
TOLD = """\
# notify.command is set: the cage of what tells somebody is open, so that its program can send
RootDirectory=
NoExecPaths=
ExecPaths=
ProtectHome=read-only
PrivateUsers=no
PrivateNetwork=no
IPAddressDeny=
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
NoNewPrivileges=no
RestrictSUIDSGID=no
SystemCallFilter=
"""
FAILED = '"mqi-%i failed (${MONITOR_SERVICE_RESULT} ${MONITOR_EXIT_STATUS}). See: journalctl -u mqi@%i"'


# every run opens the log anew, so that nobody must be told
ROTATED = """{file} {{
    weekly
    rotate 52
    compress
    missingok
    notifempty
    su {account} {account}
    create 0600 {account} {account}
}}
"""


def shipped() -> str:
    """The folder of the package's units, from an installed package or a checkout."""
    package = os.path.dirname(os.path.dirname(schema_file("config")))
    return os.path.join(package, "systemd")


def files(where: Places, site: Site, config: str, account: str) -> list[File]:
    """Every unit file of this site."""
    made = []
    for folder, _, names in os.walk(shipped()):
        for name in sorted(names):
            path = os.path.normpath(os.path.join(where.units, os.path.relpath(os.path.join(folder, name), shipped())))
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read().replace("/opt/mqi", where.programs).replace("/var/backups/mqi", where.backup)
            made.append(File(path, marked(_for_user(text) if where.user else text, name)))
    for unit, lines in _told(where, site, config, account) if site.notify.command else ():
        text = "\n".join(["[Service]", *lines]) + "\n"
        made.append(File(f"{where.units}/{unit}.d/told.conf", marked(_for_user(text) if where.user else text, "told.conf")))
    local = _of_user(site, config) if where.user else _of_system(where, site, config, account)
    if local:
        text = "\n".join(["# what this site needs, from its configuration", "[Service]", *local]) + "\n"
        made.append(File(f"{where.units}/mqi@.service.d/site.conf", marked(text, "site.conf")))
    if site.log.file and not where.user:
        text = ROTATED.format(file=site.log.file, account=account or "root")
        made.append(File(f"{os.path.dirname(where.etc)}/logrotate.d/mqi", f"# {MARK}, which writes it anew\n{text}"))
    return made


def enabled(files: Sequence[File]) -> tuple[str, ...]:
    return ("mqi.target", *(os.path.basename(file.path) for file in files if file.path.endswith(".timer")))


def marked(text: str, name: str) -> str:
    advice = "copy it" if name.endswith(".example") else "change nothing here: `systemctl edit` keeps changes apart"
    return f"# {MARK}, which writes it anew: {advice}\n{text}"


def _for_user(text: str) -> str:
    """A unit without what needs root."""
    text = text.replace("WantedBy=multi-user.target", "WantedBy=default.target")
    kept, whole = [], text.split("\n")
    section = ""
    for line in whole:
        section = line if line.startswith("[") else section
        key = re.match(r"(\w+)=", line)
        if section != "[Service]" or (key and key[1] in PLAIN) or line.startswith("["):
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"


def _of_user(site: Site, config: str) -> Iterator[str]:
    yield f"Environment=MQI_CONFIG={quoted(config)}"
    yield from _direct(site)


def _direct(site: Site) -> list[str]:
    return ["KillMode=process"] if any(host.transport == "local" and host.engine == "direct" for host in site.hosts) else []


def _told(where: Places, site: Site, config: str, account: str) -> Iterator[tuple[str, list[str]]]:
    """What the units need that tell somebody, by unit: the timer's, and the notice of a run that failed, which tells it at once."""
    yield "mqi@report-notify.service", TOLD.splitlines()
    tells = [f"ExecStart=-{where.programs}/current/bin/mqi-report --notify {FAILED}", "TimeoutStartSec=3min"]
    user = [] if account == "mqi" or where.user else [f"User={account}", "Group="]
    paths = [f"ReadWritePaths=-{quoted(site.state)}", f"Environment={quoted(f'MQI_CONFIG={config}')}"]
    yield "mqi-notify@.service", [*TOLD.splitlines(), *user, *paths, *tells]


def _of_system(where: Places, site: Site, config: str, account: str) -> list[str]:
    """What differs from the units' own paths, accounts and addresses."""
    lines = []
    if account != "mqi":
        lines += [f"User={account}", "Group="]
    if config != DEFAULT:
        lines += [f"Environment={quoted(f'MQI_CONFIG={config}')}"]
    read = [*_read(where, site, config)]
    write = [path for path, known in ((site.results, "/srv/mqi/results"), (site.state, "/var/lib/mqi")) if path != known]
    write += [host.root for host in site.hosts if host.transport == "local"]
    write += [folder for folder in [os.path.dirname(site.log.file)] if folder and not f"{folder}/".startswith(f"{site.state}/")]
    lines += [f"BindReadOnlyPaths=-{quoted(path)}" for path in read]
    lines += [f"BindPaths=-{quoted(path)}" for path in write]
    lines += [f"ReadWritePaths={quoted(f'-+{path}')}" for path in write]
    lines += [f"NoExecPaths={quoted(f'-+{path}')}" for path in (*write, site.inbox)]
    lines += [f"ExecPaths={quoted(f'-+{path}')}" for path in _programs(where)]
    if site.state != "/var/lib/mqi":
        lines += ["StateDirectory="]
    if any(f"{path}/".startswith(HOMES) for path in (*read, *write)):
        lines += ["ProtectHome=tmpfs"]
    lines += _addresses(site.hosts)
    if any(host.transport == "local" for host in site.hosts):
        lines += [*LOCAL.splitlines(), *_direct(site)]
    return lines


def _read(where: Places, site: Site, config: str) -> Iterator[str]:
    """Paths that the units do not show by themselves."""
    home = os.path.dirname(config)
    yield from _programs(where)
    if config != DEFAULT:
        yield home
    if site.inbox != "/srv/mqi/inbox":
        yield site.inbox
    named = [path for h in site.hosts if h.transport == "ssh" for path in (h.identity, h.known_hosts, h.ssh_config) if path]
    yield from dict.fromkeys(path for path in named if not path.startswith(("/etc/mqi/", f"{home}/")))


def _programs(where: Places) -> list[str]:
    """Where the programs and their Python are, but for what lies below /usr and /opt/mqi."""
    found: list[str] = []
    for path in (where.programs, os.path.dirname(running()), sys.base_prefix):
        if not f"{path}/".startswith(("/usr/", "/opt/mqi/", *(f"{one}/" for one in found))):
            found.append(path)
    return found


def _addresses(hosts: Sequence[HostConfig]) -> list[str]:
    """Nothing but the compute hosts can be reached, where their addresses are numbers: names need a name server."""
    found = [host.address.rpartition("@")[2].strip("[]") for host in hosts if host.transport == "ssh"]
    try:
        numbers = [str(ipaddress.ip_address(address)) for address in found]
    except ValueError:
        return ["# no IPAddressDeny: a host's address is a name, and looking it up needs a name server"]
    return ["IPAddressDeny=any", *(f"IPAddressAllow={number}" for number in dict.fromkeys(numbers))]


def quoted(path: str) -> str:
    """A word in a unit: systemd's own meanings taken away."""
    plain = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return plain if re.fullmatch(r"[\w@%+=:,./-]*", plain) else f'"{plain}"'


def crontab(where: Places, config: str, account: str) -> str:
    """For a gateway without systemd: the lines of a file for cron."""
    user = f"{account} " if account else ""
    run = f"{user}{where.programs}/current/bin"
    how = "Add it with crontab -e" if where.user else "Put it into /etc/cron.d/mqi"
    return f"""\
# The suite by cron, instead of its timers (mqi-init --print-crontab). {how}.
# No folder's name goes to syslog or into cron's mail: what happened is told by mqi-report, or by log.file.
MQI_CONFIG={config}
LC_ALL=C.UTF-8
MQI_TIMER=1
* * * * *   {run}/mqi-tick 2>&1 >/dev/null | logger -t mqi-tick
*/5 * * * * {run}/mqi-report --notify 2>&1 >/dev/null | logger -t mqi-report
15 3 * * *  {run}/mqi-clean 2>&1 >/dev/null | logger -t mqi-clean
30 6 * * *  {run}/mqi-report --redact
0  4 * * 0  {run}/mqi-ledger backup {where.backup} 2>&1 | logger -t mqi-ledger
0  5 * * 0  {run}/mqi-ledger verify 2>&1 | logger -t mqi-ledger
"""
