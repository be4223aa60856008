"""google-genai, unchanged, against the emulator: from threads and within the loop."""

from __future__ import annotations

import asyncio
import io
import json
import time
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from carpool.emulator import Emulator, Fault, Plan, expected_text, expected_values

from .driver import EMBED_MODEL, MODEL, content, jsonl, numbered, prompt

pytestmark = [
    pytest.mark.anyio,
    # The SDK's own: it sends whole chunks as bytes, and its embedding jobs are experimental.
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::google.genai._common.ExperimentalWarning"),
]
UPLOADED = types.UploadFileConfig(mime_type="application/jsonl", display_name="rows")
INLINE = {"contents": "inline", "metadata": {"key": "a"}}


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(Plan(latency_s=0.05, input_tokens_max=10_000_000)) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[genai.Client]:
    client = genai.Client(api_key="key", http_options=types.HttpOptions(base_url=emulator.base_url))
    yield client
    await client.aio.aclose()
    await asyncio.to_thread(client.close)


async def until_done(get: Callable[[], Any]) -> Any:
    """Poll a job within bounds."""
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        job = await get()
        if job.done:
            return job
        await asyncio.sleep(0.01)
    raise AssertionError("the job never ended")


def texts_of(raw: bytes) -> dict[str, str]:
    rows = [json.loads(line) for line in raw.split(b"\n") if line]
    return {row["key"]: row["response"]["candidates"][0]["content"]["parts"][0]["text"] for row in rows}


# -- within the loop


async def test_live_calls(client: genai.Client, emulator: Emulator) -> None:
    answer = await client.aio.models.generate_content(
        model=MODEL, contents="Why?", config=types.GenerateContentConfig(temperature=0.5)
    )
    vectors = await client.aio.models.embed_content(
        model=EMBED_MODEL, contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=8)
    )
    counted = await client.aio.models.count_tokens(model=MODEL, contents="12345678")

    assert answer.text == expected_text("Why?")
    assert vectors.embeddings is not None
    assert [one.values for one in vectors.embeddings] == [expected_values("a", 8), expected_values("b", 8)]
    assert counted.total_tokens == 2
    assert emulator.ledger().live_calls == 3


