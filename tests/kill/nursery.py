"""Processes that start at once: a nursery has loaded carpool, and forks a child for each order.

Owns the process that forks (``python -m tests.kill.nursery``, nothing but this module's ``main``) and the parent's way
to it: one order after the other, what the child says as it says it, and how it ended. It must not know what children
do.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from tests import canary

from .child import Order, run

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 60.0
"""A net under every child: whatever takes so long hangs."""

Said = list[dict[str, Any]]


class Hung(Exception):
    """A child did not end."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A child's life.

    Attributes:
        said: what it said, in order.
        status: exit code; less than 0: the signal that killed it.
        errors: what it wrote to standard error.
    """

    said: Said
    status: int
    errors: str

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.status == -signal.SIGKILL

    def of(self, event: str) -> Said:
        """Return all that it said of one kind."""
        return [word for word in self.said if word["event"] == event]


class Nursery:
    """The parent's side. Use it as an async context manager; one order at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        command = [sys.executable, "-m", "tests.kill.nursery", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()

    async def run(self, order: Order, kill_when: Callable[[Said], object] | None = None) -> Ended:
        """Let a child do what an order says, and return how that went.

        Args:
            order: what it does.
            kill_when: it is killed from here as soon as this holds of what it said.

        Raises:
            Hung: it did not end.
        """
        loop = asyncio.get_running_loop()
        errors = Path(f"{order.home}.stderr")
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._socket, [b"+"], [writing])
        finally:
            os.close(writing)
        await loop.sock_sendall(self._socket, msgspec.json.encode((order, str(errors))) + b"\n")
        pid = int(await self._line())
        said: Said = []
        listener = asyncio.create_task(_listen(reading, said))
        try:
            hangs = await _watch(listener, kill_when, said)
            if hangs:
                for number in (signal.SIGUSR1, signal.SIGUSR2):
                    os.kill(pid, number)
                await asyncio.sleep(1.0)
        finally:
            if not listener.done():
                os.kill(pid, signal.SIGKILL)
            await listener
            status = int(await self._line())
        words = _read(errors)
        canary.note("stderr of a child", words)
        if hangs:
            raise Hung(f"hangs after {said[-3:]}\n{words}")
        return Ended(said=said, status=status, errors=words)

    async def _line(self) -> bytes:
        """Return what the nursery says next: it speaks in lines, and only when it is asked to."""
        line = b""
        while not line.endswith(b"\n"):
            part = await asyncio.get_running_loop().sock_recv(self._socket, 1)
            assert part, "the nursery is gone"
            line += part
        return line


async def _watch(listener: asyncio.Task[None], kill_when: Callable[[Said], object] | None, said: Said) -> bool:
    """Wait until a child has ended, or is to be killed; return whether it does neither.

    Its words end when it does: as long as they have not, its number is its own.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            # What it looks at has no event.
            while kill_when is not None and not (kill_when(said) or listener.done()):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            if kill_when is None:
                await asyncio.wait((listener,))
    except TimeoutError:
        return True
    return False


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def _listen(reading: int, said: Said) -> None:
    loop = asyncio.get_running_loop()
    words = asyncio.StreamReader(limit=2**24)
    with os.fdopen(reading, "rb") as pipe:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), pipe)
        try:
            async for line in words:
                if line.endswith(b"\n"):
                    said.append(msgspec.json.decode(line))
        finally:
            transport.close()


def main(handle: int) -> None:
    """Fork a child for each order that comes, until nobody is left to send any."""
    # Whoever sends orders may be gone in the middle of one.
    with suppress(ConnectionError), socket.socket(fileno=handle) as orders:
        while True:
            mark, handles, _, _ = socket.recv_fds(orders, 1, 1)
            if not mark:
                return
            (words,) = handles
            text = b""
            while not text.endswith(b"\n"):
                text += orders.recv(65_536)
            pid = os.fork()
            if pid == 0:
                orders.close()
                _live(text, words)
            os.close(words)
            orders.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            orders.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _live(text: bytes, words: int) -> None:
    """Be a child: do what the order says, and end without anything that is the nursery's to do at its end."""
    code = 1
    try:
        order, errors = msgspec.json.decode(text, type=tuple[Order, str])
        handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, 2)
        faulthandler.register(signal.SIGUSR1, file=handle)
        # Whoever should wait for it may be gone.
        signal.alarm(int(2 * PATIENCE_S))
        run(order, words)
        code = 0
    except BaseException:  # noqa: BLE001 - there is nobody above
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
