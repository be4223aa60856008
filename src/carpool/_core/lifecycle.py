"""The life of one job: which question to ask next, and what each reply means.

Owns the order of steps by which nothing is paid twice: the intent is on record before the create, the create is sent
once, and a create of unknown fate is looked for by its name before anything is sent again. How rows end is for
``settlement``.
"""

from __future__ import annotations

from typing import Final, Literal, assert_never

import msgspec

from carpool._core import leaving, settlement, sweeping
from carpool._core.accumulator import Batch
from carpool._core.book import Book
from carpool._core.breaker import read_pushback
from carpool._core.messages import (
    Broken,
    Create,
    Created,
    DeleteRemote,
    Fail,
    Fetch,
    Find,
    Found,
    Poll,
    Polled,
    PutMeta,
    Revoke,
    Revoked,
    Upload,
    Uploaded,
)
from carpool._core.model import Failure, Fault, Job, JobState
from carpool._core.quota import NEVER
from carpool._core.retry import Refusal, pause_s, read_refusal
from carpool._core.sealing import file_name
from carpool.types import ServerError

_LOOKS: Final = {"inline": 2, "file": 3}
"""Looks at the list before a create counts as not having taken effect; a file is revoked before the last."""
_LOOKS_BEFORE_REVOKE: Final = 2
_POLL_SHARE: Final = 0.05
"""Pause between polls as a share of the job's age."""
_NOT_FOUND: Final = 404
_GONE: Final = frozenset({403, 404})
_TAKEN: Final = 409
"""Of an upload: there is another file of that name, since the store was restored from a backup."""
_RENEWALS_MAX: Final = 9
_RPC_INVALID: Final = 3


def send(book: Book, batch: Batch, now: float) -> None:
    """Make a job of a batch, and begin with it; requests for which no money is left today are told so instead."""
    batch = settlement.within_budget(book, batch, now)
    if batch.count:
        resume(book, book.seal(batch, now), now)


def resume(book: Book, job: Job, now: float) -> None:
    """Ask the question that the job's state wants asked now."""
    match job.state:
        case JobState.UPLOADING:
            if not settlement.drop_unwanted(book, job):
                _upload(book, job, now)
        case JobState.READY:
            if _is_old(book, job, now):
                _renew(book, job, now)
            else:
                intend(book, job, now)
        case JobState.CREATING:
            book.pacing.creating(job.id)
            book.act(Create(job=_copy(job), op=book.ask(job)))
        case JobState.LOOKING:
            revoke = job.form == "file" and job.looks == _LOOKS_BEFORE_REVOKE and not job.revoked
            book.act((Revoke if revoke else Find)(job=_copy(job), op=book.ask(job)))
        case JobState.RUNNING:
            book.act(Poll(job=_copy(job), op=book.ask(job)))
        case JobState.FETCHING | JobState.CLOSED:
            message = f"{job.state} asks nothing by itself"
            raise AssertionError(message)
        case _:
            assert_never(job.state)


def intend(book: Book, job: Job, now: float) -> None:
    """Record the intent to create, then create: what callers still want of it, as far as the input is not made yet."""
    if job.form == "inline":
        if not settlement.trim(book, job):
            return
    elif settlement.drop_unwanted(book, job):
        return
    at = book.pacing.create_at(job.id, now)
    if at > now:
        _wait_for_room(book, job, at, now)
        return
    book.move(job, JobState.CREATING, failing=True)
    job.intended_at = now
    book.record(job)
    resume(book, job, now)


def let_on(book: Book, now: float) -> None:
    """Go on with the jobs that wait, for which there is room now."""
    for job_id in book.pacing.waiting():
        job = book.jobs[job_id]
        match job.state:
            case JobState.UPLOADING:
                at = book.pacing.storage.upload_at(job.id, job.line_bytes, now)
            case JobState.READY:
                at = book.pacing.create_at(job.id, now)
            case _:  # a sweep found it on the server
                book.pacing.go_on(job.id)
                continue
        if at <= now:
            resume(book, job, now)
        elif job.state is JobState.READY:
            _wait_for_room(book, job, at, now)
        else:
            job.wake_at = None if at == NEVER else at


def on_uploaded(book: Book, job: Job, event: Uploaded, now: float) -> None:
    """Create, since the input is on the server."""
    book.reached = True
    job.file_name = event.file.name
    job.uploaded_at = now
    book.pacing.storage.stored(job.id)
    intend(book, job, now)


def on_created(book: Book, job: Job, event: Created, now: float) -> None:
    """Poll from now on, since the job has a name."""
    book.jobs_created += 1
    _named(book, job, event.name, now)
    job.wake_at = now + book.settings.poll_min_s


