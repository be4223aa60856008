"""Until it is on record that a job is settled, its output is on the server, and its answers can be had again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from carpool import MemoryStore
from carpool._core.messages import DropJob, Write
from carpool.emulator import Emulator, Plan

from ..end_to_end.support import (  # noqa: TID252 - test folders are no packages
    FORMS,
    MODEL,
    ask_all,
    assert_billed_once,
    assert_own,
    jobs_of,
    opened,
    ops_of,
    prompts,
    until,
)


class Held(MemoryStore):
    """Takes its time over the commit that closes a job; ``before`` is what a process finds that dies meanwhile."""

    before: MemoryStore | None = None
    go_on: asyncio.Future[None]

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        if self.before is not None or not any(isinstance(write, DropJob) for write in writes):
            return super().commit(writes)
        self.before = self.reopened()
        self.go_on = asyncio.get_running_loop().create_future()
        super().commit(writes)
        return self.go_on


@FORMS
async def test_nothing_is_deleted_before_it_is_on_record_that_all_is_delivered(form: dict[str, Any]) -> None:
    store, texts = Held(), prompts(10)
    async with Emulator(Plan(latency_s=0.05)) as emulator:
        async with opened(emulator, store=store, **form, delete_remote=True) as client:
            keyed = asyncio.create_task(client.generate(MODEL, "keyed", key="keyed"))
            assert_own(texts, await ask_all(client, texts))
            await until(lambda: store.before is not None, "the commit that closes the job")
            try:
                # A process that dies now leaves the job open to the next one, and its output where it was.
                async with opened(emulator, store=store.before, **form) as later:
                    again = await ask_all(later, texts)
                    assert_own(texts, again)
                    assert all(answer.receipt.reused for answer in again)
                    assert_own(["keyed"], [await later.result("keyed")])
                assert not ops_of(emulator)["delete"]
            finally:
                store.go_on.set_result(None)
            assert_own(["keyed"], [await keyed])
            await until(lambda: ops_of(emulator)["delete"], "the deletion")
        assert jobs_of(emulator) == []
        assert_billed_once(emulator, [*texts, "keyed"])
