"""Parts of the runtime by themselves: reads of stored results, the opening, who awaits what, who waits his turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.contract.records import put_results, put_segment

from carpool import RequestFailed, StoreCorrupt, StoreError
from carpool._core.messages import Record
from carpool._core.model import place_of
from carpool._runtime.awaiters import Answer, Awaiters
from carpool._runtime.errand import Crew
from carpool._runtime.gate import Gate
from carpool._runtime.kept import KeptReads
from carpool._runtime.opening import recover
from carpool.errors import ClientClosed, DeadlineExceeded
from carpool.settings import Settings

from .virtual import turns

pytestmark = pytest.mark.anyio


# -- the opening


@pytest.mark.parametrize(
    ("records", "words"),
    [([], "the store is empty: it holds no identity"), ([put_segment(1).head], "does not begin with its identity")],
    ids=["empty", "headless"],
)
async def test_a_store_without_its_identity_is_not_used(records: list[Record], words: str) -> None:
    async def load() -> AsyncIterator[Record]:
        for record in records:
            yield record

    provider: Any = SimpleNamespace(framing=None, origin="o")
    with pytest.raises(StoreError, match=words):
        await recover(cast("Any", SimpleNamespace(load=load)), provider, Settings(), lambda: 0.0)


# -- reads of stored results


class Shelf:
    """A store whose reads do what a test says, and the results that an engine knows."""

    def __init__(self, *numbers: int) -> None:
        self.results_known = {no: put_results(no).head for no in numbers}
        self.reads: list[list[int]] = []
        self.on_read: Callable[[], None] = lambda: None
        self.took: list[int] = []
        book = SimpleNamespace(results=self.results_known, prices={}, settings=Settings())
        engine: Any = SimpleNamespace(book=book, took=self.took.append)
        self.kept = KeptReads(engine, cast("Any", self))

    async def results(self, places: list[int]) -> list[bytes]:
        self.reads.append(places)
        self.on_read()
        return [b"{}" for _ in places]

    def forget(self, no: int) -> None:
        del self.results_known[no]


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool._runtime.kept.facts_of", lambda *_, **__: "facts")


@pytest.mark.usefixtures("facts")
async def test_what_is_dropped_while_it_is_read_is_told_as_gone_and_the_others_are_read_again() -> None:
    shelf = Shelf(1, 2)
    gone, there = shelf.kept.ask(place_of(1, 0)), shelf.kept.ask(place_of(2, 0))

    def drop() -> None:
        if len(shelf.reads) == 1:
            shelf.forget(1)
            raise StoreError("a place is not there")

    shelf.on_read = drop
    await shelf.kept.serve()
    assert shelf.reads == [[place_of(1, 0), place_of(2, 0)], [place_of(2, 0)]]
    assert await there == Answer(b"{}", cast("Any", "facts"))
    error = gone.exception()
    assert isinstance(error, RequestFailed)
    assert (error.key, "was dropped before it could be read" in str(error)) == ("r1-0", True)


@pytest.mark.usefixtures("facts")
async def test_whoever_left_before_his_result_was_dropped_or_read_is_told_nothing() -> None:
    shelf = Shelf(1, 2)
    futures = [shelf.kept.ask(place_of(no, 0)) for no in (1, 2)]
    for future in futures:
        future.cancel()
    shelf.forget(1)
    await shelf.kept.serve()
    assert shelf.reads == [[place_of(2, 0)]]
    assert all(future.cancelled() for future in futures)


async def test_results_that_cannot_be_read_are_each_told_with_an_error_of_its_own() -> None:
    shelf = Shelf(1)
    first, second, left = (shelf.kept.ask(place_of(1, row)) for row in (0, 2, 2))
    left.cancel()

    def damaged() -> None:
        raise StoreCorrupt("a page is gone")

    shelf.on_read = damaged
    await shelf.kept.serve()
    errors = [first.exception(), second.exception()]
    assert [(type(error), str(error)) for error in errors] == [(StoreCorrupt, "a page is gone")] * 2
    assert errors[0] is not errors[1]
    assert not shelf.kept


async def test_those_whose_read_is_broken_off_wait_until_they_are_sent_away() -> None:
    shelf = Shelf(1)
    future = shelf.kept.ask(place_of(1, 0))

    def cancelled() -> None:
        raise asyncio.CancelledError

    shelf.on_read = cancelled
    with pytest.raises(asyncio.CancelledError):
        await shelf.kept.serve()
    assert not future.done()
    shelf.kept.dismiss(ClientClosed("left"))
    with pytest.raises(ClientClosed, match="left"):
        await future
    assert not shelf.kept


# -- who awaits what


def futures(count: int) -> list[asyncio.Future[Any]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_an_awaiter_that_is_dropped_leaves_the_others_and_a_stranger_nothing() -> None:
    awaiters, place = Awaiters(), place_of(1, 0)
    first, second, stranger = futures(3)
    awaiters.open(place).append(first)
    assert awaiters.drop(place, stranger)  # another one awaits it
    awaiters.attach(place, second, None, None)
    assert awaiters.drop(place, first)
    assert not awaiters.drop(place, second)
    assert not awaiters.has(place)
    for nowhere in (place, place_of(1, 5), place_of(9, 0)):
        assert not awaiters.drop(nowhere, first)
        assert awaiters.take(nowhere) == []
        assert not awaiters.expire(nowhere, 1.0, "k")


async def test_deadlines_end_those_whose_they_are() -> None:
    awaiters, place = Awaiters(), place_of(1, 2)
    soon, late, never = futures(3)
    awaiters.attach(place, soon, 5.0, None)  # the rows before it have nobody
    awaiters.attach(place, late, 9.0, None)
    awaiters.attach(place, never, None, None)
    assert not awaiters.expire(place, 5.0, "k")
    assert isinstance(soon.exception(), DeadlineExceeded)
    assert awaiters.take(place) == [late, never]
    assert not awaiters.has(place_of(1, 0))


async def test_an_answer_goes_straight_to_who_awaits_it_alone_and_is_still_there() -> None:
    awaiters, alone, shared, left = Awaiters(), place_of(1, 0), place_of(1, 1), place_of(1, 2)
    one, two, three, gone = futures(4)
    awaiters.columns[1] = [one, two, gone]
    awaiters.attach(shared, three, None, None)
    gone.cancel()
    assert [awaiters.take_only(place) for place in (shared, left, place_of(1, 3), place_of(2, 0))] == [None] * 4
    assert awaiters.take_only(alone) is one
    assert not awaiters.has(alone)
    assert awaiters.take(shared) == [two, three]


async def test_all_that_are_left_are_returned_once() -> None:
    awaiters = Awaiters()
    one, two, done, gone = futures(4)
    awaiters.columns[1] = [one, done]
    awaiters.attach(place_of(2, 3), two, None, None)
    awaiters.open(place_of(3, 2)).append(gone)
    assert awaiters.take(place_of(3, 1)) == []
    assert awaiters.has(place_of(3, 2))
    done.set_result(None)
    awaiters.forget([3, 4])
    assert awaiters.clear() == [one, two]
    assert awaiters.clear() == []


# -- who does what


async def test_a_crew_has_as_many_tasks_as_are_busy_at_once() -> None:
    started: list[asyncio.Task[None]] = []
    done: list[int] = []
    go_on = asyncio.Event()

    async def work(item: int) -> None:
        await go_on.wait()
        done.append(item)

    crew = Crew(work, lambda serve, item: started.append(asyncio.create_task(serve(item))))
    for item in (1, 2, 3):
        crew.do(item)
    go_on.set()
    for item in (4, 5):
        await turns()
        crew.do(item)
    await turns()
    assert (sorted(done), len(started)) == ([1, 2, 3, 4, 5], 3)
    started[-1].cancel()  # a task that is ended while it is idle is given no work any more
    for item in (6, 7, 8):
        crew.do(item)
    await turns()
    assert (sorted(done), len(started)) == ([1, 2, 3, 4, 5, 6, 7, 8], 4)
    for task in started:
        task.cancel()
    await asyncio.wait(started)


# -- turns


async def test_who_gave_up_his_turn_is_neither_let_in_nor_sent_away() -> None:
    gate = Gate(requests_max=1, bytes_max=1_000)
    callers = [asyncio.create_task(gate.wait()) for _ in range(4)]
    await asyncio.sleep(0)
    assert gate.queued == 4
    callers[0].cancel()
    await asyncio.wait(callers[:1])
    gate.release(0, 0)  # room for one: for the first who still waits
    await asyncio.wait(callers[:2])
    assert [caller.cancelled() for caller in callers[:2]] == [True, False]
    callers[2].cancel()
    gate.shut_down()
    await asyncio.wait(callers)
    assert callers[2].cancelled()
    with pytest.raises(ClientClosed, match="nothing was sent"):
        await callers[3]
    assert not gate.expects
