"""Every command of the README, in its order, with its paths below a temporary folder and its compute host on loopback;
and the demo, from an installed wheel and from a fresh copy of the checkout."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import make
import pytest
from conftest import REPO, Place, Pueued, Sshd
from test_ground import LAYERS

from mqi_scripts import words as w
from mqi_scripts.demo.make_case import BEAMS, FULL, make_case
from mqi_scripts.demo.make_case import LAYERS as DEMO_LAYERS
from mqi_scripts.install.keys import fingerprint

README = (REPO / "README.md").read_text()
BLOCKS = [(kind, body) for kind, body in re.findall(r"```(\w+)\n(.*?)```", README, re.S)]
SH = [body for kind, body in BLOCKS if kind == "sh"]


class Site(NamedTuple):
    """Where the README's paths lie in this test."""

    folder: Path
    wheel: Path

    def path(self, text: str) -> Path:
        return self.folder / text.lstrip("/")

    def here(self, text: str) -> str:
        """The text with the README's places, accounts and host in this folder, by this account, on this machine."""
        text = text.replace("/usr/local/bin/pueue", "PUEUE")
        for place in ("/etc/systemd/system", "/etc/mqi", "/opt/mqi", "/usr/local/bin", "/var/lib/mqi", "/srv/mqi", "/data/mqi"):
            text = re.sub(rf"(?<![\w/]){place}", str(self.path(place)), text)
        init = f"mqi-init --prefix {self.folder} --yes"
        swaps = [("mqi@192.0.2.5", f"{getpass.getuser()}@127.0.0.1"), ("sudo -u mqi ", ""), ("apt-get install ", "apt-get install --simulate "),
                 ("bin/mqi-init\n", f"bin/{init} --answers site.toml || case $? in 69 | 78) ;; *) exit 1 ;; esac\n"), ("\nmqi-init\n", f"\n{init}\n"),
                 ("site.toml", f"{self.folder}/site.toml"), ("bin/mqi-init --yes", f"bin/{init}"), ("mqi.tar.gz", f"{self.folder}/mqi.tar.gz")]  # fmt: skip
        for old, new in swaps:
            text = ("\n" + text).replace(old, new).lstrip("\n")
        return text

    def run(self, block: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The block as one shell would run it, a failing line ending it."""
        path = f"{self.path('/usr/local/bin')}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return subprocess.run(["/bin/bash", "-euo", "pipefail", "-c", self.here(block)], cwd=REPO, env={**os.environ, "PATH": path, **env},
                              capture_output=True, text=True, timeout=300)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Iterator[Site]:
    """The README's first block of installation, with the answers of its example; and the wheel that this checkout builds."""
    folder = tmp_path_factory.mktemp("gateway")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), str(REPO)], check=True)
    place = Site(folder, next((folder / "dist").glob("*.whl")))
    answers = place.here(next(body for kind, body in BLOCKS if kind == "toml")).replace("port     = 22", f"port     = {sshd.port}")
    command = f'{place.path("/opt/mqi/current/bin/python")} -m mqi_scripts.demo.compute "$MQI_INPUT" .'
    answers = answers.replace('cd /opt/moqui && ./compute "$MQI_INPUT" "$MQI_OUTPUT"', command)
    (folder / "site.toml").write_text(answers.replace('"15m" ', '"0s" '))
    (folder / "data").mkdir()
    done = place.run(SH[2])
    assert done.returncode == 0, done.stderr
    yield place
    shutil.rmtree(folder, ignore_errors=True)


def test_the_first_two_commands_are_the_demo_and_the_tests() -> None:
    assert [block.strip() for block in SH[:2]] == ["bin/mqi-demo", "tests/run"]
    assert [kind for kind, _ in BLOCKS].count("toml") == 1


def test_the_test_command_runs(tmp_path: Path) -> None:
    """All of it but what would run this test again: the set-up, then pytest, which ends with its closing line."""
    argv = [str(REPO / SH[1].strip()), "--quick", "tests/test_place.py", "-k", "hosts"]
    ran = subprocess.run(argv, cwd=tmp_path, env={**os.environ, "HOME": os.environ.get("MQI_REAL_HOME", os.environ["HOME"]),
                         "MQI_TEST_CACHE": str(tmp_path)}, capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"\d+ passed, \d+ deselected in .*\n$", ran.stdout)


