"""A server that stands in for the Batch API and costs next to nothing, so that a benchmark measures the client.

    python benchmarks/stub_server.py [--port N] [--dir FOLDER]

It prints ``listening on http://127.0.0.1:N`` when it is ready and ends on SIGTERM or SIGINT. It speaks what a client
needs to run jobs (resumable upload, create from a file or inline, get, list, cancel, delete, download at both
addresses, live generateContent) and judges nothing: every row gets the same answer, made for all rows of a batch at
once, and a job is done when its answers are written. What is right and wrong on the wire is the emulator's business.

``GET /stats`` tells what a measurement must subtract or report: CPU seconds and peak memory of this process, and
``provider_s``, the time during which jobs were in this server's hands: from the moment a create was answered to the
moment a client was first told that the job is done (jobs that overlap are counted once). ``upload_s`` and
``upload_bytes`` are of the upload that ended last, from its start call to its last byte. ``POST /reset`` forgets
everything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import re
import resource
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import web

KEY = re.compile(rb'"key":\s*"([^"]*)"')
ROWS_PER_WRITE = 32_768
READ_BUFFER_BYTES = 1 << 20
CREATED = "2026-01-01T00:00:00Z"
TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."

SENTENCE = "All work and no play makes the stub a dull server. "
GENERATED = json.dumps(
    {
        "candidates": [
            {
                "content": {"parts": [{"text": SENTENCE * 4}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
                "avgLogprobs": -0.0321,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 75,
            "candidatesTokenCount": 48,
            "totalTokenCount": 223,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 75}],
            "thoughtsTokenCount": 100,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "c3R1Yi1hbnN3ZXItaWQtMDAwMQ",
    },
    separators=(",", ":"),
).encode()
EMBEDDED = json.dumps(
    {"tokenCount": "75", "embedding": {"values": [round((i % 17 - 8) / 64, 6) for i in range(256)]}},
    separators=(",", ":"),
).encode()


@dataclass
class Upload:
    """A file on its way in, or there."""

    name: str
    path: Path
    file: BinaryIO
    size_bytes: int = 0
    final: bool = False
    started_at: float = field(default_factory=time.monotonic)

    def resource(self) -> dict[str, str]:
        return {
            "name": self.name,
            "mimeType": "application/jsonl",
            "sizeBytes": str(self.size_bytes),
            "createTime": CREATED,
            "state": "ACTIVE",
            "source": "UPLOADED",
        }


@dataclass
class Job:
    """A batch: its envelope's fields and, once they are made, its answers."""

    name: str
    model: str
    display_name: str
    embed: bool
    rows: int = 0
    answers: asyncio.Task[dict[str, Any]] | None = None
    created_at: float = field(default_factory=time.monotonic)
    seen_done_at: float | None = None

    @property
    def done(self) -> bool:
        return self.answers is not None and self.answers.done()

    def envelope(self, output: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the operation as the wire has it; lists leave the output out."""
        kind = "EmbedContentBatch" if self.embed else "GenerateContentBatch"
        done = self.done
        stats = {"requestCount": str(self.rows)} | ({"successfulRequestCount": str(self.rows)} if done else {})
        metadata = {
            "@type": TYPE + kind,
            "model": self.model,
            "displayName": self.display_name,
            "createTime": CREATED,
            "updateTime": CREATED,
            "batchStats": stats,
            "state": "BATCH_STATE_SUCCEEDED" if done else "BATCH_STATE_RUNNING",
            "name": self.name,
        }
        if not done:
            return {"name": self.name, "metadata": metadata}
        metadata |= {"output": output or {}, "endTime": CREATED}
        response = {"@type": f"{TYPE}{kind}Output"} | (output or {})
        return {"name": self.name, "metadata": metadata, "done": True, "response": response}


def write_answers(source: Path, target: Path, answer: bytes) -> int:
    """Write a result line for each key in a file of requests, and return how many there were.

    The keys are picked out by one regular expression: the rows are never parsed.
    """
    head, tail = b'{"key":"', b'","response":' + answer + b"}\n"
    if not source.stat().st_size:
        target.touch()
        return 0
    with source.open("rb") as requests, mmap.mmap(requests.fileno(), 0, access=mmap.ACCESS_READ) as text:
        keys = KEY.findall(text)
    with target.open("wb", buffering=0) as results:
        for start in range(0, len(keys), ROWS_PER_WRITE):
            results.write(head + (tail + head).join(keys[start : start + ROWS_PER_WRITE]) + tail)
    return len(keys)


def both_cases(message: dict[str, Any], camel: str, snake: str) -> Any:
    """Return a field that a client may spell either way."""
    return message.get(camel, message.get(snake))


class Stub:
    """The files and jobs that a run has made, and the handlers that make them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._sessions: dict[str, Upload] = {}
        self._files: dict[str, Upload] = {}
        self._outputs: dict[str, Path] = {}
        self._jobs: dict[str, Job] = {}
        self._intervals: list[tuple[float, float]] = []
        self._serial = 0
        self._uploaded = {"upload_s": 0.0, "upload_bytes": 0}

    def routes(self) -> list[web.RouteDef]:
        version = "/{version:v1|v1beta|v1alpha}"
        return [
            web.post(f"/upload{version}/files", self.upload_start),
            web.post("/upload-session/{id}", self.upload_chunk),
            web.post(f"{version}/models/{{model}}:{{method}}", self.call_model),
            web.get(f"{version}/batches", self.list_jobs),
            web.get(f"{version}/batches/{{id}}", self.get_job),
            web.post(f"{version}/batches/{{id}}:cancel", self.cancel_job),
            web.delete(f"{version}/batches/{{id}}", self.delete_job),
            web.get(f"{version}/files/{{id}}:download", self.download),
            web.get(f"/download{version}/files/{{id}}:download", self.download),
            web.get(f"{version}/files/{{id}}", self.get_file),
            web.delete(f"{version}/files/{{id}}", self.delete_file),
            web.get("/stats", self.stats),
            web.post("/reset", self.reset),
        ]

    def _new_id(self) -> str:
        self._serial += 1
        return f"stub-{self._serial:06d}"

    # ------------------------------------------------------------------------------------------------------- files

    async def upload_start(self, request: web.Request) -> web.Response:
        body = await request.read()
        session = self._new_id()
        chosen = json.loads(body).get("file", {}).get("name") if body else None
        path = self._folder / f"{session}.in"
        self._sessions[session] = Upload(chosen or f"files/{session}", path, path.open("wb", buffering=0))
        return web.Response(
            headers={
                "X-Goog-Upload-URL": f"{request.scheme}://{request.host}/upload-session/{session}",
                "X-Goog-Upload-Status": "active",
                "X-Goog-Upload-Chunk-Granularity": "262144",
            }
        )

    async def upload_chunk(self, request: web.Request) -> web.Response:
        upload = self._sessions.get(request.match_info["id"])
        if upload is None:
            return error(404, "NOT_FOUND", "no such upload")
        command = request.headers.get("X-Goog-Upload-Command", "")
        if "upload" in command:
            if int(request.headers.get("X-Goog-Upload-Offset", "0")) != upload.size_bytes:
                return error(400, "INVALID_ARGUMENT", f"the offset is {upload.size_bytes}")
            async for block in request.content.iter_any():
                upload.file.write(block)
                upload.size_bytes += len(block)
        if "finalize" in command:
            upload.file.close()
            upload.final = True
            self._files[upload.name] = upload
            self._uploaded = {
                "upload_s": time.monotonic() - upload.started_at,
                "upload_bytes": upload.size_bytes,
            }
        if upload.final:
            return web.json_response({"file": upload.resource()}, headers={"X-Goog-Upload-Status": "final"})
        return web.Response(
            headers={"X-Goog-Upload-Status": "active", "X-Goog-Upload-Size-Received": str(upload.size_bytes)}
        )

    async def get_file(self, request: web.Request) -> web.Response:
        upload = self._files.get(f"files/{request.match_info['id']}")
        return web.json_response(upload.resource()) if upload else missing_file(request)

    async def delete_file(self, request: web.Request) -> web.Response:
        upload = self._files.pop(f"files/{request.match_info['id']}", None)
        if upload is None:
            return missing_file(request)
        upload.path.unlink(missing_ok=True)
        return web.json_response({})

    async def download(self, request: web.Request) -> web.StreamResponse:
        path = self._outputs.get(request.match_info["id"])
        if path is None:
            return missing_file(request)
        return web.FileResponse(path, headers={"Content-Type": "application/jsonl"})

    # -------------------------------------------------------------------------------------------------------- jobs

    async def call_model(self, request: web.Request) -> web.Response:
        body = await request.read()
        match request.match_info["method"]:
            case "generateContent":
                return web.Response(body=GENERATED, content_type="application/json")
            case "batchGenerateContent" | "asyncBatchEmbedContent" as method:
                return self._create(request.match_info["model"], json.loads(body)["batch"], method)
            case method:
                return error(404, "NOT_FOUND", f"the stub does not know {method}")

    def _create(self, model: str, batch: dict[str, Any], method: str) -> web.Response:
        config = both_cases(batch, "inputConfig", "input_config")
        file_name: str | None = both_cases(config, "fileName", "file_name")
        job_id = self._new_id()
        job = Job(
            name=f"batches/{job_id}",
            model=f"models/{model}",
            display_name=both_cases(batch, "displayName", "display_name") or "",
            embed=method == "asyncBatchEmbedContent",
        )
        if file_name is not None:
            upload = self._files.get(file_name)
            if upload is None:
                return error(403, "PERMISSION_DENIED", f"You do not have permission to access the {file_name}")
            job.answers = asyncio.create_task(self._answer_file(job, upload))
        else:
            job.answers = asyncio.create_task(self._answer_inline(job, config["requests"]["requests"]))
        self._jobs[job_id] = job
        return web.json_response(job.envelope())

    async def _answer_file(self, job: Job, upload: Upload) -> dict[str, Any]:
        output_id = "batch-" + job.name.removeprefix("batches/")
        path = self._folder / f"{output_id}.out"
        job.rows = await asyncio.to_thread(write_answers, upload.path, path, EMBEDDED if job.embed else GENERATED)
        self._outputs[output_id] = path
        return {"responsesFile": f"files/{output_id}"}

    async def _answer_inline(self, job: Job, rows: list[dict[str, Any]]) -> dict[str, Any]:
        answer = json.loads(EMBEDDED if job.embed else GENERATED)
        job.rows = len(rows)
        items = [{"response": answer, "metadata": row.get("metadata", {})} for row in rows]
        return {"inlinedResponses": {"inlinedResponses": items}}

    async def get_job(self, request: web.Request) -> web.Response:
        job = self._jobs.get(request.match_info["id"])
        if job is None or job.answers is None:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        if not job.done:
            return web.json_response(job.envelope())
        if job.seen_done_at is None:
            job.seen_done_at = time.monotonic()
            self._intervals.append((job.created_at, job.seen_done_at))
        return web.json_response(job.envelope(job.answers.result()))

    async def list_jobs(self, _request: web.Request) -> web.Response:
        jobs = [job.envelope() for job in reversed(self._jobs.values())]
        return web.json_response({"operations": jobs} if jobs else {})

    async def cancel_job(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def delete_job(self, request: web.Request) -> web.Response:
        job = self._jobs.pop(request.match_info["id"], None)
        if job is None:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        path = self._outputs.pop("batch-" + request.match_info["id"], None)
        if path is not None:
            path.unlink(missing_ok=True)
        return web.json_response({})

    # ------------------------------------------------------------------------------------------------- measurement

    async def stats(self, _request: web.Request) -> web.Response:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return web.json_response(
            {
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "peak_rss_mb": usage.ru_maxrss / 1024,
                "provider_s": total_s(self._intervals),
                "jobs": len(self._intervals),
                **self._uploaded,
            }
        )

    async def reset(self, _request: web.Request) -> web.Response:
        await asyncio.gather(*(job.answers for job in self._jobs.values() if job.answers is not None))
        for upload in self._sessions.values():
            upload.file.close()
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        for everything in (self._sessions, self._files, self._outputs, self._jobs, self._intervals):
            everything.clear()
        return web.json_response({})


def total_s(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, in seconds."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def error(code: int, status: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "status": status, "message": message}}, status=code)


def missing_file(request: web.Request) -> web.Response:
    file_id = request.match_info["id"]
    message = f"You do not have permission to access the File {file_id} or it may not exist."
    return error(403, "PERMISSION_DENIED", message)


def make_app(folder: Path) -> web.Application:
    app = web.Application(client_max_size=1 << 30)
    app.add_routes(Stub(folder).routes())
    return app


async def serve(port: int, folder: Path) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(make_app(folder), access_log=None, read_bufsize=READ_BUFFER_BYTES)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for the Batch API that costs next to nothing.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--dir", type=Path, default=None, help="where files are kept; default: a folder that goes away")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="carpool-stub-", dir=args.dir) as folder:
        asyncio.run(serve(args.port, Path(folder) / "files"))


if __name__ == "__main__":
    main()
