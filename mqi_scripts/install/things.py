"""What mqi-init makes, as values: each can be compared with what is there, made, and found again to be taken away.

Comparing changes nothing and says in a few words what there is to do; "" means that all is as it should be.
"""

import os
import pwd
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from glob import iglob
from typing import NamedTuple

from mqi_scripts.install.places import Places
from mqi_scripts.words import Configuration
from mqi_scripts.world.run import Ran, run

MARK = "made by mqi-init"  # at the top of each file that is ours to replace and to remove

# owner "": whoever runs mqi-init. A folder that is strict gets its mode and owner back; the site's own are left as they are.
Account = NamedTuple("Account", [("name", str), ("home", str)])
Folder = NamedTuple("Folder", [("path", str), ("mode", int), ("owner", str), ("strict", bool)])
# replaced when it differs; made once, then the site's
File = NamedTuple("File", [("path", str), ("text", str)])
Settings = NamedTuple("Settings", [("path", str), ("text", str)])
Link = NamedTuple("Link", [("path", str), ("target", str)])
Gone = NamedTuple("Gone", [("path", str)])  # of an older version of ours
Key = NamedTuple("Key", [("path", str), ("owner", str)])
Timers = NamedTuple("Timers", [("manager", tuple[str, ...]), ("units", tuple[str, ...]), ("start", bool)])
Thing = Account | Folder | File | Settings | Link | Gone | Key | Timers


def ask(*argv: str, seconds: float = 60) -> Ran:
    """What a program of the system says; it ends on its own or at its limit."""
    try:
        return run(argv, seconds=seconds)
    except FileNotFoundError:
        raise Configuration(f"{argv[0]} is not installed here") from None


def do(*argv: str, seconds: float = 60) -> str:
    """Its stdout. Raises Configuration with what it said if it failed."""
    ran = ask(*argv, seconds=seconds)
    if ran.code or ran.ended:
        raise Configuration(f"{' '.join(argv)}: {ran.err.decode(errors='replace').strip()[-500:] or ran.ended or ran.code}")
    return ran.out.decode(errors="replace")


def difference(thing: Thing) -> str:  # noqa: PLR0911  # one answer for each kind
    match thing:
        case Account(name):
            return "" if _uid(name) is not None else f"make the account {name}"
        case Folder(path, mode, owner, strict):
            if not os.path.isdir(path):
                return f"make the folder {path} ({mode:04o}{', ' if owner else ''}{owner})"
            info = os.stat(path)
            wrong = info.st_mode & 0o7777 != mode or (owner and info.st_uid != _uid(owner))
            return f"give {path} back its mode and owner ({mode:04o}{', ' if owner else ''}{owner})" if strict and wrong else ""
        case File(path, text):
            if not os.path.lexists(path):
                return f"write {path}"
            with open(path, encoding="utf-8", errors="replace") as file:
                old = file.read()
            if not is_marked(path):
                raise Configuration(f"{path} is there and not ours: move it away, then run mqi-init again")
            return "" if old == text else f"change {path}"
        case Settings(path, _):
            return "" if os.path.exists(path) else f"write {path}"
        case Link(path, target):
            if os.path.lexists(path) and not os.path.islink(path):
                raise Configuration(f"{path} is there and no link of ours: move it away, then run mqi-init again")
            return "" if os.path.islink(path) and os.readlink(path) == target else f"link {path} to {target}"
        case Gone(path):
            return f"remove {path}, which this version has no more"
        case Key(path, _):
            return "" if os.path.exists(path) else f"make the key {path}"
        case Timers(manager, units, start):
            off = [unit for unit in units if ask(*manager, "is-enabled", unit).out.decode().strip() != "enabled"]
            idle = start and ask(*manager, "is-active", "mqi.target").code
            return f"enable {' '.join(off)}" if off else "start mqi.target" if idle else ""


def make(thing: Thing) -> None:
    """Only what `difference` found missing or other. Raises Configuration or OSError."""
    match thing:
        case Account(name, home):
            do("useradd", "--system", "--user-group", "--home-dir", home, "--shell", "/usr/sbin/nologin", name)
        case Folder(path, mode, owner, _):
            os.makedirs(path, 0o755, exist_ok=True)
            os.chmod(path, mode)
            own(path, owner)
        case File(path, text) | Settings(path, text):
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            with open(f"{path}.new", "w", encoding="utf-8", opener=_open) as file:
                file.write(text)
            os.rename(f"{path}.new", path)
        case Link(path, target):
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            with suppress(FileNotFoundError):
                os.unlink(f"{path}.new")
            os.symlink(target, f"{path}.new")
            os.rename(f"{path}.new", path)
        case Gone(path):
            os.unlink(path)
        case Key(path, owner):
            do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"mqi@{os.uname().nodename}", "-f", path)
            for name in (path, f"{path}.pub"):
                own(name, owner)
        case Timers(manager, units, start):
            if start:
                do(*manager, "daemon-reload")
            do(*manager, "--quiet", "enable", *units)
            if start:
                do(*manager, "start", "mqi.target")


def ours(where: Places) -> Iterator[str]:
    """Every file and link on this gateway that mqi-init made, in whatever version; configuration and keys are the site's."""
    share = (f"{where.share}/{path}" for path in ("man/man[0-9]/mqi*", "bash-completion/completions/mqi*",
             "zsh/site-functions/_mqi*", "fish/vendor_completions.d/mqi*"))  # fmt: skip
    for pattern in (f"{where.units}/mqi*", f"{where.units}/mqi*.d/*", f"{os.path.dirname(where.etc)}/logrotate.d/mqi", *share):
        for path in iglob(pattern):
            if os.path.isfile(path) and not os.path.islink(path) and is_marked(path):
                yield os.path.normpath(path)
    for path in iglob(f"{where.bin}/mqi-*"):
        if os.path.islink(path) and os.readlink(path).startswith(f"{where.programs}/"):
            yield path


def take_away(where: Places) -> Iterator[str]:
    """Remove what is ours, and our folders of drop-ins that are empty then; each path as it goes."""
    for path in [*ours(where)]:
        os.unlink(path)
        yield path
        if os.path.dirname(path).endswith(".d") and not os.listdir(os.path.dirname(path)):
            os.rmdir(os.path.dirname(path))
    if os.path.isdir(f"{where.programs}/versions"):
        shutil.rmtree(where.programs)
        yield where.programs
    elif os.path.islink(f"{where.programs}/current"):
        os.unlink(f"{where.programs}/current")
        yield f"{where.programs}/current"


def left_over(where: Places, wanted: Iterable[Thing]) -> list[Thing]:
    """What an older version of ours made and this one does not."""
    paths = {thing.path for thing in wanted if isinstance(thing, File | Link)}
    return [Gone(path) for path in ours(where) if path not in paths]


def is_marked(path: str) -> bool:
    """Our mark stands in the first line, or in the second where a shell needs the first."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return MARK in file.readline() + file.readline()


def own(path: str, owner: str) -> None:
    if owner and os.geteuid() == 0:
        account = pwd.getpwnam(owner)
        os.chown(path, account.pw_uid, account.pw_gid)


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


