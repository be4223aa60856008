"""LangChain's chat model and embeddings: calls, tools, JSON, streams, batches.

Through the sidecar nothing in it knows of carpool; in process, it is given carpool's transport.
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
from genai_inside import stack_of
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_google_genai import ChatGoogleGenerativeAI, GoogleGenerativeAIEmbeddings
from pydantic import BaseModel


class Review(BaseModel):
    """A review of a book."""

    summary: str
    stars: int


@tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


class Models:
    """What a program makes at its start."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        more: dict[str, Any] = {}
        if wanted.way == "in-process":
            import carpool  # noqa: PLC0415 - not installed where the sidecar is used

            options = carpool.http_options()
            # LangChain hands the same arguments to the client of either kind.
            more = {"client_args": options.client_args}
        self.chat = ChatGoogleGenerativeAI(model=MODEL, **more)
        self.refusing = ChatGoogleGenerativeAI(model=REFUSED_MODEL, **more)
        self.embeddings = GoogleGenerativeAIEmbeddings(model=EMBED_MODEL, **more)


def gather(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    asked = questions()
    for prompt, answer in zip(asked, in_threads(models.chat.invoke, asked), strict=True):
        told.answer(prompt, answer.text, alone=True)
    # One call of LangChain's, which sends a hundred texts at once.
    texts = questions("a text")
    for text, vector in zip(texts, models.embeddings.embed_documents(texts), strict=True):
        told.vector(text, vector)


async def gather_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    asked = questions()
    for prompt, answer in zip(asked, await models.chat.abatch(asked), strict=True):
        told.answer(prompt, answer.text, alone=True)
    texts = questions("a text")
    for text, vector in zip(texts, await at_once(models.embeddings.aembed_query, texts), strict=True):
        told.vector(text, vector)


SYSTEM = [SystemMessage("Answer in rhymes."), HumanMessage("Show a system message")]
CHAT = [HumanMessage("The first turn"), AIMessage("Noted."), HumanMessage("The second turn")]
CALLS_A_TOOL = "Use get_weather to tell whether it rains"


def features(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.answer("Show a system message", models.chat.invoke(SYSTEM).text, what="system instruction")
    told.answer("The second turn", models.chat.invoke(CHAT).text, what="chat")
    review = models.chat.with_structured_output(Review).invoke("Review a book")
    assert isinstance(review, Review), review
    told.answer("Review a book", review.summary, what="JSON")
    able = models.chat.bind_tools([get_weather])
    calling = able.invoke(CALLS_A_TOOL)
    (call,) = calling.tool_calls
    same(call["name"], "get_weather")
    told.answer(CALLS_A_TOOL, call["args"]["city"], what="call of a tool")
    told_it: ToolMessage = get_weather.invoke(call)
    told.answer(CALLS_A_TOOL, able.invoke([HumanMessage(CALLS_A_TOOL), calling, told_it]).text, what="tool")
    stream = "".join(piece.text for piece in models.chat.stream("Show a stream"))
    told.answer("Show a stream", stream, what="stream", alone=True)
    told.vector("A query", models.embeddings.embed_query("A query"))
    assert models.chat.get_num_tokens("Count me")
    told.refused(lambda: models.refusing.invoke(REFUSED))


async def features_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.answer("Show a system message", (await models.chat.ainvoke(SYSTEM)).text, what="system instruction")
    told.answer("The second turn", (await models.chat.ainvoke(CHAT)).text, what="chat")
    review = await models.chat.with_structured_output(Review).ainvoke("Review a book")
    assert isinstance(review, Review), review
    told.answer("Review a book", review.summary, what="JSON")
    able = models.chat.bind_tools([get_weather])
    calling = await able.ainvoke(CALLS_A_TOOL)
    (call,) = calling.tool_calls
    same(call["name"], "get_weather")
    told.answer(CALLS_A_TOOL, call["args"]["city"], what="call of a tool")
    told_it: ToolMessage = await get_weather.ainvoke(call)
    answer = await able.ainvoke([HumanMessage(CALLS_A_TOOL), calling, told_it])
    told.answer(CALLS_A_TOOL, answer.text, what="tool")
    stream = "".join([piece.text async for piece in models.chat.astream("Show a stream")])
    told.answer("Show a stream", stream, what="stream", alone=True)
    told.vector("A query", await models.embeddings.aembed_query("A query"))
    await told.refused_async(lambda: models.refusing.ainvoke(REFUSED))


def impatient(**more: Any) -> ChatGoogleGenerativeAI:
    return ChatGoogleGenerativeAI(model=MODEL, timeout=IMPATIENCE_S, additional_headers=PATIENT, **more)


def waits(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.answer("Take your time", impatient(max_retries=1).invoke("Take your time").text, alone=True)


async def waits_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.answer("Take your time", (await impatient(max_retries=1).ainvoke("Take your time")).text, alone=True)


def returns(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.answer("Take your time", impatient().invoke("Take your time").text, alone=True)


async def returns_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.answer("Take your time", (await impatient().ainvoke("Take your time")).text, alone=True)


def fails(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    told.refused(lambda: models.chat.invoke("Fail for good"))


async def fails_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.chat.client, told.mode)
    await told.refused_async(lambda: models.chat.ainvoke("Fail for good"))


if __name__ == "__main__":
    parts = [gather, features, waits, returns, fails]
    parts_async = [gather_async, features_async, waits_async, returns_async, fails_async]
    run(["langchain-google-genai", "google-genai"], Models, *parts, *parts_async)
