"""What a new process makes of what an earlier one left."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec
import pytest

from carpool._core.keys import Claim
from carpool._core.messages import (
    Create,
    DeleteRemote,
    DropJob,
    DropSegments,
    Find,
    Poll,
    PutJob,
    PutMarks,
    PutMeta,
    PutResults,
    PutSegment,
    PutTaken,
    Revoke,
    Upload,
)
from carpool._core.model import DONE, JobState, Marks, Meta, ResultsHead, SegmentHead, Taken, place_of
from carpool._core.recovery import Recovery

from .desk import FRAMING, LANE, ORIGIN, START, STORE_ID, Desk, error, every, only, questions


def test_each_opening_is_counted_and_recorded_first() -> None:
    desk = Desk()
    assert only(desk.opened.writes, PutMeta).meta.epoch == 1
    again = desk.restart().restart()
    assert only(again.opened.writes, PutMeta).meta.epoch == 3
    assert again.engine.new_key(bytes(16)).split(".")[1] == "3"


def test_keys_of_one_process_are_not_given_by_the_next() -> None:
    desk = Desk()
    keys = {desk.engine.new_key(bytes(16)) for _ in range(5)}
    again = desk.restart()
    assert keys.isdisjoint({again.engine.new_key(bytes(16)) for _ in range(5)})


# -- requests


def test_explicit_keys_and_tickets_go_on_by_themselves() -> None:
    desk = Desk(linger_s=1_000.0, linger_max_s=1_000.0)
    desk.admit("a", key="a")
    desk.admit("b", key="b", ticket=True)
    desk.wait()
    again = desk.restart()
    assert (again.engine.stats().waiting, again.engine.stats().waiting_bytes) == (2, 100)
    assert again.claim("a", "a")[0] is Claim.LIVE
    assert only(again.wait(1_000.0).actions, Create).job.count == 2


def test_bare_awaits_are_parked_and_never_sent_unasked() -> None:
    desk = Desk(linger_s=1_000.0, linger_max_s=1_000.0)
    desk.admit("a")
    desk.admit("b")
    desk.wait()
    again = desk.restart()
    assert (again.engine.stats().parked, again.engine.stats().waiting) == (2, 0)
    assert questions(again.wait(10_000.0)) == []
    claim, place = again.adopt("a")
    assert claim is Claim.LIVE
    assert again.engine.stats().waiting == 1
    create = only(again.wait(1_000.0).actions, Create)
    assert (create.job.count, again.engine.book.place_in(create.job, 0)) == (1, place)
    assert again.adopt("a")[0] is Claim.NEW


def test_whoever_adopts_a_parked_request_and_leaves_takes_it_out() -> None:
    desk = Desk(linger_s=100.0)
    desk.admit("a")
    desk.wait()
    again = desk.restart()
    _, place = again.adopt("a")
    again.leave(place)
    again.wait(1_000.0)
    assert (again.jobs, again.disk.segments) == ([], {})


def test_rows_that_were_done_stay_done_and_attempts_are_remembered() -> None:
    desk = Desk(attempts_max=3)
    places = desk.fetching("a", "b", key=None)
    desk.fetched(places[0], failed=[(places[1], error(13))])
    desk.ended()
    again = desk.restart()
    segment, row = again.engine.book.at(places[1])
    assert segment is not None
    assert (segment.states[0], segment.attempts[row], segment.open_rows) == (DONE, 1, 1)


def test_a_segment_of_which_all_is_done_is_dropped() -> None:
    desk = Desk()
    [place] = desk.fetching(key="k")
    desk.fetched(kept=[(place, b"x")])
    del desk.disk.jobs[desk.job.id]  # closed, but the segment's end was not written
    again = desk.restart()
    assert only(again.opened.writes, DropSegments).numbers == [1]
    assert again.claim("k")[0] is Claim.KEPT


def test_marks_without_their_segment_and_results_of_forgotten_segments_are_fine() -> None:
    desk = Desk()
    recovery = Recovery(desk.settings, FRAMING, ORIGIN, Meta(store_id=STORE_ID))
    recovery.take(Marks(no=7, done=b"\1", attempts=b"\0"))
    recovery.take(Taken(no=7, rows=b"\1"))
    engine, _ = recovery.finish(START)
    assert engine.idle


# -- jobs


def in_state(state: JobState, *, bare: bool, form: str = "inline") -> Desk:
    desk = Desk(inline_bytes_max=0 if form == "file" else 20_000_000, output_grace_s=0.0)
    desk.admit("a", key=None if bare else "a")
    desk.wait()
    match state:
        case JobState.UPLOADING | JobState.CREATING if desk.job.state is state:
            pass
        case JobState.CREATING:
            desk.uploaded()
        case JobState.READY:
            if form == "file":
                desk.uploaded()
            desk.failed("not_sent")
        case _:
            raise AssertionError(state)
    return desk


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("form", ["inline", "file"])
def test_a_create_in_the_air_is_of_unknown_fate(form: str, bare: bool) -> None:
    desk = in_state(JobState.CREATING, bare=bare, form=form)
    again = desk.restart()
    assert only(again.opened.writes, PutJob).job.state is JobState.LOOKING
    assert questions(again.wait()) == [Find]


def test_a_create_that_did_not_take_effect_is_sent_again_for_explicit_keys_only() -> None:
    desk = Desk()
    desk.admit("a")
    desk.admit("b", key="b")
    desk.wait()
    again = desk.restart()
    again.wait()
    again.found()
    again.wake()
    create = only(again.found().actions, Create)
    assert (create.job.spans, create.job.attempt) == (((1, 1, 2),), 2)
    assert again.engine.stats().parked == 1
    assert again.adopt("a")[0] is Claim.LIVE


@pytest.mark.parametrize(
    ("state", "form"), [(JobState.UPLOADING, "file"), (JobState.READY, "file"), (JobState.READY, "inline")]
)
def test_a_job_of_bare_awaits_that_was_not_created_is_taken_apart(state: JobState, form: str) -> None:
    again = in_state(state, bare=True, form=form).restart()
    assert only(again.opened.writes, DropJob).id
    assert len(every(again.opened.actions, DeleteRemote)) == (form == "file")
    assert (again.jobs, again.engine.stats().parked, again.engine.book.pacing.jobs) == ([], 1, 0)
    assert questions(again.wait(1_000.0)) == []


@pytest.mark.parametrize(
    ("state", "form", "question"),
    [(JobState.UPLOADING, "file", Upload), (JobState.READY, "file", Create), (JobState.READY, "inline", Create)],
)
def test_a_job_of_explicit_keys_that_was_not_created_goes_on(state: JobState, form: str, question: type) -> None:
    again = in_state(state, bare=False, form=form).restart()
    assert again.opened.actions == []
    assert questions(again.wait()) == [question]


def test_a_job_that_runs_is_polled_and_its_bare_rows_wait_to_be_adopted() -> None:
    desk = Desk()
    [place] = desk.running("a")
    again = desk.restart()
    assert questions(again.wait()) == [Poll]
    assert again.adopt("a") == (Claim.LIVE, place)
    again.polled()
    again.fetched(place)
    again.ended()
    assert again.engine.idle


def test_a_job_that_was_being_fetched_is_asked_for_again_and_what_was_handed_over_may_come_again() -> None:
    desk = Desk()
    places = desk.fetching("a", "b")
    desk.fetched(places[0])
    again = desk.restart()
    assert again.job.state is JobState.RUNNING
    again.wait()
    again.polled()
    assert len(again.engine.fetch_index(again.job.id)) == 2


def test_a_record_of_a_job_being_fetched_is_read_as_running() -> None:
    desk = Desk()
    desk.running("a")
    job = msgspec.structs.replace(desk.disk.job(desk.job.id), state=JobState.FETCHING)
    desk.disk.apply([PutJob(job)])
    assert questions(desk.restart().wait()) == [Poll]


def looking(looks: int) -> Desk:
    desk = Desk(inline_bytes_max=0)
    desk.admit("a", key="a")
    desk.wait()
    desk.uploaded()
    desk.failed("unknown")
    for _ in range(looks):
        desk.found()
        if desk.job.wake_at is not None:
            desk.wake()
    return desk


@pytest.mark.parametrize("clock_error_s", [0.0, 86_400.0, -86_400.0])
def test_neither_a_restart_nor_a_clock_that_was_set_shortens_the_wait_between_two_looks(clock_error_s: float) -> None:
    again = looking(1).restart(after_s=1.0 + clock_error_s)
    assert questions(again.wait(59.0)) == []
    assert questions(again.wait(1.0)) == [Find]


def test_a_first_look_is_not_put_off() -> None:
    assert questions(looking(0).restart().wait()) == [Find]


def test_a_revocation_that_was_not_recorded_is_asked_for_again() -> None:
    again = looking(2).restart()
    again.wait()
    assert questions(again.wake()) == [Revoke]


def test_a_clock_that_was_set_back_neither_hurries_polls_nor_stretches_patience() -> None:
    desk = Desk()
    desk.running("a", key="a")
    again = desk.restart(after_s=-86_400.0)
    again.wait()
    again.polled("RUNNING", output=False)
    assert again.job.created_at == again.now
    lost = in_state(JobState.READY, bare=False).restart(after_s=-86_400.0, unreachable_s=10.0)
    since = lost.now
    while lost.jobs:
        lost.wake()
        lost.failed("not_sent")
    assert lost.now - since < 20.0


# -- results


def test_stored_results_mark_their_rows_done_and_are_found_by_their_keys() -> None:
    desk = Desk()
    [place] = desk.fetching(key="k")
    desk.fetched(kept=[(place, b"answer")])
    again = desk.restart()
    assert again.engine.fetch_index(again.job.id) == {}
    claim, kept = again.claim("k")
    assert (claim, again.disk.result(kept, 20)) == (Claim.KEPT, b"answer")


def test_results_without_a_key_wait_to_be_adopted_once_and_what_was_taken_is_not_offered() -> None:
    desk = Desk()
    places = desk.running("a", "a", "b")
    desk.leave(*places)
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, bytes((65 + number,))) for number, place in enumerate(places)])
    desk.ended()
    claim, kept = desk.adopt("a")
    assert claim is Claim.KEPT
    desk.engine.took(kept)
    assert only(desk.wait().writes, PutTaken).taken.rows == b"\1\0\0"
    again = desk.restart()
    assert [again.adopt(prompt)[0] for prompt in "aab"] == [Claim.KEPT, Claim.NEW, Claim.KEPT]


def test_numbers_on_disk_are_not_given_again() -> None:
    desk = Desk()
    [place] = desk.fetching(key="k")
    desk.fetched(kept=[(place, b"x")])
    desk.ended()
    assert desk.disk.segments == {}
    again = desk.restart()
    assert again.admit("b", key="b") >= place_of(2, 0)
    again.wait()
    again.created()
    again.wake()
    again.polled()
    step = again.fetched(kept=[(place_of(2, 0), b"y")])
    assert only(step.writes, PutResults).head.no == 2


def test_of_two_requests_with_one_key_the_later_counts() -> None:
    """The caller of the first had left, and the second was written before the end of the first."""
    desk = Desk(linger_s=100.0)
    first = desk.admit("a", key="k")
    desk.admit("b", key="other")
    desk.wait()
    twin = msgspec.structs.replace(next(head for head in desk.disk.load() if isinstance(head, SegmentHead)), no=2)
    desk.disk.apply([PutSegment(twin, [b"x" * 50, b"y" * 50])])
    again = desk.restart()
    assert again.engine.find("k") == (Claim.LIVE, place_of(2, 0))
    assert again.engine.stats().waiting == 2
    assert only(again.opened.writes, DropSegments).numbers == [first >> 20]


def test_of_two_requests_with_one_key_in_one_segment_the_later_counts() -> None:
    desk = Desk(linger_s=100.0)
    desk.admit("a", key="k")
    desk.admit("b", key="other")
    desk.wait()
    head = next(head for head in desk.disk.load() if isinstance(head, SegmentHead))
    desk.disk.apply([PutSegment(msgspec.structs.replace(head, keys=["k", "k"]), [b"x" * 50, b"y" * 50])])
    again = desk.restart()
    assert again.engine.find("k") == (Claim.LIVE, place_of(1, 1))
    assert (again.engine.stats().waiting, again.engine.stats().parked) == (1, 0)


def test_of_a_segment_with_keys_and_without_each_row_has_its_own_way() -> None:
    desk = Desk(linger_s=100.0)
    places = [desk.admit(prompt, key=key) for prompt, key in zip("abcd", ("k", None, "l", None), strict=True)]
    desk.wait()
    desk.leave(places[2], places[3])
    desk.wait()
    again = desk.restart()
    assert (again.engine.stats().waiting, again.engine.stats().parked) == (1, 1)
    assert [again.engine.find(key)[0] for key in "kl"] == [Claim.LIVE, Claim.NEW]
    assert [again.adopt(prompt)[0] for prompt in "abcd"] == [Claim.NEW, Claim.LIVE, Claim.NEW, Claim.NEW]


def test_what_is_marked_done_and_stored_counts_once() -> None:
    desk = Desk()
    desk.admit("a", key="a")
    desk.admit("b", key="b")
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    places = list(desk.engine.fetch_index(desk.job.id).values())
    desk.fetched(kept=[(places[0], b"x")], failed=[(places[1], error(13))])
    desk.ended()
    segment, _ = desk.restart().engine.book.at(places[0])
    assert segment is not None
    assert segment.open_rows == 1


# -- somebody else's records


def foreign(disk: Desk) -> Callable[[], list[object]]:
    ends = array("Q", [5]).tobytes()
    head = SegmentHead(
        no=8,
        lane=LANE,
        origin="elsewhere",
        accepted_at=START,
        keys=["theirs"],
        ends=ends,
        tokens=ends,
        flags=b"\1",
        digests=bytes(16),
    )
    results = ResultsHead(
        no=9,
        lane=LANE,
        origin="elsewhere",
        job="batches/x",
        kept_at=START,
        places=[place_of(11, 0)],
        keys=["theirs"],
        digests=bytes(16),
        flags=b"\1",
        failed=b"\0",
        ends=ends,
    )
    other = Desk()
    other.running("theirs", key="theirs")
    job = msgspec.structs.replace(other.job, origin="elsewhere", spans=((8, 0, 1),))
    disk.disk.apply([PutSegment(head, [b"line\n"]), PutMarks(Marks(no=8, done=b"\0", attempts=b"\0")), PutJob(job)])
    disk.disk.apply([PutResults(results, [b"body\n"]), PutTaken(Taken(no=9, rows=b"\0"))])
    return lambda: [disk.disk.segments[8], disk.disk.marks[8], disk.disk.jobs[job.id], disk.disk.results[9]]


def test_records_of_another_origin_are_counted_and_left_alone() -> None:
    desk = Desk()
    records = foreign(desk)
    before = records()
    again = desk.restart()
    assert again.engine.stats().foreign == 2
    assert again.claim("theirs")[0] is Claim.NEW
    assert again.admit("mine", key="mine") >= place_of(12, 0)
    again.wait()
    again.created()
    again.wake()
    again.polled()
    step = again.fetched(kept=[(place_of(12, 0), b"x")])
    assert only(step.writes, PutResults).head.no == 10
    again.ended()
    again.wait(30 * 86_400.0)
    assert records() == before
