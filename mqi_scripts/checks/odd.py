"""Configuration that is legal and odd: a pure function over the site."""

import os
from collections.abc import Iterator
from itertools import combinations

from mqi_scripts.checks import Probe, warn
from mqi_scripts.pure.explain import span
from mqi_scripts.world.config import HostConfig, Site

MINUTE, DAY = 60.0, 86400.0
LONG = 7 * DAY
MANY = 100  # waiting tasks a slot: pueue is not made for hundreds (reference: pueue.md)


def configuration(site: Site, today: str) -> Iterator[Probe]:
    """today: as ISO 8601, UTC."""
    found = [*_scan(site, today), *_job(site), *_rules(site), *_places(site)]
    yield from (warn("configuration", what, fix) for what, fix in found)
    for host in site.hosts:
        yield from (warn("configuration", what, fix) for what, fix in _host(host))


def _scan(site: Site, today: str) -> Iterator[tuple[str, str]]:
    scan = site.scan
    if scan.quiet < MINUTE:
        yield (f'scan.quiet = "{scan.quiet:.0f}s": a case can be taken while it is still being written',
               'scan.quiet = "15m", or more than the longest pause of whatever writes the inbox')  # fmt: skip
    if scan.arriving_limit <= scan.quiet:
        yield (f"scan.arriving_limit ({span(scan.arriving_limit)}) is not longer than scan.quiet ({span(scan.quiet)}): every case "
               "is held before it can be quiet", 'scan.arriving_limit = "24h"')  # fmt: skip
    if scan.not_before > today[:10]:
        yield f"scan.not_before = {scan.not_before} is in the future: every case is held", "correct the date, or remove it"


def _job(site: Site) -> Iterator[tuple[str, str]]:
    job, profile = site.job, site.scan.profile
    if profile == "files" and any(pattern.lower().endswith(".dcm") for pattern in job.results):
        yield ('scan.profile = "files" knows no beams: a case or a result that lacks one goes through',
               'for cases of moqui: scan.profile = "moqui-log", and job.results_per_beam for the dose files')  # fmt: skip
    if profile == "moqui-log" and not job.results_per_beam:
        yield ("job.results_per_beam is not set: a result without the dose of every beam is completed",
               'job.results_per_beam = "Dose/*_Dose.dcm"')  # fmt: skip
    if job.silent_end and not job.silent_limit:
        yield 'job.silent_end without job.silent_limit: no job is ever called silent', 'job.silent_limit = "2h"'
    if job.time_limit > LONG:
        yield (f"job.time_limit is {span(job.time_limit)}: a job that hangs keeps its slot for so long",
               'job.time_limit = "24h", or a few times the longest case')  # fmt: skip
    if job.time_limit < MINUTE:
        yield f"job.time_limit is {span(job.time_limit)}: most computations would be ended", 'job.time_limit = "24h"'


def _rules(site: Site) -> Iterator[tuple[str, str]]:
    if site.schedule.order == "strict" and not site.schedule.aging and not site.schedule.starvation:
        yield ('schedule.order = "strict" with neither aging nor starvation: a case of low priority can wait for ever',
               'schedule.starvation = "24h"')  # fmt: skip
    if site.retry.first > site.retry.most:
        yield (f"retry.first ({span(site.retry.first)}) is longer than retry.most ({span(site.retry.most)}), which counts",
               'retry.first = "30s", retry.most = "10m"')  # fmt: skip


def _places(site: Site) -> Iterator[tuple[str, str]]:
    folders = [("inbox", site.inbox), ("results", site.results), ("state", site.state)]
    for (one, path), (other, there) in combinations(folders, 2):
        if os.path.commonpath([path, there]) in (os.path.normpath(path), os.path.normpath(there)):
            yield f"site.{one} and site.{other} lie in each other ({path}, {there})", "three folders that are beside each other"
    for first, second in combinations(site.hosts, 2):
        if (first.transport, first.address, first.port, first.root) == (second.transport, second.address, second.port, second.root):
            yield (f"hosts.{first.name} and hosts.{second.name} are one folder on one machine: it would be counted twice",
                   "one table for each compute host")  # fmt: skip


def _host(host: HostConfig) -> Iterator[tuple[str, str]]:
    where = f"hosts.{host.name}"
    if host.keep == 0:
        yield (f'{where}.keep = "0s": input and output go as soon as a case is completed, and nothing is left to look at',
               f'{where}.keep = "30d"')  # fmt: skip
    if host.queue_depth > MANY:
        yield (f"{where}.queue_depth = {host.queue_depth}: what waits in one group cannot go to another any more, and the queue "
               "gets slow", f"{where}.queue_depth = 2")  # fmt: skip
    if host.timeout < MINUTE:
        yield f"{where}.timeout is {span(host.timeout)}: the copy of a large case is cut off", f'{where}.timeout = "30m"'
