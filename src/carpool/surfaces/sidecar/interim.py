"""Interim responses: what a caller that waits is told meanwhile, so that neither it nor anything between gives up.

Owns which of them a caller can take. It must not know when they are sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from carpool.surfaces.sidecar.guard import Refused, refuse

PROCESSING: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
HEADER: Final = "x-carpool-interim"
"""What a caller says that knows better: 102, 100, or none."""
_NAMED: Final[Mapping[str, bytes]] = {"102": PROCESSING, "100": CONTINUE, "none": b""}

# Python's http.client takes any other interim response for the answer, and reads past any number of 100.
_ONLY_CONTINUE: Final = re.compile(r"python-(?:requests|urllib3?)/", re.IGNORECASE)
# Go before 1.24 gives up after five of them, and by itself waits as long as it takes.
_NONE: Final = re.compile(r"go-http-client/|\bgl-go/", re.IGNORECASE)


def interim_of(version: tuple[int, int], headers: Mapping[str, str]) -> bytes:
    """Return what a caller can be sent any number of times before its answer; nothing if there is none.

    Args:
        version: of HTTP, that the request has.
        headers: of the request, names in lower case.

    Raises:
        Refused: the caller asks for what does not exist.
    """
    if version < (1, 1):
        return b""
    named = headers.get(HEADER)
    if named is not None:
        if named not in _NAMED:
            raise Refused("header", refuse(400, f"{HEADER} must be 102, 100 or none"))
        return _NAMED[named]
    agent = headers.get("user-agent", "")
    if _NONE.search(agent):
        return b""
    return CONTINUE if _ONLY_CONTINUE.search(agent) else PROCESSING
