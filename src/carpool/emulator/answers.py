"""Deterministic answers.

Owns what the emulated models say: pure functions of model and request, so that the same request has the same answer,
live and in a batch, today and tomorrow. It must not know about jobs, files, time or chance.

A text answer shows which prompt it belongs to::

    Answer to "<first 60 characters of the last user text>" [<16 hex digits>] some words

The hexadecimal digits are the start of the SHA-256 of all texts of the request (system instruction first, then the
contents in order, those of its cache before its own; data and URIs of media count as texts), joined by newlines.
:func:`expected_text` gives the whole text for a plain prompt. In JSON answers every free string is the part up to and
including the bracket. A ``seed`` changes the words after it.

A prompt can ask for what else may happen:

* ``[[error:CODE:message]]`` has that error: in a batch as the row's error, live as HTTP error. A ``CODE`` of at most
  16 is an rpc code, any other an HTTP code.
* ``[[blocked:REASON]]`` is blocked: ``promptFeedback`` and no candidates.
* ``[[finish:REASON]]`` ends with that reason and without a text.
* A declared function is called if its name is a word of the last text and the mode of calling is not ``NONE``; with
  mode ``ANY`` some function is called anyway.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

from .candidates import Asked, Refused, candidate_of, echo_of, read_asked, spend, words_of
from .catalog import input_tokens_max
from .fields import as_int, as_object
from .grounding import grounding_of
from .messages import Json, JsonObject
from .prompts import (
    CachedPrompt,
    RowError,
    items_of,
    joined,
    marked_error,
    marks,
    merged,
    read_prompt,
    token_details,
)
from .schema import Unsatisfiable
from .vectors import vector

_SHOWN_CHARS: Final = 60
_CANDIDATES_MAX: Final = 8
_DIMENSIONS_MAX: Final = 3072


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A GenerateContentResponse and what it costs in tokens.

    Attributes:
        response: what is answered.
        prompt_tokens: input, what is cached included.
        output_tokens: output, thinking included.
        cached_tokens: of the input, those that were cached.
        thought_tokens: of the output, those spent on thinking.
        image_tokens: of the output, those of pictures.
        audio_tokens: of the output, those of sound.
    """

    response: JsonObject
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0


