"""Segments and an accumulator, without an engine around them."""

from __future__ import annotations

from array import array
from itertools import count
from typing import Any

from carpool._core.accumulator import Accumulator, Batch
from carpool._core.model import DIGEST_BYTES, SENT, Lane, Segment
from carpool._core.pacing import Pacing
from carpool.settings import Settings

from .desk import LANE, ORIGIN


class Lanes:
    """An accumulator, and what it is told."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**({"linger_s": 10.0, "linger_max_s": 10.0} | settings))
        self.segments: dict[int, Segment] = {}
        self._numbers = count(1)
        self.pacing = Pacing(self.settings)
        self.lanes = Accumulator(self.settings, self.segments, self.pacing)
        self.started: list[tuple[Batch, str]] = []

    def segment(
        self,
        *sizes: int,
        lane: Lane = LANE,
        tokens: list[int] | None = None,
        deadlines: list[float] | None = None,
    ) -> Segment:
        """Make a segment of rows with these sizes, not queued yet."""
        rows = len(sizes)
        tokens = [1] * rows if tokens is None else tokens
        segment = Segment(
            no=next(self._numbers),
            lane=lane,
            origin=ORIGIN,
            accepted_at=0.0,
            keys=[f"key-{row}" for row in range(rows)],
            ends=array("Q", [sum(sizes[: row + 1]) for row in range(rows)]),
            tokens=array("Q", [sum(tokens[: row + 1]) for row in range(rows)]),
            flags=bytearray(rows),
            digests=bytearray(DIGEST_BYTES * rows),
            deadlines=array("d", deadlines or []),
            states=bytearray(rows),
            attempts=bytearray(rows),
            open_rows=rows,
        )
        self.segments[segment.no] = segment
        return segment

    def push(self, *sizes: int, at: float = 0.0, **kind: Any) -> Segment:
        """Queue a segment of rows with these sizes."""
        segment = self.segment(*sizes, **kind)
        self.lanes.push(segment, 0, len(sizes), at)
        return segment

    def cut(self, now: float) -> Batch | None:
        """Cut a batch, and start its job."""
        batch = self.lanes.cut(now)
        if batch is not None and batch.count:
            batch_id = f"job-{len(self.started)}"
            self.pacing.started(batch_id, batch.lane, batch.tokens, batch.count, sent=True)
            self.started.append((batch, batch_id))
            for no, start, stop in batch.spans:
                assert set(self.segments[no].states[start:stop]) == {SENT}
        return batch

    def end(self, batch: Batch) -> None:
        """End the job of a batch."""
        for other, batch_id in self.started:
            if other is batch:
                self.pacing.ended(batch_id)
