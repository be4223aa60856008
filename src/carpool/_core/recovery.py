"""Rebuild an engine from what the store holds.

Owns the rules for what a dead process left: tickets and explicit keys go on by themselves; bare awaits wait to be
claimed by an identical call and are never sent unasked; a create in the air is of unknown fate; nothing of another
origin is touched. What was learned and spent is of one base URL, whatever the key: a new key is the same account.
"""

from __future__ import annotations

from typing import Final, assert_never

import msgspec

from carpool._core import descent, shelf
from carpool._core.accumulator import queued_runs
from carpool._core.budget import DayAccount
from carpool._core.engine import Engine
from carpool._core.estimate import Habit
from carpool._core.messages import DeleteRemote, PutMeta, Record, Step
from carpool._core.model import (
    ABANDONED,
    DIGEST_BYTES,
    DONE,
    EXPLICIT,
    FORMAT,
    PARKED,
    QUEUED,
    ROW_BITS,
    ROW_MASK,
    SENT,
    Framing,
    Job,
    JobState,
    Marks,
    Meta,
    ResultsHead,
    Segment,
    SegmentHead,
    Taken,
    place_of,
)
from carpool._core.routing import Seen
from carpool._core.sealing import file_name
from carpool.settings import Settings

_STATE_OF_MARK: Final = bytes((QUEUED,)) + bytes((DONE,)) * 255
_NAMED: Final = bytes(flags & EXPLICIT for flags in range(256))


