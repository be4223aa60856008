"""What ``carpool doctor`` looks at: one finding each, with what it means and what to do.

Owns what is fine and what is not. It changes nothing, and must not know how findings are shown.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from difflib import get_close_matches
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from carpool._checkup import DISK_RESERVE_BYTES, NEARLY_FULL_BYTES, SLOTS_MAX, Place, SlotState
from carpool.cli.console import counted
from carpool.cli.findings import Finding
from carpool.errors import ConfigurationError
from carpool.settings import Settings, variables

Version = Callable[[str], str]
"""Returns the version of a package, or raises ``PackageNotFoundError``."""

PACKAGES: Final = {
    "aiohttp": (3, 12),
    "anyio": (4, 12),
    "cyclopts": (5, 0),
    "diskcache": (5, 6, 3),
    "msgspec": (0, 21),
    "platformdirs": (4, 3),
    "rich": (14, 0),
    "yarl": (1, 20),
}
"""Those that carpool needs, and from which version on."""
PYTHON: Final = (3, 11)
GENAI: Final = (2, 4)
"""Major versions of google-genai: the first that is supported, and the first that is not."""
_OWN: Final = frozenset({"CARPOOL_HOME", "CARPOOL_BASE_URL", "CARPOOL_TOKEN"})
_IN_CODE: Final = {
    "CARPOOL_LADDER": "give --ladder, or Settings(ladder=...) in code",
    "CARPOOL_PRICES": "give Settings(prices=...) in code",
    "CARPOOL_API_KEY": "the key is GEMINI_API_KEY or GOOGLE_API_KEY",
    "CARPOOL_DEADLINE": "give --deadline, or deadline=... in code",
}
_KEYS: Final = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
_LEADING: Final = ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_BASE")
_VERTEX: Final = ("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_STORE_SHARE: Final = 0.9
_NUMBER: Final = re.compile(r"[0-9]+")


async def examine(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Look at everything, one after the other."""
    from carpool._checkup import look_at_place, look_at_slots
    from carpool.cli.checks_of_service import check_service
    from carpool.client import home_path

    yield check_packages(sys.version_info[:3], metadata.version)
    yield check_genai(metadata.version)
    yield check_settings(environ)
    for finding in check_variables(environ):
        yield finding
    key = check_key(environ)
    yield key
    if key.state == "failed":
        yield Finding(name="endpoint", state="skipped", found="not asked, for want of a key")
    else:
        async for finding in check_service(environ, time.time):
            yield finding
    home = home_path(None)
    place = look_at_place(home)
    yield check_home(home, place, os.geteuid() if sys.platform != "win32" else place.owner)
    settings = _settings(environ)
    if not place.trouble:
        slots = look_at_slots(home, time.time())
        yield check_disk(place, slots, settings)
        for finding in check_slots(slots):
            yield finding


# -- what is installed


def check_packages(python: tuple[int, ...], version: Version) -> Finding:
    """Look at the versions of Python and of the packages that carpool needs."""
    old: list[str] = []
    found = [f"Python {_dotted(python)}", f"carpool {_version_of('carpool', version) or 'from source'}"]
    if python[:2] < PYTHON:
        old.append(f"Python {_dotted(PYTHON)}")
    for name, least in PACKAGES.items():
        number = _version_of(name, version)
        found.append(f"{name} {number or 'missing'}")
        if _numbers(number) < least:
            old.append(f"{name} {_dotted(least)}")
    if old:
        advice = f"carpool needs {', '.join(old)} or later: pip install --upgrade carpool"
        return Finding(name="packages", state="failed", found=", ".join(found), advice=advice)
    return Finding(name="packages", state="ok", found=", ".join(found))


