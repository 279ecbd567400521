"""docs/configuration.md is made of the schema: `python tests/configuration.py` writes it; a test compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
HEAD = """# The configuration

One TOML file: `--config FILE`, else `$MQI_CONFIG`, else `/etc/mqi/mqi.toml`. Durations are `0s`, `90s`, `15m`, `24h`, `30d`. A key that is
misspelt or of the wrong kind is an error that names it, before anything is done; `mqi-check --config FILE` tries a file
that is not in use yet. This page is made of `schemas/config.schema.json`.
"""


def page(schema: dict[str, Any]) -> str:
    text = HEAD
    for name, rule in schema["properties"].items():
        inside = rule["additionalProperties"] if name == "hosts" else rule
        text += table(f"{name}.<name>" if name == "hosts" else name, inside)
    return text


def table(name: str, rule: dict[str, Any]) -> str:
    text = f"\n## `[{name}]`\n\n{rule['description']}\n\n| key | default | what it is | example |\n|---|---|---|---|\n"
    deeper = ""
    for key, one in rule["properties"].items():
        if "properties" in one:
            deeper += table(f"{name}.{key}", one)
            continue
        default = "needed" if key in rule.get("required", ()) else shown(one.get("default", {}))
        example = " ".join(shown(example) for example in one.get("examples", []))
        text += f"| `{key}` | {default} | {one['description']} | {example} |\n"
    return text + deeper


def shown(value: Any) -> str:
    return "" if value in ("", {}) else f"`{json.dumps(value)}`".replace("|", "\\|")


if __name__ == "__main__":
    made = page(json.loads((REPO / "schemas" / "config.schema.json").read_text()))
    (REPO / "docs" / "configuration.md").write_text(made)
    sys.stdout.write("docs/configuration.md is written\n")