def on_found(book: Book, job: Job, event: Found, now: float) -> None:
    """Adopt a job that took effect without our hearing of it; else look again, revoke, or try anew."""
    book.reached = True
    if event.remotes:
        if job.looked_at:
            book.census.note_lag(job.looked_at - job.intended_at)
        doubled = book.census.doubled
        first, *twins = sorted(event.remotes, key=lambda r: (r.name != job.name, r.name in doubled, sweeping.worth(r)))
        _named(book, job, first.name, now)
        job.wake_at = now
        book.report("job_adopted", first.name)
        count = sweeping.count_doubles(book, twins, now)
        if count:
            book.write(PutMeta(meta=book.census.meta))
            book.report("twins", first.name, count)
        return
    job.failures = 0
    if job.file_gone:  # the key is good, so it was the file
        _next_attempt(book, job, ServerError(message="the input file is gone"), now)
        return
    job.looks += 1
    job.looked_at = now
    if job.looks >= _LOOKS[job.form]:
        _next_attempt(book, job, ServerError(message="the job was not found on the server"), now)
        return
    revoke_next = job.form == "file" and job.looks == _LOOKS_BEFORE_REVOKE and not job.revoked
    job.wake_at = now if revoke_next else now + book.census.look_wait_s(book.settings)
    book.record(job)


def on_revoked(book: Book, job: Job, event: Revoked, now: float) -> None:
    """Wait out the list's lag and look once more: without its input, a create on its way can no longer take effect."""
    assert event.job == job.id, "events are routed by the job"
    job.failures = 0
    job.revoked = True
    job.uploaded_at = 0.0
    book.pacing.storage.deleted(job.id)
    job.wake_at = now + book.census.look_wait_s(book.settings)
    book.record(job)


def on_polled(book: Book, job: Job, event: Polled, now: float) -> None:
    """Wait on, fetch, or settle without output."""
    book.reached = True
    book.census.note_lag(book.census.absent.pop(job.id, 0.0))
    remote = event.remote
    if not remote.ended:
        leaving.cancel_left(book, job)  # again, if it was before: the call may have failed, or its process was killed
        job.failures = 0
        job.wake_at = now + poll_pause_s(book, job, now)
        return
    if not job.ended_at:
        job.ended_at = now
        _learn(book, job, now, answered=remote.has_output)
    book.pacing.over(job.id)
    if remote.has_output:
        # Failures go on being counted: this poll may stand between two that break off in the same place.
        book.move(job, JobState.FETCHING, failing=True)
        job.remote = remote
        book.act(Fetch(job=_copy(job), op=book.ask(job), remote=remote))
        return
    job.failures = 0
    error = remote.error or ServerError(message=f"the job ended as {remote.state} without output")
    match remote.state:
        case "SUCCEEDED" | "PARTIALLY_SUCCEEDED":
            if now - job.ended_at < book.settings.output_grace_s:
                job.wake_at = now + min(book.settings.poll_min_s, book.settings.output_grace_s)
            else:
                settlement.settle_rest(book, job, error, now, missing=True)
        case "FAILED" if error.code == _RPC_INVALID or error.status == "INVALID_ARGUMENT":
            settlement.isolate(book, job, error, now)
        case _:
            book.report("job_lost", job.name, job.count, remote.state)
            settlement.settle_rest(book, job, error, now, missing=False, lost=True)


def _learn(book: Book, job: Job, now: float, *, answered: bool) -> None:
    """Learn how long the batch route takes from a job that ended; one without answers tells only how long not."""
    if answered:
        book.durations.saw(job.lane.model, "batch", now - job.sealed_at)
    else:
        book.durations.saw_at_least(job.lane.model, "batch", now - job.sealed_at)


def on_call_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
    """Sort an error by the question that it answers. Only a refusal is a verdict; a poll that fails never is."""
    if fault.kind != "not_sent":
        book.reached = True
    match job.state:
        case JobState.UPLOADING:
            _upload_failed(book, job, fault, now)
        case JobState.CREATING:
            _create_failed(book, job, fault, now)
        case JobState.LOOKING:
            _look_failed(book, job, fault, now)
        case JobState.RUNNING:
            if fault.kind == "refused" and fault.error.code == _NOT_FOUND:
                book.census.absent.pop(job.id, None)
                book.report("job_vanished", job.name)
                book.move(job, JobState.LOOKING)
                job.wake_at = now + book.settings.poll_min_s
                book.record(job)
            else:
                _try_later(book, job, now)
        case JobState.FETCHING:
            _fetch_failed(book, job, fault, now)
        case JobState.READY | JobState.CLOSED:
            message = f"a reply in {job.state}"
            raise AssertionError(message)
        case _:
            assert_never(job.state)


