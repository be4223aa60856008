"""List prices of models, as dated data, and what they make of one answer's token counts: integer pico-dollars.

Owns the table, and the rules of billing: thinking is output, long prompts have their own prices, cached input its own,
sound and pictures theirs, searches a fee. It must not know where counts come from. What has no price is ``None``.

The figures are list prices of the Gemini Developer API in USD, as of ``PRICES_AS_OF``: litellm 1.109.1's price map,
compared with two other published lists of October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_UP, Decimal
from typing import Final, NamedTuple

import msgspec

from carpool.settings import Price
from carpool.types import PICO

PRICES_AS_OF: Final = "2026-11-20"
PRICES_SOURCE: Final = "list prices of the Gemini Developer API as of 2026-11-20 (litellm 1.109.1's price map)"
PAID_PERCENT: Final[dict[str, int]] = {"batch": 50, "flex": 50, "standard": 100}
"""What a route costs of the list price where a model's price does not say otherwise."""
_PROMO_ENDS_AT: Final = 1_798_761_600.0
"""2027-01-01 in UTC: the promotional prices of some models end."""
_NEVER: Final = float("inf")


class Spent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Token counts of one answer, sorted by what they cost."""

    prompt: int
    """All input but what tools added: text, media, and what of it was cached."""
    output: int = 0
    """All output, thinking included."""
    cached: int = 0
    """Of the prompt."""
    audio: int = 0
    """Of the prompt."""
    image: int = 0
    """Of the prompt."""
    video: int = 0
    """Of the prompt."""
    other: int = 0
    """Of the prompt: documents, and what this version does not know."""
    cached_audio: int = 0
    """Of what was cached."""
    cached_media: int = 0
    """Of what was cached: pictures, video and others."""
    image_output: int = 0
    """Of the output."""
    tool_use: int = 0
    """Input that tools added, such as pages that were read; what a search found is not billed, and not in it."""
    queries: int = 0
    """Different search queries."""


class Cost(NamedTuple):
    """What an answer costs."""

    list_picousd: int
    """On the standard route."""
    paid_picousd: int
    """On its own."""


class Tier(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Pico-dollars of a token, by what it is, on one route and for one length of prompt. -1: not known."""

    input: int
    output: int
    cached: int
    audio: int
    cached_audio: int
    image: int
    video: int
    image_output: int

    def picousd(self, spent: Spent) -> int | None:
        """Return what tokens cost, fees aside; ``None``: something among them has no price."""
        if spent.cached and self.cached < 0:
            return None
        uniform = self.image == self.video == self.input
        if not uniform and (spent.cached_media or spent.other):
            return None
        media = 0 if uniform else spent.image + spent.video
        sound = spent.audio - spent.cached_audio
        text = spent.prompt - spent.cached - sound - media
        total = (text + spent.tool_use) * self.input + sound * self.audio
        total += (spent.cached - spent.cached_audio) * self.cached + spent.cached_audio * self.cached_audio
        if media:
            total += spent.image * self.image + spent.video * self.video
        return total + (spent.output - spent.image_output) * self.output + spent.image_output * self.image_output


