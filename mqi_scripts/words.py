"""The words of the suite: case, event, attempt, task, group, and the errors. Immutable values only."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

HELD, FOUND, PUSHED, SUBMITTED, RUNNING = "held", "found", "pushed", "submitted", "running"
COMPUTED, COMPLETED, FAILED, CANCELLED = "computed", "completed", "failed", "cancelled"
STATUSES = (HELD, FOUND, PUSHED, SUBMITTED, RUNNING, COMPUTED, COMPLETED, FAILED, CANCELLED)
CLOSED = (COMPLETED, CANCELLED)  # no tick has anything to do for these
PERSON = (HELD, FAILED)  # these wait for a person, or for more data
TOP = 9  # priorities are 0 to TOP, the higher the sooner
NEVER_STARTS = "never starts"  # a reason's code
CANCEL, HOLD = "cancel", "hold"  # what a person can ask for that takes its time
ID = 12  # hex digits of a key that people type and reports show


class Failure(Exception):
    """An expected trouble: its text names the thing, the reason and the next command; `code` is the exit code.

    host: the compute host that is to be left alone for it, if any. until: when that host is tried again, or what must change first.
    """

    code = 70
    category = "system"
    host = ""
    until = ""

    def of(self, host: str, category: str = "") -> Self:
        self.host, self.category = host, category or self.category
        return self


class Usage(Failure):
    code = 2


class Damaged(Failure):
    """The ledger, or an input, is not what it was."""

    code = 65


class Unreachable(Failure):
    """A host, a queue or a mount does not answer: all that is there is unknown."""

    code = 69
    category = "network"


class Disk(Failure):
    code = 74


class Busy(Failure):
    code = 75


class Configuration(Failure):
    code = 78
    category = "config"


class Illegal(Exception):
    """An event that cannot follow the case's story: the world moved between look and append."""

    def __str__(self) -> str:
        case, event = self.args
        return f"{type(event).__name__.lower()} of {event.case[:ID]}, which is {case.status if case else 'unknown'} now"


NONE: Mapping[str, Any] = {}

# Why a case is held: a code of one or two words, the place inside the case, a sentence.
Reason = NamedTuple("Reason", [("code", str), ("place", str), ("text", str)])

# Events: past tense, stored. Every one has `case`, the key ("" where it is the ledger's own), and `at`, UTC as ISO 8601 with
# milliseconds and Z, which sorts as text. A new field comes with a default and never changes meaning; a digest is one of a
# manifest. One line each: this is a vocabulary.
Opened = NamedTuple("Opened", [("case", str), ("at", str), ("id", str)])  # the ledger was made; `id` salts every key
Rooted = NamedTuple("Rooted", [("case", str), ("at", str), ("host", str), ("root", str)])  # a root is used for the first time
# a person lets cases go to a group again in which one after the other had failed
Reopened = NamedTuple("Reopened", [("case", str), ("at", str), ("host", str), ("group", str), ("reason", str), ("who", str)])


class Found(NamedTuple):
    """A quiet folder without fault. part: the folder below the case's that names it, where one holds several cases.
    facts: what its profile tells of the content, JSON."""

    case: str
    at: str
    path: str
    digest: str
    files: int
    bytes: int
    part: str = ""
    facts: Mapping[str, Any] = NONE


class Held(NamedTuple):
    """It waits for a person, or for more data."""

    case: str
    at: str
    path: str
    reasons: tuple[Reason, ...]
    part: str = ""


class Released(NamedTuple):
    """What held it is gone."""

    case: str
    at: str
    digest: str
    files: int
    bytes: int
    why: str
    facts: Mapping[str, Any] = NONE


class Changed(NamedTuple):
    """New content before the job began, or to be computed after it; with reasons, it is held once no attempt is out."""

    case: str
    at: str
    digest: str
    files: int
    bytes: int
    what: str
    facts: Mapping[str, Any] = NONE
    reasons: tuple[Reason, ...] = ()


class Failed(NamedTuple):
    """category: network, system, config or application; exit -1: there was none; tail: the end of its log; manifest: digest of
    its output's, if there is one; retry: whether the same once more can help."""

    case: str
    at: str
    attempt: int
    reason: str
    category: str
    phase: str
    exit: int
    tail: str
    manifest: str = ""
    retry: bool = False


