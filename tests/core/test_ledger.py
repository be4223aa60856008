"""Tokens become money in whole pico-dollars; what has no price is never guessed."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carpool._core.ledger import OUTPUT_TOKENS_GUESS, Ledger, expected_output_bytes
from carpool._core.model import Lane, Tokens
from carpool.settings import Price

FLASH = Lane("generate", "gemini-2.5-flash")
PRICES = {"mine": Price(input_usd=Decimal("0.000001"), output_usd=Decimal(3))}


def test_a_batch_costs_half_the_list_price() -> None:
    ledger = Ledger({})
    ledger.settle("batch", FLASH.model, Tokens(2, 0, 1_000_000, 100_000))
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
        ledger.settle("standard", "mine", tokens)
    receipt = ledger.receipt()
    listed = sum(tokens.prompt + 3_000_000 * tokens.output for tokens in answers)
    assert receipt.list_usd == receipt.paid_usd == Decimal(listed) / 10**12
    assert receipt.requests == sum(tokens.answers for tokens in answers)


def test_answers_without_a_price_or_a_count_are_unknown_cost() -> None:
    ledger = Ledger({})
    ledger.settle("batch", "model-without-price", Tokens(3, 1, 100, 100))
    ledger.settle("batch", FLASH.model, Tokens(2, 1, 0, 0))
    receipt = ledger.receipt()
    assert (receipt.unknown_cost, receipt.requests, receipt.list_usd) == (4, 5, Decimal(0))


def test_prices_given_replace_bundled_ones() -> None:
    ledger = Ledger({"gemini-2.5-flash": PRICES["mine"]})
    rate = ledger.rate("gemini-2.5-flash")
    assert rate is not None
    assert (rate.input_picousd, rate.output_picousd) == (1, 3_000_000)
    assert ledger.rate("model-without-price") is None


def test_a_batch_is_expected_to_cost_its_input_and_a_guess_of_output() -> None:
    ledger = Ledger(PRICES)
    both = ledger.expected_picousd(Lane("generate", "mine"), 10, 1_000)
    assert both == (1_000 + 10 * OUTPUT_TOKENS_GUESS * 3_000_000) // 2
    assert ledger.expected_picousd(Lane("embed", "mine"), 10, 1_000) == 500
    assert ledger.expected_picousd(Lane("embed", "model-without-price"), 1, 1) is None


def test_vectors_text_and_images_have_their_own_expected_sizes() -> None:
    text, vectors = expected_output_bytes(FLASH, 10), expected_output_bytes(Lane("embed", "x"), 10)
    images = expected_output_bytes(Lane("generate", "gemini-2.5-flash-image"), 10)
    assert text < vectors < images


PICO_USD: dict[str, tuple[int, int]] = {"mine": (1, 3_000_000), FLASH.model: (300_000, 2_500_000)}
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
        self.ledger.settle(route, model, tokens)
        self.booked.append((route, model, tokens))

    @rule(count=st.integers(1, 3))
    def double(self, count: int) -> None:
        self.ledger.doubles += count
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
