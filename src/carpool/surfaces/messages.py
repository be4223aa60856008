"""Calls and answers of HTTP, as the surfaces hand them on: whole, without sockets.

Owns these two shapes. It must not know who made a call, or who answers it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

JSON: Final[Mapping[str, str]] = MappingProxyType({"content-type": "application/json; charset=UTF-8"})
SSE: Final[Mapping[str, str]] = MappingProxyType({"content-type": "text/event-stream"})


class Call(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """An HTTP request whose body was read."""

    method: str
    path: str
    """Percent-encoded, as it came; without the query."""
    query: str = ""
    """As it came, without the question mark."""
    headers: Mapping[str, str] = {}
    """Names in lower case."""
    body: bytes = b""
    origin: str = ""
    """Scheme, host and port as the caller addressed us (``http://127.0.0.1:8711``): what URLs that we give him begin
    with."""

    def __repr__(self) -> str:
        return f"Call({self.method} {self.path}, bytes={len(self.body)})"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP response; its body is either whole, or comes in pieces."""

    status: int
    headers: Mapping[str, str] = JSON
    """Names in lower case; no length, and nothing that is about one connection."""
    body: bytes = b""
    pieces: AsyncGenerator[bytes] | None = None
    """What follows ``body``, where it is not whole; whoever takes the answer iterates over it, or closes it."""

    def __repr__(self) -> str:
        return f"Answer({self.status}, bytes={len(self.body)}, in_pieces={self.pieces is not None})"


class Answering(Protocol):
    """What answers calls. Cancelling ``answer`` means that the caller is gone."""

    async def answer(self, call: Call) -> Answer:
        """Answer a call, however long that takes; failures are answers too."""
        ...
