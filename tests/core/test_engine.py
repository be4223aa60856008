"""Deadlines, retention, closing, snapshots, and when to ask again."""

from __future__ import annotations

import msgspec
import pytest

from carpool._core.keys import Claim
from carpool._core.messages import (
    Call,
    Closing,
    Create,
    DropResults,
    DropSegments,
    Expire,
    Fail,
    Flushed,
    Forget,
    Woken,
)
from carpool._core.model import ROW_BITS, Failure

from .desk import OTHER_LANE, START, Desk, error, every, only, questions

HOUR = 3_600.0
DAY = 24 * HOUR


# -- time


def test_a_deadline_is_told_once_and_in_time() -> None:
    desk = Desk(linger_s=100.0, linger_max_s=100.0)
    place = desk.admit("a", deadline=START + 30_000)
    desk.wait(100.0)
    desk.created()
    desk.engine.set_deadline(place, START + 50.0)
    assert desk.engine.next_wakeup() == START + 50.0
    assert only(desk.wait().actions, Expire) == Expire(place, START + 50.0)
    desk.now = START + 30_000
    assert every(desk.wait().actions, Expire) == [Expire(place, START + 30_000)]


def test_the_deadline_of_a_request_that_ended_is_not_told() -> None:
    desk = Desk()
    place = desk.admit("a", deadline=START + 1_000)
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    desk.fetched(place)
    assert every(desk.wait(1_000.0).actions, Expire) == []
    desk.ended()
    desk.engine.set_deadline(place, desk.now + 5)
    assert every(desk.wait(10.0).actions, Expire) == []


def test_deadlines_of_what_ended_are_forgotten_in_time() -> None:
    desk = Desk()
    place = desk.admit("a", deadline=START + DAY)
    waiting = desk.admit("b", lane=OTHER_LANE, deadline=START + DAY)
    desk.wait(1.0)
    desk.leave(waiting)
    desk.created(job=desk.jobs[0])
    desk.created(job=desk.jobs[1])
    desk.wait(601.0)
    assert sorted(desk.engine.book.deadlines) == [(START + DAY, place), (START + DAY, waiting)]
    desk.polled(job=desk.jobs[0])
    desk.fetched(place, job=desk.jobs[0])
    desk.wait(601.0)
    assert desk.engine.book.deadlines == [(START + DAY, waiting)]


def test_overdue_tickets_that_wait_are_withdrawn_when_nobody_is_left() -> None:
    desk = Desk(linger_s=100.0, linger_max_s=100.0, jobs_max=1)
    desk.admit("other", lane=OTHER_LANE)
    desk.wait(100.0)
    place = desk.admit("a", key="k", ticket=True, deadline=desk.now + 50)
    desk.wait()
    desk.leave(place)
    assert desk.engine.find("k")[0] is Claim.LIVE
    desk.wait(50.0)
    assert not desk.engine.has_failed("k")
    desk.leave(place)
    assert desk.engine.has_failed("k")
    assert desk.engine.stats().waiting == 0
    assert withdrawn(desk, "k") == ("", START + 150.0)
    desk.wait()
    again = desk.restart()
    assert again.engine.stats().waiting == 0
    assert withdrawn(again, "k") == ("", START + 150.0)
    assert again.claim("k", "b")[0] is Claim.NEW, "it may be tried again, with another request too"


def withdrawn(desk: Desk, key: str) -> tuple[str, float]:
    """Return what is told of a key that was withdrawn at its deadline, beside that, and when it was."""
    claim, place = desk.engine.find(key)
    assert claim is Claim.KEPT
    desk.wait()
    verdict = msgspec.json.decode(desk.disk.result(place, ROW_BITS), type=Failure)
    assert verdict.kind == "overdue"
    return verdict.error.message, desk.engine.book.results[place >> ROW_BITS].kept_at


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("key", ["k", None])
def test_a_key_whose_deadline_passes_between_two_tries_is_not_forgotten(key: str | None, own: bool) -> None:
    desk = Desk(attempts_max=9)
    place = desk.admit(key=key, ladder=("standard",), deadline=START + 60.0 if own else None)
    desk.shed(only(desk.wait().actions, Call))
    desk.now = START + 60.0
    desk.engine.leave(place, desk.now, late=not own)
    if key is not None:
        assert withdrawn(desk, key) == ("", START + 60.0)
        assert desk.claim(key)[0] is Claim.NEW
    assert every(desk.wait(600.0).actions, Call) == []
    assert (desk.disk.segments, desk.engine.idle) == ({}, True)


def test_a_key_that_is_asked_again_in_the_turn_of_its_deadline_is_new() -> None:
    desk = Desk()
    place = desk.admit(key="k", ladder=("standard",), deadline=START + 60.0)
    desk.shed(only(desk.wait().actions, Call))
    desk.now = START + 60.0
    desk.leave(place)
    assert desk.claim("k")[0] is Claim.NEW
    again = desk.admit(key="k", ladder=("standard",))
    call = only(desk.wait(60.0).actions, Call)
    assert call.places == [again]
    assert not desk.engine.has_failed("k")
    desk.answered(call, kept=[(again, b"body")])
    assert not desk.engine.has_failed("k")
    assert desk.restart().claim("k")[0] is Claim.KEPT


def test_what_forbade_to_send_a_key_in_time_is_told_to_whoever_asks_for_it_later() -> None:
    desk = Desk()
    place = desk.admit(key="k", ladder=("standard",), deadline=START + 60.0)
    desk.shed(only(desk.wait().actions, Call))
    desk.engine.book.held_back[place] = "no money"
    desk.now = START + 60.0
    desk.leave(place)
    assert withdrawn(desk, "k") == ("no money", START + 60.0)


