"""Google's own library, by hand: N requests as a file batch (dicts or its types), as an inline batch, or as live calls.

What a careful script does: requests are written to a file as they come, the file is uploaded, one job is created and
polled, the results are downloaded and matched by key, and the text of each answer is read. The three batches have no
callers: nothing is awaited but the job, one list of requests becomes one list of answers.
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


def dict_text(line: str) -> tuple[str, str]:
    row = json.loads(line)
    return row["key"], row["response"]["candidates"][0]["content"]["parts"][0]["text"]


def typed_line(key: str, prompt: str) -> str:
    content = types.Content(role="user", parts=[types.Part(text=prompt)])
    config = types.GenerationConfig(temperature=0.2, max_output_tokens=256)
    request = {
        "contents": [content.model_dump(mode="json", by_alias=True, exclude_none=True)],
        "generationConfig": config.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    return json.dumps({"key": key, "request": request})


def typed_text(line: str) -> tuple[str, str]:
    row = json.loads(line)
    return row["key"], types.GenerateContentResponse.model_validate(row["response"]).text or ""


async def by_file(
    options: harness.Options, write: Callable[[str, str], str], read: Callable[[str], tuple[str, str]]
) -> dict[str, Any]:
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
        texts = dict(read(line) for line in content.decode().split("\n") if line)
        received = sum(len(texts[f"k{i}"]) for i in range(options.n))
        clock.lap("results")
    return clock.read() | {"received_mb": received / 1e6}


async def dicts(options: harness.Options) -> dict[str, Any]:
    return await by_file(options, dict_line, dict_text)


async def typed(options: harness.Options) -> dict[str, Any]:
    return await by_file(options, typed_line, typed_text)


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
    received = sum(len(answer.response.text or "") for answer in answers or () if answer.response)
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

    def read(answer: types.GenerateContentResponse) -> int:
        return len(answer.text or "")

    clock = harness.Stopwatch()
    received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
    return clock.read() | {"received_mb": received / 1e6}


FORMS = {"dicts": dicts, "types": typed, "inline": inline, "live": live}


def main() -> None:
    args = harness.parse(
        "Google's library by hand.", lambda parser: parser.add_argument("--form", choices=FORMS, default="dicts")
    )
    harness.measure(harness.options_of(args), f"google_genai_{args.form}", FORMS[args.form])


if __name__ == "__main__":
    main()
