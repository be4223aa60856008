"""The error border: what is known of a failed call, where the key goes, and what a hostile server can make us hold."""

from __future__ import annotations

import asyncio
import gzip
import socket
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from carpool._core.model import Fault
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.http import Floor, Http, Reply, _Pace, _proxy, ok, parse_url, server_fault
from carpool._ports import ProviderError
from carpool.errors import ConfigurationError
from carpool.settings import Settings
from carpool.types import BatchJob


@pytest.fixture
async def provider_of(quick: Settings, tools: Any) -> AsyncIterator[Any]:
    made: list[DeveloperProvider] = []

    async def make(base_url: str, **options: Any) -> DeveloperProvider:
        options = {"api_key": tools.KEY, "settings": quick} | options
        provider = DeveloperProvider(base_url=base_url, **options)
        await provider.open()
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()


async def fault_of(call: Any) -> Fault:
    """Return the fault of a call that must fail, having looked for secrets in everything that the error shows."""
    with pytest.raises(ProviderError) as caught:
        await call
    shown = [str(caught.value), repr(caught.value), repr(caught.value.fault), *traceback.format_exception(caught.value)]
    error: BaseException | None = caught.value
    while error is not None:
        shown += [str(error), repr(error), repr(error.args)]
        error = error.__context__ if error.__cause__ is None else error.__cause__
    assert "canary" not in "".join(shown)
    assert "x-goog-api-key" not in "".join(shown).lower()
    return caught.value.fault


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ----------------------------------------------------------------------------------------- what is known of a failure


@pytest.mark.parametrize("where", ["http://127.0.0.1", "https://no-such-host.invalid"])
async def test_a_call_that_reached_nobody_was_not_sent(where: str, provider_of: Any, tools: Any) -> None:
    provider = await provider_of(f"{where}:{closed_port()}")
    fault = await fault_of(provider.create(tools.job(), tools.chunks_of()))
    assert fault.kind == "not_sent"
    for call in (provider.poll("batches/a"), anext(provider.fetch(BatchJob(name="batches/a", output_file="files/a")))):
        assert (await fault_of(call)).kind == "not_sent"
    assert fault.error.code == 0
    assert where.rpartition("/")[2] not in fault.error.message


async def test_a_tls_handshake_that_does_not_end_was_not_sent(provider_of: Any, tools: Any) -> None:
    async with tools.Server(tools.reply()) as server:
        provider = await provider_of(server.url.replace("http:", "https:"), settings=Settings(call_timeout_s=0.2))
        fault = await fault_of(provider.create(tools.job(), tools.chunks_of()))
        assert fault.kind == "not_sent"
        assert server.asked == []


async def test_a_refused_tls_handshake_was_not_sent(provider_of: Any, tools: Any) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x15\x03\x01\x00\x02\x02\x28")  # a fatal alert: handshake failure
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        provider = await provider_of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert (await fault_of(provider.create(tools.job(), tools.chunks_of()))).kind == "not_sent"


async def test_a_closed_provider_sends_nothing(provider_of: Any, tools: Any) -> None:
    provider = await provider_of("http://127.0.0.1:9")
    await provider.close()
    assert (await fault_of(provider.poll("batches/a"))).kind == "not_sent"


