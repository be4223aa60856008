"""Requests in OpenAI's shape to native ones: what Google's compatible endpoint takes, faithfully, or not at all.

Owns which fields there are. What has no native form is refused by name, as is what nobody knows: nothing is left out
unseen, for what is missing shows hours later, in an answer that was paid for. It must not know how requests travel.

Taken and not sent, since they change nothing about an answer: ``user``, ``safety_identifier``, ``metadata``, and hints
for OpenAI's cache. ``service_tier`` may ask for no more than carpool's routes give anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from carpool.surfaces.openai.messages import read_messages
from carpool.surfaces.openai.models import takes_json_with_tools, thinking_of, wants_signatures
from carpool.surfaces.openai.tools import place_tools
from carpool.surfaces.openai.values import (
    INT32_MAX,
    Untranslatable,
    decoded,
    filled,
    flag,
    known,
    listed,
    number,
    one_of,
    own_data,
    refused,
    shaped,
    text_of,
    whole,
)

__all__ = ["ChatCall", "EmbeddingsCall", "Untranslatable", "read_chat", "read_embeddings"]

_encode: Final = msgspec.json.Encoder().encode
"""Whatever was decoded, and is not too deep, can be encoded."""
_INPUTS_MAX: Final = 2_048
_STOPS_MAX: Final = 5
_CANDIDATES_MAX: Final = 8
_TOP_LOGPROBS_MAX: Final = 20
_PENALTY_MAX: Final = 2.0

_NATIVELY: Final = "call Google's own generateContent for it, which carpool takes as well"
_REFUSED: Final[Mapping[str, str]] = {
    "audio": f"a chat has no spoken answers here; {_NATIVELY}",
    "function_call": "it is deprecated; give tools and tool_choice",
    "functions": "it is deprecated; give tools",
    "logit_bias": "Gemini has nothing like it; leave it out",
    "moderation": "Gemini has nothing like it; leave it out, or give extra_body.google.safety_settings",
    "prediction": "Gemini has nothing like it; leave it out",
    "verbosity": "Gemini has nothing like it; say in the instructions how long answers are to be",
    "web_search_options": f"searches have a price of their own, and their sources no place here; {_NATIVELY}",
}
"""Fields of OpenAI's that have no native form, and what to do instead."""
_NOT_SENT: Final = (
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
_TRANSLATED: Final = (
    "extra_body",
    "frequency_penalty",
    "google",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
)
_CHAT_FIELDS: Final = frozenset((*_TRANSLATED, *_NOT_SENT, *_REFUSED))
_EMBEDDING_FIELDS: Final = frozenset({"dimensions", "encoding_format", "input", "model", "user"})
_HARMS: Final = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
    "HARM_CATEGORY_CIVIC_INTEGRITY",
)
_THRESHOLDS: Final = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")
_OTHERWISE: Final = f", or {_NATIVELY}"


class ChatCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call of ``/chat/completions``."""

    model: str
    """Without ``models/``."""
    asked: str
    """The model as it was asked for, which answers name."""
    body: bytes
    """The native request for ``generateContent``, JSON on one line."""
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the tokens."""

    def __repr__(self) -> str:
        return f"ChatCall({self.model}, bytes={len(self.body)}, stream={self.stream})"


class EmbeddingsCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of ``/embeddings``."""

    model: str
    """Without ``models/``."""
    asked: str
    """The model as it was asked for, which answers name."""
    bodies: tuple[bytes, ...]
    """A native request for ``embedContent`` for each input, JSON on one line."""
    base64: bool = False
    """Whether vectors are answered as the base64 of their numbers."""

    def __repr__(self) -> str:
        return f"EmbeddingsCall({self.model}, inputs={len(self.bodies)}, base64={self.base64})"


def read_chat(body: bytes) -> ChatCall:
    """Translate the body of a call of ``/chat/completions``.

    Raises:
        Untranslatable: it is not such a body, or asks for what has no native form; it says what to do.
    """
    fields = decoded(body)
    known(fields, _CHAT_FIELDS, "", hint=_OTHERWISE)
    fields = {name: value for name, value in fields.items() if value is not None}
    _refuse(fields)
    asked = filled(fields.get("model"), "model")
    model = asked.removeprefix("models/")
    if "messages" not in fields:
        raise refused("messages", "it is missing")
    said = read_messages(fields["messages"], signed=wants_signatures(model))
    native: dict[str, Any] = {"contents": said.contents}
    if said.system:
        native["systemInstruction"] = {"parts": said.system}
    place_tools(fields, native)
    google = _google(fields)
    generation = _sampling(fields) | _format(fields, model, with_tools="tools" in native)
    if said.resolution:
        generation["mediaResolution"] = said.resolution
    thinking = _thinking(fields, google, model)
    if thinking:
        generation["thinkingConfig"] = thinking
    _place_google(google, native)
    if generation:
        native["generationConfig"] = generation
    stream, include_usage = _streaming(fields)
    return ChatCall(model=model, asked=asked, body=_encode(native), stream=stream, include_usage=include_usage)


def read_embeddings(body: bytes) -> EmbeddingsCall:
    """Translate the body of a call of ``/embeddings``: each input is a request of its own.

    Raises:
        Untranslatable: it is not such a body, or asks for what has no native form; it says what to do.
    """
    fields = decoded(body)
    known(fields, _EMBEDDING_FIELDS, "", hint=", or call Google's own embedContent for it, which carpool takes as well")
    asked = filled(fields.get("model"), "model")
    config: dict[str, Any] = {}
    if fields.get("dimensions") is not None:
        config["outputDimensionality"] = whole(fields["dimensions"], "dimensions", 1, INT32_MAX)
    form = "float"
    if fields.get("encoding_format") is not None:
        form = one_of(fields["encoding_format"], "encoding_format", ("float", "base64"))
    value = fields.get("input")
    inputs: list[Any] = [value] if isinstance(value, str) else listed(value, "input")
    if not 1 <= len(inputs) <= _INPUTS_MAX:
        raise refused("input", f"it must hold from 1 to {_INPUTS_MAX} texts")
    bodies: list[bytes] = []
    for index, item in enumerate(inputs):
        place = f"input[{index}]"
        if isinstance(item, int | list):
            why = "tokens of OpenAI's are not Gemini's; give texts (LangChain: check_embedding_ctx_length=False)"
            raise refused(place, why)
        content = {"parts": [{"text": filled(item, place)}], "role": "user"}
        bodies.append(_encode({"content": content, **config}))
    model = asked.removeprefix("models/")
    return EmbeddingsCall(model=model, asked=asked, bodies=tuple(bodies), base64=form == "base64")


def _refuse(fields: dict[str, Any]) -> None:
    """Refuse what is known to have no native form, unless what it asks for is what happens anyway."""
    for name, why in _REFUSED.items():
        value = fields.get(name)
        nothing = value is None or (name == "logit_bias" and value == {}) or (name == "verbosity" and value == "medium")
        if not nothing:
            raise refused(name, why)
    if flag(fields.get("store", False), "store"):
        raise refused("store", "nobody here keeps answers for later; leave it out")
    for index, item in enumerate(listed(fields.get("modalities", []), "modalities")):
        one_of(item, f"modalities[{index}]", ("text",), hint=f": for others {_NATIVELY}")
    tier = fields.get("service_tier", "auto")
    one_of(tier, "service_tier", ("auto", "default", "flex"), hint=": the routes of carpool decide; leave it out")


def _streaming(fields: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether the answer is streamed, and whether its tokens are told at the end of the stream."""
    stream = flag(fields.get("stream", False), "stream")
    if "stream_options" not in fields:
        return stream, False
    options = shaped(fields["stream_options"], "stream_options")
    known(options, ("include_usage", "include_obfuscation"), "stream_options")
    if not stream:
        raise refused("stream_options", "it goes with 'stream': true alone")
    if flag(options.get("include_obfuscation", False), "stream_options.include_obfuscation"):
        raise refused("stream_options.include_obfuscation", "an answer comes in one piece here; leave it out")
    return True, flag(options.get("include_usage", False), "stream_options.include_usage")


# -- the native generation config


