"""What the log and the callers are told, and what of it is stored: in full, with the job, the error and the time."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from carpool._core.alarms import UNFETCHED_S, standing
from carpool._core.keys import Claim
from carpool._core.messages import Broken, Deliver, Fail, PutResults, Report, Step, Undelivered
from carpool._core.model import EXPLICIT, Failure, ResultsHead
from carpool.types import Alarm, ServerError

from .desk import LANE, ORIGIN, Desk, digest_of, error, every, only, questions, remote
from .states import creating, looking, running

# -- the log


def test_an_event_without_a_job_counts_once_and_has_no_detail() -> None:
    desk = Desk()
    desk.engine.book.report("something")
    assert only(desk.wait().actions, Report) == Report(event="something", job="", count=1, detail="")


def test_a_create_of_unknown_fate_is_reported_by_the_name_to_look_for() -> None:
    desk = creating()
    name = desk.job.display_name
    assert only(desk.failed("unknown").actions, Report) == Report(event="create_ambiguous", job=name)


def test_an_adopted_job_and_its_twins_are_reported_by_its_name() -> None:
    desk = looking()
    step = desk.found(remote("batches/2", "RUNNING"), remote("batches/3", "RUNNING"), remote("batches/4", "FAILED"))
    reports = {report.event: report for report in every(step.actions, Report)}
    assert reports["job_adopted"] == Report(event="job_adopted", job="batches/2")
    assert reports["twins"] == Report(event="twins", job="batches/2", count=2)


def test_a_lost_job_is_reported_with_its_rows_and_its_state() -> None:
    desk = Desk()
    desk.running("a", "b")
    desk.wake()
    step = desk.polled("EXPIRED", output=False)
    assert only(step.actions, Report) == Report(event="job_lost", job="batches/1", count=2, detail="EXPIRED")


def test_a_vanished_job_is_reported_by_its_name() -> None:
    assert only(running().refused(404).actions, Report) == Report(event="job_vanished", job="batches/1")


def test_vanished_output_and_missing_rows_are_reported_by_the_name_of_their_job() -> None:
    desk = Desk(output_grace_s=0.0)
    desk.fetching("a", "b")
    reports = every(desk.refused(404, "gone").actions, Report)
    assert reports == [Report("output_vanished", "batches/1"), Report("rows_missing", "batches/1", 2)]


def test_rows_that_are_not_ours_are_reported_with_their_number() -> None:
    desk = Desk()
    [place] = desk.fetching("a")
    desk.fetched(place)
    reports = every(desk.ended(unknown=3).actions, Report)
    assert Report("rows_not_ours", "batches/1", 3) in reports


@pytest.mark.parametrize("named", [True, False])
def test_a_job_that_a_bug_broke_is_reported_with_its_rows_and_the_bug(named: bool) -> None:
    desk = Desk()
    places = [desk.admit("a"), desk.admit("b")]
    desk.wait()
    if named:
        desk.created()
        desk.wake()
    job = desk.job
    step = desk.tell(Broken(job.id, job.op, "a bug of ours"))
    name = "batches/1" if named else job.display_name
    assert only(step.actions, Report) == Report("job_stalled", name, 2, "a bug of ours")
    failure = Failure(kind="failed", error=ServerError(message="a bug of ours"), job="batches/1" if named else "")
    keys = [desk.engine.book.key_at(place) for place in places]
    assert only(step.actions, Fail) == Fail(places=places, keys=keys, failure=failure)


@pytest.mark.parametrize("named", [True, False])
def test_a_job_that_a_bug_broke_stands_by_the_name_it_has(named: bool) -> None:
    desk = creating()
    if named:
        desk.created()
        desk.wake()
    job = desk.job
    desk.tell(Broken(job.id, job.op, "a bug of ours"))
    name = "batches/1" if named else job.display_name
    assert standing(desk.engine.book, desk.now) == [Alarm("job_stalled", name, 1)]


def test_results_that_are_not_fetched_stand_by_the_name_of_their_job() -> None:
    desk = Desk()
    desk.fetching("a", "b")
    desk.now = desk.job.ended_at + UNFETCHED_S
    assert standing(desk.engine.book, desk.now) == []
    desk.now += 1.0
    assert standing(desk.engine.book, desk.now) == [Alarm("results_unfetched", "batches/1", 2)]


# -- verdicts


def sent(**settings: Any) -> Desk:
    """Return a desk whose only request, of key "k", is in a job that is being created."""
    desk = Desk(**settings)
    desk.admit("a", key="k")
    desk.wait()
    return desk


def not_found(desk: Desk) -> Step:
    """Look for a job of unknown fate, in vain, as often as the form wants it."""
    desk.failed("unknown")
    while True:
        step = desk.found()
        if not desk.jobs:
            return step
        while not questions(desk.wake()):
            pass


def fetched_row_fault(desk: Desk) -> Step:
    desk.created()
    desk.wake()
    desk.polled()
    [place] = desk.engine.fetch_index(desk.job.id).values()
    return desk.fetched(failed=[(place, error(400, "bad row"))])


def polled(state: str, failure: ServerError | None) -> Callable[[Desk], Step]:
    def tell(desk: Desk) -> Step:
        desk.created()
        desk.wake()
        return desk.polled(state, output=False, failure=failure)

    return tell


def output_gone(desk: Desk) -> Step:
    desk.created()
    desk.wake()
    desk.polled()
    return desk.refused(404, "no output")


NOT_FOUND = ServerError(message="the job was not found on the server")
FILE = {"inline_bytes_max": 0}
ONCE = {"attempts_max": 1, "job_attempts_max": 1, "output_grace_s": 0.0}
# How it begins, what is told, and the verdict.
VERDICTS: dict[str, tuple[dict[str, Any], Callable[[Desk], Step], Failure]] = {
    "never found": (ONCE, not_found, Failure(kind="ambiguous", error=NOT_FOUND)),
    "create rejected": (
        {},
        lambda desk: desk.refused(404, "no such model", "NOT_FOUND"),
        Failure(kind="rejected", error=error(404, "no such model", "NOT_FOUND")),
    ),
    "only row is bad": (
        {},
        lambda desk: desk.refused(400, "bad", "INVALID_ARGUMENT"),
        Failure(kind="rejected", error=error(400, "bad", "INVALID_ARGUMENT")),
    ),
    "upload rejected": (
        FILE,
        lambda desk: desk.refused(404, "no such place"),
        Failure(kind="rejected", error=error(404, "no such place")),
    ),
    "upload too large": (
        FILE,
        lambda desk: desk.refused(413, "payload"),
        Failure(kind="too_large", error=error(413, "payload")),
    ),
    "create too large": (
        FILE,
        lambda desk: (desk.uploaded(), desk.refused(413, "payload"))[1],
        Failure(kind="too_large", error=error(413, "payload")),
    ),
    "row rejected": ({}, fetched_row_fault, Failure(kind="rejected", error=error(400, "bad row"), job="batches/1")),
    "job failed by its only row": (
        {},
        polled("FAILED", error(3, "bad", "INVALID_ARGUMENT")),
        Failure(kind="rejected", error=error(3, "bad", "INVALID_ARGUMENT"), job="batches/1"),
    ),
    "job lost": (
        ONCE,
        polled("EXPIRED", error(4, "too late")),
        Failure(kind="failed", error=error(4, "too late"), job="batches/1"),
    ),
    "job lost without a word": (
        ONCE,
        polled("CANCELLED", None),
        Failure(kind="failed", error=ServerError(message="the job ended as CANCELLED without output"), job="batches/1"),
    ),
    "succeeded without output": (
        ONCE,
        polled("SUCCEEDED", None),
        Failure(
            kind="missing", error=ServerError(message="the job ended as SUCCEEDED without output"), job="batches/1"
        ),
    ),
    "output gone": (ONCE, output_gone, Failure(kind="missing", error=error(404, "no output"), job="batches/1")),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_is_told_and_stored_in_full_in_one_step(name: str) -> None:
    settings, tell, failure = VERDICTS[name]
    desk = sent(**settings)
    [place] = desk.engine.fetch_index(desk.job.id).values()
    step = tell(desk)
    assert only(step.actions, Fail) == Fail(places=[place], keys=["k"], failure=failure)
    stored = only(step.writes, PutResults)
    head = stored.head
    assert (head.keys, head.places, head.failed, head.flags) == (["k"], [place], b"\1", bytes((EXPLICIT,)))
    assert (head.lane, head.job, head.kept_at, head.digests) == (LANE, failure.job, desk.now, digest_of("a"))
    assert msgspec.json.decode(stored.bodies[0], type=Failure) == failure
    assert desk.engine.stats().failed == 1


# What is told to callers without being stored: their keys are not spent.
UNSENT: dict[str, tuple[dict[str, Any], Callable[[Desk], Step], Failure]] = {
    "key refused on create": (
        {},
        lambda desk: desk.refused(401, "who are you"),
        Failure(kind="credentials", error=error(401, "who are you")),
    ),
    "key refused on upload": (
        FILE,
        lambda desk: desk.refused(401, "who are you"),
        Failure(kind="credentials", error=error(401, "who are you")),
    ),
    "never reached": (
        {"first_contact_s": 0.0},
        lambda desk: desk.failed("not_sent", error(message="no route")),
        Failure(kind="unreachable", error=error(message="no route")),
    ),
    "upload never reached": (
        FILE | {"first_contact_s": 0.0},
        lambda desk: desk.failed("not_sent", error(message="no route")),
        Failure(kind="unreachable", error=error(message="no route")),
    ),
}


@pytest.mark.parametrize("name", UNSENT)
def test_what_could_not_be_sent_is_told_to_each_and_stored_for_nobody(name: str) -> None:
    settings, tell, failure = UNSENT[name]
    desk = sent(**settings)
    for _ in range(2):
        [place] = desk.engine.fetch_index(desk.job.id).values()
        step = tell(desk)
        assert only(step.actions, Fail) == Fail(places=[place], keys=["k"], failure=failure)
        assert every(step.writes, PutResults) == []
        assert desk.claim("k", "a") == (Claim.LIVE, place)
        desk.wait(1.0)
    assert desk.engine.stats().failed == 2


# -- answers that are stored


def test_a_stored_answer_is_on_record_with_all_that_its_readers_need() -> None:
    desk = Desk()
    for prompt in "ab":
        desk.admit(prompt, key=prompt)
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    places = list(desk.engine.fetch_index(desk.job.id).values())
    desk.now += 5.0
    step = desk.fetched(kept=[(places[0], b"first"), (places[1], b"second")])
    stored = only(step.writes, PutResults)
    assert stored.head == ResultsHead(
        no=1,
        origin=ORIGIN,
        lane=LANE,
        job="batches/1",
        kept_at=desk.now,
        places=places,
        keys=["a", "b"],
        digests=digest_of("a") + digest_of("b"),
        flags=bytes((EXPLICIT, EXPLICIT)),
        failed=b"\0\0",
        ends=array("Q", [5, 11]).tobytes(),
    )
    assert stored.bodies == [b"first", b"second"]
    deliver = Deliver(job="batches/1", lane=LANE, rows=[(places[0], b"first"), (places[1], b"second")])
    assert only(step.actions, Deliver) == deliver


def test_an_answer_that_was_not_taken_is_on_record_as_one_that_nobody_named() -> None:
    desk = Desk()
    [place] = desk.fetching("a")
    desk.fetched(place)
    desk.ended()
    desk.now += 5.0
    step = desk.tell(Undelivered([(place, "some-key", digest_of("a"), b"answer")], LANE, "batches/1"))
    stored = only(step.writes, PutResults)
    assert stored.head == ResultsHead(
        no=1,
        origin=ORIGIN,
        lane=LANE,
        job="batches/1",
        kept_at=desk.now,
        places=[place],
        keys=["some-key"],
        digests=digest_of("a"),
        flags=b"\0",
        failed=b"\0",
        ends=array("Q", [6]).tobytes(),
    )
