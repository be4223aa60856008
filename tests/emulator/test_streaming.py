"""streamGenerateContent: pieces that together are the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carpool.emulator import expected_text

from .driver import MODEL, Driver, prompt

STREAM = f"/v1beta/models/{MODEL}:streamGenerateContent"


def events(world: Driver, body: Any) -> list[Any]:
    reply = world.call("POST", STREAM, body, query={"alt": "sse"})
    raw = reply.read().decode()
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/event-stream")
    *pieces, rest = raw.split("\r\n\r\n")
    assert rest == ""
    assert all(piece.startswith("data: ") for piece in pieces)
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces]


def texts(pieces: list[Any]) -> list[str]:
    return [piece["candidates"][0]["content"]["parts"][0]["text"] for piece in pieces]


def test_events_together_are_the_answer() -> None:
    world = Driver()
    pieces = events(world, prompt("Why?"))
    whole = world.ok("POST", f"/v1beta/models/{MODEL}:generateContent", prompt("Why?"))

    assert len(pieces) > 1
    assert "".join(texts(pieces)) == expected_text("Why?")
    assert pieces[-1]["usageMetadata"] == whole["usageMetadata"]
    assert ["finishReason" in piece["candidates"][0] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {piece["responseId"] for piece in pieces} == {whole["responseId"]}
    assert {piece["usageMetadata"]["promptTokenCount"] for piece in pieces} == {1}
    assert world.ledger().live_calls == 2


def test_without_events_it_is_one_array() -> None:
    world = Driver()
    pieces = world.ok("POST", STREAM, prompt("Why?"))
    assert pieces == events(world, prompt("Why?"))


def test_thoughts_come_before_the_text_and_calls_are_not_cut() -> None:
    world = Driver()
    pieces = events(world, prompt("x", generationConfig={"thinkingConfig": {"includeThoughts": True}}))
    thoughts = [piece["candidates"][0]["content"]["parts"][0].get("thought", False) for piece in pieces]
    assert thoughts == sorted(thoughts, reverse=True)
    assert set(thoughts) == {True, False}
    tools = [{"functionDeclarations": [{"name": "f"}]}]
    (call,) = events(world, prompt("x", tools=tools, toolConfig={"functionCallingConfig": {"mode": "ANY"}}))
    assert call["candidates"][0]["content"]["parts"] == [{"functionCall": {"name": "f", "args": {}}}]


def test_candidates_are_told_apart_by_their_index() -> None:
    world = Driver()
    pieces = events(world, prompt("x", generationConfig={"candidateCount": 2}))
    joined = {0: "", 1: ""}
    for piece in pieces:
        for candidate in piece["candidates"]:
            joined[candidate["index"]] += "".join(part["text"] for part in candidate["content"].get("parts", []))
    whole = world.ok(
        "POST", f"/v1beta/models/{MODEL}:generateContent", prompt("x", generationConfig={"candidateCount": 2})
    )
    assert joined == {one["index"]: one["content"]["parts"][0]["text"] for one in whole["candidates"]}


def test_a_blocked_prompt_is_one_piece_without_candidates() -> None:
    (piece,) = events(Driver(), prompt("x [[blocked:SAFETY]]"))
    assert piece["promptFeedback"] == {"blockReason": "SAFETY"}
    assert "candidates" not in piece


@pytest.mark.parametrize("alt", ["sse", ""])
def test_errors_come_before_the_first_piece(alt: str) -> None:
    reply = Driver().call("POST", STREAM, prompt("[[error:503:no]]"), query={"alt": alt} if alt else {})
    body = json.loads(reply.read())
    assert reply.status == 503
    assert (body if alt else body[0])["error"]["message"] == "no"
    assert Driver().error("POST", "/v1beta/models/palm:streamGenerateContent", prompt("x"))["code"] == 404
