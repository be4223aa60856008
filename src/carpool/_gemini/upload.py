"""One resumable upload: what the server has of it, and what it gets next.

Owns offsets and chunks. A file has a name that we choose, so an upload can be repeated: what is there already is
compared and taken. It must not know how often to try.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from carpool._core.model import Fault, RemoteFile
from carpool._gemini.faults import read_error
from carpool._gemini.http import Http, Reply, ok, server_fault, unreadable
from carpool._ports import OpenAt, ProviderError
from carpool.settings import Settings
from carpool.types import ServerError

_STEP_BYTES_MAX: Final = 67_108_864
"""Largest unit of a chunk that a server may ask for: two chunks are held in memory."""

_DIGITS_MAX: Final = 18


class _File(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    size_bytes: int = 0
    sha256_hash: str = ""
    state: str = ""
    error: msgspec.Raw = msgspec.Raw()


class _Uploaded(msgspec.Struct, frozen=True):
    file: _File


_file = msgspec.json.Decoder(_File, strict=False)
_uploaded = msgspec.json.Decoder(_Uploaded, strict=False)


class Upload:
    """One upload: where it stands, on both sides."""

    def __init__(
        self,
        http: Http,
        settings: Settings,
        *,
        version: str,
        name: str,
        size_bytes: int,
        open_at: OpenAt,
        mime_type: str,
        display_name: str,
    ) -> None:
        self.offset = 0
        """What the server has, as far as is known."""
        self._http = http
        self._settings = settings
        self._version = version
        self._mime_type = mime_type
        self._name = name
        self._display_name = display_name
        self._size_bytes = size_bytes
        self._source = _Source(open_at)
        self._url = ""
        self._chunk_bytes = settings.upload_chunk_bytes
        self._digest: Any = hashlib.sha256()
        self._digested = 0
        self._in_doubt = False
        self._ahead: tuple[int, asyncio.Task[list[bytes]]] | None = None
        """The next chunk and its offset, being read while the one before it is on its way."""

    async def close(self) -> None:
        """Let go of the bytes to upload."""
        await self._forget_ahead()
        await self._source.close()

    def mendable(self, fault: Fault) -> bool:
        """Return whether another try may do better: after breaks, 429, and for a session that the server forgot."""
        return fault.kind != "refused" or fault.error.code == 429 or self._in_doubt

    async def go_on(self) -> RemoteFile:
        """Upload what the server does not have yet.

        Raises:
            ProviderError: a call failed. Called again, it asks the server where it stands.
        """
        done = await self._where() if self._url else await self._start()
        while done is None:
            done = await self._send_chunk()
        return self._checked(done)

    async def _start(self) -> _File | None:
        self._in_doubt = False
        body = msgspec.json.encode(
            {
                "file": {
                    "name": self._name,
                    "display_name": self._display_name,
                    "mime_type": self._mime_type,
                    "size_bytes": self._size_bytes,
                }
            }
        )
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(self._size_bytes),
            "X-Goog-Upload-Header-Content-Type": self._mime_type,
        }
        url = self._http.url(f"/upload/{self._version}/files")
        reply = await self._http.call("POST", url, body=(body,), headers=headers)
        if reply.status == 409:
            return await self._existing(reply)
        ok(reply)
        self._url = str(self._http.own(reply.headers.get("X-Goog-Upload-URL", "")))
        step = _number(reply.headers.get("X-Goog-Upload-Chunk-Granularity", ""))
        if step:
            if step > _STEP_BYTES_MAX:
                raise unreadable(
                    f"the server wants chunks of {step} bytes; {_STEP_BYTES_MAX} at most are held", "refused"
                )
            self._chunk_bytes = max(step, self._settings.upload_chunk_bytes // step * step)
        self.offset = 0
        return None

    async def _send_chunk(self) -> _File | None:
        """Send the next chunk; return the file if it was the last."""
        size = min(self._chunk_bytes, self._size_bytes - self.offset)
        last = self.offset + size == self._size_bytes
        self._in_doubt = False
        chunk = await self._chunk_at(self.offset, size)
        if not last:
            following = self.offset + size
            following_bytes = min(self._chunk_bytes, self._size_bytes - following)
            self._ahead = following, asyncio.create_task(self._take(following, following_bytes))
        self._in_doubt = True
        reply = await self._command("upload, finalize" if last else "upload", chunk)
        if last and reply.status == 409:
            return await self._existing(reply)
        ok(reply)
        if last and reply.headers.get("X-Goog-Upload-Status", "").lower() != "final":
            raise unreadable("the server did not finish the upload")
        self.offset += size
        if not last:
            return None
        try:
            return _uploaded.decode(reply.body).file
        except (ValueError, RecursionError):
            return await self._get()

    async def _where(self) -> _File | None:
        """Ask how much the server has, and stand there; return the file if it has all."""
        self._in_doubt = True
        reply = await self._command("query", ())
        if reply.status in (400, 403, 404, 410):
            self._url = ""
            return await self._start()
        ok(reply)
        status = reply.headers.get("X-Goog-Upload-Status", "").lower()
        if status == "final":
            return await self._get()
        received = _number(reply.headers.get("X-Goog-Upload-Size-Received", ""))
        if status != "active" or received is None or received > self._size_bytes:
            self._url = ""
            raise unreadable("the server did not say how much of the upload it has")
        self.offset = received
        self._in_doubt = False
        return None

    async def _command(self, command: str, chunk: Sequence[bytes]) -> Reply:
        headers = {"X-Goog-Upload-Command": command, "Content-Type": self._mime_type}
        if command != "query":
            headers["X-Goog-Upload-Offset"] = str(self.offset)
        return await self._http.call("POST", self._http.own(self._url), body=chunk, headers=headers, keyed=False)

    async def _get(self) -> _File:
        return _described(await self._http.call("GET", self._http.url(f"/{self._version}/{self._name}")))

    async def _existing(self, refusal: Reply) -> _File:
        """Return the file that has the name already, if it is this one; else raise what refused it."""
        self._in_doubt = False
        await self._forget_ahead()
        reply = await self._http.call("GET", self._http.url(f"/{self._version}/{self._name}"))
        if 400 <= reply.status < 500:
            raise ProviderError(server_fault(refusal.status, refusal.body))
        found = _described(reply)
        if found.sha256_hash:
            while self._digested < self._size_bytes:
                await self._take(self._digested, min(self._chunk_bytes, self._size_bytes - self._digested))
        return found

    async def _chunk_at(self, offset: int, size_bytes: int) -> list[bytes]:
        """Return a chunk: that which was read ahead, if it is this one."""
        if self._ahead is None or self._ahead[0] != offset:
            await self._forget_ahead()
            return await self._take(offset, size_bytes)
        (_, chunk), self._ahead = self._ahead, None
        return await chunk

    async def _forget_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            _, chunk = ahead
            chunk.cancel()
            await asyncio.wait((chunk,))
            if not chunk.cancelled():
                chunk.exception()  # whoever reads there again is told

    async def _take(self, offset: int, size_bytes: int) -> list[bytes]:
        """Read bytes to upload, and digest what has not been yet."""
        chunk: list[bytes] = []
        at = offset
        async for part in self._source.take(offset, size_bytes):
            chunk.append(part)
            if at <= self._digested < at + len(part):
                self._digest.update(part[self._digested - at :])
                self._digested = at + len(part)
                await asyncio.sleep(0)  # what was read ahead comes at once: a digest of 8 MB would be one callback
            at += len(part)
        return chunk

    def _checked(self, found: _File) -> RemoteFile:
        """Return the uploaded file, or raise if it is not what was to be uploaded."""
        ours = self._digest.hexdigest() if self._digested == self._size_bytes else ""
        theirs = found.sha256_hash
        different = found.size_bytes != self._size_bytes or bool(theirs and ours and theirs not in _spellings(ours))
        if found.state == "FAILED":
            told = bytes(found.error)
            error = read_error(told) if told.startswith(b"{") else ServerError()
            message = error.message or f"the server could not process {self._name}"
            said = ServerError(error.code or 409, message, error.status, error.details)
            raise ProviderError(Fault(kind="refused", error=said))
        if different or found.name not in ("", self._name):
            message = f"a file named {self._name} exists on the server and is not the one to be uploaded"
            raise ProviderError(Fault(kind="refused", error=ServerError(409, message, "ALREADY_EXISTS")))
        return RemoteFile(name=self._name, size_bytes=self._size_bytes, sha256=ours)


def _number(text: str) -> int | None:
    """Return a header's number of bytes; ``None`` if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX else None


