"""Calls of one process to the server: once sent they arrive whether or not their sender lives.

Owns what is in the air. It checks that nothing is sent before it is on record, beyond its limits, or unasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec

from carpool._core.book import spans_of
from carpool._core.census import LAG_MAX_S
from carpool._core.engine import Reply
from carpool._core.messages import (
    Broken,
    CallFailed,
    Create,
    Created,
    Fetch,
    FetchEnded,
    Find,
    Found,
    Poll,
    Polled,
    Revoke,
    Revoked,
    RowsFetched,
    Sweep,
    SweepFailed,
    Swept,
    Upload,
    Uploaded,
)
from carpool._core.meter import Charge
from carpool._core.model import EXPLICIT, Fault, Framing, Job, JobState, Place, place_of
from carpool._core.output import RowFault, Run
from carpool.types import BatchJob

from .history import expect
from .server import OutputRow

if TYPE_CHECKING:
    from .process import Process

FRAMING: Final = Framing(60, 12)
ASIDE_MAX: Final = 3
NAMELESS: Final = (JobState.UPLOADING, JobState.READY, JobState.CREATING, JobState.LOOKING)
"""What the server has of a job in these states is for its next question to tell."""
Question: TypeAlias = Upload | Create | Find | Revoke | Poll | Fetch


class Calls:
    """The calls of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._unreached: dict[str, float] = {}
        """Since when nothing about a job got through."""
        self._looks_from: dict[tuple[str, int], float] = {}
        """When attempts that were not found may be looked for again."""
        self._lag_s = 0.0

    def ask(self, action: Question) -> None:
        """Put a question."""
        if isinstance(action, Fetch):
            self._fetch(action)
            return
        if isinstance(action, Find):
            not_before = self._looks_from.pop((action.job.id, action.job.attempt), 0.0)
            expect(self._process.now >= not_before - 1e-6, f"looked for sooner than lists were seen to lag: {action}")
        lines = self._lines(action) if isinstance(action, Upload | Create) else []
        delay_s = self._process.plan.seconds(0.01, 2)
        # Once sent, a call arrives whether or not its sender lives.
        self._process.clock.after(delay_s, lambda: self._arrive(action, lines))

    def _lines(self, action: Upload | Create) -> list[bytes]:
        """Read what is to be sent, and check that it may be."""
        job, store = action.job, self._process.store
        expect(job.id in store.jobs, f"{action} before the job is on record")
        durable = store.job(job.id)
        wanted = JobState.UPLOADING if isinstance(action, Upload) else JobState.CREATING
        expect(
            (durable.state, durable.attempt, durable.spans) == (wanted, job.attempt, job.spans),
            f"{action} before it is on record: {durable}",
        )
        lines = store.lines(job.spans)
        expect(len(lines) == job.count, f"{len(lines)} rows for {job}")
        expect(sum(map(len, lines)) == job.line_bytes, f"wrong size: {job}")
        self._expect_asked_for(job)
        if isinstance(action, Create) and job.form == "file":
            age_s = self._process.now - job.uploaded_at
            expect(age_s <= self._process.plan.settings.file_reuse_s + 1.0, f"from a file of {age_s} s: {job}")
        limit = self._process.plan.settings.inline_bytes_max
        size = (
            FRAMING.inline_envelope_bytes
            + len(job.display_name)
            + job.line_bytes
            + FRAMING.inline_row_bytes * job.count
        )
        expect(job.form == "file" or size < limit, f"{size} bytes inline")
        one = job.count == 1
        expect(one or job.line_bytes <= self._process.plan.settings.file_bytes_max, f"a file of {job.line_bytes} bytes")
        expect(job.count <= self._process.plan.settings.batch_requests_max, f"{job.count} rows in a batch")
        self._expect_within_limits()
        return lines

    def _expect_within_limits(self) -> None:
        if self._process.epoch > 1:
            return  # jobs of earlier processes go on whatever the limits are now
        s, jobs = (
            self._process.plan.settings,
            [job for job in self._process.engine.book.jobs.values() if not job.stalled],
        )
        expect(len(jobs) <= s.jobs_max, f"{len(jobs)} jobs at once")
        for model in sorted({job.lane.model for job in jobs}):
            mine = [job for job in jobs if job.lane.model == model and not job.ended_at]
            sent = [job for job in mine if job.state not in (JobState.UPLOADING, JobState.READY)]
            tokens = [self._process.engine.book.pacing._entry(job.id).flight.tokens for job in sent]
            fits = s.enqueued_tokens_max is None or sum(tokens) <= s.enqueued_tokens_max
            expect(fits or len(tokens) <= 1, f"{tokens} tokens enqueued for {model}")

    def _expect_asked_for(self, job: Job) -> None:
        """No request of an earlier process is sent unless it was asked for again, or has a key of its own."""
        for no, start, stop in job.spans:
            segment = self._process.engine.book.segments[no]
            for row in range(start, stop):
                key = segment.keys[row]
                if not segment.flags[row] & EXPLICIT and int(key.split(".")[1], 16) < self._process.epoch:
                    expect(key in self._process.callers.asked_keys, f"sent unasked after a crash: {key} in {job}")

    def _arrive(self, action: Upload | Create | Find | Revoke | Poll, lines: list[bytes]) -> None:
        job, server = action.job, self._process.server
        event: Reply
        match action:
            case Upload():
                file = server.upload(job.file_name, lines)
                event = self._failed(action, file) if isinstance(file, Fault) else Uploaded(job.id, action.op, file)
            case Create():
                name = server.create(job.display_name, job.form, job.file_name, lines)
                event = self._failed(action, name) if isinstance(name, Fault) else Created(job.id, action.op, name)
            case Find():
                found = server.find(job.display_name)
                event = self._failed(action, found) if isinstance(found, Fault) else Found(job.id, action.op, found)
            case Revoke():
                fault = server.delete(job.file_name)
                event = self._failed(action, fault) if fault is not None else Revoked(job.id, action.op)
            case Poll():
                remote = server.poll(job.name)
                event = self._failed(action, remote) if isinstance(remote, Fault) else Polled(job.id, action.op, remote)
            case _:
                assert_never(action)
        if (
            self._process.plan.chance(self._process.plan.bug_odds)
            and self._process.clock.now < self._process.plan.faults_end
        ):
            event = Broken(job.id, action.op, "a bug")
        self._process.later(
            self._process.plan.seconds(0.01, 100 if isinstance(event, CallFailed) else 2), lambda: self._hear(event)
        )

    def sweep(self, action: Sweep) -> None:
        """Ask for all jobs of this store; twice in a life they cannot be had at once."""
        process, side = self._process, self._process.plan.side

        def arrive() -> None:
            remotes = process.server.list_all(action.prefix)
            process.later(0.01 + 2 * side.random(), lambda: self._hear_sweep(action, remotes))

        process.clock.after(0.01 + 2 * side.random(), arrive)

    def note_look(self, event: Found, job: Job) -> None:
        """Notice how far the list was behind, and how long the next wait must be at least."""
        if event.remotes and job.looked_at and job.looked_at - job.intended_at <= LAG_MAX_S:
            self._lag_s = max(self._lag_s, job.looked_at - job.intended_at)
        elif not event.remotes and job.looks == 0 and not job.file_gone:
            self._looks_from[job.id, job.attempt] = self._process.now + 2 * self._lag_s

    def _hear_sweep(self, action: Sweep, remotes: list[BatchJob] | Fault) -> None:
        process = self._process
        if isinstance(remotes, Fault):
            process.inbox.append(SweepFailed(action.op, remotes))
            process.sweep_failed = True
        else:
            process.inbox.append(Swept(action.op, remotes))
            nameless = {job.id for job in process.engine.book.jobs.values() if job.state in NAMELESS}
            process.seen_alive += [
                (process.clock.now, remote.name)
                for remote in remotes
                if not remote.ended and remote.display_name.split(".")[2] not in nameless
            ]
        process.wake()

    def _failed(self, action: Question, fault: Fault) -> CallFailed:
        return CallFailed(action.job.id, action.op, fault)

    def _hear(self, event: Reply) -> None:
        self._process.inbox.append(event)
        self._expect_patience(event)
        if self._process.plan.call_fault_odds and self._process.plan.chance(0.02):
            # A reply that comes a second time, long after: nobody asks any more.
            self._process.later(self._process.plan.seconds(1, 600), lambda: self._hear(event))
        self._process.wake()

    def _expect_patience(self, event: Reply) -> None:
        """Nobody waits for ever for a server that cannot be reached."""
        if isinstance(event, CallFailed) and event.fault.kind == "not_sent":
            since = self._unreached.setdefault(event.job, self._process.now)
            job = self._process.engine.book.jobs.get(event.job)
            if job is not None and job.state in (JobState.UPLOADING, JobState.CREATING):
                s = self._process.plan.settings
                expect(self._process.now - since < s.unreachable_s + 2 * s.retry_max_s + 200, f"nobody is told: {job}")
        else:
            self._unreached.pop(event.job, None)

    # -- output

    def _fetch(self, action: Fetch) -> None:
        index = self._process.engine.fetch_index(action.job.id)
        reply: list[tuple[list[list[OutputRow]], Fault | None]] = []

        def arrive() -> None:
            reply.append(self._process.server.fetch(action.job.name))
            blocks, fault = reply[0]
            self._read_block(action, index, blocks, fault, [])

        self._process.later(self._process.plan.seconds(0.01, 2), arrive)

    def _read_block(
        self,
        action: Fetch,
        index: dict[str, Place],
        blocks: list[list[OutputRow]],
        fault: Fault | None,
        strangers: list[tuple[str, bytes]],
    ) -> None:
        """Sort a block, wait until it is settled, then read the next."""
        job, op = action.job, action.op
        if not blocks:
            ended = FetchEnded(job.id, op, len(strangers), strangers[:ASIDE_MAX])
            self._hear(CallFailed(job.id, op, fault) if fault is not None else ended)
            return
        event, some = self._sort(action, index, blocks[0])
        self._process.inbox.append(in_runs(event) if op % 2 else event)

        def settled() -> None:
            rest, more = blocks[1:], strangers + some
            self._process.later(
                self._process.plan.seconds(0.001, 1), lambda: self._read_block(action, index, rest, fault, more)
            )

        self._process.after_turn.append(settled)
        self._process.wake()

    def _sort(
        self, action: Fetch, index: dict[str, Place], rows: list[OutputRow]
    ) -> tuple[RowsFetched, list[tuple[str, bytes]]]:
        delivered: list[Place] = []
        kept: list[tuple[Place, bytes]] = []
        failed: list[RowFault] = []
        strangers: list[tuple[str, bytes]] = []
        unclaimed: list[tuple[str, bytes]] = []
        stranger = action.job.stranger
        for row in rows:
            place = index.pop(row.key, -1) if row.readable else -1
            if stranger and (row.error is not None or row.key == "nobody's" or not row.readable):
                continue
            if place < 0:
                (unclaimed if stranger else strangers).append((row.key, row.body))
                continue
            if row.error is not None:
                failed.append(RowFault(place, row.error))
                continue
            waiting = self._process.callers.awaiters.get(place, [])
            if not stranger and len(waiting) == 1 and waiting[0].ask.key is None and not waiting[0].joined:
                del self._process.callers.awaiters[place]
                delivered.append(place)
                self._process.callers.answer(waiting[0], row.body, action.job.name)
            else:
                kept.append((place, row.body))
        answers = len(delivered) + len(kept) + len(unclaimed)
        charge = Charge(answers=answers, prompt=answers, output=answers)
        return RowsFetched(action.job.id, action.op, delivered, kept, failed, charge, unclaimed), strangers


def in_runs(event: RowsFetched) -> RowsFetched:
    """Return the same with those rows in runs that follow each other."""
    runs: list[Run] = []
    straight = spans_of(sorted(event.delivered))
    runs += [Run(no, start, stop) for no, start, stop in straight]
    bodies = dict(event.kept)
    for no, start, stop in spans_of(sorted(bodies)):
        runs.append(Run(no, start, stop, [bodies[place_of(no, row)] for row in range(start, stop)]))
    single = [run for run in runs if run.count == 1]
    return msgspec.structs.replace(
        event,
        delivered=[place for run in single if run.bodies is None for place in run.places],
        kept=[(place, bodies[place]) for run in single if run.bodies is not None for place in run.places],
        runs=[run for run in runs if run.count > 1],
    )
