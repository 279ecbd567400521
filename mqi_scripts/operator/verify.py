"""Results here against their records, byte for byte."""

import json
import os
import sys
from collections.abc import Iterator

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.operator import asked
from mqi_scripts.pure import tables
from mqi_scripts.world import config, folder
from mqi_scripts.world.results import RECORD


def verify(run: cli.Run) -> None:
    """Every byte of the results here against their records; 65 if one differs."""
    cases = asked(run, *([w.COMPLETED] if run.args.all else []))
    for case in cases:
        final = os.path.join(run.site.results, case.path)
        for path in [final] if case.status == w.COMPLETED else [f"{final}.partial"] if case.salvaged else []:
            faults = list(differs(run.site, case, path))
            sys.stdout.write("".join(f"{case.id} {tables.printable(fault)}\n" for fault in faults))
            if faults:
                run.code = w.Damaged.code
            elif not run.args.jsonl:
                sys.stdout.write(f"{case.id} {tables.printable(path)}: as recorded, every byte\n")
            break
        else:
            sys.stdout.write(f"{case.id} {tables.printable(case.path)}: {case.status}, it has no result here\n")
            run.code = max(run.code, 1 if run.args.case else 0)


def differs(site: config.Site, case: w.Case, path: str) -> Iterator[str]:
    """What is not as its record, and the ledger, say."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    try:
        with open(os.path.join(path, RECORD), encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError) as error:
        yield f"{path}/{RECORD} cannot be read: {error}: restore it from a backup, or mqi-case retry {case.id} --reason ..."
        return
    with open(config.schema_file("result"), encoding="utf-8") as file:
        fault = next(Draft202012Validator(json.load(file)).iter_errors(record), None)
    if fault:
        yield f"{path}/{RECORD}: {'.'.join(map(str, fault.absolute_path))}: {fault.message[:200]}"
        return
    ours = {"case": case.key, "input": case.digest, "attempt": case.attempt} | (
        {"output": case.manifest} if case.status == w.COMPLETED else {}
    )
    for word, value in ours.items():
        if record[word] != value:
            yield f"{path}/{RECORD}: its {word} is {record[word]}, the ledger's {value}"
    names = {RECORD}
    with folder.opened(path) as top:
        for one in record["files"]:
            names.add(one["name"])
            try:
                if folder.read(top, one["name"]) != one["sha256"]:
                    yield f"{path}/{one['name']}: its bytes are not those that were verified: restore it from a backup"
            except w.Unreachable:
                yield f"{path}/{one['name']} is missing: restore it from a backup"
    for above, _, inside in os.walk(path):
        for name in inside:
            here = os.path.relpath(os.path.join(above, name), path)
            if here not in names:
                yield f"{path}/{here} is not of this result: somebody put it there"