def _described(reply: Reply) -> _File:
    body = ok(reply)
    try:
        return _file.decode(body)
    except (ValueError, RecursionError):
        raise unreadable("the server's description of the file cannot be read") from None


def _spellings(digest: str) -> tuple[str, ...]:
    """Return how a SHA-256 may be written: the service writes base64 of the hex digest."""
    raw = bytes.fromhex(digest)
    return base64.b64encode(digest.encode()).decode(), base64.b64encode(raw).decode(), digest


class _Source:
    """Reads the bytes to upload, one chunk at a time, from wherever the server wants them."""

    def __init__(self, open_at: OpenAt) -> None:
        self._open_at = open_at
        self._parts: AsyncIterator[bytes] | None = None
        self._at = -1
        self._left = b""

    async def take(self, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
        """Iterate over the bytes from an offset, in the pieces in which they come."""
        if self._parts is None or self._at != offset:
            await self.close()
            self._parts = self._open_at(offset)
            self._left = b""
        self._at = -1  # who stops here, or is stopped, has to open it again
        missing = size_bytes
        while missing:
            part = self._left or await anext(self._parts, b"")
            if not part:
                raise unreadable("the bytes to upload ended before the size that was announced", "refused")
            taken, self._left = part[:missing], part[missing:]
            missing -= len(taken)
            yield taken
        self._at = offset + size_bytes

    async def close(self) -> None:
        """Let go of what is being read."""
        parts, self._parts = self._parts, None
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()
