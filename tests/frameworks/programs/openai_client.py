"""OpenAI's own client, at the address that speaks its language: chats, tools, JSON, streams, embeddings.

Nothing in it knows of carpool.
"""

from __future__ import annotations

import argparse
from typing import Any

from asking import (
    EMBED_MODEL,
    IMPATIENCE_S,
    MODEL,
    PATIENT,
    REFUSED,
    REFUSED_MODEL,
    Told,
    at_once,
    in_threads,
    questions,
    run,
    same,
)
from openai import AsyncOpenAI, OpenAI
from openai_shapes import CALLS_A_TOOL, TURNS, WEATHER, Review, user, with_result


def client_of(wanted: argparse.Namespace) -> Any:
    return OpenAI() if wanted.mode == "sync" else AsyncOpenAI()


def stack_of(client: Any) -> str:
    modules = [kind.__module__.split(".")[0] for kind in type(client._client).__mro__]
    return "httpx2" if "httpx2" in modules else "httpx"


def gather(told: Told, client: OpenAI) -> None:
    told.stack = stack_of(client)
    asked = questions()

    def ask(prompt: str) -> str | None:
        return client.chat.completions.create(model=MODEL, messages=user(prompt)).choices[0].message.content

    for prompt, answer in zip(asked, in_threads(ask, asked), strict=True):
        told.answer(prompt, answer, alone=True)
    texts = questions("a text")
    # One call of the client's, with all texts.
    for text, one in zip(texts, client.embeddings.create(model=EMBED_MODEL, input=texts).data, strict=True):
        told.vector(text, one.embedding)


async def gather_async(told: Told, client: AsyncOpenAI) -> None:
    told.stack = stack_of(client)
    asked = questions()

    async def ask(prompt: str) -> str | None:
        return (await client.chat.completions.create(model=MODEL, messages=user(prompt))).choices[0].message.content

    for prompt, answer in zip(asked, await at_once(ask, asked), strict=True):
        told.answer(prompt, answer, alone=True)
    texts = questions("a text")
    embedded = await at_once(lambda text: client.embeddings.create(model=EMBED_MODEL, input=text), texts)
    for text, one in zip(texts, embedded, strict=True):
        told.vector(text, one.data[0].embedding)
    await client.close()


def features(told: Told, client: OpenAI) -> None:
    told.stack = stack_of(client)
    create = client.chat.completions.create
    answer = create(model=MODEL, messages=TURNS, temperature=0.5, max_completion_tokens=500)
    told.answer("The second turn", answer.choices[0].message.content, what="chat")
    same(answer.choices[0].finish_reason, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0, answer.usage
    parsed = client.chat.completions.parse(model=MODEL, messages=user("Review a book"), response_format=Review)
    told.answer("Review a book", parsed.choices[0].message.parsed.summary, what="JSON")
    call = create(model=MODEL, messages=user(CALLS_A_TOOL), tools=[WEATHER]).choices[0].message
    same([one.function.name for one in call.tool_calls], ["get_weather"])
    after = create(model=MODEL, messages=with_result(call), tools=[WEATHER])
    told.answer(CALLS_A_TOOL, after.choices[0].message.content, what="tool")
    stream = create(model=MODEL, messages=user("Show a stream"), stream=True, stream_options={"include_usage": True})
    pieces = [piece.choices[0].delta.content or "" for piece in stream if piece.choices]
    told.answer("Show a stream", "".join(pieces), what="stream", alone=True)
    raw = client.embeddings.create(model=EMBED_MODEL, input=["one", "two"], encoding_format="float")
    for text, one in zip(["one", "two"], raw.data, strict=True):
        told.vector(text, one.embedding)
    told.refused(lambda: create(model=REFUSED_MODEL, messages=user(REFUSED)))


async def features_async(told: Told, client: AsyncOpenAI) -> None:
    told.stack = stack_of(client)
    create = client.chat.completions.create
    answer = await create(model=MODEL, messages=TURNS, temperature=0.5, max_completion_tokens=500)
    told.answer("The second turn", answer.choices[0].message.content, what="chat")
    parsed = await client.chat.completions.parse(model=MODEL, messages=user("Review a book"), response_format=Review)
    told.answer("Review a book", parsed.choices[0].message.parsed.summary, what="JSON")
    call = (await create(model=MODEL, messages=user(CALLS_A_TOOL), tools=[WEATHER])).choices[0].message
    same([one.function.name for one in call.tool_calls], ["get_weather"])
    after = await create(model=MODEL, messages=with_result(call), tools=[WEATHER])
    told.answer(CALLS_A_TOOL, after.choices[0].message.content, what="tool")
    stream = await create(model=MODEL, messages=user("Show a stream"), stream=True)
    pieces = [piece.choices[0].delta.content or "" async for piece in stream if piece.choices]
    told.answer("Show a stream", "".join(pieces), what="stream", alone=True)
    await told.refused_async(lambda: create(model=REFUSED_MODEL, messages=user(REFUSED)))
    await client.close()


def impatient(client: Any, retries: int) -> Any:
    return client.with_options(timeout=IMPATIENCE_S, max_retries=retries, default_headers=PATIENT)


def waits(told: Told, client: OpenAI) -> None:
    told.stack = stack_of(client)
    answer = impatient(client, 0).chat.completions.create(model=MODEL, messages=user("Take your time"))
    told.answer("Take your time", answer.choices[0].message.content, alone=True)


async def waits_async(told: Told, client: AsyncOpenAI) -> None:
    told.stack = stack_of(client)
    answer = await impatient(client, 0).chat.completions.create(model=MODEL, messages=user("Take your time"))
    told.answer("Take your time", answer.choices[0].message.content, alone=True)
    await client.close()


def returns(told: Told, client: OpenAI) -> None:
    told.stack = stack_of(client)
    answer = impatient(client, 9).chat.completions.create(model=MODEL, messages=user("Take your time"))
    told.answer("Take your time", answer.choices[0].message.content, alone=True)


async def returns_async(told: Told, client: AsyncOpenAI) -> None:
    told.stack = stack_of(client)
    answer = await impatient(client, 9).chat.completions.create(model=MODEL, messages=user("Take your time"))
    told.answer("Take your time", answer.choices[0].message.content, alone=True)
    await client.close()


def fails(told: Told, client: OpenAI) -> None:
    told.stack = stack_of(client)
    told.refused(lambda: client.chat.completions.create(model=MODEL, messages=user("Fail for good")))


async def fails_async(told: Told, client: AsyncOpenAI) -> None:
    told.stack = stack_of(client)
    await told.refused_async(lambda: client.chat.completions.create(model=MODEL, messages=user("Fail for good")))
    await client.close()


if __name__ == "__main__":
    parts = [gather, features, waits, returns, fails]
    parts_async = [gather_async, features_async, waits_async, returns_async, fails_async]
    run(["openai"], client_of, *parts, *parts_async)
