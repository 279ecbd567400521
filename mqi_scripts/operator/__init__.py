"""What mqi-case does, a module a kind of command; the line does without it. Here is what they share: which cases, which notes."""

import os
from collections.abc import Mapping
from typing import Any

from mqi_scripts import words as w
from mqi_scripts.checks.gateway import SCRIPTS
from mqi_scripts.frame import cli
from mqi_scripts.pure import explain, place
from mqi_scripts.world import config, files


def asked(run: cli.Run, *statuses: str) -> list[w.Case]:
    """The cases that were named, each once; or all of these statuses. Raises Usage for a name that fits none, or several."""
    if statuses and not run.args.case:
        return sorted((case for case in run.book.cases().values() if case.status in statuses), key=lambda case: case.found)
    named = [cli.find(run.book, word) for word in run.named()]
    return list({case.key: case for case in named}.values())


def health(site: config.Site) -> dict[str, dict[str, Any]]:
    """The notes that the last runs of the line left, by program."""
    return {name: files.read_note(os.path.join(site.state, "health", f"{name}.json")) for name in SCRIPTS}


def notes(kept: dict[str, dict[str, Any]], runs: Mapping[str, Any]) -> explain.Notes:
    """What the sentences about a case need of these notes, and of the last runs by host/group."""
    waits = {key: why for note in kept.values() for key, why in note.get("waits", {}).items()}
    every = {**runs, "": [run for known in runs.values() for run in known]}
    usual = {name: place.middle(known) for name, known in every.items()}
    return explain.Notes(waits, kept["mqi-poll"].get("progress", {}), kept, usual)
