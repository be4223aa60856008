"""Columns of pandas, polars and Hugging Face datasets, answered by the blocking client's ``map``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import pandas as pd
import polars as pl
from asking import EMBED_MODEL, MODEL, REFUSED, REFUSED_MODEL, Told, questions, run
from datasets import Dataset, IterableDataset

from carpool import Request, sync


def client_of(wanted: argparse.Namespace) -> sync.Client:
    return sync.Client()


def answers(client: sync.Client, prompts: Iterable[str]) -> list[str]:
    """Return an answer a prompt, in their order: ``map`` gives them as they come."""
    rows = [
        Request(model=MODEL, contents=prompt, key=f"row {number}: {prompt}") for number, prompt in enumerate(prompts)
    ]
    found = {outcome.key: outcome.response.text for outcome in client.map(rows)}
    return [found[row.key] for row in rows]


def gather(told: Told, client: sync.Client) -> None:
    told.stack = "aiohttp"
    with client:
        frame = pd.DataFrame({"prompt": questions("pandas")})
        frame["answer"] = answers(client, frame["prompt"])
        for row in frame.itertuples():
            told.answer(row.prompt, row.answer, alone=True)

        table = pl.DataFrame({"prompt": questions("polars")})
        table = table.with_columns(
            pl.col("prompt")
            .map_batches(lambda column: pl.Series(answers(client, column)), return_dtype=pl.String)
            .alias("answer")
        )
        for prompt, answer in table.iter_rows():
            told.answer(prompt, answer, alone=True)

        dataset = Dataset.from_dict({"prompt": questions("datasets")})
        dataset = dataset.map(lambda rows: {"answer": answers(client, rows["prompt"])}, batched=True, batch_size=50)
        for row in dataset:
            told.answer(row["prompt"], row["answer"], alone=True)

        texts = questions("a text")
        rows = [Request(model=EMBED_MODEL, contents=text, kind="embed", key=text) for text in texts]
        vectors = {outcome.key: outcome.response.values for outcome in client.map(rows)}  # noqa: PD011 - a vector's
        embedded = pl.DataFrame({"text": texts, "vector": [vectors[text] for text in texts]})
        for text, vector in embedded.iter_rows():
            told.vector(text, vector)


def features(told: Told, client: sync.Client) -> None:
    told.stack = "aiohttp"
    with client:
        # A stream of rows, of which only a window is in memory.
        stream = IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in questions("a stream")))
        rows = (Request(model=MODEL, contents=row["prompt"], key=row["prompt"]) for row in stream)
        for outcome in client.map(rows, window=20):
            told.answer(outcome.key, outcome.response.text, what="stream", alone=True)
        # A row that is refused has its error in its own place, and stops nobody else.
        asked = [Request(model=REFUSED_MODEL, contents=REFUSED, key="refused")]
        (outcome,) = client.map(asked)
        # Shown, an error leaves out what the request says; this one's words come from there.
        told.refusal(outcome.error, outcome.error.message)


if __name__ == "__main__":
    run(["pandas", "polars", "datasets"], client_of, gather, features)
