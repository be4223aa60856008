"""LlamaIndex's Google models: completions, chats, JSON, tools, streams, embeddings.

Nothing in it knows of carpool.
"""

from __future__ import annotations

import argparse

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
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.google_genai import GoogleGenAIEmbedding
from llama_index.llms.google_genai import GoogleGenAI
from pydantic import BaseModel


class Review(BaseModel):
    """A review of a book."""

    summary: str
    stars: int


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


TURNS = [
    ChatMessage(role="system", content="Answer in rhymes."),
    ChatMessage(role="user", content="The first turn"),
    ChatMessage(role="assistant", content="Noted."),
    ChatMessage(role="user", content="The second turn"),
]


class Models:
    """What a program makes at its start."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.chat = GoogleGenAI(model=MODEL)
        self.refusing = GoogleGenAI(model=REFUSED_MODEL)
        self.embeddings = GoogleGenAIEmbedding(model_name=EMBED_MODEL)


def gather(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    asked = questions()
    for prompt, answer in zip(asked, in_threads(models.chat.complete, asked), strict=True):
        told.answer(prompt, answer.text, alone=True)
    texts = questions("a text")
    for text, vector in zip(texts, in_threads(models.embeddings.get_text_embedding, texts), strict=True):
        told.vector(text, vector)


async def gather_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    asked = questions()
    for prompt, answer in zip(asked, await at_once(models.chat.acomplete, asked), strict=True):
        told.answer(prompt, answer.text, alone=True)
    texts = questions("a text")
    for text, vector in zip(texts, await at_once(models.embeddings.aget_text_embedding, texts), strict=True):
        told.vector(text, vector)


def features(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    told.answer("The second turn", models.chat.chat(TURNS).message.content, what="chat")
    review = models.chat.as_structured_llm(Review).complete("Review a book").raw
    assert isinstance(review, Review), review
    told.answer("Review a book", review.summary, what="JSON")
    asked = "Use get_weather to tell whether it rains"
    call = models.chat.predict_and_call([FunctionTool.from_defaults(get_weather)], user_msg=asked)
    same(call.sources[0].tool_name, "get_weather")
    told.answer(asked, call.sources[0].raw_input["kwargs"]["city"], what="call of a tool")
    stream = "".join(piece.delta or "" for piece in models.chat.stream_complete("Show a stream"))
    told.answer("Show a stream", stream, what="stream", alone=True)
    told.vector("A query", models.embeddings.get_query_embedding("A query"))
    told.refused(lambda: models.refusing.complete(REFUSED))


async def features_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    told.answer("The second turn", (await models.chat.achat(TURNS)).message.content, what="chat")
    stream = await models.chat.astream_complete("Show a stream")
    told.answer("Show a stream", "".join([piece.delta or "" async for piece in stream]), what="stream", alone=True)
    await told.refused_async(lambda: models.refusing.acomplete(REFUSED))


def waits(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    options = {"timeout": IMPATIENCE_S * 1_000, "headers": PATIENT}
    impatient = GoogleGenAI(model=MODEL, max_retries=0, http_options=options)
    told.answer("Take your time", impatient.complete("Take your time").text, alone=True)


def fails(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    told.refused(lambda: models.chat.complete("Fail for good"))


async def fails_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat._client, told.mode)
    await told.refused_async(lambda: models.chat.acomplete("Fail for good"))


if __name__ == "__main__":
    parts = [gather, gather_async, features, features_async, waits, fails, fails_async]
    run(["llama-index-llms-google-genai", "google-genai"], Models, *parts)
