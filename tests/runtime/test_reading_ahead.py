"""While answers are on their way to the disk, a bounded number of blocks is read; nothing of them is told before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import carpool
from carpool._core.messages import PutResults, Write
from carpool._core.output import Block
from carpool._runtime.calls import BLOCKS_AHEAD
from carpool.types import BatchJob

from .virtual import MODEL, Service, answer, client_of, run, turns, until


class Slow(carpool.MemoryStore):
    """A store that keeps answers waiting until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.commits = 0

    def commit(self, writes: Sequence[Write]) -> Any:
        if not any(isinstance(write, PutResults) for write in writes):
            return super().commit(writes)
        self.commits += 1
        return self._commit_late(writes)

    async def _commit_late(self, writes: Sequence[Write]) -> None:
        await self.let.wait()
        await super().commit(writes)


class Counting(Service):
    """A service that sends one row a block, and may break off after some."""

    blocks = 0
    breaks_after = 0

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        number = 0
        async for block in super().fetch(job):
            if number == self.breaks_after > 0:
                self.breaks_after = 0
                raise self.broken()
            number += 1
            self.blocks += 1
            yield block

    def broken(self) -> Exception:
        from carpool._core.model import Fault  # noqa: PLC0415 - for one test
        from carpool._ports import ProviderError  # noqa: PLC0415

        return ProviderError(Fault(kind="unknown"))


def test_no_more_is_read_than_may_be_held_and_it_is_stored_together() -> None:
    async def main() -> None:
        service, store = Counting(), Slow()
        async with client_of(service, store) as client:
            calls = [asyncio.create_task(client.generate(MODEL, f"p{i}", key=f"k{i}")) for i in range(20)]
            await until(lambda: service.blocks > BLOCKS_AHEAD)
            await turns()
            assert service.blocks == BLOCKS_AHEAD + 1
            assert not any(call.done() for call in calls), "what is not stored is told to nobody"
            store.let.set()
            answers = await asyncio.gather(*calls)
            assert [one.text for one in answers] == [answer(f"p{i}") for i in range(20)]
            assert store.commits <= 20 // 2

    run(main())


def test_what_was_read_before_a_break_is_stored_and_told_though_nobody_waits_for_it_to_be() -> None:
    async def main() -> None:
        service, store = Counting(), Slow()
        service.breaks_after = 2
        async with client_of(service, store) as client:
            calls = [asyncio.create_task(client.generate(MODEL, f"p{i}", key=f"k{i}")) for i in range(4)]
            await until(lambda: service.blocks == 2)
            await turns()
            store.let.set()
            answers = await asyncio.gather(*calls)
            assert [one.text for one in answers] == [answer(f"p{i}") for i in range(4)]
            assert client.receipt().requests == 4
        assert service.billed() == {f"p{i}": 1 for i in range(4)}

    run(main())
