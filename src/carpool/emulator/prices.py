"""What the service would charge for an answer.

Owns the emulator's own list of prices (November 2026, USD per million tokens) and its rules: half of it in batches and
on the flex tier, long prompts dearer, thinking as output, sound and pictures at prices of their own, a fee for
searches. It must not know who asked.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import msgspec

from .fields import as_int, as_list, as_object, as_str
from .messages import JsonObject

# in: input; out: output, thoughts included; sound: sound in the input, cached live, cached in batches (the first alone
# where nothing is cached); see and film: pictures and video in the input; paint: pictures in the output; prompt or
# query: a prompt that searched, or each search; ends: valid until the promotion ends; hot: cached input, live and in
# batches; >200k: in, out and hot for prompts longer than that.
_TABLE: Final = """
gemini-2.5-pro                      in 1.25 out 10   hot .125 .125  >200k 2.50 15 .25 .25  prompt .035
gemini-2.5-flash                    in .30  out 2.50 hot .03 .03    sound 1.00 .10 .10     prompt .035
gemini-2.5-flash-lite               in .10  out .40  hot .01 .01    sound .30 .03 .03      prompt .035
gemini-2.5-flash-image              in .30  out 2.50 hot .03 .03    sound 1.00 .03 .03     paint 30 prompt .035
gemini-2.5-flash-preview-tts        in .50  out 10
gemini-2.5-pro-preview-tts          in 1    out 20
gemini-3-flash-preview              in .50  out 3    hot .05 .05    sound 1.00 .10 .10     query .014
gemini-3-pro-image                  in 2    out 12   paint 120      query .014
gemini-3-pro-image-preview          in 2    out 12   paint 120      query .014
gemini-3.1-pro-preview              in 2    out 12   hot .20 .20    >200k 4 18 .40 .40     query .014
gemini-3.1-pro-preview-customtools  in 2    out 12   hot .20 .20    >200k 4 18 .40 .40     query .014
gemini-3.1-flash-lite               in .25  out 1.50 hot .025 .0125 sound .50 .05 .025     query .014
gemini-3.1-flash-lite-preview       in .25  out 1.50 hot .025 .0125 sound .50 .05 .025     query .014
gemini-3.1-flash-image              in .50  out 3    paint 60       query .014
gemini-3.1-flash-image-preview      in .50  out 3    paint 60       query .014
gemini-3.1-flash-lite-image         in .25  out 1.50 paint 30
gemini-3.5-flash                    in 1.50 out 9    hot .15 .075   query .014
gemini-3.5-flash-lite               in .30  out 2.50 hot .03 .02    query .014
gemini-3.6-flash                    in .75  out 3.75 hot .075 .0375 query .014 ends
gemini-3.7-flash                    in .75  out 3.75 hot .075 .0375 query .014 ends
gemini-3.8-flash                    in .75  out 3.75 hot .075 .0375 query .014 ends
gemini-4-argon                      in 2    out 10   hot .10 .05    query .014
gemini-embedding-001                in .15  out 0
gemini-embedding-2                  in .20  out 0    see .45 film 12 sound 6.50
gemini-embedding-2-preview          in .20  out 0    see .45 film 12 sound 6.50
"""
# What some promotional prices give way to.
_LATER: Final = "gemini-3.8-flash in 1.50 out 7.50 query .014"
_PROMOTION_ENDS: Final = 1_798_761_600  # 2027-01-01
_LONG_TOKENS: Final = 200_000
_WORDS: Final = {
    "in": 1, "out": 1, "hot": 2, ">200k": 4, "sound": 3, "paint": 1, "see": 1, "film": 1, "prompt": 1, "query": 1,
    "ends": 0,
}  # fmt: skip
_PERCENT: Final = {"batch": 50, "flex": 50, "standard": 100, "priority": 180}
_PICO: Final = 10**6  # pico-dollars a token for a dollar a million


class _Prices(dict[str, list[Fraction]]):
    """What the table says of a model."""

    def one(self, name: str, otherwise: str = "in") -> Fraction:
        """Return a price, or the one that stands for it."""
        found = self.get(name)
        return found[0] if found else self[otherwise][0]


def _read(line: str) -> tuple[str, _Prices]:
    model, *words = line.split()
    prices, rest = _Prices(), iter(words)
    for word in rest:
        count = _WORDS[word]
        if word == "sound" and "hot" not in words:
            count = 1
        prices[word] = [Fraction(next(rest)) for _ in range(count)]
    return model, prices


_LIST: Final = dict(_read(line) for line in _TABLE.strip().splitlines())
_SUCCESSORS: Final = dict([_read(_LATER)])


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer took.

    Attributes:
        prompt: input by modality, cached input included.
        cached: of it, by modality.
        output: output by modality, without thoughts.
        thoughts: tokens of thinking.
        tools: input that tools added.
        queries: searches made.
        maps: whether maps were asked, which has a fee that is not in the list.
    """

    prompt: dict[str, int]
    cached: dict[str, int] = {}
    output: dict[str, int] = {}
    thoughts: int = 0
    tools: int = 0
    queries: frozenset[str] = frozenset()
    maps: bool = False


