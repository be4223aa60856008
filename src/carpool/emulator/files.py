"""The Files API.

Owns uploaded files and resumable uploads: their names, offsets, life and listing. It must not know what is in a file,
nor about the outputs of jobs, which have file names but belong to their job.
"""

from __future__ import annotations

import base64
import math
import re
from typing import Final

import msgspec

from .blobs import Blob
from .fields import as_int, as_object, as_str, camelise
from .messages import ApiError, Call, Json, JsonObject, Reply, bad_payload, decode_json, no_such_file, ok
from .state import State, page, rfc3339
from .validation import check

_NAME: Final = re.compile(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_UPLOADS_MAX: Final = 10_000
_STORAGE: Final = "generativelanguage.googleapis.com/file_storage_bytes"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An uploaded file."""

    serial: int
    name: str
    display_name: str
    mime_type: str
    blob: Blob
    created_at: float
    active_at: float
    expires_at: float
    fails: bool


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
    if size_bytes:  # none is left out, as every zero
        resource["sizeBytes"] = str(size_bytes)
    return resource


def _state_of(file: StoredFile, now: float) -> str:
    if now < file.active_at:
        return "PROCESSING"
    return "FAILED" if file.fails else "ACTIVE"


# The words for a file that cannot be processed are not known.
_FAILED: Final[JsonObject] = {"code": 3, "message": "The file could not be processed."}


class FileService:
    """Uploads, and what became of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._files: dict[str, StoredFile] = {}
        self._uploads: dict[str, Upload] = {}
        self._deleted: dict[str, StoredFile] = {}
        self._ended_at: dict[str, float] = {}

    # -- uploads

    def start(self, call: Call, now: float) -> Reply:
        """Open an upload.

        Raises:
            ApiError: bad name, name taken, or too large.
        """
        try:
            sent = decode_json(call.body) if call.body.strip() else {}
        except msgspec.DecodeError as error:
            raise bad_payload(str(error)) from None
        check("CreateFileRequest", sent)
        file = as_object(as_object(camelise(sent)).get("file"))
        name = as_str(file.get("name"))
        if name and not name.startswith("files/"):
            name = f"files/{name}"
        if name:
            self._check_name(name, now)
        declared = call.headers.get("x-goog-upload-header-content-length", "")
        size = as_int(declared) if declared else as_int(file.get("sizeBytes"))
        self._check_size(size or 0)
        self._check_storage(size or 0, now)
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
        upload = self._upload(call)
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

    def take_half(self, call: Call) -> Reply:
        """Take only the first half of a chunk, as if the connection had broken there.

        Raises:
            ApiError: as :meth:`go_on`.
        """
        upload = self._upload(call)
        self._take(upload, msgspec.structs.replace(call, body=call.body[: len(call.body) // 2]), final=True)
        return self._status(upload)

    def misplace(self, call: Call) -> Reply:
        """Refuse a chunk as if its offset were wrong; answer a query with half of what is there.

        Raises:
            ApiError: no such upload.
        """
        upload = self._upload(call)
        if "query" in commands_of(call):
            return self._status(upload, upload.received_bytes // 2)
        return self._wrong_offset(upload).reply()

    def _upload(self, call: Call) -> Upload:
        upload = self._uploads.get(call.query.get("upload_id", ""))
        if upload is None:
            raise ApiError(404, "Requested entity was not found.")
        return upload

    def _take(self, upload: Upload, call: Call, *, final: bool) -> None:
        # Which status the live service gives for a wrong offset or size is not known.
        if upload.status != "active":
            raise self._refused(upload, f"Upload is {upload.status}.")
        offset = as_int(call.headers.get("x-goog-upload-offset", ""))
        if offset is None or offset + call.taken_bytes != upload.received_bytes:
            raise self._wrong_offset(upload)
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
        self._check_storage(upload.received_bytes, now)
        file = StoredFile(
            serial=self._state.next_serial(),
            name=upload.name or f"files/{self._state.new_id(12)}",
            display_name=upload.display_name,
            mime_type=upload.mime_type,
            blob=upload.blob,
            created_at=now,
            active_at=now + self._state.plan.file_processing_s,
            expires_at=now + self._state.plan.file_life_s,
            fails=upload.mime_type in self._state.plan.failing_mime_types,
        )
        self._files[file.name] = file
        self._end(upload, "final")
        return ok({"file": self._resource(file, call, now)}, headers={"X-Goog-Upload-Status": "final"})

    def _end(self, upload: Upload, status: str) -> None:
        upload.status = status
        upload.blob = Blob(self._state.data_dir)

    def _status(self, upload: Upload, received_bytes: int | None = None) -> Reply:
        received = upload.received_bytes if received_bytes is None else received_bytes
        headers = {"X-Goog-Upload-Status": upload.status, "X-Goog-Upload-Size-Received": str(received)}
        return Reply(headers={"Content-Type": "text/plain; charset=utf-8"} | headers)

    def _wrong_offset(self, upload: Upload) -> ApiError:
        return self._refused(upload, f"Wrong offset: {upload.received_bytes} bytes were received.")

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

    # The wording of both is not known.

    def _check_size(self, size: int) -> None:
        limit = self._state.plan.file_bytes_max
        if size > limit:
            raise ApiError(400, f"File exceeds the limit: {limit} bytes.")

    def _check_storage(self, size: int, now: float) -> None:
        limit = self._state.plan.storage_bytes_max
        if size + sum(file.blob.size_bytes for file in self._files.values() if file.expires_at > now) > limit:
            raise ApiError(429, f"Quota exceeded for metric: {_STORAGE}, limit: {limit}")

    # -- files

    def _living(self, name: str, now: float) -> StoredFile | None:
        file = self._files.get(name)
        if file is not None and file.expires_at <= now:
            self._ended_at[name] = file.expires_at
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

    def ends_at(self, name: str) -> float:
        """Return when a file ends or has ended, as of now; minus infinity if it never was."""
        file = self._files.get(name)
        return self._ended_at.get(name, -math.inf) if file is None else file.expires_at

    def state_of(self, name: str, now: float) -> str | None:
        """Return the state of a file, None if there is no such one."""
        file = self._living(name, now)
        return None if file is None else _state_of(file, now)

    def get(self, name: str, call: Call, now: float) -> Reply:
        """Answer with a file's description."""
        return ok(self._resource(self.find(name, now), call, now))

    def list_files(self, call: Call, now: float) -> Reply:
        """Answer with a page of the files, newest first (the live order is not known)."""
        living = [file for file in self._files.values() if file.expires_at > now]
        files, token = page(reversed(living), call.query, usual=10, most=100)
        body: JsonObject = {}
        if files:
            body["files"] = [self._resource(file, call, now) for file in files]
        if token is not None:
            body["nextPageToken"] = token
        return ok(body)

    def find_input(self, name: str, now: float) -> StoredFile:
        """Return a file for a create, which may take a deleted one where the plan says so.

        Raises:
            ApiError: 403, missing or expired.
        """
        deleted = self._deleted.get(name) if self._living(name, now) is None else None
        if self._state.plan.create_ignores_deleted_file and deleted is not None and deleted.expires_at > now:
            return deleted
        return self.find(name, now)

    def delete(self, name: str, now: float) -> Reply:
        """Delete a file, at once or as late as the plan says. Jobs that were created from it keep what they read.

        Raises:
            ApiError: 403, missing or expired.
        """
        file = self.find(name, now)
        gone_at = now + self._state.plan.delete_lag_s
        if gone_at > now:
            self._files[name] = msgspec.structs.replace(file, expires_at=min(gone_at, file.expires_at))
        else:
            self._ended_at[name] = now
            del self._files[name]
        if self._state.plan.create_ignores_deleted_file:
            self._deleted[name] = file
        return ok({})

    def lose(self, name: str) -> None:
        """Forget a file as if it had never been."""
        self._files.pop(name, None)

    def download(self, name: str, now: float) -> Reply:
        """Refuse: uploaded files cannot be downloaded."""
        self.find(name, now)
        raise ApiError(400, "Only generated files can be downloaded.")

    def register(self, call: Call) -> Reply:
        """Refuse: files of a cloud storage are registered by accounts, and there are none here.

        Raises:
            ApiError: 401, or 403 for the token of an account.
        """
        if call.headers.get("authorization", "").lower().startswith("bearer "):
            raise ApiError(403, "The caller does not have permission")
        raise ApiError(
            401,
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        )

    def _resource(self, file: StoredFile, call: Call, now: float) -> JsonObject:
        resource = file_resource(
            name=file.name,
            mime_type=file.mime_type,
            size_bytes=file.blob.size_bytes,
            created_at=file.created_at,
            expires_at=file.expires_at,
            origin=call.origin,
        )
        state = _state_of(file, now)
        extra: dict[str, Json] = {
            "displayName": file.display_name,
            # Base64 of the hexadecimal digits, not of the digest.
            "sha256Hash": base64.b64encode(file.blob.sha256_hex().encode()).decode(),
            "source": "UPLOADED",
            "state": state,
            "error": _FAILED if state == "FAILED" else None,
        }
        return resource | {name: value for name, value in extra.items() if value}
