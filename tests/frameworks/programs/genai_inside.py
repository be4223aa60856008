"""What an instance of Google's SDK sends with, which nothing public of it tells.

Owns the look inside; works with 2.x and 3.x.
"""

from __future__ import annotations

from typing import Any


def stack_of(client: Any, mode: str) -> str:
    """Return the HTTP library of a ``genai.Client``.

    Args:
        client: which.
        mode: ``sync`` or ``async``: it has one of each.
    """
    inside = client._api_client
    if mode == "async" and inside._use_aiohttp():
        return "aiohttp"
    sender = type(inside._httpx_client if mode == "sync" else inside._async_httpx_client)
    return "httpx2" if any(kind.__module__.split(".")[0] == "httpx2" for kind in sender.__mro__) else "httpx"
