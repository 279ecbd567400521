"""mqi-init: a gateway set up below a folder, with a real sshd and a real queue; set up again; taken down."""

from __future__ import annotations

import getpass
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO, Pueued, Ran, Sshd, need
from test_config import SCHEMA, keys
from test_units import verified

from mqi_scripts import __version__
from mqi_scripts.install import answers, far, imported, places, sample, units
from mqi_scripts.install.keys import fingerprint
from mqi_scripts.world import config

COMMAND = 'mkdir Dose && cp "$MQI_INPUT/plan.txt" Dose/1_Dose.dcm'
NEEDED = {
    "site": {"name": "G1", "inbox": "/srv/mqi/inbox", "results": "/srv/mqi/results", "state": "/var/lib/mqi"},
    "job": {"command": "true", "results": ["*"]},
    "hosts": {"gpu1": {"address": "mqi@192.0.2.5", "root": "/data/mqi"}},
}


class Gateway:
    """A gateway below a folder. answers: what a person would say of it."""

    def __init__(self, folder: Path, port: int = 22, extra: str = "") -> None:
        self.folder, self.etc = folder, folder / "etc" / "mqi"
        folder.mkdir()
        self.answers = folder.parent / "answers.toml"
        self.answers.write_text(
            f'[site]\nname = "G1"\n[scan]\nquiet = "0s"\nprofile = "files"\n[job]\ncommand = {json.dumps(COMMAND)}\n[hosts.gpu1]\nport = {port}\n'
            f'address = "{getpass.getuser()}@127.0.0.1"\nroot = "{folder}/far"\ngroups = ["gpu*"]\n{extra}'
        )

    def __call__(self, *words: str, stdin: int | None = subprocess.DEVNULL) -> Ran:
        argv = [sys.executable, "-m", "mqi_scripts", "mqi-init", "--prefix", str(self.folder), *words]
        ran = subprocess.run(argv, stdin=stdin, capture_output=True, text=True, env=environment(), timeout=300)
        assert "Traceback" not in ran.stderr, ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def set_up(self, *words: str) -> Ran:
        return self("--yes", "--answers", str(self.answers), *words)

    def program(self, name: str, *words: str) -> Ran:
        argv = [str(self.folder / "usr/local/bin" / name), *words]
        env = {**environment(), "MQI_CONFIG": str(self.etc / "mqi.toml")}
        ran = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120)
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def sight(self) -> dict[str, Any]:
        """Every path with what is in it; notes of programs left out."""
        return {str(path.relative_to(self.folder)): (path.lstat().st_mode, path.lstat().st_mtime_ns if path.is_file() else 0)
                for path in sorted(self.folder.rglob("*")) if "var/lib" not in str(path)}  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO)}


def print_of(sshd: Sshd) -> str:
    return fingerprint((sshd.folder / "host_key.pub").read_text().split()[1])


# --- the configuration from the schema


def loaded(folder: Path, text: str) -> config.Site:
    (folder / "mqi.toml").write_text(text)
    return config.load(str(folder / "mqi.toml"), {})


def test_the_written_configuration_has_every_default(tmp_path: Path) -> None:
    """As it is, and with every # taken away, it is what a file with the needed keys alone is."""
    whole = sample.text(SCHEMA, NEEDED)
    bare = "".join(f"[{table}]\n" + "".join(f"{key} = {sample.literal(value)}\n" for key, value in rows.items())
                   for table, rows in [(name, NEEDED[name]) for name in ("site", "job")] + [("hosts.gpu1", NEEDED["hosts"]["gpu1"])])  # fmt: skip
    plain = loaded(tmp_path, bare)
    assert loaded(tmp_path, whole) == plain
    assert loaded(tmp_path, re.sub(r"^#(\w+ = )", r"\1", whole, flags=re.M)) == plain


