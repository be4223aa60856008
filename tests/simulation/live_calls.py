"""Live calls of one process: once sent they are computed and billed whether or not their sender lives.

Owns what is in the air on the live routes. It checks that nothing is sent before it is on record, twice at once, or
unasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from carpool._core.messages import Answered, Call, Refused
from carpool._core.meter import Charge
from carpool._core.model import DONE, EXPLICIT, ROW_BITS, ROW_MASK, SENT, Fault, Place

from .history import expect
from .server import TIMEOUT, LiveBill

if TYPE_CHECKING:
    from .process import Process

TIMEOUT_MIN_S: Final = 1.0


class LiveCalls:
    """The live calls of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.bills: dict[int, list[int]] = {}
        """Numbers of the bills of answers that wait to be told to the engine, by call."""

    def make(self, call: Call) -> None:
        """Send a call."""
        process = self._process
        lines = [self._line(place) for place in call.places]
        self._expect_wanted(call)
        limit_s = max(TIMEOUT_MIN_S, call.deadline - process.now)

        def arrive() -> None:
            reply, after_s = process.server.call(call.route, call.lane.model, lines)
            if after_s > limit_s:
                reply, after_s = TIMEOUT, limit_s
            process.later(after_s, lambda: self._hear(call, reply))

        # Once sent, a call arrives whether or not its sender lives.
        process.clock.after(process.plan.live_seconds(0.01, 0.5), arrive)

    def _line(self, place: Place) -> bytes:
        no, row = place >> ROW_BITS, place & ROW_MASK
        expect(no in self._process.store.segments, f"sent before it is on record: {place:#x}")
        [line] = self._process.store.lines([(no, row, row + 1)])
        return line

    def _expect_wanted(self, call: Call) -> None:
        process = self._process
        book = process.engine.book
        expect(len(call.places) == len(set(call.places)), f"twice in one call: {call}")
        for place in call.places:
            segment, row = book.at(place)
            expect(segment is not None, f"sent after it was forgotten: {call}")
            assert segment is not None
            state, key = segment.states[row], segment.keys[row]
            expect(state != DONE, f"sent after it was answered: {key} in {call}")
            if not segment.flags[row] & EXPLICIT and int(key.split(".")[1], 16) < process.epoch:
                expect(key in process.callers.asked_keys, f"sent unasked after a crash: {key} in {call}")
            if state == SENT:
                allowed = process.plan.settings.max_double_cost_per_day_usd > 0
                expect(allowed, f"sent besides its job although that is forbidden: {key} in {call}")
                process.history.besides += 1

    def _hear(self, call: Call, reply: list[LiveBill] | Fault) -> None:
        process = self._process
        if isinstance(reply, Fault):
            process.inbox.append(Refused(call.op, reply))
        elif call.op in process.engine.book.live.flights:
            process.inbox.append(self._sort(call, reply))
        process.wake()
        if process.plan.live_faults and process.plan.live.random() < 0.02:
            # A reply that comes a second time: nobody asks any more.
            process.later(process.plan.live_seconds(1, 600), lambda: self._hear(call, reply))

    def _sort(self, call: Call, bills: list[LiveBill]) -> Answered:
        process = self._process
        delivered: list[Place] = []
        kept: list[tuple[Place, bytes]] = []
        flight = process.engine.book.live.flights[call.op]
        for trip, bill in zip(flight.trips, bills, strict=True):
            bill.heard = True
            if not process.engine.book.is_open(trip.place):
                continue
            expect(process.engine.book.key_at(trip.place) == bill.key, f"an answer of another: {bill}")
            body = f"{bill.prompt}#{bill.serial}".encode()
            waiting = process.callers.awaiters.get(trip.place, [])
            if len(waiting) == 1 and waiting[0].ask.key is None and not waiting[0].joined:
                del process.callers.awaiters[trip.place]
                delivered.append(trip.place)
                process.callers.answer(waiting[0], body, "")
            else:
                kept.append((trip.place, body))
        self.bills[call.op] = [bill.serial for bill in bills]
        paid = sum(bill.picousd for bill in bills)
        unknown = 0 if paid else len(bills)
        return Answered(
            call.op,
            delivered,
            kept,
            [],
            Charge(answers=len(bills), unknown=unknown, prompt=len(bills), list_picousd=paid, paid_picousd=paid),
        )
