"""The calls of batches."""

from __future__ import annotations

import io
import json
import uuid
import warnings
from typing import Any

from google.genai import types
from pydantic import BaseModel
from sides import EMBED_MODEL, IMAGE_MODEL, MODEL, Side, counted, drives, holds, refused, refused_by_the_client, same

CREATE = "batches.create"
CREATE_EMBEDDINGS = "batches.create_embeddings"


class Recipe(BaseModel):
    """What an answer is to be parsed into."""

    name: str
    minutes: int


def some_name() -> str:
    """Return a display name that nobody else has."""
    return f"sdk-{uuid.uuid4().hex}"


async def uploaded(side: Side, *rows: Any) -> Any:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return await side.do(
        side.client.files.upload,
        file=io.BytesIO(data),
        config=types.UploadFileConfig(mime_type="application/jsonl", display_name="rows"),
    )


async def lines_of(side: Side, job: Any) -> dict[str, Any]:
    raw = await side.do(side.client.files.download, file=job.dest.file_name)
    rows = [json.loads(line) for line in raw.split(b"\n") if line]
    return {row["key"]: row for row in rows}


def inlined(key: str, contents: Any, **config: Any) -> types.InlinedRequest:
    return types.InlinedRequest(
        contents=contents,
        metadata={"key": key},
        config=types.GenerateContentConfig(**config) if config else None,
    )


async def embedding_job(side: Side, source: types.EmbeddingsBatchJobSource, client: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is experimental
        return await side.do((client or side.client).batches.create_embeddings, model=EMBED_MODEL, src=source)


# -- generate


@drives(CREATE, "inline")
async def inline(side: Side) -> None:
    name = some_name()
    live = await side.do(side.client.models.generate_content, model=MODEL, contents="one")
    job = await side.do(
        side.client.batches.create,
        model=MODEL,
        src=[inlined("a", "one"), inlined("b", "[[error:8:busy]]")],
        config={"display_name": name},
    )
    same((job.state, job.display_name), (types.JobState.JOB_STATE_PENDING, name))
    holds(job.name.startswith("batches/") and job.create_time and job.update_time, job)
    job = await side.ended(job)
    same((job.state, job.model), (types.JobState.JOB_STATE_SUCCEEDED, f"models/{MODEL}"))
    holds(job.end_time and job.end_time >= job.create_time, job)
    first, second = job.dest.inlined_responses
    same((first.metadata, first.response.text, first.error), ({"key": "a"}, live.text, None))
    counted(first.response)
    same((second.metadata, second.error.code, second.error.message), ({"key": "b"}, 8, "busy"))


@drives(CREATE, "inline: config, tools, schema, pictures in and out")
async def inline_full(side: Side) -> None:
    picture = types.Part.from_bytes(data=b"\xff\xd8\xff\xfe", mime_type="image/jpeg")
    declaration = types.FunctionDeclaration(
        name="weather", parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}}
    )
    anyway = types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY"))
    tools = [types.Tool(function_declarations=[declaration])]
    requests = [
        inlined("schema", "Soup?", response_mime_type="application/json", response_schema=Recipe),
        inlined("seen", ["What is it?", picture], system_instruction="be brief", temperature=0.1),
        inlined("called", "The weather?", tools=tools, tool_config=anyway),
        inlined("thought", "Think.", thinking_config={"include_thoughts": True, "thinking_budget": 64}),
    ]
    job = await side.ended(await side.do(side.client.batches.create, model=MODEL, src=requests))
    answers = {one.metadata["key"]: one.response for one in job.dest.inlined_responses}
    Recipe.model_validate(json.loads(answers["schema"].text))
    holds("What is it?" in answers["seen"].text, answers["seen"])
    same(answers["called"].function_calls[0].name, "weather")
    holds(answers["thought"].usage_metadata.thoughts_token_count, answers["thought"])
    job = await side.do(side.client.batches.create, model=IMAGE_MODEL, src=[inlined("drawn", "a cat")])
    (drawn,) = (await side.ended(job)).dest.inlined_responses
    (blob,) = [part.inline_data for part in drawn.response.candidates[0].content.parts if part.inline_data]
    same(blob.data[:8], b"\x89PNG\r\n\x1a\n")