class Recovery:
    """Takes the records in the order in which a store loads them; ``finish`` gives the engine."""

    def __init__(self, settings: Settings, framing: Framing, origin: str, meta: Meta) -> None:
        # What is written from now on may be more than an earlier version could read.
        self._meta = msgspec.structs.replace(meta, epoch=meta.epoch + 1, format=FORMAT)
        self._engine = Engine(settings, framing, origin, self._meta)
        self._book = self._engine.book
        self._superseded: list[int] = []
        self._days: list[DayAccount] = []
        self._habits: list[Habit] = []
        for job_id in meta.loose:
            self._book.census.note(job_id)

    def take(self, record: Record) -> None:
        """Take one record."""
        book = self._book
        match record:
            case SegmentHead():
                book.next_segment = max(book.next_segment, record.no + 1)
                if record.origin == book.origin:
                    book.segments[record.no] = Segment.from_head(record)
                else:
                    book.foreign += len(record.keys)
            case Marks():
                self._take_marks(record)
            case Job():
                book.census.note(record.id)
                if record.origin == book.origin:
                    self._take_job(record)
                else:
                    book.census.foreign.add(record.id)
            case ResultsHead():
                self._take_results(record)
            case Taken():
                if record.no in self._book.results:
                    shelf.index_taken(self._book, record)
            case DayAccount() | Habit() | Seen() if record.base_url != book.base_url:
                pass  # it stays on disk, and counts when that service is called again
            case DayAccount():
                self._days.append(record)
            case Habit():
                self._habits.append(record)
            case Seen():
                book.durations.take(record)
            case Meta():
                pass
            case _:
                assert_never(record)

    def finish(self, now: float) -> tuple[Engine, Step]:
        """Return the engine, and the step that records its opening."""
        book = self._book
        book.ledger.restore(self._days, self._habits)
        book.census.open(now, book.settings)
        book.write(PutMeta(meta=self._meta))
        book.held_to = book.next_segment - 1 if book.census.holding else 0
        for job in list(book.jobs.values()):
            self._sort_job(job, now)
        for segment in book.segments.values():
            # The clock may have been set back meanwhile: nothing is to wait until it has caught up.
            segment.accepted_at = min(segment.accepted_at, now)
            self._sort_rows(segment)
        for segment in book.segments.values():
            for start, stop in queued_runs(segment, 0, len(segment.keys)):
                book.count_in(segment, start, stop)
                descent.begin(book, segment, start, stop, now)
            descent.watch_jobs(book, segment, now)
        ended = [no for no, segment in book.segments.items() if not segment.open_rows and not segment.jobs]
        book.sweep_segments(ended + self._superseded)
        return self._engine, book.take_step(now)

    def _take_marks(self, marks: Marks) -> None:
        segment = self._book.segments.get(marks.no)
        if segment is None:
            return
        segment.attempts = bytearray(marks.attempts)
        segment.states = bytearray(marks.done.translate(_STATE_OF_MARK))
        segment.open_rows = len(segment.states) - segment.states.count(DONE)

    def _take_job(self, job: Job) -> None:
        pacing = self._book.pacing
        self._book.hold(job, sent=job.state not in (JobState.UPLOADING, JobState.READY))
        if job.ended_at:
            pacing.over(job.id)
        if job.form == "file":
            pacing.storage.adopt(job.id, job.line_bytes)
        for no, start, stop in job.spans:
            states = self._book.segments[no].states
            states[start:stop] = states[start:stop].replace(bytes((QUEUED,)), bytes((SENT,)))

    def _take_results(self, head: ResultsHead) -> None:
        book = self._book
        book.next_results = max(book.next_results, head.no + 1)
        book.next_segment = max(book.next_segment, (max(head.places, default=0) >> ROW_BITS) + 1)
        if head.origin != book.origin:
            book.foreign += len(head.keys)
            return
        if not book.segments.keys().isdisjoint({place >> ROW_BITS for place in head.places}):
            for place in head.places:
                segment = book.segments.get(place >> ROW_BITS)
                if segment is not None:
                    _mark_done(segment, place & ROW_MASK)
        shelf.index_results(book, head)

    def _sort_job(self, job: Job, now: float) -> None:
        """Go on with a job; one that was not created yet is taken apart if nobody may want some of its rows."""
        book = self._book
        job.failures = 0
        job.stalled = False
        # The clock may have been set back meanwhile.
        job.created_at, job.ended_at = min(job.created_at, now), min(job.ended_at, now)
        job.uploaded_at = min(job.uploaded_at, now)
        match job.state:
            case JobState.UPLOADING | JobState.READY if self._holds_bare_rows(job):
                for no, start, stop in job.spans:
                    states = book.segments[no].states
                    states[start:stop] = states[start:stop].replace(bytes((SENT,)), bytes((QUEUED,)))
                book.close(job)
                if job.form == "file":
                    book.act(DeleteRemote(name=job.file_name))
                return
            case JobState.CREATING:
                book.move(job, JobState.LOOKING)
                job.wake_at = now
                book.record(job)
            case JobState.LOOKING if job.looks:
                # Neither a restart nor a clock that was set meanwhile may shorten the wait between two looks.
                job.wake_at = now + book.census.look_wait_s(book.settings)
            case JobState.UPLOADING | JobState.READY if book.census.holding:
                book.census.held_jobs.append(job.id)
                job.wake_at = None
                if job.state is JobState.UPLOADING and now - job.sealed_at > book.settings.file_reuse_s:
                    # Its file may be on the server already, and too old: what has that name now is not to be relied on.
                    job.renewed += 1
                    job.file_name = file_name(job.id, job.attempt, job.renewed)
                    book.record(job)
            case _:
                job.state = JobState.RUNNING if job.state is JobState.FETCHING else job.state
                job.wake_at = now

    def _holds_bare_rows(self, job: Job) -> bool:
        segments = self._book.segments
        return any(not flags & EXPLICIT for no, start, stop in job.spans for flags in segments[no].flags[start:stop])

    def _sort_rows(self, segment: Segment) -> None:
        """Let explicit rows go on, and offer the others to identical calls."""
        keys, flags = self._book.keys, segment.flags
        named = len(flags) - flags.translate(_NAMED).count(0)
        if named == len(flags) == segment.open_rows == len(set(segment.keys)) and keys.named.keys().isdisjoint(
            segment.keys
        ):
            first = place_of(segment.no, 0)
            keys.named.update(zip(segment.keys, range(first, first + named), strict=True))
        elif segment.open_rows:
            self._sort_row_by_row(segment)

    def _sort_row_by_row(self, segment: Segment) -> None:
        book, keys, flags, states = self._book, self._book.keys, segment.flags, segment.states
        digests, first = bytes(segment.digests), place_of(segment.no, 0)
        for row, state in enumerate(states):
            if state == DONE:
                continue
            if flags[row] & EXPLICIT:
                self._supersede(segment.keys[row])
                keys.named[segment.keys[row]] = first + row
                continue
            if state == QUEUED:
                states[row] = PARKED
            flags[row] |= ABANDONED
            digest = digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
            book.keys.abandon(digest, segment.accepted_at, first + row, kept=False)

    def _supersede(self, key: str) -> None:
        """Withdraw an older request of a key: its caller had left, and asked again before its end was on record."""
        segment, row = self._book.at(self._book.keys.live(key) or 0)
        if segment is not None and segment.states[row] == QUEUED:
            _mark_done(segment, row)
            self._superseded.append(segment.no)


def _mark_done(segment: Segment, row: int) -> None:
    if segment.states[row] != DONE:
        segment.states[row] = DONE
        segment.open_rows -= 1
