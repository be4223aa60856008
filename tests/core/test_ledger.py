"""Tokens become money in whole pico-dollars; what has no price is never guessed."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

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
