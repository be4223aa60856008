"""Uploads that resume, files that are there already, and downloads that end where they end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.model import Fault, RemoteFile
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.files import LineCutter
from carpool._ports import ProviderError
from carpool.settings import Settings
from carpool.types import BatchJob

STEP = 262_144
DATA = b"".join(b'{"key":"k%06d","request":{}}\n' % number for number in range(25_000))
SHA256 = hashlib.sha256(DATA).hexdigest()


class Uploads:
    """A resumable upload service of one file, which breaks where a test says."""

    def __init__(self, tools: Any) -> None:
        self.tools = tools
        self.got = b""
        self.final = False
        self.sessions = 0
        self.commands: list[str] = []
        self.breaks: dict[int, Callable[[Any, asyncio.StreamWriter], bool]] = {}
        self.granularity = str(STEP)
        self.described: dict[str, Any] = {}
        self.url = ""

    async def __call__(self, asked: Any, writer: asyncio.StreamWriter) -> None:
        reply = self.tools.reply
        if asked.method == "GET":
            self.commands.append("get")
            if not self.final:
                writer.write(reply(403, b'{"error":{"code":403,"status":"PERMISSION_DENIED"}}'))
            else:
                writer.write(reply(body=json.dumps(self.file()).encode()))
            return
        command = asked.headers["x-goog-upload-command"]
        self.commands.append(command)
        broken = self.breaks.pop(len(self.commands), None)
        if broken is not None and broken(asked, writer):
            return
        match command:
            case "start" if self.final:
                writer.write(reply(409, b'{"error":{"code":409,"message":"exists","status":"ALREADY_EXISTS"}}'))
            case "start":
                self.sessions += 1
                self.got = b""
                where = f"http://{asked.headers['host']}/up%2Fload?upload_id={self.sessions}"
                headers = {"X_Goog_Upload_URL": where, "X_Goog_Upload_Chunk_Granularity": self.granularity}
                writer.write(reply(body=b"", X_Goog_Upload_Status="active", **headers))
            case "query":
                size = {"X_Goog_Upload_Size_Received": str(len(self.got))}
                writer.write(reply(body=b"", X_Goog_Upload_Status="final" if self.final else "active", **size))
            case _:
                self.take(asked, writer, finish="finalize" in command)

    def take(self, asked: Any, writer: asyncio.StreamWriter, *, finish: bool) -> None:
        assert asked.target == f"/up%2Fload?upload_id={self.sessions}"
        assert "x-goog-api-key" not in asked.headers
        if int(asked.headers["x-goog-upload-offset"]) != len(self.got):
            writer.write(self.tools.reply(400, b'{"error":{"message":"wrong offset"}}'))
            return
        assert finish or len(asked.body) % int(self.granularity or 1) == 0
        self.got += asked.body
        self.final = finish
        body = json.dumps({"file": self.file()}).encode() if finish else b""
        writer.write(self.tools.reply(body=body, X_Goog_Upload_Status="final" if finish else "active"))

    def file(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.got).hexdigest()
        found = {
            "name": "files/cp-1",
            "sizeBytes": str(len(self.got)),
            "sha256Hash": base64.b64encode(digest.encode()).decode(),
        }
        return found | self.described


def dropped(asked: Any, writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return True


@pytest.fixture
async def world(quick: Settings, tools: Any) -> AsyncIterator[tuple[DeveloperProvider, Uploads, Any]]:
    uploads = Uploads(tools)
    async with tools.Server(uploads) as server:
        provider = DeveloperProvider(api_key=tools.KEY, base_url=server.url, settings=quick)
        await provider.open()
        yield provider, uploads, server
        await provider.close()


opened: list[int] = []


async def open_at(offset: int) -> AsyncIterator[bytes]:
    opened.append(offset)
    for start in range(offset, len(DATA), 100_000):
        yield DATA[start : start + 100_000]


@pytest.fixture(autouse=True)
def nothing_opened() -> None:
    opened.clear()


async def send(provider: DeveloperProvider) -> RemoteFile:
    return await provider.upload("files/cp-1", len(DATA), open_at)


WHOLE = RemoteFile(name="files/cp-1", size_bytes=len(DATA), sha256=SHA256)


async def test_a_file_goes_up_in_chunks(world: Any) -> None:
    provider, uploads, server = world
    assert await send(provider) == WHOLE
    assert uploads.got == DATA
    assert uploads.commands == ["start", "upload", "upload", "upload, finalize"]
    assert opened == [0]
    start = server.asked[0]
    assert json.loads(start.body) == {
        "file": {
            "name": "files/cp-1",
            "display_name": "cp-1",
            "mime_type": "application/jsonl",
            "size_bytes": len(DATA),
        }
    }
    assert start.headers["x-goog-upload-protocol"] == "resumable"
    assert start.headers["x-goog-upload-header-content-length"] == str(len(DATA))
    assert start.target == "/upload/v1beta/files"
    assert [len(asked.body) for asked in server.asked[1:]] == [STEP, STEP, len(DATA) - 2 * STEP]


class Held:
    """An upload service that does not answer a chunk before it may."""

    def __init__(self, uploads: Uploads) -> None:
        self.uploads = uploads
        self.has_chunk, self.may_answer = asyncio.Event(), asyncio.Event()

    async def __call__(self, asked: Any, writer: asyncio.StreamWriter) -> None:
        if asked.headers.get("x-goog-upload-command", "").startswith("upload"):
            self.has_chunk.set()
            async with asyncio.timeout(20):
                await self.may_answer.wait()
        await self.uploads(asked, writer)


async def test_the_next_chunk_is_read_while_one_is_on_its_way(quick: Settings, tools: Any) -> None:
    held = Held(Uploads(tools))

    async def opened_at(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(DATA), STEP):
            if at == STEP:
                await held.has_chunk.wait()
                held.may_answer.set()  # the first chunk is answered only now that the second is read
            yield DATA[at : at + STEP]

    async with tools.Server(held) as server:
        provider = DeveloperProvider(api_key=tools.KEY, base_url=server.url, settings=quick)
        await provider.open()
        file = await provider.upload("files/cp-1", len(DATA), opened_at)
        await provider.close()
    assert (held.uploads.got, file.sha256) == (DATA, SHA256)


async def test_an_upload_that_is_left_lets_go_of_what_it_reads_ahead(quick: Settings, tools: Any) -> None:
    held = Held(Uploads(tools))
    closed: list[int] = []

    async def opened_at(offset: int) -> AsyncIterator[bytes]:
        try:
            yield DATA[offset : offset + STEP]
            await asyncio.Event().wait()
        finally:
            closed.append(offset)

    async with tools.Server(held) as server:
        provider = DeveloperProvider(api_key=tools.KEY, base_url=server.url, settings=quick)
        await provider.open()
        before = asyncio.all_tasks()
        uploading = asyncio.create_task(provider.upload("files/cp-1", len(DATA), opened_at))
        await held.has_chunk.wait()
        uploading.cancel()
        await asyncio.wait((uploading,))
        assert closed == [0]
        assert {task for task in asyncio.all_tasks() - before if "_take" in str(task.get_coro())} == set()
        held.may_answer.set()
        await provider.close()


async def test_an_empty_file_is_one_finalize(world: Any) -> None:
    provider, uploads, _ = world

    async def nothing(offset: int) -> AsyncIterator[bytes]:
        for part in ():
            yield part

    found = await provider.upload("files/cp-1", 0, nothing)
    assert (found.size_bytes, found.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert uploads.commands == ["start", "upload, finalize"]


async def test_a_file_of_whole_chunks_ends_with_the_last(world: Any) -> None:
    provider, uploads, _ = world

    async def whole(offset: int) -> AsyncIterator[bytes]:
        yield b"x" * (2 * STEP - offset)

    await provider.upload("files/cp-1", 2 * STEP, whole)
    assert uploads.commands == ["start", "upload", "upload, finalize"]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
async def test_a_connection_that_drops_before_a_call_counts_is_mended(at: int, world: Any) -> None:
    provider, uploads, _ = world
    uploads.breaks[at] = dropped
    assert await send(provider) == WHOLE
    assert uploads.got == DATA
    assert ("query" in uploads.commands) is (at > 1)


@pytest.mark.parametrize("at", [2, 3, 4])
async def test_an_answer_that_is_lost_is_asked_for(at: int, world: Any) -> None:
    provider, uploads, _ = world

    def lost(asked: Any, writer: asyncio.StreamWriter) -> bool:
        uploads.got += asked.body
        uploads.final = "finalize" in asked.headers["x-goog-upload-command"]
        writer.transport.abort()
        return True

    uploads.breaks[at] = lost
    assert await send(provider) == WHOLE
    assert uploads.got == DATA
    assert uploads.commands.count("query") == 1
    assert uploads.commands[-1] == ("get" if at == 4 else "upload, finalize")
    assert opened == [0]


async def test_half_a_chunk_that_arrived_is_not_sent_again(world: Any) -> None:
    provider, uploads, _ = world

    def half(asked: Any, writer: asyncio.StreamWriter) -> bool:
        uploads.got += asked.body[:1_000]
        writer.transport.abort()
        return True

    uploads.granularity = ""
    uploads.breaks[3] = half
    assert await send(provider) == WHOLE
    assert uploads.got == DATA
    assert opened == [0, STEP + 1_000]


async def test_503_without_a_body_is_mended(world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    for at in (1, 3):
        uploads.breaks[at] = lambda _asked, writer: writer.write(tools.reply(503, b"")) or True
    assert await send(provider) == WHOLE


async def test_a_session_that_the_server_forgot_is_started_again(world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    for at in (3, 4):
        uploads.breaks[at] = lambda _asked, writer: writer.write(tools.reply(404, b"")) or True
    assert await send(provider) == WHOLE
    assert uploads.sessions == 2


async def test_a_wrong_offset_is_put_right(world: Any) -> None:
    provider, uploads, _ = world

    def behind(asked: Any, writer: asyncio.StreamWriter) -> bool:
        uploads.got = uploads.got[:-STEP]
        return False

    uploads.breaks[3] = behind
    assert await send(provider) == WHOLE
    assert uploads.got == DATA


async def test_an_upload_that_gets_no_further_is_given_up(world: Any) -> None:
    provider, uploads, _ = world
    for at in range(1, 40):
        uploads.breaks[at] = dropped
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    assert caught.value.fault.kind == "unknown"
    assert uploads.commands == ["start"] * 5


async def test_tries_are_counted_anew_whenever_it_gets_further(world: Any) -> None:
    provider, uploads, _ = world
    for at in (1, 2, 3, 6, 7, 8, 11, 12, 13):
        uploads.breaks[at] = dropped
    assert await send(provider) == WHOLE
    assert not uploads.breaks


async def test_an_upload_that_breaks_without_end_is_given_up_though_it_gets_further(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carpool._gemini.files._BREAKS_MAX", 8)
    provider, uploads, _ = world
    for at in (1, 2, 3, 6, 7, 8, 11, 12, 13):
        uploads.breaks[at] = dropped
    with pytest.raises(ProviderError):
        await send(provider)
    assert sorted(uploads.breaks) == [13]


async def test_the_same_name_and_bytes_are_taken_as_they_are(world: Any) -> None:
    provider, uploads, _ = world
    assert await send(provider) == WHOLE
    uploads.commands.clear()
    assert await send(provider) == WHOLE
    assert uploads.commands == ["start", "get"]
    assert uploads.sessions == 1


@pytest.mark.parametrize(
    "described",
    [
        {"sizeBytes": str(len(DATA) + 1)},
        {"sizeBytes": None, "sha256Hash": None},
        {"sha256Hash": base64.b64encode(hashlib.sha256(b"x").hexdigest().encode()).decode()},
        {"state": "FAILED"},
        {"name": "files/other"},
    ],
)
async def test_another_file_of_the_same_name_is_not_taken(described: dict[str, Any], world: Any) -> None:
    provider, uploads, _ = world
    await send(provider)
    uploads.described = described
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    fault: Fault = caught.value.fault
    if described.get("sizeBytes", "") is None:
        assert fault.kind == "unknown"  # null where a number belongs: cannot be read
    else:
        assert (fault.kind, fault.error.code) == ("refused", 409)


@pytest.mark.parametrize("spelling", [SHA256, base64.b64encode(bytes.fromhex(SHA256)).decode(), ""])
async def test_digests_are_compared_in_every_spelling(spelling: str, world: Any) -> None:
    provider, uploads, _ = world
    uploads.described = {"sha256Hash": spelling}
    assert (await send(provider)).sha256 == SHA256
    assert (await send(provider)).size_bytes == len(DATA)


async def test_a_name_that_is_taken_by_a_file_that_we_may_not_see_is_refused(world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    uploads.breaks[1] = lambda _asked, writer: (
        writer.write(tools.reply(409, b'{"error":{"code":409,"message":"m"}}')) or True
    )
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    assert (caught.value.fault.kind, caught.value.fault.error.message) == ("refused", "m")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refused_start_is_not_tried_again(status: int, world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    uploads.breaks[1] = lambda _asked, writer: writer.write(tools.reply(status, b"")) or True
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    assert (caught.value.fault.kind, caught.value.fault.error.code) == ("refused", status)
    assert uploads.commands == ["start"]


async def test_429_is_waited_out_for_a_while(world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    for at in (1, 2, 5):
        uploads.breaks[at] = lambda _asked, writer: writer.write(tools.reply(429, b"")) or True
    assert await send(provider) == WHOLE


@pytest.mark.parametrize("url", ["https://evil.example/upload?upload_id=1", "", "/upload", "http://127.0.0.1:1/x"])
async def test_an_upload_url_that_leads_elsewhere_is_not_called(url: str, world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    for at in range(1, 10):
        uploads.breaks[at] = lambda _asked, writer: writer.write(tools.reply(body=b"", X_Goog_Upload_URL=url)) or True
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    assert "away from the configured origin" in caught.value.fault.error.message
    assert set(uploads.commands) == {"start"}


async def test_a_granularity_sets_the_chunks(world: Any) -> None:
    provider, uploads, server = world
    uploads.granularity = "50000"
    await send(provider)
    assert [len(asked.body) for asked in server.asked[1:3]] == [250_000, 250_000]


async def test_chunks_beyond_what_may_be_held_are_refused(world: Any) -> None:
    provider, uploads, _ = world
    uploads.granularity = str(2**40)
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    assert caught.value.fault.kind == "refused"


async def test_bytes_that_end_early_are_not_passed_off_as_the_file(world: Any) -> None:
    provider, uploads, _ = world

    async def short(offset: int) -> AsyncIterator[bytes]:
        yield DATA[offset : STEP + 5]

    with pytest.raises(ProviderError) as caught:
        await provider.upload("files/cp-1", len(DATA), short)
    assert caught.value.fault.kind == "refused"
    assert not uploads.final


async def test_errors_of_the_bytes_own_pass_through_and_let_go_of_them(world: Any) -> None:
    provider, uploads, _ = world
    closed: list[int] = []

    async def broken(offset: int) -> AsyncIterator[bytes]:
        try:
            yield DATA[:STEP]
            raise LookupError
        finally:
            closed.append(offset)

    with pytest.raises(LookupError):
        await provider.upload("files/cp-1", len(DATA), broken)
    assert closed == [0]
    assert not uploads.final


async def test_an_answer_to_finalize_that_cannot_be_read_is_asked_for(world: Any, tools: Any) -> None:
    provider, uploads, _ = world

    def garbled(asked: Any, writer: asyncio.StreamWriter) -> bool:
        uploads.got += asked.body
        uploads.final = True
        writer.write(tools.reply(body=b"<html>", X_Goog_Upload_Status="final"))
        return True

    uploads.breaks[4] = garbled
    assert await send(provider) == WHOLE
    assert uploads.commands[-1] == "get"


async def test_a_file_that_cannot_be_described_is_not_taken_for_granted(world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    await send(provider)
    uploads.described = {"sizeBytes": "many"}
    with pytest.raises(ProviderError) as caught:
        await send(provider)
    assert caught.value.fault.kind == "unknown"


@pytest.mark.parametrize(
    ("status", "received"),
    [("", ""), ("active", ""), ("active", "99999999"), ("active", "-1"), ("active", "9" * 5_000), ("cancelled", "5")],
)
async def test_a_query_that_tells_nothing_leads_to_a_new_start(
    status: str, received: str, world: Any, tools: Any
) -> None:
    provider, uploads, _ = world
    headers = {"X_Goog_Upload_Status": status, "X_Goog_Upload_Size_Received": received}
    uploads.breaks[2] = dropped
    uploads.breaks[3] = lambda _asked, writer: writer.write(tools.reply(body=b"", **headers)) or True
    assert await send(provider) == WHOLE
    assert uploads.sessions == 2


async def test_a_finalize_that_did_not_finish_is_asked_about(world: Any, tools: Any) -> None:
    provider, uploads, _ = world
    uploads.breaks[4] = lambda _asked, writer: (
        writer.write(tools.reply(body=b"", X_Goog_Upload_Status="active")) or True
    )
    assert await send(provider) == WHOLE


async def test_a_name_that_exists_when_it_is_finalized_is_compared(world: Any, tools: Any) -> None:
    provider, uploads, _ = world

    def exists(asked: Any, writer: asyncio.StreamWriter) -> bool:
        uploads.got += asked.body
        uploads.final = True
        writer.write(tools.reply(409, b""))
        return True

    uploads.breaks[4] = exists
    assert await send(provider) == WHOLE


@pytest.mark.parametrize("name", ["files/../x", "batches/a", "", "files/A"])
async def test_a_name_that_is_none_is_refused_unsent(name: str, world: Any) -> None:
    provider, _, server = world
    for call in (provider.upload(name, 1, open_at), provider.delete(name if name[:1] != "b" else "x/y")):
        with pytest.raises(ProviderError) as caught:
            await call
        assert caught.value.fault.kind == "refused"
    assert server.asked == []


# ----------------------------------------------------------------------------------------------------------- downloads


async def rows_of(provider: DeveloperProvider, tools: Any) -> tuple[list[str], int]:
    job = _ended()
    keys: list[str] = []
    unreadable = 0
    async for block in provider.fetch(job):
        keys += [row.key for row in block.rows]
        unreadable += block.unreadable
    return keys, unreadable


def _ended() -> BatchJob:
    return BatchJob(name="batches/a", state="SUCCEEDED", output_file="files/batch-a")


def row(key: str, size: int = 0) -> bytes:
    return b'{"key":"%b","response":{"t":"%b"}}\n' % (key.encode(), b"x" * size)


@pytest.fixture
async def provider_at(quick: Settings, tools: Any) -> AsyncIterator[Any]:
    made: list[DeveloperProvider] = []

    async def make(url: str) -> DeveloperProvider:
        provider = DeveloperProvider(api_key=tools.KEY, base_url=url, settings=quick)
        await provider.open()
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()


async def test_a_file_comes_in_blocks_of_whole_lines(provider_at: Any, tools: Any) -> None:
    data = b"".join(row(f"k{number}", number % 300) for number in range(8_000))
    async with tools.Server(tools.reply(body=data)) as server:
        provider = await provider_at(server.url)
        blocks = [block async for block in provider.fetch(_ended())]
        assert [row.key for block in blocks for row in block.rows] == [f"k{number}" for number in range(8_000)]
        assert len(data) // STEP <= len(blocks) <= len(data) // 60_000
        assert sum(block.unreadable for block in blocks) == 0
        (asked,) = server.asked
        assert asked.target == "/download/v1beta/files/batch-a:download?alt=media"
        assert asked.headers["x-goog-api-key"] == tools.KEY


async def test_the_other_address_is_tried_after_404(provider_at: Any, tools: Any) -> None:
    async with tools.Server([tools.reply(404), tools.reply(body=row("a"))]) as server:
        assert await rows_of(await provider_at(server.url), tools) == (["a"], 0)
        assert server.asked[1].target == "/v1beta/files/batch-a:download?alt=media"
    async with tools.Server([tools.reply(404), tools.reply(404, b"")]) as server:
        with pytest.raises(ProviderError) as caught:
            await rows_of(await provider_at(server.url), tools)
        assert (caught.value.fault.kind, caught.value.fault.error.code) == ("refused", 404)


async def test_a_line_beyond_the_cap_fails_alone(provider_at: Any, tools: Any) -> None:
    data = row("a") + row("huge", 5_000_000) + row("b") + row("large", 100_000) + row("c") * 9_000
    async with tools.Server(tools.reply(body=data)) as server:
        keys, unreadable = await rows_of(await provider_at(server.url), tools)
        assert keys == ["a", "b"] + ["c"] * 9_000
        assert unreadable == 2


async def test_a_download_that_breaks_off_does_not_end_normally(provider_at: Any, tools: Any) -> None:
    async def broken(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(body=row("a") * 20_000, Content_Length="10000000"))
        await writer.drain()
        writer.close()

    async with tools.Server(broken) as server:
        with pytest.raises(ProviderError) as caught:
            await rows_of(await provider_at(server.url), tools)
        assert caught.value.fault.kind == "unknown"


async def test_a_download_whose_end_cannot_be_told_is_refused(provider_at: Any, tools: Any) -> None:
    async def unframed(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(body=row("a"), Content_Length=""))
        await writer.drain()
        writer.close()

    async with tools.Server(unframed) as server:
        with pytest.raises(ProviderError) as caught:
            await rows_of(await provider_at(server.url), tools)
        assert "length" in caught.value.fault.error.message


async def test_a_cut_last_line_counts_as_unreadable(provider_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=row("a") + row("b")[:-9])) as server:
        assert await rows_of(await provider_at(server.url), tools) == (["a"], 1)


async def test_an_empty_file_has_no_rows(provider_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=b"")) as server:
        assert await rows_of(await provider_at(server.url), tools) == ([], 0)


async def test_a_compressed_file_is_not_unpacked(provider_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=b"x", Content_Encoding="gzip")) as server:
        with pytest.raises(ProviderError) as caught:
            await rows_of(await provider_at(server.url), tools)
        assert "compressed" in caught.value.fault.error.message


async def test_downloads_follow_redirects_within_the_origin_without_the_key(provider_at: Any, tools: Any) -> None:
    async def hops(asked: Any, writer: asyncio.StreamWriter) -> None:
        number = len(server.asked)
        if number < 4:
            writer.write(tools.reply(302, b"", Location=f"{server.url}/hop%2F{number}"))
        else:
            writer.write(tools.reply(body=row("a")))

    async with tools.Server(hops) as server:
        assert await rows_of(await provider_at(server.url), tools) == (["a"], 0)
        assert [asked.target for asked in server.asked[1:]] == ["/hop%2F1", "/hop%2F2", "/hop%2F3"]
        assert all("x-goog-api-key" not in asked.headers for asked in server.asked[1:])


async def test_a_fourth_redirect_is_not_followed(provider_at: Any, tools: Any) -> None:
    async def hops(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(302, b"", Location=f"{server.url}/again"))

    async with tools.Server(hops) as server:
        with pytest.raises(ProviderError) as caught:
            await rows_of(await provider_at(server.url), tools)
        assert caught.value.fault.error.code == 302
        assert len(server.asked) == 4


@pytest.mark.parametrize(
    "where",
    [
        "http://storage.googleapis.com/x",
        "https://evil.example/x",
        "https://googleapis.com.evil.example/",
        "https://evilgoogleapis.com/",
        "https://storage.googleapis.com@evil.example/",
        "/relative",
        "",
        "file:///etc/passwd",
    ],
)
async def test_downloads_do_not_follow_redirects_elsewhere(where: str, provider_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(302, b"", Location=where)) as server:
        with pytest.raises(ProviderError) as caught:
            await rows_of(await provider_at(server.url), tools)
        assert "not allowed" in caught.value.fault.error.message
        assert len(server.asked) == 1


async def test_leaving_a_download_early_closes_its_connection(provider_at: Any, tools: Any) -> None:
    async def endless(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(body=b"", Content_Length=str(10**12)))
        while not writer.is_closing():
            writer.write(row("a") * 1_000)
            await writer.drain()

    async with tools.Server(endless) as server:
        provider = await provider_at(server.url)
        blocks = provider.fetch(_ended())
        assert (await anext(blocks)).rows[0].key == "a"
        await blocks.aclose()
        assert not provider._http._session.connector._acquired


# -------------------------------------------------------------------------------------------------------------- cutting


@given(
    st.lists(st.integers(0, 40), max_size=40),
    st.integers(1, 30),
    st.integers(1, 50),
    st.integers(1, 25),
    st.booleans(),
)
def test_lines_come_out_whole_in_order_or_are_counted(
    sizes: list[int], line_max: int, block: int, step: int, ended: bool
) -> None:
    lines = [bytes([97 + number % 26]) * size for number, size in enumerate(sizes)]
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    cutter = LineCutter(block, line_max)
    out: list[bytes] = []
    for start in range(0, len(data), step):
        out += cutter.feed(data[start : start + step])
        assert len(cutter._held) <= max(line_max, block) + step
    out.append(cutter.finish())
    assert all(part.endswith(b"\n") for part in out[:-1])
    whole = [line + b"\n" for line in lines]
    if whole and not ended:
        whole[-1] = lines[-1]
    assert b"".join(out) == b"".join(text for text, line in zip(whole, lines, strict=True) if len(line) <= line_max)
    assert cutter.take_skipped() == sum(len(line) > line_max for line in lines)
    assert cutter.take_skipped() == 0
