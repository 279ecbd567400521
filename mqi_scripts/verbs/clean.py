"""mqi-clean - remove from the compute hosts what cases at rest have left there, once it is older than hosts.<name>.keep

Input and output of cases that are completed, cancelled or failed go, and their finished tasks in the queue; so do staged files that
nobody came back for. Claims, manifests, logs and what the wrapper wrote stay. Results here are never touched; before anything goes
they must be what their records say, byte for byte. A retry copies the input again.

examples:
  mqi-clean --dry-run        what would go, and how much it is
  mqi-clean                  all that is old enough
  mqi-clean 3fa9c1           of one case, or why not
"""

import argparse
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.operator import asked
from mqi_scripts.operator.verify import differs
from mqi_scripts.pure import rest, tables
from mqi_scripts.world import lock
from mqi_scripts.world.host import NOBODY, Host, hosts

MOST = 100  # cases of one run: so long is the root's lock held there
TOLD = 10  # cases that are named, of those whose results are not as recorded
DAY = 86400.0  # seconds after which nobody comes back for what a run that was cut off left
NEVER = 10**9 - 1  # minutes


def work(run: cli.Run) -> None:
    cases = due(run)
    for host in hosts(run.site, run.book):
        if host.used:
            with run.isolated():
                clean(run, host, cases)
                run.roomy(host)
    if not run.args.case:
        sweep(run)


def due(run: cli.Run) -> list[w.Case]:
    """Whose host need not keep anything, and whose results are here, byte for byte; those that rest for longest, first."""
    keep, now = {host.name: host.keep for host in run.site.hosts}, run.now()
    cases = asked(run) if run.args.case else [*run.book.cases().values()]
    old, ready = list[w.Case](), list[w.Case]()
    for case in cases:
        if why := rest.why_kept(case, keep.get(case.host), now):
            if run.args.case:
                run.say(why)
        else:
            old.append(case)
    bad = 0
    for case in sorted(old, key=lambda case: case.since):
        if len(ready) == MOST:
            run.say(f"{len(old) - MOST - bad} cases more are left for the next run")
            break
        if fault := next(wrong(run, case), ""):
            run.code, bad = max(run.code, 1), bad + 1
            if bad <= TOLD:
                run.say(f"{case.id} is kept on {case.host}: see mqi-case verify {case.id}: {tables.printable(fault)}")
        else:
            ready.append(case)
    if bad > TOLD:
        run.say(f"{bad - TOLD} cases more are kept for such reasons. See: mqi-case verify --all")
    return ready


def wrong(run: cli.Run, case: w.Case) -> Iterator[str]:
    """Why its results here are not what its host has."""
    final = os.path.join(run.site.results, case.path)
    if case.status == w.COMPLETED:
        yield from differs(run.site, case, final)
    elif case.salvaged and os.path.lexists(f"{final}.partial"):  # there is none where nothing of them was good
        yield from differs(run.site, case, f"{final}.partial")


def clean(run: cli.Run, host: Host, cases: Sequence[w.Case]) -> None:
    """Two sessions, the first of which only looks: what is there, and whether the root is ours and where we left it. Every host
    is asked about every case, because an earlier attempt may have been elsewhere."""
    age = int(max(host.config.keep, DAY) // 60)
    words = [NEVER if run.args.case else age, *(word for case in cases for word in (case.key, case.attempt))]
    for act in (0, 1):
        said = host.session("clean", [act, *words], run.book.state().head if act else NOBODY)
        found = {key: int(size) * 1024 for key, size in said.named("cleaned") if size.isdigit()}
        left = sum(int(size) * 1024 for (size,) in said.named("left") if size.isdigit())
        if act == 0 and left:
            run.say(f"{host.name}: {tables.megabytes(left)} that were staged, or put aside, and that nobody came back for")
        if run.args.dry_run or not (found or left):
            break
    for case in cases:
        if case.key not in found and case.host == host.name:
            why = "an attempt of it lives there, could start or is not in the ledger; or the queue does not answer"
            run.say(f"{case.id} is kept on {host.name}: {why}. See: mqi-case explain {case.id} --look")
    mine = [case for case in cases if case.key in found and case.host == host.name]
    run.record([w.Cleaned(case.key, run.now(), case.attempt, host.name, found[case.key]) for case in mine])
    if found:
        did = "would be removed" if run.args.dry_run else "removed"
        run.say(f"{host.name}: {tables.megabytes(sum(found.values()))} of {len(found)} cases {did}")


def sweep(run: cli.Run) -> None:
    """What runs that were cut off left in the state folder; nobody's, because its program does not run, or is long gone."""
    state = run.site.state
    for program, name in (("mqi-push", "outbox"), ("mqi-fetch", "inbound")):
        try:
            with lock.held(os.path.join(state, f"run.{program}"), 0):
                remove(run, [entry.path for entry in os.scandir(os.path.join(state, name))])
        except w.Busy:
            continue  # it is in use
    old, places = time.time() - DAY, [os.path.join(state, name) for name in ("", "cache", "health", "manifests", "told")]
    beside = [entry for place in places if os.path.isdir(place) for entry in os.scandir(place)]
    beside = [entry for entry in beside if re.search(r"\.[0-9]+\.new$", entry.name)]  # world/files.py
    remove(run, [entry.path for entry in beside if entry.stat(follow_symlinks=False).st_mtime < old])


def remove(run: cli.Run, paths: Sequence[str]) -> None:
    for path in sorted(paths):
        run.say(f"{path}: {'would be ' if run.args.dry_run else ''}removed, a run that was cut off left it")
        if run.args.dry_run:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-clean", __doc__ or "")
    parse.add_argument("case", nargs="*", metavar="CASE", help="ids, unique prefixes or paths; - reads them from stdin")
    parse.add_argument("--jsonl", action="store_true", help="one JSON line an event on stdout")
    parse.add_argument("--dry-run", action="store_true", help="say what would go and how much it is, remove nothing")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return cli.boundary("mqi-clean", lambda: cli.once("mqi-clean", args, work))
