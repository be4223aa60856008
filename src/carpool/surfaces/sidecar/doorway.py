"""The listening sockets of a sidecar, and how connections come in through them.

Owns where it listens, and that no connection is taken in for which there is no room: asyncio's own way is to take in
all, and to stand still for a second when the process runs out of files. It must not know what connections do.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from carpool._showing import where_raised
from carpool.surfaces.sidecar.connections import Connection, Connections

logger: Final = logging.getLogger("carpool")

_BACKLOG: Final = 4_096
"""Connections that the system completes and holds until they are taken in; it may allow fewer."""
_AT_ONCE: Final = 64
"""Connections that are taken in before others get their turn."""
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_RETRY_S: Final = 1.0
"""When to try again where somebody else in the process has used up its files."""


class Doorway:
    """Lets connections in, as many as there is room for.

    Args:
        connections: those that are there; when there is no room, the one that is idle longest gives way.
        connections_max: how many there may be.
        make: returns a new one, without a socket.
    """

    def __init__(self, connections: Connections, connections_max: int, make: Callable[[], Connection]) -> None:
        self._connections = connections
        self._connections_max = connections_max
        self._make = make
        self._listeners: list[socket.socket] = []
        self._letting_in: set[asyncio.Task[None]] = set()
        self._setting_up: set[asyncio.Task[None]] = set()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        names = [listener.getsockname() for listener in self._listeners]
        return [(name[0], name[1]) for name in names]

    async def bind(self, host: str, port: int) -> None:
        """Take an address; nobody is let in yet.

        Args:
            host: name or address; all addresses of a name are taken.
            port: 0 for any free one.

        Raises:
            OSError: it is taken, or not ours.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        missing: OSError | None = None
        try:
            for family, kind, protocol, _, address in dict.fromkeys(found):
                if self._listeners and port == 0:
                    port = self.addresses[0][1]
                try:
                    self._listeners.append(_listener(family, kind, protocol, (address[0], port, *address[2:])))
                except OSError as error:
                    if error.errno not in _NO_ADDRESS:
                        raise
                    missing = error  # a name may have addresses in a family that this machine does not speak
        except OSError:
            await self.close()
            raise
        if missing is not None and not self._listeners:
            raise missing

    def open(self) -> None:
        """Begin to let connections in.

        Raises:
            OSError: another program has begun to listen there meanwhile.
        """
        for listener in self._listeners:
            listener.listen(_BACKLOG)
        for listener in self._listeners:
            self._start(self._let_in(listener), self._letting_in)

    async def close(self) -> None:
        """Let nobody in any more. Who was let in is there when this returns."""
        for task in self._letting_in:
            task.cancel()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if tasks := self._letting_in | self._setting_up:
            await asyncio.wait(tasks)

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._ended)

    @staticmethod
    def _ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a bug of carpool: connections cannot be let in\n%s", where_raised(error))

    async def _let_in(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            await self._room()
            try:
                peer, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # the caller is gone already
            except OSError as error:
                await self._wait_for_files(error)
                continue
            self._connections.opening += 1
            self._start(self._set_up(peer), self._setting_up)
            number += 1
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _set_up(self, peer: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, peer)
        except BaseException as error:
            peer.close()
            self._connections.opening -= 1
            self._connections.changed.set()
            if not isinstance(error, OSError):  # the caller is gone already
                raise

    async def _room(self) -> None:
        """Wait until there may be one more: one above the limit, since only its coming makes another give way."""
        connections = self._connections
        while len(connections) > self._connections_max:
            connections.changed.clear()
            if len(connections) - connections.leaving > self._connections_max:
                connections.give_way()
            await connections.changed.wait()

    async def _wait_for_files(self, error: OSError) -> None:
        """Wait until the process may open another file: that of a connection that gives way, or in a while."""
        connections = self._connections
        if error.errno not in _NO_FILES:
            logger.warning("a connection could not be let in: %s", error.strerror)
        connections.seen["not_let_in"] += 1
        connections.changed.clear()
        if error.errno in _NO_FILES:
            connections.give_way()
        timer = asyncio.get_running_loop().call_later(_RETRY_S, connections.changed.set)
        try:
            await connections.changed.wait()
        finally:
            timer.cancel()


def _listener(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)  # noqa: FBT003 - the standard library's own
        if os.name == "posix":  # elsewhere it would let others take the address over
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
