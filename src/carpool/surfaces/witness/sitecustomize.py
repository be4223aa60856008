"""Writes down which of some hosts a Python program calls: for ``carpool doctor --intercept``.

Stands alone: it is copied into a folder with ``watched.json`` and ``seen.jsonl`` that is put on ``PYTHONPATH``, so that
every Python from 3.8 on loads it before its program, children too. It must not know carpool, and the program must not
notice it: whatever cannot be written down is not.
"""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any, cast

_SERVICES = {"http": "80", "https": "443"}
_HOST_CHARS_MAX = 255
_OWN_CARPOOL = "carpool._runtime.loop"
"""What every client loads, and nothing else."""


def watch(folder: str) -> None:
    """Watch the calls of this interpreter from now on."""
    with open(os.path.join(folder, "watched.json"), encoding="utf-8") as file:  # noqa: PTH118, PTH123 - loads no more
        watched = json.load(file)
    resolved, connected = re.compile(watched["resolved"]), re.compile(watched["connected"])
    report = os.path.join(folder, "seen.jsonl")  # noqa: PTH118 - as above

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            tell(connected, *_host_and_port(arguments[1]))
        elif event == "socket.getaddrinfo":
            tell(resolved, arguments[0], arguments[1])
        elif event == "socket.gethostbyname":
            tell(resolved, arguments[0], None)
        elif event == "import" and arguments[0] == _OWN_CARPOOL:
            write(report, carpool=True)

    def tell(pattern: re.Pattern[str], host: object, port: object) -> None:
        name = _text(host).rstrip(".").lower()
        number = _SERVICES.get(_text(port), _text(port))
        if pattern.fullmatch(f"{name}:{number}"):
            write(report, host=name[:_HOST_CHARS_MAX], port=number)

    write(report)
    sys.addaudithook(hook)


def write(report: str, **seen: object) -> None:
    """Add a line: of a call, that an interpreter is watched, or that it has a carpool of its own."""
    program = getattr(sys, "argv", None) or [""]  # at the start there is none yet
    name = os.path.basename(program[0])  # noqa: PTH119 - as above
    line = json.dumps({"pid": os.getpid(), "program": name, **seen})
    try:
        handle = os.open(report, os.O_WRONLY | os.O_APPEND)  # each time: programs close what they do not know
    except OSError:  # it is over, or this program may not write there: it must run all the same
        return
    try:
        os.write(handle, line.encode() + b"\n")
    except OSError:  # the disk is full: the same
        return
    finally:
        os.close(handle)


def go_on(folder: str) -> None:
    """Take this folder off the path, and load the ``sitecustomize`` that would have been loaded without it."""
    own = os.path.realpath(folder)
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != own]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _host_and_port(address: Any) -> tuple[object, object]:
    """Return what an address of the internet begins with; of others nothing that could be one."""
    if not isinstance(address, tuple):
        return "", ""
    found = cast("tuple[object, ...]", address)
    return (found[0], found[1]) if len(found) > 1 else ("", "")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return "" if value is None else str(value)


if __name__ == "sitecustomize":
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as above
    try:
        watch(here)
    finally:
        go_on(here)
