"""Records to put into stores: small, but with something in every field, and rows that can be told apart."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

from carpool._core.budget import DayAccount, Hold, Totals
from carpool._core.estimate import Habit, Sketch
from carpool._core.messages import PutDay, PutHabit, PutJob, PutMarks, PutResults, PutSeen, PutSegment
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
from carpool._core.routing import Seen
from carpool.settings import Route
from carpool.types import BatchJob, JobStats, ServerError

LANE = Lane("generate", "gemini-3.5-flash")
BASE_URL = "https://example.test"
ORIGIN = f"{BASE_URL}#0123abcd"


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


def put_day(day: int, spent_picousd: int = 7, base_url: str = BASE_URL) -> PutDay:
    return PutDay(
        DayAccount(
            day=day,
            routes={"batch": Totals(requests=3, unknown=1, list_picousd=2**60, paid_picousd=2**59)},
            spent_picousd=spent_picousd,
            full_picousd=1,
            double_picousd=2,
            overrun_picousd=3,
            lost_picousd=4,
            holds=[Hold(id="01abc", day=day, route="batch", reserved_picousd=5, double_picousd=1, doubles=2)],
            granted_picousd=6,
            granted_full_picousd=7,
            granted_double_picousd=8,
            doubles=9,
            base_url=base_url,
        )
    )


def put_habit(model: str, counted: int = 11, base_url: str = BASE_URL) -> PutHabit:
    outputs = Sketch(buckets=[3, 1, 40, 2])
    return PutHabit(Habit(model=model, estimated=10, counted=counted, outputs=outputs, base_url=base_url))


def put_seen(model: str, route: Route = "flex", longest_s: float = 7.5, base_url: str = BASE_URL) -> PutSeen:
    return PutSeen(Seen(model=model, route=route, durations_s=[1.25, longest_s], base_url=base_url))


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
