"""mqi-init - set a gateway up: account, folders, configuration, ssh key and known host, timers; or take it down again

Asks a few questions, shows what it will do, and does it. It can be run again at any time: what is as it should be stays, and an
existing configuration is never changed. The configuration, keys, state and results are the site's: --remove leaves them.

examples:
  mqi-init                                    asks, shows, does; then mqi-check
  mqi-init --answers site.toml --yes --accept-fingerprint SHA256:qpX1...   without questions; site.toml has mqi.toml's keys
  mqi-init --user                             without root: systemd --user, folders below the home
  mqi-init --dry-run                          what would be done
  mqi-init --import old.yaml                  what a predecessor's configuration becomes, key by key, then as above
  mqi-init --compute-host                     prints the commands for the far side
  mqi-init --bundle mqi.tar.gz                an archive for a gateway without network, made in a checkout
  bin/mqi-init --upgrade                      this checkout's version in the place of the one in use
  mqi-init --remove                           takes away what it made
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.install import answers, bundle, completion, far, imported, keys, man, places, things, units, upgrade
from mqi_scripts.install.sample import text as sample
from mqi_scripts.install.things import Account, File, Folder, Gone, Key, Link, Settings, Thing, Timers
from mqi_scripts.world import config

PYTHONS = ("3.11", "3.12", "3.13")  # of Debian 12, Ubuntu 24.04, Debian 13
CHECK = 600  # seconds that mqi-check may take


def work(args: argparse.Namespace) -> int:
    if args.bundle:
        count = bundle.make(args.bundle, args.python or list(PYTHONS))
        say(f"{args.bundle}: the installer and {count} wheels. On a gateway: tar -xzf it, then mqi-*/mqi-init as root")
        return 0
    where = places.places(os.path.abspath(args.prefix) if args.prefix else "", args.user, os.environ)
    path = os.path.abspath(args.config or os.environ.get("MQI_CONFIG") or f"{where.etc}/mqi.toml")
    if args.remove:
        return remove(where, path, args)
    prints = args.compute_host or args.print_crontab
    site, text = described(where, path, args)
    if args.compute_host:
        for host in site.hosts:
            sys.stdout.write(far.text(host, keys.authorized(host), args.gpus))
    if args.print_crontab:
        sys.stdout.write(units.crontab(where, path, account_of(where, args)))
    if prints:
        return 0
    if not (where.user or where.prefix) and os.geteuid() != 0:
        raise w.Usage("it needs root, for the account, /etc/mqi and the timers: sudo mqi-init; or mqi-init --user for you alone")
    wanted = everything(where, site, path, text, account_of(where, args))
    return done(where, site, path, wanted, args)


def described(where: places.Places, path: str, args: argparse.Namespace) -> tuple[config.Site, str]:
    """The site as its configuration has it, or as it will: then with the new file's text."""
    given = known(args)
    given.pop("init", None)
    if os.path.exists(path):
        site = config.load(path, {})
        differ = {key: value for key, value in answers.flat(given).items() if answers.flat(answers.load(path)).get(key) != value}
        if differ:
            say(f"{path} is there and stays as it is; these answers are not in it: {', '.join(sorted(differ))}")
        return site, ""
    with open(config.schema_file("config"), encoding="utf-8") as file:
        schema = json.load(file)
    ask = None if args.yes or not sys.stdin.isatty() else typed
    text = sample(schema, answers.gather(given, where, schema, args.existing, ask))
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as draft:
        draft.write(text)
        draft.flush()
        try:
            return config.load(draft.name, {}), text
        except w.Configuration as error:
            raise w.Configuration(str(error).replace(draft.name, "the answers")) from None


def known(args: argparse.Namespace) -> dict[str, Any]:
    """What was said beforehand: a predecessor's file, then the answers, then --set. Fills in what [init] of the answers says."""
    with open(config.schema_file("config"), encoding="utf-8") as file:
        schema = json.load(file)
    taken: dict[str, Any] = {}
    if args.import_:
        steps = imported.steps(imported.load(args.import_), schema)
        for step in steps:
            say(f"{step.old}: {step.what}")
        taken = imported.values(steps)
    given = answers.merged(taken, answers.load(args.answers) if args.answers else {}, answers.assigned(args.set, schema))
    first = given.get("init", {})
    args.account = args.account or first.get("account", "")
    args.existing = args.existing or first.get("existing", "")
    args.accept_fingerprint += first.get("accept_fingerprint", [])
    return given


def account_of(where: places.Places, args: argparse.Namespace) -> str:
    """Who runs the programs: for a whole system an account of its own, else whoever runs this."""
    return args.account or ("" if where.user or where.prefix else "mqi")


