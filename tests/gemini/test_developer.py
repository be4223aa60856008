"""The Provider's own rules: paths, pages, and what a reply of each call means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carpool._core.model import Lane
from carpool._gemini.developer import BASE_URL, DeveloperProvider
from carpool.types import BatchJob


def operation(name: str = "batches/a", **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


def page(*operations: dict[str, Any], token: str = "") -> bytes:
    return json.dumps({"operations": operations} | ({"nextPageToken": token} if token else {})).encode()


@pytest.mark.parametrize(
    ("lane", "path"),
    [
        (Lane("generate", "gemini-3.5-flash"), "/v1/models/gemini-3.5-flash:batchGenerateContent"),
        (Lane("generate", "models/gemini-3.5-flash"), "/v1/models/gemini-3.5-flash:batchGenerateContent"),
        (Lane("generate", "tunedModels/mine-1"), "/v1/tunedModels/mine-1:batchGenerateContent"),
        (Lane("embed", "gemini-embedding-001"), "/v1/models/gemini-embedding-001:asyncBatchEmbedContent"),
    ],
)
async def test_creates_go_to_their_models_method(lane: Lane, path: str, at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=b'{"name":"batches/a"}')) as server:
        provider = await at(f"{server.url}/prefix/", api_version="v1")
        assert await provider.create(tools.job(lane=lane), tools.chunks_of()) == "batches/a"
        assert server.asked[0].target == f"/prefix{path}"
        field = "fileName" if lane.kind == "generate" else "file_name"
        assert json.loads(server.asked[0].body) == {
            "batch": {"displayName": "cp1.s.j.1", "inputConfig": {field: "files/cp-1"}}
        }


@pytest.mark.parametrize(
    "job",
    [{"lane": Lane("generate", "../x")}, {"lane": Lane("generate", "imagen-4")}, {"file_name": "files/../x"}],
)
async def test_what_must_not_enter_a_url_is_refused_unsent(job: dict[str, Any], at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=b'{"name":"batches/a"}')) as server:
        provider = await at(server.url)
        fault = await tools.fault_of(provider.create(tools.job(**job), tools.chunks_of()))
        assert (fault.kind, fault.error.code) == ("refused", 400)
        for call in (provider.poll("batches/a/../../b"), provider.cancel("files/a"), provider.delete("models/x")):
            assert (await tools.fault_of(call)).kind == "refused"
        assert server.asked == []


async def test_pages_are_read_with_their_tokens(at: Any, tools: Any) -> None:
    pages = [page(operation("batches/c"), token="a b&c=/+"), page(token="2"), page(operation("batches/a"))]
    async with tools.Server([tools.reply(body=body) for body in pages]) as server:
        provider = await at(server.url)
        assert [job.name async for job in provider.list_jobs()] == ["batches/c", "batches/a"]
        assert [asked.path for asked in server.asked] == ["/v1beta/batches"] * 3
        assert server.asked[0].target.endswith("?pageSize=100")
        assert server.asked[1].target.endswith("?pageSize=100&pageToken=a+b%26c%3D/%2B")


async def test_the_oldest_of_equal_names_comes_first_whatever_the_fractions(at: Any, tools: Any) -> None:
    times = {
        "batches/late": "2026-11-21T10:00:00.5Z",
        "batches/early": "2026-11-21T10:00:00Z",
        "batches/last": "2026-11-21T10:00:01Z",
        "batches/unknown": "",
    }
    listed = [operation(name, metadata={"displayName": "d", "createTime": when}) for name, when in times.items()]
    async with tools.Server(tools.reply(body=page(*listed))) as server:
        found = await (await at(server.url)).find("d")
        assert [job.name for job in found] == ["batches/unknown", "batches/early", "batches/late", "batches/last"]


@pytest.mark.parametrize(
    "body", [page(operation(), token="again"), b"[]", b"<html>", page(operation("batches/A")), page({"done": "maybe?"})]
)
async def test_a_list_that_cannot_be_read_to_its_end_is_no_answer(body: bytes, at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=body)) as server:
        assert (await tools.fault_of((await at(server.url)).find("x"))).kind == "unknown"
        assert len(server.asked) <= 2


async def test_a_list_without_end_is_given_up(at: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool._gemini.listing._PAGES_MAX", 3)
    pages = [page(operation(f"batches/{number}"), token=str(number)) for number in range(5)]
    async with tools.Server([tools.reply(body=body) for body in pages]) as server:
        assert (await tools.fault_of((await at(server.url)).find("x"))).kind == "unknown"
        assert len(server.asked) == 3


@pytest.mark.parametrize("body", [b"", b"{}", b'{"name":"batches/other"}', b'{"name":"batches/a","metadata":5}'])
async def test_a_poll_that_cannot_be_read_is_no_verdict(body: bytes, at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=body)) as server:
        assert (await tools.fault_of((await at(server.url)).poll("batches/a"))).kind == "unknown"


async def test_deleting_takes_404_for_done_and_403_for_files_only(at: Any, tools: Any) -> None:
    async with tools.Server([tools.reply(404), tools.reply(404), tools.reply(403), tools.reply(403)]) as server:
        provider = await at(server.url)
        await provider.delete("batches/a")
        await provider.delete("files/a")
        await provider.delete("files/a")
        assert (await tools.fault_of(provider.delete("batches/a"))).error.code == 403
        assert [asked.method for asked in server.asked] == ["DELETE"] * 4


async def test_a_cancel_has_no_body(at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply()) as server:
        await (await at(server.url)).cancel("batches/a")
        (asked,) = server.asked
        assert (asked.method, asked.target, asked.body) == ("POST", "/v1beta/batches/a:cancel", b"")
        assert asked.headers["content-length"] == "0"


# ------------------------------------------------------------------------------------------------------------- fetching

ENDED = BatchJob(name="batches/a", state="SUCCEEDED", inline_output=True)


async def keys_of(provider: DeveloperProvider, job: BatchJob = ENDED) -> list[str]:
    return [row.key async for block in provider.fetch(job) for row in block.rows]


async def test_inline_output_is_fetched_with_the_job(at: Any, tools: Any) -> None:
    items = [{"response": {}, "metadata": {"key": f"k{number}"}} for number in range(300)]
    body = json.dumps(operation(response={"inlinedResponses": {"inlinedResponses": items}})).encode()
    async with tools.Server(tools.reply(body=body)) as server:
        provider = await at(server.url)
        assert await keys_of(provider) == [f"k{number}" for number in range(300)]
        assert len([block async for block in provider.fetch(ENDED)]) == 2


async def test_output_that_has_meanwhile_become_a_file_is_fetched_from_there(at: Any, tools: Any) -> None:
    moved = json.dumps(operation(response={"responsesFile": "files/batch-a"})).encode()
    async with tools.Server([tools.reply(body=moved), tools.reply(body=b'{"key":"a","response":{}}')]) as server:
        assert await keys_of(await at(server.url)) == ["a"]
        assert server.asked[1].path == "/download/v1beta/files/batch-a:download"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"name":"batches/a"}',
        b'{"name":"batches/a","response":{"inlinedResponses":5}}',
        b'{"name":"batches/a","response":{"inlinedResponses":{"inlinedResponses":7}}}',
        b'{"name":"batches/a","response":{"inlinedResponses":{"inlinedResponses":[{}',
        b'{"name":"batches/a","response":{"responsesFile":"files/../x"}}',
    ],
)
async def test_output_that_is_not_there_is_not_an_empty_output(body: bytes, at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=body)) as server:
        assert (await tools.fault_of(keys_of(await at(server.url)))).kind == "unknown"


async def test_a_result_file_of_another_name_is_not_fetched(at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply()) as server:
        elsewhere = BatchJob(name="batches/a", output_file="https://evil.example/x")
        assert (await tools.fault_of(keys_of(await at(server.url), elsewhere))).kind == "refused"
        assert server.asked == []


def test_googles_address_is_the_default() -> None:
    provider = DeveloperProvider(api_key="k")
    assert provider.origin.startswith(f"{BASE_URL}#")
    assert provider.framing.inline_row_bytes == 13
