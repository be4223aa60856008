"""When a lane is ripe, and what is cut out of it."""

from __future__ import annotations

import pytest

from carpool._core.accumulator import BATCH_USUAL_S, NEVER, Accumulator
from carpool._core.model import DONE

from .desk import LANE, OTHER_LANE
from .lanes import Lanes


def test_a_lane_gathers_for_as_long_as_its_first_request_lingers() -> None:
    desk = Lanes()
    assert desk.lanes.next_due() is None
    desk.push(50, at=0.0)
    desk.push(50, at=9.0)
    assert desk.cut(9.99) is None
    assert desk.lanes.next_due() == 10.0
    batch = desk.cut(10.0)
    assert batch is not None
    assert (batch.spans, batch.count, batch.line_bytes, batch.tokens) == (((1, 0, 1), (2, 0, 1)), 2, 100, 2)
    assert desk.lanes.next_due() is None
    assert desk.lanes.requests == 0


def test_a_full_count_goes_at_once_and_the_rest_lingers_on() -> None:
    desk = Lanes(batch_requests_max=3)
    desk.push(1, 1)
    assert desk.cut(0.0) is None
    desk.push(1, 1, 1, 1, at=1.0)
    batches = [desk.cut(1.0) for _ in range(3)]
    assert [batch and batch.spans for batch in batches] == [((1, 0, 2), (2, 0, 1)), ((2, 1, 4),), None]
    desk.push(1, at=2.0)
    assert desk.cut(2.0) is None
    assert desk.lanes.next_due() == 12.0


def test_bytes_are_exact() -> None:
    desk = Lanes(file_bytes_max=2_000)
    desk.push(1_000, 999)
    assert desk.cut(0.0) is None
    desk.push(1)
    batch = desk.cut(0.0)
    assert batch is not None
    assert batch.line_bytes == 2_000


def test_a_lane_above_the_size_of_a_file_is_split() -> None:
    desk = Lanes(file_bytes_max=2_000)
    desk.push(1_000, 1_000, 1, 1_999)
    first, second = desk.cut(0.0), desk.cut(0.0)
    assert first is not None
    assert second is not None
    assert (first.line_bytes, second.line_bytes) == (2_000, 2_000)


def test_a_request_above_the_size_of_a_file_goes_alone() -> None:
    desk = Lanes(file_bytes_max=2_000)
    desk.push(1_500, 2_500, 400)
    batches = [desk.cut(20.0) for _ in range(3)]
    assert [batch and batch.line_bytes for batch in batches] == [1_500, 2_500, 400]


def test_tokens_fill_a_batch() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, 1, tokens=[40, 50])
    assert desk.cut(0.0) is None
    desk.push(1, tokens=[30])
    batch = desk.cut(0.0)
    assert batch is not None
    assert batch.tokens == 90


def test_beyond_the_tokens_that_may_be_enqueued_a_lane_waits_for_the_end_of_a_job() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, 1, 1, tokens=[60, 30, 20])
    first = desk.cut(0.0)
    assert first is not None
    assert first.tokens == 90
    assert desk.cut(1_000.0) is None  # room for 10 tokens is none for 20
    assert desk.lanes.next_due() is None
    desk.end(first)
    second = desk.cut(1_000.0)
    assert second is not None
    assert second.tokens == 20


def test_a_request_of_more_tokens_than_may_be_enqueued_goes_alone_while_nothing_else_runs() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, 1, tokens=[500, 10])
    first = desk.cut(0.0)
    assert first is not None
    assert first.spans == ((1, 0, 1),)
    assert desk.cut(1_000.0) is None
    desk.end(first)
    second = desk.cut(1_000.0)
    assert second is not None
    assert second.tokens == 10


def test_withdrawn_rows_take_no_part_in_what_fits() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, tokens=[90])
    assert desk.cut(10.0) is not None
    gone = desk.push(1, 1, tokens=[50, 50])
    for row in range(2):
        desk.lanes.withdraw(gone, row)
        gone.states[row] = DONE
    small = desk.push(1, 1, tokens=[50, 10], at=20.0)
    assert desk.cut(40.0) is None
    desk.lanes.withdraw(small, 0)
    small.states[0] = DONE
    batch = desk.cut(40.0)
    assert batch is not None
    assert batch.spans == ((small.no, 1, 2),)


