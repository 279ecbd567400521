"""What a case's content means: one module a kind of case, `files` and `moqui-log`, behind one face."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mqi_scripts.words import Configuration, Reason
from mqi_scripts.world import config, folder


class Content(NamedTuple):
    """One case in a folder, as its profile reads it.

    part: "" if the folder is the case, else the delivery below it that names a case of its own (a fraction). names: files that
    belong to it and travel, sorted, relative to the folder. left: deliveries that are not part of it, sorted. reasons: why it
    must not be computed. facts: JSON, kept in the ledger: what results to expect, and remarks.
    """

    part: str
    names: tuple[str, ...]
    left: tuple[str, ...]
    reasons: tuple[Reason, ...]
    facts: dict[str, Any]


class Checked(NamedTuple):
    """What a profile says of an attempt's results.

    wrong: name of a result ("" for one that is not there) and a sentence that names the file or the beam. beams: the beam's name
    by result. checked, unchecked: sentences for the record.
    """

    wrong: tuple[tuple[str, str], ...]
    beams: dict[str, str]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]


class Profile(Protocol):
    """The face of a profile's module."""

    def read(
        self, top: int, seen: folder.Folder, folder_name: str, scan: config.Scan, salt: str, chosen: Sequence[str],
        known: Callable[[str], bool],
    ) -> list[Content]:  # fmt: skip
        """The cases in a folder; top: its descriptor, folder_name: the last component of its path, salt: for hashes of ids.

        chosen: deliveries that a person chose, only these are judged and travel; none: no choice was made. known(part): the
        ledger knows a case of that part. Bad data is a reason; raises Unreachable only where a file went or changed meanwhile.
        """

    def results(self, facts: Mapping[str, Any], per_beam: str, listed: Sequence[str], paths: Mapping[str, str]) -> Checked:
        """facts: of the case's Content. per_beam: the glob of dose files, "" if none is demanded. listed: every name in the
        wrapper's manifest. paths: the verified copy here of each result that came back."""


def missing(profile: str) -> str:
    """What the profile lacks on this machine, with the command that helps; "" if nothing. Cheap: imports nothing."""
    if profile != "moqui-log":
        return ""
    from importlib.util import find_spec  # noqa: PLC0415  # a tick under another profile does without

    if find_spec("pydicom"):
        return ""
    return f"scan.profile = \"{profile}\" needs pydicom: {sys.executable} -m pip install 'mqi[dicom]'"


def named(profile: str) -> Profile:
    """The module of a profile, imported only now. Raises Configuration where it lacks something."""
    if trouble := missing(profile):
        raise Configuration(trouble)
    if profile == "moqui-log":
        from mqi_scripts.profiles import moqui_log  # noqa: PLC0415

        return moqui_log
    from mqi_scripts.profiles import files  # noqa: PLC0415

    return files
