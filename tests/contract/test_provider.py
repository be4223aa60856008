"""The contract of every provider, over real sockets against the emulator.

A provider comes in as a way to make it for a base URL; add the next one to ``PROVIDERS``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from carpool._core.model import Fault as Verdict
from carpool._core.model import Job, JobState, Lane
from carpool._core.output import Row
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.encode import Encoder, line
from carpool._ports import Provider, ProviderError
from carpool.emulator import Emulator, Fault, Plan, expected_text
from carpool.settings import Settings
from carpool.types import BatchJob, Kind

CHUNK = 262_144
SETTINGS = Settings(retry_min_s=0.001, retry_max_s=0.002, upload_chunk_bytes=CHUNK)
MODELS: dict[Kind, str] = {"generate": "gemini-3.5-flash", "embed": "gemini-embedding-001"}
KINDS: tuple[Kind, ...] = ("generate", "embed")

Make = Callable[[str, Settings], Provider]
PROVIDERS: dict[str, Make] = {
    "developer": lambda base_url, settings: DeveloperProvider(api_key="AIzaFAKE", base_url=base_url, settings=settings),
}


@pytest.fixture(params=PROVIDERS.values(), ids=PROVIDERS.keys())
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


class World:
    """A provider and the service that it talks to."""

    def __init__(self, provider: Provider, emulator: Emulator) -> None:
        self.provider = provider
        self.emulator = emulator

    def calls(self, op: str) -> int:
        return sum(str(logged.op) == op for logged in self.emulator.requests)

    async def ended(self, name: str) -> BatchJob:
        """Poll until the job is at its end and has its output, if it gets any."""
        until = time.monotonic() + 20
        while not (job := await self.provider.poll(name)).ended or (job.state == "SUCCEEDED" and not job.has_output):
            assert time.monotonic() < until
            await anyio.sleep(0.005)
        return job

    async def rows(self, job: BatchJob) -> list[Row]:
        return [row async for block in self.provider.fetch(job) for row in block.rows]

    async def upload(self, name: str, data: bytes) -> Any:
        return await self.provider.upload(name, len(data), source(data))

    async def created(self, job: Job, data: bytes) -> str:
        if job.form == "file":
            await self.upload(job.file_name, data)
        return await self.provider.create(job, pieces(data))


@asynccontextmanager
async def running(make: Make, settings: Settings = SETTINGS, **plan: Any) -> AsyncIterator[World]:
    plan.setdefault("upload_granularity_bytes", CHUNK)
    async with Emulator(plan=Plan(**plan)) as emulator:
        provider = make(emulator.base_url, settings)
        await provider.open()
        try:
            yield World(provider, emulator)
        finally:
            await provider.close()


def source(data: bytes) -> Callable[[int], AsyncIterator[bytes]]:
    async def open_at(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(data), 70_000):
            yield data[start : start + 70_000]

    return open_at


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """Iterate over lines as a store gives them: whole lines, several at a time."""
    lines = data.splitlines(keepends=True)
    for start in range(0, len(lines), 7):
        yield b"".join(lines[start : start + 7])


def lines_of(kind: Kind, count: int, text: str = "prompt") -> bytes:
    encoder = Encoder()
    if kind == "embed":
        config = {"output_dimensionality": 4}
        payloads = [encoder.embed(MODELS[kind], f"{text} {number}", config).payload for number in range(count)]
    else:
        payloads = [encoder.generate(MODELS[kind], f"{text} {number}", None).payload for number in range(count)]
    return b"".join(line(f"k{number}", payload) for number, payload in enumerate(payloads))


def job_of(kind: Kind, form: Any, count: int, display_name: str = "cp1.s.j.1") -> Job:
    return Job(
        id="j",
        lane=Lane(kind, MODELS[kind]),
        origin="o",
        form=form,
        spans=(),
        count=count,
        line_bytes=0,
        tokens=1,
        sealed_at=0.0,
        display_name=display_name,
        state=JobState.CREATING,
        file_name=f"files/cp-{kind}-1",
    )


async def verdict(call: Any) -> Verdict:
    with pytest.raises(ProviderError) as caught:
        await call
    return caught.value.fault


# ------------------------------------------------------------------------------------------------------- whole rounds


@pytest.mark.parametrize("form", ["inline", "file"])
@pytest.mark.parametrize("kind", KINDS)
async def test_rows_go_out_and_their_answers_come_back_by_key(kind: Kind, form: str, make: Make) -> None:
    count = 600
    async with running(make, latency_s=0.02, faults={"output.shuffled": Fault()}) as world:
        job = job_of(kind, form, count)
        name = await world.created(job, lines_of(kind, count))
        done = await world.ended(name)
        assert (done.name, done.display_name, done.state, done.model) == (name, "cp1.s.j.1", "SUCCEEDED", MODELS[kind])
        assert (done.stats.requests, done.stats.succeeded) == (count, count)
        assert (bool(done.output_file), done.inline_output) == (form == "file", form == "inline")
        rows = {row.key: bytes(row.response) for row in await world.rows(done)}
        assert rows.keys() == {f"k{number}" for number in range(count)}
        for number in (0, 299, 599):
            answer = msgspec.json.decode(rows[f"k{number}"])
            if kind == "embed":
                assert len(answer["embedding"]["values"]) == 4
            else:
                assert answer["candidates"][0]["content"]["parts"][0]["text"] == expected_text(f"prompt {number}")
        assert world.emulator.ledger().rows_billed == count


@pytest.mark.parametrize("form", ["inline", "file"])
async def test_a_row_that_failed_comes_back_as_its_error(form: str, make: Make) -> None:
    fault = Fault(after=1, count=1, code=8, message="too much", status="RESOURCE_EXHAUSTED")
    async with running(make, faults={"row.error": fault}) as world:
        name = await world.created(job_of("generate", form, 3), lines_of("generate", 3))
        rows = await world.rows(await world.ended(name))
        assert [row.key for row in rows] == ["k0", "k1", "k2"]
        assert [row.error.code if row.error else None for row in rows] == [None, 8, None]
        assert rows[1].error is not None
        assert rows[1].error.message == "too much"


@pytest.mark.parametrize("output_only_in", ["response", "metadata"])
@pytest.mark.parametrize("state_prefix", ["BATCH_STATE", "JOB_STATE"])
@pytest.mark.parametrize("form", ["inline", "file"])
async def test_output_is_found_wherever_the_server_puts_it(
    form: str, state_prefix: str, output_only_in: str, make: Make
) -> None:
    async with running(make, output_only_in=output_only_in, state_prefix=state_prefix) as world:
        name = await world.created(job_of("embed", form, 2), lines_of("embed", 2))
        assert len(await world.rows(await world.ended(name))) == 2


async def test_a_job_from_a_file_may_answer_inline(make: Make) -> None:
    async with running(make, faults={"output.inline_from_file": Fault()}) as world:
        name = await world.created(job_of("generate", "file", 3), lines_of("generate", 3))
        done = await world.ended(name)
        assert done.inline_output
        assert len(await world.rows(done)) == 3


async def test_rows_without_a_key_come_in_the_servers_order(make: Make) -> None:
    async with running(make, faults={"row.key_dropped": Fault()}) as world:
        name = await world.created(job_of("generate", "inline", 3), lines_of("generate", 3))
        rows = await world.rows(await world.ended(name))
        assert [row.key for row in rows] == ["", "", ""]
        texts = [msgspec.json.decode(row.response)["candidates"][0]["content"]["parts"][0]["text"] for row in rows]
        assert texts == [expected_text(f"prompt {number}") for number in range(3)]


@pytest.mark.parametrize("fault", ["row.garbled", "output.truncated"])
async def test_a_line_that_cannot_be_read_takes_no_other_along(fault: str, make: Make) -> None:
    async with running(make, faults={fault: Fault(count=1)}) as world:
        name = await world.created(job_of("generate", "file", 5), lines_of("generate", 5))
        blocks = [block async for block in world.provider.fetch(await world.ended(name))]
        assert sum(len(block.rows) for block in blocks) == 4
        assert sum(block.unreadable for block in blocks) == 1


async def test_a_job_without_output_has_none_to_fetch(make: Make) -> None:
    async with running(make, faults={"job.failed": Fault(code=13, message="boom")}) as world:
        name = await world.created(job_of("generate", "inline", 1), lines_of("generate", 1))
        failed = await world.ended(name)
        assert (failed.state, failed.has_output) == ("FAILED", False)
        assert failed.error is not None
        assert (failed.error.code, failed.error.message) == (13, "boom")
        assert (await verdict(world.rows(failed))).kind == "unknown"


async def test_priority_goes_with_the_job_and_into_the_framing(make: Make) -> None:
    async with running(make, settings=Settings(priority=-7)) as world:
        data, job = lines_of("generate", 3), job_of("generate", "inline", 3)
        await world.provider.create(job, pieces(data))
        framing = world.provider.framing
        (logged,) = [logged for logged in world.emulator.requests if str(logged.op) == "create"]
        lines = data.splitlines(keepends=True)
        assert logged.body_bytes == framing.inline_envelope_bytes + len(job.display_name) + sum(
            len(text) + framing.inline_row_bytes for text in lines
        )


# ----------------------------------------------------------------------------------------------------------- uploads

LARGE = lines_of("generate", 9_000)


async def test_a_large_file_goes_up_in_chunks(make: Make) -> None:
    async with running(make) as world:
        file = await world.upload("files/cp-1", LARGE)
        assert (file.name, file.size_bytes) == ("files/cp-1", len(LARGE))
        assert world.calls("upload.chunk") == len(LARGE) // CHUNK


@pytest.mark.parametrize(
    "fault",
    [
        "upload.start.dropped",
        "upload.start.503_empty",
        "upload.start.dropped_after_apply",
        "upload.chunk.dropped",
        "upload.chunk.dropped_midway",
        "upload.chunk.dropped_after_apply",
        "upload.chunk.503",
        "upload.chunk.500_after_apply",
        "upload.finalize.dropped",
        "upload.finalize.dropped_midway",
        "upload.finalize.dropped_after_apply",
        "upload.finalize.500_after_apply",
        "upload.finalize.502_html",
    ],
)
async def test_an_upload_survives_a_break_and_the_file_is_whole(fault: str, make: Make) -> None:
    async with running(make, faults={fault: Fault(count=2)}) as world:
        assert (await world.upload("files/cp-generate-1", LARGE)).size_bytes == len(LARGE)
        name = await world.provider.create(job_of("generate", "file", 9_000), pieces(b""))
        assert (await world.ended(name)).stats.succeeded == 9_000


async def test_uploading_the_same_again_changes_nothing(make: Make) -> None:
    async with running(make) as world:
        first = await world.upload("files/cp-1", LARGE)
        assert await world.upload("files/cp-1", LARGE) == first
        assert world.calls("upload.finalize") == 1


async def test_another_file_of_the_same_name_is_refused(make: Make) -> None:
    async with running(make) as world:
        await world.upload("files/cp-1", LARGE)
        fault = await verdict(world.upload("files/cp-1", LARGE[:-1] + b" "))
        assert (fault.kind, fault.error.code) == ("refused", 409)


async def test_an_empty_file_can_be_uploaded(make: Make) -> None:
    async with running(make) as world:
        assert (await world.upload("files/cp-1", b"")).size_bytes == 0


# ------------------------------------------------------------------------------------------------------------ create


@pytest.mark.parametrize(
    ("fault", "kind", "made"),
    [
        ("create.dropped", "unknown", 0),
        ("create.dropped_after_apply", "unknown", 1),
        ("create.500_after_apply", "unknown", 1),
        ("create.503", "unknown", 0),
        ("create.502_html", "unknown", 0),
        ("create.429", "refused", 0),
        ("create.400", "refused", 0),
        ("create.403", "refused", 0),
    ],
)
@pytest.mark.parametrize("form", ["inline", "file"])
async def test_a_create_is_sent_once_and_says_what_is_known(
    form: str, fault: str, kind: str, made: int, make: Make
) -> None:
    async with running(make, latency_s=60, faults={fault: Fault()}) as world:
        job = job_of("generate", form, 2)
        assert (await verdict(world.created(job, lines_of("generate", 2)))).kind == kind
        assert world.calls("create") == 1
        assert len(await world.provider.find(job.display_name)) == made


async def test_a_refusal_carries_the_servers_words(make: Make) -> None:
    bad = b'{"key":"k0","request":{"contents":[],"thinking_config":{}}}\n'
    async with running(make) as world:
        inline = await verdict(world.created(job_of("generate", "inline", 1), bad))
        assert (inline.kind, inline.error.code, inline.error.status) == ("refused", 400, "INVALID_ARGUMENT")
        assert "thinking_config" in inline.error.message
        assert inline.error.details
        file = await verdict(world.created(job_of("generate", "file", 1), bad))
        assert file.error.message.startswith("Error on line 1:")


async def test_a_create_from_a_file_that_is_gone_is_refused(make: Make) -> None:
    async with running(make) as world:
        job = job_of("generate", "file", 1)
        await world.upload(job.file_name, lines_of("generate", 1))
        await world.provider.delete(job.file_name)
        fault = await verdict(world.provider.create(job, pieces(b"")))
        assert (fault.kind, fault.error.code) == ("refused", 403)


async def test_a_create_with_another_number_of_rows_is_not_sent(make: Make) -> None:
    async with running(make) as world:
        fault = await verdict(world.provider.create(job_of("generate", "inline", 3), pieces(lines_of("generate", 2))))
        assert fault.kind == "not_sent"
        assert world.calls("create") == 0


async def test_a_wrong_key_is_refused(make: Make) -> None:
    async with running(make, api_keys=frozenset({"another"})) as world:
        for call in (
            world.provider.create(job_of("generate", "inline", 1), pieces(lines_of("generate", 1))),
            world.upload("files/cp-1", b"x"),
            world.provider.find("x"),
            world.provider.poll("batches/a"),
        ):
            fault = await verdict(call)
            assert (fault.kind, fault.error.status) == ("refused", "INVALID_ARGUMENT")
            assert "API key not valid" in fault.error.message


# ------------------------------------------------------------------------------------- find, list, poll, cancel, delete


async def test_jobs_are_found_by_their_exact_name_oldest_first(make: Make) -> None:
    async with running(make) as world:
        data = lines_of("embed", 1)
        display_names = ("cp1.a", "cp1.a.b", "cp1.a", "cp1", "cp1.a")
        names = [await world.created(job_of("embed", "inline", 1, given), data) for given in display_names]
        found = await world.provider.find("cp1.a")
        assert [job.name for job in found] == [names[0], names[2], names[4]]
        assert await world.provider.find("cp1.") == []
        assert [job.name async for job in world.provider.list_jobs()] == names[::-1]


async def test_all_pages_of_the_list_are_read(make: Make) -> None:
    async with running(make, jobs_max=1_000) as world:
        data = lines_of("embed", 1)
        for number in range(205):
            await world.created(job_of("embed", "inline", 1, f"cp1.{number}"), data)
        assert len([job async for job in world.provider.list_jobs()]) == 205
        assert len(await world.provider.find("cp1.0")) == 1
        assert world.calls("list") == 6


async def test_an_empty_list_is_empty(make: Make) -> None:
    async with running(make) as world:
        assert [job async for job in world.provider.list_jobs()] == []
        assert await world.provider.find("cp1.0") == []


async def test_a_job_is_seen_on_its_way(make: Make) -> None:
    async with running(make, latency_s=0.5, pending_share=0.5) as world:
        name = await world.created(job_of("generate", "inline", 1), lines_of("generate", 1))
        seen = {(await world.provider.poll(name)).state}
        until = time.monotonic() + 20
        while "SUCCEEDED" not in seen and time.monotonic() < until:
            seen.add((await world.provider.poll(name)).state)
            await anyio.sleep(0.01)
        assert seen == {"PENDING", "RUNNING", "SUCCEEDED"}


async def test_a_cancelled_job_is_cancelled(make: Make) -> None:
    async with running(make, latency_s=600) as world:
        name = await world.created(job_of("generate", "inline", 1), lines_of("generate", 1))
        await world.provider.cancel(name)
        assert (await world.ended(name)).state == "CANCELLED"


async def test_what_is_gone_counts_as_deleted(make: Make) -> None:
    async with running(make) as world:
        job = job_of("generate", "file", 1)
        name = await world.created(job, lines_of("generate", 1))
        await world.ended(name)
        for _ in range(2):
            await world.provider.delete(name)
            await world.provider.delete(job.file_name)
        fault = await verdict(world.provider.poll(name))
        assert (fault.kind, fault.error.code, fault.error.status) == ("refused", 404, "NOT_FOUND")
        assert await world.provider.find(job.display_name) == []
        assert (await verdict(world.provider.cancel(name))).kind == "refused"


@pytest.mark.parametrize("op", ["get", "list", "delete", "cancel"])
async def test_calls_other_than_uploads_are_not_repeated(op: str, make: Make) -> None:
    async with running(make, faults={f"{op}.503": Fault()}) as world:
        calls = {
            "get": world.provider.poll,
            "list": world.provider.find,
            "delete": world.provider.delete,
            "cancel": world.provider.cancel,
        }
        refused = await verdict(calls[op]("batches/a"))
        assert (refused.kind, refused.error.code) == ("unknown", 503)
        assert world.calls(op) == 1


# ------------------------------------------------------------------------------------------------------------- identity


async def test_origins_differ_by_key_and_address_and_hold_no_key() -> None:
    def origin(key: str, url: str) -> str:
        return DeveloperProvider(api_key=key, base_url=url).origin

    assert origin("k1", "https://a.example") == origin("k1", "https://a.example/")
    assert len({origin(key, url) for key in ("k1", "k2") for url in ("https://a.example", "https://b.example")}) == 4
    assert "AIza" not in origin("AIzaFAKE", "https://a.example")


async def test_a_provider_can_be_closed_twice_and_says_so_when_it_is_closed(make: Make) -> None:
    async with running(make) as world:
        await world.provider.close()
        assert (await verdict(world.provider.poll("batches/a"))).kind == "not_sent"
