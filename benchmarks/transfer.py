"""Throughput of carpool's uploads and downloads against bare aiohttp streams of the same bytes.

    python benchmarks/transfer.py 100000 --size 4000 --base-url http://127.0.0.1:8711

Upload: a client's requests, read back from its store, hashed and sent in resumable chunks; bare: a file of as many
bytes streamed in one call. Both by the stub's clock, from the start call to the last byte. Download: the results of
that job, cut into blocks of whole lines, with carpool's limits on line length and slowness; bare: the same file read
block by block and dropped. "rows" is the download with each line decoded to key and response bytes, as the client gets
it.
Downloads are taken in turn, several times each, and the medians are told, all in MB (10^6 bytes) a second.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

import carpool_client
import floor
import harness
from carpool._gemini.developer import DeveloperProvider
from carpool.types import BatchJob

TURNS = 5
BLOCK_BYTES = 1 << 20


def blocks_of(path: Path) -> AsyncIterator[bytes]:
    async def read() -> AsyncIterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    return read()


async def upload_bare(http: aiohttp.ClientSession, path: Path) -> None:
    """Upload a file in one call."""
    size = str(path.stat().st_size)
    start = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    async with http.post("/upload/v1beta/files", json={"file": {"displayName": "bare"}}, headers=start) as response:
        url = response.headers["X-Goog-Upload-URL"]
    headers = {"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize", "Content-Length": size}
    async with http.post(url, data=blocks_of(path), headers=headers) as response:
        response.raise_for_status()


async def upload_with_carpool(options: harness.Options, home: Path) -> None:
    """Let a client upload its requests and wait for their answers; what else it does is not in the stub's clock."""
    async with carpool_client.open_client(options, home) as client:
        call = carpool_client.make_call(client, options, explicit_keys=False)
        await harness.await_all(options.n, call, lambda _: 0, harness.Stopwatch(), lambda: None)


def uploaded(base_url: str) -> tuple[float, int]:
    """Return the MB a second of the upload that ended last, and its bytes."""
    stats = harness.ask_stub(base_url, "/stats")
    return stats["upload_bytes"] / stats["upload_s"] / 1e6, stats["upload_bytes"]


async def download_bare(http: aiohttp.ClientSession, name: str) -> int:
    size = 0
    async with http.get(f"/download/v1beta/{name}:download?alt=media") as response:
        async for block in response.content.iter_any():
            size += len(block)
    return size


async def download_blocks(provider: DeveloperProvider, name: str) -> int:
    size = 0
    async for piece in provider._files.download(name):  # noqa: SLF001 - whole lines, before anything is decoded
        size += len(piece.data)
    return size


async def download_rows(provider: DeveloperProvider, job: BatchJob) -> int:
    """Decode the rows, and return how many there are."""
    rows = 0
    async for block in provider.fetch(job):
        rows += len(block.rows)
    return rows


async def timed(work: Callable[[], Awaitable[int]], expected: int) -> float:
    """Return the seconds that it takes."""
    began = time.perf_counter()
    got = await work()
    took = time.perf_counter() - began
    if got != expected:
        raise SystemExit(f"{got} of {expected} came")
    return took


async def run(options: harness.Options) -> dict[str, Any]:
    """Upload and download, and return the throughputs."""
    base_url = options.base_url
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        await upload_with_carpool(options, Path(folder) / "home")
        own_mb_s, size_bytes = uploaded(base_url)
        path = Path(folder) / "plain"
        path.write_bytes(b"x" * size_bytes)
        async with floor.session(options) as http:
            await upload_bare(http, path)
            bare_mb_s, _ = uploaded(base_url)
            found = await download(options, http)
    return {"upload_mb": size_bytes / 1e6, "upload_mb_s": own_mb_s, "upload_bare_mb_s": bare_mb_s, **found}


async def download(options: harness.Options, http: aiohttp.ClientSession) -> dict[str, float]:
    """Take the results of the one job in turn, and return the throughputs."""
    job_name = harness.ask_stub(options.base_url, "/v1beta/batches")["operations"][0]["name"]
    output = harness.ask_stub(options.base_url, f"/v1beta/{job_name}")["response"]["responsesFile"]
    job = BatchJob(name=job_name, output_file=output)
    provider = DeveloperProvider(api_key="benchmark", base_url=options.base_url)
    await provider.open()
    took: dict[str, list[float]] = {"bare": [], "blocks": [], "rows": []}
    size_bytes = await download_bare(http, output)
    for _ in range(TURNS):
        took["bare"].append(await timed(lambda: download_bare(http, output), size_bytes))
        took["blocks"].append(await timed(lambda: download_blocks(provider, output), size_bytes))
        took["rows"].append(await timed(lambda: download_rows(provider, job), options.n))
    await provider.close()
    mb = size_bytes / 1e6
    rates = {f"download_{name}_mb_s": mb / statistics.median(times) for name, times in took.items()}
    return {"download_mb": mb, **rates}


def main() -> None:
    options = harness.options_of(harness.parse("Throughput of uploads and downloads against bare streams."))
    harness.prepare(options)
    found = asyncio.run(run(options))
    harness.tell({"subject": "transfer", "n": options.n, "size": options.size, **found})


if __name__ == "__main__":
    main()
