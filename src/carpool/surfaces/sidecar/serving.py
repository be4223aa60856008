"""The way of a request through the sidecar: is it let in, is it read, is it answered, is the answer taken.

Owns that way, and what of a request is handed on. It must not know what calls ask for, who answers them, or how
connections come in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aiohttp import web

from carpool._showing import where_raised
from carpool.surfaces.messages import Answer, Answering, Call
from carpool.surfaces.sidecar.bodies import Bodies, Hold
from carpool.surfaces.sidecar.connections import Connections, Turn
from carpool.surfaces.sidecar.guard import Guard, Refused, headers_of_call, query_of_call, refuse
from carpool.surfaces.sidecar.interim import interim_of
from carpool.surfaces.sidecar.limits import Limits
from carpool.surfaces.sidecar.metrics import Metric
from carpool.surfaces.sidecar.pages import HEALTH, PREFIX, Pages

logger: Final = logging.getLogger("carpool")

_LEFT: Final = 16
"""Connections that requests which wait never take: for health checks, and to tell others that there is no room."""
_RETRY_AFTER_S: Final = 5
_WITHOUT_BODY: Final = frozenset({204, 205, 304})
_EVENTS: Final = {
    "opened": "Connections taken in.",
    "gave_way": "Idle connections closed because there was no room for others.",
    "idle": "Connections closed because they were idle for too long.",
    "slow": "Callers given up on because they sent or took too slowly.",
    "not_let_in": "Times that no connection could be taken in.",
    "interim": "Interim responses sent to callers that wait.",
    "gone": "Callers that went away before they had their answer.",
    "interrupted": "Requests that ended early, since the sidecar stopped or their bodies came too slowly.",
}


class Serving:
    """Serves requests.

    Args:
        answering: what answers calls.
        guard: who may come in.
        pages: what is answered here.
        connections: on which requests come.
        limits: of bodies.
        connections_max: how many connections there may be.
    """

    def __init__(
        self,
        answering: Answering,
        guard: Guard,
        pages: Pages,
        connections: Connections,
        *,
        limits: Limits,
        connections_max: int,
    ) -> None:
        self._answering = answering
        self._guard = guard
        self._pages = pages
        self.connections = connections
        self._bodies = Bodies(limits.body_bytes_max, limits.bodies_bytes_max)
        self._turns_max = connections_max - min(_LEFT, connections_max // 4)
        self._stopping = False
        self._answered: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Serving({self.connections!r}, {self._bodies!r}, stopping={self._stopping})"

    def stop(self) -> None:
        """Take no requests any more; those that are there go on."""
        self._stopping = True
        self.connections.close_idle()

    def interrupt(self) -> None:
        """Tell callers that still wait to ask again."""
        self.connections.interrupt(_stops())

    # -- one request

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve a request."""
        turn = self.connections.begin(request)
        hold = self._bodies.hold()
        try:
            answer = await self._answer(request, turn, hold)
            hold.let_go()
            self.connections.send(turn)
            return await self._send(request, turn, answer)
        except ConnectionError:
            self.connections.seen["gone"] += 1
            turn.connection.abort()
            return web.Response()  # aiohttp wants one, and finds out by itself that nobody is there to take it
        except asyncio.CancelledError:
            self.connections.seen["gone"] += 1
            raise
        finally:
            hold.let_go()
            self.connections.end(turn)

    async def _answer(self, request: web.BaseRequest, turn: Turn, hold: Hold) -> Answer:
        """Return the answer of a request, whatever happens to it; raise only where its caller is gone."""
        try:
            headers = _headers(request)
            path, _, query = request.raw_path.partition("?")
            page = self._let_in(request, headers, path, query)
            if page is not None:
                return page
            interim = interim_of(request.version, headers)
            asked = self._answering.answer(await self._call(request, headers, path, query, hold))
            del headers
            self.connections.await_answer(turn, interim)
            return await asked
        except asyncio.CancelledError:
            if turn.instead is None:
                raise
            turn.task.uncancel()
            self.connections.seen["interrupted"] += 1
            return turn.instead
        except Refused as refused:
            self._refused[refused.reason] += 1
            return refused.answer
        except Exception as error:
            if isinstance(error, ConnectionError) and turn.connection.is_gone:
                raise
            logger.error(  # noqa: TRY400 - its words may quote the request
                "a bug of carpool broke the answer to a call\n%s", where_raised(error)
            )
            return refuse(500, f"a bug of carpool: {type(error).__name__}")

    def _let_in(self, request: web.BaseRequest, headers: dict[str, str], path: str, query: str) -> Answer | None:
        """Check whether a request may come in; return the answer to one for a page of our own.

        Raises:
            Refused: it may not.
        """
        transport = request.transport
        local = "" if transport is None else transport.get_extra_info("sockname")[0]
        self._guard.check(request.raw_path, headers, request.version, local)
        if path == HEALTH:
            return self._pages.answer(request.method, path, known=self._guard.knows(headers, query))
        self._guard.check_token(headers, query)
        if path.startswith(PREFIX):
            return self._pages.answer(request.method, path, known=True)
        if self._stopping:
            raise Refused("stopping", _stops())
        if self.connections.turns > self._turns_max:
            raise Refused("full", refuse(503, "too many requests wait already", retry_after_s=_RETRY_AFTER_S))
        if headers.get("upgrade", "").lower() == "websocket":
            raise Refused("websocket", refuse(501, "carpool carries no WebSockets; call the service itself for those"))
        return None

    async def _call(self, request: web.BaseRequest, headers: dict[str, str], path: str, query: str, hold: Hold) -> Call:
        body = await self._bodies.read(request, hold)
        call = Call(
            method=request.method,
            path=path,
            query=query_of_call(query),
            headers=headers_of_call(headers),
            body=body,
            origin=f"{request.scheme}://{headers['host']}" if "host" in headers else "",
        )
        hold.follow(call)
        return call

    async def _send(self, request: web.BaseRequest, turn: Turn, answer: Answer) -> web.StreamResponse:
        """Send an answer, as fast as its caller takes it.

        Raises:
            ConnectionError: the caller is gone, or was given half an answer because there is no more of it.
        """
        self._answered[str(answer.status)] += 1
        response: web.StreamResponse
        if answer.pieces is None:
            response = web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
        else:
            response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
        response.headers["server"] = "carpool"
        if self._stopping or turn.instead is not None:
            response.force_close()
        if answer.pieces is None:
            turn.sent_bytes = len(answer.body)
            await response.prepare(request)
        else:
            async with aclosing(answer.pieces) as pieces:
                await response.prepare(request)
                if request.method != "HEAD" and answer.status not in _WITHOUT_BODY:
                    await self._send_pieces(turn, response, answer.body, pieces)
        await response.write_eof()
        return response

    async def _send_pieces(
        self, turn: Turn, response: web.StreamResponse, body: bytes, pieces: AsyncGenerator[bytes]
    ) -> None:
        turn.sent_bytes = len(body)
        if body:
            await response.write(body)
        try:
            async for piece in pieces:
                turn.sent_bytes += len(piece)
                await response.write(piece)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller must not take half an answer for one
            if turn.connection.is_gone:
                raise ConnectionError("nobody takes the answer") from None
            logger.warning("an answer broke off: %s", type(error).__name__)
            turn.connection.abort()
            raise ConnectionError("half an answer") from None

    # -- numbers

    def metrics(self) -> list[Metric]:
        """Return numbers of what came, and what became of it."""
        connections = self.connections
        seen = connections.seen
        found = [
            Metric("carpool_sidecar_connections", "gauge", "Connections by now.", len(connections)),
            Metric("carpool_sidecar_connections_idle", "gauge", "Those without a request.", connections.idle),
            Metric("carpool_sidecar_waiting", "gauge", "Requests whose answers are awaited.", connections.waiting),
            Metric("carpool_sidecar_body_bytes", "gauge", "Bodies in memory.", self._bodies.held_bytes),
            Metric("carpool_sidecar_answers_total", "counter", "Answers, by status.", dict(self._answered), "code"),
            Metric(
                "carpool_sidecar_refused_total",
                "counter",
                "Requests refused, by reason.",
                {**self._refused, "unreadable": self._refused["unreadable"] + seen["unreadable"]},
                "reason",
            ),
        ]
        found += [
            Metric(f"carpool_sidecar_{name}_total", "counter", words, seen[name]) for name, words in _EVENTS.items()
        ]
        return found


def _stops() -> Answer:
    return refuse(
        503,
        "this sidecar stops; ask again: what was sent stays on record, and whoever asks the same gets its answer "
        "without paying again",
        retry_after_s=_RETRY_AFTER_S,
    )


def _headers(request: web.BaseRequest) -> dict[str, str]:
    """Return headers with names in lower case; values of doubled ones are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return headers
