"""Several clients on one home: what one has, the others find; what one left, the others end. Nothing is paid twice."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from carpool import (
    FAST,
    Alarm,
    Client,
    ClientClosed,
    DeadlineExceeded,
    KeyConflict,
    Request,
    RequestError,
    RequestRejected,
    StoreCorrupt,
    StoreError,
)
from carpool._lookout import Vacancy
from carpool._stores.database import Database
from carpool._stores.peek import Peek
from carpool._stores.slots import is_free, take_slot
from carpool.emulator import Emulator, Fault, Plan, expected_text

from .support import (
    API_KEY,
    FILE,
    MODEL,
    PATIENCE_S,
    TimedEmulator,
    assert_billed_once,
    assert_own,
    make_client,
    opened,
    ops_of,
    prompts,
    quick,
    refused,
    rows_of_jobs,
    settled,
    until,
)

NEVER_S = 100_000.0
SLOW = Plan(latency_s=3_600.0)
"""Jobs end when the test lets an hour pass."""


@asynccontextmanager
async def two_slots(home: Path) -> AsyncGenerator[None]:
    """Hold the lowest slot meanwhile: who comes takes the next."""
    slot = take_slot(home, 1)
    try:
        yield
    finally:
        slot.release()


async def leave_work(emulator: Emulator, home: Path, texts: list[str], **settings: Any) -> None:
    """Leave sent requests in slot 1, whose process is gone."""
    async with two_slots(home), opened(emulator, home, linger_s=1_000.0, **settings) as client:
        for text in texts:
            await client.submit(Request(model=MODEL, contents=text, key=text))
        await client.flush()
        await until(lambda: client.stats().jobs_created, "the job")
    assert (home / "slot-1" / "cache.db").exists()


async def settled_later(emulator: TimedEmulator, client: Client, text: str) -> Any:
    """Return the answer to a prompt whose job takes an hour."""
    jobs = client.stats().jobs_created
    call = asyncio.ensure_future(client.generate(MODEL, text, key=text))
    await until(lambda: client.stats().jobs_created > jobs, "the job")
    emulator.let_pass()
    return await call


def handed_back(slot: Path) -> bool:
    """Return whether nobody has a slot, whose last owner closed it in order."""
    return (slot / "clean").exists() and is_free(slot)


async def seen(client: Client) -> None:
    """Let a client see the other slots as they are, nobody writing."""
    await until(lambda: client._siblings, "the other slot")
    lookout = client._siblings._lookout
    while not all(sibling.peek.is_current for sibling in lookout.siblings()):
        await asyncio.sleep(0.01)
        await lookout.refresh()


def alarms_of(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(f"{name}:")]


# -- answers that are there


async def test_answers_in_the_slot_of_a_living_process_are_given_to_all(tmp_path: Path) -> None:
    texts = prompts(20)
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
            assert_own(texts, [await one.generate(MODEL, text, key=text) for text in texts])
            answers = await asyncio.gather(*(two.generate(MODEL, text, key=text) for text in texts))
            assert_own(texts, answers)
            assert all(answer.receipt.reused for answer in answers)
            assert_own(texts, [await two.result(text) for text in texts])
            assert two.stats().jobs_created == 0
            assert_own(["new"], [await two.generate(MODEL, "new", key="new")])
            assert_own(["new"], [await one.generate(MODEL, "new", key="new")])
        assert_billed_once(emulator, [*texts, "new"])


async def test_answers_in_a_free_slot_are_given_too_by_every_way_to_ask(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path) as client:
            assert_own(prompts(3), [await client.generate(MODEL, text, key=text) for text in prompts(3)])
            vector = await client.embed("gemini-embedding-001", "v", key="v")
        async with opened(emulator, tmp_path) as client:
            assert_own(prompts(1), [await client.generate(MODEL, "prompt 0", key="prompt 0")])
            ticket = await client.submit(Request(model=MODEL, contents="prompt 1", key="prompt 1"))
            assert_own(["prompt 1"], [await ticket])
            rows = [Request(model=MODEL, contents=text, key=text) for text in prompts(4)]
            outcomes = {outcome.key: outcome.response async for outcome in client.map(rows)}
            assert_own(prompts(4), [outcomes[text] for text in prompts(4)])
            again = await client.embed("gemini-embedding-001", "v", key="v")
            assert again.values == vector.values
            assert client.stats().jobs_created == 1
        assert emulator.ledger().rows_billed == 5


async def test_rows_without_a_key_cost_nothing_again_in_another_slot(tmp_path: Path) -> None:
    rows = [Request(model=MODEL, contents=text) for text in [*prompts(5), *prompts(5)]]
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path) as client:
            assert len([outcome async for outcome in client.map(rows) if outcome.ok]) == 10
        async with opened(emulator, tmp_path) as client:
            assert len([outcome async for outcome in client.map(rows) if outcome.ok]) == 10
            assert client.stats().jobs_created == 0
        assert emulator.ledger().rows_billed == 10


async def test_a_key_that_another_slot_has_with_another_request_is_a_conflict(tmp_path: Path) -> None:
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
            await one.submit(Request(model=MODEL, contents="a", key="mine"))
            await refused(KeyConflict, two.generate(MODEL, "b", key="mine"))
            await until(lambda: one.stats().jobs_created, "the job")
            emulator.let_pass()
            assert_own(["a"], [await one.result("mine")])
            await refused(KeyConflict, two.generate(MODEL, "b", key="mine"))
        assert_billed_once(emulator, ["a"])


async def test_a_verdict_is_told_by_result_and_tried_again_by_a_call(tmp_path: Path) -> None:
    text = "x [[error:400:no]]"
    async with Emulator() as emulator, opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
        await refused(RequestRejected, one.generate(MODEL, text, key="k"))
        jobs = len(rows_of_jobs(emulator))
        await refused(RequestRejected, two.result("k"))
        assert len(rows_of_jobs(emulator)) == jobs
        await refused(RequestRejected, two.generate(MODEL, text, key="k"))
        assert len(rows_of_jobs(emulator)) > jobs


async def test_what_nobody_knows_is_unknown_in_a_home_of_several_slots_too(tmp_path: Path) -> None:
    async with Emulator() as emulator, opened(emulator, tmp_path) as one, opened(emulator, tmp_path):
        await refused(RequestError, one.result("nothing"))


async def test_other_origins_and_automatic_keys_are_not_looked_up(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path, api_key="AIza-another-key-9876543210") as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="k")])
        async with two_slots(tmp_path), opened(emulator, tmp_path) as client:
            assert_own(["b"], [await client.generate(MODEL, "b")])
        async with opened(emulator, tmp_path) as client:
            assert_own(["c"], [await client.generate(MODEL, "c", key="k")])
            assert_own(["b"], [await client.generate(MODEL, "b")])
        assert emulator.ledger().rows_billed == 4


async def test_tickets_of_two_slots_never_have_the_same_key(tmp_path: Path) -> None:
    async with Emulator() as emulator, opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
        first = await one.submit(Request(model=MODEL, contents="a"))
        second = await two.submit(Request(model=MODEL, contents="a"))
        assert first.key != second.key
        assert_own(["a", "a"], [await two.result(first.key), await one.result(second.key)])


# -- work of living processes


async def test_what_a_living_process_has_under_way_is_waited_for(tmp_path: Path) -> None:
    texts = prompts(10)
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path) as one, opened(emulator, tmp_path, adopt_after_s=0.05) as two:
            for text in texts:
                await one.submit(Request(model=MODEL, contents=text, key=text))
            calls = [asyncio.ensure_future(two.generate(MODEL, text, key=text)) for text in texts]
            ticket = await two.submit(Request(model=MODEL, contents="prompt 3", key="prompt 3"))
            found = asyncio.ensure_future(two.result("prompt 4"))
            await until(lambda: one.stats().jobs_created, "the job")
            await asyncio.sleep(0.1)
            assert not any(call.done() for call in calls)
            emulator.let_pass()
            assert_own(texts, await asyncio.gather(*calls))
            assert_own(["prompt 3", "prompt 4"], [await ticket, await found])
            assert two.stats().jobs_created == 0
        assert_billed_once(emulator, texts)


async def test_who_waits_for_another_process_keeps_to_its_deadline_and_may_leave(tmp_path: Path) -> None:
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path) as one:
            async with opened(emulator, tmp_path) as two:
                await one.submit(Request(model=MODEL, contents="a", key="a"))
                await refused(DeadlineExceeded, two.generate(MODEL, "a", key="a", deadline=0.2))
                left = asyncio.ensure_future(two.generate(MODEL, "a", key="a"))
                stays = asyncio.ensure_future(two.generate(MODEL, "a", key="a"))
                await asyncio.sleep(0.1)
                left.cancel()
                await asyncio.sleep(0.1)
                assert not stays.done()
            # Left with somebody waiting: told so.
            with pytest.raises(ClientClosed):
                await stays
            assert left.cancelled()
            emulator.let_pass()
            assert_own(["a"], [await one.result("a")])
        assert_billed_once(emulator, ["a"])


@pytest.mark.parametrize("who", range(3))
async def test_a_key_that_missed_its_deadline_in_one_process_is_found_where_it_was_asked_again(
    tmp_path: Path, who: int
) -> None:
    async with Emulator(Plan(faults={"job.stuck_running": Fault(count=1)})) as emulator:
        async with opened(emulator, tmp_path, jobs_max=1) as one, opened(emulator, tmp_path) as two:
            third = make_client(emulator, tmp_path)
            await one.submit(Request(model=MODEL, contents="holds the only job", key="b"))
            await until(lambda: rows_of_jobs(emulator) == [1], "the only job")
            await refused(DeadlineExceeded, one.generate(MODEL, "a", key="a", deadline=0.2, ladder=("batch",)))
            for client in (one, two):
                with pytest.raises(DeadlineExceeded, match="withdrawn"):
                    await client.result("a")
            await two.generate(MODEL, "a", key="a")
            async with third:
                assert_own(["a"], [await (one, two, third)[who].result("a")])
        assert rows_of_jobs(emulator) == [1, 1]


async def test_leaving_to_drain_waits_for_what_other_processes_have(tmp_path: Path) -> None:
    async with TimedEmulator(SLOW) as emulator, opened(emulator, tmp_path) as one:
        await one.submit(Request(model=MODEL, contents="a", key="a"))
        async with opened(emulator, tmp_path, on_close="drain") as two:
            ticket = await two.submit(Request(model=MODEL, contents="a", key="a"))
            asyncio.get_running_loop().call_later(0.1, emulator.let_pass)
        assert_own(["a"], [await ticket])
        assert_billed_once(emulator, ["a"])


async def test_a_request_that_the_other_process_withdraws_is_sent_by_who_waits_for_it(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, linger_s=1_000.0) as one, opened(emulator, tmp_path) as two:
            first = asyncio.ensure_future(one.generate(MODEL, "a", key="a"))
            await until(lambda: one.stats().waiting, "the request")
            await one._runtime.turn()
            second = asyncio.ensure_future(two.generate(MODEL, "a", key="a"))
            await asyncio.sleep(0.1)
            assert not second.done()
            first.cancel()
            assert_own(["a"], [await second])
            assert two.stats().jobs_created == 1
        assert_billed_once(emulator, ["a"])


async def test_what_a_process_holds_back_is_sent_when_another_one_waits_for_it(tmp_path: Path) -> None:
    allowed = Plan(api_keys=frozenset({API_KEY}))
    async with Emulator(Plan(api_keys=frozenset({"AIza-another-key-9876543210"}))) as emulator:
        async with opened(emulator, tmp_path, adopt_after_s=0.1) as one, opened(emulator, tmp_path) as two:
            await refused(RequestRejected, one.generate(MODEL, "a", key="a"))
            assert one.stats().parked == 1
            emulator.plan = allowed
            assert_own(["a"], [await two.generate(MODEL, "a", key="a")])
            assert (one.stats().jobs_created, two.stats().jobs_created) == (1, 0)
        assert_billed_once(emulator, ["a"])


async def test_when_the_process_ends_that_others_wait_for_they_take_over(tmp_path: Path) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path) as two:
            async with opened(emulator, tmp_path) as one:
                for text in texts:
                    await one.submit(Request(model=MODEL, contents=text, key=text))
                calls = [asyncio.ensure_future(two.generate(MODEL, text, key=text)) for text in texts]
                await asyncio.sleep(0.1)
            await until(lambda: not (tmp_path / "slot-1" / "clean").exists(), "the adoption")
            emulator.let_pass()
            assert_own(texts, await asyncio.gather(*calls))
            await until(partial(handed_back, tmp_path / "slot-1"), "the slot is handed back")
        assert_billed_once(emulator, texts)


# -- work that was left


@pytest.mark.parametrize("form", [pytest.param({}, id="inline"), pytest.param(FILE, id="file")])
async def test_a_key_that_a_dead_process_had_sent_is_joined_and_not_paid_again(
    tmp_path: Path, form: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    texts = prompts(10)
    alarms: list[Alarm] = []
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, texts, **form)
        client = Client(
            api_key=API_KEY, base_url=emulator.base_url, home=tmp_path, settings=quick(**form), on_alarm=alarms.append
        )
        async with asyncio.timeout(PATIENCE_S), client:
            calls = [asyncio.ensure_future(client.generate(MODEL, text, key=text)) for text in texts[:8]]
            found = asyncio.ensure_future(client.result(texts[8]))
            await until(lambda: alarms, "the adoption")
            await refused(KeyConflict, client.generate(MODEL, "other", key=texts[0]))
            emulator.let_pass()
            assert_own(texts[:9], [*await asyncio.gather(*calls), await found])
            await until(partial(handed_back, tmp_path / "slot-1"), "the slot is handed back")
            assert_own(texts[9:], [await client.result(texts[9])])
            assert client.stats().jobs_created == 0
            assert client.receipt().requests == 10
        assert_billed_once(emulator, texts)
    assert [alarm.name for alarm in alarms] == ["slot_adopted"]
    assert len(alarms_of(caplog, "slot_adopted")) == 1


async def test_a_slot_left_with_work_is_run_to_its_end_by_a_living_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, texts)
        async with opened(emulator, tmp_path, adopt_after_s=0.1):
            await until(lambda: alarms_of(caplog, "slot_adopted"), "the adoption")
            emulator.let_pass()
            await until(partial(handed_back, tmp_path / "slot-1"), "the slot is handed back")
            # Nothing is left to do there: it stays free.
            await asyncio.sleep(0.3)
            assert len(alarms_of(caplog, "slot_adopted")) == 1
        assert_billed_once(emulator, texts)
        async with opened(emulator, tmp_path) as client:
            assert_own(texts, [await client.result(text) for text in texts])
        assert_billed_once(emulator, texts)


# -- the ladder over several slots


async def test_a_live_answer_in_another_slot_is_given_to_all_and_tells_its_route(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path) as first:
            answer = await first.generate(MODEL, "a", key="a", ladder=FAST)
        async with opened(emulator, tmp_path) as second:
            again = await second.generate(MODEL, "a", key="a", ladder=FAST)
            looked_up = await second.result("a")
        assert again.raw == looked_up.raw == answer.raw
        assert (again.receipt.route, again.receipt.job, again.receipt.reused) == ("standard", "", True)
        assert ops_of(emulator)["generate"] == 1


async def test_live_requests_in_a_left_slot_go_on_down_their_ladder_in_a_living_process(tmp_path: Path) -> None:
    refuses = Plan(faults={"generate.503": Fault()})
    async with Emulator(refuses) as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path, close_timeout_s=0.1) as client:
            tickets = [("fast", FAST), ("alone", ("standard",))]
            for text, ladder in tickets:
                await client.submit(Request(model=MODEL, contents=text, key=text, ladder=ladder, deadline="12h"))
            await until(lambda: ops_of(emulator)["generate"] >= 2, "the refusals")
        async with opened(emulator, tmp_path, adopt_after_s=0.05) as other:
            fast = await other.result("fast")
            assert (fast.text, fast.receipt.route) == (expected_text("fast"), "batch")
            emulator.plan = Plan()
            alone = await other.result("alone")
            assert (alone.text, alone.receipt.route) == (expected_text("alone"), "standard")
        ledger = emulator.ledger()
        assert (ledger.billed_by_key, ledger.live_calls) == ({"fast": 1}, 1)


async def test_a_slot_is_left_alone_as_long_as_its_process_may_come_back_or_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, prompts(3))
        async with opened(emulator, tmp_path, adopt_after_s=0.05):  # has slot 0
            pass
        async with opened(emulator, tmp_path, adopt_after_s=NEVER_S):
            await asyncio.sleep(0.3)
            # Its process is back.
            async with opened(emulator, tmp_path, adopt_after_s=0.05) as two:
                assert two.stats().jobs == 1
                async with opened(emulator, tmp_path, adopt_after_s=0.05):
                    await asyncio.sleep(0.3)
                emulator.let_pass()
                await two.drain()
        assert not alarms_of(caplog, "slot_adopted")
        assert_billed_once(emulator, prompts(3))


async def test_two_siblings_never_adopt_the_same_slot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, texts)
        # Slot 1 is held while the second one opens, so that it takes slot 2.
        slot = take_slot(tmp_path, number=1)
        async with opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
            slot.release()
            calls = [client.generate(MODEL, text, key=text) for text in texts for client in (one, two)]
            answers = asyncio.ensure_future(settled(*calls))
            await until(lambda: alarms_of(caplog, "slot_adopted"), "the adoption")
            emulator.let_pass()
            assert_own([text for text in texts for _ in range(2)], await answers)
        assert len(alarms_of(caplog, "slot_adopted")) == 1
        assert_billed_once(emulator, texts)


@pytest.mark.parametrize("clean", [True, False])
async def test_a_client_that_is_left_hands_an_adopted_slot_back_with_its_work(tmp_path: Path, clean: bool) -> None:
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, prompts(3))
        waiting: list[asyncio.Future[Any]] = []
        try:
            async with opened(emulator, tmp_path) as client:
                waiting.append(asyncio.ensure_future(client.generate(MODEL, "prompt 0", key="prompt 0")))
                await until(lambda: not (tmp_path / "slot-1" / "clean").exists(), "the adoption")
                if not clean:
                    raise ArithmeticError  # noqa: TRY301 - it is the block that is left
        except ArithmeticError:
            assert not clean
        with pytest.raises(ClientClosed):
            await waiting[0]
        await until(partial(handed_back, tmp_path / "slot-1"), "the slot is handed back")
        async with two_slots(tmp_path), opened(emulator, tmp_path) as client:
            assert client.stats().jobs == 1
            emulator.let_pass()
            assert_own(prompts(3), [await client.result(text) for text in prompts(3)])
        assert_billed_once(emulator, prompts(3))


async def test_bare_requests_of_a_dead_process_are_not_sent_by_a_sibling(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path, linger_s=1_000.0) as client:
            bare = asyncio.ensure_future(client.generate(MODEL, "bare"))
            await client.submit(Request(model=MODEL, contents="a", key="a"))
            await client._runtime.turn()
        await refused(ClientClosed, bare)
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.result("a")])
        assert_billed_once(emulator, ["a"])


# -- trouble


async def test_a_damaged_sibling_is_reported_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        database = tmp_path / "slot-1" / "cache.db"
        database.write_bytes(os.urandom(database.stat().st_size))
        async with opened(emulator, tmp_path, adopt_after_s=0.05) as client:
            for text in prompts(5):
                assert_own([text], [await client.generate(MODEL, text, key=text)])
            await asyncio.sleep(0.2)
            await refused(RequestError, client.result("a"))
        assert len(alarms_of(caplog, "slot_unreadable")) == 1
        assert "slot-1" in alarms_of(caplog, "slot_unreadable")[0]


async def test_a_key_in_a_slot_that_cannot_be_taken_over_is_an_error_and_is_not_paid_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, ["a"])
        (tmp_path / "slot-1" / "store-id").write_text("otherone")
        async with opened(emulator, tmp_path, adopt_after_s=0.05) as client:
            for _ in range(2):
                (error,) = await refused(StoreCorrupt, client.generate(MODEL, "a", key="a"))
                assert "slot-1" in str(error)
            await refused(StoreCorrupt, client.result("a"))
            await until(lambda: alarms_of(caplog, "slot_unreadable"), "the report of the adoption that failed")
            await asyncio.sleep(0.3)
            assert_own(["b"], [await settled_later(emulator, client, "b")])
        assert len(alarms_of(caplog, "slot_unreadable")) == 1
        assert rows_of_jobs(emulator) == [1, 1]


async def test_who_waits_for_a_process_whose_slot_cannot_be_taken_over_is_told(tmp_path: Path) -> None:
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path) as two:
            async with opened(emulator, tmp_path) as one:
                await one.submit(Request(model=MODEL, contents="a", key="a"))
                call = asyncio.ensure_future(two.generate(MODEL, "a", key="a"))
                await asyncio.sleep(0.1)
                (tmp_path / "slot-1" / "store-id").write_text("otherone")
            with pytest.raises(StoreCorrupt):
                await call
        assert rows_of_jobs(emulator) == [1]


async def test_work_that_cannot_go_on_is_handed_back_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with TimedEmulator(SLOW) as emulator:
        with suppress(ArithmeticError):
            async with two_slots(tmp_path), opened(emulator, tmp_path, linger_s=1_000.0) as client:
                await client.submit(Request(model=MODEL, contents="a", key="a"))
                raise ArithmeticError  # so that it is not sent
        emulator.plan = Plan(api_keys=frozenset({"AIza-another-key-9876543210"}))
        async with opened(emulator, tmp_path, adopt_after_s=0.05):
            await until(lambda: len(alarms_of(caplog, "slot_adopted")) >= 2, "the second try")
            emulator.plan = Plan()
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.result("a")])
        assert_billed_once(emulator, ["a"])


def test_what_an_adoption_leaves_undone_is_tried_again_ever_more_rarely() -> None:
    vacancy, now, tries = Vacancy(600.0), 0.0, list[float]()
    while now < 30 * 86_400.0:
        if vacancy.is_due(now, free=True, age_s=0.0):
            tries.append(now)
            vacancy.tried(now)
        now += 60.0
    waits = [later - earlier for earlier, later in pairwise(tries)]
    # It has been free for as long as any other slot before it is tried again, and once a day is often enough.
    assert (tries[0], waits[:4], waits[-1]) == (600.0, [660.0, 1_200.0, 2_400.0, 4_800.0], 86_400.0)
    assert len(tries) < 40
    vacancy.finished()
    assert not vacancy.is_due(now, free=True, age_s=0.0)
    assert vacancy.is_due(now + 600.0, free=True, age_s=0.0)


def test_a_slot_is_due_when_it_was_free_all_the_time() -> None:
    vacancy = Vacancy(600.0)
    assert not vacancy.is_due(0.0, free=True, age_s=0.0)
    assert not vacancy.is_due(590.0, free=False, age_s=0.0)
    assert not vacancy.is_due(599.0, free=True, age_s=0.0)
    assert not vacancy.is_due(1_198.0, free=True, age_s=0.0)
    assert vacancy.is_due(1_199.0, free=True, age_s=0.0)
    # Where nothing was written for long, its process may have been gone for long.
    old = Vacancy(600.0)
    assert not old.is_due(0.0, free=True, age_s=700.0)
    assert not old.is_due(59.0, free=True, age_s=759.0)
    assert old.is_due(60.0, free=True, age_s=760.0)


async def test_a_left_slot_whose_lock_is_gone_is_taken_over_like_any_other(tmp_path: Path) -> None:
    # As in a copy of a home.
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, ["a"])
        (tmp_path / "slot-1" / "lock").unlink()
        async with opened(emulator, tmp_path) as client:
            call = asyncio.ensure_future(client.generate(MODEL, "a", key="a"))
            await until((tmp_path / "slot-1" / "lock").exists, "the adoption")
            emulator.let_pass()
            assert_own(["a"], [await call])
        assert_billed_once(emulator, ["a"])


async def test_threads_of_users_that_wait_for_answers_do_not_keep_them_from_being_found(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    async with Emulator() as emulator, opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
        assert_own(["a"], [await one.generate(MODEL, "a", key="a")])

        def ask() -> Any:
            return asyncio.run_coroutine_threadsafe(two.generate(MODEL, "a", key="a"), loop).result(PATIENCE_S)

        assert_own(["a"], [await asyncio.to_thread(ask)])


async def test_who_waits_for_a_slot_that_is_damaged_meanwhile_is_told_and_nothing_is_sent_again(tmp_path: Path) -> None:
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path) as two, opened(emulator, tmp_path) as one:
            await one.submit(Request(model=MODEL, contents="a", key="a"))
            await until(lambda: one.stats().jobs_created, "the job")
            call = asyncio.ensure_future(two.generate(MODEL, "a", key="a"))
            found = asyncio.ensure_future(two.result("a"))
            await until(lambda: len(two._siblings._waiters) == 2, "both wait")
            database = sqlite3.connect(tmp_path / "slot-1" / "cache.db", isolation_level=None)
            database.execute("INSERT INTO Cache (key, raw, mode, filename) VALUES ('s9', 1, 4, '/etc/passwd')")
            for error in await refused(StoreCorrupt, call, found):
                assert "slot-1" in str(error)
            assert two.stats().jobs_created == 0
            database.execute("DELETE FROM Cache WHERE key = 's9'")
            database.close()
            emulator.let_pass()
            assert_own(["a"], [await one.result("a")])
        assert_billed_once(emulator, ["a"])


async def test_clients_whose_home_is_taken_away_accept_nothing_more_and_hang_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, home, adopt_after_s=0.05) as one, opened(emulator, home, adopt_after_s=0.05) as two:
            await one.submit(Request(model=MODEL, contents="a", key="a"))
            waits = asyncio.ensure_future(two.generate(MODEL, "a", key="a"))
            await until(
                lambda: two._siblings._waiters and one.stats().sent and not one._runtime.engine.unsent, "it waits"
            )
            home.rename(tmp_path / "elsewhere")
            await refused(StoreError, one.generate(MODEL, "b", key="b"), two.generate(MODEL, "c", key="c"))
            await refused(StoreError, waits)
        (tmp_path / "elsewhere").rename(home)
        async with opened(emulator, home) as client:
            emulator.let_pass()
            assert_own(["a"], [await client.result("a")])


async def test_those_who_ask_in_one_turn_look_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    true_look = Peek._look

    def counted(self: Peek) -> Any:
        looks.append(self.folder)
        return true_look(self)

    texts = prompts(300)
    async with Emulator() as emulator:
        async with two_slots(tmp_path), opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        async with opened(emulator, tmp_path) as client:
            await seen(client)
            monkeypatch.setattr(Peek, "_look", counted)
            monkeypatch.setattr("carpool._lookout.FRESH_S", PATIENCE_S)
            assert_own(texts, await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in texts)))
            assert len(looks) <= 10, "a look for each turn, not for each of them"
            looks.clear()
            assert_own(["b"], [await client.generate(MODEL, "b", key="b")])
            assert looks, "a later turn looks again"


async def test_a_store_that_breaks_in_an_adopted_slot_ends_no_more_than_its_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, ["a"])
        async with opened(emulator, tmp_path) as client:
            call = asyncio.ensure_future(client.generate(MODEL, "a", key="a"))
            await until(lambda: alarms_of(caplog, "slot_adopted"), "the adoption")
            true_apply = Database.apply

            def broken(self: Database, changes: Any) -> None:
                if self._slot.path.name == "slot-1":
                    raise StoreError("the disk reports an error")
                true_apply(self, changes)

            monkeypatch.setattr(Database, "apply", broken)
            emulator.let_pass()
            await refused(StoreError, call)
            await until(lambda: alarms_of(caplog, "slot_left"), "the report")
            monkeypatch.undo()
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        assert_billed_once(emulator, ["a"])


@pytest.mark.parametrize("turns", range(0, 60, 8))
async def test_a_client_may_be_left_at_any_moment_of_an_adoption(tmp_path: Path, turns: int) -> None:
    async with TimedEmulator(SLOW) as emulator:
        await leave_work(emulator, tmp_path, ["a"])
        async with opened(emulator, tmp_path) as client:
            call = asyncio.ensure_future(client.generate(MODEL, "a", key="a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.sleep(turns / 1_000)
        await refused(ClientClosed, call)
        await until(partial(handed_back, tmp_path / "slot-1"), "the slot is handed back")
        async with opened(emulator, tmp_path) as client:
            emulator.let_pass()
            assert_own(["a"], [await client.result("a")])
        assert_billed_once(emulator, ["a"])


@pytest.mark.parametrize("what", ["nothing", "an empty file", "no store-id"])
async def test_half_made_siblings_are_looked_over(tmp_path: Path, what: str) -> None:
    (tmp_path / "slot-1").mkdir(parents=True)
    if what == "an empty file":
        (tmp_path / "slot-1" / "cache.db").touch()
    async with Emulator() as emulator, opened(emulator, tmp_path, adopt_after_s=0.05) as client:
        assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        await asyncio.sleep(0.1)
        assert ops_of(emulator)["create"] == 1


async def test_a_home_with_one_slot_reads_no_other_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("it looked")

    monkeypatch.setattr("carpool._stores.peek.Peek.refresh", forbidden)
    async with Emulator() as emulator, opened(emulator, tmp_path, adopt_after_s=0.01) as client:
        assert_own(prompts(5), [await client.generate(MODEL, text, key=text) for text in prompts(5)])
        await asyncio.sleep(0.1)


async def test_a_client_over_a_store_of_ones_own_has_no_siblings() -> None:
    async with Emulator() as emulator, asyncio.timeout(PATIENCE_S), make_client(emulator) as client:
        assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        assert not client._siblings
        await refused(RequestError, client.result("b"))
