"""The calls of embeddings and of chats."""

from __future__ import annotations

import math
from typing import Any

from google.genai import types
from on_models import weather_in
from sides import EMBED_MODEL, EMBED_MODEL_2, MODEL, Side, drives, holds, refused, same, spoke

EMBED = "models.embed_content"


async def embed(side: Side, contents: Any, model: str = EMBED_MODEL, **config: Any) -> list[list[float]]:
    answer = await side.do(
        side.client.models.embed_content,
        model=model,
        contents=contents,
        config=types.EmbedContentConfig(**config) if config else None,
    )
    return [one.values for one in answer.embeddings]


@drives(EMBED, "one text")
async def one(side: Side) -> None:
    (vector,) = await embed(side, "hello")
    same(len(vector), 3072)
    same(await embed(side, ["hello"]), [vector])


@drives(EMBED, "texts, task, title and dimensions")
async def many(side: Side) -> None:
    config = {"task_type": "RETRIEVAL_DOCUMENT", "title": "t", "output_dimensionality": 128}
    vectors = await embed(side, ["a cat sat", "a cat sits", "quarterly revenue"], **config)
    same([len(vector) for vector in vectors], [128] * 3)
    lengths = [math.sqrt(math.fsum(value * value for value in vector)) for vector in vectors]
    holds(all(lengths), lengths)
    first, second, third = vectors
    near, far = (math.fsum(a * b for a, b in zip(first, other, strict=True)) for other in (second, third))
    holds(near > far, (near, far))


@drives(EMBED, "gemini-embedding-2: a list of texts is one vector")
async def folded(side: Side) -> None:
    same(len(await embed(side, ["a", "b"], EMBED_MODEL_2, output_dimensionality=8)), 1)
    contents = [types.Content(parts=[types.Part(text=text)]) for text in "ab"]
    apart = await embed(side, contents, EMBED_MODEL_2, output_dimensionality=8)
    same(len(apart), 2)
    holds(apart[0] != apart[1], apart)


@drives(EMBED, "more than 100 texts: refused with 400")
async def too_many(side: Side) -> None:
    with refused(400, "at most 100 requests can be in one batch"):
        await embed(side, ["x"] * 101)


@drives(EMBED, "a model that does not embed: refused with 404")
async def wrong_model(side: Side) -> None:
    with refused(404, f"models/{MODEL} is not found for API version {side.version}, or is not supported for"):
        await embed(side, "x", MODEL)


# -- chats: their own code, but no methods of their own on the wire


@drives("chats.create", "send_message")
async def chat(side: Side) -> None:
    talk = side.client.chats.create(model=MODEL, config={"system_instruction": "be brief"})
    first = spoke(await side.do(talk.send_message, message="My name is Ada."))
    second = spoke(await side.do(talk.send_message, message="What is my name?"))
    holds(first != second and "What is my name?" in second, (first, second))
    same([turn.role for turn in talk.get_history()], ["user", "model"] * 2)


@drives("chats.create", "send_message_stream")
async def chat_stream(side: Side) -> None:
    talk = side.client.chats.create(model=MODEL)
    chunks = await side.every(await side.do(talk.send_message_stream, message="Hello?"))
    text = "".join(chunk.text or "" for chunk in chunks)
    holds("Hello?" in text, text)
    holds(len(talk.get_history()) >= 2, talk.get_history())
    after = spoke(await side.do(talk.send_message, message="And now?"))
    holds("And now?" in after, after)


@drives("chats.create", "a function, called by the SDK")
async def chat_with_function(side: Side) -> None:
    talk = side.client.chats.create(model=MODEL, config=types.GenerateContentConfig(tools=[weather_in]))
    spoke(await side.do(talk.send_message, message="Use weather_in for Oslo."))
    roles = [turn.role for turn in talk.get_history()]
    same(roles, ["user", "model", "user", "model"])
