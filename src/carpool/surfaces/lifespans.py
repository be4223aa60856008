"""A client as long as a web application runs: ``carpool.lifespan()`` and ``carpool.cleanup_ctx()``.

Owns how frameworks are handed the client, and what is told where that cannot be done. It loads none of them but
aiohttp, which carpool needs anyway.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias, cast

from aiohttp import web

from carpool._showing import in_short
from carpool.client import Client
from carpool.errors import ConfigurationError

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
_MADE: Final = inspect.signature(Client)


def lifespan(
    inner: Lifespan | None = None, /, *, name: str = "carpool", **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Return a lifespan that opens a client at the start of an application and leaves it at the stop.

    ``FastAPI(lifespan=carpool.lifespan())``, ``Starlette(lifespan=carpool.lifespan())``,
    ``Litestar(lifespan=[carpool.lifespan()])``. The client is ``app.state.carpool``, and where lifespans yield their
    state (FastAPI, Starlette) ``request.state.carpool`` as well.

    Args:
        inner: the application's own lifespan, or another of these: it runs while the client is open, and may use it;
            what it yields is kept.
        name: of the client in the state: several clients have several names.
        options: arguments of ``carpool.Client``, which is made when the application starts.

    Raises:
        ConfigurationError: ``inner`` or ``name`` cannot be used; at the start: the name is taken, or what ``Client``
            and its opening raise.
        TypeError: ``Client`` has no such argument.
    """
    _MADE.bind(**options)
    if inner is not None and not callable(inner):
        raise ConfigurationError(f"the inner lifespan must be a function of the application, not {in_short(inner)}")
    if not isinstance(cast("object", name), str) or not name.isidentifier():
        raise ConfigurationError(f"name is {in_short(name)}; it must be the name of an attribute, such as 'carpool'")

    @asynccontextmanager
    async def run(app: Any) -> AsyncGenerator[dict[str, Any]]:
        state = getattr(app, "state", None)
        if hasattr(state, name):
            raise ConfigurationError(f"app.state.{name} is taken; give carpool.lifespan another name: name='...'")
        async with Client(**options) as client:
            if state is not None:
                setattr(state, name, client)
            try:
                async with _entered(inner, app) as more:
                    if name in more:
                        raise ConfigurationError(
                            f"the inner lifespan yields {name!r} too; give carpool.lifespan another name: name='...'"
                        )
                    yield {name: client, **more}
            finally:
                if state is not None:  # the application may be started again
                    delattr(state, name)

    return run


@asynccontextmanager
async def _entered(inner: Lifespan | None, app: Any) -> AsyncGenerator[Mapping[str, Any]]:
    """Run a lifespan, or none; give what it yields."""
    if inner is None:
        yield {}
        return
    within = inner(app)
    if not isinstance(cast("object", within), AbstractAsyncContextManager):
        raise ConfigurationError(
            "the inner lifespan returned no asynchronous context manager; is it decorated with "
            "@contextlib.asynccontextmanager?"
        )
    async with within as more:
        yield {} if more is None else more


def cleanup_ctx(key: web.AppKey[Client], **options: Any) -> Callable[[web.Application], AsyncGenerator[None]]:
    """Return a cleanup context for aiohttp: ``app.cleanup_ctx.append(carpool.cleanup_ctx(CLIENT))``.

    The client is ``request.app[CLIENT]``. Contexts that are appended later start after it, and stop before it.

    Args:
        key: ``CLIENT = web.AppKey("carpool", carpool.Client)``; several clients have several keys.
        options: arguments of ``carpool.Client``, which is made when the application starts.

    Raises:
        ConfigurationError: ``key`` is no ``AppKey``; at the start: it is taken, or what ``Client`` and its opening
            raise.
        TypeError: ``Client`` has no such argument.
    """
    _MADE.bind(**options)
    if not isinstance(cast("object", key), web.AppKey):
        raise ConfigurationError(
            f"key is {in_short(key)}; it must be an aiohttp.web.AppKey: CLIENT = web.AppKey('carpool', carpool.Client)"
        )

    async def run(app: web.Application) -> AsyncGenerator[None]:
        if key in app:
            raise ConfigurationError(f"the application has a {key} already; give each client a key of its own")
        async with Client(**options) as client:
            app[key] = client
            yield

    return run
