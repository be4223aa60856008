"""What a batch becomes when it is sealed: its names, and whether it travels inline or as a file.

Owns the form of names and the limits of the inline form. It must not know what becomes of the job.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from carpool._core.accumulator import Batch
from carpool._core.ledger import Ledger, expected_output_bytes
from carpool._core.model import Form, Framing
from carpool.settings import Settings
from carpool.types import PICO

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PREFIX: Final = "cp1"
_ID = re.compile(rf"[{_ALPHABET}]{{26}}")
_NAME = re.compile(rf"({_ID.pattern})\.([0-9]{{1,9}})(?:\.[a-z0-9-]{{1,32}})?")
_NUMBER_BITS: Final = 32
_HASH_BITS: Final = 16


class JobName(msgspec.Struct, frozen=True, gc=False):
    """What the display name of a job of ours tells."""

    job_id: str
    attempt: int
    sealed_at: float
    epoch: int
    """Which opening of the store sealed it."""
    number: int
    """Counted over all openings."""


def ulid(now: float, store_id: str, epoch: int, number: int, opened_at: float) -> str:
    """Return a ULID in lower case: 48 bits of the time in milliseconds, epoch (32), number (32), and 16 bits of a hash.

    The hash tells the jobs of an opening from those of another that has the same epoch, since the store was restored
    from a backup in between.
    """
    millis = round(now * 1_000) & (1 << 48) - 1
    epoch, number = epoch & (1 << _NUMBER_BITS) - 1, number & (1 << _NUMBER_BITS) - 1
    unique = f"{store_id}/{epoch}/{number}/{opened_at!r}"
    value = (millis << _NUMBER_BITS | epoch) << _NUMBER_BITS | number
    value = value << _HASH_BITS | int.from_bytes(hashlib.sha256(unique.encode()).digest()[:2], "big")
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def name_prefix(store_id: str) -> str:
    """Return how the display names of all jobs of a store begin."""
    return f"{_PREFIX}.{store_id}."


def read_name(store_id: str, text: str) -> JobName | None:
    """Return what a display name tells, or ``None`` if it is none of this store's."""
    prefix = name_prefix(store_id)
    match = _NAME.fullmatch(text.removeprefix(prefix)) if text.startswith(prefix) else None
    return None if match is None else read_id(match[1], int(match[2]))


def read_id(job_id: str, attempt: int = 1) -> JobName | None:
    """Return what a job's id tells, or ``None`` if it is none."""
    if not _ID.fullmatch(job_id):
        return None
    value = 0
    for char in job_id:
        value = value << 5 | _ALPHABET.index(char)
    value >>= _HASH_BITS
    mask = (1 << _NUMBER_BITS) - 1
    return JobName(job_id, attempt, (value >> 2 * _NUMBER_BITS) / 1_000, value >> _NUMBER_BITS & mask, value & mask)


def display_name(store_id: str, job_id: str, attempt: int, label: str) -> str:
    """Return the display name by which an attempt to create a job can be found again."""
    return f"{name_prefix(store_id)}{job_id}.{attempt}" + (f".{label}" if label else "")


def file_name(job_id: str, attempt: int, renewed: int = 0) -> str:
    """Return the client-chosen name of a job's input file: a second upload of it is refused, so it is idempotent.

    Args:
        job_id: the job.
        attempt: number of the create for which it was uploaded first.
        renewed: how often it was uploaded again since it had become too old.
    """
    return f"files/cp-{job_id}-{attempt}" + (f"-{renewed}" if renewed else "")


def choose_form(  # noqa: PLR0917 - as those have them who ask
    settings: Settings, framing: Framing, ledger: Ledger, batch: Batch, name_bytes: int, now: float = 0.0
) -> Form:
    """Return how a batch travels: inline only where it is small, and a create of unknown fate cannot cost much.

    Args:
        settings: the limits of the inline form.
        framing: what the wire adds around rows.
        ledger: knows what the batch is expected to cost.
        batch: the batch.
        name_bytes: length of the longest display name that the job will have.
        now: the time: promotional prices end.
    """
    size_bytes = framing.inline_envelope_bytes + name_bytes
    size_bytes += batch.line_bytes + batch.count * framing.inline_row_bytes
    if batch.as_file or size_bytes >= settings.inline_bytes_max:
        return "file"
    if expected_output_bytes(batch.lane, batch.count) > settings.inline_output_bytes_max:
        return "file"
    if settings.inline_cost_max_usd is None:
        return "inline"
    cost_picousd = ledger.expected_picousd(batch.lane, batch.count, batch.tokens, now)
    if cost_picousd is None:
        return "inline" if batch.count <= settings.inline_requests_max else "file"
    return "inline" if cost_picousd <= int(settings.inline_cost_max_usd * PICO) else "file"
