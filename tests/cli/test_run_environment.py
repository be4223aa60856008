"""The environment by which a command's calls are led to a sidecar."""

from __future__ import annotations

import pytest

from carpool.surfaces.environment import PLACEHOLDER_KEY, goes_without_proxy, led_to

URL = "http://127.0.0.1:8711"


def test_clients_of_gemini_are_led_to_the_sidecar_and_all_else_stays() -> None:
    environ = {"PATH": "/bin", "GEMINI_API_KEY": "mine", "GOOGLE_GEMINI_BASE_URL": "https://before.example"}
    assert led_to(URL, environ) == {
        "PATH": "/bin",
        "GEMINI_API_KEY": "mine",
        "GOOGLE_GEMINI_BASE_URL": URL,
        "GEMINI_API_BASE": URL,
        "no_proxy": "127.0.0.1,localhost",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    assert environ["GOOGLE_GEMINI_BASE_URL"] == "https://before.example"


def test_what_carpool_reads_is_not_touched() -> None:
    own = {"CARPOOL_BASE_URL": "https://proxy.example", "CARPOOL_HOME": "/srv/home", "CARPOOL_LINGER_S": "5"}
    led = led_to(URL, own, openai=True)
    assert {name: value for name, value in led.items() if name.startswith("CARPOOL_")} == own


@pytest.mark.parametrize("keys", [{}, {"GEMINI_API_KEY": ""}, {"GOOGLE_API_KEY": "", "GEMINI_API_KEY": ""}])
def test_a_command_without_a_key_gets_one_that_is_none(keys: dict[str, str]) -> None:
    assert led_to(URL, keys)["GEMINI_API_KEY"] == PLACEHOLDER_KEY


@pytest.mark.parametrize("name", ["GOOGLE_API_KEY", "GEMINI_API_KEY"])
def test_a_command_with_a_key_keeps_it(name: str) -> None:
    led = led_to(URL, {name: "mine"})
    assert {key: led[key] for key in led if key.endswith("API_KEY")} == {name: "mine"}


def test_clients_of_openai_are_led_there_only_when_asked() -> None:
    led = led_to(URL, {}, openai=True)
    assert led["OPENAI_BASE_URL"] == f"{URL}/v1beta/openai/"
    assert led["OPENAI_API_KEY"] == PLACEHOLDER_KEY
    assert led_to(URL, {"OPENAI_API_KEY": "sk-mine"}, openai=True)["OPENAI_API_KEY"] == "sk-mine"
    untouched = {"OPENAI_BASE_URL": "https://api.openai.com/v1", "OPENAI_API_KEY": "sk-mine"}
    assert led_to(URL, untouched).items() >= untouched.items()
    assert not any(name.startswith("OPENAI_") for name in led_to(URL, {}))


@pytest.mark.parametrize(
    ("environ", "lower", "upper"),
    [
        ({"no_proxy": "intra.example"}, "intra.example,127.0.0.1,localhost", "intra.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "intra.example"}, "intra.example,127.0.0.1,localhost", "intra.example,127.0.0.1,localhost"),
        ({"no_proxy": "a, b", "NO_PROXY": "c"}, "a,b,127.0.0.1,localhost", "c,127.0.0.1,localhost"),
        ({"no_proxy": "localhost,127.0.0.1"}, "localhost,127.0.0.1", "localhost,127.0.0.1"),
        ({"NO_PROXY": "*"}, "*", "*"),
        ({"no_proxy": ""}, "127.0.0.1,localhost", "127.0.0.1,localhost"),
    ],
)
def test_no_proxy_comes_before_the_sidecar(environ: dict[str, str], lower: str, upper: str) -> None:
    led = led_to(URL, environ)
    assert (led["no_proxy"], led["NO_PROXY"]) == (lower, upper)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("a.example", "a.example"),
        ("A.Example.", "a.example"),
        ("b.a.example", "a.example"),
        ("b.a.example", ".a.example"),
        ("b.a.example", "*.a.example"),
        ("a.example", "x,  a.example:443"),
        ("anything", "*"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1", "fd00::/8"),
        ("::1", "::1"),
    ],
)
def test_hosts_that_are_called_without_a_proxy(host: str, named: str) -> None:
    assert goes_without_proxy(host, named)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("a.example", ""),
        ("ba.example", "a.example"),
        ("a.example", "b.a.example"),
        ("11.1.2.3", "10.0.0.0/8"),
        ("a", "::"),
    ],
)
def test_hosts_that_are_not(host: str, named: str) -> None:
    assert not goes_without_proxy(host, named)
