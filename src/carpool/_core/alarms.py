"""What an operator should know: the names of all alarms, and those that stand at a moment.

Owns the one table of names. An alarm is raised once, when something happens; some conditions also last, and are part of
the client's health for as long as they do.
"""

from __future__ import annotations

from typing import Final

from carpool._core.book import Book
from carpool._core.model import Job, JobState
from carpool.types import Alarm

UNFETCHED_S: Final = 86_400.0
"""How long after a job's end its results may be left on the server, which keeps them for two days."""

ALARMS: Final[dict[str, str]] = {
    # of the engine
    "create_ambiguous": "No clear answer came to a create call. The job is looked for by its name, and not sent again "
    "before it is sure that it was not created.",
    "job_adopted": "A job whose creation was not confirmed was found on the server, and goes on.",
    "job_left": (
        "All requests of a running job went on to a quicker route, so that their deadlines are met. It is cancelled."
    ),
    "job_lost": "A job failed, expired or was cancelled on the server. Its requests are sent again, as far as their "
    "attempts allow.",
    "job_overdue": "A job has been running for longer than Settings.overdue_s, a day by default.",
    "job_stalled": "A bug of carpool broke a job's last question. Its callers were told; the next process goes on.",
    "job_vanished": "The server knows nothing of a job that it had named.",
    "live_refused": "The live API refuses the calls of a model on a route. They wait, or go another way where their "
    "ladder allows that; single calls are sent as probes.",
    "output_vanished": "The output of a job that succeeded is gone. Its requests are sent again.",
    "results_unfetched": "A job ended more than a day ago, and its results could not be fetched yet. The server keeps "
    "them for two days.",
    "rows_missing": "A job succeeded without an answer to some of its requests. They are sent again.",
    "rows_not_ours": "A job's output held rows of unknown keys, doubled rows, or rows that cannot be read. They were "
    "set aside.",
    "stranger_adopted": "A job with this store's name was found on the server that the store does not know: it was "
    "restored from a backup. The job goes on, and its answers are kept.",
    "twins": "A job was created twice. The second was cancelled, and counts as a double in the receipt.",
    # of the home
    "slot_adopted": "The process of another slot of the home is gone. Its unfinished work goes on in this one.",
    "slot_left": "The work of an adopted slot could not be ended. It is tried again later.",
    "slot_unreadable": "Another slot of the home cannot be read or adopted. Keys that it knows are not found.",
    # of the runtime
    "bug": "A bug of carpool broke a task beside the loop. The client goes on.",
    "closed": "The client is being left, or was left.",
    "server_unreachable": "No call has reached the server for a while, or all were answered by errors of the server.",
    "stopped": "The client stopped, since the store failed, or a bug of carpool broke the loop. What was accepted is "
    "on disk.",
    "store_full": "The store is full. Nothing new is accepted or sent until there is room; stored results can be read.",
    "store_nearly_full": "The store has little room left, on its disk or below Settings.store_bytes_max.",
}


def standing(book: Book, now: float) -> list[Alarm]:
    """Return the alarms whose conditions hold now, in a fixed order."""
    found = [alarm for job in book.jobs.values() if (alarm := _of_job(book, job, now)) is not None]
    if book.ledger.twins:
        found.append(Alarm("twins", count=book.ledger.twins))
    if book.quarantined:
        found.append(Alarm("rows_not_ours", count=book.quarantined))
    refusing = book.live.throttles.refusing(now)
    return found + [Alarm("live_refused", detail=f"{route} {model}") for route, model in refusing]


def raise_new(book: Book, now: float) -> None:
    """Report each job that has become late, once, and each live route that begins to refuse."""
    for route, model in book.live.throttles.newly_refusing(now):
        book.report("live_refused", detail=f"{route} {model}")
    for job in book.jobs.values():
        alarm = _of_job(book, job, now)
        if alarm is not None and alarm.name != "job_stalled" and job.id not in book.late:
            book.late.add(job.id)
            book.report(alarm.name, alarm.job, alarm.count)
    book.late &= book.jobs.keys()


def _of_job(book: Book, job: Job, now: float) -> Alarm | None:
    if job.stalled:
        return Alarm("job_stalled", job.name or job.display_name, job.count)
    if job.ended_at and now - job.ended_at > UNFETCHED_S:
        return Alarm("results_unfetched", job.name, job.count)
    running = job.state is JobState.RUNNING and job.created_at > 0 and not job.ended_at
    if running and now - job.created_at > book.settings.overdue_s:
        return Alarm("job_overdue", job.name, job.count)
    return None
