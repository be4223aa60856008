"""What errors mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.model import Fault
from carpool._core.retry import Refusal, bad_rows, is_retryable, pause_s, read_refusal
from carpool.types import ServerError


@pytest.mark.parametrize("code", [4, 8, 13, 14, 429, 500, 502, 503, 504])
def test_a_row_is_sent_again_after_what_may_pass(code: int) -> None:
    assert is_retryable(ServerError(code))


@pytest.mark.parametrize("code", [0, 1, 3, 5, 7, 16, 17, 400, 401, 403, 404, 499, 501])
def test_a_row_is_rejected_after_what_will_not_pass(code: int) -> None:
    assert not is_retryable(ServerError(code))


FILE_WORDS = "You do not have permission to access the File abc or it may not exist."


@pytest.mark.parametrize(
    ("code", "message", "status", "details", "expected"),
    [
        (429, "", "", None, Refusal.BACK_OFF),
        (413, "", "", None, Refusal.TOO_LARGE),
        (401, "", "", None, Refusal.CREDENTIALS),
        (403, "denied", "PERMISSION_DENIED", None, Refusal.CREDENTIALS),
        (403, FILE_WORDS, "PERMISSION_DENIED", None, Refusal.FILE_GONE),
        (400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", None, Refusal.CREDENTIALS),
        (400, "bad", "INVALID_ARGUMENT", [{"reason": "API_KEY_INVALID"}], Refusal.CREDENTIALS),
        (400, "API key expired. Please renew the API key.", "INVALID_ARGUMENT", None, Refusal.CREDENTIALS),
        (400, "Request payload size exceeds the limit: 20971520 bytes.", "", None, Refusal.TOO_LARGE),
        (400, "The file is too large", "", None, Refusal.TOO_LARGE),
        (400, "User location is not supported", "FAILED_PRECONDITION", None, Refusal.REJECT),
        (400, "Request contains an invalid argument.", "INVALID_ARGUMENT", None, Refusal.ISOLATE),
        (422, "", "", None, Refusal.ISOLATE),
        (404, "models/x is not found", "NOT_FOUND", None, Refusal.REJECT),
        (409, "", "", None, Refusal.REJECT),
    ],
)
def test_a_refused_create_is_read(code: int, message: str, status: str, details: object, expected: Refusal) -> None:
    assert read_refusal(Fault(kind="refused", error=ServerError(code, message, status, details))) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Error on line 1: invalid JSON, near column 1032: no such field: 'thinking_config'", [0]),
        ("Error on line 3: x\nError on line 2: y\nError on line 3: z", [1, 2]),
        ("Unknown name at 'batch.input_config.requests.requests[2]': Cannot find field.", [2]),
        ("requests[0] and line 4", [0]),
        ("Error on line 0: x", []),
        ("Error on line 99: x", []),
        ("requests[5]", []),
        ("outline 3, requests[x]", []),
        ("Request contains an invalid argument.", []),
        (f"line {'9' * 5_000} and requests[{'1' * 5_000}]", []),
    ],
)
def test_the_rows_that_a_refusal_names_are_found(message: str, expected: list[int]) -> None:
    assert bad_rows(message, 5) == expected


@given(st.text(), st.integers(0, 10))
def test_whatever_the_server_says_only_rows_that_exist_are_named(message: str, count: int) -> None:
    assert all(0 <= row < count for row in bad_rows(message, count))


def test_pauses_double_up_to_the_ceiling_and_are_the_same_in_a_replay() -> None:
    pauses = [pause_s(1.0, 100.0, failures, "seed") for failures in range(1, 200)]
    assert pauses == [pause_s(1.0, 100.0, failures, "seed") for failures in range(1, 200)]
    assert all(0.8 * min(100.0, 2.0**n) <= pause <= min(100.0, 2.0**n) for n, pause in enumerate(pauses))
    assert pause_s(1.0, 100.0, 1, "another") != pauses[0]
