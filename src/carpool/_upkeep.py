"""A home without a client: what lies in its slots, and the removal of what is past its time.

Owns the way through all slots that no running process holds, whatever base URL or API key their records are of. Nothing
here calls a server, and nothing that is under way goes on.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Final, Literal

import msgspec

from carpool._core.budget import DayAccount
from carpool._core.engine import Engine
from carpool._core.estimate import Habit, Habits
from carpool._core.ledger import receipt_of_days
from carpool._core.messages import Record, Step
from carpool._core.model import ROW_BITS, ROW_MASK, SENT, Framing, Job, Meta, ResultsHead, SegmentHead, base_url_of
from carpool._core.recovery import Recovery
from carpool._core.routing import Seen
from carpool._gemini.developer import BASE_URL
from carpool._gemini.http import checked_base
from carpool._stores.disk import DiskStore
from carpool._stores.peek import Peek, accounts_of
from carpool._stores.slots import find_slots
from carpool.errors import StoreError, StoreLocked
from carpool.settings import Route, Settings
from carpool.types import Kind, Receipt

_FIRST_DAY: Final = date(1970, 1, 1).toordinal()
_NO_WIRE: Final = Framing(inline_envelope_bytes=0, inline_row_bytes=0)


class TidiedSlot(msgspec.Struct, frozen=True, kw_only=True):
    """What was found past its time in one slot."""

    folder: str
    store_id: str
    results: int
    """Stored results older than their time."""
    requests: int
    """Requests of processes that are gone, which nobody claimed in time."""
    unfinished: frozenset[str]
    """Jobs that are not settled, by carpool's own identifiers of them."""


class TidiedHome(msgspec.Struct, frozen=True, kw_only=True):
    """What was found past its time in a home."""

    slots: list[TidiedSlot]
    in_use: list[str]
    """Folders of the slots that a running process holds; it tidies up itself."""


class KnownKey(msgspec.Struct, frozen=True, kw_only=True):
    """An explicit key that a home knows."""

    key: str
    state: Literal["answered", "failed", "sent", "waiting"]
    kind: Kind
    model: str
    since: float
    """When it came to that, in seconds since the epoch; of requests without an answer, when they were accepted."""
    job: str
    """The server's name of the job that answered it; empty before that."""


async def tidy(home: Path, settings: Settings, now: float, *, dry_run: bool) -> TidiedHome:
    """Drop stored results and unclaimed requests that are past their time.

    Args:
        home: the folder of the store.
        settings: ``keep_results_s`` and ``reuse_window_s`` say what is past its time.
        now: the time.
        dry_run: only look.

    Raises:
        StoreError: or one of its kinds, as the store says.
    """
    found: list[TidiedSlot] = []
    async with _free_slots(home, settings) as stores:
        for store in stores:
            results = requests = 0
            unfinished: set[str] = set()
            meta, engines = await _recovered(store, settings, now)
            for engine, opening in engines:
                before = _stored(engine), engine.stats().parked
                writes = opening.writes + engine.tidy(now).writes
                results += before[0] - _stored(engine)
                requests += before[1] - engine.stats().parked
                unfinished.update(engine.book.jobs)
                if not dry_run:
                    await store.commit(writes)
            slot = TidiedSlot(
                folder=str(store.path),
                store_id=meta.store_id,
                results=results,
                requests=requests,
                unfinished=frozenset(unfinished),
            )
            found.append(slot)
    free = {slot.folder for slot in found}
    in_use = [str(path) for path in find_slots(home) if str(path.absolute()) not in free]
    return TidiedHome(slots=found, in_use=in_use)


async def known_keys(home: Path, settings: Settings, now: float) -> list[KnownKey]:
    """Return all explicit keys that the free slots of a home know, newest first.

    Raises:
        StoreError: or one of its kinds, as the store says.
    """
    found: list[KnownKey] = []
    async with _free_slots(home, settings) as stores:
        for store in stores:
            _, engines = await _recovered(store, settings, now)
            for engine, _ in engines:
                found += _kept(engine)
                found += _live(engine)
    return sorted(found, key=lambda known: known.since, reverse=True)


