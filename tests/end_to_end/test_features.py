"""What the Batch API offers, feature by feature, through the public client: each has one test that shows it at work."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from carpool import (
    Blob,
    CacheError,
    Client,
    ConfigurationError,
    FileError,
    JobError,
    NotBatchable,
    Request,
    RequestRejected,
)
from carpool.emulator import Call, Emulator, Fault, Plan, expected_text, expected_values

from .support import (
    EMBED_MODEL,
    FILE,
    FORMS,
    HOUR_S,
    INLINE,
    MODEL,
    TimedEmulator,
    ask_all,
    assert_own,
    calls_of,
    jobs_of,
    opened,
    ops_of,
    prompts,
    refused,
    rows_of_jobs,
    until,
)

IMAGE_MODEL = "gemini-2.5-flash-image"
DAY_S = 24 * HOUR_S


def png(width: int = 2, height: int = 2) -> bytes:
    """Return a small picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80\x40\x20" * width for _ in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Recording(Emulator):
    """An emulator that keeps the bodies of create calls."""

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__(plan)
        self.creates: list[Any] = []

    async def _reply_to(self, call: Call) -> Any:
        if call.path.endswith(":batchGenerateContent"):
            self.creates.append(json.loads(call.body))
        return await super()._reply_to(call)

    def rows(self) -> list[dict[str, Any]]:
        """Return the requests of all inline jobs, as the server got them."""
        found = [row for create in self.creates for row in create["batch"]["inputConfig"]["requests"]["requests"]]
        return [row["request"] for row in found]


# -- how batches are made


async def test_inline_batches() -> None:
    async with Emulator() as emulator, opened(emulator, **INLINE) as client:
        assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert [job.file_name for job in jobs_of(emulator)] == [""]
        assert not calls_of(emulator, "upload.start", "download")


async def test_batches_from_files() -> None:
    async with Emulator() as emulator, opened(emulator, **FILE) as client:
        assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert [bool(job.file_name) for job in jobs_of(emulator)] == [True]
        assert ops_of(emulator)["upload.finalize"] == ops_of(emulator)["download"] == 1


@FORMS
async def test_answers_are_matched_by_key_whatever_their_order(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"output.shuffled": Fault()})) as emulator, opened(emulator, **form) as client:
        answers = await asyncio.gather(*(client.generate(MODEL, text, key=f"key {text}") for text in prompts(50)))
        assert_own(prompts(50), answers)
        assert [answer.key for answer in answers] == [f"key {text}" for text in prompts(50)]


@FORMS
async def test_embeddings(form: dict[str, Any]) -> None:
    async with Emulator() as emulator, opened(emulator, **form) as client:
        config = {"output_dimensionality": 16, "task_type": "RETRIEVAL_DOCUMENT", "title": "physics"}
        vectors = await asyncio.gather(*(client.embed(EMBED_MODEL, text, config=config) for text in prompts(20)))
        assert [vector.values for vector in vectors] == [expected_values(text, 16) for text in prompts(20)]
        assert rows_of_jobs(emulator) == [20]
        assert vectors[0].to_genai().embeddings[0].values == pytest.approx(vectors[0].values)


@FORMS
async def test_errors_of_rows_stay_with_their_rows(form: dict[str, Any]) -> None:
    plan = Plan(faults={"row.error": Fault(every=5, code=3, message="bad picture", status="INVALID_ARGUMENT")})
    async with Emulator(plan) as emulator, opened(emulator, **form) as client:
        outcomes = [
            outcome async for outcome in client.map(Request(model=MODEL, contents=text) for text in prompts(20))
        ]
    bad = [outcome.error for outcome in outcomes if not outcome.ok]
    assert len(bad) == 4
    assert {(type(error), error.code, error.message) for error in bad if error} == {(RequestRejected, 3, "bad picture")}


# -- media


