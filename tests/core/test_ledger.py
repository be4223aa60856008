"""Answers become receipts in whole pico-dollars; what has no price is never guessed."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carpool._core.budget import DAYS_KEPT, Ceilings, day_of
from carpool._core.estimate import GUESS, LEARNED_FROM
from carpool._core.ledger import OUTPUT_TOKENS_GUESS, Ask, Ledger, Refusal, expected_output_bytes
from carpool._core.meter import Charge
from carpool._core.model import Lane
from carpool.settings import Price, Settings

DAY = 86_400.0
NOW = 1_795_219_200.0
FLASH = Lane("generate", "gemini-2.5-flash")
MINE = Lane("generate", "mine")
NOBODYS = Lane("generate", "model-without-price")
PRICES = {"mine": Price(input_usd=Decimal("0.000002"), output_usd=Decimal(3))}


def ask(lane: Lane = MINE, route: str = "batch", tokens: int = 1_000_000, **more: object) -> Ask:
    fields = {"id": "a", "count": 1, "caps": {100: 1}} | more
    return Ask(lane=lane, route=route, input_tokens=tokens, **fields)  # type: ignore[arg-type]


class Tokens(NamedTuple):
    """Sums over some answers."""

    answers: int
    uncounted: int
    prompt: int
    output: int


def settle(ledger: Ledger, route: str, model: str, tokens: Tokens) -> None:
    """Book answers, priced as the ledger has it."""
    rate = ledger.rate(model)
    if rate is None:
        ledger.book(route, model, Charge(answers=tokens.answers, unknown=tokens.answers), NOW)
        return
    cost = rate.plain(route, tokens.prompt, tokens.output)
    charge = Charge(
        answers=tokens.answers,
        unknown=tokens.uncounted,
        list_picousd=cost.list_picousd,
        paid_picousd=cost.paid_picousd,
    )
    ledger.book(route, model, charge, NOW)


# -- sums


def test_a_batch_costs_half_the_list_price() -> None:
    ledger = Ledger({})
    settle(ledger, "batch", FLASH.model, Tokens(2, 0, 1_000_000, 100_000))
    receipt = ledger.receipt()
    totals = receipt.by_route["batch"]
    assert (totals.requests, totals.list_usd, totals.paid_usd) == (2, Decimal("0.55"), Decimal("0.275"))
    assert (receipt.unknown_cost, receipt.doubles) == (0, 0)


@given(
    st.lists(st.builds(Tokens, st.integers(0, 9), st.just(0), st.integers(0, 10**7), st.integers(0, 10**7)), max_size=9)
)
def test_the_account_is_the_sum_of_what_was_settled(answers: list[Tokens]) -> None:
    ledger = Ledger(PRICES)
    for tokens in answers:
        settle(ledger, "standard", "mine", tokens)
    receipt = ledger.receipt()
    listed = sum(2 * tokens.prompt + 3_000_000 * tokens.output for tokens in answers)
    assert receipt.list_usd == receipt.paid_usd == Decimal(listed) / 10**12
    assert receipt.requests == sum(tokens.answers for tokens in answers)


def test_answers_without_a_price_or_a_count_are_unknown_cost() -> None:
    ledger = Ledger({})
    settle(ledger, "batch", NOBODYS.model, Tokens(3, 1, 100, 100))
    settle(ledger, "batch", FLASH.model, Tokens(2, 1, 0, 0))
    receipt = ledger.receipt()
    assert (receipt.unknown_cost, receipt.requests, receipt.list_usd) == (4, 5, Decimal(0))


def test_prices_given_replace_bundled_ones() -> None:
    ledger = Ledger({"gemini-2.5-flash": PRICES["mine"]})
    rate = ledger.rate("gemini-2.5-flash")
    assert rate is not None
    assert (rate.input_picousd, rate.output_picousd) == (2, 3_000_000)
    assert ledger.rate("model-without-price") is None


def test_a_batch_is_expected_to_cost_its_input_and_a_guess_of_output() -> None:
    ledger = Ledger(PRICES)
    both = ledger.expected_picousd(MINE, 10, 1_000)
    assert both == (2 * 1_000 + 10 * OUTPUT_TOKENS_GUESS * 3_000_000) // 2
    assert ledger.expected_picousd(Lane("embed", "mine"), 10, 1_000) == 1_000
    assert ledger.expected_picousd(Lane("embed", "model-without-price"), 1, 1) is None


def test_vectors_text_and_images_have_their_own_expected_sizes() -> None:
    text, vectors = expected_output_bytes(FLASH, 10), expected_output_bytes(Lane("embed", "x"), 10)
    images = expected_output_bytes(Lane("generate", "gemini-2.5-flash-image"), 10)
    assert text < vectors < images


# -- what is reserved


def test_reserved_is_the_input_and_the_lesser_of_cap_and_usual_length() -> None:
    ledger = Ledger(PRICES)
    half = 1_500_000
    assert ledger.ask_picousd(ask(), NOW) == 1_000_000 + 100 * half
    assert ledger.ask_picousd(ask(caps={}), NOW) == 1_000_000 + GUESS.p95 * half
    assert ledger.ask_picousd(ask(route="standard"), NOW) == 2_000_000 + 200 * half
    assert ledger.ask_picousd(ask(lane=Lane("embed", "mine")), NOW) == 1_000_000
    assert ledger.ask_picousd(ask(lane=NOBODYS), NOW) is None
    ledger.habits.saw_outputs("mine", [7] * LEARNED_FROM)
    ledger.habits.saw_input("mine", 10, 30)
    assert ledger.ask_picousd(ask(caps={}), NOW) == 3_000_000 + 7 * half


def test_long_prompts_pictures_and_media_are_reserved_at_their_own_prices() -> None:
    ledger = Ledger({})
    pro = Lane("generate", "gemini-2.5-pro")
    assert ledger.ask_picousd(ask(pro, tokens=400_000, count=2, caps={1: 2}), NOW) == 400_000 * 625_000 + 2 * 5_000_000
    assert ledger.ask_picousd(ask(pro, tokens=400_002, count=2, caps={1: 2}), NOW) == 400_002 * 1_250_000 + 15_000_000
    image = Lane("generate", "gemini-2.5-flash-image")
    assert ledger.ask_picousd(ask(image, tokens=0, caps={}), NOW) == 2_520 * 15_000_000
    embed = Lane("embed", "gemini-embedding-2")
    assert ledger.ask_picousd(ask(embed, tokens=10, searches=1), NOW) == 10 * 6_000_000
    assert ledger.ask_picousd(ask(embed, tokens=10), NOW) == 10 * 100_000


def test_the_fee_of_searches_is_reserved_with_the_rest() -> None:
    ledger = Ledger.of(Settings(prices=PRICES, budget_per_day_usd=Decimal(1)))
    cheap, old, new = ask(tokens=0, count=2), Lane("generate", "gemini-2.5-flash"), Lane("generate", "gemini-3.5-flash")
    for lane, fee in ((old, 2 * 35 * 10**9), (new, 2 * 3 * 14 * 10**9)):
        plain = ledger.ask_picousd(ask(lane, tokens=0, count=2), NOW)
        assert plain is not None
        assert ledger.ask_picousd(ask(lane, tokens=0, count=2, searches=2), NOW) == plain + fee
    assert ledger.ask_picousd(cheap, NOW) is not None
    refusal = ledger.refusal(ask(tokens=0, count=2, searches=1), NOW)
    assert refusal is not None
    assert "or of its searches is not known" in refusal.message


def test_without_limits_anything_may_be_sent_but_what_is_sent_twice() -> None:
    ledger = Ledger.of(Settings(prices=PRICES))
    assert ledger.refusal(ask(tokens=10**18), NOW) is None
    assert ledger.refusal(ask(NOBODYS), NOW) is None
    assert ledger.affordable(ask(tokens=10**18, count=5), NOW) == 5
    twice = ledger.refusal(ask(tokens=10**18, doubles=1), NOW)
    assert twice is not None
    assert twice.setting == "max_double_cost_per_day_usd"
    unknown = ledger.reserve(ask(NOBODYS, doubles=1), NOW)
    assert unknown is not None
    assert (unknown.setting, "Settings.prices" in unknown.message) == ("max_double_cost_per_day_usd", True)


def test_nothing_is_sent_twice_where_it_is_forbidden() -> None:
    ledger = Ledger.of(Settings(prices=PRICES, max_double_cost_per_day_usd=Decimal(0)))
    free = ask(lane=Lane("embed", "mine"), tokens=0, doubles=1)
    assert isinstance(ledger.reserve(free, NOW), Refusal)
    assert ledger.reserve(ask(lane=Lane("embed", "mine"), tokens=0), NOW) is None
    assert ledger.receipt().doubles == 0


@pytest.mark.parametrize(
    ("settings", "route", "refused"),
    [
        ({"budget_per_day_usd": 1}, "batch", "budget_per_day_usd"),
        ({"budget_per_day_usd": 1}, "flex", "budget_per_day_usd"),
        ({"budget_per_day_usd": 1}, "standard", "budget_per_day_usd"),
        ({"full_price_per_day_usd": 1}, "batch", None),
        ({"full_price_per_day_usd": 1}, "flex", None),
        ({"full_price_per_day_usd": 1}, "standard", "full_price_per_day_usd"),
        ({"full_price_per_day_usd": 1, "budget_per_day_usd": 2}, "standard", "budget_per_day_usd"),
        ({}, "standard", None),
    ],
)
def test_ceilings_hold_for_their_routes(settings: dict[str, int], route: str, refused: str | None) -> None:
    ledger = Ledger.of(Settings(prices=PRICES, **{name: Decimal(usd) for name, usd in settings.items()}))
    for lane, tokens in ((MINE, 10**12), (NOBODYS, 1)):
        refusal = ledger.reserve(ask(lane, route, tokens, id=lane.model), NOW)
        assert (refusal and refusal.setting) == refused
        if refusal is not None:
            assert f"Settings.{refused}" in refusal.message
            assert "Nothing was sent" in refusal.message


def test_a_ceiling_may_be_reached_and_says_how_much_is_left() -> None:
    ledger = Ledger.of(Settings(prices=PRICES, budget_per_day_usd=Decimal("0.00001")))
    embed = Lane("embed", "mine")
    most = ask(embed, tokens=9_999_998, count=2)
    assert ledger.reserve(most, NOW) is None
    again = ask(embed, tokens=10, count=5, id="b")
    assert ledger.affordable(again, NOW) == 1
    refusal = ledger.reserve(again, NOW)
    assert refusal is not None
    assert "may cost up to $0.000000" in refusal.message
    assert ledger.affordable(ask(NOBODYS, id="b"), NOW) == 0
    assert isinstance(ledger.reserve(ask(embed, tokens=3, id="c"), NOW), Refusal)
    assert ledger.reserve(ask(embed, tokens=2, id="c"), NOW) is None
    assert isinstance(ledger.reserve(ask(embed, tokens=1, id="d"), NOW), Refusal)
    assert ledger.reserve(again, NOW + DAY) is None, "the next day has its own money"


# -- receipts


def test_a_ledger_gives_the_meter_of_a_lane() -> None:
    ledger = Ledger(PRICES)
    row = b'{"tokenCount":"12","embedding":{"values":[0.5]}}'
    new = Lane("embed", "gemini-embedding-2")
    assert ledger.meter("batch", Lane("embed", "gemini-embedding-001"), NOW).charge([row]).paid_picousd == 12 * 75_000
    assert ledger.meter("batch", new, NOW).charge([row]).unknown == 1
    assert ledger.meter("batch", new, NOW, text_only=True).charge([row]).paid_picousd == 12 * 100_000
    assert ledger.meter("batch", NOBODYS, NOW).charge([row]).unknown == 1
    assert ledger.meter("batch", Lane("generate", "gemini-3.7-flash"), 2e9).charge([row]).unknown == 1


def test_a_double_is_seen_with_what_it_cost() -> None:
    ledger = Ledger.of(Settings(prices=PRICES))
    both = ask(Lane("embed", "mine"), "standard", tokens=1_000, count=10, doubles=5, lasting=False)
    assert ledger.reserve(both, NOW) is None
    charge = Charge(answers=10, list_picousd=2_001, paid_picousd=2_001, prompt=1_000)
    ledger.book("standard", "mine", charge, NOW, "a")
    ledger.close("a")
    receipt = ledger.receipt()
    assert (receipt.doubles, receipt.double_usd) == (5, Decimal(1_001) / 10**12)
    assert receipt.overrun_usd == Decimal(1) / 10**12
    assert receipt == ledger.receipt_of(day_of(NOW), day_of(NOW))
    ledger.found_twins(2, NOW)
    assert ledger.receipt().doubles == 7


def test_a_days_receipt_outlives_the_process_and_is_not_the_next_clients_own() -> None:
    first = Ledger.of(Settings(prices=PRICES))
    embed, today = Lane("embed", "mine"), day_of(NOW)
    for name in ("read", "being read"):
        first.reserve(ask(embed, tokens=10, id=name), NOW)
        charge = Charge(answers=3, unknown=1, list_picousd=30, paid_picousd=15, outputs=(4, 5))
        first.book("batch", "mine", charge, NOW, name)
    first.close("read")
    before = first.receipt_of(today, today)
    assert (before.paid_usd, before.overrun_usd) == (Decimal(30) / 10**12, Decimal(10) / 10**12)
    second = Ledger.of(Settings(prices=PRICES))
    second.restore(first.budget.changes(), first.habits.changes())
    assert second.receipt().requests == 0
    assert second.receipt().overrun_usd == 0
    day = second.receipt_of(today, today)
    assert (day.by_route["batch"].requests, day.paid_usd, day.unknown_cost) == (3, Decimal(15) / 10**12, 1)
    assert day.overrun_usd == Decimal(5) / 10**12
    second.begin("being read")
    second.book("batch", "mine", charge, NOW + 2 * DAY, "being read")
    assert second.receipt().overrun_usd == Decimal(5) / 10**12
    second.close("being read")
    assert second.receipt_of(today, today) == before
    assert second.receipt_of(today + 1, today + 9).requests == 0
    assert second.receipt().paid_usd == Decimal(15) / 10**12
    assert second.habits.lengths("mine").learned == 0


def test_an_output_that_is_read_anew_is_counted_once() -> None:
    ledger = Ledger.of(Settings(prices=PRICES))
    ledger.begin("job")
    assert ledger.receipt().by_route == {}
    ledger.adopt("job", "batch", NOW)
    ledger.adopt("job", "batch", NOW)
    charge = Charge(answers=2, unknown=1, list_picousd=8, paid_picousd=4)
    ledger.begin("job")
    ledger.book("batch", "mine", charge, NOW, "job")
    for _ in range(3):
        ledger.begin("job")
        ledger.book("batch", "mine", Charge(), NOW, "job", charge)
    ledger.close("job")
    receipt = ledger.receipt()
    assert receipt == ledger.receipt_of(day_of(NOW), day_of(NOW))
    assert (receipt.requests, receipt.unknown_cost, receipt.paid_usd) == (2, 1, Decimal(4) / 10**12)
    assert receipt.overrun_usd == receipt.paid_usd, "nothing was reserved for it"


def test_days_are_forgotten_after_a_while_but_not_with_something_open() -> None:
    ledger = Ledger.of(Settings(prices=PRICES))
    embed = Lane("embed", "mine")
    for number, at in enumerate((NOW, NOW + DAY)):
        ledger.reserve(ask(embed, tokens=10, id=str(number)), at)
        ledger.book("batch", "mine", Charge(answers=1, list_picousd=60, paid_picousd=30), at, str(number))
    ledger.close("0")
    before = ledger.receipt()
    assert ledger.forget(NOW + DAYS_KEPT * DAY) == []
    assert ledger.forget(NOW + (DAYS_KEPT + 5) * DAY) == [day_of(NOW)]
    assert ledger.budget.days() == [day_of(NOW) + 1]
    after = ledger.receipt()
    assert (after.overrun_usd, after.paid_usd) == (before.overrun_usd, before.paid_usd)
    assert ledger.budget.account(day_of(NOW)).routes == {}


def test_answers_that_nothing_was_reserved_for_are_overrun() -> None:
    ledger = Ledger.of(Settings(prices=PRICES))
    ledger.book("batch", "mine", Charge(answers=1, list_picousd=60, paid_picousd=30), NOW)
    ledger.book("batch", "mine", Charge(), NOW)
    assert ledger.receipt().overrun_usd == Decimal(30) / 10**12
    assert ledger.budget.committed(day_of(NOW)).all_picousd == 30
    ledger.close("nothing of this name")


def test_what_never_told_its_cost_counts_as_spent_and_is_in_no_sum() -> None:
    for charge, known in ((Charge(answers=2, unknown=1, paid_picousd=4, list_picousd=8), True), (Charge(), False)):
        ledger = Ledger.of(Settings(prices=PRICES))
        ledger.reserve(ask(Lane("embed", "mine"), tokens=10), NOW)
        ledger.book("batch", "mine", charge, NOW, "a")
        ledger.close("a", known=known)
        receipt = ledger.receipt_of(0, day_of(NOW))
        assert receipt.lost_usd == Decimal(10 - charge.paid_picousd) / 10**12
        assert receipt.paid_usd == Decimal(charge.paid_picousd) / 10**12
        assert ledger.budget.committed(day_of(NOW)).all_picousd == 10


def test_the_ceilings_of_settings_are_whole_pico_dollars() -> None:
    given_usd = Settings(budget_per_day_usd=Decimal("1.5"), max_double_cost_per_day_usd=Decimal("0.1"))
    assert Ceilings.of(given_usd) == Ceilings(all_picousd=1_500_000_000_000, full_picousd=None, double_picousd=10**11)
    assert Ceilings.of(Settings()).double_picousd == 10**12


PICO_USD: dict[str, tuple[int, int]] = {"mine": (2, 3_000_000), FLASH.model: (300_000, 2_500_000)}
"""What an input token and an output token cost."""
PERCENT = {"batch": 50, "flex": 50, "standard": 100}


class LedgerMachine(RuleBasedStateMachine):
    """Whatever is booked in whatever order, the account is its sum to the pico-dollar, and no answer is uncounted."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(PRICES)
        self.booked: list[tuple[str, str, Tokens]] = []
        self.doubles = 0

    @rule(
        route=st.sampled_from(sorted(PERCENT)),
        model=st.sampled_from([*PICO_USD, "model-without-price"]),
        tokens=st.builds(
            lambda answers, uncounted, prompt, output: Tokens(answers, min(answers, uncounted), prompt, output),
            st.integers(0, 9),
            st.integers(0, 9),
            st.integers(0, 10**7),
            st.integers(0, 10**7),
        ),
    )
    def settle(self, route: str, model: str, tokens: Tokens) -> None:
        settle(self.ledger, route, model, tokens)
        self.booked.append((route, model, tokens))

    @rule(count=st.integers(1, 3))
    def double(self, count: int) -> None:
        self.ledger.found_twins(count, NOW)
        self.doubles += count

    @invariant()
    def the_receipt_is_the_sum_of_what_was_booked(self) -> None:
        receipt = self.ledger.receipt()
        assert receipt.by_route.keys() == {route for route, _, _ in self.booked}
        for route, totals in receipt.by_route.items():
            mine = [(model, tokens) for other, model, tokens in self.booked if other == route]
            prices = [(PICO_USD[model], tokens) for model, tokens in mine if model in PICO_USD]
            listed = [tokens.prompt * low + tokens.output * high for (low, high), tokens in prices]
            assert totals.requests == sum(tokens.answers for _, tokens in mine)
            assert totals.list_usd == Decimal(sum(listed)) / 10**12
            assert totals.paid_usd == Decimal(sum(one * PERCENT[route] // 100 for one in listed)) / 10**12
            assert totals.paid_usd <= totals.list_usd
        assert receipt.doubles == self.doubles
        assert receipt.unknown_cost == sum(
            tokens.uncounted if model in PICO_USD else tokens.answers for _, model, tokens in self.booked
        )
        assert receipt.unknown_cost <= receipt.requests


TestLedger = LedgerMachine.TestCase
