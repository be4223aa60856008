"""The connections of a sidecar: what each is doing, for how long it may, and who gives way when there is no room.

Owns the stages of a connection (without a request, reading one, waiting for its answer, sending that) and one timer for
all that is due of them: signs of life for those that wait, the end of those that are idle or too slow. It must not know
what is asked, or how connections come in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from carpool._showing import where_raised
from carpool.surfaces.messages import Answer
from carpool.surfaces.sidecar.guard import refuse
from carpool.surfaces.sidecar.limits import Limits
from carpool.surfaces.sidecar.rota import Rota

logger: Final = logging.getLogger("carpool")

_AT_ONCE: Final = 500
"""What is done of what is due before others get their turn: a few milliseconds."""
_LOOKED_AT: Final = 64
"""Connections that may turn out to be idle no more, before another turn of the loop."""


class Stage(Enum):
    """What is being done with a request."""

    READING = auto()
    ANSWERING = auto()
    SENDING = auto()


class Turn:
    """One request on a connection, from the end of its head to the end of its answer."""

    __slots__ = (
        "began_at",
        "connection",
        "instead",
        "interim",
        "progress_bytes",
        "request",
        "sent_bytes",
        "stage",
        "task",
    )

    def __init__(self, connection: Connection, request: web.BaseRequest, now: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connection = connection
        self.request = request
        self.task = task
        self.began_at = now
        self.stage = Stage.READING
        self.interim = b""
        self.instead: Answer | None = None
        """What the caller gets if its answer does not come: this turn was interrupted."""
        self.sent_bytes = 0
        """Of the answer's body, given to the connection."""
        self.progress_bytes = 0

    def __repr__(self) -> str:
        return f"Turn({self.stage.name}, interrupted={self.instead is not None})"

    def interrupt(self, instead: Answer) -> None:
        """Have the caller get something else, at once. Not for one whose answer is on its way."""
        if self.instead is None and self.stage is not Stage.SENDING:
            self.instead = instead
            self.task.cancel()

    def tell(self) -> bool:
        """Send a sign of life, if the caller takes in what it is sent; return whether."""
        transport = self.connection.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        transport.write(self.interim)
        return True

    def moved_bytes(self) -> int | None:
        """Return how far the caller has come, in sending its request or taking its answer; ``None``: it is not due."""
        if self.stage is Stage.READING:
            return self.request.content.total_bytes
        transport = self.connection.transport
        left = 0 if transport is None else transport.get_write_buffer_size()
        return self.sent_bytes - left if left else None


class Connection(web.RequestHandler):
    """A caller's connection, as aiohttp serves it; says when it comes and goes, and complains of nobody's bytes."""

    __slots__ = ("_connections",)

    def __init__(self, connections: Connections, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._connections = connections

    @property
    def awaits_head(self) -> bool:
        """Whether there is no request on it, be it one that nobody has begun to handle."""
        return self._waiter is not None and not self._waiter.done()

    def abort(self) -> None:
        """Close it without waiting for what is yet to be sent."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""
        return self.transport is None or self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the socket."""
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take note that the socket is closed."""
        self._connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may quote the request
    ) -> web.StreamResponse:
        """Answer what cannot be read as a request, without repeating any of it."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer is on its way already")
        if status >= 500:
            where = "" if exc is None else where_raised(exc)
            logger.error("a bug of carpool broke the answer to a call\n%s", where)
            answer = refuse(500, "this is a bug of carpool; its log says more")
        elif isinstance(exc, LineTooLong):
            answer = refuse(431, "a line of the request's head is too long")
        else:
            answer = refuse(400, "this is no HTTP request that can be read")
        self._connections.seen["unreadable"] += 1
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        response.force_close()
        return response

    def log_exception(self, *_: Any, **kw: Any) -> None:
        """Say nothing of what a caller sent: bugs are told where they are, and whoever breaks off is no error."""
        logger.debug("a connection broke off: %s", type(kw.get("exc_info")).__name__)