async def test_a_server_that_leaves_after_reading_may_have_acted(provider_of: Any, tools: Any) -> None:
    async def leave(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with tools.Server(leave) as server:
        provider = await provider_of(server.url)
        fault = await fault_of(provider.create(tools.job(), tools.chunks_of()))
        assert fault.kind == "unknown"
        assert len(server.asked) == 1


async def test_a_create_on_a_connection_that_was_used_before_is_not_repeated(provider_of: Any, tools: Any) -> None:
    async def once(asked: Any, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            writer.write(tools.reply(body=b'{"name":"batches/a"}'))
        else:
            writer.transport.abort()

    async with tools.Server(once) as server:
        provider = await provider_of(server.url)
        await provider.poll("batches/a")
        assert (await fault_of(provider.create(tools.job(), tools.chunks_of()))).kind == "unknown"
        assert [asked.method for asked in server.asked] == ["GET", "POST"]


STATUS = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 14: "UNAVAILABLE"}


def envelope(code: int) -> bytes:
    return f'{{"error":{{"code":{code},"message":"m","status":"{STATUS[code]}"}}}}'.encode()


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        ((503, b"<html>down</html>"), "unknown", 503),
        ((500, b""), "unknown", 500),
        ((502, envelope(14)), "unknown", 14),
        ((408, b""), "unknown", 408),
        ((400, envelope(400)), "refused", 400),
        ((401, b""), "refused", 401),
        ((403, b""), "refused", 403),
        ((404, b""), "refused", 404),
        ((413, b""), "refused", 413),
        ((429, b"[" + envelope(429) + b"]"), "refused", 429),
        ((302, b""), "unknown", 302),
    ],
)
async def test_error_replies_say_what_is_known(
    answer: tuple[int, bytes], kind: str, code: int, provider_of: Any, tools: Any
) -> None:
    status = STATUS[code] if b'"status"' in answer[1] else ""
    async with tools.Server(tools.reply(*answer)) as server:
        provider = await provider_of(server.url)
        for call in (provider.create(tools.job(), tools.chunks_of()), provider.poll("batches/a"), provider.find("x")):
            fault = await fault_of(call)
            assert (fault.kind, fault.error.code, fault.error.status) == (kind, code, status)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"<html>",
        b"{}",
        b'{"name":"batches/../../x"}',
        b'{"name":"https://evil.example/"}',
    ],
)
async def test_a_create_whose_answer_holds_no_name_may_have_acted(answer: bytes, provider_of: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=answer)) as server:
        provider = await provider_of(server.url)
        assert (await fault_of(provider.create(tools.job(), tools.chunks_of()))).kind == "unknown"
        assert len(server.asked) == 1


async def test_an_answer_that_breaks_off_is_unknown(provider_of: Any, tools: Any) -> None:
    async def half(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(body=b'{"name":"batches/a"}', Content_Length="500"))
        await writer.drain()
        writer.close()

    async with tools.Server(half) as server:
        provider = await provider_of(server.url)
        assert (await fault_of(provider.create(tools.job(), tools.chunks_of()))).kind == "unknown"
        assert (await fault_of(provider.poll("batches/a"))).kind == "unknown"


async def test_an_error_whose_body_breaks_off_still_refuses(provider_of: Any, tools: Any) -> None:
    async def half(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(400, b'{"error":', Content_Length="500"))
        await writer.drain()
        writer.close()

    async with tools.Server(half) as server:
        provider = await provider_of(server.url)
        fault = await fault_of(provider.create(tools.job(), tools.chunks_of()))
        assert (fault.kind, fault.error.code) == ("refused", 400)


async def test_what_is_not_http_is_unknown(provider_of: Any, tools: Any) -> None:
    async with tools.Server(b"220 smtp ready\r\n\r\n") as server:
        provider = await provider_of(server.url)
        assert (await fault_of(provider.poll("batches/a"))).kind == "unknown"


