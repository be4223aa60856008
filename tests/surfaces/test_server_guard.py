"""Who may come in, what is handed on of a request, and the other parts of the sidecar that need no socket."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._showing import without_secrets
from carpool.errors import ConfigurationError
from carpool.surfaces.exchange import Traffic
from carpool.surfaces.guard import Guard, Refused, headers_of_call, is_own, query_of_call, refuse
from carpool.surfaces.interim import interim_of
from carpool.surfaces.limits import Limits, connections_of
from carpool.surfaces.metrics import Metric, metrics_of, written
from carpool.surfaces.rota import Rota
from carpool.types import Health, Receipt, RouteTotals, Stats

LOCAL = "127.0.0.1"
TOKEN = "sesame-0123456789"


def refusal(guard: Guard, *, local: str = LOCAL, target: str = "/v1/x", **headers: str) -> int:
    try:
        guard.check(target, {name.replace("_", "-"): value for name, value in headers.items()}, (1, 1), local)
    except Refused as refused:
        return refused.answer.status
    return 200


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8711", "localhost:8711", "LOCALHOST:8711", "localhost.:8711", "[::1]:8711", "127.8.9.1:8711"],
)
def test_names_and_addresses_of_this_machine_will_do(host: str) -> None:
    assert refusal(Guard(LOCAL, 8711), host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8711",
        "127.0.0.1",
        "127.0.0.1:80",
        "localhost",
        "10.0.0.1:8711",
        "127.0.0.1.evil.example:8711",
        "localhost:8711, evil.example",
        "user@localhost:8711",
        "localhost:8711:8711",
        "localhost:871100",
        "[::1]evil:8711",
        "[::2]:8711",
        "",
        " ",
        "ⓛocalhost:8711",
    ],
)
def test_other_names_will_not(host: str) -> None:
    assert refusal(Guard(LOCAL, 8711), host=host) == 421


def test_an_address_that_led_here_will_do_and_a_name_has_to_be_allowed() -> None:
    guard = Guard("0.0.0.0", 8711, allowed=["carpool.internal", "proxy.example:443", "[fd00::1]:80"])  # noqa: S104 - nothing listens
    assert refusal(guard, host="10.0.0.7:8711", local="10.0.0.7") == 200
    assert refusal(guard, host="10.0.0.7:8711", local="::ffff:10.0.0.7") == 200
    assert refusal(guard, host="10.0.0.8:8711", local="10.0.0.7") == 421
    assert refusal(guard, host="carpool.internal", local="10.0.0.7") == 200
    assert refusal(guard, host="carpool.internal:9000", local="10.0.0.7") == 200
    assert refusal(guard, host="proxy.example:443", local="10.0.0.7") == 200
    assert refusal(guard, host="proxy.example:444", local="10.0.0.7") == 421
    assert refusal(guard, host="[fd00::1]", local="10.0.0.7") == 200


@pytest.mark.parametrize("name", ["", "http://x", "a b", "x:y", "a,b", "x/"])
def test_what_is_no_name_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ConfigurationError, match="without http://"):
        Guard(LOCAL, 8711, allowed=[name])


def test_http_1_0_may_leave_the_host_out() -> None:
    guard = Guard(LOCAL, 8711)
    guard.check("/v1/x", {}, (1, 0), LOCAL)
    with pytest.raises(Refused, match="host"):
        guard.check("/v1/x", {}, (1, 1), LOCAL)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:8711"}, 200),
        ({"origin": "http://localhost:8711", "sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_mode": "cors"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://127.0.0.1:8711"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[bad"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_call(headers: dict[str, str], status: int) -> None:
    assert refusal(Guard(LOCAL, 8711), host="localhost:8711", **headers) == status


@pytest.mark.parametrize(
    ("via", "status"), [("1.1 carpool", 508), ("1.0 fred, 1.1 Carpool (x)", 508), ("1.1 carpooling", 200)]
)
def test_what_went_through_a_carpool_is_not_taken_again(via: str, status: int) -> None:
    assert refusal(Guard(LOCAL, 8711), host="localhost:8711", via=via) == status


@pytest.mark.parametrize("target", ["http://x/y", "x:443", "*", "", "/ü"])
def test_what_is_no_path_is_refused(target: str) -> None:
    assert refusal(Guard(LOCAL, 8711), host="localhost:8711", target=target) in (400, 421)


@given(st.text(), st.text(), st.text())
def test_no_header_breaks_the_guard(host: str, origin: str, via: str) -> None:
    assert refusal(Guard(LOCAL, 8711), host=host, origin=origin, via=via) in (200, 403, 421, 508)


# -- the token


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-carpool-token": TOKEN}, ""),
        ({"x-goog-api-key": TOKEN}, ""),
        ({"x-goog-api-key": "AIza-something-else", "x-carpool-token": TOKEN}, ""),
        ({"authorization": f"Bearer {TOKEN}"}, ""),
        ({"authorization": f"bearer  {TOKEN} "}, ""),
        ({}, f"alt=sse&key={TOKEN}"),
        ({}, f"k%65y={TOKEN}"),
    ],
)
def test_the_token_is_found_where_clients_put_a_key(headers: dict[str, str], query: str) -> None:
    Guard(LOCAL, 8711, token=TOKEN).check_token(headers, query)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"x-goog-api-key": ""}, ""),
        ({"x-goog-api-key": TOKEN[:-1]}, ""),
        ({"x-goog-api-key": TOKEN + "x"}, ""),
        ({"x-goog-api-key": "\udcff\udcfe"}, ""),
        ({"authorization": TOKEN}, ""),
        ({"authorization": f"Basic {TOKEN}"}, ""),
        ({}, f"token={TOKEN}"),
        ({}, "key"),
    ],
)
def test_without_the_token_nobody_comes_in(headers: dict[str, str], query: str) -> None:
    with pytest.raises(Refused) as caught:
        Guard(LOCAL, 8711, token=TOKEN).check_token(headers, query)
    assert caught.value.answer.status == 401
    assert caught.value.answer.headers["www-authenticate"] == "Bearer"
    assert b"UNAUTHENTICATED" in caught.value.answer.body


def test_without_a_token_set_everybody_may_come_in() -> None:
    guard = Guard(LOCAL, 8711)
    guard.check_token({}, "")
    assert not guard.wants_token


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "tökén"])
def test_a_token_that_no_header_could_carry_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        Guard(LOCAL, 8711, token=token)


def test_a_token_is_a_secret() -> None:
    guard = Guard(LOCAL, 8711, token="open-sesame-open-sesame")
    assert "sesame" not in repr(guard)
    assert "sesame" not in without_secrets("it said open-sesame-open-sesame")


# -- what is handed on


def test_keys_and_what_is_of_the_connection_stay_behind() -> None:
    headers = {
        "host": "x",
        "connection": "close, X-Hop",
        "x-hop": "1",
        "content-length": "2",
        "transfer-encoding": "chunked",
        "te": "trailers",
        "proxy-authorization": "x",
        "proxy-connection": "x",
        "x-goog-api-key": "x",
        "authorization": "x",
        "x-carpool-token": "x",
        "cookie": "x",
        "content-type": "application/json",
        "x-goog-upload-command": "start",
        "user-agent": "me",
    }
    assert headers_of_call(headers) == {
        "content-type": "application/json",
        "x-goog-upload-command": "start",
        "user-agent": "me",
    }


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("", ""),
        ("key=AIza", ""),
        ("alt=sse&key=AIza&x=1", "alt=sse&x=1"),
        ("k%65y=AIza&$alt=%20", "$alt=%20"),
        ("access_token=x&keys=1&&a", "keys=1&&a"),
    ],
)
def test_keys_in_a_query_stay_behind_and_the_rest_is_untouched(query: str, left: str) -> None:
    assert query_of_call(query) == left


@pytest.mark.parametrize(
    ("url", "host", "own"),
    [
        ("http://127.0.0.1:8711", "127.0.0.1", True),
        ("http://localhost:8711/v1beta", "127.0.0.1", True),
        ("http://127.0.0.1:8711", "0.0.0.0", True),  # noqa: S104 - nothing listens
        ("http://10.0.0.1:8711", "10.0.0.1", True),
        ("http://carpool.internal:8711", "carpool.internal", True),
        ("http://127.0.0.1:8700", "127.0.0.1", False),
        ("http://10.0.0.1:8711", "127.0.0.1", False),
        ("https://generativelanguage.googleapis.com", "127.0.0.1", False),
        ("http://127.0.0.1:99999", "127.0.0.1", False),
        ("http://[bad", "127.0.0.1", False),
        ("nonsense", "127.0.0.1", False),
    ],
)
def test_an_upstream_that_is_the_sidecar_itself_is_seen(url: str, host: str, own: bool) -> None:
    assert is_own(url, host, 8711) is own


def test_a_refusal_has_the_form_of_googles_errors() -> None:
    answer = refuse(503, "full", retry_after_s=5)
    assert answer.body == b'{"error":{"code":503,"message":"full","status":"UNAVAILABLE"}}'
    assert answer.headers["retry-after"] == "5"


def test_what_a_caller_is_sent_meanwhile_depends_on_what_it_can_read() -> None:
    assert interim_of((1, 0), {}) == b""
    assert interim_of((1, 1), {}).startswith(b"HTTP/1.1 102")
    assert interim_of((1, 1), {"user-agent": "openai-python-requests/x"}).startswith(b"HTTP/1.1 100")


# -- limits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("body_bytes_max", 0),
        ("body_bytes_max", 1.5),
        ("body_bytes_max", True),
        ("bodies_bytes_max", 1),
        ("idle_s", 0),
        ("idle_s", float("nan")),
        ("interim_s", -1),
        ("interim_s", "15"),
        ("grace_s", -1),
        ("grace_s", float("inf")),
        ("connections_max", 15),
        ("connections_max", True),
    ],
)
def test_a_limit_out_of_its_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Limits(**{field: value})


def test_limits_at_their_ends_will_do() -> None:
    limits = Limits(grace_s=0, connections_max=16, body_bytes_max=1, bodies_bytes_max=1)
    assert connections_of(limits) == 16


# -- what is due


def test_a_rota_gives_what_was_put_in_first_and_what_is_put_in_again_later() -> None:
    rota: Rota[str] = Rota(10)
    rota.put("a", 0)
    rota.put("b", 1)
    rota.put("c", 2)
    assert rota.next_at == 10
    rota.put("a", 3)
    assert (rota.first(), rota.next_at) == ("b", 11)
    rota.drop("c")
    rota.drop("c")
    assert "c" not in rota
    assert rota.take_due(10.9, 9) == []
    assert rota.take_due(13, 1) == ["b"]
    assert rota.take_due(13, 9) == ["a"]
    assert (len(rota), rota.first(), rota.next_at) == (0, None, None)


# -- metrics


def test_metrics_are_written_as_prometheus_reads_them() -> None:
    labelled: Mapping[str, float] = {'a"b\\c\nd': 1, "e": 0.5}
    metrics = [
        Metric("x_total", "counter", "One\\two\nthree.", labelled, "name"),
        Metric("usd", "gauge", "Money.", Decimal("0.0000001")),
        Metric("odd", "gauge", "Odd.", float("nan")),
        Metric("none", "gauge", "None.", {}, "name"),
    ]
    assert written(metrics).decode() == (
        "# HELP x_total One\\\\two\\nthree.\n"
        "# TYPE x_total counter\n"
        'x_total{name="a\\"b\\\\c\\nd"} 1\n'
        'x_total{name="e"} 0.5\n'
        "# HELP usd Money.\n# TYPE usd gauge\nusd 0.0000001\n"
        "# HELP odd Odd.\n# TYPE odd gauge\nodd NaN\n"
        "# HELP none None.\n# TYPE none gauge\n"
    )


def test_all_that_a_client_counts_is_among_its_metrics() -> None:
    fields = {name: number for number, name in enumerate(Stats.__struct_fields__, start=100)}
    totals = RouteTotals(requests=3, list_usd=Decimal("0.2"), paid_usd=Decimal("0.1"))
    receipt = Receipt(by_route={"batch": totals}, doubles=7, overrun_usd=Decimal(0), unknown_cost=0)
    traffic = Traffic(asked={"embed": 1}, passed={"GET models": 2}, refused={"ABORTED": 3})
    text = written(metrics_of(Stats(**fields), receipt, Health(status="degraded"), traffic)).decode()
    lines = text.splitlines()
    for number in fields.values():
        assert [line for line in lines if line.endswith(f" {number}")], "a field of Stats is missing"
    for line in (
        'carpool_paid_usd_total{route="batch"} 0.1',
        'carpool_billed_requests_total{route="batch"} 3',
        "carpool_doubles_total 7",
        'carpool_health{status="degraded"} 1',
        'carpool_health{status="ok"} 0',
        'carpool_calls_asked_total{kind="embed"} 1',
        'carpool_calls_passed_total{call="GET models"} 2',
        'carpool_calls_refused_total{status="ABORTED"} 3',
    ):
        assert line in lines
