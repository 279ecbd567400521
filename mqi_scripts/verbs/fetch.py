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

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import files, folder
from mqi_scripts.world.host import Host

MARK, RECORD = ".mqi-results", "mqi-result.json"


def work(run: cli.Run) -> None:
    due = run.chosen(w.COMPUTED)
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

    inbound = os.path.join(run.site.state, "inbound", host.name)
    shutil.rmtree(inbound, ignore_errors=True)
    os.mkdir(inbound, 0o700)
    wrong = host.results(run.site.job.results, [(case.key, case.attempt) for case in cases])
    host.bring(inbound)
    tries = files.read_note(os.path.join(run.site.state, "health", "mqi-fetch.json")).get("tries", {})
    run.note["tries"] = {}
    for case in cases:
        with run.isolated([case]):
            came, final = os.path.join(inbound, f"{case.key}-{case.attempt}"), os.path.join(run.site.results, case.path)
            beside = os.path.join(os.path.dirname(final), f".{case.key}.incoming")
            shutil.rmtree(beside, ignore_errors=True)
            got, names = brought(came, beside, run.site.job.results)
            event = decide.fetch(case, got, run.site.job.results, tries.get(case.key, 0), run.now())
            if isinstance(event, w.Completed):
                record = json.dumps(provenance(run, case, got, names, came), indent=2)
                files.write_whole(os.path.join(beside, RECORD), record.encode() + b"\n")
                place(beside, final)
            else:
                shutil.rmtree(beside, ignore_errors=True)
            if event is None:
                run.note["tries"][case.key] = tries.get(case.key, 0) + 1
                why = wrong.get(case.key, "not all of its results came whole")
                raise w.Unreachable(f"{case.id} on {host.name}: {why}; the next mqi-fetch tries again")
            run.record([event])
    shutil.rmtree(inbound, ignore_errors=True)


def brought(came: str, beside: str, globs: Sequence[str]) -> tuple[decide.Brought, dict[str, str]]:
    """Copy what came of an attempt beside its place, hashing as it is read: what it is, and the name here of each name there."""
    try:
        with open(os.path.join(came, "manifest"), "rb") as file:
            text = file.read()
        manifest = readers.manifest(text.decode("utf-8", "surrogateescape"))
    except (OSError, readers.Unreadable):
        return decide.Brought("", {}, {}, 0), {}
    names = {name: local_name(name) for name in decide.wanted(list(manifest), globs)}
    if len({RECORD, *names.values()}) <= len(names):
        raise w.Unreachable(f"two results get the same name here: {', '.join(sorted(names.values()))[:300]}")
    sums, size = {}, 0
    with folder.opened(came) as top:
        for number, name in enumerate(manifest, 1):
            if name in names and os.path.lexists(os.path.join(came, str(number))):  # else its sum is missing, decide.fetch sees it
                target = os.path.join(beside, names[name])
                os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
                sums[name] = folder.read(top, str(number), target)
                size += os.path.getsize(target)
    return decide.Brought(codec.sha256(text), manifest, sums, size), names


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


def provenance(run: cli.Run, case: w.Case, got: decide.Brought, names: dict[str, str], came: str) -> dict[str, Any]:
    version = ""
    with suppress(OSError), open(os.path.join(came, "version"), encoding="utf-8", errors="replace") as file:
        version = readers.show(file.read(4096)).strip()
    results = [{"name": local, "name_there": name, "sha256": got.manifest[name]} for name, local in names.items()]
    return {
        "v": 1, "site": run.site.name, "case": case.key, "path": case.path, "attempt": case.attempt, "host": case.host,
        "group": case.group, "input": case.digest, "output": got.digest, "command": run.site.job.command,
        "version": version, "exit": case.exit, "submitted_at": case.submitted, "started_at": case.started,
        "ended_at": case.ended, "fetched_at": run.now(), "stale": case.stale or False, "files": results,
    }  # fmt: skip


main = cli.script("mqi-fetch", __doc__ or "", work)
