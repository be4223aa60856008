"""Bodies of requests, read whole within limits.

Owns how large one may be, and all of them together, packed or not. How fast they come is looked at elsewhere. It must
not know what is in them.
"""

from __future__ import annotations

import asyncio
import weakref
import zlib
from collections.abc import Generator
from typing import Final

from aiohttp import ClientError, web

from carpool.surfaces.messages import Call
from carpool.surfaces.sidecar.guard import Refused, refuse
from carpool.surfaces.sidecar.interim import CONTINUE

_UNPACKED_BYTES: Final = 1_048_576
"""What is unpacked in one go, before others get their turn."""
_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RETRY_AFTER_S: Final = 5


class Bodies:
    """What is in memory of all bodies.

    Args:
        one_bytes_max: of one.
        all_bytes_max: of all.
    """

    def __init__(self, one_bytes_max: int, all_bytes_max: int) -> None:
        self._one_bytes_max = one_bytes_max
        self._all_bytes_max = all_bytes_max
        self.held_bytes = 0
        """By now."""

    def __repr__(self) -> str:
        return f"Bodies(held_bytes={self.held_bytes})"

    def hold(self) -> Hold:
        """Return the account of a body that is yet to come."""
        return Hold(self)

    def check(self, size_bytes: int) -> None:
        """Look at whether there is room for a body, or for more of one, of so many bytes altogether.

        Raises:
            Refused: there is none.
        """
        if size_bytes > self._one_bytes_max:
            raise Refused(
                "body",
                refuse(413, f"the body is larger than {self._one_bytes_max:,} bytes; upload what is large as a file"),
            )

    def check_room(self, more_bytes: int) -> None:
        """Look at whether so many more bytes fit beside what is there.

        Raises:
            Refused: they do not.
        """
        if self.held_bytes + more_bytes > self._all_bytes_max:
            raise Refused(
                "memory",
                refuse(
                    503, "too many large requests at once for this sidecar; ask again", retry_after_s=_RETRY_AFTER_S
                ),
            )

    async def read(self, request: web.BaseRequest, hold: Hold) -> bytes:
        """Read a body to its end, unpacked.

        Args:
            request: whose it is.
            hold: the account that it is put on.

        Raises:
            Refused: it is too large, cannot be read, or there is no room for it.
            ConnectionError: the caller is gone.
        """
        length = request.content_length
        if length is not None:
            self.check(length)
            self.check_room(length)
        unpack = _unpacker(request.headers.get("content-encoding", "identity"))
        _invite(request)
        body = bytearray()
        content = request.content
        try:
            while block := await content.readany():
                for piece in (block,) if unpack is None else unpack.pieces(block):
                    self.check(len(body) + len(piece))
                    hold.add(len(piece))
                    if not body and unpack is None and content.at_eof():
                        return piece  # nearly every body comes in one go: it is not copied
                    body += piece
                    if len(piece) == _UNPACKED_BYTES:
                        await asyncio.sleep(0)
        except (web.RequestPayloadError, ClientError, zlib.error):
            raise Refused("unreadable", refuse(400, "the body cannot be read as its headers say")) from None
        if unpack is not None and not unpack.ended:
            raise Refused("unreadable", refuse(400, "the body ends before what is packed in it does"))
        return bytes(body)


class Hold:
    """What one body takes of the memory of all, until it is let go: nobody has it any more, or its call has ended."""

    __slots__ = ("_bodies", "_reference", "_size_bytes")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size_bytes = 0
        self._reference: weakref.ref[Call] | None = None

    def add(self, more_bytes: int) -> None:
        """Take more.

        Raises:
            Refused: there is no room.
        """
        self._bodies.check_room(more_bytes)
        self._bodies.held_bytes += more_bytes
        self._size_bytes += more_bytes

    def follow(self, call: Call) -> None:
        """Let go as soon as nobody has the call any more: it is answered hours after its body was written to disk."""
        self._reference = weakref.ref(call, self._gone)

    def let_go(self) -> None:
        """Give back what was taken."""
        self._bodies.held_bytes -= self._size_bytes
        self._size_bytes = 0
        self._reference = None

    def _gone(self, _: weakref.ref[Call]) -> None:
        self.let_go()


class _Unpacker:
    """Unpacks a stream by pieces of a bounded size, however much is packed in a block of it."""

    def __init__(self, window: int) -> None:
        self._stream = zlib.decompressobj(window)

    @property
    def ended(self) -> bool:
        return self._stream.eof

    def pieces(self, block: bytes) -> Generator[bytes]:
        more = True
        while block or more:
            if self._stream.eof:
                if block:
                    raise zlib.error("something follows what is packed")
                return
            piece = self._stream.decompress(block, _UNPACKED_BYTES)
            block = self._stream.unconsumed_tail or self._stream.unused_data
            more = len(piece) == _UNPACKED_BYTES  # then there may be more of what was taken in
            if piece:
                yield piece


def _unpacker(encoding: str) -> _Unpacker | None:
    name = encoding.strip().lower()
    if name in ("identity", ""):
        return None
    if name not in _WINDOWS:
        raise Refused("header", refuse(415, "the Content-Encoding must be gzip, deflate or identity"))
    return _Unpacker(_WINDOWS[name])


def _invite(request: web.BaseRequest) -> None:
    """Ask for the body, where the caller waits for that."""
    expected = request.headers.get("expect")
    if expected is None:
        return
    if expected.lower() != "100-continue":
        raise Refused("header", refuse(417, "the only expectation that can be met is 100-continue"))
    transport = request.transport
    if request.version >= (1, 1) and transport is not None and not request.content.is_eof():
        transport.write(CONTINUE)
