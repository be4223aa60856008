"""A prompt that nobody may see, the disguises in which a server may echo it, and the search for it in any of them.

Owns what counts as seen. It must not know where is searched.
"""

from __future__ import annotations

import base64
import html
import json
import pickle
import re
import traceback
from typing import Final
from urllib.parse import quote, quote_plus, unquote

from tests.canary import API_KEY, PROMPT

TEXT: Final = (
    f'{PROMPT}. "Erika Müller", born 12 August 1964,\n'
    " owes 3,000 € to <nobody> \\ but me & 日本語の秘密の文章です、誰にも言わないで"
)
"""With all that is escaped somewhere."""
UPLOAD_ID: Final = "ABPtcPo0canary9upload8secret7identifier6"
UPLOAD_URL: Final = (
    f"https://generativelanguage.example/upload/v1beta/files?upload_id={UPLOAD_ID}&upload_protocol=resumable"
)
_RUN: Final = 20
_PIECE: Final = 16


def _halves(text: str) -> str:
    middle = len(text) // 2
    return f"{text[:middle]} [...] and {text[middle:]}"


PROMPT_DISGUISES: Final = {
    "as it is": TEXT,
    "quoted": repr(TEXT),
    "json": json.dumps(TEXT),
    "json in json": json.dumps(json.dumps(TEXT)),
    "json unescaped": json.dumps(TEXT, ensure_ascii=False),
    "upper case": TEXT.upper(),
    "title case": TEXT.title(),
    "other blanks": TEXT.replace(" ", " \t\n "),
    "no blanks": TEXT.replace(" ", ""),
    "punctuated": TEXT.replace(" ", "_"),
    "a line a word": "\n".join(TEXT.split()),
    "halves": _halves(TEXT),
    "beginning": TEXT[:40] + "...",
    "end": "..." + TEXT[-40:],
    "percent": quote(TEXT),
    "form": quote_plus(TEXT),
    "percent, each byte": "".join(f"%{byte:02X}" for byte in TEXT.encode()),
    "json, each character": "".join(f"\\u{ord(char):04x}" for char in TEXT),
    "html": html.escape(TEXT),
    "html numbers": "".join(f"&#{ord(char)};" for char in TEXT),
    "base64": base64.b64encode(TEXT.encode()).decode(),
    "base64 for urls": base64.urlsafe_b64encode(TEXT.encode()).decode(),
    "hex": TEXT.encode().hex(),
    "bytes": repr(TEXT.encode()),
}
OTHER_DISGUISES: Final = {
    "key": f"API key not valid: {API_KEY}.",
    "key in a URL": f"https://generativelanguage.example/v1beta/files?key={API_KEY}&alt=json",
    "key in a query": f"/v1beta/files?key={API_KEY}",
    "key glued": f"x-goog-api-key={API_KEY}x",
    "key in base64": base64.b64encode(API_KEY.encode()).decode(),
    "key in hex": API_KEY.encode().hex(),
    "upload URL": f"cannot write to {UPLOAD_URL}",
    "upload URL in JSON": json.dumps(UPLOAD_URL).replace("/", "\\/"),
    "upload URL in a URL": quote(UPLOAD_URL, safe=""),
    "upload id": f"upload_id: {UPLOAD_ID} is gone",
    "upload path": UPLOAD_URL.partition(".example")[2],
}
DISGUISES: Final = PROMPT_DISGUISES | OTHER_DISGUISES


def seen_in(text: str) -> list[str]:
    """Return what of the secrets a text shows."""
    plain, secret = _plain(text), _plain(TEXT)
    found = [
        secret[start : start + _RUN] for start in range(len(secret) - _RUN + 1) if secret[start : start + _RUN] in plain
    ]
    for coded in (
        *(base64.b64encode(secret.encode()).decode() for secret in (TEXT, API_KEY)),
        *(secret.encode().hex() for secret in (TEXT, API_KEY)),
        API_KEY.removeprefix("AIza"),
        UPLOAD_ID,
    ):
        found += [
            coded[start : start + _PIECE]
            for start in range(len(coded) - _PIECE + 1)
            if coded[start : start + _PIECE] in text
        ]
    return found


def _plain(text: str) -> str:
    for _ in range(3):
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r"\\+[nrt]", " ", text)
    return re.sub(r"[\W_]+", "", unquote(html.unescape(text)).casefold())


def shown_by(error: BaseException) -> str:
    """Return all that an exception shows: to those who print it, log it, send it to another process, or trace it."""
    copy: BaseException = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    chain: list[BaseException] = []
    queue: list[BaseException | None] = [error, copy]
    while queue:
        one = queue.pop()
        if one is not None and one not in chain:
            chain.append(one)
            queue += (one.__cause__, one.__context__)
    words = [f"{one}\n{one!r}\n{getattr(one, '__notes__', '')}" for one in chain]
    return "\n".join((*words, *traceback.format_exception_only(error), *_untold(error)))


def _untold(error: BaseException) -> list[str]:
    """Return a traceback without the lines of source that it quotes, which are the tests' own."""
    return [line for line in traceback.format_exception(error) if not line.startswith("  File")]
