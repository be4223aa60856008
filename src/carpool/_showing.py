"""What may be shown of words that came from elsewhere: no key, no URL, no text of a request.

Owns what is recognised, and in which disguises: other case, other blanks, escapes of JSON, URLs and HTML, base64, hex.
It must not know who shows it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, cast

SHOWN_CHARS_MAX: Final = 300
_SCANNED_CHARS_MAX: Final = 1_200
_RUN_CHARS: Final = 20
"""So many letters and digits in a row are an echo, whatever stands between them."""
_PROBE_CHARS: Final = 10
"""A run has a whole piece of this size at a multiple of it: only those are looked for."""
_WHOLE_CHARS_MIN: Final = 8
_SECRET_CHARS_MIN: Final = 12
_LONG_CHARS: Final = 60
_ECHO: Final = "[request text]"

_KEY: Final = re.compile(r"AIza[0-9A-Za-z_\-]{10,}|(?<![0-9A-Za-z])AQ\.[0-9A-Za-z_\-]{10,}")
_URL: Final = re.compile(r"https?(?::|%3a)(?:\\*/|%2f){2}[^\s\"'<>]+", re.IGNORECASE)
_UPLOAD: Final = re.compile(r"upload_?id(?:\W|%3d)*[0-9A-Za-z_\-]{6,}", re.IGNORECASE)
_DATA: Final = re.compile(r"[0-9A-Za-z+/_\-]{32,}={0,2}")
_HEX: Final = re.compile(r"[0-9A-Fa-f]{41,}")
_QUOTED: Final = re.compile(r"(?<!\w)(?P<quote>[\"'`])(?:\\.|(?!(?P=quote))[^\\]){41,}(?P=quote)(?!\w)", re.DOTALL)
"""So much between quotes is somebody's text, be it that of another request."""
_NAME: Final = re.compile(r"[A-Za-z]+/[a-z0-9\-]+")
_STATUS: Final = re.compile(r"[A-Z][A-Z0-9_]{1,40}")
_ESCAPE: Final = re.compile(
    r"\\+u(?P<unit>[0-9A-Fa-f]{4})|\\+x(?P<byte>[0-9A-Fa-f]{2})|\\+[abfnrtv0]|(?P<percent>(?:%[0-9A-Fa-f]{2})+)"
    r"|&(?:#(?P<decimal>[0-9]{1,7})|#[xX](?P<hex>[0-9A-Fa-f]{1,6})|[a-z]{2,6});"
)
_SEPARATORS: Final = re.compile(r"[\W_]+")
_VALUE: Final = re.compile(r"(unknown field |enum value )[`'](.*?)[`']((?: - at `\$[^`]*`)?)\Z", re.DOTALL)
_secrets: Final[set[str]] = set()


def keep_secret(secret: str) -> None:
    """Have a secret of this process left out of whatever is shown from now on; not one that could be a word."""
    if len(secret) >= _SECRET_CHARS_MIN:
        _secrets.add(secret)


def without_secrets(text: str) -> str:
    """Return a text without API keys."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, "[key]")
    return _KEY.sub("[key]", text) if "AIza" in text or "AQ." in text else text


def shown(message: str, prompts: Sequence[str] = (), others: Sequence[str] = ()) -> str:
    """Shorten a server's message to what may appear in logs.

    Args:
        message: the server's words.
        prompts: texts of the request; neither they nor longer parts of them are shown.
        others: other strings of the request; no longer parts of them are shown.

    Returns:
        At most 300 characters.
    """
    text = _URL.sub("[url]", without_secrets(message[:_SCANNED_CHARS_MAX]))
    text = _UPLOAD.sub("[upload]", text)
    text = _without_echo(text, prompts, others)
    text = _QUOTED.sub("[quoted]", _HEX.sub("[data]", _DATA.sub(_data, text)))
    text = " ".join(text.split())
    cut = len(message) > _SCANNED_CHARS_MAX
    return text if len(text) <= SHOWN_CHARS_MAX and not cut else text[: SHOWN_CHARS_MAX - 1] + "…"


def in_short(value: object) -> str:
    """Return how a wrong argument is shown: whole only if it is no text, or too short to be one that matters."""
    if isinstance(value, date):
        return str(value)
    if isinstance(value, bool | int | float | Decimal | timedelta | None):
        return f"{value!r:.60}"
    if isinstance(value, str):
        return (
            repr(value)
            if len(_plain(value)) < _RUN_CHARS and len(value) < _LONG_CHARS
            else f"a text of {len(value)} characters"
        )
    return f"of type {type(value).__name__}"


def without_values(words: str) -> str:
    """Return msgspec's words for a value that does not fit, without a name or a word of the user's own in it."""
    return _VALUE.sub(lambda found: f"{found[1]}{in_short(found[2])}{found[3]}", words)


def status_word(status: str) -> str:
    """Return the server's status word if it is one, such as ``INVALID_ARGUMENT``; else nothing."""
    return status if _STATUS.fullmatch(status) else ""


