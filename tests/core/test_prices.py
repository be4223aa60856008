"""Two lists of prices, written independently, agree on every answer; what has no price is never guessed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carpool._core.meter import Meter
from carpool._core.prices import BUNDLED, PRICES_AS_OF, Cost, Prices, Spent
from carpool.emulator import prices as theirs
from carpool.errors import ConfigurationError
from carpool.settings import Price

NOW = 1_795_219_200.0  # 2026-11-21
NEW_YEAR = 1_798_761_600.0
ROUTES = ("batch", "flex", "standard")
PRICES = Prices({})
MODALITIES = ("TEXT", "AUDIO", "IMAGE", "VIDEO", "DOCUMENT")
count = st.integers(0, 300_000)


def details(sums: dict[str, int]) -> list[dict[str, Any]]:
    return [{"modality": name, "tokenCount": tokens} for name, tokens in sums.items() if tokens]


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """Return an answer as a server may send it."""
    prompt = draw(st.dictionaries(st.sampled_from(MODALITIES), count, min_size=1, max_size=3))
    cached = {name: draw(st.integers(0, tokens)) for name, tokens in prompt.items()} if draw(st.booleans()) else {}
    output = draw(st.dictionaries(st.sampled_from(("TEXT", "IMAGE", "AUDIO")), count, max_size=2))
    thoughts, tools = draw(st.sampled_from((0, 0, 77))), draw(st.sampled_from((0, 0, 1_234)))
    usage: dict[str, Any] = {
        "promptTokenCount": sum(prompt.values()),
        "candidatesTokenCount": sum(output.values()),
        "thoughtsTokenCount": thoughts,
        "toolUsePromptTokenCount": tools,
        "totalTokenCount": sum(prompt.values()) + sum(output.values()) + thoughts + tools,
        "promptTokensDetails": details(prompt),
        "candidatesTokensDetails": details(output),
    }
    if sum(cached.values()):
        usage |= {"cachedContentTokenCount": sum(cached.values()), "cacheTokensDetails": details(cached)}
    candidates: list[dict[str, Any]] = []
    for queries in draw(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), max_size=3)):
        grounding = {"webSearchQueries": queries, "groundingChunks": [{"web": {"uri": "x"}}]}
        candidates.append({"content": {"parts": [{"text": "x"}]}, "groundingMetadata": grounding})
    if draw(st.booleans()) and draw(st.booleans()):
        candidates.append({"groundingMetadata": {"groundingChunks": [{"maps": {"uri": "x"}}]}})
    return {"candidates": candidates, "usageMetadata": usage} if candidates else {"usageMetadata": usage}


@settings(max_examples=400)
@given(st.sampled_from([*sorted(BUNDLED), "gemini-flash-latest"]), st.sampled_from(ROUTES), answers(), st.booleans())
def test_client_and_emulator_agree_on_what_an_answer_costs(
    model: str, route: str, answer: dict[str, Any], later: bool
) -> None:
    at = NEW_YEAR if later else NOW
    usage = theirs.usage_of(answer)
    if "embedding" in model:
        if usage.cached.get("TEXT", 0) or len(usage.cached) > 1:
            return  # embeddings are never cached
        bill = theirs.embedding_picousd(model, route, {m: n for m, n in usage.prompt.items() if n}, at)
        usage_of_it = answer["usageMetadata"]
        told = {name: usage_of_it[name] for name in ("promptTokenCount", "promptTokensDetails")}
        answer = {"embedding": {"values": [0.5]}, "usageMetadata": told}
    else:
        bill = theirs.charge_picousd(model, route, usage, at)
    meter = Meter(PRICES.rate(model, at), route, embeds="embedding" in model)
    charge = meter.charge([msgspec.json.encode(answer)])
    if not usage.prompt or not sum(usage.prompt.values()):
        assert charge.unknown == 1, "an answer without a count has no price"
        return
    assert (None if charge.unknown else charge.paid_picousd) == bill


@settings(max_examples=50)
@given(st.sampled_from(sorted(BUNDLED)), st.sampled_from(ROUTES), st.lists(answers(), max_size=6))
def test_the_charge_of_many_answers_is_the_sum_of_each(model: str, route: str, found: list[dict[str, Any]]) -> None:
    meter = Meter(PRICES.rate(model), route)
    bodies = [msgspec.json.encode(answer) for answer in found]
    charge, costs = meter.charge(bodies), [meter.cost(body) for body in bodies]
    known = [cost for cost in costs if cost is not None]
    assert (charge.answers, charge.unknown) == (len(bodies), len(bodies) - len(known))
    assert charge.list_picousd == sum(cost.list_picousd for cost in known)
    assert charge.paid_picousd == sum(cost.paid_picousd for cost in known)


def test_the_models_and_the_day_of_the_list_are_those_of_both_sides() -> None:
    assert set(BUNDLED) == set(theirs._LIST)
    assert PRICES_AS_OF == "2026-11-20"


# By model: USD per million, in and out, then cached live and in a batch, as published.
PUBLISHED = [
    ("gemini-2.5-pro", "1.25", "10", ".125", ".125"),
    ("gemini-2.5-flash", ".30", "2.50", ".03", ".03"),
    ("gemini-2.5-flash-lite", ".10", ".40", ".01", ".01"),
    ("gemini-3-flash-preview", ".50", "3", ".05", ".05"),
    ("gemini-3.1-pro-preview", "2", "12", ".20", ".20"),
    ("gemini-3.1-flash-lite", ".25", "1.50", ".025", ".0125"),
    ("gemini-3.5-flash", "1.50", "9", ".15", ".075"),
    ("gemini-3.5-flash-lite", ".30", "2.50", ".03", ".02"),
    ("gemini-3.6-flash", ".75", "3.75", ".075", ".0375"),
    ("gemini-4-argon", "2", "10", ".10", ".05"),
]


@pytest.mark.parametrize(("model", "low", "high", "hot", "batch_hot"), PUBLISHED)
def test_the_list_says_what_was_published(model: str, low: str, high: str, hot: str, batch_hot: str) -> None:
    rate = PRICES.rate(model, NOW)
    assert rate is not None
    million = 10**6
    prompt, cached = Spent(prompt=million), Spent(prompt=million, cached=million)
    short = rate.standard.picousd(prompt), rate.batch.picousd(prompt)
    assert short == (_pico(low), _pico(low) // 2)
    assert (rate.standard.picousd(cached), rate.batch.picousd(cached)) == (_pico(hot), _pico(batch_hot))
    assert rate.output_picousd * million == _pico(high)
    assert rate.batch.output * 2 == rate.output_picousd


def _pico(usd: str) -> int:
    return int(Decimal(usd) * 10**12)


@pytest.mark.parametrize(("prompt", "high"), [(200_000, "10"), (200_001, "15")])
def test_a_long_prompt_makes_all_of_its_request_dearer(prompt: int, high: str) -> None:
    rate = PRICES.rate("gemini-2.5-pro")
    assert rate is not None
    with_answer = rate.cost("standard", Spent(prompt=prompt, output=1_000))
    without = rate.cost("standard", Spent(prompt=prompt))
    assert with_answer is not None
    assert without is not None
    assert with_answer.list_picousd - without.list_picousd == _pico(high) // 1_000
    batch = rate.cost("batch", Spent(prompt=prompt, output=1_000))
    assert batch is not None
    assert batch.paid_picousd * 2 == with_answer.paid_picousd == with_answer.list_picousd == batch.list_picousd


def test_a_search_costs_its_fee_on_every_route_by_query_or_by_prompt() -> None:
    for model, fee in (("gemini-2.5-flash", "0.035"), ("gemini-3.5-flash", "0.042")):
        rate = PRICES.rate(model)
        assert rate is not None
        for route in ROUTES:
            plain, searched = (rate.cost(route, Spent(prompt=10, queries=queries)) for queries in (0, 3))
            assert plain is not None
            assert searched is not None
            assert searched.paid_picousd - plain.paid_picousd == _pico(fee)


def test_promotional_prices_end_with_the_year() -> None:
    for model in ("gemini-3.6-flash", "gemini-3.7-flash"):
        assert PRICES.rate(model, NEW_YEAR - 1) is not None
        assert PRICES.rate(model, NEW_YEAR) is None
    later = PRICES.rate("gemini-3.8-flash", NEW_YEAR)
    assert later is not None
    assert (later.input_picousd, later.output_picousd) == (1_500_000, 7_500_000)
    assert later.cost("batch", Spent(prompt=10, cached=1)) is None
    own = Prices({"gemini-3.8-flash": Price(input_usd=Decimal(1), output_usd=Decimal(1))})
    mine = own.rate("gemini-3.8-flash", NEW_YEAR)
    assert mine is not None
    assert mine.input_picousd == 1_000_000


def test_what_a_price_leaves_out_is_unknown_or_as_the_rest() -> None:
    bare = Prices({"models/mine": Price(input_usd=Decimal(2), output_usd=Decimal(4))}).rate("mine")
    assert bare is not None
    assert bare.cost("batch", Spent(prompt=10, audio=4, image=3, output=2, image_output=1)) == Cost(
        28_000_000, 14_000_000
    )
    assert bare.cost("batch", Spent(prompt=10, cached=4)) is None
    assert bare.cost("batch", Spent(prompt=10, queries=1)) is None
    live = Price(input_usd=Decimal(2), output_usd=Decimal(4), cached_usd=Decimal(1))
    rate = Prices({"mine": live}).rate("mine")
    assert rate is not None
    assert rate.cost("standard", Spent(prompt=10, cached=4)) == Cost(16_000_000, 16_000_000)
    assert rate.cost("batch", Spent(prompt=10, cached=4)) is None
    hot_sound = Price(
        input_usd=Decimal(2), output_usd=Decimal(4), cached_usd=Decimal(1), batch_percent=100,
        batch_cached_usd=Decimal(1), audio_usd=Decimal(5), batch_cached_audio_usd=Decimal(3),
    )  # fmt: skip
    rate = Prices({"mine": hot_sound}).rate("mine")
    assert rate is not None
    spent = Spent(prompt=10, cached=4, audio=3, cached_audio=2)
    # Five of text, one of sound, two of cached text, two of cached sound (live as cached text).
    assert rate.cost("batch", spent) == Cost((10 + 5 + 2 + 2) * 10**6, (10 + 5 + 2 + 6) * 10**6)


@pytest.mark.parametrize("usd", [Decimal("-0.01"), Decimal("nan"), Decimal("Infinity"), Decimal(1_000_001), 0.3, "1"])
@pytest.mark.parametrize("field", ["input_usd", "cached_usd", "image_output_usd"])
def test_what_is_no_price_is_refused(field: str, usd: Any) -> None:
    fields: dict[str, Any] = {"input_usd": Decimal(1), "output_usd": Decimal(1), field: usd}
    with pytest.raises(ConfigurationError, match=field):
        Price(**fields)


@pytest.mark.parametrize(
    ("field", "value"), [("batch_percent", 101), ("batch_percent", -1), ("long_from_tokens", -1), ("search_per", "day")]
)
def test_how_a_price_applies_is_checked_too(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"input_usd": Decimal(1), "output_usd": Decimal(1), field: value}
    with pytest.raises(ConfigurationError, match=field):
        Price(**fields)


@given(st.decimals(min_value=0, max_value=1000, places=9), st.integers(0, 100))
@example(Decimal("0.000000001"), 50)
def test_what_is_finer_than_a_pico_dollar_a_token_is_rounded_up(usd: Decimal, percent: int) -> None:
    rate = Prices({"mine": Price(input_usd=usd, output_usd=usd, batch_percent=percent)}).rate("mine")
    assert rate is not None
    exact = usd * 10**6
    assert exact <= rate.input_picousd < exact + 1
    assert exact * percent / 100 <= rate.batch.input < exact * percent / 100 + 1
