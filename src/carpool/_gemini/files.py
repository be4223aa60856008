"""The Files API: uploads under names of our own, and downloads cut into blocks of whole lines.

Owns redirects of downloads and line limits. It must not know what the lines say.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final, NamedTuple

import aiohttp
import anyio
from yarl import URL

from carpool._core.model import RemoteFile
from carpool._gemini.http import Http, is_plain, parse_url, unreadable
from carpool._gemini.upload import Upload
from carpool._gemini.wire import checked_name
from carpool._ports import OpenAt, ProviderError
from carpool.settings import Settings

BLOCK_BYTES: Final = 524_288
"""Bytes of one piece of a download, unless a single line is longer."""
_TRIES_MAX: Final = 5
"""Calls in a row that an upload may fail without getting further."""
_BREAKS_MAX: Final = 1_000
"""Calls of one upload that may fail in all: a server may let it get further by one byte at a time."""
_REDIRECTS_MAX: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_REDIRECT_HOSTS: Final = (".googleapis.com", ".googleusercontent.com")
_MIME_TYPE: Final = "application/jsonl"


class Piece(NamedTuple):
    """Some whole lines of a download, and how many were too long to be held before them."""

    data: bytes
    skipped: int


class Files:
    """Files of one origin and key."""

    def __init__(self, http: Http, api_version: str, settings: Settings) -> None:
        self._http = http
        self._version = api_version
        self._settings = settings

    async def upload(
        self, name: str, size_bytes: int, open_at: OpenAt, mime_type: str = _MIME_TYPE, display_name: str = ""
    ) -> RemoteFile:
        """Upload a file under a name of ours, in chunks of ``Settings.upload_chunk_bytes``.

        Breaks are mended: the server is asked how much it has, and the upload goes on from there, as long as it gets
        further. If the name exists, the file of that name is taken if it is the same.

        Raises:
            ProviderError: it was refused, did not get further five times in a row, or broke too often.
        """
        upload = Upload(
            self._http,
            self._settings,
            version=self._version,
            name=checked_name(name, "files/"),
            size_bytes=size_bytes,
            open_at=open_at,
            mime_type=mime_type,
            display_name=display_name or name.removeprefix("files/"),
        )
        broken, failed, reached = 0, 0, -1
        try:
            while True:
                try:
                    return await upload.go_on()
                except ProviderError as error:
                    if not upload.mendable(error.fault):
                        raise
                    broken += 1
                    failed = 1 if upload.offset > reached else failed + 1
                    reached = max(reached, upload.offset)
                    if failed >= _TRIES_MAX or broken >= _BREAKS_MAX:
                        raise
                await anyio.sleep(min(self._settings.retry_max_s, self._settings.retry_min_s * 2 ** (failed - 1)))
        finally:
            await upload.close()

    async def download(self, name: str) -> AsyncGenerator[Piece]:
        """Iterate over a file in pieces of whole lines, 512 KiB or one line each; end normally only at its checked end.

        Raises:
            ProviderError: it is not there, broke off, came too slowly, or without a length that tells its end.
        """
        response = await self._opened(checked_name(name, "files/"))
        cutter = LineCutter(BLOCK_BYTES, self._settings.line_bytes_max)
        async with aclosing(self._http.chunks(response)) as chunks:
            async for chunk in chunks:
                for data in cutter.feed(chunk):
                    yield Piece(data, cutter.take_skipped())
        rest = cutter.finish()
        skipped = cutter.take_skipped()
        if rest or skipped:
            yield Piece(rest, skipped)

    async def _opened(self, name: str) -> aiohttp.ClientResponse:
        """Return the unread reply that holds a file: at the first of its two addresses that knows it."""
        response = await self._media(f"/download/{self._version}/{name}")
        if response.status == 404:
            response.close()
            response = await self._media(f"/{self._version}/{name}")
        if response.status != 200:
            raise await self._http.error_of(response)
        headers = response.headers
        if not is_plain(response):
            response.close()
            raise unreadable("the file came compressed, though that was not asked for; it was not unpacked")
        if "Content-Length" not in headers and "chunked" not in headers.get("Transfer-Encoding", "").lower():
            response.close()
            raise unreadable("the file came without a length: its end could not be told from a break")
        return response

    async def _media(self, path: str) -> aiohttp.ClientResponse:
        """GET a file's bytes, following at most three redirects: by hand, to Google's hosts only, without the key."""
        response = await self._http.open_stream(self._http.url(f"{path}:download?alt=media"), keyed=True)
        for _ in range(_REDIRECTS_MAX):
            if response.status not in _REDIRECTS:
                break
            target = parse_url(response.headers.get("Location", ""))
            response.close()
            if target is None or not self._may_follow(target):
                raise unreadable("the download was redirected to a host that is not allowed; it was not followed")
            response = await self._http.open_stream(target, keyed=False)
        return response

    def _may_follow(self, url: URL) -> bool:
        google = url.scheme == "https" and f".{url.host}".endswith(_REDIRECT_HOSTS)
        return google or self._http.is_own(url)


class LineCutter:
    """Cuts a stream at line feeds only, into blocks of whole lines. A line beyond the cap is dropped, not held."""

    def __init__(self, block_bytes: int, line_bytes_max: int) -> None:
        # No larger than the longest line, its end included: what fits in a block is then never too long.
        self._block_bytes = min(block_bytes, line_bytes_max + 1)
        self._line_bytes_max = line_bytes_max
        self._held = bytearray()
        self._searched = 0
        self._dropping = False
        self._skipped = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came, and iterate over the blocks that are complete."""
        start, size, held = 0, self._block_bytes, self._held
        if self._dropping:
            start = data.find(b"\n") + 1
            if not start:
                return
            self._dropping = False
        with memoryview(data) as view:
            # What comes is larger than a block on a fast line. Then blocks are cut from it, and copied once.
            cut = data.rfind(b"\n", start, start + max(0, size - len(held))) + 1
            while cut and len(held) + len(data) - start >= size:
                yield b"".join((held, view[start:cut]))
                held.clear()
                start = cut
                cut = data.rfind(b"\n", start, start + size) + 1
            held += view[start:]
        while len(held) >= self._block_bytes:
            cut = held.rfind(b"\n", 0, self._block_bytes) + 1
            if not cut:
                cut = held.find(b"\n", max(self._searched, self._block_bytes)) + 1
            if not cut:
                self._searched = len(held)
                if len(held) > self._line_bytes_max:
                    self._drop(len(held))
                    self._dropping = True
                return
            if cut - 1 > self._line_bytes_max:
                self._drop(cut)
                continue
            with memoryview(held) as view:  # a slice of the array itself would be one more copy
                block = bytes(view[:cut])
            del held[:cut]
            self._searched = 0
            yield block

    def finish(self) -> bytes:
        """Return what is left at the end: complete lines, and a last one that may have no line break."""
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def take_skipped(self) -> int:
        """Return how many lines were dropped since this was last asked."""
        skipped, self._skipped = self._skipped, 0
        return skipped

    def _drop(self, size_bytes: int) -> None:
        del self._held[:size_bytes]
        self._searched = 0
        self._skipped += 1
