"""Notes in <state>/health and <state>/cache: shown, deletable, never truth."""

from __future__ import annotations

import json
import os
from typing import Any


def read(path: str) -> dict[str, Any]:
    """The note, or {} where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            note = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def write(path: str, note: dict[str, Any]) -> None:
    """Best effort: a note that cannot be written stops nobody."""
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as file:
            json.dump(note, file)
        os.rename(beside, path)
    except OSError:
        return
