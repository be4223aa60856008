"""The sweep: a look at all jobs on the server that carry this store's name, and what follows from it.

Owns the fate of jobs that no question is about: twins are cancelled and counted, jobs that this store does not know,
since it was restored from a backup, are adopted; and until that is clear, requests of earlier processes are held back.
How the store's own jobs go on is for ``lifecycle``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, assert_never

from carpool._core import descent, shelf
from carpool._core.book import Book
from carpool._core.census import PATIENCE, Closed, Origin
from carpool._core.messages import CancelRemote, Deliver, PutMeta, RowsFetched, Sweep, SweepFailed, Swept
from carpool._core.model import (
    ABANDONED,
    DIGEST_BYTES,
    EXPLICIT,
    LIVE,
    PARKED,
    QUEUED,
    UNKNOWN_DIGEST,
    Job,
    JobState,
    Lane,
    Place,
    Segment,
    place_of,
)
from carpool._core.retry import pause_s
from carpool._core.sealing import JobName, file_name, name_prefix, read_name
from carpool.types import BatchJob

_KEPT_S: Final = 4 * 86_400.0
"""Age from which an unknown job that ended is left alone: its output is gone by then."""
_UNSENT: Final = (QUEUED, PARKED, LIVE)
"""States of rows that are in no job of the book, and may be in one that it does not know."""
_AUTOMATIC = re.compile(r"a([0-9a-f]{32})\.[0-9a-f]+\.[0-9a-f]+")
_NUMBERED = re.compile(r"m([0-9a-f]{32})\.[0-9]+")

_Found = list[tuple[JobName, BatchJob]]


# -- the question


def due_at(book: Book) -> float | None:
    """Return when to sweep next; ``None``: not before something else happens."""
    census = book.census
    nothing_created = census.fresh and not census.next_job
    if census.asking or nothing_created or (book.closing and not census.holding):
        return None
    return census.wake_at


def advance(book: Book, now: float) -> None:
    """Sweep if it is time, and let held requests go once nothing speaks against it."""
    census = book.census
    if census.holding or not census.settled:
        _let_go(book, now)
    due = due_at(book)
    if due is not None and due <= now:
        census.op += 1
        census.asking, census.asked_at = True, now
        book.act(Sweep(op=census.op, prefix=name_prefix(book.store_id)))


def on_failed(book: Book, event: SweepFailed, now: float) -> None:
    """Try again later; requests of earlier processes are not held back for ever by a list that cannot be read."""
    census, s = book.census, book.settings
    if not census.asking or event.op != census.op:
        return
    census.asking = False
    census.failures += 1
    refused = event.fault.kind == "refused"
    census.blind = census.blind or refused or census.failures >= PATIENCE
    pause = pause_s(s.retry_min_s, s.retry_max_s, census.failures, book.store_id)
    census.wake_at = now + (s.sweep_s if refused else min(pause, s.sweep_s))


def on_swept(book: Book, event: Swept, now: float) -> None:
    """Judge every job of our name by what is on record about it."""
    census = book.census
    if not census.asking or event.op != census.op:
        return
    census.asking, census.answered = False, True
    census.failures = 0
    census.wake_at = now + book.settings.sweep_s
    book.reached = True
    before = census.meta
    groups: dict[str, _Found] = {}
    for remote in event.remotes:
        name = read_name(book.store_id, remote.display_name)
        if name is not None:
            groups.setdefault(name.job_id, []).append((name, remote))
    for job_id, found in groups.items():
        job = book.jobs.get(job_id)
        if job is not None:
            _judge_open(book, job, found, now)
            continue
        match census.origin_of(found[0][0], book.store_id):
            case Origin.FOREIGN:
                pass
            case Origin.CLOSED:
                _judge_closed(book, census.closed.get(job_id), event.op, found, now)
            case Origin.STRANGE:
                _adopt(book, found, now)
            case _ as origin:
                assert_never(origin)
    _note_absent(book, {remote.name for remote in event.remotes})
    if census.meta is not before:
        book.write(PutMeta(meta=census.meta))


def count_doubles(book: Book, remotes: list[BatchJob], now: float) -> int:
    """Cancel doubled jobs that go on, and count them; return how many were not counted before."""
    fresh = 0
    for remote in remotes:
        fresh += book.census.count(remote.name)
        if not remote.ended:
            book.act(CancelRemote(name=remote.name))
    book.ledger.found_twins(fresh, now)
    return fresh


# -- what was found


def _judge_open(book: Book, job: Job, found: _Found, now: float) -> None:
    """Cancel what a job of the book has besides itself; adopt what it will have, if it came from a later time."""
    named = job.state in (JobState.RUNNING, JobState.FETCHING)
    twins: list[BatchJob] = []
    for name, remote in found:
        if named:
            if remote.name != job.name and name.attempt <= job.attempt and _costs(remote):
                twins.append(remote)
        elif name.attempt < job.attempt:
            if _costs(remote):
                twins.append(remote)
        elif _is_ahead(job, name):
            _jump(book, job, name, remote, now)
    _tell_twins(book, twins, now)


def _is_ahead(job: Job, name: JobName) -> bool:
    """Return whether the server has a job that by our records was not created yet."""
    if job.state is JobState.CREATING:
        return False  # it may be there: the answer to its create is on its way
    return name.attempt > job.attempt or job.state is not JobState.LOOKING


def _jump(book: Book, job: Job, name: JobName, remote: BatchJob, now: float) -> None:
    """Look for an attempt that this store does not remember, instead of making it again."""
    if job.state is not JobState.LOOKING:
        book.move(job, JobState.LOOKING)
    job.attempt = name.attempt
    job.display_name = remote.display_name
    if job.form == "file":
        job.file_name = file_name(job.id, job.attempt)
    job.looks, job.revoked, job.file_gone = 0, False, False
    job.wake_at = now
    book.record(job)


def _judge_closed(book: Book, closed: Closed | None, op: int, found: _Found, now: float) -> None:
    """Cancel what goes on although nobody will ask for it; count that, and what ended although its twin was read."""
    # Closed while the list was on its way: then the list may be older than its end.
    late = closed is not None and closed.sweep >= op
    running: list[BatchJob] = []
    ended: list[BatchJob] = []
    for _, remote in sorted(found, key=lambda pair: -pair[0].attempt):
        if closed is not None and remote.name == closed.name:
            if not remote.ended and not late:
                book.act(CancelRemote(name=remote.name))
        elif _costs(remote):
            (ended if remote.ended else running).append(remote)
    if closed is None:
        # A process that is gone closed it, and read one of them: the last attempt, unless they are equals.
        ended = [remote for remote in ended if remote.name not in book.census.doubled][1:]
    _tell_twins(book, running + ended, now)


def _tell_twins(book: Book, twins: list[BatchJob], now: float) -> None:
    count = count_doubles(book, twins, now)
    if count:
        book.report("twins", twins[0].name, count, twins[0].display_name)


def _costs(remote: BatchJob) -> bool:
    """Return whether a job is paid for, or will be."""
    return not remote.ended or remote.has_output or remote.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED")


def _note_absent(book: Book, listed: set[str]) -> None:
    """Remember which running jobs the list lacks: a poll will show whether it lags or they are gone."""
    census = book.census
    census.absent = {
        job.id: census.asked_at - job.created_at
        for job in book.jobs.values()
        if job.state is JobState.RUNNING and job.name not in listed and job.created_at < census.asked_at
    }


# -- jobs that this store does not know


def _adopt(book: Book, found: _Found, now: float) -> None:
    """Take an unknown job into the book, to be polled to its end and fetched; never cancel it."""
    name, remote = min(found, key=lambda pair: (worth(pair[1]), -pair[0].attempt))
    if remote.ended and now - name.sealed_at > _KEPT_S:
        return
    census = book.census
    census.stranger_number = max(census.stranger_number, name.number)
    model = remote.model.removeprefix("models/")
    job = Job(
        id=name.job_id,
        lane=Lane("embed" if "embedding" in model else "generate", model),
        origin=book.origin,
        form="inline",
        spans=(),
        count=0,
        line_bytes=0,
        tokens=0,
        sealed_at=name.sealed_at,
        display_name=remote.display_name,
        state=JobState.RUNNING,
        attempt=name.attempt,
        name=remote.name,
        created_at=min(name.sealed_at, now),
        wake_at=now,
        stranger=True,
    )
    book.hold(job, sent=True)
    book.record(job)
    book.report("stranger_adopted", job.name)


def worth(remote: BatchJob) -> int:
    """Return a sort key by which a job that gave output, or still may, comes before one that ended without."""
    if not remote.ended:
        return 1
    return 0 if remote.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED") else 2


def _let_go(book: Book, now: float) -> None:
    """Send requests of earlier processes, unless a job that this store does not know may hold them."""
    census = book.census
    if any(job.stranger and not job.stalled for job in book.jobs.values()):
        return
    if census.answered and census.settle():
        book.write(PutMeta(meta=census.meta))
    if not census.holding or not (census.answered or census.blind):
        return
    census.holding = False
    descent.release(book, now)
    for job_id in census.held_jobs:
        job = book.jobs.get(job_id)
        if job is not None and job.wake_at is None and job.state in (JobState.UPLOADING, JobState.READY):
            job.wake_at = now
    census.held_jobs.clear()


# -- what an unknown job answers


def index(book: Book) -> dict[str, Place]:
    """Return the places of all requests that an unknown job's rows may answer, by their keys."""
    return {
        key: place_of(segment.no, row)
        for segment in book.segments.values()
        for row, (key, state) in enumerate(zip(segment.keys, segment.states, strict=False))
        if state in _UNSENT
    }


