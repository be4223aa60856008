"""Live calls: requests read back, sent once, and their answers sorted as those of a job are.

Owns the way of one live call. Whether it may go, and what its end means, is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from carpool._core.book import spans_of
from carpool._core.engine import Engine
from carpool._core.messages import Answered, Call, Refused
from carpool._core.meter import Charge, Meter
from carpool._core.model import ROW_BITS, ROW_MASK, Fault, Place
from carpool._ports import Answers, Provider, ProviderError, Store
from carpool._runtime.awaiters import Awaiters
from carpool._runtime.calls import facts_of
from carpool._runtime.fetch import Parting, Sorted
from carpool._runtime.watch import log_bug
from carpool.types import ServerError

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

    async def make(self, call: Call) -> tuple[Answered | Refused, Sorted | None]:
        """Make a call; return what to tell the engine, and what goes to awaiters once it has heard that.

        Raises:
            StoreError: the requests cannot be read.
        """
        trips = self._engine.book.live.flights[call.op].trips
        lines = [await self._line(trip.place) if trip.line is None else trip.line for trip in trips]
        left_s = call.deadline - self._now()
        try:
            answers = await self._provider.send(
                call.route, call.lane, lines, timeout_s=max(1.0, left_s) if left_s < NEVER else None
            )
            told = self._sorted(call, answers)
        except ProviderError as error:
            self._heard(error.fault)
            return Refused(call.op, error.fault), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the call's requests are told of it
            log_bug(f"a bug of carpool in a live call of {call.lane.model}", error)
            fault = Fault(kind="unknown", error=ServerError(message=f"a bug of carpool: {type(error).__name__}"))
            return Refused(call.op, fault, broken=True), None
        self._heard(None)
        return told

    async def _line(self, place: Place) -> bytes:
        no, row = place >> ROW_BITS, place & ROW_MASK
        return b"".join([part async for part in self._store.read([(no, row, row + 1)])])

    def _sorted(self, call: Call, answers: Answers) -> tuple[Answered, Sorted]:
        """Sort answers: straight to live awaiters, or to be stored first. What was answered elsewhere is only paid."""
        book = self._engine.book
        now, text_only = self._now(), book.is_text_only(call.lane, spans_of(call.places))
        facts = facts_of(book, call.lane, "", now, call.route, text_only=text_only)
        meter = book.ledger.meter(call.route, call.lane, now, text_only=text_only)
        flight = book.live.flights[call.op]
        charge = _charge(meter, answers)  # first: a bug in it is to leave no answer without its awaiter
        # Also of those that have left this call meanwhile: the first answer is its answer.
        answered = [
            (trip.place, body)
            for trip, body in zip(flight.trips, answers.bodies, strict=True)
            if book.is_open(trip.place)
        ]
        keys = {place: book.key_at(place) for place, _ in answered}
        parting = Parting(book.segments, self._awaiters.columns)
        for place, body in answered:
            parting.take(place >> ROW_BITS, place & ROW_MASK, body)
        event = Answered(call.op, parting.delivered, parting.kept, [], charge)
        return event, Sorted(event, parting.handovers, facts, keys)


def _charge(meter: Meter, answers: Answers) -> Charge:
    count, prompt = len(answers.bodies), answers.prompt_tokens
    if prompt is None:
        return meter.charge(answers.bodies)
    cost = meter.cost_of_embeddings(prompt)
    if cost is None:
        return Charge(answers=count, unknown=count)
    return Charge(answers=count, prompt=prompt, list_picousd=cost.list_picousd, paid_picousd=cost.paid_picousd)
