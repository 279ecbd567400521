"""A relay in front of the pueue client: what a queue's answers can be, and what can happen while they are on their way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from conftest import Pueued


class Relay:
    """On demand it loses a question or its reply, kills who asked, asks another daemon, stops its own, starts a task, or says nonsense."""

    def __init__(self, queue: Pueued) -> None:
        self.mode, self.command = queue.folder / "mode", queue.folder / "pueue"
        self.set("")
        (queue.folder / "daemon").write_text(str(queue.daemon.pid if queue.daemon else 0))
        self.command.write_text(f"""#!/bin/sh
mode=$(cat {self.mode})
die() {{ # the whole remote session, as when the network does
  : >{self.mode}
  up=$PPID
  while read -r line </proc/$up/stat && set -- ${{line##*) }} && [ "$2" -gt 1 ]; do
    case $(tr '\\0' ' ' </proc/$up/cmdline) in *"sh -s"*) all="$up $all" ;; esac
    up=$2
  done
  kill -9 $all
  exit 1
}}
case "$mode $*" in
lost*" add "*) # the task is added, and nobody hears of it
  {queue.command} "$@" >/dev/null
  die ;;
cut*" add "* | cut*" remove "*) die ;; # the task is not added, or not taken away
start*" remove "*) # the task that shall go starts, and ends, in this very moment
  : >{self.mode}
  for id; do :; done
  {queue.command} -c {queue.config} start "$id"
  {queue.command} -c {queue.config} wait -q "$id"
  {queue.command} -c {queue.config} status --json >{queue.folder}/seen ;;
kill*" add "*) # the task is added; then the script dies on the gateway, which is this machine
  {queue.command} "$@" >/dev/null
  : >{self.mode}
  until [ -s {queue.folder}/victim ]; do sleep 0.02; done
  kill -9 "$(cat {queue.folder}/victim)"
  exit 1 ;;
empty*status*) : >{self.mode}; exec {queue.command} -c {queue.folder}/other/c.yml status --json ;;
stop*" add "*) : >{self.mode}; kill -STOP "$(cat {queue.folder}/daemon)" ;;
say*status*) cat {queue.folder}/says; exit ;;
gigabyte*status*) head -c 1000000000 /dev/zero | tr '\\0' x; exit ;;
esac
exec {queue.command} "$@"
""")
        self.command.chmod(0o755)

    def set(self, mode: str, says: str = "") -> None:
        (self.mode.parent / "says").write_text(says)
        self.mode.write_text(mode)

    @contextmanager
    def another(self) -> Iterator[None]:
        """Another daemon beside the queue's, with the same groups and no tasks: who `empty` asks."""
        (self.mode.parent / "other").mkdir()
        other = Pueued(self.mode.parent / "other")
        other.start()
        try:
            other.groups(gpu0=1, gpu1=1)
            yield
        finally:
            other.stop()
