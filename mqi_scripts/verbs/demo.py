"""mqi-demo - a made-up case, computed on this machine from the inbox to a verified result

Needs no root, no queue software and no ssh: the engine is `direct`. Everything is below one new folder.

examples:
  mqi-demo                    about 5 MB of data, in a new folder below ./demo
  mqi-demo --full             45 MB, the size of a real case
  mqi-demo --folder /tmp/x    there
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.demo.make_case import BEAMS, FULL, SMALL, make_case
from mqi_scripts.frame import cli

PLAIN = re.compile(r"/[A-Za-z0-9._/+=@-]+")  # what a host's root may be, see schemas/config.schema.json
PATIENCE = 90.0  # seconds
SITE = """# made by mqi-demo
[site]
name = "demo"
inbox = {inbox}
results = {results}
state = {state}

[scan]
quiet = "0s"
profile = {profile}

[job]
command = {command}
{wanted}
failure_markers = ["ERROR:"]
success_markers = ["Total execution time:"]
time_limit = "10m"
progress = '\\((\\d+) of (\\d+) batches\\)'

[hosts.here]
transport = "local"
engine = "direct"
root = {root}
"""


def demo(args: argparse.Namespace) -> int:
    folder = Path(args.folder or Path.cwd() / "demo" / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}").absolute()
    if folder.exists() and any(folder.iterdir()):
        raise w.Usage(f"{folder} is not empty: name a new folder with --folder")
    for name in ("inbox", "results"):
        (folder / name).mkdir(0o700, parents=True, exist_ok=True)
    root = folder / "host"
    if not PLAIN.fullmatch(str(root)):
        root = Path(tempfile.mkdtemp(prefix="mqi-demo-")) / "host"
        say(f"{folder} has characters that a compute host's root may not have: the root is {root}")
    config = folder / "mqi.toml"
    package = Path(__file__).parent.parent.parent
    command = f'PYTHONPATH={shlex.quote(str(package))} {shlex.quote(sys.executable)} -m mqi_scripts.demo.compute "$MQI_INPUT" .'
    paths = {"inbox": folder / "inbox", "results": folder / "results", "state": folder / "state", "root": root}
    profile, results = "moqui-log", 'results = ["log/*.csv"]\nresults_per_beam = "Dose/*_Dose.dcm"'
    if lack := profiles.missing(profile):
        say(f"{lack}; without it the content of the case is not checked")
        profile, results = "files", 'results = ["log/*.csv", "Dose/*_Dose.dcm"]'
    settings = {"command": json.dumps(command), "profile": json.dumps(profile), "wanted": results}
    config.write_text(SITE.format(**settings, **{key: json.dumps(str(path)) for key, path in paths.items()}))
    case = make_case(folder / "inbox", size=FULL if args.full else SMALL)
    size = sum(path.stat().st_size for path in case.rglob("*") if path.is_file())
    say(f"made a case of {len(BEAMS)} treatment beams, {size / 1e6:.1f} MB: {case}")
    for name in ("scan", "push", "submit"):
        step(name, config)
    until = time.monotonic() + PATIENCE
    while status(config) not in (w.COMPUTED, w.FAILED, w.HELD) and time.monotonic() < until:
        time.sleep(0.5)
        step("poll", config)
    step("fetch", config)
    step("report", config)
    return ending(folder, case, config)


def ending(folder: Path, case: Path, config: Path) -> int:
    """Where the result is and what to try next; 0 if every beam has its dose file."""
    doses = sorted((folder / "results" / case.name / "Dose").glob("*_Dose.dcm"))
    if status(config) != w.COMPLETED or len(doses) != len(BEAMS):
        say("the demo did not complete: the report above says why")
        return 1
    for beam, dose in zip(BEAMS, doses, strict=True):
        say(f"beam {beam} completed: {dose}")
    name = shlex.quote(str(config))
    say("next, try:")
    for line in (f"mqi-case show {case.name}", "mqi-case verify --all", "mqi-check"):
        say(f"  {_prefix()}{line} --config {name}")
    return 0


def step(name: str, config: Path) -> None:
    say(f"$ {_prefix()}mqi-{name} --config {shlex.quote(str(config))}")
    _run(name, config, None)


def status(config: Path) -> str:
    said = _run("report", config, subprocess.PIPE, "--jsonl")
    return str(json.loads(said.splitlines()[0])["status"]) if said else ""


def _run(name: str, config: Path, stdout: int | None, *words: str) -> str:
    """One of our programs, as a user's shell would run it."""
    argv = [sys.executable, "-P", "-m", "mqi_scripts", name, "--config", str(config), *words]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    return subprocess.run(argv, stdout=stdout, env=env, text=True, check=False).stdout or ""  # noqa: S603


def _prefix() -> str:
    """How the programs are called here: bin/ in a checkout, nothing where they are installed."""
    checkout = Path(__file__).parent.parent.parent / "bin" / "mqi-demo"
    return f"{checkout.parent}/" if checkout.exists() else ""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-demo", __doc__ or "")
    parse.add_argument("--folder", metavar="DIR", help="a new or empty folder for everything")
    parse.add_argument("--full", action="store_true", help="45 MB instead of 5")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return cli.boundary("mqi-demo", lambda: demo(args))
