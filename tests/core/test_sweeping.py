"""The sweep: twins cancelled and counted, unknown jobs adopted, and what waits until that is clear."""

from __future__ import annotations

import msgspec
import pytest

from carpool._core.census import CLOSED_MAX, DOUBLED_MAX, LAG_MAX_S, LOOSE_MAX, Census, Origin
from carpool._core.keys import Claim
from carpool._core.messages import (
    CancelRemote,
    Create,
    Deliver,
    Fetch,
    FetchEnded,
    Find,
    Found,
    PutJob,
    PutMeta,
    PutResults,
    Report,
    RowsFetched,
    Step,
    Sweep,
    SweepFailed,
    Swept,
    Upload,
)
from carpool._core.meter import Charge
from carpool._core.model import UNKNOWN_DIGEST, Fault, JobState, Meta
from carpool._core.sealing import read_id, read_name, ulid
from carpool.settings import Settings
from carpool.types import BatchJob

from .desk import STORE_ID, Desk, digest_of, error, every, only, questions, remote
from .states import creating, looking, ready, uploading

WEEK = 604_800.0


def swept(desk: Desk, *remotes: BatchJob) -> Step:
    """Let the next sweep come, and answer it."""
    desk.listed = None
    desk.now = max(desk.now, desk.engine.book.census.wake_at)
    asked = only(desk.wait().actions, Sweep)
    return desk.tell(Swept(asked.op, list(remotes)))


def of(desk: Desk, name: str, state: str = "RUNNING", *, attempt: int | None = None) -> BatchJob:
    """Return a job on the server that carries the name of the desk's only job."""
    job = desk.job
    display = job.display_name if attempt is None else f"cp1.{STORE_ID}.{job.id}.{attempt}"
    return remote(name, state, display=display)


def stranger(name: str = "batches/s", state: str = "RUNNING", *, number: int = 50, now: float = 1.79e9) -> BatchJob:
    """Return a job that a store sealed which was lost."""
    return remote(name, state, display=f"cp1.{STORE_ID}.{ulid(now, STORE_ID, 2, number, 7.0)}.1")


def cancelled(step: Step) -> list[str]:
    return [action.name for action in every(step.actions, CancelRemote)]


def restored(*prompts: str, ticket: bool = False, **settings: float) -> Desk:
    """Return the desk of a process that found requests waiting in its store."""
    desk = Desk(linger_s=0.0, jobs_max=1, batch_requests_max=1)
    desk.running("first", key="first")
    for prompt in prompts:
        desk.admit(prompt, key=f"key-{prompt}", ticket=ticket)
    desk.wait()
    again = desk.restart(jobs_max=100, batch_requests_max=50, **settings)
    again.listed = None
    return again


# -- names


def test_an_id_tells_time_epoch_and_number() -> None:
    job_id = ulid(1_790_000_000.123, "s", 7, 9, 1.0)
    told = read_id(job_id)
    assert told is not None
    assert (told.sealed_at, told.epoch, told.number) == (1_790_000_000.123, 7, 9)
    assert job_id != ulid(1_790_000_000.123, "s", 7, 9, 2.0)
    assert read_id("not-an-id") is None


@pytest.mark.parametrize(
    ("display", "attempt"),
    [
        (f"cp1.store.{'0' * 26}.12", 12),
        (f"cp1.store.{'0' * 26}.1.nightly", 1),
        (f"cp1.other.{'0' * 26}.1", None),
        (f"cp1.store.{'0' * 25}.1", None),
        (f"cp1.store.{'0' * 26}", None),
        (f"cp1.store.{'i' * 26}.1", None),
        ("somebody's", None),
        ("", None),
    ],
)
def test_only_names_of_this_store_are_read(display: str, attempt: int | None) -> None:
    name = read_name("store", display)
    assert (None if name is None else name.attempt) == attempt


# -- when


