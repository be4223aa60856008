"""Answers in pieces.

Owns streamGenerateContent: how an answer is cut, and the two forms in which the pieces travel: server-sent events with
``alt=sse``, else one JSON array. It must not know how an answer is made. The pieces together are what generateContent
answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from .fields import as_list, as_object
from .messages import JSON_TYPE, ApiError, Json, JsonObject, Reply
from .models import Live

_PIECES: Final = 3
_SSE: Final = "sse"


def pieces_of(response: JsonObject) -> list[JsonObject]:
    """Cut an answer.

    The last piece alone has finish reasons, what tools add, and the whole usage; those before it tell the prompt's.

    Args:
        response: a GenerateContentResponse.
    """
    shared = {name: response[name] for name in ("modelVersion", "responseId")}
    usage = as_object(response["usageMetadata"])
    prompt = {name: usage[name] for name in ("promptTokenCount", "promptTokensDetails")}
    early: Json = {**prompt, "totalTokenCount": usage["promptTokenCount"]}
    pieces: list[JsonObject] = []
    last: list[Json] = []
    for one in as_list(response.get("candidates")):
        candidate = as_object(one)
        content = as_object(candidate["content"])
        cut = _cut(as_list(content.get("parts")))
        before, ending = cut[:-1], cut[-1] if cut else []
        for parts in before:
            piece: JsonObject = {"content": {**content, "parts": parts}, "index": candidate["index"]}
            pieces.append({"candidates": [piece], "usageMetadata": early, **shared})
        last.append({**candidate, "content": {**content, "parts": ending} if ending else {"role": "model"}})
    rest = {name: value for name, value in response.items() if name != "candidates"}
    return [*pieces, {"candidates": last, **rest} if last else rest]


def _cut(parts: list[Json]) -> list[list[Json]]:
    """Return the parts in the order of their pieces; texts are cut at words."""
    cut: list[list[Json]] = []
    for part in parts:
        text = as_object(part).get("text")
        if isinstance(text, str):
            cut.extend([as_object(part) | {"text": piece}] for piece in _cut_text(text))
        else:
            cut.append([part])
    return cut


def _cut_text(text: str) -> list[str]:
    step = max(1, -(-len(text) // _PIECES))
    cuts: list[str] = []
    start = 0
    while start < len(text):
        space = text.find(" ", start + step)
        end = len(text) if space < 0 else space
        cuts.append(text[start:end])
        start = end
    return cuts or [text]


def stream(live: Live) -> Reply:
    """Answer streamGenerateContent.

    Args:
        live: the call.

    Raises:
        ApiError: as :meth:`Live.answer`, where the caller asked for events; an array holds its error itself.
    """
    events = live.call.query.get("alt") == _SSE
    try:
        outcome, headers = live.answer()
    except ApiError as error:
        if events:
            raise
        # That the envelope stands in an array too is not established.
        reply = error.reply()
        return msgspec.structs.replace(reply, body=b"[" + reply.read() + b"]")
    pieces = pieces_of(outcome.response)
    if events:
        return Reply(body=_events(pieces), headers={"Content-Type": "text/event-stream", **headers})
    return Reply(body=_array(pieces), headers={"Content-Type": JSON_TYPE, **headers})


def _events(pieces: list[JsonObject]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"data: " + msgspec.json.encode(piece) + b"\r\n\r\n"


def _array(pieces: list[JsonObject]) -> Iterator[bytes]:
    for number, piece in enumerate(pieces):
        yield (b",\r\n" if number else b"[") + msgspec.json.encode(piece)
    yield b"]"
