"""The variant without root: mqi-init --user under a real `systemd --user`, in namespaces of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, need

SESSION = r"""
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0
chmod 700 /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 XDG_CONFIG_HOME="$HOME/.config" XDG_DATA_HOME="$HOME/.local/share" XDG_STATE_HOME="$HOME/.local/state"
/lib/systemd/systemd --user >"$HOME/systemd.log" 2>&1 &
n=0
until systemctl --user is-system-running >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 100 ] || { cat "$HOME/systemd.log"; exit 1; }; sleep 0.1; done
init() { "$PYTHON" -m mqi_scripts mqi-init --user --yes "$@"; }
echo "== first"
init --answers "$HOME/answers.toml"
mkdir -p "$XDG_CONFIG_HOME/systemd/user/mqi-.timer.d"
printf '[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=1s\nRandomizedDelaySec=0\n' >"$XDG_CONFIG_HOME/systemd/user/mqi-.timer.d/fast.conf"
systemctl --user daemon-reload
systemctl --user restart mqi.target
echo "== second"
init
export MQI_CONFIG="$XDG_CONFIG_HOME/mqi/mqi.toml"
mkdir "$HOME/mqi/inbox/one"
echo plan >"$HOME/mqi/inbox/one/plan.txt"
n=0
until "$HOME/.local/bin/mqi-report" --jsonl 2>/dev/null | grep -q '"completed"'; do n=$((n + 1)); [ $n -lt 300 ] || { "$HOME/.local/bin/mqi-report"; exit 1; }; sleep 0.2; done
echo "== done: $(cat "$HOME/mqi/results/one/plan.out")"
systemctl --user list-units --failed --plain --no-legend
echo "== active: $(systemctl --user list-units --plain --no-legend 'mqi-*.timer' | wc -l)"
echo "== remove"
init --remove
echo "== active: $(systemctl --user list-units --plain --no-legend 'mqi-*.timer' 'mqi.target' | wc -l)"
find "$HOME" \( -type f -o -type l \) | sed "s|^$HOME/|left: |"
systemctl --user exit
"""


def test_a_user_s_systemd_carries_a_case_with_a_job_that_outlives_the_program_that_started_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("namespaces of its own need root")
    home = tmp_path / "someone"
    home.mkdir()
    (home / "answers.toml").write_text(
        f'[scan]\nquiet = "0s"\nprofile = "files"\n[job]\ncommand = "sleep 3; cp $MQI_INPUT/plan.txt plan.out"\nresults = ["*.out"]\n'
        f'[hosts.here]\ntransport = "local"\nengine = "direct"\nroot = "{home}/far"\n[site]\nname = "one user"\n'
    )
    env = {**{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MQI_"))}, "HOME": str(home),
           "PYTHON": sys.executable, "PYTHONPATH": str(REPO)}  # fmt: skip
    argv = [need("unshare"), "-m", "-p", "-f", "--mount-proc", "--kill-child", "/bin/sh", "-c", SESSION]
    ran = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    first, second = ran.stdout.split("== first")[1].split("== second")
    assert "mqi-check is content" in first
    assert "enable mqi.target" in first
    assert "loginctl enable-linger" in first
    assert "everything is as it should be: nothing was changed" in second
    assert "== done: plan\n" in ran.stdout
    assert [int(line.rpartition(" ")[2]) for line in ran.stdout.splitlines() if line.startswith("== active:")] == [10, 0]
    left = [line.removeprefix("left: ") for line in ran.stdout.splitlines() if line.startswith("left: ")]
    kept = (".config/mqi/", ".local/state/mqi/", ".local/state/mqi-backup/", "mqi/results/", "mqi/inbox/", "far/")
    assert {name for name in left if not name.startswith(kept)} == {"systemd.log", "answers.toml", ".config/systemd/user/mqi-.timer.d/fast.conf"}
