"""Calls that carpool has no method for, handed on as they are, once.

Owns which headers travel on: nothing of a caller's credentials goes to the service, and nothing of a connection to
either side. It must not know what calls mean.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

import aiohttp
from yarl import URL

from carpool._core.model import Fault
from carpool._gemini.http import Http, is_plain, parse_url, unreadable
from carpool._ports import UPLOAD_URLS, Passed, ProviderError
from carpool.types import ServerError

VIA: Final = "1.1 carpool"
"""Tells a sidecar that a call has been through one already."""
_TIMEOUT_S: Final = 1_200.0
"""Until a reply begins: a live answer may take minutes."""
_TARGET = re.compile(r"/[!-~]*")
_METHOD = re.compile(r"[A-Z]{3,10}")
_OF_A_CONNECTION: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT_ON: Final = _OF_A_CONNECTION | {
    "accept-encoding",
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "referer",
    "via",
    "x-goog-api-key",
    "x-real-ip",
}
_NOT_SENT_BACK: Final = _OF_A_CONNECTION | {"set-cookie", "alt-svc", "strict-transport-security"}
_PREFIXES: Final = ("x-carpool-", "x-forwarded-", "sec-")


class Passing:
    """Hands calls on through the provider's session.

    Args:
        http: the session.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    async def forward(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Passed:
        """Make a call once, with our key in the place of the caller's own.

        Args:
            method: HTTP method.
            target: path and query, as they come after the base URL.
            headers: of the caller; what is about his connection or his credentials stays behind.
            body: as it is.

        Raises:
            ProviderError: there is no reply, or the target is none.
        """
        if not _TARGET.fullmatch(target) or target.startswith("//") or not _METHOD.fullmatch(method):
            raise ProviderError(Fault(kind="refused", error=ServerError(400, "this is no path", "INVALID_ARGUMENT")))
        sent = {
            name: value
            for name, value in headers.items()
            if name not in _NOT_SENT_ON and not name.startswith(_PREFIXES)
        }
        sent["Via"] = VIA
        url = self._http.url(_without_key(target))
        if "/openai/" in url.path:
            sent |= self._http.bearer()
        response = await self._http.open_stream(
            url, keyed=True, method=method, body=body, headers=sent, timeout_s=_TIMEOUT_S
        )
        if not is_plain(response):
            response.close()
            raise unreadable("the reply is compressed, though that was not asked for; it was not unpacked")
        pieces = self._pieces(response)
        await anext(pieces)
        return Passed(response.status, _back(response, self._http.base), pieces)

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        try:
            yield b""  # begun, so that closing it closes the reply, though nobody took any of it
            async for piece in self._http.chunks(response):
                yield piece
        finally:
            response.close()


def _without_key(target: str) -> str:
    """Return a target without a key in its query."""
    path, _, query = target.partition("?")
    pairs = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "key"]
    if len(pairs) == len(parse_qsl(query, keep_blank_values=True)):
        return target
    return f"{path}?{urlencode(pairs, quote_via=quote)}" if pairs else path


def _back(response: aiohttp.ClientResponse, base: URL) -> dict[str, str]:
    """Return the headers that travel back; URLs for an upload as targets, which lead through us again."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    kept = {name: value for name, value in headers.items() if name not in _NOT_SENT_BACK}
    for name in UPLOAD_URLS:
        url = parse_url(kept.get(name, ""))
        path = base.raw_path.rstrip("/")
        if url is not None and url.origin() == base.origin() and url.raw_path.startswith(f"{path}/"):
            kept[name] = url.raw_path_qs.removeprefix(path)
    return kept
