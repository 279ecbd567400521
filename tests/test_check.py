"""The doctor: each probe of mqi-check, broken by itself on real parts, says so, and nothing else is called wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import JOB, REPO, Place, Pueued, Ran, Sshd, free_port, host_text, need
from jsonschema import validate

from mqi_scripts import __version__
from mqi_scripts import words as w
from mqi_scripts.checks import compute, gateway, odd
from mqi_scripts.pure.explain import span
from mqi_scripts.world import config

ENV = {**os.environ, "PYTHONPATH": str(REPO)}
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = "0123456789abcdef0123"


class Said(NamedTuple):
    level: str
    found: str
    fix: str


def sound(place: Place) -> Place:
    """The site as a careful person would have configured it, so that everything is ok."""
    text = place.config.read_text().replace('quiet = "0s"', 'quiet = "15m"').replace("queue_depth = 100", "queue_depth = 2")
    place.config.write_text(text)
    place.config.chmod(0o600)
    return place


def changed(place: Place, old: str, new: str) -> None:
    text = place.config.read_text()
    assert old in text
    place.config.write_text(text.replace(old, new))


def plain(fix: str) -> str:
    """A fix with the commands of pueue as they are short: `typed` adds path and configuration."""
    return re.sub(r"(`|&& )\S+/(pueued?) -c \S+ ", r"\1\2 ", fix)


def said(ran: Ran) -> dict[str, Said]:
    """What is not ok, by probe."""
    body = json.loads(ran.out)
    validate(body, json.loads((REPO / "schemas" / "check.schema.json").read_text()))
    assert body["exit"] == ran.code
    wrong = {": ".join(filter(None, [p["host"], p["what"]])): Said(p["level"], p["found"], plain(p["fix"])) for p in body["probes"] if p["level"] != "ok"}
    assert body["worst"] == ("FAIL" if any(one.level == "FAIL" for one in wrong.values()) else "warn" if wrong else "ok")
    assert all(one.found and one.fix for one in wrong.values()), wrong
    return wrong


def wrong_with(place: Place, *words: str) -> dict[str, Said]:
    return said(place("mqi-check", "--json", *words))


def the_one(place: Place, probe: str, level: str, *words: str) -> Said:
    """What is said of the only probe that is not ok."""
    wrong = wrong_with(place, *words)
    assert list(wrong) == [probe], wrong
    assert wrong[probe].level == level
    return wrong[probe]


def apart(place: Place, script: str, *words: str) -> Ran:
    """mqi-check in a name space of its own, after a shell script that may mount."""
    flags = ["-m"] if os.geteuid() == 0 else ["-rm"]
    argv = ["unshare", *flags, "/bin/sh", "-ec", f'{script}\nexec "$@"', "sh", *place.argv("mqi-check", "--json", *words)]
    ran = subprocess.run(argv, env=ENV, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in ran.stderr, ran.stderr
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def far(far_place: Place) -> Place:
    return sound(far_place)


@pytest.fixture
def local(local_place: Place) -> Place:
    return sound(local_place)


# --- all is well


def test_a_sound_site_is_ok_line_by_line_in_one_session(far: Place, sshd: Sshd) -> None:
    before = sshd.sessions()
    ran = far("mqi-check")
    assert (ran.code, ran.err) == (0, ""), ran.out
    assert sshd.sessions() == before + 1
    lines = ran.out.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    for probe in ("configuration: /", "profile files", f"versions: mqi {__version__}, Python 3.", "state /", "permissions", "inbox /", "results /", "room in /", "locks: no script runs",
                  "timers: none is on", "ledger: 0 lines", "waiting: nothing", "far: host key", "far: latency: a round trip takes",
                  "far: session: over ssh, host key known", "far: login shell: it prints nothing", "far: log in: ", "far: clock: ",
                  f"far: root {far.root}: mqi-push makes it", "far: programs: sync (GNU coreutils)", "far: room: ",
                  "far: pueue: pueue 4.0.4, client and daemon", "far: queue: pueue, 0 tasks", "far: groups: gpu0 (1), gpu1 (1)",
                  "far: tasks: 0 of this ledger", "far: locks: none is held"):  # fmt: skip
        assert sum(line.startswith(f"ok    {probe}") for line in lines) >= 1, (probe, ran.out)
    assert far.ledger() == b""
    assert not far.root.exists()


def test_a_site_that_works_is_ok_while_it_computes(far: Place) -> None:
    changed(far, 'cp "$MQI_INPUT', f'while [ ! -e {far.folder}/go ]; do sleep 0.1; done; cp "$MQI_INPUT')
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    for name in "abc":
        far.case(name)
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        assert far(program).code == 0
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    ran = far("mqi-check")
    assert ran.code == 0, ran.out
    assert re.search(r"^ok    far: tasks: 3 of this ledger$", ran.out, re.M)
    assert re.search(r"^ok    far: locks: \d+ held, each by a job of ours$", ran.out, re.M)
    assert re.search(r"^ok    mqi-poll: last success \d+ s ago$", ran.out, re.M)
    assert re.search(r"^ok    waiting: the oldest: [0-9a-f]{12} [abc] is \w+ for \d+ s", ran.out, re.M)
    assert re.search(r"inbox .*: 3 folders, the newest is \w, changed ", ran.out)


def test_a_trouble_has_its_fix_in_the_next_line_and_the_worst_makes_the_exit_code(far: Place, pueued: Pueued) -> None:
    pueued.client("pause", "-g", "gpu1")
    ran = far("mqi-check")
    assert ran.code == 1
    assert "\nwarn  far: group gpu1: it is paused\n      fix: on far, `pueue start -g gpu1`\n" in plain(ran.out)
    far.inbox.rmdir()
    ran = far("mqi-check")
    assert ran.code == 78
    assert f"\nFAIL  inbox {far.inbox}: it does not exist\n      fix: mount it, or correct site.inbox\n" in ran.out
    assert "warn  far: group gpu1" in ran.out


def test_fast_needs_no_session_and_one_host_is_that_host_alone(far: Place, sshd: Sshd) -> None:
    before = sshd.sessions()
    fast = far("mqi-check", "--fast").out
    assert sshd.sessions() == before
    assert "far: host key" in fast
    assert "far: session" not in fast
    one = far("mqi-check", "--host", "far").out
    assert "far: session" in one
    assert "inbox" not in one
    ran = far("mqi-check", "--host", "fra")
    assert (ran.code, ran.err) == (2, "mqi-check: no host 'fra' in the configuration; there are: far\n")


def test_the_line_imports_nothing_of_the_doctor(far: Place) -> None:
    code = "import sys; from mqi_scripts.verbs import scan, push, submit, poll, fetch; print([m for m in sys.modules if '.checks' in m])"
    assert subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True).stdout == "[]\n"


# --- the configuration


def test_a_misspelt_key_is_a_failure_that_names_it(far: Place) -> None:
    changed(far, "quiet = ", "quite = ")
    changed(far, "queue_depth = 2", "queue_depth = 0")
    one = the_one(far, "configuration", "FAIL")
    assert (one.found, one.fix) == ("scan.quite is no key of this file: did you mean quiet?", f"correct {far.config}; docs/configuration.md has every key")
    ran = far("mqi-check")
    assert ran.code == 78
    assert [line.partition(": ")[2] for line in ran.out.splitlines()[::2]] == [
        "hosts.far.queue_depth = 0: 0 is less than the minimum of 1; for example 2", "scan.quite is no key of this file: did you mean quiet?"
    ]  # fmt: skip
    far.config.unlink()
    assert "No such file or directory" in the_one(far, "configuration", "FAIL").found


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('quiet = "15m"', 'quiet = "30s"', 'scan.quiet = "30s": a case can be taken while it is still being written'),
        ('quiet = "15m"', 'quiet = "15m"\narriving_limit = "10m"', "scan.arriving_limit (10 min) is not longer than scan.quiet (15 min)"),
        ('quiet = "15m"', 'quiet = "15m"\nnot_before = "2100-01-01"', "scan.not_before = 2100-01-01 is in the future"),
        ('results = ["*.out"]', 'results = ["D/*.dcm"]', 'scan.profile = "files" knows no beams'),
        ('quiet = "15m"', 'quiet = "15m"\nprofile = "moqui-log"', "job.results_per_beam is not set"),
        ('time_limit = "60s"', 'time_limit = "8d"', "job.time_limit is 8 d: a job that hangs keeps its slot"),
        ('time_limit = "60s"', 'time_limit = "50s"', "job.time_limit is 50 s: most computations would be ended"),
        ("queue_depth = 2", 'keep = "0s"', 'hosts.far.keep = "0s": input and output go as soon as a case is completed'),
        ("queue_depth = 2", "queue_depth = 500", "hosts.far.queue_depth = 500: what waits in one group"),
        ("[hosts.far]", '[schedule]\naging = "0s"\nstarvation = "0s"\n[hosts.far]', 'schedule.order = "strict" with neither aging nor starvation'),
        ("[hosts.far]", '[retry]\nfirst = "20m"\n[hosts.far]', "retry.first (20 min) is longer than retry.most (10 min)"),
        ("queue_depth = 2", 'timeout = "20s"', "hosts.far.timeout is 20 s: the copy of a large case is cut off"),
    ],
)
def test_what_is_legal_and_odd_is_said(old: str, new: str, sentence: str, local: Place) -> None:
    changed(local, old, new)
    assert the_one(local, "configuration", "warn", "--fast").found.startswith(sentence)


def test_folders_and_hosts_that_overlap_are_odd(local: Place) -> None:
    site = config.load(str(local.config), {})
    twin = site._replace(results=f"{site.inbox}/results/", hosts=(site.hosts[0], site.hosts[0]._replace(name="near")))
    assert [probe.found for probe in odd.configuration(twin, "2026-11-24T12:00:00.000Z")] == [
        f"site.inbox and site.results lie in each other ({site.inbox}, {site.inbox}/results/)",
        "hosts.far and hosts.near are one folder on one machine: it would be counted twice",
    ]
    assert not [*odd.configuration(site._replace(results=f"{site.inbox}-results"), "2026-11-24T12:00:00.000Z")]


def test_a_configuration_that_others_can_change_is_odd(local: Place) -> None:
    local.config.chmod(0o666)
    assert the_one(local, "configuration", "warn").fix == f"chmod go-w {local.config}"


# --- the gateway's folders


def test_the_state_folder_is_its_owner_s_alone_on_a_local_disk(local: Place) -> None:
    local.state.mkdir(mode=0o755)
    local.state.chmod(0o755)
    one = the_one(local, f"state {local.state}", "FAIL")
    assert (one.found, one.fix) == ("can be read by others", f"chmod 700 {local.state}")
    local.state.chmod(0o700)
    wrong = said(apart(local, f'mount -t fusectl none "{local.state}"; chmod 700 "{local.state}"'))
    assert wrong[f"state {local.state}"] == Said("FAIL", "is on fusectl, where locks do not hold", "move site.state to a local disk")
    if os.geteuid() == 0:
        os.chown(local.state, 65534, 65534)
        one = wrong_with(local)[f"state {local.state}"]
        assert one.found.startswith("belongs to nobody")
        assert one.fix.startswith("run it as `sudo -u nobody")
        ran = local("mqi-case", "note", "ma", "--text", "Kim's; done")
        command = re.search("run it as `(.*)`$", ran.err)
        assert command
        assert shlex.split(command[1])[-4:] == ["note", "ma", "--text", "Kim's; done"]


def test_a_disk_below_the_site_s_reserve_is_no_ok(local: Place) -> None:
    local("mqi-scan")
    local.config.write_text(local.config.read_text().replace(f"reserve = {64 << 20}", f"reserve = {1 << 60}"))
    wrong = wrong_with(local)
    for name, key in ((f"room in {local.state}", "site.reserve"), ("far: room", "hosts.far.reserve")):
        assert re.fullmatch(rf"only [\d.]+ GB free.*, and {key} keeps 1152921504.6: nothing more is copied", wrong[name].found), wrong


def test_files_of_the_ledger_that_others_can_read_or_own_are_named(local: Place) -> None:
    changed(local, 'quiet = "15m"', 'quiet = "0s"')
    local.case("a")
    local.tick()
    changed(local, 'quiet = "0s"', 'quiet = "15m"')
    path = next(local.state.glob("ledger-*.jsonl"))
    path.chmod(0o644)
    one = the_one(local, "permissions", "warn")
    assert one == Said("warn", f"{path} is open to others (1 such)", f"chmod 600 {path}")
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
        assert the_one(local, "owners", "FAIL").found == f"{path} belongs to another account (1 such)"
        path.chmod(0o600)
        local.front = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root as anybody else
        wrong = wrong_with(local)
        assert wrong["ledger"].found.startswith("[Errno 13] Permission denied"), wrong
        assert wrong["owners"].fix.startswith("chown -R --reference="), wrong


@pytest.mark.parametrize(("options", "word"), [("size=70m", "only 0.1 GB free"), ("size=1200m,nr_inodes=300", "only 1.3 GB free, ")])
@pytest.mark.parametrize("side", ["here", "there"])
def test_a_disk_that_is_nearly_full_is_a_failure_on_either_side(side: str, options: str, word: str, local: Place) -> None:
    folder = local.results if side == "here" else local.root
    folder.mkdir(exist_ok=True)
    ran = apart(local, f'mount -t tmpfs -o {options},mode=700 none "{folder}"')
    (name, one), = said(ran).items()
    assert name == (f"room in {folder}" if side == "here" else "far: room")
    assert one.level == "FAIL"
    assert one.found.startswith(word)
    assert ran.code == 74


def test_an_inbox_tells_its_newest_case_and_what_is_odd_about_it(local: Place) -> None:
    place, probe = local, f"inbox {local.inbox}"
    case = place.case("a")
    assert not wrong_with(place)
    os.utime(case, (time.time() - 9 * 86400,) * 2)
    assert the_one(place, probe, "warn").found == "1 folders, the newest is a, changed 9 d ago"
    os.utime(case, (time.time() + 7300,) * 2)
    assert the_one(place, probe, "warn").found == "1 folders, the newest is a, changed 2 h from now"
    changed(place, 'quiet = "15m"', 'quiet = "15m"\ncases = "G[12]/*"')
    assert the_one(place, probe, "warn").found == "none of its 1 entries is a folder that matches scan.cases = 'G[12]/*'"
    changed(place, 'cases = "G[12]/*"', "")
    changed(place, 'quiet = "15m"', 'quiet = "0s"')
    place.tick()
    changed(place, 'quiet = "0s"', 'quiet = "15m"')
    shutil.rmtree(case)
    one = the_one(place, probe, "FAIL")
    assert (one.found, one.fix) == ("no case is in it, and 1 were: a lost mount?", "mount it; if it was emptied on purpose: mqi-scan --accept-empty")


# --- locks, timers, the ledger, what waits


def test_a_lock_that_is_held_too_long_is_named_with_its_holder(local: Place) -> None:
    local("mqi-scan")
    path = local.state / "run.mqi-push"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        assert re.search(rf"ok    lock {path}: process {os.getpid()} holds it for \d s", local("mqi-check").out)
        os.utime(path, (time.time() - 4 * 3600,) * 2)
        one = wrong_with(local)[f"lock {path}"]
        assert one.found == f"process {os.getpid()} holds it for 4 h"
        assert one.fix.endswith(f"kill {os.getpid()}")
        gone = subprocess.Popen(["true"])
        gone.wait()
        path.write_text(f"process {gone.pid}\n")
        assert "a child has inherited it" in wrong_with(local)[f"lock {path}"].found


def test_a_timer_that_is_disabled_while_the_others_are_on_is_a_failure(local: Place, tmp_path: Path) -> None:
    local.tick()
    units = tmp_path / "units"
    shutil.copytree(REPO / "systemd", units)
    on = [path.name for path in units.iterdir() if path.suffix in (".timer", ".target")]
    script = (
        f"mount --bind {units} /etc/systemd/system; [ ! -d /run/systemd/system ] || mount -t tmpfs none /run/systemd\n"
        f"systemctl -q enable {' '.join(on)} 2>/dev/null\n"
    )
    assert not said(apart(local, script))
    (name, one), = said(apart(local, script + "systemctl -q disable mqi-poll.timer 2>/dev/null")).items()
    assert (name, one.level, one.fix) == ("mqi-poll", "FAIL", "systemctl enable --now mqi-poll.timer")
    assert re.fullmatch(r"its timer is disabled; last success \d+ s ago", one.found)
    others = ["mqi-clean", "mqi-ledger-backup", "mqi-ledger-verify", "mqi-report", "mqi-report-notify"]
    wrong = said(apart(local, script + f"systemctl -q disable {' '.join(name + '.timer' for name in others)} 2>/dev/null"))
    assert {name: (one.level, one.found) for name, one in wrong.items()} == dict.fromkeys(others, ("FAIL", "its timer is disabled"))
    for note in (local.state / "health").iterdir():
        note.unlink()
    assert not said(apart(local, script))
    os.utime(local.state / "health", (time.time() - 400,) * 2)
    assert said(apart(local, script))["timers"].found == "they are enabled, and no script has run yet"


def test_a_script_that_met_trouble_or_is_late_is_named(far: Place, pueued: Pueued) -> None:
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    changed(far, 'cp "$MQI_INPUT', 'sleep 5; cp "$MQI_INPUT')
    far.case("a")
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        far(program)
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    assert not wrong_with(far)
    pueued.signal(signal.SIGKILL)
    far("mqi-poll")
    pueued.start()
    for group in ("gpu0", "gpu1"):
        pueued.client("start", "-g", group)
    found = wrong_with(far)["mqi-poll"]
    assert re.match(r"its last run, \d+ s ago, met trouble: the queue of far does not answer", found.found)
    assert found.fix == "run it by hand: mqi-poll; what it said: journalctl -u mqi@poll"
    far.until("completed")
    assert not wrong_with(far)
    note = far.state / "health" / "mqi-fetch.json"
    old = json.loads(note.read_text())
    note.write_text(json.dumps(old | {"success": (datetime.now(UTC) - timedelta(hours=5)).isoformat()}))
    assert the_one(far, "mqi-fetch", "warn").found == "last success 5 h ago"
    note.write_text("{}")
    assert the_one(far, "mqi-fetch", "warn").found == "it never had a success"


def test_a_damaged_ledger_is_a_failure_and_the_hosts_are_looked_at_all_the_same(far: Place) -> None:
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    far.case("a")
    far.until("completed")
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    assert far("mqi-report").code == 0
    assert not wrong_with(far)
    note = far.state / "health" / "mqi-report.json"
    shown = note.read_text()
    seq, digest = json.loads(shown)["head"]
    note.write_text(json.dumps({"head": [seq - 2, digest]}))
    assert the_one(far, "ledger", "FAIL").found == f"line {seq - 2} is not the one that a report showed: it was rewritten"
    note.write_text(json.dumps({"head": [seq + 1, digest]}))
    assert the_one(far, "ledger", "FAIL").found == f"it ends at line {seq}, and a report showed line {seq + 1}"
    note.write_text(shown)
    path = next(far.state.glob("ledger-*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"pushed"', b'"pusheb"', 1))
    ran = far("mqi-check")
    assert ran.code == 65
    assert re.search(r"^FAIL  ledger: .*: line \d+ of the ledger, at byte \d+", ran.out, re.M)
    assert "\n      fix: mqi-ledger verify tells" in ran.out
    assert "\nok    far: groups: gpu0 (1), gpu1 (1)\n" in ran.out


def test_a_case_that_waits_for_a_person_is_a_warning(local: Place) -> None:
    changed(local, 'quiet = "15m"', 'quiet = "0s"')
    (local.case("a") / "away").symlink_to("/etc/passwd")
    local.tick()
    changed(local, 'quiet = "0s"', 'quiet = "15m"')
    one = the_one(local, "people", "warn")
    assert re.fullmatch(r"a case needs a person; [0-9a-f]{12} a is held for \d+ s: away is a symlink, not a regular file", one.found)
    assert one.fix == "mqi-report --needs-me; why and what helps: mqi-case explain"


def test_the_oldest_case_that_waits_is_told_with_its_reason() -> None:
    def case(name: str, status: str, hours: float) -> w.Case:
        return w.Case(name * 20, name, status, (NOW - timedelta(hours=hours)).isoformat(), "")

    def told(*cases: w.Case) -> list[tuple[str, str, str]]:
        why = {"b" * 20: ("found", "no room on far", "system")}
        return [(p.what, p.level, p.found) for p in gateway.waiting(cases, why, NOW)]

    gone = {"a" * 20: ("found", "far (far): no answer", "network")}
    assert [p.level for p in gateway.waiting([case("a", w.FOUND, 1)], gone, NOW)] == ["warn"]
    assert [p.level for p in gateway.waiting([case("a", w.PUSHED, 1)], gone, NOW)] == ["ok"]
    assert told() == [("waiting", "ok", "nothing")]
    assert told(case("c", w.COMPLETED, 999)) == [("waiting", "ok", "nothing")]
    assert told(case("a", w.RUNNING, 3)) == [("waiting", "ok", "the oldest: aaaaaaaaaaaa a is running for 3 h")]
    assert told(case("a", w.RUNNING, 3), case("b", w.FOUND, 50)) == [
        ("waiting", "warn", "the oldest: bbbbbbbbbbbb b is found for 2 d: no room on far")
    ]
    assert told(case("b", w.PUSHED, 50))[0][2].endswith("for 2 d")  # that reason was of another status
    assert told(case("a", w.HELD, 30), case("b", w.FAILED, 50), case("c", w.FOUND, 1)) == [
        ("people", "warn", "2 cases need a person; bbbbbbbbbbbb b is failed for 2 d"),
        ("waiting", "ok", "the oldest: cccccccccccc c is found for 60 min"),
    ]


NOTE = {"run": "2026-11-24T11:59:00.000Z", "success": "2026-11-24T11:59:00.000Z", "trouble": ""}
LATE = {**NOTE, "success": "2026-11-24T08:00:00.000Z"}


@pytest.mark.parametrize(
    ("note", "unit", "runs", "level", "found"),
    [
        (NOTE, ("enabled", "active"), False, "ok", "last success 60 s ago"),
        (NOTE, ("", ""), False, "ok", "last success 60 s ago"),  # cron
        (NOTE, ("enabled", "inactive"), False, "FAIL", "its timer is enabled, but stopped; last success 60 s ago"),
        (NOTE, ("masked", "inactive"), False, "FAIL", "its timer is masked; last success 60 s ago"),
        (LATE, ("enabled", "active"), True, "ok", "it runs now; last success 4 h ago"),
        (LATE, ("enabled", "active"), False, "warn", "last success 4 h ago"),
        ({**NOTE, "trouble": "no\x1b route"}, ("enabled", "active"), False, "warn", "its last run, 60 s ago, met trouble: no\\x1b route"),
    ],
)
def test_timers_and_last_successes_are_judged_together(
    note: dict[str, str], unit: tuple[str, str], runs: bool, level: str, found: str
) -> None:
    units = {"mqi-scan": ("enabled" if unit[0] else "", "active"), "mqi-poll": unit}
    scan, poll = gateway.scripts({"mqi-scan": NOTE, "mqi-poll": note}, units, ["mqi-poll"] if runs else [], NOW)
    assert scan.level == "ok"
    assert (poll.what, poll.level, poll.found) == ("mqi-poll", level, found)


def test_timers_that_are_all_off_are_nobody_s_fault_where_cron_runs_the_scripts() -> None:
    units = {name: ("disabled", "inactive") for name in ("mqi-scan", "mqi-poll", "mqi.target")}
    assert [probe.level for probe in gateway.scripts({"mqi-scan": NOTE, "mqi-poll": NOTE}, units, [], NOW)] == ["ok", "ok"]
    (late,) = gateway.scripts({"mqi-poll": LATE}, units, [], NOW)
    assert (late.level, late.found) == ("warn", "last success 4 h ago")
    assert late.fix.endswith("no timer of systemd starts it: does cron?")


def test_a_target_that_is_disabled_is_a_failure_although_the_timers_are_on() -> None:
    units = {"mqi-scan": ("enabled", "active"), "mqi.target": ("disabled", "active")}
    first, second = gateway.scripts({"mqi-scan": NOTE}, units, [], NOW)
    assert (first.level, first.found) == ("FAIL", "it is disabled: after the next boot no timer starts")
    assert second.level == "ok"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (-7300, "-2 h"), (200000, "2 d")])
def test_a_length_of_time_is_said_as_a_person_says_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


# --- ssh


@contextlib.contextmanager
def another_sshd(sshd: Sshd, shell: str) -> Iterator[int]:
    """An sshd whose account has that shell: sshd's ForceCommand stands in for it."""
    folder = Path(sshd.folder) / f"other-{time.monotonic_ns()}"
    folder.mkdir()
    port = free_port()
    script = folder / "shell"
    script.write_text(f'#!/bin/sh\n{shell}\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    script.chmod(0o755)
    text = (sshd.folder / "config").read_text().replace(f"Port {sshd.port}", f"Port {port}").replace(f"{sshd.folder}/pid", f"{folder}/pid")
    (folder / "config").write_text(f"{text}ForceCommand {script}\n")
    server = subprocess.Popen([need("sshd"), "-D", "-f", str(folder / "config"), "-E", str(folder / "log")])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.parametrize(("transfer", "more"), [("scp", ", and scp may break on it"), ("tar", "")])
def test_a_login_shell_that_prints_is_a_warning_with_what_it_prints(transfer: str, more: str, far: Place, sshd: Sshd) -> None:
    with another_sshd(sshd, "echo 'Welcome to gpu1!'; printf '\\033[1mnews'; echo") as port:
        changed(far, f"port = {sshd.port}", f"port = {port}")
        changed(far, 'transfer = "scp"', f'transfer = "{transfer}"')
        one = the_one(far, "far: login shell", "warn")
    assert one.found == f"it prints 26 bytes before our program runs: 'Welcome to gpu1! \\\\x1b[1mnews'{more}"
    assert "~/.bashrc" in one.fix


def test_a_slow_login_is_a_warning_with_its_seconds(far: Place, sshd: Sshd) -> None:
    with another_sshd(sshd, f"sleep {compute.SLOW}") as port:
        changed(far, f"port = {sshd.port}", f"port = {port}")
        one = the_one(far, "far: log in", "warn")
    assert re.fullmatch(r"it takes \d+\.\d s, and each run logs in one to three times", one.found)


def pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def a_link_with_latency(port: int) -> Iterator[int]:
    """A port whose first connection takes a second: its queue is full, so the kernel drops the first packet of the next one."""
    server = socket.create_server(("127.0.0.1", 0), backlog=0)
    ours = server.getsockname()[1]
    filler = socket.create_connection(("127.0.0.1", ours))
    knocks = re.compile(rf"^ *\d+: \w+:\w+ 0100007F:{ours:04X} 02 ", re.M)  # a SYN was sent to us, nothing answered

    def serve() -> None:
        for _ in range(2000):
            if knocks.search(Path("/proc/net/tcp").read_text()):
                break
            time.sleep(0.01)
        with contextlib.suppress(OSError):
            server.accept()[0].close()
            while True:
                client = server.accept()[0]
                there = socket.create_connection(("127.0.0.1", port))
                for pair in ((client, there), (there, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield ours
    finally:
        filler.close()
        server.close()


def test_a_link_with_latency_is_a_warning_where_scp_has_to_cross_it(far: Place, sshd: Sshd) -> None:
    with a_link_with_latency(sshd.port) as port:
        changed(far, f"port = {sshd.port}", f"port = {port}")
        one = the_one(far, "far: latency", "warn")
    assert re.match(r"a round trip takes \d{4}\.\d ms; SSH-2\.0-OpenSSH_", one.found)
    assert 'transfer = "tar"' in one.fix
    assert compute.latency(1.0, "", one_by_one=False).level == "ok"


def test_keys_are_looked_at_before_a_session_is_tried(far: Place, sshd: Sshd, tmp_path: Path) -> None:
    mine = tmp_path / "key"
    shutil.copy(sshd.identity, mine)
    mine.chmod(0o644)
    changed(far, sshd.identity, str(mine))
    assert the_one(far, "far: key", "FAIL", "--fast") == Said("FAIL", f"{mine} is open to others: ssh does not use it", f"chmod 600 {mine}")
    mine.unlink()
    assert the_one(far, "far: key", "FAIL", "--fast").found == f"{mine}: No such file or directory"
    changed(far, str(mine), sshd.identity)
    known = tmp_path / "known"
    changed(far, sshd.know("mqi-far"), str(known))
    for text in (None, "mqi-other ssh-ed25519 AAAA\n"):
        if text:
            known.write_text(text)
        one = the_one(far, "far: host key", "FAIL", "--fast")
        assert one.found == f"{known} has none under the name mqi-far"
        assert one.fix.startswith(f"ssh-keyscan -p {sshd.port} -t ed25519 127.0.0.1 | sed 's/^[^ ]*/mqi-far/' >>{known}")


def test_the_fix_for_an_unknown_host_key_works_as_printed(far: Place, sshd: Sshd, tmp_path: Path) -> None:
    changed(far, sshd.know("mqi-far"), str(tmp_path / "known"))
    one = wrong_with(far)["far: host key"]
    subprocess.run(["/bin/sh", "-c", one.fix.partition(";")[0]], check=True, capture_output=True)
    assert not wrong_with(far)


def refused(place: Place, sshd: Sshd, tmp_path: Path) -> None:
    changed(place, f"port = {sshd.port}", f"port = {free_port()}")


def impostor(place: Place, sshd: Sshd, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    known = tmp_path / "known"
    known.write_text("mqi-far " + " ".join(other.with_suffix(".pub").read_text().split()[:2]) + "\n")
    changed(place, sshd.know("mqi-far"), str(known))


def stranger(place: Place, sshd: Sshd, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    changed(place, sshd.identity, str(other))


def nameless(place: Place, sshd: Sshd, tmp_path: Path) -> None:
    changed(place, "@127.0.0.1", "@no-such-host.invalid")


@pytest.mark.parametrize(
    ("broken", "found", "fix"),
    [
        (refused, "it refused the connection. It said: ", "start sshd there, at its own console (systemctl start ssh); by hand: "),
        (impostor, "its host key is not the known one. It said: ", "ALARM, somebody may pose as it; compare fingerprints; by hand: "),
        (stranger, "it refused our key. It said: ", "put it back in authorized_keys there (restrict ssh-ed25519 "),
        (nameless, "its name cannot be resolved. It said: ", "by hand: "),
    ],
)
def test_a_host_that_cannot_be_reached_says_why_and_gives_the_command_to_try(
    broken: Callable[[Place, Sshd, Path], None], found: str, fix: str, far: Place, sshd: Sshd, tmp_path: Path
) -> None:
    broken(far, sshd, tmp_path)
    one = the_one(far, "far: session", "FAIL")
    assert one.found.startswith(found)
    assert one.fix.startswith(fix)
    assert far("mqi-check").code == 69
    command = one.fix.partition("by hand: ")[2]
    assert subprocess.run(["/bin/sh", "-c", command], capture_output=True).returncode == 255


# --- the compute host


def test_a_clock_that_is_wrong_is_a_warning(local: Place, tmp_path: Path) -> None:
    real = shutil.which("date")
    shutil.copy(str(real), tmp_path / "date")
    (tmp_path / "late").write_text(f'#!/bin/sh\nexec {tmp_path}/date -d "1000 seconds ago" "$@"\n')
    (tmp_path / "late").chmod(0o755)
    (name, one), = said(apart(local, f"mount --bind {tmp_path}/late {real}")).items()
    assert (name, one.level) == ("far: clock", "warn")
    assert re.fullmatch(r"it is -(999|100\d) s from ours", one.found)


def test_a_program_that_is_missing_there_is_a_failure(local: Place) -> None:
    (name, one), = said(apart(local, f"mount --bind /dev/null {shutil.which('setsid')}; mount --bind /dev/null {shutil.which('nproc')}")).items()
    assert (name, one.level, one.found) == ("far: programs", "FAIL", "missing: setsid, nproc")


def test_programs_that_are_too_old_are_a_failure(local: Place, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("#!/bin/sh\necho 'sync (GNU coreutils) 8.23'\n")
    (tmp_path / "old").chmod(0o755)
    (name, one), = said(apart(local, f"mount --bind {tmp_path}/old {shutil.which('sync')}")).items()
    assert (name, one.level, one.fix) == ("far: programs", "FAIL", "needed is coreutils 8.24 or newer")


def test_a_root_that_is_not_ours_alone_is_named(far: Place) -> None:
    probe = f"far: root {far.root}"
    far.case("a")
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    far.until("completed")
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    assert not wrong_with(far)
    far.root.chmod(0o755)
    assert the_one(far, probe, "warn") == Said("warn", "others can look into it (mode 755)", f"on far: chmod 700 {far.root}")
    far.root.chmod(0o700)
    mark = (far.root / "ledger").read_text()
    (far.root / "ledger").write_text(" ".join([mark.split()[0], "999", "f" * 64]) + "\n")
    assert the_one(far, probe, "FAIL").found.startswith("it was shown line 999 of this ledger, which is not here")
    (far.root / "ledger").write_text(" ".join(["0" * 16, *mark.split()[1:]]) + "\n")
    assert the_one(far, probe, "FAIL").found == "another ledger owns it"
    (far.root / "ledger").unlink()
    assert the_one(far, probe, "FAIL").found == "it was ours and has no `ledger` file: a lost mount?"
    changed(far, f'root = "{far.root}"', 'root = "/no/such/mqi"')
    assert wrong_with(far)["far: root /no/such/mqi"].found.startswith("/no/such is not writable by ")


def pretend(place: Place, pueued: Pueued, tmp_path: Path, version: str) -> None:
    """The real client, of which only the version is another."""
    client = tmp_path / "pueue"
    client.write_text(f'#!/bin/sh\n[ "$3" != --version ] || exec echo "{version}"\nexec {pueued.command} "$@"\n')
    client.chmod(0o755)
    changed(place, f'command = "{pueued.command}"', f'command = "{client}"')


@pytest.mark.parametrize(
    ("version", "level", "found"),
    [
        ("pueue 4.0.3", "warn", "the client is pueue 4.0.3, the daemon is 4.0.4"),
        ("pueue 3.4.1", "FAIL", "the client is pueue 3.4.1, the daemon is 4.0.4: neither understands the other"),
        ("pueue 3.4.0", "FAIL", "pueue 3.4.0 is too old"),
        ("sh: not found", "FAIL", "{client} does not tell its version: 'sh: not found'"),
    ],
)
def test_client_and_daemon_are_of_one_supported_version(
    version: str, level: str, found: str, far: Place, pueued: Pueued, tmp_path: Path
) -> None:
    pretend(far, pueued, tmp_path, version)
    assert the_one(far, "far: pueue", level).found == found.format(client=tmp_path / "pueue")


def test_a_daemon_of_another_configuration_says_nothing_of_ours() -> None:
    ours = {"command": "pueue", "config": "/etc/pueue.yml"}
    other = [("pueued 3.4.1", "pueued -c /home/x/c.yml "), ("pueued 4.0.4", "/usr/bin/pueued -v -c /etc/pueue.yml ")]
    assert compute.pueue("pueue 4.0.4", other, ours).found == "pueue 4.0.4, client and daemon"
    assert compute.pueue("pueue 4.0.4", other[:1], ours).found == "pueue 4.0.4; the daemon's version is not to be seen"
    assert compute.pueue("pueue 4.0.4", other[:1], {**ours, "config": ""}).level == "FAIL"


def test_a_queue_that_does_not_answer_is_a_failure(far: Place, pueued: Pueued) -> None:
    pueued.signal(signal.SIGKILL)
    one = the_one(far, "far: queue", "FAIL")
    assert one.found.startswith("it does not answer: Failed to initialize client. ")
    assert one.fix == "on far, `systemctl start pueued`, or as its account `pueued -d`"
    assert far("mqi-check").code == 69


def test_groups_that_take_no_task_are_a_failure(far: Place, pueued: Pueued) -> None:
    for group in ("gpu0", "gpu1"):
        pueued.client("pause", "-g", group)
    one = the_one(far, "far: groups", "FAIL")
    assert (one.found, one.fix) == ("every group of far is paused (gpu0, gpu1)", "on far, `pueue start -g gpu0 && pueue start -g gpu1`")
    changed(far, 'groups = ["gpu*"]', 'groups = ["tpu*"]')
    one = the_one(far, "far: groups", "FAIL")
    assert (one.found, one.fix) == ("no group of far matches tpu* (there: default, gpu0, gpu1)", "on far, `pueue group add tpu0`")


def test_a_group_without_a_limit_is_a_warning_whose_fix_works(far: Place, pueued: Pueued) -> None:
    pueued.client("parallel", "0", "-g", "gpu1")
    one = the_one(far, "far: group gpu1", "warn")
    assert (one.found, one.fix) == ("it has no limit: all its tasks start at once, on one GPU", "on far, `pueue parallel 1 -g gpu1`")
    pueued.client(*one.fix.split("`")[1].split()[1:])
    assert not wrong_with(far)


def test_groups_and_devices_that_do_not_fit_are_warnings(far: Place, pueued: Pueued) -> None:
    changed(far, 'groups = ["gpu*"]', 'groups = ["*"]')
    assert the_one(far, "far: group default", "warn").fix.startswith('hosts.far.groups = ["gpu*"]')
    changed(far, 'groups = ["*"]', 'groups = ["gpu*"]')
    pueued.client("parallel", "2", "-g", "gpu0")
    far.config.write_text(far.config.read_text() + '[hosts.far.devices]\ngpu0 = ["0"]\ngpu7 = ["7"]\n')
    wrong = wrong_with(far)
    assert wrong["far: group gpu0"].found == "it has 2 slots, and devices for 1"
    assert wrong["far: devices"].found == "the queue has no group gpu7"
    assert len(wrong) == 2


def test_tasks_that_the_ledger_does_not_know_are_named_and_those_of_another_gateway_are_not(far: Place, pueued: Pueued) -> None:
    def add(label: str, command: str) -> str:
        return pueued.client("add", "-p", f"--label={label}", "-g", "gpu0", "--", command).strip()

    over = add(f"mqi1:{KEY}:9", "true")
    for _ in range(200):
        if "Done" in pueued.state()["tasks"][over]["status"]:
            break
        time.sleep(0.05)
    running, waiting = add(f"mqi1:{KEY}:1", "sleep 600"), add(f"mqi1:{KEY}:2", f"exec /bin/sh {far.root}/bin/0a/mqi-job {far.root} {KEY} 2")
    add(f"mqi1:{KEY}:3", f"exec /bin/sh /data/other/bin/0a/mqi-job /data/other {KEY} 3")
    add("somebody's", "sleep 600")
    add(f"mqi1:{KEY}", "sleep 600")
    wrong = wrong_with(far)
    assert sorted(wrong) == [f"far: task {running}", f"far: task {waiting}"]
    assert wrong[f"far: task {running}"].found.startswith(f"it is running in gpu0, and its label mqi1:{KEY}:1 is of no attempt in this ledger: ")
    assert wrong[f"far: task {running}"].fix.endswith(f", `pueue kill --signal sigterm {running}`; an old ledger? mqi-ledger verify")
    assert wrong[f"far: task {waiting}"].fix.endswith(f", `pueue remove {waiting}`; an old ledger? mqi-ledger verify")
    assert "ok    far: tasks: 0 of this ledger, 1 of other gateways\n" in far("mqi-check").out


def test_an_attempt_that_is_beyond_the_ledger_and_two_tasks_with_one_label_are_named(far: Place, pueued: Pueued) -> None:
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    far.case("a")
    changed(far, 'cp "$MQI_INPUT', 'sleep 600; cp "$MQI_INPUT')
    for program in ("mqi-scan", "mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"):
        assert far(program).code == 0
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    label = next(task["label"] for task in pueued.state()["tasks"].values())
    again = pueued.client("add", "-p", f"--label={label}", "-g", "gpu1", "--", "sleep 600").strip()
    beyond = pueued.client("add", "-p", f"--label={label[:-1]}2", "-g", "gpu1", "--", "sleep 600").strip()
    wrong = wrong_with(far)
    assert sorted(wrong) == [f"far: task {beyond}", f"far: tasks 0, {again}"]
    assert wrong[f"far: tasks 0, {again}"].found == f"all have the label {label}; the wrapper lets only one of them compute"


def end(found: str) -> None:
    """The processes that a probe named, by their ids."""
    for pid in re.findall(r"(\d+) \(", found):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_a_process_that_a_finished_job_left_behind_is_named_as_the_holder_of_its_lock(far: Place) -> None:
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    changed(far, 'cp "$MQI_INPUT', 'sleep 600 & cp "$MQI_INPUT')
    far.case("a")
    row = far.until("completed")["a"]
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    wrong = wrong_with(far)
    (name,) = wrong
    one = wrong[name]
    try:
        assert re.fullmatch(r"far: lock cases/[0-9a-f]{20}/lock", name)
        assert re.fullmatch(rf"held by processes \d+ \(sleep\), and {row['case_id']} is completed", one.found)
        assert re.fullmatch(r"let it end \(mqi-poll sees it\), or on far: kill \d+", one.fix)
    finally:
        end(one.found)
    assert not wrong_with(far)


def test_a_job_that_outlives_the_queue_is_named_as_an_orphan(far: Place, pueued: Pueued) -> None:
    changed(far, 'quiet = "15m"', 'quiet = "0s"')
    changed(far, 'cp "$MQI_INPUT', 'sleep 600; cp "$MQI_INPUT')
    far.case("a")
    for _ in range(100):
        far.tick()
        if far.rows()["a"]["status"] == "running":
            break
    changed(far, 'quiet = "0s"', 'quiet = "15m"')
    assert not wrong_with(far)
    pueued.wipe()
    pueued.start()
    pueued.groups(gpu0=1, gpu1=1)
    wrong = wrong_with(far)
    (name,) = wrong
    one = wrong[name]
    end(one.found)
    assert "(sleep)" in one.found
    assert re.search(r"for attempt 1 of [0-9a-f]{12}, which no task of the queue runs any more$", one.found)


def test_locks_of_cases_and_slots_that_belong_to_nothing_are_named() -> None:
    held = [("cases/aa/lock", "/proc/12", "sh"), ("slots/gpu0-0", "/proc/12", "sh"), ("slots/gpu0-1", "/proc/13", "x\x1b")]
    found = [probe.found for probe in compute.locks(held, {}, None, "far")]
    assert found == ["held by processes 12 (sh), and this ledger has no such case", "held by processes 13 (x\\x1b), and belong to no case"]


def test_a_site_of_one_machine_is_probed_without_ssh(tmp_path: Path) -> None:
    place = sound(Place(tmp_path / "one", host_text("local", "direct", "scp", None, None), JOB))
    ran = place("mqi-check")
    assert ran.code == 0, ran.out
    assert "ok    far: session: over local\n" in ran.out
    assert not re.search("login shell|host key|latency|pueue", ran.out)
