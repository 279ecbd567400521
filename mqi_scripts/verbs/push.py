"""mqi-push - copy found cases to their compute host, verified there before they get their final name

examples:
  mqi-push                  all cases that are found
  mqi-push 3fa9c1           one of them, by the beginning of its id
  mqi-push --dry-run        what would travel, and how much
  mqi-push --accept-empty   a root that lost its mark is a new folder on purpose
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import place
from mqi_scripts.pure.tables import megabytes
from mqi_scripts.world import folder, outage
from mqi_scripts.world.host import Host, Staged
FILES, BYTES = 20_000, 4 << 30  # of a batch: what is staged is listed there, and copied here

def work(run: cli.Run) -> None:
    names = [host.name for host in run.site.hosts]
    tired = [name for name in names if outage.fresh(run.site, name, run.name, run.now())]
    due, out = run.chosen(w.FOUND), list(run.book.state().open.values())
    run.on_hosts(share(due, out, names, run.site.job.groups, tired), push)


def share(
    due: list[w.Case], open_cases: list[w.Case], hosts: list[str], limits: place.Limits, tired: Sequence[str] = ()
) -> list[w.Case]:
    """The due cases, each with the host it goes to: the one with the fewest open cases, of those that it may go to; to one of the
    tired, those that failed and rest, only where it may go nowhere else."""
    load = {host: sum(case.host == host for case in open_cases) for host in hosts}
    shared = []
    for case in due:
        able = [name for name in hosts if place.fits(name, [glob.partition("/")[0] for glob in place.allowed(case.path, limits)])]
        host = min(able or hosts, key=lambda name: (name in tired, load[name], name))
        load[host] += 1
        shared.append(case._replace(host=host))
    return shared


def push(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """Most urgent first, in batches: a small number of sessions, whatever the number of cases."""
    from mqi_scripts.pure import order  # noqa: PLC0415

    if run.args.dry_run:
        run.say(f"would push {len(cases)} cases, {sum(case.bytes for case in cases) / 1e6:.1f} MB, to {host.name}")
        return
    rest = [*order.urgent(cases, run.site.schedule, run.book.state().turn, run.now())]
    while rest:
        some = batch(rest, min(BYTES, folder.free(run.site.state)[0] - run.site.reserve))
        ship(run, host, some)
        rest = rest[len(some) :]


def batch(cases: list[w.Case], room: int) -> list[w.Case]:
    """The first of them that travel together, at least one; nothing of it is published until all of it is there."""
    count = size = 0
    for number, case in enumerate(cases):
        count, size = count + case.files, size + case.bytes
        if number and (count > FILES or size > room):
            return cases[:number]
    return cases


def ship(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """Stage, copy, send, verify, publish: three sessions."""
    import shutil  # noqa: PLC0415

    staged = host.stage([(case.key, case.digest) for case in cases], run.book.state().head)
    if staged.root and not host.used:
        run.record([w.Rooted("", run.now(), host.name, host.config.root)])
    outbox = os.path.join(run.site.state, "outbox", host.name)
    shutil.rmtree(outbox, ignore_errors=True)
    os.mkdir(outbox, 0o700)
    ready, total = dict[str, str](), 0  # what travels: its folder's sign by key
    for case in cases:
        with run.isolated([case]):
            if case.key not in staged.published:
                sign, size = fill(run, host, case, outbox, staged._replace(room=staged.room - total))
                ready, total = ready | {case.key: sign}, total + size
    try:
        if ready:
            host.send(outbox, progress(run, total))
    finally:
        shutil.rmtree(outbox)  # before the far side flushes: what is still unwritten of it never needs to be
    for case in [case for case in cases if case.key in ready and ready[case.key] != look(run, case).sign]:
        run.say(f"{case.id}: its folder changed while it was copied; not published, the next mqi-scan looks again")
        del ready[case.key]
    same = [case for case in cases if case.key in ready or case.key in staged.published]
    done, wrong = host.publish([(case.key, case.digest) for case in same], run.book.state().head)
    run.record([w.Pushed(case.key, run.now(), host.name, case.digest) for case in same if case.key in done])
    for case in [case for case in same if case.key not in done]:
        why = wrong.get(case.key, "it did not get its name, and nobody said why")
        text = f"{case.id} on {host.name}: {why}; the next mqi-push sends what is missing"
        run.failed(w.Unreachable(text), [case])


def fill(run: cli.Run, host: Host, case: w.Case, outbox: str, staged: Staged) -> tuple[str, int]:
    """Copy into the outbox what the host lacks, hashing as it is read: the folder's sign, and how many bytes travel."""
    import shutil  # noqa: PLC0415

    manifest, seen = folder.manifest_of(run.site.state, case.key, case.digest), look(run, case)
    there, target = staged.staged.get(case.key, {}), os.path.join(outbox, f"{case.key}-{case.digest}")
    names = [name for name in manifest if there.get(name, -1) != seen.sizes.get(name)]
    size = sum(seen.sizes.get(name, 0) for name in names)
    what = f"{case.id} ({megabytes(size)})"
    folder.check_room("", run.site.state, folder.free(outbox)[0] - size, run.site.reserve, what)
    if staged.room >= 0:
        folder.check_room(host.name, host.config.root, staged.room - size, host.config.reserve, what)
    if seen.sizes.keys() != manifest.keys():
        raise w.Unreachable(f"{case.id}: its folder is not as it was found; the next mqi-scan looks again")
    with folder.opened(os.path.join(run.site.inbox, case.folder)) as top:
        for name in names:
            path, copy = os.path.join(run.site.inbox, case.folder, name), os.path.join(target, "files", name)
            os.makedirs(os.path.dirname(copy), 0o700, exist_ok=True)
            with suppress(w.Unreachable):  # it is gone, or a link now
                if folder.read(top, name, copy) == manifest[name]:
                    continue
            shutil.rmtree(target)
            raise w.Unreachable(f"{case.id}: {path!r} changed since it was found; the next mqi-scan looks again")
    os.makedirs(os.path.join(target, "files"), 0o700, exist_ok=True)
    shutil.copyfile(folder.manifest_file(run.site.state, case.key, case.digest), os.path.join(target, "manifest"))
    return seen.sign, size


def look(run: cli.Run, case: w.Case) -> folder.Folder:
    """The folder, or those parts of it that belong to the case."""
    some = case.part or case.facts.get("left")
    only = {name.partition("/")[0] for name in folder.manifest_of(run.site.state, case.key, case.digest)} if some else ()
    try:
        return folder.look_at(run.site, case.folder, only)
    except OSError as error:
        raise w.Unreachable(f"{case.id}: its folder cannot be read now: {error.strerror}; the next mqi-scan looks again") from None


def progress(run: cli.Run, total: int) -> Callable[[int], object] | None:
    """What follows a copy by its process: bytes, rate and rest on a terminal's stderr; None elsewhere."""
    if not sys.stderr.isatty() or run.args.jsonl:
        return None
    from tqdm import tqdm  # noqa: PLC0415

    bar = tqdm(total=total, unit="B", unit_scale=True, desc=run.name, leave=False)
    return lambda pid: bar.update(min(copied(pid), total) - bar.n)


def copied(pid: int) -> int:
    """Bytes that a process, or the first of its children to have read most, has read: for a person's eye only."""
    most = 0
    with suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            pids = [str(pid), *file.read().split()]
        for one in pids:
            with open(f"/proc/{one}/io", encoding="ascii") as file:
                most = max(most, int(file.readline().split()[1]))
    return most


main = cli.script("mqi-push", __doc__ or "", work)
