"""``client.files``: uploaded files, for the parts of requests.

Owns the translation of what users give and of provider errors. What is known of a file is kept by the watch, which
looks after the files that requests name.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from carpool._filewatch import FileWatch, Source, file_error, source_of
from carpool._ports import FileService, ProviderError
from carpool.errors import ConfigurationError
from carpool.types import File


class Files:
    """Uploaded files, as the server shows them. They live for two days."""

    def __init__(self, service: FileService | None, check: Callable[[], Any], watch: FileWatch) -> None:
        self._given = service
        self._check = check
        self._watch = watch

    @property
    def _service(self) -> FileService:
        self._check()
        if self._given is None:
            raise ConfigurationError("this client's provider has no files: give it an attribute 'files'")
        return self._given

    async def upload(
        self,
        source: str | os.PathLike[str] | bytes,
        *,
        mime_type: str | None = None,
        display_name: str | None = None,
    ) -> File:
        """Upload a file, and return it once the server has processed it; then put it into ``contents`` like any part.

        It goes up in chunks, straight from the disk, and goes on where it was after a break. A file that came from a
        path is uploaded again by itself when a request names it too late for its batch (``Settings.file_margin_s``).

        Args:
            source: path of the file (a string is a path), or its bytes.
            mime_type: what it is; told by the name of a path.
            display_name: shown in lists; the name of a path.

        Raises:
            ConfigurationError: it cannot be read, is larger than 2 GiB, or its type cannot be told. Nothing was sent.
            FileError: the server refused it, could not process it, or cannot be reached.
        """
        service = self._service
        given: Path | bytes
        what = "the bytes"
        seen: Source | None = None
        if isinstance(source, bytes | bytearray | memoryview):
            given = bytes(source)
        else:
            given = Path(source)
            what = given.name
            seen = await source_of(given)
        try:
            file = await service.upload(given, mime_type, display_name)
        except ProviderError as error:
            raise file_error(error, None, f"{what} could not be uploaded") from None
        self._watch.remember(file, seen)
        return file

    async def get(self, name: str) -> File:
        """Return a file by its name, with or without ``files/``.

        Raises:
            ConfigurationError: this cannot be a name.
            FileError: there is no such file, or the server cannot be reached.
        """
        service = self._service
        try:
            file = await service.get(name)
        except ProviderError as error:
            raise file_error(error, name, name) from None
        self._watch.remember(file)
        return file

    async def list(self) -> AsyncGenerator[File]:
        """Iterate over all uploaded files; what jobs made is not among them.

        Raises:
            FileError: the server cannot be reached, or refused.
        """
        try:
            async for file in self._service.list():
                self._watch.remember(file)
                yield file
        except ProviderError as error:
            raise file_error(error, None, "files") from None

    async def delete(self, name: str) -> None:
        """Delete a file; one that is gone already counts as deleted.

        Requests that name it and have not run yet will fail.

        Raises:
            ConfigurationError: this cannot be a name.
            FileError: the server refused, or cannot be reached.
        """
        service = self._service
        try:
            await service.delete(name)
        except ProviderError as error:
            raise file_error(error, name, name) from None
        self._watch.forget(name if "/" in name else f"files/{name}")
