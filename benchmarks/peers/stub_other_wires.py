"""A server that stands in for the batch APIs of OpenAI and Anthropic, for the peers that speak nothing else.

    cd benchmarks && python -m peers.stub_other_wires [--port N]

What ../stub_server.py is for Gemini's wire: every request gets the same answer, made for all requests of a batch at
once, ids are picked out by one regular expression, and a job is done when its answers are written. `/stats` and
`/reset` are the same. The answers say as much as the Gemini stub's do, in the shape of their wire.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from stub_server import READ_BUFFER_BYTES, ROWS_PER_WRITE, SENTENCE, total_s

CUSTOM_ID = re.compile(rb'"custom_id":\s*"([^"]*)"')
CREATED_S = 1_767_225_600
CREATED = "2026-01-01T00:00:00Z"

OPENAI_ANSWER = {
    "id": "batch_req_stub",
    "response": {
        "status_code": 200,
        "request_id": "req_stub",
        "body": {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": CREATED_S,
            "model": "gpt-4o-mini",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": SENTENCE * 4, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 75, "completion_tokens": 48, "total_tokens": 123},
            "system_fingerprint": "fp_stub",
        },
    },
    "error": None,
}
ANTHROPIC_ANSWER = {
    "result": {
        "type": "succeeded",
        "message": {
            "id": "msg_stub",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": SENTENCE * 4}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 75, "output_tokens": 48},
        },
    }
}


@dataclass
class Job:
    """A batch, whose answers are there when the task has ended."""

    id: str
    source: str
    rows: asyncio.Task[int]
    created_at: float = field(default_factory=time.monotonic)
    seen_done_at: float | None = None


def write_answers(requests: bytes, target: Path, answer: dict[str, Any]) -> int:
    """Write a result line for each id in a body, and return how many there were."""
    head, tail = b'{"custom_id":"', b'",' + json.dumps(answer, separators=(",", ":")).encode()[1:] + b"\n"
    ids = CUSTOM_ID.findall(requests)
    with target.open("wb", buffering=0) as results:
        for start in range(0, len(ids), ROWS_PER_WRITE):
            results.write(head + (tail + head).join(ids[start : start + ROWS_PER_WRITE]) + tail)
    return len(ids)


class Stub:
    """The files and jobs that a run has made, and the handlers that make them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._files: dict[str, bytes] = {}
        self._jobs: dict[str, Job] = {}
        self._intervals: list[tuple[float, float]] = []
        self._serial = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.openai_upload),
            web.get("/v1/files/{id}/content", self.openai_download),
            web.post("/v1/batches", self.openai_create),
            web.get("/v1/batches/{id}", self.openai_get),
            web.post("/v1/messages/batches", self.anthropic_create),
            web.get("/v1/messages/batches/{id}", self.anthropic_get),
            web.get("/v1/messages/batches/{id}/results", self.anthropic_results),
            web.get("/stats", self.stats),
            web.post("/reset", self.reset),
        ]

    def _new_id(self, prefix: str) -> str:
        self._serial += 1
        return f"{prefix}_stub{self._serial:06d}"

    def _start(self, job_id: str, source: str, requests: bytes, answer: dict[str, Any]) -> Job:
        writing = asyncio.create_task(asyncio.to_thread(write_answers, requests, self._output(job_id), answer))
        job = self._jobs[job_id] = Job(job_id, source, writing)
        return job

    def _output(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.out"

    def _told(self, job: Job) -> bool:
        """Return whether a job is done, and note when a client first heard of it."""
        if job.rows.done() and job.seen_done_at is None:
            job.seen_done_at = time.monotonic()
            self._intervals.append((job.created_at, job.seen_done_at))
        return job.rows.done()

    # ------------------------------------------------------------------------------------------------------ OpenAI

    async def openai_upload(self, request: web.Request) -> web.Response:
        body = await request.read()  # a form, whose other fields have no custom_id
        file_id = self._new_id("file")
        self._files[file_id] = body
        return web.json_response(
            {
                "id": file_id,
                "object": "file",
                "bytes": len(body),
                "created_at": CREATED_S,
                "filename": "batch.jsonl",
                "purpose": "batch",
                "status": "processed",
            }
        )

    async def openai_create(self, request: web.Request) -> web.Response:
        source = (await request.json())["input_file_id"]
        job = self._start(self._new_id("batch"), source, self._files[source], OPENAI_ANSWER)
        return web.json_response(self._openai_batch(job, done=False))

    async def openai_get(self, request: web.Request) -> web.Response:
        job = self._jobs[request.match_info["id"]]
        return web.json_response(self._openai_batch(job, done=self._told(job)))

    async def openai_download(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(self._output(request.match_info["id"]), headers={"Content-Type": "application/jsonl"})

    def _openai_batch(self, job: Job, *, done: bool) -> dict[str, Any]:
        rows = job.rows.result() if done else 0
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": job.source,
            "output_file_id": job.id if done else None,
            "error_file_id": None,
            "completion_window": "24h",
            "status": "completed" if done else "in_progress",
            "created_at": CREATED_S,
            "request_counts": {"total": rows, "completed": rows, "failed": 0},
        }

    # --------------------------------------------------------------------------------------------------- Anthropic

    async def anthropic_create(self, request: web.Request) -> web.Response:
        job = self._start(self._new_id("msgbatch"), "", await request.read(), ANTHROPIC_ANSWER)
        return web.json_response(self._anthropic_batch(job, request, done=False))

    async def anthropic_get(self, request: web.Request) -> web.Response:
        job = self._jobs[request.match_info["id"]]
        return web.json_response(self._anthropic_batch(job, request, done=self._told(job)))

    async def anthropic_results(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(self._output(request.match_info["id"]), headers={"Content-Type": "application/binary"})

    def _anthropic_batch(self, job: Job, request: web.Request, *, done: bool) -> dict[str, Any]:
        rows = job.rows.result() if done else 0
        here = f"{request.scheme}://{request.host}/v1/messages/batches/{job.id}"
        return {
            "id": job.id,
            "type": "message_batch",
            "processing_status": "ended" if done else "in_progress",
            "request_counts": {"processing": 0, "succeeded": rows, "errored": 0, "canceled": 0, "expired": 0},
            "created_at": CREATED,
            "expires_at": CREATED,
            "ended_at": CREATED if done else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{here}/results" if done else None,
        }

    # ------------------------------------------------------------------------------------------------- measurement

    async def stats(self, _request: web.Request) -> web.Response:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return web.json_response(
            {
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "peak_rss_mb": usage.ru_maxrss / 1024,
                "provider_s": total_s(self._intervals),
                "jobs": len(self._intervals),
            }
        )

    async def reset(self, _request: web.Request) -> web.Response:
        await asyncio.gather(*(job.rows for job in self._jobs.values()))
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        for everything in (self._files, self._jobs, self._intervals):
            everything.clear()
        return web.json_response({})


async def serve(port: int, folder: Path) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    app = web.Application(client_max_size=1 << 30)
    app.add_routes(Stub(folder).routes())
    runner = web.AppRunner(app, access_log=None, read_bufsize=READ_BUFFER_BYTES)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for two other batch APIs that costs next to nothing.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="carpool-stub-") as folder:
        asyncio.run(serve(args.port, Path(folder) / "files"))


if __name__ == "__main__":
    main()