class Recovered(NamedTuple):
    """An attempt that the ledger did not know, seen on its host or in a result's record. digest "": nobody tells its input."""

    case: str
    at: str
    path: str
    attempt: int
    digest: str
    host: str
    group: str
    part: str = ""
    facts: Mapping[str, Any] = NONE


# a person said which parts of the folder count
Chosen = NamedTuple("Chosen", [("case", str), ("at", str), ("parts", tuple[str, ...]), ("reason", str), ("who", str)])
# a person asked to cancel or hold it (done once no attempt of it is out); took back what is not done, a hold, *never starts*
Asked = NamedTuple("Asked", [("case", str), ("at", str), ("what", str), ("reason", str), ("who", str)])
Lifted = NamedTuple("Lifted", [("case", str), ("at", str), ("reason", str), ("who", str)])
# a person wants a new attempt; host_is_gone: whatever of the old one is on its host is given up, and nobody looks at it again
Retried = NamedTuple("Retried", [("case", str), ("at", str), ("reason", str), ("who", str), ("host_is_gone", bool)])
Noted = NamedTuple("Noted", [("case", str), ("at", str), ("reason", str), ("who", str)])
# what verified of a failed attempt was brought here, marked as partial
Salvaged = NamedTuple("Salvaged", [("case", str), ("at", str), ("attempt", int), ("files", int), ("bytes", int)])
# new content after the job began (the result stays, marked); the source folder vanished; is there again
Stale = NamedTuple("Stale", [("case", str), ("at", str), ("digest", str), ("what", str)])
Gone = NamedTuple("Gone", [("case", str), ("at", str)])
Back = NamedTuple("Back", [("case", str), ("at", str)])
# input published on the host, every byte verified there
Pushed = NamedTuple("Pushed", [("case", str), ("at", str), ("host", str), ("digest", str)])
# the intent, before the far side is asked to add the attempt; then its folder or task was seen (task "": no task yet)
Submitting = NamedTuple("Submitting", [
    ("case", str), ("at", str), ("attempt", int), ("digest", str), ("host", str), ("group", str),
])  # fmt: skip
Submitted = NamedTuple("Submitted", [("case", str), ("at", str), ("attempt", int), ("group", str), ("task", str)])
# a first look shows neither task nor process (a second decides); the claim is the link `revoked`: it can never start
Missing = NamedTuple("Missing", [("case", str), ("at", str), ("attempt", int)])
Revoked = NamedTuple("Revoked", [("case", str), ("at", str), ("attempt", int)])
# the claim was seen (since: the wrapper's clock); the job exited 0 (manifest: digest of its output's)
Started = NamedTuple("Started", [
    ("case", str), ("at", str), ("attempt", int), ("group", str), ("slot", str), ("task", str), ("since", str),
])  # fmt: skip
Succeeded = NamedTuple("Succeeded", [
    ("case", str), ("at", str), ("attempt", int), ("manifest", str), ("started", str), ("ended", str),
])  # fmt: skip
# it began and was cut off without a verdict (a new attempt follows); the job of an asked cancel was seen gone
Interrupted = NamedTuple("Interrupted", [("case", str), ("at", str), ("attempt", int), ("reason", str)])
Cancelled = NamedTuple("Cancelled", [("case", str), ("at", str), ("attempt", int)])
# every result was verified on the gateway and stands under its final name
Completed = NamedTuple("Completed", [
    ("case", str), ("at", str), ("attempt", int), ("digest", str), ("files", int), ("bytes", int),
])  # fmt: skip
# what it had of input and output on that host is not there any more: mqi-clean removed so many bytes, or mqi-submit found none
Cleaned = NamedTuple("Cleaned", [("case", str), ("at", str), ("attempt", int), ("host", str), ("bytes", int)])
# an operator said how urgent it is, 0 to TOP
Prioritized = NamedTuple("Prioritized", [("case", str), ("at", str), ("priority", int), ("reason", str)])
# the ledger was mended: both digests where a file was replaced
Repaired = NamedTuple("Repaired", [("case", str), ("at", str), ("what", str), ("old", str), ("new", str)])
# lines are missing: this one has the number of the last of them, and the line behind it follows their `digest`, not its own
Lost = NamedTuple("Lost", [("case", str), ("at", str), ("upto", int), ("digest", str), ("why", str)])

