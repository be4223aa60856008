"""A client as long as a web application runs: ``carpool.lifespan()`` and ``carpool.cleanup_ctx()``.

Owns how frameworks are handed the client. It loads none of them but aiohttp, which carpool needs anyway.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from carpool.client import Client

if TYPE_CHECKING:
    from aiohttp import web

_NAME: Final = "carpool"


def lifespan(**options: Any) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Client]]]:
    """Return a lifespan for FastAPI, Starlette and Litestar: ``FastAPI(lifespan=carpool.lifespan())``.

    The client is ``request.state.carpool`` in FastAPI and Starlette, and ``app.state.carpool`` everywhere.

    Args:
        options: arguments of ``carpool.Client``.
    """

    @asynccontextmanager
    async def run(app: Any) -> AsyncGenerator[dict[str, Client]]:
        async with Client(**options) as client:
            setattr(app.state, _NAME, client)
            yield {_NAME: client}

    return run


def cleanup_ctx(key: Any = _NAME, **options: Any) -> Callable[[web.Application], AsyncGenerator[None]]:
    """Return a cleanup context for aiohttp: ``app.cleanup_ctx.append(carpool.cleanup_ctx(CLIENT))``.

    The client is ``request.app[CLIENT]``.

    Args:
        key: under which the application holds the client: ``web.AppKey("carpool", carpool.Client)``, or a string.
        options: arguments of ``carpool.Client``.
    """

    async def run(app: web.Application) -> AsyncGenerator[None]:
        async with Client(**options) as client:
            app[key] = client
            yield

    return run