def test_a_new_store_sweeps_only_after_something_was_created() -> None:
    desk = Desk(sweep_s=600.0)
    desk.listed = None
    assert desk.engine.next_wakeup() is None
    desk.admit(key="a")
    desk.wait()
    desk.created()
    assert every(desk.wait(599.0).actions, Sweep) == []
    assert only(desk.wait(1.0).actions, Sweep).prefix == f"cp1.{STORE_ID}."


def test_a_store_that_was_used_before_is_swept_at_once_and_then_in_turn() -> None:
    desk = Desk(sweep_s=600.0).restart()
    assert swept(desk).actions == []
    assert desk.engine.book.census.wake_at == desk.now + 600.0
    swept(desk)


def test_one_sweep_is_asked_at_a_time_and_only_its_answer_is_heard() -> None:
    desk = Desk(sweep_s=600.0).restart()
    desk.listed = None
    asked = only(desk.wait().actions, Sweep)
    assert every(desk.wait(WEEK).actions, Sweep) == []
    strange = stranger()
    assert desk.tell(Swept(asked.op + 1, [strange])).writes == []
    desk.tell(SweepFailed(asked.op + 1, Fault(kind="unknown")))
    assert desk.engine.book.census.asking
    desk.tell(Swept(asked.op, []))
    assert desk.tell(Swept(asked.op, [strange])).writes == []
    desk.tell(SweepFailed(asked.op, Fault(kind="unknown")))
    assert desk.engine.book.census.failures == 0


def test_a_client_that_is_being_left_sweeps_no_more() -> None:
    desk = Desk().restart()
    swept(desk)
    desk.engine.book.closing = True
    assert every(desk.wait(WEEK * 2).actions, Sweep) == []


# -- twins


def test_a_twin_of_a_running_job_is_cancelled_and_counted_once() -> None:
    desk = Desk()
    desk.running("a", key="a")
    mine, twin = of(desk, "batches/1"), of(desk, "batches/2")
    step = swept(desk, mine, twin)
    assert cancelled(step) == ["batches/2"]
    assert only(step.actions, Report) == Report("twins", "batches/2", 1, desk.job.display_name)
    assert only(step.writes, PutMeta).meta.doubled == ["batches/2"]
    again = swept(desk, mine, twin)  # the cancel was lost
    assert (cancelled(again), every(again.actions, Report)) == (["batches/2"], [])
    assert desk.engine.receipt().doubles == 1
    later = desk.restart()
    assert cancelled(swept(later, mine, twin)) == ["batches/2"]
    assert later.engine.receipt().doubles == 0  # counted by the process that found it


@pytest.mark.parametrize(
    ("state", "counted"), [("SUCCEEDED", 1), ("PARTIALLY_SUCCEEDED", 1), ("FAILED", 0), ("CANCELLED", 0)]
)
def test_a_twin_that_ended_is_counted_if_it_was_paid_for(state: str, counted: int) -> None:
    desk = Desk()
    desk.running("a", key="a")
    assert cancelled(swept(desk, of(desk, "batches/2", state))) == []
    assert desk.engine.receipt().doubles == counted


def test_an_earlier_attempt_that_took_effect_after_all_is_a_double() -> None:
    desk = looking()
    desk.found()
    desk.wake()
    desk.found()
    assert (desk.job.attempt, desk.job.state) == (2, JobState.CREATING)
    assert cancelled(swept(desk, of(desk, "batches/old", attempt=1))) == ["batches/old"]
    assert cancelled(swept(desk, of(desk, "batches/older", "FAILED", attempt=1))) == []
    assert desk.engine.receipt().doubles == 1


def test_a_later_attempt_than_is_on_record_is_left_alone() -> None:
    desk = Desk()
    desk.running("a", key="a")
    assert cancelled(swept(desk, of(desk, "batches/2", attempt=2))) == []


@pytest.mark.parametrize("state", [creating, looking])
def test_a_job_of_unknown_fate_is_left_to_its_own_question(state: object) -> None:
    desk = creating() if state is creating else looking()
    step = swept(desk, of(desk, "batches/1"), of(desk, "batches/2"))
    assert (cancelled(step), desk.job.name) == ([], "")


