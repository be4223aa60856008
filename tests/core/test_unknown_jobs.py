"""Jobs that the sweep brings into the book, or carries on with another attempt: what is on record of them, in full."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from carpool._core.messages import Find, Poll, PutJob, PutResults, Report
from carpool._core.model import Job, JobState, Lane
from carpool._core.sealing import ulid
from carpool.settings import Price

from .desk import LANE, ORIGIN, STORE_ID, Desk, every, only, questions, remote
from .states import looking
from .test_sweeping import fetched_from, of, restored, stranger, swept

MODEL = "gemini-some"


def test_an_adopted_job_is_on_record_with_what_its_name_tells() -> None:
    desk = restored()
    sealed_at = 1.79e9 - 500.0
    display = f"cp1.{STORE_ID}.{ulid(sealed_at, STORE_ID, 2, 50, 7.0)}.3"
    there = msgspec.structs.replace(remote("batches/s", "RUNNING", display=display), model=f"models/{MODEL}")
    step = swept(desk, there)
    record = next(put.job for put in every(step.writes, PutJob) if put.job.stranger)
    assert record == Job(
        id=display.split(".")[2],
        lane=Lane("generate", MODEL),
        origin=ORIGIN,
        form="inline",
        spans=(),
        count=0,
        line_bytes=0,
        tokens=0,
        sealed_at=sealed_at,
        display_name=display,
        state=JobState.RUNNING,
        attempt=3,
        name="batches/s",
        created_at=sealed_at,
        wake_at=desk.now,
        stranger=True,
    )
    assert only(step.actions, Report) == Report("stranger_adopted", "batches/s")
    assert "batches/s" in [poll.job.name for poll in every([*step.actions, *desk.wait().actions], Poll)]


def test_the_time_of_an_adopted_job_that_comes_from_the_future_is_now() -> None:
    desk = restored()
    swept(desk, stranger(now=desk.now + 1e6))
    job = next(job for job in desk.jobs if job.stranger)
    assert job.created_at == desk.now


def test_the_answers_of_an_adopted_job_are_paid_by_its_model() -> None:
    desk = restored(prices={MODEL: Price(input_usd=Decimal(2), output_usd=Decimal(4))})
    swept(desk, msgspec.structs.replace(stranger(), model=f"models/{MODEL}"))
    fetched_from(desk, ("one", b"1"))
    receipt = desk.engine.receipt()
    assert (receipt.by_route["batch"].requests, receipt.unknown_cost) == (1, 0)


def test_each_answer_that_nobody_waits_for_has_a_place_of_its_own() -> None:
    desk = restored()
    before = desk.engine.book.next_segment
    swept(desk, stranger())
    head = only(fetched_from(desk, *((f"key {n}", b"x") for n in range(4))).writes, PutResults).head
    numbers = [place >> 20 for place in head.places]
    assert numbers == list(range(before, before + 4))
    assert desk.engine.book.next_segment == before + 4


def test_a_job_goes_on_with_the_later_attempt_that_is_there_under_its_names() -> None:
    desk = Desk(inline_bytes_max=0)
    desk.admit("a", key="k")
    desk.wait()
    desk.uploaded()
    desk.failed("unknown")
    desk.found()
    desk.wake()
    desk.found()
    desk.revoked()
    assert desk.job.revoked
    later = of(desk, "batches/2", attempt=2)
    step = swept(desk, later)
    record = only(step.writes, PutJob).job
    assert (record.attempt, record.display_name) == (2, later.display_name)
    assert record.file_name == f"files/cp-{record.id}-2"
    assert (record.looks, record.revoked, record.file_gone, record.state) == (0, False, False, JobState.LOOKING)
    assert Find in questions(step)


def test_a_twin_that_was_counted_as_a_double_is_not_taken_for_the_job_afterwards() -> None:
    desk = looking()
    desk.found(remote("batches/1", "RUNNING"), remote("batches/2", "RUNNING"))
    desk.wake()
    desk.refused(404)
    desk.wake()
    desk.found(remote("batches/2", "SUCCEEDED"), remote("batches/3", "RUNNING"))
    assert desk.job.name == "batches/3"
    assert desk.job.lane == LANE