@drives(CREATE, "from a file")
async def from_file(side: Side) -> None:
    ask = {"contents": [{"parts": [{"text": "one"}], "role": "user"}]}
    file = await uploaded(side, {"key": "a", "request": ask}, {"key": "b", "request": ask | {"system_instruction": {}}})
    job = await side.do(side.client.batches.create, model=MODEL, src=file.name, config={"display_name": "dn"})
    job = await side.ended(job)
    same((job.src.file_name if job.src else file.name, job.dest.inlined_responses), (file.name, None))
    rows = await lines_of(side, job)
    live = await side.do(side.client.models.generate_content, model=MODEL, contents="one")
    same(set(rows), {"a", "b"})
    same(rows["a"]["response"]["candidates"][0]["content"]["parts"][0]["text"], live.text)


@drives(CREATE, "from a typed source, for a cached model object's name")
async def from_source(side: Side) -> None:
    ask = {"contents": [{"parts": [{"text": "one"}]}]}
    file = await uploaded(side, {"key": "a", "request": ask})
    source = types.BatchJobSource(file_name=file.name)
    job = await side.ended(await side.do(side.client.batches.create, model=f"models/{MODEL}", src=source))
    same(set(await lines_of(side, job)), {"a"})


@drives(CREATE, "with webhooks")
async def with_webhooks(side: Side) -> None:
    hooks = types.WebhookConfig(uris=["https://example.com/hook"], user_metadata={"some_key": "some_value"})
    config = types.CreateBatchJobConfig(display_name="dn", webhook_config=hooks)
    job = await side.do(side.client.batches.create, model=MODEL, src=[inlined("a", "one")], config=config)
    same((await side.ended(job)).state, types.JobState.JOB_STATE_SUCCEEDED)


@drives(CREATE, "a bad line: all refused with 400")
async def bad_line(side: Side) -> None:
    ask = {"contents": [{"parts": [{"text": "one"}]}]}
    bad = {"key": "b", "request": ask | {"thinking_config": {}}}
    file = await uploaded(side, {"key": "a", "request": ask}, bad)
    with refused(400, "Error on line 2: invalid JSON, near column"):
        await side.do(side.client.batches.create, model=MODEL, src=file.name)
    with refused(400, "no such field: 'thinking_config'"):
        await side.do(side.client.batches.create, model=MODEL, src=file.name)


@drives(CREATE, "missing file, unknown model: refused with 403, 404")
async def nothing_there(side: Side) -> None:
    with refused(403, "You do not have permission to access the File"):
        await side.do(side.client.batches.create, model=MODEL, src="files/nowhere")
    with refused(404, "models/palm is not found"):
        await side.do(side.client.batches.create, model="palm", src=[inlined("a", "one")])


@drives(CREATE, "cloud storage", why_not="exists on Vertex AI only: the SDK raises ValueError before it sends anything")
async def cloud_storage(side: Side) -> None:
    with refused_by_the_client("supported"):
        await side.do(side.client.batches.create, model=MODEL, src="gs://bucket/rows.jsonl")


# -- embeddings


@drives(CREATE_EMBEDDINGS, "inline")
async def embeddings_inline(side: Side) -> None:
    config = types.EmbedContentConfig(output_dimensionality=16, task_type="RETRIEVAL_DOCUMENT", title="t")
    batch = types.EmbedContentBatch(contents=["a", "b"], config=config)
    job = await side.ended(await embedding_job(side, types.EmbeddingsBatchJobSource(inlined_requests=batch)))
    same(job.state, types.JobState.JOB_STATE_SUCCEEDED)
    live = await side.do(side.client.models.embed_content, model=EMBED_MODEL, contents=["a", "b"], config=config)
    vectors = [one.response.embedding.values for one in job.dest.inlined_embed_content_responses]
    same(vectors, [one.values for one in live.embeddings])
    same([len(vector) for vector in vectors], [16, 16])


@drives(CREATE_EMBEDDINGS, "from a file")
async def embeddings_file(side: Side) -> None:
    ask = {"content": {"parts": [{"text": "a"}]}, "output_dimensionality": 16}
    file = await uploaded(side, {"key": "f", "request": ask})
    job = await side.ended(await embedding_job(side, types.EmbeddingsBatchJobSource(file_name=file.name)))
    rows = await lines_of(side, job)
    same(len(rows["f"]["response"]["embedding"]["values"]), 16)
    holds(isinstance(rows["f"]["response"]["tokenCount"], str), rows["f"]["response"]["tokenCount"])


