"""Probes of the gateway: what is asked of its disk, its ledger and its systemd; gateway.py and odd.py say what it means."""

import fcntl
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from mqi_scripts import __version__, profiles
from mqi_scripts import words as w
from mqi_scripts.checks import Probe, fail, gateway, odd, ok, warn
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, place, retry
from mqi_scripts.telling import notify
from mqi_scripts.world import config, files, folder, outage
from mqi_scripts.world.ledger import Ledger, State
from mqi_scripts.world.run import run


def site(path: str, of: config.Site) -> Iterator[Probe]:
    """The configuration. path: its file."""
    strange = [*odd.configuration(of, codec.stamp(datetime.now(UTC)))]
    yield from strange or [ok("configuration", path)]
    if os.stat(path).st_mode & 0o022:
        yield warn("configuration", f"others can change {path}, and its command runs on the compute host", f"chmod go-w {path}")
    lack = profiles.missing(of.scan.profile)
    if lack:
        what, _, fix = lack.partition(": ")
        yield fail(f"profile {of.scan.profile}", what, fix, w.Configuration)
    else:
        yield ok(f"profile {of.scan.profile}")
    wanted = {"ssh": any(h.transport == "ssh" for h in of.hosts), "tar": any(h.transfer == "tar" for h in of.hosts)}
    if of.notify.command and not shutil.which(of.notify.command[0]):
        fix = "install it, or correct notify.command; then: mqi-check --notify"
        yield fail("notify", f"no program {of.notify.command[0]} here", fix, w.Configuration)
    if missing := [name for name, needed in wanted.items() if needed and not shutil.which(name)]:
        yield fail("programs here", f"missing: {', '.join(missing)}", "apt install openssh-client tar", w.Configuration)
    yield versions()


