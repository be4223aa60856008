"""The two ports: Provider (a batch service) and Store (a durable tracker). Their docstrings are the contracts.

What a provider may have besides, files for the parts of requests and cached content, are small ports of their own.

One contract suite runs over every store, one over every provider. This module knows neither aiohttp nor diskcache.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from carpool._core.messages import Record, Write
from carpool._core.model import Fault, Framing, Job, Lane, Place, RemoteFile, Span
from carpool._core.output import Block
from carpool._showing import status_word
from carpool.settings import Route
from carpool.types import BatchJob, Cache, File

OpenAt = Callable[[int], AsyncIterator[bytes]]
"""Opens the bytes to upload from an offset."""


class ProviderError(Exception):
    """A call to the provider failed; ``fault`` says how. The only exception that a provider raises."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind, fault.error.code, status_word(fault.error.status))
        self.fault = fault
        self.sent = b""
        """JSON that was sent, where the server's words may quote it: they are not shown with it."""


class Answers(NamedTuple):
    """What a live call brought, in the order of what was sent."""

    bodies: list[bytes]
    """One a request, on one line, in the form of a batch row's response."""
    prompt_tokens: int | None = None
    """Of a call for several embeddings, whose bodies do not hold their tokens: what the server counted for all of
    them together, or ``None`` if it did not say. Of any other call ``None``: its body says it."""


class Provider(Protocol):
    """A batch service. Every method raises ``ProviderError`` and nothing else (cancellation apart).

    Secrets (key, upload URL) leave it neither in errors nor in reprs. Whatever the server sends, memory stays within
    ``Settings.body_bytes_max`` and ``line_bytes_max``.
    """

    @property
    def origin(self) -> str:
        """Where and as whom it calls: base URL and a salted fingerprint of the credentials."""
        ...

    @property
    def framing(self) -> Framing:
        """What the wire adds around rows."""
        ...

    async def open(self) -> None:
        """Get ready on the running loop."""
        ...

    async def close(self) -> None:
        """Give back sockets."""
        ...

    async def upload(self, name: str, size_bytes: int, open_at: OpenAt) -> RemoteFile:
        """Upload a file of the client-chosen name ``files/...``.

        Idempotent, and resumed after a break where the server tells its offset.
        """
        ...

    async def create(self, job: Job, lines: AsyncIterator[bytes]) -> str:
        """Create the job, once: inline with these lines, or from ``job.file_name``. Return the server's name for it.

        Never sent twice. ``not_sent``, ``refused`` or ``unknown`` tells what is known when it fails.
        """
        ...

    async def find(self, display_name: str) -> list[BatchJob]:
        """Return all jobs with this display name, oldest first, having read all pages."""
        ...

    async def poll(self, name: str) -> BatchJob:
        """Return the server's view of a job."""
        ...

    def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        """Stream the output of an ended job. Ends normally only if the output was read to its end."""
        ...

    async def send(
        self, route: Route, lane: Lane, lines: Sequence[bytes], *, timeout_s: float | None = None
    ) -> Answers:
        """Send one request, or several embeddings, over a live route, once; never repeated."""
        ...

    def list_jobs(self) -> AsyncIterator[BatchJob]:
        """Iterate over all jobs, newest first, page by page."""
        ...

    async def cancel(self, name: str) -> None:
        """Cancel a job."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a job (``batches/...``) or a file (``files/...``); one that is gone already counts as deleted."""
        ...


class Store(Protocol):
    """A durable tracker. Raises ``StoreError`` and nothing else (cancellation apart).

    ``StoreFull`` from ``commit`` means that the same writes may be committed again once there is room.
    """

    @property
    def room_bytes(self) -> int:
        """How much more new requests may take up, as of the last commit; 0 or less: take none in."""
        ...

    async def open(self) -> None:
        """Take hold of the store, and check it."""
        ...

    def load(self) -> AsyncIterator[Record]:
        """Iterate over all records as they stand: Meta first, then segments, marks, jobs, results."""
        ...

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        """Write all or nothing. Calls take effect in the order in which they were made; awaited, it is durable.

        The writes are queued by the call itself, not by awaiting it. Nothing in them may be changed afterwards; the
        store may empty the list once they are durable, so that nobody holds what is on disk.
        """
        ...

    def read(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        """Iterate over the lines of these rows, in order: at least one chunk a span, each made of whole lines."""
        ...

    async def results(self, places: Sequence[Place]) -> list[bytes]:
        """Return the bodies of stored results; a place here is a results number and a row."""
        ...

    async def close(self) -> None:
        """Finish what was committed and let go of the store."""
        ...


class FileService(Protocol):
    """Files for the parts of requests: what ``client.files`` needs of a provider, as its attribute ``files``.

    Optional. Raises ``ProviderError``, and ``ConfigurationError`` for what cannot be asked.
    """

    async def upload(self, source: Path | bytes, mime_type: str | None, display_name: str | None) -> File:
        """Upload a file, and return it once the server can use it."""
        ...

    async def usable(self, name: str) -> File:
        """Return a file once the server can use it."""
        ...

    async def get(self, name: str) -> File:
        """Return the server's description of a file."""
        ...

    def list(self) -> AsyncGenerator[File]:
        """Iterate over all files."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a file; one that is gone already counts as deleted."""
        ...

    def name_of(self, uri: str) -> str:
        """Return the name of the file that a URI stands for; empty if it is none of this service's."""
        ...


UPLOAD_URLS: Final = ("x-goog-upload-url", "x-goog-upload-control-url")
"""Headers of a reply that lead to where an upload goes on."""


class Passed(NamedTuple):
    """The reply to a call that was handed on."""

    status: int
    headers: dict[str, str]
    """Names in lower case; none that is about one connection. ``UPLOAD_URLS`` are targets,
    path and query alone, for whoever hands them on to put its own address before."""
    pieces: AsyncGenerator[bytes]
    """The body; whoever takes the reply iterates over it, or closes it. Raises ``ProviderError``."""


class PassService(Protocol):
    """Calls that are handed on as they are: what ``client.upstream`` needs of a provider, as its attribute ``passing``.

    Optional. Raises ``ProviderError``.
    """

    async def forward(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Passed:
        """Make a call once, with the credentials of the provider in the place of the caller's own."""
        ...


class CacheService(Protocol):
    """Cached content: what ``client.caches`` needs of a provider, as its attribute ``caches``.

    Optional. Raises as ``FileService``.
    """

    async def create(self, model: str, contents: Any, config: Any, ttl_s: float, display_name: str | None) -> Cache:
        """Create cached content, with one call that is never repeated."""
        ...

    async def get(self, name: str) -> Cache:
        """Return the server's description of a cache."""
        ...

    def list(self) -> AsyncGenerator[Cache]:
        """Iterate over all caches."""
        ...

    async def extend(self, name: str, ttl_s: float) -> Cache:
        """Let a cache live so much longer from now on."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a cache; one that is gone already counts as deleted."""
        ...
