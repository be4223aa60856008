"""What all parts of the world share, and the small habits of the service.

Owns the plan in force with the count of its faults, the one source of chance, the books, identifiers, timestamps and
paging. It must not know about jobs, files or models.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Protocol, TypeVar

from .fields import as_int
from .ledger import LedgerBook
from .messages import ApiError
from .plan import FaultBook, Plan
from .quotas import LiveQuotas

_ALPHABET: Final = string.ascii_lowercase + string.digits


class State:
    """The part of the world that everything in it sees.

    Attributes:
        plan: the plan in force.
        faults: the count of its faults.
        rng: the only source of chance.
        ledger: the books.
        quotas: what live calls used within a minute.
        data_dir: directory for temporary files, None for the system's.
    """

    def __init__(self, plan: Plan, *, seed: int, data_dir: str | None) -> None:
        self.rng = random.Random(seed)
        self.plan = plan
        self.faults = FaultBook(plan, self.rng)
        self.ledger = LedgerBook()
        self.quotas = LiveQuotas()
        self.data_dir = data_dir
        self._serial = 0

    def replace_plan(self, plan: Plan) -> None:
        """Put another plan in force; its faults are counted from zero."""
        self.plan = plan
        self.faults = FaultBook(plan, self.rng)

    def new_id(self, length: int) -> str:
        """Return a random identifier of lower-case letters and digits that starts with a letter."""
        return self.rng.choice(string.ascii_lowercase) + "".join(self.rng.choices(_ALPHABET, k=length - 1))

    def next_serial(self) -> int:
        """Return a number greater than all before."""
        self._serial += 1
        return self._serial


def rfc3339(at: float) -> str:
    """Return seconds since the epoch as Google writes time: UTC, nanoseconds, ``Z``."""
    whole = int(at // 1)
    nanoseconds = min(999_999_999, int((at - whole) * 1e9))
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


class Listed(Protocol):
    """Something that a list method lists."""

    @property
    def serial(self) -> int:
        """Grows from one to the next."""
        ...


T = TypeVar("T", bound=Listed)


def page(items: Iterable[T], query: dict[str, str], *, usual: int, most: int) -> tuple[list[T], str | None]:
    """Cut one page out of a list.

    Args:
        items: newest first, that is by falling ``serial``.
        query: of the call: ``pageSize`` and ``pageToken``.
        usual: items on a page when the call does not say.
        most: items on a page at most, whatever the call says.

    Returns:
        The items and the token of the next page, None on the last one.

    Raises:
        ApiError: unreadable size or token.
    """
    size = as_int(query.get("pageSize", query.get("page_size", "0")))
    if size is None or size < 0:
        raise ApiError(400, "Invalid page size.")
    token = query.get("pageToken", query.get("page_token", ""))
    below: int | None = None
    if token:
        try:
            below = int(base64.urlsafe_b64decode(token.encode()))
        except ValueError:
            raise ApiError(400, "Invalid page token.") from None
    size = min(size or usual, most)
    found = list(islice((item for item in items if below is None or item.serial < below), size + 1))
    if len(found) <= size:
        return found, None
    return found[:size], base64.urlsafe_b64encode(str(found[size - 1].serial).encode()).decode()