@pytest.mark.parametrize("state", [uploading, ready])
def test_a_job_that_is_there_although_no_create_of_it_was_sent_is_looked_for(state: object) -> None:
    desk = uploading() if state is uploading else ready()
    desk.refused(429) if state is uploading else None
    desk.engine.book.census.wake_at = desk.now
    step = swept(desk, of(desk, "batches/1"))
    assert (desk.job.state, questions(step)) == (JobState.LOOKING, [Find])
    assert only(step.writes, PutJob).job.state is JobState.LOOKING
    desk.found(remote("batches/1", "RUNNING"))
    assert desk.job.name == "batches/1"


def test_a_job_of_which_the_server_has_a_later_attempt_goes_on_with_that() -> None:
    desk = looking()
    step = swept(desk, of(desk, "batches/2", attempt=2))
    assert only(step.actions, Find).job.display_name == f"cp1.{STORE_ID}.{desk.job.id}.2"
    assert desk.disk.job(desk.job.id).attempt == 2


# -- jobs that are closed


def test_a_job_that_runs_although_it_is_closed_is_cancelled_and_counted() -> None:
    desk = looking()
    twin = of(desk, "batches/late")
    for _ in range(3):
        desk.found()
        desk.wake()
        desk.found()
        desk.failed("unknown") if desk.jobs else None
    assert desk.jobs == []
    step = swept(desk, twin)
    assert (cancelled(step), desk.engine.receipt().doubles) == (["batches/late"], 1)


def closed_desk() -> tuple[Desk, str]:
    desk = Desk()
    [place] = desk.fetching("a", key="a")
    display = desk.job.display_name
    desk.fetched(kept=[(place, b"x")])
    desk.ended()
    return desk, display


def test_what_ended_is_ignored_but_the_twin_of_a_closed_job() -> None:
    desk, display = closed_desk()
    mine = remote("batches/1", "SUCCEEDED", display=display)
    assert swept(desk, mine).actions == []
    swept(desk, mine, remote("batches/2", "SUCCEEDED", display=display), remote("batches/3", "FAILED", display=display))
    assert desk.engine.receipt().doubles == 1
    later = desk.restart()  # which no longer knows which of them was used
    assert swept(later, mine).actions == []
    assert cancelled(swept(later, remote("batches/4", "RUNNING", display=display))) == ["batches/4"]


def test_twins_that_ended_while_nobody_looked_are_counted_less_the_one_that_was_read() -> None:
    desk, display = closed_desk()
    first, last = (display.removesuffix("1") + attempt for attempt in ("1", "2"))
    later = desk.restart()
    mine, twin = remote("batches/1", "SUCCEEDED", display=last), remote("batches/2", "SUCCEEDED", display=first)
    unpaid = remote("batches/3", "FAILED", display=first)
    assert cancelled(swept(later, twin, mine, unpaid)) == []
    assert (list(later.engine.book.census.doubled), later.engine.receipt().doubles) == (["batches/2"], 1)
    again = later.restart()
    swept(again, twin, mine, unpaid)
    assert again.engine.receipt().doubles == 0, "counted before"
    assert cancelled(swept(again, twin, mine, remote("batches/4", "RUNNING", display=first))) == ["batches/4"]
    assert list(again.engine.book.census.doubled) == ["batches/2", "batches/4"]


def test_the_job_itself_is_cancelled_uncounted_if_it_runs_on_though_closed() -> None:
    desk, display = closed_desk()
    assert cancelled(swept(desk, remote("batches/1", "RUNNING", display=display))) == ["batches/1"]
    assert desk.engine.receipt().doubles == 0


def test_what_runs_of_a_job_that_never_got_a_name_is_cancelled_however_old_the_list_is() -> None:
    desk = looking()
    late = of(desk, "batches/late")
    desk.listed = None
    desk.now = desk.engine.book.census.wake_at
    asked = only(desk.wait().actions, Sweep)
    for _ in range(3):
        desk.found()
        desk.wake()
        desk.found()
        desk.failed("unknown") if desk.jobs else None
    assert desk.jobs == [], "it was given up while the list was on its way"
    assert cancelled(desk.tell(Swept(asked.op, [late]))) == ["batches/late"]


