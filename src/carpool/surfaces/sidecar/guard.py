"""Who may come in: the right name, no page of a foreign site, no request of our own, and the token where one is due.

Owns these rules and the words of a refusal, in the form of Google's errors, and that keys of callers go no further. It
must not know sockets, or what a call asks for.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias
from urllib.parse import unquote_plus, urlsplit

from carpool._showing import keep_secret
from carpool.errors import ConfigurationError
from carpool.surfaces.messages import JSON, Answer
from carpool.surfaces.refusals import Refusal, google_body

Address: TypeAlias = IPv4Address | IPv6Address

TOKEN_HEADER: Final = "x-carpool-token"  # noqa: S105 - the name of a header
_STATUSES: Final[Mapping[int, str]] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    421: "FAILED_PRECONDITION",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    508: "FAILED_PRECONDITION",
}
_AUTHORITY: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/\[\]@,]+))(?::(?P<port>[0-9]{1,5}))?")
_OURSELVES: Final = re.compile(r"\bcarpool\b", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_KEY_HEADERS: Final = frozenset({"x-goog-api-key", "authorization", TOKEN_HEADER, "proxy-authorization", "cookie"})
_KEY_FIELDS: Final = frozenset({"key", "access_token", "oauth_token"})
_OF_ONE_CONNECTION: Final = frozenset(
    {
        "connection",
        "content-encoding",  # bodies are unpacked
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Refused(Exception):
    """A request is not answered as it asks.

    Attributes:
        reason: in a word, for counting.
        answer: what the caller gets.
    """

    def __init__(self, reason: str, answer: Answer) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


def refuse(code: int, message: str, *, retry_after_s: int | None = None, **headers: str) -> Answer:
    """Return an error in Google's form."""
    body = google_body(Refusal(code=code, status=_STATUSES.get(code, "INVALID_ARGUMENT"), message=message))
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    if retry_after_s is not None:
        more["retry-after"] = str(retry_after_s)
    return Answer(status=code, headers={**JSON, **more}, body=body)


