"""Bodies within limits: one, all together, packed ones, and those that do not come."""

from __future__ import annotations

import gc
import gzip
import json
import zlib

import pytest

from carpool.surfaces.messages import Answer, Call
from carpool.surfaces.sidecar.limits import Limits

from .sidecars import OK, Desk, House, house, until

SMALL = Limits(body_bytes_max=1_000, bodies_bytes_max=2_500, grace_s=0, connections_max=200)


def status_word(body: bytes) -> str:
    word = json.loads(body)["error"]["status"]
    assert isinstance(word, str)
    return word


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async with house(Desk(OK), limits=SMALL) as place:
        caller = await place.caller()
        await caller.send(place.head("POST /v1beta/x HTTP/1.1", "Content-Length: 1001", "Expect: 100-continue"))
        reply = await caller.reply()
        assert (reply.status, status_word(reply.body)) == (413, "INVALID_ARGUMENT")
        assert (await place.ask(place.post(body=b"x" * 1_000))).status == 200


async def test_who_asks_first_is_told_to_go_on() -> None:
    async with house(Desk(OK), limits=SMALL) as place:
        caller = await place.caller()
        await caller.send(place.head("POST /v1beta/x HTTP/1.1", "Content-Length: 2", "Expect: 100-continue"))
        assert (await caller.head())[0] == 100
        await caller.send(b"{}")
        assert (await caller.reply()).status == 200
        assert (await place.ask(place.post("/x", "Expect: tea"))).status == 417


async def test_a_chunked_body_is_counted_as_it_comes() -> None:
    async with house(Desk(OK), limits=SMALL) as place:
        head = place.head("POST /v1beta/x HTTP/1.1", "Transfer-Encoding: chunked")
        fits = await place.ask(head + b"1f4\r\n" + b"x" * 500 + b"\r\n" + b"1f4\r\n" + b"y" * 500 + b"\r\n0\r\n\r\n")
        assert fits.status == 200
        assert place.desk.calls[0].body == b"x" * 500 + b"y" * 500
        endless = await place.ask(head + (b"1f4\r\n" + b"x" * 500 + b"\r\n") * 3)
        assert endless.status == 413


async def test_a_body_in_pieces_is_put_together() -> None:
    async with house(Desk(OK)) as place:
        caller = await place.caller()
        body = bytes(range(256)) * 1_000
        await caller.send(place.head("POST /v1beta/x HTTP/1.1", f"Content-Length: {len(body)}"))
        for start in range(0, len(body), 32_000):
            await caller.send(body[start : start + 32_000])
        assert (await caller.reply()).status == 200
        assert place.desk.calls[0].body == body


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_packed_body_is_unpacked(name: str, pack: object) -> None:
    async with house(Desk(OK)) as place:
        assert callable(pack)
        body = json.dumps({"contents": ["a" * 100] * 30_000}).encode()
        reply = await place.ask(place.post("/x", f"Content-Encoding: {name}", body=pack(body)))
        assert reply.status == 200
        assert place.desk.calls[0].body == body
        assert "content-encoding" not in place.desk.calls[0].headers


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("gzip", gzip.compress(b"x" * 50_000_000), 413),
        ("gzip", gzip.compress(b"x" * 500)[:-4], 400),
        ("gzip", gzip.compress(b"x") + b"more", 400),
        ("gzip", b"no such thing", 400),
        ("br", b"x", 415),
    ],
    ids=["bomb", "cut", "more", "garbage", "unknown"],
)
async def test_what_is_packed_badly_is_refused(name: str, body: bytes, status: int) -> None:
    limits = Limits(body_bytes_max=1_000_000, bodies_bytes_max=2_000_000, grace_s=0, connections_max=200)
    async with house(Desk(OK), limits=limits) as place:
        reply = await place.ask(place.post("/x", f"Content-Encoding: {name}", body=body))
        assert reply.status == status
        assert not place.desk.calls
        assert held(place) == 0


def held(place: House) -> int:
    assert place.sidecar._serving is not None
    return place.sidecar._serving._bodies.held_bytes


async def test_all_bodies_together_are_bounded_and_who_finds_no_room_is_told_when_to_come_again() -> None:
    class Keeping(Desk):
        async def answer(self, call: Call) -> Answer:
            answer = await super().answer(call)
            return answer if call.path else OK  # it needs the call to the end

    async with house(Keeping(), limits=SMALL) as place:
        callers = [await place.asked(f"/{number}", body=b"x" * 1_000) for number in range(2)]
        assert held(place) == 2_000
        reply = await place.ask(place.post("/3", body=b"x" * 501))
        assert (reply.status, status_word(reply.body)) == (503, "UNAVAILABLE")
        assert reply.headers["retry-after"] == "5"
        chunked = place.head("POST /4 HTTP/1.1", "Transfer-Encoding: chunked")
        assert (await place.ask(chunked + b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n")).status == 503
        place.desk.calls.clear()
        for number, caller in enumerate(callers):
            place.give(f"/{number}")
            assert (await caller.reply()).status == 200
        assert held(place) == 0


async def test_a_body_that_nobody_has_any_more_takes_no_room_however_long_its_answer_takes() -> None:
    async with house(limits=SMALL) as place:
        caller = await place.asked(body=b"x" * 1_000)
        assert held(place) == 1_000
        place.desk.calls.clear()
        gc.collect()
        assert held(place) == 0
        place.give()
        assert (await caller.reply()).status == 200
        assert held(place) == 0


async def test_a_caller_that_leaves_gives_its_room_back() -> None:
    async with house(limits=SMALL) as place:
        caller = await place.caller()
        await caller.send(place.head("POST /x HTTP/1.1", "Content-Length: 1000") + b"x" * 900)
        await until(lambda: held(place) == 900)
        caller.close()
        await until(lambda: held(place) == 0)
        assert not place.desk.calls


# -- bodies that do not come


async def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    async with house(Desk(OK)) as place:
        caller = await place.caller()
        await caller.send(place.head("POST /x HTTP/1.1", "Content-Length: 90000") + b"x" * 10_000)
        await until(lambda: held(place) == 10_000)
        place.pass_time(10)
        await caller.send(b"x" * 9_999)
        await until(lambda: held(place) == 19_999)
        assert place.seen["slow"] == 0
        place.pass_time(10)
        reply = await caller.reply()
        assert (reply.status, status_word(reply.body), reply.headers["connection"]) == (
            408,
            "DEADLINE_EXCEEDED",
            "close",
        )
        assert place.seen["slow"] == 1
        assert not place.desk.calls


async def test_a_body_that_comes_fast_enough_may_still_not_take_for_ever() -> None:
    async with house(Desk(OK)) as place:
        caller = await place.caller()
        await caller.send(place.head("POST /x HTTP/1.1", "Content-Length: 99000000"))
        sent = 0
        for _ in range(59):
            await caller.send(b"x" * 10_000)
            sent += 10_000
            await until(lambda size=sent: held(place) == size)
            place.pass_time(10)
        assert place.seen["slow"] == 0
        await caller.send(b"x" * 10_000)
        place.pass_time(10)
        assert (await caller.reply()).status == 408


async def test_the_rest_of_a_body_that_was_refused_does_not_become_the_next_request() -> None:
    async with house(Desk(OK), limits=SMALL) as place:
        caller = await place.caller()
        smuggled = place.get("/smuggled")
        size = 5_000_000
        await caller.send(place.head("POST /x HTTP/1.1", f"Content-Length: {size}") + smuggled)
        assert (await caller.reply()).status == 413
        caller.writer.write_eof()
        await caller.rest()
        assert not place.desk.calls
