"""The note of a compute host's trouble, <state>/health/host.<name>.json: while it is fresh, timers leave the host alone.

Its "" is what all scripts met there, no connection or a refusal; under a script's name is what only that one met: a queue that is
down, a disk that is full. Deletable, never truth.
"""

import os
import zlib
from datetime import datetime, timedelta

from mqi_scripts.pure import codec, retry
from mqi_scripts.words import Configuration, Failure
from mqi_scripts.world.config import Site
from mqi_scripts.world.files import read_note, write_note


def fresh(site: Site, host: str, script: str, now: str) -> Failure | None:
    """The trouble for which that script leaves the host alone now, as it was met."""
    for note in filter(None, map(read_note(path(site.state, host)).get, ("", script))):
        if retry.rests(note, _sign(site, host), site.retry.most, now):
            failure = Failure(note["why"])
            vars(failure).update(note)
            return failure
    return None


def met(site: Site, failure: Failure, script: str, now: str) -> str:
    """Remember it; when the host is tried again. A knock before that time counts for nothing."""
    where, key = path(site.state, failure.host), script if failure.category == Failure.category else ""
    kept, sign, rules = read_note(where), _sign(site, failure.host), site.retry
    old = kept.get(key) or {}
    if old.get("category") == failure.category and retry.rests(old, sign, rules.most, now):
        return str(old["until"])
    count = old.get("failures", 0) + 1
    later = timedelta(seconds=retry.delay(count, rules.first, rules.factor, rules.most, os.urandom(1)[0] / 256))
    until = retry.CHANGE if failure.category == Configuration.category else codec.stamp(datetime.fromisoformat(now) + later)
    note = {"why": str(failure), "code": failure.code, "category": failure.category}
    write_note(where, kept | {key: note | {"failures": count, "until": until, "sign": sign}})
    return until


def over(state: str, host: str, *keys: str) -> None:
    """It answered: what was noted under these keys is over."""
    kept = read_note(path(state, host))
    if kept.keys() & {*keys}:
        write_note(path(state, host), {key: note for key, note in kept.items() if key not in keys})


def path(state: str, host: str) -> str:
    return os.path.join(state, "health", f"host.{host}.json")


def _sign(site: Site, host: str) -> int:
    """Of all that the site says of that host, its keys' files included: another one after any change."""
    one = next(config for config in site.hosts if config.name == host)
    times = [os.path.getmtime(file) for file in (one.identity, one.known_hosts, one.ssh_config) if os.path.exists(file)]
    return zlib.crc32(repr((site.job, one, times)).encode())
