"""How rows end: answered, rejected, sent again, or failed after all.

Every row of every job ends here, whatever the server did: the batch's own keys are what is settled, never the reply's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from carpool._core import descent, shelf
from carpool._core.accumulator import Batch
from carpool._core.book import Book, spans_of
from carpool._core.messages import DeleteRemote, Deliver, Fail, FetchEnded, RowsFetched, Undelivered
from carpool._core.model import (
    ABANDONED,
    EXPLICIT,
    LIVE,
    PARKED,
    SENT,
    Failure,
    Job,
    Lane,
    Place,
    Segment,
    Span,
    place_of,
)
from carpool._core.output import RowFault, Run
from carpool._core.retry import bad_rows, is_retryable
from carpool.types import ServerError

_ATTEMPTS_CAP: Final = 255
_MISSING: Final = ServerError(message="the job succeeded without a row for this key")


def on_rows(book: Book, job: Job, event: RowsFetched, now: float) -> None:
    """Settle one block of a job's output: delivered rows at once, kept rows once stored, errors by their verdict."""
    runs, delivered, kept = _parted(book, event)
    if job.id in book.overtaken:
        _take_overtaken(book, job, (*delivered, *(place for place, _ in kept)))
    # A row may have been answered over a live route since the block was sorted: the first answer is its answer.
    kept = [(place, body) for place, body in kept if _is_sent(book, place)]
    book.answered += sum([_finish_sent(book, place) for place in delivered]) + len(kept)
    book.ledger.book("batch", job.lane.model, event.charge, now, job.id, event.again)
    stored = [run for run in runs if run.bodies is not None]
    if kept or stored:
        columns = shelf.Columns()
        for run in stored:
            columns.add_run(book.segments[run.no], run)
        for place, body in kept:
            columns.add(_kept_row(book, place, body, failed=False))
        head = shelf.keep_columns(book, job.lane, job.name, columns, now)
        book.act(Deliver(job=job.name, lane=job.lane, rows=kept, text_only=head.text_only, runs=stored))
    for place, _ in kept:
        _finish(book, place)
    for run in runs:
        book.finish_run(run)
        book.answered += run.count
    failed = [fault for fault in event.failed if _is_sent(book, fault.place)]
    if failed:
        _sort_faults(book, job, failed, now)


def _parted(book: Book, event: RowsFetched) -> tuple[list[Run], list[Place], list[tuple[Place, bytes]]]:
    """Return the runs of a block that can be settled as such; what is delivered and kept one by one; so are the others.

    Since the block was sorted, a caller may have left, or a live call may be on its way to the same request.
    """
    runs: list[Run] = []
    delivered, kept = list(event.delivered), list(event.kept)
    for run in event.runs:
        if book.is_plain(run):
            runs.append(run)
        elif run.bodies is None:
            delivered += run.places
        else:
            kept += zip(run.places, run.bodies, strict=True)
    return runs, delivered, kept


def _take_overtaken(book: Book, job: Job, places: Iterable[Place]) -> None:
    """Note which rows came that a live call answered since the block was sorted: these are paid for as new.

    In another reading of the output they come again, and cost nothing more.
    """
    overtaken = book.overtaken[job.id]
    for place in places:
        overtaken.pop(book.key_at(place), None)


def on_fetch_ended(book: Book, job: Job, event: FetchEnded, now: float) -> None:
    """Close a job whose output was read to its end: rows that did not come are missing."""
    if event.unknown:
        book.quarantined += event.unknown
        book.report("rows_not_ours", job.name, event.unknown)
    if event.aside:
        shelf.set_aside(book, job, event.aside, now)
    assert job.remote is not None, "a job that is fetched has ended"
    complete = job.remote.state == "SUCCEEDED"
    error = _MISSING if complete or job.remote.error is None else job.remote.error
    settle_rest(book, job, error, now, missing=complete)