class Connections:
    """All connections of a sidecar.

    Args:
        limits: how long they may do what.
        clock: tells the time in seconds; only differences matter.

    Attributes:
        opening: connections that were taken in and are not set up yet.
        changed: set whenever a connection has come or gone, or a request has ended.
        seen: what happened, by a word for it.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._open: set[Connection] = set()
        self._leaving: set[Connection] = set()
        self._turns: dict[Connection, Turn] = {}
        self._idle: Rota[Connection] = Rota(limits.idle_s)
        self._waiting: Rota[Turn] = Rota(limits.interim_s)
        self._moving: Rota[Turn] = Rota(limits.progress_s)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._slow = refuse(408, "the body came too slowly; send it again")
        self.opening = 0
        self.changed = asyncio.Event()
        self.seen: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open) + self.opening

    def __repr__(self) -> str:
        return f"Connections(open={len(self)}, idle={len(self._idle)}, turns={len(self._turns)})"

    @property
    def leaving(self) -> int:
        """Connections that were sent away and are about to end."""
        return len(self._leaving)

    @property
    def turns(self) -> int:
        """Requests that are being handled."""
        return len(self._turns)

    @property
    def idle(self) -> int:
        """Connections without a request."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests whose answers are awaited."""
        return sum(turn.stage is Stage.ANSWERING for turn in self._turns.values())

    # -- comings and goings

    def opened(self, connection: Connection) -> None:
        """Take note of a connection that is set up."""
        self.opening -= 1
        self._open.add(connection)
        self.seen["opened"] += 1
        self._idle.put(connection, self._clock())
        self._arm()
        self.changed.set()

    def closed(self, connection: Connection) -> None:
        """Take note that a connection has ended."""
        self._open.discard(connection)
        self._leaving.discard(connection)
        self._idle.drop(connection)
        self.changed.set()

    def give_way(self) -> bool:
        """Close the connection that has been idle longest; return whether there is one."""
        for _ in range(min(_LOOKED_AT, len(self._idle))):
            connection = self._idle.first()
            assert connection is not None
            if connection.awaits_head:
                self._send_away(connection)
                self.seen["gave_way"] += 1
                return True
            self._idle.put(connection, self._clock())  # a request has just come
        return False

    def _send_away(self, connection: Connection) -> None:
        self._idle.drop(connection)
        self._leaving.add(connection)
        connection.abort()

    # -- the turns of a request

    def begin(self, request: web.BaseRequest) -> Turn:
        """Begin with a request whose head was read."""
        connection = cast("Connection", request.protocol)
        self._idle.drop(connection)
        turn = self._turns[connection] = Turn(connection, request, self._clock())
        if not request.content.is_eof():
            self._moving.put(turn, turn.began_at)
            self._arm()
        return turn

    def await_answer(self, turn: Turn, interim: bytes) -> None:
        """Take note that the request was read, and that its answer may be long in coming."""
        self._moving.drop(turn)
        turn.stage = Stage.ANSWERING
        turn.interim = interim
        if interim:
            self._waiting.put(turn, self._clock())
            self._arm()

    def send(self, turn: Turn) -> None:
        """Take note that the answer begins: nothing else is sent any more."""
        self._waiting.drop(turn)
        turn.stage = Stage.SENDING
        turn.progress_bytes = 0
        self._moving.put(turn, self._clock())
        self._arm()

    def end(self, turn: Turn) -> None:
        """Take note that a request is done with, one way or another."""
        connection = turn.connection
        self._waiting.drop(turn)
        self._moving.drop(turn)
        if self._turns.get(connection) is turn:
            del self._turns[connection]
        if connection in self._open:
            self._idle.put(connection, self._clock())
            self._arm()
        self.changed.set()

    # -- what is due

    def look(self) -> None:
        """Do what is due now."""
        self._disarm()
        now = self._clock()
        for turn in self._waiting.take_due(now, _AT_ONCE):
            self.seen["interim"] += turn.tell()
            self._waiting.put(turn, now)
        for turn in self._moving.take_due(now, _AT_ONCE):
            self._judge(turn, now)
        for connection in self._idle.take_due(now, _AT_ONCE):
            if connection.awaits_head:
                self._send_away(connection)
                self.seen["idle"] += 1
            else:
                self._idle.put(connection, now)
        self._arm()

    def _judge(self, turn: Turn, now: float) -> None:
        """Give up on a caller that sends or takes too slowly; look again later at others."""
        moved_bytes = turn.moved_bytes()
        late = turn.stage is Stage.READING and now - turn.began_at >= self._limits.body_s
        least = self._limits.bytes_per_s_min * self._limits.progress_s
        if not late and (moved_bytes is None or moved_bytes - turn.progress_bytes >= least):
            turn.progress_bytes = turn.progress_bytes if moved_bytes is None else moved_bytes
            self._moving.put(turn, now)
            return
        self.seen["slow"] += 1
        if turn.stage is Stage.READING:
            turn.interrupt(self._slow)
        else:
            turn.connection.abort()

    def _arm(self) -> None:
        """Have the timer ring when the next thing is due."""
        times = [at for rota in (self._waiting, self._moving, self._idle) if (at := rota.next_at) is not None]
        if not times:
            return
        next_at = min(times)
        if self._timer is not None and self._timer_at <= next_at:
            return
        self._disarm()
        self._timer_at = next_at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, next_at - self._clock()), self.look)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # -- the end

    def close_idle(self) -> None:
        """Close all connections without a request."""
        for connection in self._idle.take_due(float("inf"), len(self._idle)):
            if connection.awaits_head:
                self._send_away(connection)
            else:
                self._idle.put(connection, self._clock())

    def interrupt(self, instead: Answer) -> None:
        """Give all callers that wait something else than their answer."""
        for turn in list(self._turns.values()):
            turn.interrupt(instead)

    def abort(self) -> None:
        """Close all connections, whatever is on them."""
        for connection in list(self._open):
            connection.abort()
        self._disarm()
