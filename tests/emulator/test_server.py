"""The emulator on real sockets: bodies, blocks, broken connections, its own pages, its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

import carpool.emulator
from carpool.emulator import Emulator, Fault, Plan, expected_text, serve
from carpool.emulator.__main__ import main

from .driver import EMBED_MODEL, MODEL, content, jsonl, numbered, prompt, text_of

pytestmark = pytest.mark.anyio
KEY = {"x-goog-api-key": "secret-key"}
CREATE = f"/v1beta/models/{MODEL}:batchGenerateContent"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(Plan(input_tokens_max=10_000_000)) as emulator:
        yield emulator


@pytest.fixture
async def http(emulator: Emulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(emulator.base_url, headers=KEY) as session:
        yield session


async def start_upload(http: aiohttp.ClientSession) -> str:
    async with http.post("/upload/v1beta/files", json={}, headers={"X-Goog-Upload-Command": "start"}) as response:
        return response.headers["X-Goog-Upload-URL"]


async def upload(http: aiohttp.ClientSession, data: bytes) -> str:
    url = await start_upload(http)
    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    # Streamed: aiohttp warns of large bytes.
    async with http.post(url, data=_blocks(data), headers=headers) as response:
        body = await response.json()
        name: str = body["file"]["name"]
        return name


async def _blocks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


async def query(http: aiohttp.ClientSession, url: str) -> tuple[str, int]:
    async with http.post(url, headers={"X-Goog-Upload-Command": "query"}) as response:
        return response.headers["X-Goog-Upload-Status"], int(response.headers["X-Goog-Upload-Size-Received"])


async def create(
    http: aiohttp.ClientSession, file: str, model: str = MODEL, method: str = "batchGenerateContent"
) -> str:
    body = {"batch": {"displayName": "dn", "inputConfig": {"fileName": file}}}
    async with http.post(f"/v1beta/models/{model}:{method}", json=body) as response:
        assert response.status == 200, await response.text()
        name: str = (await response.json())["name"]
        return name


async def page(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        assert response.status == 200
        return await response.json()


async def test_upload_urls_point_to_where_the_caller_came_in(emulator: Emulator, http: aiohttp.ClientSession) -> None:
    assert (await start_upload(http)).startswith(f"{emulator.base_url}/upload/v1beta/files?")
    headers = {"X-Goog-Upload-Command": "start", "Host": "proxy.test:99"}
    async with http.post("/pfx/upload/v1/files", json={}, headers=headers) as response:
        assert response.headers["X-Goog-Upload-URL"].startswith("http://proxy.test:99/pfx/upload/v1/files?")


async def test_a_large_job_goes_through_and_the_loop_stays_free(
    emulator: Emulator, http: aiohttp.ClientSession
) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    rows = 5_000
    file = await upload(http, numbered(rows))
    counting = asyncio.create_task(count_turns())
    name = await create(http, file)
    created = turns
    async with http.get(f"/v1beta/files/batch-{name[8:]}:download") as response:
        raw = await response.read()
    counting.cancel()

    assert raw.count(b"\n") == rows
    # One turn of the loop to at most so many rows, in both directions.
    assert created > rows / 100
    assert turns - created > rows / 200
    assert emulator.ledger().rows_billed == rows


async def test_a_single_large_chunk_is_taken_in_pieces(http: aiohttp.ClientSession) -> None:
    data = b'{"key":"a","request":{"contents":[{"parts":[{"text":"' + b"x" * (20 << 20) + b'"}]}]}}\n'
    name = await create(http, await upload(http, data))
    async with http.get(f"/v1beta/files/batch-{name[8:]}:download") as response:
        row = json.loads(await response.read())
    assert text_of(row["response"]) == expected_text("x" * (20 << 20))


async def test_pieces_at_a_wrong_offset_are_refused(http: aiohttp.ClientSession) -> None:
    url = await start_upload(http)
    headers = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "1", "Content-Length": str(16 << 20)}
    try:
        async with http.post(url, data=_blocks(bytes(16 << 20)), headers=headers) as response:
            assert response.status == 400
    except aiohttp.ClientError:
        pass  # refused before all was sent, which may break the connection
    assert await query(http, url) == ("active", 0)


async def test_what_came_of_a_broken_chunk_is_kept(emulator: Emulator, http: aiohttp.ClientSession) -> None:
    url = await start_upload(http)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {8 << 20}\r\n"
        "X-Goog-Upload-Command: upload\r\nX-Goog-Upload-Offset: 0\r\n\r\n"
    )
    writer.write(head.encode() + b"x" * 1000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert reader.at_eof() or await reader.read() == b""
    for _ in range(500):
        if (await query(http, url))[1]:
            break
        await asyncio.sleep(0.01)
    assert await query(http, url) == ("active", 1000)


async def test_a_caller_that_breaks_off_any_other_call_leaves_nothing(
    emulator: Emulator, http: aiohttp.ClientSession
) -> None:
    parts = urlsplit(emulator.base_url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nx-goog-api-key: k\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await page(http, "/v1beta/batches") == {}
    assert emulator.world.jobs(0.0) == []


async def test_a_body_far_above_the_limit_is_refused_by_its_size() -> None:
    async with (
        Emulator(Plan(inline_bytes_max=1 << 20)) as emulator,
        aiohttp.ClientSession(emulator.base_url, headers=KEY) as http,
        http.post(CREATE, data=_blocks(bytes(130 << 20))) as response,
    ):
        assert response.status == 400
        error = (await response.json())["error"]
        assert error["message"] == "Request payload size exceeds the limit: 1048576 bytes."
        assert emulator.requests[-1].body_bytes == 130 << 20


async def test_an_inline_answer_is_one_json_document(http: aiohttp.ClientSession) -> None:
    items = [{"request": content(f"text {index}"), "metadata": {"key": str(index)}} for index in range(50)]
    body = {"batch": {"displayName": "dn", "inputConfig": {"requests": {"requests": items}}}}
    async with http.post(f"/v1beta/models/{EMBED_MODEL}:asyncBatchEmbedContent", json=body) as response:
        name = (await response.json())["name"]
    ended = await page(http, f"/v1beta/{name}")
    assert ended["response"].pop("@type").endswith("EmbedContentBatchOutput")
    assert ended["response"] == ended["metadata"]["output"]
    responses = ended["response"]["inlinedResponses"]["inlinedResponses"]
    assert [one["metadata"]["key"] for one in responses] == [str(index) for index in range(50)]


async def test_a_dropped_answer_breaks_the_connection(emulator: Emulator, http: aiohttp.ClientSession) -> None:
    emulator.plan = Plan(faults={"create.dropped_after_apply": Fault(count=1)})
    body = {"batch": {"inputConfig": {"requests": {"requests": [{"request": prompt("x")}]}}}}
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await http.post(CREATE, json=body)
    assert len((await page(http, "/v1beta/batches"))["operations"]) == 1
    assert [(logged.op, logged.status) for logged in emulator.requests] == [("create", 0), ("list", 200)]


async def test_a_slow_answer_outlasts_a_callers_patience(emulator: Emulator, http: aiohttp.ClientSession) -> None:
    emulator.plan = Plan(faults={"list.slow": Fault(seconds=3600.0)})
    with pytest.raises(TimeoutError):
        await http.get("/v1beta/batches", timeout=aiohttp.ClientTimeout(total=0.2))


async def test_stopping_does_not_wait_for_slow_answers() -> None:
    async with (
        Emulator(Plan(faults={"list.slow": Fault(seconds=3600.0)})) as emulator,
        aiohttp.ClientSession(emulator.base_url, headers=KEY) as http,
    ):
        call = asyncio.create_task(http.get("/v1beta/batches"))
        for _ in range(1000):
            if emulator.requests:
                break
            await asyncio.sleep(0.005)
        assert emulator.requests
        await emulator.stop()
        with pytest.raises(aiohttp.ClientError):
            await call


async def test_its_own_pages(emulator: Emulator, http: aiohttp.ClientSession) -> None:
    async with http.post("/emulator/plan", json={"latency_s": 0.0, "faults": {"row.error": {"count": 1}}}) as response:
        assert (response.status, emulator.plan.faults) == (200, {"row.error": Fault(count=1)})
    await create(http, await upload(http, numbered(2)))
    ledger, jobs = await page(http, "/emulator/ledger"), await page(http, "/emulator/jobs")
    calls = await page(http, "/emulator/requests")

    assert (ledger["rows_billed"], ledger["rows_failed"], ledger["billed_by_key"]) == (1, 1, {"k1": 1})
    assert [(job["display_name"], job["state"], job["rows"]) for job in jobs] == [("dn", "SUCCEEDED", 2)]
    assert [call["op"] for call in calls] == ["upload.start", "upload.finalize", "create"]
    assert "secret-key" not in json.dumps([ledger, jobs, calls])
    assert "upload_id" not in json.dumps(calls)
    async with http.post("/emulator/plan", json={"faults": {"row.eror": {}}}) as response:
        assert response.status == 400
        assert "did you mean row.error" in (await response.json())["error"]
    async with http.get("/emulator/nothing") as response:
        assert response.status == 404


async def test_it_starts_once_and_says_when_it_did_not() -> None:
    emulator = Emulator(data_dir=Path(os.devnull))
    with pytest.raises(RuntimeError, match="was not started"):
        _ = emulator.base_url
    await emulator.start()
    with pytest.raises(RuntimeError, match="listens already"):
        await emulator.start()
    port = int(emulator.base_url.rpartition(":")[2])
    with pytest.raises(OSError, match=str(port)):
        await Emulator(port=port).start()
    await emulator.stop()
    await emulator.stop()


async def test_large_files_lie_in_the_data_dir(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    async with (
        Emulator(data_dir=tmp_path / "gone") as emulator,
        aiohttp.ClientSession(emulator.base_url, headers=KEY) as http,
    ):
        assert await upload(http, b"small") in {file["name"] for file in (await page(http, "/v1beta/files"))["files"]}
        (tmp_path / "gone").rmdir()
        url = await start_upload(http)
        headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
        async with http.post(url, data=_blocks(bytes(6 << 20)), headers=headers) as response:
            assert response.status == 500


async def test_time_can_be_another() -> None:
    now = [1_000_000.0]
    async with (
        Emulator(Plan(latency_s=3600.0), clock=lambda: now[0]) as emulator,
        aiohttp.ClientSession(emulator.base_url, headers=KEY) as http,
    ):
        name = await create(http, await upload(http, numbered(1)))
        assert (await page(http, f"/v1beta/{name}"))["metadata"]["state"] == "BATCH_STATE_PENDING"
        now[0] += 3600.0
        assert (await page(http, f"/v1beta/{name}"))["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"


async def test_serving_ends_when_cancelled() -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(port=0, ready=ready.set_result))
    await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
    base_url = ready.result()
    async with aiohttp.ClientSession(base_url, headers=KEY) as http:
        assert await page(http, "/v1beta/batches") == {}
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection(*base_url.removeprefix("http://").split(":"))


# -- the process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_says_where_it_listens_and_ends_when_told(number: signal.Signals) -> None:
    source = str(Path(carpool.emulator.__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "carpool.emulator", "--port", "0", "--plan-json", '{"latency_s": 9}'),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on http://127.0.0.1:")
        async with aiohttp.ClientSession(line.split()[-1], headers=KEY) as http:
            name = await create(http, await upload(http, jsonl({"key": "a", "request": prompt("x")})))
            assert (await page(http, f"/v1beta/{name}"))["metadata"]["state"] == "BATCH_STATE_PENDING"
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_the_process_refuses_a_bad_plan_and_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--plan-json", '{"faults": {"no": {}}}'])
    assert (stopped.value.code, "unknown fault 'no'" in capsys.readouterr().err) == (2, True)
    assert main(["--host", "192.0.2.1", "--port", "0"]) == 2
    assert "cannot listen on 192.0.2.1:0" in capsys.readouterr().err
