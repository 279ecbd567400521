"""The archive for a gateway without network: what is in it, and that it installs and works in a namespace that has none."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import REPO, need
from test_readme import three_beams


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "mqi.tar.gz"
    ran = make("--bundle", str(path))
    assert ran.returncode == 0, ran.stderr
    return path


def make(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "mqi_scripts", "mqi-init", *words]
    return subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=600)


def test_it_holds_the_installer_pip_and_a_wheel_of_each_package_for_each_python(bundle: Path) -> None:
    with tarfile.open(bundle) as tar:
        members = {member.name.partition("/")[2]: member for member in tar.getmembers()}
    assert members["mqi-init"].mode & 0o111
    assert {member.uname for member in members.values()} == {"root"}
    wheels = [name.rpartition("/")[2] for name in members if name.endswith(".whl")]
    for package in ("mqi", "pip", "plumbum", "jsonschema", "tabulate", "python_dateutil", "tqdm", "pydicom"):
        assert len([name for name in wheels if name.lower().startswith(f"{package}-")]) == 1, package
    for version in ("cp311", "cp312", "cp313"):
        assert [name for name in wheels if name.startswith("rpds_py-") and version in name], version


def test_it_installs_without_any_network_and_the_demo_runs(bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xzf", str(bundle)], cwd=tmp_path, check=True)
    place = tmp_path / "gw"
    script = f"""
set -eu
grep -c : /proc/net/dev
cd {tmp_path}/mqi-*
./mqi-init --prefix {place} --yes --set job.command=true --set hosts.gpu1.address=mqi@192.0.2.5 || [ $? -eq 69 ]
{place}/usr/local/bin/mqi-demo --folder {tmp_path}/demo
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "VIRTUAL_ENV", "PIP_"))}
    apart = [need("unshare"), "-n" if os.geteuid() == 0 else "-rn", "--", "/bin/sh", "-c", script]
    ran = subprocess.run(apart, env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("1\n")  # lo, and no other device
    three_beams(ran.stdout, tmp_path / "demo")
    assert str(REPO) not in ran.stdout + ran.stderr


def test_a_bundle_for_no_python_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    ran = make("--bundle", str(tmp_path / "x.tar.gz"), "--python", "2.7")
    assert ran.returncode == 2
    assert "expected a version as 3.11" in ran.stderr
    ran = make("--bundle", str(tmp_path / "x.tar.gz"), "--python", "3.99")
    assert ran.returncode == 78
    assert "pip" in ran.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []
