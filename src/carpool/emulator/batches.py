"""The Batch API.

Owns jobs: creation, what a job looks like at a moment, cancellation, deletion, listing, the bill at its end. A job's
state is never stored and never ticks: it is read off the job's script whenever somebody asks. It must not know how rows
are answered or written.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator, Iterator
from typing import Final, cast

import msgspec

from .answers import RowError
from .blobs import Blob
from .files import FileService, file_resource
from .ledger import JobBill
from .messages import (
    JSON_TYPE,
    TYPE_PREFIX,
    ApiError,
    Call,
    Json,
    JsonObject,
    Reply,
    no_such_entity,
    no_such_file,
    ok,
    quota_exceeded,
)
from .output import file_blocks, inline_blocks
from .rows import Create, Kind, Rows, read_create, read_file, read_items
from .script import OUTPUT_STATES, Script, draw_script, ended_without_error
from .state import State, page, rfc3339

_PACKAGE: Final = TYPE_PREFIX + "google.ai.generativelanguage.v1main."
_MESSAGE: Final = {Kind.GENERATE: "GenerateContentBatch", Kind.EMBED: "EmbedContentBatch"}
# Where a large inline output goes in an operation: JSON text has no such byte.
_HOLE: Final = b"\0"


class Job(msgspec.Struct, kw_only=True, eq=False):
    """A job.

    Attributes:
        serial: grows from job to job.
        name: ``batches/...``.
        display_name: as sent, may be empty.
        file_name: of the input file, empty for inline requests.
        rows: what was asked.
        script: what becomes of it.
        created_at: seconds since the epoch.
        cancelled_at: when somebody cancelled it, None if nobody did.
        deleted: whether nobody can see it any more.
        billed: whether its end is in the books.
    """

    serial: int
    name: str
    display_name: str
    file_name: str
    rows: Rows
    script: Script
    created_at: float
    cancelled_at: float | None = None
    deleted: bool = False
    billed: bool = False

    def ended_at(self) -> float:
        """Return when it ends or has ended."""
        return self.script.ends_at if self.cancelled_at is None else self.cancelled_at

    def state(self, now: float) -> str:
        """Return its state, without prefix."""
        if now < self.ended_at():
            return "PENDING" if now < self.script.starts_at else "RUNNING"
        return self.script.state if self.cancelled_at is None else "CANCELLED"

    def error(self) -> RowError | None:
        """Return the error that it ends with."""
        return self.script.error if self.cancelled_at is None else ended_without_error(self.name)

    def done(self, now: float) -> int:
        """Return how many rows are done: the first ones, in step with the time since it started."""
        if now >= self.script.ends_at and self.cancelled_at is None:
            return self.script.done
        if now < self.script.starts_at or self.script.state == "EXPIRED":
            return 0
        span = self.script.ends_at - self.script.starts_at
        share = (min(now, self.ended_at()) - self.script.starts_at) / span if span > 0 else 1.0
        return max(0, min(self.script.done, math.floor(len(self.rows) * share)))

    def failed_rows(self, done: int) -> set[int]:
        """Return which of the first ``done`` rows have an error."""
        return {index for errors in (self.rows.errors, self.script.errors) for index in errors if index < done}

    def has_output(self, now: float, *, cancelled: bool) -> bool:
        """Return whether its output can be seen. ``cancelled``: whether cancelled jobs show theirs."""
        state = self.state(now)
        if state == "CANCELLED":
            return cancelled and self.done(now) > 0
        return state in OUTPUT_STATES and now >= self.ended_at() + self.script.late_s

    @property
    def output_name(self) -> str:
        """The name of its output file."""
        return f"files/batch-{self.name.removeprefix('batches/')}"


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job for whoever watches the emulator."""

    name: str
    display_name: str
    model: str
    kind: str
    state: str
    rows: int
    rows_done: int
    file_name: str
    created_at: float
    deleted: bool


