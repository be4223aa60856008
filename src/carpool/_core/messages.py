"""What the engine is told (events, past participles), wants done (actions, imperatives) and written down (writes).

Writes of a step are durable before its actions start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from carpool._core.budget import DayAccount
from carpool._core.estimate import Habit
from carpool._core.meter import NO_CHARGE, Charge
from carpool._core.model import (
    Failure,
    Fault,
    Job,
    Lane,
    Marks,
    Meta,
    Place,
    RemoteFile,
    ResultsHead,
    SegmentHead,
    Taken,
)
from carpool._core.output import RowFault, Run
from carpool._core.routing import Seen
from carpool.settings import Route
from carpool.types import BatchJob

# -- events


class Woken(msgspec.Struct, frozen=True, tag=True):
    """Time passed, or requests were admitted."""


class Flushed(msgspec.Struct, frozen=True, tag=True):
    """The user wants what waits now to be sent."""


class Undelivered(msgspec.Struct, frozen=True, tag=True):
    """These answers were handed to callers that were cancelled before they took them."""

    rows: list[tuple[Place, str, bytes, bytes]]
    """Place, key, digest, body."""
    lane: Lane
    job: str
    route: Route = "batch"


class Uploaded(msgspec.Struct, frozen=True, tag=True):
    """A job's input file is on the server."""

    job: str
    op: int
    file: RemoteFile


class Created(msgspec.Struct, frozen=True, tag=True):
    """The server took the job and named it."""

    job: str
    op: int
    name: str


class Found(msgspec.Struct, frozen=True, tag=True):
    """The jobs that carry this job's display name."""

    job: str
    op: int
    remotes: list[BatchJob]


class Revoked(msgspec.Struct, frozen=True, tag=True):
    """The input file of a job of unknown fate is deleted."""

    job: str
    op: int


class Polled(msgspec.Struct, frozen=True, tag=True):
    """The server's view of a job."""

    job: str
    op: int
    remote: BatchJob


class RowsFetched(msgspec.Struct, frozen=True, tag=True):
    """A block of a job's output was sorted by place; each place occurs at most once over all blocks of one fetch."""

    job: str
    op: int
    delivered: list[Place]
    """Handed straight to live awaiters of automatic keys."""
    kept: list[tuple[Place, bytes]]
    """To be stored before they are delivered."""
    failed: list[RowFault]
    charge: Charge
    unclaimed: list[tuple[str, bytes]] = []
    """Of a job that this store did not know: answers to keys that are not waiting, and their bytes."""
    again: Charge = NO_CHARGE
    """Of answers that were settled by an earlier reading of the same output."""
    runs: list[Run] = []
    """Of rows that follow each other: delivered, or kept, besides those above."""


class FetchEnded(msgspec.Struct, frozen=True, tag=True):
    """The output was read to its end."""

    job: str
    op: int
    unknown: int = 0
    """Rows whose key is not of this job, or came a second time with other bytes, or could not be read."""
    aside: list[tuple[str, bytes]] = []
    """Key and bytes of the first of them."""


class CallFailed(msgspec.Struct, frozen=True, tag=True):
    """The question in the air about a job ended in an error; the job's state says which question it was."""

    job: str
    op: int
    fault: Fault


class Broken(msgspec.Struct, frozen=True, tag=True):
    """A bug of ours broke the question in the air about a job; asking again would break again."""

    job: str
    op: int
    detail: str


class Swept(msgspec.Struct, frozen=True, tag=True):
    """All jobs on the server whose display name is of this store."""

    op: int
    remotes: list[BatchJob]


class SweepFailed(msgspec.Struct, frozen=True, tag=True):
    """The jobs could not be listed."""

    op: int
    fault: Fault