def settle_rest(book: Book, job: Job, error: ServerError, now: float, *, missing: bool, lost: bool = False) -> None:
    """Send every row that has no answer again, as far as its attempts allow, and close the job.

    Args:
        book: the state.
        job: whose rows.
        error: why they have no answer.
        now: the time.
        missing: whether the job says that it did them all.
        lost: whether it may have done some of them without a word.
    """
    retries = {place: error for place, error in book.retries.pop(job.id, {}).items() if _is_sent(book, place)}
    rest = [place for place in book.sent_in(job) if place not in retries]
    if rest and missing:
        book.report("rows_missing", job.name, len(rest))
    verdicts = Verdicts()
    verdict = Failure(kind="missing" if missing else "failed", error=error, job=job.name)
    again = [place for place in rest if _try_again(book, place, verdict, verdicts)]
    again += [
        place
        for place, row_error in retries.items()
        if _try_again(book, place, Failure(kind="failed", error=row_error, job=job.name), verdicts)
    ]
    fail(book, job.lane, job.name, verdicts, now)
    book.retried += len(again)
    descent.go_on(book, sorted(again), now)
    finish_job(book, job, known=not (rest and (missing or lost)))


class Verdicts:
    """Final verdicts on rows, equal ones together."""

    def __init__(self) -> None:
        self.groups: dict[bytes, tuple[Failure, list[Place]]] = {}
        """By the verdict as it is stored."""

    def add(self, places: list[Place], failure: Failure) -> None:
        """Add rows with one verdict."""
        if places:
            self.groups.setdefault(msgspec.json.encode(failure), (failure, []))[1].extend(places)


def fail(book: Book, lane: Lane, job_name: str, verdicts: Verdicts, now: float) -> None:
    """Give rows their final verdict: stored where the caller named the key, told to whoever waits."""
    rows = [
        _kept_row(book, place, body, failed=True)
        for body, (_, places) in verdicts.groups.items()
        for place in places
        if _flags(book, place) & EXPLICIT
    ]
    if rows:
        shelf.keep(book, lane, job_name, rows, now)
    for failure, places in verdicts.groups.values():
        keys = [book.key_at(place) for place in places]
        for place in places:
            _finish(book, place)
        book.failed += len(places)
        book.act(Fail(places=places, keys=keys, failure=failure))


def _fail_all(book: Book, job: Job, places: list[Place], failure: Failure, now: float) -> None:
    verdicts = Verdicts()
    verdicts.add(places, failure)
    fail(book, job.lane, job.name, verdicts, now)


def _try_again(book: Book, place: Place, failure: Failure, verdicts: Verdicts) -> bool:
    """Count an attempt against a row, and return whether it is to be sent again, in a job or on its next rung.

    A row that nobody awaits any more, and whose key nobody named, is not sent again unasked.
    """
    segment, row = _row(book, place)
    segment.attempts[row] = min(_ATTEMPTS_CAP, segment.attempts[row] + 1)
    if segment.flags[row] & ABANDONED:
        book.finish(segment, row)
        return False
    if segment.attempts[row] >= book.settings.attempts_max and not descent.has_next(book, place, "batch"):
        verdicts.add([place], failure)
        return False
    return True


def isolate(book: Book, job: Job, error: ServerError, now: float) -> None:
    """Part the bad row from the rest: by the server's words, else by halves. Nothing ran, so no attempt is counted."""
    rows = _rows_left(book, job)
    named = [book.place_in(job, row) for row in bad_rows(error.message, job.count)]
    bad = [place for place in named if _is_sent(book, place)]
    if bad or job.count == 1:
        bad = bad or rows
        _fail_all(book, job, bad, Failure(kind="rejected", error=error, job=job.name), now)
        book.requeue(spans_of(_wanted(book, job)), now)
    else:
        _halve(book, job)
    finish_job(book, job)