def where_raised(error: BaseException) -> str:
    """Return types and places of an exception and what led to it, without words: they may quote anything."""
    parts: list[str] = []
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        parts.append(type(found).__name__ + "\n" + "".join(traceback.format_tb(found.__traceback__)))
        if isinstance(found, BaseExceptionGroup):
            inner = cast("BaseExceptionGroup[BaseException]", found).exceptions
            parts += (where_raised(one) for one in inner)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "after ".join(parts)


def _data(found: re.Match[str]) -> str:
    text = found[0]
    mixed = any(map(str.islower, text)) and any(map(str.isupper, text)) and any(map(str.isdecimal, text))
    return "[data]" if mixed and not _NAME.fullmatch(text) else text


# -- echoes


def _without_echo(text: str, prompts: Sequence[str], others: Sequence[str]) -> str:
    if not prompts and not others:
        return text
    plain, places = _plain_places(text)
    echoed = bytearray(len(plain))
    for source in (*prompts, *others):
        _mark_runs(plain, _plain(source), echoed)
    for prompt in prompts:
        whole = _plain(prompt)
        if _WHOLE_CHARS_MIN <= len(whole) < _RUN_CHARS:
            start = plain.find(whole)
            while start >= 0:
                echoed[start : start + len(whole)] = b"\1" * len(whole)
                start = plain.find(whole, start + 1)
    return _replaced(text, echoed, places)


def _mark_runs(plain: str, source: str, echoed: bytearray) -> None:
    """Mark what ``plain`` shares with ``source`` in long runs."""
    if len(source) < _RUN_CHARS:
        return
    for probe in range(0, len(plain) - _PROBE_CHARS + 1, _PROBE_CHARS):
        start, stop = probe, probe + _PROBE_CHARS
        if echoed[start] or plain[start:stop] not in source:
            continue
        # The longest run over this piece that can be had by going left, then right.
        while start and plain[start - 1 : stop] in source:
            start -= 1
        while stop < len(plain) and plain[start : stop + 1] in source:
            stop += 1
        while stop - start < _RUN_CHARS and start < probe:  # too far to the left: the run lies to the right
            start += 1
            while stop < len(plain) and plain[start : stop + 1] in source:
                stop += 1
        if stop - start >= _RUN_CHARS:
            echoed[start:stop] = b"\1" * (stop - start)


def _replaced(text: str, echoed: bytearray, places: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = at = 0
    while (at := echoed.find(1, at)) >= 0:
        end = echoed.find(0, at)
        end = len(echoed) if end < 0 else end
        parts += (text[done : places[at][0]], _ECHO)
        done, at = places[end - 1][1], end
    return "".join(parts) + text[done:]


def _plain(text: str) -> str:
    """Return a text's letters and digits, in one case, its escapes undone."""
    return _SEPARATORS.sub("", _joined(_ESCAPE.sub(_unescaped, text)).casefold())


def _plain_places(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the same, and for each character where in the text it comes from."""
    chars: list[str] = []
    places: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        found = _ESCAPE.match(text, at)
        stop, piece = (found.end(), _unescaped(found)) if found else (at + 1, text[at])
        if "\ud800" <= piece < "\udc00" and (after := _ESCAPE.match(text, stop)) and after["unit"]:
            stop, piece = after.end(), _joined(piece + _unescaped(after))
        plain = _SEPARATORS.sub("", piece.casefold())
        chars.append(plain)
        places += [(at, stop)] * len(plain)
        at = stop
    return "".join(chars), places


def _unescaped(found: re.Match[str]) -> str:
    if number := found["unit"] or found["byte"] or found["hex"]:
        return chr(min(int(number, 16), 0x10FFFF))
    if found["decimal"]:
        return chr(min(int(found["decimal"]), 0x10FFFF))
    if found["percent"]:
        return bytes.fromhex(found["percent"].replace("%", "")).decode("utf-8", "replace")
    return " "


def _joined(text: str) -> str:
    """Return a text whose pairs of surrogates are characters."""
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
