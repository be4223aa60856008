"""The way into a loop in another thread: what callers are told when it ends under them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from carpool import ClientClosed
from carpool._portal import Portal, Stream

pytestmark = pytest.mark.anyio
PATIENCE_S = 60.0


async def nothing() -> None:
    return None


@pytest.fixture
def left() -> list[str]:
    return []


@pytest.fixture
def portal(left: list[str]) -> Iterator[Portal]:
    portal = Portal(lambda: left.append("left"))
    portal.open(nothing)
    yield portal
    portal.close(nothing)


def test_a_call_that_is_cancelled_on_the_loop_is_told_as_closed(portal: Portal) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ClientClosed):
        portal.call(cancelled)
    assert portal.state == "open"
    portal.call(nothing)


def test_a_call_that_comes_while_another_thread_closes_is_told_as_closed(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, may_go_on = threading.Event(), threading.Event()
    check: Callable[[], None] = portal._check

    def checked_and_held() -> None:
        check()
        checked.set()
        assert may_go_on.wait(PATIENCE_S)

    with ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(portal, "_check", checked_and_held)
            call = pool.submit(portal.call, nothing)
            assert checked.wait(PATIENCE_S)
        portal.close(nothing)
        may_go_on.set()
        with pytest.raises(ClientClosed):
            call.result(PATIENCE_S)


def test_a_first_call_that_fails_leaves_no_thread_and_cannot_be_tried_again() -> None:
    async def fails() -> None:
        raise OSError("no")

    before = threading.active_count()
    portal = Portal(lambda: None)
    with pytest.raises(OSError, match="no"):
        portal.open(fails)
    assert (portal.state, threading.active_count()) == ("closed", before)
    with pytest.raises(ClientClosed):
        portal.call(nothing)
    portal.close(nothing)  # there is nothing to close


def test_a_thread_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("carpool._portal.start_blocking_portal", fails)
    portal = Portal(lambda: None)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        portal.open(nothing)
    assert portal.state == "closed"


def test_at_the_end_of_the_interpreter_only_the_process_that_opened_it_leaves(
    portal: Portal, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        portal._end_of_interpreter()
        assert left == []
    portal._end_of_interpreter()
    assert left == ["left"]


async def test_a_stream_that_is_stopped_tells_whoever_takes_from_it() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    stream = Stream(numbers, 10)
    stream.stop()  # before anything was taken there is nothing to stop
    assert await stream.take() == [1]
    taking = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    stream.stop()
    with pytest.raises(ClientClosed):
        await taking
    assert ended == ["ended"]


async def test_what_a_stream_gave_before_its_error_is_taken_first() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    stream = Stream(numbers, 10)
    assert await stream.take() == [1, 2]
    with pytest.raises(KeyError, match="three"):
        await stream.take()
