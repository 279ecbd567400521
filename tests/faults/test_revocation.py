"""Revocation: whatever happens around it, an attempt is either begun or revoked, and its successor is the only one that lives."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import laws
import pytest
from conftest import REPO, Place, Pueued, Sshd, host_text, need
from relay import Relay
from test_far import launch
from test_queue import GATED, labelled, lawful, site, submitted, until

SECOND = "second\n"


class Between:
    """An ssh that does something before the session in which mqi-submit acts: behind its look, and behind the intents."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.hook, self.count = folder / "hook", folder / "count"
        (folder / "front").mkdir()
        front = folder / "front" / "ssh"
        front.write_text(f"""#!/bin/sh
echo >>{self.count}
[ "$(wc -l <{self.count})" != 2 ] || [ ! -x {self.hook} ] || {self.hook} </dev/null >&2 || exit 255
exec {need("ssh")} "$@"
""")
        front.chmod(0o755)
        place.env = {"PATH": f"{folder}/front:{os.environ['PATH']}"}

    def submit(self, place: Place, does: str) -> int:
        self.count.write_text("")
        self.hook.write_text(f"#!/bin/sh\n{does}\n")
        self.hook.chmod(0o755)
        code = place("mqi-submit").code
        self.hook.unlink()
        return code


def fill(pueued: Pueued) -> None:
    """A stranger's tasks in every slot: ours wait until they are started by hand."""
    for group in ("gpu0", "gpu1"):
        pueued.client("add", "-g", group, "--", "sleep 600")


def free(pueued: Pueued) -> None:
    pueued.client("kill", "--signal", "sigkill", "0", "1")


def change(place: Place, *names: str) -> None:
    """New data of these cases, which the scan has seen."""
    for name in names:
        (place.inbox / name / "plan.txt").write_text(f"{name} {SECOND}")
    assert place("mqi-scan").out.count("its content changed") == len(names)


def attempts(place: Place) -> list[str]:
    """The numbers of the attempts that were executed, of a site with one case."""
    return [line.split()[1] for line in place.executions()]


def claim(place: Place, number: int) -> str:
    at = next(place.root.glob(f"cases/*/attempt-{number}")) / "claim"
    return os.readlink(at) if at.is_symlink() else "begun" if at.is_dir() else "none"


def plan(place: Place) -> str:
    return (place.results / "a" / "plan.out").read_text()


def types(place: Place) -> list[str]:
    return [json.loads(line)["type"] for line in place.ledger().splitlines()]


