"""What is said of one row, one record or one job of many concerns no other."""

from __future__ import annotations

from typing import Any

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import Broken, Closing, Create, DropResults, PutResults, PutTaken, Upload
from carpool._core.model import DONE, SENT, JobState, Place, place_of

from .desk import LANE, OTHER_LANE, Desk, digest_of, error, every, only, questions

HOUR = 3_600.0
PROMPTS = ("a", "b", "c")


def answered(*prompts: str, **settings: Any) -> Desk:
    """Return a desk with the answers of explicit keys in one record."""
    desk = Desk(**settings)
    places = [desk.admit(prompt, key=prompt) for prompt in prompts]
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, prompt.encode()) for place, prompt in zip(places, prompts, strict=True)])
    desk.ended()
    return desk


def offered(*prompts: str, **settings: Any) -> Desk:
    """Return a desk with the answers of calls that are gone in one record."""
    desk = Desk(**settings)
    places = desk.abandoned(*prompts)
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, prompt.encode()) for place, prompt in zip(places, prompts, strict=True)])
    desk.ended()
    return desk


# -- results stored together


def test_each_key_of_a_record_is_held_to_its_own_request() -> None:
    desk = answered(*PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        for asked in PROMPTS:
            claim = Claim.KEPT if asked == prompt else Claim.CONFLICT
            assert desk.claim(prompt, asked) == (claim, place_of(1, row))


def test_each_answer_of_a_record_is_adopted_by_its_own_request() -> None:
    desk = offered(*PROMPTS)
    for row, prompt in reversed(list(enumerate(PROMPTS))):
        assert desk.adopt(prompt) == (Claim.KEPT, place_of(1, row))
        assert desk.adopt(prompt)[0] is Claim.NEW
    assert not desk.engine.has_abandoned


def test_when_a_record_goes_nothing_leads_to_any_row_of_it() -> None:
    desk = offered(*PROMPTS, reuse_window_s=HOUR)
    assert desk.engine.has_abandoned
    assert only(desk.wait(HOUR + 601.0).writes, DropResults).numbers == [1]
    assert not desk.engine.has_abandoned


def test_a_record_goes_with_what_was_noted_of_it() -> None:
    desk = offered("a", "b")
    for row in range(2):
        assert desk.engine.book.taken.keys() == ({1} if row else set())
        desk.engine.took(place_of(1, row))
    assert only(desk.wait().writes, DropResults).numbers == [1]
    assert desk.engine.book.taken == {}


def test_what_is_taken_of_one_record_is_not_taken_of_another() -> None:
    desk = offered("a", "b")
    places = desk.abandoned("c", "d")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"x") for place in places])
    desk.ended()
    desk.engine.took(place_of(1, 0))
    desk.engine.took(place_of(2, 0))
    taken = {put.taken.no: put.taken.rows for put in every(desk.wait().writes, PutTaken)}
    assert taken == {1: b"\1\0", 2: b"\1\0"}
    desk.engine.took(place_of(2, 1))
    assert only(desk.wait().writes, DropResults).numbers == [2]


def test_after_a_restart_the_answers_that_were_not_taken_are_offered_until_the_last_is_taken() -> None:
    desk = offered("a", "b", "c", "d")
    for row in (1, 2):
        desk.engine.took(place_of(1, row))
    desk.wait()
    again = desk.restart()
    assert [again.adopt(prompt)[0] for prompt in "bc"] == [Claim.NEW, Claim.NEW]
    assert [again.adopt(prompt) for prompt in "ad"] == [(Claim.KEPT, place_of(1, row)) for row in (0, 3)]
    again.engine.took(place_of(1, 3))
    assert only(again.wait().writes, PutTaken).taken.rows == b"\0\1\1\1"
    again.engine.took(place_of(1, 0))
    assert only(again.wait().writes, DropResults).numbers == [1]


