"""mqi-poll - see what became of the attempts: started, computed, failed, interrupted; end what is cancelled

examples:
  mqi-poll                  every case that is submitted or running
  mqi-poll 3fa9c1           one of them
  mqi-poll --jsonl          what is new, a JSON line an event
"""

import os
import re
from datetime import timedelta

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.world import files
from mqi_scripts.world.host import Host

GRACE = 10  # seconds between TERM and KILL


def work(run: cli.Run) -> None:
    due = [case for case in run.chosen(w.PUSHED, w.SUBMITTED, w.RUNNING) if case.open]
    kept = files.read_note(os.path.join(run.site.state, "health", "mqi-poll.json")).get("logs", {})
    run.note |= {"progress": {}, "logs": {key: mark for key, mark in kept.items() if key in run.book.state().open}}
    run.on_hosts(due, poll)


def poll(run: cli.Run, host: Host, cases: list[w.Case]) -> None:
    """One look; what it proves is recorded; jobs that are cancelled, or outlived wrapper and time limit, are ended."""
    from mqi_scripts.pure import decide, place  # noqa: PLC0415

    look = host.look([(case.key, case.attempt) for case in cases])
    rules = decide.Rules(run.site.retry.interrupted, run.site.job.time_limit)
    run.record([event for case in cases for event in decide.poll(case, look, rules, run.now())])
    silent = {case.key: silence_of(run, host, case, look) for case in cases}
    stuck = {key: decide.SILENT for key, silence in silent.items() if silence and run.site.job.silent_end}
    now = [case for one in cases if (case := run.book.state().open.get(one.key))]
    ends = [(case, why) for case in now if (why := decide.end(case, look, rules) or stuck.get(case.key, ""))]
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
            run.note["progress"][case.key] = progress(trace.tail, run.site.job.progress)
            why = odd(case, look, host.name) or silent[case.key]
        else:
            why = place.why_waiting(case, look, host.name)
        if why:
            run.waits([case], why, w.Unreachable.category if look.trouble else w.Failure.category)
    run.heard(host.name, look)


def silence_of(run: cli.Run, host: Host, case: w.Case, look: w.Look) -> str:
    """That a job that runs does not say anything any more, and what helps; "" if it does, or nobody knows, or the site does not
    care. Marks how long its log has had this size."""
    from mqi_scripts.pure import decide  # noqa: PLC0415

    marks, limit = run.note["logs"], run.site.job.silent_limit
    if not (mark := decide.still(case, look, marks.get(case.key, ()))):
        return ""
    marks[case.key] = mark
    if not 0 < limit <= mark[3] - mark[2]:
        return ""
    since, most = timedelta(seconds=mark[3] - mark[2]), timedelta(seconds=limit)
    said = f"it seems to hang: nothing new in its log for {since} (job.silent_limit is {most})"
    log = f"{host.config.root}/cases/{case.key}/attempt-{case.attempt}/job.log on {host.name}"
    helps = f'read {log}; if it does hang, `mqi-case cancel {case.id} --reason "..."`, and mqi-case retry'
    return f"{said}: {'it is ended' if run.site.job.silent_end else helps}"


def odd(case: w.Case, look: w.Look, host: str) -> str:
    """What queue and processes tell differently of a job that has begun, with what follows; "" if nothing, or one is unknown."""
    trace = look.traces.get(case.label)
    if look.tasks is None or not trace or trace.claim != "begun" or trace.result:
        return ""
    lives, tasks = trace.held or trace.alive, [task for task in look.tasks if task.label == case.label and task.state != "ended"]
    if lives and not tasks:
        return f"its processes live, and the queue of {host} has no task of it any more: they run on, and their result counts"
    verb = "kill" if tasks and tasks[0].state == "running" else "remove"
    gone = f"its processes are gone, and the queue of {host} still has its task"
    return f"{gone}: on {host}, `pueue {verb} {tasks[0].id}`" if tasks and not lives else ""


def progress(tail: str, pattern: str) -> tuple[str, str]:
    """(percentage, last line) of a log's end. pattern: one group is a percentage, two are `done of total`."""
    percent = ""
    for match in re.finditer(pattern, tail) if pattern else ():
        numbers = [float(group) for group in match.groups() if group and re.fullmatch(r"[0-9]+(\.[0-9]+)?", group)]
        done, total = [*numbers, 100.0, 0.0][:2]
        percent = f"{100 * done / total:.0f}%" if total else ""
    return percent, tail.strip().rpartition("\n")[2].strip()[:200]


main = cli.script("mqi-poll", __doc__ or "", work)