class Rate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Prices of one model, ready to be multiplied."""

    standard: Tier
    batch: Tier
    """Of the flex route as well."""
    standard_long: Tier
    batch_long: Tier
    long_from_tokens: int
    """Longest prompt of the short price."""
    search_picousd: int
    """Fee; -1: not known."""
    search_per_query: bool
    batch_percent: int
    until: float = _NEVER
    """When these prices end."""

    @property
    def input_picousd(self) -> int:
        """List price of one token of a short prompt."""
        return self.standard.input

    @property
    def output_picousd(self) -> int:
        """List price of one token of output."""
        return self.standard.output

    @property
    def by_kind(self) -> bool:
        """Whether pictures or video in the input have prices of their own, so that a bare sum says too little."""
        return not self.standard.image == self.standard.video == self.standard.input

    @property
    def one_price(self) -> bool:
        """Whether all kinds of input cost the same, and all kinds of output."""
        tier = self.standard
        return tier.input == tier.audio == tier.image == tier.video and tier.output == tier.image_output

    def tier(self, route: str, *, long: bool = False) -> Tier:
        """Return the prices of one route."""
        if route == "standard":
            return self.standard_long if long else self.standard
        return self.batch_long if long else self.batch

    def plain(self, route: str, prompt: int, output: int) -> Cost:
        """Return what text costs: short prompts in, text and thoughts out, of one answer or the sums of many."""
        listed, paid = self.standard, self.tier(route)
        return Cost(prompt * listed.input + output * listed.output, prompt * paid.input + output * paid.output)

    def cost(self, route: str, spent: Spent) -> Cost | None:
        """Return what one answer costs; ``None``: something in it has no price."""
        long = spent.prompt > self.long_from_tokens
        listed = self.tier("standard", long=long).picousd(spent)
        paid = self.tier(route, long=long).picousd(spent)
        if listed is None or paid is None:
            return None
        fee = 0
        if spent.queries:
            if self.search_picousd < 0:
                return None
            fee = self.search_picousd * (spent.queries if self.search_per_query else 1)
        return Cost(listed + fee, paid + fee)


def rate_of(price: Price, until: float = _NEVER) -> Rate:
    """Return the rate of a price. What is finer than a pico-dollar a token is rounded up."""
    long = price.long or price
    return Rate(
        standard=_standard(price),
        batch=_batch(price, price.batch_percent),
        standard_long=_standard(long),
        batch_long=_batch(long, price.batch_percent),
        long_from_tokens=price.long_from_tokens if price.long else 2**62,
        search_picousd=-1 if price.search_usd is None else _ceil(price.search_usd * PICO),
        search_per_query=price.search_per == "query",
        batch_percent=price.batch_percent,
        until=until,
    )


def _standard(price: Price) -> Tier:
    cached = _pico(price.cached_usd)
    return Tier(
        input=_pico(price.input_usd),
        output=_pico(price.output_usd),
        cached=cached,
        audio=_pico(price.audio_usd, price.input_usd),
        cached_audio=_pico(price.cached_audio_usd, price.cached_usd),
        image=_pico(price.image_usd, price.input_usd),
        video=_pico(price.video_usd, price.input_usd),
        image_output=_pico(price.image_output_usd, price.output_usd),
    )


def _batch(price: Price, percent: int) -> Tier:
    share = Decimal(percent) / 100
    return Tier(
        input=_pico(price.input_usd * share),
        output=_pico(price.output_usd * share),
        cached=_pico(price.batch_cached_usd),
        audio=_pico((price.input_usd if price.audio_usd is None else price.audio_usd) * share),
        cached_audio=_pico(price.batch_cached_audio_usd, price.batch_cached_usd),
        image=_pico((price.input_usd if price.image_usd is None else price.image_usd) * share),
        video=_pico((price.input_usd if price.video_usd is None else price.video_usd) * share),
        image_output=_pico((price.output_usd if price.image_output_usd is None else price.image_output_usd) * share),
    )


def _pico(usd_per_million: Decimal | None, otherwise: Decimal | None = None) -> int:
    """Return pico-dollars a token; -1: not known."""
    usd = otherwise if usd_per_million is None else usd_per_million
    return -1 if usd is None else _ceil(usd * (PICO // 1_000_000))


def _ceil(value: Decimal) -> int:
    return int(Decimal(value).to_integral_value(rounding=ROUND_UP))


class Prices:
    """Rates by model: the bundled list prices, with the user's over them.

    Args:
        overrides: the user's.
    """

    def __init__(self, overrides: Mapping[str, Price]) -> None:
        self._rates: dict[str, Rate] = {}
        for model, price in BUNDLED.items():
            promo = model in _PROMO
            self._rates[model] = rate_of(price, _PROMO_ENDS_AT if promo else _NEVER)
        for model, price in overrides.items():
            self._rates[model.removeprefix("models/")] = rate_of(price)
        self._later = {model: rate_of(price) for model, price in _AFTER_PROMO.items() if model not in overrides}

    def rate(self, model: str, now: float = 0.0) -> Rate | None:
        """Return a model's rate; ``None``: not known, or known only for a time that is over."""
        rate = self._rates.get(model)
        if rate is None or now < rate.until:
            return rate
        return self._later.get(model)


