"""Another version in the place of the one in use; back again if its mqi-check fails at something at which the old one did not."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from glob import glob

from mqi_scripts.install import things
from mqi_scripts.install.places import Places, running, runs
from mqi_scripts.words import Configuration, Damaged
from mqi_scripts.world import lock

LINE = ("scan", "push", "submit", "poll", "fetch")
PATIENCE = 2 * 3600  # seconds for what runs now: the unit's own limit
CHECK = 600
OTHER = "is not the version of the gateway"  # what a gate says


def in_use(where: Places) -> str:
    """The environment of the version in use, "" if it is this one or there is none yet."""
    link = f"{where.programs}/current"
    target = os.readlink(link) if os.path.islink(link) else ""
    return "" if target == os.path.dirname(running()) else target


def switch(where: Places, state: str, config: str, as_account: Sequence[str]) -> Iterator[str]:
    """Wait for what runs, back up, switch, check; each step in a sentence. The timers stand still meanwhile, see `stopped`.

    Raises Configuration when the new version failed and the old one is in use again.
    """
    old, new = in_use(where), os.path.dirname(running())
    before = failing(old, config, as_account) if os.path.exists(old) else set[str]()
    with idle(state):
        yield "nothing of ours runs"
        yield copied(new, where, config, as_account)
        things.make(things.Link(f"{where.programs}/current", new))
    if after := failing(new, config, as_account) - before:
        things.make(things.Link(f"{where.programs}/current", old))
        raise Configuration(
            f"{new} fails at {', '.join(sorted(after))}, and {old} did not: {old} is in use again, nothing else was changed. "
            f"More of it: {new}/bin/mqi-check --config {config}"
        )
    yield f"{new} is in use; {old} stays beside it"
    for path in glob(f"{where.programs}/versions/*"):
        if path not in (old, new):
            shutil.rmtree(path)
            yield f"{path}, older than both, is removed"


def failing(version: str, config: str, as_account: Sequence[str]) -> set[str]:
    """What mqi-check of that version calls a failure, but for timers, which stand still just now, and for gates, whose program is
    of one version only: nothing is done there until that of the next one is installed."""
    ran = things.ask(*as_account, f"{version}/bin/mqi-check", "--json", "--config", config, seconds=CHECK)
    try:
        probes = json.loads(ran.out)["probes"]
        failed = [one for one in probes if one["level"] == "FAIL" and OTHER not in one["found"]]
        found = {(f"{one['host']}: " if one["host"] else "") + one["what"] for one in failed}
    except (ValueError, KeyError, TypeError):
        last = ran.err.decode(errors="replace").strip().rpartition("\n")[2]
        return {f"mqi-check itself ({last[-300:] or ran.code})"}
    return {what for what in found if not what.startswith(("timer", "mqi-")) and what != "mqi.target"}


def copied(version: str, where: Places, config: str, as_account: Sequence[str]) -> str:
    """A verified copy of the ledger, where the weekly ones are. Raises Damaged."""
    ran = things.ask(*as_account, f"{version}/bin/mqi-ledger", "backup", where.backup, "--config", config, seconds=PATIENCE)
    said = (ran.out + ran.err).decode(errors="replace").strip()
    if ran.code and "has no ledger yet" not in said:
        raise Damaged(f"no backup could be made, so nothing was changed: {said[-500:]}")
    return said


@contextmanager
def stopped(where: Places) -> Iterator[None]:
    """The timers stand still meanwhile. What their programs do just now goes on."""
    names = [name for name in sorted(os.listdir(where.units)) if name.startswith("mqi-") and name.endswith(".timer")]
    on = [name for name in names if runs(where) and things.ask(*where.manager, "is-active", name).code == 0]
    if on:
        things.do(*where.manager, "stop", *on)
    try:
        yield
    finally:
        if on:
            things.do(*where.manager, "start", *on)


@contextmanager
def idle(state: str) -> Iterator[None]:
    """No program of the line runs, by timer or by hand: their locks are held. Raises Busy after PATIENCE."""
    with ExitStack() as held:
        for path in (os.path.join(state, f"run.mqi-{name}") for name in LINE):
            if os.path.exists(path):  # one that is made here would be root's
                held.enter_context(lock.held(path, PATIENCE))
        yield
