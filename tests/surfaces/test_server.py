"""The sidecar over real sockets: calls come through whole, callers are held, and nobody gets half an answer for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from carpool.errors import ConfigurationError
from carpool.surfaces.messages import SSE, Answer
from carpool.surfaces.sidecar.limits import Limits
from carpool.surfaces.sidecar.server import Sidecar
from carpool.types import Health

from .sidecars import OK, Desk, House, house, until

PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


async def test_a_call_comes_through_whole_and_without_what_is_not_for_the_service() -> None:
    async with house(Desk(OK)) as place:
        reply = await place.ask(
            place.post(
                "/v1beta/models/a%20b:generateContent?alt=sse&key=AIza-somebody-elses&x=%26",
                "X-Goog-Api-Key: AIza-somebody-elses-too",
                "Authorization: Bearer AIza-and-another",
                "Cookie: session=1",
                "X-Carpool-Deadline: 4h",
                "X-Twice: one",
                "X-Twice: two",
                "Connection: keep-alive, X-Hop",
                "X-Hop: mine",
                body=b'{"contents":[]}',
            )
        )
        assert (reply.status, reply.body) == (200, OK.body)
        assert reply.headers["server"] == "carpool"
        (call,) = place.desk.calls
        assert (call.method, call.path) == ("POST", "/v1beta/models/a%20b:generateContent")
        assert call.query == "alt=sse&x=%26"
        assert call.body == b'{"contents":[]}'
        assert call.headers == {"x-carpool-deadline": "4h", "x-twice": "one, two"}
        assert call.origin == place.sidecar.url


async def test_a_connection_serves_many_requests_and_pipelined_ones_in_their_order() -> None:
    async with house() as place:
        caller = await place.caller()
        await caller.send(b"".join(place.post(f"/{number}") for number in range(3)))
        for number in range(3):
            await until(lambda path=f"/{number}": path in place.desk.pending)
            place.give(f"/{number}", Answer(status=200, body=b"%d" % number))
            assert (await caller.reply()).body == b"%d" % number
        assert place.seen["opened"] == 1


# -- interim responses


async def test_who_waits_gets_a_sign_of_life_every_15_seconds_and_then_the_real_status() -> None:
    async with house() as place:
        caller = await place.asked()
        for _ in range(4):
            place.pass_time(14.9)
            place.pass_time(0.1)
        place.give(answer=Answer(status=404, body=b"gone"))
        assert await caller.reader.readexactly(4 * len(PROCESSING)) == 4 * PROCESSING
        assert (await caller.head())[0] == 404
        assert place.seen["interim"] == 4


async def test_one_timer_tells_all_who_wait_each_after_its_own_15_seconds() -> None:
    async with house() as place:
        first = await place.asked("/1")
        place.clock.now += 10
        second = await place.asked("/2")
        place.pass_time(5)
        assert await first.reader.readexactly(len(PROCESSING)) == PROCESSING
        assert place.seen["interim"] == 1
        place.pass_time(10)
        assert await second.reader.readexactly(len(PROCESSING)) == PROCESSING
        assert place.seen["interim"] == 2


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("User-Agent: python-requests/2.34.2", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("User-Agent: Python-urllib/3.11", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("User-Agent: google-genai-sdk/3.4.0 gl-python/3.11.7", PROCESSING),
        ("User-Agent: Go-http-client/1.1", b""),
        ("User-Agent: google-genai-sdk/1.30.0 gl-go/go1.23.4", b""),
        ("X-Carpool-Interim: none", b""),
        ("X-Carpool-Interim: 100", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
async def test_callers_get_what_they_can_read(header: str, expected: bytes) -> None:
    async with house() as place:
        caller = await place.asked("/v1beta/x", header)
        place.pass_time(15)
        place.pass_time(15)
        place.give(answer=Answer(status=200, body=b"!"))
        got = await caller.reader.readuntil(b"!")
        assert got.startswith(2 * expected + b"HTTP/1.1 200 OK\r\n")


async def test_http_1_0_knows_no_interim_responses() -> None:
    async with house() as place:
        caller = await place.caller()
        await caller.send(place.head("POST /v1beta/x HTTP/1.0", "Content-Length: 2") + b"{}")
        await until(lambda: place.connections.waiting == 1)
        place.pass_time(15)
        place.give()
        got = await caller.rest()
        assert got.startswith(b"HTTP/1.0 200 OK\r\n")
        assert got.endswith(OK.body)


async def test_an_unknown_kind_of_interim_response_is_refused() -> None:
    async with house(Desk(OK)) as place:
        reply = await place.ask(place.post("/v1beta/x", "X-Carpool-Interim: 103"))
        assert (reply.status, json.loads(reply.body)["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_nothing_comes_between_the_pieces_of_an_answer() -> None:
    more = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"data: 1\r\n\r\n"
        await more.wait()
        yield b"data: 2\r\n\r\n"

    async with house(limits=Limits(grace_s=0, connections_max=200, bytes_per_s_min=0.001)) as place:
        caller = await place.asked()
        place.pass_time(15)
        place.give(answer=Answer(status=200, headers=SSE, pieces=pieces()))
        await caller.reader.readuntil(b"data: 1\r\n\r\n")
        for _ in range(3):
            place.pass_time(15)
        more.set()
        got = await caller.reader.readuntil(b"0\r\n\r\n")
        assert got == b"\r\nb\r\ndata: 2\r\n\r\n\r\n0\r\n\r\n"
        assert place.seen["interim"] == 1


async def test_a_caller_that_waits_unheard_of_gets_its_request_cancelled() -> None:
    async with house() as place:
        caller = await place.asked()
        caller.close()
        await until(lambda: place.desk.cancelled == ["/v1beta/x"])
        await until(lambda: len(place.connections) == 0)
        assert place.seen["gone"] == 1
        place.pass_time(15)
        assert place.seen["interim"] == 0


# -- answers


async def test_an_answer_in_pieces_is_sent_as_it_comes() -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async with house(Desk(Answer(status=200, body=b"begin", pieces=pieces()))) as place:
        caller = await place.caller()
        await caller.send(place.post())
        assert (await caller.head())[1]["transfer-encoding"] == "chunked"
        assert await caller.reader.readuntil(b"0\r\n\r\n") == b"5\r\nbegin\r\n1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"


async def test_half_an_answer_cannot_be_taken_for_a_whole_one(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[bool] = []

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            yield b"half"
            raise RuntimeError("the service went away")
        finally:
            closed.append(True)

    async with house(Desk(Answer(status=200, pieces=pieces()))) as place:
        caller = await place.caller()
        await caller.send(place.post())
        await caller.head()
        assert not (await caller.rest()).endswith(b"0\r\n\r\n")
    assert closed == [True]
    assert "an answer broke off: RuntimeError" in caplog.text


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204)])
async def test_an_answer_that_has_no_body_closes_its_pieces(method: str, status: int) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield b"never sent"

    given = pieces()
    async with house(Desk(Answer(status=status, pieces=given))) as place:
        caller = await place.caller()
        await caller.send(place.head(f"{method} /v1beta/files HTTP/1.1") + place.get("/carpool/health"))
        assert (await caller.head())[0] == status
        assert (await caller.reply()).body == b'{"status":"ok","reasons":[]}'
        assert given.ag_frame is None


async def test_a_bug_behind_is_an_error_of_ours_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    async with house(Desk(ValueError("the canary sings in the dark"))) as place:
        reply = await place.ask(place.post())
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["code"], error["status"]) == (500, 500, "INTERNAL")
    assert "ValueError" in error["message"]
    assert "canary" not in error["message"] + caplog.text
    assert "a bug of carpool broke the answer" in caplog.text


async def test_an_error_of_the_network_behind_is_not_taken_for_a_caller_that_went_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(Desk(ConnectionResetError("upstream"))) as place:
        assert (await place.ask(place.post())).status == 500
    assert "a bug of carpool" in caplog.text


# -- pages of its own


async def test_its_pages_tell_how_it_does() -> None:
    health = Health(status="degraded", reasons=["disk_low: 1 GB left"])
    async with house(Desk(OK), health=lambda: health, receipt=lambda: {"paid_usd": 1}) as place:
        reply = await place.ask(place.get("/carpool/health"))
        assert (reply.status, json.loads(reply.body)["reasons"]) == (200, ["disk_low: 1 GB left"])
        assert json.loads((await place.ask(place.get("/carpool/receipt"))).body) == {"paid_usd": 1}
        await place.ask(place.post())
        reply = await place.ask(place.get("/carpool/metrics"))
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b'carpool_sidecar_answers_total{code="200"} 3\n' in reply.body
        assert (await place.ask(place.get("/carpool/nothing"))).status == 404
        reply = await place.ask(place.post("/carpool/health"))
        assert (reply.status, reply.headers["allow"]) == (405, "get, head")
        assert len(place.desk.calls) == 1


async def test_a_client_that_has_failed_makes_the_sidecar_unhealthy() -> None:
    async with house(health=lambda: Health(status="failed", reasons=["store: full"])) as place:
        assert (await place.ask(place.get("/carpool/health"))).status == 503


async def test_where_a_token_is_due_the_pages_want_it_too_and_health_tells_no_details_without() -> None:
    health = Health(status="degraded", reasons=["a detail"])
    async with house(token="sesame-0123456789", health=lambda: health) as place:
        assert json.loads((await place.ask(place.get("/carpool/health"))).body) == {"status": "degraded"}
        assert (await place.ask(place.get("/carpool/metrics"))).status == 401
        assert (await place.ask(place.get("/carpool/receipt"))).status == 401
        told = await place.ask(place.get("/carpool/health", "X-Carpool-Token: sesame-0123456789"))
        assert json.loads(told.body)["reasons"] == ["a detail"]


# -- its life


async def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    async with house() as place:
        with pytest.raises(OSError, match="in use"):
            await Sidecar(Desk(), port=place.sidecar.port).start()


async def test_it_listens_on_all_addresses_of_a_name() -> None:
    async with house(Desk(OK), host="localhost") as place:
        assert (await place.ask(place.post(host=f"localhost:{place.sidecar.port}"))).status == 200
        assert place.sidecar.url in (f"http://127.0.0.1:{place.sidecar.port}", f"http://[::1]:{place.sidecar.port}")


async def test_a_sidecar_is_started_once_and_has_no_url_before() -> None:
    sidecar = Sidecar(Desk())
    with pytest.raises(RuntimeError, match="not started"):
        _ = sidecar.url
    async with sidecar:
        with pytest.raises(RuntimeError, match="started once"):
            await sidecar.start()
    await sidecar.stop()


async def test_off_loopback_it_wants_a_token_and_with_one_answers_to_its_address() -> None:
    with pytest.raises(ConfigurationError, match="token"):
        await Sidecar(Desk(), host="0.0.0.0").start()  # noqa: S104 - that is what is refused
    async with house(Desk(OK), host="0.0.0.0", token="sesame-0123456789") as place:  # noqa: S104 - with one
        assert place.sidecar.url == f"http://127.0.0.1:{place.sidecar.port}"
        assert (await place.ask(place.post())).status == 401
        assert (await place.ask(place.post("/v1beta/x", "X-Goog-Api-Key: sesame-0123456789"))).status == 200


@pytest.mark.parametrize("upstream", ["http://127.0.0.1:8711", "http://localhost:8711/v1beta", "http://[::1]:8711"])
async def test_it_refuses_to_call_itself(upstream: str) -> None:
    with pytest.raises(ConfigurationError, match="itself"):
        Sidecar(Desk(), port=8711, upstream=upstream)


@pytest.mark.parametrize("upstream", ["https://generativelanguage.googleapis.com", "http://127.0.0.1:8700", "x:y"])
async def test_any_other_upstream_will_do(upstream: str) -> None:
    assert "port=None" in repr(Sidecar(Desk(), port=8711, upstream=upstream))


async def _answers(place: House, *data: bytes) -> list[int]:
    found = []
    for one in data:
        with suppress(ConnectionError):
            found.append((await place.ask(one)).status)
    return found


async def test_refusals_over_the_wire() -> None:
    async with house(Desk(OK)) as place:
        port = place.sidecar.port
        got = await _answers(
            place,
            place.post(host="rebound.example"),
            place.post(host=f"rebound.example:{port}"),
            place.post(host=f"127.0.0.1:{port + 1}"),
            place.post(host=""),
            place.post("/v1beta/x", "Origin: http://evil.example"),
            place.post("/v1beta/x", "Sec-Fetch-Site: cross-site"),
            place.post("/v1beta/x", "Via: 1.1 carpool"),
            place.post("http://generativelanguage.googleapis.com/v1beta/x"),
            place.get("/ws/x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        )
        assert got == [421, 421, 421, 400, 403, 403, 508, 421, 501]
        assert not place.desk.calls
