"""The calls of caches, and their use, live and in batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.genai import types
from sides import MODEL, Side, counted, drives, holds, refused, same

BOOK = "It was a bright cold day in April, and the clocks were striking thirteen. " * 600


async def cached(side: Side, **config: Any) -> Any:
    fields = {"contents": [BOOK], "system_instruction": "You know this book.", "ttl": "3600s"} | config
    return await side.do(
        side.client.caches.create, model=MODEL, config=types.CreateCachedContentConfig.model_validate(fields)
    )


@drives("caches.create", "contents, instruction and ttl")
async def create(side: Side) -> None:
    cache = await cached(side, display_name="book")
    holds(cache.name.startswith("cachedContents/"), cache.name)
    same((cache.model, cache.display_name), (f"models/{MODEL}", "book"))
    holds(abs((cache.expire_time - cache.create_time) - timedelta(hours=1)) < timedelta(seconds=2), cache)
    holds(cache.usage_metadata.total_token_count > 4096, cache.usage_metadata)


@drives("caches.create", "tools, tool config and expire_time")
async def create_with_tools(side: Side) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    declaration = types.FunctionDeclaration(name="f", description="d")
    tools = [types.Tool(function_declarations=[declaration])]
    mode = types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="AUTO"))
    cache = await cached(side, ttl=None, expire_time=at, tools=tools, tool_config=mode)
    holds(abs(cache.expire_time - at) < timedelta(seconds=1), cache.expire_time)


@drives("caches.create", "too little to cache, unknown model: refused with 400, 404")
async def create_refused(side: Side) -> None:
    with refused(400):
        await cached(side, contents=["short"])
    with refused(404, "models/palm is not found"):
        await side.do(side.client.caches.create, model="palm", config={"contents": [BOOK]})


@drives("caches.get", "one that is there, one that is not")
async def get(side: Side) -> None:
    cache = await cached(side)
    seen = await side.do(side.client.caches.get, name=cache.name)
    same((seen.name, seen.model, seen.expire_time), (cache.name, cache.model, cache.expire_time))
    with refused(403):
        await side.do(side.client.caches.get, name="cachedContents/nowhere")


@drives("caches.list", "in pages")
async def list_caches(side: Side) -> None:
    made = [(await cached(side)).name for _ in range(3)]
    pages = await side.do(side.client.caches.list, config={"page_size": 2})
    same(len(pages.page), 2)
    names = [cache.name for cache in await side.every(pages)]
    same(len(set(names)), len(names))
    holds(set(made) <= set(names), (made, names))


@drives("caches.update", "ttl and expire_time")
async def update(side: Side) -> None:
    cache = await cached(side)
    longer = await side.do(side.client.caches.update, name=cache.name, config={"ttl": "7200s"})
    holds(longer.expire_time > cache.expire_time + timedelta(minutes=50), (longer.expire_time, cache.expire_time))
    at = datetime.now(UTC) + timedelta(hours=5)
    later = await side.do(side.client.caches.update, name=cache.name, config={"expire_time": at})
    holds(abs(later.expire_time - at) < timedelta(seconds=1), (later.expire_time, at))
    seen = await side.do(side.client.caches.get, name=cache.name)
    same((seen.expire_time, seen.create_time), (later.expire_time, cache.create_time))


@drives("caches.delete", "then it is gone, and cannot be used")
async def delete(side: Side) -> None:
    cache = await cached(side)
    await side.do(side.client.caches.delete, name=cache.name)
    with refused(403):
        await side.do(side.client.caches.get, name=cache.name)
    with refused(403):
        await side.do(
            side.client.models.generate_content, model=MODEL, contents="?", config={"cached_content": cache.name}
        )


@drives("caches.create", "used live and in a batch")
async def used(side: Side) -> None:
    cache = await cached(side)
    tokens = cache.usage_metadata.total_token_count
    config = types.GenerateContentConfig(cached_content=cache.name)
    live = await side.do(
        side.client.models.generate_content, model=MODEL, contents="What did the clocks strike?", config=config
    )
    request = types.InlinedRequest(contents="What did the clocks strike?", config=config, metadata={"key": "a"})
    job = await side.ended(await side.do(side.client.batches.create, model=MODEL, src=[request]))
    (row,) = job.dest.inlined_responses
    holds(row.response, row)
    for answer in (live, row.response):
        holds("What did the clocks strike?" in answer.text, answer)
        same(answer.usage_metadata.cached_content_token_count, tokens)
        holds(answer.usage_metadata.prompt_token_count > tokens, answer.usage_metadata)
        counted(answer)
    same(row.response.text, live.text)
    both = types.GenerateContentConfig(cached_content=cache.name, system_instruction="x")
    with refused(400, "CachedContent can not be used with GenerateContent request setting system_instruction"):
        await side.do(side.client.models.generate_content, model=MODEL, contents="?", config=both)
