"""Objects by instructor: JSON of a given shape, from Google's own SDK that instructor wraps.

Through the sidecar nothing in it knows of carpool; in process, instructor is given carpool's client.
"""

from __future__ import annotations

import argparse
from typing import Any

import instructor
from asking import MODEL, REFUSED, REFUSED_MODEL, Told, at_once, in_threads, questions, run
from genai_inside import stack_of
from google import genai
from pydantic import BaseModel


class Review(BaseModel):
    """A review of a book."""

    summary: str
    stars: int


class Models:
    """What a program makes at its start."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        if wanted.way == "in-process":
            import carpool  # noqa: PLC0415 - not installed where the sidecar is used

            self.client = carpool.genai_client()
        else:
            self.client = genai.Client()
        mode = instructor.Mode.GENAI_STRUCTURED_OUTPUTS
        self.instructed = instructor.from_genai(self.client, mode=mode, use_async=wanted.mode == "async")
        self.calling = instructor.from_genai(
            self.client, mode=instructor.Mode.GENAI_TOOLS, use_async=wanted.mode == "async"
        )


def ask(instructed: Any, prompt: str, model: str = MODEL) -> Any:
    """Ask for a review; on an event loop, return what is to be awaited."""
    return instructed.create(model=model, response_model=Review, messages=[{"role": "user", "content": prompt}])


def gather(told: Told, models: Models) -> None:
    told.stack = stack_of(models.client, told.mode)
    asked = questions("a review")
    for prompt, review in zip(asked, in_threads(lambda prompt: ask(models.instructed, prompt), asked), strict=True):
        assert isinstance(review, Review), review
        told.answer(prompt, review.summary, what="JSON")


async def gather_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.client, told.mode)
    asked = questions("a review")
    for prompt, review in zip(asked, await at_once(lambda prompt: ask(models.instructed, prompt), asked), strict=True):
        assert isinstance(review, Review), review
        told.answer(prompt, review.summary, what="JSON")


def features(told: Told, models: Models) -> None:
    told.stack = stack_of(models.client, told.mode)
    told.answer("Review by a tool", ask(models.calling, "Review by a tool").summary, what="tool")
    told.refused(lambda: ask(models.instructed, REFUSED, REFUSED_MODEL))


async def features_async(told: Told, models: Models) -> None:
    told.stack = stack_of(models.client, told.mode)
    told.answer("Review by a tool", (await ask(models.calling, "Review by a tool")).summary, what="tool")
    await told.refused_async(lambda: ask(models.instructed, REFUSED, REFUSED_MODEL))


if __name__ == "__main__":
    run(["instructor", "google-genai"], Models, gather, gather_async, features, features_async)
