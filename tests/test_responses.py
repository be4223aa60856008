"""How answers are read: text and counts in one go, each by itself where the other is odd."""

from __future__ import annotations

import pytest

from carpool import GenerateResponse
from carpool.types import Facts, Usage

FACTS = Facts(route="batch", job="batches/1", kind="generate", model="m", answered_at=1.0, cost=lambda _: None)


def response(raw: bytes) -> GenerateResponse:
    return GenerateResponse("k", raw, FACTS, 0.0)


def answer(text: str, tokens: object = 3) -> bytes:
    candidates = f'[{{"content":{{"parts":[{{"text":"{text}"}}]}},"finishReason":"STOP"}}]'
    counts = f'{{"promptTokenCount":{tokens},"totalTokenCount":{tokens}}}'
    return f'{{"candidates":{candidates},"usageMetadata":{counts}}}'.encode()


def test_answers_that_are_read_in_turn_are_not_taken_for_each_other() -> None:
    one, other = response(answer("one", 1)), response(answer("other", 2))
    for _ in range(2):
        assert (one.text, one.usage) == ("one", Usage(prompt_tokens=1, total_tokens=1))
        assert (other.usage, other.text) == (Usage(prompt_tokens=2, total_tokens=2), "other")


def test_an_equal_answer_is_read_for_itself() -> None:
    raw = answer("same")
    assert response(raw).text == response(bytes(bytearray(raw))).text == "same"


@pytest.mark.parametrize("size", [10, 65_000, 200_000])
def test_long_answers_are_read_like_short_ones(size: int) -> None:
    found = response(answer("x" * size))
    assert (found.text, found.usage.total_tokens, found.finish_reason) == ("x" * size, 3, "STOP")


@pytest.mark.parametrize("tokens", ["-1", '"many"', "1.5", "[]", str(10**20)])
def test_odd_counts_do_not_take_the_text_along(tokens: str) -> None:
    found = response(answer("text", tokens))
    assert (found.text, found.usage) == ("text", Usage())


def test_counts_that_came_as_text_are_numbers() -> None:
    assert response(answer("text", '"12"')).usage == Usage(prompt_tokens=12, total_tokens=12)


@pytest.mark.parametrize("candidates", ["7", '[{"content":5}]', '[{"content":{"parts":[{"text":5}]}}]', "{}"])
def test_odd_candidates_do_not_take_the_counts_along(candidates: str) -> None:
    found = response(b'{"candidates":%s,"usageMetadata":{"promptTokenCount":4}}' % candidates.encode())
    assert (found.text, found.usage) == ("", Usage(prompt_tokens=4, total_tokens=4))


def test_text_that_looks_like_something_else_stays_text() -> None:
    assert [response(answer(word)).text for word in ("null", "true", "12")] == ["null", "true", "12"]


def test_text_with_half_an_emoji_is_read_with_its_counts() -> None:
    found = response(answer("cut \\ud83d", 5))
    assert found.text.startswith("cut ")
    assert found.usage.total_tokens == 5


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 100_000, b'{"usageMetadata":{"promptTokenCount":NaN}}', b"[]"])
def test_what_cannot_be_read_has_neither_text_nor_counts(raw: bytes) -> None:
    assert (response(raw).text, response(raw).usage) == ("", Usage())