def on_rows(book: Book, job: Job, event: RowsFetched, now: float) -> None:
    """Answer what waits under the keys that came, and keep the other answers for whoever asks for them."""
    by_lane: dict[Lane, list[shelf.KeptRow]] = {}
    answered: list[tuple[Segment, int, bytes]] = []
    for place, body in event.kept:
        segment, row = book.at(place)
        if segment is None or segment.states[row] not in _UNSENT:
            continue  # answered, or sent in another job, since the fetch began
        by_lane.setdefault(segment.lane, []).append(shelf.row_of(segment, row, body, failed=False))
        answered.append((segment, row, body))
    unclaimed = list(_unclaimed(book, event.unclaimed))
    if unclaimed:
        by_lane.setdefault(job.lane, []).extend(unclaimed)
    for lane, rows in by_lane.items():
        shelf.keep(book, lane, job.name, rows, now)
    for segment, row, _ in answered:
        book.census.stranger_keys.add(segment.keys[row])
        if segment.states[row] == QUEUED:
            book.withdraw(segment, row)
        else:
            book.finish(segment, row)
    book.answered += len(answered) + len(unclaimed)
    book.ledger.book("batch", job.lane.model, event.charge, now, job.id, event.again)
    if answered:
        delivered = [(place_of(segment.no, row), body) for segment, row, body in answered]
        book.act(Deliver(job=job.name, lane=job.lane, rows=delivered))
        book.sweep_segments(segment.no for segment, _, _ in answered)


def _unclaimed(book: Book, rows: list[tuple[str, bytes]]) -> Iterator[shelf.KeptRow]:
    """Yield answers to keys that nobody waits for: those of automatic keys are offered by their digest."""
    known = {key for head in book.results.values() for key in head.keys} if rows else set[str]()
    no = book.next_segment
    for key, body in rows:
        if key in known or book.keys.live(key) is not None or key in book.census.stranger_keys:
            continue
        book.census.stranger_keys.add(key)
        # A place of its own, in a segment that will never be.
        place, book.next_segment = place_of(no, 0), no + 1
        no += 1
        automatic = _AUTOMATIC.fullmatch(key)
        numbered = _NUMBERED.fullmatch(key)
        told = automatic or numbered
        digest = bytes.fromhex(told[1]) if told else UNKNOWN_DIGEST
        assert len(digest) == DIGEST_BYTES, "32 hexadecimal digits"
        flags = ABANDONED if automatic else EXPLICIT
        yield shelf.KeptRow(place=place, key=key, digest=digest, flags=flags, failed=False, body=body)
