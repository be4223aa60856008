"""The proxy that writes targets down: what goes through it arrives as it was sent, by the way that was there before."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from carpool.errors import ConfigurationError
from carpool.surfaces import proxy as proxy_module
from carpool.surfaces.proxy import VARIABLES, Proxies, RecordingProxy

Targets = list[tuple[str, int]]


class There:
    """A server that keeps what it is sent, up to the end of what is sent, and then answers."""

    def __init__(self, answer: bytes = b"answer", until: bytes = b"") -> None:
        self.got: list[bytes] = []
        self.port = 0
        self._answer = answer
        self._until = until

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.readuntil(self._until) if self._until else await reader.read()
        self.got.append(got)
        writer.write(self._answer)
        writer.close()


@contextlib.asynccontextmanager
async def proxied(proxies: Proxies = Proxies()) -> AsyncIterator[tuple[int, Targets]]:  # noqa: B008 - a constant
    targets: Targets = []
    async with RecordingProxy(proxies, lambda host, port: targets.append((host, port))) as proxy:
        yield urlsplit(proxy.url).port or 0, targets


async def talk(port: int, head: str, then: bytes = b"", *, ends: bool = True) -> bytes:
    """Send a head to a proxy, and once it is answered whatever goes through the tunnel; return all that came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.replace("\n", "\r\n").encode())
        back = await reader.readuntil(b"\r\n\r\n") if then else b""
        writer.write(then)
        if ends:
            writer.write_eof()
        return back + await reader.read()
    finally:
        writer.close()


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_a_tunnel_carries_bytes_both_ways_and_is_written_down() -> None:
    sent = bytes(range(256)) * 4_096
    async with There() as there, proxied() as (port, targets):
        head = f"CONNECT 127.0.0.1:{there.port} HTTP/1.1\nHost: x\nProxy-Authorization: Basic eA==\n\n"
        assert await talk(port, head, sent) == ESTABLISHED + b"answer"
        assert there.got == [sent]
        assert targets == [("127.0.0.1", there.port)]


async def test_names_in_brackets_are_addresses() -> None:
    async with proxied() as (port, targets):
        assert (await talk(port, "CONNECT [::1]:1 HTTP/1.1\n\n")).startswith(b"HTTP/1.1 502 ")
        assert targets == [("::1", 1)]


async def test_a_call_that_is_not_encrypted_arrives_as_one_that_needs_no_proxy() -> None:
    async with There(b"HTTP/1.1 200 OK\r\n\r\nhello", b"body") as there, proxied() as (port, targets):
        head = (
            f"POST http://127.0.0.1:{there.port}/a/b?c=d HTTP/1.1\nHost: h\nContent-Length: 4\n"
            "Proxy-Connection: keep-alive\nConnection: keep-alive\nProxy-Authorization: Basic eA==\n\nbody"
        )
        assert await talk(port, head) == b"HTTP/1.1 200 OK\r\n\r\nhello"
        (got,) = there.got
        assert got == b"POST /a/b?c=d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        assert targets == [("127.0.0.1", there.port)]


