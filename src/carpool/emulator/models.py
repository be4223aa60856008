"""The live methods of models.

Owns generateContent, countTokens, embedContent and batchEmbedContents, which models can do what, and in which tier. It
must not know about jobs, nor how an answer is streamed.
"""

from __future__ import annotations

from typing import Final

import msgspec

from . import answers
from .answers import Answer, EmbedTask
from .catalog import find_model, is_embedding
from .fields import as_list, as_object, as_str, camel_digest, camelise, needs_camel
from .ledger import LiveBill
from .messages import (
    RPC_TO_HTTP,
    TYPE_PREFIX,
    ApiError,
    Call,
    Json,
    JsonObject,
    Reply,
    bad_payload,
    decode_json,
    no_such_model,
    ok,
)
from .prices import charge_picousd, embedding_picousd, usage_of
from .prompts import RowError
from .resources import NOTHING, Found, Resources, may_need
from .rows import Kind
from .state import State
from .validation import check
from .vectors import vector_json

_EMBEDS_MAX: Final = 100
_TIERS: Final = frozenset({"standard", "flex", "priority"})


def check_model(state: State, model: str, method: str, kind: Kind, version: str) -> None:
    """Refuse a model that is unknown or cannot do what is asked.

    Raises:
        ApiError: 404.
    """
    found = find_model(state, model, version)
    generates = found is not None and "generateContent" in found.methods
    if found is None or not (is_embedding(model) if kind is Kind.EMBED else generates or method == "countTokens"):
        raise no_such_model(model, version, method)


def refusal_of(error: RowError) -> ApiError:
    """Return a row's error as the answer to a live call."""
    return ApiError(RPC_TO_HTTP.get(error.code, error.code), error.message, status=error.status)


