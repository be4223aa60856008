"""Google's own SDK on a client of carpool: ``carpool.genai_client()`` and ``carpool.http_options()``.

Owns a transport for httpx and httpx2, which the SDK is given in the place of the network: what it asks for goes to the
client, and comes back as a response of its own HTTP library. The SDK itself stays as it is: types, chats, tools,
automatic function calling. google-genai is loaded when one of the two functions is called, the HTTP library never: what
a response is made of comes from the module of its request.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Self

from carpool import sync
from carpool._deadline import ambient
from carpool._ports import ProviderError
from carpool._showing import shown
from carpool.errors import ConfigurationError
from carpool.surfaces.bridge import Bridge, Given
from carpool.surfaces.deadlines import OWN
from carpool.surfaces.messages import Answer, Call

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

    from carpool.settings import Ladder
    from carpool.surfaces.exchange import Exchange
    from carpool.types import Deadline


def http_options(
    client: Given = None, *, deadline: Deadline | None = None, ladder: Ladder | None = None, **options: Any
) -> types.HttpOptions:
    """Return google-genai's ``HttpOptions`` with which its calls, sync and async, go through a client of carpool.

    For whatever takes them: ``genai.Client(http_options=...)``, or a framework that makes a client of its own.

    Args:
        client: an open ``carpool.Client`` or ``carpool.sync.Client``; ``None``: one that is made from the environment
            with the first call, and closed with the SDK's client or at the end of the interpreter.
        deadline: of calls that say nothing of one, as ``generate`` takes it.
        ladder: of all calls; ``None``: the client's.
        options: other fields of ``HttpOptions``. ``base_url`` is where a client that is made here calls.

    Raises:
        ConfigurationError: google-genai is not installed, or an argument cannot be used.
    """
    _, types_ = _google()
    own = partial(sync.Client, base_url=options.get("base_url"))
    options_type: type[types.HttpOptions] = types_.HttpOptions
    return options_type(**_with_transport(options, Bridge(client, own, deadline=deadline, ladder=ladder)))


def genai_client(
    client: Given = None, *, deadline: Deadline | None = None, ladder: Ladder | None = None, **options: Any
) -> genai.Client:
    """Return a ``google.genai.Client`` whose calls go through a client of carpool.

    Args:
        client: as ``http_options``.
        deadline: as ``http_options``.
        ladder: as ``http_options``.
        options: arguments of ``google.genai.Client``. ``api_key`` is the key of a client that is made here; with a
            client of your own, that one's key is what the service sees.

    Raises:
        ConfigurationError: google-genai is not installed, an argument cannot be used, or it asks for Vertex AI.
    """
    genai_, types_ = _google()
    if options.pop("vertexai", None) or options.pop("enterprise", None):
        raise ConfigurationError("carpool calls the Gemini Developer API; Vertex AI cannot be reached through it")
    given: Any = options.pop("http_options", None) or {}
    names: Any = getattr(given.__class__, "model_fields", None)
    fields: dict[str, Any] = dict(given) if names is None else {name: getattr(given, name) for name in names}
    fields = {name: value for name, value in fields.items() if value is not None}
    own = partial(sync.Client, api_key=options.get("api_key"), base_url=fields.get("base_url"))
    bridge = Bridge(client, own, deadline=deadline, ladder=ladder)
    # The SDK wants a key; what it has never leaves this process.
    options["api_key"] = options.get("api_key") or "held-by-carpool"
    client_type: type[genai.Client] = genai_.Client
    options["http_options"] = types_.HttpOptions(**_with_transport(fields, bridge))
    return client_type(vertexai=False, **options)


def _with_transport(fields: dict[str, Any], bridge: Bridge) -> dict[str, Any]:
    transport = Transport(bridge)
    for name in ("client_args", "async_client_args"):
        if "transport" in (fields.get(name) or {}):
            raise ConfigurationError(f"http_options.{name} has a transport already; carpool brings its own")
    for name in ("httpx_client", "httpx_async_client", "aiohttp_client"):
        if fields.get(name) is not None:
            raise ConfigurationError(f"http_options.{name} would go around carpool; leave it out")
    return {
        **fields,
        "client_args": {**(fields.get("client_args") or {}), "transport": transport},
        "async_client_args": {**(fields.get("async_client_args") or {}), "transport": transport},
    }


def _google() -> tuple[Any, Any]:
    """Load google-genai."""
    try:
        from google import genai
        from google.genai import types
    except ImportError:
        raise ConfigurationError("google-genai is not installed: pip install 'carpool[genai]'") from None
    return genai, types


class Transport:
    """What httpx and httpx2 send requests with, sync and async; known to them by its methods alone.

    Args:
        bridge: the way to the client.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of httpx, or httpx2."""
        call = _call_of(request, await request.aread())
        answer = await self._bridge.run(_answering(call))
        del call
        if answer.pieces is None:
            return _response(request, answer, {"content": answer.body})
        stream = _stream_class(_module_of(request), is_async=True)(_pieces(self._bridge, answer.pieces, request))
        return _response(request, answer, {"stream": stream})

    def handle_request(self, request: Any) -> Any:
        """Answer a request of httpx, or httpx2, in the thread that asks."""
        call = _call_of(request, request.read())
        answer = self._bridge.wait(_answering(call))
        del call
        if answer.pieces is None:
            return _response(request, answer, {"content": answer.body})
        pieces = _blocking_pieces(self._bridge, answer.pieces, request)
        stream = _stream_class(_module_of(request), is_async=False)(pieces)
        return _response(request, answer, {"stream": stream})

    async def aclose(self) -> None:
        """Close a client that was made for this transport."""
        await asyncio.to_thread(self._bridge.close)

    def close(self) -> None:
        """Close a client that was made for this transport."""
        self._bridge.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answering(call: Call) -> Any:
    async def ask(exchange: Exchange) -> Answer:
        return await exchange.answer(call)

    return ask


def _call_of(request: Any, body: bytes) -> Call:
    url = request.url
    path, _, query = url.raw_path.partition(b"?")
    headers = {name.lower(): value for name, value in request.headers.items()}
    if OWN not in headers and (until := ambient()) is not None:
        headers[OWN] = until.isoformat()
    port = "" if url.port is None else f":{url.port}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return Call(
        method=request.method,
        path=path.decode("ascii"),
        query=query.decode("ascii"),
        headers=headers,
        body=body,
        origin=f"{url.scheme}://{host}{port}",
    )


def _response(request: Any, answer: Answer, content: dict[str, Any]) -> Any:
    make = _module_of(request).Response
    return make(answer.status, headers=list(answer.headers.items()), request=request, **content)


def _module_of(request: Any) -> Any:
    """Return the library that a request is of: its response must be of the same."""
    return sys.modules[type(request).__module__.partition(".")[0]]


@lru_cache(maxsize=8)
def _stream_class(module: Any, *, is_async: bool) -> Any:
    """Return a byte stream of an HTTP library, for bodies that are not whole."""
    if is_async:

        class AsyncPieces(module.AsyncByteStream):  # type: ignore[misc]
            def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
                self._pieces = pieces

            def __aiter__(self) -> AsyncIterator[bytes]:
                return self._pieces

            async def aclose(self) -> None:
                await self._pieces.aclose()

        return AsyncPieces

    class Pieces(module.SyncByteStream):  # type: ignore[misc]
        def __init__(self, pieces: Any) -> None:
            self._pieces = pieces

        def __iter__(self) -> Iterator[bytes]:
            return iter(self._pieces)

        def close(self) -> None:
            self._pieces.close()

    return Pieces


async def _next(pieces: AsyncGenerator[bytes], _: Exchange) -> bytes | None:
    return await anext(pieces, None)


async def _end(pieces: AsyncGenerator[bytes], _: Exchange) -> None:
    await pieces.aclose()


async def _pieces(bridge: Bridge, pieces: AsyncGenerator[bytes], request: Any) -> AsyncGenerator[bytes]:
    """Iterate over what comes on the client's loop, on this one."""
    try:
        while (piece := await bridge.run(partial(_next, pieces))) is not None:
            yield piece
    except ProviderError as error:
        raise _broken(error, request) from None
    finally:
        await bridge.run(partial(_end, pieces))


def _blocking_pieces(bridge: Bridge, pieces: AsyncGenerator[bytes], request: Any) -> Iterator[bytes]:
    try:
        while (piece := bridge.wait(partial(_next, pieces))) is not None:
            yield piece
    except ProviderError as error:
        raise _broken(error, request) from None
    finally:
        bridge.wait(partial(_end, pieces))


def _broken(error: ProviderError, request: Any) -> Exception:
    """Return the error of the HTTP library for a body that breaks off."""
    broken: Exception = _module_of(request).ReadError(shown(error.fault.error.message), request=request)
    return broken