# -- get, list, cancel, delete


@drives("batches.get", "while it waits, and one that is not there")
async def get(side: Side) -> None:
    job = await side.do(side.slow.batches.create, model=MODEL, src=[inlined("a", "one")])
    seen = await side.do(side.slow.batches.get, name=job.name)
    same((seen.name, seen.done, seen.dest), (job.name, False, None))
    holds(seen.state.value in {"JOB_STATE_PENDING", "JOB_STATE_RUNNING"}, seen.state)
    with refused(404, "Requested entity was not found."):
        await side.do(side.slow.batches.get, name="batches/nowhere")
    await side.do(side.slow.batches.cancel, name=job.name)


@drives("batches.get", "a bare id", why_not="the SDK raises ValueError before it sends anything")
async def get_bare(side: Side) -> None:
    with refused_by_the_client("Invalid batch job name: abc."):
        await side.do(side.client.batches.get, name="abc")


@drives("batches.list", "in pages, newest first")
async def list_jobs(side: Side) -> None:
    made = [
        (await side.do(side.slow.batches.create, model=MODEL, src=[inlined("a", "one")], config={"display_name": name}))
        for name in (some_name(), some_name(), some_name())
    ]
    made.append(
        await embedding_job(
            side,
            types.EmbeddingsBatchJobSource(inlined_requests=types.EmbedContentBatch(contents=["a"])),
            client=side.slow,
        )
    )
    pages = await side.do(side.slow.batches.list, config={"page_size": 2})
    same(len(pages.page), 2)
    jobs = await side.every(pages)
    ours = [job for job in jobs if job.name in {job.name for job in made}]
    same([job.name for job in ours], [job.name for job in reversed(made)])
    same([job.display_name for job in ours[1:]], [job.display_name for job in made[2::-1]])
    same(len({job.name for job in jobs}), len(jobs))
    for job in made:
        await side.do(side.slow.batches.cancel, name=job.name)


@drives("batches.list", "an ended inline job is listed without its responses")
async def list_ended(side: Side) -> None:
    job = await side.ended(await side.do(side.client.batches.create, model=MODEL, src=[inlined("a", "one")]))
    holds(job.dest.inlined_responses, job)
    jobs = await side.every(await side.do(side.client.batches.list, config={"page_size": 100}))
    (listed,) = [one for one in jobs if one.name == job.name]
    same(listed.state, types.JobState.JOB_STATE_SUCCEEDED)
    holds(not (listed.dest and listed.dest.inlined_responses), listed.dest)


@drives("batches.list", "a filter", why_not="Vertex AI only: the SDK raises ValueError before it sends anything")
async def list_filtered(side: Side) -> None:
    with refused_by_the_client("filter parameter is only supported"):
        await side.every(await side.do(side.client.batches.list, config={"filter": "x"}))


@drives("batches.cancel", "a job that waits")
async def cancel(side: Side) -> None:
    job = await side.do(side.slow.batches.create, model=MODEL, src=[inlined("a", "one")])
    same(await side.do(side.slow.batches.cancel, name=job.name), None)
    job = await side.do(side.slow.batches.get, name=job.name)
    same((job.state, job.done), (types.JobState.JOB_STATE_CANCELLED, True))
    with refused(404):
        await side.do(side.slow.batches.cancel, name="batches/nowhere")


@drives("batches.delete", "a job that ended, with its output")
async def delete(side: Side) -> None:
    file = await uploaded(side, {"key": "a", "request": {"contents": [{"parts": [{"text": "one"}]}]}})
    job = await side.ended(await side.do(side.client.batches.create, model=MODEL, src=file.name))
    holds(await lines_of(side, job), job)
    await side.do(side.client.batches.delete, name=job.name)
    with refused(404, "Requested entity was not found."):
        await side.do(side.client.batches.get, name=job.name)
    with refused(404, "Requested entity was not found."):
        await side.do(side.client.batches.delete, name=job.name)
    with refused(403):
        await side.do(side.client.files.download, file=job.dest.file_name)
