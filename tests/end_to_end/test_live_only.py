"""What no batch can take, and a live call can: it passes the batch route over, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from carpool import CHEAP, FAST, NotBatchable, Request
from carpool.emulator import Emulator, Fault, Plan

from .support import MODEL, jobs_of, opened

PATTERNS = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "patternProperties": {"a": {"type": "string"}},
}
"""What the schemas that batches honour cannot say."""


class Counts(msgspec.Struct):
    counts: dict[str, int]


@pytest.mark.parametrize(
    ("more", "route"),
    [
        ({"ladder": FAST}, "standard"),
        ({"ladder": CHEAP}, "flex"),
        ({"ladder": CHEAP, "deadline": "9h"}, "flex"),
        ({"ladder": ("batch", "standard")}, "standard"),
    ],
)
async def test_a_schema_that_no_batch_can_take_goes_live_where_the_ladder_allows_it(
    more: dict[str, Any], route: str
) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        answer = await client.generate(MODEL, "hi", config={"response_json_schema": PATTERNS}, **more)
        assert (answer.receipt.route, set(answer.parsed)) == (route, {"name"})
        ticket = await client.submit(
            Request(model=MODEL, contents="hi", config={"response_json_schema": Counts}, key="k", **more)
        )
        assert isinstance((await ticket).parsed, Counts)
        assert not jobs_of(emulator)


@pytest.mark.parametrize("more", [{}, {"ladder": ("batch",)}])
async def test_a_schema_that_no_batch_can_take_is_refused_where_there_is_nothing_else(more: dict[str, Any]) -> None:
    config = {"response_json_schema": PATTERNS}
    async with Emulator() as emulator, opened(emulator) as client:
        with pytest.raises(NotBatchable, match=r"patternProperties.* carpool\.FAST\. Nothing was sent"):
            await client.generate(MODEL, "hi", config=config, **more)
        with pytest.raises(NotBatchable):
            await client.submit(Request(model=MODEL, contents="hi", config=config, key="k", **more))
        rows = [Request(model=MODEL, contents="hi", config=config, **more), Request(model=MODEL, contents="hi")]
        outcomes = [outcome async for outcome in client.map(rows)]
        assert sorted(type(outcome.error).__name__ for outcome in outcomes) == ["NoneType", "NotBatchable"]
        assert client.stats().waiting == 0


async def test_a_refused_live_call_that_no_batch_can_take_is_tried_again_live(tmp_path: Path) -> None:
    plan = Plan(faults={"generate.503": Fault(count=2)})
    async with Emulator(plan) as emulator, opened(emulator, tmp_path) as client:
        config = {"response_json_schema": PATTERNS}
        answer = await client.generate(MODEL, "hi", config=config, ladder=FAST, key="k")
        assert answer.receipt.route == "standard"
        assert not jobs_of(emulator)