async def test_a_schema_is_parsed_and_a_tool_called(client: genai.Client) -> None:
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: where.
        """
        raise NotImplementedError(city)

    structured = await client.aio.models.generate_content(
        model=MODEL,
        contents="x",
        config=types.GenerateContentConfig(response_mime_type="application/json", response_schema=list[str]),
    )
    called = await client.aio.models.generate_content(
        model=MODEL,
        contents="x",
        config=types.GenerateContentConfig(
            tools=[weather],
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY")),
        ),
    )
    image = await client.aio.models.generate_content(model="gemini-3-pro-image", contents="a cat")

    assert isinstance(structured.parsed, list)
    assert called.function_calls is not None
    assert (called.function_calls[0].name, list(called.function_calls[0].args or {})) == ("weather", ["city"])
    picture = image.parts[1].inline_data
    assert picture.mime_type == "image/png"
    assert picture.data.startswith(b"\x89PNG")


async def test_a_file_job_from_upload_to_download(client: genai.Client, emulator: Emulator) -> None:
    rows = numbered(10) + jsonl({"key": "long", "request": prompt("x" * (9 * 1024 * 1024))})
    file = await client.aio.files.upload(file=io.BytesIO(rows), config=UPLOADED)
    assert (file.size_bytes, file.state, file.display_name) == (len(rows), types.FileState.ACTIVE, "rows")
    job = await client.aio.batches.create(model=MODEL, src=file.name, config={"display_name": "dn"})
    assert job.state is types.JobState.JOB_STATE_PENDING
    job = await until_done(lambda: client.aio.batches.get(name=job.name))

    assert job.state is types.JobState.JOB_STATE_SUCCEEDED
    texts = texts_of(await client.aio.files.download(file=job.dest.file_name))
    assert texts.pop("long") == expected_text("x" * (9 * 1024 * 1024))
    assert texts == {f"k{index}": expected_text(f"prompt {index}") for index in range(10)}
    assert emulator.ledger().rows_billed == 11
    chunks = [logged.body_bytes for logged in emulator.requests if logged.op in {"upload.chunk", "upload.finalize"}]
    assert chunks == [8 * 1024 * 1024, len(rows) - 8 * 1024 * 1024]


async def test_an_inline_job(client: genai.Client) -> None:
    job = await client.aio.batches.create(
        model=MODEL, src=[INLINE, {"contents": "[[error:8:busy]]", "metadata": {"key": "b"}}]
    )
    job = await until_done(lambda: client.aio.batches.get(name=job.name))
    first, second = job.dest.inlined_responses
    assert (first.metadata, first.response.text) == ({"key": "a"}, expected_text("inline"))
    assert (second.metadata, second.error.code, second.error.message) == ({"key": "b"}, 8, "busy")


async def test_embedding_jobs(client: genai.Client) -> None:
    file = await client.aio.files.upload(
        file=io.BytesIO(jsonl({"key": "f", "request": content("a", output_dimensionality=4)})), config=UPLOADED
    )
    from_file = await client.aio.batches.create_embeddings(
        model=EMBED_MODEL, src=types.EmbeddingsBatchJobSource(file_name=file.name)
    )
    inline = await client.aio.batches.create_embeddings(
        model=EMBED_MODEL,
        src=types.EmbeddingsBatchJobSource(
            inlined_requests=types.EmbedContentBatch(
                contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=4)
            )
        ),
    )
    from_file = await until_done(lambda: client.aio.batches.get(name=from_file.name))
    inline = await until_done(lambda: client.aio.batches.get(name=inline.name))

    (row,) = (await client.aio.files.download(file=from_file.dest.file_name)).splitlines()
    assert json.loads(row)["response"] == {"tokenCount": "1", "embedding": {"values": expected_values("a", 4)}}
    responses = inline.dest.inlined_embed_content_responses
    assert [one.response.embedding.values for one in responses] == [expected_values("a", 4), expected_values("b", 4)]


async def test_listing_cancelling_and_deleting(client: genai.Client, emulator: Emulator) -> None:
    emulator.plan = Plan(latency_s=1000.0)
    names = [(await client.aio.batches.create(model=MODEL, src=[INLINE])).name for _ in range(3)]
    listed = [job.name async for job in await client.aio.batches.list(config={"page_size": 2})]
    assert listed == names[::-1]
    await client.aio.batches.cancel(name=names[0])
    cancelled = await client.aio.batches.get(name=names[0])
    assert cancelled.state is types.JobState.JOB_STATE_CANCELLED
    await client.aio.batches.delete(name=names[0])
    with pytest.raises(errors.ClientError, match="404"):
        await client.aio.batches.get(name=names[0])

    file = await client.aio.files.upload(file=io.BytesIO(b"x"), config=UPLOADED)
    assert [one.name async for one in await client.aio.files.list()] == [file.name]
    assert await client.aio.files.get(name=file.name) == file
    await client.aio.files.delete(name=file.name)
    with pytest.raises(errors.ClientError, match="403"):
        await client.aio.files.get(name=file.name)


async def test_refusals_are_the_clients_own_errors(client: genai.Client, emulator: Emulator) -> None:
    with pytest.raises(errors.ClientError, match="models/palm is not found"):
        await client.aio.models.generate_content(model="palm", contents="x")
    emulator.plan = Plan(faults={"create.429": Fault(count=1), "get.502_html": Fault(count=1)})
    with pytest.raises(errors.ClientError, match="exceeded your current quota"):
        await client.aio.batches.create(model=MODEL, src=[INLINE])
    with pytest.raises(errors.ServerError, match="502"):
        await client.aio.batches.get(name="batches/x")


async def test_keys_that_are_not_taken_are_the_clients_own_errors(emulator: Emulator) -> None:
    emulator.plan = Plan(api_keys=frozenset({"good"}))
    for key, taken in (("good", True), ("bad", False)):
        client = genai.Client(api_key=key, http_options=types.HttpOptions(base_url=emulator.base_url))
        try:
            if taken:
                assert (await client.aio.models.generate_content(model=MODEL, contents="x")).text
                continue
            with pytest.raises(errors.ClientError, match="API key not valid") as caught:
                await client.aio.models.generate_content(model=MODEL, contents="x")
            assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
            assert caught.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        finally:
            await client.aio.aclose()


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
async def test_every_version_of_the_api_is_there(emulator: Emulator, version: str) -> None:
    options = types.HttpOptions(base_url=emulator.base_url, api_version=version)
    client = genai.Client(api_key="key", http_options=options)
    answer = await client.aio.models.generate_content(model=MODEL, contents="x")
    job = await client.aio.batches.create(model=MODEL, src=[INLINE])
    job = await until_done(lambda: client.aio.batches.get(name=job.name))
    await client.aio.aclose()
    assert answer.text == expected_text("x")
    assert job.dest.inlined_responses[0].response.text == expected_text("inline")
    assert {call.path.split("/")[1] for call in emulator.requests} == {version}


async def test_the_clients_own_retries_get_through(emulator: Emulator) -> None:
    retries = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.002)
    options = types.HttpOptions(base_url=emulator.base_url, retry_options=retries)
    client = genai.Client(api_key="key", http_options=options)
    emulator.plan = Plan(faults={"generate.503": Fault(count=1), "generate.429": Fault(count=1)})
    answer = await client.aio.models.generate_content(model=MODEL, contents="x")
    await client.aio.aclose()
    assert answer.text == expected_text("x")
    assert [call.status for call in emulator.requests] == [429, 503, 200]


async def test_the_async_client_makes_two_jobs_of_one_create_whose_answer_is_lost(
    client: genai.Client, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends a create again after a dropped connection, and so the first job is an orphan that is paid for."""
    monkeypatch.setattr("google.genai._api_client.random.randint", lambda low, high: -1)  # it waits 1 + this seconds
    emulator.plan = Plan(faults={"create.dropped_after_apply": Fault(count=1)})
    job = await client.aio.batches.create(model=MODEL, src=[INLINE])
    await until_done(lambda: client.aio.batches.get(name=job.name))
    assert emulator.ledger().twice == ["a"]


