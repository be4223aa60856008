"""curl, as shell scripts use it: a process a call.

Nothing in it knows of carpool. What could not be installed is named: curl comes with the system.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from typing import Any

from asking import EMBED_MODEL, MODEL, REFUSED, REFUSED_MODEL, Told, in_threads, questions, run

URL = f"{os.environ['GOOGLE_GEMINI_BASE_URL']}/v1beta/models"


class Failed(Exception):
    """curl ended with an error."""


def made(wanted: argparse.Namespace) -> str:
    path = shutil.which("curl")
    if path is None:
        raise SystemExit("curl is not installed: install it by the system's package manager, or leave this row out")
    return path


def post(path: str, model: str, verb: str, body: dict[str, Any]) -> Any:
    """Start curl, and wait for it. The key and the body go in by its standard input and a variable, as they should."""
    command = [path, "--silent", "--show-error", "--fail-with-body", "--config", "-", f"{URL}/{model}:{verb}"]
    config = f'header = "x-goog-api-key: {os.environ["GEMINI_API_KEY"]}"\nheader = "content-type: application/json"\n'
    config += f"data = {json.dumps(json.dumps(body))}\n"
    ended = subprocess.run(command, input=config, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Failed(f"{ended.stderr}{ended.stdout}")
    return json.loads(ended.stdout)


def version_of(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def contents(prompt: str) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": prompt}]}]}


def text_of(answer: Any) -> str:
    text: str = answer["candidates"][0]["content"]["parts"][0]["text"]
    return text


def gather(told: Told, path: str) -> None:
    told.stack, told.versions["curl"] = "curl", version_of(path)
    asked = questions()
    answers = in_threads(lambda prompt: post(path, MODEL, "generateContent", contents(prompt)), asked)
    for prompt, answer in zip(asked, answers, strict=True):
        told.answer(prompt, text_of(answer), alone=True)
    texts = questions("a text")
    embedded = in_threads(
        lambda text: post(path, EMBED_MODEL, "embedContent", {"content": {"parts": [{"text": text}]}}), texts
    )
    for text, one in zip(texts, embedded, strict=True):
        told.vector(text, one["embedding"]["values"])


def features(told: Told, path: str) -> None:
    told.stack, told.versions["curl"] = "curl", version_of(path)
    shaped = {"responseMimeType": "application/json", "responseSchema": {"type": "STRING"}}
    answer = post(path, MODEL, "generateContent", {**contents("Show JSON"), "generationConfig": shaped})
    told.answer("Show JSON", json.loads(text_of(answer)), what="JSON")
    streamed = post(path, MODEL, "streamGenerateContent", contents("Show a stream"))
    told.answer("Show a stream", "".join(map(text_of, streamed)), what="stream", alone=True)
    told.refused(lambda: post(path, REFUSED_MODEL, "generateContent", contents(REFUSED)))


if __name__ == "__main__":
    run([], made, gather, features)
