"""The calls of files."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.auth import credentials
from google.genai import types
from on_batches import lines_of, uploaded
from sides import MODEL, Side, drives, holds, refused, refused_by_the_client, same

UPLOAD = "files.upload"
MIB = 1024 * 1024


class Nobody(credentials.Credentials):  # type: ignore[misc]
    """Credentials with a token that no one gave."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "nobody"

    @property
    def expired(self) -> bool:
        return False

    @property
    def valid(self) -> bool:
        return True

    def refresh(self, request: object) -> None:
        """Stay as it is."""


async def upload(side: Side, data: Any, **config: Any) -> Any:
    return await side.do(side.client.files.upload, file=data, config=types.UploadFileConfig(**config))


def is_of(file: Any, data: bytes, mime_type: str) -> None:
    """Insist on a file that is what was sent."""
    same((file.size_bytes or 0, file.mime_type, file.state), (len(data), mime_type, types.FileState.ACTIVE))
    digest = hashlib.sha256(data).hexdigest().encode()
    same(base64.b64decode(file.sha256_hash), digest)
    same(file.expiration_time - file.create_time, timedelta(hours=48))
    holds(file.name.startswith("files/") and file.uri.endswith(file.name), (file.name, file.uri))


@drives(UPLOAD, "a path")
async def by_path(side: Side) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.txt"
        path.write_bytes(b"some notes")
        file = await side.do(side.client.files.upload, file=str(path))
        is_of(file, b"some notes", "text/plain")
        named = await upload(side, path, display_name="My notes", mime_type="text/markdown")
        is_of(named, b"some notes", "text/markdown")
        same(named.display_name, "My notes")


@drives(UPLOAD, "an open file")
async def by_stream(side: Side) -> None:
    is_of(await upload(side, io.BytesIO(b"{}\n"), mime_type="application/jsonl"), b"{}\n", "application/jsonl")


@drives(UPLOAD, "20 MiB and 3 bytes in three chunks")
async def large(side: Side) -> None:
    data = random.Random(0).randbytes(20 * MIB + 3)
    is_of(await upload(side, io.BytesIO(data), mime_type="application/pdf"), data, "application/pdf")


@drives(UPLOAD, "20 MiB and 3 bytes, a chunk answered with an empty 503 and sent again")
async def interrupted(side: Side) -> None:
    data = random.Random(1).randbytes(20 * MIB + 3)
    config = types.UploadFileConfig(mime_type="application/pdf")
    is_of(await side.do(side.shaky.files.upload, file=io.BytesIO(data), config=config), data, "application/pdf")


@drives(UPLOAD, "nothing at all")
async def empty(side: Side) -> None:
    is_of(await upload(side, io.BytesIO(b""), mime_type="text/plain"), b"", "text/plain")


@drives(UPLOAD, "a name of one's own; again: refused with 409")
async def own_name(side: Side) -> None:
    name = f"own-{side.mode}-{side.version}-{random.getrandbits(48):x}"
    file = await upload(side, io.BytesIO(b"x"), mime_type="text/plain", name=name)
    same(file.name, f"files/{name}")
    with refused(409):
        await upload(side, io.BytesIO(b"x"), mime_type="text/plain", name=name)
    with refused(400):
        await upload(side, io.BytesIO(b"x"), mime_type="text/plain", name="files/No_Such_Name")


@drives(UPLOAD, "a type that cannot be guessed", why_not="the SDK raises ValueError before it sends anything")
async def no_type(side: Side) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.unheard-of"
        path.write_bytes(b"x")
        with refused_by_the_client("mime type"):
            await side.do(side.client.files.upload, file=str(path))


@drives("files.get", "by name and by address; one that is not there: 403")
async def get(side: Side) -> None:
    file = await upload(side, io.BytesIO(b"x"), mime_type="text/plain", display_name="dn")
    same(await side.do(side.client.files.get, name=file.name), file)
    # Of an address the SDK takes the name, if it is an https one.
    address = f"https://generativelanguage.googleapis.com/{side.version}/{file.name}"
    same(await side.do(side.client.files.get, name=address), file)
    same(file.display_name, "dn")
    with refused(403, "You do not have permission to access the File nowhere or it may not exist."):
        await side.do(side.client.files.get, name="files/nowhere")


@drives("files.list", "in pages")
async def list_files(side: Side) -> None:
    made = [(await upload(side, io.BytesIO(b"x"), mime_type="text/plain")).name for _ in range(3)]
    pages = await side.do(side.client.files.list, config={"page_size": 2})
    same(len(pages.page), 2)
    names = [file.name for file in await side.every(pages)]
    same(len(set(names)), len(names))
    holds(set(made) <= set(names), (made, names))
    holds(not [name for name in names if name.startswith("files/batch-")], names)


@drives("files.download", "a batch's output; what was uploaded is refused")
async def download(side: Side) -> None:
    file = await uploaded(side, {"key": "a", "request": {"contents": [{"parts": [{"text": "one"}]}]}})
    job = await side.ended(await side.do(side.client.batches.create, model=MODEL, src=file.name))
    holds(job.dest.file_name.startswith("files/batch-"), job.dest)
    same(list(await lines_of(side, job)), ["a"])
    output = await side.do(side.client.files.get, name=job.dest.file_name)
    same((output.name, output.source), (job.dest.file_name, types.FileSource.GENERATED))
    with refused(400):
        await side.do(side.client.files.download, file=file.name)
    with refused(400):
        await side.do(side.client.files.delete, name=job.dest.file_name)


@drives("files.delete", "one that is there; then it is not")
async def delete(side: Side) -> None:
    file = await upload(side, io.BytesIO(b"x"), mime_type="text/plain")
    await side.do(side.client.files.delete, name=file.name)
    for method in (side.client.files.get, side.client.files.delete):
        with refused(403):
            await side.do(method, name=file.name)


@drives("files.upload", "used in a request by its address; deleted: refused with 403")
async def used(side: Side) -> None:
    file = await upload(side, io.BytesIO(b"%PDF-1.4"), mime_type="application/pdf")
    answer = await side.do(side.client.models.generate_content, model=MODEL, contents=["Read it.", file])
    holds("Read it." in answer.text, answer)
    await side.do(side.client.files.delete, name=file.name)
    with refused(403, "You do not have permission to access the File"):
        await side.do(side.client.models.generate_content, model=MODEL, contents=["Read it.", file])


@drives("files.register_files", "cloud storage", why_not="needs a Google account: 401 or 403 with any other token")
async def register(side: Side) -> None:
    try:
        with refused(401):
            await side.do(side.client.files.register_files, auth=Nobody(), uris=["gs://bucket/x"])
    except AssertionError:
        with refused(403):
            await side.do(side.client.files.register_files, auth=Nobody(), uris=["gs://bucket/x"])
