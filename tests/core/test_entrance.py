"""The entrance: taking requests in, joining what is there, and leaving."""

from __future__ import annotations

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import (
    Create,
    Deliver,
    DropResults,
    DropSegments,
    Forget,
    PutResults,
    PutSegment,
    PutTaken,
    Undelivered,
)
from carpool._core.model import ROW_BITS, place_of

from .desk import LANE, OTHER_LANE, START, Desk, digest_of, error, every, only, questions

HOUR = 3_600.0
DAY = 24 * HOUR


# -- taking in


def test_a_request_is_written_by_the_next_step_whatever_it_is_about() -> None:
    desk = Desk()
    place = desk.admit("a", key="k", tokens=7, deadline=START + 5)
    put = only(desk.wait().writes, PutSegment)
    assert b"".join(put.lines) == b"a" + b"." * 48 + b"\n"
    assert (put.head.keys, put.head.flags, put.head.lane, put.head.accepted_at) == (["k"], b"\1", LANE, START)
    assert place == place_of(put.head.no, 0)


def test_requests_of_one_lane_share_a_segment_and_others_do_not() -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit("a"), desk.admit("b"), desk.admit("c", lane=OTHER_LANE), desk.admit("d")]
    assert [place >> ROW_BITS for place in places] == [1, 1, 2, 1]
    assert len(every(desk.wait().writes, PutSegment)) == 2
    assert desk.admit("e") >> ROW_BITS == 3


def test_a_full_segment_is_spilled_before_the_next_step() -> None:
    desk = Desk(segment_bytes=4_096, linger_s=100.0)
    desk.admit("a", size_bytes=4_000)
    assert desk.disk.segments == {}
    desk.admit("b", size_bytes=96)
    assert list(desk.disk.segments) == [1]
    desk.admit("c")
    assert [put.head.no for put in every(desk.wait().writes, PutSegment)] == [2]
    assert desk.engine.stats().waiting == 3


def test_deadlines_are_written_for_a_segment_where_any_row_has_one() -> None:
    desk = Desk(linger_s=100.0)
    desk.admit("a")
    desk.admit("b", deadline=START + 9)
    desk.admit("c")
    desk.wait()
    segment, _ = desk.restart().engine.book.at(place_of(1, 0))
    assert segment is not None
    assert list(segment.deadlines) == [float("inf"), START + 9, float("inf")]


def test_automatic_keys_tell_their_digest_and_never_repeat() -> None:
    desk = Desk()
    keys = [desk.engine.new_key(digest_of("a")) for _ in range(3)]
    assert len(set(keys)) == 3
    assert all(bytes.fromhex(key[1:33]) == digest_of("a") for key in keys)


def test_identical_live_calls_are_requests_of_their_own() -> None:
    desk = Desk()
    desk.admit("a")
    assert not desk.engine.has_abandoned
    assert desk.adopt("a")[0] is Claim.NEW


# -- explicit keys


def test_a_key_in_flight_is_joined_and_with_another_request_a_conflict() -> None:
    desk = Desk()
    assert desk.claim("k", "a") == (Claim.NEW, 0)
    place = desk.admit("a", key="k")
    for _ in range(3):
        assert desk.claim("k", "a") == (Claim.LIVE, place)
        assert desk.claim("k", "b") == (Claim.CONFLICT, place)
        desk.wait(1.0)


def test_a_key_that_was_answered_gives_what_is_stored_as_long_as_it_is_kept() -> None:
    desk = Desk(keep_results_s=2 * DAY)
    [place] = desk.fetching("a", key="k")
    desk.fetched(kept=[(place, b"answer")])
    desk.ended()
    kept = place_of(1, 0)
    assert desk.claim("k", "a") == (Claim.KEPT, kept) == desk.engine.find("k")
    assert desk.claim("k", "b") == (Claim.CONFLICT, kept)
    desk.now += 2 * DAY + 1
    assert desk.claim("k", "a")[0] is Claim.NEW
    assert only(desk.wait().writes, DropResults).numbers == [1]


