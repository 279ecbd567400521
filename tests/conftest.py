"""Real parts for the tests: an sshd and a pueued of our own, on loopback, in temporary folders, stopped by their ids."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPO = Path(__file__).resolve().parent.parent
REAL_HOME = Path(os.environ.get("MQI_REAL_HOME") or os.path.expanduser("~"))
GUARDED = (REAL_HOME / ".ssh", REAL_HOME / ".config" / "mqi", REAL_HOME / ".config" / "pueue", REAL_HOME / ".local/share/pueue",
           REAL_HOME / ".mqi", Path("/etc/mqi"))  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the fault bench, tests/faults")
    group.addoption("--faults", action="store_true", help="all of it, instead of the sample that fits the plain command: hours")
    group.addoption("--seed", help="the sample of this seed, instead of the one made of the commit's id")
    group.addoption("--point", help="only the points of the sweep whose names begin so")
    parser.addoption("--boot", action="store_true", help="also the tests that boot a machine; so does CI=true")
    parser.addoption("--soak", nargs="?", type=int, const=300, metavar="CASES", help="the month in an hour (300 cases), and nothing else")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole: only with --faults")
    config.addinivalue_line("markers", "boot: boots a machine; only with --boot, or CI=true")
    config.addinivalue_line("markers", "soak: only with --soak, and then alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if config.getoption("--faults") else ["whole"]
    left_out += [] if config.getoption("--boot") or os.environ.get("CI") == "true" else ["boot"]
    soaks = bool(config.getoption("--soak"))
    out = [item for item in items if any(map(item.get_closest_marker, left_out)) or bool(item.get_closest_marker("soak")) != soaks]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def need(program: str) -> str:
    """The real program. Its lack is a failure in CI and on a machine that tests/run has set up; never a skip there."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if not found:
        pytest.fail(f"{program} is not installed: tests/run installs it")
    return found


def sight(path: Path) -> object:
    """What the guard compares: existence, and names and mtimes below a folder."""
    if not path.exists():
        return None
    return sorted((str(p), p.lstat().st_mtime_ns) for p in [path, *path.rglob("*")] if not p.is_dir() or p == path)


