"""A proxy that writes down where it is asked to go, and goes there: what programs that are not Python call.

Owns one listener on this machine, tunnels, and the way on through a proxy that was there before. It looks into nothing
that is encrypted, and must not know which hosts matter.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, unquote, urlsplit

from carpool.errors import ConfigurationError
from carpool.surfaces.environment import LOOPBACK, goes_without_proxy

VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_NODE: Final = {"NODE_USE_ENV_PROXY": "1"}
"""Without it, Node's own fetch looks at no proxy; before version 22.21 and 24 with it neither."""
_HEAD_BYTES_MAX: Final = 65_536
_PIECE_BYTES: Final = 65_536
_CONNECT_S: Final = 30.0
_CONNECT: Final = re.compile(r"CONNECT \[?([^\]\s/]+?)\]?:([0-9]{1,5}) HTTP/1\.[01]")
_PLAIN: Final = re.compile(r"([A-Z]{3,10}) (http://\S+) HTTP/1\.[01]")
_DROPPED: Final = ("connection", "keep-alive", "proxy-authorization", "proxy-connection")
_FAILED: Final = (OSError, EOFError, TimeoutError, ValueError)


class Proxies(NamedTuple):
    """The proxies that were there before."""

    https: str = ""
    http: str = ""
    no: str = ""
    """Hosts for which there is none."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Return those of an environment.

        Raises:
            ConfigurationError: one of them is none that could be gone through.
        """
        every = _first(environ, "all_proxy", "ALL_PROXY")
        found = cls(
            https=_first(environ, "https_proxy", "HTTPS_PROXY") or every,
            http=_first(environ, "http_proxy", "HTTP_PROXY") or every,
            no=_first(environ, "no_proxy", "NO_PROXY"),
        )
        for url in (found.https, found.http):
            if url and _split(url).scheme not in ("http", "https"):
                raise ConfigurationError(
                    "calls cannot be watched through the proxy of this environment, which is neither http:// nor "
                    "https://: unset HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or name another"
                )
        return found

    def before(self, host: str, *, encrypted: bool) -> SplitResult | None:
        """Return the proxy before a host; ``None``: there is none."""
        url = self.https if encrypted else self.http
        return None if not url or goes_without_proxy(host, self.no) else _split(url)


def _first(environ: Mapping[str, str], *names: str) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")


def _split(url: str) -> SplitResult:
    return urlsplit(url if "://" in url else f"http://{url}")


class RecordingProxy:
    """Listens on a free port of this machine while it is entered.

    Args:
        proxies: to go on through.
        on_target: called with the host and the port of each call.
    """

    def __init__(self, proxies: Proxies, on_target: Callable[[str, int], object]) -> None:
        self._proxies = proxies
        self._on_target = on_target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._came, "127.0.0.1", 0, limit=_HEAD_BYTES_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def watching(self) -> dict[str, str]:
        """Return the variables by which programs come here, also those for hosts that had no proxy before."""
        own = dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(LOOPBACK))
        return dict.fromkeys(VARIABLES, self.url) | own | _NODE

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except asyncio.LimitOverrunError:
            _refuse(writer, "431 Request Header Fields Too Large")
        except _FAILED:  # of the program, or on the way: it was told, or sees a connection that is closed
            return
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, fields = head.partition("\r\n")
        tunnel, plain = _CONNECT.fullmatch(line), _PLAIN.fullmatch(line)
        if tunnel is not None:
            host, port = tunnel[1], int(tunnel[2])
        elif plain is not None:
            url = urlsplit(plain[2])
            host, port = url.hostname or "", url.port or 80
        else:
            _refuse(writer, "400 Bad Request")
            return
        self._on_target(host, port)
        before = self._proxies.before(host, encrypted=tunnel is not None)
        try:
            async with asyncio.timeout(_CONNECT_S):
                there = await _open(host, port, before)
                if tunnel is not None and before is not None:
                    await _tunnel(there, f"{host}:{port}" if ":" not in host else f"[{host}]:{port}", before)
        except _FAILED:
            _refuse(writer, "502 Bad Gateway")
            return
        try:
            if tunnel is not None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            elif plain is not None:
                there[1].write(_handed_on(plain[1], plain[2], fields, before))
            await _both_ways((reader, writer), there)
        finally:
            there[1].close()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _refuse(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


async def _open(host: str, port: int, before: SplitResult | None) -> _Streams:
    if before is None:
        return await asyncio.open_connection(host, port)
    context = ssl.create_default_context() if before.scheme == "https" else None
    default = 443 if context is not None else 80
    return await asyncio.open_connection(before.hostname, before.port or default, ssl=context)


async def _tunnel(there: _Streams, target: str, before: SplitResult) -> None:
    """Have a proxy make a tunnel.

    Raises:
        OSError: it does not.
    """
    reader, writer = there
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{_credentials(before)}\r\n".encode("latin-1"))
    status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
    if len(status) < 2 or not status[1].startswith(b"2"):
        writer.close()
        raise OSError("the proxy makes no tunnel")


def _credentials(before: SplitResult) -> str:
    if before.username is None:
        return ""
    pair = f"{unquote(before.username)}:{unquote(before.password or '')}".encode()
    return f"Proxy-Authorization: Basic {b64encode(pair).decode()}\r\n"


def _handed_on(method: str, url: str, fields: str, before: SplitResult | None) -> bytes:
    """Return the head of a call that is not encrypted, as the next on its way wants it: one call a connection."""
    kept = "".join(
        f"{field}\r\n"
        for field in fields.split("\r\n")
        if field and field.partition(":")[0].strip().lower() not in _DROPPED
    )
    split = urlsplit(url)
    target = url if before is not None else (split.path or "/") + (f"?{split.query}" if split.query else "")
    own = _credentials(before) if before is not None else ""
    return f"{method} {target} HTTP/1.1\r\n{kept}{own}Connection: close\r\n\r\n".encode("latin-1")


async def _both_ways(here: _Streams, there: _Streams) -> None:
    ways = [asyncio.ensure_future(_pass_on(here[0], there[1])), asyncio.ensure_future(_pass_on(there[0], here[1]))]
    try:
        await asyncio.gather(*ways)
    finally:
        for way in ways:
            way.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