def on_broken(book: Book, job: Job, event: Broken) -> None:
    """Tell the callers, and leave the job as it is on record: the next process can have what is paid for."""
    places = list(book.sent_in(job))
    job.stalled = True
    book.ask(job)  # whatever else is said about it is stale
    book.pacing.ended(job.id)  # nobody will hear of its end: it must not take up room for ever
    book.report("job_stalled", job.name or job.display_name, len(places), event.detail)
    failure = Failure(kind="failed", error=ServerError(message=event.detail), job=job.name)
    book.act(Fail(places=places, keys=[book.key_at(place) for place in places], failure=failure))


def poll_pause_s(book: Book, job: Job, now: float) -> float:
    """Return the pause before the next poll: a share of the job's age, within the limits."""
    s = book.settings
    return min(s.poll_max_s, max(s.poll_min_s, (now - job.created_at) * _POLL_SHARE))


def _named(book: Book, job: Job, name: str, now: float) -> None:
    book.reached = True
    book.move(job, JobState.RUNNING)
    job.name = name
    job.created_at = job.created_at or now
    job.looks, job.looked_at, job.file_gone = 0, 0.0, False
    book.pacing.created(job.id)
    book.record(job)


def _upload_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
    book.pacing.storage.failed(job.id)
    if fault.kind != "refused":
        _try_later_or_give_back(book, job, fault, now)
        return
    if fault.error.code == _TAKEN and job.renewed < _RENEWALS_MAX:
        _upload_anew(book, job, now)
        return
    match read_refusal(fault):
        case Refusal.BACK_OFF:
            job.failures = 0
            book.pacing.storage.refused(job.id, now, read_pushback(fault.error).retry_after_s)
            book.pacing.wait(job.id)
            job.wake_at = book.pacing.storage.upload_at(job.id, job.line_bytes, now)
        case Refusal.CREDENTIALS | Refusal.FILE_GONE:
            settlement.give_back(book, job, Failure(kind="credentials", error=fault.error))
        case Refusal.TOO_LARGE:
            settlement.too_large(book, job, fault.error, now)
        case Refusal.ISOLATE | Refusal.REJECT:
            settlement.reject(book, job, fault.error, now)
        case _ as refusal:
            assert_never(refusal)


def _create_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
    match fault.kind:
        case "not_sent":
            book.pacing.not_sent(job.id)
            book.move(job, JobState.READY, failing=True)
            book.record(job)
            _try_later_or_give_back(book, job, fault, now)
        case "unknown":
            book.pacing.unsure(job.id)
            book.report("create_ambiguous", job.display_name)
            book.move(job, JobState.LOOKING)
            job.wake_at = now
            book.record(job)
        case "refused":
            _create_refused(book, job, fault, now)
        case _:
            assert_never(fault.kind)


def _create_refused(book: Book, job: Job, fault: Fault, now: float) -> None:
    refusal = read_refusal(fault)
    match refusal:
        case Refusal.BACK_OFF:
            job.failures = 0
            said = read_pushback(fault.error)
            book.pacing.refused(job.id, now, named=said.scope != "quota", asked_s=said.retry_after_s)
            if book.pacing.is_too_large(job.id):
                _make_smaller(book, job, fault, now)
            else:
                _wait_for_room(book, job, book.pacing.create_at(job.id, now), now)
        case Refusal.CREDENTIALS:
            settlement.give_back(book, job, Failure(kind="credentials", error=fault.error))
        case Refusal.FILE_GONE if job.form == "file":
            # A key without rights is told the same: only a call that it may make shows which it is.
            book.pacing.not_sent(job.id)
            book.move(job, JobState.LOOKING)
            job.file_gone = True
            job.wake_at = now
            book.record(job)
        case Refusal.TOO_LARGE:
            settlement.too_large(book, job, fault.error, now)
        case Refusal.ISOLATE | Refusal.FILE_GONE:  # inline there is no input file: a row names one that is gone
            settlement.isolate(book, job, fault.error, now)
        case Refusal.REJECT:
            settlement.reject(book, job, fault.error, now)
        case _:
            assert_never(refusal)


def _look_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
    """Ask again; a key that may not even list jobs was refused, not the file."""
    refused = fault.kind == "refused" and read_refusal(fault) in (Refusal.CREDENTIALS, Refusal.FILE_GONE)
    if job.file_gone and refused:
        settlement.give_back(book, job, Failure(kind="credentials", error=fault.error))
    else:
        _try_later(book, job, now)


def _is_old(book: Book, job: Job, now: float) -> bool:
    return job.form == "file" and job.uploaded_at > 0 and now - job.uploaded_at > book.settings.file_reuse_s


def _wait_for_room(book: Book, job: Job, at: float, now: float) -> None:
    """Let a job whose input is there wait until it may be created; take it apart if it is too large to wait for."""
    if at == NEVER and book.pacing.is_too_large(job.id):
        settlement.take_apart(book, job, now)
        return
    if job.state is not JobState.READY:
        book.move(job, JobState.READY, failing=True)
        book.record(job)
    book.pacing.wait(job.id)
    job.wake_at = None if at == NEVER else at


