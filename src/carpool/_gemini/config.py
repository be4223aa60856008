"""How it is asked: users' flat configuration to the places where REST wants each field.

Owns which fields there are, their types, and the errors for those that are not: a misspelt field is an error at the
call, not a refused batch hours later. It must not know about contents or batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from carpool._core.model import limit_of
from carpool._gemini.contents import content_of
from carpool._gemini.plain import (
    LONE_SURROGATE,
    bad_value,
    camel,
    dump,
    encode,
    is_mapping,
    is_model,
    is_object,
    is_sequence,
    is_type,
    snake,
    tidy,
    to_json,
    unknown_field,
    verbatim,
)
from carpool._gemini.schema import lower, schema_of
from carpool._gemini.survey import survey_request
from carpool._showing import in_short, without_values
from carpool.errors import ConfigurationError


class _Thinking(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class _Image(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    aspect_ratio: str | None = None
    image_size: str | None = None


class _Safety(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    category: str
    threshold: str


class _Generation(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Fields of ``generationConfig``, in the order in which google-genai sends them."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_modalities: list[str] | None = None
    media_resolution: str | None = None
    speech_config: dict[str, Any] | None = None
    thinking_config: _Thinking | None = None
    image_config: _Image | None = None
    enable_enhanced_civic_answers: bool | None = None
    audio_transcription_config: dict[str, Any] | None = None


class _Top(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Fields beside ``contents``, in the order in which google-genai sends them."""

    system_instruction: dict[str, Any] | None = None
    safety_settings: list[_Safety] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_config: dict[str, Any] | None = None
    labels: dict[str, str] | None = None
    cached_content: str | None = None
    service_tier: str | None = None
    continuation_token: str | None = None
    store: bool | None = None
    generation_config: _Generation | None = None