def test_a_far_side_cut_off_between_folder_and_add_is_revoked_and_followed_once(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    relay = Relay(pueued)
    place = site(tmp_path, sshd, pueued, relay=relay)
    place.case("a")
    for program in laws.LINE[:2]:
        place(program)
    relay.set("cut")
    assert place("mqi-submit").code == 69
    assert (claim(place, 1), pueued.state()["tasks"]) == ("none", {})
    assert lawful(place)["a"]["attempt"] == 2
    assert (claim(place, 1), attempts(place)) == ("revoked", ["2"])


def test_a_far_side_cut_off_behind_a_revocation_leaves_a_task_that_computes_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """The link is there, its task still waits, and no answer came back; then its successor is there, and the old task starts."""
    relay = Relay(pueued)
    place = site(tmp_path, sshd, pueued, relay=relay)
    fill(pueued)
    submitted(place, "a")
    change(place, "a")
    [(task, _)] = labelled(pueued, "Queued")
    relay.set("cut")
    assert place("mqi-submit").code == 69
    assert (claim(place, 1), "revoked" in types(place)) == ("revoked", False)
    for program in ("mqi-submit", "mqi-push", "mqi-submit"):
        assert place(program).code == 0
    assert [number for number, _ in labelled(pueued, "Queued")][0] == task
    pueued.client("start", task)
    until(lambda: task in dict(labelled(pueued, "Done")))
    assert place.executions() == []
    free(pueued)
    assert lawful(place)["a"]["attempt"] == 2
    assert (attempts(place), plan(place)) == (["2"], f"a {SECOND}")


def test_a_job_that_begins_just_before_its_revocation_is_left_alone(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    place = site(tmp_path, sshd, pueued)
    between = Between(place, tmp_path)
    fill(pueued)
    submitted(place, "a")
    change(place, "a")
    [(task, _)] = labelled(pueued, "Queued")
    start = shlex.join([pueued.command, "-c", pueued.config, "start", task])
    between.submit(place, f"{start}\nuntil [ -d {next(place.root.glob('cases/*/attempt-1'))}/claim ]; do sleep 0.02; done")
    assert claim(place, 1) == "begun"
    row = lawful(place)["a"]
    assert (row["attempt"], attempts(place), plan(place)) == (1, ["1"], "plan of a\n")
    assert row["stale"]


def test_a_job_that_starts_just_behind_its_revocation_computes_nothing(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    relay = Relay(pueued)
    place = site(tmp_path, sshd, pueued, relay=relay)
    fill(pueued)
    submitted(place, "a")
    change(place, "a")
    relay.set("start")
    place("mqi-submit")
    [ours] = [task for task in json.loads((pueued.folder / "seen").read_text())["tasks"].values() if task["label"]]
    assert ours["status"]["Done"]["result"] == {"Failed": 75}
    assert (claim(place, 1), place.executions()) == ("revoked", [])
    free(pueued)
    row = lawful(place)["a"]
    assert (row["attempt"], attempts(place), plan(place), row["stale"]) == (2, ["2"], f"a {SECOND}", False)


def test_jobs_that_start_while_their_attempts_are_revoked_are_begun_or_revoked(tmp_path: Path, pueued: Pueued) -> None:
    """Twelve at once, from the end of the list that the revocations begin with: some come first, some too late."""
    names = [f"case{number:02}" for number in range(12)]
    place = Place(tmp_path / "site", host_text("local", "pueue", "tar", None, pueued), laws.job(tmp_path / "site"))
    laws.plant(place)
    fill(pueued)
    submitted(place, names)
    change(place, *names)
    folders = list(place.root.glob("cases/*/attempt-1"))
    order = {json.loads(line)["case"]: number for number, line in enumerate(place.ledger().splitlines()) if b'"submitting"' in line}
    folders.sort(key=lambda folder: -order[folder.parent.name])
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    script = subprocess.Popen(place.argv("mqi-submit"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until(lambda: any((folder / "claim").is_symlink() for folder in folders))
    jobs = [launch(folder, "dash") for folder in folders]
    assert script.wait(120) == 0
    codes = [job.wait(120) for job in jobs]
    claims = {folder.parent.name: (folder / "claim").is_symlink() for folder in folders}
    assert [code == 75 for code in codes] == [claims[folder.parent.name] for folder in folders]
    assert sorted(place.executions()) == sorted(f"{key} 1" for key, revoked in claims.items() if not revoked)
    assert set(claims.values()) == {True, False}
    free(pueued)
    rows = lawful(place)
    assert len(place.executions()) == len(names) and all(row["attempt"] <= 2 for row in rows.values())


@pytest.mark.parametrize("how", ["the add never came", pytest.param("it waits", marks=pytest.mark.whole), "it begins at once"])
def test_late_data_between_intent_and_claim(how: str, tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """The scan sees it while mqi-submit, which has written down its intent, is on its way to the host."""
    place = site(tmp_path, sshd, pueued)
    between = Between(place, tmp_path)
    if how == "it waits":
        fill(pueued)
    place.case("a")
    for program in laws.LINE[:2]:
        place(program)
    scan = f"PYTHONPATH={REPO} {shlex.join(place.argv('mqi-scan'))}"
    new = shlex.quote(str(place.inbox / "a" / "plan.txt"))
    code = between.submit(place, f"echo a second >{new}; {scan}\n{'exit 1' if 'never' in how else ''}")
    assert code == (69 if "never" in how else 0)
    assert [kind for kind in types(place) if kind in ("submitting", "changed", "submitted")][:2] == ["submitting", "changed"]
    if how == "it begins at once":
        until(place.executions)
        row = lawful(place)["a"]
        assert (attempts(place), plan(place), row["attempt"], bool(row["stale"])) == (["1"], "plan of a\n", 1, True)
        return
    assert place("mqi-submit").code == 0
    assert (claim(place, 1), labelled(pueued, "Queued")) == ("revoked", [])
    if how == "it waits":
        free(pueued)
    row = lawful(place)["a"]
    assert (attempts(place), plan(place), row["attempt"], row["stale"]) == (["2"], f"a {SECOND}", 2, False)


def test_a_host_that_was_called_gone_and_comes_back_runs_no_two_attempts_at_once(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """The operator is refused a retry while the old attempt may run, insists, and is wrong: it runs, and its successor waits for it."""
    place = site(tmp_path, sshd, pueued, GATED)
    submitted(place, "a", begun=1)
    text = place.config.read_text()
    place.config.write_text(text.replace(f"port = {sshd.port}", "port = 1"))
    before = place.ledger()
    ran = place("mqi-case", "retry", "a", "--reason", "it takes long")
    assert (ran.code, place.ledger()) == (2, before)
    assert "attempt 1 may still run or start on far" in ran.err
    assert place("mqi-case", "retry", "a", "--host-is-gone", "--reason", "I believe that").code == 0
    assert place("mqi-submit").code in (0, 69)
    place.config.write_text(text)
    for program in (*laws.LINE[:3], "mqi-poll", "mqi-submit", "mqi-poll"):
        place(program)
    time.sleep(1)
    assert (attempts(place), place.rows()["a"]["status"], place.rows()["a"]["attempt"]) == (["1"], "submitted", 2)
    (place.folder / "go").touch()
    row = lawful(place)["a"]
    assert attempts(place)[0] == "1" and attempts(place)[-1] == str(row["attempt"]) and len(attempts(place)) == 2
    assert json.loads((place.results / "a" / "mqi-result.json").read_text())["attempt"] == row["attempt"] > 1
