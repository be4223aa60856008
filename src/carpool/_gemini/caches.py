"""Cached content: prompts' beginnings that the server keeps, for a price by the hour.

Owns the calls and their bodies. It must not know which requests use a cache, nor keep one alive by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from yarl import URL

from carpool._gemini.config import place_cache
from carpool._gemini.contents import contents_of
from carpool._gemini.encode import model_name
from carpool._gemini.http import Http, ok, unreadable
from carpool._gemini.listing import listed
from carpool._gemini.media import user_name
from carpool._gemini.plain import to_json
from carpool._gemini.wire import checked_name, read_list
from carpool._ports import ProviderError
from carpool._showing import in_short
from carpool.errors import ConfigurationError
from carpool.types import Cache


class _Tokens(msgspec.Struct, frozen=True, rename="camel", gc=False):
    total_token_count: int = 0


class _Described(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str = ""
    model: str = ""
    display_name: str = ""
    create_time: str = ""
    update_time: str = ""
    expire_time: str = ""
    usage_metadata: _Tokens = _Tokens()


_described: Final = msgspec.json.Decoder(_Described, strict=False)


class Caches:
    """Cached content of one origin and key. Raises as ``Media`` does; names may be given without their kind."""

    def __init__(self, http: Http, api_version: str) -> None:
        self._http = http
        self._version = api_version

    async def create(self, model: str, contents: Any, config: Any, ttl_s: float, display_name: str | None) -> Cache:
        """Create cached content, with one call that is never repeated."""
        name = model_name(model)
        body: dict[str, Any] = {
            "model": name if name.startswith("tunedModels/") else f"models/{name}",
            "ttl": _duration(ttl_s),
        }
        if contents is not None:
            body["contents"] = contents_of(contents)
        if config is not None:
            body |= place_cache(config)
        if not body.keys() & {"contents", "systemInstruction", "tools"}:
            raise ConfigurationError(
                "there is nothing to cache: give contents, or system_instruction or tools in config. Nothing was sent."
            )
        if display_name:
            body["displayName"] = display_name
        url = self._http.url(f"/{self._version}/cachedContents")
        sent = to_json(body, "caches.create")
        reply = await self._http.call("POST", url, body=(sent,))
        try:
            return _read(ok(reply))
        except ProviderError as error:
            error.sent = sent
            raise

    async def get(self, name: str) -> Cache:
        """Return the server's description of a cache."""
        return _read(ok(await self._http.call("GET", self._url(name))))

    def list(self) -> AsyncGenerator[Cache]:
        """Iterate over all caches, page by page."""
        return listed(self._http, f"/{self._version}/cachedContents", _read_page, "caches")

    async def extend(self, name: str, ttl_s: float) -> Cache:
        """Let a cache live so much longer from now on."""
        body = msgspec.json.encode({"ttl": _duration(ttl_s)})
        return _read(ok(await self._http.call("PATCH", self._url(name), body=(body,))))

    async def delete(self, name: str) -> None:
        """Delete a cache; one that is gone counts as deleted."""
        reply = await self._http.call("DELETE", self._url(name))
        if reply.status not in (403, 404):
            ok(reply)

    def _url(self, name: str) -> URL:
        return self._http.url(f"/{self._version}/{user_name(name, 'cachedContents/')}")


def _duration(ttl_s: float) -> str:
    """Return a span of time as protobuf's JSON spells it."""
    if not 0 < ttl_s < 10**9:
        raise ConfigurationError(
            f"ttl_s is {in_short(ttl_s)}; it must be a number of seconds above 0. Nothing was sent."
        )
    return f"{ttl_s:.9f}".rstrip("0").rstrip(".") + "s"


def _read(body: bytes) -> Cache:
    try:
        return _cache(body)
    except (ValueError, RecursionError):
        error = unreadable("the server's description of the cache cannot be read")
    raise error


def _read_page(body: bytes) -> tuple[list[Cache], str]:
    items, token = read_list(body, "cachedContents")
    return [_cache(item) for item in items], token


def _cache(raw: bytes) -> Cache:
    """Return the cache that JSON describes; raise ``ValueError`` if it describes none."""
    found = _described.decode(raw)
    return Cache(
        name=checked_name(found.name, "cachedContents/"),
        model=found.model.removeprefix("models/"),
        display_name=found.display_name,
        created_at=found.create_time,
        updated_at=found.update_time,
        expires_at=found.expire_time,
        tokens=found.usage_metadata.total_token_count,
    )
