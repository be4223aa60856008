"""The Batch API.

Owns jobs: creation, what a job looks like at a moment, cancellation, deletion, listing, the bill at its end. A job's
state is never stored and never ticks: it is read off the job's script whenever somebody asks. It must not know how rows
are answered or written.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from typing import Final, cast

import msgspec

from .blobs import Blob
from .fields import as_int, as_object, as_str, camel, camelise
from .files import FileService, file_resource
from .jobs import Job, JobView
from .ledger import JobBill
from .messages import (
    JSON_TYPE,
    TYPE_PREFIX,
    ApiError,
    Call,
    Json,
    JsonObject,
    Reply,
    bad_payload,
    decode_json,
    no_such_entity,
    no_such_file,
    ok,
    quota_exceeded,
)
from .output import file_blocks, inline_blocks
from .resources import Resources
from .rows import Create, Extra, Kind, Rows, Settings, read_create, read_file, read_items
from .script import draw_script
from .state import State, page, rfc3339
from .validation import check

_PACKAGE: Final = TYPE_PREFIX + "google.ai.generativelanguage.v1main."
_MESSAGE: Final = {Kind.GENERATE: "GenerateContentBatch", Kind.EMBED: "EmbedContentBatch"}
# Where a large inline output goes in an operation: JSON text has no such byte.
_HOLE: Final = b"\0"


def _extras(rows: Rows, failed: set[int], done: int) -> dict[str, int]:
    """Return what the billed ones of the first ``done`` rows spent their tokens on."""
    billed = [extra for index, extra in rows.extras.items() if index < done and index not in failed]
    return {name: sum(getattr(extra, name) for extra in billed) for name in Extra.__struct_fields__}


class BatchService:
    """All jobs."""

    def __init__(self, state: State, files: FileService, resources: Resources) -> None:
        self._state = state
        self._files = files
        self._resources = resources
        self._enqueued: dict[str, int] = {}
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
        for index in job.rows.needs:
            if index < done:
                job.rows.settle(index, job.answered_at(index))
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
            picousd=sum(max(0, rows.costs[index]) for index in billed),
            unpriced=sum(rows.costs[index] < 0 for index in billed),
            **_extras(rows, failed, done),
        )
        keys = [key for index in billed if (key := rows.keys[index]) is not None]
        self._state.ledger.bill_job(bill, keys=keys, requests=[rows.digests[index] for index in billed])
        job.billed = True
        self._living -= 1
        self._enqueued[rows.model] -= sum(rows.prompt_tokens)
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
        rows = self._new_rows(wanted, kind, model, call.origin, now)
        yield from read_file(rows) if wanted.file_name else read_items(rows, wanted.items)
        # Others had their turn meanwhile: what was true at the start may not be any more.
        self._check_room()
        tokens = sum(rows.prompt_tokens)
        self._check_tokens(model, tokens)
        if wanted.file_name:
            self._files.find_input(wanted.file_name, now)
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
            priority=wanted.priority,
        )
        self._jobs[name] = job
        self._living += 1
        self._enqueued[model] = self._enqueued.get(model, 0) + tokens
        heapq.heappush(self._ends, (script.ends_at, job.serial, job))
        # A create is always answered with a waiting job, even if the job is over by the time anyone asks.
        return ok(self._operation(job, now, fresh=True))

    def _new_rows(self, wanted: Create, kind: Kind, model: str, origin: str, now: float) -> Rows:
        blob = self._files.find_input(wanted.file_name, now).blob if wanted.file_name else Blob(self._state.data_dir)
        settings = Settings(
            origin=origin,
            now=now,
            ignore_json_schema=self._state.plan.batch_ignores_json_schema,
            tokens_max=self._state.plan.input_tokens_max,
        )
        return Rows(kind, model, blob, resources=self._resources, settings=settings)

    def _check_room(self) -> None:
        if self._living >= self._state.plan.jobs_max:
            raise quota_exceeded(None, 0.0)

    def _check_tokens(self, model: str, tokens: int) -> None:
        limit = self._state.plan.enqueued_tokens(model, self._state.faults.passed_s)
        if limit is not None and self._enqueued.get(model, 0) + tokens > limit:
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
            "model": job.rows.model if "/" in job.rows.model else f"models/{job.rows.model}",
            "displayName": job.display_name,
            "inputConfig": {"fileName": job.file_name} if job.file_name else None,
            "createTime": rfc3339(job.created_at),
            "endTime": rfc3339(job.ended_at()) if over else None,
            "updateTime": rfc3339(max(updated, job.updated_at or 0.0)),
            "batchStats": self._stats(job, 0 if fresh else job.done(now), over=over),
            "state": f"{plan.state_prefix}_{state}",
            "priority": str(job.priority) if job.priority else None,
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

    def update(self, name: str, call: Call, kind: Kind, now: float) -> Reply:
        """Change a job's display name or priority, and answer with the job itself rather than an operation.

        Raises:
            ApiError: 404, or 400 for a job of another kind and for what cannot be changed.
        """
        job = self._find(name)
        if job.rows.kind is not kind:
            raise ApiError(400, "Request contains an invalid argument.")
        try:
            sent = decode_json(call.body or b"{}")
        except msgspec.DecodeError as error:
            raise bad_payload(str(error)) from None
        check("BatchUpdate", sent)
        body = as_object(camelise(sent))
        mask = call.query.get("updateMask", call.query.get("update_mask", ""))
        wanted = {camel(one.strip()) for one in mask.split(",") if one.strip()} or {"displayName", "priority"}
        if wanted - {"displayName", "priority"}:
            raise ApiError(400, "Invalid update mask.")  # wording not known
        if "displayName" in wanted & body.keys():
            job.display_name = as_str(body["displayName"])
        if "priority" in wanted & body.keys():
            job.priority = as_int(body["priority"]) or 0
        job.updated_at = now
        metadata = as_object(self._operation(job, now, listed=True)["metadata"])
        return ok({field: value for field, value in metadata.items() if field != "@type"})

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
        if job is None or job.deleted or job.script.inline or job.script.vanished:
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
