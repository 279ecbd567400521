"""A Debian machine that really boots: a root made once by debootstrap and kept, a layer over it for each test, systemd-nspawn.

The mirror is the one of this machine's own apt. What is written goes into the layer and is thrown away with it.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from conftest import REPO, need

BASE = "systemd,systemd-sysv,dbus,python3,git,ca-certificates"  # a fresh gateway: nothing but git and python3
FAR = ("openssh-server",)  # what a compute host has more
CACHE = Path(os.environ.get("MQI_TEST_CACHE") or os.path.join(os.environ.get("MQI_REAL_HOME") or os.path.expanduser("~"), ".cache/mqi-tests"))


def mirror() -> str:
    """The archive that this machine's apt takes its own base system from."""
    said = subprocess.run([need("apt-cache"), "policy", "base-files"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[1] for line in said.splitlines() if "://" in line)


def refused() -> str:
    """What a container that root is shut in says to a mount, a device and a control group; "" on a machine of our own."""
    text = "mount -t tmpfs none /mnt && mknod /mnt/null c 1 3 && [ -w /sys/fs/cgroup ] || { echo denied >&2; exit 1; }"
    ran = subprocess.run(["unshare", "-m", "-p", "-f", "/bin/sh", "-c", text], capture_output=True, text=True, timeout=60)
    return ran.stderr.strip() if ran.returncode else ""


def roots(far: bool) -> list[Path]:
    """The layers of a root, topmost first; built when they are not there."""
    if os.geteuid() != 0 or platform.system() != "Linux":
        pytest.skip("booting a machine needs root, on Linux")
    if said := refused():
        pytest.skip(f"no machine can be booted in here: {said}")
    CACHE.mkdir(parents=True, exist_ok=True)
    name = platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")
    base, more = CACHE / f"root-{name}-1", CACHE / f"root-{name}-far-1"
    with (CACHE / "root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            shutil.rmtree(f"{base}.new", ignore_errors=True)
            quiet(need("debootstrap"), "--variant=minbase", f"--include={BASE}", name, f"{base}.new", mirror())
            os.rename(f"{base}.new", base)
        if far and not more.exists():
            shutil.rmtree(f"{more}.new", ignore_errors=True)
            whole = Layered([base], Path(f"{more}.new"))
            try:
                env = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                shutil.copy("/etc/resolv.conf", whole.root / "etc/resolv.conf")
                quiet("chroot", str(whole.root), "apt-get", "install", "-qq", "-y", "--no-install-recommends", *FAR, env=env)
            finally:
                whole.close()
            os.rename(Path(f"{more}.new") / "layer", more)
            shutil.rmtree(f"{more}.new")
    return [more, base] if far else [base]


def quiet(*argv: str, env: Mapping[str, str] | None = None) -> None:
    ran = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=1800)
    assert ran.returncode == 0, f"{argv}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"


class Layered:
    """Folders as one, changes going into folder/layer."""

    def __init__(self, below: Sequence[Path], folder: Path) -> None:
        self.root = folder / "root"
        for name in ("layer", "work", "root"):
            (folder / name).mkdir(parents=True)
        options = f"lowerdir={':'.join(map(str, below))},upperdir={folder}/layer,workdir={folder}/work"
        quiet(need("mount"), "-t", "overlay", "overlay", "-o", options, str(self.root))

    def close(self) -> None:
        quiet(need("umount"), str(self.root))


class Machine:
    """A booted machine. network: that of this machine, else its own loopback alone."""

    def __init__(self, folder: Path, *, far: bool, network: bool, binds: Sequence[str] = ()) -> None:
        self.folder, self.layers = folder, Layered(roots(far), folder)
        self.root = self.layers.root
        self.argv = [need("systemd-nspawn"), "--quiet", "--register=no", "--keep-unit", "-D", str(self.root), "-b",
                     *([] if network else ["--private-network"]), *(f"--bind-ro={path}" for path in binds)]  # fmt: skip
        self.console = folder / "console"
        self.guard: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Power on, until it is up."""
        with self.console.open("ab") as console:
            self.guard = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
        self.wait_up()

    def leader(self) -> int:
        assert self.guard
        children = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def wait_up(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not self.leader() or self.sh("systemctl is-system-running").stdout.strip() not in ("running", "degraded"):
            assert self.guard
            assert self.guard.poll() is None, self.console.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, self.console.read_text(errors="replace")[-3000:]
            time.sleep(0.2)

    def sh(self, text: str, seconds: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        """A line of shell in there, as root."""
        return subprocess.run(self.enter("/bin/sh", "-c", text), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
                              env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", **env})  # fmt: skip

    def enter(self, *argv: str) -> list[str]:
        return [need("nsenter"), "-t", str(self.leader()), "-a", "--", "/usr/bin/env", "-C", "/root", *argv]

    def ok(self, text: str, seconds: float = 300, **env: str) -> str:
        ran = self.sh(text, seconds, **env)
        assert ran.returncode == 0, f"{text}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def reboot(self) -> None:
        """Down in order, and up again: systemd-nspawn ends with 133 and says so that it is to be started again."""
        assert self.guard
        self.sh("systemctl reboot")
        assert self.guard.wait(90) == 133
        self.boot()

    def stop(self) -> None:
        try:
            if self.guard and self.guard.poll() is None:
                if self.leader():
                    self.sh("systemctl poweroff")
                try:
                    self.guard.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(self.guard.pid, signal.SIGKILL)
                    self.guard.wait(10)
        finally:
            self.layers.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def checkout(to: Path) -> None:
    """What git has of this checkout."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (REPO / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, to / name)
