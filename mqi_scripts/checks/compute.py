"""What is sound, slow or wrong on a compute host: pure functions over what a session told."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from mqi_scripts import words as w
from mqi_scripts.checks import Probe, fail, ok, warn
from mqi_scripts.checks.gateway import SKEW
from mqi_scripts.pure import looked, place, readers, tables
from mqi_scripts.world.config import HostConfig

SLOW = 3.0  # seconds to log in
DISTANT = 0.1  # seconds of a round trip from which on scp, which waits for each file, is the wrong tool
OLDEST = (3, 4, 1)  # reference: pueue.md
TOOLS = {"coreutils": (8, 24), "util-linux": (2, 27)}  # `sync FILE`; `flock` as it is used
ELSEWHERE = re.compile(r"exec /bin/sh (/\S+)/bin/[0-9a-f]+/mqi-job \1 ")  # what the far side's add_task writes


def typed(host: HostConfig, text: str) -> str:
    """Commands of pueue as they have to be typed there: its path, its configuration."""
    config = f" -c {host.pueue['config']}" if host.pueue["config"] else ""
    return re.sub(r"(^|`|&& )(pueued?) ", lambda match: f"{match[1]}{_beside(host, match[2])}{config} ", text)


def _beside(host: HostConfig, program: str) -> str:
    """pueue as it is called there, or the daemon beside it."""
    folder, slash, _ = host.pueue["command"].rpartition("/")
    return host.pueue["command"] if program == "pueue" else f"{folder}{slash}{program}"


def login(before: bytes, took: float, inside: float, by_hand: str, scp: bool) -> Iterator[Probe]:
    """before: what came before our program's first word. took, inside: seconds of the session, and of our program in it.
    by_hand: the command that shows what comes. scp: files travel by it."""
    if before:
        start = readers.show(before[:80].decode("utf-8", "replace")).replace("\n", " ").strip()
        fix = f"let ~/.bashrc and its like print only on a terminal (`[ -t 1 ]`); by hand, until it prints nothing: {by_hand}"
        found = f"it prints {len(before)} bytes before our program runs: {start!r}"
        yield warn("login shell", found + (", and scp may break on it" if scp else ""), fix)
    else:
        yield ok("login shell", "it prints nothing")
    slow = took - inside
    if slow > SLOW:
        yield warn("log in", f"it takes {slow:.1f} s, and each run logs in one to three times",
                   "see UseDNS and GSSAPIAuthentication in its sshd_config, and what its shell does at a login")  # fmt: skip
    else:
        yield ok("log in", f"{slow:.2f} s, and {inside:.2f} s for what our program asked there")


def latency(seconds: float, said: str, one_by_one: bool) -> Probe:
    """said: the server's first line. one_by_one: files travel by scp."""
    found = f"a round trip takes {seconds * 1000:.1f} ms; {said}"
    if seconds > DISTANT and one_by_one:
        return warn("latency", found, 'scp waits for each file: hosts.<name>.transfer = "tar"')
    return ok("latency", found)


def clock(ahead: float) -> Probe:
    if abs(ahead) > SKEW:
        return warn("clock", f"it is {ahead:+.0f} s from ours", "see chronyc or timedatectl on both")
    return ok("clock", f"{ahead:+.1f} s from ours")


def programs(lacks: Sequence[str], versions: Sequence[str]) -> Probe:
    """versions: first lines of what they say of themselves."""
    if lacks:
        fix = "install coreutils, util-linux, findutils, grep, tar there"
        return fail("programs", f"missing: {', '.join(lacks)}", fix, w.Configuration)
    for text in versions:
        for of, needed in TOOLS.items():
            if of in text and (found := number(text)) and found < needed:
                fix = f"needed is {of} {'.'.join(map(str, needed))} or newer"
                return fail("programs", f"{text} is too old", fix, w.Configuration)
    return ok("programs", ", ".join(filter(None, versions)))


