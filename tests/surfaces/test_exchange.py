"""Calls answered: identity, routes and deadlines out of headers, joined vectors, what is handed on, what goes wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.canary import API_KEY, PROMPT
from tests.end_to_end.support import (
    EMBED_MODEL,
    HOUR_S,
    MODEL,
    TimedEmulator,
    jobs_of,
    opened,
    ops_of,
    prompts,
    quick,
    until,
)

import carpool
from carpool import Client
from carpool.emulator import Emulator, Fault, Plan, expected_text, expected_values
from carpool.surfaces.exchange import Exchange
from carpool.surfaces.messages import Answer, Call

GENERATE = f"/v1beta/models/{MODEL}:generateContent"
EMBED_MANY = f"/v1beta/models/{EMBED_MODEL}:batchEmbedContents"


def body_of(text: str, **more: Any) -> bytes:
    return json.dumps({"contents": [{"parts": [{"text": text}], "role": "user"}], **more}).encode()


def post(path: str, body: bytes, query: str = "", **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call(method="POST", path=path, query=query, body=body, headers=named, origin="http://127.0.0.1:1")


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.body)["error"]
    assert error["code"] == answer.status
    return error


def text_of(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["candidates"][0]["content"]["parts"][0]["text"])


async def whole(answer: Answer) -> bytes:
    assert answer.pieces is not None
    return answer.body + b"".join([piece async for piece in answer.pieces])


# -- shapes


async def test_a_stream_is_an_array_unless_events_are_asked_for() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        stream = f"/v1beta/models/{MODEL}:streamGenerateContent"
        array, events = await asyncio.gather(
            exchange.answer(post(stream, body_of("a"))), exchange.answer(post(stream, body_of("b"), "alt=sse"))
        )
        assert array.headers["content-type"].startswith("application/json")
        [found] = json.loads(array.body)
        assert found["candidates"][0]["content"]["parts"][0]["text"] == expected_text("a")
        assert events.headers["content-type"] == "text/event-stream"
        assert events.body.startswith(b"data: {")
        assert events.body.endswith(b"}\r\n\r\n")
        assert events.body.count(b"\n") == 2


async def test_the_model_that_a_body_repeats_is_none_of_the_request() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        answer = await exchange.answer(post(GENERATE, body_of("hello", model=f"models/{MODEL}")))
        assert text_of(answer) == expected_text("hello")
        item = {"model": f"models/{EMBED_MODEL}", "content": {"parts": [{"text": "x"}]}, "outputDimensionality": 64}
        path = f"/v1/models/{EMBED_MODEL}:embedContent"
        answer = await exchange.answer(post(path, json.dumps(item).encode()))
        assert json.loads(answer.body) == {"embedding": {"values": expected_values("x", 64)}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "requests"),
        (b"[]", "requests"),
        (b'{"requests":[7]}', "requests"),
        (b'{"requests":[{"model":"models/other","content":{"parts":[{"text":"x"}]}}]}', "another model"),
        (b'{"requests":[{"contents":{"parts":[{"text":"x"}]}}]}', "content"),
    ],
)
async def test_vectors_that_cannot_be_asked_for_are_refused(body: bytes, words: str) -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        error = error_of(await exchange.answer(post(EMBED_MANY, body)))
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        assert words in error["message"]
        assert exchange.traffic().refused == {"INVALID_ARGUMENT": 1}


async def test_one_vector_that_fails_is_the_error_of_its_call_and_of_no_other() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)

        def call(*texts: str) -> Call:
            items = [{"content": {"parts": [{"text": text}]}, "outputDimensionality": 64} for text in texts]
            items[-1]["outputDimensionality"] = 99_999_999 if texts[-1] == "bad" else 64
            return post(EMBED_MANY, json.dumps({"requests": items}).encode())

        good, bad = await asyncio.gather(exchange.answer(call("a", "b")), exchange.answer(call("c", "bad")))
        values = [vector["values"] for vector in json.loads(good.body)["embeddings"]]
        assert values == [expected_values(text, 64) for text in "ab"]
        assert error_of(bad)["code"] == 400


# -- headers


async def test_a_key_of_the_caller_makes_a_call_one_and_the_same(tmp_path: Any) -> None:
    async with Emulator() as emulator:
        for _ in range(2):
            async with opened(emulator, home=tmp_path, canary=False) as client:
                exchange = Exchange(client)
                answers = await asyncio.gather(
                    *(exchange.answer(post(GENERATE, body_of("x"), x_carpool_key="k")) for _ in range(3))
                )
                assert {text_of(answer) for answer in answers} == {expected_text("x")}
                items = [{"content": {"parts": [{"text": text}]}, "outputDimensionality": 64} for text in "ab"]
                many = post(EMBED_MANY, json.dumps({"requests": items}).encode(), x_carpool_key="v")
                assert (await exchange.answer(many)).status == 200
                other = await exchange.answer(post(GENERATE, body_of("y"), x_carpool_key="k"))
                assert (other.status, error_of(other)["status"]) == (400, "ALREADY_EXISTS")
        assert answers[0].headers["x-carpool-reused"] == "true"
        assert answers[0].headers["x-carpool-cost"] == "0"
        assert sum(job.rows for job in jobs_of(emulator)) == 3


async def test_ladder_and_deadline_of_a_call() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False, ladder=None) as client:
        exchange = Exchange(client, ladder=("flex",))
        routes = {
            "": {},
            "standard": {"x_carpool_ladder": "standard"},
            "fast": {"x_carpool_ladder": " FAST"},
            "cheap": {"x_carpool_ladder": "cheap", "x_carpool_deadline": "30"},
        }
        found = {}
        for name, headers in routes.items():
            answer = await exchange.answer(post(GENERATE, body_of(f"x{name}"), **headers))
            found[name] = answer.headers["x-carpool-route"]
        assert found == {"": "flex", "standard": "standard", "fast": "standard", "cheap": "standard"}
        for headers in ({"x_carpool_ladder": "ladder"}, {"x_carpool_deadline": "soon"}, {"x_carpool_deadline": "-5"}):
            assert error_of(await exchange.answer(post(GENERATE, body_of("z"), **headers)))["code"] == 400


async def test_the_default_deadline_is_for_calls_that_say_nothing() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False, ladder=None) as client:
        exchange = Exchange(client, deadline="60s", patient=True)
        answer = await exchange.answer(post(GENERATE, body_of("x"), x_stainless_read_timeout="86400"))
        assert answer.headers["x-carpool-route"] == "standard"
        impatient = Exchange(client, deadline="60s")
        answer = await impatient.answer(post(GENERATE, body_of("y"), x_stainless_read_timeout="86400"))
        assert answer.headers["x-carpool-route"] == "batch"


# -- callers that go away


async def test_a_caller_that_went_away_gets_its_own_request_back() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        calls = [asyncio.ensure_future(exchange.answer(post(GENERATE, body_of(text)))) for text in prompts(20)]
        await until(lambda: ops_of(emulator)["create"] == 1, "the job")
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        again = [asyncio.ensure_future(exchange.answer(post(GENERATE, body_of(text)))) for text in prompts(20)]
        await until(lambda: client.stats().reused == 20, "requests joined")
        emulator.let_pass()
        answers = await asyncio.gather(*again)
        assert [text_of(answer) for answer in answers] == [expected_text(text) for text in prompts(20)]
        assert emulator.ledger().rows_billed == 20


# -- what is handed on


async def test_what_no_batch_takes_is_handed_on_and_counted() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        schema = {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object", "if": {}}}
        answer = await exchange.answer(post(GENERATE, body_of("x", generationConfig=schema)))
        assert (answer.status, answer.headers["x-carpool-route"]) == (200, "passed")
        assert json.loads(await whole(answer))["candidates"]
        listed = await exchange.answer(Call(method="GET", path="/v1beta/models", headers={}))
        assert json.loads(await whole(listed))["models"]
        await exchange.answer(post(GENERATE, body_of("y")))
        traffic = exchange.traffic()
        assert traffic.asked == {"generate": 1}
        assert traffic.passed == {"POST models:generateContent": 1, "GET models": 1}
        assert ops_of(emulator)["generate"] == 1


async def test_urls_for_an_upload_lead_back_here() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        start = {
            "x_goog_upload_protocol": "resumable",
            "x_goog_upload_command": "start",
            "x_goog_upload_header_content_length": "5",
            "x_goog_upload_header_content_type": "text/plain",
        }
        exchange = Exchange(client)
        begun = await exchange.answer(post("/upload/v1beta/files", b'{"file":{"mimeType":"text/plain"}}', **start))
        await whole(begun)
        url = begun.headers["x-goog-upload-url"]
        assert url.startswith("http://127.0.0.1:1/upload/v1beta/files?")
        path, _, query = url.removeprefix("http://127.0.0.1:1").partition("?")
        last = post(path, b"hello", query, x_goog_upload_command="upload, finalize", x_goog_upload_offset="0")
        done = await exchange.answer(last)
        assert json.loads(await whole(done))["file"]["sizeBytes"] == "5"


@pytest.mark.parametrize("target", ["v1beta/models", "/v1beta/\nmodels", "/v1beta/\u00e9"])
async def test_a_path_that_is_none_is_refused(target: str) -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        error = error_of(await Exchange(client).answer(Call(method="GET", path=target)))
        assert error["code"] in (400, 404)


async def test_a_service_that_cannot_be_reached_may_be_asked_again() -> None:
    client = Client(api_key=API_KEY, base_url="http://127.0.0.1:9", store=carpool.MemoryStore(), settings=quick())
    async with client:
        answer = await Exchange(client).answer(Call(method="GET", path="/v1beta/models"))
        assert error_of(answer)["status"] == "UNAVAILABLE"
        assert answer.status == 503


async def test_a_reply_that_never_begins_may_have_taken_effect() -> None:
    plan = Plan(faults={"models.list.dropped": Fault()})
    async with Emulator(plan) as emulator, opened(emulator, canary=False) as client:
        answer = await Exchange(client).answer(Call(method="GET", path="/v1beta/models"))
        assert (answer.status, error_of(answer)["status"]) == (502, "UNKNOWN")


async def test_a_reply_that_was_packed_unasked_is_none() -> None:
    plan = Plan(faults={"models.list.gzip_bomb": Fault()})
    async with Emulator(plan) as emulator, opened(emulator, canary=False) as client:
        answer = await Exchange(client).answer(Call(method="GET", path="/v1beta/models"))
        assert (answer.status, "compressed" in error_of(answer)["message"]) == (502, True)


# -- bugs


async def test_a_bug_of_ours_is_an_answer_too_and_its_words_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:

        async def broken(*_: object) -> None:
            raise RuntimeError(PROMPT)

        monkeypatch.setattr(client, "ask", broken)
        error = error_of(await Exchange(client).answer(post(GENERATE, body_of("x"))))
        assert (error["code"], error["status"]) == (500, "INTERNAL")
        assert "RuntimeError" in error["message"]
        assert PROMPT not in error["message"] + caplog.text
        assert "a bug of carpool broke the answer to POST models:generateContent" in caplog.text


async def test_a_closed_client_may_be_asked_again() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, canary=False) as client:
            exchange = Exchange(client)
        answer = await exchange.answer(post(GENERATE, body_of("x")))
        assert (answer.status, error_of(answer)["status"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "5")
