"""A site's mqi.toml from the schema: every key with what it is and its default, those that were answered in force."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

HEAD = """\
# The configuration of this site. Lines with #key show the default: take the # away to change it. Durations are 0s, 90s, 15m,
# 24h, 30d. A misspelt key is an error that names it, before anything is done. After a change: mqi-check, and mqi-init where
# a folder or an address changed (the units know them).
"""


def text(schema: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """values: tables of the file as TOML would give them; each of its hosts gets a table."""
    lines = [HEAD.rstrip("\n")]
    for name, rule in schema["properties"].items():
        if "properties" in rule:
            lines += _table(name, rule, values.get(name, {}))
        else:
            for one, inside in values.get(name, {}).items():
                lines += _table(f"{name}.{one}", rule["additionalProperties"], inside)
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {literal(one)}" for key, one in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _table(name: str, rule: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", *_comment(rule["description"]), f"[{name}]")
    for key, one in rule["properties"].items():
        if "properties" in one:
            continue
        hint = f" For example {literal(one['examples'][0])}." if one.get("examples") else ""
        yield from _comment(one["description"] + (hint if one.get("default") != one.get("examples", [None])[0] else ""))
        if key in values:
            yield f"{key} = {literal(values[key])}"
        elif key in rule.get("required", ()):
            yield f"#{key} = {literal(one['examples'][0])}"
        else:
            yield f"#{key} = {literal(one.get('default', {}))}"
    for key, one in rule["properties"].items():
        if "properties" in one:
            yield from _table(f"{name}.{key}", one, values.get(key, {}))


def _comment(words: str) -> list[str]:
    return textwrap.wrap(words, 124, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False)
