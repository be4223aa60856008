"""Mime types of files by their names.

Owns the table of the media that Gemini takes and that systems disagree about. It must not look into files.
"""

from __future__ import annotations

import mimetypes
from pathlib import PurePath
from typing import Final

_KNOWN: Final = {
    ".aac": "audio/aac",
    ".aiff": "audio/aiff",
    ".avif": "image/avif",
    ".flac": "audio/flac",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".jsonl": "application/jsonl",
    ".m4a": "audio/m4a",
    ".md": "text/markdown",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".ogg": "audio/ogg",
    ".opus": "audio/opus",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".wmv": "video/x-ms-wmv",
}
"""What the system's own table does not hold on every machine, or spells otherwise."""


def guess_mime_type(path: PurePath) -> str:
    """Return the mime type that a file's name stands for; empty if it stands for none."""
    known = _KNOWN.get(path.suffix.lower())
    if known is not None:
        return known
    guessed, encoding = mimetypes.guess_type(path.name, strict=False)
    return guessed or "" if encoding is None else ""