def test_after_a_restart_a_key_whose_stored_error_was_taken_back_leads_nowhere_and_the_next_does() -> None:
    desk = Desk()
    for prompt in PROMPTS:
        desk.admit(prompt, key=prompt)
    desk.wait()
    desk.refused(404, "no such model")
    assert desk.claim("b", "b")[0] is Claim.NEW
    desk.wait()
    again = desk.restart()
    assert [again.engine.find(prompt)[0] for prompt in PROMPTS] == [Claim.KEPT, Claim.NEW, Claim.KEPT]


# -- rows of one segment


def test_of_a_segment_sent_in_parts_each_job_fetches_its_own_rows() -> None:
    desk = Desk(batch_requests_max=2)
    places = [desk.admit(prompt) for prompt in "abcdef"]
    desk.wait()
    index = [list(desk.engine.fetch_index(job.id).values()) for job in desk.jobs]
    assert index == [places[:2], places[2:4], places[4:]]


def test_answered_rows_are_not_fetched_again_whatever_stands_before_or_after_them() -> None:
    desk = Desk(batch_requests_max=2, jobs_max=3)
    places = [desk.admit(prompt) for prompt in "abcdef"]
    desk.wait()
    for number, job in enumerate(desk.jobs):
        desk.created(f"batches/{number}", job)
    middle = desk.jobs[1]
    desk.wake()
    desk.polled(job=middle)
    desk.fetched(places[3], job=middle)
    assert list(desk.engine.fetch_index(middle.id).values()) == [places[2]]
    keys = desk.engine.fetch_index(middle.id)
    assert list(keys) == [desk.engine.book.key_at(places[2])]
    assert [len(desk.engine.fetch_index(job.id)) for job in desk.jobs] == [2, 1, 2]


def test_only_the_rows_of_a_broken_job_are_stalled() -> None:
    desk = Desk(batch_requests_max=2)
    places = [desk.admit(prompt) for prompt in "abcdef"]
    others = [desk.admit(prompt, lane=OTHER_LANE) for prompt in "abcd"]
    desk.wait()
    job = next(job for job in desk.jobs if job.lane == LANE and job.spans == ((1, 2, 4),))
    desk.tell(Broken(job.id, job.op, "a bug of ours"))
    assert [desk.engine.is_stalled(place) for place in places] == [False, False, True, True, False, False]
    assert not any(desk.engine.is_stalled(place) for place in others)


def test_closing_withdraws_what_waits_behind_what_was_sent() -> None:
    desk = Desk(jobs_max=1)
    desk.admit("sent")
    desk.wait()
    desk.admit("a")
    desk.wait()
    assert desk.engine.stats().waiting == 1
    desk.tell(Closing(send=False))
    assert (desk.engine.stats().waiting, len(desk.jobs)) == (0, 1)


def test_what_could_not_be_sent_leaves_its_neighbours_to_their_own_jobs() -> None:
    desk = Desk(batch_requests_max=2)
    places = [desk.admit(prompt, key=prompt) for prompt in "abcdef"]
    desk.wait()
    middle = desk.jobs[1]
    desk.refused(401, job=middle)
    states = [segment.states[row] for segment, row in map(desk.engine.book.at, places) if segment is not None]
    assert [state == SENT for state in states] == [True, True, False, False, True, True]


# -- several segments in one job


def two_segments() -> tuple[Desk, list[Place]]:
    """Return a desk whose only job holds rows of two segments, after a refusal for quota."""
    desk = Desk(linger_s=50.0, linger_max_s=50.0, quota_retry_min_s=100.0)
    places = [desk.admit(prompt) for prompt in "ab"]
    desk.wait()
    places += [desk.admit(prompt) for prompt in "cd"]
    desk.wait(50.0)
    assert desk.job.spans == ((1, 0, 2), (2, 0, 2))
    desk.refused(429)
    return desk, places