def test_the_wheel_carries_everything(site: Site) -> None:
    names = set(zipfile.ZipFile(site.wheel).namelist())
    for folder in ("schemas", "systemd"):
        assert {f"mqi_scripts/{path.relative_to(REPO)}" for path in (REPO / folder).rglob("*") if path.is_file()} <= names
    assert {f"mqi_scripts/far/{path.name}" for path in (REPO / "mqi_scripts" / "far").iterdir()} <= names
    assert {f"mqi_scripts/{layer}/__init__.py" for layer in LAYERS[1:]} <= names
    assert not [name for name in names if name.startswith(("tests", "bin"))]


def test_the_demo_runs_from_the_installed_wheel(site: Site, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = site.path("/opt/mqi/current/bin/mqi-demo")
    ran = subprocess.run([program, "--folder", str(tmp_path / "demo")], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    three_beams(ran.stdout, tmp_path / "demo")
    assert str(REPO) not in ran.stdout + ran.stderr
    assert "\n  mqi-case verify --all --config" in ran.stdout


def three_beams(said: str, folder: Path) -> None:
    assert re.findall(r"^beam (\S+) completed: ", said, re.M) == list(BEAMS)
    doses = sorted(folder.glob("results/*/Dose/*_Dose.dcm"))
    assert len(doses) == 3
    assert len(list(folder.glob("results/*/log/*.csv"))) == 3
    record = json.loads(next(folder.glob("results/*/mqi-result.json")).read_text())
    assert (record["attempt"], record["exit"], len(record["files"])) == (1, 0, 6)
    assert said.count("--config") >= 8  # six programs, each shown, and three to try


def test_the_installed_site_works_as_the_readme_says(site: Site, sshd: Sshd, pueued: Pueued) -> None:
    """Set-up, known host, check, bundle, timers, the line, the reports, the night: one story, block by block."""
    env = {"MQI_CONFIG": str(site.path("/etc/mqi/mqi.toml")), "LC_ALL": "C.UTF-8"}
    again, unattended, bundle, line, reports, night = SH[3:]
    config = Path(env["MQI_CONFIG"])
    config.write_text(config.read_text().replace('"PUEUE"', f'"{pueued.command}"').replace("/etc/pueue/pueue.yml", pueued.config))
    with (sshd.folder / "authorized_keys").open("a") as file:
        file.write(site.path("/etc/mqi/ssh/id_ed25519.pub").read_text())
    here = fingerprint((sshd.folder / "host_key.pub").read_text().split()[1])
    known = site.run(re.sub(r"SHA256:\S+", here, unattended), **env)  # nobody types the fingerprint here
    assert known.returncode == 0, known.stdout + known.stderr
    ran = site.run(again, **env)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing was changed" in ran.stdout
    assert "FAIL" not in ran.stdout
    packed = site.run(bundle, **env)
    assert packed.returncode == 0, packed.stderr
    assert (site.folder / "mqi.tar.gz").stat().st_size > 1 << 20
    wanted = {path.name for path in site.path("/etc/systemd/system/mqi.target.wants").iterdir()}
    assert wanted == {path.name for path in (REPO / "systemd").glob("*.timer")}
    make.case(site.path("/srv/mqi/inbox"))
    for _ in range(50):
        carried = site.run(line, **env)
        assert carried.returncode == 0, carried.stderr
        if '"completed"' in site.run("mqi-report --jsonl", **env).stdout:
            break
    assert len([*site.path("/srv/mqi/results/2.25.1001.1/Dose").iterdir()]) == 3
    with_files = site.run(f"cd {site.folder}\n{reports}", **env)
    assert with_files.returncode == 0, with_files.stderr
    assert "completed" in with_files.stdout
    assert (site.folder / "report.csv").read_bytes().startswith(b'"case_id"')
    assert json.loads((site.folder / "report.json").read_text())["site"] == "G1"

    config.write_text(re.sub(r'^quiet( *)= "0s"', r'quiet\1= "15m"', config.read_text(), flags=re.M))  # else mqi-check warns
    awake = site.run(night, **env)
    assert awake.returncode == 0, awake.stderr
    for unit in [REPO / "systemd" / name for name in wanted]:  # what the timers start, by the line in the unit
        name = re.findall(r"^Unit=mqi@(.+)\.service$", unit.read_text(), re.M)[0]
        own = unit.parent / f"mqi@{name}.service.d" / "command.conf"
        program = re.findall(r"^ExecStart=(.+)$", (own if own.exists() else unit.parent / "mqi@.service").read_text(), re.M)[0]
        assert site.run(program.replace("%i", name), **env).returncode == 0


def test_every_program_and_exit_code_stands_in_the_readme(site: Site) -> None:
    for program in (REPO / "bin").iterdir():
        assert f"| `{program.name}` |" in README
    codes = {kind.code for kind in vars(w).values() if isinstance(kind, type) and issubclass(kind, w.Failure)} | {0, 1, 130}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)} == codes
    assert {word for word in re.findall(r"`(\w+)`", README) if word in w.STATUSES} == set(w.STATUSES)
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (REPO / link).exists()


