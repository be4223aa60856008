"""The Provider for the Gemini Developer API.

Owns paths, and which reply of which call means what. Repeats nothing by itself, uploads apart: when to ask again is the
engine's business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Final

from carpool._core.model import Fault, Framing, Job, Lane, RemoteFile
from carpool._core.output import Block
from carpool._gemini import wire
from carpool._gemini.caches import Caches
from carpool._gemini.files import Files
from carpool._gemini.http import Floor, Http, ok, unreadable
from carpool._gemini.listing import listed
from carpool._gemini.live import Live, model_path
from carpool._gemini.media import Media
from carpool._gemini.passing import Passing
from carpool._gemini.rows import decode_block, decode_items
from carpool._ports import Answers, OpenAt, ProviderError
from carpool._showing import in_short
from carpool.errors import ConfigurationError
from carpool.settings import Route, Settings
from carpool.types import BatchJob, ServerError

BASE_URL: Final = "https://generativelanguage.googleapis.com"
API_VERSION: Final = "v1beta"
_VERSION = re.compile(r"v[0-9][a-z0-9]{0,15}")
_SALT: Final = b"carpool origin 1\0"


class DeveloperProvider:
    """The Gemini Developer API, as one key sees it.

    Args:
        api_key: goes into a header, to this base URL's origin only.
        base_url: ``https://generativelanguage.googleapis.com``, or whoever speaks like it; may have a path.
        api_version: first part of the paths, ``"v1beta"`` or ``"v1"``.
        settings: limits and waiting times.
        floor: how slowly replies may come.

    Raises:
        ConfigurationError: key, base URL or version cannot be used.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = BASE_URL,
        api_version: str = API_VERSION,
        settings: Settings | None = None,
        floor: Floor | None = None,
    ) -> None:
        if not _VERSION.fullmatch(api_version):
            raise ConfigurationError(f"api_version is {in_short(api_version)}; it must look like 'v1beta' or 'v1'")
        settings = settings or Settings()
        self._settings = settings
        self._version = api_version
        self._http = Http(base_url, api_key, settings, floor)
        self._files = Files(self._http, api_version, settings)
        self.files = Media(self._http, self._files, api_version, settings)
        """Files for the parts of requests."""
        self._live = Live(self._http, api_version)
        self.caches = Caches(self._http, api_version)
        """Cached content."""
        self.passing = Passing(self._http)
        """Calls that are handed on as they are."""
        fingerprint = hashlib.sha256(_SALT + api_key.encode()).hexdigest()[:12]
        self._origin = f"{self._http.base}#{fingerprint}"
        self._framing = wire.framing(settings.priority)

    def __repr__(self) -> str:
        return f"DeveloperProvider({self._origin})"

    @property
    def origin(self) -> str:
        """Where and as whom it calls: base URL and a salted fingerprint of the key."""
        return self._origin

    @property
    def framing(self) -> Framing:
        """What an inline create call adds around rows."""
        return self._framing

    async def open(self) -> None:
        """Get ready on the running loop."""
        await self._http.open()

    async def close(self) -> None:
        """Give back sockets."""
        await self._http.close()

    async def upload(self, name: str, size_bytes: int, open_at: OpenAt) -> RemoteFile:
        """Upload a batch file of this name; idempotent, and resumed after a break."""
        return await self._files.upload(_checked(name, "files/"), size_bytes, open_at)

    async def create(self, job: Job, lines: AsyncIterator[bytes]) -> str:
        """Create the job, with one POST that is never repeated. Return its name."""
        if job.form == "file":
            name = _checked(job.file_name, "files/")
            body = wire.file_body(job.display_name, name, job.lane.kind, self._settings.priority)
        else:
            rows: list[bytes] = []
            async for some in lines:
                rows += wire.inline_rows(some)
            if len(rows) != job.count:
                raise unreadable(f"{len(rows)} rows were given for a job of {job.count}", "not_sent")
            body = wire.inline_body(job.display_name, rows, self._settings.priority)
            del rows
        method = "batchGenerateContent" if job.lane.kind == "generate" else "asyncBatchEmbedContent"
        url = self._http.url(f"/{self._version}/{model_path(job.lane.model)}:{method}")
        reply = await self._http.call("POST", url, body=(body,))
        try:
            return wire.created_name(ok(reply))
        except (ValueError, RecursionError):
            error = unreadable("the answer to the create call holds no name of a job")
        raise error

    async def find(self, display_name: str) -> list[BatchJob]:
        """Return all jobs with exactly this display name, oldest first, having read all pages."""
        found = [job async for job in self.list_jobs() if job.display_name == display_name]
        return sorted(found, key=lambda job: (job.created_at.removesuffix("Z"), job.name))

    def list_jobs(self) -> AsyncGenerator[BatchJob]:
        """Iterate over all jobs, newest first, page by page."""
        return listed(self._http, f"/{self._version}/batches", wire.read_page, "jobs")

    async def poll(self, name: str) -> BatchJob:
        """Return the server's view of a job."""
        try:
            job = wire.read_operation(await self._operation(name))
        except (ValueError, RecursionError):
            job = None
        if job is None or job.name != name:
            raise unreadable("the server's description of the job cannot be read")
        return job

    async def fetch(self, job: BatchJob) -> AsyncGenerator[Block]:
        """Stream the output of an ended job: its result file, or the rows inside its description."""
        output_file = job.output_file
        if not output_file:
            try:
                output_file, items = wire.read_output(await self._operation(job.name))
            except (ValueError, RecursionError):
                items = iter(())
            blocks = decode_items(items)
            found = False
            while block := _next_block(blocks):
                found = True
                yield block
            if found:
                return
            if not output_file:
                raise unreadable("the job has no output that can be read")
        async with aclosing(self._files.download(_checked(output_file, "files/"))) as pieces:
            async for piece in pieces:
                yield decode_block(piece.data, piece.skipped)

    async def send(
        self, route: Route, lane: Lane, lines: Sequence[bytes], *, timeout_s: float | None = None
    ) -> Answers:
        """Send one request, or several embeddings, over a live route, once."""
        return await self._live.send(route, lane, lines, timeout_s=timeout_s)

    async def cancel(self, name: str) -> None:
        """Cancel a job."""
        url = self._http.url(f"/{self._version}/{_checked(name, 'batches/')}:cancel")
        ok(await self._http.call("POST", url))

    async def delete(self, name: str) -> None:
        """Delete a job or a file; one that is gone counts as deleted (a missing file is answered with 403)."""
        reply = await self._http.call("DELETE", self._http.url(f"/{self._version}/{_checked(name)}"))
        if reply.status == 404 or (reply.status == 403 and name.startswith("files/")):
            return
        ok(reply)

    async def _operation(self, name: str) -> bytes:
        """GET a job; its description holds the whole inline output once there is any."""
        return ok(await self._http.get(self._http.url(f"/{self._version}/{_checked(name, 'batches/')}")))


def _next_block(blocks: Iterator[Block]) -> Block | None:
    try:
        return next(blocks, None)
    except ValueError:
        error = unreadable("the job's output breaks off")
    raise error


def _checked(name: str, kind: str = "") -> str:
    """Return a name that may enter a URL, or raise ``ProviderError``."""
    try:
        return wire.checked_name(name, kind)
    except ValueError as error:
        text = str(error)
    raise _refused(text)


def _refused(text: str) -> ProviderError:
    """Return the error for a call that is not made, since the server could only refuse it."""
    return ProviderError(Fault(kind="refused", error=ServerError(400, text, "INVALID_ARGUMENT")))
