"""What to do on the compute host, as text: mqi-init prints it and never runs it."""

import shlex
from collections.abc import Sequence

from mqi_scripts.world.config import HostConfig

CONFIG = "/etc/pueue/pueue.yml"
TEXT = """\
# On the compute host {name} ({address}), as root; read before you run. Nothing of ours is installed there: it needs a POSIX
# shell, coreutils, util-linux, sshd and pueue 3.4.1 or newer, 4.0.4 recommended, as /usr/local/bin/pueue and pueued.

# 1. the account, and the folder that is this gateway's alone
useradd --create-home --shell /bin/sh {user}
install -d -m 0700 -o {user} -g {user} {root}

# 2. the gateway's key, and nothing else of it
install -d -m 0700 -o {user} -g {user} ~{user}/.ssh
cat >>~{user}/.ssh/authorized_keys <<'END'
{key}
END
chown {user}: ~{user}/.ssh/authorized_keys
chmod 0600 ~{user}/.ssh/authorized_keys

# 3. the queue, as a service: its state on a file system with room, its pid file on tmpfs, no orphans when it dies
install -d -m 0755 /etc/pueue
cat >{config} <<'END'
shared:
  pueue_directory: /var/lib/pueue
  runtime_directory: /run/pueue
  unix_socket_path: /run/pueue/socket
  pid_path: /run/pueue/pid
  alias_file: /etc/pueue/aliases.yml
  use_unix_socket: true
client: {{}}
daemon: {{}}
END
cat >/etc/systemd/system/pueued.service <<'END'
[Unit]
Description=pueue, the queue of the GPUs
[Service]
User={user}
UMask=0077
RuntimeDirectory=pueue
StateDirectory=pueue
ExecStartPre=-/bin/cp -p /var/lib/pueue/state.json /var/lib/pueue/state.json.prev
ExecStart=/usr/local/bin/pueued -c {config}
Restart=on-failure
RestartSec=10
KillMode=control-group
OOMPolicy=continue
# when the daemon starts anew, pueue leaves every group paused that has a task waiting, until somebody says: pueue start -g gpu0.
# This would say it each time, and so end a pause that a person made, too:
#ExecStartPost=/usr/local/bin/pueue -c {config} start -g gpu0
TasksMax=infinity
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --now pueued.service

# 4. one group a GPU, one job at a time in each; `nvidia-smi -L` lists them
{groups}

# 5. the fingerprint of this host's key, to compare with what mqi-init shows on the gateway
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub

# then, in /etc/mqi/mqi.toml on the gateway:
#   [hosts.{name}]
#   address = "{address}"
#   root    = "{root}"
#   groups  = ["gpu*"]
#   [hosts.{name}.pueue]
#   command = "/usr/local/bin/pueue"
#   config  = "{config}"
#   [hosts.{name}.devices]
{devices}
"""


def text(host: HostConfig, key: str, gpus: int) -> str:
    """The commands for one compute host. key: the line for authorized_keys, "" before there is one."""
    names: Sequence[str] = [f"gpu{number}" for number in range(gpus)]
    user = host.address.rpartition("@")[0] or "mqi"
    pueue = f"runuser -u {user} -- /usr/local/bin/pueue -c {CONFIG}"
    add = [f"until {pueue} status >/dev/null; do sleep 1; done", *(f"{pueue} group add {name} -p 1" for name in names)]
    return TEXT.format(
        name=host.name, address=host.address, user=shlex.quote(user), root=host.root, config=CONFIG, groups="\n".join(add),
        key=key or "(mqi-init on the gateway makes the key and shows its line)",
        devices="\n".join(f'#   {name} = ["{number}"]' for number, name in enumerate(names)),
    )  # fmt: skip
