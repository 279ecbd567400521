"""What a person, a file or the command line says of a site before it has a configuration; as the tables of mqi.toml."""

import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mqi_scripts.install import imported
from mqi_scripts.install.places import Places
from mqi_scripts.words import Configuration, Usage
from mqi_scripts.world import folder

Ask = Callable[[str], str]
TRIES = 3  # answers that cannot be right before we give up
# What mqi-init alone reads from a file of answers: account, fingerprints, and whether what is in the inbox is work.
Init = NamedTuple("Init", [("account", str), ("accept_fingerprint", list[str]), ("existing", str)])
Question = NamedTuple("Question", [("key", str), ("text", str), ("default", Any)])


def load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Configuration(f"{path}: {error}") from None


def assigned(words: Sequence[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of `--set KEY=VALUE`: a text stands as it is, else it is TOML."""
    tables: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise Usage(f"--set {word!r}: expected KEY=VALUE, for example --set site.name=G1")
        rule = imported.rule(schema, key)
        text = rule.get("type", "string") == "string"
        try:
            imported.put(tables, key, value if text else tomllib.loads(f"value = {value}")["value"])
        except tomllib.TOMLDecodeError as error:
            raise Usage(f"--set {key}: {value!r} is not TOML: {error}; for example {rule.get('examples')}") from None
    return tables


def merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """The later wins, key by key."""
    whole: dict[str, Any] = {}
    for one in tables:
        for key, value in one.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = merged(whole[key], value) if both else value
    return whole


def flat(tables: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by the path of their key."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and not name.endswith(".devices") else {name: value}
    return found


def questions(where: Places, known: Mapping[str, Any], nodename: str) -> list[Question]:
    """What a site cannot do without, in the order of asking; the defaults fit a gateway with one compute host."""
    host = next(iter(known.get("hosts", {})), "gpu1")
    local = known.get("hosts", {}).get(host, {}).get("transport") == "local"
    queue = known.get("hosts", {}).get(host, {}).get("engine", "pueue") == "pueue"
    return [
        Question("site.name", "The site's name, for reports", nodename.partition(".")[0]),
        Question("site.inbox", "The folder where cases arrive (only read)", where.inbox),
        Question("site.results", "The folder where results shall appear", where.results),
        Question("site.state", "The folder for the ledger, on a local disk", where.state),
        Question("scan.profile", "What a case is: moqui-log (plan and deliveries are checked) or files (any folder)", "moqui-log"),
        *([] if local else [
            Question(f"hosts.{host}.address", f"The compute host {host}: user@address", None),
            Question(f"hosts.{host}.port", "The port of its sshd", 22),
        ]),
        Question(f"hosts.{host}.root", "A folder there that is this gateway's alone", "/data/mqi"),
        *([] if not queue else [  # as --compute-host sets it up
            Question(f"hosts.{host}.pueue.command", "The program pueue there", "/usr/local/bin/pueue"),
            Question(f"hosts.{host}.pueue.config", "Its configuration file there", "/etc/pueue/pueue.yml"),
            Question(f"hosts.{host}.groups", "Which of its groups are the GPUs', as shell patterns (blanks between)", ["gpu*"]),
        ]),
        Question("job.command", "The command that computes a case there, from $MQI_INPUT into $MQI_OUTPUT", None),
        Question("job.results", "Which of its files come back, below $MQI_OUTPUT (blanks between)", ["Dose/*_Dose.dcm"]),
        Question("job.results_per_beam", "Of which there is one for each treatment beam", "Dose/*_Dose.dcm"),
    ]


def gather(known: dict[str, Any], where: Places, schema: Mapping[str, Any], existing: str, ask: Ask | None) -> dict[str, Any]:
    """All tables of a configuration: what is known and what is asked. Where nobody is asked, a key that was not named has the
    schema's default, as in any mqi.toml; one that has none there has the question's. Raises Usage for what nobody said."""
    tables = merged(known)
    for question in questions(where, known, os.uname().nodename):
        said = flat(tables)
        if question.key in said or (question.key == "job.results_per_beam" and said.get("scan.profile") != "moqui-log"):
            continue
        value, rule = question.default, imported.rule(schema, question.key)
        if ask:
            value = answer(question, rule, ask)
        elif value is not None and "default" in rule:
            continue
        elif value is None:
            raise Usage(f"{question.key} has no default: --set {question.key}=..., or a file with --answers. {question.text}")
        imported.put(tables, question.key, value)
    for name, host in tables["hosts"].items():
        if host.get("transport") != "local" and not host.get("ssh_config"):
            host.setdefault("identity", f"{where.etc}/ssh/id_ed25519")
            host.setdefault("known_hosts", f"{where.etc}/known_hosts")
        tables["hosts"][name] = host
    if "not_before" not in tables.get("scan", {}) and is_history(tables, existing, ask):
        imported.put(tables, "scan.not_before", f"{datetime.now(UTC):%Y-%m-%d}")
    return tables


def answer(question: Question, rule: Mapping[str, Any], ask: Ask) -> Any:
    """One answer that the schema takes."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    shown = " ".join(question.default) if isinstance(question.default, list) else question.default
    for _ in range(TRIES):
        said = ask(f"{question.text}{f' [{shown}]' if shown else ''}: ").strip()
        value: Any = said or question.default
        if said and rule.get("type") == "array":
            value = said.split()
        if said.isdigit() and rule.get("type") == "integer":
            value = int(said)
        errors = [*Draft202012Validator(rule).iter_errors(value)] if value is not None else ["it has no default"]
        if not errors:
            return value
        sys.stdout.write(f"  {value!r} cannot be: {getattr(errors[0], 'message', errors[0])[:200]}\n")
    raise Usage(f"{question.key}: no answer that can be. Nothing was done; run mqi-init again")


def is_history(tables: Mapping[str, Any], existing: str, ask: Ask | None) -> bool:
    """Whether the folders that are in the inbox already are history, which is held and can be released, or work to do."""
    count = waiting(tables["site"]["inbox"], tables.get("scan", {}).get("cases", "*"))
    if not count or existing:
        return bool(count) and existing == "history"
    if not ask:
        raise Usage(f"{count} folders are in {tables['site']['inbox']} already: are they --existing work or --existing history?")
    sys.stdout.write(
        f"{count} folders are in {tables['site']['inbox']} already. `work`: they are computed. `history`: those whose newest file\n"
        "is older than today are held as `before start`: shown in the report, and computed when scan.not_before is taken away.\n"
    )
    for _ in range(TRIES):
        said = ask("Are they work or history? [history]: ").strip() or "history"
        if said in ("work", "history"):
            return said == "history"
    raise Usage("neither work nor history. Nothing was done; run mqi-init again")


def waiting(inbox: str, cases: str) -> int:
    try:
        return len(folder.candidates(inbox, cases, ()))
    except OSError:
        return 0
