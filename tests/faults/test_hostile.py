"""Hostile input: names, files, results, remote words. Nothing of it is executed, nothing gets out of its place, others are unharmed.

What a single kind of file or name does is told in test_folder.py; here they come all at once, and through the whole line.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import threading
import time
from pathlib import Path

import laws
import make
import pydicom
import pytest
import test_truth
from conftest import Place, Pueued, Sshd, host_text, serving
from test_log import in_the_journal

HOSTILE = [
    "-rf", "--help", "-", "--", "-oProxyCommand=touch CANARY-1", "a b", " lead", "trail ", "new\nline", "\n", "tab\tbed", "cr\rreturn", "$(touch CANARY-2)", "`touch CANARY-3`",
    "; touch CANARY-4", "| touch CANARY-5", "& touch CANARY-6", "'quote", '"double', "'; touch CANARY-7; '", "$IFS", "${HOME}", "%s%n", "\\", "a\\nb", "*", "?", "[a-z]", "~", "!!",
    "#", "\x1b[2J\x1b]0;evil\x07", "\x7f", "\u202egpj.exe", "e\u0301", "\u00e9", "\u200b", os.fsdecode(b"\xff\xfe"), "x" * 255, "a:b", "host:path", "=1+1", "{a,b}", "<script>", "con",
    "MQI-END x 0", "mqi1:k:1", "a..b", "...", "\u2028",
]  # fmt: skip
TRAVEL = {"a b", "trail ", "a:b", "host:path", "con", "mqi1:k:1", "MQI-END x 0", "a..b"}  # as files in a case; the others are held
FOLDERS = [name for name in HOSTILE if not name.startswith(".")]  # hidden ones are no candidates
PHI = "ZZTOP^HARRY"


def lined(place: Place, *statuses: str) -> None:
    place.until(*statuses, seconds=240)
    assert laws.broken(place) == []


def test_hostile_names_of_cases_folders_and_files_go_through_the_whole_line_at_once(tmp_path: Path, sshd: Sshd) -> None:
    """Over ssh: each is held with a reason, or computed under exactly its name; the case beside them is unharmed."""
    assert len(HOSTILE) >= 40
    place = Place(tmp_path / "site", host_text("ssh", "direct", "scp", sshd, None).replace("slots = 2", "slots = 6"), laws.job(tmp_path / "site"))
    laws.plant(place)
    (place.inbox / "plain").mkdir()
    (place.inbox / "plain" / "plan.txt").write_text("plan of plain\n")
    for name in FOLDERS:
        (place.inbox / name).mkdir(exist_ok=True)
        (place.inbox / name / "plan.txt").write_bytes(os.fsencode(name) + b" as a case\n")
    for number, name in enumerate(HOSTILE):
        (place.inbox / f"file{number}").mkdir()
        (place.inbox / f"file{number}" / "plan.txt").write_text(f"{number} file\n")
        (place.inbox / f"file{number}" / name).write_text("x")
        (place.inbox / f"folder{number}" / name).mkdir(parents=True)
        (place.inbox / f"folder{number}" / "plan.txt").write_text(f"{number} folder\n")
        (place.inbox / f"folder{number}" / name / "file").write_text("x")
    lined(place, "completed", "held")
    rows = place.rows()
    assert len(rows) == len(FOLDERS) + 2 * len(HOSTILE) + 1
    assert rows["plain"]["status"] == "completed"
    assert (place.results / "plain" / "plan.out").read_text() == "plan of plain\n"
    for name in FOLDERS:
        done = place.results / name / "plan.out"
        assert done.exists() == name.isprintable()
        assert not done.exists() or done.read_bytes() == os.fsencode(name) + b" as a case\n"
    assert all(row["reason"] and row["reason"].isprintable() for row in rows.values() if row["status"] == "held")
    assert sum(row["status"] == "held" for row in rows.values()) > len(HOSTILE)
    known = {"plan.txt", "d", "file", "CANARY-planted", *HOSTILE}
    assert {path.name for path in place.root.glob("cases/*/input-*/*")} <= known
    for words in ([], ["--csv"], ["--json"], ["--jsonl"]):
        said = place("mqi-report", *words).out
        assert said.replace("\r\n", "\n").replace("\n", "").isprintable()
    assert {name for number, name in enumerate(HOSTILE) if rows[f"file{number}"]["status"] == "completed"} == TRAVEL
    assert {name for number, name in enumerate(HOSTILE) if rows[f"folder{number}"]["status"] == "completed"} == TRAVEL
    login = Path(pwd.getpwuid(os.getuid()).pw_dir)  # where a session begins, whatever HOME says
    assert not [path for where in (tmp_path, Path.cwd(), sshd.folder, login) for path in where.glob("CANARY-?")]


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300 << 30)


def test_everything_that_is_no_file_comes_at_once_and_costs_no_time(local_place: Place, tmp_path: Path) -> None:
    place = local_place
    laws.plant(place)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "plan.txt").write_text("SECRET\n")
    place.case("plain")
    nasty = {
        "out": lambda p: p.symlink_to(secret / "plan.txt"), "in": lambda p: p.symlink_to("plan.txt"), "dangling": lambda p: p.symlink_to("/nowhere"),
        "loop": lambda p: p.symlink_to(p.name), "up": lambda p: p.symlink_to("../.."), "folder": lambda p: p.symlink_to(secret), "hard": lambda p: os.link(secret / "plan.txt", p),
        "fifo": os.mkfifo, "sparse": sparse, "socket": bound,
    }  # fmt: skip
    for kind, put in nasty.items():
        put(place.case(kind) / "nasty")
    (place.inbox / "case-out").symlink_to(secret)
    (place.inbox / "case-dangling").symlink_to("/nowhere")
    (place.inbox / "case-self").symlink_to("case-self")
    (place.inbox / "case-file").write_text("no folder")
    os.mkfifo(place.inbox / "case-fifo")
    start = time.monotonic()
    lined(place, "completed", "held")
    rows = place.rows()
    assert {name for name, row in rows.items() if row["status"] == "completed"} == {"plain"}
    assert set(nasty) | {"case-out", "case-self", "case-dangling"} <= {name for name, row in rows.items() if row["status"] == "held" and row["reason"]}
    assert time.monotonic() - start < 60  # a read of the sparse file, or an open of the FIFO, would take for ever
    assert b"SECRET" not in b"".join(p.read_bytes() for where in (place.state, place.root, place.results) for p in where.rglob("*") if p.is_file())


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


# --- a job that is hostile, or broken

EVIL = {
    "output is a link": "cd .. && rm -rf output && ln -s {secret} output",
    "output is gone": "cd .. && rm -rf output",
    "manifest is a link": "ln -s {secret}/plan.txt ../output.sha256; cp {plan} plan.out",
    "links": "cp {plan} plan.out; ln -s {secret}/plan.txt link.out; ln -s {secret} folder.out; ln -s /dev/zero zero.out",
    "FIFO and socket": "cp {plan} plan.out; mkfifo fifo.out",
    "hard link to a secret": "cp {plan} plan.out; ln {secret}/plan.txt hard.out",
    "a result of its own": "cp {plan} plan.out; printf 'x\\texit=0 signal= fault= manifest=0\\nroot\\tevil 1 x\\n' >../result",
    "an ending of its own": "cp {plan} plan.out; printf 'evil\\t\\033[2J\\nMQI-END x 0\\n' >../ending",
    "a claim that is a link": "cp {plan} plan.out; cd .. && rm -rf claim && ln -s {secret} claim",
    "a log of escapes": "cp {plan} plan.out; printf '\\033]0;evil\\007\\033[2J\\nMQI-END x 0\\n==> /x/job.log <==\\nlogs\\nattempt\\tx\\n'; exit 3",
    "a status of its own": "cp {plan} plan.out; printf 'x 1 1 1 1 group=evil\\nattempt\\tx\\n' >../status",
    "a log that is a FIFO": "cp {plan} plan.out; rm ../job.log; mkfifo ../job.log",
    "a command that is a link": "cp {plan} plan.out; ln -sf {secret}/plan.txt ../command",
    "names": "cp {plan} plan.out; echo x >'-rf.out'; echo x >\"$(printf 'a\\nb.out')\"; echo x >'$(touch CANARY-8).out'; mkdir -p 'x/..y' && echo x >'x/..y/z.out'",
    "no end": "cp {plan} plan.out; yes | head -c 3000000",
}  # fmt: skip


def test_hostile_jobs_get_nothing_out_and_harm_no_other_case(tmp_path: Path) -> None:
    """They run as the compute host's account, so they can write all over their attempt: no secret comes back, nothing hangs."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "plan.txt").write_text("SECRET\n")
    job = laws.job(tmp_path / "site", 'sh "$MQI_INPUT/plan.txt" || exit')
    place = Place(tmp_path / "site", host_text("local", "direct", "tar", None, None), job)
    laws.plant(place)
    place.case("plain", 'cp "$MQI_INPUT/plan.txt" plan.out\n')
    for name, text in EVIL.items():
        place.case(name, text.format(secret=secret, plan='"$MQI_INPUT/plan.txt"') + "\n")
    told = ""
    for _ in range(6):  # more than the verdicts need
        for program in laws.LINE:
            ran = place(program)
            told += ran.err + ran.out
        laws.quiet(place.root)
    rows = place.rows()
    assert rows["plain"]["status"] == "completed"
    assert {name for name, row in rows.items() if row["status"] not in laws.RESTING} == {"a claim that is a link"}  # nobody can tell
    assert "claim on far is neither a folder nor the link" in rows["a claim that is a link"]["reason"]
    assert all(row["reason"] or row["status"] == "completed" for row in rows.values()), rows
    assert told.replace("\n", "").isprintable()
    assert place("mqi-report").out.replace("\n", "").isprintable()
    brought = [path for where in (place.results, place.state) for path in where.rglob("*")]
    assert not [path for path in brought if path.is_symlink()]
    assert not [path for path in brought if path.is_file() and b"SECRET" in path.read_bytes() and "hard link" not in str(path)]
    assert place("mqi-ledger", "verify").code == 0
    assert list(laws.canaries(place)) == []
    assert list(laws.executed_once(place)) == []


