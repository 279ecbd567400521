"""A fresh Debian with nothing but git and python3: the README's section on installation, word by word, by a script that types the
answers; it ends with mqi-check content and a case computed by timers. The compute host is a real sshd and pueued on loopback.

With `tests/run --boot`, or where CI=true.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, Pueued, Sshd
from machine import Machine, checkout
from test_boot import FAST
from test_init import print_of, talk
from test_readme import README

from mqi_scripts.demo.make_case import make_case

pytestmark = pytest.mark.boot
INSTALL = README[README.index("## Install it on the gateway") : README.index("## Use it")]
FIRST, AGAIN = re.findall(r"```sh\n(.*?)```", INSTALL, re.S)[:2]


def test_the_readme_installs_on_a_fresh_root(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    certificates = [path for path in ("/etc/ssl/certs", os.environ.get("PIP_FIND_LINKS", "")) if path and Path(path).is_dir()]
    machine = Machine(tmp_path / "machine", far=False, network=True, binds=certificates)
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    try:
        checkout(machine.root / "root/mqi")
        machine.boot()
        assert machine.sh("command -v ssh || command -v pip3").stdout == ""
        answers = [("site's name", "\n"), ("cases arrive", "\n"), ("results shall", "\n"), ("ledger", "\n"), ("What a case is", "\n"),
                   ("compute host gpu1", f"{getpass.getuser()}@127.0.0.1\n"), ("port of its sshd", f"{sshd.port}\n"), ("alone", f"{tmp_path}/far\n"),
                   ("program pueue", f"{pueued.command}\n"), ("configuration file there", f"{pueued.config}\n"),
                   ("groups are the GPUs'", "\n"),
                   ("computes a case", f'PYTHONPATH={REPO} {sys.executable} -m mqi_scripts.demo.compute "$MQI_INPUT" .\n'),
                   ("come back", "\n"), ("each treatment beam", "\n"), ("Do it?", "\n"),
                   ("Is it the same there?", f"{print_of(sshd)}\n")]  # fmt: skip
        inside = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", **env}
        words = [f"{name}={value}" for name, value in inside.items()]
        shell = ["/usr/bin/env", "-i", *words, "/bin/sh", "-euc"]
        code, said = talk(machine.enter(*shell, f"cd /root/mqi\n{FIRST}"), answers, 400)
        assert code == 69, said  # the line for authorized_keys is still to be put there
        line = re.search(r"^restrict ssh-ed25519 \S+ \S+", said, re.M)
        assert line
        with (sshd.folder / "authorized_keys").open("a") as file:
            file.write(f"{line[0]}\n")
        time.sleep(40)  # as long as a person takes for that: each timer has fired once, which mqi-check wants to see
        code, said = talk(machine.enter(*shell, AGAIN), [])
        assert code == 0, said
        assert "nothing was changed" in said
        assert "mqi-check is content\r\n" in said
        assert {line.split()[0] for line in said[said.index("ok    configuration") :].splitlines() if line[:1] != " "} <= {"ok", "mqi-check"}, said
        machine.ok("sed -i 's/^#quiet = .*/quiet = \"0s\"/' /etc/mqi/mqi.toml && mkdir /etc/systemd/system/mqi-.timer.d")  # no quarter of an hour
        (machine.root / "etc/systemd/system/mqi-.timer.d/fast.conf").write_text(FAST)
        machine.ok("systemctl daemon-reload && systemctl restart mqi.target")
        make_case(machine.root / "srv/mqi/inbox")
        deadline = time.monotonic() + 120
        while '"completed"' not in (row := machine.sh("runuser -u mqi -- mqi-report --jsonl").stdout):
            assert time.monotonic() < deadline, row + machine.sh("journalctl -n 60 --no-pager").stdout
            time.sleep(0.5)
        assert len(machine.ok("ls /srv/mqi/results/*/Dose").split()) == 3
        assert json.loads(row)["attempt"] == 1
        assert machine.ok("man -w mqi-scan mqi.toml 2>/dev/null || ls /usr/local/share/man/man1/mqi-scan.1")
    finally:
        machine.stop()
