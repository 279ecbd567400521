"""DICOM files by pydicom: the tags that are asked for and how long the file should be; values never reach stderr or a log."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

UNDEFINED = 0xFFFFFFFF  # a length
PIXELS = 0x7FE00010


class Unreadable(Exception):
    """The bytes are no DICOM, or not all of it; says nothing of what they are."""


# The last element that was read at a file's top level: by its length one sees that the file is cut, pydicom does not say so.
Last = NamedTuple("Last", [("tag", int), ("start", int), ("length", int)])


@contextmanager
def reading() -> Iterator[None]:
    """For reading a file and taking its values, which pydicom converts late: silent, and Unreadable whatever goes wrong.
    An OSError of the system is raised as it is: pydicom's own have no errno."""
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            logging.getLogger("pydicom").setLevel(logging.CRITICAL)
            yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise Unreadable from None
    except (InvalidDicomError, BytesLengthException, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError,
            NotImplementedError, RecursionError, MemoryError, struct.error, zlib.error):  # fmt: skip  # as seen on damaged bytes
        raise Unreadable from None


def dataset(file: BinaryIO, tags: Sequence[str], *, dose: bool) -> tuple[Dataset, Last]:
    """The tags of a file, of a dose up to its pixels, and its last element. Within `reading` only."""
    last = Last(0, 0, UNDEFINED)

    def note(tag: int, _vr: str | None, length: int) -> bool:
        nonlocal last
        last = Last(tag, file.tell(), length)
        return dose and tag == PIXELS

    data = read_partial(file, note, force=dose, specific_tags=[Tag(tag) for tag in tags])
    inflated = data.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian  # elsewhere; zlib found it whole
    return data, last._replace(length=UNDEFINED) if inflated else last


def text(data: Dataset, tag: str) -> str:
    value = data.get(tag)
    return "" if value is None else str(value).strip()
