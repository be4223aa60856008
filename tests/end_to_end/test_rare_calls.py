"""Rare calls of the client: wrong kinds and rows, schemas that are plain data, other event loops, results of others."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carpool import ConfigurationError, GenerateResponse, JobError, MemoryStore
from carpool._core.output import Block
from carpool._gemini.rows import decode_block
from carpool.emulator import Emulator, Fault, Plan

from .support import FILE, MODEL, make_client, opened

pytestmark = pytest.mark.anyio


async def test_a_map_of_another_kind_or_of_what_are_no_rows_is_refused_and_nothing_is_sent() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        rows: list[Any] = [{"key": "a", "request": {}}]
        with pytest.raises(ConfigurationError, match=r"kind is 'chat'; it must be 'generate' or 'embed'"):
            _ = [one async for one in client.map(rows, model=MODEL, kind="chat")]  # type: ignore[arg-type]
        for row, name in ((["a"], "list"), ("a", "str"), (None, "NoneType")):
            with pytest.raises(ConfigurationError, match=f"map takes rows of type Request or dict, not {name}"):
                _ = [one async for one in client.map([row], model=MODEL)]  # type: ignore[list-item]
        assert client.stats().waiting == 0
        assert not emulator.requests


async def test_an_answer_to_a_schema_of_plain_data_is_plain_data() -> None:
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]}
    config = {"response_mime_type": "application/json", "response_schema": schema}
    async with Emulator() as emulator, opened(emulator) as client:
        response = await client.generate(MODEL, "how many?", config=config)
        assert response.parsed == json.loads(response.text)
        assert isinstance(response.parsed["n"], int)
        assert (await client.generate(MODEL, "how many?")).parsed is None
        by_hand = GenerateResponse("k", response.raw, response._facts, 0.0, False, schema)
        assert by_hand.parsed == response.parsed


async def test_under_another_event_loop_it_says_so_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", object())
    async with Emulator() as emulator:
        async with opened(emulator) as client:  # it is loaded, and asyncio runs
            assert client.stats().waiting == 0
        store = MemoryStore()
        other = make_client(emulator, store=store)
        entering = other.__aenter__()

        def begin() -> None:
            with pytest.raises(ConfigurationError, match="carpool runs on asyncio only"):
                entering.send(None)

        await asyncio.to_thread(begin)  # where no loop of asyncio runs
        async with other:  # and it can still be entered where one does
            assert other.stats().waiting == 0


@pytest.mark.parametrize("name", ["download.403", "get.403"])
async def test_results_of_a_job_that_cannot_be_fetched_are_a_job_error(name: str) -> None:
    async with Emulator() as emulator, opened(emulator, **FILE) as client:
        response = await client.generate(MODEL, "x")
        job = response.receipt.job
        emulator.plan = Plan(faults={name: Fault(every=1)})
        with pytest.raises(JobError) as caught:
            _ = [one async for one in client.jobs.results(job)]
        assert (caught.value.job, caught.value.code) == (job, 403)
        emulator.plan = Plan()
        assert [one.ok async for one in client.jobs.results(job)] == [True]


async def test_a_row_of_a_job_just_too_deep_to_be_looked_into_costs_nobody_his(monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(depth: int) -> bytes:
        return b'{"candidates":%b%b}' % (b"[" * depth, b"]" * depth)

    rows = [b'{"key":"a","response":{"a":1}}']
    rows += [b'{"key":"%d","response":%b}' % (depth, nested(depth)) for depth in range(700, 1_100)]
    rows += [b'{"key":"z","response":{}}']
    # As the provider reads them: in a thread, where little of the stack is in use.
    block = await asyncio.to_thread(decode_block, b"\n".join(rows) + b"\n")

    async def fetch(_: Any) -> AsyncIterator[Block]:
        yield block

    async with Emulator() as emulator, opened(emulator, **FILE) as client:
        job = (await client.generate(MODEL, "x")).receipt.job
        monkeypatch.setattr(client.jobs._provider, "fetch", fetch)
        outcomes = [one async for one in client.jobs.results(job)]
        assert [one.key for one in outcomes] == [row.key for row in block.rows]
        assert [one.response.raw for one in outcomes if one.response] == [bytes(row.response) for row in block.rows]
        assert len(block.rows) > 100
