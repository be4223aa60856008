"""Limits met exactly, sums to the byte and the token, and where one lane or record ends and the next begins."""

from __future__ import annotations

from decimal import Decimal

import pytest

from carpool._core.accumulator import Batch
from carpool._core.ledger import Ledger, expected_output_bytes
from carpool._core.messages import Create, DropResults, DropSegments, PutMarks, Step
from carpool._core.model import DONE, ROWS_MAX, Lane, place_of
from carpool._core.retry import pause_s
from carpool._core.sealing import choose_form
from carpool.settings import Price, Settings

from .desk import FRAMING, LANE, OTHER_LANE, START, Desk, every, only, questions
from .lanes import Lanes

HOUR = 3_600.0
DAY = 24 * HOUR
# A token in costs 1 pico-dollar, a token out nothing.
TINY = {"tiny": Price(input_usd=Decimal("0.000001"), output_usd=Decimal(0))}
EMBED = Lane("embed", "tiny")


# -- inline or file


@pytest.mark.parametrize(("below", "form"), [(0, "inline"), (1, "file")])
def test_the_expected_output_may_reach_its_limit(below: int, form: str) -> None:
    batch = Batch(lane=LANE, spans=(), count=3, line_bytes=100, tokens=1)
    settings = Settings(inline_output_bytes_max=expected_output_bytes(LANE, 3) - below)
    assert choose_form(settings, FRAMING, Ledger({}), batch, name_bytes=40) == form


@pytest.mark.parametrize(("tokens", "form"), [(2_000_000, "inline"), (2_000_002, "file")])
def test_the_expected_cost_may_reach_its_limit(tokens: int, form: str) -> None:
    batch = Batch(lane=EMBED, spans=(), count=1, line_bytes=100, tokens=tokens)
    settings = Settings(inline_cost_max_usd=Decimal("0.000001"))
    assert choose_form(settings, FRAMING, Ledger(TINY), batch, name_bytes=40) == form


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 0), (2, 1), (1_001, 500)])
def test_expected_costs_are_whole_pico_dollars(tokens: int, expected: int) -> None:
    cost = Ledger(TINY).expected_picousd(EMBED, 1, tokens)
    assert (cost, type(cost)) == (expected, int)


def test_nothing_is_reported_as_overrun_or_double_while_nothing_was() -> None:
    receipt = Ledger({}).receipt()
    assert (receipt.overrun_usd, receipt.doubles, receipt.by_route) == (Decimal(0), 0, {})


# -- pauses


def test_after_any_number_of_failures_the_pause_is_finite_and_at_its_ceiling() -> None:
    pauses = [pause_s(0.001, 86_400.0, failures, "seed") for failures in (64, 1_000, 10**6)]
    assert all(0.8 * 86_400.0 <= pause <= 86_400.0 for pause in pauses)


def test_lanes_refused_together_do_not_come_back_together() -> None:
    desk = Lanes()
    for model in ("one", "two", "three"):
        desk.pacing.started(model, Lane("generate", model), 1)
        desk.pacing.creating(model)
        desk.pacing.refused(model, 0.0)
    assert len({desk.pacing.ceiling(model).blocked_until for model in ("one", "two", "three")}) == 3


# -- cuts


def test_tokens_of_rows_that_another_batch_took_do_not_hold_up_the_next() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, 1, 1, tokens=[60, 40, 30])
    first = desk.cut(0.0)
    assert first is not None
    assert first.tokens == 100
    desk.end(first)
    desk.pacing.started("other", LANE, 40, sent=True)
    second = desk.cut(20.0)
    assert second is not None
    assert second.spans == ((1, 2, 3),)


