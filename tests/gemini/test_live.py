"""Live calls: what is sent, what comes back in the form of a batch row, and how failures are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.breaker import read_pushback
from carpool._core.model import Fault, Lane
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.encode import Encoder, line
from carpool._gemini.http import Floor, Http
from carpool._gemini.live import EMBEDS_MAX, Answers, Live, model_path, request_of
from carpool._gemini.rows import decode_block
from carpool._ports import ProviderError
from carpool.emulator import Emulator, Plan
from carpool.emulator import Fault as Planned
from carpool.responses import read_usage
from carpool.settings import Route, Settings

MODEL = "gemini-3.5-flash"
EMBED = "gemini-embedding-001"
EMBED_2 = "gemini-embedding-2"
TALKS = Lane("generate", MODEL)
ANSWER = b'{"candidates":[{"content":{"parts":[{"text":"hi"}],"role":"model"}}],"usageMetadata":{"totalTokenCount":3}}'


def generate(text: str = "why?", key: str = "k", **config: Any) -> bytes:
    return line(key, Encoder().generate(MODEL, text, config or None).payload)


def embed(text: str = "why?", key: str = "k", **config: Any) -> bytes:
    return line(key, Encoder().embed(EMBED, text, config or None).payload)


@asynccontextmanager
async def live_at(url: str, settings: Settings | None = None, floor: Floor | None = None) -> AsyncIterator[Live]:
    http = Http(url, "AIzaSECRETcanary0123456789abcdefghijk", settings or Settings(call_timeout_s=5.0), floor)
    await http.open()
    try:
        yield Live(http, "v1beta")
    finally:
        await http.close()


async def asked(tools: Any, answer: Any, call: Callable[[Live], Any]) -> tuple[Any, list[Any]]:
    """Make a call of a server that answers with these bytes; return what came, and what the server was asked."""
    async with tools.Server(answer) as server, live_at(server.url) as live:
        return await call(live), server.asked


async def fault_of(tools: Any, answer: Any, settings: Settings | None = None, **more: Any) -> Fault:
    async with tools.Server(answer) as server, live_at(server.url, settings, more.pop("floor", None)) as live:
        with pytest.raises(ProviderError) as caught:
            await live.call("standard", "generate", MODEL, generate(), **more)
        assert len(server.asked) == 1, "a call is made once"
        return caught.value.fault


def refusal(code: int, message: str, status: str, details: Any = None) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return json.dumps({"error": error | ({"details": details} if details else {})}).encode()


# -- what is sent


async def test_the_request_of_a_line_goes_out_byte_for_byte(tools: Any) -> None:
    payload = Encoder().generate(MODEL, 'Grüße\n\u2028 \\ "', {"temperature": 0.10, "labels": {"a": "b"}}).payload
    for key in ("k", 'a","request":{"', "ключ", ""):
        body, (call,) = await asked(
            tools,
            tools.reply(200, ANSWER),
            lambda live, key=key: live.call("standard", "generate", MODEL, line(key, payload)),
        )
        assert call.body == payload
        assert (call.method, call.target) == ("POST", f"/v1beta/models/{MODEL}:generateContent")
        assert body == ANSWER


async def test_the_server_is_told_how_long_anybody_waits_and_the_key_goes_in_a_header(tools: Any) -> None:
    _, (call,) = await asked(
        tools,
        tools.reply(200, ANSWER),
        lambda live: live.call("standard", "generate", MODEL, generate(), timeout_s=7.2),
    )
    assert call.headers["x-server-timeout"] == "8"
    assert call.headers["x-goog-api-key"] == tools.KEY
    assert tools.KEY not in call.target
    assert call.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("route", "seconds"), [("standard", "600"), ("flex", "1200")])
async def test_a_call_without_a_limit_gets_the_usual_one_of_its_route(tools: Any, route: Route, seconds: str) -> None:
    _, (call,) = await asked(
        tools, tools.reply(200, ANSWER), lambda live: live.call(route, "generate", MODEL, generate())
    )
    assert call.headers["x-server-timeout"] == seconds


async def test_flex_is_a_field_at_the_top_of_the_request(tools: Any) -> None:
    _, (call,) = await asked(
        tools, tools.reply(200, ANSWER), lambda live: live.call("flex", "generate", MODEL, generate())
    )
    assert json.loads(call.body) == json.loads(request_of(generate())) | {"serviceTier": "flex"}
    assert call.body.startswith(request_of(generate())[:-1]), "nothing else is touched"


@pytest.mark.parametrize("spelling", ["serviceTier", "service_tier"])
@pytest.mark.parametrize(("route", "sent"), [("flex", "flex"), ("standard", None)])
async def test_the_route_wins_over_a_tier_in_the_request(
    tools: Any, route: Route, sent: str | None, spelling: str
) -> None:
    payload = json.dumps(
        {spelling: "priority", "contents": [{"parts": [{"text": "serviceTier"}]}], "labels": {"x": "1"}}
    )
    _, (call,) = await asked(
        tools,
        tools.reply(200, ANSWER),
        lambda live: live.call(route, "generate", MODEL, line("k", payload.encode())),
    )
    body = json.loads(call.body)
    assert body.pop("serviceTier", None) == sent
    assert body == {"contents": [{"parts": [{"text": "serviceTier"}]}], "labels": {"x": "1"}}


async def test_words_like_the_tier_inside_a_prompt_change_nothing(tools: Any) -> None:
    row = generate('say "serviceTier" and \\"service_tier\\"')
    _, (call,) = await asked(
        tools, tools.reply(200, ANSWER), lambda live: live.call("standard", "generate", MODEL, row)
    )
    assert call.body == request_of(row)


async def test_one_embedding_goes_alone_and_several_share_a_call(tools: Any) -> None:
    one = b'{"embedding": {"values": [1, 2]}}'
    lane = Lane("embed", EMBED)
    answers, (call,) = await asked(tools, tools.reply(200, one), lambda live: live.send("standard", lane, [embed("a")]))
    assert answers == Answers([one])
    assert (call.target, call.body) == (f"/v1beta/models/{EMBED}:embedContent", request_of(embed("a")))

    many = b'{"embeddings": [{"values": [1]}, {"values": [2]}], "usageMetadata": {"promptTokenCount": 9}}'
    rows = [embed("a"), embed("b", output_dimensionality=1)]
    answers, (call,) = await asked(tools, tools.reply(200, many), lambda live: live.send("standard", lane, rows))
    assert answers == Answers([b'{"embedding":{"values": [1]}}', b'{"embedding":{"values": [2]}}'], 9)
    assert call.target == f"/v1beta/models/{EMBED}:batchEmbedContents"
    expected = [{"model": f"models/{EMBED}"} | json.loads(request_of(row)) for row in rows]
    assert json.loads(call.body) == {"requests": expected}


async def test_an_embedding_that_names_its_model_is_not_named_twice(tools: Any) -> None:
    row = line("k", b'{"content":{"parts":[{"text":"\\"model\\""}]},"model":"models/other"}')
    other = line("k", b'{"content":{"parts":[{"text":"\\"model\\""}]}}')
    many = b'{"embeddings":[{"values":[1]},{"values":[2]}]}'
    answers, (call,) = await asked(tools, tools.reply(200, many), lambda live: live.embed_many(EMBED, [row, other]))
    assert call.body.count(b'"model":') == 2
    assert [request["model"] for request in json.loads(call.body)["requests"]] == ["models/other", f"models/{EMBED}"]
    assert answers.prompt_tokens is None


@pytest.mark.parametrize(
    "call",
    [
        lambda live: live.call("batch", "generate", MODEL, generate()),
        lambda live: live.call("flex", "embed", EMBED, embed()),
        lambda live: live.call("standard", "generate", "../files/x", generate()),
        lambda live: live.call("standard", "generate", "imagen-4", generate()),
        lambda live: live.send("standard", TALKS, [generate(), generate()]),
        lambda live: live.send("standard", TALKS, []),
        lambda live: live.embed_many(EMBED, []),
        lambda live: live.embed_many(EMBED, [embed()] * (EMBEDS_MAX + 1)),
    ],
)
async def test_what_no_server_could_answer_is_not_sent(tools: Any, call: Callable[[Live], Any]) -> None:
    async with tools.Server(tools.reply(200, ANSWER)) as server, live_at(server.url) as live:
        with pytest.raises(ProviderError) as caught:
            await call(live)
        assert server.asked == []
    assert (caught.value.fault.kind, caught.value.fault.error.code) == ("refused", 400)


def test_tuned_models_have_paths_of_their_own() -> None:
    assert model_path("tunedModels/mine") == "tunedModels/mine"
    assert model_path("models/x") == "models/x"


def words() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(key=words(), text=words().filter(bool))
def test_whatever_the_key_and_the_words_the_request_is_found(key: str, text: str) -> None:
    payload = Encoder().generate(MODEL, text, None).payload
    assert request_of(line(key, payload)) == payload


# -- what comes back


async def answered(tools: Any, body: bytes) -> bytes:
    got, _ = await asked(
        tools, tools.reply(200, body), lambda live: live.call("standard", "generate", MODEL, generate())
    )
    return bytes(got)


async def test_an_answer_written_for_people_comes_back_as_a_row_would_hold_it(tools: Any) -> None:
    pretty = json.dumps(json.loads(ANSWER) | {"text": 'a\n b  " \\', "n": 0.10}, indent=2).encode() + b"\n"
    pretty = pretty.replace(b"0.1", b"0.10e0")
    body = await answered(tools, pretty.replace(b"\n", b"\r\n"))
    assert b"\n" not in body
    assert b"0.10e0" in body, "numbers stay as they were written"
    assert json.loads(body) == json.loads(pretty)
    row = decode_block(b'{"key":"k","response":' + body + b"}\n").rows[0]
    assert (bytes(row.response), row.error) == (body, None)


@pytest.mark.parametrize("odd", [r'"\ud83d"', "NaN", "1e999", r'"\ud83d \" \n  x"'])
async def test_odd_values_are_kept_as_they_came(tools: Any, odd: str) -> None:
    body = await answered(tools, b'{\n  "a": ' + odd.encode() + b',\n  "b" : [ 1, 2 ]\n}\n')
    assert body == b'{"a":' + odd.encode() + b',"b":[1,2]}'


@pytest.mark.parametrize(
    "body",
    [ANSWER[:-1], ANSWER[:40], b"", b"[]", b"null", b"<html>", ANSWER + ANSWER, b'{"a":"\xff', b"{" * 50_000],
)
async def test_what_is_not_a_whole_answer_is_none(tools: Any, body: bytes) -> None:
    fault = await fault_of(tools, tools.reply(200, body))
    assert fault.kind == "unknown", "it may have been paid for"
    assert "not a whole JSON object" in fault.error.message
    assert not read_pushback(fault.error).retry_after_s


async def test_an_error_in_place_of_an_answer_is_an_error(tools: Any) -> None:
    fault = await fault_of(tools, tools.reply(200, refusal(503, "The model is overloaded.", "UNAVAILABLE")))
    assert (fault.kind, fault.error.code, fault.error.status) == ("unknown", 503, "UNAVAILABLE")


async def test_an_answer_without_candidates_is_an_answer(tools: Any) -> None:
    blocked = b'{"promptFeedback":{"blockReason":"SAFETY"}}'
    assert await answered(tools, blocked) == blocked


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"embeddings":[{"values":[1]}]}', 1),
        (b'{"embeddings":[{"values":[1]},{"values":[1]},{"values":[1]}]}', 3),
        (b'{"embeddings":[{"values":[1]},null]}', 2),
        (b"{}", 0),
        (b'{"embeddings":null}', 0),
        (b'{"embeddings":{"values":[1]}}', 0),
        (b'{"embeddings":[NaN,1],"x":{}}', 2),
    ],
)
async def test_vectors_that_do_not_match_the_contents_are_none(tools: Any, body: bytes, count: int) -> None:
    async with tools.Server(tools.reply(200, body)) as server, live_at(server.url) as live:
        with pytest.raises(ProviderError) as caught:
            await live.embed_many(EMBED, [embed("a"), embed("b")])
    assert caught.value.fault.error.message == f"the answer holds {count} vectors, not 2"


async def test_vectors_with_odd_numbers_are_kept_as_they_came(tools: Any) -> None:
    body = b'{"embeddings":[\n {"values": [NaN]},{"values":[1]}],"usageMetadata":{"promptTokenCount":"7"}}'
    answers, _ = await asked(tools, tools.reply(200, body), lambda live: live.embed_many(EMBED, [embed(), embed()]))
    assert answers == Answers([b'{"embedding":{"values":[NaN]}}', b'{"embedding":{"values":[1]}}'], 7)


@pytest.mark.parametrize(
    "usage",
    [b'{"promptTokenCount":-5}', b'{"promptTokenCount":[]}', b"[]", b'{"promptTokenCount":1' + b"0" * 20 + b"}"],
)
async def test_counts_that_make_no_sense_are_not_believed(tools: Any, usage: bytes) -> None:
    body = b'{"embeddings":[{"values":[1]},{"values":[2]}],"usageMetadata":' + usage + b"}"
    answers, _ = await asked(tools, tools.reply(200, body), lambda live: live.embed_many(EMBED, [embed(), embed()]))
    assert answers.prompt_tokens is None


# -- how failures are told


async def test_a_refusal_for_quota_says_when_to_ask_again_and_which_quota(tools: Any) -> None:
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaValue": "60"}],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"},
    ]
    fault = await fault_of(tools, tools.reply(429, refusal(429, "quota", "RESOURCE_EXHAUSTED", details)))
    assert (fault.kind, fault.error.details) == ("refused", details)
    pushback = read_pushback(fault.error)
    assert (pushback.retry_after_s, pushback.scope, pushback.quota) == (12.5, "requests_minute", 60)


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        ("30", None, 30.0),
        ("30", [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "5s"}], 5.0),
        ("30", [{"@type": "type.googleapis.com/google.rpc.Help"}], 30.0),
        ("999999999", None, 86_400.0),
        ("-1", None, 0.0),
        ("soon", None, 0.0),
        ("1e9", None, 0.0),
        ("30", {"odd": 1}, 0.0),
    ],
)
async def test_a_header_that_says_when_to_ask_again_counts_where_the_body_does_not(
    tools: Any, header: str, details: Any, seconds: float
) -> None:
    body = refusal(503, "The model is overloaded. Please try again later.", "UNAVAILABLE", details)
    fault = await fault_of(tools, tools.reply(503, body, Retry_After=header))
    assert read_pushback(fault.error).retry_after_s == seconds
    assert read_pushback(fault.error).scope == "overload"


@pytest.mark.parametrize(
    ("asked", "date", "seconds"),
    [
        ("Sat, 21 Nov 2026 10:00:30 GMT", "Sat, 21 Nov 2026 10:00:00 GMT", 30.0),
        ("Saturday, 21-Nov-26 10:00:30 GMT", "Sat, 21 Nov 2026 10:00:00 GMT", 30.0),
        ("Sat, 21 Nov 2026 10:00:00 GMT", "Sat, 21 Nov 2026 10:00:30 GMT", 0.0),
        ("Sat, 21 Nov 9999 10:00:00 GMT", "Sat, 21 Nov 2026 10:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 10:00:30 GMT", "", 0.0),
        ("Sat, 21 Nov 2026 10:00:30 GMT", "Sat, 21 Nov 2026 10:00:00 -0000", 0.0),
        ("Sat, 99 Nov 2026 10:00:30 GMT", "Sat, 21 Nov 2026 10:00:00 GMT", 0.0),
        ("\u0663\u0663", "", 0.0),
    ],
)
async def test_a_date_to_ask_again_counts_from_the_replys_own(
    tools: Any, asked: str, date: str, seconds: float
) -> None:
    fault = await fault_of(tools, tools.reply(503, b"", Retry_After=asked, Date=date))
    assert read_pushback(fault.error).retry_after_s == seconds


async def test_a_redirect_is_not_followed(tools: Any) -> None:
    async with tools.Server(tools.reply(200, ANSWER)) as elsewhere:
        fault = await fault_of(tools, tools.reply(307, b"", Location=f"{elsewhere.url}/x"))
        assert elsewhere.asked == []
    assert (fault.kind, fault.error.code) == ("unknown", 307)


async def test_what_the_server_quotes_of_the_key_is_not_passed_on(tools: Any) -> None:
    fault = await fault_of(tools, tools.reply(400, refusal(400, f"bad key {tools.KEY}", "INVALID_ARGUMENT")))
    assert fault.error.message == "bad key [key]"


async def test_an_answer_above_the_cap_is_not_read(tools: Any, quick: Settings) -> None:
    big = b'{"a":"' + b"x" * 70_000 + b'"}'
    fault = await fault_of(tools, tools.reply(200, big), quick)
    assert "body_bytes_max" in fault.error.message


async def test_a_compressed_answer_is_not_unpacked(tools: Any) -> None:
    fault = await fault_of(tools, tools.reply(200, b"\x1f\x8b", Content_Encoding="gzip"))
    assert "compressed" in fault.error.message


async def test_a_call_ends_at_its_own_limit_also_when_bytes_drip_in(tools: Any) -> None:
    async def drip(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    fault = await fault_of(tools, drip, timeout_s=0.2)
    assert (fault.kind, fault.error.message) == ("unknown", "no answer within the time limit")
    assert read_pushback(fault.error).scope == "overload"


async def test_a_live_call_may_outlast_the_limit_of_other_calls(tools: Any) -> None:
    async def slow(_: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(tools.reply(200, ANSWER))

    settings = Settings(call_timeout_s=0.1)
    floor = Floor(window_s=0.1)
    async with tools.Server(slow) as server, live_at(server.url, settings, floor) as live:
        assert await live.call("flex", "generate", MODEL, generate(), timeout_s=30.0) == ANSWER


async def test_connections_are_used_again(tools: Any) -> None:
    peers: set[Any] = set()

    async def answer(_: Any, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        writer.write(tools.reply(200, ANSWER))

    async with tools.Server(answer) as server, live_at(server.url) as live:
        for _ in range(5):
            await live.call("standard", "generate", MODEL, generate())
    assert len(peers) == 1


async def test_no_connection_is_not_sent() -> None:
    async with live_at("http://127.0.0.1:9") as live:
        with pytest.raises(ProviderError) as caught:
            await live.call("standard", "generate", MODEL, generate())
    assert caught.value.fault.kind == "not_sent"


# -- against the emulator


async def rows_of_a_job(url: str, lane: Lane, rows: Sequence[bytes], tools: Any) -> dict[str, bytes]:
    """Return what a batch job answers to some rows."""
    provider = DeveloperProvider(api_key="AIzaFAKE", base_url=url)
    await provider.open()
    try:
        job = tools.job(lane=lane, form="inline", count=len(rows), file_name="")
        name = await provider.create(job, tools.chunks_of(b"".join(rows)))
        blocks = [block async for block in provider.fetch(await provider.poll(name))]
    finally:
        await provider.close()
    return {row.key: bytes(row.response) for block in blocks for row in block.rows}


async def test_live_answers_have_the_form_of_batch_answers(tools: Any) -> None:
    row = generate("Why is the sky blue?")
    async with Emulator() as emulator, live_at(emulator.base_url) as live:
        bodies = [await live.call(route, "generate", MODEL, row) for route in ("standard", "flex")]
        bodies += (await rows_of_a_job(emulator.base_url, TALKS, [row], tools)).values()
        ledger = emulator.ledger()
    assert {(bill.tier, bill.calls) for bill in ledger.live} == {("standard", 1), ("flex", 1)}
    answers = [json.loads(body) for body in bodies]
    assert len({tuple(sorted(answer)) for answer in answers}) == 1
    assert len({json.dumps(answer["candidates"]) for answer in answers}) == 1
    assert {read_usage(body).prompt_tokens for body in bodies} == {ledger.prompt_tokens}


async def test_live_vectors_have_the_form_of_batch_vectors(tools: Any) -> None:
    lane = Lane("embed", EMBED)
    rows = [embed(f"text {n}", f"k{n}") for n in range(3)]
    async with Emulator() as emulator, live_at(emulator.base_url) as live:
        together = (await live.send("standard", lane, rows)).bodies
        job = await rows_of_a_job(emulator.base_url, lane, rows, tools)
    assert [json.loads(body)["embedding"] for body in together] == [
        json.loads(job[f"k{n}"])["embedding"] for n in range(3)
    ]


@pytest.mark.parametrize("model", [EMBED, EMBED_2])
async def test_a_hundred_embeddings_share_one_call_and_each_is_its_own(model: str) -> None:
    rows = [
        line(f"k{n}", Encoder().embed(model, f"text {n}", {"output_dimensionality": 8}).payload) for n in range(100)
    ]
    async with Emulator() as emulator, live_at(emulator.base_url) as live:
        together = await live.send("standard", Lane("embed", model), rows)
        alone = [await live.call("standard", "embed", model, row) for row in rows[:3]]
        assert [str(call.op) for call in emulator.requests] == ["embed_many", *["embed"] * 3]
    vectors = [json.loads(body)["embedding"] for body in together.bodies]
    assert len(vectors) == 100
    assert vectors[:3] == [json.loads(body)["embedding"] for body in alone]
    told = together.prompt_tokens
    assert (told is None) == (model == EMBED), "the older model tells no tokens"


@pytest.mark.parametrize(
    ("fault", "code", "scope", "seconds"),
    [
        ("generate.429", 429, "requests_minute", 12.0),
        ("generate.503", 503, "overload", 0.0),
        ("generate.504", 504, "overload", 0.0),
        ("generate.500", 500, "overload", 0.0),
        ("generate.503_empty", 503, "overload", 0.0),
        ("generate.502_html", 502, "overload", 0.0),
        ("generate.dropped", 0, "overload", 0.0),
        ("generate.400", 400, "none", 0.0),
    ],
)
async def test_the_emulators_faults_are_told_for_what_they_are(
    fault: str, code: int, scope: str, seconds: float
) -> None:
    async with Emulator(plan=Plan(faults={fault: Planned()})) as emulator, live_at(emulator.base_url) as live:
        with pytest.raises(ProviderError) as caught:
            await live.call("standard", "generate", MODEL, generate())
        assert len(emulator.requests) == 1
    error = caught.value.fault.error
    pushback = read_pushback(error)
    assert (error.code, pushback.scope, pushback.retry_after_s) == (code, scope, seconds)
