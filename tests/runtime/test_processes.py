"""Ends that only a real process can meet: signals, and loops that are closed under a client with a store on disk."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import carpool
from carpool.emulator import EmulatorThread, Plan, expected_text

MODEL: Final = "gemini-3.5-flash"
SETTINGS: Final = carpool.Settings(linger_s=0.01, poll_min_s=0.02, lookup_wait_s=0.02)
PATIENCE_S: Final = 30.0

SERVICE: Final = """
import asyncio, signal, sys
import carpool

async def serve(home, url, handled):
    settings = carpool.Settings(linger_s=0.01, poll_min_s=0.02)
    async with carpool.Client(api_key="k", base_url=url, home=home, settings=settings) as client:
        if handled:
            me = asyncio.current_task()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
        for name in ("a", "b"):
            await client.submit(carpool.Request(model="gemini-3.5-flash", contents=name, key=name))
        asking = asyncio.create_task(client.generate("gemini-3.5-flash", "bare"))
        while not client.stats().sent == 3:
            await asyncio.sleep(0.005)
        print("sent", flush=True)
        await asking

try:
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3] == "handled"))
except (asyncio.CancelledError, KeyboardInterrupt) as error:
    print(type(error).__name__, flush=True)
"""


@pytest.fixture
def emulator() -> Iterator[Any]:
    with EmulatorThread(Plan(latency_s=0.5)) as emulator:
        yield emulator


def client_of(emulator: Any, home: Path) -> carpool.Client:
    return carpool.Client(api_key="k", base_url=emulator.base_url, home=home, settings=SETTINGS)


def wait_for_end_of_threads(before: set[threading.Thread]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not {thread for thread in threading.enumerate() if thread.name == "carpool-store"} <= before:
        assert time.monotonic() < give_up_at, "the store's thread lives on"
        time.sleep(0.02)


def assert_goes_on(emulator: Any, home: Path) -> None:
    async def look() -> None:
        async with client_of(emulator, home) as client:
            tickets = await asyncio.gather(client.result("a"), client.result("b"))
            bare = await client.generate(MODEL, "bare")
            assert [one.json()["candidates"][0]["content"]["parts"][0]["text"] for one in tickets] == [
                expected_text("a"),
                expected_text("b"),
            ]
            assert bare.text == expected_text("bare")

    asyncio.run(look())
    assert [path.name for path in home.iterdir()] == ["slot-0"], "the next process found the slot taken"
    assert emulator.ledger().rows_billed == 3


class Stop(NamedTuple):
    """A way to stop a service, and how it ends."""

    number: int
    handled: bool
    says: str
    code: int


STOPS: Final = {
    "SIGTERM with a handler": Stop(signal.SIGTERM, True, "CancelledError", 0),
    "SIGTERM": Stop(signal.SIGTERM, False, "", -signal.SIGTERM),
    "SIGINT": Stop(signal.SIGINT, False, "KeyboardInterrupt", 0),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_service_that_is_told_to_stop(stop: Stop, emulator: Any, tmp_path: Path) -> None:
    program = [sys.executable, "-W", "error", "-c", SERVICE, str(tmp_path), emulator.base_url, "handled" * stop.handled]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "sent\n"
        child.send_signal(stop.number)
        rest, _ = child.communicate(timeout=PATIENCE_S)
    assert rest.strip() == stop.says
    assert child.returncode == stop.code
    assert (tmp_path / "slot-0" / "clean").exists() == bool(stop.says)
    assert_goes_on(emulator, tmp_path)


async def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "it never came"
        await asyncio.sleep(0.005)


async def start(emulator: Any, home: Path) -> carpool.Client:
    client = client_of(emulator, home)
    await client.__aenter__()
    for name in ("a", "b"):
        await client.submit(carpool.Request(model=MODEL, contents=name, key=name))
    bare = asyncio.create_task(client.generate(MODEL, "bare"))
    await until(lambda: client.stats().sent == 3)
    assert not bare.done()
    return client


def test_a_program_that_ends_with_its_client_open(emulator: Any, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    client = asyncio.run(start(emulator, tmp_path))
    wait_for_end_of_threads(before)
    assert (tmp_path / "slot-0" / "clean").exists()
    assert client.health().status == "failed"
    assert_goes_on(emulator, tmp_path)


@pytest.mark.parametrize("has_begun", [False, True], ids=["not begun", "begun"])
def test_a_program_that_ends_while_work_begins(has_begun: bool, emulator: Any, tmp_path: Path) -> None:
    """Nothing is left to be warned of, whether the work had begun or not."""
    before = set(threading.enumerate())
    begun: list[bool] = []
    starts: list[asyncio.Task[None]] = []

    async def work() -> None:
        begun.append(True)
        await asyncio.Event().wait()

    async def start_it(client: carpool.Client) -> None:
        client._runtime.start(work)

    async def program() -> None:
        client = client_of(emulator, tmp_path)
        await client.__aenter__()
        starts.append(asyncio.create_task(start_it(client)))  # it runs in the loop's last turn
        if has_begun:
            await until(lambda: begun)

    asyncio.run(program())
    gc.collect()
    assert bool(begun) == has_begun
    wait_for_end_of_threads(before)


def test_a_loop_that_is_closed_under_a_client(emulator: Any, tmp_path: Path) -> None:
    """Nothing is cancelled and nothing runs any more: the store notices by itself."""
    before = set(threading.enumerate())
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(start(emulator, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of sockets that nobody can close any more
        loop.close()
        wait_for_end_of_threads(before)
        assert client.health().status == "failed"
        assert "event loop" in client.health().reasons[0]

        async def leave() -> None:
            with pytest.raises(carpool.ClientClosed, match="event loop of this client was closed"):
                await client.generate(MODEL, "late")
            await client.__aexit__(None, None, None)

        asyncio.run(leave())
        assert_goes_on(emulator, tmp_path)