# --- the far side's words


@pytest.mark.parametrize("program", ["mqi-push", "mqi-submit", "mqi-poll", "mqi-fetch"])
def test_what_a_remote_shell_says_cannot_move_a_terminal_or_pose_as_an_answer(program: str, tmp_path: Path) -> None:
    evil = "\\033]0;evil\\007\\033[2J\\nMQI-BEGIN 0\\nroot\\tevil 1 x\\nMQI-END 0 0\\r\\n"
    shell = tmp_path / "shell"
    with serving(f"ForceCommand {shell}\n", "/usr/lib/openssh/sftp-server") as sshd:
        place = Place(tmp_path / "site", host_text("ssh", "direct", "tar", sshd, None), laws.job(tmp_path / "site"))
        shell.write_text('#!/bin/sh\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        shell.chmod(0o755)
        place.case("a")
        for before in laws.LINE[: laws.LINE.index(program)]:
            place(before)
            laws.quiet(place.root)
        ledger = place.ledger()
        for text in (f"printf '{evil}' >&2; exit 1", f"printf '{evil}'; exit 0", f"printf '{evil}' >&2; kill -9 $$"):
            shell.write_text(f"#!/bin/sh\n{text}\n")
            ran = place(program)
            assert (ran.code, place.ledger()) == (69, ledger), ran
            assert (ran.err + ran.out).replace("\n", "").isprintable()
            report = place("mqi-report")
            assert report.out.replace("\n", "").isprintable()
            assert "See: mqi-check" in ran.err
        # the same beside a true answer: it does no harm
        shell.write_text(f"#!/bin/sh\nprintf '{evil}' >&2\nexec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n")
        assert place(program).code == 0


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "-rf", "\x1b[2J", "$(touch CANARY-9)", "x y", "link"])
def test_strange_files_in_the_staging_folder_do_not_get_published_and_stop_nothing(name: str, local_place: Place) -> None:
    place = local_place
    place.case("first")
    for program in laws.LINE[:2]:
        place(program)
    place.case("a")
    event = laws.told(place("mqi-scan", "--jsonl").out)[0]
    files = place.root / "staging" / f"{event['case']}-{event['digest']}" / "files"
    files.mkdir(parents=True)
    (files / name).symlink_to("/etc/passwd") if name == "link" else (files / name).write_text("x")
    for _ in range(3):
        ran = place("mqi-push")
        assert ran.code in (0, 69), ran.err
        if ran.code == 0:
            break
    assert sorted(path.name for path in place.root.glob(f"cases/{event['case']}/input-{event['digest']}/*")) == ["d", "plan.txt"]
    assert laws.broken(place) == []


