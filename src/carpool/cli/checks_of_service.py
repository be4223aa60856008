"""What ``carpool doctor`` asks the service: whether it answers, takes the key, has batches, and what time it is there.

Owns what an answer, or none, means. Nothing that is asked costs money.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from carpool._showing import shown, status_word
from carpool.cli.findings import Finding
from carpool.errors import ConfigurationError

if TYPE_CHECKING:
    from carpool import Client

CLOCK_S: Final = 60.0
"""How far the clocks may be apart."""
_PATIENCE_S: Final = 30.0
_BYTES_MAX: Final = 1_000_000
_MODELS: Final = "/v1beta/models?pageSize=1"
_BATCHES: Final = "/v1beta/batches?pageSize=1"
_NO_BATCHES: Final = "batches may want a project with billing; see the plan of the key at https://aistudio.google.com"


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    status: str = ""


class _Body(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class Said(NamedTuple):
    """What came of a call."""

    status: int = 0
    """Of HTTP; 0: nobody answered."""
    words: str = ""
    """Why not, or what the service said of an error."""
    date: datetime | None = None
    """When that was, by the service's clock."""
    asked_at: float = 0.0
    answered_at: float = 0.0


async def check_service(environ: Mapping[str, str], clock: Callable[[], float]) -> AsyncIterator[Finding]:
    """Ask the service.

    Args:
        environ: where its base URL and the key are.
        clock: tells seconds since the epoch.
    """
    from carpool import Client, MemoryStore, Settings
    from carpool.client import GOOGLE_URL

    base_url = environ.get("CARPOOL_BASE_URL") or GOOGLE_URL
    key = environ.get("GOOGLE_API_KEY") or environ.get("GEMINI_API_KEY")
    try:
        client = Client(api_key=key, base_url=base_url, store=MemoryStore(), settings=Settings())
    except ConfigurationError as error:
        yield Finding(name="endpoint", state="failed", found=str(error), advice="mend CARPOOL_BASE_URL, or unset it")
        return
    async with client:
        models = await ask(client, _MODELS, clock)
        endpoint = check_endpoint(base_url, models)
        yield endpoint
        if endpoint.state == "ok":
            yield check_batches(await ask(client, _BATCHES, clock))
        else:
            yield Finding(name="batches", state="skipped", found="not asked")
        yield check_clock(models)


async def ask(client: Client, target: str, clock: Callable[[], float]) -> Said:
    """Make a call."""
    from carpool._ports import ProviderError

    asked_at = clock()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reply = await client.upstream.forward("GET", target, {})
            answered_at = clock()
            body = b""
            async with aclosing(reply.pieces) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > _BYTES_MAX:
                        break
    except ProviderError as error:
        return Said(words=error.fault.error.message)
    except TimeoutError:
        return Said(words=f"no answer within {_PATIENCE_S:g} s")
    return Said(reply.status, _words(reply.status, body), _date(reply.headers), asked_at, answered_at)


def _words(status: int, body: bytes) -> str:
    if status < 400:
        return ""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return f"{status_word(error.status)} {shown(error.message)}".strip()


def _date(headers: Mapping[str, str]) -> datetime | None:
    try:
        found = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    return found if found.utcoffset() is not None else None


def check_endpoint(base_url: str, said: Said) -> Finding:
    """Look at how the service took a call for its list of models."""
    words = f": {said.words}" if said.words else ""
    found = f"{base_url} answered {said.status}{words}"
    match said.status:
        case 0:
            found, advice = f"{base_url} cannot be reached{words}", _advice_for(said.words)
        case 200:
            return Finding(name="endpoint", state="ok", found=f"{base_url} takes the key")
        case 400 | 401:
            advice = "the key is not valid, or not for this service: make another at https://aistudio.google.com/apikey"
        case 403:
            advice = (
                "the key may not do this: it was revoked or restricted, its project has no Gemini API, or it is used "
                "from a place where that is not to be had"
            )
        case 404:
            advice = "this is no Gemini API: mend CARPOOL_BASE_URL (without /v1beta), or unset it"
        case 429:
            return Finding(name="endpoint", state="warning", found=found, advice="the quota is used up: try later")
        case status if status >= 500:
            advice = "the service has trouble of its own: try later"
        case _:
            advice = "this is no Gemini API: mend CARPOOL_BASE_URL, or unset it"
    return Finding(name="endpoint", state="failed", found=found, advice=advice)


def _advice_for(words: str) -> str:
    """Return what to do where nobody answers, by the kind of the error."""
    kind = words.partition(":")[0]
    if "Certificate" in kind or "SSL" in kind:
        return "TLS failed: a proxy may open it; have SSL_CERT_FILE name the certificates of your organisation"
    if "Proxy" in kind:
        return "the proxy refuses or cannot be reached: mend HTTPS_PROXY, or name the host in NO_PROXY"
    if "DNS" in kind:
        return "its name is not known: is there a network, and is CARPOOL_BASE_URL right?"
    return "is there a network, a firewall, a proxy that HTTPS_PROXY should name?"


def check_batches(said: Said) -> Finding:
    """Look at how the service took a call for its list of jobs."""
    words = f": {said.words}" if said.words else ""
    if said.status == 200:
        return Finding(name="batches", state="ok", found="the key may use batches")
    if said.status in (403, 404):
        found = f"the key may not list batch jobs ({said.status}{words})"
        return Finding(name="batches", state="failed", found=found, advice=_NO_BATCHES)
    return Finding(
        name="batches",
        state="warning",
        found=f"whether the key may use batches is not known ({said.status or 'no answer'}{words})",
        advice="try later",
    )


def check_clock(said: Said) -> Finding:
    """Look at how far this machine's clock is from the service's."""
    if said.date is None:
        return Finding(name="clock", state="skipped", found="the service did not say what time it is")
    there = said.date.timestamp()
    # The header is in whole seconds, and the clock was read somewhere between question and answer.
    off_s = max(0.0, there - said.answered_at, said.asked_at - (there + 1))
    if off_s <= CLOCK_S:
        return Finding(name="clock", state="ok", found=f"{off_s:,.0f} s from the service's")
    advice = "deadlines and the age of results go by it: set it, or have it set (timedatectl set-ntp true)"
    return Finding(name="clock", state="warning", found=f"{off_s:,.0f} s from the service's", advice=advice)