def _make_smaller(book: Book, job: Job, fault: Fault, now: float) -> None:
    """Give back the requests of a job that was refused for quota and is too large to be sent again as it is.

    They go on in smaller jobs; nothing ran, so no attempt is counted. A single request goes behind all others of its
    lane, which it would keep waiting else; in the end its caller is told.
    """
    hopeless = job.count == 1 and book.pacing.is_hopeless(job.id, book.place_in(job, 0), now)
    if hopeless:
        settlement.give_up(book, job, Failure(kind="quota", error=fault.error), now)
    else:
        settlement.take_apart(book, job, now)


def _upload(book: Book, job: Job, now: float) -> None:
    """Upload a job's input, or let it wait for room in the storage."""
    at = book.pacing.storage.upload_at(job.id, job.line_bytes, now)
    if at > now:
        book.pacing.wait(job.id)
        job.wake_at = None if at == NEVER else at
        return
    book.pacing.go_on(job.id)
    book.pacing.storage.sent(job.id, job.line_bytes)
    book.act(Upload(job=_copy(job), op=book.ask(job)))


def _renew(book: Book, job: Job, now: float) -> None:
    """Upload the input again under a new name, since the server deletes files after a while: no attempt is counted."""
    if settlement.drop_unwanted(book, job):
        return
    book.act(DeleteRemote(name=job.file_name))
    book.pacing.storage.deleted(job.id)
    book.move(job, JobState.UPLOADING, failing=True)
    _upload_anew(book, job, now)


def _upload_anew(book: Book, job: Job, now: float) -> None:
    job.renewed += 1
    job.uploaded_at = 0.0
    job.file_name = file_name(job.id, job.attempt, job.renewed)
    book.record(job)
    _upload(book, job, now)


def _next_attempt(book: Book, job: Job, error: ServerError, now: float) -> None:
    if job.attempt >= book.settings.job_attempts_max:
        kind: Literal["failed", "ambiguous"] = "failed" if job.file_gone else "ambiguous"
        settlement.give_up(book, job, Failure(kind=kind, error=error, job=job.name), now)
        return
    vanished = bool(job.name)
    if vanished:  # it was there once, and nobody knows what it has cost
        book.ledger.close(job.id, known=False)
    book.pacing.not_sent(job.id)
    if not settlement.trim(book, job):
        return
    refusal = book.ledger.reserve(book.ask_of(job.id, job), now) if vanished else None
    if refusal is not None:
        error = ServerError(message=refusal.message)
        settlement.give_up(book, job, Failure(kind="budget", error=error, job=job.name), now)
        return
    job.attempt += 1
    job.display_name = book.display_name(job.id, job.attempt)
    job.looks, job.looked_at, job.file_gone = 0, 0.0, False
    job.revoked = False
    job.intended_at = now
    job.renewed = 0
    job.name = ""
    job.uploaded_at = job.created_at = job.ended_at = 0.0
    if job.form == "file":
        job.file_name = file_name(job.id, job.attempt)
        book.move(job, JobState.UPLOADING)
    else:
        book.move(job, JobState.CREATING)
        at = book.pacing.create_at(job.id, now)
        if at > now:
            _wait_for_room(book, job, at, now)
            return
    book.record(job)
    resume(book, job, now)


def _fetch_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
    """Ask for the job again before its output: what was settled is settled, the rest comes with the next fetch."""
    gone = fault.kind == "refused" and fault.error.code in _GONE
    book.retries.pop(job.id, None)
    if gone and now - job.ended_at >= book.settings.output_grace_s:
        book.report("output_vanished", job.name)
        settlement.settle_rest(book, job, fault.error, now, missing=True)
        return
    book.move(job, JobState.RUNNING, failing=True)
    _try_later(book, job, now)


def _try_later(book: Book, job: Job, now: float) -> None:
    s = book.settings
    job.failures += 1
    job.wake_at = now + pause_s(s.retry_min_s, s.retry_max_s, job.failures, job.id)


def _try_later_or_give_back(book: Book, job: Job, fault: Fault, now: float) -> None:
    """Go on trying to reach the server for a while; then tell the awaiters instead of letting them hang."""
    s = book.settings
    if not job.failures:
        job.failing_since = now
    _try_later(book, job, now)
    patience_s = s.unreachable_s if book.reached else s.first_contact_s
    if job.wake_at is not None and job.wake_at - job.failing_since > patience_s:
        settlement.give_back(book, job, Failure(kind="unreachable", error=fault.error))


def _copy(job: Job) -> Job:
    return msgspec.structs.replace(job)
