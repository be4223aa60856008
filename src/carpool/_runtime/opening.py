"""An engine out of what a store holds.

Owns the reading of the records at opening. What they mean is for the core.
"""

from __future__ import annotations

from collections.abc import Callable

from carpool._core.engine import Engine
from carpool._core.messages import Step
from carpool._core.model import Meta
from carpool._core.recovery import Recovery
from carpool._ports import Provider, Store
from carpool.errors import StoreError
from carpool.settings import Settings


async def recover(
    store: Store, provider: Provider, settings: Settings, now: Callable[[], float]
) -> tuple[Engine, Step]:
    """Return the engine of what earlier processes left, and what to write down before it is used.

    Raises:
        StoreError: the store cannot be read, or has no identity.
    """
    recovery: Recovery | None = None
    async for record in store.load():
        if recovery is None:
            if not isinstance(record, Meta):
                raise StoreError("the store does not begin with its identity")
            recovery = Recovery(settings, provider.framing, provider.origin, record)
        recovery.take(record)
    if recovery is None:
        raise StoreError("the store is empty: it holds no identity")
    return recovery.finish(now())
