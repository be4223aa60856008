"""A server that echoes keys, URLs and prompts in whatever it answers: nothing of it shows in what a service prints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool import Alarm, BatchJob, CarpoolError, Client, MemoryStore, Request, RequestRejected, Settings
from carpool._gemini.developer import DeveloperProvider
from carpool._showing import shown
from carpool.emulator import Emulator, Fault, Op, Plan

from .disguises import API_KEY, DISGUISES, TEXT, seen_in, shown_by
from .echo import EchoEmulator

MODEL = "gemini-3.5-flash"
QUICK: dict[str, Any] = {
    "linger_s": 0.002,
    "linger_max_s": 0.02,
    "poll_min_s": 0.002,
    "poll_max_s": 0.02,
    "retry_min_s": 0.002,
    "retry_max_s": 0.01,
    "quota_retry_min_s": 0.002,
    "quota_retry_max_s": 0.01,
    "lookup_wait_s": 0.02,
    "output_grace_s": 0.05,
    "ladder": ("batch",),
    "first_contact_s": 0.2,
    "job_attempts_max": 2,
    "attempts_max": 2,
    "close_timeout_s": 0.2,
}
FILE = {"inline_cost_max_usd": Decimal(0)}
PATIENCE_S = 30.0


class Kept(logging.Handler):
    """Keeps what is logged, as a file would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(autouse=True)
def kept(caplog: pytest.LogCaptureFixture) -> Iterator[Kept]:
    """Let everything be logged that can be, and see that it was nothing secret."""
    caplog.set_level(logging.DEBUG)
    handler = Kept()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    text = "\n".join(handler.lines)
    assert "Using selector" in text
    assert not seen_in(text), text