def test_a_lane_that_waits_in_part_of_a_segment_looks_at_that_part_alone() -> None:
    desk = Lanes(enqueued_tokens_max=100)
    desk.push(1, tokens=[50])
    assert desk.cut(20.0) is not None
    segment = desk.segment(1, 1, 1, tokens=[10, 60, 10])
    desk.lanes.push(segment, 1, 2, 0.0)
    segment.states[0] = segment.states[2] = 0  # they wait elsewhere
    assert desk.cut(40.0) is None
    assert desk.lanes.next_due() is None
    segment.states[1] = DONE
    desk.lanes.withdraw(segment, 1)
    other = desk.segment(1, tokens=[60])
    desk.lanes.push(other, 0, 1, 0.0)
    assert desk.cut(40.0) is None


def test_a_group_whose_rows_are_all_gone_is_an_empty_batch() -> None:
    desk = Lanes()
    segment = desk.segment(1, 1)
    desk.lanes.push_group(LANE, ((segment.no, 0, 2),), as_file=True)
    waits = desk.push(1)
    for row in range(2):
        desk.lanes.withdraw(segment, row)
        segment.states[row] = DONE
    del desk.segments[segment.no]
    batch = desk.cut(0.0)
    assert batch is not None
    assert (batch.spans, batch.count, batch.line_bytes, batch.tokens) == ((), 0, 0, 0)
    following = desk.cut(10.0)
    assert following is not None
    assert following.spans == ((waits.no, 0, 1),)


def test_a_batch_that_is_full_by_bytes_at_a_run_of_rows_leaves_the_rest_in_order() -> None:
    desk = Lanes(file_bytes_max=2_000)
    segment = desk.push(900, 900, 300, 900, 900)
    desk.lanes.withdraw(segment, 2)
    segment.states[2] = DONE
    batches = [desk.cut(20.0) for _ in range(3)]
    assert [batch and batch.spans for batch in batches] == [((1, 0, 2),), ((1, 3, 5),), None]


def test_a_full_batch_takes_no_row_of_the_next_segment() -> None:
    desk = Lanes(batch_requests_max=2)
    desk.push(1, 1)
    desk.push(1, 1)
    batches = [desk.cut(0.0) for _ in range(3)]
    assert [batch and batch.spans for batch in batches] == [((1, 0, 2),), ((2, 0, 2),), None]


def test_a_deadline_at_the_very_end_of_the_linger_sends_the_lane_at_once() -> None:
    desk = Lanes()
    desk.push(1, at=5.0, deadlines=[15.0])
    assert desk.lanes.next_due() == 5.0
    later = Lanes()
    later.push(1, at=5.0, deadlines=[15.1])
    assert later.lanes.next_due() == 15.0


def test_what_waits_is_the_sum_over_all_lanes() -> None:
    desk = Lanes()
    desk.push(1, 1)
    other = desk.push(1, 1, 1, lane=OTHER_LANE)
    assert desk.lanes.requests == 5
    desk.lanes.withdraw(other, 1)
    assert desk.lanes.requests == 4


# -- segments


def test_a_segment_takes_rows_until_its_bytes_or_its_numbers_are_spent() -> None:
    desk = Desk(segment_bytes=8_192)
    segment = desk.engine.open_for(LANE, START)
    assert segment.fresh is not None
    segment.fresh.lines += bytes(8_191)
    assert not desk.engine.is_full(segment)
    segment.fresh.lines += b"\n"
    assert desk.engine.is_full(segment)
    segment.fresh.lines[1:], segment.keys = b"", ["k"] * (ROWS_MAX - 1)
    assert not desk.engine.is_full(segment)
    segment.keys.append("k")
    assert desk.engine.is_full(segment)


def test_what_waits_is_counted_over_segments_and_lanes_and_goes_to_nothing() -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit("a", size_bytes=60), desk.admit("b", size_bytes=70), desk.admit("c", size_bytes=80)]
    desk.wait()
    other = desk.admit("d", lane=OTHER_LANE, size_bytes=90)
    desk.wait()
    seen = []
    for place in (places[1], other, places[0], places[2]):
        desk.leave(place)
        desk.wait()
        stats = desk.engine.stats()
        seen.append((stats.waiting, stats.waiting_bytes))
    assert seen == [(3, 230), (2, 140), (1, 80), (0, 0)]


