"""What a request needs besides itself: its cache, and files that were uploaded.

Owns finding them in a request, and the errors of those that are not there. It must not know how they are kept, nor
how requests are answered.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from .caches import NO_SUCH_CACHE, CacheService
from .fields import as_object, as_str
from .files import FileService
from .messages import JsonObject
from .prompts import CachedPrompt, RowError, items_of, parts_of

# What a JSON text holds if its request may need anything. Cheaper than a walk over requests that need nothing.
_MAY_NEED: Final = re.compile(rb"cached_?[cC]ontent|file_?[uU]ri")
_OWN: Final = re.compile(r".*/(?:v1|v1beta|v1alpha)/(files/[a-z0-9][a-z0-9-]*)/?")
_GOOGLE: Final = "generativelanguage.googleapis.com"
_SCHEMES: Final = frozenset({"http", "https"})


def may_need(raw: bytes) -> bool:
    """Return whether the JSON of a request may name a cache or a file."""
    return _MAY_NEED.search(raw) is not None


class Found(NamedTuple):
    """What a request needs.

    Attributes:
        names: of the cache and the files, as far as they are there.
        cache: what is cached for it.
        error: why it cannot be answered, None if it can.
    """

    names: tuple[str, ...]
    cache: CachedPrompt | None
    error: RowError | None


NOTHING: Final = Found((), None, None)


class Resources:
    """Finds what requests need.

    Args:
        files: the uploaded files.
        caches: the caches.
    """

    def __init__(self, files: FileService, caches: CacheService) -> None:
        self._files = files
        self._caches = caches

    def find(self, model: str, request: JsonObject, *, origin: str, now: float) -> Found:
        """Return what a request needs.

        Args:
            model: without ``models/``.
            request: in camelCase.
            origin: under which the caller addressed the service, as its files' URIs have it.
            now: seconds since the epoch.
        """
        names: list[str] = []
        cached: CachedPrompt | None = None
        error: RowError | None = None
        cache_name = as_str(request.get("cachedContent"))
        if cache_name:
            cache_name = cache_name if "/" in cache_name else f"cachedContents/{cache_name}"
            names.append(cache_name)
            cache = self._caches.find(cache_name, now)
            cached = None if cache is None else cache.content
            conflict = conflict_of(request)
            if conflict is not None:
                error = RowError(code=3, message=conflict)
            else:
                error = NO_SUCH_CACHE if cached is None else _other_model(model, cached)
        for uri in _uris(request):
            name = _own_name(uri, origin)
            if name is not None:
                names.append(name)
                error = error or self._file_error(name, now)
            elif urlsplit(uri).scheme not in _SCHEMES:
                error = error or RowError(code=3, message=f"Unsupported file uri: {uri}")
        return Found(tuple(names), cached, error)

    def lost(self, names: tuple[str, ...], at: float) -> RowError | None:
        """Return the error of a row that needs what is not there any more when it is answered.

        Args:
            names: what it needs.
            at: when it is answered; not later than anything that happened since.
        """
        for name in names:
            if name.startswith("files/"):
                if self._files.ends_at(name) <= at:
                    return no_file(name)
            elif self._caches.ends_at(name) <= at:
                return NO_SUCH_CACHE
        return None

    def _file_error(self, name: str, now: float) -> RowError | None:
        state = self._files.state_of(name, now)
        if state is None:
            return no_file(name)
        if state != "ACTIVE":
            words = f"The File {name.removeprefix('files/')} is not in an ACTIVE state and usage is not allowed."
            return RowError(code=9, message=words, status="FAILED_PRECONDITION")
        return None


def no_file(name: str) -> RowError:
    """Return the error of a row that names a file which is not there."""
    words = f"You do not have permission to access the File {name.removeprefix('files/')} or it may not exist."
    return RowError(code=7, message=words)


def conflict_of(request: JsonObject) -> str | None:
    """Return the service's words for a request that sets what only its cache may set, None if it does not.

    Args:
        request: in camelCase.
    """
    if not request.get("cachedContent") or not any(request.get(name) for name in _OF_CACHE):
        return None
    return (
        "CachedContent can not be used with GenerateContent request setting system_instruction, tools or tool_config."
        "\n\nProposed fix: move those values to CachedContent from GenerateContent request."
    )


_OF_CACHE: Final = ("systemInstruction", "tools", "toolConfig")


def _other_model(model: str, cached: CachedPrompt) -> RowError | None:
    if cached.model == model:
        return None
    words = (
        f"Model used by GenerateContent request (models/{model}) and CachedContent (models/{cached.model}) has to be "
        "the same."
    )
    return RowError(code=3, message=words)


def _uris(request: JsonObject) -> list[str]:
    """Return the URIs of a request's files."""
    contents = [*items_of(request.get("contents")), request.get("content"), request.get("systemInstruction")]
    return [
        as_str(as_object(part["fileData"]).get("fileUri"))
        for content in contents
        for part in parts_of(content)
        if "fileData" in part
    ]


def _own_name(uri: str, origin: str) -> str | None:
    """Return the name of an uploaded file, None for any other URI."""
    parts = urlsplit(uri)
    if parts.netloc not in {_GOOGLE, urlsplit(origin).netloc}:
        return None
    found = _OWN.fullmatch(parts.path)
    return None if found is None else found[1]