class Live:
    """One live call.

    Args:
        state: the world's.
        resources: finds what requests need.
        call: the call.
        model: that it is for, without ``models/``.
        now: seconds since the epoch.
    """

    def __init__(self, state: State, resources: Resources, call: Call, model: str, now: float) -> None:
        self._state = state
        self._resources = resources
        self.call = call
        self._model = model
        self._now = now

    def _body(self, message: str) -> JsonObject:
        """Return the body in camelCase.

        Raises:
            ApiError: it cannot be read, or has anything unknown in it.
        """
        try:
            body = decode_json(self.call.body or b"{}")
        except msgspec.DecodeError as error:
            raise bad_payload(str(error)) from None
        check(message, body)
        return as_object(camelise(body) if needs_camel(self.call.body) else body)

    def _check_quota(self, requests: int = 1) -> None:
        """Refuse the call if the last minute leaves no room for it.

        Raises:
            ApiError: 429.
        """
        plan = self._state.plan
        limits = {"requests": plan.live_requests_per_minute, "tokens": plan.live_tokens_per_minute}
        self._state.quotas.check(self._model, self._now, asked=requests, **limits)

    def _found(self, request: JsonObject) -> Found:
        """Return what a request needs.

        Raises:
            ApiError: something is not there.
        """
        if not may_need(self.call.body):
            return NOTHING
        found = self._resources.find(self._model, request, origin=self.call.origin, now=self._now)
        if found.error is not None:
            raise refusal_of(found.error)
        return found

    def answer(self) -> tuple[Answer, dict[str, str]]:
        """Answer a GenerateContentRequest, and bill it.

        Returns:
            The answer, and headers to go with it.

        Raises:
            ApiError: unknown fields, or what the answer itself is an error for.
        """
        request = self._body("GenerateContentRequest")
        tier = as_str(request.get("serviceTier")).lower().removeprefix("service_tier_")
        if tier not in _TIERS | {"", "unspecified"}:
            kind = f"{TYPE_PREFIX}google.ai.generativelanguage.v1beta.ServiceTier"
            raise ApiError(400, f"Invalid value at 'service_tier' ({kind}), \"{request['serviceTier']}\"")
        self._check_quota()
        outcome = answers.generate(
            self._model, request, cache=self._found(request).cache, tokens_max=self._state.plan.input_tokens_max
        )
        if isinstance(outcome, RowError):
            raise refusal_of(outcome)
        billed_tier = tier if tier in _TIERS else "standard"
        cost = charge_picousd(self._model, billed_tier, usage_of(outcome.response), self._now)
        bill = LiveBill(
            model=self._model,
            tier=billed_tier,
            calls=1,
            picousd=cost or 0,
            unpriced=int(cost is None),
            prompt_tokens=outcome.prompt_tokens,
            output_tokens=outcome.output_tokens,
            cached_tokens=outcome.cached_tokens,
            thought_tokens=outcome.thought_tokens,
            image_tokens=outcome.image_tokens,
            audio_tokens=outcome.audio_tokens,
        )
        self._state.ledger.bill_live(camel_digest(self._model, request), bill)
        self._state.quotas.took(self._model, self._now, outcome.prompt_tokens)
        return outcome, {"x-gemini-service-tier": tier} if tier in _TIERS else {}

    def generate(self) -> Reply:
        """Answer generateContent.

        Raises:
            ApiError: as :meth:`answer`.
        """
        outcome, headers = self.answer()
        return ok(outcome.response, headers=headers)

    def count(self) -> Reply:
        """Answer countTokens.

        Raises:
            ApiError: unknown fields, or something that it names is not there.
        """
        body = self._body("CountTokensRequest")
        request = as_object(body.get("generateContentRequest")) or body
        return ok(answers.count_tokens(request, self._found(request).cache))

    def _task(self, request: JsonObject) -> EmbedTask:
        """Return what an embedding is made of."""
        self._found(request)
        task = answers.embed(request)
        if isinstance(task, RowError):
            raise refusal_of(task)
        return task

    def _embedding(self, request: JsonObject, task: EmbedTask) -> bytes:
        """Return one ``{"values": [...]}`` and bill it."""
        cost = embedding_picousd(self._model, "standard", task.by_modality, self._now)
        bill = LiveBill(
            model=self._model,
            tier="standard",
            calls=1,
            prompt_tokens=task.tokens,
            picousd=cost or 0,
            unpriced=int(cost is None),
        )
        self._state.ledger.bill_live(camel_digest(self._model, request), bill)
        self._state.quotas.took(self._model, self._now, task.tokens)
        return b'{"values":' + vector_json(task.text, task.dimensions) + b"}"

    def _usage(self, tasks: list[EmbedTask]) -> bytes:
        """Return the end of an answer, which tells the tokens for newer models alone."""
        if self._model == "gemini-embedding-001":
            return b"}"
        usage: Json = {"promptTokenCount": sum(task.tokens for task in tasks)}
        return b',"usageMetadata":' + msgspec.json.encode(usage) + b"}"

    def embed(self) -> Reply:
        """Answer embedContent.

        Raises:
            ApiError: unknown fields, or an embedding that is an error.
        """
        request = self._body("EmbedContentRequest")
        self._check_quota()
        task = self._task(request)
        values = self._embedding(request, task)
        return Reply(body=b'{"embedding":' + values + self._usage([task]))

    def embed_many(self) -> Reply:
        """Answer batchEmbedContents.

        Raises:
            ApiError: unknown fields, too many requests, or an embedding that is an error.
        """
        requests = as_list(self._body("BatchEmbedContentsRequest").get("requests"))
        words = "* BatchEmbedContentsRequest.requests: "
        if len(requests) > _EMBEDS_MAX:
            raise ApiError(400, f"{words}at most {_EMBEDS_MAX} requests can be in one batch\n")
        if not requests:
            raise ApiError(400, f"{words}requests is not specified\n")
        self._check_quota(len(requests))
        objects = [as_object(request) for request in requests]
        tasks = [self._task(request) for request in objects]  # all of them first: one that is bad costs nothing
        values = b",".join(map(self._embedding, objects, tasks))
        return Reply(body=b'{"embeddings":[' + values + b"]" + self._usage(tasks))