def test_a_list_that_is_older_than_the_end_of_a_job_says_nothing_about_it() -> None:
    desk = Desk()
    [place] = desk.running("a", key="a")
    display = desk.job.display_name
    desk.listed = None
    desk.wake()
    desk.polled()
    desk.now = desk.engine.book.census.wake_at
    asked = only(desk.wait().actions, Sweep)
    desk.fetched(kept=[(place, b"x")])
    desk.ended()
    both = remote("batches/1", "RUNNING", display=display), remote("batches/9", "RUNNING", display=display)
    assert cancelled(desk.tell(Swept(asked.op, list(both)))) == ["batches/9"]
    assert cancelled(swept(desk, *both)) == ["batches/1", "batches/9"]
    assert desk.engine.receipt().doubles == 1


def test_jobs_of_another_origin_are_left_alone() -> None:
    desk = Desk()
    desk.running("a", key="a")
    twin = of(desk, "batches/1")
    theirs = msgspec.structs.replace(desk.disk.job(desk.job.id), origin="https://elsewhere#2")
    desk.disk.apply([PutJob(theirs)])
    again = desk.restart()
    assert cancelled(swept(again, twin, remote("batches/x", display="somebody's"))) == []
    assert again.jobs == [] or not any(job.stranger for job in again.jobs)


# -- jobs that this store does not know


def test_an_unknown_job_is_adopted_and_what_waited_for_it_is_answered() -> None:
    desk = restored("b", "c")
    [number] = [job.name for job in desk.jobs]
    assert number == "batches/1"
    strange = stranger()
    step = swept(desk, strange)
    assert (cancelled(step), only(step.actions, Report).event) == ([], "stranger_adopted")
    job = next(job for job in desk.jobs if job.stranger)
    assert (job.name, job.count, desk.disk.job(job.id).stranger) == ("batches/s", 0, True)
    assert every(desk.wait(60.0).actions, Create) == []  # b and c may be inside
    polled = desk.polled("SUCCEEDED", job)
    assert Fetch in questions(polled)
    index = desk.engine.fetch_index(job.id)
    assert set(index) == {"key-b", "key-c"}
    rows = RowsFetched(job.id, job.op, [], [(index["key-b"], b"B")], [], Charge(answers=1), [("key-z", b"Z")])
    step = desk.tell(rows)
    assert only(step.actions, Deliver).rows == [(index["key-b"], b"B")]
    assert desk.claim("key-b", "b")[0] is Claim.KEPT
    assert desk.claim("key-z", "whatever it was")[0] is Claim.KEPT
    step = desk.tell(FetchEnded(job.id, job.op))
    create = only([*step.actions, *desk.wait(400.0).actions], Create)
    assert create.job.count == 1  # c goes, since it was in no unknown job
    assert desk.engine.book.key_at(desk.engine.book.place_in(create.job, 0)) == "key-c"


def fetched_from(desk: Desk, *unclaimed: tuple[str, bytes], kept: tuple[tuple[int, bytes], ...] = ()) -> Step:
    job = next(job for job in desk.jobs if job.stranger)
    if job.state is JobState.RUNNING:
        desk.polled("SUCCEEDED", job)
    return desk.tell(RowsFetched(job.id, job.op, [], list(kept), [], Charge(answers=1), list(unclaimed)))