async def test_a_server_that_says_nothing_runs_into_the_time_limit(provider_of: Any, tools: Any) -> None:
    async def silent(asked: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with tools.Server(silent) as server:
        provider = await provider_of(server.url, settings=Settings(call_timeout_s=0.1))
        assert (await fault_of(provider.create(tools.job(), tools.chunks_of()))).kind == "unknown"
        assert (await fault_of(provider.poll("batches/a"))).kind == "unknown"


async def test_headers_that_drip_run_into_the_time_limit(provider_of: Any, tools: Any) -> None:
    async def drip(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"a: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with tools.Server(drip) as server:
        provider = await provider_of(server.url, settings=Settings(call_timeout_s=0.1))
        assert (await fault_of(provider.poll("batches/a"))).kind == "unknown"


# -------------------------------------------------------------------------------------------------- where the key goes


async def test_the_key_goes_in_a_header_and_never_in_a_url(provider_of: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=b'{"name":"batches/a"}')) as server:
        provider = await provider_of(server.url)
        await provider.create(tools.job(), tools.chunks_of())
        await provider.find("x")
        await provider.cancel("batches/a")
        await provider.delete("files/a")
        assert len(server.asked) == 4
        for asked in server.asked:
            assert asked.headers["x-goog-api-key"] == tools.KEY
            assert "canary" not in asked.target
            assert asked.headers["accept-encoding"] == "identity"
            assert asked.headers["user-agent"].startswith("carpool/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_and_the_key_is_not_sent_along(status: int, provider_of: Any, tools: Any) -> None:
    async with tools.Server(tools.reply()) as other:
        async with tools.Server(tools.reply(status, Location=f"{other.url}/x")) as server:
            provider = await provider_of(server.url)
            for call in (
                provider.create(tools.job(), tools.chunks_of()),
                provider.poll("batches/a"),
                provider.cancel("batches/a"),
            ):
                fault = await fault_of(call)
                assert fault.kind == "unknown"
                assert "redirects are not followed" in fault.error.message
        assert other.asked == []


async def test_an_error_that_quotes_the_key_does_not_show_it(provider_of: Any, tools: Any) -> None:
    body = f'{{"error":{{"code":403,"message":"Consumer \'api_key:{tools.KEY}\' has been suspended."}}}}'
    async with tools.Server(tools.reply(403, body.encode())) as server:
        provider = await provider_of(server.url)
        fault = await fault_of(provider.poll("batches/a"))
        assert fault.error.message == "Consumer 'api_key:[key]' has been suspended."


def test_origin_and_repr_do_not_show_the_key(tools: Any) -> None:
    made = [DeveloperProvider(api_key=key, base_url="https://x.example/p/") for key in (tools.KEY, tools.KEY, "other")]
    assert made[0].origin == made[1].origin != made[2].origin
    assert made[0].origin.startswith("https://x.example/p#")
    for text in (made[0].origin, repr(made[0]), repr(made[0]._http), repr(vars(made[0]))):
        assert "canary" not in text


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"api_key": "with blank"}, "key"),
        ({"api_key": "line\nbreak"}, "key"),
        ({"api_key": ""}, "key"),
        ({"api_key": "schlüssel"}, "key"),
        ({"base_url": "ftp://x.example"}, "base_url"),
        ({"base_url": "http://x.example"}, "base_url must be https"),
        ({"base_url": "x.example"}, "base_url"),
        ({"base_url": "https://user:pass@x.example"}, "base_url"),
        ({"base_url": "https://x.example?key=1"}, "base_url"),
        ({"base_url": "https://x.example/#a"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "https://x.example:99999"}, "base_url"),
        ({"api_version": "../v1"}, "api_version"),
        ({"api_version": ""}, "api_version"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_provider_is_made(options: dict[str, str], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        DeveloperProvider(**({"api_key": "k", "base_url": "https://x.example"} | options))
    assert options.get("api_key") in ("", None) or options["api_key"] not in str(caught.value)


def test_only_urls_of_the_own_origin_are_called(quick: Settings) -> None:
    http = Http("https://x.example/prefix", "k", quick)
    assert str(http.own("https://x.example/upload?id=a%2Fb")) == "https://x.example/upload?id=a%2Fb"
    assert http.own("https://x.example:443/upload").port == 443
    for text in (
        "http://x.example/upload",
        "https://x.example:8443/upload",
        "https://x.example.evil.example/upload",
        "https://x.example@evil.example/upload",
        "//x.example/upload",
        "/upload",
        "file:///etc/passwd",
        "https://[",
        "",
    ):
        with pytest.raises(ProviderError, match="unknown"):
            http.own(text)


async def test_the_key_is_not_sent_to_another_origin_even_if_asked(quick: Settings, tools: Any) -> None:
    async with tools.Server(tools.reply()) as other:
        http = Http("https://x.example", tools.KEY, quick)
        await http.open()
        await http.open()
        assert (await fault_of(http.call("GET", URL(other.url)))).kind == "not_sent"
        await http.close()
        await http.close()
        assert other.asked == []


@pytest.mark.parametrize("text", ["https://a.example/x", "http://a.example:8080/?q#f"])
def test_absolute_urls_are_parsed(text: str) -> None:
    assert str(parse_url(text)) == text


def test_a_proxy_is_only_for_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "internal.example")
    assert _proxy(URL("https://x.example")) == "http://proxy.example:3128"
    assert _proxy(URL("https://internal.example")) is None
    assert _proxy(URL("http://x.example")) is None


# ------------------------------------------------------------------------------------------------- what has to be held


async def test_a_gzip_bomb_is_not_unpacked(provider_of: Any, tools: Any) -> None:
    bomb = gzip.compress(b"0" * 100_000_000)
    async with tools.Server(tools.reply(body=bomb, Content_Encoding="gzip")) as server:
        provider = await provider_of(server.url)
        fault = await fault_of(provider.poll("batches/a"))
        assert "compressed" in fault.error.message
    async with tools.Server(tools.reply(400, bomb, Content_Encoding="gzip")) as server:
        provider = await provider_of(server.url)
        assert (await fault_of(provider.poll("batches/a"))).kind == "refused"


async def test_a_reply_beyond_the_cap_is_not_held(provider_of: Any, tools: Any) -> None:
    sent = 0

    async def endless(asked: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(tools.reply(body=b"", Transfer_Encoding="chunked", Content_Length=""))
        while not writer.is_closing():
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            sent += 65_536
            await writer.drain()

    async with tools.Server(endless) as server:
        provider = await provider_of(server.url)
        fault = await fault_of(provider.poll("batches/a"))
        assert "body_bytes_max" in fault.error.message
        assert (await fault_of(provider.create(tools.job(), tools.chunks_of()))).kind == "unknown"
    # What was sent but never read sits in the sockets' buffers.
    assert sent < 64 * 1024 * 1024


async def test_an_error_reply_beyond_the_cap_is_still_that_error(provider_of: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(404, b"x" * 3_000_000)) as server:
        provider = await provider_of(server.url)
        fault = await fault_of(provider.poll("batches/a"))
        assert (fault.kind, fault.error.code, fault.error.message) == ("refused", 404, "Not Found")


async def test_a_slow_drip_is_cut_off(provider_of: Any, tools: Any) -> None:
    async def drip(asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(tools.reply(body=b"", Content_Length="50000"))
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with tools.Server(drip) as server:
        floor = Floor(window_s=0.1, bytes_per_s=10_000)
        provider = await provider_of(server.url, floor=floor)
        fault = await fault_of(provider.poll("batches/a"))
        assert (fault.kind, "slowly" in fault.error.message) == ("unknown", True)


@pytest.mark.parametrize("junk", [b"x", b"\r\nX-Trailer: a"], ids=["a chunk's size line", "trailers"])
async def test_a_body_of_which_nothing_comes_ends_whatever_else_comes(
    junk: bytes, provider_of: Any, tools: Any
) -> None:
    async def flood(asked: Any, writer: asyncio.StreamWriter) -> None:
        start = b"5;" if junk == b"x" else b"0"
        writer.write(tools.reply(body=b"", Content_Length="", Transfer_Encoding="chunked") + start)
        while not writer.is_closing():
            writer.write(junk)
            await writer.drain()
            await asyncio.sleep(0.01)

    async with tools.Server(flood) as server:
        provider = await provider_of(server.url, settings=Settings(call_timeout_s=0.3), floor=Floor(window_s=0.1))
        for call in (
            provider.poll("batches/a"),
            anext(provider.fetch(BatchJob(name="batches/a", output_file="files/a"))),
        ):
            assert (await fault_of(call)).kind == "unknown"


def test_pace_is_judged_over_whole_windows_and_in_all() -> None:
    floor = Floor(window_s=60, bytes_per_s=1_000, total_s=1_000)
    pace = _Pace(floor)
    pace.took(1, 59.9)
    pace.took(60_000, 0.1)
    pace.took(1, 59)
    with pytest.raises(ProviderError):
        pace.took(1, 1.1)
    steady = _Pace(floor)
    for _ in range(1_000):
        steady.took(2_000, 1)
    with pytest.raises(ProviderError):
        steady.took(2_000, 1)


async def test_a_large_body_goes_out_in_pieces_and_whole(provider_of: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=b'{"name":"batches/a"}')) as server:
        provider = await provider_of(server.url)
        line = b'{"key":"k","request":{"contents":"' + b"x" * 3_000_000 + b'"}}\n'
        job = tools.job(form="inline", count=2)
        assert await provider.create(job, tools.chunks_of(line, line)) == "batches/a"
        (asked,) = server.asked
        assert len(asked.body) > 6_000_000
        assert asked.body.count(b'"metadata":{"key":"k"}') == 2
        assert asked.headers["content-type"] == "application/json"


async def test_time_for_a_call_grows_with_its_body(quick: Settings) -> None:
    http = Http("https://x.example", "k", quick)
    assert http.patience_s(0) == 5.0
    assert http.patience_s(20_000_000) > 600


# ----------------------------------------------------------------------------------------------------------- the rules


@given(st.integers(100, 999), st.binary(max_size=60))
def test_every_status_has_a_verdict(status: int, body: bytes) -> None:
    fault = server_fault(status, body)
    assert fault.kind == ("refused" if 400 <= status < 500 and status != 408 else "unknown")
    assert fault.error.message
    if 200 <= status < 300:
        assert ok(Reply(status, {}, body)) == body
    else:
        with pytest.raises(ProviderError):
            ok(Reply(status, {}, body))


async def test_cancelling_a_call_ends_it_at_once(provider_of: Any, tools: Any) -> None:
    arrived = asyncio.Event()

    async def silent(asked: Any, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with tools.Server(silent) as server:
        provider = await provider_of(server.url)
        task = asyncio.create_task(provider.poll("batches/a"))
        await asyncio.wait_for(arrived.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
