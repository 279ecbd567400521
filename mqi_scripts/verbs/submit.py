"""mqi-submit - give pushed cases to the queue, each attempt once; adopt what is there, revoke what cannot start

examples:
  mqi-submit                all cases that are pushed
  mqi-submit 3fa9c1         one of them, by the beginning of its id
  mqi-submit --dry-run      where they would go
"""

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.world.host import Add, Host


def work(run: cli.Run) -> None:
    due = run.chosen(w.PUSHED, w.SUBMITTED, w.RUNNING)
    run.on_hosts([case for case in due if case.status != w.RUNNING or (case.missing and case.unwanted)], submit)


def submit(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """Look, decide, write down the intents, act once, look again and record what is there: two sessions."""
    from mqi_scripts.pure import decide, order, place  # noqa: PLC0415

    if not any(case.status == w.PUSHED or case.missing or case.pending or case.asked for case in cases):
        return
    out = [(c.key, c.attempt) for c in run.book.state().open.values() if c.host == host.name and c.open]
    look = host.look(out)
    wishes = [(case, decide.submit(case, look, run.now())) for case in cases]
    run.record([wish for _, wish in wishes if isinstance(wish, w.Event)])
    revoke = [(wish.case.key, wish.case.attempt) for _, wish in wishes if isinstance(wish, decide.Revoke)]
    want = {case.key: wish for case, wish in wishes if isinstance(wish, decide.Submit)}
    state, ours, limits = run.book.state(), host.config.groups, run.site.job.groups
    bad = place.broken(state.failed, host.name, run.site.breaker.jobs)
    found = [*place.rooms(host.name, look, ours, state.runs, bad)]
    first = order.urgent([wish.case for wish in want.values()], run.site.schedule, state.turn, run.now())
    placed = place.choose(first, found, host.config.queue_depth, limits, state.turn)
    for room in found if placed else ():
        run.say(place.told(room, sum(group == room.group for _, group in placed)))
    begun = {label for label, trace in look.traces.items() if trace.claim != "none"}  # mqi-poll says so
    goes = {case.key for case, _ in placed} | {case.key for case in cases if case.label in begun}
    still = [case for case in cases if case.key not in goes and not case.asked]
    waiting = [case for case in still if state.open.get(case.key, case).status == w.PUSHED]
    whys = {case.key: place.why_none(host.name, look.groups, ours, place.allowed(case.path, limits), bad) for case in waiting}
    for none in dict.fromkeys(whys.values()):
        mute = f"the queue of {host.name} does not answer: {look.trouble}" if look.trouble else ""
        some, why = [c for c in waiting if whys[c.key] == none], mute or none or "every slot has enough tasks waiting"
        run.waits(some, why, w.Unreachable.category if look.trouble else w.Failure.category)
        run.say(f"{len(some)} cases wait: {why}")
    adds = [(want[case.key], group) for case, group in placed]
    intents = [
        w.Submitting(add.case.key, run.now(), add.attempt, add.case.digest, host.name, group.name)
        for add, group in adds
        if not (add.case.intent and add.case.group == group.name)
    ]
    run.record(intents)
    if run.args.dry_run or not (adds or revoke):
        run.heard(host.name, look)
        return
    now = run.book.state()
    tasks = [
        Add(add.case.key, add.attempt, add.case.digest, group.name, group.slots)
        for add, group in adds
        if (case := now.open.get(add.case.key)) and case.intent and not case.asked and case.attempt == add.attempt
    ]
    seen = [*dict.fromkeys([*out, *((task.key, task.attempt) for task in tasks)])]
    look = host.submit(run.site.job, revoke, tasks, seen, now.head)
    keys = dict.fromkeys(key for key, _ in (*revoke, *((t.key, t.attempt) for t in tasks)))
    acted = [case for key in keys if (case := now.open.get(key))]  # another script may have seen one revoked
    run.record([event for case in acted if isinstance(event := decide.submit(case, look, run.now()), w.Event)])
    gone = {note.partition(" ")[0] for note in look.notes}  # a note that begins with a key tells that its input is not there
    run.record([w.Cleaned(case.key, run.now(), case.attempt, host.name, 0) for case in acted if case.intent and case.key in gone])
    lost = [case for case in acted if case.intent and case.label in look.traces and not look.traces[case.label].folder]
    run.waits(lost, "; ".join(look.notes) or "the host made no attempt of it; see mqi-check", w.Failure.category)
    run.heard(host.name, look)


main = cli.script("mqi-submit", __doc__ or "", work)
