"""The gate over a real sshd: what a key limited to mqi-remote must refuse, each with a canary that the same thing sets off with
an open key, or that the untouched words or tar set off through the gate; and what it must still do."""

from __future__ import annotations

import getpass
import io
import os
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import JOB, REPO, Place, Sshd, close_gate, free_port, gate_options, host_text, need

from mqi_scripts.install import upgrade
from mqi_scripts.pure.codec import sha256
from mqi_scripts.world import folder, host
from mqi_scripts.world.host import FAR

NONCE = "0123456789abcdef"


class Gate(NamedTuple):
    """A site whose key opens only the gate, one case of it pushed and not yet submitted; sshd's own key is the open one."""

    place: Place
    sshd: Sshd

    @property
    def key(self) -> str:
        return str(self.place.folder / "key")

    @property
    def canary(self) -> Path:
        return self.place.folder / "CANARY"

    def options(self, key: str) -> list[str]:
        known = self.sshd.know(f"[127.0.0.1]:{self.sshd.port}")
        return ["-F", "/dev/null", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
                "-o", f"UserKnownHostsFile={known}", "-o", "ConnectTimeout=10"]  # fmt: skip

    @property
    def account(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    def argv(self, *words: str, key: str = "") -> list[str]:
        """ssh with the key (the gate's), options of the attack, and perhaps a command."""
        return ["ssh", *self.options(key or self.key), "-p", str(self.sshd.port), *words]

    def ssh(self, command: str, stdin: bytes = b"", *options: str, key: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
        path = [] if options or key else ["-S", str(self.sshd.folder / "gate")]  # a plain session goes over one connection
        argv = self.argv(*options, *path, "--", self.account, *([command] if command else []), key=key)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=60, env={**os.environ, **env})

    def sight(self) -> object:
        """All that a refused thing could have changed."""
        root = self.place.root
        tree = [(str(path.relative_to(root)), path.lstat().st_size, path.lstat().st_mode) for path in root.rglob("*") if path.name != "lock"]
        return sorted(tree), self.canary.exists(), self.place.executions()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Iterator[Gate]:
    place = Place(tmp_path_factory.mktemp("gate") / "site", host_text("ssh", "direct", "tar", sshd, None), JOB)
    close_gate(place, sshd, *gate_options("direct", None))
    place.case("a")
    for program in ("mqi-scan", "mqi-push"):
        ran = place(program)
        assert ran.code == 0, ran.err
    made = Gate(place, sshd)
    path = sshd.folder / "gate"
    master = subprocess.Popen(made.argv("-M", "-N", "-S", str(path), made.account), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not path.exists():
        assert master.poll() is None
        time.sleep(0.02)
    yield made
    master.kill()
    master.wait(10)


def refused(gate: Gate, ran: subprocess.CompletedProcess[bytes], before: object) -> None:
    assert ran.returncode != 0
    assert b"mqi-remote: " in ran.stderr, ran.stderr
    assert b"MQI-" not in ran.stdout
    assert gate.sight() == before
    assert not gate.canary.exists()


# --- commands: whatever a client asks the server to run

COMMANDS = [
    "", "sh", "/bin/sh", "exec /bin/sh -s", "bash -i", "touch {canary}", "mqi-remote", "mqi-remote ", "mqi-remote look;touch {canary}",
    "mqi-remote look\ntouch {canary}", "mqi-remote $(touch {canary})", "`touch {canary}`", "mqi-remote look | sh", "mqi-remote  look",
    "mqi-remote look ", " mqi-remote look", "mqi-remote LOOK", "look", "send", "mqi-remote send x", "mqi-remote main", "mqi-remote gate",
    "mqi-remote do_look", "mqi-remote --root /", "mqi-remote look --root /", "mqi-remote *", "{program} --root /", "env", "cat /etc/passwd",
    "tar -xf - -C /", "exec tar -cf - -C / etc", "scp -t {folder}", "scp -f /etc/passwd", "internal-sftp", "/usr/lib/openssh/sftp-server",
    "rsync --server -e.LsfxC . /", "git-upload-pack /", "pueue kill -a", "mqi-remote 'look'", '"mqi-remote look"', "é\x01\x7f", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: repr(command[:40]))
def test_no_command_but_the_gate_s_own_is_run(command: str, gate: Gate) -> None:
    before, program = gate.sight(), gate.place.folder / "mqi-remote"
    text = command.format(canary=gate.canary, folder=gate.place.folder, program=program) if "{" in command else command
    ran = gate.ssh(text, f"touch {gate.canary}\n".encode())
    refused(gate, ran, before)
    assert ran.stdout == b""


@pytest.mark.parametrize("command", ["", "exec /bin/sh -s", "touch {canary}", "mqi-remote look;touch {canary}", "`touch {canary}`"])
def test_an_open_key_sets_that_canary_off(command: str, gate: Gate) -> None:
    gate.ssh(command.format(canary=gate.canary), f"touch {gate.canary}\n".encode(), key=gate.sshd.identity)
    assert gate.canary.exists()
    gate.canary.unlink()


def copies(gate: Gate, key: str) -> dict[str, list[str]]:
    options, port, canary = gate.options(key), str(gate.sshd.port), str(gate.canary)
    mine, theirs = str(gate.place.config), f"{gate.account}:{canary}"
    return {
        "sftp": ["sh", "-c", f"echo put {mine} {canary} | \"$@\"", "sh", "sftp", *options, "-b", "-", "-P", port, gate.account],
        "sftp get": ["sh", "-c", f"echo get {mine} {canary} | \"$@\"", "sh", "sftp", *options, "-b", "-", "-P", port, gate.account],
        "scp up": ["scp", *options, "-P", port, mine, theirs],
        "scp -O up": ["scp", "-O", *options, "-P", port, mine, theirs],
        "scp down": ["scp", *options, "-P", port, f"{gate.account}:{mine}", canary],
        "scp -O down": ["scp", "-O", *options, "-P", port, f"{gate.account}:{mine}", canary],
    }


COPIES = ["sftp", "sftp get", "scp up", "scp -O up", "scp down", "scp -O down"]


@pytest.mark.parametrize("name", COPIES)
def test_nothing_is_copied_but_by_an_open_key(name: str, gate: Gate) -> None:
    before = gate.sight()
    ran = subprocess.run(copies(gate, gate.key)[name], capture_output=True, timeout=60)
    assert ran.returncode != 0
    assert gate.sight() == before
    subprocess.run(copies(gate, gate.sshd.identity)[name], capture_output=True, timeout=60, check=True)
    assert gate.canary.exists()
    gate.canary.unlink()


@pytest.mark.parametrize("name", ["sftp", "netconf"])
def test_no_subsystem_is_started(name: str, gate: Gate) -> None:
    before = gate.sight()
    ran = gate.ssh(name, b"\0\0\0\5\1\0\0\0\3", "-s")
    assert (ran.returncode == 0, ran.stdout, gate.sight()) == (False, b"", before)


# --- forwarding, agent, display, terminal


class Listener:
    """A server on loopback that counts who comes."""

    def __init__(self) -> None:
        self.socket, self.came = socket.create_server(("127.0.0.1", 0)), 0
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.came += 1


def knock(port: int, say: bytes) -> None:
    """Connect as soon as somebody listens there, speak, wait for the end."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
                for piece in say.split(b"|"):
                    one.sendall(piece)
                    one.recv(100)
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
        except OSError:
            return


FORWARDS: dict[str, Callable[[int, int], tuple[list[str], bytes]]] = {
    "-L": lambda port, to: (["-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{to}"], b"x"),
    "-R": lambda port, to: (["-N", "-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:{port}:127.0.0.1:{to}"], b"x"),
    "-D": lambda port, to: (["-N", "-D", f"127.0.0.1:{port}"], b"\5\1\0|\5\1\0\1\x7f\0\0\1" + to.to_bytes(2, "big")),
    "-W": lambda port, to: (["-W", f"127.0.0.1:{to}"], b""),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_no_port_is_forwarded_but_by_an_open_key(name: str, gate: Gate) -> None:
    for key, count in ((gate.key, 0), (gate.sshd.identity, 1)):
        there, port = Listener(), free_port()
        words, say = FORWARDS[name](port, there.port)
        child = subprocess.Popen(gate.argv(*words, gate.account, key=key), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if say:
            knock(port, say)
        until = time.monotonic() + 5
        while there.came < count and time.monotonic() < until or (name == "-W" and child.poll() is None and time.monotonic() < until):
            time.sleep(0.02)
        child.kill()
        child.wait(10)
        assert there.came == count
        there.socket.close()


@pytest.mark.parametrize("way", ["-L", "-R"])
def test_no_socket_is_forwarded_but_by_an_open_key(way: str, gate: Gate) -> None:
    for key, is_there in ((gate.key, False), (gate.sshd.identity, True)):
        path, port = gate.place.folder / f"s{is_there:d}{way}", free_port()
        if way == "-R":
            words = ["-R", f"{path}:127.0.0.1:{port}"]
        else:
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(path))
            server.listen()
            server.settimeout(3)
            words = ["-L", f"127.0.0.1:{port}:{path}"]
        child = subprocess.Popen(gate.argv("-N", *words, gate.account, key=key), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if way == "-L":
            threading.Thread(target=knock, args=(port, b"x"), daemon=True).start()
            try:
                server.accept()
                came = True
            except TimeoutError:
                came = False
            server.close()
        else:
            until = time.monotonic() + 3
            while not path.exists() and time.monotonic() < until:
                time.sleep(0.02)
            came = path.exists()
        child.kill()
        child.wait(10)
        assert came == is_there


def environment(gate: Gate, key: str, words: list[str], **env: str) -> dict[str, str]:
    """What sshd gave to the program that it started: read from the living process, which waits for its words."""
    command = "mqi-remote check" if key == gate.key else "cat"
    argv = gate.argv(*words, gate.account, command, key=key)
    before = set(os.listdir("/proc"))
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **env})
    until, found = time.monotonic() + 10, dict[str, str]()
    while not found and time.monotonic() < until:
        time.sleep(0.05)
        for pid in set(os.listdir("/proc")) - before:
            try:
                said = Path("/proc", pid, "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            values = dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
            if values.get("SSH_CONNECTION", "").endswith(f" {gate.sshd.port}"):
                found = values
    child.terminate()
    child.wait(20)
    return found


def test_no_terminal_is_given_but_by_an_open_key(gate: Gate) -> None:
    assert b"/dev/pts/" in gate.ssh("tty", b"", "-tt", key=gate.sshd.identity).stdout
    ran = gate.ssh("mqi-remote check", b"", "-tt")
    assert b"PTY allocation request failed" in ran.stderr


@pytest.mark.parametrize(("words", "name"), [(["-A"], "SSH_AUTH_SOCK"), (["-Y"], "DISPLAY")])
def test_no_agent_or_display_but_by_an_open_key(words: list[str], name: str, gate: Gate, tmp_path: Path) -> None:
    agent = subprocess.Popen([need("ssh-agent"), "-D", "-a", str(tmp_path / "a")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "a").exists():
            time.sleep(0.02)
        env = {"SSH_AUTH_SOCK": str(tmp_path / "a"), "DISPLAY": "127.0.0.1:99"}
        closed, opened = (environment(gate, key, words, **env) for key in (gate.key, gate.sshd.identity))
    finally:
        agent.terminate()
        agent.wait(10)
    assert name in opened
    assert closed
    assert name not in closed


# --- the environment


@pytest.mark.parametrize("name", ["TAR_OPTIONS", "LC_MQI", "LANG"])
def test_an_environment_gets_nowhere(name: str, gate: Gate) -> None:
    """A tar that is unpacked while TAR_OPTIONS would run a command; the others: a word that would be one."""
    word = f"--checkpoint=1 --checkpoint-action=exec='touch {gate.canary}'" if name == "TAR_OPTIONS" else f"$(touch {gate.canary})/"
    tar = tarred(member(f"{gate_key(gate)}/files/plan.txt", b"x" * 100_000))
    ran = gate.ssh("mqi-remote send", tar, "-o", f"SendEnv={name}", **{name: word})
    assert ran.returncode == 0, ran.stderr
    assert not gate.canary.exists()
    seen = gate.ssh("env", b"", "-o", f"SendEnv={name}", key=gate.sshd.identity, **{name: word})
    assert f"{name}={word}".encode() in seen.stdout
    if name == "TAR_OPTIONS":
        gate.ssh("tar -tf -", tar, "-o", f"SendEnv={name}", key=gate.sshd.identity, **{name: word})
        assert gate.canary.exists()
        gate.canary.unlink()


# --- the words of a verb


def wired(text: str) -> str:
    """A word as it travels, written anew here: the test shall not use the code that it tests."""
    return "".join(chr(byte) if 33 <= byte <= 126 and byte != 92 else f"\\0{byte:03o}" for byte in text.encode())


def gate_key(gate: Gate) -> str:
    """<key>-<digest> of the pushed case."""
    path = next(path for path in gate.place.root.glob("cases/*/input-*") if path.is_dir())
    return f"{path.parent.name}-{path.name.removeprefix('input-')}"


NAMES = ["nonce", "version", "root", "engine", "ledger", "shown", "head", "verb", "wrapper-digest", "wrapper", "command", "version-command",
         "limit", "add", "key", "attempt", "digest", "group", "slots", "devices", "look", "key2", "attempt2", "end"]  # fmt: skip


def true_words(gate: Gate) -> dict[str, str]:
    """A submit that the gate would carry out, word by word; each name of NAMES is one."""
    ledger, seq, digest = (gate.place.root / "ledger").read_text().split()
    key, _, content = gate_key(gate).partition("-")
    program = (gate.place.folder / "mqi-remote").read_bytes()
    command = f"echo {key} 1 >>{gate.place.runs}\ntrue \\"
    values = [NONCE, sha256(program), str(gate.place.root), "direct", ledger, f"{ledger} {seq} {digest}", f"{seq} {digest}", "submit",
              "0123456789abcdef", "", command, "", "60", "add", key, "1", content, "direct", "2", "-", "look", key, "1", NONCE]  # fmt: skip
    return dict(zip(NAMES, map(wired, values), strict=True))


TOUCH = "$(touch${{IFS}}{canary})"
WORDS: list[tuple[str, str]] = [
    *(("key", word) for word in ("../../../../tmp/x", "/etc", "A" * 20, "a" * 19, "a" * 21, "a" * 19 + "/", "a" * 19 + "*", "-" + "a" * 19, "",
                                 TOUCH, "`id`", "a" * 20 + ";id", "a" * 20 + "'", 'a"', "a" * 20 + "\\0012", "a" * 20 + "\\0000", "\\0056\\0056",
                                 "a" * 20 + "\\0040b", "é" + "a" * 18)),
    *(("attempt", word) for word in ("0", "-1", "01", "1e3", "9" * 7, "9" * 40, "1/../..", "1;id", TOUCH, "")),
    *(("key2", word) for word in ("..", "a" * 19, "a" * 20 + "/../x")),
    *(("attempt2", word) for word in ("..", "9" * 40)),
    *(("digest", word) for word in ("a" * 63, "A" * 64, "../../staging", TOUCH)),
    *(("group", word) for word in ("../x", "a/b", "-x", "--help", "--config=/etc/passwd", TOUCH, "a\\0040-d", "a\\0012b", "x" * 200, "", "a;b", "*")),
    *(("slots", word) for word in ("-1", "9" * 10, "a[" + TOUCH + "]", "1\\0012", "")),
    *(("devices", word) for word in ("0\\00121", TOUCH, ";id", "", "0'", "\\0134")),
    *(("limit", word) for word in ("-1", "9" * 10, "1s;id", "infinity", "")),
    *(("wrapper-digest", word) for word in ("../../x", "a" * 15, TOUCH)),
    ("wrapper", "touch\\0040{canary}"),
    *(("command", word) for word in ("\\x41", "\\c", "\\0002", "\\0000", "\\08", "\\", "\\0401", "touch {canary}", "\x1b[0m", "é")),
    *(("root", word) for word in ("/", "/etc", "{root}/..", "{root}/", "..", "{root}\\0012", TOUCH, "")),
    *(("engine", word) for word in ("pueue", "sh", TOUCH, "")),
    *(("ledger", word) for word in ("a" * 15, "../x", TOUCH)),
    *(("shown", word) for word in ("x", "", TOUCH, "a\\00401\\0040b")),
    *(("head", word) for word in ("1", "", "1\\0040" + "a" * 63, "1\\0040rebuilding-", "1\\0040x-" + "a" * 64, TOUCH)),
    *(("verb", word) for word in ("look", "results", "main", TOUCH, "")),
    *(("nonce", word) for word in ("a" * 15, "A" * 16, TOUCH, "", ".*", "[0-9a-f]{{16}}")),
    *(("end", word) for word in ("f" * 16, NONCE[:-1], "", NONCE + "0")),
    *(("version", word) for word in ("a" * 64, TOUCH, "")),
    *(("add", word) for word in ("revoke", "look", "ADD", "")),
    *(("look", word) for word in ("add", "", "-")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_a_word_that_is_not_of_its_form_is_refused(name: str, word: str, gate: Gate) -> None:
    before, words = gate.sight(), true_words(gate)
    words[name] = word.format(canary=gate.canary, root=gate.place.root)
    refused(gate, gate.ssh("mqi-remote submit", " ".join(words.values()).encode()), before)


KEY, SUM = "0123456789abcdef0123", "0" * 64
VERBS = [
    ("check", "x"), ("look", KEY), ("look", f"{KEY} 1 x"), ("look", "../.. 1"), ("stage", f"{KEY} 1"), ("stage", f"{KEY} ../../x"), ("stage", f"../x {SUM}"),
    ("publish", f"{KEY} {SUM} {KEY}"), ("publish", f"/etc {SUM}"), ("results", f"{KEY} 1"), ("results", f"9 * . . {KEY} ../x"), ("results", "9 * . . /etc 1"), ("results", f"9; * . . {KEY} 1"),
    ("end", f"why 10 {KEY} 0"), ("end", f"why 100 {KEY} 1"), ("end", f"why $(id) {KEY} 1"), ("end", f"a b 10 {KEY} 1"), ("send", ""), ("bring", ""),
    ("clean", ""), ("clean", "1"), ("clean", f"2 1440 {KEY} 1"), ("clean", f"1 -1 {KEY} 1"), ("clean", f"1 1440 {KEY}"), ("clean", "1 1440 ../x 1"),
    ("clean", f"1 1440 {KEY} ../x"), ("clean", f"1 1440 {KEY[:-1]}* 1"), ("clean", f"1 1440 {KEY} 1 x"), ("clean", f"1 $(id) {KEY} 1"),
    ("survey", f"{KEY} 1"), ("survey", f"../x {SUM}"), ("survey", f"{KEY} {SUM} x"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "rest"), VERBS)
def test_every_verb_has_its_form(verb: str, rest: str, gate: Gate) -> None:
    words = list(true_words(gate).values())[:7]
    before = gate.sight()
    line = " ".join([*words, verb, *([rest] if rest else []), NONCE]).encode()
    ran = gate.ssh("mqi-remote check" if verb in ("send", "bring") else f"mqi-remote {verb}", line)
    refused(gate, ran, before)


LINES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda line: b"",
    "half of it": lambda line: line[: len(line) // 2],
    "all but its last byte": lambda line: line[:-1],
    "a newline behind": lambda line: line + b"\n",
    "a line before": lambda line: b"x\n" + line,
    "a line behind": lambda line: line + b"\n" + line,
    "a NUL in the key": lambda line: line.replace(b" add ", b" add \0"),
    "a NUL at the end": lambda line: line + b"\0",
    "a carriage return": lambda line: line + b"\r",
    "the separator": lambda line: line.replace(b" add ", b"\2add\2"),
    "a tab between": lambda line: line.replace(b" add ", b"\tadd\t"),
    "two blanks": lambda line: line.replace(b" add ", b"  add "),
    "a blank before": lambda line: b" " + line,
    "a blank behind": lambda line: line + b" ",
    "a word more": lambda line: line.replace(b" look ", b" look x "),
    "a word less": lambda line: line.replace(b" - look ", b" look "),
    "an end before the end": lambda line: line.replace(b" add ", b" " + NONCE.encode() + b" add "),
    "look before add": lambda line: line.replace(b" look ", b" "),
    "five million bytes": lambda line: line.replace(b" look ", b" look " + b"a" * 5_000_000),
    "another verb's words": lambda line: line.replace(b" submit ", b" look "),
    "a script": lambda line: b"main(){ :; }\nset -- x\nmain \"$@\"\n",
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_not_whole_is_refused(name: str, gate: Gate) -> None:
    before = gate.sight()
    refused(gate, gate.ssh("mqi-remote submit", LINES[name](" ".join(true_words(gate).values()).encode())), before)


def test_a_line_that_was_cut_off_runs_nothing_wherever_it_was_cut(gate: Gate) -> None:
    """Straight into the program, as sshd starts it: every place of the line."""
    before, line = gate.sight(), " ".join(true_words(gate).values()).encode()
    argv = [str(gate.place.folder / "mqi-remote"), "--root", str(gate.place.root), "--engine", "direct", "--slots", "2"]
    env = {"PATH": os.environ["PATH"], "HOME": "/", "SSH_ORIGINAL_COMMAND": "mqi-remote submit"}
    for size in range(len(line)):
        ran = subprocess.run(argv, input=line[:size], capture_output=True, env=env, timeout=60)
        assert ran.returncode == 78, size
    assert gate.sight() == before


# --- tars


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o600) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


CASE = "0123456789abcdef0123-" + "0" * 64
TARS: dict[str, Callable[[Gate], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "..": lambda g: [member("../CANARY"), member(f"{CASE}/files/../../../CANARY")],
    "an absolute name": lambda g: [member(str(g.canary))],
    "the root's ledger": lambda g: [member("../ledger", b"mine 1 2\n"), member("../../ledger", b"mine 1 2\n")],
    "another folder of the root": lambda g: [member("cases/x"), member("bin/x")],
    "a file at the top": lambda g: [member("x")],
    "a key of another form": lambda g: [member(f"{CASE[1:]}/files/x")],
    "a file beside files": lambda g: [member(f"{CASE}/other")],
    "a folder manifest": lambda g: [member(f"{CASE}/manifest/x")],
    "a symlink": lambda g: [member(f"{CASE}/files/x", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "a symlink and a file through it": lambda g: [
        member(f"{CASE}/files/d", kind=tarfile.SYMTYPE, link=str(g.place.folder)), member(f"{CASE}/files/d/CANARY")],
    "a symlink inside and a file through it": lambda g: [
        member(f"{CASE}/files/d", kind=tarfile.SYMTYPE, link="."), member(f"{CASE}/files/d/y")],
    "a symlink up and a file through it": lambda g: [
        member("d", kind=tarfile.SYMTYPE, link="../../.."), member("d/CANARY")],
    "the case itself a symlink": lambda g: [member(CASE, kind=tarfile.SYMTYPE, link=str(g.place.folder)), member(f"{CASE}/CANARY")],
    "a hard link outside": lambda g: [member(f"{CASE}/files/x", kind=tarfile.LNKTYPE, link=str(g.place.config))],
    "a hard link inside": lambda g: [member(f"{CASE}/files/x"), member(f"{CASE}/files/y", kind=tarfile.LNKTYPE, link=f"{CASE}/files/x")],
    "a FIFO": lambda g: [member(f"{CASE}/files/x", kind=tarfile.FIFOTYPE)],
    "a device": lambda g: [member(f"{CASE}/files/x", kind=tarfile.CHRTYPE)],
    "a folder ..": lambda g: [member(f"{CASE}/files/..", kind=tarfile.DIRTYPE)],
    "a newline in a name": lambda g: [member(f"{CASE}/files/a\nb")],
    "a command in a name": lambda g: [member(f"{CASE}/files/$(touch CANARY)")],
    "an option as a name": lambda g: [member(f"{CASE}/files/--checkpoint-action=exec=id")],
    "a hidden name": lambda g: [member(f"{CASE}/files/.profile")],
    "a closed folder": lambda g: [member(f"{CASE}/files/d", kind=tarfile.DIRTYPE, mode=0), member(f"{CASE}/files/d2", kind=tarfile.FIFOTYPE)],
}  # fmt: skip


@pytest.mark.parametrize("name", TARS)
def test_a_tar_with_anything_odd_leaves_nothing(name: str, gate: Gate) -> None:
    before, config = gate.sight(), gate.place.config.stat()
    good = member(f"{CASE}/files/good")
    refused(gate, gate.ssh("mqi-remote send", tarred(good, *TARS[name](gate), good)), before)
    assert gate.place.config.stat().st_nlink == config.st_nlink
    assert not gate.canary.exists()
    assert not list(gate.place.folder.rglob("CANARY*"))


def test_a_tar_of_inputs_arrives_whole_and_of_a_cut_one_what_came(gate: Gate) -> None:
    plain = [member(f"{CASE}/manifest"), member(f"{CASE}/files/d/1G180:TX.dcm", b"y" * 50_000, mode=0o4777), member(f"{CASE}/files/two words")]
    ran = gate.ssh("mqi-remote send", tarred(*plain)[:40_000])
    assert ran.returncode != 0
    there = gate.place.root / "staging" / CASE
    assert b"Unexpected EOF" in ran.stderr
    assert not (there / "files" / "two words").exists()
    assert (there / "manifest").exists()
    (there / "files" / "earlier").write_text("of an earlier push\n")
    ran = gate.ssh("mqi-remote send", tarred(*plain))
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (there / "files").rglob("*")} == {"d", "1G180:TX.dcm", "two words", "earlier"}
    assert (there / "files" / "d" / "1G180:TX.dcm").stat().st_size == 50_000
    assert stat.S_IMODE((there / "files" / "d" / "1G180:TX.dcm").stat().st_mode) == 0o700
    assert not (gate.place.root / "incoming").exists()


def test_more_than_two_hundred_things_are_refused() -> None:
    assert len(COMMANDS) + len(COPIES) + len(FORWARDS) + 5 + len(WORDS) + len(LINES) + len(VERBS) + len(TARS) > 200


# --- what it still does


def test_words_that_are_untouched_are_carried_out(gate: Gate) -> None:
    """The control of all that was refused: the same line, whole."""
    words = true_words(gate)
    ran = gate.ssh("mqi-remote submit", " ".join(words.values()).encode())
    assert ran.returncode == 0, ran.stderr
    assert f"MQI-END {NONCE} 0\n".encode() in ran.stdout
    until = time.monotonic() + 20
    while not gate.place.executions() and time.monotonic() < until:
        time.sleep(0.05)
    assert gate.place.executions() == [f"{words['key']} 1"]


def test_the_tail_of_a_session_is_what_it_is_without_the_gate(tmp_path: Path, sshd: Sshd) -> None:
    """Words with all that a text may hold go through the gate byte for byte: the command of the job, the patterns."""
    job = "printf '%s\\n' 'quo\"te $HOME `id` \\\\ back\\slash %d\ttab é 둘' >'a b.out'; cp \"$MQI_INPUT/plan.txt\" plan.out"
    said = []
    for gated in (False, True):
        place = Place(tmp_path / f"site{gated:d}", host_text("ssh", "direct", "tar", sshd, None), job)
        if gated:
            close_gate(place, sshd, *gate_options("direct", None))
        place.case("a")
        place.until("completed")
        said.append(((place.results / "a" / "a b.out").read_bytes(), next(place.root.glob("cases/*/attempt-1/command")).read_text()
                     .replace(str(place.folder), "")))  # fmt: skip
    assert said[0] == said[1]
    assert "é 둘".encode() in said[0][0]


def test_the_gate_is_as_tight_under_bash(gate: Gate) -> None:
    """The program, not its shell, holds: the same words under another sh."""
    argv = ["bash", str(gate.place.folder / "mqi-remote"), "--root", str(gate.place.root), "--engine", "direct", "--slots", "2"]
    for name, word in WORDS:
        words = true_words(gate) | {name: word.format(canary=gate.canary, root=gate.place.root)}
        env = {"PATH": os.environ["PATH"], "HOME": "/", "SSH_ORIGINAL_COMMAND": "mqi-remote submit"}
        ran = subprocess.run(argv, input=" ".join(words.values()).encode(), capture_output=True, env=env)
        assert ran.returncode == 78, (name, word, ran.stderr)
    assert not gate.canary.exists()


# --- what a person is told


@pytest.fixture
def gated(tmp_path: Path, sshd: Sshd) -> Place:
    place = Place(tmp_path / "site", host_text("ssh", "direct", "tar", sshd, None), JOB)
    close_gate(place, sshd, *gate_options("direct", None))
    return place


def test_check_says_that_it_went_through_the_gate(gated: Place) -> None:
    ran = gated("mqi-check")
    assert ran.code == 1, ran.out  # it warns of scan.quiet
    assert "FAIL" not in ran.out
    assert "ok    far: session: over ssh, host key known, through its gate\n" in ran.out


def test_a_program_there_of_another_version_is_named_with_the_command_that_helps(gated: Place) -> None:
    gated.case("a")
    gated("mqi-scan")
    program = gated.folder / "mqi-remote"
    true = program.read_bytes()
    program.write_bytes(true.replace(b"# --- check:", b"# --- an older check:"))
    for name in ("mqi-push", "mqi-check"):
        ran = gated(name)
        assert ran.code == 78
        said = ran.out + ran.err
        assert f"{program} is not the version of the gateway. On the gateway: mqi-check --far | ssh root@" in said
    assert not gated.root.exists()
    failed = upgrade.failing(str(REPO), str(gated.config), ())
    assert not [what for what in failed if "session" in what], failed  # an upgrade does not go back for it
    command = f"install -m 0755 /dev/stdin {program}"  # what that sentence says to run there
    assert f"'{command}'" in said
    subprocess.run(["sh", "-c", command], input=gated("mqi-check", "--far").out, text=True, check=True)
    assert program.read_bytes() == true
    gated.until("completed")


@pytest.mark.parametrize(("old", "new", "means"), [
    ('root = "', 'root = "/elsewhere', "its line in authorized_keys is for root "), ('engine = "direct"', 'engine = "pueue"', "engine direct: so must be hosts.<name>"),
    ("gate = true", "gate = false", "this key opens a gate"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_the_gate_is_told(old: str, new: str, means: str, gated: Place) -> None:
    gated.config.write_text(gated.config.read_text().replace(old, new))
    ran = gated("mqi-check")
    assert ran.code == 78
    assert means in ran.out


def test_a_gate_that_is_not_there_is_told(gated: Place, sshd: Sshd) -> None:
    text = gated.config.read_text()
    gated.config.write_text(text.replace(f'identity = "{gated.folder}/key"', f'identity = "{sshd.identity}"'))
    ran = gated("mqi-check")
    assert ran.code == 78
    assert "its gate refused it, or it has none (docs/compute-host.md)" in ran.out


@pytest.mark.parametrize("words", ["", "--slots", "--rot /x", "--root", "--root /x --shell yes"])
def test_a_line_of_authorized_keys_that_is_wrong_is_told(words: str, gate: Gate) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/", "SSH_ORIGINAL_COMMAND": "mqi-remote check"}
    ran = subprocess.run([str(gate.place.folder / "mqi-remote"), *words.split()], capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    assert ran.returncode == 78
    assert "its line in authorized_keys is wrong at --" in ran.stderr


def test_only_the_jobs_that_the_host_knows_are_run(tmp_path: Path, sshd: Sshd) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "direct", "tar", sshd, None), JOB)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "other").write_text("true\n")
    close_gate(place, sshd, *gate_options("direct", None), "--jobs", str(jobs))
    place.case("a")
    for name in ("mqi-scan", "mqi-push"):
        assert place(name).code == 0
    ran = place("mqi-submit")
    assert ran.code == 78
    assert f"no file of {jobs} is job.command" in ran.err
    assert not list(place.root.glob("cases/*/attempt-1"))
    text = place.config.read_text()
    command = text.partition("command = '''\n")[2].partition("'''")[0]
    (jobs / "moqui").write_text(command)
    place.config.write_text(text.replace("time_limit", 'version_command = "touch CANARY"\ntime_limit'))
    assert place("mqi-submit").code == 78
    place.config.write_text(text)
    rows = place.until("completed")
    assert rows["a"]["attempt"] == 1


def test_what_may_travel_may_pass_the_gate() -> None:
    """The names that a scan lets travel are those that the gate unpacks; the wrapper inside the program is the wrapper."""
    text = host.program()
    assert f" name='{folder.NAME.decode()}' " in text
    assert (Path(FAR) / "mqi-job.sh").read_text().splitlines().count("MQI-JOB") == 0
    script = text.replace('\ngate "$@"\n', "\ninstalled_wrapper\n")
    for shell in ("dash", "bash"):
        said = subprocess.run([shell, "-c", script], capture_output=True, text=True)
        assert said.stdout == (Path(FAR) / "mqi-job.sh").read_text()
