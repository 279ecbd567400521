"""mqi-fetch - bring computed results back, verify every byte here, let them appear whole

examples:
  mqi-fetch                          every case that is computed
  mqi-fetch --accept-empty           the results folder was emptied or moved on purpose
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import files, folder

if TYPE_CHECKING:
    from mqi_scripts.world.host import Host

MARK, RECORD = ".mqi-results", "mqi-result.json"


def work(run: cli.Run) -> None:
    due = run.chosen(w.COMPUTED)
    if run.args.dry_run or not due:
        run.say(f"would fetch {len(due)} cases") if run.args.dry_run else None
        return
    check_mark(run)
    for host in run.hosts():
        mine = [case for case in due if case.host == host.name]
        if mine:
            with run.isolated():
                fetch(run, host, mine)


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


def fetch(run: cli.Run, host: "Host", cases: list[w.Case]) -> None:
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
        with run.isolated():
            came = os.path.join(inbound, f"{case.key}-{case.attempt}")
            got, numbers = brought(came, run.site.job.results)
            event = decide.fetch(case, got, run.site.job.results, tries.get(case.key, 0), run.now())
            if isinstance(event, w.Completed):
                place(run, case, got, numbers, came)
            if event is None:
                run.note["tries"][case.key] = tries.get(case.key, 0) + 1
                why = wrong.get(case.key, "not all of its results came whole")
                raise w.Unreachable(f"{case.id} on {host.name}: {why}; the next mqi-fetch tries again")
            run.record([event])
    shutil.rmtree(inbound, ignore_errors=True)


def brought(path: str, globs: Sequence[str]) -> tuple[decide.Brought, dict[str, str]]:
    """What came of an attempt: sums of the wanted names, and under which number each lies."""
    try:
        with open(os.path.join(path, "manifest"), "rb") as file:
            text = file.read()
        manifest = readers.manifest(text.decode("utf-8", "surrogateescape"))
    except (OSError, readers.Unreadable):
        return decide.Brought("", {}, {}, 0), {}
    wanted = decide.wanted(list(manifest), globs)
    numbers = {name: str(number) for number, name in enumerate(manifest, 1) if name in wanted}
    sums, size = {}, 0
    with folder.opened(path) as top:
        for name, number in numbers.items():
            with suppress(OSError):  # it did not come: its sum is missing, and decide.fetch sees that
                sums[name] = folder.read(top, number)
                size += os.stat(number, dir_fd=top).st_size
    return decide.Brought(codec.sha256(text), manifest, sums, size), numbers


def place(run: cli.Run, case: w.Case, got: decide.Brought, numbers: dict[str, str], came: str) -> None:
    """The results under their final name, whole or not at all; what they replace is kept beside, marked."""
    import shutil  # noqa: PLC0415

    final = os.path.join(run.site.results, case.path)
    above, name = os.path.split(final)
    beside = os.path.join(above, f".{case.key}.incoming")
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside, 0o700)
    names = {name: local_name(name) for name in numbers}
    if len(set(names.values())) != len(names) or RECORD in names.values():
        raise w.Unreachable(f"{case.id}: two of its results get the same name here: {', '.join(sorted(names.values()))[:300]}")
    with folder.opened(came) as top:
        for there, number in numbers.items():
            target = os.path.join(beside, names[there])
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            if folder.read(top, number, target) != got.manifest[there]:
                raise w.Unreachable(f"{case.id}: {there} changed here while it was put in place; the next mqi-fetch tries again")
            with open(target, "rb") as file:
                os.fsync(file.fileno())
    record = json.dumps(provenance(run, case, got, names, came), indent=2)
    files.write_whole(os.path.join(beside, RECORD), record.encode() + b"\n")
    for path, _, _ in os.walk(beside):
        files.sync_folder(path)
    if os.path.lexists(final):
        older = sum(other.startswith(f"{name}.superseded-") for other in os.listdir(above))
        os.rename(final, f"{final}.superseded-{older + 1}")
    os.rename(beside, final)
    files.sync_folder(above)


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