def number(text: str) -> tuple[int, ...]:
    """The version in a line like `pueue 4.0.4`; empty if there is none."""
    match = re.search(r"\b([0-9]+(?:\.[0-9]+)+)", text)
    return tuple(map(int, match[1].split("."))) if match else ()


def pueue(client: str, daemons: Sequence[tuple[str, str]], config: Mapping[str, str]) -> Probe:
    """daemons: version and command line of each pueued of the account there. config: hosts.<name>.pueue."""
    found = number(client)
    if not found:
        return fail("pueue", f"{config['command']} does not tell its version: {client[:200]!r}",
                    "install pueue there, or give its whole path as hosts.<name>.pueue.command", w.Configuration)  # fmt: skip
    if found < OLDEST:
        return fail("pueue", f"{client} is too old", "needed is pueue 3.4.1 or newer", w.Configuration)
    ours = {number(version) for version, line in daemons if not config["config"] or config["config"] in line.split(" ")} - {()}
    if not ours:
        return ok("pueue", f"{client}; the daemon's version is not to be seen")
    if found in ours:
        return ok("pueue", f"{client}, client and daemon")
    other = " and ".join(".".join(map(str, one)) for one in sorted(ours))
    fix = "let the queue run empty, then restart pueued, so that both are of one version"
    if found[0] in {one[0] for one in ours}:
        return warn("pueue", f"the client is {client}, the daemon is {other}", fix)
    return fail("pueue", f"the client is {client}, the daemon is {other}: neither understands the other", fix, w.Configuration)


def groups(look: w.Look, host: HostConfig) -> Iterator[Probe]:
    ours = place.usable(look.groups, host.groups)
    names = ", ".join(f"{group.name} ({group.slots or 'unlimited'}{'' if group.running else ', paused'})" for group in ours)
    if none := place.why_none(host.name, look.groups, host.groups):
        what, _, fix = none.rpartition(": ")
        yield fail("groups", what, fix, w.Unreachable if ours else w.Configuration)
        return
    yield ok("groups", names)
    for group in ours:
        if not group.running:
            yield warn(f"group {group.name}", "it is paused", f"on {host.name}, `pueue start -g {group.name}`")
        if group.slots == 0:
            yield warn(f"group {group.name}", "it has no limit: all its tasks start at once, on one GPU",
                       f"on {host.name}, `pueue parallel 1 -g {group.name}`")  # fmt: skip
        if (devices := host.devices.get(group.name)) and len(devices) < group.slots:
            yield warn(f"group {group.name}", f"it has {group.slots} slots, and devices for {len(devices)}",
                       f"hosts.{host.name}.devices.{group.name}: one entry a slot")  # fmt: skip
    if "default" in {group.name for group in ours} and ours[1:]:
        yield warn("group default", "it is used like the others, and no GPU belongs to it",
                   f'hosts.{host.name}.groups = ["gpu*"], or whatever the groups of the GPUs are called')  # fmt: skip
    if lost := sorted(set(host.devices) - {group.name for group in look.groups}):
        yield warn("devices", f"the queue has no group {', '.join(lost)}", f"correct hosts.{host.name}.devices")


