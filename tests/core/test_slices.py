"""What is dropped in bulk goes in slices, one a step, each with a bounded share, and is gone in the end."""

from __future__ import annotations

import pytest

from carpool._core import disposal, shelf
from carpool._core.messages import Closing, DropResults, DropSegments, Forget, PutMarks, PutTaken
from carpool._core.model import Place

from .desk import Desk, every, only

HOUR = 3_600.0
DAY = 86_400.0


@pytest.fixture(autouse=True)
def _tiny_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One segment, or one record, is a slice."""
    monkeypatch.setattr(disposal, "DROP_BYTES_MAX", 1)
    monkeypatch.setattr(shelf, "ROWS_A_STEP", 1)


def answered(desk: Desk, *prompts: str, key: bool = False) -> list[Place]:
    """Admit requests, each in a segment of its own, and answer them in one job; its end is not told yet."""
    places: list[Place] = []
    for prompt in prompts:
        places.append(desk.admit(prompt, key=prompt if key else None))
        desk.wait()
    desk.wait(HOUR)
    desk.created()
    desk.wake()
    desk.polled("SUCCEEDED")
    for place in places:
        desk.fetched(*([] if key else [place]), kept=[(place, b"x")] if key else [])
    return places


def lingering(**settings: float) -> Desk:
    return Desk(**({"linger_s": HOUR, "linger_max_s": HOUR} | settings))


def restarted(desk: Desk) -> Desk:
    """Return the desk of a new process, whose sweep of the server's jobs is not answered: that would be a step."""
    again = desk.restart()
    again.listed = None
    return again


def test_segments_that_end_together_go_one_a_step_and_are_on_record_as_ended_meanwhile() -> None:
    desk = lingering()
    answered(desk, "a", "b", "c")
    first = desk.ended()
    assert only(first.writes, DropSegments).numbers == [1]
    assert only(first.actions, Forget).numbers == [1]
    assert [(write.marks.no, write.marks.done) for write in every(first.writes, PutMarks)] == [(2, b"\1"), (3, b"\1")]
    assert desk.engine.next_wakeup() == desk.now
    second, third = desk.wait(), desk.wait()
    assert [only(step.writes, DropSegments).numbers for step in (second, third)] == [[2], [3]]
    assert every(second.writes + third.writes, PutMarks) == []
    assert (desk.engine.book.segments, desk.engine.idle) == ({}, True)
    assert (desk.engine.next_wakeup() or DAY * 400) > desk.now


def test_after_a_crash_between_two_slices_the_others_are_dropped_and_nothing_of_them_is_sent() -> None:
    desk = lingering()
    answered(desk, "a", "b", "c", "d")
    desk.ended()
    again = restarted(desk)
    assert only(again.opened.writes, DropSegments).numbers == [2]
    assert (again.engine.stats().parked, again.engine.stats().waiting, again.engine.idle) == (0, 0, True)
    assert [only(again.wait().writes, DropSegments).numbers for _ in range(2)] == [[3], [4]]
    assert again.adopt("d")[0].value == "new"
    assert desk.restart().engine.book.segments == {}


def test_after_a_crash_between_two_slices_results_of_dropped_segments_are_found_with_the_others() -> None:
    desk = lingering()
    places: list[Place] = []
    for key in "abc":
        places.append(desk.admit(key, key=key))
        desk.wait()
    desk.wait(HOUR)
    desk.created()
    desk.wake()
    desk.polled("SUCCEEDED")
    desk.fetched(kept=[(place, b"x") for place in places])
    desk.ended()
    again = restarted(desk)
    assert only(again.opened.writes, DropSegments).numbers == [2]
    assert [again.claim(key, key)[0].value for key in "abc"] == ["kept"] * 3
    assert (again.engine.stats().waiting, again.engine.idle) == (0, True)


def test_who_leaves_leaves_no_slice() -> None:
    desk = lingering()
    answered(desk, "a", "b", "c")
    desk.ended()
    assert only(desk.tell(Closing(send=True)).writes, DropSegments).numbers == [2, 3]


def test_results_past_their_time_go_a_record_a_step() -> None:
    desk = lingering(keep_results_s=DAY)
    answered(desk, "a", "b", "c", key=True)
    desk.ended()
    desk.wait()
    desk.wait()
    steps = [desk.wait(2 * DAY), desk.wait(), desk.wait()]
    assert [only(step.writes, DropResults).numbers for step in steps] == [[1], [2], [3]]
    assert (desk.engine.book.results, desk.engine.book.keys.named) == ({}, {})
    assert every(desk.wait().writes, DropResults) == []


def test_between_two_slices_it_is_asked_again_at_once() -> None:
    desk = lingering(keep_results_s=DAY)
    answered(desk, "a", "b", key=True)
    desk.ended()
    desk.wait()
    desk.wait(2 * DAY)
    assert desk.engine.next_wakeup() == desk.now


def test_tidying_takes_all_slices_at_once() -> None:
    desk = lingering(keep_results_s=DAY, reuse_window_s=DAY)
    answered(desk, "a", "b", key=True)
    desk.ended()
    for prompt in "cd":
        desk.admit(prompt)
        desk.wait()
    again = desk.restart()
    step = again.engine.tidy(again.now + 2 * DAY)
    assert [write.numbers for write in every(step.writes, DropResults)] == [[1], [2]]
    assert sorted(no for write in every(step.writes, DropSegments) for no in write.numbers)[-2:] == [3, 4]
    assert (again.engine.book.results, again.engine.stats().parked, again.engine.book.segments) == ({}, 0, {})


def test_parked_requests_that_nobody_claimed_go_a_segment_a_step() -> None:
    desk = lingering(reuse_window_s=DAY)
    for prompt in "abc":
        desk.admit(prompt)
        desk.admit(prompt)
        desk.wait()
    again = restarted(desk)
    parked: list[int] = []
    again.now += 2 * DAY
    for _ in range(3):
        again.wait()
        parked.append(again.engine.stats().parked)
    assert parked == [4, 2, 0]
    assert again.engine.book.keys.abandoned == {}


def test_what_was_handed_over_is_let_go_of_in_slices_with_one_record_each() -> None:
    desk = lingering()
    places = [desk.admit("a") for _ in range(4)]
    desk.wait(HOUR)
    desk.created()
    desk.wake()
    desk.polled("SUCCEEDED")
    desk.fetched(kept=[(place, b"x") for place in places])
    assert len(desk.engine.book.handed) == 4
    first = desk.wait(HOUR)
    assert only(first.writes, PutTaken).taken.rows == b"\1\1\0\0"
    assert only(desk.wait().writes, DropResults).numbers == [1]
    assert desk.engine.book.handed == {}
