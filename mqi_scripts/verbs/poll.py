"""mqi-poll - see what became of the attempts: started, computed, failed, interrupted; end what is cancelled

examples:
  mqi-poll                  every case that is submitted or running
  mqi-poll 3fa9c1           one of them
  mqi-poll --jsonl          what is new, a JSON line an event
"""

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.world.host import Host

GRACE = 10  # seconds between TERM and KILL


def work(run: cli.Run) -> None:
    due = [case for case in run.chosen(w.PUSHED, w.SUBMITTED, w.RUNNING) if case.open]
    run.note["progress"] = {}
    run.on_hosts(due, poll)


def poll(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """One look; what it proves is recorded; jobs that are cancelled, or outlived wrapper and time limit, are ended."""
    from mqi_scripts.pure import decide, place, readers  # noqa: PLC0415

    look = host.look([(case.key, case.attempt) for case in cases])
    rules = decide.Rules(run.site.retry.interrupted, run.site.job.time_limit)
    run.record([event for case in cases for event in decide.poll(case, look, rules, run.now())])
    ends = [(case, why) for one in cases if (case := run.book.state().open.get(one.key)) and (why := decide.end(case, look, rules))]
    for why in dict.fromkeys(why for _, why in ends):
        jobs = [(case.key, case.attempt) for case, reason in ends if reason == why]
        run.say(f"{host.name}: {'would end' if run.args.dry_run else 'ending'} {len(jobs)} jobs: {why}")
        if not run.args.dry_run:
            host.end(why, GRACE, jobs, run.book.state().head)
            after = host.look(jobs)  # who is still there is ended again by the next run
            run.record([event for case, _ in ends for event in decide.poll(case, after, rules, run.now())])
    run.note.setdefault("groups", {})[host.name] = [list(group) for group in look.groups]
    for case in cases:
        trace = decide.own_trace(case, look)
        if trace and trace.claim == "begun":
            run.note["progress"][case.key] = readers.progress(trace.tail, run.site.job.progress)
        elif why := place.why_waiting(case, look, host.name):
            run.waits([case], why, w.Unreachable.category if look.trouble else w.Failure.category)
    run.heard(host.name, look)


main = cli.script("mqi-poll", __doc__ or "", work)