def test_answers_to_keys_that_nobody_waits_for_are_kept_by_what_their_keys_tell() -> None:
    desk = restored()
    swept(desk, stranger())
    hexed = digest_of("q").hex()
    rows = ((f"a{hexed}.2.1", b"A"), (f"m{hexed}.1", b"M"), ("named", b"N"), ("first", b"in flight"))
    head = only(fetched_from(desk, *rows).writes, PutResults).head
    assert head.keys == [f"a{hexed}.2.1", f"m{hexed}.1", "named"]
    assert head.digests == digest_of("q") * 2 + UNKNOWN_DIGEST
    assert every(fetched_from(desk, *rows).writes, PutResults) == []  # the same again, after a break
    assert desk.adopt("q")[0] is Claim.KEPT
    assert desk.adopt("q")[0] is Claim.NEW
    assert (desk.claim(f"m{hexed}.1", "q")[0], desk.claim(f"m{hexed}.1", "r")[0]) == (Claim.KEPT, Claim.CONFLICT)
    assert desk.restart().claim("named", "x")[0] is Claim.KEPT


def test_all_answers_of_an_unknown_job_are_counted_also_while_new_requests_come() -> None:
    desk = restored()
    swept(desk, stranger())
    desk.admit("new")  # of a segment that is not written yet
    job = next(job for job in desk.jobs if job.stranger)
    assert desk.engine.fetch_index(job.id) == {}
    before = desk.engine.stats().answered
    fetched_from(desk, ("one", b"1"), ("two", b"2"))
    fetched_from(desk, ("three", b"3"))
    assert desk.engine.stats().answered == before + 3


def test_parked_requests_are_answered_and_offered() -> None:
    desk = Desk(linger_s=100.0)
    desk.admit("a")
    desk.wait()
    again = desk.restart()
    swept(again, stranger())
    job = again.job
    again.polled("SUCCEEDED", job)
    [place] = again.engine.fetch_index(job.id).values()
    step = fetched_from(again, kept=((place, b"A"),))
    assert again.engine.book.segments == {}
    assert len(every(step.writes, PutResults)) == 1
    assert every(fetched_from(again, kept=((place, b"A"),)).writes, PutResults) == []
    assert again.adopt("a")[0] is Claim.KEPT


def test_an_unknown_job_that_ended_long_ago_is_left_alone() -> None:
    desk = restored()
    swept(desk, stranger(state="SUCCEEDED", now=desk.now - 5 * 86_400.0))
    assert not any(job.stranger for job in desk.jobs)


def test_of_an_unknown_jobs_twins_the_better_is_adopted_and_the_other_is_a_double() -> None:
    desk = restored()
    both = stranger("batches/a", "FAILED"), stranger("batches/b")
    swept(desk, *both)
    [job] = [job for job in desk.jobs if job.stranger]
    assert job.name == "batches/b"
    assert cancelled(swept(desk, *both, stranger("batches/c"))) == ["batches/c"]


def test_an_unknown_job_that_failed_or_vanished_lets_go_of_what_waits() -> None:
    for code in (3, 13):
        desk = restored("b")
        swept(desk, stranger())
        job = next(job for job in desk.jobs if job.stranger)
        step = desk.polled("FAILED", job, output=False, failure=error(code))
        assert len(every(step.actions, Create)) == 1
    desk = restored("b")
    swept(desk, stranger())
    job = next(job for job in desk.jobs if job.stranger)
    desk.refused(404, job=job)
    assert job.state is JobState.LOOKING


def test_the_lane_of_an_unknown_job_is_read_off_its_model() -> None:
    desk = restored()
    strange = stranger()
    swept(desk, msgspec.structs.replace(strange, model="models/gemini-embedding-001"))
    job = next(job for job in desk.jobs if job.stranger)
    assert (job.lane.kind, job.lane.model) == ("embed", "gemini-embedding-001")


def test_an_unknown_job_stays_unknown_until_it_ended_whatever_is_sealed_meanwhile() -> None:
    desk = restored()
    strange = stranger(number=2)
    desk.admit("new", key="new")  # sealed as number 2 as well, before anything was swept
    desk.wait(1.0)
    later = desk.restart()
    assert cancelled(swept(later, strange)) == []
    assert any(job.stranger for job in later.jobs)
    assert later.disk.meta_record().loose != []


