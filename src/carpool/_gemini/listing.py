"""Lists that the server gives page by page.

Owns the walk over the pages. It must not know what is listed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, TypeVar

from carpool._gemini.http import Http, ok, unreadable

_PAGE_SIZE: Final = 100
_PAGES_MAX: Final = 2_000
"""Pages of one list; none is known that has a tenth of it."""
_T = TypeVar("_T")


async def listed(http: Http, path: str, read: Callable[[bytes], tuple[list[_T], str]], what: str) -> AsyncGenerator[_T]:
    """Iterate over a list, page by page.

    Args:
        http: who calls.
        path: of the list.
        read: returns the items of a page and the token of the next; ``ValueError`` where it cannot.
        what: named in errors.

    Raises:
        ProviderError: a page cannot be had or read, or the list does not end.
    """
    token, seen = "", set[int]()
    for _ in range(_PAGES_MAX):
        query = {"pageSize": str(_PAGE_SIZE)} | ({"pageToken": token} if token else {})
        body = ok(await http.call("GET", http.url(path).with_query(query)))
        try:
            items, token = read(body)
        except (ValueError, RecursionError):
            items, token = None, ""
        if items is None:
            raise unreadable(f"a page of the list of {what} cannot be read")
        for item in items:
            yield item
        if not token:
            return
        if hash(token) in seen:
            break
        seen.add(hash(token))
    raise unreadable(f"the list of {what} does not end")
