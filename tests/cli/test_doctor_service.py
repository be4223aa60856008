"""``carpool doctor`` and the service: what its answers mean, and that there is none."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Any, Self

import pytest
from aiohttp import web

from carpool.cli.checks_of_service import Said, check_batches, check_clock, check_endpoint
from carpool.cli.findings import Finding
from carpool.emulator import Plan

from .program import API_KEY, PATIENCE_S, Inside, Service

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Odd:
    """A service in a thread that answers as it is told."""

    def __init__(self) -> None:
        self.models: Any = {"status": 200, "text": "{}"}
        self.batches: Any = {"status": 200, "text": "{}"}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="odd")
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method == "CONNECT":  # it is asked to be a proxy
            return web.Response(status=403)
        if request.query.get("pageSize") != "1":
            return web.Response(text="{}")  # the client's own look
        return web.Response(**(self.models if request.path.endswith("/models") else self.batches))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"


@pytest.fixture
def odd() -> Iterator[Odd]:
    with Odd() as odd:
        yield odd


NO_PROXIES = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "")


def found_by(inside: Inside, **environ: str) -> dict[str, dict[str, str]]:
    done = inside.run("doctor", "--json", **(NO_PROXIES | environ))
    found = {check["name"]: check for check in done.data["checks"]}
    assert done.code == any(check["state"] == "failed" for check in found.values())
    assert done.err == ""
    return found


@pytest.mark.parametrize(
    ("status", "error", "state", "words", "advice"),
    [
        (400, "API key not valid.", "failed", "API key not valid", "the key is not valid"),
        (401, "Wants OAuth.", "failed", "Wants OAuth", "the key is not valid"),
        (403, "The API is not enabled.", "failed", "not enabled", "the key may not do this"),
        (404, "Not found.", "failed", "answered 404", "without /v1beta"),
        (429, "Quota.", "warning", "Quota", "try later"),
        (503, "Overloaded.", "failed", "Overloaded", "trouble of its own"),
        (302, "", "failed", "answered 302", "no Gemini API"),
    ],
)
def test_answers_that_are_none(
    inside: Inside, odd: Odd, *, status: int, error: str, state: str, words: str, advice: str
) -> None:
    body = f'{{"error": {{"code": {status}, "message": "{error}", "status": "SOME_STATUS"}}}}'
    odd.models = {"status": status, "text": body if error else ""}
    found = found_by(inside, CARPOOL_BASE_URL=odd.base_url)
    assert found["endpoint"]["state"] == state
    assert words in found["endpoint"]["found"]
    assert advice in found["endpoint"]["advice"]
    assert found["batches"]["state"] == "skipped"


def test_a_key_that_the_service_does_not_take_is_not_shown(inside: Inside, service: Service) -> None:
    service.play(Plan(api_keys=frozenset({"another"})))
    found = found_by(inside)
    assert found["endpoint"]["state"] == "failed"
    assert "the key is not valid" in found["endpoint"]["advice"]
    assert API_KEY not in str(found)


def test_pages_in_the_place_of_answers(inside: Inside, odd: Odd) -> None:
    odd.models = {"status": 502, "text": f"<html>{'x' * 2_000_000}", "content_type": "text/html"}
    found = found_by(inside, CARPOOL_BASE_URL=odd.base_url)
    assert found["endpoint"]["found"].endswith("answered 502")


@pytest.mark.parametrize("status", [403, 404])
def test_a_key_without_batches(inside: Inside, odd: Odd, status: int) -> None:
    odd.batches = {"status": status, "text": '{"error": {"message": "Batches want billing."}}'}
    found = found_by(inside, CARPOOL_BASE_URL=odd.base_url)
    assert found["endpoint"]["state"] == "ok"
    assert found["batches"]["state"] == "failed"
    assert "Batches want billing" in found["batches"]["found"]
    assert "billing" in found["batches"]["advice"]


def test_batches_of_which_nothing_is_known() -> None:
    for said in (Said(status=500, words="INTERNAL"), Said(words="no answer within 30 s")):
        assert check_batches(said).state == "warning"


@pytest.mark.parametrize("off", [timedelta(hours=1), -timedelta(hours=1)], ids=["behind", "ahead"])
def test_a_clock_that_is_wrong(inside: Inside, odd: Odd, off: timedelta) -> None:
    odd.models = {"text": "{}", "headers": {"Date": format_datetime(datetime.now(UTC) + off, usegmt=True)}}
    found = found_by(inside, CARPOOL_BASE_URL=odd.base_url)
    assert found["clock"]["state"] == "warning"
    assert "deadlines" in found["clock"]["advice"]


@pytest.mark.parametrize(
    ("off_s", "expected"), [(0.0, "ok"), (-59.0, "ok"), (60.0, "ok"), (61.1, "warning"), (-63.0, "warning")]
)
def test_how_far_a_clock_may_be_off(off_s: float, expected: str) -> None:
    """Between question and answer lies a second, and the header has no parts of one."""
    there = NOW + timedelta(seconds=off_s)
    said = Said(status=200, date=there, asked_at=NOW.timestamp() - 1, answered_at=NOW.timestamp())
    assert check_clock(said).state == expected


@pytest.mark.parametrize("date", ["", "yesterday", "Sat, 21 Nov 2026 12:00:00 -0000"])
def test_a_service_that_does_not_say_what_time_it_is(inside: Inside, odd: Odd, date: str) -> None:
    odd.models = {"text": "{}", "headers": {"Date": date}}
    assert found_by(inside, CARPOOL_BASE_URL=odd.base_url)["clock"]["state"] == "skipped"


# -- nobody answers


def test_nobody_listens(inside: Inside) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        found = found_by(inside, CARPOOL_BASE_URL=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert found["endpoint"]["state"] == "failed"
    assert "cannot be reached" in found["endpoint"]["found"]
    assert "is there a network" in found["endpoint"]["advice"]
    assert (found["batches"]["state"], found["clock"]["state"]) == ("skipped", "skipped")


def test_a_name_that_nobody_knows(inside: Inside) -> None:
    found = found_by(inside, CARPOOL_BASE_URL="https://gemini.invalid")
    assert "its name is not known" in found["endpoint"]["advice"]


def test_tls_that_fails(inside: Inside, odd: Odd) -> None:
    found = found_by(inside, CARPOOL_BASE_URL=odd.base_url.replace("http:", "https:"))
    assert "TLS failed" in found["endpoint"]["advice"]


@pytest.mark.parametrize("listens", [True, False])
def test_a_proxy_that_fails(inside: Inside, odd: Odd, *, listens: bool) -> None:
    proxy = odd.base_url if listens else "http://127.0.0.1:9"
    found = found_by(inside, CARPOOL_BASE_URL="https://gemini.invalid", HTTPS_PROXY=proxy, https_proxy=proxy)
    assert "the proxy refuses or cannot be reached" in found["endpoint"]["advice"]
    assert found["proxy"]["found"].endswith(proxy)


def test_a_base_url_that_cannot_be_used(inside: Inside) -> None:
    found = found_by(inside, CARPOOL_BASE_URL="http://gemini.example")
    assert found["endpoint"]["state"] == "failed"
    assert "must be https" in found["endpoint"]["found"]
    assert "batches" not in found


@pytest.mark.parametrize("status", [200, 204, 418])
def test_every_status_has_a_finding(status: int) -> None:
    found = check_endpoint("https://gate.example", Said(status=status))
    assert isinstance(found, Finding)
    assert (found.state == "ok") == (status == 200)
