"""The sidecar: a server on this machine that answers the Gemini API for programs in any language.

Owns the life of the server: where it listens, who may reach it, and how it stops. It must not know how a request goes
through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from carpool.errors import ConfigurationError
from carpool.surfaces.messages import Answering
from carpool.surfaces.sidecar.connections import Connection, Connections
from carpool.surfaces.sidecar.doorway import Doorway
from carpool.surfaces.sidecar.guard import Guard, address_of, is_own
from carpool.surfaces.sidecar.limits import Limits, connections_of
from carpool.surfaces.sidecar.metrics import Metric
from carpool.surfaces.sidecar.pages import Pages
from carpool.surfaces.sidecar.serving import Serving
from carpool.types import Health

_LINGER_S: Final = 2.0
"""How long the rest of a body is read and thrown away, so that its caller sees why it was refused."""
_READ_BYTES: Final = 65_536
"""Of a connection, before its caller is made to wait."""
_LAST_WORDS_S: Final = 2.0
"""How long callers may take to hear that the sidecar stops."""


class Sidecar:
    """Answers HTTP calls on a port, within the running event loop.

    Use it as an async context manager. Leaving it is a graceful stop: see :meth:`stop`.

    Args:
        answering: what answers calls; it is not told keys that callers send.
        host: address or name to listen on. Whatever is reached from other machines needs a token.
        port: port to listen on, 0 for any free one.
        token: what callers must show, as their API key for example.
        allow_hosts: further names, with or without a port, by which callers may address it.
        upstream: URL of the service behind, to find out that it is not this sidecar.
        limits: what is taken from callers at most.
        health: returns whether what stands behind works.
        metrics: returns numbers of it, for ``/carpool/metrics``.
        receipt: returns its account as plain data, for ``/carpool/receipt``.
        clock: tells the time in seconds; ``None``: the loop's.

    Raises:
        ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        answering: Answering,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        allow_hosts: Iterable[str] = (),
        upstream: str | None = None,
        limits: Limits | None = None,
        health: Callable[[], Health] = lambda: Health(status="ok"),
        metrics: Callable[[], Iterable[Metric]] = tuple,
        receipt: Callable[[], Mapping[str, Any]] = dict,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self._answering = answering
        self._host = host
        self._port = port
        self._token = token
        self._allowed = tuple(allow_hosts)
        Guard(host, port, allowed=self._allowed, token=token)  # what cannot be used is said now
        self._metrics = metrics
        self._pages = Pages(health, self._all_metrics, receipt)
        self._clock = clock
        self._serving: Serving | None = None
        self._doorway: Doorway | None = None
        self._server: web.Server | None = None
        self._stopping = False
        self._hurried = asyncio.Event()
        self._bound: tuple[str, int] | None = None
        if upstream is not None and port and is_own(upstream, host, port):
            raise ConfigurationError(
                f"the upstream is this sidecar itself, on port {port}; CARPOOL_BASE_URL must be the URL of the "
                "service, or not be set"
            )

    def __repr__(self) -> str:
        return f"Sidecar(port={self._bound and self._bound[1]}, serving={self._serving!r})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- its life

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: it can be reached from other machines, and asks for no token.
            OSError: the address is taken or not ours.
            RuntimeError: it was started before.
        """
        if self._server is not None:
            raise RuntimeError("a sidecar is started once; make a new one")
        most = connections_of(self.limits)
        loop = asyncio.get_running_loop()
        connections = Connections(self.limits, self._clock or loop.time)
        server = self._server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        # aiohttp's own limit of idle connections is beyond ours, which counts those that send no request as well.
        new_connection = partial(
            Connection,
            connections,
            server,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=2 * self.limits.idle_s,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BYTES,
        )
        doorway = Doorway(connections, most, new_connection)
        await doorway.bind(self._host, self._port)
        try:
            guard = self._guard_of(doorway)
            self._serving = Serving(
                self._answering, guard, self._pages, connections, limits=self.limits, connections_max=most
            )
            doorway.open()
        except BaseException:
            await doorway.close()
            raise
        self._doorway = doorway

    def _guard_of(self, doorway: Doorway) -> Guard:
        """Return the rules for what it is bound to."""
        addresses = [address_of(host) for host, _ in doorway.addresses]
        is_local = all(address is not None and address.is_loopback for address in addresses)
        if not is_local and self._token is None:
            raise ConfigurationError(
                f"{self._host} can be reached from other machines, and whoever reaches a sidecar spends your money: "
                "set a token (CARPOOL_TOKEN, or --token-file), or listen on 127.0.0.1"
            )
        host, port = doorway.addresses[0]
        bound = address_of(host)
        if bound is not None and bound.is_unspecified:
            host = "127.0.0.1" if bound.version == 4 else "::1"
        self._bound = (host, port)
        return Guard(self._host, port, allowed=self._allowed, token=self._token)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._serving is not None
        return await self._serving.serve(request)

    def _all_metrics(self) -> Iterable[Metric]:
        assert self._serving is not None
        return [*self._metrics(), *self._serving.metrics()]

    async def stop(self) -> None:
        """Stop listening, and let callers that wait have their answers for ``grace_s``; the rest hear to ask again.

        Cancelling their calls leaves what was sent on record: whoever asks the same again gets it. :meth:`hurry` ends
        the waiting at once. Stopping twice does nothing.
        """
        serving, doorway, server = self._serving, self._doorway, self._server
        if serving is None or doorway is None or server is None or self._stopping:
            return
        self._stopping = True
        connections = serving.connections
        await doorway.close()
        serving.stop()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.limits.grace_s, self._hurried.set)
        try:
            await self._until_idle(connections)
            timer.cancel()
            self._hurried.clear()
            timer = loop.call_later(_LAST_WORDS_S, self._hurried.set)
            serving.interrupt()
            await self._until_idle(connections)
        finally:
            timer.cancel()
            connections.abort()
            server.pre_shutdown()
            await server.shutdown(_LAST_WORDS_S)

    def hurry(self) -> None:
        """Let callers wait no longer for their answers. For a sidecar that is being stopped."""
        self._hurried.set()

    async def _until_idle(self, connections: Connections) -> None:
        """Wait until no request is being handled, or somebody is in a hurry."""
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            while connections.turns and not self._hurried.is_set():
                connections.changed.clear()
                changed = asyncio.ensure_future(connections.changed.wait())
                await asyncio.wait((hurried, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            hurried.cancel()

    @property
    def waiting(self) -> int:
        """How many callers wait for answers."""
        return 0 if self._serving is None else self._serving.connections.waiting

    @property
    def port(self) -> int:
        """The port that it listens on, or did.

        Raises:
            RuntimeError: it was never started.
        """
        if self._bound is None:
            raise RuntimeError("the sidecar was not started: use `async with Sidecar(...) as sidecar`")
        return self._bound[1]

    @property
    def url(self) -> str:
        """Where programs of this machine reach it, without a slash at the end.

        Raises:
            RuntimeError: it was never started.
        """
        port = self.port
        host = "" if self._bound is None else self._bound[0]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