@pytest.fixture(autouse=True)
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may touch the real home or the default configuration."""
    before = [sight(path) for path in GUARDED]
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("MQI_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    yield
    touched = [str(path) for path, was in zip(GUARDED, before, strict=True) if sight(path) != was]
    assert not touched, f"the test touched {touched}: it must use its own folders"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sshd(NamedTuple):
    """A real sshd on loopback. known_hosts names its key for `alias`; log counts its sessions."""

    port: int
    identity: str
    known_hosts: str
    log: Path
    folder: Path
    pid: int

    def sessions(self) -> int:
        """How many sessions it has started so far."""
        return self.log.read_text(errors="replace").count("Starting session:")

    def know(self, alias: str) -> str:
        """A known_hosts file that has its key under that alias."""
        path = self.folder / f"known-{alias}"
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        path.write_text(f"{alias} {kind} {key}\n")
        return str(path)


@contextmanager
def serving(more: str = "", sftp: str = "internal-sftp", front: Sequence[str] = ()) -> Iterator[Sshd]:
    """An sshd with keys of its own; `more` goes into its configuration, `front` starts it."""
    program = need("sshd")
    folder = Path(tempfile.mkdtemp(prefix="mqi-sshd-", dir="/tmp"))
    port = free_port()
    for name in ("host_key", "user_key"):
        subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    log = folder / "log"
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"PubkeyAuthentication yes\nPermitRootLogin yes\nLogLevel VERBOSE\nSubsystem sftp {sftp}\nMaxStartups 100\n"
        "X11Forwarding yes\nXAuthLocation /bin/true\nAcceptEnv LANG LC_* TAR_OPTIONS\n"  # so that only a key's own line refuses them
        f"PrintMotd no\nPrintLastLog no\nSetEnv HOME={folder}/home\n"  # the account there has a home of its own, too
        f"KexAlgorithms curve25519-sha256\n{more}"  # the default, against quantum computers, takes 0.1 s of CPU a session
    )
    (folder / "home").mkdir()
    server = subprocess.Popen([*front, program, "-D", "-f", str(folder / "config"), "-E", str(log)])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    try:
        yield Sshd(port, str(folder / "user_key"), "", log, folder, server.pid)
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    with serving() as server:
        yield server


class Pueued:
    """A real pueue daemon with its own folder, groups gpu0 and gpu1, one slot each."""

    def __init__(self, folder: Path, front: Sequence[str] = ()) -> None:
        self.folder, self.command, self.config, self.front = folder, need("pueue"), str(folder / "c.yml"), front
        for name in ("run", "data"):
            (folder / name).mkdir()
        Path(self.config).write_text(
            f"shared: {{pueue_directory: {folder}/data, runtime_directory: {folder}/run, unix_socket_path: {folder}/run/s, "
            f"pid_path: {folder}/run/pid, alias_file: {folder}/none.yml, use_unix_socket: true}}\nclient: {{}}\ndaemon: {{}}\n"
        )
        self.daemon: subprocess.Popen[bytes] | None = None
        self.small = ""  # its state lies on a file system of that size, which only the daemon sees

    def start(self) -> None:
        front = [*self.front]
        if self.small:
            data, kept = self.folder / "data", self.folder / "kept"  # the secret that its clients need stays to be seen, too
            text = f'cp -a {data} {kept} && mount -t tmpfs -o size={self.small} none {data} && cp -a {kept}/. {data} && exec "$@"'
            front = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "/bin/sh", "-c", text, "sh"]
        with (self.folder / "log").open("ab") as log:
            env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
            self.daemon = subprocess.Popen([*front, need("pueued"), "-c", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           start_new_session=True, env=env)  # fmt: skip
        deadline = time.monotonic() + 20
        while subprocess.run([self.command, "-c", self.config, "status", "--json"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def client(self, *words: str) -> str:
        ran = subprocess.run([self.command, "-c", self.config, *words], capture_output=True, text=True, timeout=30, check=False)
        return ran.stdout

    def state(self) -> dict[str, Any]:
        import json

        found: dict[str, Any] = json.loads(self.client("status", "--json"))
        return found

    def signal(self, number: int) -> None:
        assert self.daemon
        self.daemon.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.daemon.wait(20)

    def wipe(self) -> None:
        """The daemon dies and its state is gone."""
        self.signal(signal.SIGKILL)
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir()

    def groups(self, **slots: int) -> None:
        for name, count in slots.items():
            self.client("group", "add", name, "-p", str(count))

    def stop(self) -> None:
        """The daemon and every job of it, by their process groups."""
        if self.daemon and self.daemon.poll() is None:
            self.client("kill", "-a")
            self.signal(signal.SIGTERM)


@contextmanager
def queueing(small: str = "", front: Sequence[str] = ()) -> Iterator[Pueued]:
    """A queue with the groups gpu0 and gpu1, one slot each."""
    folder = Path(tempfile.mkdtemp(prefix="mqi-q-", dir="/tmp"))  # short: a socket's path has under 108 bytes
    queue = Pueued(folder, front)
    queue.start()
    if small:
        queue.signal(signal.SIGTERM)
        queue.small = small
        queue.start()
    queue.groups(gpu0=1, gpu1=1)
    try:
        yield queue
    finally:
        queue.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pueued() -> Iterator[Pueued]:
    with queueing() as queue:
        yield queue


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Place:
    """A site in a temporary folder, driven as a person would drive it: `place("mqi-scan", "--jsonl")`."""

    def __init__(self, folder: Path, host: str, job: str, extra: str = "") -> None:
        self.folder = folder
        for name in ("inbox", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.inbox, self.results, self.state, self.root = (folder / n for n in ("inbox", "results", "state", "host"))
        self.config = folder / "mqi.toml"
        self.runs = folder / "runs"  # the job's own record of what was executed
        self.env: dict[str, str] = {}
        self.front: list[str] = []  # what starts the programs, if it is not we ourselves
        self.config.write_text(
            f'[site]\nname = "T"\ninbox = "{self.inbox}"\nresults = "{self.results}"\nstate = "{self.state}"\nreserve = {64 << 20}\n'
            f'[scan]\nquiet = "0s"\n[job]\ncommand = \'\'\'\necho "$MQI_CASE $MQI_ATTEMPT" >>{self.runs} || exit 98\n{job}\n\'\'\'\n'
            f'results = ["*.out"]\ntime_limit = "60s"\n{extra}\n[hosts.far]\nroot = "{self.root}"\nreserve = {64 << 20}\n{host}\n'
        )

    def case(self, name: str, content: str | None = None) -> Path:
        folder = self.inbox / name
        (folder / "d").mkdir(parents=True)
        (folder / "plan.txt").write_text(content or f"plan of {name}\n")
        (folder / "d" / "log.bin").write_bytes(os.fsencode(name) * 100)
        return folder

    def argv(self, program: str, *words: str) -> list[str]:
        return [*self.front, sys.executable, "-m", "mqi_scripts", program, "--config", str(self.config), *words]

    def around(self) -> dict[str, str]:
        """The environment of its programs."""
        return {**os.environ, "PYTHONPATH": str(REPO), **self.env}

    def __call__(self, program: str, *words: str, stdin: str = "") -> Ran:
        ran = subprocess.run(self.argv(program, *words), input=stdin, capture_output=True, text=True, env=self.around(), timeout=300)
        assert "Traceback" not in ran.stderr, ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def tick(self) -> None:
        for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
            self(program)

    def until(self, *statuses: str, seconds: float = 120) -> dict[str, dict[str, Any]]:
        """Tick until every case has one of the statuses."""
        deadline = time.monotonic() + seconds
        while True:
            self.tick()
            rows = self.rows()
            if all(row["status"] in statuses for row in rows.values()):
                return rows
            assert time.monotonic() < deadline, rows
            time.sleep(0.2)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The report by case path."""
        import json

        ran = self("mqi-report", "--json")
        return {row["case_path"]: row for row in json.loads(ran.out)["cases"]}

    def ledger(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.state.glob("ledger-*.jsonl")))

    def executions(self) -> list[str]:
        """What was executed, as the job itself wrote it: `key attempt` a line."""
        return self.runs.read_text().splitlines() if self.runs.exists() else []


