"""What a command's Python programs are seen to call, and which calls would go around a sidecar.

Owns which hosts are watched, and the folder through which Python programs are. What a program calls that is not Python,
or whose names are looked up and whose sockets are opened outside of Python's own ``socket`` (uvloop, aiodns, gRPC),
nobody sees here. It must not know who runs the command.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

GEMINI_HOST: Final = "generativelanguage.googleapis.com"
_GOOGLE: Final = (
    r"(?:generativelanguage|aiplatform|[a-z0-9-]+-(?:aiplatform|generativelanguage)|aiplatform\.[a-z0-9-]+\.rep)"
    r"(?:\.mtls)?\.googleapis\.com:[0-9]*"
)
"""Where the Gemini API and Vertex AI answer."""
_OPENAI: Final = r"api\.openai\.com:[0-9]*"
_LOOPBACK: Final = r"(?:localhost|127(?:\.[0-9]+){3}|::1|::ffff:127(?:\.[0-9]+){3}|0\.0\.0\.0|::)"
_NOTHING: Final = "(?!)"
_SITE: Final = "sitecustomize.py"


class Watched(msgspec.Struct, frozen=True):
    """Which hosts are watched: regular expressions of ``host:port``; the port is empty where it is not known."""

    resolved: str
    """Names, as they are looked up."""
    connected: str
    """Addresses, as sockets are connected to them: of what has a name only its look-up counts, so that a call counts
    once."""

    def has(self, host: str, port: int) -> bool:
        """Return whether a host is watched, by its name or its address."""
        target = f"{host.rstrip('.').lower()}:{port}"
        return any(re.fullmatch(pattern, target) for pattern in (self.resolved, self.connected))


class Seen(msgspec.Struct, frozen=True):
    """A line of the report."""

    pid: int
    program: str = ""
    """Name of the file that ran."""
    carpool: bool = False
    """It loads a carpool of its own, which calls the service by design."""
    host: str = ""
    """Empty: a Python program began to be watched."""
    port: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen."""

    programs: int
    """Python interpreters that were watched."""
    calls: list[Seen]
    carpools: int = 0
    """Of the interpreters: those that loaded a carpool of their own."""
    unreadable: int = 0
    """Lines that are none of ours."""


_seen: Final = msgspec.json.Decoder(Seen)


def watched_hosts(upstream: str, *, openai: bool = False) -> Watched:
    """Return what calls must not go to by themselves.

    Args:
        upstream: base URL of the service behind the sidecar; Google's hosts are watched in any case.
        openai: watch OpenAI's as well.
    """
    names = f"{_GOOGLE}|{_OPENAI}" if openai else _GOOGLE
    split = urlsplit(upstream)
    host, port = (split.hostname or "").rstrip("."), split.port or (80 if split.scheme == "http" else 443)
    if re.fullmatch(_LOOPBACK, host):
        return Watched(names, f"{_LOOPBACK}:{port}")
    if _is_address(host):
        return Watched(names, re.escape(f"{host}:{port}"))
    return Watched(f"{names}|{re.escape(host)}:(?:{port})?", _NOTHING)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Witness:
    """Watches the Python programs of a command, from entering to leaving.

    Args:
        watched: the hosts.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        folder = self._folder = Path(tempfile.mkdtemp(prefix="carpool-witness-"))
        shutil.copyfile(Path(__file__).with_name(_SITE), folder / _SITE)
        (folder / "watched.json").write_bytes(msgspec.json.encode(self._watched))
        (folder / "seen.jsonl").touch(mode=0o600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._opened())

    def watching(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables by which Python programs are watched."""
        path = environ.get("PYTHONPATH")
        folder = str(self._opened())
        return {"PYTHONPATH": f"{folder}{os.pathsep}{path}" if path else folder}

    def report(self) -> Report:
        """Return what was seen so far."""
        programs, carpools, unreadable = set[int](), set[int](), 0
        calls: list[Seen] = []
        for line in (self._opened() / "seen.jsonl").read_bytes().splitlines():
            try:
                seen = _seen.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                unreadable += 1
                continue
            if seen.host:
                calls.append(seen)
            else:
                (carpools if seen.carpool else programs).add(seen.pid)
        return Report(programs=len(programs), carpools=len(carpools), calls=calls, unreadable=unreadable)

    def _opened(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the witness was not entered")
        return self._folder
