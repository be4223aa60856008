"""A client that nobody has any more, though it was never left.

Owns what becomes of it: what was asked for is finished for those who hold tickets, then everything is let go of.
"""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
import weakref
from contextlib import suppress
from typing import Final

from carpool._runtime.loop import Runtime
from carpool.errors import CarpoolError

logger: Final = logging.getLogger("carpool")
_leaving: Final[set[asyncio.Task[None]]] = set()
"""Nobody else would keep them alive."""


def look_after(owner: object, runtime: Runtime) -> weakref.finalize[..., object]:
    """Let go of a runtime once its owner is garbage; to be called on its loop.

    The runtime is kept alive until then: work under way must not become garbage while somebody waits for it.
    """
    finalizer = weakref.finalize(owner, _let_go, runtime, asyncio.get_running_loop(), os.getpid())
    finalizer.atexit = False
    return finalizer


def _let_go(runtime: Runtime, loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if pid != os.getpid() or runtime.is_over:
        return  # not this process's, or ended with its loop
    with suppress(RuntimeError):  # the loop was closed: then the store lets go by itself
        loop.call_soon_threadsafe(_begin, runtime, loop)
    # Last: where warnings are errors, this raises.
    warnings.warn(
        "a carpool client was forgotten without being left; use 'async with carpool.Client() as client:'",
        ResourceWarning,
        stacklevel=2,
    )


def _begin(runtime: Runtime, loop: asyncio.AbstractEventLoop) -> None:
    task = loop.create_task(_leave(runtime), name="carpool-forgotten")
    _leaving.add(task)
    task.add_done_callback(_leaving.discard)


async def _leave(runtime: Runtime) -> None:
    try:
        await runtime.drain()
    except CarpoolError as error:
        logger.warning("a forgotten client could not finish: %s", error)
    finally:
        await runtime.close("keep", clean=False)
