"""Requests in OpenAI's shape, and what the emulated service says of their translation.

Owns the spelling of calls that many tests make, and the check that each translation goes through: it must be what
Google's parser takes, and be answered. It must not know what translations should be.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from carpool.emulator import Call, World
from carpool.emulator.validation import is_clean, wrongs
from carpool.surfaces.openai.answers import chat_completion
from carpool.surfaces.openai.requests import ChatCall, Untranslatable, read_chat

MODEL = "gemini-3.5-flash"
PNG = "data:image/png;base64,iVBORw0KGgo="
USER: dict[str, Any] = {"role": "user", "content": "hello"}


def chat(**fields: Any) -> dict[str, Any]:
    """Return a body of one message, with more fields, or others."""
    return {"model": MODEL, "messages": [USER], **fields}


def raw(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def call_of(**fields: Any) -> ChatCall:
    """Translate a body that must be translatable, and see that the service takes what becomes of it."""
    call = read_chat(raw(chat(**fields)))
    check(call)
    return call


def native(**fields: Any) -> dict[str, Any]:
    """Return the native request of a body that must be translatable."""
    found: dict[str, Any] = msgspec.json.decode(call_of(**fields).body)
    return found


def said(*messages: Any, **fields: Any) -> dict[str, Any]:
    """Return the native request of a conversation."""
    return native(messages=list(messages), **fields)


def check(call: ChatCall) -> None:
    """See that Google's parser takes a translation: every field known, each value of its type, on one line."""
    fields = msgspec.json.decode(call.body)
    assert is_clean("GenerateContentRequest", fields), list(wrongs("GenerateContentRequest", fields, ""))
    assert b"\n" not in call.body


def generated(call: ChatCall) -> bytes:
    """Return the emulated service's answer to a translation."""
    return posted(f"/v1beta/models/{call.model}:generateContent", call.body)


def posted(path: str, body: bytes) -> bytes:
    """Return what the emulated service answers to a request that it takes."""
    world = World(None, seed=0)
    reply = world.handle(
        Call(
            method="POST",
            path=path,
            query={},
            headers={"x-goog-api-key": "made-up"},
            body=body,
            size_bytes=len(body),
            origin="http://emulator.test",
        ),
        1_800_000_000.0,
    )
    answer: bytes = reply.read()
    assert reply.status == 200, answer
    return answer


def completed(call: ChatCall, answer: Any) -> dict[str, Any]:
    """Return the completion of an answer, given as bytes or as what they say."""
    body = answer if isinstance(answer, bytes) else raw(answer)
    found: dict[str, Any] = msgspec.json.decode(chat_completion(call, body, completion_id="chatcmpl-1", created=7))
    return found


def refusal(**fields: Any) -> Untranslatable:
    """Return the refusal of a body that must be refused; its words name the place, and are a whole sentence."""
    with pytest.raises(Untranslatable) as caught:
        read_chat(raw(chat(**fields)))
    error = caught.value
    assert str(error) == error.message
    assert error.param is not None
    assert error.message.startswith(f"{error.param}: ")
    assert error.message.endswith(". Nothing was sent.")
    return error
