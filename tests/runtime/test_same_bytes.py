"""One result for each key: whoever asks, now or after a restart, gets the bytes that the server sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

import carpool
from carpool._core.output import Block, Row
from carpool.types import BatchJob

from .virtual import MODEL, Service, client_of, run, turns, until

ODD: Final = (
    b'{ "candidates" : [ {"content":{"parts":[{"text":"\\u00e9\\ud83d\\ude00 \xc3\xa9"}]} , "x":1e2}],'
    b' "modelVersion":"m" }'
)
"""Bytes that no re-encoding would give back."""


class Odd(Service):
    """A service whose every answer is spelt oddly, and another one at each fetch."""

    fetches = 0
    breaks_after: int | None = None

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        self.fetches += 1
        for number, (key, _) in enumerate(self.jobs[job.name].rows):
            if number == self.breaks_after:
                self.breaks_after = None
                raise broken()
            body = ODD[:-1] + b', "fetch":%d, "key":%s}' % (self.fetches, json.dumps(key).encode())
            yield Block.of([Row(key, body)])
            await self._pass("row")


def broken() -> Exception:
    from carpool._core.model import Fault  # noqa: PLC0415 - for one test
    from carpool._ports import ProviderError  # noqa: PLC0415

    return ProviderError(Fault(kind="unknown"))


@pytest.mark.parametrize("breaks_after", [None, 0, 1, 2], ids=lambda one: f"breaks after {one}")
def test_awaiters_of_one_key_now_and_later(breaks_after: int | None) -> None:
    async def main() -> None:
        service, store = Odd(), carpool.MemoryStore()
        service.breaks_after = breaks_after
        async with client_of(service, store) as client:
            ticket = await client.submit(carpool.Request(model=MODEL, contents="p", key="k"))
            others = [client.generate(MODEL, f"o{i}", key=f"o{i}") for i in range(2)]
            calls = [client.generate(MODEL, "p", key="k") for _ in range(5)]
            answers = await asyncio.gather(*calls, client.result("k"), *others)
            raws = {one.raw for one in answers[:6]} | {(await ticket).raw, (await client.result("k")).raw}
            assert len(raws) == 1
            (raw,) = raws
            assert raw.startswith(ODD[:-1])
        for _ in range(2):
            store = store.reopened()
            async with client_of(service, store) as client:
                assert (await client.result("k")).raw == raw
                assert (await client.generate(MODEL, "p", key="k")).raw == raw
                assert (await client.submit(carpool.Request(model=MODEL, contents="p", key="k"))).key == "k"
        assert set(service.billed().values()) == {1}

    run(main())


def test_an_answer_that_its_caller_did_not_live_to_take() -> None:
    """It was in his future already: whoever asks the same next gets these bytes, in a later process too."""

    async def main() -> None:
        service, store = Odd(), carpool.MemoryStore()
        seen: list[bytes] = []
        async with client_of(service, store) as client:
            gone = asyncio.create_task(client.generate(MODEL, "p"))
            handover = client._runtime._handover
            whole = handover.give

            async def give_and_cancel() -> None:
                handed = [body for due in handover._due for body in due.handful.bodies]
                await whole()
                if handed:
                    seen.extend(handed)
                    gone.cancel()

            handover.give = give_and_cancel  # type: ignore[method-assign]
            await asyncio.wait((gone,))
            assert gone.cancelled()
            await client.drain()
        async with client_of(service, store.reopened()) as client:
            again = await client.generate(MODEL, "p")
            assert [again.raw] == seen
            assert again.receipt.reused
        assert service.billed() == {"p": 1}

    run(main())


@pytest.mark.parametrize("leaves", ["before the answer is fetched", "while it is fetched"])
def test_an_answer_whose_caller_went_earlier(leaves: str) -> None:
    async def main() -> None:
        service, store = Odd(), carpool.MemoryStore()
        point = "poll" if leaves.startswith("before") else "row"
        async with client_of(service, store) as client:
            service.held.add(point)
            tasks = [asyncio.create_task(client.generate(MODEL, f"p{i}")) for i in range(3)]
            await until(lambda: service.passed[point])
            await turns()
            tasks[2].cancel()
            await asyncio.wait((tasks[2],))
            service.held.clear()
            first = await asyncio.gather(*tasks[:2])
            await client.drain()
            again = await asyncio.gather(client.generate(MODEL, "p2"), client.generate(MODEL, "p2", key="own"))
            assert again[0].raw.startswith(ODD[:-1])
            assert json.loads(again[0].raw)["fetch"] == 1
            assert len({one.raw for one in (*first, *again)}) == 4
        assert service.billed() == {"p0": 1, "p1": 1, "p2": 2}, "a key of one's own is another request"

    run(main())


def test_a_process_that_dies_between_keeping_and_telling() -> None:
    """What is stored when it dies is what the next one gives, and not what another fetch would bring."""

    class Dying(carpool.MemoryStore):
        dead: carpool.MemoryStore | None = None

        def commit(self, writes: Any) -> Any:
            done = super().commit(writes)
            if self.dead is None and any(type(write).__name__ == "PutResults" for write in writes):
                self.dead = self.reopened()
            return done

    async def main() -> None:
        service, store = Odd(), Dying()
        async with client_of(service, store) as client:
            first = await client.generate(MODEL, "p", key="k")
        assert store.dead is not None
        async with client_of(service, store.dead) as client:
            assert (await client.result("k")).raw == first.raw
        assert service.billed() == {"p": 1}

    run(main())
