"""Whatever is pushed, withdrawn, cut and pushed back: every row is cut once, and the counts are those of what waits."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carpool._core.accumulator import Batch
from carpool._core.model import DONE, QUEUED, SENT, Lane, Segment

from .desk import LANE, OTHER_LANE
from .lanes import Lanes


class LanesMachine(RuleBasedStateMachine):
    """An accumulator between callers that come and go and jobs that end."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Lanes(batch_requests_max=4, file_bytes_max=2_000, enqueued_tokens_max=20, jobs_max=3)
        self.now = 0.0
        self.running: list[Batch] = []

    def rows(self, state: int) -> list[tuple[Segment, int]]:
        found = self.desk.segments.values()
        return [(segment, row) for segment in found for row, is_in in enumerate(segment.states) if is_in == state]

    @rule(
        rows=st.lists(st.tuples(st.integers(1, 2_500), st.integers(1, 25)), min_size=1, max_size=6),
        lane=st.sampled_from([LANE, OTHER_LANE]),
        deadline=st.one_of(st.none(), st.floats(0, 50_000)),
    )
    def accept(self, rows: list[tuple[int, int]], lane: Lane, deadline: float | None) -> None:
        sizes, tokens = [size for size, _ in rows], [count for _, count in rows]
        deadlines = [] if deadline is None else [deadline] * len(rows)
        self.desk.push(*sizes, at=self.now, lane=lane, tokens=tokens, deadlines=deadlines)

    @precondition(lambda self: self.rows(QUEUED))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        rows = self.rows(QUEUED)
        segment, row = rows[data.draw(st.integers(0, len(rows) - 1))]
        self.desk.lanes.withdraw(segment, row)
        segment.states[row] = DONE
        if set(segment.states) == {DONE}:
            del self.desk.segments[segment.no]

    @rule(seconds=st.floats(0, 500))
    def cut(self, seconds: float) -> None:
        self.now += seconds
        waiting = {(segment.no, row) for segment, row in self.rows(QUEUED)}
        held = {model: self.tokens_held(model) for model in (LANE.model, OTHER_LANE.model)}
        batch = self.desk.cut(self.now)
        if batch is None:
            return
        taken = [(no, row) for no, start, stop in batch.spans for row in range(start, stop)]
        assert len(taken) == len(set(taken)) == batch.count
        assert waiting.issuperset(taken)
        segments = self.desk.segments
        assert batch.line_bytes == sum(segments[no].bytes_of(row, row + 1) for no, row in taken)
        assert batch.tokens == sum(segments[no].tokens_of(row, row + 1) for no, row in taken)
        assert all(segments[no].lane == batch.lane for no, _ in taken)
        assert batch.count <= 4
        assert batch.line_bytes <= 2_000 or batch.count == 1
        assert held[batch.lane.model] + batch.tokens <= 20 or (batch.count == 1 and not held[batch.lane.model])
        if batch.count:
            self.running.append(batch)

    def tokens_held(self, model: str) -> int:
        return sum(batch.tokens for batch in self.running if batch.lane.model == model)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["done", "again", "halves"]))
    def end(self, data: st.DataObject, how: str) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.desk.end(batch)
        state = DONE if how == "done" else QUEUED
        for no, start, stop in batch.spans:
            self.desk.segments[no].states[start:stop] = bytes((state,)) * (stop - start)
        if how == "again":
            for no, start, stop in batch.spans:
                self.desk.lanes.push(self.desk.segments[no], start, stop, self.now, front=True)
        elif how == "halves":
            middle = (len(batch.spans) + 1) // 2
            for half in (batch.spans[:middle], batch.spans[middle:]):
                if half:
                    self.desk.lanes.push_group(batch.lane, half)

    @rule()
    def flush(self) -> None:
        self.desk.lanes.flush()

    @invariant()
    def the_counts_are_those_of_what_waits(self) -> None:
        assert self.desk.lanes.requests == len(self.rows(QUEUED))
        for lane, queue in self.desk.lanes._queues.items():
            mine = [(segment, row) for segment, row in self.rows(QUEUED) if segment.lane == lane]
            assert queue.requests == len(mine) > 0
            assert queue.line_bytes == sum(segment.bytes_of(row, row + 1) for segment, row in mine)
            assert queue.tokens == sum(segment.tokens_of(row, row + 1) for segment, row in mine)

    @invariant()
    def every_row_that_was_cut_is_in_one_job(self) -> None:
        held = [(no, row) for batch in self.running for no, start, stop in batch.spans for row in range(start, stop)]
        assert sorted(held) == sorted((segment.no, row) for segment, row in self.rows(SENT))

    def teardown(self) -> None:
        """In the end everything goes."""
        for _ in range(2_000):
            if not self.desk.lanes.requests:
                return
            self.now += 200.0
            for batch in self.running:
                self.desk.end(batch)
            self.running.clear()
            last = self.desk.cut(self.now)
            if last is not None and last.count:
                self.running.append(last)
        raise AssertionError("something waits for ever")


TestLanes = LanesMachine.TestCase
