"""The models there are.

Owns the table of models, what each can do and how much it reads, and ``models.get`` and ``models.list``. It must not
know how models answer. Besides those in the table every name that starts with ``gemini-`` is a model: the table is
what a list shows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .messages import ApiError, Call, JsonObject, Reply, no_such_model, ok
from .state import State, page

_GENERATES: Final = ("generateContent", "countTokens", "createCachedContent", "batchGenerateContent")
_EMBEDS: Final = ("embedContent", "countTextTokens", "countTokens", "asyncBatchEmbedContent")
_INPUT_TOKENS: Final = 1_048_576
_OUTPUT_TOKENS: Final = 65_536


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model.

    Attributes:
        name: without ``models/``.
        serial: its place in the list, falling.
        input_tokens: that it reads at most.
        output_tokens: that it writes at most.
        methods: what it can do.
        thinking: whether it can think.
    """

    name: str
    serial: int = 0
    input_tokens: int = _INPUT_TOKENS
    output_tokens: int = _OUTPUT_TOKENS
    methods: tuple[str, ...] = _GENERATES
    thinking: bool = True


def _table() -> dict[str, Model]:
    plain = (
        "gemini-2.0-flash gemini-2.5-flash gemini-2.5-flash-lite gemini-2.5-pro gemini-3-flash-preview "
        "gemini-3.1-flash-lite gemini-3.1-pro-preview gemini-3.5-flash gemini-3.5-flash-lite gemini-3.6-flash "
        "gemini-3.7-flash gemini-3.8-flash gemini-4-argon gemini-flash-latest gemini-flash-lite-latest "
        "gemini-pro-latest"
    )
    found = [Model(name=name) for name in plain.split()]
    found += [
        Model(name=name, input_tokens=32_768, output_tokens=32_768, thinking=False)
        for name in ("gemini-2.5-flash-image", "gemini-3-pro-image", "gemini-3.1-flash-image")
    ]
    found += [
        Model(name=name, input_tokens=8192, output_tokens=16_384, thinking=False)
        for name in ("gemini-2.5-flash-preview-tts", "gemini-2.5-pro-preview-tts")
    ]
    embed = {"gemini-embedding-001": 2048, "gemini-embedding-2": 8192}
    found += [
        Model(name=name, input_tokens=limit, output_tokens=1, methods=_EMBEDS, thinking=False)
        for name, limit in embed.items()
    ]
    others = {
        "imagen-4.0-generate-001": ("predict",),
        "veo-3.1-generate-preview": ("predictLongRunning",),
        "lyria-realtime-exp": ("bidiGenerateMusic",),
    }
    found += [
        Model(name=name, input_tokens=480, output_tokens=8192, methods=methods, thinking=False)
        for name, methods in others.items()
    ]
    return {model.name: msgspec.structs.replace(model, serial=len(found) - place) for place, model in enumerate(found)}


MODELS: Final = _table()


def is_embedding(name: str) -> bool:
    """Return whether a model embeds."""
    return name.startswith("gemini-embedding")


def find_model(state: State, name: str, version: str) -> Model | None:
    """Return a model, None if there is no such one.

    Args:
        state: whose plan may hide models.
        name: without ``models/``; with ``tunedModels/`` for a tuned one.
        version: of the API, as in the path.
    """
    if name in state.plan.unknown_models:
        return None
    if name.startswith("tunedModels/"):
        return Model(name=name) if name in state.plan.tuned_models else None
    if name.endswith("-latest") and version == "v1":
        return None  # such aliases are v1beta's alone
    if name in MODELS:
        return MODELS[name]
    if not name.startswith("gemini-"):
        return None
    if is_embedding(name):
        return Model(name=name, input_tokens=8192, output_tokens=1, methods=_EMBEDS, thinking=False)
    return Model(name=name)


def input_tokens_max(name: str) -> int:
    """Return how many tokens a model reads at most."""
    return MODELS[name].input_tokens if name in MODELS else _INPUT_TOKENS


def _resource(model: Model) -> JsonObject:
    words = " ".join(word.capitalize() for word in model.name.rpartition("/")[2].split("-"))
    resource: JsonObject = {
        "name": model.name if "/" in model.name else f"models/{model.name}",
        "version": "001",
        "displayName": words,
        "description": f"The emulator's {words}.",
        "inputTokenLimit": model.input_tokens,
        "outputTokenLimit": model.output_tokens,
        "supportedGenerationMethods": list(model.methods),
    }
    if "generateContent" in model.methods:
        resource |= {"temperature": 1, "topP": 0.95, "topK": 64, "maxTemperature": 2}
    return resource | {"thinking": True} if model.thinking else resource


def get_model(state: State, name: str, version: str) -> Reply:
    """Answer with a model.

    Raises:
        ApiError: 404.
    """
    model = find_model(state, name, version)
    if model is None:
        raise no_such_model(name, version, "getModel") if "/" not in name else ApiError(404, _NO_TUNED)
    return ok(_resource(model))


_NO_TUNED: Final = "Tuned model not found."  # wording not known


def list_models(state: State, call: Call, version: str) -> Reply:
    """Answer with a page of the models."""
    known = [model for name, model in MODELS.items() if find_model(state, name, version) is not None]
    models, token = page(known, call.query, usual=50, most=1000)
    body: JsonObject = {}
    if models:
        body["models"] = [_resource(model) for model in models]
    if token is not None:
        body["nextPageToken"] = token
    return ok(body)


def list_tuned(state: State, call: Call) -> Reply:
    """Answer with a page of the tuned models."""
    names = sorted(state.plan.tuned_models)
    known = [Model(name=name, serial=len(names) - place) for place, name in enumerate(names)]
    models, token = page(known, call.query, usual=10, most=1000)
    body: JsonObject = {}
    if models:
        body["tunedModels"] = [
            {"name": model.name, "displayName": model.name.partition("/")[2], "state": "ACTIVE"} for model in models
        ]
    if token is not None:
        body["nextPageToken"] = token
    return ok(body)
