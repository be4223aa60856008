"""What an answer took is read off its bytes; an answer that does not say so clearly is of unknown cost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.meter import SAMPLES_MAX, Charge, Meter, spent_of
from carpool._core.prices import Cost, Prices, Spent

PRICES = Prices({})
FLASH = PRICES.rate("gemini-2.5-flash")
PLAIN = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}


def body(usage: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode(
        {"candidates": [{"content": {"parts": [{"text": "x"}]}}], **more, "usageMetadata": usage}
    )


def spent(usage: dict[str, Any], **more: Any) -> Spent | None:
    return spent_of(body(usage, **more), text_only=True)


def test_plain_answers_are_summed() -> None:
    charge = Meter(FLASH, "batch").charge([body(PLAIN)] * 3)
    assert charge == Charge(
        answers=3,
        prompt=300,
        output=60,
        list_picousd=300 * 300_000 + 60 * 2_500_000,
        paid_picousd=300 * 150_000 + 60 * 1_250_000,
        outputs=(20, 20, 20),
    )


SPECIAL = [
    body(PLAIN),
    body(PLAIN | {"thoughtsTokenCount": 5}),
    body(PLAIN | {"thoughtsTokenCount": 5, "totalTokenCount": 125}),
    body(PLAIN | {"cachedContentTokenCount": 7}),
    body(PLAIN | {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}]}),
    body(PLAIN | {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 100}]}),
    body(PLAIN | {"promptTokensDetails": [{"tokenCount": 100}]}),
    body(PLAIN | {"promptTokensDetails": []}),
    body(PLAIN | {"promptTokensDetails": None}),
    body(PLAIN | {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 20}]}),
    body(PLAIN | {"toolUsePromptTokenCount": 30, "totalTokenCount": 150}),
    body(PLAIN | {"promptTokenCount": 300_000, "totalTokenCount": 300_020}),
    body(PLAIN, candidates=[{"groundingMetadata": {"webSearchQueries": ["a"]}}]),
    body(PLAIN, candidates=[{}, {"groundingMetadata": {"webSearchQueries": ["a"]}}]),
    body(PLAIN, candidates=[{}, {}]),
    body(PLAIN, candidates=[]),
    body({"candidatesTokenCount": 20, "totalTokenCount": 20}),
    body({name: str(count) for name, count in PLAIN.items()}),
    b'{"tokenCount":"3"}',
    b"{}",
    body(PLAIN | {"promptTokenCount": -1}),
    b'{"usageMetadata":[]}',
    b'{"candidates":NaN}',
    b"{",
]


def lines_of(bodies: list[bytes]) -> bytes:
    return b"".join(b'{"key":"k%d", "response" : %b}\r\n\n' % (at, one) for at, one in enumerate(bodies))


@given(
    st.lists(
        st.integers(1, 40).flatmap(lambda size: st.lists(st.sampled_from(SPECIAL[:3]), max_size=size)), max_size=3
    ),
    st.lists(st.sampled_from(SPECIAL), max_size=1),
    st.sampled_from(["gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001", "gemini-2.5-flash-image", ""]),
    st.booleans(),
)
def test_lines_are_charged_as_the_answers_in_them(
    blocks: list[list[bytes]],
    special: list[bytes],
    model: str,
    embeds: bool,
) -> None:
    meter = Meter(PRICES.rate(model), "batch", embeds=embeds)
    for bodies in (*blocks, special, *blocks):
        one_by_one = Meter(PRICES.rate(model), "batch", embeds=embeds).charge(bodies)
        assert meter.charge(bodies, lines_of(bodies)) == one_by_one


@pytest.mark.parametrize("one", SPECIAL)
def test_each_is_charged_among_plain_ones_as_alone(one: bytes) -> None:
    bodies = [body(PLAIN), one, body(PLAIN)]
    for model in ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001"):
        meter = Meter(PRICES.rate(model), "batch")
        assert meter.charge(bodies, lines_of(bodies)) == Meter(PRICES.rate(model), "batch").charge(bodies)


def test_blank_lines_are_no_answers() -> None:
    assert Meter(FLASH, "batch").charge([], b"\n\n") == Charge()


def test_plain_lines_are_decoded_at_once_and_no_others_are_tried() -> None:
    """Bodies that no line has show which of both was read."""
    for model, reads_lines in ((FLASH, True), (None, False)):
        meter = Meter(model, "batch")
        two = lines_of([body(PLAIN)] * 2)
        assert meter.charge([b"{}"] * 2, two).unknown == (0 if reads_lines else 2)
        assert meter.charge([b"{}"] * 3, two).unknown == 3
        assert meter.charge([b"{}"] * 2, two).unknown == 2, "the lines before were not of these answers"


def test_numbers_may_come_as_strings() -> None:
    assert Meter(FLASH, "batch").charge([body({name: str(count) for name, count in PLAIN.items()})]).prompt == 100


def test_thoughts_are_output_whether_or_not_the_candidates_count_holds_them() -> None:
    apart = PLAIN | {"thoughtsTokenCount": 5, "totalTokenCount": 125}
    inside = PLAIN | {"thoughtsTokenCount": 5}
    assert spent(apart) == Spent(prompt=100, output=25)
    assert spent(inside) == Spent(prompt=100, output=20)
    meter = Meter(FLASH, "standard")
    assert meter.cost(body(apart)) == Cost(*[100 * 300_000 + 25 * 2_500_000] * 2)
    assert meter.cost(body(inside)) == Cost(*[100 * 300_000 + 20 * 2_500_000] * 2)


def test_tools_add_input_but_not_what_a_search_found() -> None:
    usage = PLAIN | {"toolUsePromptTokenCount": 30, "totalTokenCount": 150}
    searched = {"webSearchQueries": ["a", "b", "a", ""]}
    pages = {"groundingChunks": [{"web": {"uri": "x"}}]}
    assert spent(usage) == Spent(prompt=100, output=20, tool_use=30)
    assert spent(usage, candidates=[{"groundingMetadata": pages}]) == Spent(prompt=100, output=20, tool_use=30)
    assert spent(usage, candidates=[{"groundingMetadata": searched}]) == Spent(prompt=100, output=20, queries=2)
    both = [{"groundingMetadata": searched}, {}, {"groundingMetadata": {"webSearchQueries": ["c"]}}]
    assert spent(usage, candidates=both) == Spent(prompt=100, output=20, queries=3)


def test_a_second_candidates_search_costs_too() -> None:
    searched = [{}, {"groundingMetadata": {"webSearchQueries": ["a"]}}]
    cost = Meter(FLASH, "batch").cost(body(PLAIN, candidates=searched))
    assert cost is not None
    assert cost.paid_picousd == 100 * 150_000 + 20 * 1_250_000 + 35 * 10**9


UNCLEAR: list[dict[str, Any]] = [
    {},
    {"candidatesTokenCount": 20, "totalTokenCount": 20},
    PLAIN | {"totalTokenCount": 121},
    PLAIN | {"totalTokenCount": 119},
    PLAIN | {"promptTokenCount": -100},
    PLAIN | {"promptTokenCount": 2**60},
    PLAIN | {"promptTokenCount": "1" + "0" * 4_000},
    PLAIN | {"promptTokenCount": 1.5},
    PLAIN | {"promptTokenCount": None},
    PLAIN | {"cachedContentTokenCount": 101},
    PLAIN | {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 101}]},
    PLAIN | {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 21}]},
    PLAIN | {"cachedContentTokenCount": 5, "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}]},
    PLAIN | {"cachedContentTokenCount": 5, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}]},
    PLAIN
    | {
        "cachedContentTokenCount": 60,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}, {"modality": "TEXT", "tokenCount": 50}],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 60}],
    },
]


@pytest.mark.parametrize("usage", UNCLEAR)
def test_counts_that_are_missing_or_contradict_each_other_are_of_unknown_cost(usage: dict[str, Any]) -> None:
    charge = Meter(FLASH, "batch").charge([body(usage), body(PLAIN)])
    assert (charge.answers, charge.unknown, charge.prompt, charge.output) == (2, 1, 100, 20)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"usageMetadata": []}', b"[" * 100_000, b"\xff", b"{}"])
def test_what_cannot_be_read_is_of_unknown_cost(raw: bytes) -> None:
    assert Meter(FLASH, "batch").charge([raw]).unknown == 1
    assert Meter(FLASH, "batch").cost(raw) is None
    assert spent_of(raw) is None


def test_maps_have_a_fee_that_is_not_known() -> None:
    maps = [{"groundingMetadata": {"groundingChunks": [{"maps": {"uri": "x"}}]}}]
    assert Meter(FLASH, "batch").cost(body(PLAIN, candidates=maps)) is None


def test_a_model_without_a_price_is_of_unknown_cost() -> None:
    assert Meter(None, "batch").charge([body(PLAIN)] * 2) == Charge(answers=2, unknown=2)


def test_an_answer_without_candidates_is_paid_for() -> None:
    for candidates in ([], None):
        charge = Meter(FLASH, "batch").charge(
            [body({"promptTokenCount": 7, "totalTokenCount": 7}, candidates=candidates)]
        )
        assert (charge.unknown, charge.paid_picousd) == (0, 7 * 150_000)


def test_long_prompts_cached_input_sound_and_pictures_have_their_own_prices() -> None:
    pro, image = PRICES.rate("gemini-2.5-pro"), PRICES.rate("gemini-2.5-flash-image")
    long = {"promptTokenCount": 200_001, "totalTokenCount": 200_001}
    assert Meter(pro, "batch").cost(body(long)) == Cost(200_001 * 2_500_000, 200_001 * 1_250_000)
    cached = PLAIN | {"cachedContentTokenCount": 90}
    wanted = Cost(10 * 300_000 + 90 * 30_000 + 20 * 2_500_000, 10 * 150_000 + 90 * 30_000 + 20 * 1_250_000)
    assert Meter(FLASH, "batch").cost(body(cached)) == wanted
    sound = PLAIN | {
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40}, {"modality": "AUDIO", "tokenCount": 60}]
    }
    wanted = Cost(40 * 300_000 + 60 * 10**6 + 20 * 2_500_000, 40 * 150_000 + 60 * 500_000 + 20 * 1_250_000)
    assert Meter(FLASH, "flex").cost(body(sound)) == wanted
    drawn = PLAIN | {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 15}]}
    wanted = Cost(*[100 * 300_000 + 5 * 2_500_000 + 15 * 30 * 10**6] * 2)
    assert Meter(image, "standard").cost(body(drawn)) == wanted


def test_embeddings_tell_one_number() -> None:
    old, new = PRICES.rate("gemini-embedding-001"), PRICES.rate("gemini-embedding-2")
    row = b'{"tokenCount":"12","embedding":{"values":[0.5]}}'
    assert Meter(old, "batch", embeds=True).cost(row) == Cost(12 * 150_000, 12 * 75_000)
    assert Meter(old, "batch", embeds=True).charge([row]).outputs == ()
    assert Meter(old, "batch", embeds=True).cost(b'{"embedding":{"values":[0.5]}}') is None
    assert Meter(new, "batch", embeds=True).cost(row) is None, "it may have been a picture"
    assert Meter(new, "batch", embeds=True, text_only=True).cost(row) == Cost(12 * 200_000, 12 * 100_000)
    told = body({"promptTokenCount": 12, "promptTokenDetails": [{"modality": "IMAGE", "tokenCount": 12}]})
    assert Meter(new, "batch", embeds=True).cost(told) == Cost(12 * 450_000, 12 * 225_000)
    paper = body({"promptTokenCount": 12, "promptTokenDetails": [{"modality": "DOCUMENT", "tokenCount": 12}]})
    assert Meter(new, "batch", embeds=True).cost(paper) is None


def test_a_document_costs_what_text_costs_where_pictures_do() -> None:
    paper = PLAIN | {"promptTokensDetails": [{"modality": "DOCUMENT", "tokenCount": 100}]}
    assert Meter(FLASH, "standard").cost(body(paper)) == Meter(FLASH, "standard").cost(body(PLAIN))


def test_kinds_of_which_there_is_nothing_do_not_matter() -> None:
    usage = PLAIN | {
        "cachedContentTokenCount": 90,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}, {"modality": "AUDIO", "tokenCount": 0}],
    }
    assert spent(usage) == Spent(prompt=100, output=20, cached=90)


def test_a_block_gives_a_few_lengths_from_all_over_it() -> None:
    bodies = [body({"promptTokenCount": 1, "candidatesTokenCount": n, "totalTokenCount": 1 + n}) for n in range(1, 161)]
    outputs = Meter(FLASH, "batch").charge(bodies).outputs
    assert len(outputs) == SAMPLES_MAX
    assert outputs[0] == 1
    assert outputs[-1] == 151
    assert Meter(FLASH, "batch").charge([]) == Charge()
