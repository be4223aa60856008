"""Jobs that wait for room: for tokens of their model, for storage of their file; and lanes that take turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carpool._core.messages import Create, DeleteRemote, Fail, Find, Found, Upload
from carpool._core.model import JobState, Lane
from carpool._core.pacing import LONE_PATIENCE_S

from .desk import LANE, OTHER_LANE, Desk, every, only, questions
from .lanes import Lanes
from .quota_world import FULL, MINUTE_S, play

HEAVY = 100_000


def filled(**settings: object) -> Desk:
    """Return a desk with a job of a million tokens, sealed and asked for."""
    desk = Desk(quota_retry_min_s=100.0, **settings)
    for number in range(10):
        desk.admit(f"p{number}", tokens=HEAVY)
    desk.wait()
    return desk


# -- tokens


def test_a_job_refused_for_quota_goes_on_in_smaller_ones_and_no_attempt_is_counted() -> None:
    desk = filled()
    assert desk.job.count == 10
    assert questions(desk.refused(429)) == []
    assert (desk.jobs, desk.engine.stats().waiting) == ([], 10)
    assert set(desk.engine.book.segments[1].attempts) == {0}
    assert desk.engine.next_wakeup() == desk.engine.book.pacing.ceiling(LANE.model).blocked_until
    step = desk.wake()
    assert only(step.actions, Create).job.spans == ((1, 0, 1),)
    desk.created()
    assert desk.engine.stats().waiting < 9  # the next is on its way, twice as large


def test_while_a_model_waits_another_goes() -> None:
    desk = filled()
    desk.refused(429)
    desk.admit("q", lane=OTHER_LANE)
    assert only(desk.wait(1.0).actions, Create).job.lane == OTHER_LANE


def test_a_refused_job_without_too_many_tokens_is_sent_again_as_it_is() -> None:
    desk = Desk(quota_retry_min_s=100.0)
    desk.admit("a")
    desk.admit("b")
    desk.wait()
    job = desk.job.id
    desk.refused(429)
    assert (desk.job.id, desk.job.state) == (job, JobState.READY)
    assert only(desk.wake().actions, Create).job.count == 2


def test_a_job_whose_file_is_there_waits_for_the_create_of_another() -> None:
    desk = Desk(inline_bytes_max=0, batch_requests_max=1)
    for prompt in "ab":
        desk.admit(prompt, tokens=HEAVY)
    desk.wait()
    first, second = desk.jobs
    desk.uploaded(first)
    assert questions(desk.uploaded(second)) == []
    assert (second.state, second.wake_at) == (JobState.READY, None)
    assert desk.disk.job(second.id).uploaded_at > 0
    assert only(desk.created(job=first).actions, Create).job.id == second.id


def test_a_file_that_waits_is_taken_apart_when_there_is_no_room_for_it_any_more() -> None:
    desk = Desk(inline_bytes_max=0, batch_requests_max=5, quota_retry_min_s=100.0)
    for number in range(10):
        desk.admit(f"p{number}", tokens=HEAVY)
    desk.wait()
    first, second = desk.jobs
    desk.uploaded(first)
    desk.uploaded(second)
    step = desk.refused(429, job=first)
    assert {action.name for action in every(step.actions, DeleteRemote)} == {first.file_name}
    step = desk.wake()
    assert {action.name for action in every(step.actions, DeleteRemote)} == {second.file_name}
    assert only(step.actions, Upload).job.count == 1
    assert desk.engine.stats().waiting == 9


def test_a_job_that_waits_and_is_found_on_the_server_waits_no_more() -> None:
    desk = Desk(inline_bytes_max=0, batch_requests_max=1)
    for prompt in "ab":
        desk.admit(prompt, tokens=HEAVY, key=prompt)
    desk.wait()
    first, second = desk.jobs
    desk.uploaded(first)
    desk.uploaded(second)
    desk.engine.book.move(second, JobState.LOOKING)
    desk.wait()
    assert list(desk.engine.book.pacing.waiting()) == []


def test_the_next_attempt_of_a_create_of_unknown_fate_waits_for_room_too() -> None:
    desk = Desk(batch_requests_max=1, quota_retry_min_s=10_000.0, quota_retry_max_s=10_000.0)
    desk.admit("a", key="a")
    desk.admit("b", key="b")
    desk.wait()
    first, second = desk.jobs
    desk.failed("unknown", job=first)
    desk.refused(429, job=second)
    while first.state is JobState.LOOKING:
        if not first.op or first.wake_at is not None:
            desk.now = max(desk.now, first.wake_at or 0.0)
            assert questions(desk.wait()) == [Find]
        desk.tell(Found(first.id, first.op, []))
    assert (first.state, first.attempt) == (JobState.READY, 2)
    assert first.wake_at == desk.engine.book.pacing.ceiling(LANE.model).blocked_until
    assert desk.disk.job(first.id).display_name.endswith(".2")


def test_the_end_of_a_job_makes_room_before_its_output_is_read() -> None:
    desk = Desk(enqueued_tokens_max=HEAVY)
    desk.admit("a", tokens=HEAVY)
    desk.admit("b", tokens=HEAVY)
    desk.wait()
    desk.created()
    assert len(desk.jobs) == 1
    desk.wake()
    desk.polled()
    assert [job.state for job in desk.jobs] == [JobState.FETCHING, JobState.CREATING]


def test_recovered_jobs_take_up_room_unless_they_ended() -> None:
    desk = Desk(enqueued_tokens_max=HEAVY)
    desk.admit("a", tokens=HEAVY, key="a")
    desk.wait()
    desk.created()
    again = desk.restart()
    assert again.engine.book.pacing.ceiling(LANE.model).taken == HEAVY
    again.wait()
    again.polled(output=False)
    assert again.job.ended_at
    again.engine.book.record(again.job)
    again._write(again.engine.book.take_step(again.now))
    last = again.restart()
    assert last.engine.book.pacing.ceiling(LANE.model).held == 0


# -- a request above every ceiling


def lone() -> Desk:
    desk = Desk(quota_retry_min_s=100.0, batch_requests_max=100)
    desk.admit("giant", tokens=2_000_000, key="giant")
    desk.wait()
    return desk


def test_a_request_above_the_ceiling_lets_the_others_go_first() -> None:
    desk = lone()
    desk.refused(429)
    desk.admit("small", tokens=10)
    assert only(desk.wake().actions, Create).job.spans == ((1, 0, 1),)
    desk.refused(429)
    assert only(desk.wake().actions, Create).job.spans == ((2, 0, 1),)
    desk.created()
    assert desk.engine.stats().waiting == 1  # it goes when nothing else of its model runs
    desk.wake()
    assert only(desk.polled().actions, Create).job.spans == ((1, 0, 1),)


def test_a_request_that_is_refused_alone_for_an_hour_is_told() -> None:
    desk = lone()
    since = desk.now
    while True:
        told = every(desk.refused(429, "Resource has been exhausted").actions, Fail)
        if told:
            break
        assert only(desk.wake().actions, Create).job.count == 1
        assert desk.now - since < 2 * LONE_PATIENCE_S
    assert (told[0].keys, told[0].failure.kind, told[0].failure.error.code) == (["giant"], "quota", 429)
    assert desk.now - since >= LONE_PATIENCE_S
    assert desk.jobs == []


# -- storage


def test_a_file_beyond_the_storage_waits_until_another_is_deleted() -> None:
    desk = Desk(inline_bytes_max=0, batch_requests_max=1, file_storage_bytes_max=1_000)
    places = [desk.admit(prompt, size_bytes=600) for prompt in "ab"]
    step = desk.wait()
    assert only(step.actions, Upload).job.count == 1
    first, second = desk.jobs
    assert (second.state, second.wake_at) == (JobState.UPLOADING, None)
    desk.uploaded(first)
    desk.created(job=first)
    desk.wake()
    desk.polled(job=first)
    desk.fetched(places[0], job=first)
    step = desk.ended(job=first)
    assert only(step.actions, Upload).job.id == second.id


def test_while_a_file_waits_its_model_seals_no_more_jobs() -> None:
    desk = Desk(inline_bytes_max=0, batch_requests_max=1, file_storage_bytes_max=1_000)
    for prompt in "abcdef":
        desk.admit(prompt, size_bytes=600)
    desk.wait()
    assert (len(desk.jobs), desk.engine.stats().waiting) == (2, 4)


def test_files_refused_for_storage_are_waited_for_and_uploads_go_one_at_a_time() -> None:
    desk = Desk(inline_bytes_max=0, batch_requests_max=1, quota_retry_min_s=100.0)
    for prompt in "ab":
        desk.admit(prompt)
    desk.wait()
    first, second = desk.jobs
    desk.refused(429, job=first)
    assert questions(desk.refused(429, job=second)) == []
    assert questions(desk.wake()) == [Upload]
    assert questions(desk.uploaded(first)) == [Create, Upload]
    assert {segment.attempts[0] for segment in desk.engine.book.segments.values()} == {0}


def test_a_new_process_counts_the_files_that_are_there() -> None:
    desk = Desk(inline_bytes_max=0, file_storage_bytes_max=1_000)
    desk.admit("a", size_bytes=600, key="a")
    desk.wait()
    desk.uploaded()
    again = desk.restart()
    assert again.engine.book.pacing.storage.bytes == 600


# -- turns


def test_lanes_take_turns_however_much_waits_in_one() -> None:
    desk = Lanes(batch_requests_max=2, jobs_max=1)
    desk.push(*[1] * 100)
    others = [Lane("generate", f"model-{number}") for number in range(3)]
    for lane in others:
        desk.push(1, at=5.0, lane=lane)
    turns = []
    for _ in range(8):
        batch = desk.cut(100.0)
        assert batch is not None
        turns.append(batch.lane)
        desk.end(batch)
    assert turns[:4] == [LANE, *others]
    assert set(turns[4:]) == {LANE}


def test_in_a_round_the_nearest_deadline_goes_first() -> None:
    desk = Lanes(batch_requests_max=1)
    desk.push(1, 1, deadlines=[90_000.0] * 2)
    desk.push(1, 1, lane=OTHER_LANE, deadlines=[80_000.0] * 2)
    turns = [batch.lane for batch in (desk.cut(0.0) for _ in range(4)) if batch is not None]
    assert turns == [OTHER_LANE, LANE, OTHER_LANE, LANE]


@given(
    floods=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    deadlines=st.lists(st.one_of(st.just(float("inf")), st.floats(1_000, 90_000)), min_size=6, max_size=6),
    ends=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_every_lane_with_work_that_may_go_is_served_within_twice_as_many_batches_as_there_are_lanes(
    floods: list[int], deadlines: list[float], ends: list[bool]
) -> None:
    desk = Lanes(batch_requests_max=1, jobs_max=3, linger_s=0.0, linger_max_s=0.0)
    lanes = [Lane("generate", f"model-{number}") for number in range(len(floods))]
    for lane, rows, deadline in zip(lanes, floods, deadlines, strict=False):
        desk.push(*[1] * rows, lane=lane, deadlines=[deadline] * rows)
    waits = dict.fromkeys(lanes, 0)
    left = dict(zip(lanes, floods, strict=True))
    running = []
    for end in ends:
        if running and (end or len(running) == 3):
            desk.end(running.pop(0))
        batch = desk.cut(10.0)
        if batch is None:
            break
        running.append(batch)
        left[batch.lane] -= 1
        for lane in lanes:
            waits[lane] = 0 if lane == batch.lane or not left[lane] else waits[lane] + 1
            assert waits[lane] < 2 * len(lanes)


# -- the hidden ceiling; more seeds by hand: python -m tests.core.quota_world 0 200


def test_a_hidden_changing_ceiling_is_found_and_used() -> None:
    for seed in (5, 40, 92, 138):
        outcome = play(seed)
        assert outcome.early == 0, "a create was sent before the pause after a refusal was over"
        assert outcome.longest_below_s <= 10 * MINUTE_S, outcome
        assert outcome.used >= FULL, outcome
        assert (outcome.failed, outcome.answered > 0) == (0, True)


def test_a_lane_that_was_ripe_waits_if_another_took_the_room() -> None:
    desk = Desk(enqueued_tokens_max=HEAVY)
    for kind in ("embed", "generate"):
        desk.admit(tokens=HEAVY, lane=Lane(kind, "one-model"))
    desk.wait()
    assert [job.lane.kind for job in desk.jobs] == ["embed"]
    desk.created()
    desk.wake()
    desk.polled(output=False, state="EXPIRED")
    assert [job.lane.kind for job in desk.jobs] == ["generate"], "lanes take turns, also with a request that came back"
