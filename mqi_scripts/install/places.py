"""Where everything of ours lies on a gateway: for the whole system, for one user, or all of it below a folder."""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

# programs: the folder whose `current` points to the version in use. manager: the words that reach systemd. share: what is
# generated for people. user: without root, by systemd --user. prefix: "" or the folder that all of it is below.
Places = NamedTuple("Places", [
    ("etc", str), ("units", str), ("bin", str), ("share", str), ("programs", str), ("inbox", str), ("results", str), ("state", str),
    ("backup", str), ("manager", tuple[str, ...]), ("user", bool), ("prefix", str),
])  # fmt: skip


def places(prefix: str, user: bool, environ: Mapping[str, str]) -> Places:
    if user:
        home = prefix or environ["HOME"]
        settings = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        share = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
        state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
        return Places(
            f"{settings}/mqi", f"{settings}/systemd/user", f"{home}/.local/bin", share, f"{home}/.local/lib/mqi",
            f"{home}/mqi/inbox", f"{home}/mqi/results", f"{state}/mqi", f"{state}/mqi-backup",
            ("systemctl", "--user"), True, prefix,
        )  # fmt: skip
    return Places(
        f"{prefix}/etc/mqi", f"{prefix}/etc/systemd/system", f"{prefix}/usr/local/bin", f"{prefix}/usr/local/share",
        f"{prefix}/opt/mqi", f"{prefix}/srv/mqi/inbox", f"{prefix}/srv/mqi/results", f"{prefix}/var/lib/mqi",
        f"{prefix}/var/backups/mqi",
        ("systemctl", f"--root={prefix}") if prefix else ("systemctl",), False, prefix,
    )  # fmt: skip


def runs(where: Places) -> bool:
    """Whether the systemd that would start our timers runs here and now."""
    own = os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), "systemd", "private")
    return not where.prefix and os.path.exists(own if where.user else "/run/systemd/system")


def running() -> str:
    """The folder of the programs of this very version."""
    return os.path.realpath(os.path.dirname(sys.executable))
