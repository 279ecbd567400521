"""Arguments, the one error boundary, exit codes, talk. Every script is `main = script(name, doc, work)`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from mqi_scripts import __version__
from mqi_scripts import words as w
from mqi_scripts.frame.log import DEBUG, ERROR, INFO, WARNING, is_journal, log
from mqi_scripts.pure import codec, tables
from mqi_scripts.world import config, files, lock, outage
from mqi_scripts.world.ledger import Ledger

Work = Callable[["Run"], None]


class Run:
    """One run of a script: its arguments, the site, the ledger, and what it has said. code: its exit code."""

    def __init__(self, name: str, args: argparse.Namespace, site: config.Site) -> None:
        self.name, self.args, self.site, self.code = name, args, site, 0
        log.file, log.hidden = site.log.file, (site.inbox, site.results, os.path.join(site.state, "outbox"))
        by = {"script": name, "host": os.uname().nodename, "pid": os.getpid(), "user": user()}
        self.book = Ledger(site.state, by, self.say)
        self.trouble: list[str] = []
        self.note: dict[str, Any] = {"waits": {}}

    def now(self) -> str:
        return codec.stamp(datetime.now(UTC))

    def say(self, text: str, level: int = INFO) -> None:
        """Talk, for stderr and the journal."""
        log(self.name, tables.printable(text), level)

    def record(self, events: Sequence[w.Event]) -> list[w.Event]:
        """Store, then tell: a JSON line or a sentence an event on stdout; these. What cannot follow any more is said, not done."""
        dry = self.args.dry_run
        stored = list(events) if dry else self.book.append(events, self.now())
        while self.book.refused:
            self.say(f"somebody else was quicker, left alone: {self.book.refused.pop()}")
        for event in stored:
            if isinstance(event, w.Held | w.Failed):
                self.code = max(self.code, 1)
            case = self.book.case(event.case) if event.case else None  # else it is the ledger's own
            if self.args.jsonl and event.case:
                sys.stdout.write(json.dumps(codec.to_dict(event)) + "\n")
            elif event.case and not is_journal(sys.stdout):
                sys.stdout.write(("would record: " if dry else "") + tables.printable(tables.sentence(event, case)) + "\n")
            if not dry:
                log.event(self.name, event, case)
        sys.stdout.flush()
        if stored and not dry:
            head = self.book.state().head
            self.say(f"ledger at line {head.seq}, digest {head.digest[:16]}")
        return stored

    def failed(self, error: w.Failure, cases: Sequence[w.Case] = ()) -> None:
        """A trouble of one host or case: said, remembered, and the rest goes on."""
        until = outage.met(self.site, error, self.name, self.now()) if error.host and not self.args.dry_run else error.until
        self.say(f"{error}{f'; timers leave it alone until {until}' if until else ''}", WARNING)
        self.trouble.append(str(error))
        self.code = max(self.code, error.code)
        self.waits(cases, str(error), error.category, until)

    def waits(self, cases: Sequence[w.Case], why: str, category: str, until: str = "") -> None:
        """Why these stand where they stand, for the report, and what the next try waits for."""
        self.note["waits"].update({case.key: (case.status, why, category, until) for case in cases})

    def heard(self, host: str, look: w.Look) -> None:
        """What a look tells of trouble there."""
        for note in look.notes:
            self.say(f"{host}: {note}")
        if look.trouble:
            self.failed(w.Unreachable(f"the queue of {host} does not answer: {look.trouble}. See: mqi-check").of(host, "system"))

    def chosen(self, *statuses: str) -> list[w.Case]:
        """The cases to work on: those named on the command line or stdin, else all that are due."""
        named = {find(self.book, word).key for word in [*self.named()]}  # all first: a pipe's other end may still record
        due = [case for case in self.book.state().open.values() if case.status in statuses]
        return [case for case in due if case.key in named or not self.args.case]

    def named(self) -> Iterator[str]:
        """The words that name cases on the command line, or on stdin for `-`: ids, prefixes, paths, or what --jsonl prints."""
        for word in self.args.case:
            for line in map(str.strip, sys.stdin if word == "-" else [word]):
                if not line.startswith("{"):
                    yield from filter(None, [line.removeprefix(f"{self.site.inbox}/").removeprefix("./").rstrip("/")])
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise w.Usage(f"stdin: {error}: {line[:80]!r}; expected ids, or what --jsonl prints") from None
                yield from filter(None, [str(record.get("case") or record.get("case_id") or "")])

    def on_hosts(self, due: Sequence[w.Case], act: Callable[["Run", Any, list[w.Case]], None]) -> None:
        """act(run, host, its cases) for each Host that has some; one host's trouble does not stop the rest. What a timer starts
        leaves a host alone that failed, until its next try; a person's run always tries."""
        from mqi_scripts.world.host import hosts  # noqa: PLC0415  # a tick with nothing to do does without

        known = {host.name: host for host in hosts(self.site, self.book, fresh=self.args.accept_empty)} if due else {}
        for name in dict.fromkeys(case.host for case in due):
            mine = [case for case in due if case.host == name]
            with self.isolated(mine):
                if name not in known:
                    raise w.Configuration(f"hosts.{name} left the configuration with {len(mine)} cases on it: put it back")
                # units and crontab set it, and nobody else does
                if "MQI_TIMER" in os.environ and (trouble := outage.fresh(self.site, name, self.name, self.now())):
                    raise trouble
                before = len(self.trouble)
                act(self, known[name], mine)
                if known[name].answers and not self.args.dry_run:
                    outage.over(self.site.state, name, "", *([self.name] if len(self.trouble) == before else ()))
                self.roomy(known[name])

    def roomy(self, host: Any) -> None:
        """What the last session with a Host told of its room, for the report; other hosts' notes stay."""
        if host.room >= 0:
            self.note[f"room {host.name}"] = [host.room, self.now()]

    @contextmanager
    def isolated(self, cases: Sequence[w.Case] = ()) -> Iterator[None]:
        """One host's or case's trouble does not stop the rest."""
        try:
            yield
        except BrokenPipeError:
            raise
        except (w.Failure, OSError) as error:
            self.failed(trouble(error), cases)