class Seen:
    """What a client told: its errors, its alarms, its health."""

    def __init__(self) -> None:
        self.errors: list[CarpoolError] = []
        self.alarms: list[Alarm] = []

    async def call(self, *calls: Awaitable[Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            assert not isinstance(outcome, BaseException) or isinstance(outcome, CarpoolError | AssertionError), outcome
            if isinstance(outcome, CarpoolError):
                self.errors.append(outcome)
                assert not seen_in(shown_by(outcome)), shown_by(outcome)

    def look(self, client: Client) -> None:
        words = f"{client.health()!r} {client.stats()!r} {client.receipt()!r} {self.alarms!r} {client!r}"
        assert not seen_in(words), words


def client_of(emulator: Emulator, seen: Seen, home: Path | None = None, **settings: Any) -> Client:
    where: dict[str, Any] = {"store": MemoryStore()} if home is None else {"home": home}
    own = Settings(**(QUICK | settings))
    return Client(api_key=API_KEY, base_url=emulator.base_url, settings=own, on_alarm=seen.alarms.append, **where)


async def everything(client: Client, seen: Seen) -> None:
    """Make each kind of call."""
    await seen.call(
        client.generate(MODEL, TEXT, deadline=1),
        client.generate(MODEL, [{"text": TEXT}, "b"], key="k", config={"system_instruction": TEXT}, deadline=1),
        client.embed("gemini-embedding-001", TEXT, deadline=1),
        _answer_of_ticket(client),
    )
    await seen.call(
        client.files.upload(b"a file", mime_type="text/plain"),
        client.files.get("files/abc"),
        client.files.delete("files/abc"),
        _all(client.files.list),
        client.caches.create(MODEL, TEXT * 3, config={"system_instruction": TEXT}, ttl_s=600),
        client.caches.get("cachedContents/abc"),
        client.caches.extend("cachedContents/abc", ttl_s=60),
        client.caches.delete("cachedContents/abc"),
        _all(client.caches.list),
        client.jobs.get("batches/abc"),
        client.jobs.cancel("batches/abc"),
        client.jobs.delete("batches/abc"),
        _all(client.jobs.list),
    )
    seen.look(client)


async def _answer_of_ticket(client: Client) -> Any:
    return await (await client.submit(Request(model=MODEL, contents=TEXT, key="t", deadline=1)))


async def _all(listing: Callable[[], Any]) -> list[Any]:
    return [item async for item in listing()]


CREATE = {"create": 400}
FAILS: dict[str, dict[str, int]] = {
    "create refused": CREATE,
    "create forbidden": {"create": 403},
    "create fails": {"create": 500},
    "quota": {"create": 429},
    "upload refused": {"upload.start": 400},
    "upload fails": {"upload.start": 503},
    "chunk refused": {"upload.finalize": 400, "upload.chunk": 400},
    "chunk fails": {"upload.finalize": 503, "upload.chunk": 503, "upload.query": 503},
    "list fails": {"list": 500, "files.list": 500, "caches.list": 500},
    "list refused": {"list": 403, "files.list": 403, "caches.list": 403},
    "poll fails": {"get": 500},
    "poll refused": {"get": 403},
    "download refused": {"download": 403},
    "download fails": {"download": 500},
    "key refused": dict.fromkeys(("create", "list", "get", "upload.start", "files.get"), 401),
    "caches refused": dict.fromkeys(("caches.create", "caches.get", "caches.update", "caches.delete"), 400),
    "files refused": dict.fromkeys(("files.get", "files.delete", "cancel", "delete"), 400),
}


@pytest.mark.parametrize("form", [{}, FILE], ids=["inline", "file"])
@pytest.mark.parametrize("name", FAILS)
@pytest.mark.anyio
async def test_what_a_failing_call_echoes_is_not_shown(name: str, form: dict[str, Any]) -> None:
    seen = Seen()
    async with EchoEmulator(fails=FAILS[name]) as emulator, client_of(emulator, seen, **form) as client:
        await everything(client, seen)
    assert emulator.failed or (name.startswith("download") and not form)
    seen.look(client)


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.anyio
async def test_whatever_its_disguise(disguise: str) -> None:
    fails = {"create": 400, "caches.create": 400, "files.get": 403, "get": 400}
    seen = Seen()
    async with EchoEmulator(fails=fails, disguise=disguise) as emulator, client_of(emulator, seen) as client:
        await everything(client, seen)
    assert len(seen.errors) >= 5
    seen.look(client)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("route", ["standard", "flex"])
@pytest.mark.anyio
async def test_what_a_failing_live_call_echoes_is_not_shown(route: Any, code: int) -> None:
    seen = Seen()
    ops = ("generate", "embed", "embed_many")
    fails = {op.value: code for op in Op if op.value in ops}
    assert len(fails) == 3
    async with EchoEmulator(fails=fails) as emulator, client_of(emulator, seen) as client:
        await seen.call(
            client.generate(MODEL, TEXT, ladder=(route,)),
            client.generate(MODEL, [{"text": TEXT}, "b"], key="k", ladder=(route,), deadline=1),
            *(client.embed("gemini-embedding-001", f"{TEXT} {n}", ladder=("standard",)) for n in range(3)),
        )
        seen.look(client)
    assert {"generate"} <= set(emulator.failed)
    assert len(seen.errors) == 5


@pytest.mark.parametrize("fault", ["job.failed", "row.error"])
@pytest.mark.parametrize("code", [3, 13])
@pytest.mark.anyio
async def test_what_a_job_or_a_row_echoes_is_not_shown(fault: str, code: int) -> None:
    words = " ".join(DISGUISES.values())
    plan = Plan(faults={fault: Fault(code=code, message=words)})
    seen = Seen()
    async with Emulator(plan) as emulator, client_of(emulator, seen) as client:
        await everything(client, seen)
        async for job in client.jobs.list():
            assert not seen_in(f"{job!r} {job}"), job
            try:
                async for outcome in client.jobs.results(job.name):
                    assert not seen_in(f"{outcome!r}"), outcome
                    if outcome.error is not None:
                        assert not seen_in(str(outcome.error).replace(words, "")), outcome.error
            except CarpoolError as error:
                seen.errors.append(error)
    assert seen.errors
    for error in seen.errors:
        assert not seen_in(shown_by(error)), shown_by(error)
    seen.look(client)


@pytest.mark.anyio
async def test_a_verdict_that_was_stored_does_not_show_its_request_later(tmp_path: Path) -> None:
    """The request is gone from the disk by then: what the server said of it cannot be told from its text."""
    plan = Plan(faults={"row.error": Fault(code=3, message=TEXT)})
    seen = Seen()
    async with Emulator(plan) as emulator:
        async with client_of(emulator, seen, tmp_path) as client:
            await seen.call(client.submit(Request(model=MODEL, contents=TEXT, key="k")), client.drain())
            await seen.call(client.result("k"), client.result("k"))
            async with client_of(emulator, seen, tmp_path) as sibling:
                await seen.call(sibling.result("k"))
        async with client_of(emulator, seen, tmp_path) as client:
            await seen.call(client.result("k"))
    assert [(type(error).__name__, error.code, error.message) for error in seen.errors] == [
        ("RequestRejected", 3, TEXT)
    ] * 4


@pytest.mark.parametrize("mode", ["debug", "quiet"])
@pytest.mark.anyio
async def test_the_event_loop_shows_nothing_when_it_debugs(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In debug mode it logs callbacks that are slow, with their arguments: here, all are."""
    loop = asyncio.get_running_loop()
    loop.set_debug(mode == "debug")
    before, loop.slow_callback_duration = loop.slow_callback_duration, 0.0
    seen = Seen()
    try:
        async with (
            EchoEmulator(fails={"caches.create": 400}) as emulator,
            client_of(emulator, seen, tmp_path / "home", **FILE) as client,
        ):
            await everything(client, seen)
            left = asyncio.ensure_future(client.generate(MODEL, TEXT + "left"))
            await asyncio.sleep(0)
            told = "\n".join(f"{task!r}" for task in asyncio.all_tasks())
            assert not seen_in(told), told
            left.cancel()
            await asyncio.wait((left,))
    finally:
        loop.slow_callback_duration = before
        loop.set_debug(False)
    assert ("Executing <" in caplog.text) == (mode == "debug")


class Buggy(DeveloperProvider):
    """A provider with a bug whose words quote what it worked on."""

    def __init__(self, broken: str, **more: Any) -> None:
        super().__init__(**more)
        self.broken = broken

    def _break(self, name: str) -> None:
        if name == self.broken:
            error = ValueError(f"invalid literal for int() with base 10: {TEXT!r} {API_KEY}")
            error.__cause__ = KeyError(TEXT)
            raise error

    async def create(self, *args: Any) -> str:
        self._break("create")
        return await super().create(*args)

    async def poll(self, *args: Any) -> BatchJob:
        self._break("poll")
        return await super().poll(*args)

    async def cancel(self, name: str) -> None:
        self._break("cancel")
        await super().cancel(name)


@pytest.mark.parametrize("broken", ["create", "poll", "cancel"])
@pytest.mark.anyio
async def test_a_bug_of_ours_is_logged_with_its_place_and_without_its_words(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    async with Emulator(Plan(faults={"job.stuck_running": Fault()})) as emulator:
        provider = Buggy(broken, api_key=API_KEY, base_url=emulator.base_url)
        settings = Settings(**QUICK, on_close="cancel")
        async with Client(
            provider=provider, store=MemoryStore(), settings=settings, on_alarm=seen.alarms.append
        ) as client:
            await seen.call(client.generate(MODEL, TEXT, deadline=0.5))
            seen.look(client)
    assert "bug" in caplog.text
    assert "ValueError" in caplog.text
    assert "in _break" in caplog.text


@pytest.mark.anyio
async def test_a_key_of_no_known_form_is_left_out_of_whatever_is_said() -> None:
    key = "own.gateway.key.0123456789"
    Client(api_key=key, base_url="https://example.com", store=MemoryStore())
    error = RequestRejected(f"no: {key}", message=key)
    assert key not in f"{error} {error!r}"
    assert shown(f"the key {key} is bad") == "the key [key] is bad"


@pytest.mark.anyio
async def test_what_carpool_logs_of_calls_that_fail_beside_has_only_the_server_s_status_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    fails = {"cancel": 500, "files.delete": 500, "delete": 500, "caches.get": 500}
    plan = Plan(faults={"job.stuck_running": Fault(count=1)})
    async with (
        EchoEmulator(plan, fails=fails) as emulator,
        client_of(emulator, seen, on_close="cancel", delete_remote=True, **FILE) as client,
    ):
        await seen.call(client.generate(MODEL, TEXT, deadline=0.3))
        await seen.call(client.generate(MODEL, TEXT + "2", deadline=1))
    assert "cancel" in emulator.failed
    assert "could not be cancelled" in caplog.text
