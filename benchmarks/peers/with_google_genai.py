"""Google's own library, by hand: N requests as a file batch (dicts or its types), as an inline batch, or as live calls.

What a careful script does: requests are written to a file as they come, the file is uploaded, one job is created and
polled, the results are downloaded and matched by key, and text and usage of each answer are read. The batches have no
callers: nothing is awaited but the job, one list of requests becomes one list of answers. `sizes` is `dicts` without
keeping the answers: they are read while they are decoded, and a number is left of each.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google import genai
from google.genai import types

import harness

POLL_S = 0.02
MODEL = "gemini-2.5-flash"
GENERATION = {"temperature": 0.2, "maxOutputTokens": 256}


def make_client(options: harness.Options) -> genai.Client:
    return genai.Client(api_key="benchmark", http_options=types.HttpOptions(base_url=options.base_url))


async def wait_for(client: genai.Client, job: types.BatchJob) -> types.BatchJob:
    """Poll a job until it is done."""
    while not job.done:
        await asyncio.sleep(POLL_S)
        job = await client.aio.batches.get(name=job.name or "")
    return job


def dict_line(key: str, prompt: str) -> str:
    content = {"role": "user", "parts": [{"text": prompt}]}
    return json.dumps({"key": key, "request": {"contents": [content], "generationConfig": GENERATION}})


def typed_line(key: str, prompt: str) -> str:
    content = types.Content(role="user", parts=[types.Part(text=prompt)])
    config = types.GenerationConfig(temperature=0.2, max_output_tokens=256)
    request = {
        "contents": [content.model_dump(mode="json", by_alias=True, exclude_none=True)],
        "generationConfig": config.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    return json.dumps({"key": key, "request": request})


def read_dict(response: dict[str, Any]) -> int:
    text = response["candidates"][0]["content"]["parts"][0]["text"]
    return len(text) + response["usageMetadata"]["totalTokenCount"]


def read_typed(response: types.GenerateContentResponse) -> int:
    usage = response.usage_metadata
    return len(response.text or "") + (usage.total_token_count or 0 if usage else 0)


async def by_file(
    options: harness.Options,
    write: Callable[[str, str], str],
    decode: Callable[[dict[str, Any]], Any],
    read: Callable[[Any], int],
) -> dict[str, Any]:
    """Make a file, run its job, `decode` every row into a dict by key, and `read` them in the order of the requests."""
    prompts = harness.make_prompts(options.size)
    client = make_client(options)
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        path = Path(folder) / "requests.jsonl"
        clock = harness.Stopwatch()
        with path.open("w", encoding="utf-8") as file:
            for i in range(options.n):
                file.write(write(f"k{i}", prompts[i % harness.PROMPTS]) + "\n")
        clock.lap("written")
        config = types.UploadFileConfig(display_name="requests", mime_type="application/jsonl")
        upload = await client.aio.files.upload(file=path, config=config)
        clock.lap("upload")
        job = await wait_for(client, await client.aio.batches.create(model=MODEL, src=upload.name or ""))
        clock.lap("job")
        content: bytes = await client.aio.files.download(file=job.dest.file_name)
        answers = {}
        for line in content.splitlines():
            row = json.loads(line)
            answers[row["key"]] = decode(row["response"])
        received = sum(read(answers[f"k{i}"]) for i in range(options.n))
        clock.lap("results")
    return clock.read() | {"received_mb": received / 1e6}


async def dicts(options: harness.Options) -> dict[str, Any]:
    return await by_file(options, dict_line, lambda response: response, read_dict)


async def sizes(options: harness.Options) -> dict[str, Any]:
    return await by_file(options, dict_line, read_dict, lambda size: size)


async def typed(options: harness.Options) -> dict[str, Any]:
    return await by_file(options, typed_line, types.GenerateContentResponse.model_validate, read_typed)


async def inline(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    client = make_client(options)
    clock = harness.Stopwatch()
    requests = [
        types.InlinedRequest(
            contents=prompts[i % harness.PROMPTS],
            config=types.GenerateContentConfig(temperature=0.2, max_output_tokens=256),
        )
        for i in range(options.n)
    ]
    job = await wait_for(client, await client.aio.batches.create(model=MODEL, src=requests))
    clock.lap("job")
    answers = job.dest.inlined_responses if job.dest else None
    received = sum(read_typed(answer.response) for answer in answers or () if answer.response)
    clock.lap("results")
    return clock.read() | {"received_mb": received / 1e6}


async def live(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    client = make_client(options)

    def call(i: int) -> Awaitable[types.GenerateContentResponse]:
        return client.aio.models.generate_content(
            model=MODEL,
            contents=prompts[i % harness.PROMPTS],
            config=types.GenerateContentConfig(temperature=0.2, max_output_tokens=256),
        )

    clock = harness.Stopwatch()
    received = await harness.await_all(options.n, call, read_typed, clock, lambda: clock.lap("called"))
    return clock.read() | {"received_mb": received / 1e6}


FORMS = {"dicts": dicts, "sizes": sizes, "types": typed, "inline": inline, "live": live}


def main() -> None:
    args = harness.parse(
        "Google's library by hand.", lambda parser: parser.add_argument("--form", choices=FORMS, default="dicts")
    )
    harness.measure(harness.options_of(args), f"google_genai_{args.form}", FORMS[args.form])


if __name__ == "__main__":
    main()
