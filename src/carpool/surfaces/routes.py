"""What a call to the Gemini API asks for, read off its method and path: the one place that understands them.

Owns which calls are answered by carpool, and under which name all others are counted. Paths may have any version or
none, and anything before it. It is pure, and must not know how calls are answered.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote

import msgspec

from carpool.surfaces.messages import Call

_MODEL: Final = re.compile(r"(?:.*/)?(?P<model>(?P<kind>models|tunedModels)/[^/:]+):(?P<verb>[A-Za-z]+)")
_ELSEWHERE: Final = re.compile(r"/(?:projects|publishers)/")
"""Models of Vertex AI, which the service that is called here does not have."""
_VERSIONED: Final = re.compile(r".*?(?P<target>/(?:(?:upload|download)/)?v[0-9][a-z0-9]{0,15}/.*)")
_COLLECTIONS: Final = frozenset(
    {
        "batches",
        "cachedContents",
        "corpora",
        "fileSearchStores",
        "files",
        "interactions",
        "models",
        "openai",
        "tunedModels",
        "webhooks",
    }
)
_OPENAI: Final = frozenset({"audio", "batches", "chat", "embeddings", "files", "images", "models"})
_CHAT: Final = "/chat/completions"
_OF_OPENAI: Final = (_CHAT, "/embeddings")
_VERB: Final = re.compile(r":([A-Za-z]{1,40})$")
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Generate(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model."""

    model: str
    """Without ``models/``; with ``tunedModels/``."""
    streamed: bool = False
    """The caller expects a stream of JSON: it gets one event."""
    sse: bool = False
    """That stream is to be one of server-sent events, not an array."""


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """One vector."""

    model: str


class EmbedMany(msgspec.Struct, frozen=True, kw_only=True):
    """Several vectors of one model in one call."""

    model: str


class Chat(msgspec.Struct, frozen=True):
    """A chat completion in OpenAI's shape."""


class Embeddings(msgspec.Struct, frozen=True):
    """Embeddings in OpenAI's shape."""


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """Anything else: it is handed on untouched."""

    target: str
    """Path and query, as they come after the base URL of the service."""
    name: str
    """What it is counted as: one of few, without names of files and jobs."""


Asked: TypeAlias = Generate | Embed | EmbedMany | Chat | Embeddings | Pass


def route(call: Call) -> Asked:
    """Return what a call asks for."""
    path = unquote(call.path)
    if call.method == "POST":
        if path.endswith(_OF_OPENAI):
            return Chat() if path.endswith(_CHAT) else Embeddings()
        found = None if _ELSEWHERE.search(path) else _MODEL.fullmatch(path)
        if found is not None:
            model = found["model"].removeprefix("models/")
            match found["verb"]:
                case "generateContent":
                    return Generate(model=model)
                case "streamGenerateContent":
                    return Generate(model=model, streamed=True, sse=_alt(call.query) == "sse")
                case "embedContent":
                    return Embed(model=model)
                case "batchEmbedContents":
                    return EmbedMany(model=model)
                case _:
                    pass
    return passed(call)


def passed(call: Call) -> Pass:
    """Return how a call is handed on, whatever it asks for."""
    found = _VERSIONED.fullmatch(call.path)
    target = found["target"] if found is not None else call.path
    if call.path.endswith(_OF_OPENAI) and "/openai/" not in target:
        target = next(f"/v1beta/openai{path}" for path in _OF_OPENAI if call.path.endswith(path))
    return Pass(target=f"{target}?{call.query}" if call.query else target, name=_name_of(call))


def _alt(query: str) -> str:
    given = parse_qs(query)
    return (given.get("alt") or given.get("$alt") or [""])[-1]


def _name_of(call: Call) -> str:
    """Return what a call is counted as: method, collection, verb. There are few of them, whatever callers send."""
    path = unquote(call.path)
    steps = path.split("/")
    method = call.method if call.method in _METHODS else "OTHER"
    known = next((place for place, step in enumerate(steps) if step.partition(":")[0] in _COLLECTIONS), None)
    if known is None:
        return f"{method} other"
    name = steps[known].partition(":")[0]
    if name == "openai":
        inner = steps[known + 1] if known + 1 < len(steps) else ""
        return f"{method} openai/{inner}" if inner in _OPENAI else f"{method} openai"
    prefix = "upload/" if "upload" in steps[:known] else ""
    verb = _VERB.search(path)
    return f"{method} {prefix}{name}{f':{verb[1]}' if verb and verb[1] in _VERBS else ''}"


_VERBS: Final = frozenset(
    {
        "asyncBatchEmbedContent",
        "batchEmbedContents",
        "batchGenerateContent",
        "bidiGenerateContent",
        "cancel",
        "countTokens",
        "download",
        "embedContent",
        "generateAnswer",
        "generateContent",
        "generateImages",
        "predict",
        "predictLongRunning",
        "register",
        "streamGenerateContent",
        "updateEmbedContentBatch",
        "updateGenerateContentBatch",
    }
)
