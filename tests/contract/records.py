"""Records to put into stores: small, but with something in every field, and rows that can be told apart."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

from carpool._core.messages import PutJob, PutMarks, PutResults, PutSegment
from carpool._core.model import (
    DIGEST_BYTES,
    EXPLICIT,
    TICKET,
    Job,
    JobState,
    Lane,
    Marks,
    ResultsHead,
    Segment,
    place_of,
)
from carpool.types import BatchJob, JobStats, ServerError

LANE = Lane("generate", "gemini-3.5-flash")
ORIGIN = "https://example.test#0123abcd"


def line(no: int, row: int, text: str = "hello") -> bytes:
    """Return a line that says whose it is."""
    return f'{{"key":"k{no}-{row}","request":{{"text":"{text}"}}}}\n'.encode()


def lines(no: int, count: int, text: str = "hello") -> list[bytes]:
    return [line(no, row, text) for row in range(count)]


def put_segment(no: int, rows: Sequence[bytes] | None = None, *, accepted_at: float = 1_000.5) -> PutSegment:
    rows = list(lines(no, 3) if rows is None else rows)
    count = len(rows)
    segment = Segment(
        no=no,
        lane=LANE,
        origin=ORIGIN,
        accepted_at=accepted_at,
        keys=[f"k{no}-{row}-ü" for row in range(count)],
        ends=array("Q", accumulate(map(len, rows))),
        tokens=array("Q", accumulate(range(count))),
        flags=bytearray((row % 2 * EXPLICIT) | TICKET for row in range(count)),
        digests=bytearray(b"".join(row.to_bytes(DIGEST_BYTES, "big") for row in range(count))),
        deadlines=array("d", (float(row) for row in range(count))),
        lines=rows,
    )
    return PutSegment(segment.head(), rows)


def put_results(no: int, bodies: Sequence[bytes] | None = None, *, kept_at: float = 2_000.25) -> PutResults:
    bodies = [b'{"candidates":[]}', b"", '{"t":"\u2028 🚗"}'.encode()] if bodies is None else list(bodies)
    count = len(bodies)
    head = ResultsHead(
        no=no,
        origin=ORIGIN,
        lane=LANE,
        job="batches/abc123",
        kept_at=kept_at,
        places=[place_of(no, row) for row in range(count)],
        keys=[f"r{no}-{row}" for row in range(count)],
        digests=bytes(DIGEST_BYTES * count),
        flags=bytes([EXPLICIT] * count),
        failed=bytes(row % 2 for row in range(count)),
        ends=array("Q", accumulate(map(len, bodies))).tobytes(),
    )
    return PutResults(head, bodies)


def put_marks(no: int, done: bytes = b"\x01\x00\x01") -> PutMarks:
    return PutMarks(Marks(no=no, done=done, attempts=bytes(len(done))))


def put_job(job_id: str, *, state: JobState = JobState.RUNNING, attempt: int = 2) -> PutJob:
    return PutJob(
        Job(
            id=job_id,
            lane=LANE,
            origin=ORIGIN,
            form="file",
            spans=((1, 0, 3), (2, 1, 2)),
            count=4,
            line_bytes=123,
            tokens=456,
            sealed_at=1_001.0,
            display_name=f"cp1.store.{job_id}.{attempt}",
            state=state,
            attempt=attempt,
            file_name=f"files/cp-{job_id}-{attempt}",
            uploaded_at=1_002.0,
            name="batches/abc123",
            created_at=1_003.0,
            wake_at=None,
            op=7,
            remote=BatchJob(
                name="batches/abc123",
                state="FAILED",
                stats=JobStats(),
                error=ServerError(code=8, status="RESOURCE_EXHAUSTED", message="no, ü", details=[{"a": 1}]),
            ),
        )
    )
