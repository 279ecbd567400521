"""The laws that hold after every fault, asked of a real site and its compute host: `broken` names those that do not.

The job itself keeps the evidence outside all folders of ours: `job` writes what was executed, and who found another one alive.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conftest import Place

RESTING = ("completed", "failed", "held", "cancelled")
LINE = ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch")


def job(folder: Path, work: str = 'cp "$MQI_INPUT/plan.txt" plan.out') -> str:
    """A job's command that tells `broken` of a second one alive: whatever is left of it holds the lock."""
    return f'exec 5>>"{folder}/live-$MQI_CASE"\nflock -n 5 || echo "$MQI_CASE" >>{folder}/two-alive\n{work}'


def told(said: str) -> list[dict[str, Any]]:
    """The events that a script printed with --jsonl; a line that was cut off was told to nobody."""
    return [json.loads(line) for line in said.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]


def broken(place: Place, acknowledged: Iterable[dict[str, Any]] = ()) -> list[str]:
    """The laws that do not hold now, each in a sentence."""
    return [*executed_once(place), *ledger_is_whole(place, acknowledged), *nothing_half(place), *canaries(place)]


def executed_once(place: Place) -> Iterator[str]:
    runs = place.executions()
    yield from (f"executed twice: {line}" for line in sorted({line for line in runs if runs.count(line) > 1}))
    for path in place.runs.parent.glob("two-alive"):
        yield f"two attempts alive: {path.read_text().split()}"


def ledger_is_whole(place: Place, acknowledged: Iterable[dict[str, Any]]) -> Iterator[str]:
    if (ran := place("mqi-ledger", "verify")).code:
        yield f"the ledger does not verify: {ran.err}"
    lines = [line for line in place.ledger().splitlines() if line.endswith(b"}")]
    stored = {(r["type"], r["case"], r["at"], r.get("attempt")) for r in map(json.loads, lines)}
    for event in acknowledged:
        if (event["type"], event["case"], event["at"], event.get("attempt")) not in stored:
            yield f"acknowledged and not in the ledger: {event}"


def nothing_half(place: Place) -> Iterator[str]:
    """Whatever stands under a final name is whole: inputs, results, manifests, the wrapper's records; and private."""
    for path in place.root.glob("cases/*/input-*"):
        if path.is_dir() and ".old-" not in path.name and (fault := unlike(path, path.with_name(path.name + ".sha256"), path.name.removeprefix("input-"))):
            yield f"{path} {fault}"
    for path in place.state.glob("manifests/*"):
        if not path.name.endswith(".new") and sha256(path.read_bytes()) != path.name.partition("-")[2]:
            yield f"{path} is not what its name says"
    for path in place.root.glob("cases/*/attempt-*"):
        if re.fullmatch(r"attempt-\d+", path.name):
            yield from half_attempt(path)
    for path in place.results.rglob("mqi-result.json"):
        if not any(part.startswith(".") for part in path.relative_to(place.results).parts):
            yield from half_result(place, path)
    for path in place.state.rglob("*"):
        if path.lstat().st_mode & 0o077:
            yield f"{path} can be read by others"


def unlike(folder: Path, manifest: Path, digest: str) -> str:
    """How a folder differs from the manifest of that digest; "" if it does not."""
    if not manifest.is_file() or sha256(manifest.read_bytes()) != digest:
        return "has no manifest of its digest"
    sums = dict(line.split("  ", 1)[::-1] for line in manifest.read_text().splitlines())
    found = {str(p.relative_to(folder)): sha256(p.read_bytes()) for p in folder.rglob("*") if not p.is_dir()}
    return "" if sums == found else f"is not its manifest: {sorted(set(sums.items()) ^ set(found.items()))[:2]}"


def half_attempt(path: Path) -> Iterator[str]:
    for name in ("result", "status"):
        if (path / name).exists() and not (path / name).read_text().endswith("\n"):
            yield f"{path / name} is half written"
    result = (path / "result").read_text() if (path / "result").exists() else ""
    if "exit=0 signal= fault= " in result and (path / "output").exists():  # else it was cleaned
        digest = re.findall(r"manifest=(\S*)", result)[0]
        if fault := unlike_output(path, digest):
            yield f"{path}/output {fault}"


