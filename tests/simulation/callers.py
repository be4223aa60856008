"""Who awaits what in one process: calls taken in, let go of, answered, and told.

Owns the awaiters, which die with the process. It checks what only the moment shows: that nobody is told anything before
it is stored, or later than promised.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from carpool._core.keys import Claim
from carpool._core.messages import Deliver, Fail, Flushed, Undelivered, Write
from carpool._core.model import (
    EXPLICIT,
    LIVE,
    PARKED,
    QUEUED,
    ROW_BITS,
    ROW_MASK,
    SENT,
    TICKET,
    Failure,
    Place,
)
from carpool._core.routing import BATCH_ONLY, choose

from .history import Call, expect

if TYPE_CHECKING:
    from .process import Process

TURN_S: Final = 0.1
"""Longer than any turn takes."""


class Callers:
    """The awaiters of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.awaiters: dict[Place, list[Call]] = {}
        self.reading: list[Call] = []
        """Who waits for a stored result to be read."""
        self.asked_keys: set[str] = set()

    def ask(self, call: Call) -> None:
        """Take a call in."""
        engine, ask, now = self._process.engine, call.ask, self._process.now
        self._process.history.calls.append(call)
        call.epoch, call.asked_at, call.life = self._process.epoch, now, self._process.life
        call.deadline = None if ask.deadline_s is None else now + ask.deadline_s
        digest = digest_of(ask.lane.kind, ask.lane.model, ask.prompt)
        if ask.looks_up and ask.key is not None:
            claim, place = engine.find(ask.key)
            if claim is Claim.NEW:
                call.ending = "unknown"
                return
        elif ask.key is not None:
            claim, place = engine.claim(ask.key, digest, now)
        elif engine.has_abandoned:
            claim, place = engine.adopt(digest, now, call.deadline, self._ladder_of(call))
        else:
            claim, place = Claim.NEW, 0
        call.place, call.joined = place, claim is not Claim.NEW
        match claim:
            case Claim.CONFLICT:
                call.ending = "conflict"
                return
            case Claim.KEPT:
                call.kept = True
                call.key = engine.book.results[place >> ROW_BITS].keys[place & ROW_MASK]
                self.reading.append(call)
            case Claim.LIVE if engine.is_stalled(place):
                call.ending = "failed"
                return
            case Claim.LIVE:
                call.key = engine.book.segments[place >> ROW_BITS].keys[place & ROW_MASK]
                self.awaiters.setdefault(place, []).append(call)
                if call.deadline is not None:
                    engine.set_deadline(place, call.deadline)
            case Claim.NEW:
                self._admit(call, digest)
        self.asked_keys.add(call.key)
        if ask.flushes:
            self._process.inbox.append(Flushed())
        if ask.cancel_after_s is not None and not ask.ticket:
            self._process.later(ask.cancel_after_s, lambda: self.cancel(call))
        self._process.wake()

    def _admit(self, call: Call, digest: bytes) -> None:
        ask = call.ask
        self._expect_nothing_to_adopt(call, digest)
        call.key = ask.key if ask.key is not None else self._process.engine.new_key(digest)
        flags = (EXPLICIT | (TICKET if ask.ticket else 0)) if ask.key is not None else 0
        line = f"{call.key}|{ask.prompt}|".encode().ljust(ask.size_bytes - 1, b".") + b"\n"
        tokens = 1 + len(line) // 8
        call.place = self._process.engine.admit(
            ask.lane, call.key, digest, line, tokens, flags, call.deadline, self._process.now, self._ladder_of(call)
        )
        self.awaiters[call.place] = [call]
        if self._process.engine.spilled:
            writes: list[Write] = list(self._process.engine.spilled)
            self._process.engine.spilled.clear()
            self._process.commit(writes, lambda: None)

    def _ladder_of(self, call: Call) -> int:
        if not self._process.plan.rides:
            return BATCH_ONLY
        ask = call.ask
        return choose(ask.ladder, None, ask.lane.kind, timed=ask.deadline_s is not None)

    def _expect_nothing_to_adopt(self, call: Call, digest: bytes) -> None:
        """A bare call is new only if nothing of an earlier process could be adopted."""
        if call.ask.key is not None:
            return
        for segment in self._process.engine.book.segments.values():
            age_s = self._process.now - segment.accepted_at
            for row, key in enumerate(segment.keys):
                earlier = (
                    key.startswith("a")
                    and int(key.split(".")[1], 16) < self._process.epoch
                    and row < len(segment.states)
                )
                if earlier and segment.digest(row) == digest and age_s <= self._process.plan.settings.reuse_window_s:
                    place = segment.no << ROW_BITS | row
                    waiting = segment.states[row] in (PARKED, SENT, LIVE) and place not in self.awaiters
                    expect(
                        not waiting or self._process.engine.is_stalled(place), f"{key} was there to be adopted: {call}"
                    )

    def cancel(self, call: Call) -> None:
        """Cancel the caller."""
        if call.ending:
            return
        call.ending = "cancelled"
        if call in self.reading:
            self.reading.remove(call)
            self._process.engine.offer_again(call.place)
        else:
            self._let_go(call)
        self._process.wake()

    def _let_go(self, call: Call) -> None:
        waiting = self.awaiters.get(call.place, [])
        if call in waiting:
            waiting.remove(call)
        if not waiting:
            self.awaiters.pop(call.place, None)
            self._nobody_left(call)

    def _nobody_left(self, call: Call) -> None:
        self._process.engine.leave(call.place, self._process.now)
        expect(not self._is_needless(call.place), f"still queued, for nobody: {call}")
        if call.ask.key is not None:
            self._process.history.let_go.add(call.key)

    def answer(self, call: Call, body: bytes, job: str) -> None:
        """Set a caller's future; now and then the caller is cancelled before it takes the answer."""
        if call.ask.cancel_after_s is not None and not call.ask.ticket and self._process.plan.chance(0.3):
            call.ending = "cancelled"
            if call.ask.key is None:
                digest = digest_of(call.ask.lane.kind, call.ask.lane.model, call.ask.prompt)
                self._process.inbox.append(Undelivered([(call.place, call.key, digest, body)], call.ask.lane, job))
            self._process.wake()
            return
        call.ending, call.body = "value", body
        late_s = 0.0 if call.deadline is None else self._process.now - call.deadline
        expect(late_s < TURN_S, f"an answer {late_s} s after its deadline: {call}")

    def _is_needless(self, place: Place) -> bool:
        """Return whether a request waits and only its awaiters want it."""
        segment, row = self._process.engine.book.at(place)
        if segment is None or segment.flags[row] & TICKET:
            return False
        trip = self._process.engine.book.live.trips.get(place)
        return not segment.states or segment.states[row] == QUEUED or (trip is not None and not trip.op)

    def read_kept(self, call: Call) -> None:
        """Give a call the stored result that it found."""
        process = self._process
        if call.place >> ROW_BITS not in process.engine.book.results:
            expect(call.ask.looks_up, f"dropped before it was read: {call}")
            call.ending = "unknown"  # the stored error of a key that somebody tries again
            return
        body = process.store.result(call.place, ROW_BITS)
        head = process.engine.book.results[call.place >> ROW_BITS]
        if head.failed[call.place & ROW_MASK]:
            call.ending, call.failure = "failed", msgspec.json.decode(body, type=Failure)
            return
        call.ending, call.body = "value", body
        if call.ask.key is None:
            process.engine.took(call.place)

    def deliver(self, action: Deliver) -> None:
        """Hand stored answers over."""
        stored = {body for _, bodies in self._process.store.results.values() for body in bodies}
        in_runs = (pair for run in action.runs for pair in zip(run.places, run.bodies or (), strict=True))
        for place, body in (*action.rows, *in_runs):
            for call in self.awaiters.pop(place, []):
                expect(body in stored, f"delivered before it is stored: {body!r}")
                self.answer(call, body, action.job)

    def fail(self, action: Fail) -> None:
        """Tell a verdict."""
        given_back = action.failure.kind in ("credentials", "unreachable")
        body = msgspec.json.encode(action.failure)
        stored = {
            key
            for no, (_, bodies) in self._process.store.results.items()
            for key, stored_body in zip(self._process.store.results_head(no).keys, bodies, strict=True)
            if stored_body == body
        }
        for place, key in zip(action.places, action.keys, strict=True):
            given_back = given_back or self._process.engine.is_stalled(place)
            for call in self.awaiters.pop(place, []):
                expect(call.key == key, f"told of {key}: {call}")
                explicit = call.ask.key is not None
                expect(not explicit or given_back or call.key in stored, f"told a verdict before it is stored: {call}")
                call.ending, call.failure = "failed", action.failure

    def expire(self, place: Place, deadline: float) -> None:
        """Tell those whose deadline has passed."""
        waiting = self.awaiters.get(place)
        if waiting is None:
            return
        for call in list(waiting):
            if call.deadline is not None and call.deadline <= deadline:
                expect(self._process.now - call.deadline < TURN_S, f"told of its deadline too late: {call}")
                call.ending = "expired"
                waiting.remove(call)
                if not waiting:
                    del self.awaiters[place]
                    self._nobody_left(call)
                    self._process.wake()


def digest_of(kind: str, model: str, prompt: str) -> bytes:
    """Return what tells a request from others."""
    return hashlib.sha256(f"{kind}/{model}/{prompt}".encode()).digest()[:16]
