"""Faults of the transport, seen by a plain HTTP client: bodies that break off, drip, or unpack to far too much."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from carpool.emulator import Emulator, Fault, Plan

from .driver import MODEL, prompt

pytestmark = pytest.mark.anyio
KEY = {"x-goog-api-key": "secret-key"}
CREATE = f"/v1beta/models/{MODEL}:batchGenerateContent"
ROWS = 40
ONE_ROW = {"batch": {"inputConfig": {"requests": {"requests": [{"request": prompt("x")}]}}}}


@asynccontextmanager
async def served(**faults: Fault) -> AsyncIterator[tuple[Emulator, aiohttp.ClientSession]]:
    """Serve a finished inline job and a finished file job, with faults from then on."""
    async with (
        Emulator() as emulator,
        aiohttp.ClientSession(
            emulator.base_url, headers=KEY, auto_decompress=False, timeout=aiohttp.ClientTimeout(30)
        ) as http,
    ):
        rows = [{"request": prompt(f"prompt {row}"), "metadata": {"key": f"k{row}"}} for row in range(ROWS)]
        for name in ("inline", "file"):
            inputs: dict[str, Any] = {"requests": {"requests": rows}}
            if name == "file":
                inputs = {"fileName": await uploaded(http, rows)}
            body = {"batch": {"displayName": name, "inputConfig": inputs}}
            async with http.post(CREATE, json=body) as created:
                assert created.status == 200
        emulator.plan = Plan(faults={name.replace("__", "."): fault for name, fault in faults.items()})
        yield emulator, http


async def uploaded(http: aiohttp.ClientSession, rows: list[dict[str, Any]]) -> str:
    data = b"".join(
        json.dumps({"key": row["metadata"]["key"], "request": row["request"]}).encode() + b"\n" for row in rows
    )
    start = {"x-goog-upload-command": "start", "x-goog-upload-protocol": "resumable"}
    async with http.post("/upload/v1beta/files", json={"file": {}}, headers=start) as started:
        url = started.headers["X-Goog-Upload-URL"]
    end = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
    async with http.post(url, data=data, headers=end) as ended:
        name: str = (await ended.json())["file"]["name"]
    return name


def path_of(emulator: Emulator, op: str) -> str:
    """Return where an operation that reads something is called."""
    inline, file = emulator.world.jobs(emulator._clock())
    return {
        "get": f"/v1beta/{inline.name}",
        "list": "/v1beta/batches",
        "files.get": f"/v1beta/{file.file_name}",
        "download": f"/download/v1beta/files/batch-{file.name.removeprefix('batches/')}:download?alt=media",
    }[op]


async def whole(http: aiohttp.ClientSession, path: str) -> bytes:
    async with http.get(path) as reply:
        assert reply.status == 200
        return await reply.read()


async def as_far_as_it_goes(http: aiohttp.ClientSession, path: str) -> tuple[bytes, Exception | None]:
    """GET a body; return what came of it, and the error that ended it."""
    got = bytearray()
    async with http.get(path) as reply:
        assert reply.status == 200
        try:
            async for block in reply.content.iter_any():
                got += block
        except aiohttp.ClientError as error:
            return bytes(got), error
    return bytes(got), None


READS = pytest.mark.parametrize("op", ["get", "list", "files.get", "download"])


@READS
@pytest.mark.parametrize(("effect", "error"), [("cut", aiohttp.ClientPayloadError), ("reset", aiohttp.ClientError)])
async def test_a_body_can_break_off(op: str, effect: str, error: type[Exception]) -> None:
    async with served(**{f"{op}.{effect}": Fault(count=1)}) as (emulator, http):
        path = path_of(emulator, op)
        got, ended_by = await as_far_as_it_goes(http, path)
        assert isinstance(ended_by, error)
        body = await whole(http, path)
        assert body.startswith(got)
        assert len(got) < len(body)


@pytest.mark.parametrize("op", ["list", "download"])
async def test_a_body_breaks_off_at_the_byte_that_the_fault_names(op: str) -> None:
    async with served(**{f"{op}.cut": Fault(count=1, bytes=100)}) as (emulator, http):
        path = path_of(emulator, op)
        got, ended_by = await as_far_as_it_goes(http, path)
        assert isinstance(ended_by, aiohttp.ClientPayloadError)
        assert got == (await whole(http, path))[:100]


async def test_a_body_that_is_made_as_it_is_sent_can_lack_its_end_alone() -> None:
    async with served() as (emulator, http):
        path = path_of(emulator, "download")
        size = len(await whole(http, path))
        emulator.plan = Plan(faults={"download.cut": Fault(count=1, bytes=size)})
        with pytest.raises(aiohttp.ClientPayloadError):
            await whole(http, path)
        assert len(await whole(http, path)) == size


async def test_a_body_that_is_shorter_than_the_break_comes_whole() -> None:
    async with served(list__cut=Fault(bytes=10_000_000), download__cut=Fault(bytes=10_000_000)) as (emulator, http):
        for op in ("list", "download"):
            assert await whole(http, path_of(emulator, op))


@pytest.mark.parametrize("effect", ["cut", "reset"])
async def test_an_empty_answer_is_not_given_at_all(effect: str) -> None:
    async with served(**{f"upload.start.{effect}": Fault()}) as (_, http):
        with pytest.raises(aiohttp.ClientError):
            await http.post("/upload/v1beta/files", json={}, headers={"x-goog-upload-command": "start"})


async def test_an_answer_that_breaks_off_has_taken_effect() -> None:
    async with served(create__cut=Fault(count=1)) as (emulator, http):
        async with http.post(CREATE, json=ONE_ROW) as reply:
            assert reply.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()
        assert len(emulator.world.jobs(emulator._clock())) == 3


@READS
async def test_a_body_can_come_in_drops(op: str) -> None:
    async with served(**{f"{op}.drip": Fault(count=1, bytes=97, seconds=0.0)}) as (emulator, http):
        path = path_of(emulator, op)
        drops: list[bytes] = []
        async with http.get(path) as reply:
            async for block, _ in reply.content.iter_chunks():
                drops.append(block)
        body = await whole(http, path)
        assert b"".join(drops) == body
        if op == "download":
            assert len(drops) >= len(body) // 97 // 8, "it came at once"


async def test_a_drip_is_a_byte_a_second_by_itself_and_ends_with_the_connection() -> None:
    async with served(download__drip=Fault()) as (emulator, http):
        async with http.get(path_of(emulator, "download")) as reply:
            assert await reply.content.readany() != b""
            assert not reply.content.at_eof()
        async with asyncio.timeout(20):
            await emulator.stop()


@READS
async def test_a_reply_can_unpack_to_far_too_much_and_means_the_same(op: str) -> None:
    blown = 5_000_000
    async with served(**{f"{op}.gzip_bomb": Fault(count=1, bytes=blown)}) as (emulator, http):
        path = path_of(emulator, op)
        async with http.get(path) as reply:
            assert reply.headers["Content-Encoding"] == "gzip"
            packed = await reply.read()
        body = await whole(http, path)
        assert len(packed) < len(body) + blown // 100
        assert zlib.decompress(packed, wbits=31) == body + b"\n" * blown


async def test_a_bomb_is_a_gibibyte_by_itself_and_is_only_made_as_fast_as_it_is_read() -> None:
    async with served(list__gzip_bomb=Fault()) as (emulator, http):
        unpacker = zlib.decompressobj(wbits=31)
        unpacked = packed = 0
        async with http.get(path_of(emulator, "list")) as reply:
            async for block in reply.content.iter_any():
                packed += len(block)
                left = block
                while left:
                    unpacked += len(unpacker.decompress(left, 16_777_216))
                    left = unpacker.unconsumed_tail
        assert unpacked > 1024**3
        assert packed < 8_000_000


async def test_a_redirect_is_answered_like_one() -> None:
    async with served(get__302=Fault(origin="http://127.0.0.1:9")) as (emulator, http):
        path = path_of(emulator, "get")
        async with http.get(path, allow_redirects=False) as reply:
            assert (reply.status, reply.headers["Location"]) == (302, f"http://127.0.0.1:9{path}")


async def test_a_502_is_html() -> None:
    async with served(list__502_html=Fault()) as (_, http), http.get("/v1beta/batches") as reply:
        assert (reply.status, reply.content_type) == (502, "text/html")


async def test_the_address_of_an_upload_leads_back_or_elsewhere() -> None:
    async with served(upload__start__foreign_url=Fault(count=1, origin="https://evil.example")) as (emulator, http):
        for origin in ("https://evil.example", emulator.base_url):
            headers = {"x-goog-upload-command": "start"}
            async with http.post("/upload/v1beta/files", json={}, headers=headers) as reply:
                assert reply.headers["X-Goog-Upload-URL"].startswith(f"{origin}/upload/")


async def test_a_create_takes_effect_later_than_its_connection_closes() -> None:
    async with served(create__applied_later=Fault(count=1, seconds=0.2)) as (emulator, http):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await http.post(CREATE, json=ONE_ROW)
        for _ in range(2_000):
            if len(emulator.world.jobs(emulator._clock())) == 3:
                break
            await asyncio.sleep(0.01)
        assert len(emulator.world.jobs(emulator._clock())) == 3


async def test_a_plan_goes_in_over_the_page_and_comes_back_the_same() -> None:
    async with served() as (emulator, http):
        plan = {"faults": {"download.drip": {"bytes": 5, "seconds": 0.5}, "get.302": {"origin": "https://a.example"}}}
        async with http.post("/emulator/plan", json=plan) as reply:
            assert reply.status == 200
            text = await reply.read()
        assert emulator.plan.faults["download.drip"] == Fault(bytes=5, seconds=0.5)
        async with http.post("/emulator/plan", data=text) as reply:
            assert await reply.read() == text
        async with http.post("/emulator/plan", json={"faults": {"download.drip": {"byte": 5}}}) as reply:
            assert (reply.status, "unknown field" in await reply.text()) == (400, True)
