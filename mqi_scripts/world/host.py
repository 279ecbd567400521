"""The far side behind one face: each method is one session, whatever the number of cases.

Transport ssh or local, files by scp or tar, engine pueue or direct: the far side runs mqi-remote over stdin.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mqi_scripts.pure import codec, readers
from mqi_scripts.words import Configuration, Damaged, Disk, Failure, Head, Look, Unreachable
from mqi_scripts.world.config import HostConfig, Job, Site
from mqi_scripts.world.files import write_whole
from mqi_scripts.world.ledger import Ledger

FAR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "far")
TROUBLE = (  # what ssh, scp and sh say, and what it means for a person
    ("Host key verification failed", "its host key is not the known one: ALARM, somebody may pose as it; compare fingerprints"),
    ("Permission denied (", "it refused our key: put it back in authorized_keys there (mqi-check shows the line)"),
    ("Connection refused", "it refused the connection: start sshd there, at its own console (systemctl start ssh)"),
    ("timed out", "no answer within the time limit"),
    ("Could not resolve", "its name cannot be resolved"),
    ("No space left", "its disk is full: make room there"),
    ("mqi-remote: ", "its gate refused it, or it has none (docs/compute-host.md)"),
)
REFUSED = ("Host key verification failed", "Permission denied (", "mqi-remote: ")  # the same knock would be refused again

# a session that carries words, not files, is cut off after 12 s without a sign of life, also while keys are exchanged
ALERT = ("-o", "ServerAliveInterval=4", "-o", "ServerAliveCountMax=2")
NOBODY = Head(0, "")  # for the verbs that change nothing there

# What a host has of inputs: published keys, sizes of staged files by key, the root's owner, free bytes (-1: unknown).
Staged = NamedTuple("Staged", [
    ("published", frozenset[str]), ("staged", dict[str, dict[str, int]]), ("root", tuple[str, Head] | None), ("room", int),
])  # fmt: skip
# One attempt to make and add.
Add = NamedTuple("Add", [("key", str), ("attempt", int), ("digest", str), ("group", str), ("slots", int)])


class Host:
    """A compute host. ledger: our ledger's id. used: this ledger has used the root before. answers: a session was answered."""

    seen: dict[str, tuple[Look, str]] = {}  # the newest look of this process, and the root's head then, by host
    sharing = False  # mqi-tick: the line in one process

    def __init__(self, config: HostConfig, state: str, ledger: str, used: bool, holds: Callable[[Head], bool]) -> None:
        self.config, self.name, self.state = config, config.name, state
        self.ledger, self.used, self.holds = ledger, used, holds
        self.shown, self.answers = "-" if used else "new", False
        self.room = -1  # free bytes there, once a session has told
        self.gate = config.gate and config.transport == "ssh"
        self.scp = config.transfer == "scp" and config.transport == "ssh" and not config.gate

    def look(self, wanted: Iterable[tuple[str, int]]) -> Look:
        """Of these attempts, and of the queue. sharing: the newest look of this process will do if it has them all."""
        wanted, (last, shown) = [*wanted], self.seen.get(self.name, (None, "")) if self.sharing else (None, "")
        if not last or not all(f"mqi1:{key}:{attempt}" in last.traces for key, attempt in wanted):
            return self._looked(self.session("look", _words(wanted), NOBODY))
        self.shown = shown
        return last

    def stage(self, wanted: Iterable[tuple[str, str]], head: Head) -> Staged:
        """Which inputs are there; makes a root that was never used. Leaves the head there."""
        said = self.session("stage", _words(wanted), head)
        staged: dict[str, dict[str, int]] = {}
        for key, size, name in said.named("staged"):
            staged.setdefault(key, {})[name] = int(size)
        return Staged(frozenset(key for key, _ in said.named("published")), staged, readers.root(said), readers.room(said))

    def publish(self, wanted: Iterable[tuple[str, str]], head: Head) -> tuple[set[str], dict[str, str]]:
        """Verify, flush, rename: keys that are published, and why others are not."""
        said = self.session("publish", _words(wanted), head)
        return {key for key, _ in said.named("published")}, {key: why for key, why in said.named("wrong")}

    def submit(
        self, job: Job, revoke: Sequence[tuple[str, int]], adds: Sequence[Add], look: Iterable[tuple[str, int]], head: Head
    ) -> Look:
        """Revoke those, add these once each, then look."""
        text, of = _far("mqi-job.sh"), self.config.devices
        rows = [*(("revoke", *one) for one in revoke), *(("add", *add, " ".join(of.get(add.group, ())) or "-") for add in adds)]
        words = [codec.sha256(text.encode())[:16], "" if self.gate else text.rstrip(), job.command, job.version_command,
                 int(job.time_limit), *_words([*rows, ("look",), *look])]  # fmt: skip
        return self._looked(self.session("submit", words, head))

    def end(self, reason: str, grace: int, wanted: Iterable[tuple[str, int]], head: Head) -> None:
        self.seen.pop(self.name, None)
        self.session("end", [reason, grace, *_words(wanted)], head)

    def results(self, most: int, patterns: Sequence[str], job: Job, wanted: Iterable[tuple[str, int]]) -> dict[str, str]:
        """Make the matching results ready for `bring`, with what the job's markers say of the logs: of the first that make so many
        megabytes, at least of one; why some are not."""
        lists = ["\n".join(words) for words in (patterns, job.failure_markers, job.success_markers)]
        said = self.session("results", [most, *lists, *_words(wanted)], NOBODY)
        return {key: why for key, why in said.named("wrong")}

    # files: a pipe of two tars, or scp; what they say of themselves is no evidence, both sides verify

    def send(self, folder: str, on_tick: Callable[[int], object] | None = None) -> None:
        """The folder's content into the root's staging."""
        target = f"{self.config.root}/staging"
        if self.scp:
            parts = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
            self._copy(self._scp(*parts, f"{self._alias()}:{target}/"), on_tick)
        else:
            unpack = self.reach("mqi-remote send" if self.gate else f"exec tar -xf - --no-same-owner -C {target}")
            self._copy(_argv("sh", "-c", 'tar -cf - -C "$0" . | "$@"', folder, *unpack), on_tick)

    def bring(self, folder: str, on_tick: Callable[[int], object] | None = None) -> None:
        """What `results` made ready, into the fresh folder; names there are ours: <key>-<attempt>/<number>."""
        source = f"{self.config.root}/outgoing"
        if self.scp:
            os.rmdir(folder)  # scp -r makes it, so that it does not nest
            self._copy(self._scp(f"{self._alias()}:{source}", folder), on_tick)
        else:
            unpack = '"$@" | tar -xf - --no-same-owner --no-same-permissions -C "$0"'
            pack = self.reach("mqi-remote bring" if self.gate else f"exec tar -cf - -C {source} .")
            self._copy(_argv("sh", "-c", unpack, folder, *pack), on_tick)

    def _copy(self, argv: Sequence[str], on_tick: Callable[[int], object] | None = None) -> None:
        from mqi_scripts.world.run import run  # noqa: PLC0415  # subprocess and its kin

        ran = run(argv, seconds=self.config.timeout, on_tick=on_tick)
        if ran.code or ran.ended:
            raise self._trouble(ran.err, ran.ended or "the copy broke off")

    # sessions

    def session(self, verb: str, words: Sequence[object], head: Head, *, judged: bool = True) -> readers.Answer:
        """Run one verb of mqi-remote there. Raises Unreachable, Damaged (not our root) or Disk; else all was said."""
        from mqi_scripts.world.run import run  # noqa: PLC0415

        nonce, at, queue = os.urandom(8).hex(), [self.config.root, self.config.engine], self.config.pueue
        words = [self.ledger, self.shown, f"{head.seq} {head.digest}", verb, *words]
        if self.gate:
            command = f"mqi-remote {verb}"
            text = _wire(nonce, codec.sha256(program().encode()), *at, *words, nonce)
        else:
            command, first = "exec /bin/sh -s", [nonce, *at, queue["command"], queue["config"], self.config.direct["slots"]]
            text = f'{_far("mqi-remote.sh")}\nset -- {shlex.join(map(str, [*first, *words]))}\nmain "$@"\n'
        ran = run(self.reach(command, *ALERT), seconds=self.config.timeout, stdin=text.encode(), about=words[3:])
        try:
            said = readers.answer(ran.out, nonce)
        except readers.Unreadable as error:
            raise self._trouble(ran.err, ran.ended or str(error)) from None
        self.answers = True
        self.room = readers.room(said) if said.named("room") else self.room
        if judged and (failure := self._judge(said, verb)):
            raise failure.of(self.name)
        return said

    def _judge(self, said: readers.Answer, verb: str) -> Failure | None:
        """Whether the root is ours and where we left it: a lost mount, a cloned gateway and an old backup are refused. Raises
        Unreachable where another script of ours was in the way: that is no fault of the host."""
        owner, where = readers.root(said), f"{self.name}:{self.config.root}"
        if owner and owner[0] != self.ledger:
            return Damaged(f"{where} belongs to another ledger ({owner[0]}): two gateways need two roots (hosts.{self.name}.root)")
        if owner and not self.holds(owner[1]):
            return Damaged(
                f"{where} was shown line {owner[1].seq} of this ledger, which is not here: a restored backup or a cloned "
                "gateway, or a repaired ledger. Nothing is done there; put a copy of the ledger back that has this line, or accept "
                "the loss: mqi-ledger rebuild --reason ..."
            )
        if owner is None and self.used:
            return Unreachable(
                f"{where} has no `ledger` file although this ledger has used it: a lost mount? Nothing was done. Mount it; if "
                "it is a new, empty folder on purpose: mqi-push --accept-empty"
            )
        if owner:
            self.shown = f"{owner[0]} {owner[1].seq} {owner[1].digest}"
        if said.code == Disk.code:
            return Disk(f"{where}: {verb} could not write there: {said.notes() or 'disk full?'}: make room there (df -h, df -i)")
        if said.code == Damaged.code:
            raise Unreachable(f"{where}: another script of this gateway was there meanwhile; the next run looks again")
        what = f"{verb} ended with {said.code}: {said.notes() or 'it said nothing'}"
        return Unreachable(f"{where}: {what}. See: mqi-check") if said.code else None

    def _looked(self, said: readers.Answer) -> Look:
        look = readers.look(said, self.config.engine, self.config.root)
        self.seen[self.name] = look, self.shown
        return look

    def _trouble(self, said: bytes, what: str) -> Failure:
        err = said.decode("utf-8", "replace")
        last = readers.show(err).strip().rpartition("\n")[2][:300]
        means = next((text for word, text in TROUBLE if word in err), what)
        kind = Disk if "No space left" in err else Configuration if "mqi-remote: " in err else Unreachable
        who = f"{self.name} ({self.config.address or 'this machine'})"
        category = Configuration.category if any(word in err for word in REFUSED) else kind.category
        return kind(f"{who}: {means}. It said: {last.rstrip('.') or '(nothing)'}. See: mqi-check").of(self.name, category)

    def reach(self, command: str, *options: str) -> Sequence[str]:
        """The argument list that runs a command line of ours (a path of ours in it, nothing else) on the host."""
        if self.config.transport == "local":
            return _argv("sh", "-c", command)
        return _argv("ssh", "-F", self._options(), *options, "--", self._alias(), command)

    def _scp(self, *paths: str) -> Sequence[str]:
        return _argv("scp", "-F", self._options(), "-r", "-q", "--", *paths)

    def _alias(self) -> str:
        return self.config.address if self.config.ssh_config else f"mqi-{self.name}"

    def _options(self) -> str:
        """The path of our own ssh_config, or of the site's."""
        if self.config.ssh_config:
            return self.config.ssh_config
        user, _, name = self.config.address.rpartition("@")
        known = self.config.known_hosts or "/etc/mqi/known_hosts"
        text = _far("ssh_config").format(alias=self._alias(), name=name, port=self.config.port, known=known)
        text += f"  User {user}\n" if user else ""
        text += f"  IdentityFile {self.config.identity}\n" if self.config.identity else ""
        path = os.path.join(self.state, "cache", f"ssh-{self.name}")
        write_whole(path, text.encode(), flush=False)
        return path


def hosts(site: Site, book: Ledger, *, fresh: bool = False) -> list[Host]:
    """The site's hosts. fresh: a root without its mark is taken for a new one."""
    state = book.state()
    return [Host(h, site.state, state.id, state.roots.get(h.name) == h.root and not fresh, book.holds) for h in site.hosts]


def program() -> str:
    """mqi-remote as it is installed behind a gate: the job's wrapper is inside, and its last line opens the gate."""
    return f"{_far('mqi-remote.sh')}\ninstalled_wrapper() {{ cat <<'MQI-JOB'\n{_far('mqi-job.sh')}MQI-JOB\n}}\ngate \"$@\"\n"


def _wire(*words: object) -> str:
    """Words as a gate takes them: a blank between two, and each byte of one that is no plain character as \\0ooo."""
    return " ".join(re.sub(rb"[^!-[\]-~]", lambda byte: rb"\0%03o" % ord(byte[0]), str(word).encode()).decode() for word in words)


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
        raise Configuration(f"{program} is not installed here (ssh, scp: apt install openssh-client)") from None