# -- from a thread


async def test_the_blocking_client(client: genai.Client, emulator: Emulator) -> None:
    def everything() -> dict[str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert client.models.generate_content(model=MODEL, contents="Why?").text == expected_text("Why?")
            vectors = client.models.embed_content(model=EMBED_MODEL, contents="a")
            assert vectors.embeddings is not None
            assert vectors.embeddings[0].values == expected_values("a")
            rows = numbered(3) + jsonl({"key": "long", "request": prompt("x" * (9 * 1024 * 1024))})
            file = client.files.upload(file=io.BytesIO(rows), config=UPLOADED)
            jobs = [
                client.batches.create(model=MODEL, src=file.name),
                client.batches.create(model=MODEL, src=[INLINE]),
                client.batches.create_embeddings(
                    model=EMBED_MODEL,
                    src=types.EmbeddingsBatchJobSource(inlined_requests=types.EmbedContentBatch(contents=["a"])),
                ),
            ]
            give_up_at = time.monotonic() + 30
            while not all(job.done for job in jobs):
                assert time.monotonic() < give_up_at
                time.sleep(0.01)
                jobs = [client.batches.get(name=job.name) for job in jobs]
            from_file, inline, embedded = jobs
            assert inline.dest.inlined_responses[0].response.text == expected_text("inline")
            assert len(embedded.dest.inlined_embed_content_responses) == 1
            assert [job.name for job in client.batches.list()] == [embedded.name, inline.name, from_file.name]
            client.batches.cancel(name=inline.name)
            client.batches.delete(name=inline.name)
            assert client.files.get(name=file.name) == file
            assert [one.name for one in client.files.list()] == [file.name]
            raw = client.files.download(file=from_file.dest.file_name)
            client.files.delete(name=file.name)
            return texts_of(raw)

    texts = await asyncio.to_thread(everything)
    assert texts.keys() == {"k0", "k1", "k2", "long"}
    assert texts["k1"] == expected_text("prompt 1")
    assert {logged.status for logged in emulator.requests} == {200}
