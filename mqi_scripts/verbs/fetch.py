"""mqi-fetch - bring computed results back, verify every byte here, let them appear whole

examples:
  mqi-fetch                          every case that is computed
  mqi-fetch --dry-run                how many there are
  mqi-fetch --accept-empty           the results folder was emptied or moved on purpose
"""

import os

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.world import files, folder
from mqi_scripts.world.host import Host

MARK = ".mqi-results"
BYTES = 4 << 30  # of a batch: one copy has hosts.<name>.timeout, and this must fit here


def work(run: cli.Run) -> None:
    due = [case for case in run.chosen(w.COMPUTED, w.FAILED) if case.status == w.COMPUTED or (case.manifest and not case.salvaged)]
    if run.args.dry_run:
        run.say(f"would fetch {len(due)} cases")
    elif due:
        check_mark(run)
        run.note["tries"] = {}
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
    """In batches: a small number of sessions, whatever the number of cases; the far side links the results of the first that fit
    under numbers, one copy brings them. Behind a copy that breaks off, the first is tried alone; then the others without it."""
    import shutil  # noqa: PLC0415

    inbound, alone = os.path.join(run.site.state, "inbound", host.name), False
    globs = [*run.site.job.results, *filter(None, [run.site.job.results_per_beam])]
    try:
        while cases:
            shutil.rmtree(inbound, ignore_errors=True)
            os.mkdir(inbound, 0o700)
            wrong = host.results(1 if alone else room(run), globs, run.site.job, [(case.key, case.attempt) for case in cases])
            try:
                host.bring(inbound, lambda _: room(run))
            except (w.Unreachable, w.Disk) as error:
                if alone or len(cases) == 1:
                    run.say(f"{cases[0].id} did not come, the others go on without it")
                    run.failed(error, cases[:1])
                    cases = cases[1:]
                alone = not alone
                continue
            alone, there = False, {name.partition("-")[0] for name in os.listdir(inbound)} | wrong.keys()
            came = [case for case in cases if case.key in there] or cases
            settled(run, host, inbound, globs, came, wrong)
            cases = [case for case in cases if case not in came]
    finally:
        shutil.rmtree(inbound, ignore_errors=True)


def room(run: cli.Run) -> int:
    """Megabytes that may come, and be copied from there into the results. Raises Disk, also while they come."""
    for path in (paths := (run.site.state, run.site.results)):
        folder.check_room("", path, folder.free(path)[0], run.site.reserve, "results")
    share = 2 if os.stat(paths[0]).st_dev == os.stat(paths[1]).st_dev else 1
    return max(1, min(BYTES, *(folder.free(path)[0] - run.site.reserve for path in paths)) // share // 1_000_000)


def settled(run: cli.Run, host: Host, inbound: str, globs: list[str], cases: list[w.Case], wrong: dict[str, str]) -> None:
    """What came is verified, judged, put in its place, and recorded, a case after the other."""
    import shutil  # noqa: PLC0415

    from mqi_scripts.world.results import settle  # noqa: PLC0415

    tries = files.read_note(os.path.join(run.site.state, "health", "mqi-fetch.json")).get("tries", {})
    for case in cases:
        with run.isolated([case]):
            came = os.path.join(inbound, f"{case.key}-{case.attempt}")
            events = settle(run.site, case, came, globs, tries.get(case.key, 0), run.now())
            shutil.rmtree(came, ignore_errors=True)
            if not events:
                run.note["tries"][case.key] = tries.get(case.key, 0) + 1
                why = wrong.get(case.key, "not all of its results came whole")
                raise w.Unreachable(f"{case.id} on {host.name}: {why}; the next mqi-fetch tries again")
            run.record(events)


main = cli.script("mqi-fetch", __doc__ or "", work)
