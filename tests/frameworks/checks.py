"""What must be true of a program's answers, and of what the service saw.

Owns the checks. It must not know how programs run.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, assert_never

from carpool.emulator import Op, expected_text, expected_values

from .plan import Part, Row
from .running import ATTEMPTS, CALLS, Answered, Embedded, Ran

REFUSED_MODEL: Final = "gemini-2.5-flash"
REFUSAL: Final = "the matrix refuses this prompt"
PASSED: Final = frozenset({Op.COUNT, Op.MODELS_GET, Op.MODELS_LIST, Op.UPLOAD_START, Op.FILES_DELETE})
"""What is no request of a batch, and is handed on as it is."""
_NEAR: Final = 1e-6
"""Some libraries take embeddings as single floats."""


def complaints(row: Row, part: Part, ran: Ran) -> Iterator[str]:
    """Yield what is not as it should be."""
    told = ran.told
    if not told.stack.startswith(row.stack):
        yield f"sends with {told.stack}, not with {row.stack}"
    for answer in told.answers:
        if not is_own(answer):
            yield f"{answer.what}: {answer.asked!r} was answered {answer.got!r:.200}"
    for vector in told.vectors:
        if not is_own_vector(vector):
            yield f"{vector.asked!r} was embedded as {vector.got[:4]}..."
    if ran.ledger.live_calls:
        yield f"{ran.ledger.live_calls} live calls"
    match part:
        case "gather":
            yield from _of_gathering(row, ran)
        case "features":
            yield from _of_features(row, ran)
        case "waits" | "returns":
            if [job.rows for job in ran.jobs] != [1] or len(told.answers) != 1:
                yield f"{len(told.answers)} answers, of jobs of {[job.rows for job in ran.jobs]} requests"
        case "hurries":
            if len(told.answers) != 1:
                yield f"{len(told.answers)} answers, not one"
        case "fails":
            yield from _of_a_refusal(row, ran)
            if (sizes := [job.rows for job in ran.jobs]) != [1] * ATTEMPTS:
                yield f"jobs of {sizes} requests, not {ATTEMPTS} of one: the library asked again"
        case _:
            assert_never(part)


def is_own(answer: Answered) -> bool:
    """Return whether an answer is that to its own question: the emulator's answers say what they answer."""
    if answer.alone:
        return bool(answer.got == expected_text(answer.asked))
    begin = re.escape(f'Answer to "{answer.asked[:60]}" [')
    return isinstance(answer.got, str) and re.match(begin + r"[0-9a-f]{16}\]", answer.got) is not None


def is_own_vector(vector: Embedded) -> bool:
    """Return whether an embedding is that of its own text."""
    wanted = expected_values(vector.asked, len(vector.got))
    return all(math.isclose(one, other, abs_tol=_NEAR) for one, other in zip(vector.got, wanted, strict=True))


def _of_gathering(row: Row, ran: Ran) -> Iterator[str]:
    answered = Counter(answer.asked for answer in ran.told.answers)
    if not answered or len(answered) % CALLS or len(set(answered.values())) != 1:
        yield f"{len(answered)} prompts were answered, {answered.total()} times in all, not {CALLS}"
    if ran.told.vectors and len({vector.asked for vector in ran.told.vectors}) != CALLS:
        yield f"{len(ran.told.vectors)} texts were embedded, not {CALLS}"
    sizes = [job.rows for job in ran.jobs]
    if sizes != [CALLS] * row.jobs:
        yield f"jobs of {sizes} requests, not {row.jobs} of {CALLS}"


def _of_features(row: Row, ran: Ran) -> Iterator[str]:
    if not ran.told.answers:
        yield "nothing was answered"
    if not row.refusal:
        return
    yield from _of_a_refusal(row, ran)
    if not all(REFUSAL in refusal.words for refusal in ran.told.refusals):
        yield f"the refusal says {[refusal.words for refusal in ran.told.refusals]}"
    attempts = sum(job.rows for job in ran.jobs if job.model == REFUSED_MODEL)
    if attempts != 1:
        yield f"what is refused was sent {attempts} times"


def _of_a_refusal(row: Row, ran: Ran) -> Iterator[str]:
    kinds = [refusal.kind for refusal in ran.told.refusals]
    if kinds != [row.refusal]:
        yield f"refused by {kinds}, not by {row.refusal}"


def passed_through(ran: Ran) -> int:
    """Return how many calls were handed on as they are."""
    return sum(logged.op in PASSED and logged.status == 200 for logged in ran.requests)
