"""How requests come in and are asked for: admitted, joined, adopted, and left by their callers.

Owns the entrance, and what is to be done at the next step since somebody left. What becomes of requests then is for
``descent`` and what comes after it.
"""

from __future__ import annotations

import heapq
from itertools import count

import msgspec

from carpool._core import descent, shelf
from carpool._core.book import Book
from carpool._core.keys import Claim
from carpool._core.messages import (
    PutSegment,
)
from carpool._core.model import (
    ABANDONED,
    DONE,
    EXPLICIT,
    LIVE,
    PARKED,
    QUEUED,
    ROW_BITS,
    ROW_MASK,
    ROWS_MAX,
    SENT,
    TICKET,
    UNKNOWN_DIGEST,
    Failure,
    Framing,
    Lane,
    Meta,
    Place,
    Segment,
    place_of,
)
from carpool._core.routing import BATCH_ONLY
from carpool.settings import Settings
from carpool.types import ServerError


class Admission:
    """The entrance of an engine. It is asked between steps; the next step writes down what came of it."""

    def __init__(self, settings: Settings, framing: Framing, origin: str, meta: Meta) -> None:
        self.book = Book(settings, framing, origin, meta)
        self.spilled: list[PutSegment] = []
        """Full segments that should be written before the next step; whoever writes them empties the list."""
        self._named = self.book.keys.named
        self._segment_bytes = settings.segment_bytes
        self._key_infix = f".{meta.epoch:x}."
        self._numbers = count(1)
        self._told_at = 0.0
        """The time of the last step, or of what was told since."""
        self._late: dict[Lane, list[shelf.KeptRow]] = {}
        """Verdicts on explicit keys that were withdrawn at their deadline, until the next question or step."""

    def new_key(self, digest: bytes) -> str:
        """Return an automatic key: unique in this slot, and telling its request's digest."""
        return f"a{digest.hex()}{self._key_infix}{next(self._numbers)}"

    def admit(  # noqa: PLR0917 - keywords would cost on the hot path
        self,
        lane: Lane,
        key: str,
        digest: bytes,
        line: bytes,
        tokens: int,
        flags: int,
        deadline: float | None,
        now: float,
        ladder: int = BATCH_ONLY,
        limit: int = 0,
    ) -> Place:
        """Take a new request in, and return its place. It is durable after the next step's writes.

        Args:
            lane: what it may share a job with.
            key: its key; an explicit one must have been claimed as NEW before.
            digest: 16 bytes that tell its request from others.
            line: its row of a batch file, newline included; passed on unread.
            tokens: estimate of its input tokens.
            flags: EXPLICIT, TICKET; a ticket is always EXPLICIT too.
            deadline: latest time of its answer.
            now: the time.
            ladder: code of the routes that it may take.
            limit: what bounds its cost, as ``limit_of`` gives it.
        """
        segment = self.open_for(lane, now)
        place = self.add(segment, key, digest, line, tokens, flags, deadline, ladder, limit)
        if self.is_full(segment):
            self.spill(segment, now)
        return place

    def is_full(self, segment: Segment) -> bool:
        """Return whether nothing more may be added to an open segment."""
        fresh = segment.fresh
        return fresh is None or len(fresh.lines) >= self._segment_bytes or len(segment.keys) == ROWS_MAX

    def spill(self, segment: Segment, now: float) -> None:
        """Close a segment before the next step does."""
        self.spilled.append(self._close_segment(segment, now))

    def open_for(self, lane: Lane, now: float) -> Segment:
        """Return the segment to which requests of a lane are added now, until it is closed."""
        return self.book.open.get(lane) or self.book.open_segment(lane, now)

    def add(  # noqa: PLR0917 - as admit
        self,
        segment: Segment,
        key: str,
        digest: bytes,
        line: bytes,
        tokens: int,
        flags: int,
        deadline: float | None,
        ladder: int,
        limit: int,
    ) -> Place:
        """Take a new request into an open segment, which is to be spilled once it is full; see ``admit``."""
        fresh = segment.fresh
        assert fresh is not None, "rows are added to open segments"
        place = fresh.add(key, digest, line, tokens, flags, limit)
        if flags:
            self._named[key] = place
        if ladder or deadline is not None:
            self._add_terms(segment, place & ROW_MASK, deadline, ladder)
        return place

    def _add_terms(self, segment: Segment, row: int, deadline: float | None, ladder: int) -> None:
        """Note what most requests do not have."""
        if ladder:
            segment.ladders.extend(bytes(row - len(segment.ladders)))
            segment.ladders.append(ladder)
        if deadline is not None:
            self.book.set_deadline(segment, row, deadline)

    def has_claims(self, key: str) -> bool:
        """Return whether ``claim`` is to be asked: anything but NEW may come of it."""
        return key in self._named or bool(self._late)

    def claim(self, key: str, digest: bytes, now: float) -> tuple[Claim, Place]:
        """Ask what an explicit key names.

        A key whose stored result is an error, or too old, is NEW: a rejected request cost nothing, and may be tried
        again.
        """
        book = self.book
        if self._late:
            self._keep_late(now)
        place = book.keys.live(key)
        if place is not None:
            segment, row = book.at(place)
            assert segment is not None, f"live key {key!r} leads nowhere"
            if segment.digest(row) != digest:
                return Claim.CONFLICT, place
            self._wake_row(segment, row, now)
            return Claim.LIVE, place
        place = book.keys.kept(key)
        if place is None:
            return Claim.NEW, 0
        head = book.results[place >> ROW_BITS]
        row = place & ROW_MASK
        if head.failed[row] or now - head.kept_at > book.settings.keep_results_s:
            book.keys.forget(key, place)
            shelf.release(book, place)
            return Claim.NEW, 0
        if head.digests[row * 16 : row * 16 + 16] not in (digest, UNKNOWN_DIGEST):
            return Claim.CONFLICT, place
        book.reused += 1
        return Claim.KEPT, place

    def find(self, key: str) -> tuple[Claim, Place]:
        """Look an explicit key up without knowing its request; what was parked is sent, since somebody asks for it."""
        self._keep_late(self._told_at)
        place = self.book.keys.live(key)
        if place is not None:
            segment, row = self.book.at(place)
            assert segment is not None, f"live key {key!r} leads nowhere"
            self._wake_row(segment, row, max(segment.accepted_at, self._told_at))
            return Claim.LIVE, place
        place = self.book.keys.kept(key)
        return (Claim.NEW, 0) if place is None else (Claim.KEPT, place)

    def has_failed(self, key: str) -> bool:
        """Return whether all that is known of an explicit key is a stored error."""
        self._keep_late(self._told_at)
        place = self.book.keys.kept(key)
        if place is None:
            return False
        return bool(self.book.results[place >> ROW_BITS].failed[place & ROW_MASK])

    def adopt(
        self, digest: bytes, now: float, deadline: float | None = None, ladder: int = BATCH_ONLY
    ) -> tuple[Claim, Place]:
        """Take over the oldest abandoned request with this digest, if there is one that is young enough.

        Args:
            digest: of the request.
            now: the time.
            deadline: latest time of its answer from now on.
            ladder: code of the routes that it may take from now on.
        """
        book = self.book
        while (candidate := book.keys.adopt(digest)) is not None:
            if now - candidate.accepted_at > book.settings.reuse_window_s:
                continue
            if candidate.kept:
                book.reused += 1
                return Claim.KEPT, candidate.place
            segment, row = book.at(candidate.place)
            if segment is None or segment.states[row] == DONE:
                continue
            segment.flags[row] &= ~ABANDONED
            descent.take_up(book, descent.Rider(segment, row), deadline, ladder, now)
            self._wake_row(segment, row, now)
            book.reused += 1
            return Claim.LIVE, candidate.place
        return Claim.NEW, 0

    def knows(self, key: str | None, digest: bytes, now: float) -> bool:
        """Return whether asking for this now would send nothing new; it changes nothing."""
        book = self.book
        if key is None:
            return any(
                now - candidate.accepted_at <= book.settings.reuse_window_s
                and (candidate.kept or book.is_open(candidate.place))
                for candidate in book.keys.offers(digest)
            )
        place = book.keys.kept(key)
        if place is None:
            return book.keys.live(key) is not None
        head = book.results[place >> ROW_BITS]
        return not head.failed[place & ROW_MASK] and now - head.kept_at <= book.settings.keep_results_s

    @property
    def has_abandoned(self) -> bool:
        """Whether any request could be adopted."""
        return bool(self.book.keys.abandoned)

    def set_deadline(self, place: Place, deadline: float) -> None:
        """Let another awaiter of a request have a deadline of its own."""
        heapq.heappush(self.book.deadlines, (deadline, place))

    def took(self, place: Place) -> None:
        """Note that a stored result of an automatic key was handed over."""
        shelf.release(self.book, place)

    def leave(self, place: Place, now: float, *, late: bool = False) -> None:
        """Note that nobody awaits a request any more: withdraw what was not sent, offer what was sent to like calls.

        An explicit key that is withdrawn at its deadline is not forgotten: whoever asks for it is told so.

        Args:
            place: the request.
            now: the time.
            late: whether the deadline of whoever awaited it last has passed.
        """
        book = self.book
        handed = book.handed.pop(place, None)
        if handed is not None:
            shelf.offer(book, handed)
        segment, row = book.at(place)
        if segment is None:
            return
        if not segment.states:
            book.write(self._close_segment(segment, now))
        state, flags = segment.states[row], segment.flags[row]
        overdue = bool(segment.deadlines) and segment.deadlines[row] <= now
        waits = self._waits(segment, row, state) and (overdue or not flags & TICKET)
        if waits and book.rejoin(segment, row):
            waits, state = False, LIVE
        if waits or (state == PARKED and overdue):
            if flags & EXPLICIT and (overdue or late):
                verdict = Failure(kind="overdue", error=ServerError(message=book.held_back.get(place, "")))
                body = msgspec.json.encode(verdict)
                self._late.setdefault(segment.lane, []).append(shelf.row_of(segment, row, body, failed=True))
                self._told_at = max(self._told_at, now)
            book.withdraw(segment, row)
            book.sweep_segments((segment.no,))
        elif state in (SENT, LIVE):
            if overdue or not flags & TICKET:
                descent.stop(book, place, late=overdue)
            if not flags & (EXPLICIT | ABANDONED):
                segment.flags[row] |= ABANDONED
                book.keys.abandon(segment.digest(row), segment.accepted_at, place, kept=False)

    def offer_again(self, place: Place) -> None:
        """Note that whoever adopted a stored result did not live to take it."""
        head = self.book.results.get(place >> ROW_BITS)
        if head is not None and not head.flags[place & ROW_MASK] & EXPLICIT:
            shelf.offer(self.book, place)

    # -- for the next step

    def _gather(self, now: float) -> None:
        """Close open segments, so that what was admitted gets written."""
        for segment in list(self.book.open.values()):
            self.book.write(self._close_segment(segment, now))

    def _close_segment(self, segment: Segment, now: float) -> PutSegment:
        """End a segment: let its rows begin, and return the write that makes them durable."""
        write = self.book.close_segment(segment)
        descent.begin(self.book, segment, 0, len(segment.keys), now)
        if segment.ladders:
            self.book.live.remember(segment, *write.lines)
        return write

    def _waits(self, segment: Segment, row: int, state: int) -> bool:
        """Return whether a row is sent nowhere."""
        return state == QUEUED or (state == LIVE and not self.book.live.trips[place_of(segment.no, row)].op)

    def _wake_row(self, segment: Segment, row: int, now: float) -> None:
        """Let a parked row begin, and leave its job in time if it is in one: somebody asked for it."""
        trip = self.book.live.trips.get(place_of(segment.no, row))
        if trip is not None:
            trip.late = False
        if segment.states and segment.states[row] == PARKED:
            descent.wake(self.book, segment, row, now)
        elif segment.states and segment.states[row] == SENT:
            descent.watch_job(self.book, segment, row, now)

    def _keep_late(self, now: float) -> None:
        """Store the verdicts on explicit keys that were withdrawn at their deadline."""
        for lane, rows in self._late.items():
            shelf.keep(self.book, lane, "", rows, now)
        self._late.clear()
