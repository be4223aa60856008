"""Media in OpenAI's messages: data URLs, links, sound and files to the parts of a native request.

Owns which mime types names stand for; a part whose type cannot be told is refused, for Google would refuse it hours
later. It must not know whose message a part is in.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

from carpool.surfaces.openai.values import filled, is_base64, known, one_of, refused, shaped, text_of

DETAILS: Final = {"auto": "", "low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH"}
CACHE_HINT: Final = "prompt_cache_breakpoint"
"""A hint for OpenAI's cache on any part: it changes nothing about an answer, and is not sent."""

_MIME: Final = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")
_SOUND: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,31}")
_LINKS: Final = ("https", "http", "gs")
_BY_SUFFIX: Final = {
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "avi": "video/x-msvideo",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "css": "text/css",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m4a": "audio/m4a",
    "md": "text/markdown",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/opus",
    "pdf": "application/pdf",
    "png": "image/png",
    "rtf": "text/rtf",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "wmv": "video/x-ms-wmv",
    "xml": "text/xml",
}


def image_part(value: Any, param: str) -> tuple[dict[str, Any], str]:
    """Translate the value of ``image_url``.

    Returns:
        The part, and the detail that is asked for: a key of :data:`DETAILS`.

    Raises:
        Untranslatable: there is no telling what it is, or the detail has no native form.
    """
    fields = shaped(value, param)
    known(fields, ("url", "detail"), param)
    detail = fields.get("detail")
    hint = "; Google has no other resolutions"
    asked = "auto" if detail is None else one_of(detail, f"{param}.detail", DETAILS, hint=hint)
    url = filled(fields.get("url"), f"{param}.url")
    if url[:5].lower() == "data:":
        return {"inlineData": _inline(url, f"{param}.url")}, asked
    how = "give a link whose path ends like '.png', a data: URL, or a part of type 'file' with file_id and filename"
    return {"fileData": _linked(url, "", f"{param}.url", how)}, asked


def sound_part(value: Any, param: str) -> dict[str, Any]:
    """Translate the value of ``input_audio``.

    Raises:
        Untranslatable: it is not sound in base64.
    """
    fields = shaped(value, param)
    known(fields, ("data", "format"), param)
    kind = filled(fields.get("format"), f"{param}.format").lower()
    if not _SOUND.fullmatch(kind):
        raise refused(f"{param}.format", "it must be a format of sound, such as 'wav' or 'mp3'")
    data = filled(fields.get("data"), f"{param}.data")
    return {"inlineData": {"mimeType": f"audio/{kind}", "data": _checked(data, f"{param}.data")}}


def file_part(value: Any, param: str) -> dict[str, Any]:
    """Translate the value of ``file``.

    Raises:
        Untranslatable: it names one of OpenAI's own files, or its type cannot be told.
    """
    fields = shaped(value, param)
    known(fields, ("file_data", "file_id", "filename"), param)
    name = text_of(fields.get("filename") or "", f"{param}.filename")
    data, uri = fields.get("file_data"), fields.get("file_id")
    if (data is None) == (uri is None):
        raise refused(param, "give one of file_data and file_id")
    if uri is not None:
        how = "give a filename that ends like '.pdf'"
        return {"fileData": _linked(filled(uri, f"{param}.file_id"), name, f"{param}.file_id", how)}
    text = filled(data, f"{param}.file_data")
    if text[:5].lower() == "data:":
        return {"inlineData": _inline(text, f"{param}.file_data")}
    mime_type = _mime_of(name)
    if not mime_type:
        why = (
            "what this file is cannot be told: give a data: URL with its mime type, or a filename that ends like '.pdf'"
        )
        raise refused(f"{param}.file_data", why)
    return {"inlineData": {"mimeType": mime_type, "data": _checked(text, f"{param}.file_data")}}


def _inline(url: str, param: str) -> dict[str, Any]:
    head, comma, data = url[5:].partition(",")
    mime_type, *marks = head.split(";")
    if not comma or "base64" not in [mark.strip().lower() for mark in marks]:
        raise refused(param, "a data: URL must be in base64, such as 'data:image/png;base64,...'")
    mime_type = mime_type.strip().lower()
    if not _MIME.fullmatch(mime_type):
        raise refused(param, "the data: URL has no mime type, such as 'data:image/png;base64,...'")
    return {"mimeType": mime_type, "data": _checked(data, param)}


def _linked(url: str, name: str, param: str, how: str) -> dict[str, Any]:
    parts = _split(url)
    if parts is None:
        why = "it is no link: files of OpenAI's are not on Google's side; upload it by the Files API, and give its uri"
        raise refused(param, why)
    mime_type = _mime_of(name) or _mime_of(parts)
    if not mime_type:
        raise refused(param, f"what is behind this link cannot be told, and Google wants its mime type: {how}")
    return {"mimeType": mime_type, "fileUri": url}


def _split(url: str) -> str | None:
    """Return the path of a link; None if it is no link."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.path if parts.scheme in _LINKS and parts.netloc else None


def _mime_of(name: str) -> str:
    _, dot, suffix = name.rpartition(".")
    return _BY_SUFFIX.get(suffix.lower(), "") if dot else ""


def _checked(data: str, param: str) -> str:
    if not is_base64(data):
        raise refused(param, "it is not base64")
    return data
