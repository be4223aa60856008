"""Live calls in the core: who shares one, who waits in vain, what answers twice, and what a bug of ours costs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from carpool._core.descent import descend, rider
from carpool._core.keys import Claim
from carpool._core.live import SHARED_BYTES_MAX, WAIT_MAX_S
from carpool._core.messages import (
    Answered,
    Call,
    Create,
    Deliver,
    DropSegments,
    Fail,
    PutResults,
    Refused,
    Step,
    Undelivered,
)
from carpool._core.meter import Charge
from carpool._core.model import DONE, LIVE, QUEUED, ROW_BITS, SENT, Fault, Lane
from carpool._core.routing import PRIOR_S
from carpool.settings import CHEAP, FAST, Ladder, Price
from carpool.types import ServerError

from .desk import LANE, START, Desk, digest_of, error, every, only

HOUR = 3_600.0
PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
STANDARD = ("standard",)


def calls(step: Step) -> list[str]:
    return [call.route for call in every(step.actions, Call)]


def state(desk: Desk, place: int) -> int:
    segment, row = desk.engine.book.at(place)
    return DONE if segment is None else segment.states[row]


# -- a job and a live call that answer at the same time


def doubled(key: str | None = None) -> tuple[Desk, int, Call]:
    """Return a desk whose only request is in a job that is being read, and in a live call too."""
    desk = Desk(prices=PRICES)
    place = desk.admit(key=key, ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    call = only(desk.wait(7 * HOUR - PRIOR_S["flex"] - PRIOR_S["standard"]).actions, Call)
    desk.polled()
    return desk, place, call


@pytest.mark.parametrize("key", [None, "k"])
def test_what_a_live_call_answers_while_its_job_is_read_is_answered_once(key: str | None) -> None:
    desk, place, call = doubled(key)
    first = desk.answered(call, kept=[(place, b"live")])
    assert only(first.writes, PutResults).head.route == "flex"
    step = desk.fetched(kept=[(place, b"batch")])
    assert (every(step.writes, PutResults), every(step.actions, Deliver)) == ([], [])
    desk.ended()
    assert (desk.jobs, desk.engine.stats().answered, desk.engine.idle) == ([], 1, True)


def test_a_row_that_failed_in_a_job_is_not_told_so_once_a_live_call_has_answered_it() -> None:
    desk, place, call = doubled()
    desk.answered(call)
    step = desk.fetched(failed=[(place, error(400, "bad", "INVALID_ARGUMENT"))])
    assert every(step.actions, Fail) == []
    assert every(desk.ended().actions, Fail) == []


def test_a_row_that_is_to_be_sent_again_is_not_once_a_live_call_has_answered_it() -> None:
    desk, place, call = doubled()
    desk.fetched(failed=[(place, error(13, "internal", "INTERNAL"))])
    desk.answered(call)
    step = desk.ended()
    assert (desk.jobs, every(step.actions, Create), every(step.actions, Call)) == ([], [], [])
    assert desk.engine.idle


@pytest.mark.parametrize("key", [None, "k"])
def test_a_live_answer_that_comes_when_the_job_has_answered_is_only_paid(key: str | None) -> None:
    desk, place, call = doubled(key)
    desk.fetched(kept=[(place, b"batch")])
    step = desk.tell(Answered(call.op, [], [(place, b"live")], [], Charge(answers=1)))
    assert (every(step.writes, PutResults), every(step.actions, Deliver)) == ([], [])
    desk.ended()
    assert desk.engine.receipt().by_route["flex"].requests == 1
    assert desk.engine.stats().answered == 1


@pytest.mark.parametrize("refused", [False, True])
def test_what_is_in_the_air_can_be_read_although_its_job_has_answered(refused: bool) -> None:
    desk, place, call = doubled("k")
    desk.admit("other", ladder=STANDARD)
    other = only(desk.wait().actions, Call)
    desk.fetched(kept=[(place, b"batch")])
    assert every(desk.ended().writes, DropSegments) == []
    assert desk.disk.segments.keys() == {place >> ROW_BITS, other.places[0] >> ROW_BITS}
    desk.answered(other)
    assert desk.disk.segments.keys() == {place >> ROW_BITS}
    step = desk.shed(call) if refused else desk.answered(call, kept=[(place, b"live")])
    assert only(step.writes, DropSegments).numbers == [place >> ROW_BITS]
    assert desk.engine.book.live.carried == {}


# -- a call whose caller's deadline passes


def missed(desk: Desk, key: str | None) -> tuple[int, Call]:
    """Return a request whose deadline has passed while its call was in the air, and that call."""
    place = desk.admit(key=key, ladder=STANDARD, deadline=desk.now + 60.0)
    call = only(desk.wait().actions, Call)
    desk.wait(60.0)
    desk.leave(place)
    return place, call


@pytest.mark.parametrize("key", ["k", None])
def test_a_call_that_fails_after_its_deadline_is_not_made_again_for_nobody(key: str | None) -> None:
    desk = Desk(prices=PRICES)
    _, call = missed(desk, key)
    desk.tell(Refused(call.op, Fault(kind="unknown", error=ServerError(message="timed out"))))
    assert (desk.engine.book.live.trips, desk.engine.stats().waiting) == ({}, 0)
    assert every(desk.wait(600.0).actions, Call) == []
    if key is not None:
        assert desk.engine.has_failed(key), "whoever asks for it is told so"
        assert desk.claim(key)[0] is Claim.NEW


def test_its_answer_is_kept_all_the_same() -> None:
    desk = Desk(prices=PRICES)
    place, call = missed(desk, "k")
    desk.answered(call, kept=[(place, b"late")])
    assert desk.claim("k")[0] is Claim.KEPT


def test_it_is_made_again_for_whoever_has_asked_again_meanwhile() -> None:
    desk = Desk(prices=PRICES)
    place, call = missed(desk, "k")
    assert desk.claim("k") == (Claim.LIVE, place)
    desk.shed(call)
    assert only(desk.wake().actions, Call).places == [place]


# -- a call that its request has left


def departed(key: str | None, ladder: Ladder) -> tuple[Desk, int, Call]:
    """Return a desk with a request that waits on its last rung, and the call of the first one, which is in the air."""
    desk = Desk(prices=PRICES, jobs_max=1)
    desk.running("holds the only job")
    place = desk.admit(key=key, ladder=ladder, deadline=desk.now + HOUR)
    call = only(desk.wait().actions, Call)
    below_s = desk.engine.book.durations.reserve_s(LANE.model, ladder, 0)
    desk.shed(only(desk.wait(HOUR - below_s).actions, Call))
    if "batch" in ladder:  # as one of several does for which there is too little money for the standard route
        descend(desk.engine.book, rider(desk.engine.book, place), 2, desk.now)
    assert state(desk, place) == (QUEUED if "batch" in ladder else LIVE)
    assert list(desk.engine.book.live.flights) == [call.op]
    return desk, place, call


def end_job(desk: Desk) -> None:
    """Let the only job end."""
    [place] = desk.engine.book.sent_in(desk.job)
    desk.polled()
    desk.fetched(place)
    desk.ended()


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("ladder", [("flex", "standard"), ("flex", "standard", "batch")])
def test_whoever_leaves_a_request_that_waits_leaves_it_to_the_call_in_the_air(ladder: Ladder, key: str | None) -> None:
    desk, place, call = departed(key, ladder)
    other = desk.admit("other", ladder=STANDARD)
    [noise] = every(desk.wait().actions, Call)
    desk.leave(place)
    assert (state(desk, place), desk.engine.stats().waiting) == (LIVE, 2)
    end_job(desk)
    assert (every(desk.wait(70.0).actions, Call), desk.jobs) == ([], []), "it is not sent a second time"
    assert desk.claim("k")[0].value == "live" if key else knows(desk)
    desk.answered(call, kept=[(place, b"body")])
    assert desk.claim("k")[0].value == "kept" if key else knows(desk)
    desk.answered(noise)
    assert state(desk, other) == DONE
    assert (desk.engine.idle, desk.engine.stats().waiting, desk.disk.segments) == (True, 0, {})


def knows(desk: Desk) -> bool:
    return desk.engine.knows(None, digest_of("p"), desk.now)


def test_a_request_that_was_left_to_a_call_in_the_air_ends_with_that() -> None:
    desk, place, call = departed(None, ("flex", "standard"))
    desk.leave(place)
    step = desk.shed(call)
    end_job(desk)
    assert (every(step.actions, Call), state(desk, place), desk.engine.idle) == ([], DONE, True)


def test_whoever_leaves_a_request_that_never_went_takes_it_out_though_others_of_its_segment_fly() -> None:
    desk = Desk(live_calls_max=1)
    places = [desk.admit(name, ladder=STANDARD) for name in "ab"]
    call = only(desk.wait().actions, Call)
    [waiting] = set(places) - set(call.places)
    desk.leave(waiting)
    assert (state(desk, waiting), desk.engine.stats().waiting) == (DONE, 1)


# -- embeddings that share a call


EMBED = Lane("embed", "model-of-embeddings")


def shared(desk: Desk, count: int) -> tuple[list[int], Call]:
    """Admit embeddings, and return their places and the call that they share."""
    places = [desk.admit(f"e{number}", lane=EMBED, ladder=STANDARD) for number in range(count)]
    return places, only(desk.wait().actions, Call)


def play_out(desk: Desk, call: Call, bad: set[int]) -> tuple[list[int], list[int]]:
    """Answer calls until none is left: refused is each that holds a bad request. Return who failed, and the sizes."""
    calls_, failed, sizes = [call], [], []
    while calls_:
        call = calls_.pop(0)
        sizes.append(len(call.places))
        if bad.isdisjoint(call.places):
            step = desk.answered(call)
        else:
            step = desk.shed(call, 400, "Request contains an invalid argument.", "INVALID_ARGUMENT")
        calls_ += every(step.actions, Call)
        failed += [place for fail in every(step.actions, Fail) for place in fail.places]
    return failed, sizes


def test_a_bad_embedding_fails_alone_and_the_others_of_its_call_are_answered() -> None:
    desk = Desk()
    places, call = shared(desk, 100)
    failed, sizes = play_out(desk, call, {places[37]})
    assert failed == [places[37]]
    assert sum(sizes) <= 100 + 100 + 10
    assert desk.engine.idle
    assert desk.engine.stats().answered == 99


def test_what_a_refusal_names_fails_at_once_and_the_others_go_on_together() -> None:
    desk = Desk()
    places, call = shared(desk, 20)
    step = desk.shed(call, 400, "Invalid value at 'requests[3].content'", "INVALID_ARGUMENT")
    assert only(step.actions, Fail).places == [places[3]]
    assert only(step.actions, Call).places == places[:3] + places[4:]


def test_a_refused_key_fails_all_embeddings_of_a_call_without_another() -> None:
    desk = Desk()
    places, call = shared(desk, 5)
    step = desk.shed(call, 403, "no", "PERMISSION_DENIED")
    assert [(fail.places, fail.failure.kind) for fail in every(step.actions, Fail)] == [
        ([place], "credentials") for place in places
    ]
    assert every(step.actions, Call) == []


def test_of_a_refused_call_those_are_not_sent_again_whom_nobody_awaits() -> None:
    desk = Desk()
    places, call = shared(desk, 3)
    desk.leave(places[0])
    step = desk.shed(call, 400, "bad", "INVALID_ARGUMENT")
    again = every(step.actions, Call)
    assert [one.places for one in again] == [[places[1]], [places[2]]]


def test_what_was_answered_elsewhere_is_no_part_of_a_refused_call() -> None:
    desk = Desk()
    places, call = shared(desk, 3)
    desk.engine.book.finish(*desk.engine.book.at(places[1]))  # type: ignore[arg-type]
    step = desk.shed(call, 400, "bad", "INVALID_ARGUMENT")
    assert [one.places for one in every(step.actions, Call)] == [[places[0]], [places[2]]]


def test_large_embeddings_share_no_call() -> None:
    desk = Desk()
    for number in range(3):
        desk.admit(f"e{number}", lane=EMBED, ladder=STANDARD, size_bytes=SHARED_BYTES_MAX // 2)
    assert [len(call.places) for call in every(desk.wait().actions, Call)] == [2, 1]


# -- a bug in a live call


def test_a_call_that_a_bug_of_ours_broke_is_not_made_again() -> None:
    desk = Desk()
    place = desk.admit(ladder=FAST)
    call = only(desk.wait().actions, Call)
    step = desk.tell(Refused(call.op, Fault(kind="unknown", error=error(message="a bug of carpool: X")), broken=True))
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind, every(step.actions, Call), desk.jobs) == ([place], "failed", [], [])
    assert desk.engine.idle
    gate = desk.engine.book.live.throttles.of("standard", LANE.model)
    assert not gate.is_refusing(desk.now), "it says nothing of the route"


def test_a_bug_in_a_call_leaves_alone_what_was_answered_elsewhere() -> None:
    desk, place, call = doubled()
    desk.fetched(kept=[(place, b"batch")])
    step = desk.tell(Refused(call.op, Fault(kind="unknown", error=error()), broken=True))
    assert every(step.actions, Fail) == []


# -- waiting in vain


def test_a_fast_call_that_waits_behind_calls_which_do_not_end_goes_to_a_batch_in_time() -> None:
    desk = Desk(live_calls_max=1)
    desk.admit("hangs", ladder=STANDARD)
    desk.wait()
    place = desk.admit(ladder=FAST)
    desk.wait()
    assert state(desk, place) == LIVE
    step = desk.wake()
    assert (state(desk, place), only(step.actions, Create).job.count) == (SENT, 1)
    assert desk.now == START + WAIT_MAX_S


def test_fast_calls_of_which_the_last_would_wait_too_long_go_to_a_batch_at_once() -> None:
    desk = Desk()
    throttle = desk.engine.book.live.throttles.of("standard", LANE.model)
    throttle.requests.refused(desk.now, desk.now, 60.0)  # one a second
    places = [desk.admit(f"p{number}", ladder=FAST) for number in range(40)]
    others = [desk.admit(f"o{number}", ladder=STANDARD) for number in range(5)]
    desk.wait(1.0)
    kept = [place for place in places if state(desk, place) == LIVE]
    assert kept == places[: len(kept)]
    assert 10 <= len(kept) <= 15
    assert [state(desk, place) for place in others] == [LIVE] * 5
    late = [desk.admit(f"late {number}", ladder=FAST) for number in range(5)]
    desk.wait(0.01)
    assert [state(desk, place) for place in late] == [LIVE] * 5, "the line is not looked along at every turn"
    assert (desk.engine.next_wakeup() or 0.0) <= START + 2.0
    desk.wait(1.0)
    assert LIVE not in [state(desk, place) for place in late]


# -- answers that nobody took


def test_a_live_answer_that_was_not_taken_is_kept_with_its_route() -> None:
    desk = Desk()
    place = desk.admit(ladder=STANDARD)
    desk.answered(only(desk.wait().actions, Call))
    key = "a" + digest_of("p").hex() + ".1.1"
    step = desk.tell(Undelivered([(place, key, digest_of("p"), b"x")], LANE, "", "standard"))
    assert only(step.writes, PutResults).head.route == "standard"
    assert desk.adopt()[0].value == "kept"
