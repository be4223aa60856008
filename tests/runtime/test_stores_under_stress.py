"""A client on a real store that gets narrow, cannot be written to, or should have forgotten what was delivered."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import carpool
from carpool._core.messages import Write
from carpool._stores.database import Database
from carpool.emulator import Emulator, Plan, expected_text

from .virtual import Service, answer, run, turns
from .virtual import client_of as virtual_client_of
from .virtual import until as virtual_until

MODEL: Final = "gemini-3.5-flash"
EMBED_MODEL: Final = "gemini-embedding-001"
NOBODY: Final = 65_534
QUICK: Final[dict[str, Any]] = {"linger_s": 0.01, "poll_min_s": 0.02, "segment_bytes": 4_096}


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(plan=Plan(latency_s=0.01)) as emulator:
        yield emulator


def client_of(emulator: Emulator, home: Path, **settings: Any) -> carpool.Client:
    return carpool.Client(
        api_key="k", base_url=emulator.base_url, home=home, settings=carpool.Settings(**(QUICK | settings))
    )


async def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at, "it never came"
        await asyncio.sleep(0.005)


# -- a limit of the user's own


async def test_a_store_takes_no_more_than_it_may_and_takes_more_once_there_is_room(
    emulator: Emulator, tmp_path: Path
) -> None:
    async with client_of(emulator, tmp_path, store_bytes_max=2_000_000, linger_s=60, linger_max_s=60) as client:
        outcomes: list[Any] = []

        async def ask(number: int) -> None:
            try:
                outcomes.append(await client.generate(MODEL, f"{number} " + "x" * 20_000))
            except carpool.StoreFull as error:
                outcomes.append(error)

        asking = [asyncio.create_task(ask(number)) for number in range(200)]
        await until(lambda: outcomes)
        await client._runtime.turn()
        refused = len(outcomes)
        assert 0 < refused < 200
        assert {type(one) for one in outcomes} == {carpool.StoreFull}
        assert "Settings.store_bytes_max" in str(outcomes[0])
        assert client.health().reasons[0].startswith("store_")
        assert not emulator.ledger().rows_billed
        await client.flush()
        await asyncio.gather(*asking)
        assert sum(isinstance(one, carpool.GenerateResponse) for one in outcomes) == 200 - refused
        await client.drain()
        assert client.health().status == "ok", client.health()
        late = asyncio.create_task(client.generate(MODEL, "late"))
        await asyncio.sleep(0)
        await client.flush()
        assert (await late).text == expected_text("late")
    assert emulator.ledger().rows_billed == 201 - refused


# -- what cannot be written to


async def test_a_database_that_becomes_read_only_stops_the_client_and_nothing_is_lost(
    emulator: Emulator, tmp_path: Path
) -> None:
    client = client_of(emulator, tmp_path)
    await client.__aenter__()
    first = await client.generate(MODEL, "kept", key="kept")
    await client.drain()
    store: Any = client._runtime._store

    def read_only(database: Database) -> None:
        database._opened._sql("PRAGMA query_only = 1")

    await store._call(read_only)
    calls = len([call for call in emulator.requests if call.op == "create"])
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(
            *(client.generate(MODEL, f"p{i}", key=f"p{i}") for i in range(3)), return_exceptions=True
        )
        assert {type(one) for one in outcomes} == {carpool.StoreError}
        assert client.health().status == "failed"
        with pytest.raises(carpool.StoreError):
            await client.generate(MODEL, "later")
        await client.__aexit__(None, None, None)
    assert len([call for call in emulator.requests if call.op == "create"]) == calls, "sent, and not on record"
    async with client_of(emulator, tmp_path) as client:
        assert (await client.result("kept")).raw == first.raw
        assert (await client.generate(MODEL, "p0", key="p0")).text == expected_text("p0")
    assert emulator.ledger().billed_by_key == {"kept": 1, "p0": 1}


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that others may enter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        (path / "home").chmod(0o755)


def as_somebody_else(work: Callable[[], None]) -> int:
    """Do something in a child that has no more rights than any user; return 0 if it went well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child uses none of theirs
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - there is nobody above
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("what", ["home", "slot", "above"])
def test_a_folder_that_may_not_be_written_to_is_told_and_left_as_it_is(what: str, elsewhere: Path) -> None:
    home = elsewhere / "home"
    home.mkdir(mode=0o755)
    if what == "slot":
        (home / "slot-0").mkdir(mode=0o555)
    home.chmod(0o555)
    before = sorted(path.relative_to(elsewhere) for path in elsewhere.rglob("*"))

    def use() -> None:
        async def enter() -> None:
            target = home / "new" if what == "above" else home
            settings = carpool.Settings(close_timeout_s=1)
            client = carpool.Client(api_key="k", base_url="http://127.0.0.1:9", home=target, settings=settings)
            with pytest.raises(carpool.ConfigurationError, match="CARPOOL_HOME"):
                await client.__aenter__()

        asyncio.run(enter())

    assert as_somebody_else(use) == 0
    assert sorted(path.relative_to(elsewhere) for path in elsewhere.rglob("*")) == before


