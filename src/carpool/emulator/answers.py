"""Deterministic answers.

Owns what the emulated models say: pure functions of model and request, so that the same request has the same answer,
live and in a batch, today and tomorrow. It must not know about jobs, files, time or chance.

A text answer shows which prompt it belongs to::

    Answer to "<first 60 characters of the last user text>" [<16 hex digits>] some words

The hexadecimal digits are the start of the SHA-256 of all texts of the request (system instruction first, then the
contents in order; data and URIs of media count as texts), joined by newlines. :func:`expected_text` gives the whole
text for a plain prompt. In JSON answers every free string is the part up to and including the bracket.

A prompt that contains ``[[error:CODE:message]]`` has that error: in a batch as the row's error, live as HTTP error. A
``CODE`` of at most 16 is an rpc code, any other an HTTP code.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from .fields import as_int, as_list, as_object, as_str
from .messages import Json, JsonObject
from .schema import Unsatisfiable, instance_of
from .vectors import vector

_SHOWN_CHARS: Final = 60
_CHARS_PER_TOKEN: Final = 4
_MEDIA_TOKENS: Final = 258
_IMAGE_TOKENS: Final = 1290
_CANDIDATES_MAX: Final = 8
_DIMENSIONS_MAX: Final = 3072
_MARKER: Final = re.compile(r"\[\[error:(\d{1,3}):(.*?)\]\]", re.DOTALL)
_WORD_TEXT: Final = (
    "amber anchor apple arrow autumn basil beacon birch bridge bronze candle canvas cedar chalk cliff cloud "
    "clover copper coral cotton dawn delta dune ember falcon fern field flint forest frost garden ginger "
    "glass granite harbor hazel indigo island ivory jasmine juniper lantern laurel lemon linen maple marble meadow "
    "mint mist nectar oak olive opal orchard pebble pepper pine plum quartz raven reed river saffron"
)
_WORDS: Final = tuple(_WORD_TEXT.split())


class RowError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request has no answer.

    Attributes:
        code: rpc code (at most 16) or HTTP code.
        message: the service's words.
        status: status word, if one is shown.
    """

    code: int
    message: str
    status: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A GenerateContentResponse and what it costs in tokens."""

    response: JsonObject
    prompt_tokens: int
    output_tokens: int


class EmbedTask(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedding request comes down to."""

    text: str
    dimensions: int
    tokens: int


def expected_text(prompt: str) -> str:
    """Return the text that answers a single plain prompt without any config."""
    echo, digest = _echo([prompt], prompt)
    return f"{echo} {_words(digest)}"


def expected_values(text: str, dimensions: int = _DIMENSIONS_MAX) -> list[float]:
    """Return the values that embed a single plain text.

    Args:
        text: what is embedded.
        dimensions: number of values.
    """
    return vector(text, dimensions)


def _echo(texts: list[str], asked: str) -> tuple[str, bytes]:
    digest = hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).digest()
    return f'Answer to "{asked[:_SHOWN_CHARS]}" [{digest[:8].hex()}]', digest


def _words(digest: bytes) -> str:
    count = 8 + digest[0] % 17
    return " ".join([_WORDS[byte & 63] for byte in digest[1 : 1 + count]])


class _Prompt(msgspec.Struct, frozen=True, kw_only=True):
    texts: list[str]
    asked: str
    tokens: dict[str, int]

    @property
    def tokens_total(self) -> int:
        return sum(self.tokens.values())


def _parts(content: Json) -> Iterator[JsonObject]:
    for part in as_list(as_object(content).get("parts")):
        if isinstance(part, dict):
            yield part


