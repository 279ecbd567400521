"""mqi-check - what is wrong with this site: configuration, folders, ssh, host key, queue, groups, clock, room

One line a probe: ok or the trouble with its fix. Exit 0 if all is well, else the worst trouble's code.

examples:
  mqi-check                      everything
  mqi-check --config new.toml    a configuration before it is used
  mqi-check --far >mqi-remote    the program that a compute host with a gate needs (docs/compute-host.md)
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence

from mqi_scripts import profiles
from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import place, readers
from mqi_scripts.world import config, folder
from mqi_scripts.world.host import NOBODY, Host, hosts, program
from mqi_scripts.world.ledger import Ledger

Probe = tuple[str, str, int]  # what, the trouble and its fix ("" if none), exit code
ROOM = 1 << 30  # bytes below which a disk is called nearly full
SKEW = 60  # seconds between clocks that nobody minds
OLDEST = (3, 4, 1)  # reference: pueue.md


def probes(site: config.Site) -> Iterator[Probe]:
    yield "configuration", "", 0
    yield f"profile {site.scan.profile}", profiles.missing(site.scan.profile), w.Configuration.code
    yield from _folders(site)
    book = Ledger(site.state, {})
    try:
        cli.check_state(site.state)
        state = book.state()
        yield f"ledger, {state.head.seq} lines", "", 0
    except w.Damaged as error:
        yield "ledger", str(error), error.code
        return
    except (w.Failure, OSError):
        return  # the state folder's trouble was told
    for far in hosts(site, book):
        try:
            yield from _host(far)
        except w.Failure as error:
            yield f"{far.name}: session", str(error), error.code


def _folders(site: config.Site) -> Iterator[Probe]:
    try:
        cli.check_state(site.state)
        yield f"state {site.state}", "", 0
    except (w.Failure, OSError) as error:
        yield f"state {site.state}", f"{error}", w.Configuration.code
    for word, path, need in (("inbox", site.inbox, os.R_OK | os.X_OK), ("results", site.results, os.W_OK | os.X_OK)):
        here = path if word == "inbox" or os.path.isdir(path) else os.path.dirname(path)
        if not os.path.isdir(here):
            yield f"{word} {path}", f"it does not exist: mount it, or correct site.{word}", w.Configuration.code
        elif not os.access(here, need):
            yield f"{word} {path}", f"this account may not use it: chown or chmod it, or correct site.{word}", w.Configuration.code
        else:
            yield f"{word} {path}", "", 0
    for path in (site.state, site.results):
        if os.path.isdir(path):
            size, nodes = folder.free(path)
            trouble = f"only {size / 1e9:.1f} GB and {nodes} files are free: make room" if size < ROOM or nodes < 1000 else ""  # noqa: PLR2004
            yield f"room in {path}", trouble, w.Disk.code


def _host(far: Host) -> Iterator[Probe]:
    """What one session there tells. Raises Unreachable where there is none."""
    said, here = far.session("check", [], NOBODY, judged=False), time.time()
    yield f"{far.name}: session over {far.config.transport}, host key known{', through its gate' if far.gate else ''}", "", 0
    owner = readers.root(said)
    if owner and owner[0] != far.ledger:
        yield f"{far.name}: root", f"another ledger owns it: two gateways need two roots (hosts.{far.name}.root)", w.Damaged.code
    elif owner is None and far.used:
        yield f"{far.name}: root", "it was ours and has no `ledger` file: a lost mount?", w.Unreachable.code
    else:
        yield f"{far.name}: root {far.config.root}", said.notes(), w.Configuration.code
    lacks = ", ".join(line[0] for line in said.named("lacks"))
    yield f"{far.name}: programs", f"missing: {lacks}: install coreutils, util-linux" if lacks else "", w.Configuration.code
    for (text,) in said.named("clock"):
        ahead = int(text) - here
        trouble = f"its clock is {ahead:+.0f} s from ours: see chronyc or timedatectl on both" if abs(ahead) > SKEW else ""
        yield f"{far.name}: clock", trouble, 1
    room = readers.room(said)
    yield f"{far.name}: room", f"only {room / 1e9:.1f} GB free there: make room" if 0 <= room < ROOM else "", w.Disk.code
    for (text,) in said.named("version"):
        number = tuple(int(part) for part in text.split(" ")[-1].split(".") if part.isdigit())
        fix = f"hosts.{far.name}.pueue.command answers {text!r}; needed is pueue 3.4.1 or newer"
        yield f"{far.name}: {text}", fix if number < OLDEST else "", w.Configuration.code
    look = readers.look(said, far.config.engine, far.config.root)
    trouble = f"it does not answer: {look.trouble}: start pueued there" if look.trouble else ""
    yield f"{far.name}: queue", trouble, w.Unreachable.code
    if not look.trouble:
        names = ", ".join(f"{g.name} ({g.slots or 'unlimited'})" for g in place.usable(look.groups, far.config.groups))
        yield f"{far.name}: groups {names}", place.why_none(far.name, look.groups, far.config.groups), 1


def check(args: argparse.Namespace) -> int:
    if args.far:
        sys.stdout.write(program())
        return 0
    site = config.load(args.config, os.environ)
    worst = 0
    for what, trouble, code in probes(site):
        sys.stdout.write(f"{'ok     ' if not trouble else 'TROUBLE'} {what}{': ' if trouble else ''}{trouble}\n")
        worst = max(worst, code if trouble else 0)
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    parse = cli.parser("mqi-check", __doc__ or "")
    parse.add_argument("--far", action="store_true", help="print the program for a compute host with a gate, do nothing else")
    args = parse.parse_args(argv)
    return cli.boundary("mqi-check", lambda: check(args))