def test_every_key_stands_there_once_with_what_it_is() -> None:
    text = sample.text(SCHEMA, NEEDED)
    for table, key, rule in keys():
        part = re.search(rf"^\[{re.escape(table)}\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S)
        assert part, table
        assert len(re.findall(rf"^#?{key} = ", part[1], re.M)) == 1, f"{table}.{key}"
        assert rule["description"][:40] in re.sub(r"\n# ", " ", part[1])


@pytest.mark.parametrize("value", ["plain", 'a "quote" \\ and \ttab\n', "é \U0001f642 \x7f", ["a", 'b"'], {"gpu0": ["0", "1"]}, 7, True, [], {}])
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert tomllib.loads(f"x = {sample.literal(value)}")["x"] == value


# --- setting up


def test_a_site_is_set_up_in_one_go_computes_a_case_is_left_alone_by_a_second_run_and_taken_down(
    tmp_path: Path, sshd: Sshd, pueued: Pueued
) -> None:
    extra = f'[hosts.gpu1.pueue]\ncommand = "{pueued.command}"\nconfig = "{pueued.config}"\n'
    gateway = Gateway(tmp_path / "gw", sshd.port, extra)
    first = gateway.set_up("--accept-fingerprint", print_of(sshd))
    assert first.code == 69, first.err  # the key is not there yet
    line = next(line for line in first.out.splitlines() if line.startswith("restrict ssh-ed25519 "))
    with (sshd.folder / "authorized_keys").open("a") as file:
        file.write(f"{line}\n")
    assert (gateway.etc / "known_hosts").read_text() == f"mqi-gpu1 ssh-ed25519 {(sshd.folder / 'host_key.pub').read_text().split()[1]}\n"
    before = gateway.sight()
    second = gateway.set_up()
    assert second.code == 0, second.out + second.err
    assert "everything is as it should be: nothing was changed" in second.out
    assert "FAIL" not in second.out
    assert "mqi-check is content but for its warnings above" in second.out  # no quiet time, no profile that looks into cases
    assert gateway.sight() == before
    modes = {"etc/mqi/ssh": 0o700, "etc/mqi/ssh/id_ed25519": 0o600, "var/lib/mqi": 0o700, "etc/mqi/mqi.toml": 0o644, "srv/mqi/results": 0o750}
    assert {name: (gateway.folder / name).stat().st_mode & 0o777 for name in modes} == modes
    assert verified(gateway.folder / "etc/systemd/system") == ""
    (gateway.folder / "srv/mqi/inbox/2.25.1").mkdir()
    (gateway.folder / "srv/mqi/inbox/2.25.1/plan.txt").write_text("plan\n")
    deadline = time.monotonic() + 60
    while '"completed"' not in gateway.program("mqi-report", "--jsonl").out:
        assert gateway.program("mqi-tick").code == 0
        assert time.monotonic() < deadline
    state = (gateway.folder / "var/lib/mqi").rglob("*.jsonl")
    kept = {path: path.read_bytes() for path in (*state, gateway.etc / "mqi.toml", gateway.folder / "srv/mqi/results/2.25.1/Dose/1_Dose.dcm")}
    would = gateway("--remove", "--dry-run")
    assert "would remove" in would.out
    assert gateway.sight().keys() >= before.keys()
    assert gateway("--remove", "--yes").code == 0
    left = {str(path.relative_to(gateway.folder)) for path in gateway.folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert {name for name in left if not name.startswith(("etc/mqi/", "var/lib/mqi/", "srv/mqi/", "far/"))} == set()
    assert {path: path.read_bytes() for path in kept} == kept
    assert "nothing of ours is here" in gateway("--remove", "--yes").out


def test_dry_run_does_nothing_and_shows_all(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    ran = gateway("--dry-run", "--answers", str(gateway.answers))
    assert ran.code == 0, ran.err
    assert not list(gateway.folder.iterdir())
    for word in ("mqi.toml", "id_ed25519", "mqi@.service", "site.conf", "mqi-scan.timer", "host key", "mqi-check"):
        assert word in ran.out


def test_no_host_key_is_accepted_silently(tmp_path: Path, sshd: Sshd) -> None:
    gateway = Gateway(tmp_path / "gw", sshd.port)
    ran = gateway.set_up()
    assert ran.code == 69
    assert f"shows ssh-ed25519 {print_of(sshd)}" in ran.out
    assert "its key was not accepted" in ran.out
    assert not (gateway.etc / "known_hosts").exists()


def test_another_fingerprint_than_the_accepted_one_is_an_alarm(tmp_path: Path, sshd: Sshd) -> None:
    gateway = Gateway(tmp_path / "gw", sshd.port)
    ran = gateway.set_up("--accept-fingerprint", "SHA256:" + "A" * 43)
    assert ran.code == 69
    assert "ALARM" in ran.err
    assert not (gateway.etc / "known_hosts").exists()


def test_the_fingerprint_is_the_one_of_ssh_keygen(sshd: Sshd) -> None:
    said = subprocess.run([need("ssh-keygen"), "-lf", str(sshd.folder / "host_key.pub")], capture_output=True, text=True, check=True).stdout
    assert said.split()[1] == print_of(sshd)


def test_what_nobody_said_and_has_no_default_is_named(tmp_path: Path) -> None:
    ran = Gateway(tmp_path / "gw")("--yes")
    assert ran.code == 2
    assert "hosts.gpu1.address has no default: --set hosts.gpu1.address=" in ran.err
    assert not list((tmp_path / "gw").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--set", "site.nmae=x"), 78, "site.nmae is no key"),
        (("--set", "site.name"), 2, "expected KEY=VALUE"),
        (("--set", "hosts.gpu1.port=many"), 2, "hosts.gpu1.port: 'many' is not TOML"),
        (("--set", "hosts.gpu1.port=0"), 78, "hosts.gpu1.port = 0"),
        (("--answers", "/nowhere"), 78, "/nowhere"),
        (("--import", "/nowhere"), 78, "/nowhere"),
    ],
)
def test_a_wrong_answer_is_named_and_nothing_is_done(words: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    ran = gateway("--yes", *(("--answers", str(gateway.answers)) if "--answers" not in words else ()), *words)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert not list(gateway.folder.iterdir())


def test_without_a_person_it_needs_a_yes(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    ran = gateway("--answers", str(gateway.answers))
    assert ran.code == 2
    assert "--yes does it without asking" in ran.err
    assert not list(gateway.folder.iterdir())


def test_the_whole_system_needs_root(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    unprivileged = ["unshare", "--user", "--map-user=1000", "--"] if os.geteuid() == 0 else []
    argv = [*unprivileged, sys.executable, "-m", "mqi_scripts", "mqi-init", "--yes", "--answers", str(gateway.answers)]
    ran = subprocess.run(argv, capture_output=True, text=True, env=environment())
    assert ran.returncode == 2, ran.stderr
    assert "it needs root" in ran.stderr
    assert "mqi-init --user" in ran.stderr


def test_an_existing_configuration_is_never_changed(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    gateway.set_up()
    text = (gateway.etc / "mqi.toml").read_text() + "# mine\n"
    (gateway.etc / "mqi.toml").write_text(text)
    ran = gateway.set_up("--set", "site.name=G2")
    assert "stays as it is; these answers are not in it: site.name" in ran.out
    assert (gateway.etc / "mqi.toml").read_text() == text


def test_a_folder_that_moves_in_the_configuration_moves_in_the_units(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    gateway.set_up()
    path = gateway.etc / "mqi.toml"
    path.write_text(path.read_text().replace("srv/mqi/inbox", "srv/in box 100%"))
    ran = gateway.set_up()
    assert "change in" in ran.out
    conf = (gateway.folder / "etc/systemd/system/mqi@.service.d/site.conf").read_text()
    assert f'BindReadOnlyPaths=-"{gateway.folder}/srv/in box 100%%"\n' in conf
    assert verified(gateway.folder / "etc/systemd/system") == ""


def test_a_unit_that_was_changed_by_hand_is_ours_again_and_a_stranger_s_is_left(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    gateway.set_up()
    units_folder = gateway.folder / "etc/systemd/system"
    text = (units_folder / "mqi-scan.timer").read_text()
    (units_folder / "mqi-scan.timer").write_text(text + "OnBootSec=9\n")
    old = units_folder / "mqi-older.timer"
    old.write_text(text)
    (units_folder / "mqi@.service.d" / "override.conf").write_text("[Service]\nMemoryMax=2G\n")
    gateway.set_up()
    assert (units_folder / "mqi-scan.timer").read_text() == text
    assert not old.exists()  # an older version made it
    (units_folder / "mqi-scan.timer").write_text("mine\n")
    ran = gateway.set_up()
    assert ran.code == 78
    assert "is there and not ours: move it away" in ran.err
    assert (units_folder / "mqi-scan.timer").read_text() == "mine\n"
    gateway("--remove", "--yes")
    assert {path.name for path in units_folder.rglob("*") if path.is_file()} == {"mqi-scan.timer", "override.conf"}


# --- a person at a terminal


def talk(argv: list[str], lines: list[tuple[str, str]], patience: float = 60) -> tuple[int, str]:
    """Run it on a terminal of its own; each line is typed once its question is seen."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(argv[0], argv, {**environment(), "TERM": "dumb"})
    said, seen, todo, deadline = "", 0, list(lines), time.monotonic() + patience
    while True:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            pytest.fail(said)
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                said += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                break
        if todo and todo[0][0] in said[seen:]:
            seen = said.index(todo[0][0], seen) + len(todo[0][0])
            os.write(terminal, todo.pop(0)[1].encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def questions(gateway: Gateway, *words: str) -> list[str]:
    return [sys.executable, "-m", "mqi_scripts", "mqi-init", "--prefix", str(gateway.folder), *words]


ANSWERS = [("site's name", "\n"), ("cases arrive", "\n"), ("results shall", "\n"), ("ledger", "\n"), ("What a case is", "flies\n"),
           ("What a case is", "files\n"), ("compute host gpu1", "no way\n"),
           ("compute host gpu1", "mqi@127.0.0.1\n"), ("port of its sshd", "PORT\n"),
           ("alone", "\n"), ("program pueue", "\n"), ("configuration file there", "\n"), ("groups are the GPUs'", "gpu0 gpu1\n"), ("computes a case", "true\n"), ("come back", "a/* b/*\n")]  # fmt: skip


def test_a_person_is_asked_with_good_defaults_and_a_bad_answer_is_asked_again(tmp_path: Path, sshd: Sshd) -> None:
    gateway = Gateway(tmp_path / "gw")
    (gateway.folder / "srv/mqi/inbox/old").mkdir(parents=True)
    asked = [(question, answer.replace("PORT", str(sshd.port))) for question, answer in ANSWERS]
    code, said = talk(questions(gateway), [*asked, ("work or history", "\n"), ("Do it?", "\n"), ("Is it the same there?", "yes\n")])
    assert code == 69, said  # the account there has not got our key
    assert "'flies' cannot be" in said
    assert "'no way' cannot be" in said
    site = config.load(str(gateway.etc / "mqi.toml"), {})
    assert (site.name, site.inbox, site.hosts[0].root) == (os.uname().nodename.partition(".")[0], f"{gateway.folder}/srv/mqi/inbox", "/data/mqi")
    assert (site.job.command, site.job.results) == ("true", ["a/*", "b/*"])
    assert site.scan.not_before  # history
    assert print_of(sshd) in said
    assert (gateway.etc / "known_hosts").read_text().startswith("mqi-gpu1 ssh-ed25519 ")


@pytest.mark.parametrize("typed", ["no\n", "\x03", "\x04"])
def test_no_ctrl_c_and_the_end_of_input_leave_everything_as_it_was(typed: str, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    code, said = talk(questions(gateway), [*((question, answer.replace("PORT", "")) for question, answer in ANSWERS), ("Do it?", typed)])
    assert code == (130 if typed == "\x03" else 2), said
    assert not list(gateway.folder.iterdir())


def test_a_person_s_no_leaves_a_host_key_unknown(tmp_path: Path, sshd: Sshd) -> None:
    gateway = Gateway(tmp_path / "gw", sshd.port)
    asked = [("cases arrive", "\n"), ("results shall", "\n"), ("ledger", "\n"), ("program pueue", "\n"),
             ("configuration file there", "\n"), ("come back", "\n")]  # the file says the rest
    code, said = talk(questions(gateway, "--answers", str(gateway.answers)), [*asked, ("Do it?", "yes\n"), ("Is it the same there?", "hm\n")])
    assert code == 69
    assert "its key was not accepted" in said
    assert not (gateway.etc / "known_hosts").exists()


@pytest.mark.parametrize(("existing", "held"), [("history", True), ("work", False)])
def test_what_is_in_the_inbox_already_is_work_or_history(existing: str, held: bool, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    for name in ("old1", "old2"):
        folder = gateway.folder / "srv/mqi/inbox" / name
        folder.mkdir(parents=True)
        (folder / "plan.txt").write_text(name)
        os.utime(folder / "plan.txt", (1.6e9, 1.6e9))
    nobody = gateway.set_up()
    assert nobody.code == 2
    assert "2 folders are in" in nobody.err
    assert not gateway.etc.exists()
    gateway.set_up("--existing", existing)
    said = gateway.program("mqi-scan").out
    assert ("scan.not_before" in said) == held
    assert len(said.splitlines()) == 2


# --- what it prints


PAGE = (REPO / "docs" / "compute-host.md").read_text()


def test_the_commands_for_the_compute_host_are_right_shell_and_those_of_the_page(tmp_path: Path) -> None:
    """The page's own tests run them; here they are the same."""
    gateway = Gateway(tmp_path / "gw")
    gateway.set_up("--set", "hosts.gpu1.address=mqi@192.0.2.5", "--set", "hosts.gpu1.root=/data/mqi")
    text = gateway("--compute-host", "--gpus", "2").out
    assert subprocess.run([need("dash"), "-n"], input=text, text=True, capture_output=True).stderr == ""
    blocks = dict(re.findall(r"^cat >{1,2}(\S+) <<'END'\n(.*?)^END$", text, re.M | re.S))
    assert blocks["/home/mqi/.ssh/authorized_keys"] == f"restrict {(gateway.etc / 'ssh/id_ed25519.pub').read_text()}"
    assert f"```yaml\n{blocks['/etc/pueue/pueue.yml']}```" in PAGE
    assert f"```ini\n{blocks['/etc/systemd/system/pueued.service']}```" in PAGE
    for line in re.findall(r"^(?:useradd|install -d -m 0700 -o mqi -g mqi /data|systemctl) .*$", text, re.M):
        assert f"{line}\n" in PAGE
    for line in re.findall(r"^runuser -u mqi -- /usr/local/bin/(pueue .*)$", text, re.M):
        assert f"sudo -u mqi {line}\n" in PAGE
    assert len(re.findall(r"group add gpu\d -p 1$", text, re.M)) == 2


def test_the_line_of_a_gate_opens_one_program_with_what_the_configuration_says(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw", extra='gate = true\n[hosts.gpu1.pueue]\nconfig = "/etc/pueue/pueue.yml"\n')
    ran = gateway.set_up()
    line = next(line for line in ran.out.splitlines() if "ssh-ed25519 AAAA" in line)
    far = f"{gateway.folder}/far"
    assert line.startswith(f'restrict,command="/usr/local/bin/mqi-remote --root {far} --engine pueue --pueue pueue --pueue-config /etc/pueue/pueue.yml" ssh-')
    assert "mqi-check --far | ssh root@127.0.0.1" in gateway("--compute-host").out


def test_the_crontab_s_commands_run(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    gateway.set_up()
    text = gateway("--print-crontab").out
    env = {**environment(), **dict(line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line))}
    jobs = [line for line in text.splitlines() if re.match(r"[*0-9]", line)]
    assert len(jobs) == 6
    for line in jobs:
        command = line.split(maxsplit=5)[5].split(" 2>&1")[0]
        assert subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True).returncode == 0, line


OLD = """
scanner: {scan_directory: /data/cases, interval_seconds: 60, quiescence_time_seconds: 300}
database: {path: /var/db/x.sqlite}
hpc: {host: 10.1.2.3, user: calc, port: 2222, ssh_key_path: /home/a/.ssh/id, remote_base_dir: "/scratch/mqi", password: secret123}
pueue: {command: /usr/local/bin/pueue, groups: [gpu_a, gpu_b]}
processing: {max_retries: 2, case_timeout: 7200}
logging: {level: INFO}
moqui_tps_parameters: {GPUID: 0, TotalThreads: -1}
main_loop: {sleep_interval_seconds: 10}
"""


def test_a_predecessor_s_configuration_is_taken_over_key_by_key(tmp_path: Path) -> None:
    steps = imported.steps(yaml.safe_load(OLD), SCHEMA)
    assert [step.old for step in steps] == list(answers.flat(yaml.safe_load(OLD)))  # every key, in its order, once
    assert imported.values(steps) == {
        "site": {"inbox": "/data/cases"}, "scan": {"quiet": "300s"}, "retry": {"interrupted": 2}, "job": {"time_limit": "7200s"},
        "hosts": {"gpu1": {"port": 2222, "identity": "/home/a/.ssh/id", "root": "/scratch/mqi", "address": "calc@10.1.2.3",
                           "pueue": {"command": "/usr/local/bin/pueue"}, "groups": ["gpu_a", "gpu_b"]}},
    }  # fmt: skip
    said = {step.old: step.what for step in steps}
    assert "the timers say how often" in said["scanner.interval_seconds"]
    assert "the ledger" in said["database.path"]
    assert "nothing known here" in said["moqui_tps_parameters.TotalThreads"]
    assert "secret123" not in str(steps)


@pytest.mark.parametrize(
    "text", ["", "[]", "a", "- {inbox: 3}", "inbox: {a: {b: [1, [2]]}}", "inbox: null", "1: 2", "hpc: {host: 'x; rm -rf /'}", "inbox: relative"]
)
def test_any_yaml_is_read_and_nothing_unfit_is_taken(text: str) -> None:
    steps = imported.steps(yaml.safe_load(text), SCHEMA)
    assert imported.values(steps) == {}
    assert all("not taken over" in step.what for step in steps)


@pytest.mark.parametrize("text", ["a: [", "\x00", "!!python/object/apply:os.system ['touch CANARY']"])
def test_a_file_that_is_no_plain_yaml_is_refused_and_runs_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gateway = Gateway(tmp_path / "gw")
    (tmp_path / "old.yaml").write_text(text)
    ran = gateway("--yes", "--import", str(tmp_path / "old.yaml"))
    assert ran.code == 78
    assert "old.yaml" in ran.err
    assert not (tmp_path / "CANARY").exists()


def test_an_imported_file_answers_and_the_rest_is_asked(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gw")
    (tmp_path / "old.yaml").write_text(OLD)
    ran = gateway("--yes", "--import", str(tmp_path / "old.yaml"), "--set", "job.command=true", "--dry-run")
    assert ran.code == 0, ran.err
    assert "hpc.host: hosts.gpu1.address = " in ran.out
    assert "database.path: not taken over" in ran.out
    ran = gateway("--yes", "--import", str(tmp_path / "old.yaml"))
    assert "job.command has no default" in ran.err


# --- the units of a site


def site_conf(folder: Path, tables: dict[str, Any], account: str = "mqi") -> str:
    where = places.places("", False, {})
    site = loaded(folder, sample.text(SCHEMA, answers.merged(NEEDED, tables)))
    made = units.files(where, site, config.DEFAULT, account)
    return next((file.text for file in made if file.path.endswith("site.conf")), "")


def test_a_site_as_the_units_have_it_needs_only_its_addresses(tmp_path: Path) -> None:
    conf = site_conf(tmp_path, {})
    lines = [line for line in conf.splitlines() if not line.startswith("#") and "/root" not in line and "Home" not in line]
    lines = [line for line in lines if not re.search(r"(Exec|ReadOnly)Paths=-?\+?" + re.escape(sys.base_prefix), line)]
    assert [line for line in lines if str(REPO) not in line] == ["[Service]", "NoExecPaths=-+/srv/mqi/inbox", "IPAddressDeny=any", "IPAddressAllow=192.0.2.5"]


def test_a_host_with_a_name_leaves_the_network_open_and_says_why(tmp_path: Path) -> None:
    conf = site_conf(tmp_path, {"hosts": {"gpu1": {"address": "mqi@gpu.example"}}})
    assert "IPAddressDeny=" not in re.sub(r"^#.*$", "", conf, flags=re.M)
    assert "needs a name server" in conf


def test_other_folders_and_another_account_are_let_in(tmp_path: Path) -> None:
    conf = site_conf(tmp_path, {"site": {"inbox": "/mnt/in", "results": "/home/q/out", "state": "/data/state"}}, "qa")
    for line in ("User=qa", "BindReadOnlyPaths=-/mnt/in", "BindPaths=-/home/q/out", "BindPaths=-/data/state", "ReadWritePaths=-+/data/state",
                 "StateDirectory=", "ProtectHome=tmpfs", "NoExecPaths=-+/mnt/in"):  # fmt: skip
        assert f"{line}\n" in conf


def test_a_log_that_the_site_wants_is_rotated(tmp_path: Path) -> None:
    """By the real logrotate, as often as one likes; without the key there is no such file."""
    where, log = places.places("", False, {}), tmp_path / "mqi.log"
    tables: list[dict[str, Any]] = [{}, {"log": {"file": str(log)}}]
    without, made = [units.files(where, loaded(tmp_path, sample.text(SCHEMA, answers.merged(NEEDED, one))), config.DEFAULT, "root") for one in tables]
    assert not [file for file in without if "logrotate" in file.path]
    (file,) = [file for file in made if file.path == "/etc/logrotate.d/mqi"]
    log.write_text("{}\n")
    tmp_path.chmod(0o700)
    (tmp_path / "conf").write_text(file.text)
    (tmp_path / "conf").chmod(0o644)
    subprocess.run([need("logrotate"), "--force", "--state", tmp_path / "state", tmp_path / "conf"], check=True)
    assert (log.read_text(), log.stat().st_mode & 0o777) == ("", 0o600)
    assert (tmp_path / "mqi.log.1.gz").exists()


def test_a_queue_on_this_machine_opens_the_sandbox(tmp_path: Path) -> None:
    conf = site_conf(tmp_path, {"hosts": {"gpu1": {"transport": "local", "engine": "direct"}}})
    for line in ("RootDirectory=", "PrivateDevices=no", "KillMode=process", "ReadWritePaths=-+/data/mqi"):
        assert f"{line}\n" in conf


def test_the_units_of_one_user_hold_nothing_that_needs_root(tmp_path: Path) -> None:
    where = places.places(str(tmp_path), True, {"HOME": str(tmp_path)})
    site = loaded(tmp_path, sample.text(SCHEMA, NEEDED))
    for file in units.files(where, site, str(tmp_path / "mqi.toml"), ""):
        path = Path(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", file.text, flags=re.M))
    folder = Path(where.units)
    service = (folder / "mqi@.service").read_text()
    assert "User=" not in service
    assert "RootDirectory" not in service
    assert "TimeoutStartSec=2h" in service
    assert f"MQI_CONFIG={tmp_path}/mqi.toml" in (folder / "mqi@.service.d/site.conf").read_text()
    assert "WantedBy=default.target" in (folder / "mqi.target").read_text()
    ran = subprocess.run([need("systemd-analyze"), "--user", "verify", *map(str, folder.glob("*.timer")), str(folder / "mqi@scan.service")],
                         capture_output=True, text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")})  # fmt: skip
    assert ran.stdout + ran.stderr == ""


def test_the_text_for_a_compute_host_names_no_key_before_there_is_one() -> None:
    host = config.HostConfig(**{**dict.fromkeys(config.HostConfig._fields, ""), "gate": False, "name": "gpu1", "address": "mqi@h", "root": "/data/mqi"})
    assert "mqi-init on the gateway makes the key" in far.text(host, "", 1)


def test_the_installer_of_the_checkout_installs_and_sets_up(tmp_path: Path) -> None:
    """bin/mqi-init: a version in a folder of its own, the programs linked, and gone again."""
    gateway = Gateway(tmp_path / "gw")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    argv = [REPO / "bin/mqi-init", "--prefix", str(gateway.folder)]
    ran = subprocess.run([*argv, "--yes", "--answers", str(gateway.answers)], capture_output=True, text=True, env=env, timeout=300)
    assert ran.returncode == 69, ran.stdout + ran.stderr  # its host key was not accepted
    version = os.readlink(gateway.folder / "opt/mqi/current")
    assert version.startswith(f"{gateway.folder}/opt/mqi/versions/{__version__}-")
    assert gateway.program("mqi-scan", "--version").out == f"mqi-scan {__version__}\n"
    again = subprocess.run([*argv, "--yes"], capture_output=True, text=True, env=env, timeout=300)
    assert "installing" not in again.stderr
    shutil.copytree(gateway.etc, tmp_path / "kept")
    gone = subprocess.run([*argv, "--remove", "--yes"], capture_output=True, text=True, env=env, timeout=300)
    assert gone.returncode == 0, gone.stderr
    assert not (gateway.folder / "opt/mqi").exists()
    assert not list((gateway.folder / "usr/local/bin").iterdir())
    assert sorted(path.name for path in (tmp_path / "kept").rglob("*")) == sorted(path.name for path in gateway.etc.rglob("*"))