def test_once_all_is_clear_the_record_of_identity_holds_one_number() -> None:
    desk = restored()
    desk.admit("new", key="new")
    asked = only(desk.wait(1.0).actions, Sweep)
    assert len(desk.disk.meta_record().loose) == 1
    desk.tell(Swept(asked.op, []))
    assert (desk.disk.meta_record().loose, desk.disk.meta_record().jobs) == ([], 2)
    desk.admit("newer", key="newer")
    desk.wait(1.0)
    assert desk.disk.meta_record().jobs == 3


def test_a_record_of_identity_from_before_there_were_sweeps_is_read() -> None:
    old = msgspec.msgpack.encode(["abcd1234", 4, 1])
    assert msgspec.msgpack.decode(old, type=Meta) == Meta(store_id="abcd1234", epoch=4, format=1)


# -- what waits


def test_requests_of_earlier_processes_wait_for_the_first_sweep_and_new_ones_do_not() -> None:
    desk = restored("b")
    asked = only(desk.wait().actions, Sweep)
    desk.admit("new", key="new")
    assert only(desk.wait(1.0).actions, Create).job.count == 1
    assert only(desk.tell(Swept(asked.op, [])).actions, Create).job.count == 1


def test_held_requests_can_be_withdrawn_and_flushed() -> None:
    desk = restored("b", "c")
    desk.wait()
    _, place = desk.claim("key-b", "b")
    desk.leave(place)
    assert desk.engine.stats().waiting == 1
    desk.engine.book.flush()
    asked = desk.engine.book.census.op
    assert only(desk.tell(Swept(asked, [])).actions, Create).job.count == 1


def test_what_is_held_goes_in_front_of_what_came_later() -> None:
    desk = restored("b", linger_s=50.0)
    asked = only(desk.wait().actions, Sweep)
    desk.admit("new", key="new")
    desk.wait(1.0)
    desk.tell(Swept(asked.op, []))
    create = only(desk.wait(50.0).actions, Create)
    book = desk.engine.book
    assert [book.key_at(book.place_in(create.job, row)) for row in range(2)] == ["key-b", "new"]


@pytest.mark.parametrize(("kind", "times"), [("refused", 1), ("unknown", 3), ("not_sent", 3)])
def test_a_list_that_cannot_be_had_does_not_hold_requests_for_ever(kind: str, times: int) -> None:
    desk = restored("b", sweep_s=600.0)
    for number in range(times):
        desk.now = max(desk.now, desk.engine.book.census.wake_at)
        step = desk.wait()
        asked = only(step.actions, Sweep)
        assert every(step.actions, Create) == []
        step = desk.tell(SweepFailed(asked.op, Fault(kind=kind, error=error(403))))  # type: ignore[arg-type]
        assert len(every(step.actions, Create)) == (number == times - 1)
    pause = desk.engine.book.census.wake_at - desk.now
    assert pause == 600.0 if kind == "refused" else 0 < pause <= 4.0
    assert not desk.engine.book.census.settled


@pytest.mark.parametrize("state", [uploading, ready])
def test_jobs_that_were_not_created_yet_wait_too(state: object) -> None:
    desk = (uploading() if state is uploading else ready()).restart()
    desk.listed = None
    asked = only(desk.wait().actions, Sweep)
    assert questions(desk.wait(50.0)) == []
    step = desk.tell(Swept(asked.op, []))
    assert questions(step) == [Upload if state is uploading else Create]


def test_a_job_that_waited_and_is_on_the_server_is_found() -> None:
    desk = uploading().restart()
    step = swept(desk, of(desk, "batches/1"))
    assert questions(step) == [Find]


def test_halves_of_a_bad_batch_are_held_if_they_are_of_an_earlier_process() -> None:
    desk = Desk()
    desk.running("a", "b", key=None)
    desk = Desk()
    for prompt in "ab":
        desk.admit(prompt, key=prompt)
    desk.wait()
    desk.created()
    again = desk.restart()
    again.listed = None
    asked = only(again.wait().actions, Sweep)
    step = again.polled("FAILED", output=False, failure=error(3))
    assert questions(step) == []
    assert [action.job.count for action in every(again.tell(Swept(asked.op, [])).actions, Create)] == [1, 1]


# -- lag


