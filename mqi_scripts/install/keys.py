"""ssh's part: host keys, asked for and accepted by their fingerprint only, and the line for the compute host."""

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mqi_scripts.install import things
from mqi_scripts.world.config import HostConfig

KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")  # the first that a host has is the one that is kept
Shown = NamedTuple("Shown", [("kind", str), ("key", str), ("print", str)])  # a host's key and its fingerprint


def fingerprint(key: str) -> str:
    """As ssh-keygen -l shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(key)).digest()).decode().rstrip("=")


def unknown(hosts: Sequence[HostConfig]) -> list[HostConfig]:
    """Those whose key is not in their known_hosts yet."""
    return [host for host in hosts if host.transport == "ssh" and not host.ssh_config and not _is_known(host)]


def _is_known(host: HostConfig) -> bool:
    try:
        with open(host.known_hosts, encoding="utf-8", errors="replace") as file:
            return any(line.split(" ")[0] == f"mqi-{host.name}" for line in file)
    except FileNotFoundError:
        return False


def scan(host: HostConfig) -> list[Shown]:
    """The keys that it shows now, the preferred first; [] if it does not answer. They prove nothing by themselves."""
    name = host.address.rpartition("@")[2]
    ran = things.ask("ssh-keyscan", "-T", "10", "-p", str(host.port), "-t", "ed25519,ecdsa,rsa", "--", name, seconds=60)
    found = [line.split(" ")[1:3] for line in ran.out.decode("ascii", "replace").splitlines() if not line.startswith("#")]
    keys = [Shown(kind, key, fingerprint(key)) for kind, key in found if kind in KINDS]
    return sorted(keys, key=lambda one: KINDS.index(one.kind))


def accept(host: HostConfig, keys: Sequence[Shown], wanted: Sequence[str], ask: Callable[[str], str] | None) -> Shown | None:
    """The key whose fingerprint was given, or is typed (or confirmed) now; None if there is none."""
    given = [one for one in keys if one.print in wanted]
    if given or not ask:
        return given[0] if given else None
    said = ask("Is it the same there? Type `yes`, or the fingerprint that you read there; anything else leaves it unknown: ")
    return next((one for one in keys if said == one.print or (said == "yes" and one == keys[0])), None)


def remember(host: HostConfig, key: Shown) -> None:
    fd = os.open(host.known_hosts, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(f"mqi-{host.name} {key.kind} {key.key}\n")


def authorized(host: HostConfig) -> str:
    """The line for authorized_keys of the account there; "" if the key is not ours to show."""
    limits = "restrict"
    if host.gate:  # the words are plain characters, by the schema
        words = ["/usr/local/bin/mqi-remote", "--root", host.root, "--engine", host.engine]
        words += ["--pueue", host.pueue["command"]] if host.engine == "pueue" else ["--slots", str(host.direct["slots"])]
        words += ["--pueue-config", host.pueue["config"]] if host.engine == "pueue" and host.pueue["config"] else []
        limits += f',command="{" ".join(words)}"'
    try:
        with open(f"{host.identity}.pub", encoding="utf-8") as file:
            return f"{limits} {file.read().strip()}"
    except OSError:
        return ""