# -- what was delivered


async def test_prompts_are_gone_from_the_disk_once_their_answers_were_delivered(tmp_path: Path) -> None:
    secret = b"the-prompt-that-nobody-else-may-read"

    def holding() -> list[str]:
        found = [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]
        return sorted(path.name for path in found)

    async with Emulator(plan=Plan(latency_s=0.5)) as emulator, client_of(emulator, tmp_path) as client:
        # Vectors: other answers echo what was asked, and are kept.
        calls = [client.embed(EMBED_MODEL, f"{secret.decode()} bare {n}") for n in range(20)]
        calls += [client.embed(EMBED_MODEL, f"{secret.decode()} keyed {n}", key=f"k{n}") for n in range(20)]
        asking = [asyncio.create_task(call) for call in calls]
        await turns()
        await client.flush()
        assert holding(), "it is not on the disk as it is: then this test shows nothing"
        await asyncio.gather(*asking)
        request = carpool.Request(model=EMBED_MODEL, kind="embed", contents=f"{secret.decode()} ticket", key="t")
        ticket = await client.submit(request)
        await ticket
        await client.drain()
    assert holding() == []


# -- a caller that leaves while something is written


class Halting(carpool.MemoryStore):
    """A store of which one commit takes long."""

    def __init__(self, halts_at: int, stalls_s: float = 60) -> None:
        super().__init__()
        self.left = halts_at
        self.stalls_s = stalls_s
        self.halted = False

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        done = super().commit(writes)
        self.left -= 1
        return self._later() if self.left == 0 else done

    def _later(self) -> Awaitable[None]:
        self.halted = True
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(self.stalls_s, done.set_result, None)
        return done


@pytest.mark.parametrize("keyed", [False, True], ids=["bare", "keyed"])
@pytest.mark.parametrize("halts_at", range(2, 10))
def test_a_caller_is_cancelled_while_something_is_written(halts_at: int, keyed: bool) -> None:
    """Accept, seal, intent, name, rows, end: whatever it is, the others have theirs, and nothing is paid twice."""

    async def main() -> None:
        service, store = Service(), Halting(halts_at)
        async with virtual_client_of(service, store) as client:

            def ask(prompt: str) -> asyncio.Task[carpool.GenerateResponse]:
                return asyncio.create_task(client.generate(MODEL, prompt, key=prompt if keyed else None))

            stays, gone = ask("stays"), ask("gone")
            await virtual_until(lambda: store.halted or gone.done())
            await turns()
            gone.cancel()
            await asyncio.wait((gone,))
            assert (await stays).text == answer("stays")
            assert (await ask("gone")).text == answer("gone")
            await client.drain()
        taken = not gone.cancelled() and not keyed
        assert service.billed() == {"gone": 1 + taken, "stays": 1}

    run(main())


class Limited(Halting):
    """A store with little room, which counts what is in it at once."""

    @property
    def room_bytes(self) -> int:
        return 1_000_000 - sum(len(head) + len(rows) for head, rows, _ in self._values.values())


def test_what_is_on_disk_before_its_turn_ends_is_not_counted_twice() -> None:
    async def main() -> None:
        # The first commit is that of opening, then one for each large request, and then that of their turn.
        service, store = Service(), Limited(62)
        async with virtual_client_of(service, store, segment_bytes=4_096, batch_requests_max=1_000) as client:

            def ask(count: int, name: str) -> list[asyncio.Task[Any]]:
                calls = (client.generate(MODEL, f"{name} {number} {'x' * 9_700}") for number in range(count))
                return [asyncio.create_task(call) for call in calls]

            first = [*ask(60, "first"), asyncio.create_task(client.generate(MODEL, "small"))]
            await virtual_until(lambda: store.halted)
            assert store.room_bytes < 500_000
            second = ask(35, "second")
            await turns()
            third = ask(10, "third")
            await turns()
            assert not any(call.done() for call in second)
            refused = [call for call in third if call.done()]
            assert {type(call.exception()) for call in refused} == {carpool.StoreFull}
            await asyncio.gather(*first, *second)
            await asyncio.wait(third)
            assert len(refused) in range(4, 11)

    run(main())


def test_a_deadline_passes_while_a_disk_stalls() -> None:
    async def main() -> None:
        service, store = Service(), Halting(2, stalls_s=7_200)
        async with virtual_client_of(service, store) as client:
            began = asyncio.get_running_loop().time()
            hurried = asyncio.create_task(client.generate(MODEL, "hurried", deadline=60))
            patient = asyncio.create_task(client.generate(MODEL, "patient"))
            await asyncio.sleep(30)
            late = asyncio.create_task(client.generate(MODEL, "late", deadline=60))
            for call, after_s in ((hurried, 60), (late, 90)):
                with pytest.raises(carpool.DeadlineExceeded):
                    await call
                assert asyncio.get_running_loop().time() - began == pytest.approx(after_s, abs=2)
            assert (await patient).text == answer("patient")
            await client.drain()
        assert service.billed() == {"patient": 1}, "what nobody awaits any more was sent"

    run(main())