class Answered(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A live call was answered; its rows are sorted as those of a job are."""

    op: int
    delivered: list[Place]
    kept: list[tuple[Place, bytes]]
    failed: list[RowFault]
    charge: Charge


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A live call ended in an error."""

    op: int
    fault: Fault
    broken: bool = False
    """Whether a bug of ours broke it, which another try would meet again."""


class Closing(msgspec.Struct, frozen=True, tag=True):
    """The client is being left: bare awaits that were not sent are withdrawn, the rest is sent."""

    send: bool


Event: TypeAlias = (
    Woken
    | Flushed
    | Undelivered
    | Uploaded
    | Created
    | Found
    | Revoked
    | Polled
    | RowsFetched
    | FetchEnded
    | CallFailed
    | Broken
    | Swept
    | SweepFailed
    | Answered
    | Refused
    | Closing
)

# -- writes


class PutMeta(msgspec.Struct, frozen=True, tag=True):
    """Record the slot's identity."""

    meta: Meta


class PutSegment(msgspec.Struct, frozen=True, tag=True):
    """Record accepted requests."""

    head: SegmentHead
    lines: Sequence[bytes | bytearray]
    """One JSONL line a row, newline included; in pieces of any size."""


class PutMarks(msgspec.Struct, frozen=True, tag=True):
    """Record what became of a segment's rows."""

    marks: Marks


class DropSegments(msgspec.Struct, frozen=True, tag=True):
    """Forget segments whose rows are all done, and their marks."""

    numbers: list[int]


class PutJob(msgspec.Struct, frozen=True, tag=True):
    """Record a job as it stands."""

    job: Job


class DropJob(msgspec.Struct, frozen=True, tag=True):
    """Forget a job."""

    id: str


class PutResults(msgspec.Struct, frozen=True, tag=True):
    """Record results."""

    head: ResultsHead
    bodies: list[bytes]


class PutTaken(msgspec.Struct, frozen=True, tag=True):
    """Record which stored results were delivered."""

    taken: Taken


class DropResults(msgspec.Struct, frozen=True, tag=True):
    """Forget results that are delivered or too old."""

    numbers: list[int]


class PutDay(msgspec.Struct, frozen=True, tag=True):
    """Record the account of a day."""

    account: DayAccount


class DropDays(msgspec.Struct, frozen=True, tag=True):
    """Forget the accounts of days that are long ago."""

    days: list[int]
    base_url: str
    """Of the service whose accounts they are: those of others stay."""


class PutHabit(msgspec.Struct, frozen=True, tag=True):
    """Record what was learned of a model."""

    habit: Habit


class PutSeen(msgspec.Struct, frozen=True, tag=True):
    """Record how long a route took for a model."""

    seen: Seen


Write: TypeAlias = (
    PutMeta
    | PutSegment
    | PutMarks
    | DropSegments
    | PutJob
    | DropJob
    | PutResults
    | PutTaken
    | DropResults
    | PutDay
    | DropDays
    | PutHabit
    | PutSeen
)
Record: TypeAlias = Meta | SegmentHead | Marks | Job | ResultsHead | Taken | DayAccount | Habit | Seen

# -- actions


class Upload(msgspec.Struct, frozen=True, tag=True):
    """Upload the job's rows as a file of the given name."""

    job: Job
    op: int


class Create(msgspec.Struct, frozen=True, tag=True):
    """Send the create call, once."""

    job: Job
    op: int


class Find(msgspec.Struct, frozen=True, tag=True):
    """List the jobs that carry this job's display name."""

    job: Job
    op: int


class Revoke(msgspec.Struct, frozen=True, tag=True):
    """Delete the job's input file, so that a create on its way fails."""

    job: Job
    op: int


class Poll(msgspec.Struct, frozen=True, tag=True):
    """Ask for the job."""

    job: Job
    op: int


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Stream the job's output."""

    job: Job
    op: int
    remote: BatchJob


class Call(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Send these requests over a live route, once."""

    op: int
    route: Route
    lane: Lane
    places: list[Place]
    """One, or several embeddings that share a call."""
    deadline: float
    """When nobody waits for it any more; infinity if nobody says."""


class Sweep(msgspec.Struct, frozen=True, tag=True):
    """List all jobs whose display name begins so."""

    op: int
    prefix: str


class CancelRemote(msgspec.Struct, frozen=True, tag=True):
    """Cancel a job on the server; a failure is not worth a retry."""

    name: str


class DeleteRemote(msgspec.Struct, frozen=True, tag=True):
    """Delete a job or file on the server; it goes away by itself after 48 h if this fails."""

    name: str


class Deliver(msgspec.Struct, frozen=True, tag=True):
    """Hand stored results to their awaiters."""

    job: str
    lane: Lane
    rows: list[tuple[Place, bytes]]
    route: Route = "batch"
    text_only: bool = False
    runs: list[Run] = []
    """Rows that follow each other, besides those above."""


class Fail(msgspec.Struct, frozen=True, tag=True):
    """Tell the awaiters of these requests the verdict."""

    places: list[Place]
    keys: list[str]
    failure: Failure


class Expire(msgspec.Struct, frozen=True, tag=True):
    """Tell the awaiters of this request whose deadline has passed."""

    place: Place
    deadline: float
    why: str = ""
    """What forbade to send it over another route in time, if anything did: setting and amounts."""


class Forget(msgspec.Struct, frozen=True, tag=True):
    """These segments are no longer needed in memory."""

    numbers: list[int]


class Report(msgspec.Struct, frozen=True, tag=True):
    """Tell the log what an operator should know."""

    event: str
    job: str
    count: int = 1
    detail: str = ""


Action: TypeAlias = (
    Upload
    | Create
    | Find
    | Revoke
    | Poll
    | Fetch
    | Call
    | Sweep
    | CancelRemote
    | DeleteRemote
    | Deliver
    | Fail
    | Expire
    | Forget
    | Report
)


class Step(msgspec.Struct, kw_only=True):
    """The engine's answer to an event: what to write down, and then what to do."""

    writes: list[Write] = []
    actions: list[Action] = []
