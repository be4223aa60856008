"""Cached content at the wire: the bodies that are sent, and what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carpool import Cache, ConfigurationError, NotBatchable

DESCRIBED: dict[str, Any] = {
    "name": "cachedContents/c1",
    "model": "models/gemini-3.5-flash",
    "displayName": "the book",
    "createTime": "2026-11-21T00:00:00Z",
    "updateTime": "2026-11-21T00:00:01Z",
    "expireTime": "2026-11-21T01:00:00Z",
    "usageMetadata": {"totalTokenCount": "2048"},
}
BODY = json.dumps(DESCRIBED).encode()
CACHE = Cache(
    name="cachedContents/c1",
    model="gemini-3.5-flash",
    display_name="the book",
    created_at="2026-11-21T00:00:00Z",
    updated_at="2026-11-21T00:00:01Z",
    expires_at="2026-11-21T01:00:00Z",
    tokens=2048,
)


@pytest.fixture
def caches_at(at: Any) -> Any:
    async def make(url: str) -> Any:
        return (await at(url)).caches

    return make


async def test_a_cache_is_created_with_all_that_it_may_hold(caches_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=BODY)) as server:
        caches = await caches_at(server.url)
        config = {"system_instruction": "be brief", "tools": [{"google_search": {}}], "tool_config": None}
        assert await caches.create("models/gemini-3.5-flash", "a book", config, 3_600, "the book") == CACHE
        await caches.create("gemini-3.5-flash", None, {"systemInstruction": "be brief"}, 0.25, None)
        assert [(asked.method, asked.target) for asked in server.asked] == [("POST", "/v1beta/cachedContents")] * 2
        assert json.loads(server.asked[0].body) == {
            "model": "models/gemini-3.5-flash",
            "ttl": "3600s",
            "contents": [{"parts": [{"text": "a book"}], "role": "user"}],
            "systemInstruction": {"parts": [{"text": "be brief"}], "role": "user"},
            "tools": [{"googleSearch": {}}],
            "displayName": "the book",
        }
        assert json.loads(server.asked[1].body) == {
            "model": "models/gemini-3.5-flash",
            "ttl": "0.25s",
            "systemInstruction": {"parts": [{"text": "be brief"}], "role": "user"},
        }


async def test_what_cannot_be_cached_is_refused_before_anything_is_sent(caches_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=BODY)) as server:
        caches = await caches_at(server.url)
        for contents, config, ttl_s, why in [
            (None, None, 60, "nothing to cache"),
            ("a", {"temperature": 1.0}, 60, "config of caches.create has no field 'temperature'"),
            ("a", {"sytem_instruction": "a"}, 60, "Did you mean 'system_instruction'"),
            ("", None, 60, "nothing to send"),
            ("a", None, 0, "ttl_s is 0"),
            ("a", None, -1, "ttl_s is -1"),
            ("a", None, float("nan"), "ttl_s is nan"),
        ]:
            with pytest.raises(ConfigurationError, match=why):
                await caches.create("gemini-3.5-flash", contents, config, ttl_s, None)
        with pytest.raises(NotBatchable):
            await caches.create("imagen-4.0-generate-001", "a", None, 60, None)
        for call in (caches.get("files/a"), caches.extend("A", 60), caches.delete("cachedContents/../a")):
            with pytest.raises(ConfigurationError, match="is not a name such as 'cachedContents/abc'"):
                await call
        assert server.asked == []


async def test_a_create_without_a_clear_answer_is_not_sent_again(caches_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(503)) as server:
        assert (await tools.fault_of((await caches_at(server.url)).create("m", "a", None, 60, None))).kind == "unknown"
        assert len(server.asked) == 1


async def test_caches_are_read_extended_listed_and_deleted(caches_at: Any, tools: Any) -> None:
    pages = [{"cachedContents": [DESCRIBED], "nextPageToken": "t"}, {}]
    replies = [BODY, BODY, *(json.dumps(page).encode() for page in pages), b"{}"]
    async with tools.Server([tools.reply(body=reply) for reply in replies]) as server:
        caches = await caches_at(server.url)
        assert await caches.get("c1") == CACHE
        assert await caches.extend("cachedContents/c1", 7_200.0) == CACHE
        assert [cache async for cache in caches.list()] == [CACHE]
        await caches.delete("c1")
        assert [(asked.method, asked.target) for asked in server.asked] == [
            ("GET", "/v1beta/cachedContents/c1"),
            ("PATCH", "/v1beta/cachedContents/c1"),
            ("GET", "/v1beta/cachedContents?pageSize=100"),
            ("GET", "/v1beta/cachedContents?pageSize=100&pageToken=t"),
            ("DELETE", "/v1beta/cachedContents/c1"),
        ]
        assert json.loads(server.asked[1].body) == {"ttl": "7200s"}


@pytest.mark.parametrize("status", [403, 404])
async def test_a_cache_that_is_gone_counts_as_deleted_but_not_as_there(status: int, caches_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(status)) as server:
        caches = await caches_at(server.url)
        await caches.delete("c1")
        assert (await tools.fault_of(caches.get("c1"))).error.code == status


@pytest.mark.parametrize("reply", [b"", b"[]", b'{"name":"files/a"}', b'{"name":7}'])
async def test_a_description_that_cannot_be_read_is_no_cache(reply: bytes, caches_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=reply)) as server:
        assert (await tools.fault_of((await caches_at(server.url)).get("c1"))).kind == "unknown"