async def test_pictures_go_in_as_bytes_paths_and_uploaded_files(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(png())
    async with Recording() as emulator, opened(emulator, **INLINE) as client:
        file = await client.files.upload(picture)
        assert (file.mime_type, file.size_bytes, file.state, file.display_name) == (
            "image/png",
            len(png()),
            "ACTIVE",
            "picture.png",
        )
        parts: list[Any] = [
            Blob(png(), "image/png"),
            {"inline_data": {"data": png(), "mime_type": "image/png"}},
            picture,
            file,
            {"file_data": {"file_uri": file.uri, "mime_type": "image/png"}},
        ]
        answers = await asyncio.gather(*(client.generate(MODEL, ["What is this?", part]) for part in parts))
        assert all(answer.text for answer in answers)
        media = [next(iter(row["contents"][0]["parts"][1].items())) for row in emulator.rows()]
        assert [name for name, _ in media] == ["inlineData"] * 3 + ["fileData"] * 2
        assert media[0] == media[1] == media[2]
        assert media[3] == media[4] == ("fileData", {"fileUri": file.uri, "mimeType": "image/png"})
        assert rows_of_jobs(emulator) == [5]


async def test_files_are_listed_described_and_deleted(tmp_path: Path) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        uploaded = [await client.files.upload(b"text %d" % n, mime_type="text/plain") for n in range(3)]
        assert {file.name async for file in client.files.list()} == {file.name for file in uploaded}
        assert (await client.files.get(uploaded[0].name.removeprefix("files/"))).uri == uploaded[0].uri
        await client.files.delete(uploaded[0].name)
        await client.files.delete(uploaded[0].name)
        with pytest.raises(FileError) as gone:
            await client.files.get(uploaded[0].name)
        assert gone.value.code == 403
        assert len([file async for file in client.files.list()]) == 2
        with pytest.raises(ConfigurationError, match="is not a name"):
            await client.files.get("../batches/x")
        with pytest.raises(ConfigurationError, match="mime_type"):
            await client.files.upload(b"what is this")
        with pytest.raises(ConfigurationError, match=r"cannot be read|is not a file"):
            await client.files.upload(tmp_path / "nothing.png")


async def test_an_upload_of_a_large_file_goes_on_after_a_break(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * 80_000)
    async with Emulator(Plan(faults={"upload.chunk.dropped_midway": Fault(count=1, after=1)})) as emulator:
        async with opened(emulator, upload_chunk_bytes=8_388_608) as client:
            file = await client.files.upload(large, mime_type="application/octet-stream")
        assert file.size_bytes == 20_480_000
        assert ops_of(emulator)["upload.start"] == 1
        assert ops_of(emulator)["upload.query"] >= 1


async def test_a_video_is_used_once_the_server_has_processed_it() -> None:
    async with TimedEmulator(Plan(file_processing_s=HOUR_S)) as emulator, opened(emulator) as client:
        uploading = asyncio.create_task(client.files.upload(b"frames", mime_type="video/mp4"))
        await until(lambda: ops_of(emulator)["files.get"], "the first look at the file")
        assert not uploading.done()
        emulator.let_pass(HOUR_S)
        assert (await uploading).state == "ACTIVE"


async def test_a_file_that_expires_before_its_batch_could_run_is_refused_or_uploaded_again(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(png())
    async with Recording(Plan(file_life_s=HOUR_S)) as emulator, opened(emulator, **INLINE) as client:
        from_bytes = await client.files.upload(png(), mime_type="image/png")
        from_path = await client.files.upload(picture)
        with pytest.raises(ConfigurationError, match=rf"{from_bytes.name} expires in 1\.0 h") as too_old:
            await client.generate(MODEL, ["look", from_bytes])
        assert "file_margin_s" in str(too_old.value)
        assert not calls_of(emulator, "create")

        emulator.plan = Plan()
        await asyncio.gather(*(client.generate(MODEL, [text, from_path]) for text in prompts(5)))
        (newest,) = {row["contents"][0]["parts"][1]["fileData"]["fileUri"] for row in emulator.rows()}
        assert newest != from_path.uri
        assert ops_of(emulator)["upload.start"] == 3, "five callers uploaded it again more than once"

        emulator.plan = Plan(file_life_s=HOUR_S)
        changed = await client.files.upload(picture)
        picture.write_bytes(png(3, 3))
        with pytest.raises(ConfigurationError, match="no longer what was uploaded"):
            await client.generate(MODEL, ["look", changed])


async def test_a_file_that_this_client_never_saw_is_looked_up_once() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            file = await client.files.upload(png(), mime_type="image/png")
        part = {"file_data": {"file_uri": file.uri, "mime_type": "image/png"}}
        async with opened(emulator, **INLINE) as client:
            before = ops_of(emulator)["files.get"]
            await asyncio.gather(*(client.generate(MODEL, [text, part]) for text in prompts(5)))
            await client.generate(MODEL, ["again", part])
            assert ops_of(emulator)["files.get"] == before + 1
            await client.files.delete(file.name)
        async with opened(emulator, **INLINE) as client:
            with pytest.raises(ConfigurationError, match="is not there, or belongs to somebody else"):
                await client.generate(MODEL, ["look", part])
            elsewhere = {"file_data": {"file_uri": "https://example.com/cat.png", "mime_type": "image/png"}}
            assert (await client.generate(MODEL, ["look", elsewhere])).text


@FORMS
async def test_pictures_come_out(form: dict[str, Any]) -> None:
    async with Emulator() as emulator, opened(emulator, **form) as client:
        config = {"response_modalities": ["TEXT", "IMAGE"], "image_config": {"aspect_ratio": "16:9"}}
        answers = await asyncio.gather(*(client.generate(IMAGE_MODEL, text, config=config) for text in prompts(3)))
        for answer in answers:
            (image,) = answer.images
            assert image.mime_type == "image/png"
            width, height = struct.unpack(">II", image.data[16:24])
            assert image.data.startswith(b"\x89PNG")
            assert width > height
            assert answer.to_genai().parts[-1].inline_data.data == image.data
        assert rows_of_jobs(emulator) == [3]


# -- what a request can ask for

WEATHER = {
    "name": "weather",
    "description": "Tell the weather of a city.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}


@FORMS
async def test_tools(form: dict[str, Any]) -> None:
    async with Emulator() as emulator, opened(emulator, **form) as client:
        must_call = {
            "tools": [{"function_declarations": [WEATHER]}],
            "tool_config": {"function_calling_config": {"mode": "ANY"}},
        }
        called, searched = await asyncio.gather(
            client.generate(MODEL, "How is the weather in Oslo?", config=must_call),
            client.generate(MODEL, "What is new?", config={"tools": [{"google_search": {}}]}),
        )
        (call,) = called.function_calls
        assert (call.name, list(call.args)) == ("weather", ["city"])
        assert called.to_genai().function_calls[0].name == "weather"
        assert searched.json()["candidates"][0]["groundingMetadata"]
        assert not searched.function_calls


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class ByPydantic(pydantic.BaseModel):
    name: str
    sizes: list[int]
    colour: Colour


@dataclasses.dataclass
class ByDataclass:
    name: str
    sizes: list[int]
    colour: Literal["red", "blue"]


class ByMsgspec(msgspec.Struct):
    name: str
    sizes: list[int]
    colour: Colour


@pytest.mark.parametrize("schema", [ByPydantic, ByDataclass, ByMsgspec])
async def test_json_answers_become_what_the_schema_is(schema: Any) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        one, many = await asyncio.gather(
            client.generate(MODEL, "a thing", config={"response_schema": schema}),
            client.generate(MODEL, "things", config={"response_schema": list[schema]}),
        )
        assert isinstance(one.parsed, schema)
        assert isinstance(one.parsed.name, str)
        assert all(isinstance(size, int) for size in one.parsed.sizes)
        assert one.parsed.colour in (Colour.RED, Colour.BLUE, "red", "blue")
        assert isinstance(many.parsed, list)
        assert all(isinstance(thing, schema) for thing in many.parsed)


async def test_json_answers_by_a_dict_are_plain_data() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    async with Emulator() as emulator, opened(emulator) as client:
        answers = await asyncio.gather(
            client.generate(MODEL, "x", config={"response_schema": schema}),
            client.generate(MODEL, "x", config={"response_json_schema": schema}),
            client.generate(MODEL, "x"),
        )
        assert [type(answer.parsed) for answer in answers] == [dict, dict, type(None)]
        assert all(isinstance(answer.parsed["name"], str) for answer in answers[:2])


@FORMS
async def test_cached_content(form: dict[str, Any]) -> None:
    async with Emulator() as emulator, opened(emulator, **form) as client:
        cache = await client.caches.create(
            MODEL, "a long document " * 2_000, config={"system_instruction": "Answer briefly."}, ttl_s=3_600
        )
        assert cache.tokens > 1_024
        assert cache.model.endswith(MODEL)
        answers = await ask_all(client, prompts(3), config={"cached_content": cache.name})
        assert all(answer.usage.cached_tokens == cache.tokens for answer in answers)
        assert [found.name async for found in client.caches.list()] == [cache.name]
        longer = await client.caches.extend(cache.name, ttl_s=10 * HOUR_S)
        assert longer.expires_at > (await client.caches.get(cache.name)).created_at
        await client.caches.delete(cache.name)
        await client.caches.delete(cache.name)
        with pytest.raises(CacheError) as gone:
            await client.caches.get(cache.name)
        assert gone.value.code == 403
        (error,) = await refused(
            RequestRejected, client.generate(MODEL, "too late", config={"cached_content": cache.name})
        )
        assert "CachedContent not found" in str(error)


async def test_a_cache_that_work_in_flight_uses_is_kept_alive() -> None:
    async with Emulator(Plan(latency_s=DAY_S)) as emulator, opened(emulator, **INLINE) as client:
        cache = await client.caches.create(MODEL, "a long document " * 2_000, ttl_s=60)
        asking = asyncio.create_task(client.generate(MODEL, "slow", config={"cached_content": cache.name}))
        await until(lambda: ops_of(emulator)["caches.update"], "the extension of the cache")
        kept = await client.caches.get(cache.name)
        assert kept.expires_at > cache.expires_at
        assert ops_of(emulator)["caches.update"] == 1
        asking.cancel()
        await asyncio.wait((asking,))


@pytest.mark.parametrize("model", ["imagen-4.0-generate-001", "veo-3.1-generate-preview", "lyria-002"])
async def test_models_that_make_media_otherwise_are_refused_at_once(model: str) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        with pytest.raises(NotBatchable):
            await client.generate(model, "a cat")
        assert not emulator.requests


async def test_rows_in_googles_own_form() -> None:
    rows = [{"key": f"k{n}", "request": {"contents": [{"parts": [{"text": f"p{n}"}]}]}} for n in range(5)]
    vectors = [
        {"key": f"v{n}", "request": {"content": {"parts": [{"text": f"p{n}"}]}, "output_dimensionality": 8}}
        for n in range(5)
    ]
    async with Emulator() as emulator, opened(emulator) as client:
        found = {outcome.key: outcome async for outcome in client.map([*rows, {"prompt": "x"}], model=MODEL)}
        texts = {key: outcome.response.text for key, outcome in found.items() if outcome.ok}
        assert texts == {f"k{n}": expected_text(f"p{n}") for n in range(5)}
        (bad,) = [outcome.error for outcome in found.values() if not outcome.ok]
        assert isinstance(bad, ConfigurationError)
        assert "'prompt'" in str(bad)
        embedded = {
            outcome.key: outcome.response.values
            async for outcome in client.map(vectors, model=EMBED_MODEL, kind="embed")
        }
        assert embedded == {f"v{n}": expected_values(f"p{n}", 8) for n in range(5)}
        with pytest.raises(ConfigurationError, match=r"model=\.\.\."):
            _ = [outcome async for outcome in client.map(rows)]


# -- jobs


async def test_jobs_are_listed_described_cancelled_and_deleted() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator, opened(emulator, **INLINE) as client:
        first = asyncio.create_task(client.generate(MODEL, "first", key="first"))
        await until(lambda: len(jobs_of(emulator)) == 1, "the first job")
        (listed,) = [job async for job in client.jobs.list()]
        job = await client.jobs.get(listed.name.removeprefix("batches/"))
        assert job.state in ("PENDING", "RUNNING")
        assert not job.ended
        assert (job.stats.requests, job.stats.pending, job.stats.succeeded) == (1, 1, 0)
        emulator.let_pass()
        assert (await first).text == expected_text("first")
        job = await client.jobs.get(job.name)
        assert (job.state, job.ended) == ("SUCCEEDED", True)
        assert (job.stats.requests, job.stats.succeeded, job.stats.failed) == (1, 1, 0)
        (outcome,) = [outcome async for outcome in client.jobs.results(job.name)]
        assert (outcome.key, outcome.response.text) == ("first", expected_text("first"))
        await client.jobs.delete(job.name)
        with pytest.raises(JobError) as gone:
            await client.jobs.get(job.name)
        assert gone.value.code == 404
        assert [job async for job in client.jobs.list()] == []

        second = asyncio.create_task(client.generate(MODEL, "second", key="second"))
        await until(lambda: ops_of(emulator)["create"] == 2, "the second job")
        (running,) = [job async for job in client.jobs.list()]
        await client.jobs.cancel(running.name)
        cancelled = await client.jobs.get(running.name)
        assert (cancelled.state, cancelled.ended) == ("CANCELLED", True)
        second.cancel()
        await asyncio.wait((second,))


async def test_the_servers_statistics_count_what_failed() -> None:
    plan = Plan(faults={"row.error": Fault(every=4, code=3)})
    async with Emulator(plan) as emulator, opened(emulator, **INLINE) as client:
        outcomes = [outcome async for outcome in client.map(Request(model=MODEL, contents=text) for text in prompts(8))]
        assert [outcome.ok for outcome in outcomes].count(False) == 2
        (job,) = [job async for job in client.jobs.list()]
        stats = (await client.jobs.get(job.name)).stats
        assert (stats.requests, stats.succeeded, stats.failed, stats.pending) == (8, 6, 2, 0)


@pytest.mark.parametrize("state", ["SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"])
@pytest.mark.parametrize("prefix", ["BATCH_STATE", "JOB_STATE"])
async def test_every_final_state_is_understood_in_either_spelling(state: str, prefix: Any) -> None:
    faults = {} if state == "SUCCEEDED" else {f"job.{state.lower()}": Fault(count=1)}
    async with Emulator(Plan(faults=faults, state_prefix=prefix)) as emulator, opened(emulator, **INLINE) as client:
        assert_own(prompts(4), await ask_all(client, prompts(4)))
        states = [(await client.jobs.get(job.name)).state for job in jobs_of(emulator)]
        assert states[0] == state
        assert states[1:] == ([] if state == "SUCCEEDED" else ["SUCCEEDED"])


async def test_a_job_that_expires_after_48_hours_is_sent_again() -> None:
    plan = Plan(faults={"job.stuck_pending": Fault(count=1)})
    async with TimedEmulator(plan) as emulator, opened(emulator, **INLINE) as client:
        asking = asyncio.create_task(client.generate(MODEL, "stuck"))
        await until(lambda: ops_of(emulator)["get"] > 1, "two polls of the job")
        emulator.let_pass(47 * HOUR_S)
        before = ops_of(emulator)["get"]
        await until(lambda: ops_of(emulator)["get"] > before + 1, "polls after 47 hours")
        assert not asking.done()
        emulator.let_pass(2 * HOUR_S)
        assert (await asking).text == expected_text("stuck")
        assert [job.state for job in jobs_of(emulator)] == ["EXPIRED", "SUCCEEDED"]
        assert emulator.ledger().rows_billed == 1


async def test_plain_http_is_for_this_machine_only() -> None:
    for url in ("http://example.com", "http://10.0.0.7:8700", "http://localhost.example.com"):
        with pytest.raises(ConfigurationError, match="must be https"):
            Client(api_key="key", base_url=url)
