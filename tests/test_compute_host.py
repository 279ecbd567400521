"""docs/compute-host.md, block by block: account, queue, unit, key and gate, its paths below a temporary folder, its host on loopback."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import JOB, REPO, Place, Sshd, host_text, need

PAGE = (REPO / "docs" / "compute-host.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", PAGE, re.M | re.S)


def blocks(kind: str) -> list[str]:
    return [body for one, body in BLOCKS if one == kind]


class There(NamedTuple):
    """The compute host of the page: its paths below a short folder, its account this one."""

    folder: Path
    sshd: Sshd

    def here(self, text: str) -> str:
        for place in ("/usr/local/bin/mqi-remote", "/etc/pueue", "/etc/systemd/system", "/etc/ssh", "/var/lib/pueue", "/run/pueue", "/data/mqi", "/home/mqi"):
            text = re.sub(rf"(?<![\w/]){place}(?!\w)", f"{self.folder}{place}", text)
        programs = {f"/usr/local/bin/{name}": need(name) for name in ("pueued", "pueue")}
        ssh = f"ssh -F /dev/null -i {self.sshd.identity} -p {self.sshd.port} -o UserKnownHostsFile={self.sshd.know(f'[127.0.0.1]:{self.sshd.port}')}"
        for old, new in [*programs.items(), ("ssh root@192.0.2.5", f"{ssh} {getpass.getuser()}@127.0.0.1"), ("192.0.2.1", "127.0.0.1"), ("sudo -u mqi ", ""),
                         ("-o mqi -g mqi", ""), ("systemctl daemon-reload\n", ""), ("systemctl enable --now", f"systemctl --root={self.folder} enable"),
                         ("useradd ", ("" if os.geteuid() == 0 else "sudo -n ") + f"useradd --prefix {self.folder} ")]:  # fmt: skip
            text = text.replace(old, new)
        return text

    def run(self, text: str) -> str:
        ran = subprocess.run(["/bin/bash", "-euo", "pipefail", "-c", self.here(text)], capture_output=True, text=True, timeout=120,
                             env={**os.environ, "PATH": f"{REPO / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"})  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture
def there(sshd: Sshd) -> Iterator[There]:
    folder = Path(tempfile.mkdtemp(prefix="mqi-h-", dir="/tmp"))
    for name in ("etc/pueue", "etc/systemd/system", "etc/ssh", "var/lib/pueue", "run/pueue", "usr/local/bin", "home", "data"):
        (folder / name).mkdir(parents=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        (folder / "etc" / name).touch()
    yield There(folder, sshd)
    shutil.rmtree(folder)


@pytest.fixture
def queue(there: There) -> Iterator[There]:
    """The page's queue, started by the unit's own lines, with its groups."""
    (there.folder / "etc/pueue/pueue.yml").write_text(there.here(blocks("yaml")[0]))
    unit = there.here(blocks("ini")[0])
    (there.folder / "etc/systemd/system/pueued.service").write_text(unit)
    start = re.search(r"^ExecStart=(.*)$", unit, re.M)
    after = re.search(r"^ExecStartPost=(.*)$", unit, re.M)
    assert start
    assert after
    daemon = subprocess.Popen(start[1].split(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        subprocess.run(["/bin/sh", "-c", after[1]], timeout=30, check=True)
        there.run(blocks("sh")[1])
        yield there
    finally:
        daemon.terminate()
        daemon.wait(20)


def test_the_account_and_its_folder_are_made(there: There) -> None:
    there.run(blocks("sh")[0])
    assert re.search(r"^mqi:.*:/bin/sh$", (there.folder / "etc/passwd").read_text(), re.M)
    assert (there.folder / "data/mqi").stat().st_mode & 0o777 == 0o700


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = blocks("ini")[0].replace("/usr/local/bin/pueued", "/bin/true").replace("User=mqi\n", "")
    (tmp_path / "pueued.service").write_text(unit)
    ran = subprocess.run([need("systemd-analyze"), "verify", str(tmp_path / "pueued.service")], capture_output=True, text=True)
    assert (ran.stdout + ran.stderr, ran.returncode) == ("", 0)


def test_the_keys_of_the_account_are_root_s(there: There) -> None:
    config = there.folder / "sshd_config"
    config.write_text(f"HostKey {there.sshd.folder}/host_key\n{blocks('sshd')[0]}")
    said = {}
    for user in ("mqi", "other"):
        argv = [need("sshd"), "-T", "-f", str(config), "-C", f"user={user},host=x,addr=192.0.2.1"]
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        said[user] = re.findall(r"^authorizedkeysfile (.*)$", text, re.M)
    assert said["mqi"] == ["/etc/ssh/authorized_keys.d/%u"]
    assert said["other"] != said["mqi"]


@pytest.mark.parametrize("gated", [False, True])
def test_a_case_is_computed_by_the_page_s_queue_with_the_page_s_key(gated: bool, queue: There, tmp_path: Path) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", queue.sshd, None), f'{JOB}; echo "$CUDA_VISIBLE_DEVICES" >device.out')
    key = tmp_path / "key"
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    line = queue.here(blocks("authorized_keys")[gated]).replace("ssh-ed25519 AAAA mqi", " ".join(key.with_suffix(".pub").read_text().split()[:2]))
    line = line.replace(" --pueue-config", f" --pueue {need('pueue')} --pueue-config")  # where it lies on this machine
    with (queue.sshd.folder / "authorized_keys").open("a") as file:
        file.write(line)
    of_page = queue.here(blocks("toml")[0]).partition("[hosts.gpu1.pueue]")[2].replace("hosts.gpu1", "hosts.far")
    text = place.config.read_text().replace(queue.sshd.identity, str(key)).replace(f'"{place.root}"', f'"{queue.folder}/data/mqi"')
    if gated:
        text = text.replace('identity = "', 'gate = true\nidentity = "')
        queue.run(blocks("sh")[2])
    place.config.write_text(f"{text}\n[hosts.far.pueue]\ncommand = \"{need('pueue')}\"\n{of_page}".replace('transport = "ssh"', 'transport = "ssh"\ngroups = ["gpu*"]'))
    checked = place("mqi-check")
    assert checked.code == 1, checked.out  # it warns of scan.quiet, and of nothing else
    assert [line for line in checked.out.splitlines() if line.startswith(("warn", "FAIL"))] == [checked.out.splitlines()[0]]
    assert "far: groups: gpu0 (1), gpu1 (1)" in checked.out
    assert ("through its gate" in checked.out) == gated
    place.case("a")
    group = place.until("completed")["a"]["pueue_group"]
    assert (place.results / "a" / "device.out").read_text().strip() == group.removeprefix("gpu")


def test_every_option_of_the_gate_and_no_other_stands_in_the_page() -> None:
    program = (REPO / "mqi_scripts" / "far" / "mqi-remote.sh").read_text()
    options = set(re.findall(r"^ +(?:--\S+\) [^;]*;; )*?(--[a-z-]+)\)", program, re.M)) | set(re.findall(r";; (--[a-z-]+)\)", program))
    assert options == set(re.findall(r"^\| `(--[a-z-]+) ", PAGE, re.M))
    assert len(options) == 6
    verbs = set(re.findall(r"'mqi-remote ([a-z]+)'", program))
    assert f"knows {['', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven'][len(verbs)]} verbs" in PAGE
