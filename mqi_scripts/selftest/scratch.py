"""A site for the self-test: folders and a ledger of its own, a root of its own on the site's host, and the scripts run there, with
a fault in their way where one is asked for. What it makes is gone afterwards."""

import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from mqi_scripts import words as w
from mqi_scripts.install.sample import literal
from mqi_scripts.pure import readers
from mqi_scripts.world import config
from mqi_scripts.world.host import FAR, Host
from mqi_scripts.world.ledger import Ledger
from mqi_scripts.world.run import Ran, run

HERE = os.path.dirname(__file__)
PACKAGE = os.path.dirname(os.path.dirname(HERE))
PATIENCE = 120.0  # seconds until a case of ours must have come to rest: the queue may have got work of others meanwhile
SIZE = 300_000  # bytes of a case: more than a cut lets through
JOB = """echo "$MQI_CASE $MQI_ATTEMPT" >>{root}/runs
exec 5>>"{root}/live-$MQI_CASE"
flock -n 5 || echo "$MQI_CASE" >>{root}/two
tries=0
until [ ! -e "$MQI_INPUT/waits" ] || [ -e {root}/go ] || [ $tries -gt 300 ]; do sleep 0.1 && tries=$((tries + 1)); done
cp "$MQI_INPUT/data" data"""

# What a look of our own shows. runs: executions by `key attempt`, as the jobs wrote it. two: keys of which two were alive. have:
# inputs and attempts there. tasks: how many tasks have a label. busy: something of ours waits or runs.
Seen = NamedTuple("Seen", [
    ("runs", Counter[str]), ("two", list[str]), ("have", list[str]), ("tasks", Counter[str]), ("busy", bool),
])  # fmt: skip


