"""The engine's data: where one request stands (a row of a segment), lanes, jobs, and the records that go to disk.

Owns shapes and the transition table. Requests live in columns of a segment, not in objects of their own; a *place* (an
int) names one row. Bodies pass through as opaque bytes. Records evolve by defaulted fields at the end only.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from itertools import accumulate
from typing import Final, Literal, TypeAlias

import msgspec

from carpool.settings import Route
from carpool.types import BatchJob, Kind, ServerError

ROW_BITS: Final = 20
ROW_MASK: Final = (1 << ROW_BITS) - 1
ROWS_MAX: Final = 1 << ROW_BITS
DIGEST_BYTES: Final = 16
NEVER: Final = float("inf")
FORMAT: Final = 2
"""Of the records: 2 has routes and accounts; what 1 did not have has defaults."""
_LOOPBACK: Final = re.compile(r"^(https?://(?:localhost|127(?:\.[0-9]+){3}|\[::1\])):[0-9]+")
UNKNOWN_DIGEST: Final = bytes(DIGEST_BYTES)
"""Of a stored answer whose request this store does not know: it fits whatever is asked under its key."""

Place: TypeAlias = int
"""Segment number shifted left by ROW_BITS, or'ed with the row."""

Span: TypeAlias = tuple[int, int, int]
"""Segment number, first row, row after the last."""

# Flags of a row, on disk.
EXPLICIT: Final = 1
"""The caller named the key: the result is stored and the request goes on after a crash."""
TICKET: Final = 2
"""Submitted: nobody has to wait for it."""
NAMED: Final = frozenset({EXPLICIT, EXPLICIT | TICKET})
"""Flags of rows whose result is stored, and that somebody may still ask for."""
ABANDONED: Final = 4
"""Nobody awaits it any more (in memory only): an identical call may adopt it, and it is not sent again unasked."""

# States of a row, in memory; only DONE goes to disk (SENT follows from the jobs, the others from recovery).
QUEUED: Final = 0
SENT: Final = 1
DONE: Final = 2
PARKED: Final = 3
"""Accepted by a process that is gone, or held back: never sent unasked."""
LIVE: Final = 4
"""On a live route: waiting for its call, or in it."""


class Lane(msgspec.Struct, frozen=True, gc=False):
    """What may share a job: the wire takes one kind and one model a job."""

    kind: Kind
    model: str


class Framing(msgspec.Struct, frozen=True, gc=False):
    """What the provider's wire adds around rows, so that the core can count exact bytes without seeing any."""

    inline_envelope_bytes: int
    """The create call around its rows, display name left out."""
    inline_row_bytes: int
    """An inline row, its comma included, less the same row as a line of a file, its newline included."""