def too_large(book: Book, job: Job, error: ServerError, now: float) -> None:
    """Send a refused batch in another form or size; a single row that is too large as a file has nowhere to go."""
    if job.form == "inline":
        book.requeue_group(job.lane, spans_of(_wanted(book, job)), as_file=True)
    elif job.count == 1:
        _fail_all(book, job, _rows_left(book, job), Failure(kind="too_large", error=error), now)
    else:
        _halve(book, job)
    finish_job(book, job)


def take_apart(book: Book, job: Job, now: float) -> None:
    """Queue the rows of a job that was not created again, so that they go in others: several in front, one behind."""
    book.requeue(spans_of(_wanted(book, job)), now, front=job.count > 1)
    finish_job(book, job)


def reject(book: Book, job: Job, error: ServerError, now: float) -> None:
    """Fail every row of a job that the server will never take."""
    _fail_all(book, job, _rows_left(book, job), Failure(kind="rejected", error=error, job=job.name), now)
    finish_job(book, job)


def give_up(book: Book, job: Job, failure: Failure, now: float) -> None:
    """Fail every row of a job after its last attempt."""
    _fail_all(book, job, _rows_left(book, job), failure, now)
    finish_job(book, job, known=failure.kind != "ambiguous")


def within_budget(book: Book, batch: Batch, now: float) -> Batch:
    """Fail those rows of a batch, the last ones, for which no money is left today; return the others."""
    refusal = book.ledger.refusal(book.ask_of("", batch), now)
    if refusal is None:
        return batch
    rest = batch
    while rest.count and book.ledger.refusal(ask := book.ask_of("", rest), now) is not None:
        rest = _first_of(book, rest, book.ledger.affordable(ask, now))
    places = [place_of(no, row) for no, start, stop in batch.spans for row in range(start, stop)][rest.count :]
    for no, start, stop in spans_of(places):
        book.count_out(book.segments[no], start, stop)
    verdicts = Verdicts()
    verdicts.add(places, Failure(kind="budget", error=ServerError(message=refusal.message)))
    fail(book, batch.lane, "", verdicts, now)
    book.sweep_segments(no for no, _, _ in batch.spans)
    return rest


def _first_of(book: Book, batch: Batch, count: int) -> Batch:
    """Return the first rows of a batch as a batch."""
    spans: list[Span] = []
    left = count
    for no, start, stop in batch.spans:
        if left:
            spans.append((no, start, min(stop, start + left)))
            left -= spans[-1][2] - start
    parts = [(book.segments[no], start, stop) for no, start, stop in spans]
    return msgspec.structs.replace(
        batch,
        spans=tuple(spans),
        count=count,
        line_bytes=sum(segment.bytes_of(start, stop) for segment, start, stop in parts),
        tokens=sum(segment.tokens_of(start, stop) for segment, start, stop in parts),
    )


def give_back(book: Book, job: Job, failure: Failure) -> None:
    """Tell all awaiters why nothing can be sent, and keep what was promised: tickets and explicit keys stay on disk."""
    places = _rows_left(book, job)
    keys = [book.key_at(place) for place in places]
    for place in places:
        segment, row = _row(book, place)
        if segment.flags[row] & EXPLICIT:
            segment.states[row] = PARKED
        else:
            book.finish(segment, row)
    book.failed += len(places)
    book.act(Fail(places=places, keys=keys, failure=failure))
    finish_job(book, job)


def on_undelivered(book: Book, event: Undelivered, now: float) -> None:
    """Keep answers that their callers did not live to take, for whoever asks the same again."""
    rows: list[shelf.KeptRow] = []
    for place, key, digest, body in event.rows:
        handed = book.handed.pop(place, None)
        if handed is None:
            rows.append(shelf.KeptRow(place=place, key=key, digest=digest, flags=ABANDONED, failed=False, body=body))
        else:
            shelf.offer(book, handed)  # stored before it was handed over: twice stored, it could be given twice
    if rows:
        shelf.keep(book, event.lane, event.job, rows, now, route=event.route)


