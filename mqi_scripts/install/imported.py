"""A predecessor's YAML configuration, key by key: what each becomes here, or that nothing does.

Nothing is guessed beyond names: a value that this configuration would refuse is not taken over.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mqi_scripts.words import Configuration

HOST = "gpu1"  # the predecessor knew one compute host
Step = NamedTuple("Step", [("old", str), ("new", str), ("value", Any), ("what", str)])  # new "": not taken over; what: a sentence
SECRET = re.compile(r"pass|secret|token|pwd", re.I)
PLACE = r"_?(dir(ectory)?|path|folder)"
FAR = r"(hpc|remote|ssh|compute|gpu|server|connection)"
# a plausible name, matched with the end of a key's path (parts joined by dots, lower case); what it is here; the value's unit
NAMES = (
    (rf"(local_)?(logdata|inbox|input|scan|watch|source|incoming|case|log|base){PLACE}|inbox", "site.inbox", ""),
    (rf"(local_)?(results?|output|dose|raw|final_dicom|dest(ination)?){PLACE}|results", "site.results", ""),
    (r"site(_?name)?|site\.name|facility|institution", "site.name", ""),
    (r"(scan|watch|detect)\w*\.?.*(quiet|stable|stability|quiescen|settle)\w*", "scan.quiet", "duration"),
    (r"(quiescence|quiet|stability)_\w+", "scan.quiet", "duration"),
    (r"ready_?(marker|file|flag)\w*", "scan.ready_marker", ""),
    (r"(ignore|exclude)\w*", "scan.ignore", ""),
    (rf"({FAR}\w*\.)+(host(name)?|address|ip|server)|{FAR}_host(name)?", "address", ""),
    (rf"({FAR}\w*\.)+(user(name)?|login)|{FAR}_user(name)?", "user", ""),
    (rf"({FAR}\w*\.)+port|ssh_port", f"hosts.{HOST}.port", "number"),
    (r".*(ssh_?key|key_?file|key_?path|identity|private_key)(_?(path|file))?", f"hosts.{HOST}.identity", ""),
    (r".*known_hosts\w*", f"hosts.{HOST}.known_hosts", ""),
    (rf"{FAR}\w*[._](.*[._])?(root|base|work|working|case|upload|staging|input){PLACE}\w*", f"hosts.{HOST}.root", ""),
    (r".*pueue(\.|_)(command|cmd|binary|path|executable|bin)", f"hosts.{HOST}.pueue.command", ""),
    (r".*pueue(\.|_)(config|conf)(_?(path|file))?", f"hosts.{HOST}.pueue.config", ""),
    (r".*pueue.*groups?|.*gpu_?groups", f"hosts.{HOST}.groups", "list"),
    (r".*(job|simulation|moqui|moqui_tps|compute|main)_?(command|cmd)|command_template", "job.command", ""),
    (r".*(job|simulation|case|processing|task|execution)_?(timeout|time_limit|max_runtime)\w*", "job.time_limit", "duration"),
    (r".*max_?retries|.*retry(_?(attempts|count|limit)|\.max\w*)", "retry.interrupted", "number"),
)
# what there is no key for, and why
WITHOUT = (
    (r".*(interval|sleep)\w*", "the timers say how often: systemctl edit mqi-scan.timer"),
    (r".*(database|db|sqlite)\w*.*", "there is no database: the ledger is below site.state"),
    (r".*log(ging)?(_|\.)?(level|file|dir|path|format|max|backup)\w*.*", "its place is the journal: journalctl -u 'mqi@*'"),
    (r".*gpus?(\.|_).*|.*(gpu_count|num_gpus)", "slots and groups are asked from the queue; see also hosts.X.devices"),
    (r".*dashboard.*|.*(web|http|ui)_?port|.*display.*", "there is no dashboard here: see mqi-report"),
)
UNITS = (("minutes", 60), ("_min", 60), ("hours", 3600), ("days", 86400), ("ms", 0.001))


def load(path: str) -> Any:
    """The file's content. Raises Configuration."""
    import yaml  # noqa: PLC0415

    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Configuration(f"{path}: {error}") from None


def steps(content: Any, schema: Mapping[str, Any]) -> list[Step]:
    """What became of every key, in the file's order."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    made: list[Step] = []
    for old, value in _leaves(content, ""):
        new, unit = _match(old)
        if SECRET.search(old):
            made.append(Step(old, "", None, "not taken over: a password is not needed, the programs have a key of their own"))
        elif not new:
            why = next((why for pattern, why in WITHOUT if re.fullmatch(pattern, old.lower())), "nothing known here is its like")
            made.append(Step(old, "", None, f"not taken over: {why}"))
        elif first := next((step.old for step in made if step.new == new), ""):
            made.append(Step(old, "", None, f"not taken over: {first} gave {_shown(new)} already"))
        else:
            fitting = _converted(value, unit, old)
            errors = [*Draft202012Validator(rule(schema, _shown(new))).iter_errors(fitting)]
            what = f"{_shown(new)} = {json.dumps(fitting, default=str)[:200]}"
            bad = f"not taken over: it would be {what}, but {errors[0].message[:200]}" if errors else ""
            made.append(Step(old, "" if errors else new, fitting, bad or what))
    return made


def values(made: list[Step]) -> dict[str, Any]:
    """What was taken over, as tables of mqi.toml; user and address become one."""
    tables: dict[str, Any] = {}
    found = {step.new: step.value for step in made if step.new}
    user, address = found.pop("user", ""), found.pop("address", "")
    if address:
        found[f"hosts.{HOST}.address"] = f"{user}@{address}" if user and "@" not in address else address
    for name, value in found.items():
        put(tables, name, value)
    return tables


def put(tables: dict[str, Any], name: str, value: Any) -> None:
    *above, last = name.split(".")
    for part in above:
        tables = tables.setdefault(part, {})
    tables[last] = value


def rule(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the schema says of a key, by its path. Raises Configuration if there is no such key."""
    one = schema
    for part in name.split("."):
        inside = one.get("properties", {}).get(part) or one.get("additionalProperties")
        if not isinstance(inside, dict):
            raise Configuration(f"{name} is no key of the configuration: see docs/configuration.md")
        one = inside
    return one


def _shown(new: str) -> str:
    return f"hosts.{HOST}.address" if new in ("user", "address") else new


def _match(old: str) -> tuple[str, str]:
    """The key here and the unit of its value; the longest tail of the old key's path that a name fits."""
    parts = old.lower().replace("-", "_").split(".")
    for start in range(len(parts)):
        for pattern, new, unit in NAMES:
            if re.fullmatch(pattern, ".".join(parts[start:])):
                return new, unit
    return "", ""


def _converted(value: Any, unit: str, old: str) -> Any:
    """The value as it stands here: a number of seconds is a duration, one word a list of one."""
    if unit == "duration" and isinstance(value, int | float) and not isinstance(value, bool):
        factor = next((factor for word, factor in UNITS if word in old.lower()), 1)
        return f"{max(round(value * factor), 0)}s"
    if unit == "number" and isinstance(value, str) and value.isdigit():
        return int(value)
    return [value] if unit == "list" and isinstance(value, str) else value


def _leaves(content: Any, above: str) -> Iterator[tuple[str, Any]]:
    """Every value with the path of its key; lists of plain values are one value."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, f"{above}.{key}" if above else str(key))
    elif isinstance(content, list) and any(isinstance(one, Mapping | list) for one in content):
        for number, value in enumerate(content):
            yield from _leaves(value, f"{above}.{number}" if above else str(number))
    elif above or content is not None:
        yield above or "(the whole file)", content
