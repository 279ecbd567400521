"""Files that appear whole or not at all; and notes in <state>/health and <state>/cache: shown, deletable, never truth."""

import json
import os
from contextlib import suppress
from typing import Any

from mqi_scripts.words import Disk


def write_whole(path: str, text: bytes, *, flush: bool = True) -> None:
    """Beside, fsync, rename: a reader sees the old or the new whole. Raises Disk."""
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.rename(beside, path)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise Disk(f"{error.strerror or error}: {path!r}: make room there and run it again") from error


def sync(path: str) -> None:
    """fsync a file or a folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_note(path: str) -> dict[str, Any]:
    """The note, or {} where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            note = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def write_note(path: str, note: dict[str, Any]) -> None:
    """Best effort: a note that cannot be written stops nobody."""
    with suppress(Disk):
        write_whole(path, json.dumps(note).encode(), flush=False)