def unlike_output(path: Path, digest: str) -> str:
    manifest = (path / "output.sha256").read_bytes()
    if sha256(manifest) != digest:
        return "is not what the result names"
    sums = [line.split("  ./", 1) for line in manifest.decode().splitlines() if not line.startswith("\\")]
    return next((f"differs at {name}" for total, name in sums if sha256((path / "output" / name).read_bytes()) != total), "")


def half_result(place: Place, path: Path) -> Iterator[str]:
    """Results under a final name: every file as its record says, and computed from the input that it names."""
    record = json.loads(path.read_text())
    for file in record["files"]:
        here = path.parent / file["name"]
        if not here.is_file() or sha256(here.read_bytes()) != file["sha256"]:
            yield f"{here} is not what its record says"
    if f"{record['case']} {record['attempt']}" not in place.executions():
        yield f"{path} comes from an attempt that was never executed"
    manifest = place.state / "manifests" / f"{record['case']}-{record['input']}"
    plan = [line[:64] for line in manifest.read_text().splitlines() if line.endswith("  plan.txt")]
    if (out := path.parent / "plan.out").exists() and [sha256(out.read_bytes())] != plan:
        yield f"{out} was not computed from the input that its record names"


def canaries(place: Place) -> Iterator[str]:
    """Whatever is executed or written outside its place: a canary that sings or is gone, a result that is nobody's."""
    for path in place.folder.parent.rglob("CANARY*"):
        if path.name != "CANARY-planted" or path.read_text() != "alive\n":
            yield f"something was executed or written outside: {path}"
    planted = [folder / "CANARY-planted" for folder in perches(place)]
    if any(path.exists() for path in planted):
        yield from (f"something was removed outside: {path}" for path in planted if not path.exists())
    known = {path.partition("/")[0] for path in re.findall(r'"path":("(?:[^"\\]|\\.)*")', place.ledger().decode()) for path in [json.loads(path)]}
    for name in sorted(os.listdir(place.results)) if not list(place.state.glob("ledger-*.gz")) else ():
        base = re.sub(r"(\.partial)?(\.superseded-\d+)?$", "", name)
        if base not in known and not re.fullmatch(r"CANARY-planted|lost\+found|\.mqi-results(\.\d+\.new)?|\.[0-9a-f]{20}\.incoming", name):
            yield f"nobody's result: {place.results / name}"


def perches(place: Place) -> tuple[Path, ...]:
    return place.folder, place.folder.parent, place.inbox, place.results


def plant(place: Place) -> None:
    for folder in perches(place):
        (folder / "CANARY-planted").write_text("alive\n")


def standing(place: Place) -> list[str]:
    """Cases that stand somewhere without a name for it: neither at rest, nor with a reason or a next step; or wrongly completed."""
    rows, odd = place.rows(), []
    for name, row in rows.items():
        if not (row["reason"] or row["next"] or row["status"] in ("completed", "cancelled")):
            odd.append(f"{name} is {row['status']} and nobody says why")
        if row["status"] == "completed" and not (place.results / name / "mqi-result.json").exists():
            odd.append(f"{name} is completed without its results")
    odd += [f"{path} is not known any more" for path in sorted(os.listdir(place.inbox)) if (place.inbox / path).is_dir() and path not in rows]
    return odd


def busy(root: Path, *, timers: bool = False) -> list[int]:
    """Processes whose command line or folder is below a root: wrappers, their jobs, and who traces them.

    timers: also the wrapper's timer, which outlives it by up to a second.
    """
    found = []
    for entry in os.listdir("/proc"):
        try:
            line = entry.isdigit() and Path(f"/proc/{entry}/cmdline").read_bytes() + os.fsencode(os.readlink(f"/proc/{entry}/cwd"))
        except OSError:
            continue
        if line and os.fsencode(root) in line and (timers or not line.startswith((b"timeout\0", b"tail\0--pid"))):
            found.append(int(entry))
    return found


def quiet(root: Path, *, timers: bool = False) -> None:
    """Wait until nothing of a root runs any more."""
    deadline = time.monotonic() + 60
    while busy(root, timers=timers):
        assert time.monotonic() < deadline, f"still running:\n{processes(root)}"
        time.sleep(0.05)


def processes(root: Path) -> str:
    """Who runs below a root, and what each of them waits for."""
    pids = ",".join(map(str, busy(root, timers=True))) or "1"
    return subprocess.run(["ps", "-ww", "-o", "pid,ppid,pgid,stat,wchan:24,etimes,args", "-p", pids], capture_output=True, text=True).stdout


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