def everything(where: places.Places, site: config.Site, path: str, text: str, account: str) -> list[Thing]:
    """What there has to be, in the order of making."""
    made: list[Thing] = [Account(account, site.state)] if account else []
    made += [Folder(where.etc, 0o755, "", False), Folder(site.state, 0o700, account, True)]
    made += [Folder(site.results, 0o750, account, False), Folder(site.inbox, 0o755, "", False)]
    made += [Folder(where.backup, 0o700, account, True)]
    for identity in dict.fromkeys(host.identity for host in site.hosts if host.transport == "ssh" and host.identity):
        made += [Folder(os.path.dirname(identity), 0o700, account, identity.startswith(where.etc)), Key(identity, account)]
    made += [Settings(path, text)]
    made += [Link(f"{where.programs}/current", os.path.dirname(places.running()))]
    names = sorted(name for name in os.listdir(places.running()) if name.startswith("mqi-"))
    made += [Link(f"{where.bin}/{name}", f"{where.programs}/current/bin/{name}") for name in names]
    unit_files = units.files(where, site, path, account or cli.user().split()[0])
    made += [*unit_files, *man.files(where.share), *completion.files(where.share)]
    made += things.left_over(where, made)
    has_systemd = shutil.which("systemctl") is not None
    return [*made, Timers(where.manager, units.enabled(unit_files), places.runs(where))] if has_systemd else made


def done(where: places.Places, site: config.Site, path: str, wanted: Sequence[Thing], args: argparse.Namespace) -> int:
    """Show, do, and check; the exit code is that of mqi-check."""
    if (old := upgrade.in_use(where)) and not args.upgrade:
        raise w.Usage(f"{old} is in use, and this is {os.path.dirname(places.running())}: mqi-init --upgrade puts it in its place")
    plan = [(thing, what) for thing in wanted if (what := things.difference(thing))]
    strangers = keys.unknown(site.hosts)
    for what in summary(plan):
        say(f"{'would ' if args.dry_run else ''}{what}")
    for host in strangers:
        say(f"{'would ' if args.dry_run else ''}ask {host.name} ({host.address}, port {host.port}) for its host key")
    if not (plan or strangers):
        say("everything is as it should be: nothing was changed")
    if args.dry_run:
        return 0
    agreed((plan or strangers), args)
    first = [thing for thing, _ in plan if isinstance(thing, Account | Folder)]  # a copy of the ledger needs its folder
    with upgrade.stopped(where) if upgrade.in_use(where) else nullcontext():
        for one in first:
            things.make(one)
        if upgrade.in_use(where):
            for step in upgrade.switch(where, site.state, path, as_account(account_of(where, args))):
                say(step)
        for thing in [thing for thing, _ in plan if thing not in first]:
            things.make(thing)
    if any(isinstance(thing, File) for thing, _ in plan) and places.runs(where):
        things.do(*where.manager, "daemon-reload")
    for host in strangers:
        meet(host, args)
    say_what_is_left(where, site, path)
    return checked(where, path, account_of(where, args))


