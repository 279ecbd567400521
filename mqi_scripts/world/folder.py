"""Folders of strangers: walked by descriptors, regular files only, nothing followed; read, hashed, copied."""

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple
from zlib import adler32, crc32

from mqi_scripts.words import Damaged, Disk, Reason, Unreachable
from mqi_scripts.world.config import Site

NAME = rb"[A-Za-z0-9_][A-Za-z0-9 ._:+=@,()-]*"
LONGEST = 200  # bytes of a name
READ = 1 << 20
KINDS = ((stat.S_ISLNK, "symlink"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"), (stat.S_ISDIR, "folder"))


class Folder(NamedTuple):
    """What is in a folder. sizes: of the files that belong to it, by name. sign: changes whenever a name, size, mtime or
    ctime of anything in there does. newest: the newest mtime. reasons: why it cannot be carried."""

    sizes: dict[str, int]
    sign: str
    newest: float
    reasons: tuple[Reason, ...]


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in ignore)


def candidates(top: str, pattern: str, ignore: Sequence[str]) -> list[str]:
    """Paths below top that match the pattern part by part, like a shell's; folders, and links that are not to files."""
    found = {"": True}
    for part in pattern.strip("/").split("/"):
        paths, found = [path for path, real in found.items() if real], {}
        for path in paths:
            with os.scandir(os.path.join(top, path)) as entries:
                for entry in entries:
                    hidden = entry.name.startswith(".") and not part.startswith(".")
                    poses = not os.path.isfile(entry.path) if entry.is_symlink() else entry.is_dir()
                    if fnmatchcase(entry.name, part) and not hidden and not is_ignored(entry.name, ignore) and poses:
                        found[os.path.join(path, entry.name)] = not entry.is_symlink()
    return sorted(found)


@contextmanager
def opened(path: str, above: int | None = None) -> Iterator[int]:
    """The folder's descriptor; a link is not followed (OSError)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        yield fd
    finally:
        os.close(fd)


def look_at(site: Site, case: str, only: Collection[str] = ()) -> Folder:
    """Walk a case's folder in the inbox, or only what these names at its top hold. Raises OSError where it cannot be read."""
    path, limits = os.path.join(site.inbox, case), site.scan
    ignore = [*limits.ignore, *filter(None, [limits.ready_marker])]
    if os.path.islink(path):
        return Folder({}, "link", 0, (Reason("symlink", "", "the case folder is a symlink"),))
    sizes: dict[str, int] = {}
    reasons: list[Reason] = []
    seen: list[str] = []
    newest = 0.0
    with opened(path) as top:
        for name, info, kept in _walk(top, "", ignore, limits.max_depth):
            if only and name.partition("/")[0] not in only:
                continue
            seen.append(f"{name}\0{info.st_size}\0{info.st_mtime_ns}\0{info.st_ctime_ns}\0{info.st_mode}\0{info.st_nlink}")
            newest = max(newest, info.st_mtime)
            if kept and (fault := _fault(name, info, limits.max_depth)):
                reasons.append(fault)
            elif kept:
                sizes[name] = info.st_size
            if len(seen) > limits.max_files:
                reasons.append(Reason("too many", "", f"more than {limits.max_files} files (scan.max_files)"))
                break
    if sum(sizes.values()) > limits.max_bytes:
        reasons.append(Reason("too large", "", f"more than {limits.max_bytes} bytes (scan.max_bytes)"))
    text = "\n".join(sorted(seen)).encode("utf-8", "surrogateescape")
    sign = f"{crc32(text):08x}{adler32(text):08x}{len(text):x}"  # of chance, not of malice: the content's digest is sha256
    return Folder(sizes, sign, newest, tuple(reasons[:20]))


def _walk(fd: int, above: str, ignore: Sequence[str], deep: int) -> Iterator[tuple[str, os.stat_result, bool]]:
    """(name, stat, whether it belongs to the case) of every file, and of folders that are too deep."""
    with os.scandir(fd) as entries:
        for entry in entries:
            name, info = above + entry.name, entry.stat(follow_symlinks=False)
            kept = not is_ignored(entry.name, ignore)
            if stat.S_ISDIR(info.st_mode) and deep > 1 and kept and not _fault(name, info, 1 << 10, folder=True):
                with opened(entry.name, fd) as below:
                    yield from _walk(below, name + "/", ignore, deep - 1)
            else:
                yield name, info, kept


def _fault(name: str, info: os.stat_result, deepest: int, *, folder: bool = False) -> Reason | None:
    last = os.fsencode(name.rpartition("/")[2])
    place = name.encode("utf-8", "backslashreplace").decode()
    if not re.fullmatch(NAME, last) or len(last) > LONGEST:
        return Reason("name", place, f"the name {place!a} has characters that may not travel, or over {LONGEST} bytes")
    if folder or stat.S_ISREG(info.st_mode):
        if not folder and info.st_nlink > 1:
            return Reason("hard link", place, f"{place} is a hard link to a file elsewhere")
        return None
    if stat.S_ISDIR(info.st_mode):
        return Reason("too deep", place, f"{place} lies deeper than {deepest} folders (scan.max_depth)")
    kind = next((word for test, word in KINDS if test(info.st_mode)), "device")
    return Reason(kind, place, f"{place} is a {kind}, not a regular file")


def read(top: int, name: str, target: str = "") -> str:
    """sha256 of a file below the descriptor top, copied to target as it is read. Raises Unreachable if it is not there as a
    regular file, and Disk or OSError where target cannot be written."""
    from hashlib import sha256  # noqa: PLC0415

    *folders, last = name.split("/")
    try:
        with ExitStack() as above:
            for part in folders:
                top = above.enter_context(opened(part, top))
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
    except OSError as error:
        raise Unreachable(f"{name} cannot be read any more: {error.strerror}; the next run looks again") from None
    digest = sha256()
    with open(fd, "rb", buffering=0) as source:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unreachable(f"{name} is no regular file any more; the next run looks again")
        with open(target or os.devnull, "xb" if target else "wb", buffering=0) as copy:
            while chunk := source.read(READ):
                digest.update(chunk)
                if target and copy.write(chunk) != len(chunk):
                    raise Disk(f"the disk is full: {target!r}: make room there and run it again")
    return digest.hexdigest()


def free(path: str) -> tuple[int, int]:
    """Free bytes and inodes for us at path."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize, info.f_favail if info.f_files else 1 << 30


def check_room(host: str, path: str, left: int, reserve: int, what: str) -> None:
    """Raises Disk where less than the reserve would be left, in bytes. host: "" here."""
    if left < reserve:
        where, key = (f"{host}:{path}", f"hosts.{host}.reserve") if host else (path, "site.reserve")
        helps = f"make room: mqi-clean; how full: on {host}, `df -h {path}`" if host else f"make room; how full: `df -h {path}`"
        raise Disk(f"{where}: no room for {what}: {left / 1e9:.2f} GB would be left, {key} keeps {reserve / 1e9:.2f}: {helps}")


def manifest_file(state: str, key: str, digest: str) -> str:
    return os.path.join(state, "manifests", f"{key}-{digest}")


def manifest_of(state: str, key: str, digest: str) -> dict[str, str]:
    """Sums by name. Raises Damaged if the file beside the ledger is not the one that the ledger names."""
    from mqi_scripts.pure import codec, readers  # noqa: PLC0415

    path = manifest_file(state, key, digest)
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}: delete {state}/cache/scan, then mqi-scan makes it anew") from None
    if codec.sha256(text) != digest:
        raise Damaged(f"{path} was changed: delete it and {state}/cache/scan, then mqi-scan makes it anew")
    return readers.manifest(text.decode("utf-8"))
