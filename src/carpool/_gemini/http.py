"""One HTTP session and one error border: whatever happens on the wire leaves here as a reply or as a ``ProviderError``.

Owns the key (in a header, for the configured origin only), time limits, caps on what is read, and the rules by which a
failed call is ``not_sent``, ``refused`` or ``unknown``. Follows no redirect, unpacks nothing, keeps no cookie, repeats
no call. It must not know what the calls are about.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from yarl import URL

from carpool._core.model import Fault, FaultKind
from carpool._gemini.faults import http_error, phrase
from carpool._ports import ProviderError
from carpool._showing import keep_secret
from carpool.errors import ConfigurationError
from carpool.settings import Settings
from carpool.types import ServerError

_ERROR_BYTES_MAX: Final = 1_048_576
"""What is read of an error reply."""
_PIECE_BYTES: Final = 262_144
_READ_BYTES: Final = 524_288
"""Of a reply, before the server is made to wait: eight times aiohttp's default, which interrupts a fast line."""
_CONNECT_S: Final = 30.0
_SENT_BYTES_PER_S: Final = 32_768
"""Slowest line that large bodies are given time for."""
_CONNECTIONS_MAX: Final = 512
"""More than there are live calls in the air: these last for minutes, and polls must not wait for them."""
_KEY = re.compile(r"[\x21-\x7e]+")
_TRANSPORT: Final = (aiohttp.ClientError, OSError, EOFError, ValueError)
_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """How slow a body may arrive: a slow drip never trips a read timeout."""

    window_s: float = 60.0
    bytes_per_s: float = 1_024.0
    total_s: float = 21_600.0


