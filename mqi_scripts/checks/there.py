"""Probes of a compute host: what needs no session, then one session and all that it tells."""

import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping

from mqi_scripts import words as w
from mqi_scripts.checks import Probe, compute, fail, gateway, ok, warn
from mqi_scripts.install.keys import authorized
from mqi_scripts.pure import readers
from mqi_scripts.world.config import HostConfig
from mqi_scripts.world.host import NOBODY, Host
from mqi_scripts.world.run import run

PATIENCE = 10.0  # seconds, as in far/ssh_config


def keys(host: HostConfig) -> Iterator[Probe]:
    """Our key, and whether theirs is known: files of the gateway. A site's own ssh_config is its own matter."""
    if host.transport != "ssh" or host.ssh_config:
        return
    try:
        info = os.stat(host.identity) if host.identity else None
        if info and info.st_mode & 0o077:
            found = f"{host.identity} is open to others: ssh does not use it"
            yield fail("key", found, f"chmod 600 {host.identity}", w.Configuration)
    except OSError as error:
        fix = f"correct hosts.{host.name}.identity, or make one: ssh-keygen -t ed25519 -N '' -f {host.identity}"
        yield fail("key", f"{host.identity}: {error.strerror}", fix, w.Configuration)
    known, name = host.known_hosts or "/etc/mqi/known_hosts", f"mqi-{host.name}"
    if run(("ssh-keygen", "-F", name, "-f", known), seconds=PATIENCE).code:
        scan = f"ssh-keyscan -p {host.port} -t ed25519 {host.address.rpartition('@')[2]} | sed 's/^[^ ]*/{name}/' >>{known}"
        found = f"{known} has none under the name {name}"
        yield fail("host key", found, f"{scan}; then compare the fingerprint", w.Unreachable)
    else:
        yield ok("host key", f"known as {name}")


def knock(host: HostConfig) -> Iterator[Probe]:
    """A round trip to its sshd, before a session: without one there the session tells why. Nothing where others know the way."""
    if host.transport != "ssh" or host.ssh_config:
        return
    begin = time.monotonic()
    try:
        with socket.create_connection((host.address.rpartition("@")[2], host.port), timeout=PATIENCE) as there:
            seconds = time.monotonic() - begin
            said = readers.show(there.recv(80).decode("ascii", "replace")).partition("\n")[0]
    except OSError:
        return
    yield compute.latency(seconds, said, host.transfer == "scp" and not host.gate)


def session(far: Host, cases: Callable[[], Mapping[str, w.Case] | None]) -> Iterator[Probe]:
    """What one session there tells. cases: all of the ledger, asked for after the session, so that what began meanwhile is known;
    None where the ledger is damaged."""
    begin = time.monotonic()
    try:
        said = far.session("check", [], NOBODY, judged=False)
    except w.Failure as error:
        yield unreachable(far, error)
        return
    took, now, known = time.monotonic() - begin, time.time(), cases()
    known_key = ", host key known" if far.config.transport == "ssh" else ""
    yield ok("session", f"over {far.config.transport}{known_key}{', through its gate' if far.gate else ''}")
    times = [float(one) for line in said.named("clock") for one in line if re.fullmatch(r"[0-9.]+", one)]
    if len(times) == 2:  # noqa: PLR2004  # its begin and its end
        if far.config.transport == "ssh":
            yield from compute.login(said.before, took, times[1] - times[0], shlex.join(far.reach("true")), far.scp)
        yield compute.clock(times[1] - now)
    yield root(far, said, known is not None)
    yield compute.programs([line[0] for line in said.named("lacks")], [line[0] for line in said.named("tool")])
    for free, *nodes in said.named("room"):
        if free.isdigit():
            inodes = int(nodes[0]) if nodes and nodes[0].isdigit() else -1
            yield gateway.room("room", int(free) * 1024, inodes, far.config.reserve, f"hosts.{far.name}.reserve")
        else:
            yield warn("room", "it does not say how much is free", f"on {far.name}: df -k {far.config.root}")
    yield from queue(far, said, known)


def unreachable(far: Host, error: w.Failure) -> Probe:
    """The sentence of a session that failed, taken apart: what it means, what to do, what was said."""
    means, _, said = str(error).removesuffix(". See: mqi-check").partition(". It said: ")
    what, _, fix = re.sub(r"^\S+ \([^)]*\): ", "", means).partition(": ")
    line = authorized(far.config) or f"ssh-keygen -y -f {far.config.identity or 'KEY'} shows it"
    fix = fix.replace("mqi-check shows the line", line)
    by_hand = f"by hand: {shlex.join(far.reach('true'))}" if far.config.transport == "ssh" else ""
    return fail("session", f"{what}. It said: {said}" if said else what, "; ".join(filter(None, [fix, by_hand])), error)


def root(far: Host, said: readers.Answer, sound: bool) -> Probe:
    """Whose the root is. sound: our ledger can be read."""
    name, path, owner = f"root {far.config.root}", f"hosts.{far.name}.root", readers.root(said)
    if sound and owner and owner[0] != far.ledger:
        return fail(name, "another ledger owns it", f"two gateways need two roots: {path}", w.Damaged)
    if sound and owner and not far.holds(owner[1]):
        found = f"it was shown line {owner[1].seq} of this ledger, which is not here: a restored backup, or a cloned gateway"
        fix = "put a copy of the ledger back that has this line, or accept the loss: mqi-ledger rebuild --reason ..."
        return fail(name, found, fix, w.Damaged)
    if sound and owner is None and far.used:
        return fail(name, "it was ours and has no `ledger` file: a lost mount?",
                    "mount it there; if it is a new, empty folder on purpose: mqi-push --accept-empty", w.Unreachable)  # fmt: skip
    if notes := said.notes():
        return fail(name, notes, f"chown it to the account there, or correct {path}", w.Configuration)
    mode = (said.named("mode") or [("",)])[0][0]
    if owner and re.fullmatch("[0-7]+", mode) and int(mode, 8) & 0o077:
        return warn(name, f"others can look into it (mode {mode})", f"on {far.name}: chmod 700 {far.config.root}")
    return ok(name, "ours" if owner else "mqi-push makes it")


def queue(far: Host, said: readers.Answer, known: Mapping[str, w.Case] | None) -> Iterator[Probe]:
    """Its version, groups, tasks and locks. known: the ledger's cases."""
    for line in said.named("version"):
        daemons = [(one[0], one[1]) for one in said.named("daemon") if len(one) == 2]  # noqa: PLR2004  # version, command line
        yield compute.pueue(line[0], daemons, far.config.pueue)
    look = readers.look(said, far.config.engine, far.config.root)
    if look.trouble:
        fix = f"on {far.name}, `systemctl start pueued`, or as its account `pueued -d`"
        yield fail("queue", f"it does not answer: {look.trouble}", fix, w.Unreachable)
    else:
        yield ok("queue", f"{far.config.engine}, {len(look.tasks or ())} tasks")
        yield from compute.groups(look, far.config)
    pueue = far.config.engine == "pueue" and not look.trouble
    if known is not None:
        if pueue:
            yield from compute.tasks(look, said.named("queue")[0][0], known, far.config)
        yield from compute.locks(said.named("holds"), known, look.tasks if pueue else None, far.name)
