"""Servers that do not come to an end: what is held of their answers is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import carpool
from carpool._core.output import Block, Row
from carpool._runtime import calls
from carpool._runtime.fetch import RowSorter, Sorted
from carpool.types import BatchJob

from .virtual import MODEL, Service, answer, client_of, run, until


class Endless(Service):
    """A service that sends rows without keys as long as anybody reads, and then ends after all."""

    sent = 0
    held_max = 0

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        for number in range(1_000):
            self.sent = number
            yield Block.of([Row("", b'{"n":%d}' % number) for _ in range(10)])
        async for block in super().fetch(job):
            yield block


def test_rows_that_cannot_be_matched_by_position_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Endless()
    sizes: list[int] = []
    sort = RowSorter.sort

    def measured(self: RowSorter, job_id: str, op: int, block: Block) -> Sorted:
        sizes.append(len(block.rows))
        return sort(self, job_id, op, block)

    async def main() -> None:
        monkeypatch.setattr(RowSorter, "sort", measured)
        async with client_of(service, carpool.MemoryStore(), match_by_position=True) as client:
            answers = await asyncio.gather(*(client.generate(MODEL, f"p{i}") for i in range(15)))
            assert [one.text for one in answers] == [answer(f"p{i}") for i in range(15)]
            await client.drain()
            assert client.stats().quarantined == 10_000

    run(main())
    assert max(sizes) == 20
    assert service.sent == 999


@pytest.mark.parametrize("unreadable", [0, 1])
def test_rows_that_fit_are_matched_by_position(unreadable: int) -> None:
    class Keyless(Service):
        async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
            async for block in super().fetch(job):
                (row,) = block.rows
                yield Block.of([Row("", row.response)])
            yield Block.of([], unreadable=unreadable)

    async def main() -> None:
        async with client_of(Keyless(), carpool.MemoryStore(), match_by_position=True, attempts_max=1) as client:
            calls = (client.generate(MODEL, f"p{i}") for i in range(3))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            if unreadable:
                assert {type(one) for one in outcomes} == {carpool.ResultMissing}
            else:
                assert [one.text for one in outcomes] == [answer(f"p{i}") for i in range(3)]  # type: ignore[union-attr]

    run(main())


def test_a_list_of_jobs_that_does_not_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SWEPT_JOBS_MAX", 100)

    class Listing(Service):
        listed = 0

        async def list_jobs(self) -> AsyncIterator[BatchJob]:
            await self._pass("list")
            (job,) = [job async for job in super().list_jobs()]
            while True:
                self.listed += 1
                yield job
                await asyncio.sleep(0)

    async def main() -> None:
        service, store = Listing(), carpool.MemoryStore()
        async with client_of(service, store) as client:
            await client.generate(MODEL, "a", key="a")
        service.listed = 0
        async with client_of(service, store.reopened()) as client:
            await until(lambda: service.listed > 100, "the sweep")
            assert (await client.generate(MODEL, "b")).text == answer("b")
            assert service.listed <= 101 * service.passed["list"]

    run(main())