def summary(plan: Sequence[tuple[Thing, str]]) -> list[str]:
    """What will be done, the files and links of one folder in one line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for thing, what in plan:
        folder, name = os.path.split(thing.path) if isinstance(thing, File | Link | Gone) else ("", "")
        lines.setdefault((what.split()[0], folder) if name else ("", what), []).append(name)
    return [f"{verb} in {where}: {' '.join(names)}" if verb else where for (verb, where), names in lines.items()]


def agreed(anything: object, args: argparse.Namespace) -> None:
    if anything and not args.yes:
        if not sys.stdin.isatty():
            raise w.Usage("nobody is here to say yes: --yes does it without asking, --dry-run only shows it")
        if typed("Do it? [yes]: ").strip().lower() not in ("", "y", "yes"):
            raise w.Usage("nothing was done")


def meet(host: config.HostConfig, args: argparse.Namespace) -> None:
    """Its host key goes into known_hosts if somebody says that it is the right one."""
    shown = keys.scan(host)
    for one in shown:
        say(f"{host.name} ({host.address}, port {host.port}) shows {one.kind} {one.print}")
    if not shown:
        say(f"{host.name} ({host.address}, port {host.port}) shows no key: is it there? Run mqi-init again when it is")
        return
    say(f"compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on {host.name} itself")
    key = keys.accept(host, shown, args.accept_fingerprint, None if args.yes or not sys.stdin.isatty() else typed)
    if key:
        keys.remember(host, key)
        say(f"{host.name}: {key.print} is known now ({host.known_hosts})")
    elif args.accept_fingerprint:
        raise w.Unreachable(f"{host.name} shows no accepted fingerprint: ALARM, somebody may pose as it; compare them there")
    else:
        say(f"{host.name}: its key was not accepted, so nothing can reach it yet: mqi-init --accept-fingerprint SHA256:...")


def say_what_is_left(where: places.Places, site: config.Site, path: str) -> None:
    for host in site.hosts:
        if line := keys.authorized(host):
            say(f"the line for ~/.ssh/authorized_keys of {host.address} ({host.name}):")
            sys.stdout.write(f"{line}\n")
    if where.user:
        say(f"in your shell: export MQI_CONFIG={path}; and so that the timers run while you are logged out: loginctl enable-linger")
    if not (places.runs(where) or where.prefix):
        say("systemd does not run here: the timers start with the next boot; without systemd see mqi-init --print-crontab")


def as_account(account: str) -> list[str]:
    """The words before a command that is to run as the account of the programs."""
    other = account and os.geteuid() == 0 and account != cli.user().split()[0]
    return ["runuser", "-u", account, "--"] if other else []


def checked(where: places.Places, path: str, account: str) -> int:
    """What mqi-check says, as the account that the programs run as."""
    argv = [*as_account(account), f"{where.programs}/current/bin/mqi-check", "--config", path]
    ran = things.ask(*argv, seconds=CHECK)
    sys.stdout.write(ran.out.decode(errors="replace"))
    sys.stderr.write(ran.err.decode(errors="replace"))
    content = {0: "mqi-check is content", 1: "mqi-check is content but for its warnings above"}  # 1: nothing worse than a warning
    say(content.get(ran.code) or f"set up; mend what mqi-check found, then: {' '.join(argv)}")
    return 0 if ran.code in content else ran.code


def remove(where: places.Places, path: str, args: argparse.Namespace) -> int:
    """The timers stop, what we made goes; configuration, keys, state, results and the account stay, and are named."""
    paths = [*things.ours(where)]
    timers = [os.path.basename(one) for one in paths if one.endswith((".timer", ".target"))]
    if not paths:
        say("nothing of ours is here")
    for one in paths:
        say(f"{'would remove' if args.dry_run else 'to remove:'} {one}")
    if args.dry_run or not paths:
        return 0
    agreed(paths, args)
    if timers:
        things.do(*where.manager, "--quiet", "disable", *(["--now"] if places.runs(where) else []), *timers, seconds=120)
    for timer in timers if places.runs(where) else []:
        things.ask(*where.manager, "clean", "--what=state", timer)  # when it last ran; one without such a memory refuses
    for _ in things.take_away(where):
        pass
    if places.runs(where):
        things.do(*where.manager, "daemon-reload")
    say(f"removed. The site's own is left: {os.path.dirname(path)}, the folders that {path} names, the account that owns them")
    return 0


def typed(question: str) -> str:
    sys.stdout.write(question)
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise w.Usage("the answers ended")
    return line.rstrip("\n")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    parse = cli.parser("mqi-init", __doc__ or "")
    parse.add_argument("--answers", metavar="FILE", help="has mqi.toml's keys; [init]: account, existing, accept_fingerprint")
    parse.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one key of mqi.toml, as site.name=G1")
    parse.add_argument("--existing", choices=("work", "history"), default="", help="what is in the inbox already")
    parse.add_argument("--accept-fingerprint", action="append", default=[], metavar="PRINT", help="a compute host's, read there")
    parse.add_argument("--account", default="", metavar="NAME", help="who runs the programs (default mqi)")
    parse.add_argument("--yes", action="store_true", help="ask nothing")
    parse.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    parse.add_argument("--user", action="store_true", help="without root: for you alone, by systemd --user")
    parse.add_argument("--prefix", metavar="DIR", help="everything below DIR instead of /; no account is made, nothing started")
    parse.add_argument("--import", dest="import_", metavar="FILE", help="a predecessor's YAML configuration")
    parse.add_argument("--compute-host", action="store_true", help="print the commands for the compute host")
    parse.add_argument("--gpus", type=int, default=4, metavar="N", help="how many GPUs it has, for --compute-host (default 4)")
    parse.add_argument("--print-crontab", action="store_true", help="print a file for cron, instead of timers")
    parse.add_argument("--bundle", metavar="FILE", help="write an archive that installs without a network; from a checkout")
    parse.add_argument("--python", action="append", default=[], metavar="VERSION", help="for --bundle (default 3.11, 3.12, 3.13)")
    parse.add_argument("--upgrade", action="store_true", help="put this version in the place of the one in use, or go back")
    parse.add_argument("--remove", action="store_true", help="take away what mqi-init made")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return cli.boundary("mqi-init", lambda: work(args))
