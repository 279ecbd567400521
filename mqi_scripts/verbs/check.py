"""mqi-check - what is wrong with this site, or will be: configuration, folders, timers, ledger, ssh, queue, clock, room

One line a probe: ok, warn (a person should look) or FAIL (it cannot work), the fix in the next line. It changes nothing. Exit 0 if
all is ok, 1 if there are only warnings, else the code of the worst failure.

With --faults it is the commissioning self-test: with a ledger, folders and tasks of its own, and jobs that compute nothing, it
makes seven faults for real (a lost reply, a cut transfer, killed scripts, a duplicate submission, late data, refused disk room, a
queue that answers empty), and prints a record for the site's QA documents. It touches no case of the site, no group and no setting
of the queue, and takes away what it made. Exit 0 if all held on every host, else 1.

examples:
  mqi-check                      everything
  mqi-check --host gpu1          one compute host
  mqi-check --fast               only what needs no session to a host
  mqi-check --json               for a program
  mqi-check --notify             a test message through notify.command, nothing else: does it arrive?
  mqi-check --config new.toml    a configuration before it is used
  mqi-check --far >mqi-remote    the program that a compute host with a gate needs (docs/compute-host.md)
  mqi-check --faults --dry-run   how many tasks the self-test would give to which groups
  mqi-check --faults >faults.txt the self-test, and its record (--json: for a program)
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from mqi_scripts import words as w
from mqi_scripts.checks import FAIL, OK, WARN, Probe, compute, fail, here, on, text, there
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec
from mqi_scripts.world import config, lock, outage
from mqi_scripts.world.host import Host, program
from mqi_scripts.world.ledger import Ledger, State


def probes(args: argparse.Namespace) -> Iterator[Probe]:
    """In the order in which one trouble explains the next."""
    path = args.config or os.environ.get("MQI_CONFIG") or config.DEFAULT
    try:
        site = config.load(path, {})
    except w.Configuration as error:
        what, *faults = str(error).split("\n  ")
        for fault in faults[:-1] or [what]:  # the last line says to run this
            yield fail("configuration", fault, f"correct {path}; docs/configuration.md has every key", error)
        return
    wanted = chosen(site, args.host)
    if args.notify:
        yield here.message(site)
        return
    yield from here.site(path, site)
    usable = here.state(site)
    yield usable
    if usable.level == FAIL:
        yield from here.folders(site, 0)
        return
    book = Ledger(site.state, {})
    probe, now = here.ledger(book)
    if not args.host:
        yield here.owners(site)
        yield from here.folders(site, sum(not case.gone for case in book.cases().values()) if now else 0)
        held, runs = here.locks(site.state)
        yield from held
        yield from here.scripts(site, runs)
    yield probe
    if now and not args.host:
        yield from here.waiting(site, now)
    for host in wanted:
        yield from on(host.name, here.left_alone(site, host.name))
        yield from on(host.name, here.broken(now.failed if now else {}, host.name, site.breaker.jobs))
        yield from on(host.name, there.keys(host))
        if not args.fast:
            far = far_side(host, site, book, now)
            yield from on(host.name, there.knock(host))
            said = there.session(far, lambda: book.cases() if now else None)
            yield from (probe._replace(host=host.name, fix=compute.typed(host, probe.fix)) for probe in said)
            if far.answers:
                outage.over(site.state, host.name, "")  # so that the timers try it again, too


def chosen(site: config.Site, name: str | None) -> list[config.HostConfig]:
    """The hosts to probe. Raises Usage where there is none of that name."""
    wanted = [host for host in site.hosts if name in (None, host.name)]
    if not wanted:
        raise w.Usage(f"no host {name!r} in the configuration; there are: {', '.join(host.name for host in site.hosts)}")
    return wanted


def far_side(host: config.HostConfig, site: config.Site, book: Ledger, now: State | None) -> Host:
    """now None: the ledger cannot be read, so nothing is said of whose the root is."""
    used = now is not None and now.roots.get(host.name) == host.root
    return Host(host, site.state, now.id if now else "", used, book.holds)


def check(args: argparse.Namespace) -> int:
    if args.far:
        sys.stdout.write(program())
        return 0
    if args.faults:
        return faults(args)
    said = []
    for probe in probes(args):
        said.append(probe)
        if not args.json:
            sys.stdout.write(text(probe))
            sys.stdout.flush()  # a session may take a while
    code = max(probe.code for probe in said)
    if args.json:
        worst = next(level for level in (FAIL, WARN, OK) if level in {probe.level for probe in said})
        body = {"v": 1, "generated_at": codec.stamp(datetime.now(UTC)), "worst": worst, "exit": code,
                "probes": [probe._asdict() for probe in said]}  # fmt: skip
        sys.stdout.write(json.dumps(body, indent=1) + "\n")
    return code


def faults(args: argparse.Namespace) -> int:
    """The self-test. Whatever keeps it from being made: 1, and the reason."""
    from mqi_scripts.selftest import HELD, trial  # noqa: PLC0415

    def say(text: str) -> None:
        sys.stderr.write(f"mqi-check: {text}\n")

    try:
        site = config.load(args.config, os.environ)
        wanted = chosen(site, args.host)
        if args.dry_run:
            sys.stdout.write("".join(f"{trial.plan(host)}\n" for host in wanted))
            return 0
        cli.check_state(site.state)
        with lock.held(os.path.join(site.state, "run.mqi-check-faults"), 0):
            records = [trial.tried(site, host, cli.user(), say) for host in wanted]
    except (w.Failure, OSError) as error:
        say(str(cli.trouble(error)))
        return 1
    code = max(int(record.verdict != HELD) for record in records)
    body = {"v": 1, "exit": code, "records": [record.tables() for record in records]}
    sys.stdout.write(json.dumps(body, indent=1) + "\n" if args.json else "\n".join(record.text() for record in records))
    return code


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-check", __doc__ or "")
    parse.add_argument("--far", action="store_true", help="print the program for a compute host with a gate, do nothing else")
    parse.add_argument("--host", metavar="NAME", help="only the configuration and this compute host")
    parse.add_argument("--fast", action="store_true", help="nothing that needs a session to a host")
    parse.add_argument("--notify", action="store_true", help="send a test message through notify.command, do nothing else")
    parse.add_argument("--json", action="store_true", help="one object (schemas/check.schema.json, of --faults faults.schema.json)")
    parse.add_argument("--faults", action="store_true", help="the commissioning self-test: faults made for real, and a record")
    parse.add_argument("--dry-run", action="store_true", help="of --faults: say what it would give to the queue, do nothing")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return cli.boundary("mqi-check", lambda: check(args))
