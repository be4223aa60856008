"""Requests as google-genai makes them, caught before they leave the process, and what makes two of them equal.

Owns the comparison: protobuf reads a field's name in both cases, and an empty message like none. It must not know what
is compared.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx2
from google import genai
from google.genai import types

# Values of these are the user's own: their keys are data, not field names.
FREE = {"args", "response", "labels", "metadata", "parametersJsonSchema", "responseJsonSchema", "partMetadata"} | {
    "default",
    "example",
    "enum",
}
TIMES = {"startTime", "endTime"}
# Keys of these are the user's own, their values are messages again.
MAPS = {"properties", "defs", "$defs"}


def camel(name: str) -> str:
    """Return a field's name in camelCase."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def canonical(value: Any) -> Any:
    """Return what protobuf reads: names in one case, the user's own names left alone."""
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = camel(key)
        if name in FREE and not (name == "response" and is_schema(item)):
            result[name] = item
        elif name in MAPS and isinstance(item, dict):
            result[name] = {own: canonical(message) for own, message in item.items()}
        elif name in TIMES and isinstance(item, str):
            result[name] = item.replace("+00:00", "Z")
        else:
            result[name] = canonical(item)
    if result.get("generationConfig") == {}:
        del result["generationConfig"]
    return result


def is_schema(value: Any) -> bool:
    """Return whether a ``response`` is the schema of a declaration rather than what a function answered."""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and value["type"].isupper()


def spelling(value: Any, place: str = "") -> set[str]:
    """Return the places of all names that are not in camelCase."""
    if isinstance(value, list):
        return {found for item in value for found in spelling(item, place)}
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, item in value.items():
        name = camel(key)
        if name != key:
            found.add(f"{place}.{key}".removeprefix("."))
        if name in MAPS and isinstance(item, dict):
            found |= {other for own in item.values() for other in spelling(own, f"{place}.{name}.*")}
        elif name not in FREE:
            found |= spelling(item, f"{place}.{name}")
    return found


class Recording:
    """A google-genai client whose requests go nowhere but into a list."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        options = types.HttpOptions(client_args={"transport": httpx2.MockTransport(self._take)})
        self.client = genai.Client(api_key="any-key", http_options=options)

    def _take(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(json.loads(request.content))
        if request.url.path.endswith(":batchEmbedContents"):
            return httpx2.Response(200, json={"embeddings": [{"values": [1.0]}]})
        if request.url.path.endswith(":generateContent"):
            return httpx2.Response(200, json={"candidates": [{"content": {"parts": [{"text": '{"a": 1}'}]}}]})
        return httpx2.Response(200, json={"name": "batches/x", "metadata": {"state": "BATCH_STATE_PENDING"}})

    def live(self, contents: Any, config: Any, model: str = "gemini-3.5-flash") -> Any:
        """Return the body of generate_content."""
        self.client.models.generate_content(model=model, contents=contents, config=config)
        return self.bodies.pop()

    def in_batch(self, contents: Any, config: Any, model: str = "gemini-3.5-flash") -> Any:
        """Return the request of the only row of an inline batch."""
        row = types.InlinedRequest(contents=contents, config=config, metadata={"key": "k"})
        self.client.batches.create(model=model, src=[row])
        (item,) = self.bodies.pop()["batch"]["inputConfig"]["requests"]["requests"]
        assert item.pop("metadata") == {"key": "k"}
        assert list(item) == ["request"]
        return item["request"]

    def embedded(self, content: Any, config: Any, model: str = "gemini-embedding-001") -> Any:
        """Return the only request of embed_content, without the name of the model that each of them has."""
        self.client.models.embed_content(model=model, contents=content, config=config)
        (request,) = self.bodies.pop()["requests"]
        assert request.pop("model") == f"models/{model}"
        return request

    def embedded_in_batch(self, content: Any, config: Any, model: str = "gemini-embedding-001") -> Any:
        """Return the request of the only row of an inline embedding batch."""
        source = types.EmbeddingsBatchJobSource(
            inlined_requests=types.EmbedContentBatch(contents=content, config=config)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is experimental
            self.client.batches.create_embeddings(model=model, src=source)
        (item,) = self.bodies.pop()["batch"]["inputConfig"]["requests"]["requests"]
        return item["request"]