def check_genai(version: Version) -> Finding:
    """Look for google-genai, which carpool's own transport for it needs."""
    number = _version_of("google-genai", version)
    first, beyond = GENAI
    if not number:
        return Finding(name="google-genai", state="ok", found="not installed; only carpool.genai_client() needs it")
    if first <= _numbers(number)[0] < beyond:
        return Finding(name="google-genai", state="ok", found=number)
    advice = f"carpool is tested with {first}.x to {beyond - 1}.x: pip install 'google-genai>={first},<{beyond}'"
    return Finding(name="google-genai", state="warning", found=number, advice=advice)


def _version_of(name: str, version: Version) -> str:
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(version)[:3])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


# -- the environment


def check_settings(environ: Mapping[str, str]) -> Finding:
    """Look at the variables that hold settings."""
    try:
        Settings.from_env(environ)
    except ConfigurationError as error:
        return Finding(name="settings", state="failed", found=str(error), advice="mend or unset the variable")
    given = sorted(name for name in variables() if name in environ)
    return Finding(name="settings", state="ok", found=", ".join(given) or "all as they come")


def _settings(environ: Mapping[str, str]) -> Settings:
    try:
        return Settings.from_env(environ)
    except ConfigurationError:  # there is a finding about it
        return Settings()


def check_variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look for variables that do not do what was meant."""
    known = _OWN | set(variables())
    odd = sorted(name for name in environ if name.startswith("CARPOOL_") and name not in known)
    hints = [_IN_CODE.get(name) or _meant(name, known) for name in odd]
    if odd:
        found = f"nobody reads {', '.join(odd)}"
        yield Finding(name="variables", state="warning", found=found, advice="; ".join(dict.fromkeys(hints)))
    for name in _LEADING:
        if environ.get(name):
            yield Finding(
                name="variables",
                state="warning",
                found=f"{name} leads clients of others to {_origin(environ[name])}",
                advice="carpool does not read it: CARPOOL_BASE_URL is where carpool calls",
            )
    for name in _VERTEX:
        if environ.get(name, "").lower() in _TRUE:
            yield Finding(
                name="variables",
                state="warning",
                found=f"{name} leads Google's SDK to Vertex AI",
                advice="carpool calls the Gemini API, so that these calls go around it: unset the variable",
            )
    yield _check_proxy(environ)


def _meant(name: str, known: set[str] | frozenset[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"{name} may be meant to be {close[0]}" if close else f"{name} is no setting: see the fields of Settings"


def _check_proxy(environ: Mapping[str, str]) -> Finding:
    proxy = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    if not proxy:
        every = environ.get("all_proxy") or environ.get("ALL_PROXY")
        if every:
            advice = "if calls must go through it, set HTTPS_PROXY as well"
            return Finding(name="proxy", state="warning", found="ALL_PROXY is not read by carpool", advice=advice)
        return Finding(name="proxy", state="ok", found="none")
    scheme, separator, _ = proxy.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        advice = "carpool goes through proxies that are http:// or https://: name such a one, or unset HTTPS_PROXY"
        return Finding(name="proxy", state="failed", found=f"HTTPS_PROXY is a proxy of {scheme}", advice=advice)
    return Finding(name="proxy", state="ok", found=f"calls by https go through {_origin(proxy)}")


def _origin(url: str) -> str:
    """Return what may be shown of a URL: nothing of a user, a password, a path."""
    split = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = f":{split.port}" if split.port else ""
    except ValueError:
        port = ""
    return f"{split.scheme}://{split.hostname or '?'}{port}"


def check_key(environ: Mapping[str, str]) -> Finding:
    """Look for an API key, which is never shown."""
    given = {name: environ[name] for name in _KEYS if environ.get(name)}
    if not given:
        if environ.get("CARPOOL_BASE_URL"):
            return Finding(name="key", state="ok", found="none, and CARPOOL_BASE_URL may want none")
        return Finding(
            name="key",
            state="failed",
            found="neither GOOGLE_API_KEY nor GEMINI_API_KEY is set",
            advice="make a key at https://aistudio.google.com/apikey and export it as GEMINI_API_KEY",
        )
    name, key = next(iter(given.items()))
    found = f"from {name}, fingerprint {sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    if key != key.strip() or not key.isascii() or not key.isprintable() or " " in key:
        advice = "it holds characters that no key has (blank, line break, non-ASCII): export it anew"
        return Finding(name="key", state="failed", found=found, advice=advice)
    if len(set(given.values())) > 1:
        advice = "GEMINI_API_KEY holds another key, which is not used: unset one of the two"
        return Finding(name="key", state="warning", found=found, advice=advice)
    return Finding(name="key", state="ok", found=found)


# -- the home


def check_home(home: Path, place: Place, user: int) -> Finding:
    """Look at where state is kept."""
    advice = "name another folder on a local disk: CARPOOL_HOME"
    if place.trouble:
        return Finding(name="home", state="failed", found=place.trouble, advice=advice)
    if not place.exists:
        return Finding(name="home", state="ok", found=f"{home}, which will be made")
    if place.owner != user:
        found = f"{home} belongs to another user (number {place.owner})"
        return Finding(name="home", state="warning", found=found, advice=advice)
    if place.mode & 0o077:
        found = f"{home} is open to others (mode {place.mode:04o})"
        return Finding(name="home", state="warning", found=found, advice=f"prompts lie in it: chmod 700 {home}")
    return Finding(name="home", state="ok", found=str(home))


def check_disk(place: Place, slots: list[SlotState], settings: Settings) -> Finding:
    """Look at the room that the store has."""
    found = f"{_size(place.free_bytes)} free, up to {_size(settings.store_bytes_max)} allowed a slot"
    if place.free_bytes < DISK_RESERVE_BYTES:
        return Finding(name="disk", state="failed", found=found, advice="nothing is accepted any more: make room")
    if place.free_bytes < NEARLY_FULL_BYTES:
        return Finding(name="disk", state="warning", found=found, advice="there is little left: make room")
    full = [slot for slot in slots if slot.size_bytes > settings.store_bytes_max * _STORE_SHARE]
    if full:
        found = f"{full[0].folder} holds {_size(full[0].size_bytes)} of {_size(settings.store_bytes_max)}"
        advice = "carpool gc removes what is past its time; CARPOOL_STORE_BYTES_MAX is the limit"
        return Finding(name="disk", state="warning", found=found, advice=advice)
    return Finding(name="disk", state="ok", found=found)


def check_slots(slots: list[SlotState]) -> Iterator[Finding]:
    """Look at what lies in the home, and whether somebody works on it."""
    taken = sum(slot.taken for slot in slots)
    found = f"{counted(len(slots), 'slot')}, {taken} held by running processes"
    damaged = [slot for slot in slots if slot.trouble]
    for slot in damaged:
        advice = "nothing in it is lost by waiting: name another CARPOOL_HOME to go on meanwhile"
        yield Finding(name="store", state="failed", found=slot.trouble, advice=advice)
    if taken >= SLOTS_MAX:
        advice = "no other process can begin: end one, or name another CARPOOL_HOME"
        yield Finding(name="store", state="failed", found=found, advice=advice)
    elif not damaged:
        yield Finding(name="store", state="ok", found=found)
    requests, jobs = sum(slot.requests for slot in slots), sum(slot.jobs for slot in slots)
    waiting = f"{counted(requests, 'request')} without an answer, {counted(jobs, 'unfinished job')}"
    ageing = [name for slot in slots for name in slot.ageing]
    fetch = "start a program that uses this home, such as the one that was ended: it goes on with them"
    if ageing:
        found = f"{waiting}; for more than a day: {', '.join(ageing[:5])}"
        advice = f"the server keeps results for two days. At once {fetch}"
        yield Finding(name="waiting", state="warning", found=found, advice=advice)
    elif any(slot.jobs for slot in slots if not slot.taken):
        yield Finding(name="waiting", state="warning", found=f"{waiting}, and nobody works on them", advice=fetch)
    else:
        yield Finding(name="waiting", state="ok", found=waiting)


def _size(size_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes} bytes"