def _sampling(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say how an answer is drawn."""
    found: dict[str, Any] = {}
    for name, field, least, most in (
        ("temperature", "temperature", 0.0, 2.0),
        ("top_p", "topP", 0.0, 1.0),
        ("presence_penalty", "presencePenalty", -_PENALTY_MAX, _PENALTY_MAX),
        ("frequency_penalty", "frequencyPenalty", -_PENALTY_MAX, _PENALTY_MAX),
    ):
        if name in fields:
            found[field] = number(fields[name], name, least, most)
    for name, field, low, high in (
        ("n", "candidateCount", 1, _CANDIDATES_MAX),
        ("max_tokens", "maxOutputTokens", 1, INT32_MAX),
        ("max_completion_tokens", "maxOutputTokens", 1, INT32_MAX),
        ("seed", "seed", -INT32_MAX - 1, INT32_MAX),
    ):
        if name in fields:
            value = whole(fields[name], name, low, high)
            if found.setdefault(field, value) != value:
                raise refused(name, "max_tokens and max_completion_tokens differ; give one of them")
    if "stop" in fields:
        given = fields["stop"]
        stops = [given] if isinstance(given, str) else listed(given, "stop")
        if len(stops) > _STOPS_MAX:
            raise refused("stop", f"Gemini takes {_STOPS_MAX} at most")
        if stops:
            found["stopSequences"] = [filled(item, f"stop[{index}]") for index, item in enumerate(stops)]
    wanted = flag(fields.get("logprobs", False), "logprobs")
    if wanted:
        found["responseLogprobs"] = True
    if "top_logprobs" in fields:
        count = whole(fields["top_logprobs"], "top_logprobs", 0, _TOP_LOGPROBS_MAX)
        if not wanted:
            raise refused("top_logprobs", "it goes with 'logprobs': true alone")
        if count:
            found["logprobs"] = count
    return found


def _format(fields: dict[str, Any], model: str, *, with_tools: bool) -> dict[str, Any]:
    """Return the fields that say of what form an answer is."""
    if "response_format" not in fields:
        return {}
    param = "response_format"
    given = shaped(fields[param], param)
    kind = one_of(given.get("type"), f"{param}.type", ("text", "json_object", "json_schema"))
    known(given, ("type", "json_schema") if kind == "json_schema" else ("type",), param)
    if kind == "text":
        return {}
    if with_tools and not takes_json_with_tools(model):
        raise refused(param, "this model takes no JSON format beside tools; leave one out, or take a model from 3 on")
    found: dict[str, Any] = {"responseMimeType": "application/json"}
    if kind == "json_schema":
        path = f"{param}.json_schema"
        shape = shaped(given.get("json_schema"), path)
        known(shape, ("name", "description", "schema", "strict"), path)
        if shape.get("strict") is not None:
            flag(shape["strict"], f"{path}.strict")  # Gemini's answers always fit
        if shape.get("schema") is not None:
            schema = own_data(shape["schema"], f"{path}.schema")
            if shape.get("description") is not None:
                schema = {"description": text_of(shape["description"], f"{path}.description")} | schema
            found["responseJsonSchema"] = schema
    return found


def _thinking(fields: dict[str, Any], google: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the native thinking config."""
    config: dict[str, Any] = {}
    if "thinkingConfig" in google:
        config = _thinking_config(google["thinkingConfig"])
    if "reasoning_effort" not in fields:
        return config
    if config.keys() & {"thinkingBudget", "thinkingLevel"}:
        why = "it says the same as thinking_level and thinking_budget of the thinking_config"
        raise refused("reasoning_effort", f"{why}; give one of them")
    return config | thinking_of(model, fields["reasoning_effort"])


# -- Google's own fields


def _google(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of Google's that came along, in camelCase.

    The official client for Python merges its ``extra_body`` into the body, so that they stand in ``extra_body.google``
    or in ``google``, as the caller wrote it.
    """
    places = [("google", fields)]
    if "extra_body" in fields:
        extra = shaped(fields["extra_body"], "extra_body")
        known(extra, ("google",), "extra_body")
        places.append(("extra_body.google", extra))
    names = {
        "cached_content": "cachedContent",
        "safety_settings": "safetySettings",
        "thinking_config": "thinkingConfig",
    }
    found: dict[str, Any] = {}
    for path, holder in places:
        given = holder.get("google")
        google = {} if given is None else shaped(given, path)
        known(google, (*names, *names.values()), path, hint=_OTHERWISE)
        for name, value in google.items():
            field = names.get(name, name)
            if field in found:
                raise refused(f"{path}.{name}", "it is given twice")
            if value is not None:
                found[field] = value
    return found


def _thinking_config(value: Any) -> dict[str, Any]:
    path = "google.thinking_config"
    given = shaped(value, path)
    names = {
        "include_thoughts": "includeThoughts",
        "thinking_budget": "thinkingBudget",
        "thinking_level": "thinkingLevel",
    }
    known(given, (*names, *names.values()), path)
    config: dict[str, Any] = {}
    for name, item in given.items():
        field, place = names.get(name, name), f"{path}.{name}"
        if item is None:
            continue
        if field in config:
            raise refused(place, "it is given twice")
        match field:
            case "includeThoughts":
                config[field] = flag(item, place)
            case "thinkingBudget":
                config[field] = whole(item, place, -1, INT32_MAX)
            case _:
                levels = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
                config[field] = one_of(text_of(item, place).upper(), place, levels)
    if config.keys() >= {"thinkingBudget", "thinkingLevel"}:
        raise refused(path, "give one of thinking_level and thinking_budget")
    return config


def _place_google(google: dict[str, Any], native: dict[str, Any]) -> None:
    """Put Google's own fields into a native request."""
    if "safetySettings" in google:
        path = "google.safety_settings"
        settings: list[dict[str, Any]] = []
        for index, item in enumerate(listed(google["safetySettings"], path)):
            place = f"{path}[{index}]"
            setting = shaped(item, place)
            known(setting, ("category", "threshold"), place)
            category = one_of(setting.get("category"), f"{place}.category", _HARMS)
            threshold = one_of(setting.get("threshold"), f"{place}.threshold", _THRESHOLDS)
            settings.append({"category": category, "threshold": threshold})
        native["safetySettings"] = settings
    if "cachedContent" in google:
        path = "google.cached_content"
        name = filled(google["cachedContent"], path)
        taken = native.keys() & {"systemInstruction", "tools", "toolConfig"}
        if taken:
            why = "instructions and tools belong into cached content itself, not beside it"
            raise refused(path, f"{why}; leave out the messages of the system, tools and tool_choice")
        native["cachedContent"] = name if "/" in name else f"cachedContents/{name}"