def test_a_key_whose_result_is_an_error_may_be_tried_again_with_any_request() -> None:
    desk = Desk()
    [place] = desk.fetching("a", key="k")
    desk.fetched(failed=[(place, error(400, "bad"))])
    assert desk.engine.find("k")[0] is Claim.KEPT
    assert desk.claim("k", "b") == (Claim.NEW, 0)
    assert desk.engine.find("k")[0] is Claim.NEW
    step = desk.ended()
    assert only(step.writes, DropResults).numbers == [1]


def test_the_error_of_one_key_goes_and_the_answers_stored_with_it_stay() -> None:
    desk = Desk()
    for prompt in "ab":
        desk.admit(prompt, key=prompt)
    desk.wait()
    places = list(desk.engine.fetch_index(desk.job.id).values())
    desk.refused(404, "no such model")
    assert desk.claim("a", "a")[0] is Claim.NEW
    assert only(desk.wait().writes, PutTaken).taken.rows == b"\1\0"
    assert desk.engine.find("b")[0] is Claim.KEPT
    again = desk.restart()
    assert (again.engine.find("a")[0], again.engine.find("b")[0]) == (Claim.NEW, Claim.KEPT)
    assert len(places) == 2


def test_a_key_claimed_again_while_its_job_is_open_does_not_come_back_after_a_crash() -> None:
    desk = Desk()
    for prompt in "ab":
        desk.admit(prompt, key=prompt)
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    places = list(desk.engine.fetch_index(desk.job.id).values())
    desk.fetched(failed=[(places[0], error(400))])
    assert desk.claim("a", "a")[0] is Claim.NEW
    again_place = desk.admit("a", key="a")
    desk.wait()
    again = desk.restart()
    assert again.claim("a", "a") == (Claim.LIVE, again_place)
    assert places[0] not in again.engine.fetch_index(next(job.id for job in again.jobs if job.name)).values()


def test_a_key_that_could_not_be_sent_goes_when_it_is_asked_for() -> None:
    for ask in ("claim", "find"):
        desk = Desk()
        place = desk.admit("a", key="k")
        desk.wait()
        desk.refused(401)
        assert questions(desk.wait(HOUR)) == []
        assert (desk.claim("k", "a") if ask == "claim" else desk.engine.find("k")) == (Claim.LIVE, place)
        assert questions(desk.wait(1.0)) == [Create]


def test_a_ticket_that_could_not_be_sent_is_tried_again_by_itself() -> None:
    desk = Desk()
    desk.admit("a", key="k", ticket=True)
    desk.wait()
    desk.refused(401)
    assert desk.engine.stats().parked == 1
    assert questions(desk.wake()) == [Create]
    assert desk.now - START <= 600.0


# -- abandoned requests


def test_a_caller_that_leaves_while_its_request_waits_takes_it_out() -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit("a"), desk.admit("b", key="k"), desk.admit("c", key="t", ticket=True)]
    desk.leave(*places)  # before the first step: they are written all the same, and dropped in the same commit
    step = desk.wait()
    assert desk.engine.stats().waiting == 1
    assert desk.engine.find("k")[0] is Claim.NEW
    assert only(desk.wait(100.0).actions, Create).job.count == 1
    assert every(step.actions, Forget) == []


def test_a_segment_whose_callers_all_left_is_dropped() -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit("a"), desk.admit("b")]
    desk.wait()
    desk.leave(*places)
    step = desk.wait()
    assert (only(step.writes, DropSegments).numbers, only(step.actions, Forget).numbers) == ([1], [1])
    assert desk.disk.segments == {}


def test_segments_that_are_gone_are_swept_without_a_trace() -> None:
    desk = Desk()
    desk.engine.book.sweep_segments([7, 8])
    assert desk.wait().writes == []


def test_a_job_has_no_row_beyond_its_last() -> None:
    desk = Desk()
    desk.running("a", "b")
    with pytest.raises(IndexError):
        desk.engine.book.place_in(desk.job, 2)


def test_leaving_twice_or_after_the_end_changes_nothing() -> None:
    desk = Desk()
    [place] = desk.abandoned("a")
    desk.leave(place)
    assert desk.adopt("a") == (Claim.LIVE, place)
    assert desk.adopt("a")[0] is Claim.NEW
    desk.wake()
    desk.polled()
    desk.fetched(place)
    desk.ended()
    desk.leave(place)
    assert desk.wait().actions == []


