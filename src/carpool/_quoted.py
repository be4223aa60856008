"""What a quote says, as data.

Owns the shape of it. It must not know how anything is reckoned.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from carpool.settings import Ladder, Route
from carpool.types import Kind


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, or seconds: one time in ten less, in the middle, one time in ten more."""

    p10: int
    p50: int
    p90: int


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """The same in USD."""

    p10_usd: Decimal
    p50_usd: Decimal
    p90_usd: Decimal


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How requests would go down a ladder."""

    ladder: Ladder
    begins: Route
    """The rung on which they would begin now."""
    money: Money | None
    """From the cheapest to the dearest rung from there on, and what may be paid twice; ``None``: it is not known."""


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What some requests are expected to take and to cost."""

    model: str
    kind: Kind
    rows: int
    input_tokens: Span
    output_tokens: Span
    batches: int
    """Jobs, if all of it is sent at once."""
    inline: int
    """Of the batches: those that go inside their create call; the others go as files."""
    size_bytes: int
    """Of the rows on the wire."""
    money: dict[str, Money] | None
    """By route; the standard one costs the list price. Embeddings have no flex. ``None``: the price is not known."""
    rounds: int
    """How many batches have to follow each other, since there may be only so many jobs or tokens at once."""
    time_s: dict[str, Span]
    """By route: from sending to the last answer on the batch route, of one call on the others."""
    way: Way
    basis: dict[str, str]
    """What each part rests on."""


def quote_data(quote: Quote) -> dict[str, Any]:
    """Return a quote as plain data."""
    data: dict[str, Any] = msgspec.to_builtins(quote, builtin_types=(Decimal,))
    return data
