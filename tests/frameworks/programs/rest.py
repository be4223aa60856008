"""Google's REST interface by ``requests``, as programs without any SDK use it.

Nothing in it knows of carpool.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import requests
from asking import (
    EMBED_MODEL,
    IMPATIENCE_S,
    MODEL,
    PATIENT,
    REFUSED,
    REFUSED_MODEL,
    Told,
    in_threads,
    questions,
    run,
    same,
)

URL = f"{os.environ['GOOGLE_GEMINI_BASE_URL']}/v1beta/models"
KEY = {"x-goog-api-key": os.environ["GEMINI_API_KEY"]}


def made(wanted: argparse.Namespace) -> None:
    """Make nothing: each call stands alone."""


def post(model: str, verb: str, body: dict[str, Any], timeout_s: float | None = None) -> Any:
    reply = requests.post(f"{URL}/{model}:{verb}", json=body, headers=KEY | PATIENT, timeout=(5, timeout_s))
    if not reply.ok:
        raise requests.HTTPError(reply.text, response=reply)
    return reply.json()


def contents(prompt: str) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": prompt}]}]}


def text_of(answer: Any) -> str:
    text: str = answer["candidates"][0]["content"]["parts"][0]["text"]
    return text


def gather(told: Told, nothing: None) -> None:
    told.stack = "requests"
    asked = questions()
    answers = in_threads(lambda prompt: post(MODEL, "generateContent", contents(prompt)), asked)
    for prompt, answer in zip(asked, answers, strict=True):
        told.answer(prompt, text_of(answer), alone=True)
    texts = questions("a text")
    embedded = in_threads(
        lambda text: post(EMBED_MODEL, "embedContent", {"content": {"parts": [{"text": text}]}}), texts
    )
    for text, one in zip(texts, embedded, strict=True):
        told.vector(text, one["embedding"]["values"])


def features(told: Told, nothing: None) -> None:
    told.stack = "requests"
    shaped = {"responseMimeType": "application/json", "responseSchema": {"type": "STRING"}}
    answer = post(MODEL, "generateContent", {**contents("Show JSON"), "generationConfig": shaped})
    told.answer("Show JSON", json.loads(text_of(answer)), what="JSON")
    counted = post(MODEL, "countTokens", contents("Count me"))
    assert counted["totalTokens"], counted
    models = requests.get(URL, headers=KEY, timeout=60)
    same(models.status_code, 200)
    assert models.json()["models"]
    told.refused(lambda: post(REFUSED_MODEL, "generateContent", contents(REFUSED)))


def waits(told: Told, nothing: None) -> None:
    told.stack = "requests"
    answer = post(MODEL, "generateContent", contents("Take your time"), IMPATIENCE_S)
    told.answer("Take your time", text_of(answer), alone=True)


if __name__ == "__main__":
    run(["requests"], made, gather, features, waits)
