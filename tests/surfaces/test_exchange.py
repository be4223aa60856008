"""Calls answered: identity, routes and deadlines out of headers, joined vectors, what is handed on, what goes wrong."""

from __future__ import annotations

import asyncio
import json
import weakref
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
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
from carpool.surfaces.google import one_vector, several_vectors
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


# -- OpenAI's shapes


def chat(text: str, **more: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}], **more}).encode()


@pytest.mark.parametrize("path", ["/v1beta/openai/chat/completions", "/v1/chat/completions", "/chat/completions"])
async def test_chats_share_a_job_and_are_answered_in_openais_shape(path: str) -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        answers = await asyncio.gather(*(exchange.answer(post(path, chat(text))) for text in prompts(50)))
        for text, answer in zip(prompts(50), answers, strict=True):
            completion = ChatCompletion.model_validate_json(answer.body)
            assert completion.choices[0].message.content == expected_text(text)
            assert answer.headers["x-carpool-route"] == "batch"
        assert len({json.loads(answer.body)["id"] for answer in answers}) == 50
        assert [job.rows for job in jobs_of(emulator)] == [50]


async def test_a_streamed_chat_is_one_event_and_its_end() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        body = chat("hello", stream=True, stream_options={"include_usage": True})
        answer = await Exchange(client).answer(post("/v1/chat/completions", body))
        assert answer.headers["content-type"] == "text/event-stream"
        events = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
        chunks = [ChatCompletionChunk.model_validate_json(event) for event in events[:-1]]
        assert events[-1] == "[DONE]"
        said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert said == expected_text("hello")
        assert chunks[-1].usage


async def test_embeddings_in_openais_shape() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        body = json.dumps({"model": EMBED_MODEL, "input": ["a", "b"], "dimensions": 64}).encode()
        answer = await Exchange(client).answer(post("/v1/embeddings", body))
        found = CreateEmbeddingResponse.model_validate_json(answer.body)
        assert [item.embedding for item in found.data] == [expected_values(text, 64) for text in "ab"]
        assert [job.rows for job in jobs_of(emulator)] == [2]


async def test_what_openais_shape_cannot_say_is_refused_in_openais_words() -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        answer = await exchange.answer(post("/v1/chat/completions", chat("x", logit_bias={"1": 2})))
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["param"], error["type"]) == (400, "logit_bias", "invalid_request_error")
        answer = await exchange.answer(
            post("/v1/chat/completions", chat("x").replace(MODEL.encode(), b"no-such-model"))
        )
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (404, "not_found")
        assert "no-such-model is not found" in error["message"]
        assert exchange.traffic().refused == {"INVALID_ARGUMENT": 1, "NOT_FOUND": 1}


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
        exchange = Exchange(client, deadline="60s")
        answer = await exchange.answer(post(GENERATE, body_of("x"), x_stainless_read_timeout="600"))
        assert answer.headers["x-carpool-route"] == "standard"
        answer = await exchange.answer(post(GENERATE, body_of("y"), x_stainless_read_timeout="86400"))
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


async def test_the_vectors_of_a_call_that_fails_or_goes_away_stay_for_who_asks_again() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        items = [{"content": {"parts": [{"text": text}]}, "outputDimensionality": 64} for text in prompts(30)]
        call = post(EMBED_MANY, json.dumps({"requests": items}).encode())
        first = asyncio.ensure_future(exchange.answer(call))
        await until(lambda: ops_of(emulator)["create"] == 1, "the job")
        first.cancel()
        await asyncio.wait([first])
        again = asyncio.ensure_future(exchange.answer(call))
        await until(lambda: client.stats().reused == 30, "requests joined")
        emulator.let_pass()
        values = [vector["values"] for vector in json.loads((await again).body)["embeddings"]]
        assert values == [expected_values(text, 64) for text in prompts(30)]
        assert emulator.ledger().rows_billed == 30


async def test_nobody_holds_the_body_of_a_call_that_waits() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        item = {"content": {"parts": [{"text": "x"}]}, "outputDimensionality": 64}
        bodies = {
            GENERATE: body_of("x"),
            EMBED_MANY: json.dumps({"requests": [item]}).encode(),
            "/v1/chat/completions": chat("y"),
            "/v1/embeddings": json.dumps({"model": EMBED_MODEL, "input": "y"}).encode(),
        }
        calls = [post(path, body) for path, body in bodies.items()]
        held = [weakref.ref(call) for call in calls]
        waiting = [asyncio.ensure_future(exchange.answer(calls.pop(0))) for _ in range(len(held))]
        await until(lambda: sum(job.rows for job in jobs_of(emulator)) == 4, "the jobs")
        assert [reference() for reference in held] == [None] * 4
        emulator.let_pass()
        assert [(await answer).status for answer in waiting] == [200] * 4


async def test_an_answer_without_a_vector_is_an_error_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:
        exchange = Exchange(client)
        monkeypatch.setattr("carpool.surfaces.exchange.one_vector", lambda _: one_vector(b'{"tokenCount":"1"}'))
        body = json.dumps({"content": {"parts": [{"text": "x"}]}}).encode()
        answer = await exchange.answer(post(f"/v1/models/{EMBED_MODEL}:embedContent", body))
        assert (answer.status, error_of(answer)["status"]) == (400, "FAILED_PRECONDITION")
        with pytest.raises(carpool.RequestFailed):
            several_vectors([b'{"embedding":{"values":[1]}}', b"not even JSON"])


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


async def test_a_reply_that_nobody_takes_gives_its_connection_back() -> None:
    plan = Plan(faults={"models.list.drip": Fault()})  # its end is far
    async with Emulator(plan) as emulator, opened(emulator, canary=False) as client:
        answer = await Exchange(client).answer(Call(method="GET", path="/v1beta/models"))
        assert answer.pieces is not None
        frame: Any = answer.pieces.ag_frame  # type: ignore[attr-defined]
        response = frame.f_locals["response"]
        assert response.connection is not None
        await answer.pieces.aclose()
        assert response.connection is None


# -- bugs


async def test_a_bug_of_ours_is_an_answer_too_and_its_words_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Emulator() as emulator, opened(emulator, canary=False) as client:

        async def broken(*_: object) -> None:
            raise RuntimeError(PROMPT)

        monkeypatch.setattr(client, "begin", broken)
        error = error_of(await Exchange(client).answer(post(GENERATE, body_of("x"))))
        assert (error["code"], error["status"]) == (500, "INTERNAL")
        assert "RuntimeError" in error["message"]
        assert PROMPT not in error["message"] + caplog.text
        assert "a bug of carpool broke the answer to Generate" in caplog.text


async def test_a_closed_client_may_be_asked_again() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, canary=False) as client:
            exchange = Exchange(client)
        answer = await exchange.answer(post(GENERATE, body_of("x")))
        assert (answer.status, error_of(answer)["status"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "5")