def test_what_was_sent_is_offered_to_identical_calls_oldest_first() -> None:
    desk = Desk()
    first = desk.abandoned("a", "a", "b")
    assert [desk.adopt("a") for _ in range(3)] == [(Claim.LIVE, first[0]), (Claim.LIVE, first[1]), (Claim.NEW, 0)]
    assert desk.engine.stats().reused == 2


def test_explicit_keys_are_never_adopted_and_go_on_when_their_callers_leave() -> None:
    desk = Desk()
    [place] = desk.running("a", key="k")
    desk.leave(place)
    assert desk.adopt("a")[0] is Claim.NEW
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"x")])
    assert desk.engine.find("k")[0] is Claim.KEPT


def test_an_abandoned_request_older_than_the_window_is_not_adopted() -> None:
    desk = Desk(reuse_window_s=HOUR)
    desk.abandoned("a")
    desk.now += HOUR + 1
    assert desk.adopt("a")[0] is Claim.NEW


def test_an_abandoned_request_that_ended_is_not_adopted() -> None:
    desk = Desk()
    [place] = desk.abandoned("a")
    desk.engine.book.keys.abandon(digest_of("a"), START, place_of(99, 0), kept=False)  # of a segment that is gone
    desk.wake()
    desk.polled()
    desk.fetched(place)
    desk.engine.book.keys.abandon(digest_of("a"), START, place, kept=False)
    assert desk.adopt("a")[0] is Claim.NEW


def test_an_answer_for_nobody_is_stored_and_adopted_once() -> None:
    desk = Desk()
    [place] = desk.abandoned("a")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"answer")])
    desk.ended()
    assert desk.adopt("a") == (Claim.KEPT, place_of(1, 0))
    assert desk.adopt("a")[0] is Claim.NEW
    desk.engine.took(place_of(1, 0))
    assert only(desk.wait().writes, DropResults).numbers == [1]
    desk.engine.took(place_of(1, 0))
    assert desk.wait().writes == []


def test_an_answer_is_taken_once_and_goes_with_the_last_of_its_record() -> None:
    desk = Desk()
    places = desk.abandoned("a", "b")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"answer") for place in places])
    for _ in range(2):
        desk.engine.took(place_of(1, 0))
    assert only(desk.wait().writes, PutTaken).taken.rows == b"\1\0"
    desk.engine.took(place_of(1, 1))
    assert only(desk.wait().writes, DropResults).numbers == [1]


def test_an_answer_that_its_adopter_did_not_take_is_offered_again() -> None:
    desk = Desk()
    [place] = desk.abandoned("a")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"answer")])
    _, kept = desk.adopt("a")
    desk.engine.offer_again(kept)
    assert desk.adopt("a") == (Claim.KEPT, kept)
    desk.engine.took(kept)
    desk.engine.offer_again(kept)
    assert desk.adopt("a")[0] is Claim.NEW


def knows(desk: Desk, prompt: str, key: str | None = None) -> bool:
    """Ask twice what would be sent: asking must not change the answer."""
    first, second = (desk.engine.knows(key, digest_of(prompt), desk.now) for _ in range(2))
    assert first is second
    return first


def test_an_explicit_key_is_known_from_its_first_call_to_the_end_of_its_result() -> None:
    desk = Desk(keep_results_s=1_000.0)
    assert not knows(desk, "a", "k")
    [place] = desk.fetching("a", key="k")
    assert knows(desk, "a", "k")
    desk.fetched(kept=[(place, b"answer")])
    desk.ended()
    assert knows(desk, "a", "k")
    assert not knows(desk, "a")
    desk.now += 1_001.0
    assert not knows(desk, "a", "k")


def test_a_key_whose_result_is_an_error_is_not_known_since_it_may_be_tried_again() -> None:
    desk = Desk()
    [place] = desk.fetching("a", key="k")
    desk.fetched(failed=[(place, error(3, "bad"))])
    desk.ended()
    assert not knows(desk, "a", "k")


def test_a_bare_request_is_known_while_it_could_be_adopted() -> None:
    desk = Desk(reuse_window_s=1_000.0)
    [place] = desk.running("a")
    assert not knows(desk, "a")
    desk.leave(place)
    assert knows(desk, "a")
    assert not knows(desk, "b")
    desk.now += 1_001.0
    assert not knows(desk, "a")
    assert desk.adopt("a")[0] is Claim.NEW