def receipts_by_day(home: Path) -> dict[str, dict[date, Receipt]]:
    """Return what all slots of a home cost, by base URL and by UTC day, the oldest first.

    Running processes go on meanwhile. What is under way is not in it: a job counts once it is settled. Of services
    on this machine the port is left out: see ``base_url_of``.

    Raises:
        StoreError: or one of its kinds, as the store says.
    """
    accounts = [account for folder in find_slots(home) for account in accounts_of(Peek(folder, ""))]
    days: dict[str, dict[int, list[DayAccount]]] = {}
    for account in sorted(accounts, key=lambda one: (one.base_url, one.day)):
        days.setdefault(account.base_url, {}).setdefault(account.day, []).append(account)
    return {
        base_url: {date.fromordinal(_FIRST_DAY + day): receipt_of_days(these) for day, these in of_days.items()}
        for base_url, of_days in days.items()
    }


def learned_at(home: Path, base_url: str | None) -> tuple[Habits, list[Seen]]:
    """Return what answers of a service taught in a home: of each model what the slot knows that saw most of it.

    Args:
        home: the folder of the store.
        base_url: of the service, else what a client would call. What others taught, such as an emulator, says
            nothing of it.

    Raises:
        ConfigurationError: the base URL cannot be used.
        StoreError: or one of its kinds, as the store says.
    """
    habits, seen = Habits(), dict[tuple[str, Route], Seen]()
    found = [record for folder in find_slots(home) for record in Peek(folder, "").learned()]
    called = base_url_of(str(checked_base(base_url or os.environ.get("CARPOOL_BASE_URL") or BASE_URL)))
    for record in sorted((one for one in found if one.base_url == called), key=_seen_of):
        if isinstance(record, Habit):
            habits.take(record)
        else:
            seen[record.model, record.route] = record
    return habits, list(seen.values())


def _seen_of(record: Habit | Seen) -> int:
    return sum(record.outputs.buckets[1::2]) if isinstance(record, Habit) else len(record.durations_s)


@asynccontextmanager
async def _free_slots(home: Path, settings: Settings) -> AsyncGenerator[list[DiskStore]]:
    """Hold all slots of a home that no other process holds."""
    stores: list[DiskStore] = []
    async with AsyncExitStack() as stack:
        slots = _slots_max(home)
        for _ in range(slots):
            store = DiskStore(home, settings, slots_max=slots)
            try:
                await store.open()
            except StoreLocked:
                break
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


def _slots_max(home: Path) -> int:
    slots = find_slots(home)
    return int(slots[-1].name.removeprefix("slot-")) + 1 if slots else 0


async def _recovered(store: DiskStore, settings: Settings, now: float) -> tuple[Meta, list[tuple[Engine, Step]]]:
    """Return the identity of a store, and an engine for each origin of its records, with the step that opened it."""
    records: list[Record] = [record async for record in store.load()]
    meta = records[0]
    if not isinstance(meta, Meta):
        raise StoreError("the store does not begin with its identity")
    origins = {record.origin: None for record in records if isinstance(record, SegmentHead | Job | ResultsHead)}
    engines: list[tuple[Engine, Step]] = []
    for origin in origins:
        recovery = Recovery(settings, _NO_WIRE, origin, meta)
        for record in records:
            recovery.take(record)
        engines.append(recovery.finish(now))
    return meta, engines


def _stored(engine: Engine) -> int:
    return sum(engine.book.results_open.values())


def _kept(engine: Engine) -> Iterator[KnownKey]:
    book = engine.book
    for key, place in book.keys.all_kept():
        head = book.results[place >> ROW_BITS]
        yield KnownKey(
            key=key,
            state="failed" if head.failed[place & ROW_MASK] else "answered",
            kind=head.lane.kind,
            model=head.lane.model,
            since=head.kept_at,
            job=head.job,
        )


def _live(engine: Engine) -> Iterator[KnownKey]:
    book = engine.book
    for key, place in book.keys.all_live():
        segment = book.segments[place >> ROW_BITS]
        yield KnownKey(
            key=key,
            state="sent" if segment.states[place & ROW_MASK] == SENT else "waiting",
            kind=segment.lane.kind,
            model=segment.lane.model,
            since=segment.accepted_at,
            job="",
        )