def alive(group: int) -> list[str]:
    """Processes of the group that are not dead and unreaped."""
    states = subprocess.run(["ps", "-e", "-o", "pgid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in states.splitlines()]
    return [pid for pgid, pid, state in rows if pgid == str(group) and not state.startswith("Z")]


JOB = 'cp "$MQI_INPUT/plan.txt" plan.out'


def host_text(transport: str, engine: str, transfer: str, sshd: Sshd | None, pueued: Pueued | None) -> str:
    """The keys of a host table for real parts."""
    text = f'transport = "{transport}"\nengine = "{engine}"\ntransfer = "{transfer}"\nqueue_depth = 100\n'
    if transport == "ssh" and sshd:
        import getpass

        text += f'address = "{getpass.getuser()}@127.0.0.1"\nport = {sshd.port}\nidentity = "{sshd.identity}"\n'
        text += f'known_hosts = "{sshd.know("mqi-far")}"\n'
    if engine == "pueue" and pueued:
        text += f'groups = ["gpu*"]\n[hosts.far.pueue]\ncommand = "{pueued.command}"\nconfig = "{pueued.config}"\n'
    if engine == "direct":
        text += "[hosts.far.direct]\nslots = 2\n"
    return text


def close_gate(place: Place, sshd: Sshd, *options: str) -> str:
    """The site's own key, whose line in authorized_keys opens only the gate to the site's root: that line. As
    docs/compute-host.md says, below the site's folder."""
    program, key = place.folder / "mqi-remote", place.folder / "key"
    program.write_text(place("mqi-check", "--far").out)
    program.chmod(0o755)
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    command = " ".join([str(program), "--root", str(place.root), *options])
    line = f'restrict,command="{command}" {key.with_suffix(".pub").read_text()}'
    with (sshd.folder / "authorized_keys").open("a") as file:
        file.write(line)
    text = place.config.read_text()
    place.config.write_text(text.replace(f'identity = "{sshd.identity}"', f'identity = "{key}"\ngate = true'))
    return line


def gate_options(engine: str, pueued: Pueued | None) -> list[str]:
    """What that line says of the queue."""
    if engine == "direct":
        return ["--engine", "direct", "--slots", "2"]
    assert pueued
    return ["--pueue", pueued.command, "--pueue-config", pueued.config]


@pytest.fixture
def local_place(tmp_path: Path) -> Place:
    """Local transport, engine direct."""
    return Place(tmp_path / "site", host_text("local", "direct", "scp", None, None), JOB)


@pytest.fixture
def far_place(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> Place:
    """Real ssh, real pueue."""
    return Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), JOB)
