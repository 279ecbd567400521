"""The site's configuration: one TOML file, checked against schemas/config.schema.json, as values with every default.

The schema is the only place where defaults stand. What was checked once is kept beside the ledger, and not checked again.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mqi_scripts.pure.order import Schedule
from mqi_scripts.words import Configuration
from mqi_scripts.world import files

DEFAULT = "/etc/mqi/mqi.toml"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# The tables as values, durations in seconds; what each key means stands in the schema.
Scan = NamedTuple("Scan", [
    ("cases", str), ("profile", str), ("fractions", str), ("fraction_gap", float), ("late_data", str),
    ("quiet", float), ("ready_marker", str), ("ignore", Sequence[str]), ("not_before", str), ("watch", float),
    ("arriving_limit", float), ("max_depth", int), ("max_files", int), ("max_bytes", int),
])  # fmt: skip
Job = NamedTuple("Job", [
    ("command", str), ("results", Sequence[str]), ("results_per_beam", str), ("failure_markers", Sequence[str]),
    ("success_markers", Sequence[str]), ("time_limit", float), ("progress", str), ("version_command", str),
    ("silent_limit", float), ("silent_end", bool), ("groups", Mapping[str, Sequence[str]]),
])  # fmt: skip
Retry = NamedTuple("Retry", [("interrupted", int), ("first", float), ("factor", float), ("most", float)])
Breaker = NamedTuple("Breaker", [("jobs", int)])
Report = NamedTuple("Report", [("redact", bool)])
Notify = NamedTuple("Notify", [("command", Sequence[str]), ("most_every", float)])
Log = NamedTuple("Log", [("file", str)])
HostConfig = NamedTuple("HostConfig", [
    ("name", str), ("transport", str), ("address", str), ("port", int), ("ssh_config", str), ("identity", str),
    ("known_hosts", str), ("gate", bool), ("root", str), ("transfer", str), ("engine", str), ("groups", Sequence[str]),
    ("queue_depth", int), ("keep", float), ("reserve", int), ("timeout", float), ("pueue", Mapping[str, str]),
    ("devices", Mapping[str, Sequence[str]]), ("direct", Mapping[str, int]),
])  # fmt: skip
Site = NamedTuple("Site", [
    ("name", str), ("inbox", str), ("results", str), ("state", str), ("reserve", int), ("scan", Scan), ("job", Job),
    ("retry", Retry), ("breaker", Breaker), ("schedule", Schedule), ("report", Report), ("notify", Notify), ("log", Log),
    ("hosts", tuple[HostConfig, ...]),
])  # fmt: skip
TABLES: dict[str, Any] = {one.__name__.lower(): one for one in (Scan, Job, Retry, Breaker, Schedule, Report, Notify, Log)}


def load(path: str | None, environ: Mapping[str, str]) -> Site:
    """The site of --config FILE, else $MQI_CONFIG, else /etc/mqi/mqi.toml. Raises Configuration, before any effect."""
    path = path or environ.get("MQI_CONFIG") or DEFAULT
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Configuration(f"{path}: {error}: name another with --config FILE or $MQI_CONFIG, or try mqi-demo") from None
    with open(schema_file("config"), encoding="utf-8") as file:
        schema = file.read()
    guess = re.search(r'^state *= *"(.*)"', text, re.MULTILINE)  # it costs nothing: the text itself is compared
    cache = files.read_note(os.path.join(guess[1], "cache", "config") if guess else "")
    if cache.get("made_of") != [schema, text]:
        cache = {"made_of": [schema, text], "tables": _checked(path, text, json.loads(schema))}
        place = os.path.join(cache["tables"]["site"]["state"], "cache")
        if os.path.isdir(place):
            files.write_note(os.path.join(place, "config"), cache)
    of = cache["tables"]
    hosts = tuple(HostConfig(name=name, **host) for name, host in of["hosts"].items())
    return Site(**of["site"], **{name: kind(**of[name]) for name, kind in TABLES.items()}, hosts=hosts)


def schema_file(name: str) -> str:
    """A schema, from an installed package or a checkout."""
    package = os.path.dirname(os.path.dirname(__file__))
    inside = os.path.join(package, "schemas", f"{name}.schema.json")
    return inside if os.path.exists(inside) else os.path.join(os.path.dirname(package), "schemas", f"{name}.schema.json")


def _checked(path: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The tables with every default, or every fault at once, each with the path of its key and what would be right."""
    import tomllib  # noqa: PLC0415

    from jsonschema import Draft202012Validator  # noqa: PLC0415

    try:
        raw = json.loads(json.dumps(tomllib.loads(text), default=lambda date: date.isoformat()[:10]))
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise Configuration(f"{path}: not TOML: {error}: correct it, then: mqi-check --config {path}") from None
    check = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = sorted(check.iter_errors(raw), key=lambda error: str(list(error.absolute_path)))
    faults = [fault for error in errors for fault in _faults(error)]
    if faults:
        raise Configuration("\n  ".join([f"{path}:", *faults, f"nothing runs until it is right; then: mqi-check --config {path}"]))
    rules = schema["properties"]
    tables = {name: _filled(raw.get(name, {}), rules[name]) for name in ("site", *TABLES)}
    one = rules["hosts"]["additionalProperties"]
    return {**tables, "hosts": {name: _filled(host, one) for name, host in raw["hosts"].items()}}


def _filled(raw: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the schema's defaults, durations as seconds."""
    values: dict[str, Any] = {}
    for name, rule in schema["properties"].items():
        if rule.get("type") == "object" and "properties" in rule:
            values[name] = _filled(raw.get(name, {}), rule)
            continue
        value = raw.get(name, rule.get("default"))
        values[name] = int(value[:-1]) * SECONDS[value[-1]] if "[smhd]" in rule.get("pattern", "") else value
    return values


def _faults(error: Any) -> Iterator[str]:
    from difflib import get_close_matches  # noqa: PLC0415

    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in sorted(set(error.instance) - set(known)):
            near = get_close_matches(key, known, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            yield f"{where + '.' if where else ''}{key} is no key of this file: {hint}"
    elif error.validator == "required":
        key = next(key for key in error.validator_value if key not in error.instance)
        about = error.schema["properties"][key]["description"]
        yield f"{where + '.' if where else ''}{key} is missing: {about}"
    else:
        example = error.schema.get("examples", [""])[0]
        hint = f"; for example {json.dumps(example)}" if example else ""
        yield f"{where} = {json.dumps(error.instance)}: {error.message[:200]}{hint}"
