"""A store that keeps what was committed and loses what was not.

Owns the durable records, as bytes: nothing in them is shared with the engine that wrote them. It must not know time:
who commits says when a commit is durable.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from carpool._core.budget import DayAccount
from carpool._core.estimate import Habit
from carpool._core.messages import (
    DropDays,
    DropJob,
    DropResults,
    DropSegments,
    PutDay,
    PutHabit,
    PutJob,
    PutMarks,
    PutMeta,
    PutResults,
    PutSeen,
    PutSegment,
    PutTaken,
    Record,
    Write,
)
from carpool._core.model import EXPLICIT, Job, Marks, Meta, Place, ResultsHead, SegmentHead, Span, Taken
from carpool._core.routing import Seen

_encode: Final = msgspec.msgpack.Encoder().encode


class DurableStore:
    """Committed records of one slot."""

    def __init__(self, store_id: str) -> None:
        self.meta = _encode(Meta(store_id=store_id))
        self.segments: dict[int, tuple[bytes, list[bytes]]] = {}
        self.marks: dict[int, bytes] = {}
        self.jobs: dict[str, bytes] = {}
        self.results: dict[int, tuple[bytes, list[bytes]]] = {}
        self.taken: dict[int, bytes] = {}
        self.days: dict[tuple[str, int], bytes] = {}
        self.habits: dict[tuple[str, str], bytes] = {}
        self.seen: dict[tuple[str, str, str], bytes] = {}
        self.when_accepted: Callable[[], None] | None = None
        """Called when requests with keys of their own became durable."""

    def apply(self, writes: Sequence[Write]) -> None:
        """Make the writes of one commit durable, all at once."""
        accepted = False
        for write in writes:
            match write:
                case PutMeta(meta=meta):
                    self.meta = _encode(meta)
                case PutSegment(head=head, lines=lines):
                    rows, ends = b"".join(lines), array("Q", head.ends).tolist()
                    assert ends[-1] == len(rows), "ends tell the sizes of the lines"
                    self.segments[head.no] = _encode(head), [rows[start:end] for start, end in pairwise([0, *ends])]
                    accepted = accepted or any(flags & EXPLICIT for flags in head.flags)
                case PutMarks(marks=marks):
                    assert marks.no in self.segments, "marks belong to a segment that is there"
                    self.marks[marks.no] = _encode(marks)
                case DropSegments(numbers=numbers):
                    for no in numbers:
                        del self.segments[no]
                        self.marks.pop(no, None)
                case PutJob(job=job):
                    self.jobs[job.id] = _encode(job)
                case DropJob(id=job_id):
                    del self.jobs[job_id]
                case PutResults(head=head, bodies=bodies):
                    assert head.no not in self.results, "results numbers are not used twice"
                    assert array("Q", head.ends).tolist()[-1] == sum(map(len, bodies)), (
                        "ends tell the sizes of the bodies"
                    )
                    self.results[head.no] = _encode(head), list(bodies)
                case DropResults(numbers=numbers):
                    for no in numbers:
                        del self.results[no]
                        self.taken.pop(no, None)
                case PutTaken(taken=taken):
                    assert taken.no in self.results, "what was taken belongs to results that are there"
                    self.taken[taken.no] = _encode(taken)
                case PutDay(account=account):
                    self.days[account.base_url, account.day] = _encode(account)
                case DropDays(days=days, base_url=base_url):
                    for day in days:
                        del self.days[base_url, day]
                case PutHabit(habit=habit):
                    self.habits[habit.base_url, habit.model] = _encode(habit)
                case PutSeen(seen=seen):
                    self.seen[seen.base_url, seen.model, seen.route] = _encode(seen)
        if accepted and self.when_accepted is not None:
            self.when_accepted()

    def backup(self) -> list[Any]:
        """Return a copy of everything."""
        parts = (self.segments, self.marks, self.jobs, self.results, self.taken, self.days, self.habits, self.seen)
        return [self.meta, *(dict(part) for part in parts)]

    def restore(self, backup: list[Any]) -> None:
        """Put everything back as it was."""
        self.meta, self.segments, self.marks, self.jobs, self.results, self.taken, *learned = backup
        self.days, self.habits, self.seen = learned

    def load(self) -> Iterator[Record]:
        """Yield all records: the identity, segments, marks, jobs, results, days, habits, durations."""
        yield msgspec.msgpack.decode(self.meta, type=Meta)
        for no in sorted(self.segments):
            yield msgspec.msgpack.decode(self.segments[no][0], type=SegmentHead)
        for no in sorted(self.marks):
            yield msgspec.msgpack.decode(self.marks[no], type=Marks)
        for job_id in sorted(self.jobs):
            yield self.job(job_id)
        for no in sorted(self.results):
            yield self.results_head(no)
        for no in sorted(self.taken):
            yield msgspec.msgpack.decode(self.taken[no], type=Taken)
        yield from self.accounts()
        for model in sorted(self.habits):
            yield msgspec.msgpack.decode(self.habits[model], type=Habit)
        for kind in sorted(self.seen):
            yield msgspec.msgpack.decode(self.seen[kind], type=Seen)

    def meta_record(self) -> Meta:
        """Return the identity as it was written last."""
        return msgspec.msgpack.decode(self.meta, type=Meta)

    def accounts(self) -> list[DayAccount]:
        """Return the accounts of all days."""
        return [msgspec.msgpack.decode(self.days[day], type=DayAccount) for day in sorted(self.days)]

    def job(self, job_id: str) -> Job:
        """Return a job as it was written last."""
        return msgspec.msgpack.decode(self.jobs[job_id], type=Job)

    def results_head(self, no: int) -> ResultsHead:
        """Return the head of stored results."""
        return msgspec.msgpack.decode(self.results[no][0], type=ResultsHead)

    def lines(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the lines of some rows."""
        return [line for no, start, stop in spans for line in self.segments[no][1][start:stop]]

    def result(self, place: Place, row_bits: int) -> bytes:
        """Return the body of a stored result."""
        return self.results[place >> row_bits][1][place & ((1 << row_bits) - 1)]
