"""What to do on the compute host, as text: mqi-init prints it and never runs it."""

import shlex
from collections.abc import Sequence

from mqi_scripts.world.config import HostConfig

CONFIG = "/etc/pueue/pueue.yml"
TEXT = """\
# On the compute host {name} ({address}), as root; read before you run. docs/compute-host.md tells why each. It needs a POSIX
# shell, coreutils, util-linux, sshd and pueue 3.4.1 or newer, 4.0.4 recommended, as /usr/local/bin/pueue and pueued.

# 1. the account, and the folder that is this gateway's alone
useradd --system --user-group --create-home --home-dir /home/{user} --shell /bin/sh --password '*' {user}
install -d -m 0700 -o {user} -g {user} {root}

# 2. the gateway's key, and nothing else of it
install -d -m 0700 -o {user} -g {user} /home/{user}/.ssh
cat >>/home/{user}/.ssh/authorized_keys <<'END'
{key}
END
chown {user}: /home/{user}/.ssh/authorized_keys
chmod 0600 /home/{user}/.ssh/authorized_keys
{gate}
# 3. the queue, as a service
install -d -m 0755 /etc/pueue
cat >{config} <<'END'
shared:
  pueue_directory: /var/lib/pueue
  runtime_directory: /run/pueue
  unix_socket_path: /run/pueue/socket
  pid_path: /run/pueue/pid
  use_unix_socket: true
client: {{}}
daemon: {{}}
END
cat >/etc/systemd/system/pueued.service <<'END'
[Unit]
Description=pueue, the queue of the GPUs
[Service]
User={user}
# the queue's state holds environments
UMask=0077
# on tmpfs, so that no stale pid file keeps the daemon from starting
RuntimeDirectory=pueue
RuntimeDirectoryMode=0700
# a disk that is full here ends all jobs: watch its free space
StateDirectory=pueue
StateDirectoryMode=0700
ExecStartPre=-/bin/cp -p /var/lib/pueue/state.json /var/lib/pueue/state.json.prev
ExecStart=/usr/local/bin/pueued -c /etc/pueue/pueue.yml
# started is when it answers
ExecStartPost=/bin/sh -c 'until /usr/local/bin/pueue -c /etc/pueue/pueue.yml status >/dev/null 2>&1; do sleep 0.1; done'
TimeoutStartSec=30
Restart=on-failure
RestartSec=10
# no orphans on the GPUs when the daemon dies, and one job's lack of memory stops no other
KillMode=control-group
OOMPolicy=continue
TasksMax=infinity
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --now pueued.service

# 4. one group a GPU, one job at a time in each; `nvidia-smi -L` lists them. When the daemon starts anew, pueue leaves a group
# paused that has a task waiting, until somebody says `pueue start -g`; the gateway's report says so.
{groups}

# 5. the fingerprint of this host's key, to compare with what mqi-init shows on the gateway
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub

# Then, on the gateway: mqi-init. Its questions have the paths above as defaults. For CUDA_VISIBLE_DEVICES, in /etc/mqi/mqi.toml:
#   [hosts.{name}.devices]
{devices}
"""
GATE = """
# the one program that the key opens; after an upgrade of the gateway again: on the gateway,
#   mqi-check --far | ssh root@{name} 'install -m 0755 /dev/stdin /usr/local/bin/mqi-remote'
"""


def text(host: HostConfig, key: str, gpus: int) -> str:
    """The commands for one compute host. key: the line for authorized_keys, "" before there is one."""
    names: Sequence[str] = [f"gpu{number}" for number in range(gpus)]
    user = host.address.rpartition("@")[0] or "mqi"
    add = [f"runuser -u {user} -- /usr/local/bin/pueue -c {CONFIG} group add {name} -p 1" for name in names]
    return TEXT.format(
        name=host.name, address=host.address, user=shlex.quote(user), root=host.root, config=CONFIG, groups="\n".join(add),
        gate=GATE.format(name=host.address.rpartition("@")[2]) if host.gate else "",
        key=key or "(mqi-init on the gateway makes the key and shows its line)",
        devices="\n".join(f'#   {name} = ["{number}"]' for number, name in enumerate(names)),
    )  # fmt: skip