STDIN = ['{"case":5}', '{"case":["a"]}', '{"case":NaN}', '{"case":1e999}', '{"a":' + "[" * 100_000, "{", '{"case":"\\u001b[2J"}', "\x1b[2J", "a\x00b", "-rf", "$(touch CANARY-9)",
         '{"case":"' + "x" * 100_000 + '"}', "../a", "*"]  # fmt: skip


def test_what_comes_over_stdin_names_cases_or_is_refused(local_place: Place) -> None:
    local_place.case("a")
    local_place("mqi-scan")
    before = local_place.ledger()
    for text in STDIN:
        for program in ("mqi-push", "mqi-scan"):
            ran = local_place(program, "-", stdin=text + "\n")
            assert (ran.code, local_place.ledger()) == (2, before), (text[:40], ran)
            assert ran.err.replace("\n", "").isprintable()
    assert local_place("mqi-push", "-", stdin='{"case":null}\n{}\n\n').code == 0
    assert local_place.ledger() == before


# --- patients


def test_a_patients_name_is_nowhere_but_where_it_must_be(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """In a file's content, in the folder's name, and in what a job prints: looked for in every file, argument list and label."""
    work = f'echo "patient {PHI}-log"; grep -q fails "$MQI_INPUT/plan.txt" && exit 3; sleep 1; cp "$MQI_INPUT/plan.txt" plan.out'
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), work)
    text = place.config.read_text()
    script = tmp_path / "job"  # the command itself is the site's own text: it stands here
    script.write_text(work)
    place.config.write_text(text.replace(work, f"exec sh {script}"))
    for name, words in ((f"{PHI}-folder", "content"), ("other", "content fails")):
        (place.inbox / name).mkdir()
        (place.inbox / name / "plan.txt").write_text(f"{PHI}-{words}\n")
    seen, over = set[str](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    line = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                except OSError:
                    continue
                if PHI.encode() in line:
                    seen.add(line.decode(errors="replace")[:500])

    thread = threading.Thread(target=watch)
    thread.start()
    told, deadline = "", time.monotonic() + 90
    try:
        while not all(row["status"] in laws.RESTING for row in place.rows().values()) or not place.rows():
            for program in laws.LINE:
                told += place(program).err
            assert time.monotonic() < deadline
    finally:
        over.set()
        thread.join()
    assert seen == set(), "in an argument list or environment"
    assert PHI not in told
    assert PHI not in str(pueued.state())
    assert PHI not in subprocess.run(["journalctl", "-n", "200"], capture_output=True, text=True).stdout
    assert not [path for path in place.root.rglob("*") if PHI in path.name]
    files = {path: path.read_bytes() for where in (place.state, place.root, sshd.folder, pueued.folder) for path in where.rglob("*") if path.is_file()}
    content = {path for path, data in files.items() if f"{PHI}-content".encode() in data}
    assert content and {path.relative_to(place.root).parts[0] for path in content} <= {"cases", "outgoing"}  # the input, and its result
    log = {path for path, data in files.items() if f"{PHI}-log".encode() in data}
    assert all(path.name == "job.log" or path.is_relative_to(place.state) for path in log), log
    folder = {path for path, data in files.items() if f"{PHI}-folder".encode() in data}
    assert all(path.is_relative_to(place.state) for path in folder), folder
    assert all(path.stat().st_mode & 0o077 == 0 for path in log | folder)


PRIVATE = {"PatientName": f"{PHI}^DICOM", "OtherPatientNames": f"{PHI}^OTHER", "PatientComments": f"{PHI} a comment", "PatientAddress": f"{PHI} street",
           "ReferringPhysicianName": f"{PHI}^DOCTOR", "RTPlanLabel": f"{PHI} plan", "StudyDescription": f"{PHI} study"}  # fmt: skip


def test_what_a_plan_says_of_its_patient_stays_in_the_plan(tmp_path: Path, sshd: Sshd, pueued: Pueued) -> None:
    """One case that completes, one that fails, two that are held for what is wrong in that plan; with log.file, notify.command, a journal."""
    work = 'if [ -e "$MQI_INPUT/fail.txt" ]; then exit 3; fi; ' + test_truth.COMPUTE
    place = test_truth.site(tmp_path / "site", work, host_text("ssh", "pueue", "scp", sshd, pueued))
    mail = tmp_path / "mail"
    more = f'[log]\nfile = "{tmp_path}/mqi.log"\n[notify]\ncommand = ["sh", "-c", "cat >>{mail}"]\nmost_every = "0s"\n[job]'
    place.config.write_text(place.config.read_text().replace("[job]", more, 1))
    for seed, kind in enumerate(("good", "fails", "no id", "no beams")):
        folder = make.case(place.inbox, seed=seed)
        (plan,) = folder.glob("RP*")
        data = pydicom.dcmread(plan)
        for word, value in PRIVATE.items():
            setattr(data, word, value)
        if kind == "no id":
            del data.PatientID
        elif kind == "no beams":
            del data.IonBeamSequence
        data.save_as(plan)
        (folder / "fail.txt").write_text("") if kind == "fails" else None
    told, deadline = "", time.monotonic() + 200
    while {row["status"] for row in place.rows().values()} != {"completed", "failed", "held"}:
        told += "".join(in_the_journal(place, program, "-v").out for program in laws.LINE)
        assert time.monotonic() < deadline, place.rows()
    for words in (["mqi-report", "--notify"], ["mqi-report"], ["mqi-report", "--csv"], ["mqi-report", "--json"], ["mqi-case", "explain"], ["mqi-check"]):
        told += in_the_journal(place, *words).out + "".join(place(*words)[1:])
    assert mail.read_text()
    assert PHI not in told
    assert PHI not in str(pueued.state())
    where = (place.state, place.root, place.results, sshd.folder, pueued.folder, mail, tmp_path / "mqi.log")
    files = [path for one in where for path in (one, *one.rglob("*")) if path.is_file()]
    content = {path for path in files if PHI.encode() in path.read_bytes()}
    assert content
    assert all(path.is_relative_to(place.root / "cases") and path.parent.name.startswith("input-") for path in content), content
    assert not [path for one in where for path in one.rglob("*") if PHI in path.name]