def test_a_running_job_that_the_list_lacks_shows_how_far_it_lags() -> None:
    desk = Desk(sweep_s=30.0, lookup_wait_s=10.0)
    desk.running("a", key="a")
    swept(desk)
    age = desk.now - desk.job.created_at
    assert desk.engine.book.census.lag_s == 0.0  # it may be gone
    desk.wake()
    desk.polled("RUNNING", output=False)
    assert desk.engine.book.census.lag_s == age
    assert desk.engine.book.census.look_wait_s(desk.settings) == 2 * age


def test_a_running_job_that_is_gone_shows_no_lag() -> None:
    desk = Desk(sweep_s=30.0)
    desk.running("a", key="a")
    swept(desk)
    desk.wake()
    desk.refused(404)
    desk.wake()
    desk.found(remote("batches/1", "RUNNING"))
    desk.polled("RUNNING", output=False)
    assert desk.engine.book.census.lag_s == 0.0


def test_a_job_found_only_by_a_later_look_makes_the_next_waits_longer() -> None:
    desk = looking()
    created_at = desk.now
    desk.wait(200.0)
    desk.found()
    desk.wake()
    desk.found(remote("batches/1", "RUNNING"))
    assert desk.engine.book.census.lag_s == 200.0 == desk.job.intended_at + 200.0 - created_at
    desk.admit("b", key="b")
    desk.wait(1.0)
    [other] = [job for job in desk.jobs if not job.name]
    desk.failed("unknown", job=other)
    desk.tell(Found(other.id, other.op, []))
    assert other.wake_at == desk.now + 400.0
    assert desk.disk.meta_record().lag_s == 200.0


# -- the census


def census(**fields: object) -> Census:
    made = Census(Meta(store_id="s", epoch=3, **fields))  # type: ignore[arg-type]
    made.open(1_000.0, Settings())
    return made


def test_what_the_census_remembers_is_bounded() -> None:
    some = census()
    for number in range(CLOSED_MAX + 5):
        some.close(f"id-{number}", "")
        some.count(f"batches/{number}")
        some.seal_id("s", 1_000.0)
    assert (len(some.closed), len(some.doubled), len(some.meta.doubled)) == (CLOSED_MAX, DOUBLED_MAX, DOUBLED_MAX)
    assert (len(some.meta.loose), some.next_job) == (LOOSE_MAX, CLOSED_MAX + 5)


def test_a_lag_that_is_too_long_to_be_one_is_none() -> None:
    some = census()
    some.note_lag(LAG_MAX_S + 1)
    some.note_lag(5.0)
    some.note_lag(4.0)
    assert (some.lag_s, some.meta.lag_s) == (5.0, 5.0)


def test_jobs_are_told_apart_by_epoch_number_and_opening() -> None:
    some = census(jobs=10)
    mine = some.seal_id("s", 1_001.0)
    cases = {
        mine: Origin.CLOSED,
        ulid(1_001.0, "s", 3, 11, 999.0): Origin.STRANGE,  # the same epoch, of another history
        ulid(1_001.0, "s", 3, 12, 1_000.0): Origin.STRANGE,
        ulid(1_001.0, "s", 2, 11, 1_000.0): Origin.STRANGE,
        ulid(1_001.0, "s", 1, 10, 5.0): Origin.CLOSED,
    }
    for job_id, origin in cases.items():
        name = read_id(job_id)
        assert name is not None
        assert some.origin_of(name, "s") is origin
    some.foreign.add(mine)
    name = read_id(mine)
    assert name is not None
    assert some.origin_of(name, "s") is Origin.FOREIGN


def test_numbers_of_jobs_on_record_are_not_given_again() -> None:
    some = census(jobs=10)
    some.note(ulid(1.0, "s", 2, 40, 1.0))
    some.note(ulid(1.0, "s", 99, 70, 1.0))  # of another make
    some.note("nothing")
    assert some.next_job == 40
    some.stranger_number = 60
    assert [some.settle(), some.settle(), some.next_job] == [True, False, 60]
