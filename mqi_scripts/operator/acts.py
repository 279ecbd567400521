"""What a person decides about cases: many at once, each an event with who, when and why; nothing here acts on a host."""

import os
from collections.abc import Callable, Sequence

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.operator import asked
from mqi_scripts.pure import explain, place, tables, wish
from mqi_scripts.world import folder
from mqi_scripts.world.host import hosts

Wish = Callable[[w.Case, str, str, str], list[w.Event]]


def cancel(run: cli.Run) -> None:
    """End them: what has not begun at once, a job once it is seen gone."""
    decided(run, asked(run), wish.cancel)


def hold(run: cli.Run) -> None:
    """Carry them no further until they are released."""
    decided(run, asked(run), wish.hold)


def release(run: cli.Run) -> None:
    """Let go what a person held, or what never started; with --deliveries, choose which of a held case's deliveries count; with
    --group, let cases go to a group again in which one after the other had failed."""
    if run.args.group:
        reopen(run)
    elif run.args.deliveries:
        choose(run)
    else:
        decided(run, asked(run), wish.release)


def reopen(run: cli.Run) -> None:
    """Let cases go to a group again in which one after the other had failed."""
    failed, jobs, name = run.book.state().failed, run.site.breaker.jobs, run.args.group
    shut = [(host.name, group) for host in run.site.hosts for group in place.broken(failed, host.name, jobs)]
    mine = [(host, group) for host, group in shut if group == name and run.args.host in ("", host)]
    if not mine:
        there = ", ".join(f"{group} of {host}" for host, group in shut) or "none"
        raise w.Usage(f"no group {name} is left out for its failed cases; such groups: {there}. See: mqi-report")
    run.record([w.Reopened("", run.now(), host, group, run.args.reason, cli.user()) for host, group in mine])
    for host, group in mine:
        run.say(f"group {group} of {host} {'would get' if run.args.dry_run else 'gets'} cases again with the next mqi-submit")


def priority(run: cli.Run) -> None:
    """How urgent they are."""
    decided(run, asked(run), lambda case, reason, _, now: wish.priority(case, reason, run.args.to, now))


def note(run: cli.Run) -> None:
    """Write a remark into their story."""
    decided(run, asked(run), wish.note)


def retry(run: cli.Run) -> None:
    """Give them a new attempt; only where no older one can still run, or its host will never answer again."""
    cases = asked(run)
    if not run.args.host_is_gone:
        decided(run, cases, wish.retry)
        return
    alive = {name for name in dict.fromkeys(case.host for case in cases) if answers(run, name)}
    for name in sorted(alive):
        run.failed(w.Usage(f"{name} answers, it is not gone: without --host-is-gone, or first mqi-case cancel"))
    lost = [case for case in cases if case.host not in alive]
    decided(run, lost, lambda case, *words: wish.retry(case, *words, host_is_gone=True))


def answers(run: cli.Run, name: str) -> bool:
    """Whether that host of the configuration answers now."""
    for host in hosts(run.site, run.book):
        if host.name == name:
            try:
                host.look([])
            except w.Unreachable as error:
                run.say(str(error))
                return False
            return True
    return False


def decided(run: cli.Run, cases: Sequence[w.Case], of: Wish) -> None:
    """Record what fits the cases, in one write; what does not is said, and the others go on. What comes next is said."""
    events = list[w.Event]()
    for case in cases:
        with run.isolated():
            events += of(case, run.args.reason, cli.user(), run.now())
    if len(run.record(events)) < len(events):
        run.code = max(run.code, 1)  # the line looks again in a minute, a person must know
    if run.args.dry_run:
        return
    for key in dict.fromkeys(event.case for event in events):
        after = run.book.case(key)
        if after and (follows := explain.next_of(after)):
            run.say(f"{after.id} is {after.status}; next: {follows}")


def choose(run: cli.Run) -> None:
    """Choose which deliveries of a held case count; recorded only if that makes a sound case."""
    picked = [word for word in run.args.deliveries.split(",") if word]
    for case in asked(run):
        if case.status != w.HELD:
            raise w.Usage(f"{case.id} is {case.status}, not held: there is nothing to release. See: mqi-case show {case.id}")
        if case.asked:
            raise w.Usage(f"{case.id}: {wish.asked(case)}: first mqi-case release {case.id} --reason ...")
        seen = folder.look_at(run.site, case.folder)
        there = sorted({name.partition("/")[0] for name in seen.sizes if "/" in name})
        if lost := [word for word in picked if word not in there]:
            raise w.Usage(f"{case.id} has no delivery {', '.join(lost)}; there are {', '.join(map(tables.printable, there))}")
        reasons = [*seen.reasons, *remaining(run, case, seen, picked)]
        if reasons:
            run.code = 1
            run.say(f"{case.id} would still be held, nothing was recorded:")
            for reason in reasons:
                run.say(f"  {reason.code}: {reason.text}")
            continue
        run.record([w.Chosen(case.key, run.now(), tuple(sorted(picked)), run.args.reason, cli.user())])
        run.say(f"{case.id}: the next mqi-scan releases it")


def remaining(run: cli.Run, case: w.Case, seen: folder.Folder, picked: list[str]) -> Sequence[w.Reason]:
    """What would still hold the case with this choice."""
    of, salt = profiles.named(run.site.scan.profile), run.book.state().id
    with folder.opened(os.path.join(run.site.inbox, case.folder)) as top:
        name = os.path.basename(case.folder)
        contents = of.read(top, seen, name, run.site.scan, salt, picked, lambda part: part == case.part)
    mine = [one for one in contents if one.part == case.part]
    return mine[0].reasons if mine else [w.Reason("choice", "", "these deliveries make no such case")]
