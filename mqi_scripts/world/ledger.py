"""The ledger: JSON lines, one writer at a time, every line chained to the one before; state is its fold.

Files: ledger-<year>.jsonl (the chain goes on across years; older ones may be compressed: .gz), ledger.lock (never deleted),
ledger.torn.<n> (set aside), cache/fold and the cache/closed.<n> that it names (what the fold gave: open cases, and closed ones,
which are read and written only where they matter; deletable). docs/ledger.md is the format.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mqi_scripts import words as w
from mqi_scripts.pure import codec
from mqi_scripts.pure.evolve import evolve, streak
from mqi_scripts.world import lock
from mqi_scripts.world.files import sync, write_whole

FOLD = 6  # goes up when the meaning of the cached fold changes
BEHIND = 1000  # lines that a reader folds before it, too, keeps the fold


# The fold of the ledger up to byte `size` of `file`, whose line there ends with `end`. roots: those that this ledger has used,
# by host. runs: start and end of the last ones that succeeded, by host/group. turn: how many attempts were ever intended. failed:
# keys of the cases that failed in a row, by host/group.
State = NamedTuple("State", [
    ("id", str), ("head", w.Head), ("file", str), ("size", int), ("end", str), ("roots", dict[str, str]),
    ("open", dict[str, w.Case]), ("runs", dict[str, list[list[str]]]), ("turn", int), ("failed", dict[str, Sequence[str]]),
])  # fmt: skip


def nothing() -> State:
    return State("", codec.START, "", 0, "", {}, {}, {}, 0, {})


class Ledger:
    """The ledger of a state folder. `by` says in each line who wrote it. refused: what could not follow any more."""

    def __init__(self, folder: str, by: Mapping[str, Any], say: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.by, self.say = folder, by, say
        self.refused: list[w.Illegal] = []
        self._state: State | None = None
        self._closed: dict[str, w.Case] | None = None  # None: still in the cache, unread
        self._closed_in = ""  # the file of the cache that has them as they are now, if one has

    def state(self) -> State:
        """The fold of all that is acknowledged. Raises Damaged where the chain breaks."""
        with lock.held(self._path("ledger.lock"), 30, shared=True):
            state = self._catch_up()
            if state.head.seq - self._kept > BEHIND:
                self._keep(state)
            return state

    _kept = 0  # the seq that the cache on the disk stands at

    def closed(self) -> dict[str, w.Case]:
        """Completed and cancelled cases by key."""
        self.state()
        return self._load_closed()

    def case(self, key: str) -> w.Case | None:
        """The case of that key; closed ones are read only if it is not open."""
        return self.state().open.get(key) or self.closed().get(key)

    def cases(self) -> dict[str, w.Case]:
        return {**self.closed(), **self.state().open}

    def readable(self) -> tuple[dict[str, w.Case], w.Head]:
        """The cases of a damaged ledger, as far as the last call of state() came, and the line it came to."""
        state = self._state or nothing()
        with suppress(w.Damaged):
            self._load_closed()
        return {**(self._closed or {}), **state.open}, state.head

    def seen(self) -> w.Head:
        """The line that the cached fold came to: the ledger has it, unless it was damaged since."""
        return self._load().head

    def files(self) -> list[str]:
        """Those of the years, oldest first, under their plain names."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted({n.removesuffix(".gz") for n in names if n.startswith("ledger-") and n.endswith((".jsonl", ".jsonl.gz"))})

    def texts(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Lines of a year's file, plain or compressed, from an offset on. Raises Damaged where it cannot be unpacked."""
        path = self._path(name)
        try:
            file: Any = open(path, "rb")  # noqa: SIM115  # closed below
        except FileNotFoundError:  # not asked for before: it may be compressed at any moment
            import gzip  # noqa: PLC0415

            file = gzip.open(f"{path}.gz")  # noqa: SIM115
        with file:
            try:
                file.seek(offset)
                yield from file
            except (EOFError, zlib.error, OSError) as error:
                if getattr(error, "errno", None):
                    raise
                raise w.Damaged(f"{path}.gz cannot be unpacked: {error}. See: mqi-ledger repair --dry-run") from None

    def records(self) -> Iterator[tuple[dict[str, Any], w.Head]]:
        """Every record in order, streamed and checked. Raises Damaged at the first bad one."""
        head = codec.START
        for name in self.files():
            for record, head, _ in self._lines(name, 0, head):  # noqa: B020  # it was read before
                yield record, head

    def holds(self, head: w.Head) -> bool:
        """Whether the line with that digest is in this ledger."""
        return head == self.state().head or self._has(head.digest)

    def _has(self, digest: str) -> bool:
        end = f'"sha256":"{digest}"}}\n'.encode()
        return any(text.endswith(end) for name in reversed(self.files()) for text in self.texts(name))

    def append(self, events: Sequence[w.Event], now: str) -> list[w.Event]:
        """Store what can follow, fsynced, and return it; what cannot (the world moved) lands in `refused`.

        One lock: catch up, evolve, one write, count compared, fsync. A new ledger gets its first line, even for no events.
        Raises Damaged, Busy or Disk.
        """
        if not events and self.state().id:
            return []
        # it catches up before it sets anything aside, too: a line that was told is not torn, it is damaged
        with lock.held(self._path("ledger.lock"), 30):
            self._set_torn_aside(self._catch_up())
            state = self._catch_up()
            stored, lines, head = list[w.Event](), list[bytes](), state.head
            name = max(f"ledger-{now[:4]}.jsonl", state.file)  # a file may have any name: behind the last
            self._state = None  # until the lines are on the disk nothing of it is true
            first = state.id or any(isinstance(event, w.Opened) for event in events)  # a lost ledger goes on under its id
            opening: list[w.Event] = [] if first else [w.Opened("", now, os.urandom(8).hex())]
            for event in [*opening, *events]:
                try:
                    line, after = codec.line(event, head, self.by)
                    state = self._fold(state, event)
                except w.Illegal as error:
                    self.refused.append(error)
                    continue
                head = after
                lines.append(line)
                stored.append(event)
            if lines:
                size = _write(self._path(name), b"".join(lines), state.size if name == state.file else 0)
                state = state._replace(head=head, file=name, size=size, end=lines[-1].rpartition(b'"sha256":"')[2].decode())
                self._keep(state)
            self._state = state
            return stored[len(opening) :]

    def _lines(self, name: str, offset: int, head: w.Head) -> Iterator[tuple[dict[str, Any], w.Head, int]]:
        """Lines of one file from offset on: record, head, offset behind it. A torn tail is not there."""
        for text in self.texts(name, offset):
            if not text.endswith(b"\n"):
                return
            try:
                record, head = codec.read_line(text[:-1], head)
            except w.Damaged as error:
                raise w.Damaged(
                    f"{self._path(name)}: line {head.seq + 1} of the ledger, at byte {offset}: {error}. Nothing is written "
                    "until it is mended; no result is touched. What that would do: mqi-ledger repair --dry-run"
                ) from None
            offset += len(text)
            yield record, head, offset

    def _catch_up(self) -> State:
        """The fold of what is there now. The caller holds the lock, shared or not."""
        self._state = state = self._state or self._load()
        files, last = self.files(), self.texts(state.file, state.size - len(state.end))
        if state.file and (state.file not in files or next(last, b"") != state.end.encode()):
            if not self._has(state.head.digest):
                raise w.Damaged(
                    f"{self._path(state.file)} does not have line {state.head.seq} any more: its tail is cut or overwritten, "
                    "or it is an older copy. Nothing is written until it is mended. See: mqi-ledger verify; if it is a restored "
                    "backup: mqi-ledger rebuild --reason ..."
                )
            self._state, self._closed, self._closed_in = nothing(), {}, ""  # a file was renamed or divided: it is told anew
            state = self._state
        for name in files[files.index(state.file) if state.file else 0 :]:
            for record, head, size in self._lines(name, state.size if name == state.file else 0, state.head):
                try:
                    state = self._fold(state, codec.from_dict(record))
                    self._state = state = state._replace(head=head, file=name, size=size, end=f'{record["sha256"]}"}}\n')
                except (KeyError, TypeError, ValueError, w.Illegal) as error:
                    raise w.Damaged(f"line {head.seq} of the ledger tells what cannot be: {type(error).__name__} {error}") from None
        return state

    def _fold(self, state: State, event: w.Event) -> State:
        if isinstance(event, w.Opened):
            return state._replace(id=event.id)
        if isinstance(event, w.Rooted):
            state.roots[event.host] = event.root
        elif isinstance(event, w.Reopened):
            state.failed.pop(f"{event.host}/{event.group}", None)
        elif not isinstance(event, w.Repaired | w.Lost):
            old = state.open.get(event.case) or self._load_closed().get(event.case)
            case = evolve(old, event)
            if not old or (old.status in w.CLOSED) != (case.status in w.CLOSED):
                for cases in (state.open, self._load_closed()):
                    cases.pop(case.key, None)
            (self._load_closed() if case.status in w.CLOSED else state.open)[case.key] = case
            if case.status in w.CLOSED or (old and old.status in w.CLOSED):
                self._closed_in = ""
            group = f"{(old or case).host}/{(old or case).group}"  # of its last attempt
            if row := streak(state.failed.pop(group, ()), case, event):
                state.failed[group] = row
            if isinstance(event, w.Succeeded):
                runs = state.runs.setdefault(group, [])
                runs[:] = [*runs[-14:], [event.started, event.ended]]  # enough for a median
            return state._replace(turn=state.turn + isinstance(event, w.Submitting))
        return state

    def _load(self) -> State:
        """The cached fold, else nothing folded yet."""
        self._closed, self._closed_in = {}, ""
        try:
            with open(self._path("cache", "fold"), "rb") as file:
                kept = _checked(file.read())
            self._cache = open(self._path("cache", kept["closed"]), "rb")  # noqa: SIM115  # stays open: others put one in its place
            head = w.Head(*kept["head"])
            state = State(**{name: kept[name] for name in State._fields} | {"head": head, "open": _cases(kept)})
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return nothing()
        self._kept, self._closed, self._closed_in = head.seq, None, kept["closed"]
        return state

    def _load_closed(self) -> dict[str, w.Case]:
        if self._closed is None:
            try:
                self._closed = _cases(_checked(self._cache.read()))
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                raise w.Damaged(f"{self._path('cache', 'fold')} is damaged: delete it, nothing is lost, and run it again") from None
        return self._closed

    def _keep(self, state: State) -> None:
        """Write the fold beside the ledger, which does not need it: a full disk stops nobody here."""
        name = self._closed_in or f"closed.{state.head.seq}"
        kept = state._asdict() | {"open": 0, "closed": name}
        parts = [("fold", kept, state.open)] if self._closed_in else [(name, {}, self._load_closed()), ("fold", kept, state.open)]
        with suppress(w.Disk, FileNotFoundError):
            for file, part, cases in parts:
                body = json.dumps(part | {"cases": [*cases.values()], "fold": FOLD}, separators=(",", ":")).encode() + b"\n"
                write_whole(self._path("cache", file), b"%d %b" % (zlib.crc32(body), body), flush=False)
            for old in () if self._closed_in else os.listdir(self._path("cache")):
                if old.startswith("closed.") and old != name:
                    os.unlink(self._path("cache", old))
            self._closed_in = name
        self._kept = state.head.seq

    def _set_torn_aside(self, state: State) -> None:
        """What follows the last line was never acknowledged: finish it if only its newline is lacking, else keep it beside."""
        for name in self.files()[-1:]:
            if not os.path.exists(self._path(name)):
                raise w.Damaged(f"{self._path(name)}.gz: the newest file is written to, it must be plain: gunzip it")
            with open(self._path(name), "rb+") as file:
                good = file.seek(state.size if name == state.file else 0)
                torn = file.read()
                if torn and codec.is_whole(torn):
                    file.write(b"\n")
                elif torn:
                    count = sum(n.startswith("ledger.torn.") for n in os.listdir(self.folder))
                    write_whole(self._path(f"ledger.torn.{count + 1}"), torn)
                    file.truncate(good)
                    os.fsync(file.fileno())
                    self.say(f"the ledger's last line was torn, never acknowledged: set aside as ledger.torn.{count + 1}")

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)


def _checked(line: bytes) -> dict[str, Any]:
    """A line of the cached fold, which begins with its checksum."""
    check, _, body = line.partition(b" ")
    kept: dict[str, Any] = json.loads(body)
    if zlib.crc32(body) != int(check) or kept["fold"] != FOLD:
        raise ValueError("not a fold of this version")
    return kept


def _cases(kept: dict[str, Any]) -> dict[str, w.Case]:
    return {values[0]: codec.case_from_list(values) for values in kept["cases"]}


def _write(path: str, text: bytes, good: int) -> int:
    """One write behind the good length, fsynced; whatever goes wrong, the file is at that length again. The new length."""
    fresh = not os.path.exists(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.write(fd, text) != len(text):
            raise OSError("the disk took only a part of it")
        os.fsync(fd)
        if fresh:
            sync(os.path.dirname(path))
    except OSError as error:
        os.ftruncate(fd, good)
        raise w.Disk(f"{path}: {error}. Nothing was recorded: make room there (df -h, df -i) and run it again") from error
    finally:
        os.close(fd)
    return good + len(text)
