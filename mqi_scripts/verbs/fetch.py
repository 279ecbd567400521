"""mqi-fetch - bring computed results back, verify every byte here, let them appear whole

examples:
  mqi-fetch                          every case that is computed
  mqi-fetch --accept-empty           the results folder was emptied or moved on purpose
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import files, folder
from mqi_scripts.world.host import Host

MARK, RECORD = ".mqi-results", "mqi-result.json"


def work(run: cli.Run) -> None:
    due = [case for case in run.chosen(w.COMPUTED, w.FAILED) if case.status == w.COMPUTED or (case.manifest and not case.salvaged)]
    if run.args.dry_run:
        run.say(f"would fetch {len(due)} cases")
    elif due:
        check_mark(run)
        run.on_hosts(due, fetch)


def check_mark(run: cli.Run) -> None:
    """The results folder is the one of the first fetch. Raises Unreachable: a lost mount."""
    mark = os.path.join(run.site.results, MARK)
    if os.path.exists(mark):
        return
    first = not any(case.status == w.COMPLETED for case in run.book.closed().values())
    if not (first or run.args.accept_empty) or not os.path.isdir(os.path.dirname(run.site.results)):
        raise w.Unreachable(
            f"{run.site.results} lacks the mark {MARK} that the first fetch left there: a lost mount? Nothing was written. "
            "Mount it; if it is a new folder on purpose: mqi-fetch --accept-empty"
        )
    os.makedirs(run.site.results, 0o700, exist_ok=True)
    files.write_whole(mark, f"results of mqi, ledger {run.book.state().id}\n".encode())


def fetch(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """Two sessions for all: the far side links the results under numbers, one copy brings them."""
    import shutil  # noqa: PLC0415

    inbound, job = os.path.join(run.site.state, "inbound", host.name), run.site.job
    shutil.rmtree(inbound, ignore_errors=True)
    os.mkdir(inbound, 0o700)
    globs = [*job.results, *filter(None, [job.results_per_beam])]
    wrong = host.results(globs, job, [(case.key, case.attempt) for case in cases])
    host.bring(inbound)
    tries = files.read_note(os.path.join(run.site.state, "health", "mqi-fetch.json")).get("tries", {})
    run.note["tries"] = {}
    for case in cases:
        with run.isolated([case]):
            events = settle(run, case, os.path.join(inbound, f"{case.key}-{case.attempt}"), globs, tries.get(case.key, 0))
            if not events:
                run.note["tries"][case.key] = tries.get(case.key, 0) + 1
                why = wrong.get(case.key, "not all of its results came whole")
                raise w.Unreachable(f"{case.id} on {host.name}: {why}; the next mqi-fetch tries again")
            run.record(events)
    shutil.rmtree(inbound, ignore_errors=True)


def settle(run: cli.Run, case: w.Case, came: str, globs: Sequence[str], tries: int) -> list[w.Event]:
    """What came of one attempt, judged; completed results stand in their place then, what is good of others in `.partial`."""
    import shutil  # noqa: PLC0415

    final = os.path.join(run.site.results, case.path)
    beside = os.path.join(os.path.dirname(final), f".{case.key}.incoming")
    shutil.rmtree(beside, ignore_errors=True)
    got, names = brought(came, beside, globs)
    paths = {name: os.path.join(beside, names[name]) for name in decide.good(case, got, globs)}
    checked = profiles.named(case.facts.get("profile", "files")).results(
        case.facts, run.site.job.results_per_beam, list(got.manifest), paths
    )
    got = got._replace(wrong=checked.wrong)
    events = decide.fetch(case, got, globs, tries, run.now())
    whole, keep = any(isinstance(event, w.Completed) for event in events), decide.good(case, got, globs)
    if events and (whole or keep):
        for name in got.sums.keys() - keep:
            os.unlink(os.path.join(beside, names[name]))
        reason = next((event.reason for event in events if isinstance(event, w.Failed)), case.reason)
        record = provenance(run, case, got, {name: names[name] for name in keep}, came, checked) | {
            "complete": whole, "reason": "" if whole else reason,
        }  # fmt: skip
        files.write_whole(os.path.join(beside, RECORD), json.dumps(record, indent=1).encode() + b"\n")
        place(beside, final if whole else f"{final}.partial")
    else:
        shutil.rmtree(beside, ignore_errors=True)
    return events


def brought(came: str, beside: str, globs: Sequence[str]) -> tuple[decide.Brought, dict[str, str]]:
    """Copy what came of an attempt beside its place, hashing as it is read: what it is, and the name here of each name there."""
    try:
        text, said = (whole_file(came, name) for name in ("manifest", "marks"))
        manifest = readers.manifest(text.decode("utf-8", "surrogateescape"))
    except (OSError, readers.Unreadable):
        return decide.Brought("", {}, {}, {}, (), ()), {}
    names = {name: local_name(name) for name in decide.wanted(list(manifest), globs)}
    if len({RECORD, *names.values()}) <= len(names):
        raise w.Unreachable(f"two results get the same name here: {', '.join(sorted(names.values()))[:300]}")
    sums, sizes = {}, {}
    with folder.opened(came) as top:
        for number, name in enumerate(manifest, 1):
            if name in names and os.path.lexists(os.path.join(came, str(number))):  # else its sum is missing, decide.fetch sees it
                target = os.path.join(beside, names[name])
                os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
                sums[name] = folder.read(top, str(number), target)
                sizes[name] = os.path.getsize(target)
    return decide.Brought(codec.sha256(text), manifest, sums, sizes, readers.marks(said.decode("utf-8", "replace")), ()), names


def whole_file(came: str, name: str) -> bytes:
    with open(os.path.join(came, name), "rb") as file:
        return file.read()


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
    run: cli.Run, case: w.Case, got: decide.Brought, names: dict[str, str], came: str, checked: profiles.Checked
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
    inputs = folder.manifest_of(run.site.state, case.key, case.digest)
    ages = "files older than the job's start are told by their times"
    clock = result.get("clock", "0") != "0"
    return {
        "v": 1, "site": run.site.name, "case": case.key, "path": case.path, "attempt": case.attempt, "host": case.host,
        "machine": status.get("host", ""), "group": status.get("group", ""), "slot": status.get("slot", ""),
        "wrapper": status.get("wrapper", ""), "command": said["command"].removesuffix("\n"), "version": version,
        "exit": case.exit, "submitted_at": case.submitted, "started_at": status.get("since", ""),
        "ended_at": result.get("until", ""), "fetched_at": run.now(), "input": case.digest, "output": got.digest,
        "inputs": [{"name": name, "sha256": digest} for name, digest in inputs.items()], "files": results,
        "outputs": [{"name": name, "sha256": digest} for name, digest in got.manifest.items()],
        "profile": case.facts.get("profile", "files"), "plan": case.facts.get("plan", ""), "beams": case.facts.get("beams", []),
        "left_out": case.facts.get("left", []), "remarks": case.facts.get("remarks", []),
        "decisions": [{"at": at, "by": who, "what": what} for at, who, what in case.decisions],
        "checked": ["every byte against the wrapper's list", *([] if clock else [ages]), *checked.checked],
        "unchecked": [*([f"{ages}, but the host's clock was set meanwhile"] if clock else []), *checked.unchecked],
        "stale": case.stale or False,
    }  # fmt: skip


main = cli.script("mqi-fetch", __doc__ or "", work)