def versions() -> Probe:
    """Of what the suite runs on here; each compute host tells its own."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    said = [f"mqi {__version__}", f"Python {platform.python_version()}"]
    with suppress(PackageNotFoundError):
        said.append(f"pydicom {version('pydicom')}")
    for program, word in (("ssh", "-V"), ("systemctl", "--version")):
        if shutil.which(program):
            ran = run((program, word), seconds=10)
            said.append((ran.out + ran.err).decode(errors="replace").partition("\n")[0].partition(",")[0])
    return ok("versions", ", ".join(said))


def message(of: config.Site) -> Probe:
    """Whether notify.command takes a message."""
    if not of.notify.command:
        fix = "set it; docs/configuration.md has an example"
        return fail("notify", "notify.command is not set: nobody is told", fix, w.Configuration)
    text = f"{of.name}: a test message\n\nNothing is to be done. mqi-check --notify on {os.uname().nodename} sent it.\n"
    try:
        notify.send(of.notify.command, text)
    except w.Configuration as error:
        what, _, fix = str(error).partition(": nothing is lost; ")
        return fail("notify", what, fix, error)
    return ok("notify", f"{of.notify.command[0]} took a test message: see that it arrives")


def state(of: config.Site) -> Probe:
    """Whether the state folder can be used; what else there is needs that."""
    try:
        cli.check_state(of.state)
    except w.Configuration as error:
        what, _, fix = str(error).partition(": ")
        return fail(f"state {of.state}", what.removeprefix(f"{of.state} "), fix, error)
    except OSError as error:
        fix = f"correct site.state, or make the folder: install -d -m 0700 -o mqi {of.state}"
        return fail(f"state {of.state}", f"it cannot be used: {error}", fix, w.Configuration)
    return ok(f"state {of.state}", "0700, its owner's, on a local disk")


def owners(of: config.Site) -> Probe:
    """Files of the ledger and notes beside it: ours, and ours alone."""
    strange, open_to_all = [], []
    for where in (of.state, os.path.join(of.state, "health")):
        with os.scandir(where) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if info.st_uid != os.geteuid():
                    strange.append(entry.path)
                elif stat.S_ISREG(info.st_mode) and info.st_mode & 0o077:
                    open_to_all.append(entry.path)
    if strange:
        return fail("owners", f"{strange[0]} belongs to another account ({len(strange)} such)",
                    f"chown -R --reference={of.state} {of.state}", w.Configuration)  # fmt: skip
    if open_to_all:
        fix = f"chmod 600 {' '.join(open_to_all[:5])}"
        return warn("permissions", f"{open_to_all[0]} is open to others ({len(open_to_all)} such)", fix)
    return ok("permissions", "the files in it are this account's alone")


def folders(of: config.Site, known: int) -> Iterator[Probe]:
    """known: cases whose folder was there when it was last seen."""
    for word, path, need in (("inbox", of.inbox, os.R_OK | os.X_OK), ("results", of.results, os.W_OK | os.X_OK)):
        here = path if word == "inbox" or os.path.isdir(path) else os.path.dirname(path)
        if not os.path.isdir(here):
            yield fail(f"{word} {path}", "it does not exist", f"mount it, or correct site.{word}", w.Configuration)
        elif not os.access(here, need):
            yield fail(f"{word} {path}", "this account may not use it", f"chmod it, or correct site.{word}", w.Configuration)
        elif word == "inbox":
            yield _inbox(of, known)
        else:
            yield ok(f"{word} {path}")
    for path in (of.state, of.results):
        if os.path.isdir(path):
            yield gateway.room(f"room in {path}", *folder.free(path), of.reserve, "site.reserve")


def _inbox(of: config.Site, known: int) -> Probe:
    try:
        paths = folder.candidates(of.inbox, of.scan.cases, of.scan.ignore)
        times = {path: os.lstat(os.path.join(of.inbox, path)).st_mtime for path in paths}
        return gateway.inbox(of.inbox, times, len(os.listdir(of.inbox)), of.scan.cases, known, time.time())
    except OSError as error:
        return fail(f"inbox {of.inbox}", f"it cannot be read: {error}", "mount it, or let this account read it", w.Unreachable)


def ledger(book: Ledger) -> tuple[Probe, State | None]:
    """Every line, the chain, and the head that the last report showed; the fold, if it stands."""
    shown = files.read_note(os.path.join(book.folder, "health", "mqi-report.json")).get("head") or [0, ""]
    verify, digest = "mqi-ledger verify tells all that is wrong, and what to do", shown[1]
    try:
        now = book.state()
        for _, head in book.records():
            digest = head.digest if head.seq == shown[0] else digest
            if head.seq == shown[0] and head.digest != shown[1]:
                found = f"line {head.seq} is not the one that a report showed: it was rewritten"
                return fail("ledger", found, verify, w.Damaged), None
    except w.Damaged as error:
        return fail("ledger", str(error), verify, error), None
    except OSError as error:
        return fail("ledger", str(error), "all in the state folder must belong to its owner: see `owners`", w.Configuration), None
    if now.head.seq < shown[0]:
        return fail("ledger", f"it ends at line {now.head.seq}, and a report showed line {shown[0]}", verify, w.Damaged), None
    return ok("ledger", f"{now.head.seq} lines, the chain holds"), now


def locks(folder_: str) -> tuple[list[Probe], list[str]]:
    """Locks of this state folder that are held now, and the scripts that run."""
    probes, runs = [], []
    for name in sorted(os.listdir(folder_)):
        path = os.path.join(folder_, name)
        if name != "ledger.lock" and not name.startswith("run."):
            continue
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = file.read(200).decode("ascii", "replace").strip()
                lives = os.path.exists(f"/proc/{holder.rpartition(' ')[2]}")
                probes.append(gateway.lock(path, holder, lives, time.time() - os.fstat(file.fileno()).st_mtime))
                runs.append(name.removeprefix("run."))
    return probes or [ok("locks", "no script runs")], runs


def scripts(of: config.Site, runs: list[str]) -> Iterator[Probe]:
    """Timers and last successes, the notes of their last runs."""
    notes = {name: files.read_note(os.path.join(of.state, "health", f"{name}.json")) for name in gateway.SCRIPTS}
    idle = time.time() - os.stat(os.path.join(of.state, "health")).st_mtime  # of a folder in which nothing was made yet
    yield from gateway.scripts(notes, units(), runs, datetime.now(UTC), idle)


def left_alone(of: config.Site, host: str) -> Iterator[Probe]:
    """For which trouble the timers leave that compute host alone now."""
    now = codec.stamp(datetime.now(UTC))
    met = [failure for name in gateway.SCRIPTS if (failure := outage.fresh(of, host, name, now))]
    for failure in {str(failure): failure for failure in met}.values():
        when = f"when {retry.CHANGE}" if failure.until == retry.CHANGE else f"at {failure.until[:19]}Z"
        yield warn("left alone", f"the timers try it again {when}: {failure}", "a run by hand tries at once: mqi-tick")


def waiting(of: config.Site, now: State) -> Iterator[Probe]:
    why: dict[str, list[str]] = {}
    for name in gateway.SCRIPTS:
        why |= files.read_note(os.path.join(of.state, "health", f"{name}.json")).get("waits", {})
    yield from gateway.waiting(now.open.values(), why, datetime.now(UTC))


def broken(failed: Mapping[str, Sequence[str]], host: str, jobs: int) -> Iterator[Probe]:
    """Groups of the host that get no more of ours, because too many cases failed there in a row."""
    for group, text in place.broken(failed, host, jobs).items():
        found, _, fix = text.partition(": ")
        yield warn(f"group {group}", found, fix)


def units() -> dict[str, tuple[str, str]]:
    """What systemctl says of our timers: is-enabled and, where systemd runs, is-active. Empty without systemctl."""
    if not shutil.which("systemctl"):
        return {}
    mine = os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "systemd/user/mqi-scan.timer")
    mode = ["--user"] if os.path.exists(mine) else []
    runs = os.path.isdir("/run/systemd/system")

    def said(verb: str, unit: str) -> str:
        return run(("systemctl", *mode, verb, unit), seconds=10).out.decode("ascii", "replace").strip()

    names = {**{name: f"{name}.timer" for name in (*gateway.SCRIPTS, *gateway.TIMERS)}, "mqi.target": "mqi.target"}
    enabled = {name: said("is-enabled", unit) for name, unit in names.items()}
    return {name: (word, said("is-active", names[name]) if runs and word else "") for name, word in enabled.items()}