class _Embed(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None


TOP_FIELDS: Final = frozenset(_Top.__struct_encode_fields__) - {"generationConfig"}
GENERATION_FIELDS: Final = frozenset(_Generation.__struct_encode_fields__)
EMBED_FIELDS: Final = frozenset(_Embed.__struct_encode_fields__)
GENERATE_FIELDS: Final = TOP_FIELDS | GENERATION_FIELDS
CACHE_FIELDS: Final = frozenset({"systemInstruction", "tools", "toolConfig"})
GENERATE_BODY_FIELDS: Final = TOP_FIELDS | {"contents", "generationConfig", "model"}
EMBED_BODY_FIELDS: Final = EMBED_FIELDS | {"content", "model"}

TOOL_FIELDS: Final = frozenset(
    {
        "functionDeclarations",
        "googleSearch",
        "googleSearchRetrieval",
        "googleMaps",
        "codeExecution",
        "urlContext",
        "fileSearch",
        "computerUse",
        "mcpServers",
    }
)
_TOOL_CONFIG_FIELDS: Final = frozenset({"functionCallingConfig", "retrievalConfig", "includeServerSideToolInvocations"})
_VERTEX_ONLY: Final = frozenset(
    {
        "routingConfig",
        "modelSelectionConfig",
        "audioTimestamp",
        "modelArmorConfig",
        "generationOutputConfig",
        "mimeType",
        "autoTruncate",
        "documentOcr",
        "audioTrackExtraction",
    }
)
_VERTEX_ONLY_INSIDE: Final = {
    "googleSearch": ("excludeDomains", "blockingConfidence"),
    "googleMaps": ("groundingTypes",),
    "functionCallingConfig": ("streamFunctionCallArguments",),
}
_NOT_HERE: Final = "it exists on Vertex AI only, not in the Gemini Developer API"
_OF_THE_CALL: Final = frozenset({"shouldReturnHttpResponse", "automaticContinuation"})
"""google-genai's own switches for how its call behaves: nothing of a request."""


class Placed(NamedTuple):
    """A configuration as it stands in a request."""

    fragment: bytes
    """What follows the contents inside the request's object, each field with its comma before it."""
    tokens: int
    """Estimated input tokens of it."""
    schema: Any
    """What reads answers, for ``GenerateResponse.parsed``; ``None`` where no schema was given."""
    cache: str = ""
    """Name of the cached content that it uses, if it uses any."""
    limit: int = 0
    """What bounds the cost of a request, as ``limit_of`` gives it."""
    live_only: str = ""
    """Why no batch can take it, where a live call can."""


NOTHING: Final = Placed(b"", 0, None)


def place_generate(config: Any) -> Placed:
    """Place the fields of a ``generate`` call's configuration.

    Raises:
        ConfigurationError: a field is unknown, of the wrong type, or belongs elsewhere; the message names it.
    """
    top: dict[str, Any] = {}
    generation: dict[str, Any] = {}
    schema: Any = None
    live_only = ""
    for field, name, value in _given(config, GENERATE_FIELDS):
        path = f"config.{name}"
        if field in ("responseSchema", "responseJsonSchema"):
            if schema is not None:
                raise bad_value(path, "give one of response_schema and response_json_schema, not both")
            shape = _response_schema(field, value, path)
            generation[shape.field], schema, live_only = shape.schema, shape.reader, shape.live_only
        elif field in TOP_FIELDS:
            top[field] = _top_value(field, value, path)
        else:
            generation[field] = _generation_value(field, value, path)
    if schema is not None:
        generation.setdefault("responseMimeType", "application/json")
    if generation:
        top["generationConfig"] = generation
    placed = _fragment(top, _Top)
    tokens = sum(len(encode(top[field])) for field in ("systemInstruction", "tools") if field in top) // 4
    found = survey_request(top)
    limit = limit_of(found.cap, searches=found.searches)
    return Placed(placed, tokens, schema, top.get("cachedContent") or "", limit, live_only)


def place_cache(config: Any) -> dict[str, Any]:
    """Return the fields of cached content's configuration: system instruction, tools, tool config.

    Raises:
        ConfigurationError: a field is unknown, or of the wrong type; the message names it.
    """
    return {field: _top_value(field, value, f"config.{name}") for field, name, value in _given(config, CACHE_FIELDS)}


def place_embed(config: Any) -> Placed:
    """Place the fields of an ``embed`` call's configuration.

    Raises:
        ConfigurationError: a field is unknown, of the wrong type, or belongs elsewhere; the message names it.
    """
    fields = {field: tidy(value, f"config.{name}") for field, name, value in _given(config, EMBED_FIELDS)}
    fragment = _fragment(fields, _Embed)
    return Placed(fragment, len(fields.get("title") or "") // 4, None)


def _fragment(fields: dict[str, Any], shape: type[msgspec.Struct]) -> bytes:
    if not fields:
        return b""
    placed, why = None, ""
    try:
        placed = msgspec.convert(fields, shape)
    except msgspec.ValidationError as error:
        why = without_values(str(error))
    except UnicodeEncodeError:
        why = LONE_SURROGATE
    if placed is None:
        raise ConfigurationError(f"config: {why} (config is flat: $ is the request). Nothing was sent.")
    inner = to_json(placed, "config")[1:-1]
    return b"," + inner if inner else b""


def _given(config: Any, known: frozenset[str]) -> Iterator[tuple[str, str, Any]]:
    """Iterate over the fields that are set: the REST name, the name as given, the value."""
    what = "config of embed" if known is EMBED_FIELDS else "config of generate"
    if known is CACHE_FIELDS:
        what = "config of caches.create"
    seen: set[str] = set()
    for name, value in _fields(config):
        if value is None:
            continue
        field = camel(name)
        if field in seen:
            raise bad_value(f"config.{name}", "it is given twice (in snake_case and in camelCase)")
        seen.add(field)
        if field in known:
            yield field, name, value
        else:
            _not_of_a_row(field, name, value, known, what)


def _fields(config: Any) -> Iterator[tuple[str, Any]]:
    if is_mapping(config):
        for name, value in config.items():
            if not isinstance(name, str):
                raise bad_value("config", f"its field name is {in_short(name)} and not a string")
            yield name, value
    elif is_model(config):
        names: Iterable[str] = config.__class__.model_fields
        for name in names:
            yield name, getattr(config, name)
    else:
        raise bad_value("config", f"it must be a dict or google-genai's config type, not {type(config).__name__}")


def _not_of_a_row(field: str, name: str, value: Any, known: frozenset[str], what: str) -> None:
    """Raise for a field that a row does not have, unless what it asks for is what happens anyway."""
    if field == "httpOptions":
        raise bad_value(
            f"config.{name}", "HTTP options belong to the client, not to one request: give them to carpool.Client"
        )
    if field == "automaticFunctionCalling":
        disabled = value.get("disable") if is_mapping(value) else getattr(value, "disable", None)
        if disabled is not True:
            raise bad_value(
                f"config.{name}", "functions are not called automatically in a batch; leave it out or disable it"
            )
        return
    if field in _OF_THE_CALL:
        if value:
            raise bad_value(f"config.{name}", "it changes how google-genai calls; a batch has nothing like it")
        return
    if field in _VERTEX_ONLY:
        raise bad_value(f"config.{name}", _NOT_HERE)
    hint = " Give the fields of generation_config flat." if field == "generationConfig" else ""
    raise unknown_field(name, known, what, hint)


def _top_value(field: str, value: Any, path: str) -> Any:
    match field:
        case "systemInstruction":
            return content_of(value, path)
        case "tools":
            return _tools(value, path)
        case "toolConfig":
            config = tidy(value, path)
            _check_names(config, _TOOL_CONFIG_FIELDS, path)
            return config
        case "labels":
            return verbatim(value, path)
        case "cachedContent":
            name = tidy(value, path)
            return name if not isinstance(name, str) or "/" in name else f"cachedContents/{name}"
        case _:
            return tidy(value, path)


def _generation_value(field: str, value: Any, path: str) -> Any:
    if field == "speechConfig" and isinstance(value, str):
        return {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": value}}}
    plain = tidy(value, path)
    if field == "thinkingConfig" and is_object(plain) and isinstance(plain.get("thinkingLevel"), str):
        plain["thinkingLevel"] = plain["thinkingLevel"].upper()
    return plain


class _Shape(NamedTuple):
    """How an answer is to be formed."""

    field: str
    """Where it stands on the wire."""
    schema: Any
    reader: Any
    live_only: str = ""


def _response_schema(field: str, value: Any, path: str) -> _Shape:
    if is_type(value):
        try:
            return _schema_of_type(field, value, path)
        except TypeError:  # a type that cannot be hashed, such as one annotated with a dict
            return _lowered(field, value, path)
    return _lowered(field, value, path)


def _lowered(field: str, value: Any, path: str) -> _Shape:
    schema, reader = schema_of(value, path)

    def refusal(message: str) -> Exception:
        if field == "responseJsonSchema":
            return _NotLowered(f"{message}, and batches do not honour response_json_schema")
        return ConfigurationError(f"{message}. Simplify the schema. Nothing was sent.")

    try:
        return _Shape("responseSchema", lower(schema, path, refusal), reader)
    except _NotLowered as error:
        return _Shape(field, schema, reader, str(error))


def lower_finished(schema: Any) -> tuple[Any, str]:
    """Return the schema of Google's own that says what a JSON schema in a finished request says, or why there is none.

    Raises:
        ConfigurationError: it is no schema at all.
    """
    shape = _lowered("responseJsonSchema", schema, "body.generationConfig.responseJsonSchema")
    return shape.schema, shape.live_only


class _NotLowered(Exception):
    """A JSON schema says what Google's own schemas cannot."""


# Types do not change, and making a schema of one takes a hundred times longer than all the rest.
_schema_of_type = lru_cache(maxsize=256)(_lowered)


def _tools(value: Any, path: str) -> list[dict[str, Any]]:
    """Return the tools, all function declarations in one last tool, as google-genai sends them."""
    if not is_sequence(value):
        raise bad_value(path, "it must be a list of tools")
    tools: list[dict[str, Any]] = []
    declarations: list[Any] = []
    for index, given in enumerate(value):
        place = f"{path}[{index}]"
        if callable(given):
            raise bad_value(
                place,
                "a Python function cannot be called from a batch; declare it: "
                "{'function_declarations': [{'name': ..., 'description': ..., 'parameters_json_schema': ...}]}",
            )
        tool = _tool(given, place)
        declarations += tool.pop("functionDeclarations", [])
        if tool:
            tools.append(tool)
    if declarations:
        tools.append({"functionDeclarations": declarations})
    return tools


def _tool(given: Any, path: str) -> dict[str, Any]:
    fields = dump(given, path) if is_model(given) else given
    if not is_mapping(fields):
        raise bad_value(path, f"a tool must be a dict or google-genai's type, not {type(given).__name__}")
    declarations: list[Any] = []
    rest: dict[Any, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if camel(str(name)) != "functionDeclarations":
            rest[name] = value
            continue
        if not is_sequence(value):
            raise bad_value(f"{path}.{name}", "it must be a list of declarations")
        declarations = [_declaration(item, f"{path}.{name}[{index}]") for index, item in enumerate(value)]
    tool: dict[str, Any] = tidy(rest, path)
    _check_names(tool, TOOL_FIELDS, path)
    if declarations:
        tool["functionDeclarations"] = declarations
    return tool


def _declaration(given: Any, path: str) -> dict[str, Any]:
    fields = dump(given, path) if is_model(given) else given
    if not is_mapping(fields):
        raise bad_value(path, f"a function declaration must be a dict, not {type(given).__name__}")
    rest: dict[Any, Any] = {}
    schemas: dict[str, Any] = {}
    for name, value in fields.items():
        if camel(str(name)) in ("parameters", "response") and value is not None:
            place = f"{path}.{name}"
            schema, _ = schema_of(value, place)
            schemas[str(name)] = lower(schema, place, _declaration_refusal, ordered=False)
        else:
            rest[name] = value
    return dict(sorted({**tidy(rest, path), **schemas}.items()))


def _declaration_refusal(message: str) -> Exception:
    return ConfigurationError(f"{message}. Give it as parameters_json_schema instead. Nothing was sent.")


def _check_names(value: Any, known: frozenset[str], path: str) -> None:
    if not is_object(value):
        raise bad_value(path, "it must be a dict")
    for name, inner in value.items():
        if name not in known:
            raise unknown_field(snake(name), known, path)
        for field in _VERTEX_ONLY_INSIDE.get(name, ()):
            if is_object(inner) and field in inner:
                raise bad_value(f"{path}.{snake(name)}.{snake(field)}", _NOT_HERE)
