"""Where requests come in: take a new one, join the one that it repeats, let go of one whose caller is gone.

Owns what happens in the caller's own turn, without waiting: one future, one row of a segment. The loop does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, cast

from carpool._core.engine import Engine
from carpool._core.keys import Claim
from carpool._core.messages import Event, Undelivered
from carpool._core.model import ROW_BITS, ROW_MASK, Lane, Place, Segment, place_of
from carpool._runtime.awaiters import Answer, Asked, Awaiters, Cell
from carpool._runtime.gate import NOBODY, Gate
from carpool._runtime.kept import KeptReads
from carpool.errors import KeyConflict, RequestFailed, RequestTooLarge, StoreFull
from carpool.settings import Route
from carpool.types import Facts, Kind

Line: TypeAlias = Callable[[str, bytes], bytes]
"""Makes the row of a batch file out of a key and an encoded request."""
NOWHERE: Final = -1
"""The place of a request that is forgotten. That of its stored result must not be taken for it: the same number may be
the place of another request, which would count as answered."""


class _Intake(NamedTuple):
    """What takes the requests of a lane; its segment may be closed by now."""

    segment: Segment
    lines: bytearray
    column: list[Cell]


class Entrance:
    """Takes requests in for one engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        awaiters: Awaiters,
        kept: KeptReads,
        line: Line,
        now: Callable[[], float],
        wake: Callable[[], None],
        spill: Callable[[], None],
        room: Callable[[], int],
        gate: Gate,
    ) -> None:
        self._engine = engine
        self._awaiters = awaiters
        self._kept = kept
        self._line = line
        self._now = now
        self._wake = wake
        self._spill = spill
        self._room = room
        self._gate = gate
        self._came_bytes = self._leaving_bytes = 0
        """Of what is not in the store yet: what came since the turn under way began, and what that turn writes."""
        self._create_future: Callable[[], asyncio.Future[Answer]] = asyncio.get_running_loop().create_future
        self._abandoned = engine.book.keys.abandoned
        self._columns = awaiters.columns
        settings = engine.book.settings
        self._line_bytes_max = settings.file_bytes_max
        self._segment_bytes = settings.segment_bytes
        self._requests_max, self._bytes_max = settings.waiting_requests_max, settings.waiting_bytes_max
        self._free_bytes = self._counted_bytes = self._free_requests = 0
        """What may come in before that is counted anew, and what it was when it was counted."""
        self.grant(room())
        self._intakes: dict[tuple[Kind, str], _Intake] = {}
        self._lanes: dict[tuple[Kind, str], Lane] = {}
        self._undelivered: list[Event] = []

    def ask(  # noqa: PLR0917 - keywords would cost on the hot path
        self,
        kind: Kind,
        model: str,
        payload: bytes,
        digest: bytes,
        tokens: int,
        key: str | None,
        flags: int,
        deadline: float | None,
        ladder: int,
        limit: int = 0,
    ) -> Asked:
        """Take a request in, or join the one that it repeats.

        Raises:
            KeyConflict: the key was given with another request.
            RequestTooLarge: no batch file can hold the request.
            StoreFull: the store has no room for it.
        """
        engine = self._engine
        if key is not None:
            if engine.has_claims(key):
                claim, place = engine.claim(key, digest, self._now())
                if claim is not Claim.NEW:
                    return self.join(claim, place, key, deadline)
        else:
            if self._abandoned:
                claim, place = engine.adopt(digest, self._now(), deadline, ladder)
                if claim is not Claim.NEW:
                    return self.join(claim, place, None, deadline)
            key = engine.new_key(digest)
        line = self._line(key, payload)
        size_bytes = len(line)
        if size_bytes > self._free_bytes or size_bytes > self._line_bytes_max:
            self._check_size(size_bytes, key)
        intake = self._intakes.get((kind, model))
        if intake is None or intake.segment.fresh is None or deadline is not None:
            intake = self._opened(kind, model)
        segment = intake.segment
        place = engine.add(segment, key, digest, line, tokens, flags, deadline, ladder, limit)
        future = self._create_future()
        intake.column.append(future)
        if len(intake.lines) >= self._segment_bytes:  # long before its rows are too many, which take 20 bytes or more
            engine.spill(segment, self._now())
            self._spill()
        self._free_bytes = free_bytes = self._free_bytes - size_bytes
        self._free_requests = free_requests = self._free_requests - 1
        if free_requests <= 0 or free_bytes <= 0:
            self._check_crowd()
        # reused, kept: keywords would cost on the hot path
        return Asked(key, place, future, segment.accepted_at, False, False, flags != 0)  # noqa: FBT003

    def _opened(self, kind: Kind, model: str) -> _Intake:
        """Return what takes requests of a lane now, and let the loop know that it has something to do."""
        lane = self._lanes.get((kind, model))
        if lane is None:
            lane = self._lanes[kind, model] = Lane(kind, model.removeprefix("models/"))
        self._wake()
        segment = self._engine.open_for(lane, self._now())
        assert segment.fresh is not None, "it takes requests"
        column = self._columns.get(segment.no)
        if column is None:
            column = self._awaiters.open(place_of(segment.no, len(segment.keys)))
        intake = self._intakes[kind, model] = _Intake(segment, segment.fresh.lines, column)
        return intake

    def grant(self, room_bytes: int) -> int:
        """Take in no more than the store has room for, as of its last commit, and no more than may wait.

        Returns:
            What the store has room for, less what came in and is not in it yet.
        """
        book = self._engine.book
        self._came_bytes += self._counted_bytes - self._free_bytes
        room_bytes -= self._came_bytes + self._leaving_bytes
        self._free_bytes = self._counted_bytes = min(room_bytes, self._bytes_max - book.waiting_bytes)
        self._free_requests = self._requests_max - book.waiting_requests
        return room_bytes

    def _check_size(self, size_bytes: int, key: str) -> None:
        if size_bytes > self._line_bytes_max:
            raise RequestTooLarge(
                f"request {key!r} takes {size_bytes} bytes, more than a batch file may hold; upload its media as files",
                key=key,
            )
        if size_bytes > self.grant(self._room()):
            raise StoreFull(
                "the store is full, and nothing was sent: make room on its disk, or raise Settings.store_bytes_max; "
                "what was accepted before goes on by itself",
                key=key,
            )

    def _check_crowd(self) -> None:
        """Let nobody in without a closer look while as many wait as may, until a turn ends and finds room."""
        self.grant(self._room())
        book = self._engine.book
        if book.waiting_requests >= self._requests_max or book.waiting_bytes >= self._bytes_max:
            self._gate.serves = NOBODY

    def has_failed(self, key: str) -> bool:
        """Return whether all that is known of an explicit key is an error."""
        return self._engine.has_failed(key)

    def find(self, key: str) -> Asked | None:
        """Join the request of an explicit key; ``None`` if nobody ever gave it."""
        claim, place = self._engine.find(key)
        return None if claim is Claim.NEW else self.join(claim, place, key, None)

    def join(self, claim: Claim, place: Place, key: str | None, deadline: float | None) -> Asked:
        """Await a request that is there already, or its stored result.

        Args:
            claim: what was found.
            place: where.
            key: the explicit key that led there, if one did.
            deadline: of this awaiter.
        """
        if claim is Claim.CONFLICT:
            raise KeyConflict(f"key {key!r} was given before with a different request; use another key", key=key)
        explicit = key is not None
        book, no, row = self._engine.book, place >> ROW_BITS, place & ROW_MASK
        self._wake()
        if claim is Claim.KEPT:
            head = book.results[no]
            answer = self._kept.ask(place)
            return Asked(head.keys[row], place, answer, head.kept_at, reused=True, kept=True, explicit=explicit)
        segment = book.segments[no]
        if self._engine.is_stalled(place):
            raise RequestFailed(
                f"a bug of carpool broke the job of request {segment.keys[row]!r}; what is paid for is on "
                "record, and another process can go on with it",
                key=segment.keys[row],
            )
        future = self._create_future()
        deadlines = segment.deadlines  # of an open segment: shorter than that, if only earlier rows have one
        self._awaiters.attach(place, future, deadline, deadlines[row] if row < len(deadlines) else None)
        if deadline is not None:
            self._engine.set_deadline(place, deadline)
        return Asked(segment.keys[row], place, future, segment.accepted_at, reused=True, kept=False, explicit=explicit)

    def knows(self, key: str | None, digest: bytes) -> bool:
        """Return whether asking for this now would join a request, or find a result, that is there already."""
        return self._engine.knows(key, digest, self._now())

    def gone(self, asked: Asked) -> None:
        """Note that a caller was cancelled: withdraw its request, or keep its answer for whoever asks the same."""
        future = asked.future
        if future.done() and not future.cancelled() and future.exception() is None:
            if not asked.explicit:
                answer = future.result()
                self._keep(NOWHERE if asked.kept else asked.place, asked.key, answer.raw, answer.facts)
        elif asked.kept:
            self._engine.offer_again(asked.place)
        elif not self._awaiters.drop(asked.place, future):
            self._engine.leave(asked.place, self._now())
        self._wake()

    def undelivered(self, place: Place, key: str, body: bytes, facts: Facts) -> None:
        """Note that the only awaiter of an automatic key was cancelled before its answer was handed over."""
        self._keep(place, key, body, facts)

    def _keep(self, place: Place, key: str, body: bytes, facts: Facts) -> None:
        digest = bytes.fromhex(key[1:33])
        lane = Lane(facts.kind, facts.model)
        route = cast("Route", facts.route)
        self._undelivered.append(Undelivered([(place, key, digest, body)], lane, facts.job, route))
        self._wake()

    def nobody_left(self, place: Place) -> None:
        """Note that the deadline of the last awaiter of a request has passed."""
        self._engine.leave(place, self._now(), late=True)
        self._wake()

    def begin_turn(self) -> list[Event]:
        """Return the events of answers that were not taken since the last turn; what came in is written by this one."""
        self.grant(0)
        self._leaving_bytes, self._came_bytes = self._came_bytes, 0
        events, self._undelivered = self._undelivered, []
        return events

    def end_turn(self, room_bytes: int) -> None:
        """Note that all that came in before the turn is in the store, which has so much room left."""
        self._leaving_bytes = 0
        self.grant(room_bytes)
