"""The emulator bills each answer by a list of its own, and the client's account of the same answers is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carpool._core.meter import Meter
from carpool._core.prices import Prices
from carpool.emulator import Plan
from carpool.emulator.prices import Usage, charge_picousd, embedding_picousd

from .driver import EMBED_MODEL, Driver, content, jsonl, prompt

PRICES = Prices({})
NOW = 1_795_219_200.0
THINKS = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 100}}}
ASKS: list[dict[str, Any]] = [
    prompt("plain"),
    prompt("thinks", **THINKS),
    prompt("searches", tools=[{"googleSearch": {}}]),
    prompt("three of them", generationConfig={"candidateCount": 3}, tools=[{"googleSearch": {}}]),
    prompt("[[blocked:SAFETY]]"),
    prompt("[[finish:MAX_TOKENS]]"),
    prompt("long " * 180_000),
    {"contents": [{"parts": [{"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA"}}, {"text": "what is it"}]}]},
    {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, {"text": "what is it"}]}]},
]
MODELS = [
    "gemini-2.5-flash-lite",
    "gemini-2.5-pro",
    "gemini-2.5-flash-image",
    "gemini-3-flash-preview",
    "gemini-3.1-pro-preview",
    "gemini-3.1-flash-lite",
    "gemini-3.5-flash",
    "gemini-3.8-flash",
    "gemini-4-argon",
    "gemini-2.5-flash-preview-tts",
]


def driver() -> Driver:
    world = Driver(Plan(latency_s=1.0, input_tokens_max=2_000_000))
    world.now = NOW
    return world


def account(model: str, route: str, answers: list[Any]) -> tuple[int, int]:
    """Return what the client says that answers cost, and how many have no price for it."""
    meter = Meter(PRICES.rate(model, NOW), route, embeds="embedding" in model)
    charge = meter.charge([json.dumps(answer).encode() for answer in answers])
    return charge.paid_picousd, charge.unknown


@pytest.mark.parametrize("model", MODELS)
def test_a_job_and_live_calls_cost_what_the_client_reckons(model: str) -> None:
    world = driver()
    asks = [*ASKS, prompt("[[error:8:not billed]]")]
    file = world.upload(jsonl(*({"key": str(number), "request": one} for number, one in enumerate(asks))))
    operation = world.create_from(file, model=model)
    world.wait(10)
    answers = [line["response"] for line in world.lines(operation) if "response" in line]
    assert len(answers) == len(ASKS)
    ledger = world.ledger()
    paid, unknown = account(model, "batch", answers)
    assert (ledger.picousd, ledger.unpriced) == (paid, unknown)
    assert paid > 0
    assert ledger.jobs[0].picousd == paid

    path = f"/v1beta/models/{model}:generateContent"
    for tier, route in (("flex", "flex"), ("", "standard"), ("standard", "standard")):
        before = world.ledger()
        more = {"serviceTier": tier} if tier else {}
        answers = [world.ok("POST", path, one | more) for one in ASKS]
        paid, unknown = account(model, route, answers)
        after = world.ledger()
        assert (after.picousd - before.picousd, after.unpriced - before.unpriced) == (paid, unknown)


def test_cached_input_costs_what_the_client_reckons() -> None:
    for model in ("gemini-3.5-flash", "gemini-2.5-flash", "gemini-3-pro-image"):
        world = driver()
        book = prompt("a long story " * 2_000)["contents"]
        cache = world.ok("POST", "/v1beta/cachedContents", {"model": f"models/{model}", "contents": book})["name"]
        ask = prompt("how does it end", cachedContent=cache)
        file = world.upload(jsonl({"key": "a", "request": ask}))
        operation = world.create_from(file, model=model)
        world.wait(10)
        [line] = world.lines(operation)
        paid, unknown = account(model, "batch", [line["response"]])
        ledger = world.ledger()
        assert (ledger.picousd, ledger.unpriced) == (paid, unknown)
        assert unknown == (model == "gemini-3-pro-image"), "its cached input has no price on either list"


def test_embeddings_cost_what_the_client_reckons() -> None:
    world = driver()
    items = [{"request": content(f"text number {number}"), "metadata": {"key": str(number)}} for number in range(5)]
    operation = world.create(*items, model=EMBED_MODEL, method="asyncBatchEmbedContent")
    world.wait(10)
    answers = [item["response"] for item in world.inline(operation)]
    assert (world.ledger().picousd, 0) == account(EMBED_MODEL, "batch", answers)


def test_the_priority_tier_costs_more_and_unknown_models_have_no_price() -> None:
    usage = Usage(prompt={"TEXT": 1_000})
    assert charge_picousd("gemini-3.5-flash", "priority", usage, NOW) == 1_000 * 1_500_000 * 18 // 10
    assert charge_picousd("gemini-flash-latest", "batch", usage, NOW) is None
    assert embedding_picousd("gemini-embedding-2", "batch", {"DOCUMENT": 5}, NOW) is None
    assert embedding_picousd("gemini-embedding-2", "batch", {"IMAGE": 4}, NOW) == 4 * 225_000
    world = driver()
    world.ok("POST", "/v1beta/models/gemini-flash-latest:generateContent", prompt("x"))
    world.ok("POST", "/v1beta/models/gemini-3.5-flash:generateContent", prompt("x", serviceTier="priority"))
    ledger = world.ledger()
    assert (ledger.unpriced, [bill.tier for bill in ledger.live]) == (1, ["standard", "priority"])
    assert ledger.picousd == ledger.live[1].picousd > 0
