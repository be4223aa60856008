"""The public error tree.

Owns what a caller can catch. Every error carries its data as attributes (``key``, ``code``, ``status``, ``message``,
``details``, ``job``), can be pickled, and says in ``str()`` what happened, to which key, and what to do next. It must
not know where errors come from.
"""

from __future__ import annotations

from typing import Any

from carpool._showing import status_word, without_secrets


class CarpoolError(Exception):
    """Root of all errors that carpool raises.

    Attributes:
        key: the request's key, where one request is concerned.
        code: the server's numeric code (HTTP, or rpc when at most 16), as sent.
        status: the server's status word, as sent (``"INVALID_ARGUMENT"``).
        message: the server's message, 4,096 characters of it at most. ``str()`` shows a shortened form without request
            text, URL or key.
        details: the server's ``details`` as decoded JSON; left out above 16 KiB.
        job: name of the batch job concerned (``"batches/..."``).
    """

    def __init__(
        self,
        text: str,
        *,
        key: str | None = None,
        code: int | None = None,
        status: str | None = None,
        message: str | None = None,
        details: Any = None,
        job: str | None = None,
    ) -> None:
        super().__init__(without_secrets(text))
        self.key = key
        self.code = code
        self.status = status
        self.message = message
        self.details = details
        self.job = job

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    def __repr__(self) -> str:
        shown = {name: getattr(self, name, None) for name in ("key", "code", "status", "job", "name")}
        shown["status"] = status_word(self.status or "") or None
        data = ", ".join(f"{name}={value!r}" for name, value in shown.items() if value is not None)
        return f"{type(self).__name__}({data})"


def _rebuild(kind: type[CarpoolError], args: tuple[Any, ...], state: dict[str, Any]) -> CarpoolError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(CarpoolError):
    """The client cannot be used as it was set up or called: no key, a bad setting, the wrong loop. Nothing was sent."""


class RequestError(CarpoolError):
    """One request did not get its answer; ``key`` says which."""


class RequestRejected(RequestError):
    """The server refused this request (``code``, ``status``, ``message``, ``details`` as sent). Mend it."""


class RequestFailed(RequestError):
    """The retries of this request are used up; the last error of the server is attached."""


class DeadlineExceeded(RequestError, TimeoutError):
    """The deadline passed before an answer came. A request already sent can be picked up later under its ``key``."""


class ResultMissing(RequestError):
    """The job succeeded several times without a row for this key."""


class RequestTooLarge(RequestError):
    """This request alone is above the limit of a batch file."""


class NotBatchable(RequestError):
    """The Batch API cannot take this request: its model has no batches, or its ladder needs a live route for it."""


class KeyConflict(RequestError):
    """This key was given before with a different request. Use another key, or the same request."""


class JobError(CarpoolError):
    """A batch job went wrong as a whole; ``job`` names it."""


class _NamedError(CarpoolError):
    """Something on the server that has a name."""

    def __init__(
        self,
        text: str,
        *,
        name: str | None = None,
        code: int | None = None,
        status: str | None = None,
        message: str | None = None,
        details: Any = None,
    ) -> None:
        super().__init__(text, code=code, status=status, message=message, details=details)
        self.name = name


class FileError(_NamedError):
    """A call about an uploaded file went wrong; ``name`` names it (``"files/..."``), if it is one file's."""


class CacheError(_NamedError):
    """A call about cached content went wrong; ``name`` names it (``"cachedContents/..."``), if it is one cache's."""


class SubmitAmbiguous(JobError):
    """It could not be found out whether a job was created. It is not created again, so that nothing is paid twice."""


class BudgetExceeded(CarpoolError):
    """A ceiling on money is reached; nothing was sent."""


class QuotaExceeded(CarpoolError):
    """The server's quota is too small for this request, or used up for longer than this call can wait."""


class StoreError(CarpoolError):
    """The store on disk refused to work."""


class StoreLocked(StoreError):
    """Another process holds the store, and no slot is free."""


class StoreFull(StoreError):
    """The disk, or ``Settings.store_bytes_max``, is full. Nothing more is accepted or sent until there is room."""


class StoreCorrupt(StoreError):
    """The store does not hold what was written. It is left untouched; name another ``home`` to go on."""


class StoreVersion(StoreError):
    """The store was written by a version of carpool that this one cannot read."""


class LeaseLost(StoreError):
    """Another process took the store over."""


class ClientClosed(CarpoolError):
    """The client was closed before the answer came. What was sent stays on record and can be picked up by its key."""


class CarpoolWarning(UserWarning):
    """What carpool warns of through :mod:`warnings`: something that works, though probably not as it was meant."""
