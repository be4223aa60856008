"""The floor: the least that N awaited calls can cost in asyncio when one job carries them, written by hand.

    python benchmarks/floor.py 100000 --base-url http://127.0.0.1:8711

A caller is a task that awaits a future of its own, which is what awaiting a library's call comes to. Requests are
encoded by msgspec and appended to a file, the file is uploaded in chunks, one job is created and polled, the results
are streamed, cut at newlines and decoded no further than key and response bytes, and each future gets its bytes.
Nothing else: no durability (no fsync), no digest of a request, no retries, no money, no checks of what the server says.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

import harness

CHUNK_BYTES = 8 << 20
WRITE_BYTES = 1 << 20
POLL_S = 0.02
MODEL = "gemini-2.5-flash"
EMBED_MODEL = "gemini-embedding-001"


class Part(msgspec.Struct, gc=False):
    text: str


class Content(msgspec.Struct, gc=False):
    parts: tuple[Part, ...]
    role: str = "user"


class Config(msgspec.Struct, gc=False, rename="camel"):
    temperature: float = 0.2
    max_output_tokens: int = 256


class Generate(msgspec.Struct, gc=False, rename="camel"):
    contents: tuple[Content, ...]
    generation_config: Config


class Embed(msgspec.Struct, gc=False, rename="camel"):
    content: Content
    output_dimensionality: int = 256


class Row(msgspec.Struct, gc=False):
    key: str
    request: Generate | Embed


class Answer(msgspec.Struct, gc=False):
    key: str
    response: msgspec.Raw


class Waiting:
    """The calls that wait: a future a key, and their rows in a file."""

    def __init__(self, options: harness.Options, path: Path) -> None:
        self._prompts = harness.make_prompts(options.size)
        self._config = Config()
        self._embed = options.embed
        self._file = path.open("wb", buffering=0)
        self._rows = bytearray()
        self._encode_into = msgspec.json.Encoder().encode_into
        self._create_future = asyncio.get_running_loop().create_future
        self.futures: dict[str, asyncio.Future[bytes]] = {}

    def call(self, i: int) -> asyncio.Future[bytes]:
        """Accept one call: its row goes to the file, its caller gets a future."""
        key = f"{i:016x}"
        content = Content((Part(self._prompts[i % harness.PROMPTS]),))
        request = Embed(content) if self._embed else Generate((content,), self._config)
        rows = self._rows
        self._encode_into(Row(key, request), rows, -1)
        rows += b"\n"
        if len(rows) > WRITE_BYTES:
            self._file.write(rows)
            rows.clear()
        future = self.futures[key] = self._create_future()
        return future

    def seal(self) -> None:
        """Write what is left; no call comes after."""
        self._file.write(self._rows)
        self._file.close()


async def upload(http: aiohttp.ClientSession, path: Path) -> str:
    """Upload a file in chunks and return its name."""
    size = path.stat().st_size
    headers = {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size),
    }
    async with http.post("/upload/v1beta/files", json={"file": {"displayName": "floor"}}, headers=headers) as response:
        url = response.headers["X-Goog-Upload-URL"]
    with path.open("rb", buffering=0) as file:
        for offset in range(0, size, CHUNK_BYTES):
            chunk = file.read(CHUNK_BYTES)
            command = "upload, finalize" if offset + len(chunk) == size else "upload"
            headers = {"X-Goog-Upload-Offset": str(offset), "X-Goog-Upload-Command": command}
            async with http.post(url, data=chunk, headers=headers) as response:
                body = await response.read()
    name: str = msgspec.json.decode(body)["file"]["name"]
    return name


async def run_job(http: aiohttp.ClientSession, options: harness.Options, file_name: str) -> str:
    """Create the job, poll it until it is done, and return the name of its results."""
    target = f"{EMBED_MODEL}:asyncBatchEmbedContent" if options.embed else f"{MODEL}:batchGenerateContent"
    batch = {"batch": {"displayName": "floor", "inputConfig": {"fileName": file_name}}}
    async with http.post(f"/v1beta/models/{target}", json=batch) as response:
        job = (await response.json())["name"]
    while True:
        async with http.get(f"/v1beta/{job}") as response:
            operation = await response.json()
        if operation.get("done"):
            results: str = operation["response"]["responsesFile"]
            return results
        await asyncio.sleep(POLL_S)


async def whole_lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield a stream in blocks that end with a line."""
    rest = b""
    async for block in content.iter_any():
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest


async def settle(http: aiohttp.ClientSession, results: str, futures: dict[str, asyncio.Future[bytes]]) -> None:
    """Stream the results and hand each future its bytes."""
    decode_lines = msgspec.json.Decoder(Answer).decode_lines
    pop = futures.pop
    async with http.get(f"/download/v1beta/{results}:download?alt=media") as response:
        async for block in whole_lines(response.content):
            for answer in decode_lines(block):
                pop(answer.key).set_result(bytes(answer.response))


def session(options: harness.Options) -> aiohttp.ClientSession:
    """Return a session for the stub; its buffer is as large as pays for large bodies."""
    return aiohttp.ClientSession(
        options.base_url, auto_decompress=False, read_bufsize=1 << 20, timeout=aiohttp.ClientTimeout(total=None)
    )


async def carry(options: harness.Options, waiting: Waiting, path: Path, clock: harness.Stopwatch) -> None:
    """Carry all waiting calls through one job."""
    async with session(options) as http:
        file_name = await upload(http, path)
        clock.lap("upload")
        results = await run_job(http, options, file_name)
        clock.lap("job")
        await settle(http, results, waiting.futures)


async def run(options: harness.Options) -> dict[str, Any]:
    """Make the calls and return the measured times."""
    with tempfile.TemporaryDirectory(prefix="carpool-floor-") as folder:
        path = Path(folder) / "rows.jsonl"
        clock = harness.Stopwatch()
        waiting = Waiting(options, path)
        async with asyncio.TaskGroup() as group:  # so that a carrier that fails ends the wait

            def started() -> None:
                waiting.seal()
                clock.lap("accept")
                group.create_task(carry(options, waiting, path, clock))

            received = await harness.await_all(options.n, waiting.call, len, clock, started)
        return clock.read() | {"received_mb": received / 1e6, "rows_mb": path.stat().st_size / 1e6}


def main() -> None:
    harness.measure(harness.options_of(harness.parse("The least that N awaited calls can cost.")), "floor", run)


if __name__ == "__main__":
    main()