def test_a_segment_that_is_gone_does_not_keep_the_next_from_being_swept() -> None:
    desk = Desk(linger_s=100.0)
    place = desk.admit("a")
    desk.wait()
    desk.admit("b", lane=OTHER_LANE)
    desk.wait()
    desk.leave(place)
    desk.wait()
    desk.engine.book.sweep_segments([1, 2])
    assert only(desk.wait().writes, PutMarks).marks.no == 2


def test_each_step_is_a_list_of_its_own() -> None:
    desk = Desk()
    desk.admit("a")
    first = desk.wait()
    size = (len(first.writes), len(first.actions))
    second = desk.wait()
    assert (second.writes, second.actions) == ([], [])
    desk.admit("b")
    desk.wait(1.0)
    assert (len(first.writes), len(first.actions)) == size
    assert isinstance(first, Step)


# -- what goes by its age


def test_results_go_when_they_are_older_than_their_time_and_not_when_they_are_as_old() -> None:
    desk = Desk(keep_results_s=1_200.0)
    [place] = desk.fetching("a", key="k")
    desk.fetched(kept=[(place, b"x")])
    kept_at = desk.now
    desk.ended()
    assert every(desk.engine.tidy(kept_at + 1_200.0).writes, DropResults) == []
    assert only(desk.engine.tidy(kept_at + 1_201.0).writes, DropResults).numbers == [1]


def test_parked_requests_go_when_they_are_older_than_the_window_wherever_they_stand() -> None:
    desk = Desk(linger_s=HOUR, linger_max_s=HOUR, reuse_window_s=DAY)
    desk.admit("goes on", key="k")
    desk.wait()
    desk.admit("a", lane=OTHER_LANE)
    desk.admit("b", lane=OTHER_LANE)
    desk.wait()
    again = desk.restart()
    assert again.engine.stats().parked == 2
    assert every(again.engine.tidy(START + DAY).writes, DropSegments) == []
    assert again.engine.stats().parked == 2
    assert only(again.engine.tidy(START + DAY + 1.0).writes, DropSegments).numbers == [2]
    assert (again.engine.stats().parked, again.engine.stats().waiting) == (0, 1)


def test_after_a_restart_new_segments_follow_the_last_that_was_there() -> None:
    desk = Desk(linger_s=HOUR, linger_max_s=HOUR)
    for prompt in "abc":
        desk.admit(prompt, key=prompt)
        desk.wait()
    again = desk.restart()
    assert again.admit("d", key="d") == place_of(4, 0)
    again.wait()
    assert {prompt: again.engine.find(prompt)[1] for prompt in "abcd"} == {
        prompt: place_of(no, 0) for no, prompt in enumerate("abcd", 1)
    }


def test_a_new_process_takes_up_what_stands_behind_a_row_that_is_done() -> None:
    desk = Desk()
    places = [desk.admit("a"), desk.admit("b"), desk.admit("c", key="k")]
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    desk.fetched(places[0])
    desk.ended()
    again = desk.restart()
    assert again.engine.find("k")[1] == places[2]
    assert again.adopt("b")[1] == places[1]


def test_only_segments_without_rows_or_jobs_are_dropped_at_the_opening() -> None:
    desk = Desk(linger_s=HOUR, linger_max_s=HOUR)
    desk.admit("waits", key="k")
    desk.wait()
    again = desk.restart()
    assert every(again.opened.writes, DropSegments) == []
    assert every(again.opened.writes, PutMarks) == []
    assert again.engine.find("k")[1] == place_of(1, 0)


def test_the_engine_looks_for_what_is_too_old_at_its_first_step_and_then_every_ten_minutes() -> None:
    desk = Desk(now=0.5)
    assert questions(desk.wait()) == []
    desk.admit("a", key="k")
    assert only(desk.wait().actions, Create).job.count == 1
    desk.created()
    assert desk.engine._next_expiry == 600.5