@pytest.mark.parametrize(("running", "due"), [(0, 10.0), (5, 35.0), (10, None)])
def test_the_linger_stretches_as_running_jobs_near_the_limit(running: int, due: float | None) -> None:
    desk = Lanes(jobs_max=10, linger_max_s=110.0)
    for number in range(running):
        desk.pacing.started(f"job-{number}", OTHER_LANE, 0)
    desk.push(1)
    assert desk.lanes.next_due() == due
    assert (desk.cut(1_000.0) is None) is (due is None)


def test_a_near_deadline_ends_the_stretched_linger_but_not_the_linger_itself() -> None:
    desk = Lanes(jobs_max=2, linger_max_s=50_000.0)
    desk.pacing.started("job", OTHER_LANE, 0)
    desk.push(1, 1, deadlines=[NEVER, BATCH_USUAL_S + 100.0])
    assert desk.lanes.next_due() == 100.0
    desk.push(1, deadlines=[BATCH_USUAL_S - 100.0])
    assert desk.lanes.next_due() == 10.0


def test_a_deadline_within_the_linger_sends_the_lane_at_once() -> None:
    desk = Lanes()
    desk.push(1, at=5.0, deadlines=[14.0])
    assert desk.lanes.next_due() == 5.0
    assert desk.cut(5.0) is not None
    desk.push(1, at=6.0)
    assert desk.lanes.next_due() == 16.0  # the deadline went with its lane


def test_a_flush_sends_what_waits_now_and_not_what_comes_later() -> None:
    desk = Lanes()
    desk.lanes.flush()
    desk.push(1)
    desk.lanes.flush()
    assert desk.cut(0.0) is not None
    desk.push(1)
    assert desk.cut(0.0) is None


def test_a_flush_outlives_a_batch_that_could_not_take_everything() -> None:
    desk = Lanes(batch_requests_max=2)
    desk.push(1, 1, 1)
    desk.lanes.flush()
    assert [batch and batch.count for batch in (desk.cut(0.0), desk.cut(0.0), desk.cut(0.0))] == [2, 1, None]


def test_a_blocked_lane_waits_whatever_its_reason_to_go() -> None:
    desk = Lanes(batch_requests_max=1, quota_retry_min_s=100.0)
    desk.pacing.started("job", LANE, 1)
    desk.pacing.creating("job")
    desk.pacing.refused("job", 0.0)
    desk.pacing.ended("job")
    until = desk.pacing.ceiling(LANE.model).blocked_until
    desk.push(1, 1)
    desk.lanes.flush()
    assert desk.cut(until - 1) is None
    assert desk.lanes.next_due() == until
    desk.push(1, lane=OTHER_LANE)
    other = desk.cut(50.0)
    assert other is not None
    assert other.lane == OTHER_LANE
    assert desk.cut(until) is not None


def test_without_a_free_job_nothing_is_cut_and_no_time_will_help() -> None:
    desk = Lanes(jobs_max=1)
    desk.push(1)
    first = desk.cut(10.0)
    assert first is not None
    desk.push(1)
    assert desk.cut(1_000.0) is None
    assert desk.lanes.next_due() is None
    desk.end(first)
    assert desk.lanes.next_due() == 10.0


def test_models_and_kinds_do_not_mix_and_the_longest_due_goes_first() -> None:
    desk = Lanes()
    desk.push(1, at=2.0)
    desk.push(1, at=1.0, lane=OTHER_LANE)
    batches = [desk.cut(20.0) for _ in range(3)]
    assert [batch and batch.lane for batch in batches] == [OTHER_LANE, LANE, None]


def test_a_lane_that_begins_with_withdrawn_rows_waits_for_the_first_that_is_left() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, tokens=[90])
    assert desk.cut(10.0) is not None
    gone, dead = desk.push(1, tokens=[5]), desk.push(1, tokens=[5])
    desk.push(1, tokens=[50])
    for segment in (gone, dead):
        desk.lanes.withdraw(segment, 0)
        segment.states[0] = DONE
    del desk.segments[gone.no]
    assert desk.cut(1_000.0) is None


def test_withdrawn_rows_are_skipped() -> None:
    desk = Lanes()
    segment = desk.push(10, 20, 30, 40)
    for row in (0, 2):
        desk.lanes.withdraw(segment, row)
        segment.states[row] = DONE
    batch = desk.cut(10.0)
    assert batch is not None
    assert (batch.spans, batch.count, batch.line_bytes) == (((1, 1, 2), (1, 3, 4)), 2, 60)


def test_a_segment_forgotten_because_all_was_withdrawn_leaves_no_trace() -> None:
    desk = Lanes()
    gone = desk.push(10)
    desk.push(20)
    desk.lanes.withdraw(gone, 0)
    del desk.segments[gone.no]
    batch = desk.cut(10.0)
    assert batch is not None
    assert batch.spans == ((2, 0, 1),)


