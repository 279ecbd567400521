"""Man pages, made of the programs' parsers and the configuration's schema: there is no second source to keep."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mqi_scripts import __version__
from mqi_scripts.install.programs import Item, Program, programs
from mqi_scripts.install.sample import literal
from mqi_scripts.install.things import MARK, File
from mqi_scripts.world.config import schema_file

EXITS = (
    (0, "done, nothing to do, or nothing wrong found"), (1, "some cases, or warnings, need a person"), (2, "usage"),
    (65, "the ledger, or an input, is damaged"), (69, "a host, a queue or a mount is unreachable"), (70, "a bug"),
    (74, "a disk is full, or fsync failed"), (75, "another run holds the lock"), (78, "configuration"),
    (130, "stopped with Ctrl-C"),
)  # fmt: skip


def files(share: str) -> list[File]:
    """Every page, for the folder `share`."""
    with open(schema_file("config"), encoding="utf-8") as file:
        schema = json.load(file)
    known = programs()
    names = [program.name for program in known]
    pages = [File(f"{share}/man/man1/{one.name}.1", man(one, names)) for one in known]
    return [*pages, File(f"{share}/man/man5/mqi.toml.5", man_of_configuration(schema, names))]


def man(program: Program, known: Sequence[str]) -> str:
    about, _, examples = (program.parse.epilog or "").partition("examples:\n")
    lines = [f'.\\" {MARK}', f'.TH {program.name.upper()} 1 "" "mqi {__version__}" "MQI Communicator"', ".SH NAME"]
    lines += [f"{roff(program.name)} \\- {roff(program.parse.description or '')}", ".SH SYNOPSIS"]
    usage = " ".join(program.parse.format_usage().removeprefix("usage: ").split())
    lines += [roff(usage)]
    if about.strip():
        lines += [".SH DESCRIPTION", *_paragraphs(about)]
    lines += [".SH OPTIONS", *_options(program.commands[0].items)]
    if program.commands[1:]:
        lines += [".SH COMMANDS"]
        for one in program.commands[1:]:
            lines += [".SS " + roff(one.command), roff(one.about), *_options(one.items)]
    lines += [".SH EXAMPLES"]
    for line in examples.splitlines():
        command, _, what = line.strip().partition("  ")
        lines += [".TP", f"\\fB{roff(command)}\\fR", roff(what.strip()) or "\\&"]
    lines += [".SH EXIT STATUS"]
    for code, what in EXITS:
        lines += [".TP", f".B {code}", roff(what)]
    lines += [".SH FILES", ".TP", ".I /etc/mqi/mqi.toml", "the configuration of the site, else the one that $MQI_CONFIG or "
              "\\-\\-config names"]  # fmt: skip
    return "\n".join([*lines, *_others(program.name, known)]) + "\n"


def man_of_configuration(schema: Mapping[str, Any], known: Sequence[str]) -> str:
    lines = [f'.\\" {MARK}', f'.TH MQI.TOML 5 "" "mqi {__version__}" "MQI Communicator"', ".SH NAME"]
    lines += ["mqi.toml \\- the configuration of a site", ".SH DESCRIPTION", *_paragraphs(str(schema["description"]))]
    for name, rule in schema["properties"].items():
        inside = rule if "properties" in rule else rule["additionalProperties"]
        lines += _table(name if inside is rule else f"{name}.NAME", inside)
    return "\n".join([*lines, *_others("", known)]) + "\n"


def _table(name: str, rule: Mapping[str, Any]) -> Iterator[str]:
    yield from (f".SH [{roff(name)}]", roff(rule["description"]))
    for key, one in rule["properties"].items():
        if "properties" not in one:
            default = "needed" if key in rule.get("required", ()) else f"default {literal(one.get('default', {}))}"
            example = f" For example: {literal(one['examples'][0])}" if one.get("examples") else ""
            yield from (".TP", f".BR {roff(key)} \" ({roff(default, quoted=True)})\"", roff(one["description"] + example))
    for key, one in rule["properties"].items():
        if "properties" in one:
            yield from _table(f"{name}.{key}", one)


def _options(items: Sequence[Item]) -> Iterator[str]:
    for item in items:
        takes = f" \\fI{roff(item.takes)}\\fR" if item.flags and item.takes else ""
        words = f" One of: {', '.join(item.words)}." if item.words and not item.many else ""
        name = ", ".join(map(roff, item.flags)) or roff(item.takes)
        yield from (".TP", f"\\fB{name}\\fR{takes}", roff(item.help + words) or "\\&")


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield from (roff(line.strip()) for line in paragraph.splitlines())


def _others(name: str, known: Sequence[str]) -> list[str]:
    pages = [*(f"{one}(1)" for one in known if one != name), *(["mqi.toml(5)"] if name else [])]
    return [".SH SEE ALSO", roff(", ".join(pages))]


def roff(text: str, *, quoted: bool = False) -> str:
    """Text as it stands, for man: none of its own signs has a meaning there."""
    signs = {"\\": "\\e", "-": "\\-", "`": "\\(ga", "'": "\\(aq", "^": "\\(ha", "~": "\\(ti"} | ({'"': "\\(dq"} if quoted else {})
    plain = "".join(signs.get(one, one) for one in text)
    return f"\\&{plain}" if plain.startswith(".") else plain
