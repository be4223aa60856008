"""The environment of a command whose Gemini calls are to come to a sidecar, without a change to its code.

Owns the names of the variables by which clients of others are led. It is pure, and touches none that carpool itself
reads: a carpool inside of the command goes on calling the service, and not the sidecar before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final

PLACEHOLDER_KEY: Final = "held-by-carpool"
"""Where a client wants a key before it calls anybody; the sidecar has the one that counts, and hands no other on."""
OPENAI_PATH: Final = "/v1beta/openai/"
LOOPBACK: Final = ("127.0.0.1", "localhost")
_GEMINI: Final = ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_BASE")
_KEYS: Final = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
_NO_PROXY: Final = ("no_proxy", "NO_PROXY")
_SEPARATOR: Final = re.compile(r"[\s,]+")
_PORT: Final = re.compile(r"(?<=[^:]):[0-9]+\Z")


def led_to(url: str, environ: Mapping[str, str], *, openai: bool = False) -> dict[str, str]:
    """Return an environment in which clients of the Gemini API call a sidecar.

    Args:
        url: of the sidecar.
        environ: what the command would have had.
        openai: lead clients of OpenAI's API there too.
    """
    led = dict(environ)
    led.update(dict.fromkeys(_GEMINI, url))
    if not any(environ.get(name) for name in _KEYS):
        led["GEMINI_API_KEY"] = PLACEHOLDER_KEY
    if openai:
        led["OPENAI_BASE_URL"] = url + OPENAI_PATH
        led["OPENAI_API_KEY"] = environ.get("OPENAI_API_KEY") or PLACEHOLDER_KEY
    return led | without_proxy(environ)


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which clients leave out a proxy, with this machine in them.

    Either spelling is read by some; where only one was given, its hosts must be in the other too.
    """
    found: dict[str, str] = {}
    for name, other in (_NO_PROXY, _NO_PROXY[::-1]):
        hosts = _hosts(environ.get(name) or environ.get(other) or "")
        missing = [] if "*" in hosts else [host for host in LOOPBACK if host not in hosts]
        found[name] = ",".join([*hosts, *missing])
    return found


def goes_without_proxy(host: str, named: str) -> bool:
    """Return whether a host is called without a proxy.

    Args:
        host: name or address.
        named: what such a variable says: names, which stand for all below them, addresses, networks, or ``*``.
    """
    host = host.rstrip(".").lower()
    for one in _hosts(named):
        name = _PORT.sub("", one.lower().removeprefix("*").lstrip("."))
        if one == "*" or host == name or host.endswith(f".{name}") or _is_in(host, one):
            return True
    return False


def _hosts(named: str) -> list[str]:
    return [host for host in _SEPARATOR.split(named) if host]


def _is_in(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
