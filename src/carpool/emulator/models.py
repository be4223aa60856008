"""The live methods of models.

Owns generateContent, countTokens, embedContent and batchEmbedContents, and which models can do what. It must not know
about jobs.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from . import answers
from .answers import Answer, EmbedTask, RowError
from .fields import (
    EMBED_FIELDS,
    GENERATE_FIELDS,
    as_list,
    as_object,
    camel_digest,
    camelise,
    needs_camel,
    unknown_in,
)
from .messages import RPC_TO_HTTP, ApiError, Call, JsonObject, Reply, bad_payload, no_such_model, ok, unknown_field
from .rows import Kind, unknown_fields_of
from .state import State
from .vectors import vector_json

_EMBEDS_MAX: Final = 100


def check_model(state: State, model: str, method: str, kind: Kind, version: str) -> None:
    """Refuse a model that is unknown or cannot do what is asked.

    Raises:
        ApiError: 404.
    """
    known = model.startswith("gemini-") and model not in state.plan.unknown_models
    if not known or model.startswith("gemini-embedding") != (kind is Kind.EMBED):
        raise no_such_model(model, version, method)


def _decode(call: Call) -> JsonObject:
    """Decode a body as it is spelt."""
    try:
        value: JsonObject = msgspec.json.decode(call.body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise bad_payload(str(error)) from None
    return value


def _camel(call: Call, message: JsonObject) -> JsonObject:
    return as_object(camelise(message)) if needs_camel(call.body) else message


def _refusal(error: RowError) -> ApiError:
    """Return a row's error as the answer to a live call."""
    return ApiError(RPC_TO_HTTP.get(error.code, error.code), error.message, status=error.status)


def generate(state: State, call: Call, model: str) -> Reply:
    """Answer generateContent.

    Raises:
        ApiError: unknown fields, or what the answer itself is an error for.
    """
    body = _decode(call)
    unknown = unknown_fields_of(Kind.GENERATE, body, "")
    if unknown:
        raise unknown_field(unknown)
    request = _camel(call, body)
    outcome = answers.generate(model, request)
    match outcome:
        case RowError():
            raise _refusal(outcome)
        case Answer():
            state.ledger.bill_live(
                camel_digest(model, request),
                prompt_tokens=outcome.prompt_tokens,
                output_tokens=outcome.output_tokens,
            )
            return ok(outcome.response)


def count(call: Call) -> Reply:
    """Answer countTokens.

    Raises:
        ApiError: unknown fields.
    """
    body = _decode(call)
    unknown = unknown_in(body, GENERATE_FIELDS | {"generateContentRequest"})
    if unknown:
        raise unknown_field([("", name) for name in unknown])
    request = _camel(call, body)
    return ok(answers.count_tokens(as_object(request.get("generateContentRequest")) or request))


def _embedding(state: State, model: str, request: JsonObject) -> tuple[bytes, EmbedTask]:
    """Return one ``{"values": [...]}`` and bill it."""
    task = answers.embed(request)
    if isinstance(task, RowError):
        raise _refusal(task)
    state.ledger.bill_live(camel_digest(model, request), prompt_tokens=task.tokens, output_tokens=0)
    return b'{"values":' + vector_json(task.text, task.dimensions) + b"}", task


def embed(state: State, call: Call, model: str) -> Reply:
    """Answer embedContent.

    Raises:
        ApiError: unknown fields, or an embedding that is an error.
    """
    body = _decode(call)
    unknown = unknown_in(body, EMBED_FIELDS)
    if unknown:
        raise unknown_field([("", name) for name in unknown])
    values, task = _embedding(state, model, _camel(call, body))
    usage = b""
    if model != "gemini-embedding-001":
        usage = b',"usageMetadata":' + msgspec.json.encode({"promptTokenCount": task.tokens})
    return Reply(body=b'{"embedding":' + values + usage + b"}")


def embed_many(state: State, call: Call, model: str) -> Reply:
    """Answer batchEmbedContents.

    Raises:
        ApiError: unknown fields, too many requests, or an embedding that is an error.
    """
    body = _decode(call)
    requests = [as_object(request) for request in as_list(body.get("requests"))]
    unknown = [("", name) for name in unknown_in(body, frozenset({"requests"}))]
    for index, request in enumerate(requests):
        unknown += unknown_fields_of(Kind.EMBED, request, f"requests[{index}]")
    if unknown:
        raise unknown_field(unknown)
    if len(requests) > _EMBEDS_MAX:
        raise ApiError(
            400, f"* BatchEmbedContentsRequest.requests: at most {_EMBEDS_MAX} requests can be in one batch\n"
        )
    if not requests:
        raise ApiError(400, "* BatchEmbedContentsRequest.requests: requests is not specified\n")
    embedded = [_embedding(state, model, _camel(call, request))[0] for request in requests]
    return Reply(body=b'{"embeddings":[' + b",".join(embedded) + b"]}")
