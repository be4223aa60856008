"""How a reply goes onto a socket: at once, in blocks, a byte at a time, or not to its end.

Owns delays, broken connections and slow bodies. It must not know why a reply is sent in such a way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from .messages import Reply

# On, and no time to linger: closing resets the connection.
_NO_LINGER: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


async def send(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    """Send a reply, as far as it goes and as long as the caller is there.

    Args:
        request: that is answered.
        reply: the answer.

    Returns:
        What aiohttp is to finish; where the connection was broken, it finds that out by itself.
    """
    if reply.delay_s:
        await asyncio.sleep(reply.delay_s)
    if reply.dropped:
        _break(request, reset=reply.reset)
        return web.Response()
    whole = reply.breaks_at_bytes is None and not reply.drip_bytes
    if isinstance(reply.body, bytes) and whole:
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if isinstance(reply.body, bytes):
        response.content_length = len(reply.body)
    else:
        response.enable_chunked_encoding()
    with contextlib.suppress(ConnectionError):  # the caller went away
        await response.prepare(request)
        await _send_body(request, response, reply)
    return response


async def _send_body(request: web.BaseRequest, response: web.StreamResponse, reply: Reply) -> None:
    left = reply.breaks_at_bytes
    for piece in _pieces(reply):
        sent = piece if left is None else piece[:left]
        if sent:
            await response.write(sent)
        if left is not None:
            left -= len(sent)
            if len(sent) < len(piece):
                _break(request, reset=reply.reset)
                return
        await asyncio.sleep(reply.drip_s)
    if left == 0 and not isinstance(reply.body, bytes):
        _break(request, reset=reply.reset)  # all was sent but the mark of the end


def _pieces(reply: Reply) -> Iterator[bytes]:
    blocks = iter((reply.body,)) if isinstance(reply.body, bytes) else reply.body
    step = reply.drip_bytes
    for block in blocks:
        if step:
            yield from (block[start : start + step] for start in range(0, len(block), step))
        else:
            yield block


def _break(request: web.BaseRequest, *, reset: bool) -> None:
    """Close the connection of a request at once."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if reset and connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
    else:
        transport.close()
