"""Candidates: what a model answers once a prompt is read.

Owns the parts of a candidate: texts, JSON, calls of functions, pictures, sound; where it stops, and what its parts
count in tokens. It must not know about envelopes, errors that prompts ask for, jobs, time or chance.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

import msgspec

from .fields import as_int, as_list, as_object, as_str
from .media import SOUND_TYPE, picture, picture_size, sound
from .messages import Json, JsonObject
from .prompts import CHARS_PER_TOKEN, CachedPrompt, Prompt, RowError, items_of, joined, merged, parts_of, read_prompt
from .schema import instance_of

_SHOWN_CHARS: Final = 60
_IMAGE_TOKENS: Final = 1290
_LARGE_IMAGE_TOKENS: Final = 2000
_SOUND_CHARS_PER_TOKEN: Final = 2560  # of base64: 960 samples of two bytes
_SOUND_TOKENS_MAX: Final = 25
_WORD_TEXT: Final = (
    "amber anchor apple arrow autumn basil beacon birch bridge bronze candle canvas cedar chalk cliff cloud "
    "clover copper coral cotton dawn delta dune ember falcon fern field flint forest frost garden ginger "
    "glass granite harbor hazel indigo island ivory jasmine juniper lantern laurel lemon linen maple marble meadow "
    "mint mist nectar oak olive opal orchard pebble pepper pine plum quartz raven reed river saffron"
)
_WORDS: Final = tuple(_WORD_TEXT.split())


class Refused(Exception):
    """The request cannot be answered."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.error = RowError(code=3, message=message)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request with what is cached for it.

    Attributes:
        model: name without ``models/``.
        request: in camelCase.
        config: its generation config.
        prompt: what it says itself.
        tokens: of the whole prompt, by modality.
        cache: what is cached for it.
        digest: of all texts.
        ignore_json_schema: answer ``responseJsonSchema`` with text that is no JSON.
    """

    model: str
    request: JsonObject
    config: JsonObject
    prompt: Prompt
    tokens: dict[str, int]
    cache: CachedPrompt | None
    digest: bytes
    ignore_json_schema: bool

    def tools(self, name: str) -> Json:
        """Return ``tools`` or ``toolConfig``, which may be cached."""
        return self.request.get(name) if self.cache is None else self.cache.request.get(name)


def read_asked(model: str, request: JsonObject, cache: CachedPrompt | None, *, ignore_json_schema: bool) -> Asked:
    """Read a request."""
    prompt = read_prompt(items_of(request.get("contents")), request.get("systemInstruction"))
    tokens = prompt.tokens if cache is None else merged(cache.prompt.tokens, prompt.tokens)
    digest = hashlib.sha256(joined(prompt.texts)).digest() if cache is None else cache.hash_with(prompt.texts)
    return Asked(
        model=model,
        request=request,
        config=as_object(request.get("generationConfig")),
        prompt=prompt,
        tokens=tokens,
        cache=cache,
        digest=digest,
        ignore_json_schema=ignore_json_schema,
    )


def echo_of(asked: str, digest: bytes) -> str:
    """Return the beginning of an answer."""
    return f'Answer to "{asked[:_SHOWN_CHARS]}" [{digest[:8].hex()}]'


def words_of(digest: bytes) -> str:
    """Return the end of an answer."""
    count = 8 + digest[0] % 17
    return " ".join([_WORDS[byte & 63] for byte in digest[1 : 1 + count]])


def spend(spent: dict[str, int], asked: Asked, parts: list[Json]) -> None:
    """Add the tokens of a candidate to those spent, by modality."""
    for part in parts:
        modality, tokens = _part_tokens(asked.model, asked.config, as_object(part))
        spent[modality] = spent.get(modality, 0) + tokens


def _part_tokens(model: str, config: JsonObject, part: JsonObject) -> tuple[str, int]:
    text = part.get("text")
    if isinstance(text, str):
        return "TEXT", max(1, len(text) // CHARS_PER_TOKEN)
    if "inlineData" in part:
        media = as_object(part["inlineData"])
        if media.get("mimeType") == SOUND_TYPE:
            return "AUDIO", len(as_str(media.get("data"))) // _SOUND_CHARS_PER_TOKEN
        large = model.startswith("gemini-3") and as_object(config.get("imageConfig")).get("imageSize") == "4K"
        return "IMAGE", _LARGE_IMAGE_TOKENS if large else _IMAGE_TOKENS
    return "TEXT", max(1, len(msgspec.json.encode(part)) // CHARS_PER_TOKEN)


def candidate_of(asked: Asked, echo: str, thoughts: int) -> tuple[list[Json], str]:
    """Return a candidate's parts and its finish reason."""
    config, digest = asked.config, asked.digest
    limit = as_int(config.get("maxOutputTokens"))
    if limit is not None and 0 < limit <= thoughts:
        return [], "MAX_TOKENS"
    call = _function_call(asked, echo)
    if call is not None:
        return [{"functionCall": call}], "STOP"
    text = _text(asked, echo)
    finish = "STOP"
    if "stopSequences" in config:
        for stop in items_of(config["stopSequences"]):
            text = text.partition(stop)[0] if isinstance(stop, str) and stop else text
    if limit is not None and limit > 0 and len(text) // CHARS_PER_TOKEN > limit - thoughts:
        text, finish = text[: (limit - thoughts) * CHARS_PER_TOKEN], "MAX_TOKENS"
    wanted: set[str] = set()
    if "responseModalities" in config:
        wanted = {as_str(one).upper() for one in items_of(config["responseModalities"])}
    if "-tts" in asked.model or "AUDIO" in wanted:
        return [_sound(text, digest)], finish
    if "-image" not in asked.model and "IMAGE" not in wanted:
        return [{"text": text}], finish
    image = _image(config, digest)
    return ([{"text": text}, image] if not wanted or "TEXT" in wanted else [image]), finish