class Guard:
    """The rules of one listener.

    Args:
        host: what it was told to listen on.
        port: on which it listens.
        allowed: further names that mean it, with a port or for any.
        token: that callers must show; ``None``: none.

    Raises:
        ConfigurationError: a name or the token cannot be used.
    """

    def __init__(self, host: str, port: int, *, allowed: Iterable[str] = (), token: str | None = None) -> None:
        self._port = port
        self._names = {(host.lower().rstrip("."), port), ("localhost", port)}
        self._any_port: set[str] = set()
        for name in allowed:
            found = _AUTHORITY.fullmatch(name)
            if found is None:
                raise ConfigurationError(
                    f"{name[:100]!r} is no name of a host that could be allowed; it must be like "
                    "'carpool.internal' or 'carpool.internal:8711', without http://"
                )
            bare = (found["v6"] or found["name"]).lower().rstrip(".")
            if found["port"]:
                self._names.add((bare, int(found["port"])))
            else:
                self._any_port.add(bare)
        self._token = None if token is None else checked_token(token).encode()

    @property
    def wants_token(self) -> bool:
        """Whether callers must show a token."""
        return self._token is not None

    def check(self, target: str, headers: Mapping[str, str], version: tuple[int, int], local: str) -> None:
        """Look at where a request comes from, and whom it means.

        Args:
            target: of the request line.
            headers: names in lower case; values of doubled ones are joined by commas.
            version: of HTTP.
            local: the address of this end of the connection.

        Raises:
            Refused: it may not come in.
        """
        if not target.startswith("/"):
            raise Refused("proxy", refuse(421, "carpool is no proxy: call it by its own URL, and set NO_PROXY for it"))
        if not target.isascii():
            raise Refused("target", refuse(400, "the path holds characters that must be percent-encoded"))
        host = headers.get("host")
        if host is None and version >= (1, 1):
            raise Refused("host", refuse(400, "the Host header is missing"))
        if host is not None and not self.means_us(host, local):
            raise Refused(
                "host",
                refuse(
                    421,
                    "the Host header names another server than this sidecar; call it by the URL that it printed when "
                    "it started, or start it with --allow-host and the name that you use",
                ),
            )
        if _is_cross_site(headers, host):
            raise Refused("cross_site", refuse(403, "pages of other sites may not call this sidecar"))
        if _OURSELVES.search(headers.get("via", "")):
            raise Refused(
                "loop",
                refuse(
                    508,
                    "this request has passed through a carpool before: the upstream of one of them is a carpool; "
                    "set CARPOOL_BASE_URL to the service itself",
                ),
            )

    def means_us(self, authority: str, local: str) -> bool:
        """Return whether a host, with or without port, is this listener.

        An address cannot be made to mean another machine by whoever owns a name, so any that led here will do.
        """
        found = _AUTHORITY.fullmatch(authority.strip())
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower().rstrip(".")
        port = int(found["port"] or 80)
        if name in self._any_port or (name, port) in self._names:
            return True
        address = address_of(name)
        return address is not None and port == self._port and (address.is_loopback or address == address_of(local))

    def check_token(self, headers: Mapping[str, str], query: str) -> None:
        """Look for the token wherever clients put an API key.

        Raises:
            Refused: it is not there.
        """
        if not self.knows(headers, query):
            raise Refused(
                "token",
                refuse(
                    401,
                    "the token of this sidecar is missing or wrong; give it to your client as its API key "
                    f"(x-goog-api-key, Authorization: Bearer, ?key=), or send it as {TOKEN_HEADER}",
                    www_authenticate="Bearer",
                ),
            )

    def knows(self, headers: Mapping[str, str], query: str) -> bool:
        """Return whether a caller has the token, or needs none."""
        token = self._token
        if token is None:
            return True
        shown = [headers.get(TOKEN_HEADER, ""), headers.get("x-goog-api-key", ""), _bearer(headers)]
        shown += [value for name, value in _fields(query) if name == "key"]
        found = [hmac.compare_digest(one.encode("utf-8", "surrogateescape"), token) for one in shown]
        return any(found)


def checked_token(token: str) -> str:
    """Return a token that can be sent in a header; whatever is shown from now on is without it.

    Raises:
        ConfigurationError: it cannot.
    """
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError("the token is empty, or holds blanks, line breaks or other than ASCII characters")
    keep_secret(token)
    return token


def headers_of_call(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what is handed on of a caller's headers: nothing that is about its connection, and none of its keys."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    dropped = _OF_ONE_CONNECTION | _KEY_HEADERS | named
    return {name: value for name, value in headers.items() if name not in dropped and not name.startswith("proxy-")}


def query_of_call(query: str) -> str:
    """Return a query without keys, and otherwise as it came."""
    if not query:
        return query
    return "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in _KEY_FIELDS)


def is_own(url: str, host: str, port: int) -> bool:
    """Return whether a URL is the listener on a host and port: by name, not by asking who else that name means."""
    try:
        split = urlsplit(url)
        upstream_port = split.port or (443 if split.scheme == "https" else 80)
    except ValueError:
        return False  # whoever calls it says what is wrong
    if upstream_port != port or split.hostname is None:
        return False
    there, here = _machine(split.hostname), _machine(host)
    return there == here or (here == "any" and there == "loopback")


def _machine(host: str) -> str:
    name = host.lower().rstrip(".")
    address = address_of(name)
    if name == "localhost" or (address is not None and address.is_loopback):
        return "loopback"
    return "any" if address is not None and address.is_unspecified else name


def address_of(host: str) -> Address | None:
    """Return an address, IPv4 in either form as IPv4; ``None``: this is a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_cross_site(headers: Mapping[str, str], host: str | None) -> bool:
    """Return whether a browser sent this for a page that is not ours; other callers say nothing of that kind."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != (host or "").strip().lower()


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def _fields(query: str) -> Iterable[tuple[str, str]]:
    for part in query.split("&"):
        name, _, value = part.partition("=")
        yield unquote_plus(name), unquote_plus(value)
