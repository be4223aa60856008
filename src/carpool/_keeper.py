"""Cached content that work in flight uses is kept alive.

Owns which requests use which cache, and when a cache is looked after next. It must not know how caches are created, or
what is in them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Final

import anyio
import msgspec

from carpool._core.model import Place
from carpool._ports import CacheService, ProviderError
from carpool._runtime.watch import log_bug
from carpool._showing import status_word
from carpool.errors import CarpoolError
from carpool.types import Cache

logger: Final = logging.getLogger("carpool")
_RETRY_MAX_S: Final = 60.0
_PRUNE_MIN: Final = 1_024


class _Held(msgspec.Struct, gc=False):
    """A cache in use."""

    places: set[Place]
    due_at: float
    """When to look after it next, in seconds since the epoch."""
    prune_at: int = _PRUNE_MIN
    """How many places to gather before those that are answered are let go of."""
    warned: bool = False


class Keeper:
    """Looks after the caches that unanswered requests of this client use, tickets included.

    It asks how long a cache has to live, and extends it (never shortens) so that at least ``lead_s`` are left. It runs
    only while there is such a request. A cache that cannot be kept is warned of once, and fails no call: its rows will
    get the server's own error. Requests that an earlier process left behind are not known to use a cache, nor does
    anybody look after one once the client is closed.

    Args:
        service: the provider's caches, if it has any.
        lead_s: how far ahead a cache is kept alive, in seconds.
        now: tells the time in seconds since the epoch.
        is_open: tells whether a request still waits for its answer.
        start: runs work beside its caller, until the client is closed.
    """

    def __init__(
        self,
        service: CacheService | None,
        lead_s: float,
        now: Callable[[], float],
        is_open: Callable[[Place], bool],
        start: Callable[..., None],
    ) -> None:
        self._service = service
        self._lead_s = lead_s
        self._now = now
        self._is_open = is_open
        self._start = start
        self._held: dict[str, _Held] = {}
        self._changed: asyncio.Event | None = None

    def hold(self, name: str, place: Place) -> None:
        """Note that a request uses a cache."""
        if self._service is None:
            return
        held = self._held.get(name)
        if held is not None:
            held.places.add(place)
            if len(held.places) >= held.prune_at:
                self._prune(held)
            return
        self._held[name] = _Held({place}, self._now())
        if self._changed is not None:
            self._changed.set()
            return
        self._changed = asyncio.Event()
        self._start(self._run, self._service, self._changed)

    async def _run(self, service: CacheService, changed: asyncio.Event) -> None:
        """Look after caches until none is in use."""
        while self._held:
            changed.clear()
            for name, held in list(self._held.items()):
                if held.due_at > self._now():
                    continue
                self._prune(held)
                if held.places:
                    held.due_at = await self._look_after(service, name, held)
                else:
                    del self._held[name]
            due_at = min((held.due_at for held in self._held.values()), default=0.0)
            with anyio.move_on_after(max(0.0, due_at - self._now()) if self._held else 0.0):
                await changed.wait()
        self._changed = None

    async def _look_after(self, service: CacheService, name: str, held: _Held) -> float:
        """Extend a cache if it is time; return when to look again."""
        lead_s = self._lead_s
        try:
            # Asked each time, since others may extend it too: what it has to live is never made shorter.
            left_s = self._left_s(await service.get(name))
            if left_s < 1.5 * lead_s:
                left_s = self._left_s(await service.extend(name, 2 * lead_s))
        except ProviderError as error:
            self._warn(
                name,
                held,
                f"{error.fault.error.code or error.fault.kind} {status_word(error.fault.error.status)}".strip(),
            )
        except CarpoolError as error:
            self._warn(name, held, type(error).__name__)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may do better
            log_bug("a bug of carpool in keeping cached content alive", error)
        else:
            held.warned = False
            return self._now() + max(left_s - 1.5 * lead_s, lead_s / 8)
        return self._now() + min(_RETRY_MAX_S, lead_s / 8)

    def _left_s(self, cache: Cache) -> float:
        try:
            return datetime.fromisoformat(cache.expires_at).timestamp() - self._now()
        except ValueError:
            return math.inf

    def _warn(self, name: str, held: _Held, why: str) -> None:
        if not held.warned:
            logger.warning("%s could not be kept alive, which requests in flight use: %s", name, why)
        held.warned = True

    def _prune(self, held: _Held) -> None:
        held.places = {place for place in held.places if self._is_open(place)}
        held.prune_at = max(_PRUNE_MIN, 2 * len(held.places))