def _image(config: JsonObject, digest: bytes) -> JsonObject:
    wanted = as_object(config.get("imageConfig"))
    size = picture_size(as_str(wanted.get("aspectRatio")), as_str(wanted.get("imageSize")))
    if size is None:
        raise Refused("* GenerateContentRequest.generation_config.image_config: invalid aspect ratio or image size\n")
    data = base64.b64encode(picture(*size, digest[:6])).decode()
    return {"inlineData": {"mimeType": "image/png", "data": data}}


def _sound(text: str, digest: bytes) -> JsonObject:
    # A second at most: real speech is longer, but it is only noise here.
    tokens = min(_SOUND_TOKENS_MAX, max(1, len(text) // CHARS_PER_TOKEN))
    return {"inlineData": {"mimeType": SOUND_TYPE, "data": base64.b64encode(sound(tokens, digest)).decode()}}


def _text(asked: Asked, echo: str) -> str:
    config, digest = asked.config, asked.digest
    if config.get("seed") is not None:
        digest = hashlib.sha256(digest + str(config["seed"]).encode()).digest()
    wanted = as_str(config.get("responseMimeType"))
    schema = config.get("responseSchema")
    if schema is None and "responseJsonSchema" in config:
        if asked.ignore_json_schema:
            return f'{{"{echo} {{{{{{ {words_of(digest)}'
        schema = config["responseJsonSchema"]
    match wanted:
        case "application/json" if schema is not None:
            return msgspec.json.encode(instance_of(schema, seed=digest, echo=echo)).decode()
        case "application/json":
            return msgspec.json.encode({"answer": echo}).decode()
        case "text/x.enum" if schema is not None:
            return as_str(instance_of(schema, seed=digest, echo=echo))
        case _:
            return f"{echo} {words_of(digest)}"


def _function_call(asked: Asked, echo: str) -> JsonObject | None:
    """Return the call of a function where the request insists on one, or names one."""
    tools = asked.tools("tools")
    if not tools:
        return None
    calling = as_object(as_object(asked.tools("toolConfig")).get("functionCallingConfig"))
    mode = as_str(calling.get("mode")).upper()
    declared: list[JsonObject] = []
    for tool in items_of(tools):
        declared += [as_object(one) for one in items_of(as_object(tool).get("functionDeclarations"))]
    allowed = as_list(calling.get("allowedFunctionNames"))
    usable = [one for one in declared if not allowed or one.get("name") in allowed]
    if mode == "NONE" or not usable:
        return None
    chosen = usable[asked.digest[2] % len(usable)]
    if mode != "ANY":
        words: list[str] = re.findall(r"\w+", asked.prompt.newest) if _is_asking(asked.request) else []
        named = [one for one in usable if one.get("name") in words]
        if not named:
            return None
        chosen = named[0]
    schema = chosen.get("parametersJsonSchema", chosen.get("parameters"))
    args = {} if schema is None else instance_of(schema, seed=asked.digest, echo=echo)
    return {"name": chosen.get("name"), "args": args}


def _is_asking(request: JsonObject) -> bool:
    """Return whether the last content is the user's, and not what a function returned."""
    contents = items_of(request.get("contents"))
    last = contents[-1] if contents else None
    asked = as_object(last).get("role", "user") in {"user", ""}
    return asked and not any("functionResponse" in part for part in parts_of(last))