class SegmentHead(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """A segment on disk, without its lines: accepted requests of one lane, written together. Columns are packed."""

    no: int
    lane: Lane
    origin: str
    accepted_at: float
    keys: list[str]
    ends: bytes
    tokens: bytes
    flags: bytes
    digests: bytes
    deadlines: bytes = b""
    ladders: bytes = b""
    """A byte a row: the code of its ladder; empty where all rows take the batch route alone."""
    limits: bytes = b""
    """Eight bytes a row: see ``Segment``; empty where no row has any."""


class Fresh:
    """Rows of an open segment, as they come: what becomes columns once it is closed."""

    __slots__ = ("digests", "ends", "first", "flags", "keys", "limits", "lines", "tokens")

    def __init__(self, no: int, keys: list[str], digests: bytearray) -> None:
        self.first = no << ROW_BITS
        self.keys = keys
        self.digests = digests
        self.lines = bytearray()
        """One JSONL line a row, newline included."""
        self.ends: list[int] = []
        self.tokens: list[int] = []
        self.limits: list[int] = []
        self.flags = bytearray()

    def add(self, key: str, digest: bytes, line: bytes, tokens: int, flags: int, limit: int) -> Place:  # noqa: PLR0917
        """Take a row in, and return its place."""
        lines, digests, ends = self.lines, self.digests, self.ends
        place = self.first | len(ends)
        lines += line
        digests += digest
        ends.append(len(lines))
        self.keys.append(key)
        self.tokens.append(tokens)
        self.flags.append(flags)
        self.limits.append(limit)
        return place


class Segment(msgspec.Struct, kw_only=True, gc=False):
    """Accepted requests of one lane, in columns.

    While it is open, rows are added to ``fresh``: ``close`` makes all columns but keys and digests of it at once.
    """

    no: int
    lane: Lane
    origin: str
    accepted_at: float
    keys: list[str] = []
    fresh: Fresh | None = None
    """What takes its rows while it is open."""
    ends: array[int] = msgspec.field(default_factory=lambda: array("Q"))
    """Cumulative bytes of the lines."""
    tokens: array[int] = msgspec.field(default_factory=lambda: array("Q"))
    """Cumulative estimate of input tokens."""
    flags: bytearray = msgspec.field(default_factory=bytearray)
    digests: bytearray = msgspec.field(default_factory=bytearray)
    deadlines: array[float] = msgspec.field(default_factory=lambda: array("d"))
    """Empty where no row has one; else infinity for rows without."""
    ladders: bytearray = msgspec.field(default_factory=bytearray)
    """Codes of the rows' ladders; may be shorter than the segment: the others take the batch route alone."""
    limits: array[int] = msgspec.field(default_factory=lambda: array("Q"))
    """What bounds the rows' cost: ``limit_of``; may be shorter than the segment: the others name nothing."""
    size_bytes: int = 0
    """Of all lines; counted when it is closed."""
    states: bytearray = msgspec.field(default_factory=bytearray)
    attempts: bytearray = msgspec.field(default_factory=bytearray)
    open_rows: int = 0
    """Rows that are not DONE."""
    jobs: int = 0
    """Unfinished jobs that hold rows of it."""

    def head(self) -> SegmentHead:
        """Return what goes to disk beside the lines."""
        return SegmentHead(
            no=self.no,
            lane=self.lane,
            origin=self.origin,
            accepted_at=self.accepted_at,
            keys=self.keys,
            ends=self.ends.tobytes(),
            tokens=self.tokens.tobytes(),
            flags=bytes(self.flags),
            digests=bytes(self.digests),
            deadlines=self.deadlines.tobytes(),
            ladders=bytes(self.ladders),
            limits=self.limits.tobytes(),
        )

    @classmethod
    def from_head(cls, head: SegmentHead) -> Segment:
        """Return the segment of a record, all rows QUEUED and never sent."""
        ends, tokens, deadlines, limits = array("Q"), array("Q"), array("d"), array("Q")
        ends.frombytes(head.ends)
        tokens.frombytes(head.tokens)
        deadlines.frombytes(head.deadlines)
        limits.frombytes(head.limits)
        count = len(head.keys)
        return cls(
            no=head.no,
            lane=head.lane,
            origin=head.origin,
            accepted_at=head.accepted_at,
            keys=head.keys,
            ends=ends,
            tokens=tokens,
            flags=bytearray(head.flags),
            digests=bytearray(head.digests),
            deadlines=deadlines,
            ladders=bytearray(head.ladders),
            limits=limits,
            size_bytes=ends[-1] if count else 0,
            states=bytearray(count),
            attempts=bytearray(count),
            open_rows=count,
        )

    def close(self) -> bytearray:
        """Take no more rows, and return the lines of those that came, which are not held any longer."""
        fresh, count = self.fresh, len(self.keys)
        assert fresh is not None, "a segment is closed once"
        self.fresh = None
        self.flags, self.ends = fresh.flags, array("Q", fresh.ends)
        self.tokens.extend(accumulate(fresh.tokens))
        if any(fresh.limits):
            self.limits = array("Q", fresh.limits)
        self.size_bytes = len(fresh.lines)
        if self.deadlines:
            self.deadlines.extend([NEVER] * (count - len(self.deadlines)))
        self.states, self.attempts, self.open_rows = bytearray(count), bytearray(count), count
        return fresh.lines

    def digest(self, row: int) -> bytes:
        """Return the digest of one row's request."""
        return bytes(self.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES])

    def bytes_of(self, start: int, stop: int) -> int:
        """Return the size of the lines of some rows, newlines included."""
        return self.ends[stop - 1] - (self.ends[start - 1] if start else 0)

    def tokens_of(self, start: int, stop: int) -> int:
        """Return the estimated input tokens of some rows."""
        return self.tokens[stop - 1] - (self.tokens[start - 1] if start else 0)