def test_a_job_that_loses_a_segment_lets_go_of_that_one_only() -> None:
    desk, places = two_segments()
    desk.leave(places[0], places[1])
    create = only(desk.wake().actions, Create)
    assert (create.job.spans, create.job.count, create.job.tokens, create.job.line_bytes) == (((2, 0, 2),), 2, 2, 100)
    jobs = {no: segment.jobs for no, segment in desk.engine.book.segments.items()}
    assert jobs == {1: 0, 2: 1}
    desk.created()
    desk.wake()
    desk.polled()
    desk.fetched(*places[2:])
    desk.ended()
    assert sorted(desk.engine.book.segments) == [1]


def test_a_job_that_loses_some_rows_of_each_segment_holds_on_to_both() -> None:
    desk, places = two_segments()
    desk.leave(places[0], places[3])
    create = only(desk.wake().actions, Create)
    assert create.job.spans == ((1, 1, 2), (2, 0, 1))
    assert {no: segment.jobs for no, segment in desk.engine.book.segments.items()} == {1: 1, 2: 1}


# -- groups


def test_halves_of_what_was_too_large_inline_go_as_files_too() -> None:
    desk = Desk()
    for prompt in PROMPTS:
        desk.admit(prompt)
    desk.wait()
    desk.refused(413)
    assert desk.job.state is JobState.UPLOADING
    desk.uploaded()
    assert questions(desk.refused(400, "invalid", "INVALID_ARGUMENT")) == [Upload, Upload]


# -- offers of different age


def test_an_offer_that_is_too_old_does_not_stand_before_a_younger_one() -> None:
    desk = Desk(reuse_window_s=HOUR)
    old = desk.running("a")
    desk.now += HOUR
    young = desk.admit("a")
    desk.wait(1.0)
    desk.created("batches/2", desk.jobs[1])
    desk.leave(*old, young)
    assert desk.adopt("a") == (Claim.LIVE, young)


def test_an_offer_whose_request_ended_does_not_stand_before_one_that_goes_on() -> None:
    desk = Desk()
    [ended, live] = desk.running("a", "a")
    desk.wake()
    desk.polled()
    desk.fetched(ended)
    desk.engine.book.keys.abandon(digest_of("a"), desk.now - HOUR, ended, kept=False)
    desk.leave(live)
    segment, row = desk.engine.book.at(ended)
    assert segment is not None
    assert segment.states[row] == DONE
    assert desk.adopt("a") == (Claim.LIVE, live)


# -- several jobs


def test_jobs_that_fail_together_do_not_come_back_together() -> None:
    desk = Desk(batch_requests_max=1)
    for prompt in "abcd":
        desk.admit(prompt)
    desk.wait()
    for job in desk.jobs:
        desk.failed("not_sent", job=job)
    assert len({job.wake_at for job in desk.jobs}) == 4


@pytest.mark.parametrize("code", [429, 500, 400])
def test_a_download_that_is_refused_for_another_reason_does_not_mean_that_the_output_is_gone(code: int) -> None:
    desk = Desk(output_grace_s=0.0, attempts_max=1)
    desk.fetching("a")
    step = desk.refused(code)
    assert (step.writes, step.actions, desk.job.state) == ([], [], JobState.RUNNING)


def test_reuse_is_counted_once_for_each_call_that_was_spared() -> None:
    desk = answered("a", "b")
    for number in range(1, 4):
        assert desk.claim("a", "a")[0] is Claim.KEPT
        assert desk.engine.stats().reused == number
    spared = offered("c", "d", "e")
    for number, prompt in enumerate("cde", 1):
        assert spared.adopt(prompt)[0] is Claim.KEPT
        assert spared.engine.stats().reused == number


def test_verdicts_of_one_kind_are_told_together_and_counted_each() -> None:
    desk = Desk(attempts_max=1)
    places = [desk.admit(prompt, key=prompt) for prompt in PROMPTS]
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    faults = [(places[0], error(400, "x")), (places[1], error(400, "y")), (places[2], error(400, "x"))]
    step = desk.fetched(failed=faults)
    assert only(step.writes, PutResults).head.places == [places[0], places[2], places[1]]
    assert desk.engine.stats().failed == 3
