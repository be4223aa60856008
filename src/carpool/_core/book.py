"""Everything the engine knows, and the few ways to change it.

Owns the state: segments, jobs, keys, lanes, results, deadlines, and the step that is being answered. Each change that
must survive a crash adds its write here. It must not know why a change is made: that is for ``lifecycle`` and
``settlement``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from carpool._core.accumulator import NEVER, Accumulator, Batch
from carpool._core.budget import DayAccount
from carpool._core.census import Census
from carpool._core.disposal import Disposal
from carpool._core.estimate import Habit
from carpool._core.holders import Holders
from carpool._core.keys import KeyTable
from carpool._core.ledger import Ask, Ledger
from carpool._core.live import Live
from carpool._core.messages import (
    Action,
    DropJob,
    DropSegments,
    Expire,
    Forget,
    PutDay,
    PutHabit,
    PutJob,
    PutMeta,
    PutSeen,
    PutSegment,
    PutTaken,
    Report,
    Step,
    Write,
)
from carpool._core.model import (
    ABANDONED,
    DONE,
    EXPLICIT,
    LIVE,
    NAMED,
    QUEUED,
    ROW_BITS,
    ROW_MASK,
    SENT,
    TRANSITIONS,
    Framing,
    Fresh,
    Job,
    JobState,
    Lane,
    Meta,
    Place,
    ResultsHead,
    Segment,
    Span,
    Taken,
    base_url_of,
    caps_of,
    place_of,
)
from carpool._core.output import Run
from carpool._core.pacing import Pacing
from carpool._core.routing import Durations, Seen
from carpool._core.sealing import choose_form, display_name, file_name
from carpool._core.throttle import Throttles
from carpool.settings import Settings
from carpool.types import ServerError

_Learned = TypeVar("_Learned", DayAccount, Habit, Seen)


class Book:
    """The engine's state."""

    def __init__(self, settings: Settings, framing: Framing, origin: str, meta: Meta) -> None:
        self.settings = settings
        self.framing = framing
        self.origin, self.base_url = origin, base_url_of(origin)
        self.store_id = meta.store_id
        self.epoch = meta.epoch
        self.census = Census(meta)
        self.segments: dict[int, Segment] = {}
        self.open: dict[Lane, Segment] = {}
        self.jobs: dict[str, Job] = {}
        self._holders = Holders()
        self.retries: dict[str, dict[Place, ServerError]] = {}
        """Rows of a job being fetched that are to be sent again once it is closed, and why."""
        self.results: dict[int, ResultsHead] = {}
        self.results_open: dict[int, int] = {}
        self.taken: dict[int, bytearray] = {}
        """Rows of stored results that are needed no more, where others of the same record are."""
        self.handed: dict[Place, Place] = {}
        """Requests of automatic keys whose stored result goes to live awaiters: others may adopt it only if these are
        gone before they take it."""
        self.keys = KeyTable()
        self.ledger = Ledger.of(settings)
        self.pacing = Pacing(settings, self.ledger.habits)
        self.lanes = Accumulator(settings, self.segments, self.pacing)
        self.held_lanes = Accumulator(settings, self.segments, self.pacing)
        """Requests of earlier processes, until it is sure that they are in no job that this store does not know."""
        self.held_to = 0
        """The last segment whose rows are held."""
        self.live = Live(Throttles(settings.live_calls_max))
        self.durations = Durations()
        self.leaving: list[tuple[float, Place, int]] = []
        """When requests have to leave their rung, if they are still on it then."""
        self.held_back: dict[Place, str] = {}
        """Requests that may not be sent a second time for their deadline's sake, and why: setting and amounts."""
        self.overtaken: dict[str, dict[str, Place]] = {}
        """By job: keys and places of its requests that a live call answered first. What the job says of them is paid
        for, and nobody waits for it."""
        self.deadlines: list[tuple[float, Place]] = []
        self.next_segment = self.next_results = 1
        self.reached = False
        """Whether the server has ever answered this client."""
        self._waiting_requests = self._waiting_bytes = 0
        """Of closed segments."""
        self.answered = self.failed = self.retried = self.reused = 0
        self.jobs_created = self.foreign = self.quarantined = 0
        self.late: set[str] = set()
        """Jobs of which an alarm has told that they run or wait too long."""
        self.closing = False
        """Whether the client is being left: callers whose requests were withdrawn wait until they are told so."""
        self.step = Step(writes=[], actions=[])
        self.disposal = Disposal()

    # -- the step being answered

    def take_step(self, now: float) -> Step:
        """Return what has gathered since the last step was taken; the entrance may add to it between steps."""
        self._sweep()
        self._tell_taken()
        self.step.writes += [PutDay(account=self._of_here(account)) for account in self.ledger.budget.changes()]
        if self.step.writes or self.closing:
            durations = self.durations.changes(now, at_once=self.closing)
            if durations or self.closing:  # live answers end no job, with whose end habits are written else
                self._write_habits()
            self.step.writes += [PutSeen(seen=self._of_here(seen)) for seen in durations]
        step, self.step = self.step, Step(writes=[], actions=[])
        return step

    def _write_habits(self) -> None:
        self.step.writes += [PutHabit(habit=self._of_here(habit)) for habit in self.ledger.habits.changes()]

    def _of_here(self, record: _Learned) -> _Learned:
        """Return what was learned or spent as it is written down: not to be mixed with that of another service."""
        return msgspec.structs.replace(record, base_url=self.base_url)

    def write(self, write: Write) -> None:
        """Add something to write down."""
        self.step.writes.append(write)

    def act(self, action: Action) -> None:
        """Add something to do."""
        self.step.actions.append(action)

    # -- requests

    def open_segment(self, lane: Lane, now: float) -> Segment:
        """Start a segment for new requests of a lane."""
        segment = Segment(no=self.next_segment, lane=lane, origin=self.origin, accepted_at=now)
        segment.fresh = Fresh(segment.no, segment.keys, segment.digests)
        self.next_segment += 1
        self.open[lane] = segment
        self.segments[segment.no] = segment
        return segment

    def close_segment(self, segment: Segment) -> PutSegment:
        """End a segment, and return the write that makes its rows durable."""
        del self.open[segment.lane]
        lines = segment.close()
        self._waiting_requests += segment.open_rows
        self._waiting_bytes += segment.size_bytes
        return PutSegment(head=segment.head(), lines=(lines,))

    def set_deadline(self, segment: Segment, row: int, deadline: float) -> None:
        """Note the deadline of the segment's newest row."""
        missing = row + 1 - len(segment.deadlines)
        segment.deadlines.extend([NEVER] * missing)
        segment.deadlines[row] = deadline
        heapq.heappush(self.deadlines, (deadline, place_of(segment.no, row)))

    def overdue(self, now: float) -> list[Expire]:
        """Take out the deadlines that have passed, and return what to tell the awaiters of requests still open."""
        expired: list[Expire] = []
        while self.deadlines and self.deadlines[0][0] <= now:
            deadline, place = heapq.heappop(self.deadlines)
            if self.is_open(place):
                expired.append(Expire(place=place, deadline=deadline, why=self.held_back.get(place, "")))
        return expired

    def drop_stale_deadlines(self) -> None:
        """Forget the deadlines of requests that are answered."""
        self.deadlines = [entry for entry in self.deadlines if self.is_open(entry[1])]
        heapq.heapify(self.deadlines)

    def is_open(self, place: Place) -> bool:
        """Return whether a request still waits for its answer."""
        segment, row = self.at(place)
        return segment is not None and (not segment.states or segment.states[row] != DONE)

    def at(self, place: Place) -> tuple[Segment | None, int]:
        """Return the segment and row of a place; the segment is ``None`` if it is forgotten."""
        return self.segments.get(place >> ROW_BITS), place & ROW_MASK

    def key_at(self, place: Place) -> str:
        """Return the key of a request that is not forgotten."""
        return self.segments[place >> ROW_BITS].keys[place & ROW_MASK]

    def finish(self, segment: Segment, row: int) -> None:
        """Mark a row DONE."""
        if segment.states[row] in (QUEUED, LIVE):
            self.count_out(segment, row, row + 1)
        if self.live.trips:
            self.live.drop(place_of(segment.no, row))
        if self.held_back:
            self.held_back.pop(place_of(segment.no, row), None)
        segment.states[row] = DONE
        segment.open_rows -= 1
        if segment.flags[row] & EXPLICIT:
            self.keys.end(segment.keys[row], place_of(segment.no, row))
        elif segment.flags[row] & ABANDONED:
            self.keys.discard(segment.digest(row), segment.accepted_at, place_of(segment.no, row), kept=False)

    def is_plain(self, run: Run) -> bool:
        """Return whether all rows of a run are in their job still, none on a live route too, and none without awaiters.

        ``finish_run`` takes no others.
        """
        segment, start, stop = self.segments[run.no], run.start, run.stop
        if run.bodies is None:
            is_plain = segment.flags.count(0, start, stop) == run.count
        else:
            is_plain = NAMED.issuperset(segment.flags[start:stop])
        return (
            is_plain
            and segment.states.count(SENT, start, stop) == run.count
            and (not self.live.trips or self.live.trips.keys().isdisjoint(run.places))
            and (not self.held_back or self.held_back.keys().isdisjoint(run.places))
        )

    def finish_run(self, run: Run) -> None:
        """Mark the rows of a plain run DONE: what ``finish`` does to each of them.

        Those of explicit keys have been stored, and their keys lead there.
        """
        segment, start, stop = self.segments[run.no], run.start, run.stop
        segment.states[start:stop] = bytes((DONE,)) * run.count
        segment.open_rows -= run.count

    def withdraw(self, segment: Segment, row: int) -> None:
        """Take a row that waits out, for good."""
        if segment.states[row] == QUEUED:
            self._lanes(segment.no).withdraw(segment, row)
        self.finish(segment, row)

    def unqueue(self, segment: Segment, row: int) -> None:
        """Take a queued row out of its lane, to be sent over a live route."""
        self._lanes(segment.no).withdraw(segment, row)
        segment.states[row] = LIVE

    def rejoin(self, segment: Segment, row: int) -> bool:
        """Leave a row that waits to a call in the air that it had left, if there is one; return whether there is."""
        if not self.live.rejoin(place_of(segment.no, row)):
            return False
        if segment.states[row] == QUEUED:
            self.unqueue(segment, row)
        return True

    def queue(self, segment: Segment, start: int, stop: int) -> None:
        """Queue rows that are QUEUED and counted in their lane."""
        self._lanes(segment.no).push(segment, start, stop, segment.accepted_at)

    def requeue(self, spans: Iterable[Span], now: float, *, counted: bool = False, front: bool = True) -> None:
        """Put rows back in their lane, in front; ``counted``: they have counted as waiting all the time."""
        for no, start, stop in reversed(list(spans)):
            segment = self.segments[no]
            segment.states[start:stop] = bytes((QUEUED,)) * (stop - start)
            if not counted:
                self.count_in(segment, start, stop)
            self._lanes(no).push(segment, start, stop, now, front=front)

    def requeue_group(self, lane: Lane, spans: tuple[Span, ...], *, as_file: bool = False) -> None:
        """Put rows back so that they travel as exactly one batch."""
        for no, start, stop in spans:
            segment = self.segments[no]
            segment.states[start:stop] = bytes((QUEUED,)) * (stop - start)
            self.count_in(segment, start, stop)
        held = any(no <= self.held_to for no, _, _ in spans)
        (self.held_lanes if held else self.lanes).push_group(lane, spans, as_file=as_file)

    def flush(self) -> None:
        """Let everything that waits now go as soon as there is room."""
        self.lanes.flush()
        self.held_lanes.flush()

    def release_held(self) -> None:
        """Let requests of earlier processes be sent."""
        self.held_to = 0
        self.lanes.take_over(self.held_lanes)

    def _lanes(self, no: int) -> Accumulator:
        return self.held_lanes if no <= self.held_to else self.lanes

    @property
    def waiting_requests(self) -> int:
        """How many requests wait to be sent."""
        return self._waiting_requests + sum(len(segment.keys) for segment in self.open.values())

    @property
    def waiting_bytes(self) -> int:
        """How large they are as lines of a batch file."""
        fresh = (segment.fresh for segment in self.open.values())
        return self._waiting_bytes + sum(len(rows.lines) for rows in fresh if rows is not None)

    def count_in(self, segment: Segment, start: int, stop: int) -> None:
        """Count rows as waiting."""
        self._waiting_requests += stop - start
        self._waiting_bytes += segment.bytes_of(start, stop)

    def count_out(self, segment: Segment, start: int, stop: int) -> None:
        """Count rows as waiting no more."""
        self._waiting_requests -= stop - start
        self._waiting_bytes -= segment.bytes_of(start, stop)

    def sweep_segments(self, numbers: Iterable[int]) -> None:
        """Let segments be dropped with this step if nothing needs them then, else let their state be recorded."""
        self.disposal.note(numbers)

    def _sweep(self) -> None:
        for write in self.disposal.sweep(self.segments, self.live.carried):
            self.write(write)
            if isinstance(write, DropSegments) and not self.closing:
                self.act(Forget(numbers=write.numbers))

    def took(self, results_no: int) -> None:
        """Let it be recorded with this step which rows of stored results are needed no more."""
        self.disposal.taken.add(results_no)

    def _tell_taken(self) -> None:
        for no in sorted(self.disposal.taken & self.taken.keys()):
            self.write(PutTaken(taken=Taken(no=no, rows=bytes(self.taken[no]))))
        self.disposal.taken.clear()

    # -- jobs

    def seal(self, batch: Batch, now: float) -> Job:
        """Make a job of a batch, and record it."""
        job_id = self.census.seal_id(self.store_id, now)
        name_bytes = len(self.display_name(job_id, self.settings.job_attempts_max))
        form = choose_form(self.settings, self.framing, self.ledger, batch, name_bytes, now)
        job = Job(
            id=job_id,
            lane=batch.lane,
            origin=self.origin,
            form=form,
            spans=batch.spans,
            count=batch.count,
            line_bytes=batch.line_bytes,
            tokens=batch.tokens,
            sealed_at=now,
            display_name=self.display_name(job_id, 1),
            state=JobState.CREATING if form == "inline" else JobState.UPLOADING,
            file_name="" if form == "inline" else file_name(job_id, 1),
            intended_at=now,
        )
        for no, start, stop in batch.spans:
            self.count_out(self.segments[no], start, stop)
        self.ledger.reserve(self.ask_of(job.id, job), now)
        self.hold(job)
        self.write(PutMeta(meta=self.census.meta))
        self.record(job)
        return job

    def ask_of(self, hold_id: str, batch: Batch | Job) -> Ask:
        """Return what a batch asks of the budget."""
        caps, searches = caps_of(self.segments[no].limits[start:stop] for no, start, stop in batch.spans)
        return Ask(
            id=hold_id,
            route="batch",
            lane=batch.lane,
            count=batch.count,
            input_tokens=batch.tokens,
            caps=caps,
            searches=searches,
        )

    def is_text_only(self, lane: Lane, spans: Iterable[Span]) -> bool:
        """Return whether some requests are embeddings that are known to hold nothing but text."""
        if lane.kind != "embed":
            return False
        found = [(self.segments.get(no), start, stop) for no, start, stop in spans]
        return not any(segment is None or any(segment.limits[start:stop]) for segment, start, stop in found)

    def hold(self, job: Job, *, sent: bool = False) -> None:
        """Count a job in; ``sent``: it may be on the server already."""
        self.jobs[job.id] = job
        for no in sorted({no for no, _, _ in job.spans}):
            self.segments[no].jobs += 1
        self._holders.take(job)
        self.pacing.started(job.id, job.lane, job.tokens, job.count, sent=sent)

    def record(self, job: Job) -> None:
        """Write a job down as it stands now."""
        self.write(PutJob(job=msgspec.structs.replace(job, remote=None)))

    def move(self, job: Job, state: JobState, *, failing: bool = False) -> None:
        """Change a job's state along the table of transitions; ``failing``: failed calls go on being counted."""
        assert state in TRANSITIONS[job.state], f"{job.state} -> {state}"
        job.state = state
        job.failures = job.failures if failing else 0
        job.wake_at = None

    def ask(self, job: Job) -> int:
        """Give the next question about a job its number."""
        job.op += 1
        job.wake_at = None
        return job.op

    def close(self, job: Job, *, known: bool = True) -> None:
        """Forget a job whose rows are all settled or queued again; ``known``: all that it did has told what it cost."""
        self.move(job, JobState.CLOSED)
        self.ledger.learn(job.id, job.lane.model, job.count, job.tokens)
        self.ledger.close(job.id, known=known)
        self._write_habits()
        del self.jobs[job.id]
        self.census.close(job.id, job.name)
        self.retries.pop(job.id, None)
        self.overtaken.pop(job.id, None)
        self.pacing.ended(job.id)
        numbers = sorted({no for no, _, _ in job.spans})
        self._holders.drop(job)
        for no in numbers:
            self.segments[no].jobs -= 1
        self.write(DropJob(id=job.id))
        self.sweep_segments(numbers)

    def shrink(self, job: Job, spans: tuple[Span, ...]) -> None:
        """Let a job hold only some of its rows; nothing of it may be in the air."""
        before = sorted({no for no, _, _ in job.spans})
        after = {no for no, _, _ in spans}
        self._holders.drop(job)
        job.spans = spans
        self._holders.take(job)
        job.count = sum(stop - start for _, start, stop in spans)
        job.line_bytes = sum(self.segments[no].bytes_of(start, stop) for no, start, stop in spans)
        job.tokens = sum(self.segments[no].tokens_of(start, stop) for no, start, stop in spans)
        self.pacing.resized(job.id, job.tokens, job.count)
        for no in before:
            self.segments[no].jobs -= no not in after
        self.sweep_segments(before)

    def sent_in(self, job: Job) -> Iterator[Place]:
        """Iterate over the rows of a job that have no answer yet, in order."""
        for no, start, stop in job.spans:
            states, base = self.segments[no].states, no << ROW_BITS
            row = states.find(SENT, start, stop)
            while row >= 0:
                yield base | row
                row = states.find(SENT, row + 1, stop)

    def job_of(self, place: Place) -> Job:
        """Return the job that holds a row that is SENT."""
        return self.jobs[self._holders.of(place)]

    def overtake(self, place: Place) -> None:
        """Note that a live call answers a row; it may be in a job as well."""
        segment, row = self.at(place)
        if segment is not None and segment.states[row] == SENT:
            self.overtaken.setdefault(self.job_of(place).id, {})[segment.keys[row]] = place

    def place_in(self, job: Job, index: int) -> Place:
        """Return the place of the job's row with this index, counted from 0 in the order in which they were sent."""
        for no, start, stop in job.spans:
            if index < stop - start:
                return place_of(no, start + index)
            index -= stop - start
        raise IndexError(index)

    def display_name(self, job_id: str, attempt: int) -> str:
        """Return the display name by which a job can be found again."""
        return display_name(self.store_id, job_id, attempt, self.settings.label)

    # -- the log

    def report(self, event: str, job: str = "", count: int = 1, detail: str = "") -> None:
        """Tell the log."""
        self.act(Report(event=event, job=job, count=count, detail=detail))


def spans_of(places: Iterable[Place]) -> tuple[Span, ...]:
    """Return the spans of some places, given in order."""
    spans: list[Span] = []
    for place in places:
        no, row = place >> ROW_BITS, place & ROW_MASK
        if spans and spans[-1][0] == no and spans[-1][2] == row:
            spans[-1] = (no, spans[-1][1], row + 1)
        else:
            spans.append((no, row, row + 1))
    return tuple(spans)
