"""The far side behind one face: each method is one session, whatever the number of cases.

Transport ssh or local, files by scp or tar, engine pueue or direct: the far side runs mqi-remote over stdin.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from mqi_scripts.pure import readers
from mqi_scripts.words import Configuration, Damaged, Disk, Head, Look, Unreachable
from mqi_scripts.world.config import HostConfig, Job
from mqi_scripts.world.ledger import write_whole
from mqi_scripts.world.run import Ran, run

FAR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "far")
OPTIONS = """Host {alias}
  HostName {name}
  HostKeyAlias {alias}
  Port {port}
  IdentitiesOnly yes
  IdentityAgent none
  BatchMode yes
  PreferredAuthentications publickey
  StrictHostKeyChecking yes
  UserKnownHostsFile {known}
  GlobalKnownHostsFile /dev/null
  UpdateHostKeys no
  ConnectTimeout 10
  ConnectionAttempts 1
  ServerAliveInterval 15
  ServerAliveCountMax 4
  ControlMaster no
  ControlPath none
  ForwardAgent no
  ForwardX11 no
  ClearAllForwardings yes
  PermitLocalCommand no
  RequestTTY no
  EscapeChar none
  LogLevel ERROR
"""  # reference: ssh-files-systemd.md, section 3
TROUBLE = (  # what ssh, scp and sh say, and what it means for a person
    ("Host key verification failed", "its host key is not the known one: ALARM, somebody may pose as it; compare fingerprints"),
    ("Permission denied", "it refused our key: is it in authorized_keys there, and is the account unlocked?"),
    ("Connection refused", "it refused the connection: is sshd running there?"),
    ("timed out", "no answer within the time limit"),
    ("Could not resolve", "its name cannot be resolved"),
    ("No space left", "its disk is full: make room there"),
)


class Staged(NamedTuple):
    """What a host has of inputs: published keys, sizes of staged files by key, the root's owner, free bytes (-1: unknown)."""

    published: frozenset[str]
    staged: dict[str, dict[str, int]]
    root: tuple[str, Head] | None
    room: int


class Add(NamedTuple):
    key: str
    attempt: int
    digest: str
    group: str
    slots: int