def _price(usd_in: str, usd_out: str, *cached: str, **more: str) -> Price:
    """Return a price of the table: input, output, cached input (standard, batch), and what else there is."""
    standard, batch = (*cached, None, None)[:2]
    generation = more.pop("search", "")
    short = Price(
        input_usd=Decimal(usd_in),
        output_usd=Decimal(usd_out),
        cached_usd=None if standard is None else Decimal(standard),
        batch_cached_usd=None if batch is None else Decimal(batch),
        search_usd={"2": Decimal("0.035"), "3": Decimal("0.014")}.get(generation),
        search_per="prompt" if generation == "2" else "query",
    )
    return msgspec.structs.replace(short, **{f"{name}_usd": Decimal(value) for name, value in more.items()})


def _with_long(short: Price, long: Price) -> Price:
    return msgspec.structs.replace(short, long=long)


_GEMINI_3_1_PRO: Final = _with_long(_price("2", "12", ".20", ".20", search="3"), _price("4", "18", ".40", ".40"))
_GEMINI_3_PRO_IMAGE: Final = _price("2", "12", image_output="120", search="3")
_GEMINI_3_1_FLASH_IMAGE: Final = _price(".50", "3", image_output="60", search="3")
_GEMINI_3_1_FLASH_LITE: Final = _price(
    ".25", "1.50", ".025", ".0125", audio=".50", cached_audio=".05", batch_cached_audio=".025", search="3"
)
_PROMO_FLASH: Final = _price(".75", "3.75", ".075", ".0375", search="3")
_GEMINI_EMBEDDING_2: Final = _price(".20", "0", image=".45", audio="6.50", video="12")

BUNDLED: Final[dict[str, Price]] = {
    "gemini-2.5-pro": _with_long(_price("1.25", "10", ".125", ".125", search="2"), _price("2.50", "15", ".25", ".25")),
    "gemini-2.5-flash": _price(
        ".30", "2.50", ".03", ".03", audio="1", cached_audio=".10", batch_cached_audio=".10", search="2"
    ),
    "gemini-2.5-flash-lite": _price(
        ".10", ".40", ".01", ".01", audio=".30", cached_audio=".03", batch_cached_audio=".03", search="2"
    ),
    "gemini-2.5-flash-image": _price(".30", "2.50", ".03", ".03", audio="1", image_output="30", search="2"),
    "gemini-2.5-flash-preview-tts": _price(".50", "10"),
    "gemini-2.5-pro-preview-tts": _price("1", "20"),
    "gemini-3-flash-preview": _price(
        ".50", "3", ".05", ".05", audio="1", cached_audio=".10", batch_cached_audio=".10", search="3"
    ),
    "gemini-3-pro-image": _GEMINI_3_PRO_IMAGE,
    "gemini-3-pro-image-preview": _GEMINI_3_PRO_IMAGE,
    "gemini-3.1-pro-preview": _GEMINI_3_1_PRO,
    "gemini-3.1-pro-preview-customtools": _GEMINI_3_1_PRO,
    "gemini-3.1-flash-lite": _GEMINI_3_1_FLASH_LITE,
    "gemini-3.1-flash-lite-preview": _GEMINI_3_1_FLASH_LITE,
    "gemini-3.1-flash-image": _GEMINI_3_1_FLASH_IMAGE,
    "gemini-3.1-flash-image-preview": _GEMINI_3_1_FLASH_IMAGE,
    "gemini-3.1-flash-lite-image": _price(".25", "1.50", image_output="30"),
    "gemini-3.5-flash": _price("1.50", "9", ".15", ".075", search="3"),
    "gemini-3.5-flash-lite": _price(".30", "2.50", ".03", ".02", search="3"),
    "gemini-3.6-flash": _PROMO_FLASH,
    "gemini-3.7-flash": _PROMO_FLASH,
    "gemini-3.8-flash": _PROMO_FLASH,
    "gemini-4-argon": _price("2", "10", ".10", ".05", search="3"),
    "gemini-embedding-001": _price(".15", "0"),
    "gemini-embedding-2": _GEMINI_EMBEDDING_2,
    "gemini-embedding-2-preview": _GEMINI_EMBEDDING_2,
}
"""By model. Cached input of the generations 2.5 and 3 costs in a batch what it costs live; later ones halve it."""
_PROMO: Final = frozenset({"gemini-3.6-flash", "gemini-3.7-flash", "gemini-3.8-flash"})
_AFTER_PROMO: Final[dict[str, Price]] = {"gemini-3.8-flash": _price("1.50", "7.50", search="3")}
