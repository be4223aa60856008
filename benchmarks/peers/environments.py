"""Virtual environments for the peers, one each, kept between runs.

An environment is made by `python -m venv` and pip, from whatever index pip is configured with, outside of the checkout.
It is used again as long as its pins are the same.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

MADE = "made-from.txt"
PIP_TIMEOUT_S = 1_200


class NotInstalledError(Exception):
    """Why there is no environment for a peer, in a line."""


def default_folder() -> Path:
    """Return where environments are kept if nobody says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "carpool-benchmarks"


def make(name: str, requirements: Sequence[str], folder: Path) -> Path:
    """Return the Python of an environment which has the requirements; make it if need be.

    Raises:
        NotInstalledError: It cannot be made.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    home = folder.resolve() / f"{name}-py{version}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = "".join(f"{requirement}\n" for requirement in requirements)
    made = home / MADE
    if made.exists() and made.read_text(encoding="utf-8") == pins:
        return python
    print(f"making an environment for {', '.join(requirements)} in {home}", file=sys.stderr, flush=True)
    if home.exists():
        shutil.rmtree(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(home)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    made.write_text(pins, encoding="utf-8")  # last: what was interrupted is made anew
    return python


def here(requirements: Iterable[str]) -> Path:
    """Return this very Python if it has the required libraries, in whatever version.

    Raises:
        NotInstalledError: One is missing.
    """
    for requirement in requirements:
        name = re.split(r"[\[=]", requirement)[0]
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise NotInstalledError(f"{name} is not here, and a smoke run installs nothing") from None
    return Path(sys.executable)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"no end after {PIP_TIMEOUT_S} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"{command[2]} ended with {done.returncode}"
        raise NotInstalledError(reason)
