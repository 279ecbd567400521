"""What the world can prove of a ledger that lost lines: attempts on the compute hosts, results on the gateway, paths of keys."""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.pure import codec, readers
from mqi_scripts.world import config, folder
from mqi_scripts.world.host import NOBODY, Host

RECORD = "mqi-result.json"
REBUILDING = "rebuilding-"  # before the digest of a root's head: no ledger holds it, so that nothing else works there meanwhile
KEY = r"([0-9a-f]{20})(?:/attempt-([1-9][0-9]*))?"
LOOK = 1000  # attempts that one session looks at

# A root as a host has it: who owns it, and the head it was shown last.
Root = NamedTuple("Root", [("host", Host), ("owner", str), ("head", w.Head)])


class Proof(NamedTuple):
    """The record of a result on the gateway, beside its files. complete: else only what was good of it. sums: by path."""

    key: str
    path: str
    attempt: int
    host: str
    group: str
    input: str
    output: str
    started: str
    ended: str
    fetched: str
    exit: int
    complete: bool
    reason: str
    facts: Mapping[str, Any]
    sums: tuple[tuple[str, str], ...]
    bytes: int

    def fault(self) -> str:
        """Why its files are not what it says, "" if they are: every byte is read."""
        for path, digest in self.sums:
            top, _, name = path.rpartition("/")
            try:
                with folder.opened(top) as fd:
                    if folder.read(fd, name) != digest:
                        return f"{path} is not what its record says"
            except (OSError, ValueError, w.Unreachable) as error:
                return f"{path}: {error}"
        return ""


def ask(site: config.Site) -> tuple[list[Root], dict[str, str]]:
    """The roots of all hosts, and by host why there is none. Raises Unreachable if a host does not answer."""
    roots, none = list[Root](), dict[str, str]()
    for one in site.hosts:
        host, where = Host(one, site.state, "", True, lambda _: True), f"{one.name}:{one.root}"
        said = host.session("look", [], NOBODY, judged=False)
        owner = readers.root(said)
        if owner and said.code:
            raise w.Unreachable(f"{where}: {said.notes() or 'it cannot be read'}. See: mqi-check")
        if owner:
            roots.append(Root(host, *owner))
        else:
            none[one.name] = (
                f"{where} has no `ledger` file: a lost mount? Mount it; if it was never used, or is a new, empty folder on "
                "purpose: mqi-ledger rebuild --accept-empty"
            )
    return roots, none


def survey(root: Root, ledger: str, *, hold: bool) -> dict[str, list[int]]:
    """Numbers of the attempts there by key. hold: leave a head that no ledger has, until `settle` leaves the true one."""
    host, head = root.host, root.head
    host.ledger, host.shown = ledger, f"{root.owner} {head.seq} {head.digest}"
    if hold:
        head = w.Head(head.seq, REBUILDING + head.digest.removeprefix(REBUILDING))
    found: dict[str, list[int]] = {}
    for (text,) in host.session("survey", [], head).named("have"):
        if match := re.fullmatch(KEY, text):
            found.setdefault(match[1], []).extend([int(match[2])] if match[2] else [])
    return found


def look(root: Root, found: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int, w.Look]]:
    """(key, attempt, the look that shows it) of every attempt there; a few sessions, however many there are."""
    wanted = [(key, number) for key, numbers in sorted(found.items()) for number in sorted(numbers)]
    for first in range(0, len(wanted), LOOK):
        some = wanted[first : first + LOOK]
        seen = root.host.look(some)
        yield from ((key, number, seen) for key, number in some)


def settle(root: Root, head: w.Head, inputs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, bytes]]:
    """Leave the ledger's head in the root; manifests of inputs there, (key, digest, text), if they are what their digest says."""
    batch = 100
    for first in range(0, max(len(inputs), 1), batch):
        words = [word for one in inputs[first : first + batch] for word in one]
        lines: dict[str, list[str]] = {}
        for fields in root.host.session("survey", words, head).named("sum"):
            lines.setdefault(fields[0], []).append("\t".join(fields[1:]))
        for key, digest in inputs[first : first + batch]:
            text = "".join(f"{line}\n" for line in lines.get(f"{key}-{digest}", [])).encode()
            if codec.sha256(text) == digest:
                yield key, digest, text


def proofs(site: config.Site, ledger: str) -> Iterator[Proof]:
    """Every record of a result whose path is proved by its key: the place, what it replaced, and what is only partial."""
    for top, folders, names in os.walk(site.results):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if RECORD in names and (proof := _proof(top)) and codec.key(ledger, proof.path) == proof.key:
            yield proof