def tasks(look: w.Look, answer: str, cases: Mapping[str, w.Case], host: HostConfig) -> Iterator[Probe]:
    """Live tasks with our prefix that this ledger does not know. answer: the queue's own, which holds the command lines."""
    commands = {str(task["id"]): str(task.get("original_command", "")) for task in json.loads(answer)["tasks"].values()}
    known, strange = looked.ours((task for task in look.tasks or () if task.state != "ended"), cases)
    others = [task for task in (*known, *strange) if (at := ELSEWHERE.match(commands[task.id])) and at[1] != host.root]
    for task in sorted({*strange} - {*others}, key=lambda task: task.id):
        act = "kill --signal sigterm" if task.state == "running" else "remove"
        line = tables.printable(commands[task.id])[:120]
        found = f"it is {task.state} in {task.group}, and its label {task.label} is of no attempt in this ledger: {line!r}"
        fix = f"ask whose it is; if nobody misses it, on {host.name}, `pueue {act} {task.id}`; an old ledger? mqi-ledger verify"
        yield warn(f"task {task.id}", found, fix)
    for label in sorted({task.label for task in known}):
        if len(same := [task.id for task in known if task.label == label]) > 1:
            yield warn(f"tasks {', '.join(same)}", f"all have the label {label}; the wrapper lets only one of them compute",
                       f"on {host.name}, `pueue remove` those that wait")  # fmt: skip
    beside = f", {len(others)} of other gateways" if others else ""
    yield ok("tasks", f"{len(known)} of this ledger{beside}")


def locks(
    held: Sequence[Sequence[str]], cases: Mapping[str, w.Case], tasks: Sequence[w.Task] | None, host: str
) -> Iterator[Probe]:
    """Who holds locks of cases and slots that nobody should. held: lock, /proc/<pid>, name. tasks None: the queue did not say,
    or it has none of its own."""
    holders = by_lock(held)
    busy = {pid for name, who in holders.items() if name.startswith("cases/") for pid in who}
    sound = True
    for name, who in sorted(holders.items()):
        case = cases.get(name.split("/")[1])
        if name.startswith("slots/"):
            why = "" if busy & who.keys() else "and belong to no case"
        elif case is None or not case.open:
            why = f"and {case.id} is {case.status}" if case else "and this ledger has no such case"
        else:
            lives = tasks is None or any(task.label == case.label and task.state != "ended" for task in tasks)
            why = "" if lives else f"for attempt {case.attempt} of {case.id}, which no task of the queue runs any more"
        if why:
            sound = False
            yield warn(f"lock {name}", f"held by processes {_people(who)}, {why}",
                       f"let it end (mqi-poll sees it), or on {host}: kill {' '.join(sorted(who))}")  # fmt: skip
    if sound:
        yield ok("locks", f"{len(holders)} held, each by a job of ours" if holders else "none is held")


def by_lock(held: Sequence[Sequence[str]]) -> dict[str, dict[str, str]]:
    """Names of programs by pid, by lock."""
    holders: dict[str, dict[str, str]] = {}
    for name, process, program in held:
        holders.setdefault(name, {})[process.rpartition("/")[2]] = tables.printable(program)
    return holders


def slot(case: w.Case, held: Sequence[Sequence[str]], cases: Mapping[str, w.Case]) -> str:
    """Who has the slots that a case waits for, and which case that is. Who waits has the file open, too, and does not count."""
    holders = by_lock(held)
    owners = {pid: name.split("/")[1] for name, who in holders.items() if name.startswith("cases/") for pid in who}
    waiting = {key for key, one in cases.items() if one.status == w.SUBMITTED}
    texts = []
    for name, who in sorted(holders.items()):
        have = {pid: program for pid, program in who.items() if owners.get(pid) not in waiting}
        if have and re.fullmatch(rf"slots/{re.escape(case.group)}-[0-9]+", name):
            whose = [_whose(key, cases.get(key)) for key in sorted({owners[pid] for pid in have if pid in owners})]
            text = " and ".join(whose) or f"no case: let them end, or on {case.host}: kill {' '.join(sorted(have))}"
            texts.append(f"{name.partition('/')[2]} is held by processes {_people(have)} of {text}")
    return "; ".join(texts) or "nobody is seen to hold one of its group's: it gets one within seconds"


def _whose(key: str, case: w.Case | None) -> str:
    return f"case {case.id}, which is {case.status}" if case else f"case {key[: w.ID]}, which this ledger does not know"


def _people(who: Mapping[str, str]) -> str:
    return ", ".join(f"{pid} ({program})" for pid, program in sorted(who.items()))
