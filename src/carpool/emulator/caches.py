"""Cached contents.

Owns caches: creation, life, listing, and what a request that uses one gets of it. It must not know about jobs.

What is known of the service: its fields, the words for a cache that is too small, that is for another model, that is
missing, or that is used together with a system instruction or tools of the request. That a missing cache answers 403
(as a missing file does) is what users report; what befalls a row of a batch whose cache ended while it waited is
inferred: the row has that same error, as its other semantic errors.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import msgspec

from .catalog import find_model, is_embedding
from .fields import as_object, as_str, camel, camelise
from .messages import ApiError, Call, JsonObject, Reply, bad_payload, decode_json, no_such_model, ok
from .prompts import CachedPrompt, RowError, cached_prompt
from .state import State, page, rfc3339
from .validation import check

_TTL: Final = re.compile(r"\d{1,10}(\.\d{1,9})?s")
_USUAL_TTL_S: Final = 3600.0
_CONTENT: Final = ("systemInstruction", "contents", "tools", "toolConfig")
_MISSING: Final = "CachedContent not found (or permission denied)"
NO_SUCH_CACHE: Final = RowError(code=7, message=_MISSING)


class Cache(msgspec.Struct, kw_only=True, eq=False):
    """A cache.

    Attributes:
        serial: grows from one to the next.
        name: ``cachedContents/...``.
        display_name: as sent, may be empty.
        content: what it holds.
        created_at: seconds since the epoch.
        updated_at: when its life was changed last.
        ends_at: when it expires, or was deleted.
    """

    serial: int
    name: str
    display_name: str
    content: CachedPrompt
    created_at: float
    updated_at: float
    ends_at: float


class CacheService:
    """All caches."""

    def __init__(self, state: State) -> None:
        self._state = state
        # Those that ended stay: a job that waited is told when.
        self._caches: dict[str, Cache] = {}

    # -- for those who use them

    def find(self, name: str, now: float) -> Cache | None:
        """Return a living cache, None if there is none of that name."""
        cache = self._caches.get(name)
        return cache if cache is not None and now < cache.ends_at else None

    def ends_at(self, name: str) -> float:
        """Return when a cache ends or has ended, as of now; minus infinity if it never was."""
        cache = self._caches.get(name)
        return float("-inf") if cache is None else cache.ends_at

    def stored_token_s(self, now: float) -> float:
        """Return what all caches have cost in storage: tokens times seconds."""
        return sum(
            cache.content.prompt.tokens_total * (min(now, cache.ends_at) - cache.created_at)
            for cache in self._caches.values()
        )

    # -- methods

    def create(self, call: Call, version: str, now: float) -> Reply:
        """Make a cache.

        Raises:
            ApiError: 400 for what is wrong with it, 404 for its model.
        """
        body = _read(call)
        model = as_str(body.get("model")).removeprefix("models/")
        if not model:
            raise ApiError(400, "* CreateCachedContentRequest.model: model is not specified\n")  # wording not known
        if is_embedding(model) or find_model(self._state, model, version) is None:
            raise no_such_model(model, version, "createCachedContent")
        ends_at = _ends_at(body, now)
        content = cached_prompt(model, {name: body[name] for name in _CONTENT if name in body})
        tokens = content.prompt.tokens_total
        least = self._state.plan.cache_tokens_min
        if tokens < least:
            words = f"Cached content is too small. total_token_count={tokens}, min_total_token_count={least}"
            raise ApiError(400, words)
        cache = Cache(
            serial=self._state.next_serial(),
            name=f"cachedContents/{self._state.new_id(36)}",
            display_name=as_str(body.get("displayName")),
            content=content,
            created_at=now,
            updated_at=now,
            ends_at=now + _USUAL_TTL_S if ends_at is None else ends_at,
        )
        self._caches[cache.name] = cache
        return ok(_resource(cache))

    def get(self, name: str, now: float) -> Reply:
        """Answer with a cache.

        Raises:
            ApiError: 403.
        """
        return ok(_resource(self._living(name, now)))

    def list_caches(self, call: Call, now: float) -> Reply:
        """Answer with a page of the caches, newest first."""
        living = [cache for cache in reversed(self._caches.values()) if now < cache.ends_at]
        caches, token = page(living, call.query, usual=50, most=1000)
        body: JsonObject = {}
        if caches:
            body["cachedContents"] = [_resource(cache) for cache in caches]
        if token is not None:
            body["nextPageToken"] = token
        return ok(body)

    def update(self, name: str, call: Call, now: float) -> Reply:
        """Give a cache another end of life; nothing else of it can be changed.

        Raises:
            ApiError: 403, or 400 for anything but a new end.
        """
        body = _read(call)
        cache = self._living(name, now)
        mask = call.query.get("updateMask", call.query.get("update_mask", ""))
        wanted = {camel(one.strip()) for one in mask.split(",") if one.strip()} or set(body) - {"name"}
        ends_at = _ends_at({field: body[field] for field in body if field in wanted}, now)
        if ends_at is None or wanted - {"ttl", "expireTime"}:
            raise ApiError(400, "Only the expiration of a CachedContent can be updated.")  # wording not known
        cache.ends_at = ends_at
        cache.updated_at = now
        return ok(_resource(cache))

    def delete(self, name: str, now: float) -> Reply:
        """End a cache.

        Raises:
            ApiError: 403.
        """
        self._living(name, now).ends_at = now
        return ok({})

    def _living(self, name: str, now: float) -> Cache:
        cache = self.find(name, now)
        if cache is None:
            raise ApiError(403, _MISSING)
        return cache


def _read(call: Call) -> JsonObject:
    try:
        body = decode_json(call.body or b"{}")
    except msgspec.DecodeError as error:
        raise bad_payload(str(error)) from None
    check("CachedContent", body)
    return as_object(camelise(body))


def _ends_at(body: JsonObject, now: float) -> float | None:
    """Return the end of life that a body asks for, None if it does not ask.

    Raises:
        ApiError: it cannot be read, there are two, or it is past.
    """
    ttl, moment = as_str(body.get("ttl")), as_str(body.get("expireTime"))
    if ttl and moment:
        words = "Invalid value (oneof), oneof field 'expiration' is already set. Cannot set 'ttl'"
        raise ApiError(400, words)
    if ttl:
        if _TTL.fullmatch(ttl) is None:
            words = f"Invalid value at 'ttl' (type.googleapis.com/google.protobuf.Duration), \"{ttl}\""
            raise ApiError(400, words)
        at = now + float(ttl[:-1])
    elif moment:
        stamp: datetime | None
        try:
            stamp = datetime.fromisoformat(moment)
        except ValueError:
            stamp = None
        if stamp is None or stamp.tzinfo is None:
            words = f"Invalid value at 'expire_time' (type.googleapis.com/google.protobuf.Timestamp), \"{moment}\""
            raise ApiError(400, words)
        at = stamp.timestamp()
    else:
        return None
    if at <= now:
        raise ApiError(400, "The expiration of a CachedContent must be in the future.")  # wording not known
    return at


def _resource(cache: Cache) -> JsonObject:
    resource: JsonObject = {
        "name": cache.name,
        "model": f"models/{cache.content.model}",
        "createTime": rfc3339(cache.created_at),
        "updateTime": rfc3339(cache.updated_at),
        "expireTime": rfc3339(cache.ends_at),
        "displayName": cache.display_name,
        "usageMetadata": {"totalTokenCount": cache.content.prompt.tokens_total},
    }
    return {name: value for name, value in resource.items() if value != ""}
