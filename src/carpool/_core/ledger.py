"""The account of one client: what is reserved, what was answered, and what it cost, in integer pico-dollars.

Owns receipts, and the way from requests and answers to the money of a day. List prices are in ``prices``, the reading
of answers in ``meter``, ceilings and records in ``budget``, tokens before sending in ``estimate``. It must not know
jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from carpool._core.budget import DOUBLES, Budget, Ceilings, DayAccount, Hold, Totals, day_of
from carpool._core.estimate import Habit, Habits
from carpool._core.meter import NO_CHARGE, Charge, Meter
from carpool._core.model import Lane
from carpool._core.prices import PAID_PERCENT, PRICES_AS_OF, Prices, Rate
from carpool.settings import Price, Settings
from carpool.types import PICO, Receipt, RouteTotals

__all__ = [
    "OUTPUT_TOKENS_GUESS",
    "PAID_PERCENT",
    "PRICES_AS_OF",
    "Ask",
    "Ledger",
    "Refusal",
    "expected_output_bytes",
    "receipt_of_days",
]

OUTPUT_TOKENS_GUESS: Final = 1_024
"""Expected answer tokens of one generate request, until history tells better."""
QUERIES_RESERVED: Final = 3
"""Searches for which money is reserved, of a request that may search, where each costs a fee."""
_EMBED_OUTPUT_BYTES: Final = 40_000
_TEXT_OUTPUT_BYTES: Final = 8_000
_IMAGE_OUTPUT_BYTES: Final = 2_000_000
_NO_CEILINGS: Final = Ceilings(all_picousd=None, full_picousd=None, double_picousd=PICO)


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is about to be sent, as far as it matters for money: a job, or a live call."""

    id: str
    """The job's id; of a live call anything else that is used once."""
    route: str
    lane: Lane
    count: int
    input_tokens: int
    """Estimate, as it was made when the requests were encoded."""
    caps: dict[int, int] = {}
    """How many of the requests have which cap, ``maxOutputTokens`` times candidates; the others have none."""
    searches: int = 0
    """Of the requests: those that may search, for a fee; of embeddings: those that hold anything but text."""
    doubles: int = 0
    """Of the requests: those that a running job holds too."""
    lasting: bool = True
    """Whether it outlives the process: jobs do, live calls do not."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why something must not be sent."""

    setting: str
    reason: str
    """Names the setting and the amounts."""
    advice: str

    @property
    def message(self) -> str:
        """Return the text of a ``BudgetExceeded``."""
        return f"{self.reason}. Nothing was sent. {self.advice}"


class Extra(NamedTuple):
    """What receipts tell beside the sums of answers."""

    doubles: int = 0
    overrun_picousd: int = 0
    double_picousd: int = 0
    lost_picousd: int = 0

    @classmethod
    def of(cls, accounts: Iterable[DayAccount]) -> Extra:
        """Return the sums of some days."""
        rows = [(one.doubles, one.overrun_picousd, one.double_picousd, one.lost_picousd) for one in accounts]
        return cls(*map(sum, zip(*rows, strict=True)))

    def less(self, other: Extra) -> Extra:
        """Return the difference."""
        return Extra(*(mine - its for mine, its in zip(self, other, strict=True)))


class _Reading:
    """Sums over the answers of a job, since its output was begun to be read."""

    __slots__ = ("answers", "prompt", "unknown")

    def __init__(self) -> None:
        self.answers = self.unknown = self.prompt = 0

    def add(self, charge: Charge) -> None:
        self.answers += charge.answers
        self.unknown += charge.unknown
        self.prompt += charge.prompt