def usage_of(response: JsonObject) -> Usage:
    """Read what a GenerateContentResponse took."""
    usage = as_object(response.get("usageMetadata"))
    queries: set[str] = set()
    maps = False
    for candidate in as_list(response.get("candidates")):
        grounding = as_object(as_object(candidate).get("groundingMetadata"))
        queries.update(query for one in as_list(grounding.get("webSearchQueries")) if (query := as_str(one)))
        maps = maps or any("maps" in as_object(chunk) for chunk in as_list(grounding.get("groundingChunks")))
    return Usage(
        prompt=_by_modality(usage, "promptTokenCount", "promptTokensDetails"),
        cached=_by_modality(usage, "cachedContentTokenCount", "cacheTokensDetails"),
        output=_by_modality(usage, "candidatesTokenCount", "candidatesTokensDetails"),
        thoughts=as_int(usage.get("thoughtsTokenCount")) or 0,
        tools=as_int(usage.get("toolUsePromptTokenCount")) or 0,
        queries=frozenset(queries),
        maps=maps,
    )


def _by_modality(usage: JsonObject, total: str, details: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in as_list(usage.get(details)):
        detail = as_object(one)
        modality = as_str(detail.get("modality"))
        found[modality] = found.get(modality, 0) + (as_int(detail.get("tokenCount")) or 0)
    rest = (as_int(usage.get(total)) or 0) - sum(found.values())
    return found | {"TEXT": found.get("TEXT", 0) + rest}


def charge_picousd(model: str, tier: str, usage: Usage, at: float) -> int | None:
    """Return what an answer costs in pico-dollars, None where the list has no price for something in it.

    Args:
        model: without ``models/``.
        tier: ``batch``, ``flex``, ``standard`` or ``priority``.
        usage: what it took.
        at: when, in seconds since the epoch.
    """
    prices = _LIST.get(model)
    if prices is not None and "ends" in prices and at >= _PROMOTION_ENDS:
        prices = _SUCCESSORS.get(model)
    if prices is None or usage.maps:
        return None
    share = Fraction(_PERCENT[tier], 100)
    in_batch = tier in {"batch", "flex"}
    if ">200k" in prices and sum(usage.prompt.values()) > _LONG_TOKENS:
        low, high, *long_hot = prices[">200k"]
        prices = _Prices(prices | {"in": [low], "out": [high], "hot": long_hot})
    dollars = Fraction(0)
    for modality, count in usage.prompt.items():
        cached = usage.cached.get(modality, 0)
        dollars += (count - cached) * _input_price(prices, modality) * share
        if cached:
            sound = prices.get("sound", [])
            hot = sound[1:] if modality == "AUDIO" and sound[1:] else prices.get("hot", [])
            if not hot:
                return None
            # Cached input has a price of its own in batches; the priority tier raises the live one.
            dollars += cached * (hot[1] if in_batch else hot[0] * share)
    for modality, count in usage.output.items():
        dollars += count * (prices.one("paint", "out") if modality == "IMAGE" else prices["out"][0]) * share
    dollars += usage.thoughts * prices["out"][0] * share
    if not usage.queries:
        dollars += usage.tools * prices["in"][0] * share
    picousd = dollars * _PICO
    if usage.queries:
        if "query" not in prices and "prompt" not in prices:
            return None
        times = len(usage.queries) if "query" in prices else 1
        picousd += times * prices.one("query", "prompt") * 10**12
    assert picousd.denominator == 1, "prices are whole pico-dollars a token"
    return int(picousd)


def _input_price(prices: _Prices, modality: str) -> Fraction:
    return prices.one({"AUDIO": "sound", "IMAGE": "see", "VIDEO": "film"}.get(modality, "in"))


def embedding_picousd(model: str, tier: str, tokens: dict[str, int], at: float) -> int | None:
    """Return what an embedding costs in pico-dollars, None where the list has no price for something in it.

    Args:
        model: without ``models/``.
        tier: as :func:`charge_picousd` takes it.
        tokens: input by modality.
        at: when, in seconds since the epoch.
    """
    if "see" in _LIST.get(model, ()) and tokens.keys() - _HAVE_PRICES:
        return None
    return charge_picousd(model, tier, Usage(prompt=tokens), at)


_HAVE_PRICES: Final = {"TEXT", "IMAGE", "AUDIO", "VIDEO"}
