"""What the emulator receives of our client is what it receives of google-genai: inline, in files, and of embeddings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from google import genai
from google.genai import types

from carpool import Client, MemoryStore, Settings
from carpool.emulator import Call, Emulator

from .recording import canonical, spelling
from .test_same_body import CONFIGS, EMBED_CONFIGS, MODEL, PIXELS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::google.genai._common.ExperimentalWarning"),
]
EMBED_MODEL = "gemini-embedding-001"
BOOK = "It was a bright cold day in April, and the clocks were striking thirteen. " * 600
QUICK = {"linger_s": 0.05, "linger_max_s": 0.1, "poll_min_s": 0.002, "poll_max_s": 0.02, "first_contact_s": 30.0}
FORMS = {"inline": {"inline_cost_max_usd": None}, "file": {"inline_cost_max_usd": Decimal(0)}}


class Wire:
    """An emulator that keeps the bodies of what it is asked."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.calls: list[Call] = []
        answer = emulator.world.steps

        def kept(call: Call, now: float) -> Any:
            self.calls.append(call)
            return answer(call, now)

        emulator.world.steps = kept  # type: ignore[method-assign]

    def created(self) -> list[dict[str, Any]]:
        """Return the bodies of all creates since the last time."""
        bodies = [
            json.loads(call.body)["batch"] for call in self.calls if ":batchGen" in call.path or ":async" in call.path
        ]
        assert bodies
        return bodies

    def inline_rows(self) -> list[dict[str, Any]]:
        rows = [row for body in self.created() for row in body["inputConfig"]["requests"]["requests"]]
        self.calls.clear()
        return rows

    def file_rows(self) -> list[dict[str, Any]]:
        """Return the rows of all files that were uploaded, each in one chunk, for a job."""
        assert all(set(body["inputConfig"]) <= {"fileName", "file_name"} for body in self.created())
        chunks = [call.body for call in self.calls if call.headers.get("x-goog-upload-command") == "upload, finalize"]
        self.calls.clear()
        return [json.loads(line) for chunk in chunks for line in chunk.split(b"\n") if line]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with Emulator() as emulator:
        yield Wire(emulator)


@pytest.fixture
async def official(wire: Wire) -> AsyncIterator[genai.Client]:
    client = genai.Client(api_key="any-key", http_options=types.HttpOptions(base_url=wire.emulator.base_url))
    yield client
    await client.aio.aclose()
    await asyncio.to_thread(client.close)


def cases(cache: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return contents and config by a text that stands in the contents, so that requests can be told apart."""
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, config in CONFIGS.items():
        found[name] = (name, config | {"cached_content": cache} if "cached_content" in config else config)
    picture = types.Part.from_bytes(data=PIXELS, mime_type="image/png")
    page = types.Part.from_uri(file_uri="https://example.com/a.pdf", mime_type="application/pdf")
    found["bytes and an address"] = (["bytes and an address", picture, page], {})
    turns = [types.UserContent("several turns"), types.ModelContent("b"), types.UserContent("c")]
    found["several turns"] = (turns, {"system_instruction": "be brief"})
    return found


def by_text(requests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {request["contents"][0]["parts"][0]["text"]: request for request in requests}


async def made_by_us(wire: Wire, form: str, asked: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    settings = Settings(**QUICK, **FORMS[form])
    async with Client(
        api_key="any-key", base_url=wire.emulator.base_url, store=MemoryStore(), settings=settings
    ) as client:
        calls = (client.generate(MODEL, contents, config=config or None) for contents, config in asked.values())
        # Some are refused row by row (there is no such file search store): only what was sent counts here.
        await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("form", FORMS)
async def test_rows_of_a_batch_are_the_same_requests(wire: Wire, official: genai.Client, form: str) -> None:
    cache = await official.aio.caches.create(model=MODEL, config={"contents": [BOOK], "ttl": "400000s"})
    assert cache.name
    asked = cases(cache.name)
    rows = [
        types.InlinedRequest(contents=contents, config=types.GenerateContentConfig(**config), metadata={"key": "k"})
        for contents, config in asked.values()
    ]
    await official.aio.batches.create(model=MODEL, src=rows, config={"display_name": "dn"})
    theirs = wire.inline_rows()
    await made_by_us(wire, form, asked)
    ours = wire.inline_rows() if form == "inline" else wire.file_rows()

    beside = "metadata" if form == "inline" else "key"
    assert {frozenset(row) for row in ours} == {frozenset({"request", beside})}
    assert {frozenset(row) for row in theirs} == {frozenset({"request", "metadata"})}
    if form == "inline":
        assert all(list(row["metadata"]) == ["key"] for row in ours)
    sent, wanted = by_text([row["request"] for row in ours]), by_text([row["request"] for row in theirs])
    assert sent.keys() == wanted.keys() == asked.keys()
    for name, request in sent.items():
        assert canonical(request) == canonical(wanted[name]), name
        assert spelling(request) == set()


async def test_creates_are_wrapped_alike(wire: Wire, official: genai.Client) -> None:
    """Around the rows: the same names at the same places, inline and from a file."""
    row = types.InlinedRequest(contents="a", metadata={"key": "k"})
    file = await official.aio.files.upload(
        file=__file__, config=types.UploadFileConfig(mime_type="text/plain", display_name="x")
    )
    await official.aio.batches.create(model=MODEL, src=[row], config={"display_name": "dn"})
    with pytest.raises(genai.errors.ClientError):  # it is no file of rows, but the create was sent
        await official.aio.batches.create(model=MODEL, src=file.name, config={"display_name": "dn"})
    theirs = [places(body) for body in wire.created()]
    wire.calls.clear()
    for form in FORMS:
        await made_by_us(wire, form, {"a": ("a", {})})
    assert [places(body) for body in wire.created()] == theirs


def places(body: dict[str, Any]) -> set[str]:
    """Return what stands beside and around the rows."""
    found = set(body) | {f"inputConfig.{name}" for name in body["inputConfig"]}
    requests = body["inputConfig"].get("requests")
    if requests is not None:
        found |= {f"requests.{name}" for name in requests} | {f"row.{name}" for name in requests["requests"][0]}
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EMBED_CONFIGS)
async def test_rows_of_an_embedding_batch_are_the_same_requests(
    wire: Wire, official: genai.Client, form: str, name: str
) -> None:
    config = EMBED_CONFIGS[name]
    texts = ["a", "b", "c"]
    batch = types.EmbedContentBatch(contents=texts, config=types.EmbedContentConfig(**config))
    source = types.EmbeddingsBatchJobSource(inlined_requests=batch)
    await official.aio.batches.create_embeddings(model=EMBED_MODEL, src=source, config={"display_name": "dn"})
    theirs = wire.inline_rows()
    settings = Settings(**QUICK, **FORMS[form])
    async with Client(
        api_key="any-key", base_url=wire.emulator.base_url, store=MemoryStore(), settings=settings
    ) as client:
        vectors = await asyncio.gather(*(client.embed(EMBED_MODEL, text, config=config or None) for text in texts))
    assert len({tuple(vector.values) for vector in vectors}) == 3
    ours = wire.inline_rows() if form == "inline" else wire.file_rows()
    # The official client sends no metadata for inline embeddings, and so can match answers by their place alone.
    assert {frozenset(row) for row in theirs} == {frozenset({"request"})}
    assert {frozenset(row) for row in ours} == {frozenset({"request", "metadata" if form == "inline" else "key"})}
    sent = sorted((canonical(row["request"]) for row in ours), key=json.dumps)
    assert sent == sorted((canonical(row["request"]) for row in theirs), key=json.dumps)