class Marks(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What became of a segment's rows since it was written."""

    no: int
    done: bytes
    """A byte a row: 1 if DONE."""
    attempts: bytes


class ResultsHead(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """Stored results, without their bodies."""

    no: int
    origin: str
    lane: Lane
    job: str
    """Name of the batch job that gave them; empty for a live answer."""
    kept_at: float
    places: list[Place]
    keys: list[str]
    digests: bytes
    flags: bytes
    """As of the request."""
    failed: bytes
    """A byte a row: 1 if the body is a Failure."""
    ends: bytes
    """Cumulative bytes of the bodies."""
    route: Route = "batch"
    """Which route gave them."""
    text_only: bool = False
    """Whether they are to embeddings that held nothing but text: what they cost depends on it."""


class Taken(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """Which rows of stored results are needed no more, while others still are."""

    no: int
    rows: bytes
    """A byte a row: 1 if it was delivered."""


class Meta(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Identity of a store slot, and how often it was opened."""

    store_id: str
    epoch: int = 0
    format: int = FORMAT
    jobs: int = 0
    """Highest number of a job that was sealed: a job on the server with a higher one is unknown to this store."""
    loose: list[str] = []
    """Jobs sealed with higher numbers, while it is not clear yet whether the store was restored from a backup."""
    doubled: list[str] = []
    """Server names of doubled jobs that were counted, the newest last."""
    lag_s: float = 0.0
    """The longest time for which a list was seen to lack a job."""


class JobState(Enum):
    """Where a job stands. CREATING and LOOKING are the states in which money may be spent without our knowing."""

    UPLOADING = "uploading"
    """Its rows go up as a file."""
    READY = "ready"
    """Its input is there, and no create is in the air: waiting for room, or after a failed create."""
    CREATING = "creating"
    """The intent to create it is on record."""
    LOOKING = "looking"
    """Nobody knows whether its create took effect."""
    RUNNING = "running"
    """The server gave it a name; it is polled."""
    FETCHING = "fetching"
    """It ended; its rows are being settled."""
    CLOSED = "closed"
    """Every row is settled, or queued again."""


TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.UPLOADING: frozenset({JobState.READY, JobState.CREATING, JobState.LOOKING, JobState.CLOSED}),
    JobState.READY: frozenset({JobState.CREATING, JobState.UPLOADING, JobState.LOOKING, JobState.CLOSED}),
    JobState.CREATING: frozenset(
        {JobState.RUNNING, JobState.READY, JobState.LOOKING, JobState.UPLOADING, JobState.CLOSED}
    ),
    JobState.LOOKING: frozenset({JobState.RUNNING, JobState.CREATING, JobState.UPLOADING, JobState.CLOSED}),
    JobState.RUNNING: frozenset({JobState.FETCHING, JobState.LOOKING, JobState.CLOSED}),
    JobState.FETCHING: frozenset({JobState.RUNNING, JobState.CLOSED}),
    JobState.CLOSED: frozenset(),
}

Form: TypeAlias = Literal["inline", "file"]


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An uploaded file."""

    name: str
    size_bytes: int = 0
    sha256: str = ""


class Job(msgspec.Struct, kw_only=True):
    """A batch: requests sealed together, and what is known of it on the server's side. Written whole at each change."""

    id: str
    lane: Lane
    origin: str
    form: Form
    spans: tuple[Span, ...]
    count: int
    line_bytes: int
    tokens: int
    sealed_at: float
    display_name: str
    state: JobState
    attempt: int = 1
    file_name: str = ""
    """Name that the input file has or will have."""
    uploaded_at: float = 0.0
    name: str = ""
    """The server's name; empty until known."""
    created_at: float = 0.0
    looks: int = 0
    """How often the list was searched for this attempt without finding it."""
    revoked: bool = False
    """Whether this attempt's input file was deleted, so that a create still on its way can no longer take effect."""
    failures: int = 0
    """Calls that failed since the last one that did not."""
    failing_since: float = 0.0
    wake_at: float | None = None
    """When to ask again; ``None`` while an answer is awaited."""
    ended_at: float = 0.0
    op: int = 0
    """Number of the question in the air; a reply with another number is stale."""
    remote: BatchJob | None = None
    """The server's last word, once it ended."""
    stalled: bool = False
    """A bug of ours broke its last question: its callers were told, and the next process asks again."""
    intended_at: float = 0.0
    """When this attempt's create was recorded."""
    looked_at: float = 0.0
    """When the list was last searched for this attempt without finding it."""
    file_gone: bool = False
    """The create was refused for want of its input file; one call that succeeds shows that it is not the key."""
    renewed: int = 0
    """How often the input was uploaded again since it had become too old."""
    stranger: bool = False
    """Found on the server with this store's name, but not in its records: it holds rows that nobody knows."""


FaultKind: TypeAlias = Literal["not_sent", "refused", "unknown"]


class Fault(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a call to the provider failed.

    ``not_sent``: it never reached the server. ``refused``: the server answered that it did nothing (4xx). ``unknown``:
    it may have taken effect (timeout, reset, 5xx, an unreadable answer).
    """

    kind: FaultKind
    error: ServerError = ServerError()


class Failure(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The final verdict on one request, as it is stored and turned into an exception for each awaiter."""

    kind: Literal[
        "rejected",
        "failed",
        "missing",
        "ambiguous",
        "too_large",
        "credentials",
        "unreachable",
        "budget",
        "quota",
        "overdue",
    ]
    error: ServerError = ServerError()
    job: str = ""


def limit_of(cap: int, *, searches: bool) -> int:
    """Return in one number what bounds the cost of a request.

    Args:
        cap: most tokens of output, over all candidates; 0: none is named.
        searches: whether it may search, for a fee; of an embedding, whether it holds anything but text.
    """
    return cap << 1 | searches


def caps_of(columns: Iterable[array[int]]) -> tuple[dict[int, int], int]:
    """Return how many requests have which cap, and how many of them may search: see ``limit_of``."""
    counts: Counter[int] = Counter()
    for limits in columns:
        if limits.tobytes() == limits[:1].tobytes() * len(limits):  # most requests of a job have the same
            counts[limits[0] if limits else 0] += len(limits)
        else:
            counts.update(limits)
    caps: dict[int, int] = {}
    searches = 0
    for limit, count in counts.items():
        caps[limit >> 1] = caps.get(limit >> 1, 0) + count
        searches += count if limit & 1 else 0
    caps.pop(0, None)
    return caps, searches


def base_url_of(origin: str) -> str:
    """Return which service an origin calls, with whatever key: what is learned and spent there is of one account.

    Ports of this machine count as one service: an emulator mostly has another one each time.
    """
    base_url = origin.rpartition("#")[0] or origin
    return _LOOPBACK.sub(r"\1", base_url)


def place_of(segment_no: int, row: int) -> Place:
    """Return the place of a row."""
    return segment_no << ROW_BITS | row
