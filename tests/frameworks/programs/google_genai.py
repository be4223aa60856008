"""Google's own SDK, 2.x or 3.x: calls, chats, tools, JSON, streams, embeddings, files.

Through the sidecar nothing in it knows of carpool; in process, the client is made by carpool.
"""

from __future__ import annotations

import argparse
import io
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
from genai_inside import stack_of
from google import genai
from pydantic import BaseModel


class Review(BaseModel):
    """What is asked for as JSON."""

    summary: str
    stars: int


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


CALLS_A_TOOL = "Use get_weather to tell whether it rains"


def client_of(wanted: argparse.Namespace) -> genai.Client:
    if wanted.way == "sidecar":
        return genai.Client()
    import carpool  # noqa: PLC0415 - not installed where the sidecar is used

    client: genai.Client = carpool.genai_client()
    assert isinstance(client, genai.Client)
    return client


def gather(told: Told, client: genai.Client) -> None:
    told.stack = stack_of(client, told.mode)
    asked = questions()
    for prompt, answer in zip(
        asked,
        in_threads(lambda prompt: client.models.generate_content(model=MODEL, contents=prompt), asked),
        strict=True,
    ):
        told.answer(prompt, answer.text, alone=True)
    texts = questions("a text")
    for text, embedded in zip(
        texts,
        in_threads(lambda text: client.models.embed_content(model=EMBED_MODEL, contents=text), texts),
        strict=True,
    ):
        told.vector(text, embedded.embeddings[0].values)


async def gather_async(told: Told, client: genai.Client) -> None:
    told.stack = stack_of(client, told.mode)
    models = client.aio.models
    asked = questions()
    answers = await at_once(lambda prompt: models.generate_content(model=MODEL, contents=prompt), asked)
    for prompt, answer in zip(asked, answers, strict=True):
        told.answer(prompt, answer.text, alone=True)
    texts = questions("a text")
    embedded = await at_once(lambda text: models.embed_content(model=EMBED_MODEL, contents=text), texts)
    for text, one in zip(texts, embedded, strict=True):
        told.vector(text, one.embeddings[0].values)
    await client.aio.aclose()


SETTINGS: dict[str, dict[str, Any]] = {
    "system instruction": {"system_instruction": "Answer in rhymes.", "temperature": 0.5},
    "JSON": {"response_mime_type": "application/json", "response_schema": Review},
    "thinking": {"thinking_config": {"thinking_budget": 32}},
    "Google Search": {"tools": [{"google_search": {}}]},
}


def check(told: Told, what: str, prompt: str, answer: Any) -> None:
    """Tell an answer; of JSON, what it was parsed to."""
    if what == "JSON":
        assert isinstance(answer.parsed, Review), answer
        told.answer(prompt, answer.parsed.summary, what=what)
    else:
        told.answer(prompt, answer.text, what=what)


def features(told: Told, client: genai.Client) -> None:
    told.stack = stack_of(client, told.mode)
    for what, config in SETTINGS.items():
        check(
            told,
            what,
            f"Show {what}",
            client.models.generate_content(model=MODEL, contents=f"Show {what}", config=config),
        )
    chat = client.chats.create(model=MODEL)
    for turn in ("first", "second"):
        told.answer(f"The {turn} turn", chat.send_message(f"The {turn} turn").text, what="chat")
    same(len(chat.get_history()), 4)
    with_tool = client.models.generate_content(model=MODEL, contents=CALLS_A_TOOL, config={"tools": [get_weather]})
    same(len(with_tool.automatic_function_calling_history), 3)
    told.answer(CALLS_A_TOOL, with_tool.text, what="automatic function calling")
    pieces = client.models.generate_content_stream(model=MODEL, contents="Show a stream")
    told.answer("Show a stream", "".join(piece.text or "" for piece in pieces), what="stream", alone=True)
    several = client.models.embed_content(model=EMBED_MODEL, contents=["one", "two", "three"])
    for text, embedded in zip(["one", "two", "three"], several.embeddings, strict=True):
        told.vector(text, embedded.values)
    assert client.models.count_tokens(model=MODEL, contents="Count me").total_tokens
    assert client.models.get(model=MODEL).name.endswith(MODEL)
    file = client.files.upload(file=io.BytesIO(b"A picture of a cat."), config={"mime_type": "text/plain"})
    asked = client.models.generate_content(model=MODEL, contents=["What is in this file?", file])
    told.answer("What is in this file?", asked.text, what="file")
    client.files.delete(name=file.name)
    told.refused(lambda: client.models.generate_content(model=REFUSED_MODEL, contents=REFUSED))


async def features_async(told: Told, client: genai.Client) -> None:
    told.stack = stack_of(client, told.mode)
    aio = client.aio
    for what, config in SETTINGS.items():
        answer = await aio.models.generate_content(model=MODEL, contents=f"Show {what}", config=config)
        check(told, what, f"Show {what}", answer)
    chat = aio.chats.create(model=MODEL)
    for turn in ("first", "second"):
        told.answer(f"The {turn} turn", (await chat.send_message(f"The {turn} turn")).text, what="chat")
    same(len(chat.get_history()), 4)
    with_tool = await aio.models.generate_content(model=MODEL, contents=CALLS_A_TOOL, config={"tools": [get_weather]})
    same(len(with_tool.automatic_function_calling_history), 3)
    told.answer(CALLS_A_TOOL, with_tool.text, what="automatic function calling")
    pieces = await aio.models.generate_content_stream(model=MODEL, contents="Show a stream")
    text = "".join([piece.text or "" async for piece in pieces])
    told.answer("Show a stream", text, what="stream", alone=True)
    several = await aio.models.embed_content(model=EMBED_MODEL, contents=["one", "two", "three"])
    for one, embedded in zip(["one", "two", "three"], several.embeddings, strict=True):
        told.vector(one, embedded.values)
    assert (await aio.models.count_tokens(model=MODEL, contents="Count me")).total_tokens
    assert (await aio.models.get(model=MODEL)).name.endswith(MODEL)
    file = await aio.files.upload(file=io.BytesIO(b"A picture of a cat."), config={"mime_type": "text/plain"})
    asked = await aio.models.generate_content(model=MODEL, contents=["What is in this file?", file])
    told.answer("What is in this file?", asked.text, what="file")
    await aio.files.delete(name=file.name)
    await told.refused_async(lambda: aio.models.generate_content(model=REFUSED_MODEL, contents=REFUSED))
    await aio.aclose()


IMPATIENT: dict[str, Any] = {"http_options": {"timeout": IMPATIENCE_S * 1_000, "headers": PATIENT}}


def waits(told: Told, client: genai.Client) -> None:
    told.stack = stack_of(client, told.mode)
    answer = client.models.generate_content(model=MODEL, contents="Take your time", config=IMPATIENT)
    told.answer("Take your time", answer.text, alone=True)


async def waits_async(told: Told, client: genai.Client) -> None:
    told.stack = stack_of(client, told.mode)
    answer = await client.aio.models.generate_content(model=MODEL, contents="Take your time", config=IMPATIENT)
    told.answer("Take your time", answer.text, alone=True)


if __name__ == "__main__":
    run(["google-genai"], client_of, gather, gather_async, features, features_async, waits, waits_async)
