"""Results of an attempt on the gateway: copied as they are hashed, judged, put in their place whole, with their record."""

import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import files, folder
from mqi_scripts.world.config import Site

RECORD = "mqi-result.json"
PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LONGEST = 1 << 28  # bytes of a list of results, the largest of the far side's own files


def settle(site: Site, case: w.Case, came: str, globs: Sequence[str], tries: int, now: str) -> list[w.Event]:
    """What came of one attempt, judged; completed results stand in their place then, what is good of others in `.partial`."""
    final = os.path.join(site.results, case.path)
    beside = os.path.join(os.path.dirname(final), f".{case.key}.incoming")
    shutil.rmtree(beside, ignore_errors=True)
    got, names = brought(came, beside, globs)
    paths = {name: os.path.join(beside, names[name]) for name in decide.good(case, got, globs)}
    of = profiles.named(case.facts.get("profile", "files"))
    checked = of.results(case.facts, site.job.results_per_beam, list(got.manifest), paths)
    got = got._replace(wrong=(*got.wrong, *checked.wrong))
    events = decide.fetch(case, got, globs, tries, now)
    whole, keep = any(isinstance(event, w.Completed) for event in events), decide.good(case, got, globs)
    if events and (whole or keep):
        for name in got.sums.keys() - keep:
            os.unlink(os.path.join(beside, names[name]))
        reason = next((event.reason for event in events if isinstance(event, w.Failed)), case.reason)
        record = provenance(site, now, case, got, {name: names[name] for name in keep}, came, checked)
        record |= {"complete": whole, "reason": "" if whole else reason}
        files.write_whole(os.path.join(beside, RECORD), json.dumps(record, indent=1).encode() + b"\n")
        place(beside, final if whole else f"{final}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    return events


def brought(came: str, beside: str, globs: Sequence[str]) -> tuple[decide.Brought, dict[str, str]]:
    """Copy what came of an attempt beside its place, hashing as it is read: what it is, and the name here of each name there."""
    try:
        text, said, *_ = (whole_file(came, name) for name in ("manifest", "marks", "command", "status", "result"))
        manifest, marks = readers.manifest(text.decode("utf-8", "surrogateescape")), readers.marks(said.decode("utf-8", "replace"))
    except (OSError, readers.Unreadable):
        return decide.Brought("", {}, {}, {}, (), ()), {}
    local = {name: local_name(name) for name in decide.wanted(list(manifest), globs)}
    taken = Counter([RECORD, *local.values(), *{one[:i] for one in local.values() for i, c in enumerate(one) if c == "/"}])
    clash = {name: one for name, one in local.items() if taken[one] > 1 or one.startswith(f"{RECORD}/")}
    wrong = tuple((name, f"{name} would be {one} here, as another result, or our record") for name, one in clash.items())
    names = local | {name: f"meets:{number}" for number, name in enumerate(clash)}  # until they are judged
    sums, sizes = {}, {}
    with folder.opened(came) as top:
        for number, name in enumerate(manifest, 1):
            if name in names and os.path.lexists(os.path.join(came, str(number))):  # else its sum is missing, decide.fetch sees it
                target = os.path.join(beside, names[name])
                os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
                sums[name] = folder.read(top, str(number), target)
                sizes[name] = os.path.getsize(target)
    return decide.Brought(codec.sha256(text), manifest, sums, sizes, marks, wrong), names


def whole_file(came: str, name: str) -> bytes:
    """What came of the far side's own files; through no link. Raises OSError."""
    with open(os.path.join(came, name), "rb", opener=lambda path, _: os.open(path, PLAIN)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{name} is no regular file")
        return file.read(LONGEST)


def place(beside: str, final: str) -> None:
    """The results under their final name, whole or not at all; what they replace is kept beside it."""
    above = os.path.dirname(final)
    for path, _, inside in os.walk(beside):
        for one in (path, *(os.path.join(path, other) for other in inside)):
            files.sync(one)
    if os.path.lexists(final):
        os.rename(final, f"{final}.superseded-{os.stat(final).st_mtime_ns}")
    os.rename(beside, final)
    files.sync(above)


def local_name(name: str) -> str:
    """The name on the gateway: a colon or backslash is illegal on SMB, a control character on any screen."""
    return "".join("_" if c in ":\\" or not c.isprintable() else c for c in name)


def provenance(
    site: Site, now: str, case: w.Case, got: decide.Brought, names: dict[str, str], came: str, checked: profiles.Checked
) -> dict[str, Any]:
    """schemas/result.schema.json: what was computed from which bytes by what, where and when; what was checked, and what not."""
    said = {name: whole_file(came, name).decode("utf-8", "replace") for name in ("command", "status", "result")}
    status, result = readers.pairs(said["status"].strip()), readers.pairs(said["result"].strip())
    version = ""
    with suppress(OSError):
        version = readers.show(whole_file(came, "version")[:4096].decode("utf-8", "replace")).strip()
    results = [
        {"name": local, "name_there": name, "sha256": got.manifest[name], "bytes": got.sizes[name],
         "beam": checked.beams.get(name, "")} for name, local in names.items()
    ]  # fmt: skip
    inputs = folder.manifest_of(site.state, case.key, case.digest)
    ages = "files older than the job's start are told by their times"
    clock = result.get("clock", "0") != "0"
    return {
        "v": 1, "site": site.name, "case": case.key, "path": case.path, "attempt": case.attempt, "host": case.host,
        "machine": status.get("host", ""), "group": status.get("group", ""), "slot": status.get("slot", ""),
        "wrapper": status.get("wrapper", ""), "command": said["command"].removesuffix("\n"), "version": version,
        "exit": case.exit, "submitted_at": case.submitted, "started_at": status.get("since", ""),
        "ended_at": result.get("until", ""), "fetched_at": now, "input": case.digest, "output": got.digest,
        "inputs": [{"name": name, "sha256": digest} for name, digest in inputs.items()], "files": results,
        "outputs": [{"name": name, "sha256": digest} for name, digest in got.manifest.items()],
        "profile": case.facts.get("profile", "files"), "plan": case.facts.get("plan", ""), "beams": case.facts.get("beams", []),
        "left_out": case.facts.get("left", []), "remarks": case.facts.get("remarks", []),
        "decisions": [{"at": at, "by": who, "what": what} for at, who, what in case.decisions],
        "checked": ["every byte against the wrapper's list", *([] if clock else [ages]), *checked.checked],
        "unchecked": [*([f"{ages}, but the host's clock was set meanwhile"] if clock else []), *checked.unchecked],
        "stale": case.stale or False,
    }  # fmt: skip
