"""Ends that come between two steps: in the turn of the event loop between a word and its hearing."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable
from decimal import Decimal
from typing import Any

import anyio
import pytest

import carpool
from carpool._core.messages import Write
from carpool._core.output import Block, Row
from carpool.types import BatchJob

from .virtual import MODEL, Service, answer, client_of, run, turns, until


class Slow(carpool.MemoryStore):
    """Takes a turn of the loop to be closed, as every store that does something."""

    closed = False

    async def close(self) -> None:
        await asyncio.sleep(0)
        await super().close()
        self.closed = True


# -- opening


@pytest.mark.parametrize("point", ["provider", "loading", "runner"])
@pytest.mark.parametrize("by", ["scope", "task"])
def test_an_opening_that_is_cancelled_lets_go_of_everything(point: str, by: str) -> None:
    class Stuck(Service):
        async def open(self) -> None:
            await super().open()
            if point == "provider":
                reached.set()
                await asyncio.Event().wait()

        async def close(self) -> None:
            await asyncio.sleep(0)
            await super().close()

    class Loading(Slow):
        async def load(self) -> AsyncIterator[Any]:
            if point == "loading":
                reached.set()
                await asyncio.Event().wait()
            async for record in super().load():
                yield record

    reached = asyncio.Event()

    async def main() -> None:
        service, store = Stuck(), Loading()
        client = client_of(service, store)
        if point == "runner":
            begin = client._runtime._run

            def begin_and_cancel(ready: Any) -> Any:
                asyncio.get_running_loop().call_soon(scope.cancel if by == "scope" else task.cancel)
                return begin(ready)

            client._runtime._run = begin_and_cancel  # type: ignore[method-assign]

        async def enter() -> None:
            with scope:
                await client.__aenter__()
                raise AssertionError("it was opened")
            raise asyncio.CancelledError

        scope = anyio.CancelScope()
        task = asyncio.create_task(enter())
        if point != "runner":
            await reached.wait()
            (scope if by == "scope" else task).cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        await turns()
        assert store.closed
        assert not service.is_open
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises((carpool.ClientClosed, carpool.ConfigurationError)):
            await client.generate(MODEL, "p")
        await client.__aexit__(None, None, None)

    run(main())


def test_a_runner_that_is_cancelled_before_it_begins_does_not_leave_its_opener_waiting() -> None:
    async def main() -> None:
        service, store = Service(), Slow()
        client = client_of(service, store)
        begin = client._runtime._run

        def begin_and_end(ready: Any) -> Any:
            def end() -> None:
                (runner,) = (task for task in asyncio.all_tasks() if task.get_name() == "carpool")
                runner.cancel()

            coroutine = begin(ready)
            asyncio.get_running_loop()._ready.appendleft(asyncio.get_running_loop().call_soon(end))  # type: ignore[attr-defined]
            return coroutine

        client._runtime._run = begin_and_end  # type: ignore[method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of the coroutine that never began
            with pytest.raises(carpool.ClientClosed):
                await client.__aenter__()
        assert store.closed
        assert not service.is_open

    run(main())


def test_a_call_while_the_client_is_being_opened_is_told_so() -> None:
    class Opening(Service):
        async def open(self) -> None:
            await super().open()
            await asyncio.sleep(10)

    async def main() -> None:
        client = client_of(Opening(), carpool.MemoryStore())
        entering = asyncio.create_task(client.__aenter__())
        await asyncio.sleep(1)
        with pytest.raises(carpool.ConfigurationError, match="not open"):
            await client.generate(MODEL, "early")
        await entering
        assert (await client.generate(MODEL, "p")).text == answer("p")
        await client.__aexit__(None, None, None)

    run(main())


# -- the gate


def test_a_drain_waits_for_those_who_were_let_in_and_have_not_come_yet() -> None:
    async def main() -> None:
        service = Service()
        settings: dict[str, Any] = {"waiting_requests_max": 1, "linger_s": 60.0, "on_close": "drain"}
        async with client_of(service, carpool.MemoryStore(), **settings) as client:
            first = asyncio.create_task(client.generate(MODEL, "first"))
            await turns()
            second = asyncio.create_task(client.generate(MODEL, "second"))
            await turns()
            assert client.stats().queued_callers == 1
            first.cancel()
        assert (await second).text == answer("second")

    run(main())


# -- awaiters


def test_a_call_joins_a_key_that_was_just_given_after_one_with_a_deadline() -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore()) as client:
            answers = await asyncio.gather(
                client.generate(MODEL, "hurried", deadline="4h"),
                client.generate(MODEL, "p", key="k"),
                client.generate(MODEL, "p", key="k"),
                client.generate(MODEL, "p", key="k", deadline="3h"),
            )
            assert [one.text for one in answers] == [answer("hurried"), *[answer("p")] * 3]
        assert service.billed() == {"hurried": 1, "p": 1}

    run(main())


def test_who_adopted_a_stored_answer_is_cancelled_in_the_turn_in_which_it_is_handed_over() -> None:
    """It is kept for the next one like him, and no other request counts as answered by it."""

    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        async with client_of(service, store) as client:
            service.held.add("poll")
            gone = asyncio.create_task(client.generate(MODEL, "p"))
            await until(lambda: service.passed["poll"])
            gone.cancel()
            service.held.clear()
            await client.drain()
            (number,) = client._runtime.engine.book.results
            # The place of what is stored is also that of a request: of one that is not answered yet.
            client._runtime.engine.book.next_segment = number
            waiting = asyncio.create_task(client.submit(carpool.Request(model=MODEL, contents="ticket", key="ticket")))
            service.held.add("upload")
            service.held.add("create")
            await waiting
            assert number in client._runtime.engine.book.segments
            hand = client._runtime._kept._hand

            def hand_and_cancel(*arguments: Any) -> None:
                hand(*arguments)
                again.cancel()

            client._runtime._kept._hand = hand_and_cancel  # type: ignore[assignment, method-assign]
            again = asyncio.create_task(client.generate(MODEL, "p"))
            await asyncio.wait((again,))
            assert again.cancelled()
            await client._runtime.turn()
            behind = store.reopened()
            await client.__aexit__(ZeroDivisionError, None, None)
        service.held.clear()
        async with client_of(service, behind) as client:
            assert (await client.generate(MODEL, "p")).text == answer("p")
            assert (await client.result("ticket")).json()["candidates"]
        assert service.billed() == {"p": 1, "ticket": 1}

    run(main())


def test_an_answer_too_deep_to_be_read_costs_nobody_his() -> None:
    class Deep(Service):
        async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
            async for block in super().fetch(job):
                (row,) = block.rows
                body = (
                    b'{"candidates":' + b"[" * 5_000 + b"]" * 5_000 + b"}" if b"deep" in row.response else row.response
                )
                yield Block.of([Row(row.key, body)])

    async def main() -> None:
        service = Deep()
        settings = {"prices": {MODEL: carpool.Price(input_usd=Decimal(1), output_usd=Decimal(1))}}
        async with client_of(service, carpool.MemoryStore(), **settings) as client:
            answers = await asyncio.gather(*(client.generate(MODEL, p) for p in ("a", "deep", "b")))
            assert [answers[0].text, answers[2].text] == [answer("a"), answer("b")]
            assert len(answers[1].raw) > 10_000

    run(main())


# -- a store that fails


class Full(Slow):
    """Nothing can be written any more, from a moment on, and nothing can be read."""

    full = False

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        if not self.full:
            return super().commit(writes)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(carpool.StoreFull("the disk is full"))
        return failed


def test_a_client_that_fails_while_its_disk_is_full_lets_go_of_its_store_at_once() -> None:
    async def main() -> None:
        service, store = Service(), Full()
        client = client_of(service, store)
        await client.__aenter__()
        store.full = True
        waiting = asyncio.create_task(client.generate(MODEL, "p"))
        await asyncio.sleep(10)
        client._runtime._fail(carpool.StoreCorrupt("a segment is damaged"))
        with pytest.raises(carpool.StoreCorrupt):
            await waiting
        await asyncio.sleep(10)
        assert store.closed
        assert not service.is_open
        assert client.health().status == "failed"
        await client.__aexit__(None, None, None)

    run(main())


def test_a_forgotten_client_lets_go_where_warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", raised.append)

    async def main() -> None:
        service, store = Service(), Slow()
        await client_of(service, store).__aenter__()
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            gc.collect()
            await until(lambda: store.closed, "the end")
        assert not service.is_open

    run(main())


# -- rows that come more than once


class Doubling(Service):
    """A service whose output has rows twice."""

    def __init__(self, doubles: dict[str, bytes | None], breaks_at: int | None = None) -> None:
        super().__init__()
        self.doubles = doubles
        self.breaks_at = breaks_at
        self.reads = 0

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        from carpool._core.model import Fault  # noqa: PLC0415 - for one class
        from carpool._ports import ProviderError  # noqa: PLC0415

        self.reads += 1
        rows = [row async for block in super().fetch(job) for row in block.rows]
        for key, body in self.doubles.items():
            (row,) = (row for row in rows if row.key == key)
            rows.append(Row(key, row.response if body is None else body))
        for number, row in enumerate(rows):
            if number == self.breaks_at:
                self.breaks_at = None
                raise ProviderError(Fault(kind="unknown"))
            yield Block.of([row])


@pytest.mark.parametrize("breaks_at", [None, 0, 1, 3, 4, 5])
@pytest.mark.parametrize(
    ("doubles", "counted"),
    [({}, 0), ({"a": None}, 0), ({"a": b'{"other":1}'}, 1), ({"a": None, "b": b'{"other":1}', "c": b'{"other":2}'}, 2)],
    ids=["none", "the same", "another", "some"],
)
def test_doubled_rows(doubles: dict[str, bytes | None], counted: int, breaks_at: int | None) -> None:
    """The first counts, whatever breaks off; others are kept and counted; the output is read again only for them."""

    async def main() -> None:
        service = Doubling(doubles, breaks_at)
        settings = {"inline_cost_max_usd": Decimal(0)}
        async with client_of(service, carpool.MemoryStore(), **settings) as client:
            keys = ["a", "b", "c"]
            answers = await asyncio.gather(*(client.generate(MODEL, key, key=key) for key in keys))
            await client.drain()
            assert [one.text for one in answers] == [answer(key) for key in keys]
            assert client.stats().quarantined == counted
            aside = [key for key, _ in client._runtime.engine.book.keys.all_kept() if key.startswith("aside/")]
            bodies = {(await client.result(key)).raw for key in aside}
            assert bodies == {body for body in doubles.values() if body is not None}
            broke_off = breaks_at is not None and breaks_at < 3 + len(doubles)
            assert service.reads == 1 + bool(doubles) + broke_off
        assert service.billed() == {"a": 1, "b": 1, "c": 1}

    run(main())


def test_nothing_is_kept_of_rows_that_came_once() -> None:
    from carpool._runtime.fetch import RowSorter  # noqa: PLC0415 - only here

    sorters: list[RowSorter] = []
    made = RowSorter.__init__

    def remember(self: RowSorter, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        sorters.append(self)

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RowSorter, "__init__", remember)
            async with client_of(Service(), carpool.MemoryStore()) as client:
                await asyncio.gather(*(client.generate(MODEL, f"p{i}") for i in range(20)))
                await client.drain()
        (sorter,) = sorters
        grown = {name: value for name, value in vars(sorter).items() if name not in ("_book", "_facts", "_keys")}
        assert not any(len(value) for name, value in grown.items() if hasattr(value, "__len__") and name != "_columns")

    run(main())
