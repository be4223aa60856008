"""The way of a job: every state, every reply, and none of them out of place."""

from __future__ import annotations

import msgspec
import pytest

from carpool._core import lifecycle
from carpool._core.engine import Reply
from carpool._core.messages import (
    Broken,
    CallFailed,
    Created,
    FetchEnded,
    Found,
    Polled,
    Revoked,
    RowsFetched,
    Uploaded,
)
from carpool._core.meter import Charge
from carpool._core.model import Fault, Job, JobState, RemoteFile

from .desk import Desk, error, remote
from .states import STATES, fetching, ready

FITTING: dict[JobState, set[type]] = {
    JobState.UPLOADING: {Uploaded, CallFailed, Broken},
    JobState.READY: set(),
    JobState.CREATING: {Created, CallFailed, Broken},
    JobState.LOOKING: {Found, Revoked, CallFailed, Broken},
    JobState.RUNNING: {Polled, CallFailed, Broken},
    JobState.FETCHING: {RowsFetched, FetchEnded, CallFailed, Broken},
}


def copy_of(job: Job) -> Job:
    return msgspec.structs.replace(job)


def replies(job: str, op: int) -> list[Reply]:
    return [
        Uploaded(job, op, RemoteFile(name="files/x")),
        Created(job, op, "batches/x"),
        Found(job, op, [remote("batches/x")]),
        Revoked(job, op),
        Polled(job, op, remote("batches/x", "RUNNING")),
        RowsFetched(job, op, [], [], [], Charge()),
        FetchEnded(job, op),
        CallFailed(job, op, Fault(kind="unknown")),
        Broken(job, op, "a bug"),
    ]


@pytest.mark.parametrize("state", STATES)
def test_the_sample_desks_are_where_they_say(state: JobState) -> None:
    assert STATES[state]().job.state is state


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", range(9))
def test_a_reply_is_heard_exactly_where_it_fits(state: JobState, number: int) -> None:
    desk = STATES[state]()
    before = desk.job.op, desk.job.state, desk.job.wake_at, desk.job.failures
    reply = replies(desk.job.id, desk.job.op)[number]
    step = desk.tell(reply)
    changed = not desk.jobs or (desk.job.op, desk.job.state, desk.job.wake_at, desk.job.failures) != before
    if type(reply) in FITTING[state]:
        assert changed or step.actions or isinstance(reply, RowsFetched)
    else:
        assert not changed
        assert (step.writes, step.actions) == ([], [])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("off", [-1, 1])
def test_a_reply_to_another_question_changes_nothing(state: JobState, number: int, off: int) -> None:
    desk = STATES[state]()
    before = copy_of(desk.job)
    step = desk.tell(replies(desk.job.id, desk.job.op + off)[number])
    assert (step.writes, step.actions, desk.job) == ([], [], before)


@pytest.mark.parametrize("number", range(9))
def test_a_reply_about_a_job_that_is_gone_changes_nothing(number: int) -> None:
    desk = Desk()
    step = desk.tell(replies("no-such-job", 0)[number])
    assert (step.writes, step.actions) == ([], [])


@pytest.mark.parametrize("state", STATES)
def test_a_reply_is_heard_once(state: JobState) -> None:
    desk = STATES[state]()
    event = CallFailed(desk.job.id, desk.job.op, Fault(kind="unknown", error=error(503)))
    desk.tell(event)
    before = copy_of(desk.job)
    if state is not JobState.CREATING:  # which goes on at once to look for the job
        assert desk.tell(event).actions == []
        assert desk.job == before


def test_states_that_ask_nothing_refuse_to_be_asked() -> None:
    desk = fetching()
    with pytest.raises(AssertionError, match="asks nothing"):
        lifecycle.resume(desk.engine.book, desk.job, desk.now)
    job = ready().job
    with pytest.raises(AssertionError, match="a reply"):
        lifecycle.on_call_failed(desk.engine.book, job, Fault(kind="unknown"), desk.now)
