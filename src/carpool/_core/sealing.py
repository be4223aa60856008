"""What a batch becomes when it is sealed: its names, and whether it travels inline or as a file.

Owns the form of names and the limits of the inline form. It must not know what becomes of the job.
"""

from __future__ import annotations

import hashlib
from typing import Final

from carpool._core.accumulator import Batch
from carpool._core.ledger import Ledger, expected_output_bytes
from carpool._core.model import Form, Framing
from carpool.settings import Settings
from carpool.types import PICO

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def ulid(now: float, unique: str) -> str:
    """Return a ULID in lower case: 48 bits of the time in milliseconds, and 80 bits that follow from a unique text."""
    number = (int(now * 1000) & (1 << 48) - 1) << 80
    number |= int.from_bytes(hashlib.sha256(unique.encode()).digest()[:10], "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def display_name(store_id: str, job_id: str, attempt: int, label: str) -> str:
    """Return the display name by which an attempt to create a job can be found again."""
    return f"cp1.{store_id}.{job_id}.{attempt}" + (f".{label}" if label else "")


def file_name(job_id: str, attempt: int) -> str:
    """Return the client-chosen name of a job's input file: a second upload of it is refused, so it is idempotent."""
    return f"files/cp-{job_id}-{attempt}"


def choose_form(settings: Settings, framing: Framing, ledger: Ledger, batch: Batch, name_bytes: int) -> Form:
    """Return how a batch travels: inline only where it is small, and a create of unknown fate cannot cost much.

    Args:
        settings: the limits of the inline form.
        framing: what the wire adds around rows.
        ledger: knows what the batch is expected to cost.
        batch: the batch.
        name_bytes: length of the longest display name that the job will have.
    """
    size_bytes = framing.inline_envelope_bytes + name_bytes
    size_bytes += batch.line_bytes + batch.count * framing.inline_row_bytes
    if batch.as_file or size_bytes >= settings.inline_bytes_max:
        return "file"
    if expected_output_bytes(batch.lane, batch.count) > settings.inline_output_bytes_max:
        return "file"
    if settings.inline_cost_max_usd is None:
        return "inline"
    cost_picousd = ledger.expected_picousd(batch.lane, batch.count, batch.tokens)
    if cost_picousd is None:
        return "inline" if batch.count <= settings.inline_requests_max else "file"
    return "inline" if cost_picousd <= int(settings.inline_cost_max_usd * PICO) else "file"
