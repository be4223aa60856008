"""Files for the parts of requests: uploaded by users, shown as the server describes them.

Owns the names under which they are uploaded, the reading of their bytes, and the wait until they can be used. It must
not know which requests name them.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from carpool._core.model import Fault
from carpool._gemini.faults import read_error
from carpool._gemini.files import Files
from carpool._gemini.http import Http, ok, parse_url, unreadable
from carpool._gemini.listing import listed
from carpool._gemini.mime import guess_mime_type
from carpool._gemini.wire import checked_name, read_list
from carpool._ports import ProviderError
from carpool._showing import in_short
from carpool.errors import ConfigurationError
from carpool.settings import Settings
from carpool.types import File, ServerError

FILE_BYTES_MAX: Final = 2_147_483_648
"""Largest file that the service takes."""
_READ_BYTES: Final = 1_048_576
_PAUSE_MAX_S: Final = 10.0
_WAIT_MAX_S: Final = 3_600.0
"""How long the server may take to process a file, which it does with videos."""
_FAILED_MAX: Final = 5
"""Questions about a file in a row that may fail."""
_GOOGLE_HOST: Final = "generativelanguage.googleapis.com"


class _Described(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str = ""
    uri: str = ""
    mime_type: str = ""
    size_bytes: int = 0
    display_name: str = ""
    create_time: str = ""
    update_time: str = ""
    expiration_time: str = ""
    state: str = ""
    sha256_hash: str = ""
    error: msgspec.Raw = msgspec.Raw()


_described: Final = msgspec.json.Decoder(_Described, strict=False)


class Media:
    """Users' files of one origin and key. Raises ``ProviderError``, and ``ConfigurationError`` before anything is sent.

    Names may be given with or without ``files/``.
    """

    def __init__(self, http: Http, files: Files, api_version: str, settings: Settings) -> None:
        self._http = http
        self._files = files
        self._version = api_version
        self._settings = settings

    async def upload(self, source: Path | bytes, mime_type: str | None, display_name: str | None) -> File:
        """Upload a file, and return it once the server can use it.

        The name is ours and random, so that what breaks on the way can be tried again without a second file.
        """
        if isinstance(source, Path):
            size_bytes = await _size_of(source)
            mime_type = mime_type or guess_mime_type(source)
            display_name = source.name if display_name is None else display_name
            if not mime_type:
                raise ConfigurationError(
                    f"the name {source.name!r} stands for no mime type; give mime_type=... Nothing was sent."
                )
        else:
            size_bytes = len(source)
            if not mime_type:
                raise ConfigurationError(
                    "bytes have no name to tell their type by; give mime_type=... Nothing was sent."
                )
        if size_bytes > FILE_BYTES_MAX:
            raise ConfigurationError(
                f"the file has {size_bytes} bytes, and the service takes at most {FILE_BYTES_MAX}. Nothing was sent."
            )
        name = f"files/up-{secrets.token_hex(16)}"
        open_at = partial(_read_file, source) if isinstance(source, Path) else partial(_read_bytes, source)
        await self._files.upload(name, size_bytes, open_at, mime_type, display_name or "")
        return await self.usable(name)

    async def usable(self, name: str) -> File:
        """Return a file once the server has processed it.

        Raises:
            ProviderError: it is not there, could not be processed, or that takes more than an hour.
        """
        pause_s, waited_s, failed = self._settings.retry_min_s, 0.0, 0
        while True:
            try:
                file = await self.get(name)
            except ProviderError as error:
                failed += 1
                if error.fault.kind == "refused" or failed >= _FAILED_MAX:
                    raise
            else:
                failed = 0
                if file.state == "FAILED":
                    said = file.error or ServerError(0, "the server could not process it")
                    raise ProviderError(Fault(kind="refused", error=said))
                if file.state != "PROCESSING":
                    return file
            if waited_s > _WAIT_MAX_S:
                raise unreadable(f"the server still processes {name} after {_WAIT_MAX_S:g} s")
            await anyio.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(_PAUSE_MAX_S, pause_s * 2)

    async def get(self, name: str) -> File:
        """Return the server's description of a file."""
        body = ok(await self._http.call("GET", self._url(name)))
        try:
            return _file(body)
        except (ValueError, RecursionError):
            error = unreadable("the server's description of the file cannot be read")
        raise error

    def list(self) -> AsyncGenerator[File]:
        """Iterate over all files, page by page."""
        return listed(self._http, f"/{self._version}/files", _read_page, "files")

    async def delete(self, name: str) -> None:
        """Delete a file; one that is gone counts as deleted (a missing file is answered with 403)."""
        reply = await self._http.call("DELETE", self._url(name))
        if reply.status not in (403, 404):
            ok(reply)

    def name_of(self, uri: str) -> str:
        """Return the name of the file that a URI stands for; empty if it is none of this service's."""
        url = parse_url(uri)
        if url is None or not (self._http.is_own(url) or url.host == _GOOGLE_HOST):
            return ""
        *_, kind, last = ("", *url.raw_path.split("/"))
        try:
            return checked_name(f"{kind}/{last}", "files/")
        except ValueError:
            return ""

    def _url(self, name: str) -> Any:
        return self._http.url(f"/{self._version}/{user_name(name, 'files/')}")


def user_name(name: str, kind: str) -> str:
    """Return the full form of a name that a user gave.

    Args:
        name: with or without its kind.
        kind: ``files/`` or ``cachedContents/``.

    Raises:
        ConfigurationError: it is not such a name.
    """
    full = name if "/" in name else f"{kind}{name}"
    try:
        return checked_name(full, kind)
    except ValueError:
        raise ConfigurationError(f"{in_short(name)} is not a name such as '{kind}abc'. Nothing was sent.") from None


def _read_page(body: bytes) -> tuple[list[File], str]:
    items, token = read_list(body, "files")
    return [_file(item) for item in items], token


def _file(raw: bytes) -> File:
    """Return the file that JSON describes; raise ``ValueError`` if it describes none."""
    found = _described.decode(raw)
    error = bytes(found.error)
    return File(
        name=checked_name(found.name, "files/"),
        uri=found.uri,
        mime_type=found.mime_type,
        size_bytes=found.size_bytes,
        display_name=found.display_name,
        created_at=found.create_time,
        updated_at=found.update_time,
        expires_at=found.expiration_time,
        state=found.state,
        sha256_hash=found.sha256_hash,
        error=read_error(error) if error.startswith(b"{") else None,
    )


async def _size_of(source: Path) -> int:
    try:
        if not await anyio.Path(source).is_file():
            raise ConfigurationError(f"{source} is not a file. Nothing was sent.")
        return (await anyio.Path(source).stat()).st_size
    except OSError as error:
        words = error.strerror or type(error).__name__
    raise ConfigurationError(f"{source} cannot be read ({words}). Nothing was sent.")


async def _read_file(source: Path, offset: int) -> AsyncGenerator[bytes]:
    """Iterate over a file from an offset; the disk is waited for in a thread."""
    try:
        async with await anyio.open_file(source, "rb") as file:
            await file.seek(offset)
            while piece := await file.read(_READ_BYTES):
                yield piece
        return
    except OSError as error:
        words = error.strerror or type(error).__name__
    raise unreadable(f"{source} cannot be read ({words})", "refused")


async def _read_bytes(source: bytes, offset: int) -> AsyncIterator[bytes]:
    for start in range(offset, len(source), _READ_BYTES):
        yield source[start : start + _READ_BYTES]