def _read_prompt(contents: list[Json], system: Json = None) -> _Prompt:
    texts: list[str] = []
    asked = ""
    chars = 0
    tokens: dict[str, int] = {}
    for content in [system, *contents]:
        own: list[str] = []
        for part in _parts(content):
            text = part.get("text")
            if isinstance(text, str):
                texts.append(text)
                own.append(text)
                chars += len(text)
                continue
            media = as_object(part.get("inlineData")) or as_object(part.get("fileData"))
            if media:
                kind = as_str(media.get("mimeType")).partition("/")[0].upper()
                modality = kind if kind in {"IMAGE", "AUDIO", "VIDEO"} else "DOCUMENT"
                tokens[modality] = tokens.get(modality, 0) + _MEDIA_TOKENS
                texts.append(as_str(media.get("data")) or as_str(media.get("fileUri")))
            else:
                other = msgspec.json.encode(part, order="sorted").decode()
                texts.append(other)
                chars += len(other)
        if own and content is not system and as_object(content).get("role", "user") == "user":
            asked = "\n".join(own)
    return _Prompt(texts=texts, asked=asked, tokens={"TEXT": max(1, chars // _CHARS_PER_TOKEN), **tokens})


def _marked_error(texts: list[str]) -> RowError | None:
    for text in texts:
        found = _MARKER.search(text) if "[[error:" in text else None
        if found:
            return RowError(code=int(found[1]), message=found[2])
    return None


def count_tokens(request: JsonObject) -> JsonObject:
    """Return the answer to countTokens for a request in camelCase."""
    prompt = _read_prompt(as_list(request.get("contents")), request.get("systemInstruction"))
    details: list[Json] = [{"modality": name, "tokenCount": count} for name, count in prompt.tokens.items()]
    return {"totalTokens": prompt.tokens_total, "promptTokensDetails": details}


def generate(
    model: str, request: JsonObject, *, ignore_json_schema: bool = False, suffix: str = ""
) -> Answer | RowError:
    """Answer a GenerateContentRequest.

    Args:
        model: name without ``models/``.
        request: in camelCase.
        ignore_json_schema: answer ``responseJsonSchema`` with text that is no JSON.
        suffix: follows the echo; makes another answer to the same request.
    """
    prompt = _read_prompt(as_list(request.get("contents")), request.get("systemInstruction"))
    if not prompt.texts:
        return RowError(code=3, message="* GenerateContentRequest.contents: contents is not specified\n")
    error = _marked_error(prompt.texts)
    if error is not None:
        return error
    config = as_object(request.get("generationConfig"))
    count = as_int(config.get("candidateCount", 1))
    if count is None or not 1 <= count <= _CANDIDATES_MAX:
        return RowError(code=3, message=f"candidateCount must be from 1 to {_CANDIDATES_MAX}.")
    echo, digest = _echo(prompt.texts, prompt.asked)
    thoughts, thought_part = _thinking(config, prompt.asked, digest)
    candidates: list[Json] = []
    spent: dict[str, int] = {}
    for index in range(count):
        own = f"{echo}{suffix}" + (f" (candidate {index + 1})" if index else "")
        try:
            parts, finish = _candidate(model, request, config, own, digest, ignore_json_schema=ignore_json_schema)
        except Unsatisfiable as unsatisfiable:
            return RowError(code=3, message=f"The specified schema cannot be met: {unsatisfiable}.")
        for modality, tokens in _part_tokens(parts):
            spent[modality] = spent.get(modality, 0) + tokens
        content: JsonObject = {"parts": [*thought_part, *parts], "role": "model"}
        candidates.append({"content": content, "finishReason": finish, "index": index})
    answered = sum(spent.values())
    usage: JsonObject = {
        "promptTokenCount": prompt.tokens_total,
        "candidatesTokenCount": answered,
        "totalTokenCount": prompt.tokens_total + answered + thoughts,
        "promptTokensDetails": [{"modality": name, "tokenCount": tokens} for name, tokens in prompt.tokens.items()],
        "candidatesTokensDetails": [{"modality": name, "tokenCount": tokens} for name, tokens in spent.items()],
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    response: JsonObject = {
        "candidates": candidates,
        "usageMetadata": usage,
        "modelVersion": model,
        "responseId": base64.urlsafe_b64encode(digest[8:24]).decode().rstrip("="),
    }
    return Answer(response=response, prompt_tokens=prompt.tokens_total, output_tokens=answered + thoughts)


def _thinking(config: JsonObject, asked: str, digest: bytes) -> tuple[int, list[Json]]:
    """Return the tokens spent on thinking and the part that shows it, if wanted."""
    if "thinkingConfig" not in config:
        return 0, []
    thinking = as_object(config["thinkingConfig"])
    budget = as_int(thinking.get("thinkingBudget"))
    if budget == 0:
        return 0, []
    tokens = 16 + digest[1]
    if budget is not None and budget > 0:
        tokens = min(tokens, budget)
    if thinking.get("includeThoughts") is not True:
        return tokens, []
    return tokens, [{"text": f'Thinking about "{asked[:_SHOWN_CHARS]}"', "thought": True}]


def _part_tokens(parts: list[Json]) -> Iterator[tuple[str, int]]:
    for part in parts:
        content = as_object(part)
        if "inlineData" in content:
            yield "IMAGE", _IMAGE_TOKENS
        else:
            text = content.get("text")
            chars = len(text) if isinstance(text, str) else len(msgspec.json.encode(content))
            yield "TEXT", max(1, chars // _CHARS_PER_TOKEN)


def _candidate(
    model: str, request: JsonObject, config: JsonObject, echo: str, digest: bytes, *, ignore_json_schema: bool
) -> tuple[list[Json], str]:
    """Return a candidate's parts and its finish reason."""
    call = _function_call(request, digest, echo)
    if call is not None:
        return [{"functionCall": call}], "STOP"
    text = _text(config, echo, digest, ignore_json_schema=ignore_json_schema)
    finish = "STOP"
    for stop in as_list(config.get("stopSequences")):
        if isinstance(stop, str) and stop:
            text = text.partition(stop)[0]
    limit = as_int(config.get("maxOutputTokens"))
    if limit is not None and limit > 0 and len(text) // _CHARS_PER_TOKEN > limit:
        text, finish = text[: limit * _CHARS_PER_TOKEN], "MAX_TOKENS"
    if "-image" not in model:
        return [{"text": text}], finish
    image: JsonObject = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(_png(digest)).decode()}}
    modalities = as_list(config.get("responseModalities")) or ["TEXT", "IMAGE"]
    return ([{"text": text}, image] if "TEXT" in modalities else [image]), finish


def _text(config: JsonObject, echo: str, digest: bytes, *, ignore_json_schema: bool) -> str:
    wanted = as_str(config.get("responseMimeType"))
    schema = config.get("responseSchema")
    if schema is None and "responseJsonSchema" in config:
        if ignore_json_schema:
            return f'{{"{echo} {{{{{{ {_words(digest)}'
        schema = config["responseJsonSchema"]
    match wanted:
        case "application/json" if schema is not None:
            return msgspec.json.encode(instance_of(schema, seed=digest, echo=echo)).decode()
        case "application/json":
            return msgspec.json.encode({"answer": echo}).decode()
        case "text/x.enum" if schema is not None:
            return as_str(instance_of(schema, seed=digest, echo=echo))
        case _:
            return f"{echo} {_words(digest)}"


def _function_call(request: JsonObject, digest: bytes, echo: str) -> JsonObject | None:
    """Return the call of a function where the request insists on one."""
    calling = as_object(as_object(request.get("toolConfig")).get("functionCallingConfig"))
    if as_str(calling.get("mode")).upper() != "ANY":
        return None
    declared: list[JsonObject] = []
    for tool in as_list(request.get("tools")):
        declared += [as_object(one) for one in as_list(as_object(tool).get("functionDeclarations"))]
    allowed = as_list(calling.get("allowedFunctionNames"))
    usable = [one for one in declared if not allowed or one.get("name") in allowed]
    if not usable:
        return None
    chosen = usable[digest[2] % len(usable)]
    schema = chosen.get("parametersJsonSchema", chosen.get("parameters"))
    args = {} if schema is None else instance_of(schema, seed=digest, echo=echo)
    return {"name": chosen.get("name"), "args": args}


def _png(digest: bytes, side: int = 16) -> bytes:
    """Return a small square of two colours as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colours = (digest[:3], digest[3:6])
    rows = b"".join(b"\0" + b"".join(colours[(x // 4 + y // 4) & 1] for x in range(side)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def embed(request: JsonObject, suffix: str = "") -> EmbedTask | RowError:
    """Read an EmbedContentRequest: what to embed, in how many dimensions, for how many tokens.

    Args:
        request: in camelCase.
        suffix: follows the text; makes another vector for the same request.
    """
    prompt = _read_prompt([request.get("content")])
    if not prompt.texts:
        return RowError(code=3, message="* EmbedContentRequest.content: contents is not specified\n")
    error = _marked_error(prompt.texts)
    if error is not None:
        return error
    nested = as_object(request.get("embedContentConfig")).get("outputDimensionality", _DIMENSIONS_MAX)
    dimensions = as_int(request.get("outputDimensionality", nested))
    if dimensions is None or not 1 <= dimensions <= _DIMENSIONS_MAX:
        return RowError(code=3, message=f"outputDimensionality must be from 1 to {_DIMENSIONS_MAX}.")
    return EmbedTask(text="\n".join(prompt.texts) + suffix, dimensions=dimensions, tokens=prompt.tokens_total)
