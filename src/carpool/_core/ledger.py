"""What was answered and what it cost, in integer pico-dollars (1e-12 USD: list prices go below a nano-dollar a token).

Owns the account and the bundled prices. First form: settlement from the server's token counts. A model with price tiers
by prompt length, or with priced media output, counts as unknown: never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from carpool._core.model import Lane, Tokens
from carpool.settings import Price
from carpool.types import PICO, Receipt, RouteTotals

PRICES_AS_OF: Final = "2026-11-20"
PAID_PERCENT: Final[dict[str, int]] = {"batch": 50, "flex": 50, "standard": 100}
OUTPUT_TOKENS_GUESS: Final = 1_024
"""Expected answer tokens of one generate request, until history tells better."""
_EMBED_OUTPUT_BYTES: Final = 40_000
_TEXT_OUTPUT_BYTES: Final = 8_000
_IMAGE_OUTPUT_BYTES: Final = 2_000_000

_USD_PER_MILLION: Final[dict[str, tuple[str, str]]] = {
    "gemini-2.5-flash-lite": ("0.10", "0.40"),
    "gemini-2.5-flash": ("0.30", "2.50"),
    "gemini-3-flash-preview": ("0.50", "3"),
    "gemini-3.1-flash-lite": ("0.25", "1.50"),
    "gemini-3.5-flash": ("1.50", "9"),
    "gemini-3.5-flash-lite": ("0.30", "2.50"),
    "gemini-4-argon": ("2", "10"),
    "gemini-embedding-001": ("0.15", "0"),
}


class Rate(msgspec.Struct, frozen=True, gc=False):
    """List price of a token, in pico-dollars."""

    input_picousd: int
    output_picousd: int


def bundled_rates(overrides: Mapping[str, Price]) -> dict[str, Rate]:
    """Return rates by model: the bundled list prices, overridden by the user's."""
    rates = {model: Rate(_pico(low), _pico(high)) for model, (low, high) in _USD_PER_MILLION.items()}
    for model, price in overrides.items():
        rates[model] = Rate(_pico(price.input_usd), _pico(price.output_usd))
    return rates


def _pico(usd_per_million: str | Decimal) -> int:
    return int(Decimal(usd_per_million) * (PICO // 1_000_000))


class _Account:
    __slots__ = ("list_picousd", "paid_picousd", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.list_picousd = 0
        self.paid_picousd = 0


class Ledger:
    """The account of one client."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._rates = bundled_rates(prices)
        self._accounts: dict[str, _Account] = {}
        self._unknown = 0
        self.doubles = 0

    def rate(self, model: str) -> Rate | None:
        """Return the model's list price; ``None``: not known."""
        return self._rates.get(model)

    def settle(self, route: str, model: str, tokens: Tokens) -> None:
        """Book answers."""
        account = self._accounts.setdefault(route, _Account())
        account.requests += tokens.answers
        rate = self._rates.get(model)
        if rate is None:
            self._unknown += tokens.answers
            return
        self._unknown += tokens.uncounted
        listed = tokens.prompt * rate.input_picousd + tokens.output * rate.output_picousd
        account.list_picousd += listed
        account.paid_picousd += listed * PAID_PERCENT[route] // 100

    def expected_picousd(self, lane: Lane, count: int, tokens: int) -> int | None:
        """Return what a batch is expected to cost on the batch route; ``None``: price not known."""
        rate = self._rates.get(lane.model)
        if rate is None:
            return None
        output = OUTPUT_TOKENS_GUESS * count if lane.kind == "generate" else 0
        listed = tokens * rate.input_picousd + output * rate.output_picousd
        return listed * PAID_PERCENT["batch"] // 100

    def receipt(self) -> Receipt:
        """Return the account as it stands."""
        return Receipt(
            by_route={
                route: RouteTotals(
                    requests=account.requests,
                    list_usd=Decimal(account.list_picousd) / PICO,
                    paid_usd=Decimal(account.paid_picousd) / PICO,
                )
                for route, account in self._accounts.items()
            },
            doubles=self.doubles,
            overrun_usd=Decimal(0),
            unknown_cost=self._unknown,
        )


def expected_output_bytes(lane: Lane, count: int) -> int:
    """Return how many bytes of answers a batch is expected to give."""
    if lane.kind == "embed":
        return _EMBED_OUTPUT_BYTES * count
    return (_IMAGE_OUTPUT_BYTES if "image" in lane.model else _TEXT_OUTPUT_BYTES) * count
