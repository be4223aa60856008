"""The world behind a socket.

Owns the aiohttp server around a :class:`World`: reading bodies within bounds, telling the time, letting other tasks
run between slices, and the ``/emulator/...`` pages. It must not decide
anything about the service.

Besides Google's methods it answers ``GET /emulator/ledger``, ``GET /emulator/requests``, ``GET /emulator/jobs`` and
``POST /emulator/plan`` with a :class:`Plan` as JSON, which replaces the plan in force.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import msgspec
from aiohttp import ClientError, web

from .ledger import Ledger
from .messages import JSON_TYPE, Call, Reply
from .plan import Plan
from .sending import send
from .world import Logged, World

_PIECE_BYTES: Final = 8 * 1024 * 1024  # of an upload, given to the world as soon as it is there
_KEPT_BYTES_MAX: Final = 128 * 1024 * 1024  # of any other body: what is larger is refused by its size alone
_DRAIN_S: Final = 0.25  # how long open calls may take to end when the emulator stops


class Emulator:
    """The emulated service on a port, within the running event loop.

    Use it as an async context manager::

        async with Emulator(plan=Plan(latency_s=1.0)) as emulator:
            client = google.genai.Client(api_key="any", http_options={"base_url": emulator.base_url})

    Args:
        plan: how the service behaves.
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        seed: of all chance: the same calls with the same seed have the same history.
        data_dir: directory for temporary files (large uploads), None for the system's.
        clock: what tells the time, in seconds since the epoch.

    Attributes:
        world: the service itself.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        data_dir: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.world = World(plan, seed=seed, data_dir=None if data_dir is None else os.fspath(data_dir))
        self._host = host
        self._port = port
        self._clock = clock
        self._runner: web.ServerRunner | None = None
        self._bound: tuple[str, int] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address is taken or not ours.
            RuntimeError: it listens already.
        """
        if self._runner is not None:
            raise RuntimeError("the emulator listens already")
        runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=_DRAIN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        address = runner.addresses[0]
        self._bound = (address[0], address[1])
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening; open calls are broken off. What the world knows stays."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def base_url(self) -> str:
        """Where it listens, without a slash at the end.

        Raises:
            RuntimeError: it was never started.
        """
        if self._bound is None:
            raise RuntimeError("the emulator was not started: use `async with Emulator() as emulator`")
        host, port = self._bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def plan(self) -> Plan:
        """The plan in force. Setting another counts its faults from zero; jobs that exist keep their fate."""
        return self.world.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.world.plan = plan

    @property
    def requests(self) -> list[Logged]:
        """The last 100,000 calls, oldest first."""
        return self.world.requests

    def ledger(self) -> Ledger:
        """Return what the service would have billed by now."""
        return self.world.ledger(self._clock())

    # -- calls

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/emulator/"):
            return await self._page(request)
        call = await self._call_of(request)
        if isinstance(call, Reply):
            return await send(request, call)
        return await send(request, await self._reply_to(call))

    async def _reply_to(self, call: Call) -> Reply:
        steps = self.world.steps(call, self._clock())
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                reply: Reply = stop.value
                return reply
            await asyncio.sleep(0)

    async def _call_of(self, request: web.BaseRequest) -> Call | Reply:
        """Read a request. An upload's body is given to the world in pieces; an error of a piece is the reply."""
        call = Call(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            size_bytes=request.content_length or 0,
            origin=f"{request.scheme}://{request.host}",
        )
        in_pieces = "upload_id" in call.query
        kept: list[bytes] = []
        kept_bytes = total_bytes = taken_bytes = 0
        try:
            async for block in request.content.iter_any():
                kept.append(block)
                kept_bytes += len(block)
                total_bytes += len(block)
                if in_pieces and kept_bytes >= _PIECE_BYTES and total_bytes != call.size_bytes:
                    reply = self._give(call, kept, taken_bytes)
                    if reply.status != 200:
                        return reply
                    taken_bytes += kept_bytes
                    kept, kept_bytes = [], 0
                elif not in_pieces and kept_bytes > _KEPT_BYTES_MAX:
                    kept, kept_bytes = [], 0
        except (ConnectionError, ClientError):
            # The caller is gone. Of an upload, what has come is kept: a later query tells how much that is.
            if in_pieces and kept:
                self._give(call, kept, taken_bytes)
            return Reply(dropped=True)
        return msgspec.structs.replace(call, body=b"".join(kept), size_bytes=total_bytes, taken_bytes=taken_bytes)

    def _give(self, call: Call, blocks: list[bytes], taken_bytes: int) -> Reply:
        """Give a piece of an upload's body to the world."""
        piece = msgspec.structs.replace(call, body=b"".join(blocks), taken_bytes=taken_bytes, more=True)
        return self.world.handle(piece, self._clock())

    async def _page(self, request: web.BaseRequest) -> web.Response:
        """Answer what is outside of Google's namespace."""
        match request.method, request.path:
            case "GET", "/emulator/ledger":
                return _json(self.ledger())
            case "GET", "/emulator/requests":
                return _json(self.requests)
            case "GET", "/emulator/jobs":
                return _json(self.world.jobs(self._clock()))
            case "POST", "/emulator/plan":
                try:
                    self.plan = msgspec.json.decode(await request.read(), type=Plan)
                except msgspec.DecodeError as error:
                    return _json({"error": str(error)}, status=400)
                return _json(self.plan)
            case _:
                return _json({"error": "no such page"}, status=404)


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"Content-Type": JSON_TYPE})


async def serve(
    plan: Plan | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8700,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run an emulator until SIGINT or SIGTERM, or until cancelled.

    Args:
        plan: how the service behaves.
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        seed: of all chance.
        data_dir: directory for temporary files, None for the system's.
        ready: called with the base URL as soon as it listens.

    Raises:
        OSError: the address is taken or not ours.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []
    async with Emulator(plan, host=host, port=port, seed=seed, data_dir=data_dir) as emulator:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, ended.set)
            except (NotImplementedError, RuntimeError):
                continue  # Windows, or not the main thread: whoever runs the loop ends it
            caught.append(number)
        try:
            if ready is not None:
                ready(emulator.base_url)
            await ended.wait()
        finally:
            for number in caught:
                loop.remove_signal_handler(number)
