"""LiteLLM with its provider ``gemini``: chats, tools, JSON, streams, embeddings.

Nothing in it knows of carpool.
"""

from __future__ import annotations

import argparse
import os

# It would fetch a table of prices from elsewhere.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
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
from openai_shapes import CALLS_A_TOOL, TURNS, WEATHER, Review, user, with_result

CHAT = {"model": f"gemini/{MODEL}"}
EMBED = {"model": f"gemini/{EMBED_MODEL}"}
REFUSING = {"model": f"gemini/{REFUSED_MODEL}"}


def made(wanted: argparse.Namespace) -> None:
    litellm.suppress_debug_info = True


def stack_of(mode: str) -> str:
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler  # noqa: PLC0415 - it is private

    return "httpx on aiohttp" if mode == "async" and AsyncHTTPHandler._should_use_aiohttp_transport() else "httpx"


def gather(told: Told, nothing: None) -> None:
    told.stack = stack_of(told.mode)
    asked = questions()
    answers = in_threads(lambda prompt: litellm.completion(**CHAT, messages=user(prompt)), asked)
    for prompt, answer in zip(asked, answers, strict=True):
        told.answer(prompt, answer.choices[0].message.content, alone=True)
    # One call of LiteLLM's, with all texts.
    texts = questions("a text")
    for text, one in zip(texts, litellm.embedding(**EMBED, input=texts).data, strict=True):
        told.vector(text, one["embedding"])


async def gather_async(told: Told, nothing: None) -> None:
    told.stack = stack_of(told.mode)
    asked = questions()
    answers = await at_once(lambda prompt: litellm.acompletion(**CHAT, messages=user(prompt)), asked)
    for prompt, answer in zip(asked, answers, strict=True):
        told.answer(prompt, answer.choices[0].message.content, alone=True)
    texts = questions("a text")
    embedded = await at_once(lambda text: litellm.aembedding(**EMBED, input=[text]), texts)
    for text, one in zip(texts, embedded, strict=True):
        told.vector(text, one.data[0]["embedding"])


def features(told: Told, nothing: None) -> None:
    told.stack = stack_of(told.mode)
    answer = litellm.completion(**CHAT, messages=TURNS, temperature=0.5, max_tokens=500)
    told.answer("The second turn", answer.choices[0].message.content, what="chat")
    shaped = litellm.completion(**CHAT, messages=user("Review a book"), response_format=Review)
    told.answer("Review a book", Review.model_validate_json(shaped.choices[0].message.content).summary, what="JSON")
    call = litellm.completion(**CHAT, messages=user(CALLS_A_TOOL), tools=[WEATHER]).choices[0].message
    same([one.function.name for one in call.tool_calls], ["get_weather"])
    after = litellm.completion(**CHAT, messages=with_result(call), tools=[WEATHER])
    told.answer(CALLS_A_TOOL, after.choices[0].message.content, what="tool")
    stream = litellm.completion(**CHAT, messages=user("Show a stream"), stream=True)
    told.answer("Show a stream", "".join(piece.choices[0].delta.content or "" for piece in stream), what="stream")
    told.refused(lambda: litellm.completion(**REFUSING, messages=user(REFUSED)))


async def features_async(told: Told, nothing: None) -> None:
    told.stack = stack_of(told.mode)
    answer = await litellm.acompletion(**CHAT, messages=TURNS, temperature=0.5, max_tokens=500)
    told.answer("The second turn", answer.choices[0].message.content, what="chat")
    stream = await litellm.acompletion(**CHAT, messages=user("Show a stream"), stream=True)
    pieces = [piece.choices[0].delta.content or "" async for piece in stream]
    told.answer("Show a stream", "".join(pieces), what="stream")
    await told.refused_async(lambda: litellm.acompletion(**REFUSING, messages=user(REFUSED)))


IMPATIENT = {"timeout": IMPATIENCE_S, "num_retries": 0, "extra_headers": PATIENT}


def waits(told: Told, nothing: None) -> None:
    told.stack = stack_of(told.mode)
    answer = litellm.completion(**CHAT, **IMPATIENT, messages=user("Take your time"))
    told.answer("Take your time", answer.choices[0].message.content, alone=True)


async def waits_async(told: Told, nothing: None) -> None:
    told.stack = stack_of(told.mode)
    answer = await litellm.acompletion(**CHAT, **IMPATIENT, messages=user("Take your time"))
    told.answer("Take your time", answer.choices[0].message.content, alone=True)


if __name__ == "__main__":
    run(["litellm"], made, gather, gather_async, features, features_async, waits, waits_async)
