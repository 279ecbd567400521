"""The profile `files`: a case is the files of its folder; nothing is known of what they mean."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mqi_scripts.profiles import Checked, Content
from mqi_scripts.world import config, folder


def read(
    top: int, seen: folder.Folder, folder_name: str, scan: config.Scan, salt: str, chosen: Sequence[str],
    known: Callable[[str], bool],
) -> list[Content]:  # fmt: skip
    """All of them, without a reason against it."""
    return [Content("", tuple(sorted(seen.sizes)), (), (), {})]


def results(facts: Mapping[str, Any], per_beam: str, listed: Sequence[str], paths: Mapping[str, str]) -> Checked:
    """Nothing is wrong that the digests do not show."""
    text = "what the results should hold: the profile `files` does not know it, only that each is there and verified"
    return Checked((), {}, (), (text,))
