"""Ceilings hold whatever concurrent callers ask for: 200 runs, each with its own callers, ceilings and estimates.

Whoever reserves, settles or closes is looked over the shoulder, and the same account is kept beside, by other rules:
what was reserved never exceeds a ceiling, what is reported as overrun is what was settled beyond its reservation, and
what was paid is the service's bill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.canary import API_KEY

from carpool import FAST, BudgetExceeded, Client, MemoryStore, RequestRejected
from carpool._core.budget import Hold
from carpool.emulator import EmulatorThread, Fault, Ledger, Plan
from carpool.settings import Ladder

from .support import quick

PICO: Final = 10**12
MODEL: Final = "gemini-2.5-flash"
UNKNOWN: Final = "gemini-flash-latest"
LADDERS: Final[tuple[Ladder, ...]] = (("batch",), ("standard",), ("flex", "standard"), FAST)
READS: Final = {"tools": [{"url_context": {}}]}
"""Tools add input that no estimate knows of."""


class Caller(msgspec.Struct, frozen=True):
    """One call."""

    ladder: Ladder
    words: int
    cap: int
    reads: bool
    model: str
    bad: bool


CALLER: Final = st.builds(
    Caller,
    st.sampled_from(LADDERS),
    st.integers(1, 400),
    st.sampled_from((0, 5, 50)),
    st.booleans(),
    st.sampled_from((MODEL,) * 9 + (UNKNOWN,)),
    st.integers(0, 9).map(lambda number: number == 9),
)
USD: Final = st.none() | st.integers(0, 40_000_000_000).map(lambda picousd: Decimal(picousd) / PICO)
"""Of a few calls: each is reserved for at a cent or less."""


class Watched:
    """The account of a client, kept beside it."""

    def __init__(self, client: Client, budget: Decimal | None, full: Decimal | None) -> None:
        self._budget = client._runtime.engine.book.ledger.budget
        self._ceilings = (budget, full)
        self.open: dict[str, tuple[Hold, int]] = {}
        self.spent = self.full = 0
        self.overrun = self.overrun_full = 0
        self._real = (self._budget.reserve, self._budget.settle, self._budget.close)
        for name in ("reserve", "settle", "close"):
            setattr(self._budget, name, getattr(self, name))

    def reserve(self, hold: Hold, *, lasting: bool) -> None:
        self._real[0](hold, lasting=lasting)
        self.open[hold.id] = (hold, 0)
        holds = [one for one, _ in self.open.values()]
        reserved = self.spent + sum(max(one.reserved_picousd, paid) for one, paid in self.open.values())
        under_way = sum(max(0, paid - one.reserved_picousd) for one, paid in self.open.values())
        full = self.full + sum(max(one.reserved_picousd, paid) for one, paid in self._standard())
        full_under_way = sum(max(0, paid - one.reserved_picousd) for one, paid in self._standard())
        budget, most = self._ceilings
        assert holds
        if budget is not None:
            assert reserved - self.overrun - under_way <= budget * PICO
        if most is not None:
            assert full - self.overrun_full - full_under_way <= most * PICO

    def _standard(self) -> list[tuple[Hold, int]]:
        return [(hold, paid) for hold, paid in self.open.values() if hold.route == "standard"]

    def settle(self, hold_id: str, now: float, route: str, totals: Any) -> None:
        self._real[1](hold_id, now, route, totals)
        hold, paid = self.open[hold_id]
        self.open[hold_id] = (hold, paid + totals.paid_picousd)

    def close(self, hold_id: str, *, known: bool = True) -> None:
        self._real[2](hold_id, known=known)
        hold, paid = self.open.pop(hold_id)
        beyond = max(0, paid - hold.reserved_picousd)
        self.spent += paid
        self.overrun += beyond
        if hold.route == "standard":
            self.full += paid
            self.overrun_full += beyond


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorThread]:
    # Calls are turned away now and then; what is refused by the server costs nothing.
    faults = {"generate.503": Fault(probability=0.05, seconds=0.001), "row.error": Fault(probability=0.02, code=13)}
    with EmulatorThread(Plan(faults=faults)) as emulator:
        yield emulator


async def play(base_url: str, callers: list[Caller], budget: Decimal | None, full: Decimal | None) -> Any:
    """Make the calls at the same time, and return the receipt, what came of each, and the account kept beside."""
    limits = {"budget_per_day_usd": budget, "full_price_per_day_usd": full, "attempts_max": 9}
    client = Client(api_key=API_KEY, base_url=base_url, store=MemoryStore(), settings=quick(**limits))
    async with asyncio.timeout(60), client:
        watched = Watched(client, budget, full)
        found: list[Any] = []
        for half in (callers[::2], callers[1::2]):  # the second half has learned from the first
            found += await asyncio.gather(*(call(client, one) for one in half), return_exceptions=True)
        await client.drain()
        return client.receipt(), found, watched


async def call(client: Client, caller: Caller) -> Any:
    config: dict[str, Any] = {"max_output_tokens": caller.cap} if caller.cap else {}
    text = "word " * caller.words + ("https://example.org/ " if caller.reads else "")
    text += "[[error:400:no]]" if caller.bad else ""
    config |= READS if caller.reads else {}
    return await client.generate(caller.model, text, config=config, ladder=caller.ladder)


def bills(ledger: Ledger) -> tuple[int, int]:
    return ledger.picousd, ledger.rows_billed + ledger.live_calls


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(callers=st.lists(CALLER, min_size=1, max_size=16), budget=USD, full=USD)
def test_reservations_keep_below_ceilings_and_the_overrun_told_is_the_overrun_settled(
    emulator: EmulatorThread, callers: list[Caller], budget: Decimal | None, full: Decimal | None
) -> None:
    before = bills(emulator.ledger())
    receipt, found, watched = asyncio.run(play(emulator.base_url, callers, budget, full))
    after = bills(emulator.ledger())
    errors = [one for one in found if isinstance(one, BaseException)]
    assert {type(error) for error in errors} <= {BudgetExceeded, RequestRejected}
    assert receipt.requests == len(found) - len(errors) == after[1] - before[1]
    assert receipt.paid_usd * PICO == after[0] - before[0] == watched.spent
    assert receipt.overrun_usd * PICO == watched.overrun
    assert not watched.open, "nothing is reserved at rest"
    if budget is not None:
        assert receipt.paid_usd <= budget + receipt.overrun_usd
        assert all(one.model != UNKNOWN for one, came in zip(ordered(callers), found, strict=True) if is_answer(came))
    if full is not None and "standard" in receipt.by_route:
        assert receipt.by_route["standard"].paid_usd <= full + receipt.overrun_usd
    if budget is None and full is None:
        assert not any(isinstance(error, BudgetExceeded) for error in errors)


def ordered(callers: list[Caller]) -> list[Caller]:
    return [*callers[::2], *callers[1::2]]


def is_answer(came: Any) -> bool:
    return not isinstance(came, BaseException)
