"""The tables of the page on long awaits say what the code does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from carpool import GenerateResponse, RequestRejected, errors
from carpool.surfaces import refusals
from carpool.surfaces.deadlines import deadline_of
from carpool.surfaces.exchange import told
from carpool.surfaces.messages import Call
from carpool.surfaces.refusals import refusal_of
from carpool.surfaces.routes import Asked, Chat, Embed, Embeddings, EmbedMany, Generate, Pass, route
from carpool.surfaces.sidecar.interim import HEADER, interim_of
from carpool.surfaces.sidecar.limits import Limits
from carpool.types import Facts

PAGE: Final = (Path(__file__).parents[2] / "docs" / "explanation" / "long_awaits.md").read_text("utf-8")
CODE: Final = re.compile(r"`([^`]+)`")


def rows_of(name: str) -> list[list[str]]:
    """Return the cells of a marked table, without its head."""
    table = PAGE.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# -- deadlines


def test_deadlines_are_looked_for_in_the_order_of_the_table() -> None:
    values = {"x-carpool-deadline": "4h", "x-server-timeout": "1000", "x-stainless-read-timeout": "100"}
    expected = {"x-carpool-deadline": "4h", "x-server-timeout": 989.0, "x-stainless-read-timeout": 95.0}
    *headers, default = [cells[1] for cells in rows_of("deadlines")]
    names = [found[1] for cell in headers if (found := CODE.fullmatch(cell))]
    assert (sorted(names), default) == (sorted(values), "the default")
    for name in names:
        assert deadline_of(values, "1d") == expected[name]
        del values[name]
    assert deadline_of(values, "1d") == "1d"


def test_the_reserve_is_as_the_page_says() -> None:
    share, most_s = re.findall(r"The reserve is (\d+) % of the timeout, at most (\d+) seconds", PAGE)[0]
    for timeout_s in (1, 60, 200, 601, 86_400):
        reserve_s = min(timeout_s * int(share) / 100, int(most_s))
        assert deadline_of({"x-stainless-read-timeout": str(timeout_s)}, None) == pytest.approx(timeout_s - reserve_s)
        assert deadline_of({"x-server-timeout": str(timeout_s + 1)}, None) == pytest.approx(timeout_s - reserve_s)


# -- routes


def words_of(asked: Asked) -> str:
    """Return how the table begins for what a call is."""
    match asked:
        case Generate(streamed=True):
            return "one request; its answer is one event"
        case Generate() | Embed():
            return "one request"
        case EmbedMany():
            return "a request for each content"
        case Chat():
            return "one request, translated"
        case Embeddings():
            return "a request for each input"
        case Pass():
            return "handed on"


CALLS: Final = [(found[1], cells[1]) for cells in rows_of("routes") if (found := CODE.fullmatch(cells[0]))]


@pytest.mark.parametrize("prefix", ["/", "/v1/", "/v1beta/", "/gateway/v1beta/"])
@pytest.mark.parametrize(("call", "words"), CALLS)
def test_calls_become_what_the_table_says(call: str, words: str, prefix: str) -> None:
    method, path = call.split(" ")
    said = words_of(route(Call(method=method, path=prefix + path)))
    assert words.startswith(said)
    assert words == "one request" or said != "one request"


def test_every_kind_of_call_is_in_the_table() -> None:
    kinds = {type(route(Call(method=call.split(" ")[0], path=f"/v1beta/{call.split(' ')[1]}"))) for call, _ in CALLS}
    assert kinds == set(Asked.__args__)


# -- headers of an answer


def test_the_headers_of_an_answer_are_those_of_the_table() -> None:
    facts = Facts(route="batch", job="batches/1", kind="generate", model="m", answered_at=1.0, cost=lambda _: (2, 1))
    response = GenerateResponse("key", b"{}", facts, 0.0, True)
    assert set(told([response])) == {CODE.findall(cells[0])[0] for cells in rows_of("headers")}


# -- errors


def test_the_table_of_errors_is_that_of_the_code() -> None:
    rejected, *own, other = rows_of("errors")
    said = [(CODE.findall(name)[0], int(code), CODE.findall(status)[0]) for name, code, status, _ in own]
    assert said == [(kind.__name__, code, status) for kind, code, status in refusals._OWN]
    unknown = refusal_of(errors.StoreCorrupt("x"))
    assert [other[0], int(other[1]), *CODE.findall(other[2])] == ["any other", unknown.code, unknown.status]
    assert CODE.findall(rejected[0]) == ["RequestRejected"]
    assert refusal_of(RequestRejected("x", code=404, status="NOT_FOUND", message="no model")).code == 404
    assert refusal_of(RequestRejected("x", code=429, status="RESOURCE_EXHAUSTED", message="no")).code == 400


def test_what_is_said_to_be_repeated_has_a_status_that_clients_repeat() -> None:
    for name, code, _, again in rows_of("errors")[1:-1]:
        refusal = refusal_of(getattr(errors, CODE.findall(name)[0])("x"))
        assert (refusal.code >= 500) is again.startswith("yes") is (refusal.retry_after_s > 0), (name, code)


# -- signs of life


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({}, "102"),
        ({"user-agent": "python-httpx2/2.16.2"}, "102"),
        ({"user-agent": "google-genai-sdk/3.4.0 gl-python/3.11.7"}, "102"),
        ({"user-agent": "python-requests/2.34.2"}, "100"),
        ({"user-agent": "python-urllib3/2.8.0"}, "100"),
        ({"user-agent": "Go-http-client/1.1"}, ""),
        ({"user-agent": "google-genai-sdk/1.0.0 gl-go/1.23"}, ""),
        ({HEADER: "none"}, ""),
        ({HEADER: "100"}, "100"),
    ],
)
def test_callers_are_sent_the_interim_response_of_the_table(headers: Mapping[str, str], sent: str) -> None:
    line = interim_of((1, 1), headers)
    assert line.decode()[9:12] == sent
    assert not interim_of((1, 0), headers)


def test_interim_responses_come_as_often_as_pages_say() -> None:
    said = {int(number) for number in re.findall(r"every (\d+) seconds", PAGE)}
    assert said == {Limits().interim_s}