def trim(book: Book, job: Job) -> bool:
    """Take out of a job whose input has to be made anew what is answered, and park what nobody awaits any more.

    Returns:
        Whether anything is left to be sent; if not, the job is closed.
    """
    rows = _rows_left(book, job)
    wanted = [place for place in rows if not _flags(book, place) & ABANDONED]
    for place in rows:
        segment, row = _row(book, place)
        if segment.flags[row] & ABANDONED:
            segment.states[row] = PARKED
    if not wanted:
        finish_job(book, job)
        return False
    if len(wanted) < job.count:
        book.shrink(job, spans_of(wanted))
    return True


def drop_unwanted(book: Book, job: Job) -> bool:
    """Close a job that is not created yet if nobody awaits any of its rows there any more; return whether it was."""
    return all(_flags(book, place) & ABANDONED for place in book.sent_in(job)) and not trim(book, job)


def finish_job(book: Book, job: Job, *, known: bool = True) -> None:
    """Close a job, and delete on the server what is not needed any more.

    Args:
        book: the state.
        job: which.
        known: whether all that the server may have done for it has told what it cost.
    """
    book.close(job, known=known)
    if job.uploaded_at:
        book.act(DeleteRemote(name=job.file_name))
    if job.name and book.settings.delete_remote:
        book.act(DeleteRemote(name=job.name))


def _rows_left(book: Book, job: Job) -> list[Place]:
    """Return the job's unanswered rows in order, less those that are on a live route too, which go on there alone."""
    rows = list(book.sent_in(job))
    trips = book.live.trips
    if not trips:
        return rows
    for place in rows:
        if place in trips:
            descent.go_on_alone(book, descent.Rider(*_row(book, place)))
    return [place for place in rows if place not in trips]


def _wanted(book: Book, job: Job) -> list[Place]:
    """Return the job's unanswered rows in order, less those that nobody awaits any more, which end here."""
    wanted: list[Place] = []
    for place in _rows_left(book, job):
        segment, row = _row(book, place)
        if segment.flags[row] & ABANDONED:
            book.finish(segment, row)
        else:
            wanted.append(place)
    return wanted


def _halve(book: Book, job: Job) -> None:
    places = _wanted(book, job)
    middle = len(places) // 2
    for half in (places[:middle], places[middle:]):
        if half:
            book.requeue_group(job.lane, spans_of(half), as_file=job.form == "file")


def _sort_faults(book: Book, job: Job, faults: list[RowFault], now: float) -> None:
    """Reject rows whose error is final; hold the others until the job is closed: a second fetch shows them again."""
    verdicts = Verdicts()
    for fault in faults:
        if is_retryable(fault.error):
            book.retries.setdefault(job.id, {})[fault.place] = fault.error
        else:
            verdicts.add([fault.place], Failure(kind="rejected", error=fault.error, job=job.name))
    fail(book, job.lane, job.name, verdicts, now)


def _kept_row(book: Book, place: Place, body: bytes, *, failed: bool) -> shelf.KeptRow:
    segment, row = _row(book, place)
    return shelf.row_of(segment, row, body, failed=failed)


def _row(book: Book, place: Place) -> tuple[Segment, int]:
    segment, row = book.at(place)
    assert segment is not None, f"place {place:#x} is forgotten, although a job holds it"
    return segment, row


def _is_sent(book: Book, place: Place) -> bool:
    segment, row = _row(book, place)
    return segment.states[row] == SENT


def _flags(book: Book, place: Place) -> int:
    segment, row = _row(book, place)
    return segment.flags[row]


def _finish_sent(book: Book, place: Place) -> bool:
    """Mark a row DONE if it is in its job still, and return whether it was."""
    segment, row = _row(book, place)
    if segment.states[row] != SENT:
        return False
    book.finish(segment, row)
    return True


def _finish(book: Book, place: Place) -> None:
    segment, row = _row(book, place)
    assert segment.states[row] in (SENT, LIVE), f"row settled twice: {place:#x}"
    book.finish(segment, row)
