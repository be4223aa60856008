"""Native answers in OpenAI's shapes: completions, streams, embeddings, errors.

Owns their envelopes. It must not know how answers came.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from math import nan
from typing import Any, Final

import msgspec

from carpool.responses import decode_json, read_usage
from carpool.surfaces.openai.choices import read_answer, to_json
from carpool.surfaces.openai.requests import ChatCall, EmbeddingsCall
from carpool.surfaces.openai.values import is_list, is_object

_DONE: Final = b"data: [DONE]\n\n"
_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


class _Values(msgspec.Struct, frozen=True, gc=False):
    values: list[float]


class _Embedded(msgspec.Struct, frozen=True, gc=False):
    embedding: _Values


_embedded: Final = msgspec.json.Decoder(_Embedded)


def chat_completion(call: ChatCall, answer: bytes, *, completion_id: str, created: int) -> bytes:
    """Return an answer as a whole ``chat.completion``.

    Args:
        call: that it answers.
        answer: of ``generateContent``, as the service sent it; odd ones do not raise.
        completion_id: the completion's id.
        created: seconds since 1970.
    """
    told = read_answer(answer)
    choices = [
        {"index": one.index, "message": one.message, "logprobs": one.logprobs, "finish_reason": one.finish_reason}
        for one in told.choices
    ]
    envelope = _envelope(call, "chat.completion", completion_id, created)
    return to_json({**envelope, "choices": choices, "usage": told.usage})


def chat_events(call: ChatCall, answer: bytes, *, completion_id: str, created: int) -> bytes:
    """Return an answer as a whole stream of server-sent events: for each choice all at once, then how it ended.

    Args:
        call: that it answers; the tokens are told at the end if it asks for them.
        answer: of ``generateContent``, as the service sent it; odd ones do not raise.
        completion_id: the completion's id.
        created: seconds since 1970.
    """
    told = read_answer(answer)
    envelope = _envelope(call, "chat.completion.chunk", completion_id, created)
    chunks: list[list[dict[str, Any]]] = []
    for one in told.choices:
        delta = dict(one.message)
        if "tool_calls" in delta:
            delta["tool_calls"] = [{"index": place, **item} for place, item in enumerate(delta["tool_calls"])]
        chunks.append([{"index": one.index, "delta": delta, "logprobs": one.logprobs, "finish_reason": None}])
        chunks.append([{"index": one.index, "delta": {}, "logprobs": None, "finish_reason": one.finish_reason}])
    open_usage: dict[str, Any] = {"usage": None} if call.include_usage else {}
    events = [_event({**envelope, "choices": choices, **open_usage}) for choices in chunks]
    if call.include_usage:
        events.append(_event({**envelope, "choices": [], "usage": told.usage}))
    return b"".join((*events, _DONE))


def embeddings_list(call: EmbeddingsCall, answers: Sequence[bytes]) -> bytes:
    """Return the answers to a call's requests as one list.

    Args:
        call: that they answer.
        answers: of ``embedContent``, as the service sent them, in the order of ``call.bodies``; odd ones do not raise,
            and have an empty vector.
    """
    data: list[dict[str, Any]] = []
    tokens = 0
    for index, answer in enumerate(answers):
        values = _vector(answer)
        embedding = _packed(values) if call.base64 else values
        data.append({"object": "embedding", "index": index, "embedding": embedding})
        tokens += read_usage(answer).prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"object": "list", "data": data, "model": call.asked, "usage": usage})


def error_body(
    status: int, message: str, *, kind: str = "", param: str | None = None, code: str | None = None
) -> bytes:
    """Return an error as OpenAI's clients read it.

    Args:
        status: HTTP status.
        message: what is wrong, and what to do.
        kind: OpenAI's ``type``; by the status where it is not given.
        param: place in the request.
        code: word for programs.
    """
    kind = kind or _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return to_json({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _envelope(call: ChatCall, kind: str, completion_id: str, created: int) -> dict[str, Any]:
    return {"id": completion_id, "object": kind, "created": created, "model": call.asked}


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + to_json(fields) + b"\n\n"


def _vector(answer: bytes) -> list[float]:
    try:
        return _embedded.decode(answer).embedding.values
    except (ValueError, RecursionError):
        return _salvaged(answer)


def _salvaged(answer: bytes) -> list[float]:
    """Return the vector of an answer that the strict decoder refuses; empty if there is none."""
    try:
        found = decode_json(answer)
    except (ValueError, RecursionError):
        return []
    for name in ("embedding", "values"):
        found = found.get(name) if is_object(found) else None
    return [_number(value) for value in found] if is_list(found) else []


def _number(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else nan
    except OverflowError:
        return nan


def _packed(values: list[float]) -> str:
    """Return numbers of 32 bits, little-endian, in base64."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode("ascii")
