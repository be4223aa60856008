"""Errors as answers: what SDKs repeat by themselves, and what they leave alone."""

from __future__ import annotations

import json

import pytest

import carpool
from carpool import errors
from carpool.surfaces.refusals import google_body, refusal_of

REPEATED = {408, 409, 425, 429, *range(500, 600)}
"""What LangChain, OpenAI's SDKs and google-genai's own retries send again."""
MENDED_BY_WAITING = {errors.ClientClosed, errors.StoreFull}
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, carpool.CarpoolError) and not kind.__name__.startswith("_")
]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_waiting_mends_has_a_status_that_is_repeated(kind: type[carpool.CarpoolError]) -> None:
    refusal = refusal_of(kind("what happened"))
    body = json.loads(google_body(refusal))["error"]
    assert body == {"code": refusal.code, "message": "what happened", "status": refusal.status}
    if kind in MENDED_BY_WAITING:
        assert (refusal.code, refusal.status, refusal.retry_after_s > 0) == (503, "UNAVAILABLE", True)
    elif refusal.code == 500:
        assert not issubclass(kind, carpool.RequestError), "an error of one request is final"
    else:
        assert refusal.code not in REPEATED
        assert refusal.retry_after_s == 0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (400, 400), (403, 403), (404, 404), (422, 422), (3, 400), (5, 404), (7, 403), (16, 401), (9, 400),
        (8, 400), (13, 400), (14, 400), (4, 400), (408, 400), (409, 400), (429, 400), (500, 400), (503, 400),
        (None, 400),
    ],
)  # fmt: skip
def test_what_the_service_refused_keeps_its_words_and_is_never_repeated(sent: int | None, code: int) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest"}]
    error = carpool.RequestRejected(
        "ours", code=sent, status="FAILED_PRECONDITION", message="the service's own", details=details
    )
    refusal = refusal_of(error)
    assert refusal.code == code
    assert json.loads(google_body(refusal))["error"] == {
        "code": code, "message": "the service's own", "status": "FAILED_PRECONDITION", "details": details,
    }  # fmt: skip


def test_a_refusal_does_not_show_its_message_in_its_repr() -> None:
    assert "secret" not in repr(refusal_of(carpool.RequestFailed("secret words of a prompt")))
