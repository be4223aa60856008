"""Uploaded files that requests name: whether they live long enough for their batch, and what to do if not.

Owns what is remembered of files, bounded. A batch may run a day after a request was taken in, and a file lives two: a
request that names an older one would fail hours later. It must not know how files travel.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from carpool._ports import FileService, ProviderError
from carpool._runtime.verdicts import fault_words
from carpool._runtime.watch import log_bug
from carpool.errors import CarpoolError, ClientClosed, ConfigurationError, FileError
from carpool.types import File

_FILES_MAX: Final = 10_000
_HOUR_S: Final = 3_600.0


class Source(msgspec.Struct, frozen=True, gc=False):
    """The file on disk that was uploaded, as it was then."""

    path: Path
    size_bytes: int
    changed_ns: int


class _Known(msgspec.Struct, gc=False):
    file: File
    expires_at: float
    source: Source | None
    renewed_uri: str = ""
    """Where it was uploaded again."""


class FileWatch:
    """What is known of files by their URIs; those used last are remembered longest.

    Args:
        service: the provider's files, if it has any.
        margin_s: how long a file must live from now on, in seconds.
        now: tells the time in seconds since the epoch.
        start: runs work beside its caller, until the client is closed.
    """

    def __init__(
        self,
        service: FileService | None,
        margin_s: float,
        now: Callable[[], float],
        start: Callable[..., None],
    ) -> None:
        self._service = service
        self._margin_s = margin_s
        self._now = now
        self._start = start
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Future[str]] = {}

    def remember(self, file: File, source: Source | None = None, uri: str = "") -> None:
        """Remember a file that the server described.

        Args:
            file: the description.
            source: where it came from, if it was uploaded from a path.
            uri: the spelling of its URI that requests use, if not the server's.
        """
        uri = uri or file.uri
        before = self._known.pop(uri, None)
        if before is not None and source is None:
            source = before.source
        self._known[uri] = _Known(file, _seconds(file.expires_at), source, before.renewed_uri if before else "")
        while len(self._known) > _FILES_MAX:
            del self._known[next(iter(self._known))]

    def forget(self, name: str) -> None:
        """Forget a file that was deleted."""
        gone = {uri for uri, known in self._known.items() if known.file.name == name}
        for uri, known in list(self._known.items()):
            if uri in gone:
                del self._known[uri]
            elif known.renewed_uri in gone:
                known.renewed_uri = ""

    async def renew(self, uris: Iterable[str]) -> dict[str, str]:
        """Return the new URIs of those files that had to be uploaded again, by their old ones.

        A file that nothing is known of is asked for once, whoever names it. If that cannot be found out now (no
        answer, or the server is busy), it is used as it is: should it be gone, its row gets the server's own error.

        Raises:
            ConfigurationError: a file is gone, or will be before a batch could run.
            FileError: a file could not be uploaded again.
            ClientClosed: the client was closed meanwhile.
        """
        renewed: dict[str, str] = {}
        for uri in uris:
            found = uri
            while (known := self._known.get(found)) is not None and known.renewed_uri:
                found = known.renewed_uri
            if known is None or known.expires_at - self._now() < self._margin_s:
                found = await self._shared(found)
            else:
                self._known[found] = self._known.pop(found)
            if found != uri:
                renewed[uri] = found
        return renewed

    async def _shared(self, uri: str) -> str:
        """Find out about a file, once for all who ask at the same time."""
        if self._service is None or not (name := self._service.name_of(uri)):
            return uri
        future = self._asking.get(uri)
        if future is None:
            future = self._asking[uri] = asyncio.get_running_loop().create_future()
            self._start(self._find_out, self._service, uri, name, future)
        await asyncio.wait((future,))  # a cancelled caller must not take the others with it
        error = future.exception()
        if error is not None:
            raise copy(error)
        return future.result()

    async def _find_out(self, service: FileService, uri: str, name: str, future: asyncio.Future[str]) -> None:
        try:
            found = await self._living(service, uri, name)
        except (ConfigurationError, FileError) as error:
            future.set_exception(error)
        except asyncio.CancelledError:
            future.set_exception(ClientClosed(f"the client was closed while {name} was looked up; nothing was sent"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told of it
            log_bug("a bug of carpool in looking after uploaded files", error)
            future.set_exception(CarpoolError(f"a bug of carpool ({type(error).__name__}); nothing was sent"))
        else:
            future.set_result(found)
        finally:
            del self._asking[uri]
            future.exception()  # looked at, so that it does not complain if all who asked are gone

    async def _living(self, service: FileService, uri: str, name: str) -> str:
        known = self._known.get(uri)
        if known is None:
            try:
                file = await service.get(name)
                if file.state == "PROCESSING":
                    file = await service.usable(name)
            except ProviderError as error:
                fault = error.fault
                if fault.error.code not in (403, 404):
                    return uri
                raise ConfigurationError(
                    f"{name} is not there, or belongs to somebody else ({fault_words(fault)}); upload it again. "
                    "Nothing was sent."
                ) from None
            if file.state == "FAILED":
                raise ConfigurationError(f"the server could not process {name}; upload it again. Nothing was sent.")
            self.remember(file, uri=uri)
            known = self._known[uri]
        if known.expires_at - self._now() >= self._margin_s:
            return uri
        if known.source is None or not await _is_unchanged(known.source):
            raise self._too_old(known)
        return await self._upload_again(service, known, known.source)

    async def _upload_again(self, service: FileService, known: _Known, source: Source) -> str:
        try:
            file = await service.upload(source.path, known.file.mime_type, known.file.display_name)
        except ProviderError as error:
            name = known.file.name
            raise file_error(error, name, f"{name} is too old for a batch, and was not uploaded again") from None
        self.remember(file, source)
        known.renewed_uri = file.uri
        return file.uri

    def _too_old(self, known: _Known) -> ConfigurationError:
        file, left_s = known.file, known.expires_at - self._now()
        left = f"expires in {left_s / _HOUR_S:.1f} h" if left_s > 0 else "expired"
        why = "" if known.source is None else f" {known.source.path} is no longer what was uploaded."
        return ConfigurationError(
            f"{file.name} {left} ({file.expires_at}), and its batch may run up to {self._margin_s / _HOUR_S:g} h from "
            f"now (Settings.file_margin_s).{why} Upload it again with client.files.upload, and name the new file. "
            "Nothing was sent."
        )


def file_error(error: ProviderError, name: str | None, what: str) -> FileError:
    """Return what a caller is told of a failed call about a file."""
    said = error.fault.error
    return FileError(
        f"{what}: {fault_words(error.fault)}",
        name=name,
        code=said.code or None,
        status=said.status or None,
        message=said.message or None,
        details=said.details,
    )


async def source_of(path: Path) -> Source | None:
    """Return a file on disk as it is now; ``None`` if it cannot be looked at."""
    try:
        found = await anyio.Path(path).stat()
    except OSError:
        return None
    return Source(path, found.st_size, found.st_mtime_ns)


async def _is_unchanged(source: Source) -> bool:
    return await source_of(source.path) == source


def _seconds(text: Any) -> float:
    """Return an RFC 3339 time as seconds since the epoch; infinity where there is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, TypeError):
        return math.inf