def test_the_map_of_the_source_is_the_source() -> None:
    rows = "".join(re.findall(r"^\| (`[a-z_./` ]+) \|", README.partition("\n## The source\n")[2], re.M))
    package = REPO / "mqi_scripts"
    there = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"} | {"words.py"}
    assert set(re.findall(r"`([a-z_./]+)`", rows)) - {"mqi_scripts/"} == there


def test_a_fresh_copy_of_the_checkout_runs_the_demo_by_itself(tmp_path: Path) -> None:
    """What git has, nothing else: the first command of the README makes the virtual environment and completes three beams."""
    copy = tmp_path / "copy"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (REPO / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, copy / name)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run([copy / SH[0].strip()], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    three_beams(ran.stdout, next((copy / "demo").iterdir()))
    command = next(line for line in ran.stdout.splitlines() if "mqi-case verify" in line)
    assert subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=env).returncode == 0


def test_a_demo_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    ran = subprocess.run([REPO / "bin" / "mqi-demo", "--folder", str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "is not empty" in ran.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["mine"]


def test_the_made_up_case_has_the_field_s_shape(tmp_path: Path) -> None:
    import pydicom

    case = make_case(tmp_path)
    deliveries = sorted(path for path in case.iterdir() if path.is_dir())
    assert [len(list(path.glob("*.ptn"))) for path in deliveries] == list(DEMO_LAYERS)
    assert sum(DEMO_LAYERS) == 108
    for delivery in deliveries:
        assert {path.stem for path in delivery.glob("*.ptn")} == {path.stem for path in delivery.glob("*.mgn")}
        assert (delivery / "PlanInfo.txt").read_bytes().count(b"\r\n") == 11
    size = sum(path.stat().st_size for path in case.rglob("*") if path.is_file())
    assert 4e6 < size < 7e6
    assert all(path.stat().st_size % 16 == 0 for path in case.rglob("*.ptn"))
    plan = pydicom.dcmread(next(case.glob("RP.*.dcm")))
    treated = [beam for beam in plan.IonBeamSequence if beam.TreatmentDeliveryType == "TREATMENT"]
    assert [beam.BeamName for beam in treated] == list(BEAMS)
    assert [beam.NumberOfControlPoints for beam in treated] == [2 * count for count in DEMO_LAYERS]
    assert plan.Modality == "RTPLAN"


def test_the_full_case_has_the_measured_size(tmp_path: Path) -> None:
    case = make_case(tmp_path, size=FULL)
    files = [path for path in case.rglob("*") if path.is_file()]
    assert len(files) == 223
    assert 40e6 < sum(path.stat().st_size for path in files) < 50e6


def test_the_demo_s_computation_refuses_what_it_cannot_compute(tmp_path: Path) -> None:
    place = Place(tmp_path / "site", '\ntransport = "local"\nengine = "direct"\n',
                  f'PYTHONPATH={REPO} {sys.executable} -m mqi_scripts.demo.compute "$MQI_INPUT" .')  # fmt: skip
    case = make_case(place.inbox)
    next(case.rglob("*.ptn")).write_bytes(b"123")
    row = place.until("failed")[case.name]
    assert row["reason"] == "the job ended with exit 1"
    assert b"its size 3 is no whole number of rows" in place.ledger()