def _proof(top: str) -> Proof | None:
    try:
        with open(os.path.join(top, RECORD), encoding="utf-8") as file:
            said = json.load(file)
        # a later version may say more
        faults = (error for error in _shape().iter_errors(said) if error.validator != "additionalProperties")
        if next(faults, None):
            return None
        datetime.fromisoformat(said["fetched_at"]), said["path"].encode("utf-8", "surrogateescape")  # ValueError: nobody wrote it
        facts = {"profile": said["profile"], "plan": said["plan"], "beams": said["beams"], "left": said["left_out"],
                 "remarks": said["remarks"]} if said["profile"] != "files" else {}  # fmt: skip
        sums = tuple((os.path.join(top, one["name"]), one["sha256"]) for one in said["files"])
        return Proof(
            said["case"], said["path"], int(said["attempt"]), said["host"], said["group"], said["input"], said["output"],
            said["started_at"], said["ended_at"], said["fetched_at"], int(said["exit"]), said["complete"],
            said["reason"], {name: value for name, value in facts.items() if value}, sums,
            sum(one["bytes"] for one in said["files"]),
        )  # fmt: skip
    except (OSError, ValueError, RecursionError):
        return None


@cache
def _shape() -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    with open(config.schema_file("result"), encoding="utf-8") as file:
        return Draft202012Validator(json.load(file))


def owner_of_results(site: config.Site) -> str:
    """The ledger whose results these are, by the mark that the first fetch left."""
    try:
        with open(os.path.join(site.results, ".mqi-results"), encoding="utf-8") as file:
            match = re.fullmatch(r"results of mqi, ledger (\S+)\n", file.read())
    except (OSError, UnicodeDecodeError):
        return ""
    return match[1] if match else ""


def paths(site: config.Site, ledger: str, keys: Collection[str], others: Iterable[str]) -> dict[str, str]:
    """The path of each key that something names: a key is a hash of its path, so that every guess proves itself.

    Guesses: others, the inbox, and every string in what is left of ledgers and caches in the state folder.
    """
    found = {key: path for path in others if (key := codec.key(ledger, path)) in keys}
    for guesses in (_inbox(site), _strings(site.state)):
        if len(found) < len(keys):
            found.update({key: path for path in guesses if (key := codec.key(ledger, path)) in keys})
    return found


def _inbox(site: config.Site) -> Iterator[str]:
    """Case folders, and the folders in them, which may be parts."""
    for path in candidates(site):
        yield path
        with os.scandir(os.path.join(site.inbox, path)) as entries:
            yield from (f"{path}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False))


def candidates(site: config.Site) -> list[str]:
    """Case folders in the inbox, [] where it cannot be read."""
    try:
        return folder.candidates(site.inbox, site.scan.cases, site.scan.ignore)
    except OSError:
        return []


def _strings(state: str) -> Iterator[str]:
    names = [os.path.join(state, "cache", name) for name in ("fold", "scan")]
    left = (name for name in sorted(os.listdir(state)) if re.fullmatch(r"ledger[-.].*(aside|damaged|torn).*", name))
    names += [os.path.join(state, name) for name in left]
    for name in names:
        if os.path.isfile(name):
            with open(name, "rb") as file:
                for text in re.findall(rb'"(?:[^"\\]|\\.)*"', file.read()):
                    try:
                        yield str(json.loads(text))
                    except ValueError:
                        continue


def part(site: config.Site, path: str) -> str:
    """What of a case's path is below its folder: scan.cases matches folders part by part."""
    return "/".join(path.split("/")[site.scan.cases.strip("/").count("/") + 1 :])


def above(site: config.Site, path: str) -> str:
    """The case's folder."""
    return path.removesuffix(f"/{below}") if (below := part(site, path)) else path


def contents(site: config.Site, ledger: str, path: str, keys: Collection[str]) -> dict[str, tuple[str, dict[str, Any], bytes]]:
    """(digest, facts, manifest) by key of the cases in a folder of the inbox, as a scan would read them; {} if it cannot."""
    try:
        seen = folder.look_at(site, path)
        if seen.reasons:
            return {}
        with folder.opened(os.path.join(site.inbox, path)) as fd:
            found = profiles.named(site.scan.profile).read(
                fd, seen, os.path.basename(path), site.scan, ledger, (), lambda name: codec.key(ledger, f"{path}/{name}") in keys
            )
            listed = [readers.write_manifest((name, folder.read(fd, name)) for name in one.names) for one in found]
    except (OSError, w.Unreachable, w.Configuration):
        return {}
    return {
        codec.key(ledger, f"{path}/{one.part}" if one.part else path):
            (codec.sha256(text), {**one.facts, "left": list(one.left)} if one.left else one.facts, text)
        for one, text in zip(found, listed, strict=True)
    }  # fmt: skip
