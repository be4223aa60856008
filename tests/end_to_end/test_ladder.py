"""The ladder end to end: live first and a batch where that refuses; a batch first and live where time is short."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from carpool import CHEAP, FAST, BudgetExceeded, RequestRejected
from carpool.emulator import Emulator, Fault, Plan, expected_text

from .support import EMBED_MODEL, MODEL, asked_for, opened, ops_of, prompts, refused


def routes(client: Any) -> dict[str, int]:
    return {route: totals.requests for route, totals in client.receipt().by_route.items()}


@pytest.mark.parametrize("route", ["standard", "flex"])
async def test_a_call_goes_over_the_live_route_that_it_names(route: str) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        answer = await client.generate(MODEL, "hello", ladder=(route,))
        assert answer.text == expected_text("hello")
        assert (answer.receipt.route, answer.receipt.job) == (route, "")
        assert routes(client) == {route: 1}
        assert ops_of(emulator)["create"] == 0


async def test_live_embeddings_share_calls() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        texts = prompts(150)
        vectors = await asyncio.gather(*(client.embed(EMBED_MODEL, text, ladder=FAST) for text in texts))
        alone = [await client.embed(EMBED_MODEL, text) for text in texts[:2]]
        assert [vector.values for vector in vectors[:2]] == [vector.values for vector in alone]
        assert routes(client)["standard"] == 150


async def test_what_the_live_api_refuses_waits_in_a_batch_and_nobody_notices() -> None:
    plan = Plan(faults={"generate.429": Fault()})
    async with Emulator(plan) as emulator, opened(emulator) as client:
        answers = await asyncio.gather(*(client.generate(MODEL, text, ladder=FAST) for text in prompts(200)))
        assert [answer.text for answer in answers] == [expected_text(text) for text in prompts(200)]
        assert {answer.receipt.route for answer in answers} == {"batch"}
        assert ops_of(emulator)["generate"] < 40


async def test_an_explicit_key_is_answered_live_once_for_all_processes(tmp_path: Any) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, home=tmp_path) as client:
            first = await client.generate(MODEL, "hello", key="k", ladder=("standard",))
        async with opened(emulator, home=tmp_path) as client:
            again = await client.generate(MODEL, "hello", key="k", ladder=("standard",))
            assert (again.raw, again.receipt.route, again.receipt.reused) == (first.raw, "standard", True)
        assert ops_of(emulator)["generate"] == 1


async def test_a_request_with_little_time_goes_live_at_once() -> None:
    async with Emulator() as emulator, opened(emulator, ladder=None) as client:
        answer = await client.generate(MODEL, "hello", deadline=60.0)
        assert (answer.receipt.route, CHEAP[-1]) == ("standard", "standard")


async def test_a_call_that_the_budget_forbids_is_told_so_and_the_client_goes_on() -> None:
    async with Emulator() as emulator, opened(emulator, budget_per_day_usd=Decimal("0.000000000001")) as client:
        for ladder in (("standard",), ("flex", "standard"), FAST):
            [error] = await refused(BudgetExceeded, client.generate(MODEL, "hello", ladder=ladder))
            assert "Settings.budget_per_day_usd" in str(error)
        assert client.health().status == "ok"
        assert asked_for(emulator) == []


async def test_a_bad_request_is_rejected_on_the_live_route_too() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        await refused(RequestRejected, client.generate("no-such-model", "x", ladder=FAST))
        assert ops_of(emulator)["create"] == 0
