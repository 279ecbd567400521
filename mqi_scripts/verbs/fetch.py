"""mqi-fetch - bring computed results back, verify every byte here, let them appear whole

examples:
  mqi-fetch                          every case that is computed
  mqi-fetch --accept-empty-results   the results folder was emptied or moved on purpose
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import folder, notes
from mqi_scripts.world.ledger import sync_folder, write_whole

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
    if not (first or run.args.accept_empty_results) or not os.path.isdir(os.path.dirname(run.site.results)):
        raise w.Unreachable(
            f"{run.site.results} lacks the mark {MARK} that the first fetch left there: a lost mount? Nothing was written. "
            "Mount it; if it is a new folder on purpose: mqi-fetch --accept-empty-results"
        )
    os.makedirs(run.site.results, 0o700, exist_ok=True)
    write_whole(mark, f"results of mqi, ledger {run.book.state().id}\n".encode())


def fetch(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """Two sessions for all: the far side links the results under numbers, one copy brings them."""
    import shutil  # noqa: PLC0415

    inbound = os.path.join(run.site.state, "inbound", host.name)
    shutil.rmtree(inbound, ignore_errors=True)
    os.mkdir(inbound, 0o700)
    wrong = host.results(run.site.job.results, [(case.key, case.attempt) for case in cases])
    host.bring(inbound)
    path = os.path.join(run.site.state, "health", "mqi-fetch.json")
    tries = notes.read(path).get("tries", {})
    run.note["tries"] = {}
    for case in cases:
        with run.isolated():
            got, numbers = brought(os.path.join(inbound, f"{case.key}-{case.attempt}"), case, run.site.job.results)
            event = decide.fetch(case, got, run.site.job.results, tries.get(case.key, 0), run.now())
            if isinstance(event, w.Completed):
                place(run, case, got, numbers, inbound)
            if event:
                run.record([event])
            else:
                run.note["tries"][case.key] = tries.get(case.key, 0) + 1
                why = wrong.get(case.key, "not all of its results came whole")
                run.failed(w.Unreachable(f"{case.id} on {host.name}: {why}; the next mqi-fetch tries again"))
    shutil.rmtree(inbound, ignore_errors=True)


def brought(path: str, case: w.Case, globs: tuple[str, ...]) -> tuple[decide.Brought, dict[str, str]]:
    """What came of an attempt: sums of the wanted names, and under which number each lies."""
    try:
        with open(os.path.join(path, "manifest"), "rb") as file:
            text = file.read()
        manifest = readers.manifest(text.decode("utf-8", "surrogateescape"))
    except (OSError, readers.Unreadable):
        return decide.Brought("", {}, {}, 0), {}
    names = list(manifest)
    numbers = {name: str(names.index(name) + 1) for name in decide.wanted(names, globs)}
    sums, size = {}, 0
    with folder.opened(path) as top:
        for name, number in numbers.items():
            try:
                sums[name] = folder.read(top, number)
                size += os.stat(number, dir_fd=top).st_size
            except OSError:
                continue  # it did not come: its sum is missing, and decide.fetch sees that
    return decide.Brought(codec.sha256(text), manifest, sums, size), numbers


def place(run: cli.Run, case: w.Case, got: decide.Brought, numbers: dict[str, str], inbound: str) -> None:
    """The results under their final name, whole or not at all; what they replace is kept beside, marked."""
    import shutil  # noqa: PLC0415

    final = os.path.join(run.site.results, case.path)
    beside = os.path.join(os.path.dirname(final), f".{case.key}.incoming")
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside, 0o700)
    came, names = os.path.join(inbound, f"{case.key}-{case.attempt}"), {name: local_name(name) for name in numbers}
    if len(set(names.values())) != len(names) or RECORD in names.values():
        raise w.Unreachable(f"{case.id}: two of its results get the same name here: {', '.join(sorted(names.values()))[:300]}")
    with folder.opened(came) as top:
        for name, number in numbers.items():
            target = os.path.join(beside, names[name])
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            if folder.read(top, number, target) != got.manifest[name]:
                raise w.Unreachable(f"{case.id}: {name} changed here while it was put in place; the next mqi-fetch tries again")
            with open(target, "rb") as file:
                os.fsync(file.fileno())
    write_whole(os.path.join(beside, RECORD), json.dumps(provenance(run, case, got, names, came), indent=2).encode() + b"\n")
    for path, _, _ in os.walk(beside):
        sync_folder(path)
    if os.path.lexists(final):
        aside = superseded(final)
        os.rename(final, aside)
    os.rename(beside, final)
    sync_folder(os.path.dirname(final))


def superseded(final: str) -> str:
    """A free name beside the results that are replaced."""
    taken = [name for name in os.listdir(os.path.dirname(final)) if name.startswith(f"{os.path.basename(final)}.superseded-")]
    return f"{final}.superseded-{len(taken) + 1}"


def local_name(name: str) -> str:
    """The name on the gateway: a colon or backslash is illegal on SMB, a control character on any screen."""
    return "".join("_" if c in ":\\" or not c.isprintable() else c for c in name)


def provenance(run: cli.Run, case: w.Case, got: decide.Brought, names: dict[str, str], came: str) -> dict[str, Any]:
    try:
        with open(os.path.join(came, "version"), encoding="utf-8", errors="replace") as file:
            version = readers.show(file.read(4096)).strip()
    except OSError:
        version = ""
    files = [{"name": local, "name_there": name, "sha256": got.manifest[name]} for name, local in names.items()]
    return {
        "v": 1, "site": run.site.name, "case": case.key, "path": case.path, "attempt": case.attempt, "host": case.host,
        "group": case.group, "input": case.digest, "output": got.digest, "command": run.site.job.command,
        "version": version, "exit": case.exit, "submitted_at": case.submitted and codec.stamp(case.submitted),
        "started_at": case.started, "ended_at": case.ended, "fetched_at": codec.stamp(run.now()),
        "stale": case.stale or False, "files": files,
    }  # fmt: skip


main = cli.script(
    "mqi-fetch", __doc__ or "", work,
    lambda parse: parse.add_argument("--accept-empty-results", action="store_true", help="the results folder is new on purpose"),
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main())
