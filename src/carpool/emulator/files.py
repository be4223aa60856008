"""The Files API.

Owns uploaded files and resumable uploads: their names, offsets, life and listing. It must not know what is in a file,
nor about the outputs of jobs, which have file names but belong to their job.
"""

from __future__ import annotations

import base64
import re
from typing import Final

import msgspec

from .blobs import Blob
from .fields import as_int, as_object, as_str, camelise
from .messages import ApiError, Call, Json, JsonObject, Reply, bad_payload, decode_json, no_such_file, ok
from .state import State, page, rfc3339

_NAME: Final = re.compile(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_UPLOADS_MAX: Final = 10_000


class StoredFile(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An uploaded file."""

    serial: int
    name: str
    display_name: str
    mime_type: str
    blob: Blob
    created_at: float
    expires_at: float


class Upload(msgspec.Struct, kw_only=True, eq=False):
    """A resumable upload.

    Attributes:
        upload_id: the secret in its URL.
        name: the client's choice, or empty.
        display_name: to be shown.
        mime_type: as declared.
        size_bytes: as declared, None when it was not.
        blob: what has come; empty once the upload has ended.
        received_bytes: how much came.
        status: ``active``, ``final`` or ``cancelled``.
    """

    upload_id: str
    name: str
    display_name: str
    mime_type: str
    size_bytes: int | None
    blob: Blob
    received_bytes: int = 0
    status: str = "active"


def commands_of(call: Call) -> frozenset[str]:
    """Return the upload commands of a call: start, upload, finalize, query, cancel."""
    words = call.headers.get("x-goog-upload-command", "").lower().split(",")
    return frozenset(word.strip() for word in words if word.strip())


def file_resource(
    *, name: str, mime_type: str, size_bytes: int | None, created_at: float, expires_at: float, origin: str
) -> JsonObject:
    """Return the fields that all files show."""
    resource: JsonObject = {
        "name": name,
        "mimeType": mime_type,
        "createTime": rfc3339(created_at),
        "updateTime": rfc3339(created_at),
        "expirationTime": rfc3339(expires_at),
        "uri": f"{origin}/v1beta/{name}",
        "state": "ACTIVE",
    }
    if size_bytes is not None:
        resource["sizeBytes"] = str(size_bytes)
    return resource


class FileService:
    """Uploads, and what became of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._files: dict[str, StoredFile] = {}
        self._uploads: dict[str, Upload] = {}

    # -- uploads

    def start(self, call: Call, now: float) -> Reply:
        """Open an upload.

        Raises:
            ApiError: bad name, name taken, or too large.
        """
        try:
            body = as_object(camelise(decode_json(call.body))) if call.body.strip() else {}
        except msgspec.DecodeError as error:
            raise bad_payload(str(error)) from None
        file = as_object(body.get("file"))
        name = as_str(file.get("name"))
        if name and not name.startswith("files/"):
            name = f"files/{name}"
        if name:
            self._check_name(name, now)
        declared = call.headers.get("x-goog-upload-header-content-length", "")
        size = as_int(declared) if declared else as_int(file.get("sizeBytes"))
        if size is not None:
            self._check_size(size)
        upload = Upload(
            upload_id=self._state.new_id(40),
            name=name,
            display_name=as_str(file.get("displayName")),
            mime_type=as_str(file.get("mimeType"))
            or call.headers.get("x-goog-upload-header-content-type", "application/octet-stream"),
            size_bytes=size,
            blob=Blob(self._state.data_dir),
        )
        while len(self._uploads) >= _UPLOADS_MAX:
            del self._uploads[next(iter(self._uploads))]
        self._uploads[upload.upload_id] = upload
        url = f"{call.origin}{call.path}?upload_id={upload.upload_id}&upload_protocol=resumable"
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "X-Goog-Upload-URL": url,
            "X-Goog-Upload-Control-URL": url,
            "X-Goog-Upload-Status": "active",
            "X-Goog-Upload-Chunk-Granularity": str(self._state.plan.upload_granularity_bytes),
            "X-GUploader-UploadID": upload.upload_id,
        }
        return Reply(headers=headers)

    def go_on(self, call: Call, now: float) -> Reply:
        """Take a chunk, the end, a query or a cancellation of an upload.

        Raises:
            ApiError: no such upload, wrong offset or size, name taken meanwhile.
        """
        upload = self._uploads.get(call.query.get("upload_id", ""))
        if upload is None:
            raise ApiError(404, "Requested entity was not found.")
        commands = commands_of(call)
        if "query" in commands:
            return self._status(upload)
        if "cancel" in commands:
            if upload.status == "active":
                self._end(upload, "cancelled")
            return self._status(upload)
        if not commands & {"upload", "finalize"}:
            raise self._refused(upload, "Unknown upload command.")
        self._take(upload, call, final="finalize" in commands)
        if "finalize" not in commands or call.more:
            return self._status(upload)
        if upload.size_bytes is not None and upload.received_bytes != upload.size_bytes:
            raise self._refused(upload, f"Upload has {upload.received_bytes} bytes, {upload.size_bytes} were declared.")
        return self._finalize(upload, call, now)

    def take_half(self, call: Call) -> None:
        """Take only the first half of a chunk, as if the connection had broken there.

        Raises:
            ApiError: as :meth:`go_on`.
        """
        upload = self._uploads.get(call.query.get("upload_id", ""))
        if upload is not None:
            self._take(upload, msgspec.structs.replace(call, body=call.body[: len(call.body) // 2]), final=True)

    def _take(self, upload: Upload, call: Call, *, final: bool) -> None:
        # Which status the live service gives for a wrong offset or size is not known.
        if upload.status != "active":
            raise self._refused(upload, f"Upload is {upload.status}.")
        offset = as_int(call.headers.get("x-goog-upload-offset", ""))
        if offset is None or offset + call.taken_bytes != upload.received_bytes:
            raise self._refused(upload, f"Wrong offset: {upload.received_bytes} bytes were received.")
        granularity = self._state.plan.upload_granularity_bytes
        if not final and call.size_bytes % granularity:
            raise self._refused(upload, f"Chunks must be multiples of {granularity} bytes.")
        size = upload.received_bytes + len(call.body)
        if upload.size_bytes is not None and size > upload.size_bytes:
            raise self._refused(upload, f"More than the declared {upload.size_bytes} bytes.")
        self._check_size(size)
        upload.blob.append(call.body)
        upload.received_bytes = size

    def _finalize(self, upload: Upload, call: Call, now: float) -> Reply:
        if upload.name:
            self._check_name(upload.name, now)
        file = StoredFile(
            serial=self._state.next_serial(),
            name=upload.name or f"files/{self._state.new_id(12)}",
            display_name=upload.display_name,
            mime_type=upload.mime_type,
            blob=upload.blob,
            created_at=now,
            expires_at=now + self._state.plan.file_life_s,
        )
        self._files[file.name] = file
        self._end(upload, "final")
        return ok({"file": self._resource(file, call)}, headers={"X-Goog-Upload-Status": "final"})

    def _end(self, upload: Upload, status: str) -> None:
        upload.status = status
        upload.blob = Blob(self._state.data_dir)

    def _status(self, upload: Upload) -> Reply:
        headers = {"X-Goog-Upload-Status": upload.status, "X-Goog-Upload-Size-Received": str(upload.received_bytes)}
        return Reply(headers={"Content-Type": "text/plain; charset=utf-8"} | headers)

    def _refused(self, upload: Upload, message: str) -> ApiError:
        return ApiError(400, message, headers={"X-Goog-Upload-Status": upload.status})

    def _check_name(self, name: str, now: float) -> None:
        # The wording of both is not known.
        if _NAME.fullmatch(name) is None:
            raise ApiError(
                400,
                "Invalid file name: it may have up to 40 characters, lower-case letters, digits and dashes, and may "
                "not start or end with a dash.",
            )
        if self._living(name, now) is not None:
            raise ApiError(409, f"The File {name.removeprefix('files/')} already exists.")

    def _check_size(self, size: int) -> None:
        limit = self._state.plan.file_bytes_max
        if size > limit:
            raise ApiError(400, f"File exceeds the limit: {limit} bytes.")

    # -- files

    def _living(self, name: str, now: float) -> StoredFile | None:
        file = self._files.get(name)
        if file is not None and file.expires_at <= now:
            del self._files[name]
            return None
        return file

    def find(self, name: str, now: float) -> StoredFile:
        """Return a file.

        Raises:
            ApiError: 403, missing or expired.
        """
        file = self._living(name, now)
        if file is None:
            raise no_such_file(name)
        return file

    def get(self, name: str, call: Call, now: float) -> Reply:
        """Answer with a file's description."""
        return ok(self._resource(self.find(name, now), call))

    def list_files(self, call: Call, now: float) -> Reply:
        """Answer with a page of the files, newest first (the live order is not known)."""
        living = [file for file in self._files.values() if file.expires_at > now]
        files, token = page(reversed(living), call.query, usual=10, most=100)
        body: JsonObject = {}
        if files:
            body["files"] = [self._resource(file, call) for file in files]
        if token is not None:
            body["nextPageToken"] = token
        return ok(body)

    def delete(self, name: str, now: float) -> Reply:
        """Delete a file. Jobs that were created from it keep what they read."""
        del self._files[self.find(name, now).name]
        return ok({})

    def download(self, name: str, now: float) -> Reply:
        """Refuse: uploaded files cannot be downloaded."""
        self.find(name, now)
        raise ApiError(400, "Only generated files can be downloaded.")

    def _resource(self, file: StoredFile, call: Call) -> JsonObject:
        resource = file_resource(
            name=file.name,
            mime_type=file.mime_type,
            size_bytes=file.blob.size_bytes,
            created_at=file.created_at,
            expires_at=file.expires_at,
            origin=call.origin,
        )
        extra: dict[str, Json] = {
            "displayName": file.display_name,
            # Base64 of the hexadecimal digits, not of the digest.
            "sha256Hash": base64.b64encode(file.blob.sha256_hex().encode()).decode(),
            "source": "UPLOADED",
        }
        return resource | {name: value for name, value in extra.items() if value}
