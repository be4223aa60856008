"""``client.caches``: cached content, for the beginnings that many requests share.

Owns the translation of provider errors. Keeping a cache alive while work in flight uses it is the keeper's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from carpool._ports import CacheService, ProviderError
from carpool._runtime.verdicts import fault_words
from carpool.errors import CacheError, ConfigurationError
from carpool.types import Cache


class Caches:
    """Cached content, as the server shows it. The server takes a price by the hour for keeping it.

    Use one with ``config={"cached_content": cache.name}``. While requests of this client that use it are unanswered,
    it is kept alive at least ``Settings.cache_lead_s`` ahead, and never made to live shorter. That ends when the
    client is closed; requests that an earlier process left in flight are not known to use a cache, so
    ``extend`` it yourself if you leave some behind.
    """

    def __init__(self, service: CacheService | None, check: Callable[[], Any]) -> None:
        self._given = service
        self._check = check

    @property
    def _service(self) -> CacheService:
        self._check()
        if self._given is None:
            raise ConfigurationError("this client's provider has no caches: give it an attribute 'caches'")
        return self._given

    async def create(
        self,
        model: str,
        contents: Any = None,
        *,
        config: Any = None,
        ttl_s: float = 3_600,
        display_name: str | None = None,
    ) -> Cache:
        """Create cached content. The call is sent once, and never repeated by itself.

        Args:
            model: the model that will use it, with or without ``models/``.
            contents: what ``generate`` takes.
            config: ``system_instruction``, ``tools`` and ``tool_config``, as ``generate`` takes them; requests that use
                the cache must not give these again.
            ttl_s: how long it lives, in seconds.
            display_name: shown in lists.

        Raises:
            ConfigurationError: an argument cannot be used. Nothing was sent.
            CacheError: the server refused, or no clear answer came; then look in ``list`` whether it is there.
        """
        service = self._service
        try:
            return await service.create(model, contents, config, ttl_s, display_name)
        except ProviderError as error:
            raise _cache_error(error, None) from None

    async def get(self, name: str) -> Cache:
        """Return a cache by its name, with or without ``cachedContents/``.

        Raises:
            ConfigurationError: this cannot be a name.
            CacheError: there is no such cache, or the server cannot be reached.
        """
        service = self._service
        try:
            return await service.get(name)
        except ProviderError as error:
            raise _cache_error(error, name) from None

    async def list(self) -> AsyncGenerator[Cache]:
        """Iterate over all caches.

        Raises:
            CacheError: the server cannot be reached, or refused.
        """
        try:
            async for cache in self._service.list():
                yield cache
        except ProviderError as error:
            raise _cache_error(error, None) from None

    async def extend(self, name: str, *, ttl_s: float) -> Cache:
        """Let a cache live ``ttl_s`` seconds from now on, be that longer or shorter than before.

        Raises:
            ConfigurationError, CacheError: as ``get``.
        """
        service = self._service
        try:
            return await service.extend(name, ttl_s)
        except ProviderError as error:
            raise _cache_error(error, name) from None

    async def delete(self, name: str) -> None:
        """Delete a cache; one that is gone already counts as deleted. Requests that use it and have not run will fail.

        Raises:
            ConfigurationError, CacheError: as ``get``.
        """
        service = self._service
        try:
            await service.delete(name)
        except ProviderError as error:
            raise _cache_error(error, name) from None


def _cache_error(error: ProviderError, name: str | None) -> CacheError:
    said = error.fault.error
    return CacheError(
        f"{name or 'caches'}: {fault_words(error.fault, error.sent)}",
        name=name,
        code=said.code or None,
        status=said.status or None,
        message=said.message or None,
        details=said.details,
    )
