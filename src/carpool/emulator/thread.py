"""The emulator in a thread of its own, for code that has no event loop or must not share it.

Owns the thread, its loop, and the way of questions into it. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Final, Self, TypeVar

from .jobs import JobView
from .ledger import Ledger
from .plan import Plan
from .server import Emulator
from .world import Logged

_STOP_S: Final = 30.0

T = TypeVar("T")


class EmulatorThread:
    """An :class:`Emulator` that serves from a thread. Every method may be called from any other thread.

    Use it as a context manager::

        with EmulatorThread(Plan(latency_s=1.0)) as emulator:
            client = google.genai.Client(api_key="any", http_options={"base_url": emulator.base_url})

    Stopped, it still tells what happened.

    Args:
        plan: how the service behaves.
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        seed: of all chance.
        data_dir: directory for temporary files (large uploads), None for the system's.
        clock: what tells the time, in seconds since the epoch.
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
        self._emulator = Emulator(plan, host=host, port=port, seed=seed, data_dir=data_dir, clock=clock)
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to listen; return as soon as it does.

        Raises:
            OSError: the address is taken or not ours.
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("an emulator thread can be started once")
        listening: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon: a program that ends without stopping it is not held up.
        self._thread = threading.Thread(target=self._run, args=(listening,), name="gemini-emulator", daemon=True)
        self._thread.start()
        self._loop = listening.result()

    def stop(self) -> None:
        """Stop listening and wait for the thread to end; open calls are broken off.

        Raises:
            RuntimeError: it does not end.
        """
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise RuntimeError(f"the emulator did not end within {_STOP_S:g} s")

    def _run(self, listening: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(listening))
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    async def _serve(self, listening: Future[asyncio.AbstractEventLoop]) -> None:
        async with self._emulator:
            listening.set_result(asyncio.get_running_loop())
            await self._ended.wait()

    def _ask(self, question: Callable[[], T]) -> T:
        """Return what a function returns on the emulator's loop; here, where that has ended."""
        loop = self._loop
        if loop is None:
            return question()

        async def asked() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), loop).result()

    @property
    def base_url(self) -> str:
        """Where it listens, without a slash at the end.

        Raises:
            RuntimeError: it was never started.
        """
        return self._emulator.base_url

    @property
    def plan(self) -> Plan:
        """The plan in force. Setting another counts its faults from zero; jobs that exist keep their fate."""
        return self._ask(lambda: self._emulator.plan)

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Put another plan in force; in force when this returns."""

        def change() -> None:
            self._emulator.plan = plan

        self._ask(change)

    @property
    def requests(self) -> list[Logged]:
        """The last 100,000 calls, oldest first."""
        return self._ask(lambda: self._emulator.requests)

    def ledger(self) -> Ledger:
        """Return what the service would have billed by now."""
        return self._ask(self._emulator.ledger)

    def jobs(self) -> list[JobView]:
        """Return all jobs as of now, oldest first."""
        return self._ask(lambda: self._emulator.world.jobs(self._clock()))