class Host:
    """A compute host. ledger: our ledger's id. used: this ledger has used the root before."""

    def __init__(self, config: HostConfig, state: str, ledger: str, used: bool, holds: Callable[[Head], bool]) -> None:
        self.config, self.name, self.state = config, config.name, state
        self.ledger, self.used, self.holds = ledger, used, holds
        self.shown = "-" if used else "new"

    def look(self, wanted: Iterable[tuple[str, int]]) -> Look:
        return self._looked(self._session("look", _words(wanted), Head(0, "")))

    def stage(self, wanted: Iterable[tuple[str, str]], head: Head) -> Staged:
        """Which inputs are there; makes a root that was never used. Leaves the head there."""
        said = self._session("stage", _words(wanted), head)
        staged: dict[str, dict[str, int]] = {}
        for key, size, name in said.named("staged"):
            staged.setdefault(key, {})[name] = int(size)
        space = said.named("room")[:1]
        free = int(space[0][0]) * 1024 if space and space[0][0].isdigit() else -1
        return Staged(frozenset(key for key, _ in said.named("published")), staged, readers.root(said), free)

    def publish(self, wanted: Iterable[tuple[str, str]], head: Head) -> tuple[set[str], dict[str, str]]:
        """Verify, flush, rename: keys that are published, and why others are not."""
        said = self._session("publish", _words(wanted), head)
        return {key for key, _ in said.named("published")}, {key: why for key, why in said.named("wrong")}

    def submit(
        self, job: Job, revoke: Iterable[tuple[str, int]], adds: Sequence[Add], look: Iterable[tuple[str, int]], head: Head
    ) -> Look:
        """Revoke those, add these once each, then look."""
        text = _far("mqi-job.sh")
        out = list(revoke)
        devices = self.config.devices
        tasks = [(*add, " ".join(devices.get(add.group, ())) or "-") for add in adds]
        words = [sha256(text.encode()).hexdigest()[:16], text, job.command, job.version_command,
                 str(int(job.time_limit)), str(len(out)), *_words(out), str(len(tasks)), *_words(tasks), *_words(look)]  # fmt: skip
        return self._looked(self._session("submit", words, head))

    def end(self, reason: str, grace: int, wanted: Iterable[tuple[str, int]], head: Head) -> None:
        self._session("end", [reason, str(grace), *_words(wanted)], head)

    def results(self, patterns: Sequence[str], wanted: Iterable[tuple[str, int]]) -> dict[str, str]:
        """Make the matching results ready for `bring`; why some are not."""
        said = self._session("results", ["\n".join(patterns), *_words(wanted)], Head(0, ""))
        return {key: why for key, why in said.named("wrong")}

    def check(self) -> readers.Answer:
        return self._session("check", [], Head(0, ""), judged=False)

    # files

    def send(self, folder: str, progress: Callable[[], None] | None = None) -> None:
        """The folder's content into the root's staging."""
        target = f"{self.config.root}/staging"
        if self.config.transport == "local":
            self._moved(run(_argv("cp", "-RT", "--", folder, target), seconds=self.config.timeout, on_tick=progress))
        elif self.config.transfer == "tar":
            spool = f"{folder}.tar"
            with open(os.open(spool, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as tar:
                packed = run(_argv("tar", "-cf", "-", "-C", folder, "."), seconds=self.config.timeout, stdout=tar.fileno())
                self._moved(packed)
                os.lseek(tar.fileno(), 0, os.SEEK_SET)
                unpack = self._ssh(f"exec tar -xf - --no-same-owner -C {target}")
                self._moved(run(unpack, seconds=self.config.timeout, stdin=tar.fileno(), on_tick=progress))
            os.unlink(spool)
        else:
            parts = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
            self._moved(run(self._scp(*parts, f"{self._alias()}:{target}/"), seconds=self.config.timeout, on_tick=progress))

    def bring(self, folder: str, progress: Callable[[], None] | None = None) -> None:
        """What `results` made ready, into the fresh folder; names there are ours: <key>-<attempt>/<number>."""
        source = f"{self.config.root}/outgoing"
        if self.config.transport == "local":
            self._moved(run(_argv("cp", "-RT", "--", source, folder), seconds=self.config.timeout, on_tick=progress))
        elif self.config.transfer == "tar":
            import tarfile  # noqa: PLC0415

            spool = f"{folder}.tar"
            with open(os.open(spool, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as tar:
                pack = self._ssh(f"exec tar -cf - -C {source} .")
                self._moved(run(pack, seconds=self.config.timeout, stdout=tar.fileno(), on_tick=progress))
                tar.seek(0)
                with tarfile.open(fileobj=tar, mode="r:") as archive:
                    good = [m for m in archive if m.isreg() and re.fullmatch(r"\./[0-9a-f]+-\d+/[0-9a-z]+", m.name)]
                    archive.extractall(folder, good, filter="data")
            os.unlink(spool)
        else:
            os.rmdir(folder)  # scp -r makes it, so that it does not nest
            self._moved(run(self._scp(f"{self._alias()}:{source}", folder), seconds=self.config.timeout, on_tick=progress))

    def _moved(self, ran: Ran) -> None:
        if ran.code or ran.ended:
            raise self._trouble(ran, "the copy broke off")

    # sessions

    def _session(self, verb: str, words: Sequence[str], head: Head, *, judged: bool = True) -> readers.Answer:
        """Run one verb of mqi-remote there. Raises Unreachable, Damaged (not our root) or Disk; else all was said."""
        nonce = os.urandom(8).hex()
        queue = self.config.pueue
        first = [nonce, self.config.root, self.config.engine, queue["command"], queue["config"], str(self.config.direct["slots"]),
                 self.ledger, self.shown, f"{head.seq} {head.digest}", verb]  # fmt: skip
        text = f'{_far("mqi-remote.sh")}\nset -- {shlex.join([*first, *words])}\nmain "$@"\n'
        argv = _argv("/bin/sh", "-s") if self.config.transport == "local" else self._ssh("exec /bin/sh -s")
        ran = run(argv, seconds=self.config.timeout, stdin=text.encode())
        try:
            said = readers.answer(ran.out, nonce)
        except readers.Unreadable as error:
            raise self._trouble(ran, str(error)) from None
        if judged:
            self._judge(said, verb)
        return said

    def _judge(self, said: readers.Answer, verb: str) -> None:
        """Whether the root is ours and where we left it: a lost mount, a cloned gateway and an old backup are refused."""
        owner = readers.root(said)
        where = f"{self.name}:{self.config.root}"
        if owner and owner[0] != self.ledger:
            raise Damaged(f"{where} belongs to another ledger ({owner[0]}): two gateways need two roots (hosts.{self.name}.root)")
        if owner and not self.holds(owner[1]):
            raise Damaged(
                f"{where} was shown line {owner[1].seq} of this ledger, which is not here: a restored backup or a cloned "
                "gateway. See: mqi-ledger verify"
            )
        if owner is None and self.used:
            raise Unreachable(
                f"{where} has no `ledger` file although this ledger has used it: a lost mount? Nothing was done. Mount it; if "
                "it is a new, empty folder on purpose: mqi-push --accept-empty-root"
            )
        if owner:
            self.shown = f"{owner[0]} {owner[1].seq} {owner[1].digest}"
        if said.code == Disk.code:
            raise Disk(f"{where}: {verb} could not write there: {said.notes() or 'disk full?'}: make room there (df -h, df -i)")
        if said.code == Damaged.code:
            raise Unreachable(f"{where}: another script of this gateway was there meanwhile; the next run looks again")
        if said.code:
            raise Unreachable(f"{where}: {verb} ended with {said.code}: {said.notes() or 'it said nothing'}. See: mqi-check")

    def _looked(self, said: readers.Answer) -> Look:
        seen = readers.look(said, self.config.engine, self.config.root)
        return seen._replace(notes=tuple(" ".join(line) for line in (*said.named("note"), *said.named("gone"))))

    def _trouble(self, ran: Ran, what: str) -> Unreachable | Disk:
        err = ran.err.decode("utf-8", "replace")
        last = next((line for line in reversed(readers.show(err).split("\n")) if line.strip()), "")[:300]
        means = next((text for word, text in TROUBLE if word in err), ran.ended or what)
        kind = Disk if "No space left" in err else Unreachable
        who = f"{self.name} ({self.config.address or 'this machine'})"
        return kind(f"{who}: {means}. It said: {last or '(nothing)'}. See: mqi-check")

    def _ssh(self, command: str) -> Sequence[str]:
        return _argv("ssh", "-F", self._options(), "--", self._alias(), command)

    def _scp(self, *paths: str) -> Sequence[str]:
        return _argv("scp", "-F", self._options(), "-r", "-q", "--", *paths)

    def _alias(self) -> str:
        return self.config.address if self.config.ssh_config else f"mqi-{self.name}"

    def _options(self) -> str:
        """Our own ssh_config, nothing of the user's."""
        if self.config.ssh_config:
            return self.config.ssh_config
        user, _, name = self.config.address.rpartition("@")
        known = self.config.known_hosts or "/etc/mqi/known_hosts"
        text = OPTIONS.format(alias=self._alias(), name=name, port=self.config.port, known=known)
        text += f"  User {user}\n" if user else ""
        text += f"  IdentityFile {self.config.identity}\n" if self.config.identity else ""
        path = os.path.join(self.state, "cache", f"ssh-{self.name}")
        try:
            with open(path, encoding="utf-8") as file:
                same = file.read() == text
        except OSError:
            same = False
        if not same:
            write_whole(path, text.encode())
        return path


def _words(rows: Iterable[Iterable[object]]) -> list[str]:
    return [str(word) for row in rows for word in row]


def _far(name: str) -> str:
    with open(os.path.join(FAR, name), encoding="ascii") as file:
        return file.read()


def _argv(program: str, *words: str) -> Sequence[str]:
    """The argument tuple, built by plumbum; it is the bounded runner that runs it."""
    from plumbum import CommandNotFound, local  # noqa: PLC0415

    try:
        return [str(word) for word in local[program].bound_command(*words).formulate()]
    except CommandNotFound:
        raise Configuration(f"{program} is not installed here: apt install {PACKAGES.get(program, program)}") from None


PACKAGES = {"ssh": "openssh-client", "scp": "openssh-client"}