def test_overdue_requests_that_could_not_be_sent_end_when_nobody_is_left() -> None:
    desk = Desk()
    place = desk.admit("a", key="k", deadline=START + 50)
    desk.wait()
    desk.refused(401)
    desk.leave(place)
    assert desk.engine.stats().parked == 1
    desk.wait(50.0)
    desk.leave(place)
    desk.wait()
    assert (desk.engine.stats().parked, desk.disk.segments) == (0, {})


def test_results_are_kept_for_their_time_and_then_dropped_with_their_keys() -> None:
    desk = Desk(keep_results_s=2 * DAY, reuse_window_s=DAY)
    named = desk.running("a", key="k")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(named[0], b"x")])
    desk.ended()
    bare = desk.abandoned("b")
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(bare[0], b"y")])
    desk.ended()
    assert every(desk.wait(DAY - 60.0).writes, DropResults) == []
    assert only(desk.wait(660.0).writes, DropResults).numbers == [2]
    assert (desk.adopt("b")[0], desk.engine.find("k")[0]) == (Claim.NEW, Claim.KEPT)
    assert only(desk.wait(DAY + 600.0).writes, DropResults).numbers == [1]
    assert desk.engine.find("k")[0] is Claim.NEW
    assert desk.engine.next_wakeup() == desk.engine.book.census.wake_at


def test_parked_requests_expire_unclaimed_but_explicit_ones_stay() -> None:
    desk = Desk(linger_s=100.0, reuse_window_s=DAY)
    desk.admit("a")
    desk.admit("b", key="k")
    desk.wait()
    again = desk.restart()
    again.wait(100.0)
    again.refused(401)
    assert again.engine.stats().parked == 2
    again.wait(DAY)
    assert (again.engine.stats().parked, again.adopt("a")[0]) == (1, Claim.NEW)
    assert again.engine.find("k")[0] is Claim.LIVE


def test_an_engine_with_nothing_in_it_waits_for_nothing() -> None:
    desk = Desk()
    desk.wait()
    assert desk.engine.next_wakeup() is None
    assert desk.engine.idle
    assert not desk.engine.unsent


def test_the_engine_asks_to_be_woken_when_a_lane_is_ripe() -> None:
    desk = Desk(linger_s=7.0)
    desk.wait()
    desk.admit("a")
    desk.wait()
    assert desk.engine.next_wakeup() == START + 7.0
    waits = desk.engine.unsent, desk.engine.idle
    desk.wait(7.0)
    is_created = desk.engine.unsent, desk.engine.idle
    desk.created()
    assert (waits, is_created) == ((True, False), (True, False))
    assert (desk.engine.unsent, desk.engine.idle) == (False, False)


def test_a_flush_sends_what_waits() -> None:
    desk = Desk(linger_s=100.0)
    desk.admit("a")
    assert questions(desk.tell(Flushed())) == [Create]


def test_no_more_jobs_than_allowed_run_at_once() -> None:
    desk = Desk(jobs_max=2, batch_requests_max=1)
    for prompt in "abcde":
        desk.admit(prompt)
    assert questions(desk.wait()) == [Create, Create]
    assert questions(desk.wait(HOUR)) == []
    assert every(desk.refused(404, job=desk.jobs[0]).actions, Create) != []
    assert len(desk.jobs) == 2


# -- closing


@pytest.mark.parametrize("send", [True, False])
def test_closing_withdraws_bare_awaits_and_sends_or_leaves_the_rest(send: bool) -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit("a"), desk.admit("b", key="k"), desk.admit("c", lane=OTHER_LANE)]
    desk.wait()
    step = desk.tell(Closing(send=send))
    assert bool(every(step.actions, Create)) is send
    assert desk.engine.stats().waiting == (0 if send else 1)
    assert only(step.writes, DropSegments).numbers == [places[2] >> ROW_BITS]
    assert every(step.actions, Forget) == []  # their callers still wait to be told
    assert desk.restart().engine.stats().parked == 0


def test_closing_leaves_what_is_under_way_alone() -> None:
    desk = Desk()
    desk.running("a")
    step = desk.tell(Closing(send=True))
    assert (step.writes, step.actions, len(desk.jobs)) == ([], [], 1)


def test_after_closing_no_segment_is_forgotten_under_a_caller() -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit("a"), desk.admit("b", key="k")]
    desk.wait()
    desk.tell(Closing(send=False))
    desk.leave(places[1])
    step = desk.wait()
    assert only(step.writes, DropSegments).numbers == [1]
    assert every(step.actions, Forget) == []


# -- snapshots


def test_the_snapshot_counts() -> None:
    desk = Desk(linger_s=100.0, attempts_max=1)
    desk.admit("a", size_bytes=70)
    stats = desk.engine.stats()
    assert (stats.waiting, stats.waiting_bytes, stats.sent, stats.jobs) == (1, 70, 0, 0)
    desk.wait(100.0)
    desk.created()
    stats = desk.engine.stats()
    assert (stats.waiting, stats.sent, stats.jobs, stats.jobs_created) == (0, 1, 1, 1)
    desk.wake()
    assert only(desk.polled("EXPIRED", output=False).actions, Fail).keys[0].startswith("a")
    stats = desk.engine.stats()
    assert (stats.failed, stats.answered, stats.jobs, stats.queued_callers) == (1, 0, 0, 0)


def test_the_same_events_give_the_same_steps() -> None:
    def story() -> list[object]:
        desk = Desk(attempts_max=3)
        steps = [desk.running("a", "b"), desk.wake(), desk.polled(), desk.failed("unknown"), desk.wake()]
        return [*steps, desk.polled("FAILED", output=False, failure=error(13)), desk.tell(Woken())]

    assert story() == story()