class Ledger:
    """The account of one client.

    Args:
        prices: the user's, over the bundled ones.
        ceilings: most that may be reserved and spent in a day; no limits if not given.
    """

    def __init__(self, prices: Mapping[str, Price], ceilings: Ceilings = _NO_CEILINGS) -> None:
        self._prices = Prices(prices)
        self._accounts: dict[str, Totals] = {}
        self._read: dict[str, _Reading] = {}
        """What was read of the jobs whose output is being read."""
        self._before = Extra()
        """What earlier processes left of what is beside the sums of answers."""
        self.budget = Budget(ceilings)
        self.habits = Habits()
        self.twins = 0
        """Jobs that the server made twice, and that this process found."""

    @classmethod
    def of(cls, settings: Settings) -> Ledger:
        """Return the account that settings ask for."""
        return cls(settings.prices, Ceilings.of(settings))

    def restore(self, accounts: Iterable[DayAccount], habits: Iterable[Habit]) -> None:
        """Take in the records of earlier processes. What they spent stays out of this client's receipt."""
        for account in accounts:
            self.budget.take(account)
        for habit in habits:
            self.habits.take(habit)
        self._before = self._extra()

    def _extra(self) -> Extra:
        """Return what is beside the sums of answers, over all days."""
        return Extra.of(self.budget.account(day) for day in self.budget.days())

    def forget(self, now: float) -> list[int]:
        """Forget days that are too long ago, and return them: their records are to be dropped."""
        before = self._extra()
        days = self.budget.forgotten(now)
        self._before = self._before.less(before.less(self._extra()))
        return days

    def rate(self, model: str, now: float = 0.0) -> Rate | None:
        """Return the model's list price; ``None``: not known."""
        return self._prices.rate(model, now)

    def meter(self, route: str, lane: Lane, now: float, *, text_only: bool = False) -> Meter:
        """Return what prices the answers of a lane on a route.

        Args:
            route: ``batch``, ``flex`` or ``standard``.
            lane: its kind and model.
            now: the time.
            text_only: whether none of the requests holds media (matters for embeddings alone).
        """
        return Meter(self.rate(lane.model, now), route, embeds=lane.kind == "embed", text_only=text_only)

    # -- before sending

    def expected_picousd(self, lane: Lane, count: int, tokens: int, now: float = 0.0) -> int | None:
        """Return what a batch is expected to cost on the batch route; ``None``: price not known."""
        rate = self.rate(lane.model, now)
        if rate is None:
            return None
        output = OUTPUT_TOKENS_GUESS * count if lane.kind == "generate" else 0
        listed = tokens * rate.input_picousd + output * rate.output_picousd
        return listed * rate.batch_percent // 100

    def ask_picousd(self, ask: Ask, now: float) -> int | None:
        """Return what is to be reserved before sending; ``None``: a price that it takes is not known."""
        rate = self.rate(ask.lane.model, now)
        if rate is None:
            return None
        prompt = self.habits.input_tokens(ask.lane.model, ask.input_tokens)
        tier = rate.tier(ask.route, long=prompt > rate.long_from_tokens * max(1, ask.count))
        if ask.lane.kind == "embed":
            dearest = max(tier.input, tier.audio, tier.image, tier.video)
            return prompt * (dearest if ask.searches else tier.input)
        amount = prompt * tier.input
        if ask.searches:
            if rate.search_picousd < 0:
                return None
            amount += ask.searches * rate.search_picousd * (QUERIES_RESERVED if rate.search_per_query else 1)
        output = self.habits.reserved_output(ask.lane.model, ask.count, ask.caps)
        return amount + output * max(tier.output, tier.image_output)

    def refusal(self, ask: Ask, now: float) -> Refusal | None:
        """Return why something must not be sent; ``None``: it may, as far as money goes."""
        return self._refusal(ask, self.ask_picousd(ask, now), now)

    def _refusal(self, ask: Ask, amount: int | None, now: float) -> Refusal | None:
        ceilings = self.budget.ceilings
        if amount is None:
            if not ceilings.need_price(ask.route, double=ask.doubles > 0):
                return None
            setting = DOUBLES if ask.doubles else _unpriced_limit(ceilings, ask.route)
            searches = " or of its searches" if ask.searches else ""
            return Refusal(
                setting,
                f"The price of {ask.lane.model!r}{searches} is not known, so it cannot be kept within "
                f"Settings.{setting}",
                "Give it in Settings.prices.",
            )
        found = self.budget.refusal(now, ask.route, amount, _share(amount, ask))
        if found is None:
            return None
        left = self.budget.room_picousd(now, ask.route, double=ask.doubles > 0)
        return Refusal(
            found,
            f"{ask.count} request(s) on the {ask.route} route may cost up to {_usd(amount)}, and Settings.{found} "
            f"leaves {_usd(max(0, left or 0))} for today (UTC)",
            "Raise it, set max_output_tokens, or wait for tomorrow.",
        )

    def affordable(self, ask: Ask, now: float) -> int:
        """Return how many of the requests of an ask may be sent, each taken as costly as the average."""
        amount, room = self.ask_picousd(ask, now), self.budget.room_picousd(now, ask.route, double=ask.doubles > 0)
        if self._refusal(ask, amount, now) is None:
            return ask.count
        return 0 if not amount or room is None else max(0, min(ask.count, room * ask.count // amount))

    def reserve(self, ask: Ask, now: float) -> Refusal | None:
        """Reserve money for what is sent next, or return why it must not be sent.

        What ``changes`` gives afterwards has to be durable before it is sent.
        """
        amount = self.ask_picousd(ask, now)
        found = self._refusal(ask, amount, now)
        if found is not None:
            return found
        amount = amount or 0
        self.budget.reserve(
            Hold(
                id=ask.id,
                day=day_of(now),
                route=ask.route,
                reserved_picousd=amount,
                double_picousd=_share(amount, ask) or 0,
                doubles=ask.doubles,
            ),
            lasting=ask.lasting,
        )
        return None

    def adopt(self, hold_id: str, route: str, now: float) -> None:
        """Open a hold for a job that nothing was reserved for (found on the server): all that it costs is overrun."""
        if not self.budget.has(hold_id):
            self.budget.reserve(Hold(id=hold_id, day=day_of(now), route=route, reserved_picousd=0), lasting=True)

    # -- after

    def begin(self, hold_id: str) -> None:
        """Begin to read the answers of a job: what was booked under its hold before is forgotten.

        A job's output is priced whole each time it is read, also what was answered before a break or a crash; what
        counts is the reading that ends. So every answer is paid for once in the account, whatever happens between.
        """
        self.budget.begin(hold_id)
        self._read[hold_id] = _Reading()

    def book(  # noqa: PLR0917 - once a block, by position
        self, route: str, model: str, charge: Charge, now: float, hold_id: str = "", again: Charge = NO_CHARGE
    ) -> None:
        """Book answers, under what was reserved for them if anything was.

        Args:
            route: that answered.
            model: that answered.
            charge: what its meter gave for answers that are new: they are in this client's receipt.
            now: the time.
            hold_id: of the ``Ask``.
            again: the same for answers of the hold that were settled by an earlier reading of the output.
        """
        totals = _totals(charge)
        self._count(route, totals)
        self.habits.saw_outputs(model, charge.outputs)
        totals.add(_totals(again))
        reading = self._read.get(hold_id)
        if reading is not None:
            reading.add(charge)
            reading.add(again)
        if totals.requests:
            self.budget.settle(hold_id, now, route, totals)

    def learn(self, hold_id: str, model: str, count: int, estimated: int) -> None:
        """Learn from a job that ends how far its input estimate was off, if every answer came and told its tokens.

        Args:
            hold_id: of the ``Ask``.
            model: that answered.
            count: requests in the job.
            estimated: input tokens, as they were estimated of all of them.
        """
        reading = self._read.get(hold_id)
        if reading is not None and reading.answers == count and not reading.unknown:
            self.habits.saw_input(model, estimated, reading.prompt)

    def close(self, hold_id: str, *, known: bool = True) -> None:
        """End what was reserved: give back what was not spent.

        Args:
            hold_id: of the ``Ask``.
            known: whether everything that it paid for has told what it cost: a job read to its end, a call that was
                answered or refused. If not (lost, cut off, given up), all of it counts as spent.
        """
        self._read.pop(hold_id, None)
        self.budget.close(hold_id, known=known)

    def found_twins(self, count: int, now: float) -> None:
        """Count jobs that the server made twice. What their answers cost is in no account: nobody reads them."""
        if count:
            self.twins += count
            self.budget.count_doubles(now, count)

    def _count(self, route: str, totals: Totals) -> None:
        self._accounts.setdefault(route, Totals()).add(totals)

    # -- receipts

    def receipt(self) -> Receipt:
        """Return the account of this client since it was opened."""
        return _receipt(self._accounts, self._extra().less(self._before))

    def receipt_of(self, first_day: int, last_day: int) -> Receipt:
        """Return the account of some UTC days (days since 1970-01-01), of all processes that used this slot.

        A job's answers are on the account of the day on which it was sent.
        """
        days = self.budget.days()
        return receipt_of_days(self.budget.account(day) for day in days if first_day <= day <= last_day)


def receipt_of_days(accounts: Iterable[DayAccount]) -> Receipt:
    """Return the receipt of some days: their sums."""
    days = list(accounts)
    routes: dict[str, Totals] = {}
    for account in days:
        for route, totals in account.routes.items():
            routes.setdefault(route, Totals()).add(totals)
    return _receipt(routes, Extra.of(days))


def _receipt(routes: Mapping[str, Totals], extra: Extra) -> Receipt:
    return Receipt(
        by_route={
            route: RouteTotals(
                requests=totals.requests,
                list_usd=_decimal(totals.list_picousd),
                paid_usd=_decimal(totals.paid_picousd),
            )
            for route, totals in routes.items()
        },
        doubles=extra.doubles,
        overrun_usd=_decimal(extra.overrun_picousd),
        unknown_cost=sum(totals.unknown for totals in routes.values()),
        double_usd=_decimal(extra.double_picousd),
        lost_usd=_decimal(extra.lost_picousd),
    )


def _totals(charge: Charge) -> Totals:
    return Totals(
        requests=charge.answers,
        unknown=charge.unknown,
        list_picousd=charge.list_picousd,
        paid_picousd=charge.paid_picousd,
    )


def expected_output_bytes(lane: Lane, count: int) -> int:
    """Return how many bytes of answers a batch is expected to give."""
    if lane.kind == "embed":
        return _EMBED_OUTPUT_BYTES * count
    return (_IMAGE_OUTPUT_BYTES if "image" in lane.model else _TEXT_OUTPUT_BYTES) * count


def _unpriced_limit(ceilings: Ceilings, route: str) -> str:
    return "budget_per_day_usd" if ceilings.all_picousd is not None or route != "standard" else "full_price_per_day_usd"


def _share(amount: int, ask: Ask) -> int | None:
    """Return the share of doubles in an amount, rounded up; ``None``: there are none."""
    return -(-amount * ask.doubles // ask.count) if ask.doubles else None


def _decimal(picousd: int) -> Decimal:
    return Decimal(picousd) / PICO


def _usd(picousd: int) -> str:
    return f"${_decimal(picousd):.6f}"
