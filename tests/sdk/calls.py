"""Every call of google-genai for models, batches, files and caches, made and looked at.

Run it in any environment that has google-genai, whatever the version::

    python calls.py URL SLOW_URL SHAKY_URL [--mode sync] [--version v1beta]

``URL`` is where the service is, ``SLOW_URL`` where one is whose jobs do not end by themselves, ``SHAKY_URL``
where one answers every other chunk of an upload with an empty 503. It prints a line of JSON about the SDK, with the
public methods that nobody drives, and then one for each call.

Owns the order of the calls and what is printed. It must not know what the calls are.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import on_batches
import on_caches
import on_embeddings_and_chats
import on_files
import on_models
from google import genai
from google.genai import _api_client
from sides import CASES, Case, Side

SUBJECTS = ("models", "batches", "files", "caches", "chats")
LOADED = (on_models, on_embeddings_and_chats, on_batches, on_files, on_caches)  # each entered its cases into the book
MODES = ("sync", "async")
VERSIONS = ("v1", "v1beta")
# Not calls: what the SDK was told when it was made.
NO_CALLS = {f"{subject}.vertexai" for subject in SUBJECTS}


def public_methods() -> list[tuple[str, str]]:
    """Return all public methods that the SDK has here, with the mode."""
    client = genai.Client(api_key="any-key")
    found = []
    for mode, root in (("sync", client), ("async", client.aio)):
        for subject in SUBJECTS:
            for name, _ in inspect.getmembers(type(getattr(root, subject)), callable):
                if not name.startswith("_"):
                    found.append((f"{subject}.{name}", mode))
    return found


def undriven() -> list[str]:
    """Return the public methods that no case drives."""
    driven = {case.method for case in CASES}
    return [f"{method} ({mode})" for method, mode in public_methods() if method not in driven | NO_CALLS]


async def outcome(case: Case, side: Side) -> dict[str, Any]:
    """Run a case and return its line."""
    line = {"method": case.method, "what": case.what, "mode": side.mode, "version": side.version}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await asyncio.wait_for(case.run(side), timeout=60)
    except Exception as error:  # noqa: BLE001 - whatever comes is the outcome
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if Path(frame.filename).name.startswith("on_")]
        place = f"{ours[-1].name}:{ours[-1].lineno}" if ours else "?"
        return line | {"outcome": "failed", "why": f"{place}: {type(error).__name__}: {error}"[:600]}
    return line | {"outcome": "refused" if case.why_not else "ok", "why": case.why_not}


async def everything(urls: list[str], mode: str, version: str) -> int:
    """Make all calls of one mode and version; return how many failed."""
    side = Side(mode, version, *urls)
    failed = 0
    try:
        for case in CASES:
            line = await outcome(case, side)
            failed += line["outcome"] == "failed"
            sys.stdout.write(json.dumps(line) + "\n")
    finally:
        await side.close()
    return failed


def transport(modes: list[str] | None) -> str:
    """Return what the SDK sends with here."""
    if _api_client.has_aiohttp and modes == ["async"]:
        return "aiohttp"
    return str((_api_client.httpx2 or _api_client.httpx).__name__)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Drive google-genai through every call that it has.")
    parser.add_argument("url")
    parser.add_argument("slow_url")
    parser.add_argument("shaky_url")
    parser.add_argument("--mode", choices=MODES, action="append", help="sync or async; both by default")
    parser.add_argument("--version", choices=VERSIONS, action="append", help="v1 or v1beta; both by default")
    given = parser.parse_args()
    about = {"sdk": genai.__version__, "transport": transport(given.mode), "undriven": undriven()}
    sys.stdout.write(json.dumps(about) + "\n")
    failed = len(about["undriven"])
    for mode in given.mode or MODES:
        for version in given.version or VERSIONS:
            failed += asyncio.run(everything([given.url, given.slow_url, given.shaky_url], mode, version))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