async def test_the_proxy_that_was_there_before_is_gone_through() -> None:
    async with There() as there, proxied() as (before, seen_before):
        old = Proxies(https=f"http://127.0.0.1:{before}", http=f"127.0.0.1:{before}")
        async with proxied(old) as (port, targets):
            tunnel = f"CONNECT 127.0.0.1:{there.port} HTTP/1.1\n\n"
            assert await talk(port, tunnel, b"through") == ESTABLISHED + b"answer"
            plain = f"GET http://127.0.0.1:{there.port} HTTP/1.1\nHost: h\n\n"
            assert await talk(port, plain) == b"answer"
        assert targets == seen_before == [("127.0.0.1", there.port)] * 2
        assert there.got == [b"through", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"]


async def test_it_is_shown_its_credentials_and_what_it_answers_counts() -> None:
    async with There(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"\r\n\r\n") as before:
        old = Proxies(
            https=f"http://me:p%40ss@127.0.0.1:{before.port}", http=f"http://me:p%40ss@127.0.0.1:{before.port}"
        )
        async with proxied(old) as (port, _):
            answer = await talk(port, "CONNECT gemini.invalid:443 HTTP/1.1\n\n")
            assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
            answer = await talk(port, "GET http://gemini.invalid/a HTTP/1.1\nHost: gemini.invalid\n\n")
            assert answer.startswith(b"HTTP/1.1 407 ")
    tunnel, plain = before.got
    assert tunnel == (
        b"CONNECT gemini.invalid:443 HTTP/1.1\r\nHost: gemini.invalid:443\r\n"
        b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n"
    )
    assert plain.startswith(b"GET http://gemini.invalid/a HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in plain


async def test_a_proxy_that_speaks_tls_is_spoken_to_in_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Any, ...]] = []

    async def refuse(host: str, port: int, **options: Any) -> None:
        opened.append((host, port, isinstance(options["ssl"], ssl.SSLContext)))
        raise ConnectionRefusedError

    async with proxied(Proxies(https="https://proxy.invalid")) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        monkeypatch.setattr(proxy_module.asyncio, "open_connection", refuse)
        writer.write(b"CONNECT gemini.invalid:443 HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        writer.close()
    assert opened == [("proxy.invalid", 443, True)]


async def test_hosts_for_which_there_was_none_are_called_without_it() -> None:
    async with There() as there, proxied(Proxies(https="http://127.0.0.1:9", no="127.0.0.0/8")) as (port, _):
        head = f"CONNECT 127.0.0.1:{there.port} HTTP/1.1\n\n"
        assert await talk(port, head, b"x") == ESTABLISHED + b"answer"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("nonsense\n\n", b"400 Bad Request"),
        ("GET /no/proxy HTTP/1.1\n\n", b"400 Bad Request"),
        ("GET https://gemini.invalid/ HTTP/1.1\n\n", b"400 Bad Request"),
        ("CONNECT nowhere HTTP/1.1\n\n", b"400 Bad Request"),
        ("CONNECT a:99999 HTTP/1.1\n\n", b"502 Bad Gateway"),
        (f"CONNECT a:1 HTTP/1.1\nX: {'x' * 70_000}\n\n", b"431 Request Header Fields Too Large"),
        ("CONNECT gemini.invalid:443 HTTP/1.1\n\n", b"502 Bad Gateway"),
    ],
)
async def test_what_it_cannot_do_is_refused(head: str, status: bytes) -> None:
    async with proxied() as (port, _):
        assert (await talk(port, head, ends=False)).startswith(b"HTTP/1.1 " + status)


async def test_a_caller_that_goes_away_in_the_middle_harms_nobody() -> None:
    async with There() as there, proxied() as (port, _):
        assert await talk(port, "CONNECT 127") == b""
        assert await talk(port, f"CONNECT 127.0.0.1:{there.port} HTTP/1.1\n\n", b"x") == ESTABLISHED + b"answer"


async def test_tunnels_that_are_open_end_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with proxied() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"CONNECT 127.0.0.1:{silent.getsockname()[1]} HTTP/1.1\r\n\r\n".encode())
            assert await reader.readuntil(b"\r\n\r\n") == ESTABLISHED
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_programs_find_it_whatever_variables_they_read() -> None:
    async with RecordingProxy(Proxies(), lambda *_: None) as proxy:
        found = proxy.watching()
        assert {name: found[name] for name in VARIABLES} == dict.fromkeys(VARIABLES, proxy.url)
        assert found["no_proxy"] == found["NO_PROXY"] == "127.0.0.1,localhost"
        assert found["NODE_USE_ENV_PROXY"] == "1"


@pytest.mark.parametrize(
    ("environ", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://a:1"}, "a", None),
        ({"https_proxy": "http://b:1", "HTTPS_PROXY": "http://a:1"}, "b", None),
        ({"http_proxy": "c:1"}, None, "c"),
        ({"ALL_PROXY": "http://d:1", "HTTP_PROXY": "http://e:1"}, "d", "e"),
        ({"ALL_PROXY": "http://d:1", "NO_PROXY": "example"}, None, None),
    ],
)
def test_proxies_of_an_environment(environ: dict[str, str], https: str | None, http: str | None) -> None:
    found = [Proxies.of(environ).before("a.example", encrypted=encrypted) for encrypted in (True, False)]
    assert [one and one.hostname for one in found] == [https, http]


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="neither http:// nor https://"):
        Proxies.of({name: "socks5h://me:secret@127.0.0.1:1080"})
