"""The whole self-test of one host: is there room for it, every scene, and nothing left behind; its record."""

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mqi_scripts import __version__
from mqi_scripts import words as w
from mqi_scripts.pure import codec, place, readers
from mqi_scripts.selftest import BROKEN, HELD, NOT, Fault, Record
from mqi_scripts.selftest.scenes import SCENES, Scene
from mqi_scripts.selftest.scratch import Scratch
from mqi_scripts.world import config
from mqi_scripts.world.host import NOBODY, program
from mqi_scripts.world.run import run

GATE = (
    "our key there opens only the gate to {root}, and the test needs a folder of its own, which it takes away again. Make a key "
    "for the test (ssh-keygen), add it to authorized_keys there without a gate, name it in a copy of the configuration (gate = "
    "false, identity), run mqi-check --faults --config COPY, and take the key out of authorized_keys again"
)


def plan(host: config.HostConfig) -> str:
    """What it would do, for --dry-run."""
    if host.gate:
        return f"{host.name}: it cannot be tried: {GATE.format(root=host.root)}"
    count = sum(scene.tasks for scene in scenes(host))
    queue = f" to groups of its queue ({' '.join(host.groups)})" if host.engine == "pueue" else ""
    return (
        f"{host.name}: would give {count} tasks that compute nothing{queue}, at most two at a time, and take them out again; in "
        f"{host.root}/selftest there ({host.root}.selftest, as long as {host.root} is not made), and <state>/selftest here; "
        f"with the faults {', '.join(scene.name for scene in scenes(host))}"
    )


def scenes(host: config.HostConfig) -> list[Scene]:
    return [scene for scene in SCENES if scene.engine in ("", host.engine)]


def tried(site: config.Site, host: config.HostConfig, by: str, say: Callable[[str], None]) -> Record:
    """Every fault, one after the other; also after Ctrl-C all of it is taken away, or it is said what is left."""
    at = Scratch(site, host, os.path.join(site.state, "selftest"))
    begun, trouble, faults, versions = now(), "", list[Fault](), gateway()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C, which takes away what was made
    try:
        if host.gate:
            raise w.Configuration(GATE.format(root=host.root))
        at.open()
        versions |= there(at)
        at.make()
        versions["system there"] = at.system
        for scene in SCENES:
            faults.append(one(at, scene))
            say(f"{host.name}: {scene.name}: {faults[-1].verdict}")
    except (w.Failure, OSError) as error:
        trouble = str(error)
    finally:
        with deaf():
            left = at.close()
            say(f"{host.name}: {left or 'nothing of the test is left'}")
    good = len(faults) == len(SCENES) and not trouble and not left and all(fault.verdict != BROKEN for fault in faults)
    where = f"{host.address}:{host.port}" if host.transport == "ssh" else "this machine"
    tasks = sum(scene.tasks for scene in scenes(host)) if faults else 0
    return Record(site.name, host.name, where, at.root, by, begun, now(), HELD if good else BROKEN if faults else "not tried",
                  "; ".join(filter(None, [trouble, left])), versions, tasks, faults)  # fmt: skip


def one(at: Scratch, scene: Scene) -> Fault:
    begin, seen = time.monotonic(), list[tuple[bool, str]]()
    if scene not in scenes(at.host):
        return Fault(scene.name, scene.made, NOT, 0.0, seen)
    try:
        seen.extend(scene.play(at))
    except (w.Failure, OSError) as error:
        seen.append((False, str(error)))
    verdict = HELD if all(held for held, _ in seen) else BROKEN
    return Fault(scene.name, scene.made, verdict, round(time.monotonic() - begin, 1), seen)


def gateway() -> dict[str, str]:
    """What runs here, by name."""
    ssh = run(("ssh", "-V"), seconds=10).err.decode("ascii", "replace").strip()
    return {"mqi": __version__, "sent to the host": codec.sha256(program().encode()), "python": platform.python_version(),
            "gateway": os.uname().nodename, "its ssh": ssh, "its system": platform.platform()}  # fmt: skip


def there(at: Scratch) -> dict[str, str]:
    """What runs on the host; and that it could run a task of ours now. Raises Unreachable where it could not."""
    said = at.far.session("check", [], NOBODY, judged=False)
    look = readers.look(said, at.host.engine, at.host.root)
    if look.trouble:
        raise w.Unreachable(f"the queue of {at.host.name} does not answer: {look.trouble}. See: mqi-check")
    rooms = list(place.rooms(at.host.name, look, at.host.groups, {}))
    if not any(not room.shut and place.ahead(room) < 1 for room in rooms):
        seen = "; ".join(place.told(room, 0) for room in rooms) or place.why_none(at.host.name, look.groups, at.host.groups)
        raise w.Unreachable(f"no slot of {at.host.name} is free, and the test waits for none: run it when one is ({seen})")
    queue = [line[0] for line in said.named("version")] or [at.host.engine]
    daemons = sorted({line[0] for line in said.named("daemon")}) if at.host.engine == "pueue" else []
    return {"queue": ", ".join([*queue, *daemons]), "programs there": ", ".join(line[0] for line in said.named("tool"))}


@contextmanager
def deaf() -> Iterator[None]:
    """Ctrl-C and TERM wait: what was made is taken away first."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def now() -> str:
    return codec.stamp(datetime.now(UTC))