class BatchService:
    """All jobs."""

    def __init__(self, state: State, files: FileService) -> None:
        self._state = state
        self._files = files
        self._jobs: dict[str, Job] = {}
        self._ends: list[tuple[float, int, Job]] = []
        self._living = 0

    # -- time

    def advance(self, now: float) -> None:
        """Bill the jobs that have ended by now, in the order of their ends."""
        while self._ends and self._ends[0][0] <= now:
            _, _, job = heapq.heappop(self._ends)
            if not job.billed:
                self._bill(job, job.script.ends_at)

    def _bill(self, job: Job, at: float) -> None:
        done = job.done(at)
        failed = job.failed_rows(done)
        billed = [index for index in range(done) if index not in failed]
        rows = job.rows
        bill = JobBill(
            name=job.name,
            display_name=job.display_name,
            model=rows.model,
            state=job.state(at),
            rows_ok=len(billed),
            rows_failed=len(failed),
            prompt_tokens=sum(rows.prompt_tokens[index] for index in billed),
            output_tokens=sum(rows.output_tokens[index] for index in billed),
        )
        keys = [key for index in billed if (key := rows.keys[index]) is not None]
        self._state.ledger.bill_job(bill, keys=keys, requests=[rows.digests[index] for index in billed])
        job.billed = True
        self._living -= 1
        if job.deleted:
            del self._jobs[job.name]

    # -- creation

    def create(self, call: Call, kind: Kind, model: str, now: float) -> Generator[None, None, Reply]:
        """Read and check all rows, a slice at a time, and make a job of them.

        Raises:
            ApiError: anything is wrong with it; then nothing has taken effect.
        """
        self._check_room()
        wanted = read_create(call.body)
        rows = self._new_rows(wanted, kind, model, now)
        yield from read_file(rows) if wanted.file_name else read_items(rows, wanted.items)
        # Others had their turn meanwhile: what was true at the start may not be any more.
        self._check_room()
        if wanted.file_name:
            self._files.find(wanted.file_name, now)
        name = f"batches/{self._state.new_id(36)}"
        script = draw_script(self._state, name=name, count=len(rows), from_file=bool(wanted.file_name), now=now)
        job = Job(
            serial=self._state.next_serial(),
            name=name,
            display_name=wanted.display_name,
            file_name=wanted.file_name,
            rows=rows,
            script=script,
            created_at=now,
        )
        self._jobs[name] = job
        self._living += 1
        heapq.heappush(self._ends, (script.ends_at, job.serial, job))
        # A create is always answered with a waiting job, even if the job is over by the time anyone asks.
        return ok(self._operation(job, now, fresh=True))

    def _new_rows(self, wanted: Create, kind: Kind, model: str, now: float) -> Rows:
        blob = self._files.find(wanted.file_name, now).blob if wanted.file_name else Blob(self._state.data_dir)
        return Rows(kind, model, blob, ignore_json_schema=self._state.plan.batch_ignores_json_schema)

    def _check_room(self) -> None:
        if self._living >= self._state.plan.jobs_max:
            raise quota_exceeded(None, 0.0)

    # -- what a job looks like

    def _operation(self, job: Job, now: float, *, fresh: bool = False, listed: bool = False) -> JsonObject:
        """Return a job as an operation.

        Args:
            job: the job.
            now: seconds since the epoch.
            fresh: it was created this moment.
            listed: as an entry of a list, which has no inline responses. Else they are a hole to be filled.
        """
        plan = self._state.plan
        state = "PENDING" if fresh else job.state(now)
        over = not fresh and now >= job.ended_at()
        message = _MESSAGE[job.rows.kind]
        updated = job.ended_at() if over else job.script.starts_at if state == "RUNNING" else job.created_at
        metadata: JsonObject = {
            "@type": _PACKAGE + message,
            "model": f"models/{job.rows.model}",
            "displayName": job.display_name,
            "inputConfig": {"fileName": job.file_name} if job.file_name else None,
            "createTime": rfc3339(job.created_at),
            "endTime": rfc3339(job.ended_at()) if over else None,
            "updateTime": rfc3339(updated),
            "batchStats": self._stats(job, 0 if fresh else job.done(now), over=over),
            "state": f"{plan.state_prefix}_{state}",
            "name": job.name,
        }
        operation: JsonObject = {"name": job.name, "metadata": metadata}
        if over:
            operation["done"] = True
            error = job.error()
            if error is not None:
                operation["error"] = {"code": error.code, "message": error.message}
        if not fresh and job.has_output(now, cancelled=plan.cancelled_output) and not (listed and job.script.inline):
            output: JsonObject = {"responsesFile": job.output_name}
            if job.script.inline:
                hole = cast("Json", msgspec.Raw(_HOLE))
                output = {"inlinedResponses": {"inlinedResponses": hole}}
            if plan.output_only_in != "response" or "error" in operation:
                metadata["output"] = output
            if plan.output_only_in != "metadata" and "error" not in operation:
                operation["response"] = {"@type": f"{_PACKAGE}{message}Output", **output}
        operation["metadata"] = {name: value for name, value in metadata.items() if value not in (None, "")}
        return operation

    def _stats(self, job: Job, done: int, *, over: bool) -> JsonObject:
        failed = len(job.failed_rows(done))
        counts = {
            "requestCount": len(job.rows),
            "successfulRequestCount": done - failed,
            "failedRequestCount": failed,
            "pendingRequestCount": 0 if over else len(job.rows) - done,
        }
        return {name: str(count) for name, count in counts.items() if count}

    def _find(self, name: str) -> Job:
        job = self._jobs.get(name)
        if job is None or job.deleted:
            raise no_such_entity()
        return job

    def get(self, name: str, now: float) -> Reply:
        """Answer with a job.

        Raises:
            ApiError: 404.
        """
        job = self._find(name)
        before, *after = msgspec.json.encode(self._operation(job, now)).split(_HOLE)
        if not after:
            return Reply(body=before)
        done = job.done(now)

        def blocks() -> Iterator[bytes]:
            yield before
            for part in after:
                yield from inline_blocks(job.rows, job.script, done)
                yield part

        return Reply(body=blocks(), headers={"Content-Type": JSON_TYPE})

    def list_jobs(self, call: Call, now: float) -> Reply:
        """Answer with a page of the jobs, newest first."""
        lag = self._state.plan.list_lag_s
        seen = (job for job in reversed(self._jobs.values()) if not job.deleted and now >= job.created_at + lag)
        jobs, token = page(seen, call.query, usual=50, most=1000)
        body: JsonObject = {}
        if jobs:
            body["operations"] = [self._operation(job, now, listed=True) for job in jobs]
        if token is not None:
            body["nextPageToken"] = token
        return ok(body)

    def cancel(self, name: str, now: float) -> Reply:
        """Cancel a job that has not ended; what is done by now is billed. Others stay as they are.

        Raises:
            ApiError: 404.
        """
        job = self._find(name)
        if now < job.ended_at():
            job.cancelled_at = now
            self._bill(job, now)
        return ok({})

    def delete(self, name: str) -> Reply:
        """Forget a job and its output. A job that has not ended goes on, and is billed.

        Raises:
            ApiError: 404.
        """
        job = self._find(name)
        job.deleted = True
        if job.billed:
            del self._jobs[name]
        return ok({})

    # -- output files

    def _output_job(self, file_name: str, now: float) -> Job:
        job = self._jobs.get(f"batches/{file_name.removeprefix('files/batch-')}")
        if job is None or job.deleted or job.script.inline:
            raise no_such_file(file_name)
        if not job.has_output(now, cancelled=self._state.plan.cancelled_output):
            raise no_such_file(file_name)
        if now >= job.ended_at() + self._state.plan.file_life_s:
            raise no_such_file(file_name)
        return job

    def download(self, file_name: str, now: float) -> Reply:
        """Answer with the output of a job.

        Raises:
            ApiError: 403.
        """
        job = self._output_job(file_name, now)
        blocks = file_blocks(job.rows, job.script, job.done(now))
        return Reply(body=blocks, headers={"Content-Type": "application/octet-stream"})

    def get_file(self, file_name: str, call: Call, now: float) -> Reply:
        """Answer with the description of an output file (whether the live service has its size is not known).

        Raises:
            ApiError: 403.
        """
        job = self._output_job(file_name, now)
        ended_at = job.ended_at()
        resource = file_resource(
            name=file_name,
            mime_type="application/jsonl",
            size_bytes=None,
            created_at=ended_at,
            expires_at=ended_at + self._state.plan.file_life_s,
            origin=call.origin,
        )
        uri = f"{call.origin}/download/v1beta/{file_name}:download?alt=media"
        return ok({**resource, "source": "GENERATED", "downloadUri": uri})

    def delete_file(self, file_name: str, now: float) -> Reply:
        """Refuse: an output file goes with its job.

        Raises:
            ApiError: 400, or 403 if there is no such file.
        """
        self._output_job(file_name, now)
        raise ApiError(400, "Invalid file name.")  # its name is too long for a file's: wording not known

    # -- for whoever watches

    def views(self, now: float) -> list[JobView]:
        """Return all jobs, oldest first; deleted ones until they have ended."""
        return [
            JobView(
                name=job.name,
                display_name=job.display_name,
                model=job.rows.model,
                kind=job.rows.kind.value,
                state=job.state(now),
                rows=len(job.rows),
                rows_done=job.done(now),
                file_name=job.file_name,
                created_at=job.created_at,
                deleted=job.deleted,
            )
            for job in self._jobs.values()
        ]
