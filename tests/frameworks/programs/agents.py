"""Agents of pydantic-ai, each with a tool: two calls of the model an agent.

Through the sidecar nothing in it knows of carpool but a header that says how long an answer may take: without it,
pydantic-ai tells every server that it waits for 20 minutes, whatever its timeout is. Embeddings take no headers; there,
a provider with a client of one's own has no limit. In process, the provider is given carpool's client.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from asking import (
    EMBED_MODEL,
    IMPATIENCE_S,
    MODEL,
    PATIENCE_S,
    PATIENT,
    REFUSED,
    REFUSED_MODEL,
    Told,
    at_once,
    questions,
    run,
    same,
)
from genai_inside import stack_of
from google import genai
from pydantic import BaseModel
from pydantic_ai import Agent, Embedder
from pydantic_ai.embeddings.google import GoogleEmbeddingModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.providers.google import GoogleProvider


class Review(BaseModel):
    """A review of a book."""

    summary: str
    stars: int


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


class Models:
    """What a program makes at its start."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.settings: dict[str, Any] = {}
        if wanted.way == "in-process":
            import carpool  # noqa: PLC0415 - not installed where the sidecar is used

            self.provider = self.of_embeddings = GoogleProvider(client=carpool.genai_client())
        else:
            self.provider = GoogleProvider()
            self.of_embeddings = GoogleProvider(client=genai.Client())
            self.settings = {"timeout": PATIENCE_S, "extra_headers": PATIENT}
        self.agent = self.agent_of(MODEL, tools=[get_weather])

    def agent_of(self, model: str, **more: Any) -> Any:
        return Agent(GoogleModel(model, provider=self.provider), model_settings=self.settings, **more)


async def gather_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.provider.client, told.mode)
    asked = questions("use get_weather")
    for prompt, ended in zip(asked, await at_once(models.agent.run, asked), strict=True):
        told.answer(prompt, ended.output)
        calls = [part for message in ended.new_messages() for part in message.parts if part.part_kind == "tool-call"]
        told.answer(prompt, calls[0].args_as_dict()["city"], what="call of a tool")


async def features_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.provider.client, told.mode)
    reviewer = models.agent_of(MODEL, output_type=Review, instructions="Answer in rhymes.")
    told.answer("Review a book", (await reviewer.run("Review a book")).output.summary, what="JSON")
    first = await models.agent.run("The first turn")
    told.answer("The first turn", first.output, what="chat")
    second = await models.agent.run("The second turn", message_history=first.all_messages())
    told.answer("The second turn", second.output, what="chat")
    async with models.agent.run_stream("Show a stream") as stream:
        told.answer("Show a stream", await stream.get_output(), what="stream")
    embedder = Embedder(GoogleEmbeddingModel(EMBED_MODEL, provider=models.of_embeddings))
    embedded = await embedder.embed_documents(["one", "two", "three"])
    for text, values in zip(["one", "two", "three"], embedded.embeddings, strict=True):
        told.vector(text, values)
    await told.refused_async(lambda: models.agent_of(REFUSED_MODEL).run(REFUSED))


async def waits_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.provider.client, told.mode)
    settings = {"timeout": IMPATIENCE_S, "extra_headers": PATIENT}
    told.answer("Take your time", (await models.agent.run("Take your time", model_settings=settings)).output)


async def hurries_async(told: Told, models: Models) -> None:
    """Ask with pydantic-ai's own limit of 20 minutes, where a job takes three hours: a lower rung has to be in time.

    All of it is on a loop of its own on which time passes quickly: service, sidecar, agent.
    """
    from carpool import Client, MemoryStore, Settings  # noqa: PLC0415 - not installed where the sidecar is used
    from carpool.emulator import Emulator, Plan  # noqa: PLC0415
    from carpool.surfaces.exchange import Exchange  # noqa: PLC0415
    from carpool.surfaces.sidecar.server import Sidecar  # noqa: PLC0415

    sys.path.append(str(Path(__file__).parents[2] / "surfaces"))
    from scaled import epoch, run_scaled  # noqa: PLC0415

    async def story() -> str:
        seconds = asyncio.get_running_loop().time
        async with (
            Emulator(Plan(latency_s=60.0), clock=epoch) as emulator,
            Client(
                api_key="any", base_url=emulator.base_url, store=MemoryStore(), settings=Settings(linger_s=1.0)
            ) as client,
            Sidecar(Exchange(client)) as sidecar,
        ):
            for number in range(3):  # jobs of a minute, which tempt the call into another
                await client.generate(MODEL, f"quick {number}")
            emulator.plan = Plan(latency_s=3 * 3_600.0)
            provider = GoogleProvider(base_url=sidecar.url, api_key="any")
            began = seconds()
            ended = await Agent(GoogleModel(MODEL, provider=provider)).run("There are 20 minutes")
            took_s = seconds() - began
            routes = {route: totals.requests for route, totals in client.receipt().by_route.items()}
            same(sum(call.op == "create" for call in emulator.requests), 4)
            same((took_s < 1_200, routes), (True, {"batch": 3, "flex": 1}))
            return ended.output

    told.stack = stack_of(models.provider.client, told.mode)
    told.answer("There are 20 minutes", await asyncio.to_thread(run_scaled, story(), 200.0))


if __name__ == "__main__":
    run(["pydantic-ai-slim", "google-genai"], Models, gather_async, features_async, waits_async, hurries_async)
