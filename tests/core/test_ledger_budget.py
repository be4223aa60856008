"""Money is reserved before it is spent: reservations never exceed a ceiling, whatever crashes in between.

The machine plays the service beside the account: it knows what each job and each call really cost. A step is durable
or it never happened (a crash before its commit); what a crashed process had in the air is lost to it, not to the bill.
A job's output that was not read to its end is read anew from its beginning, by the same process or the next.
"""

from __future__ import annotations

from copy import deepcopy
from decimal import Decimal

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool._core.budget import DAY_S, DayAccount, day_of
from carpool._core.ledger import Ask, Ledger
from carpool._core.meter import Charge
from carpool._core.model import Lane
from carpool.settings import Price, Settings
from carpool.types import PICO

START = 1_795_219_200.0
LANE = Lane("embed", "mine")
PRICES = {"mine": Price(input_usd=Decimal("0.000002"), output_usd=Decimal(0))}
ROUTES = ("batch", "flex", "standard")
ROUTE = st.sampled_from(ROUTES)
RARELY = st.integers(0, 7).map(lambda number: number == 7)


class Bill(msgspec.Struct, kw_only=True):
    """What one job or call is to the service."""

    day: int
    route: str
    reserved: int
    lasting: bool
    doubles: int
    count: int
    spent: int = 0
    unknown: int = 0
    answers: int = 0
    open: bool = True
    lost: bool = False

    @property
    def exposed(self) -> int:
        return max(self.reserved, self.spent) if self.open or self.lost else self.spent

    @property
    def overrun(self) -> int:
        return max(0, self.spent - self.reserved)