class Reply(NamedTuple):
    """An HTTP reply, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def server_fault(status: int, body: bytes) -> Fault:
    """Return the fault that an error reply stands for.

    4xx: refused, 408 apart, which proxies send when they gave up on the server. Anything else may have taken effect.
    """
    if 300 <= status < 400:
        return Fault(kind="unknown", error=ServerError(status, f"{phrase(status)}: redirects are not followed"))
    kind: FaultKind = "refused" if 400 <= status < 500 and status != 408 else "unknown"
    return Fault(kind=kind, error=http_error(status, body))


def transport_fault(error: BaseException) -> Fault:
    """Return the fault of a call that got no reply: ``not_sent`` if no byte of it can have arrived."""
    kind: FaultKind = "not_sent" if isinstance(error, _NOT_SENT) else "unknown"
    # Only the type and the system's words: aiohttp's own text shows the URL, and its objects show the key.
    if isinstance(error, TimeoutError) and kind == "unknown":
        return Fault(kind=kind, error=ServerError(0, "no answer within the time limit"))
    number = getattr(error, "errno", None)
    words = f": {os.strerror(number)}" if isinstance(number, int) and number > 0 else ""
    return Fault(kind=kind, error=ServerError(0, f"{type(error).__name__}{words}"))


def unreadable(message: str, kind: FaultKind = "unknown") -> ProviderError:
    """Return the error for a reply that cannot be used."""
    return ProviderError(Fault(kind=kind, error=ServerError(0, message)))


class Http:
    """Calls to one origin with one key.

    Raises:
        ConfigurationError: the base URL or the key cannot be used.
    """

    def __init__(self, base_url: str, api_key: str, settings: Settings, floor: Floor | None = None) -> None:
        self.base = checked_base(base_url)
        if not _KEY.fullmatch(api_key):
            raise ConfigurationError("the API key holds characters that no key has (blank, line break, non-ASCII)")
        keep_secret(api_key)
        self._key = api_key
        self._settings = settings
        self._floor = floor or Floor()
        # Shorter than the call's own limit: a connection that does not come about was certainly not used. How long a
        # body may take to come is limited where it is read.
        connect_s = min(_CONNECT_S, settings.call_timeout_s / 2)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Http({self.base.origin()}, open={self._session is not None})"

    async def open(self) -> None:
        """Make the session, on the running loop."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX, limit_per_host=_CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"carpool/{_version()}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            trust_env=False,
            proxy=_proxy(self.base),
        )

    async def close(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def url(self, path: str) -> URL:
        """Return the URL of a path under the base URL."""
        return URL(f"{self.base}{path}", encoded=True)

    def own(self, text: str) -> URL:
        """Return a server-given URL, or raise ``ProviderError`` if it leads away from the configured origin."""
        url = parse_url(text)
        if url is None or not self.is_own(url):
            raise unreadable("the server gave a URL that leads away from the configured origin; it was not called")
        return url

    def is_own(self, url: URL) -> bool:
        """Return whether a URL has the configured scheme, host and port."""
        base = self.base
        return (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)

    def patience_s(self, size_bytes: int, timeout_s: float | None = None) -> float:
        """Return how long a call with a body of this size may take in all."""
        limit_s = self._settings.call_timeout_s if timeout_s is None else timeout_s
        return limit_s + size_bytes / _SENT_BYTES_PER_S

    async def call(
        self,
        method: str,
        url: URL,
        *,
        body: Sequence[bytes] = (),
        headers: Mapping[str, str] | None = None,
        keyed: bool = True,
        timeout_s: float | None = None,
    ) -> Reply:
        """Make one call, and read its whole reply within its time limit and ``Settings.body_bytes_max``.

        Args:
            method: HTTP method.
            url: where; it is never changed by the server.
            body: what is sent, in pieces; time for it is added to the limit.
            headers: beside the session's own.
            keyed: whether the key goes along; only ever to the configured origin.
            timeout_s: total time, that for the body apart; ``Settings.call_timeout_s`` where it is not given.

        Returns:
            The reply, whatever its status.

        Raises:
            ProviderError: there is no reply that could be read.
        """
        size_bytes = sum(map(len, body))
        try:
            async with asyncio.timeout(self.patience_s(size_bytes, timeout_s)):
                response = await self._request(method, url, body, headers, keyed=keyed)
                return Reply(response.status, response.headers, await self._read(response))
        except _TRANSPORT as error:
            fault = transport_fault(error)
        raise ProviderError(fault)

    async def get(self, url: URL) -> Reply:
        """GET a reply that may be large: it has as long as it keeps coming."""
        response = await self.open_stream(url, keyed=True)
        try:
            return Reply(response.status, response.headers, await self._read(response))
        except _TRANSPORT as error:
            fault = transport_fault(error)
        raise ProviderError(fault)

    async def open_stream(
        self,
        url: URL,
        *,
        keyed: bool,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Make one call and return its reply unread, whatever its status; who takes it closes it.

        Args:
            url: where.
            keyed: whether the key goes along.
            method: HTTP method.
            body: what is sent; time for it is added to the limit.
            headers: beside the session's own.
            timeout_s: until the reply begins; ``Settings.call_timeout_s`` where it is not given.

        Raises:
            ProviderError: there is no reply.
        """
        try:
            async with asyncio.timeout(self.patience_s(len(body), timeout_s)):
                return await self._request(method, url, (body,), headers, keyed=keyed)
        except _TRANSPORT as error:
            fault = transport_fault(error)
        raise ProviderError(fault)

    def bearer(self) -> dict[str, str]:
        """Return the key as Google's OpenAI-compatible methods take it; for the configured origin only."""
        return {"Authorization": f"Bearer {self._key}"}

    async def chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """Iterate over a reply's body as it comes; end normally only if it was complete.

        Raises:
            ProviderError: it broke off, or came too slowly.
        """
        pace = _Pace(self._floor)
        try:
            while chunk := await self._more(response, pace):
                yield chunk
            return
        except _TRANSPORT as error:
            fault = transport_fault(error)
        finally:
            response.close()
        raise ProviderError(fault)

    async def _more(self, response: aiohttp.ClientResponse, pace: _Pace) -> bytes:
        """Return what comes next of a body; nothing at its end."""
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        # Bytes that are none of the body (endless chunk headers) keep a socket busy: no read timeout sees them.
        async with asyncio.timeout(self._quiet_s()):
            chunk = await response.content.readany()
        pace.took(len(chunk), clock() - asked_at)
        return chunk

    async def error_of(self, response: aiohttp.ClientResponse) -> ProviderError:
        """Read the error that an unread reply tells, and close it."""
        return ProviderError(server_fault(response.status, await self._read(response)))

    def _request(
        self,
        method: str,
        url: URL,
        body: Sequence[bytes],
        headers: Mapping[str, str] | None,
        *,
        keyed: bool,
    ) -> Awaitable[aiohttp.ClientResponse]:
        session = self._session
        if session is None or session.closed:
            raise unreadable("the provider is closed", "not_sent")
        sent = dict(headers or {})
        if keyed:
            if not self.is_own(url):
                raise unreadable("the key goes to the configured origin only", "not_sent")
            sent["x-goog-api-key"] = self._key
        if method != "GET":
            sent["Content-Length"] = str(sum(map(len, body)))
            sent.setdefault("Content-Type", "application/json")
        return session.request(
            method, url, data=_data(body), headers=sent, allow_redirects=False, timeout=self._timeout
        )

    def _quiet_s(self) -> float:
        """Return how long nothing of a body may come."""
        return max(self._floor.window_s, self._settings.call_timeout_s)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read a body within its cap. Of an error reply, what can be read: its status says the rest."""
        failed = response.status >= 300
        cap = _ERROR_BYTES_MAX if failed else self._settings.body_bytes_max
        if not is_plain(response):
            response.close()
            if failed:
                return b""
            raise unreadable("the reply is compressed, though that was not asked for; it was not unpacked")
        content = response.content
        if content.is_eof() and content.exception() is None:
            body = content.read_nowait()  # it has come whole already, as small ones do
            size_bytes = len(body)
        else:
            body, size_bytes = await self._gather(response, cap, failed=failed)
        if size_bytes > cap and not failed:
            raise unreadable(f"the reply is larger than Settings.body_bytes_max ({cap} bytes)")
        # Errors come to be shown; some of the service's quote the key.
        return body[:cap].replace(self._key.encode(), b"[key]") if failed else body

    async def _gather(self, response: aiohttp.ClientResponse, cap: int, *, failed: bool) -> tuple[bytes, int]:
        """Read a body until it ends or grows beyond its cap; return what there is, and how much came."""
        parts: list[bytes] = []
        size_bytes = 0
        try:
            async with aclosing(self.chunks(response)) as chunks:
                async for chunk in chunks:
                    size_bytes += len(chunk)
                    if size_bytes > cap:
                        break
                    parts.append(chunk)
        except ProviderError:
            if not failed:
                raise
        return b"".join(parts), size_bytes


class _Pace:
    """Watches that a body keeps coming. Only waiting counts: what is done with the bytes may take its time."""

    __slots__ = ("_floor", "_got", "_left_s", "_waited_s")

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._left_s = floor.total_s
        self._waited_s = 0.0
        self._got = 0

    def took(self, size_bytes: int, waited_s: float) -> None:
        self._got += size_bytes
        self._left_s -= waited_s
        self._waited_s += waited_s
        if self._left_s < 0:
            raise unreadable(f"the reply did not end within {self._floor.total_s:g} s")
        if self._waited_s < self._floor.window_s:
            return
        if self._got < self._floor.bytes_per_s * self._waited_s:
            raise unreadable(f"the reply came more slowly than {self._floor.bytes_per_s:g} bytes/s")
        self._waited_s, self._got = 0.0, 0


def ok(reply: Reply) -> bytes:
    """Return the body of a reply, or raise the ``ProviderError`` that its status stands for."""
    if 200 <= reply.status < 300:
        return reply.body
    raise ProviderError(server_fault(reply.status, reply.body))


def is_plain(response: aiohttp.ClientResponse) -> bool:
    """Return whether a reply's body is as it is, not compressed."""
    return response.headers.get("Content-Encoding", "identity").strip().lower() in ("", "identity")


def parse_url(text: str) -> URL | None:
    """Return a server-given URL verbatim, or None if it is not an absolute http(s) URL without credentials."""
    try:
        url = URL(text, encoded=True)
        usable = url.scheme in ("http", "https") and bool(url.host) and url.user is None and url.password is None
        return url if usable and url.port else None
    except ValueError:
        return None


def _data(body: Sequence[bytes]) -> bytes | AsyncIterator[bytes | memoryview] | None:
    """Return a body as it is best sent: a small one goes out together with the headers."""
    if len(body) == 1 and len(body[0]) <= _PIECE_BYTES:
        return body[0] or None
    return _pieces(body) if any(body) else None


async def _pieces(body: Sequence[bytes]) -> AsyncIterator[bytes | memoryview]:
    for part in body:
        if len(part) <= _PIECE_BYTES:
            yield part
        else:
            view = memoryview(part)
            for start in range(0, len(part), _PIECE_BYTES):
                yield view[start : start + _PIECE_BYTES]


def checked_base(text: str) -> URL:
    """Return a base URL in its one form, or raise ``ConfigurationError`` if it cannot be used."""
    url = parse_url(text.rstrip("/"))
    if url is None or url.raw_query_string or url.raw_fragment:
        raise ConfigurationError("base_url must look like 'https://generativelanguage.googleapis.com', without a query")
    if url.scheme != "https" and not _is_loopback(url.host or ""):
        raise ConfigurationError(
            "base_url must be https: API key and prompts would cross the network unprotected. Plain http is for "
            "this machine only (localhost, 127.0.0.1, [::1]), where the emulator listens"
        )
    return URL(str(url).rstrip("/"), encoded=True)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _proxy(base: URL) -> str | None:
    """Return the environment's proxy for https (a tunnel: it sees no key); never one for plain http."""
    if base.scheme != "https" or proxy_bypass(base.host or ""):
        return None
    return getproxies().get("https")


def _version() -> str:
    try:
        return version("carpool")
    except PackageNotFoundError:
        return "0"
