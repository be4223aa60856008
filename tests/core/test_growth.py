"""What a step costs as there is more of everything: counted in calls of functions, which are the same on each machine.

What comes with each turn must not grow with what merely waits, and what is done for each request must not grow with
how many others there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import Answered, Call, PutDay, PutMarks, PutTaken, Step, Woken
from carpool._core.meter import Charge
from carpool._core.model import JobState, Lane, limit_of
from carpool._core.throttle import CALLS_IN_ALL
from carpool.settings import Ladder

from .desk import Desk, every, only

DAY_S = 86_400.0
PRICED = Lane("generate", "gemini-2.5-flash")
GROWS = 1.25
"""How much more a request may cost where there are four times as many: heaps grow by their depth."""


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions are called, of Python's and of C's, until something is done."""
    count = 0

    def note(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def admit(desk: Desk, count: int, **more: Any) -> None:
    for number in range(count):
        desk.admit(f"p{number}", **more)


def in_jobs(count: int, *, rows: int, jobs: int, deadline_s: float | None = None) -> Desk:
    """Let requests that came in small segments ride in a few running jobs."""
    desk = Desk(batch_requests_max=count // jobs, inline_requests_max=10**6, linger_s=1_000.0, linger_max_s=1_000.0)
    ladder: Ladder = ("batch",) if deadline_s is None else ("batch", "flex", "standard")
    deadline = None if deadline_s is None else desk.now + deadline_s
    for _ in range(count // rows):
        admit(desk, rows, deadline=deadline, ladder=ladder, lane=PRICED, limit=limit_of(1, searches=False))
        desk.wait()
    for job in desk.jobs:
        if job.state is JobState.UPLOADING:
            desk.uploaded(job=job)
        desk.created(f"batches/{job.id}", job=job)
    assert [job.state for job in desk.jobs] == [JobState.RUNNING] * jobs
    return desk


def leaving_calls(count: int) -> int:
    """Return how many calls it takes to send all requests of running jobs on, since their deadline is near."""
    desk = in_jobs(count, rows=5, jobs=2, deadline_s=DAY_S)
    desk.now += DAY_S - 300.0
    calls = calls_of(desk.wait)
    assert len(desk.engine.book.live.trips) == count
    return calls


def test_leaving_a_job_costs_the_same_however_many_leave() -> None:
    assert leaving_calls(2_000) / 2_000 < leaving_calls(500) / 500 * GROWS


def idle_calls(count: int) -> int:
    """Return how many calls a turn takes in which nothing is due, and the look at what will be."""
    desk = in_jobs(count, rows=5, jobs=2)
    desk.now += 1.0
    return calls_of(lambda: (desk.engine.turn((), desk.now), desk.engine.next_wakeup()))


def test_a_turn_in_which_nothing_is_due_costs_the_same_however_much_is_under_way() -> None:
    assert idle_calls(2_000) == idle_calls(500)


def test_a_turn_costs_no_more_than_in_proportion_to_jobs_and_lanes() -> None:
    def turn_calls(many: int) -> int:
        desk = Desk(batch_requests_max=1, inline_requests_max=1, linger_s=0.0)
        admit(desk, many)
        desk.wait()
        assert len(desk.jobs) == many
        for number in range(many):
            desk.admit(lane=Lane("generate", f"model-{number}"))
            desk.admit(lane=Lane("generate", f"live-model-{number}"), ladder=("standard",))
        desk.wait()
        desk.now += 0.1
        return calls_of(lambda: (desk.engine.turn((), desk.now), desk.engine.next_wakeup()))

    assert turn_calls(80) < turn_calls(20) * 4 * GROWS


def test_lanes_that_are_ripe_together_are_cut_at_the_same_cost_each() -> None:
    def cut_calls(lanes: int) -> float:
        desk = Desk(jobs_max=lanes, linger_max_s=0.0)
        for number in range(lanes):
            desk.admit(lane=Lane("generate", f"model-{number}"))
        calls = calls_of(desk.wait)
        assert len(desk.jobs) == lanes
        return calls / lanes

    assert cut_calls(200) < cut_calls(50) * GROWS


def test_live_routes_are_not_asked_one_by_one_while_no_call_more_may_be_made() -> None:
    def turn_calls(lanes: int) -> int:
        desk = Desk()
        admit(desk, CALLS_IN_ALL, lane=PRICED, ladder=("standard",))
        admit(desk, CALLS_IN_ALL, lane=Lane("generate", "another"), ladder=("standard",))
        flying = desk.engine.book.live.flights
        while len(flying) < CALLS_IN_ALL:
            desk.wait(6.0)  # calls that were not refused for so long count as taken, and others may follow
        for number in range(lanes):
            desk.admit(lane=Lane("generate", f"model-{number}"), ladder=("standard",))
        desk.wait()
        return calls_of(lambda: (desk.engine.turn((), desk.now), desk.engine.next_wakeup()))

    assert turn_calls(40) < turn_calls(10) * 2


# -- what is written down in a turn


def answered_in_one_turn(count: int) -> Step:
    """Return the step in which some live calls for requests of one segment are answered together."""
    desk = Desk(live_calls_max=64)
    admit(desk, count * 2, lane=PRICED, ladder=("standard",))
    calls = every(desk.wait().actions, Call)[:count]
    charge = Charge(answers=1, prompt=1, output=1, list_picousd=5, paid_picousd=5)
    return desk.tell(*(Answered(call.op, list(call.places), [], [], charge) for call in calls))


def test_answers_that_come_together_are_written_down_together() -> None:
    step = answered_in_one_turn(8)
    assert only(step.writes, PutMarks).marks.done.count(1) == 8
    assert only(step.writes, PutDay).account.routes["standard"].requests == 8


def test_what_is_due_is_looked_for_once_a_turn() -> None:
    looks: list[float] = []
    desk = Desk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carpool._core.engine.landing.start", lambda _, now: looks.append(now))
        desk.tell(*[Woken()] * 5)
    assert looks == [desk.now]


def test_results_that_are_taken_together_are_written_down_together() -> None:
    desk = Desk()
    places = desk.fetching("a", "b", "c")
    desk.leave(*places)
    desk.fetched(kept=[(place, b"{}") for place in places])
    desk.ended()
    for prompt in ("a", "b"):
        claim, place = desk.adopt(prompt)
        assert claim is Claim.KEPT
        desk.engine.took(place)
    assert only(desk.wait().writes, PutTaken).taken.rows == bytes((1, 1, 0))
