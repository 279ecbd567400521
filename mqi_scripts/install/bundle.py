"""One archive for a gateway without network: the installer and every wheel, for each of the given Python versions."""

import os
import re
import shutil
import sys
import tarfile
import tempfile

from mqi_scripts import __version__
from mqi_scripts.install import things
from mqi_scripts.words import Usage
from mqi_scripts.world.files import sync

PATIENCE = 1800  # seconds for the packages of one version of Python


def make(archive: str, pythons: list[str]) -> int:
    """Write the archive, whole or not at all; how many wheels are in it. Raises Usage or Configuration (pip's words)."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not os.path.exists(os.path.join(checkout, "pyproject.toml")):
        raise Usage("a bundle is made from a checkout, where there is a network: bin/mqi-init --bundle FILE")
    if odd := [version for version in pythons if not re.fullmatch(r"3\.\d+", version)]:
        raise Usage(f"--python {odd[0]}: expected a version as 3.11")
    top = f"mqi-{__version__}"
    with tempfile.TemporaryDirectory() as folder:
        wheels = os.path.join(folder, top, "wheels")
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        things.do(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, checkout, seconds=PATIENCE)
        ours = os.path.join(wheels, os.listdir(wheels)[0])
        for version in pythons:
            words = ("--only-binary", ":all:", "--python-version", version, "--dest", wheels, f"{ours}[dicom]", "pip")
            things.do(*pip, "download", *words, seconds=PATIENCE)
        for name in ("bin/mqi-init", "README.md", "LICENSE", "CHANGELOG.md"):
            shutil.copy(os.path.join(checkout, name), os.path.join(folder, top, os.path.basename(name)))
        with tarfile.open(f"{archive}.new", "w:gz") as tar:
            tar.add(os.path.join(folder, top), top, filter=_plain)
        sync(f"{archive}.new")
        os.rename(f"{archive}.new", archive)
        return len(os.listdir(wheels))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """No account of this machine in the archive."""
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