class BudgetMachine(RuleBasedStateMachine):
    """One home, used by one process after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.number = 0
        self.bills: dict[str, Bill] = {}
        self.records: dict[int, bytes] = {}
        self.durable: dict[str, Bill] = {}

    @initialize(
        budget=st.integers(0, 5_000), full=st.integers(0, 3_000), double=st.integers(0, 1_000), unlimited=RARELY
    )
    def begin(self, budget: int, full: int, double: int, *, unlimited: bool) -> None:
        self.limits = (budget, full, double)
        self.settings = Settings(
            prices=PRICES,
            budget_per_day_usd=None if unlimited else Decimal(budget) / PICO,
            full_price_per_day_usd=Decimal(full) / PICO,
            max_double_cost_per_day_usd=Decimal(double) / PICO,
        )
        self.unlimited = unlimited
        self.restarts = 0
        self.read_twice = False
        self.ledger = Ledger.of(self.settings)

    def commit(self, *, crash: bool) -> None:
        """End a step: durable, or as if it had never been."""
        if crash:
            self.crash()
            return
        for account in self.ledger.budget.changes():
            self.records[account.day] = msgspec.msgpack.encode(account)
        self.durable = deepcopy(self.bills)

    @precondition(lambda self: self.bills and self.restarts < 3)
    @rule()
    def crash(self) -> None:
        """Kill the process; the next one finds what was durable."""
        self.bills = deepcopy(self.durable)
        for bill in self.bills.values():
            if bill.open and bill.lasting:
                bill.spent = bill.unknown = bill.answers = 0
            elif bill.open:
                bill.open, bill.lost = False, True
        self.ledger = Ledger.of(self.settings)
        accounts = [msgspec.msgpack.decode(record, type=DayAccount) for record in self.records.values()]
        self.ledger.restore(accounts, [])
        self.restarts += 1
        self.before = sum(bill.overrun for bill in self.bills.values())
        self.commit(crash=False)

    @rule(route=ROUTE, tokens=st.integers(0, 800), count=st.integers(1, 3), doubles=st.integers(0, 3), crash=RARELY)
    def reserve(self, route: str, tokens: int, count: int, doubles: int, *, crash: bool) -> None:
        self.number += 1
        ask = Ask(
            id=str(self.number),
            route=route,
            lane=LANE,
            count=count,
            input_tokens=tokens,
            doubles=min(doubles, count),
            lasting=route == "batch",
        )
        if self.ledger.reserve(ask, self.now) is not None:
            assert self.ledger.affordable(ask, self.now) <= count
            return
        self.bills[ask.id] = Bill(
            day=day_of(self.now),
            route=route,
            reserved=tokens * (2 if route == "standard" else 1),
            lasting=ask.lasting,
            doubles=ask.doubles,
            count=count,
        )
        self.commit(crash=crash)

    @precondition(lambda self: any(bill.open for bill in self.bills.values()))
    @rule(data=st.data(), paid=st.integers(0, 900), unknown=st.booleans(), crash=RARELY)
    def settle(self, data: st.DataObject, paid: int, *, unknown: bool, crash: bool) -> None:
        hold_id = data.draw(st.sampled_from([name for name, bill in self.bills.items() if bill.open]))
        bill = self.bills[hold_id]
        bill.spent += paid
        bill.unknown += unknown
        bill.answers += 1
        charge = Charge(answers=1, unknown=int(unknown), list_picousd=2 * paid, paid_picousd=paid)
        self.ledger.book(bill.route, "mine", charge, self.now, hold_id)
        self.commit(crash=crash)

    @precondition(lambda self: any(bill.open for bill in self.bills.values()))
    @rule(data=st.data(), known=st.booleans(), crash=RARELY)
    def close(self, data: st.DataObject, *, known: bool, crash: bool) -> None:
        hold_id = data.draw(st.sampled_from([name for name, bill in self.bills.items() if bill.open]))
        bill = self.bills[hold_id]
        bill.open, bill.lost = False, bill.unknown > 0 or not known
        self.ledger.close(hold_id, known=known)
        self.commit(crash=crash)

    @precondition(lambda self: any(bill.open and bill.lasting for bill in self.bills.values()))
    @rule(data=st.data())
    def read_anew(self, data: st.DataObject) -> None:
        """A download broke off, and begins again."""
        names = [name for name, bill in self.bills.items() if bill.open and bill.lasting]
        hold_id = data.draw(st.sampled_from(names))
        bill = self.bills[hold_id]
        bill.spent = bill.unknown = bill.answers = 0
        self.ledger.begin(hold_id)
        self.read_twice = True

    @rule(route=ROUTE, tokens=st.integers(0, 300), paid=st.integers(0, 900), known=st.booleans())
    def live(self, route: str, tokens: int, paid: int, *, known: bool) -> None:
        """Reserve, answer and close, each a step of its own."""
        before = self.number
        self.reserve(route, tokens, 1, 0, crash=False)
        hold_id = str(before + 1)
        if hold_id not in self.bills:
            return
        bill = self.bills[hold_id]
        bill.spent, bill.answers = paid, 1
        charge = Charge(answers=1, list_picousd=2 * paid, paid_picousd=paid)
        self.ledger.book(route, "mine", charge, self.now, hold_id)
        self.commit(crash=False)
        bill.open, bill.lost = False, not known
        self.ledger.close(hold_id, known=known)
        self.commit(crash=False)

    @rule(seconds=st.sampled_from([1.0, 40_000.0, DAY_S, -DAY_S, 10 * DAY_S]))
    def time_passes(self, seconds: float) -> None:
        self.now = max(START, self.now + seconds)

    # -- what must hold

    def exposed(self, day: int, route: str | None = None) -> int:
        return sum(b.exposed for b in self.bills.values() if b.day == day and route in (None, b.route))

    def doubled(self, day: int) -> int:
        return sum(-(-b.exposed * b.doubles // b.count) for b in self.bills.values() if b.day == day)

    def overrun(self, day: int, route: str | None = None) -> int:
        return sum(b.overrun for b in self.bills.values() if b.day == day and route in (None, b.route))

    @invariant()
    def reservations_never_exceed_a_ceiling(self) -> None:
        budget, full, double = self.limits
        for day in self.ledger.budget.days():
            overrun = self.overrun(day)
            standard = self.ledger.budget.committed(day).full_picousd
            assert standard <= full + self.overrun(day, "standard")
            assert self.unlimited or self.exposed(day) <= budget + overrun
            assert self.exposed(day, "standard") <= full + self.overrun(day, "standard")
            doubles = sum(-(-b.reserved * b.doubles // b.count) for b in self.bills.values() if b.day == day and b.open)
            assert doubles <= double

    @invariant()
    def the_account_never_knows_of_less_than_there_is(self) -> None:
        for day in self.ledger.budget.days():
            sums = self.ledger.budget.committed(day)
            assert sums.all_picousd >= self.exposed(day)
            assert sums.full_picousd >= self.exposed(day, "standard")
            if not self.restarts:
                assert sums.all_picousd == self.exposed(day)
                assert sums.full_picousd == self.exposed(day, "standard")
            if not self.unlimited:
                assert sums.all_picousd <= self.limits[0] + self.ledger.budget.account(day).overrun_picousd

    @invariant()
    def the_overrun_reported_is_what_was_settled_beyond_what_was_reserved(self) -> None:
        if not self.bills:
            return
        wanted = sum(bill.overrun for bill in self.bills.values())
        assert self.ledger.receipt_of(0, 10**6).overrun_usd == Decimal(wanted) / PICO
        if not self.restarts:
            assert self.ledger.receipt().overrun_usd == Decimal(wanted) / PICO
        else:
            assert self.ledger.receipt().overrun_usd == Decimal(wanted - self.before) / PICO

    @invariant()
    def the_receipt_of_all_days_is_what_was_answered_to_the_last_digit(self) -> None:
        receipt = self.ledger.receipt_of(0, 10**6)
        paid = sum(bill.spent for bill in self.bills.values())
        assert (receipt.paid_usd, receipt.list_usd) == (Decimal(paid) / PICO, Decimal(2 * paid) / PICO)
        assert receipt.requests == sum(bill.answers for bill in self.bills.values())
        assert receipt.unknown_cost == sum(bill.unknown for bill in self.bills.values())
        if not self.restarts and not self.read_twice:
            mine = self.ledger.receipt()
            assert (mine.paid_usd, mine.requests, mine.unknown_cost) == (
                receipt.paid_usd,
                receipt.requests,
                receipt.unknown_cost,
            )


BudgetMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
TestBudget = BudgetMachine.TestCase


def test_live_calls_write_a_record_now_and_then_not_each_of_them() -> None:
    ledger = Ledger.of(Settings(prices=PRICES, budget_per_day_usd=Decimal(1)))
    records = 0
    for number in range(1_000):
        ask = Ask(id=str(number), route="flex", lane=LANE, count=1, input_tokens=1_000_000, lasting=False)
        assert ledger.reserve(ask, START) is None
        records += len(ledger.budget.changes())
    assert records == 1
    assert ledger.budget.committed(day_of(START)).all_picousd == 10**9


def test_a_grant_never_leaves_the_budget_behind_it() -> None:
    ledger = Ledger.of(Settings(prices=PRICES, budget_per_day_usd=Decimal(1_000) / PICO))
    ask = Ask(id="a", route="flex", lane=LANE, count=1, input_tokens=600, lasting=False)
    assert ledger.reserve(ask, START) is None
    [record] = ledger.budget.changes()
    assert (record.granted_picousd, record.spent_picousd) == (1_000, 0)
    after = Ledger.of(Settings(prices=PRICES, budget_per_day_usd=Decimal(1_000) / PICO))
    after.restore([record], [])
    assert after.budget.committed(day_of(START)).all_picousd == 1_000
    assert after.receipt_of(0, day_of(START)).lost_usd == Decimal(1_000) / PICO
    [rewritten] = after.budget.changes()
    assert (rewritten.granted_picousd, rewritten.spent_picousd, rewritten.lost_picousd) == (0, 1_000, 1_000)