def trouble(error: w.Failure | OSError) -> w.Failure:
    """What the system refused, as a trouble with the next command."""
    if isinstance(error, w.Failure):
        return error
    # ENOSPC, EIO, EDQUOT
    return w.Disk(f"{error}: make room (df -h, -i)") if error.errno in (28, 5, 122) else w.Configuration(f"{error}: see mqi-check")


def find(book: Ledger, word: str) -> w.Case:
    """The case with that id, unique prefix or path. Raises Usage that names the closest, or both."""
    cases = book.cases()
    hits = [case for case in cases.values() if case.key.startswith(word.lower()) or case.path == word] if word else []
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise w.Usage(f"{word!r} fits more than one case: " + ", ".join(f"{c.id} ({tables.printable(c.path)})" for c in hits))
    from difflib import get_close_matches  # noqa: PLC0415

    names = {name: case for case in cases.values() for name in (case.id, case.path)}
    near = [f"{names[n].id} ({tables.printable(names[n].path)})" for n in get_close_matches(word, names, 3, 0.4)]
    raise w.Usage(f"no case {word!r} in the ledger; closest: {', '.join(dict.fromkeys(near)) or 'none'}. See: mqi-report")


class Verbose(argparse.Action):
    """-v: the one runner of processes tells what it runs, from now on."""

    def __call__(self, parse: argparse.ArgumentParser, *_: object) -> None:
        from mqi_scripts.world import run  # noqa: PLC0415

        run.tell = lambda text: log(parse.prog.partition(" ")[0], tables.printable(text), DEBUG)


