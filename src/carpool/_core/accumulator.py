"""Lanes gather requests; what is ripe is cut into batches.

Owns what waits: spans of segments, by lane. Triggers: count, exact bytes, tokens, linger, nearest deadline, flush.
It must not know jobs; it is told how many may start.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from carpool._core.model import QUEUED, SENT, Lane, Segment, Span
from carpool._core.pacing import Offer, Pacing
from carpool.settings import Settings

NEVER: Final = float("inf")
BATCH_USUAL_S: Final = 6 * 3_600.0
"""How long a batch usually takes, until history tells better: a deadline nearer than this shortens the linger."""


class Batch(msgspec.Struct, kw_only=True):
    """Requests cut out of a lane to travel together."""

    lane: Lane
    spans: tuple[Span, ...]
    count: int
    line_bytes: int
    tokens: int
    as_file: bool = False
    """Inline was refused before: go as a file."""


class _Queue:
    """One lane."""

    __slots__ = ("deadline", "first_at", "flush", "groups", "line_bytes", "requests", "spans", "tokens")

    def __init__(self) -> None:
        self.spans: deque[tuple[int, int, int, float]] = deque()
        self.groups: deque[tuple[tuple[Span, ...], bool, int]] = deque()
        """Batches to be sent as they are cut already (halves of a batch with a bad row; too large inline): their spans,
        whether as a file, their tokens."""
        self.requests = 0
        self.line_bytes = 0
        self.tokens = 0
        self.first_at = NEVER
        self.deadline = NEVER
        self.flush = False


class Accumulator:
    """Everything that is accepted and not yet in a job."""

    def __init__(self, settings: Settings, segments: dict[int, Segment], pacing: Pacing) -> None:
        self._settings = settings
        self._segments = segments
        self._pacing = pacing
        self._queues: dict[Lane, _Queue] = {}
        self._emptied: dict[Lane, float] = {}
        """Since when lanes waited whose every request was withdrawn: a caller that gives up and asks again at once must
        not begin its linger anew each time."""
        self._served: set[Lane] = set()
        """Lanes that had their turn in this round."""

    @property
    def requests(self) -> int:
        """Requests that wait."""
        return sum(queue.requests for queue in self._queues.values())

    def push(self, segment: Segment, start: int, stop: int, at: float, *, front: bool = False) -> None:
        """Queue rows: at the back when they are new, in front when they come back from a job."""
        queue = self._queue(segment.lane)
        span = (segment.no, start, stop, at)
        if front:
            queue.spans.appendleft(span)
        else:
            queue.spans.append(span)
        self._count(queue, segment, start, stop, 1)
        left_at = self._emptied.pop(segment.lane, NEVER)
        if at - left_at > self._settings.linger_max_s:
            left_at = NEVER
        queue.first_at = min(queue.first_at, at, left_at)
        if segment.deadlines:
            queue.deadline = min(queue.deadline, *segment.deadlines[start:stop])

    def push_group(self, lane: Lane, spans: tuple[Span, ...], *, as_file: bool = False) -> None:
        """Queue rows that must travel as exactly one batch."""
        if not spans:
            return
        queue = self._queue(lane)
        before = queue.tokens
        for no, start, stop in spans:
            self._count(queue, self._segments[no], start, stop, 1)
        queue.groups.append((spans, as_file, queue.tokens - before))

    def withdraw(self, segment: Segment, row: int) -> None:
        """Count out a queued row; its state keeps it from being cut."""
        queue = self._queues[segment.lane]
        self._count(queue, segment, row, row + 1, -1)
        if not queue.requests:
            self._emptied[segment.lane] = queue.first_at
            del self._queues[segment.lane]

    def take_over(self, other: Accumulator) -> None:
        """Take everything that waits in another accumulator, which is left empty."""
        for lane, theirs in other._queues.items():
            ours = self._queue(lane)
            ours.spans.extendleft(reversed(theirs.spans))
            ours.groups.extendleft(reversed(theirs.groups))
            ours.requests += theirs.requests
            ours.line_bytes += theirs.line_bytes
            ours.tokens += theirs.tokens
            ours.first_at = min(ours.first_at, theirs.first_at)
            ours.deadline = min(ours.deadline, theirs.deadline)
            ours.flush = ours.flush or theirs.flush
        other._queues.clear()

    def flush(self) -> None:
        """Let everything that waits now go as soon as there is room."""
        for queue in self._queues.values():
            queue.flush = queue.requests > 0

    def cut(self, now: float) -> Batch | None:
        """Cut the next batch that is ripe and may start, or return ``None``; see ``cuts``."""
        return next(self.cuts(now), None)

    def cuts(self, now: float) -> Iterator[Batch]:
        """Cut the batches that are ripe and may start, one after another: what becomes of one may delay the next.

        Lanes take turns: in a round each that is ripe gives one batch, the one with the nearest deadline first, then
        the one that was ripe first. So of ``n`` lanes each gives at least one of ``2 * n - 1`` batches while ripe,
        however much waits in the others. A lane for which there is no room does not lose its turn.
        """
        while self._pacing.free_jobs and (ripe := self._ripe(now)):
            turn = [entry for entry in ripe if entry[-1] not in self._served]
            if not turn:
                self._served.clear()
            for *_, lane in sorted(turn or ripe):
                if not self._pacing.free_jobs:
                    return
                queue = self._queues.get(lane)
                if queue is None or self._due_at(lane, queue) > now:
                    continue  # not any more, since another lane was cut
                self._served.add(lane)
                batch = self._cut_group(lane, queue) if queue.groups else self._cut_spans(lane, queue)
                if not queue.requests:
                    del self._queues[lane]
                yield batch

    def _ripe(self, now: float) -> list[tuple[float, float, str, str, Lane]]:
        """Return the lanes that are ripe, in no order; each as it sorts."""
        return [
            (queue.deadline, due, lane.kind, lane.model, lane)
            for lane, queue in self._queues.items()
            if (due := self._due_at(lane, queue)) <= now
        ]

    def next_due(self) -> float | None:
        """Return when a lane will be ripe; ``None`` while no job may start, or nothing waits."""
        if not self._pacing.free_jobs:
            return None
        due = min((self._due_at(lane, queue) for lane, queue in self._queues.items()), default=NEVER)
        return None if due == NEVER else due

    def _queue(self, lane: Lane) -> _Queue:
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = _Queue()
        return queue

    @staticmethod
    def _count(queue: _Queue, segment: Segment, start: int, stop: int, sign: int) -> None:
        queue.requests += sign * (stop - start)
        queue.line_bytes += sign * segment.bytes_of(start, stop)
        queue.tokens += sign * segment.tokens_of(start, stop)

    def _due_at(self, lane: Lane, queue: _Queue) -> float:
        """Return when the lane is ripe; NEVER while only the end of another job can make room for it."""
        offer = self._offer(lane, queue)
        if offer.at == NEVER:
            return NEVER
        s = self._settings
        full = (
            queue.requests >= s.batch_requests_max
            or queue.line_bytes >= s.file_bytes_max
            or queue.tokens >= offer.tokens
        )
        if full or queue.flush or queue.groups:
            return offer.at
        fill = self._pacing.fill
        due = queue.first_at + s.linger_s + (s.linger_max_s - s.linger_s) * fill * fill
        if queue.deadline < NEVER:
            due = min(due, max(queue.first_at + s.linger_s, queue.deadline - BATCH_USUAL_S))
            if queue.deadline <= due:
                due = queue.first_at
        return max(due, offer.at)

    def _offer(self, lane: Lane, queue: _Queue) -> Offer:
        """Return the room for what has to be cut next."""
        first = self._next_tokens(queue)
        return self._pacing.offer(lane, first, first if queue.groups else queue.tokens)

    def _next_tokens(self, queue: _Queue) -> int:
        """Return the tokens of what has to be cut next: a group, or the first row."""
        if queue.groups:
            return queue.groups[0][2]
        while True:
            no, start, stop, _ = queue.spans[0]
            segment = self._segments.get(no)
            row = -1 if segment is None else segment.states.find(QUEUED, start, stop)
            if segment is not None and row >= 0:
                return segment.tokens_of(row, row + 1)
            queue.spans.popleft()

    def _cut_group(self, lane: Lane, queue: _Queue) -> Batch:
        spans, as_file, _ = queue.groups.popleft()
        batch = Batch(lane=lane, spans=(), count=0, line_bytes=0, tokens=0, as_file=as_file)
        taken: list[Span] = []
        for no, start, stop in spans:
            segment = self._segments.get(no)
            if segment is None:
                continue  # every row was withdrawn
            for low, high in queued_runs(segment, start, stop):
                self._take(batch, taken, queue, segment, low, high)
        batch.spans = tuple(taken)
        return batch

    def _cut_spans(self, lane: Lane, queue: _Queue) -> Batch:
        batch = Batch(lane=lane, spans=(), count=0, line_bytes=0, tokens=0)
        taken: list[Span] = []
        token_room = self._offer(lane, queue).tokens
        while queue.spans:
            no, start, stop, at = queue.spans.popleft()
            segment = self._segments.get(no)
            if segment is None:
                continue  # every row was withdrawn
            end = start
            for low, high in queued_runs(segment, start, stop):
                end = self._fit(batch, segment, low, high, token_room)
                self._take(batch, taken, queue, segment, low, end)
                if end < high:
                    break
                end = stop
            else:
                continue
            queue.spans.appendleft((no, end, stop, at))
            break
        batch.spans = tuple(taken)
        queue.first_at = min((at for _, _, _, at in queue.spans), default=NEVER)
        if not queue.spans:
            queue.deadline = NEVER
            queue.flush = queue.flush and bool(queue.groups)
        return batch

    def _fit(self, batch: Batch, segment: Segment, low: int, high: int, token_room: int) -> int:
        """Return the row up to which rows still fit into the batch; the first row of a batch always fits."""
        s = self._settings
        end = min(high, low + s.batch_requests_max - batch.count)
        if end <= low:
            return low
        before = segment.ends[low - 1] if low else 0
        end = bisect_right(segment.ends, before + s.file_bytes_max - batch.line_bytes, low, end)
        before = segment.tokens[low - 1] if low else 0
        end = bisect_right(segment.tokens, before + token_room - batch.tokens, low, end)
        return low + 1 if end == low and not batch.count else end

    def _take(  # noqa: PLR0917 - one line's work, shared by two cuts
        self, batch: Batch, taken: list[Span], queue: _Queue, segment: Segment, low: int, high: int
    ) -> None:
        if high <= low:
            return
        segment.states[low:high] = bytes((SENT,)) * (high - low)
        if taken and taken[-1][0] == segment.no and taken[-1][2] == low:  # they were queued one by one
            taken[-1] = (segment.no, taken[-1][1], high)
        else:
            taken.append((segment.no, low, high))
        batch.count += high - low
        batch.line_bytes += segment.bytes_of(low, high)
        batch.tokens += segment.tokens_of(low, high)
        self._count(queue, segment, low, high, -1)


def queued_runs(segment: Segment, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the runs of QUEUED rows within some rows."""
    states = segment.states
    if states.count(QUEUED, start, stop) == stop - start:
        return [(start, stop)]
    runs: list[tuple[int, int]] = []
    low = states.find(QUEUED, start, stop)
    while low >= 0:
        high = low
        while high < stop and states[high] == QUEUED:
            high += 1
        runs.append((low, high))
        low = states.find(QUEUED, high, stop)
    return runs
