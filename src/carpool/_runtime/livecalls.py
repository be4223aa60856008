"""Live calls: requests read back, sent once, and their answers sorted: straight to live awaiters, or to be stored.

Owns the way of one live call. Whether it may go, and what its end means, is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from carpool._core.book import spans_of
from carpool._core.engine import Engine
from carpool._core.messages import Answered, Call, Refused
from carpool._core.meter import Charge, Meter
from carpool._core.model import DONE, EXPLICIT, ROW_BITS, ROW_MASK, Fault, Place
from carpool._ports import Answers, Provider, ProviderError, Store
from carpool._runtime.awaiters import Awaiters, Waiter
from carpool._runtime.fetch import Handful, Sorted
from carpool._runtime.watch import log_bug
from carpool.types import Facts, ServerError

NEVER: Final = float("inf")


class LiveCalls:
    """Makes live calls.

    Args:
        provider: whom to ask.
        store: holds the requests.
        engine: knows them.
        awaiters: who awaits which.
        heard: is told how each call went.
        now: the time.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        store: Store,
        engine: Engine,
        awaiters: Awaiters,
        heard: Callable[[Fault | None], None],
        now: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._store = store
        self._engine = engine
        self._awaiters = awaiters
        self._heard = heard
        self._now = now

    async def make(self, call: Call) -> Sorted | Refused:
        """Make a call; return what it brought: its event is for the engine, and then its answers are for awaiters.

        Raises:
            StoreError: the requests cannot be read.
        """
        trips = self._engine.book.live.flights[call.op].trips
        lines = [trip.line for trip in trips if trip.line is not None]
        if len(lines) < len(trips):
            lines = [await self._line(trip.place) if trip.line is None else trip.line for trip in trips]
        left_s = call.deadline - self._now()
        try:
            answers = await self._provider.send(
                call.route, call.lane, lines, timeout_s=max(1.0, left_s) if left_s < NEVER else None
            )
            told = self._sorted(call, answers)
        except ProviderError as error:
            self._heard(error.fault)
            return Refused(call.op, error.fault)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call's requests are told of it
            log_bug(f"a bug of carpool in a live call of {call.lane.model}", error)
            fault = Fault(kind="unknown", error=ServerError(message=f"a bug of carpool: {type(error).__name__}"))
            return Refused(call.op, fault, broken=True)
        self._heard(None)
        return told

    async def _line(self, place: Place) -> bytes:
        no, row = place >> ROW_BITS, place & ROW_MASK
        return b"".join([part async for part in self._store.read([(no, row, row + 1)])])

    def _sorted(self, call: Call, answers: Answers) -> Sorted:
        """Sort answers as those of a job are. What was answered elsewhere meanwhile is only paid."""
        book, lane, now = self._engine.book, call.lane, self._now()
        text_only = book.is_text_only(lane, spans_of(call.places)) if lane.kind == "embed" else False
        meter = book.ledger.meter(call.route, lane, now, text_only=text_only)
        facts = Facts(route=call.route, job="", kind=lane.kind, model=lane.model, answered_at=now, cost=meter.cost)
        charge = _charge(meter, answers)
        trips = book.live.flights[call.op].trips
        pairs = list(zip(trips, answers.bodies, strict=True))
        # From here on nothing raises: an answer that has left its awaiter behind would reach nobody.
        waiters: list[Waiter] = []
        bodies: list[bytes] = []
        keys: dict[Place, str] = {}
        kept: list[tuple[Place, bytes]] = []
        for trip, body in pairs:
            place = trip.place
            segment, row = book.at(place)
            if segment is None or segment.states[row] == DONE:
                continue  # one that has left this call is not: the first answer is its answer
            waiter = None if segment.flags[row] & EXPLICIT else self._awaiters.take_only(place)
            if waiter is None:
                kept.append((place, body))
            else:
                waiters.append(waiter)
                bodies.append(body)
                keys[place] = segment.keys[row]
        places = list(keys)
        return Sorted(Answered(call.op, places, kept, [], charge), [Handful(waiters, places, bodies)], facts, keys)


def _charge(meter: Meter, answers: Answers) -> Charge:
    count, prompt = len(answers.bodies), answers.prompt_tokens
    if prompt is None:
        return meter.charge(answers.bodies)
    cost = meter.cost_of_embeddings(prompt)
    if cost is None:
        return Charge(answers=count, unknown=count)
    return Charge(answers=count, prompt=prompt, list_picousd=cost.list_picousd, paid_picousd=cost.paid_picousd)