def parser(name: str, doc: str, *, line: bool = False) -> argparse.ArgumentParser:
    """What all scripts share, or those of the line. doc: its first line is the NAME line, the rest goes below the options."""
    first, _, rest = doc.partition("\n")
    parse = argparse.ArgumentParser(
        name, description=first.partition(" - ")[2] or first, epilog=rest.strip() or None, allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),  # no terminal is asked, no shutil
    )  # fmt: skip
    parse.add_argument("--config", metavar="FILE", help="the site's configuration (else $MQI_CONFIG, else /etc/mqi/mqi.toml)")
    parse.add_argument("--version", action="version", version=f"{name} {__version__}")
    parse.add_argument("-v", "--verbose", action=Verbose, nargs=0, help="show what is run on the hosts, and how long it took")
    if line:
        parse.add_argument("case", nargs="*", metavar="CASE", help="ids, unique prefixes or paths; - reads them from stdin")
        parse.add_argument("--jsonl", action="store_true", help="one JSON line an event on stdout")
        parse.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
        parse.add_argument("--accept-empty", action="store_true", help="what looks like a lost mount is empty on purpose")
    return parse


def script(name: str, doc: str, work: Work) -> Callable[..., int]:
    """The main of a script of the line: one run at a time, health noted."""

    return lambda argv=None: boundary(name, lambda: once(name, parser(name, doc, line=True).parse_args(argv), work))


def once(name: str, args: argparse.Namespace, work: Work) -> int:
    """One run, alone; its health is noted."""
    site = config.load(args.config, os.environ)
    check_state(site.state)
    run = Run(name, args, site)
    path = os.path.join(site.state, "health", f"{name}.json")
    with lock.held(os.path.join(site.state, f"run.{name}"), 0):
        note, at = files.read_note(path), run.now()
        with run.isolated():
            work(run)
        note |= {**run.note, "run": at, "trouble": "; ".join(run.trouble)} | ({} if run.trouble else {"success": at})
        if not args.dry_run:
            files.write_note(path, note)
    return run.code


def boundary(name: str, work: Callable[[], int]) -> int:
    """The one place where errors become sentences and exit codes."""
    try:
        return work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has enough
        return 0
    except (w.Failure, OSError) as error:
        log(name, str(trouble(error)), ERROR)
        return trouble(error).code
    except KeyboardInterrupt:
        log(name, "stopped; the next run goes on from here", WARNING)
        return 130
    except Exception:  # noqa: BLE001  # the one boundary
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        log(name, "a bug of this program; nothing is lost: send these lines to its keeper, then run it again", ERROR)
        return w.Failure.code


def check_state(folder: str) -> None:
    """The state folder is its owner's alone, on a local disk, and it is the owner who runs. Raises Configuration."""
    os.umask(0o077)  # whatever is made from here on is ours alone
    os.makedirs(folder, exist_ok=True)
    info = os.stat(folder)
    if info.st_uid != os.geteuid():
        from shlex import join  # noqa: PLC0415

        owner = account(info.st_uid)
        raise w.Configuration(f"{folder} belongs to {owner}: run it as `sudo -u {owner} {join(sys.argv)}`")
    if info.st_mode & 0o077:
        raise w.Configuration(f"{folder} can be read by others: chmod 700 {folder}")
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        points = [line.split(" ")[1:3] for line in mounts]
    real = f"{os.path.realpath(folder)}/"
    kind = max((len(at), n, kind) for n, (at, kind) in enumerate(points) if real.startswith(at.rstrip("/") + "/"))[2]
    if kind.startswith(("nfs", "cifs", "smb", "fuse")):
        raise w.Configuration(f"{folder} is on {kind}, where locks do not hold: move site.state to a local disk")
    for name in ("cache", "health", "manifests", "outbox", "inbound"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)


def user() -> str:
    """Who runs, and who stood behind sudo."""
    name = account(os.geteuid())
    return f"{name} (sudo: {behind})" if (behind := os.environ.get("SUDO_USER")) else name


def account(number: int) -> str:
    """Its name, or its number where it has none."""
    import pwd  # noqa: PLC0415

    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)