Event = (
    Opened | Rooted | Found | Held | Released | Changed | Stale | Gone | Back | Pushed | Submitting | Submitted
    | Missing | Revoked | Started | Succeeded | Failed | Interrupted | Cancelled | Completed | Repaired | Chosen | Salvaged
    | Prioritized | Asked | Lifted | Retried | Noted | Recovered | Lost | Reopened | Cleaned
)  # fmt: skip


class Case(NamedTuple):
    """A case as the ledger tells it; times are the text of the events.

    attempt: the newest one, 0 before the first. intent: `submitting` is recorded, nothing was seen of it yet.
    open: the attempt may still run or start. missing: the last look showed no sign of life. strikes: revoked attempts
    in a row whose task was shown. interruptions: interrupted attempts of this input. pending: new content that waits
    for the attempt's revocation. digest: content of the current input, facts: its profile's. part: see Found. chosen: the
    parts of the folder that a person chose. decisions: of persons, as (when, who, what). salvaged: what verified of the
    failed attempt is here. retry: whether the same once more can help. priority: 0 to TOP. asked: what a person asked for, who
    and why; a hold stays here until it is lifted, and the line leaves the case alone meanwhile. cleaned: its host has no input or
    output of it any more.
    """

    key: str
    path: str
    status: str
    since: str
    found: str
    digest: str = ""
    files: int = 0
    bytes: int = 0
    host: str = ""
    group: str = ""
    task: str = ""
    attempt: int = 0
    intent: bool = False
    open: bool = False
    missing: bool = False
    strikes: int = 0
    interruptions: int = 0
    pending: Changed | None = None
    manifest: str = ""
    reason: str = ""
    category: str = ""
    reasons: tuple[Reason, ...] = ()
    stale: str = ""
    stale_digest: str = ""
    gone: bool = False
    exit: int = -1
    submitted: str = ""
    started: str = ""
    ended: str = ""
    completed: str = ""
    result: str = ""
    part: str = ""
    facts: Mapping[str, Any] = NONE
    chosen: tuple[str, ...] = ()
    decisions: tuple[tuple[str, str, str], ...] = ()
    salvaged: bool = False
    retry: bool = False
    priority: int = 5
    asked: tuple[str, ...] = ()
    cleaned: bool = False

    @property
    def folder(self) -> str:
        """Its source, relative to the inbox."""
        return self.path.removesuffix(f"/{self.part}") if self.part else self.path

    @property
    def id(self) -> str:
        return self.key[:ID]

    @property
    def unwanted(self) -> bool:
        """A person asked to cancel it, and an attempt of it is still out."""
        return self.asked[:1] == (CANCEL,)

    @property
    def label(self) -> str:
        """The newest attempt's job label."""
        return f"mqi1:{self.key}:{self.attempt}"


# The ledger's last line.
Head = NamedTuple("Head", [("seq", int), ("digest", str)])

# What a look at a compute host shows.

# A task of the queue. state: waiting, running, ended or unknown (a word this suite does not know).
Task = NamedTuple("Task", [("id", str), ("label", str), ("group", str), ("state", str)])
# A group of the queue. slots 0: unlimited. running: it starts tasks.
Group = NamedTuple("Group", [("name", str), ("slots", int), ("running", bool)])


# An attempt's folder. claim: none, begun, revoked or strange. held: the case's lock is held. alive: a process of the recorded
# group lives under the same boot id. status, result: the wrapper's words. ending: why somebody ended the job, "" if nobody
# did. tail: the end of job.log. digest: of the input that the attempt was made of, "" where it was only ever revoked.
Trace = NamedTuple("Trace", [
    ("folder", bool), ("claim", str), ("held", bool), ("alive", bool), ("status", Mapping[str, str]),
    ("result", Mapping[str, str]), ("ending", str), ("tail", str), ("digest", str),
])  # fmt: skip
# One look at a host. traces by label: complete for what was asked. tasks None: the queue did not say (trouble tells why), so
# all tasks are unknown. notes: what the far side had to say besides.
Look = NamedTuple("Look", [
    ("traces", Mapping[str, Trace]), ("tasks", tuple[Task, ...] | None), ("groups", tuple[Group, ...]), ("trouble", str),
    ("notes", tuple[str, ...]),
])  # fmt: skip