class Scratch:
    """From `open` to `close`. folder: a new one, below the site's state. host: the site's own; what we ask of it takes no relay."""

    def __init__(self, site: config.Site, host: config.HostConfig, folder: str) -> None:
        self.site, self.host, self.folder = site, host, folder
        self.inbox, self.results, self.state, self.bin = (f"{folder}/{name}" for name in ("inbox", "results", "state", "bin"))
        self.config, self.root, self.system, self.asked = f"{folder}/mqi.toml", "", "", False
        self.far = Host(host, self.state, "", False, lambda _: False)

    def open(self) -> None:
        """Its folders on the gateway; those of a test that was killed go first."""
        _end(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in (self.folder, self.inbox, self.results, self.state, f"{self.state}/cache", self.bin):
            os.mkdir(path, 0o700)
        for name in ("ssh", "scp", "sh", "cut-ssh"):
            shutil.copy(f"{HERE}/relay.sh", f"{self.bin}/{name}")
            os.chmod(f"{self.bin}/{name}", 0o700)

    def make(self) -> None:
        """Its root on the host, and the configuration that names it. Raises Unreachable."""
        self.asked = True
        said = self.ask("make", _text(f"{HERE}/client.sh"), root=self.host.root)
        self.root, self.system = said.named("root")[0][0], said.named("system")[0][0]
        table = {key: f"{one:.0f}s" if isinstance(one, float) else one for key, one in self.host._asdict().items()}  # durations
        table |= {"root": self.root, "pueue": {**self.host.pueue, "command": f"{self.root}/client"}}
        name = table.pop("name")
        tables = {
            "site": {"name": self.site.name, "inbox": self.inbox, "results": self.results, "state": self.state},
            "scan": {"profile": "files", "quiet": "0s"}, "hosts": {name: table},
            "job": {"command": JOB.format(root=self.root), "results": ["data"], "time_limit": "5m"},
        }  # fmt: skip
        with open(self.config, "w", encoding="utf-8") as file:
            file.writelines(f"{key} = {literal(one)}\n" for key, one in tables.items())

    def close(self) -> str:
        """All of it goes, also what runs of it. Returns what is left, "" if nothing."""
        _end(self.folder)
        try:
            if self.asked:
                self.ask("clear", root=self.host.root)
        except (w.Failure, OSError) as error:
            return f"not all is gone of the test on {self.host.name}: {error}. The next mqi-check --faults tries again"
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return f"{self.folder} cannot be removed" if os.path.exists(self.folder) else ""

    # the gateway

    def case(self, name: str, *, waits: bool = False) -> None:
        """A new folder in the inbox. waits: its job runs until `go`, for half a minute at most."""
        os.mkdir(f"{self.inbox}/{name}")
        with open(f"{self.inbox}/{name}/data", "wb") as file:
            file.write(os.urandom(SIZE))
        if waits:
            with open(f"{self.inbox}/{name}/waits", "xb"):
                pass

    def run(self, program: str, *words: str, fault: str = "", most: int | None = None) -> Ran:
        """One of the site's programs. fault: for relay.sh. most: no file may grow beyond so many bytes. Raises Failure where a
        fault did not come about."""
        plan = f"{self.bin}/fault"
        if fault:
            with open(plan, "w", encoding="ascii") as file:
                file.write(f"{fault}\n")
        ours = ":".join(filter(None, [PACKAGE, os.environ.get("PYTHONPATH")]))
        front = ["env", "-u", "MQI_TIMER", f"PATH={self.bin}:{os.environ['PATH']}", f"PYTHONPATH={ours}"]
        front += ["prlimit", f"--fsize={most}"] if most is not None else []
        ran = run([*front, sys.executable, "-P", "-m", "mqi_scripts", program, "--config", self.config, *words], seconds=600)
        if os.path.exists(plan):
            os.unlink(plan)
            raise w.Failure(f"the fault `{fault}` did not come about: {told(program, ran)}")
        return ran

    def line(self, *programs: str) -> None:
        for program in programs:
            self.run(program)

    def cases(self) -> list[w.Case]:
        return list(Ledger(self.state, {}).cases().values())

    def of(self, name: str) -> w.Case:
        """What the ledger says of a case. Raises Failure where it knows none of that name."""
        for case in self.cases():
            if case.path == name:
                return case
        raise w.Failure(f"the ledger knows no case {name}")

    def ledger_size(self) -> int:
        return sum(os.path.getsize(f"{self.state}/{name}") for name in os.listdir(self.state) if name.startswith("ledger-"))

    def until(self, done: Callable[[], bool], *programs: str) -> bool:
        """Run those again and again until it is so. False: it never was."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                return False
            self.line(*programs)
            time.sleep(0.2)
        return True

    # the host

    def settled(self) -> Seen:
        """A look when nothing of ours waits or runs, or the last one when it never was so."""
        deadline = time.monotonic() + PATIENCE
        while (seen := self.look()).busy and time.monotonic() < deadline:
            time.sleep(0.2)
        return seen

    def ask(self, verb: str, *words: object, root: str = "") -> readers.Answer:
        """A session of there.sh. Raises Unreachable, also where it could not do it."""
        nonce, queue = os.urandom(8).hex(), self.host.pueue
        text = "".join(_text(path) for path in (f"{FAR}/mqi-remote.sh", f"{HERE}/there.sh"))
        words = (nonce, root or self.root, self.host.engine, queue["command"], queue["config"], verb, *words)
        text = f"{text}\nselftest {shlex.join(map(str, words))}\n"
        ran = run(self.far.reach("exec /bin/sh -s"), seconds=PATIENCE, stdin=text.encode())
        try:
            said = readers.answer(ran.out, nonce)
        except readers.Unreadable as error:
            last = readers.show(ran.err.decode("utf-8", "replace")).strip().rpartition("\n")[2]
            raise w.Unreachable(f"{self.host.name}: {ran.ended or error}: {last}. See: mqi-check") from None
        if said.code:
            raise w.Unreachable(f"{self.host.name}: {said.notes() or 'it said nothing'}")
        return said

    def look(self) -> Seen:
        said = self.ask("tell")
        seen = readers.look(said, self.host.engine, self.root)
        if seen.tasks is None:
            raise w.Unreachable(f"the queue of {self.host.name} does not answer: {seen.trouble}")
        labels = Counter(task.label for task in seen.tasks)
        ours = [task for task in seen.tasks if any(task.label.startswith(f"mqi1:{have[:20]}:") for (have,) in said.named("have"))]
        busy = any(task.state != "ended" for task in ours) or said.named("busy") != [("0",)]
        runs = Counter(line for (line,) in said.named("run"))
        return Seen(runs, [key for (key,) in said.named("two")], [have for (have,) in said.named("have")], labels, busy)


def told(program: str, ran: Ran) -> str:
    """How a run ended, in a few words."""
    last = readers.show(ran.err.decode("utf-8", "replace")).strip().rpartition("\n")[2]
    end = "was killed" if ran.code == -signal.SIGKILL else f"ended with {ran.ended or ran.code}"
    return f"{program} {end}{': ' if last else ''}{last[:200]}"


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _end(folder: str) -> None:
    """Scripts that were stopped leave sessions behind, which end by themselves, or are ended."""
    for number in [0] * 200 + [signal.SIGKILL]:
        left = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid() and _runs_in(pid, folder)]
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.1)


def _runs_in(pid: str, folder: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read().decode("utf-8", "replace")
            return any(f"{folder}/{name}" in line for name in ("bin/", "state/cache/ssh-", "mqi.toml"))
    except OSError:
        return False
