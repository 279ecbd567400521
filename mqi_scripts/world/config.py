"""The site's configuration: one TOML file, checked against schemas/config.schema.json, as values with every default.

The schema is the only place where defaults stand. What was checked once, file and schema by digest, is kept parsed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from mqi_scripts.words import Configuration

DEFAULT = "/etc/mqi/mqi.toml"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Scan(NamedTuple):
    cases: str
    profile: str
    quiet: float
    ready_marker: str
    ignore: tuple[str, ...]
    not_before: datetime | None
    watch: float
    arriving_limit: float
    max_depth: int
    max_files: int
    max_bytes: int


class Job(NamedTuple):
    command: str
    results: tuple[str, ...]
    time_limit: float
    progress: str
    version_command: str


class Retry(NamedTuple):
    interrupted: int


class HostConfig(NamedTuple):
    name: str
    transport: str
    address: str
    port: int
    ssh_config: str
    identity: str
    known_hosts: str
    root: str
    transfer: str
    engine: str
    groups: tuple[str, ...]
    queue_depth: int
    keep: float
    timeout: float
    pueue: Mapping[str, str]
    devices: Mapping[str, tuple[str, ...]]
    direct: Mapping[str, int]


class Site(NamedTuple):
    name: str
    inbox: str
    results: str
    state: str
    scan: Scan
    job: Job
    retry: Retry
    hosts: tuple[HostConfig, ...]


def load(path: str | None, environ: Mapping[str, str]) -> Site:
    """The site of --config FILE, else $MQI_CONFIG, else /etc/mqi/mqi.toml. Raises Configuration, before any effect."""
    import tomllib  # noqa: PLC0415

    path = path or environ.get("MQI_CONFIG") or DEFAULT
    try:
        with open(path, "rb") as file:
            text = file.read()
        raw = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise Configuration(f"{path}: {error.strerror}: name another with --config FILE or $MQI_CONFIG, or try mqi-demo") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Configuration(f"{path}: not TOML: {error}: correct it, then mqi-check --config {path}") from None
    with open(schema_file("config"), "rb") as file:
        schema = file.read()
    site = raw.get("site")
    state = str(site.get("state", "")) if isinstance(site, dict) else ""
    kept = os.path.join(state, "cache", f"config-{sha256(text + schema).hexdigest()[:32]}")
    if not (state and os.path.exists(kept)):
        _check(path, raw, json.loads(schema))
        if os.path.isdir(os.path.dirname(kept)):
            os.close(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return _site(raw, json.loads(schema))


def schema_file(name: str) -> str:
    """A schema, from an installed package or a checkout."""
    package = os.path.dirname(os.path.dirname(__file__))
    inside = os.path.join(package, "schemas", f"{name}.schema.json")
    return inside if os.path.exists(inside) else os.path.join(os.path.dirname(package), "schemas", f"{name}.schema.json")


def _site(raw: dict[str, Any], schema: dict[str, Any]) -> Site:
    tables = schema["properties"]
    scan, job, retry = (_filled(raw.get(name, {}), tables[name]) for name in ("scan", "job", "retry"))
    scan["not_before"] = datetime.fromisoformat(scan["not_before"]).replace(tzinfo=UTC) if scan["not_before"] else None
    one = tables["hosts"]["additionalProperties"]
    hosts = tuple(HostConfig(name=name, **_filled(host, one)) for name, host in raw["hosts"].items())
    return Site(**raw["site"], scan=Scan(**scan), job=Job(**job), retry=Retry(**retry), hosts=hosts)


def _filled(raw: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the schema's defaults, durations as seconds, lists as tuples."""
    values: dict[str, Any] = {}
    for name, rule in schema["properties"].items():
        if rule.get("type") == "object" and "properties" in rule:
            values[name] = _filled(raw.get(name, {}), rule)
            continue
        value = raw.get(name, rule.get("default"))
        if rule.get("pattern") == "^[0-9]+[smhd]$":
            value = int(value[:-1]) * SECONDS[value[-1]]
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value.isoformat()[:10] if hasattr(value, "isoformat") else value
    return values


def _check(path: str, raw: dict[str, Any], schema: dict[str, Any]) -> None:
    """Every fault at once, each with the path of its key and what would be right."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    plain = json.loads(json.dumps(raw, default=lambda date: date.isoformat()[:10]))
    errors = sorted(Draft202012Validator(schema).iter_errors(plain), key=lambda error: str(list(error.absolute_path)))
    faults = [fault for error in errors for fault in _faults(error)]
    for name, host in plain.get("hosts", {}).items() if not faults else ():
        if host.get("transport", "ssh") == "ssh" and not host.get("address"):
            faults.append(f"hosts.{name}.address is missing: user@host, or a Host of ssh_config")
        if host.get("transport") != "local" and host.get("ssh_config", "").startswith("-"):
            faults.append(f"hosts.{name}.ssh_config is not a path")
    try:
        re.compile(plain.get("job", {}).get("progress", "") if not faults else "")
    except re.error as error:
        faults.append(f"job.progress is no regular expression: {error}")
    if faults:
        raise Configuration("\n  ".join([f"{path}:", *faults, f"correct it, then: mqi-check --config {path}"]))


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