def test_a_lane_of_which_everything_was_withdrawn_is_gone() -> None:
    desk = Lanes()
    segment = desk.push(10)
    desk.lanes.flush()
    desk.lanes.withdraw(segment, 0)
    segment.states[0] = DONE
    assert desk.lanes.next_due() is None
    assert desk.cut(1_000.0) is None


def test_whoever_gives_up_and_asks_again_does_not_begin_the_linger_anew() -> None:
    desk = Lanes()
    for at in (0.0, 4.0):
        segment = desk.push(10, at=at)
        desk.lanes.withdraw(segment, 0)
        segment.states[0] = DONE
    desk.push(10, at=8.0)
    assert desk.lanes.next_due() == 10.0
    late = Lanes()
    segment = late.push(10)
    late.lanes.withdraw(segment, 0)
    segment.states[0] = DONE
    late.push(10, at=500.0)
    assert late.lanes.next_due() == 510.0


def test_rows_that_come_back_go_first() -> None:
    desk = Lanes(batch_requests_max=2)
    old = desk.push(1)
    first = desk.cut(10.0)
    assert first is not None
    desk.push(1, 1, at=11.0)
    old.states[0] = 0
    desk.lanes.push(old, 0, 1, 12.0, front=True)
    batch = desk.cut(12.0)
    assert batch is not None
    assert batch.spans == ((1, 0, 1), (2, 0, 1))


def test_a_group_travels_as_it_is_before_anything_else() -> None:
    desk = Lanes(batch_requests_max=100)
    segment = desk.segment(1, 1, 1, 1)
    desk.push(1)
    desk.lanes.push_group(LANE, ((1, 0, 2),))
    desk.lanes.push_group(LANE, ((1, 2, 3),), as_file=True)
    first, second, third = desk.cut(0.0), desk.cut(0.0), desk.cut(0.0)
    assert first is not None
    assert second is not None
    assert (first.spans, first.as_file, second.spans, second.as_file) == (((1, 0, 2),), False, ((1, 2, 3),), True)
    assert third is None
    assert segment.states[3] == 0


def test_a_group_is_cut_without_its_withdrawn_rows_and_may_be_empty() -> None:
    desk = Lanes()
    segment = desk.segment(1, 1)
    gone = desk.segment(1)
    desk.lanes.push_group(LANE, ((1, 0, 2), (2, 0, 1)))
    desk.lanes.push_group(LANE, ((2, 0, 1),))
    desk.lanes.withdraw(segment, 0)
    segment.states[0] = DONE
    for _ in range(2):
        desk.lanes.withdraw(gone, 0)
    del desk.segments[2]
    first = desk.cut(0.0)
    assert first is not None
    assert first.spans == ((1, 1, 2),)
    desk.push(1)
    assert desk.cut(0.0) is None


def test_a_group_waits_until_its_tokens_fit() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, tokens=[60])
    first = desk.cut(10.0)
    assert first is not None
    segment = desk.segment(1, 1, tokens=[30, 30])
    desk.lanes.push_group(LANE, ((segment.no, 0, 2),))
    assert desk.cut(20.0) is None
    desk.end(first)
    assert desk.cut(20.0) is not None


def test_what_waits_elsewhere_is_taken_over_in_front() -> None:
    ours = Lanes(linger_s=0.0)
    theirs = Accumulator(ours.settings, ours.segments, ours.pacing)
    late = ours.push(10, at=5.0)
    early = ours.segment(20, 30)
    theirs.push(early, 0, 2, 1.0)
    other = ours.segment(40, lane=OTHER_LANE, deadlines=[50.0])
    theirs.push(other, 0, 1, 2.0)
    theirs.flush()
    ours.lanes.take_over(theirs)
    assert (ours.lanes.requests, theirs.requests) == (4, 0)
    batches = [ours.cut(10.0), ours.cut(10.0)]
    assert {batch.spans for batch in batches if batch is not None} == {
        ((early.no, 0, 2), (late.no, 0, 1)),
        ((other.no, 0, 1),),
    }


def test_a_batch_that_is_full_at_the_end_of_a_segment_takes_nothing_of_the_next() -> None:
    ours = Lanes(linger_s=0.0, batch_requests_max=2)
    first, second = ours.push(10, 10), ours.push(10)
    batches = [ours.cut(10.0), ours.cut(10.0)]
    assert [batch.spans for batch in batches if batch is not None] == [((first.no, 0, 2),), ((second.no, 0, 1),)]