class EmbedTask(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedding request comes down to."""

    text: str
    dimensions: int
    tokens: int
    by_modality: dict[str, int] = {}


def expected_text(prompt: str) -> str:
    """Return the text that answers a single plain prompt without any config."""
    digest = hashlib.sha256(joined([prompt])).digest()
    echo = echo_of(prompt, digest)
    return f"{echo} {words_of(digest)}"


def expected_values(text: str, dimensions: int = _DIMENSIONS_MAX) -> list[float]:
    """Return the values that embed a single plain text.

    Args:
        text: what is embedded.
        dimensions: number of values.
    """
    return vector(text, dimensions)


def count_tokens(request: JsonObject, cache: CachedPrompt | None = None) -> JsonObject:
    """Return the answer to countTokens for a request in camelCase.

    Args:
        request: in camelCase.
        cache: what is cached for it.
    """
    prompt = read_prompt(items_of(request.get("contents")), request.get("systemInstruction"))
    tokens = prompt.tokens if cache is None else merged(cache.prompt.tokens, prompt.tokens)
    counted: JsonObject = {"totalTokens": sum(tokens.values()), "promptTokensDetails": token_details(tokens)}
    if cache is not None:
        counted["cachedContentTokenCount"] = cache.prompt.tokens_total
        counted["cacheTokensDetails"] = token_details(cache.prompt.tokens)
    return counted


def generate(
    model: str,
    request: JsonObject,
    *,
    ignore_json_schema: bool = False,
    suffix: str = "",
    cache: CachedPrompt | None = None,
    tokens_max: int | None = None,
) -> Answer | RowError:
    """Answer a GenerateContentRequest.

    Args:
        model: name without ``models/``.
        request: in camelCase.
        ignore_json_schema: answer ``responseJsonSchema`` with text that is no JSON.
        suffix: follows the echo; makes another answer to the same request.
        cache: what is cached for it.
        tokens_max: that the prompt may have, None for as many as the model reads.
    """
    asked = read_asked(model, request, cache, ignore_json_schema=ignore_json_schema)
    contents = items_of(request.get("contents"))
    if not contents:
        return RowError(code=3, message="* GenerateContentRequest.contents: contents is not specified\n")
    if asked.prompt.empty:
        return RowError(code=3, message=asked.prompt.empty)
    error = marked_error(asked.prompt.texts) or _too_long(asked, tokens_max)
    if error is not None:
        return error
    count = as_int(asked.config.get("candidateCount", 1))
    if count is None or not 1 <= count <= _CANDIDATES_MAX:
        return RowError(code=3, message=f"candidateCount must be from 1 to {_CANDIDATES_MAX}.")
    marked = marks(asked.prompt.newest)
    if "blocked" in marked:
        feedback: JsonObject = {"promptFeedback": {"blockReason": marked["blocked"]}}
        return _answer(asked, feedback, thoughts=0, spent={})
    thoughts, thought_part = _thinking(asked.config, asked.prompt.asked, asked.digest)
    candidates: list[Json] = []
    spent: dict[str, int] = {}
    echo = echo_of(asked.prompt.asked or _cached_asked(cache), asked.digest) + suffix
    try:
        for index in range(count):
            own = f"{echo} (candidate {index + 1})" if index else echo
            parts, finish = candidate_of(asked, own, thoughts)
            if "finish" in marked:
                parts, finish = [], marked["finish"]
            spend(spent, asked, parts)
            candidates.append(_shown(asked, index, [*thought_part, *parts], finish))
    except Unsatisfiable as unsatisfiable:
        return RowError(code=3, message=f"The specified schema cannot be met: {unsatisfiable}.")
    except Refused as refused:
        return refused.error
    return _answer(asked, {"candidates": candidates}, thoughts=thoughts, spent=spent)


def _shown(asked: Asked, index: int, parts: list[Json], finish: str) -> JsonObject:
    """Return a candidate."""
    # A content without parts has no list of them.
    content: JsonObject = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    candidate: JsonObject = {"content": content, "finishReason": finish, "index": index}
    tools = asked.tools("tools")
    return candidate | grounding_of(tools, asked.prompt.asked, parts) if tools else candidate


def _cached_asked(cache: CachedPrompt | None) -> str:
    return "" if cache is None else cache.prompt.asked


def _too_long(asked: Asked, tokens_max: int | None) -> RowError | None:
    count = sum(asked.tokens.values())
    limit = input_tokens_max(asked.model) if tokens_max is None else tokens_max
    if count <= limit:
        return None
    words = f"The input token count ({count}) exceeds the maximum number of tokens allowed ({limit})."
    return RowError(code=3, message=words)


def _answer(asked: Asked, response: JsonObject, *, thoughts: int, spent: dict[str, int]) -> Answer:
    """Return an answer with what it costs."""
    prompted, answered = sum(asked.tokens.values()), sum(spent.values())
    usage: JsonObject = {
        "promptTokenCount": prompted,
        "candidatesTokenCount": answered,
        "totalTokenCount": prompted + answered + thoughts,
        "promptTokensDetails": token_details(asked.tokens),
        "candidatesTokensDetails": token_details(spent),
    }
    if not spent:
        del usage["candidatesTokenCount"], usage["candidatesTokensDetails"]
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    cached = 0
    if asked.cache is not None:
        cached = asked.cache.prompt.tokens_total
        usage["cachedContentTokenCount"] = cached
        usage["cacheTokensDetails"] = token_details(asked.cache.prompt.tokens)
    whole: JsonObject = {
        **response,
        "usageMetadata": usage,
        "modelVersion": asked.model,
        "responseId": base64.urlsafe_b64encode(asked.digest[8:24]).decode().rstrip("="),
    }
    return Answer(
        response=whole,
        prompt_tokens=prompted,
        output_tokens=answered + thoughts,
        cached_tokens=cached,
        thought_tokens=thoughts,
        image_tokens=spent.get("IMAGE", 0),
        audio_tokens=spent.get("AUDIO", 0),
    )


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
    limit = as_int(config.get("maxOutputTokens"))
    if limit is not None and limit > 0:
        tokens = min(tokens, limit)
    if thinking.get("includeThoughts") is not True:
        return tokens, []
    return tokens, [{"text": f'Thinking about "{asked[:_SHOWN_CHARS]}"', "thought": True}]


def embed(request: JsonObject, suffix: str = "") -> EmbedTask | RowError:
    """Read an EmbedContentRequest: what to embed, in how many dimensions, for how many tokens.

    Args:
        request: in camelCase.
        suffix: follows the text; makes another vector for the same request.
    """
    prompt = read_prompt([request.get("content")])
    if not prompt.texts:
        return RowError(code=3, message="* EmbedContentRequest.content: contents is not specified\n")
    error = marked_error(prompt.texts)
    if error is not None:
        return error
    nested = as_object(request.get("embedContentConfig")).get("outputDimensionality", _DIMENSIONS_MAX)
    dimensions = as_int(request.get("outputDimensionality", nested))
    if dimensions is None or not 1 <= dimensions <= _DIMENSIONS_MAX:
        return RowError(code=3, message=f"outputDimensionality must be from 1 to {_DIMENSIONS_MAX}.")
    text = "\n".join(prompt.texts) + suffix
    return EmbedTask(text=text, dimensions=dimensions, tokens=prompt.tokens_total, by_modality=prompt.tokens)