def test_a_bare_request_is_known_by_its_stored_answer_and_not_by_one_that_ended_without() -> None:
    desk = Desk()
    [place] = desk.abandoned("a")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"answer")])
    desk.ended()
    assert knows(desk, "a")
    desk.engine.book.keys.abandon(digest_of("b"), START, place, kept=False)
    assert not knows(desk, "b")
    assert desk.adopt("b")[0] is Claim.NEW


def test_tidying_drops_what_is_past_its_time_and_sends_nothing() -> None:
    desk = Desk(keep_results_s=1_000.0)
    [place] = desk.fetching("a", key="k")
    desk.fetched(kept=[(place, b"answer")])
    desk.ended()
    desk.admit("waits", key="waits")
    early = desk.engine.tidy(desk.now)
    assert early.actions == []
    assert every(early.writes, DropResults) == []
    late = desk.engine.tidy(desk.now + 2_000.0)
    assert only(late.writes, DropResults).numbers == [1]
    assert late.actions == []
    assert not desk.jobs


def test_an_explicit_answer_is_never_offered() -> None:
    desk = Desk()
    [place] = desk.fetching("a", key="k")
    desk.fetched(kept=[(place, b"answer")])
    desk.engine.offer_again(place_of(1, 0))
    assert desk.adopt("a")[0] is Claim.NEW


def handed(desk: Desk) -> int:
    """Store an answer that goes to somebody who adopted the request in flight."""
    [place] = desk.abandoned("a")
    assert desk.adopt("a") == (Claim.LIVE, place)
    desk.wake()
    desk.polled()
    step = desk.fetched(kept=[(place, b"answer")])
    assert only(step.actions, Deliver).rows == [(place, b"answer")]
    return place


def test_an_answer_that_goes_to_its_adopter_is_not_offered_to_others_too() -> None:
    desk = Desk()
    handed(desk)
    assert desk.adopt("a")[0] is Claim.NEW
    assert only(desk.wait(601.0).writes, DropResults).numbers == [1]


def test_an_answer_whose_adopter_left_in_that_moment_is_offered_again() -> None:
    desk = Desk()
    place = handed(desk)
    desk.ended()
    desk.leave(place)
    assert desk.adopt("a") == (Claim.KEPT, place_of(1, 0))


def test_an_answer_whose_adopter_was_cancelled_in_that_moment_is_offered_once_and_after_a_restart_too() -> None:
    desk = Desk()
    place = handed(desk)
    rows = [(place, "key", digest_of("a"), b"answer")]
    assert every(desk.tell(Undelivered(rows, LANE, "batches/1")).writes, PutResults) == []
    assert [desk.adopt("a") for _ in range(2)] == [(Claim.KEPT, place_of(1, 0)), (Claim.NEW, 0)]
    again = desk.restart()
    assert [again.adopt("a") for _ in range(2)] == [(Claim.KEPT, place_of(1, 0)), (Claim.NEW, 0)]


def test_after_a_crash_an_answer_that_was_being_handed_over_is_offered() -> None:
    desk = Desk()
    handed(desk)
    assert desk.restart().adopt("a") == (Claim.KEPT, place_of(1, 0))


def test_an_answer_handed_over_late_goes_with_the_others_of_its_time() -> None:
    desk = Desk(reuse_window_s=0.0)
    handed(desk)
    assert only(desk.wait(599.0).writes, DropResults).numbers == [1]
    assert desk.engine.book.handed == {}


def test_only_keys_of_which_something_is_known_have_to_be_claimed() -> None:
    desk = Desk(linger_s=100.0)
    desk.admit("a", key="k")
    late = desk.admit("b", key="late", deadline=START + 5)
    assert desk.engine.has_claims("k")
    assert not desk.engine.has_claims("other")
    desk.now = START + 6
    desk.leave(late)  # its verdict is told to whoever asks for any key next
    assert desk.engine.has_claims("other")
    desk.wake()
    assert desk.engine.has_claims("late")
    assert not desk.engine.has_claims("other")
