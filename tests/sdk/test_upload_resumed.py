"""20 MiB in chunks, broken off and gone on with: by google-genai as it does it, and by our client, which asks first."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from carpool import Client, File, MemoryStore, Settings
from carpool.emulator import Emulator, Fault, Plan

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]
MIB = 1024 * 1024
DATA = random.Random(0).randbytes(20 * MIB + 3)
DIGEST = base64.b64encode(hashlib.sha256(DATA).hexdigest().encode()).decode()
SETTINGS = Settings(retry_min_s=0.002, retry_max_s=0.01, upload_chunk_bytes=8 * MIB)
FAULTS = {
    "an empty 503": "upload.chunk.503_empty",
    "a 503 in the envelope": "upload.chunk.503",
    "a dropped connection": "upload.chunk.dropped",
    "a connection dropped midway": "upload.chunk.dropped_midway",
    "a connection dropped after the chunk was taken": "upload.chunk.dropped_after_apply",
    "half of the chunk taken": "upload.chunk.taken_in_part",
    "an answer that gets lost at the very end": "upload.finalize.dropped_after_apply",
}


def uploads(emulator: Emulator) -> Counter[str]:
    return Counter(call.op for call in emulator.requests if call.op.startswith("upload"))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_our_client_asks_how_much_came_and_goes_on_from_there(fault: str) -> None:
    async with Emulator(Plan(faults={fault: Fault(after=1 if ".chunk." in fault else 0, count=1)})) as emulator:
        async with Client(
            api_key="any-key", base_url=emulator.base_url, store=MemoryStore(), settings=SETTINGS
        ) as client:
            file = await client.files.upload(DATA, mime_type="application/pdf")
        assert isinstance(file, File)
        assert (file.size_bytes, file.state, file.sha256_hash) == (len(DATA), "ACTIVE", DIGEST)
        made = uploads(emulator)
        sent_bytes = sum(
            call.body_bytes for call in emulator.requests if call.op in {"upload.chunk", "upload.finalize"}
        )
    assert made["upload.start"] == 1, "it began again instead of going on"
    assert made["upload.query"] >= 1
    # What had arrived did not go over the wire again: only the chunk that broke off, and at worst one more that came
    # too early since nothing but a header had said so.
    assert len(DATA) <= sent_bytes <= len(DATA) + 12 * MIB + 3


async def test_our_client_uploads_nothing_at_all() -> None:
    """As the official client does: one chunk of no bytes. The size that comes back is left out, being zero."""
    async with Emulator() as emulator:
        async with Client(
            api_key="any-key", base_url=emulator.base_url, store=MemoryStore(), settings=SETTINGS
        ) as client:
            file = await client.files.upload(b"", mime_type="text/plain")
        assert (file.size_bytes, file.state) == (0, "ACTIVE")
        assert uploads(emulator) == {"upload.start": 1, "upload.finalize": 1}


def official(emulator: Emulator) -> genai.Client:
    return genai.Client(api_key="any-key", http_options=types.HttpOptions(base_url=emulator.base_url))


CONFIG = types.UploadFileConfig(mime_type="application/pdf")


def blocking(client: genai.Client) -> Any:
    return client.files.upload(file=io.BytesIO(DATA), config=CONFIG)


def within_a_loop(client: genai.Client) -> Any:
    async def upload() -> Any:
        try:
            return await client.aio.files.upload(file=io.BytesIO(DATA), config=CONFIG)
        finally:
            await client.aio.aclose()

    return asyncio.run(upload())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the seconds that google-genai waits before it sends a chunk again."""
    monkeypatch.setattr("google.genai._api_client.INITIAL_RETRY_DELAY", 0.001)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("upload", [blocking, within_a_loop])
async def test_google_genai_sends_a_chunk_again_after_an_empty_503(upload: Callable[[genai.Client], Any]) -> None:
    async with Emulator(Plan(faults={"upload.chunk.503_empty": Fault(after=1, count=2)})) as emulator:
        with official(emulator) as client:
            file = await asyncio.to_thread(upload, client)
        assert (file.size_bytes, file.sha256_hash) == (len(DATA), DIGEST)
        # Two of 8 MiB, the second thrice; the rest; and it never asks.
        assert uploads(emulator) == {"upload.start": 1, "upload.chunk": 4, "upload.finalize": 1}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("upload", [blocking, within_a_loop])
async def test_google_genai_gives_up_after_three_times(upload: Callable[[genai.Client], Any]) -> None:
    async with Emulator(Plan(faults={"upload.chunk.503_empty": Fault()})) as emulator:
        with official(emulator) as client, pytest.raises(errors.ServerError, match="503"):
            await asyncio.to_thread(upload, client)
        assert uploads(emulator)["upload.chunk"] == 3
