"""google-genai of two major versions against the emulator: every call, both modes, each transport, both API versions.

Prints the whole matrix as Markdown::

    python tests/sdk/matrix.py

Owns the environments and the processes. It must not know what the calls are: ``calls.py`` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carpool.emulator import Emulator, Fault, Plan

CALLS = Path(__file__).with_name("calls.py")
OLD = "google-genai[aiohttp]>=2,<3"
ANSWERS = Plan(latency_s=0.02)
WAITS = Plan(latency_s=100_000.0)
SHAKES = Plan(faults={"upload.chunk.503_empty": Fault(every=2)})


@dataclass(frozen=True)
class Way:
    """One way of running all calls.

    Attributes:
        sdk: ``2.x`` or ``3.x``.
        mode: ``sync`` or ``async``.
        aiohttp: whether the SDK finds aiohttp, which its asynchronous client then sends with.
    """

    sdk: str
    mode: str
    aiohttp: bool = False

    def __str__(self) -> str:
        return f"{self.sdk} {self.mode}" + (" aiohttp" if self.aiohttp else "")


WAYS = (
    Way("2.x", "sync"),
    Way("2.x", "async"),
    Way("2.x", "async", aiohttp=True),
    Way("3.x", "sync"),
    Way("3.x", "async"),
    Way("3.x", "async", aiohttp=True),
)


@dataclass(frozen=True)
class Ran:
    """What became of all calls of one way: what the SDK said about itself, then a line a call."""

    way: Way
    about: dict[str, Any]
    lines: list[dict[str, Any]]

    @property
    def failed(self) -> dict[str, str]:
        """The calls that did not do what they should, by name, and what happened instead."""
        return {
            f"{line['method']}, {line['what']} ({line['version']})": line["why"]
            for line in self.lines
            if line["outcome"] == "failed"
        }

    @property
    def outcomes(self) -> dict[tuple[str, str], str]:
        """The outcome of each case: the worse of the two API versions'."""
        worst: dict[tuple[str, str], str] = {}
        for line in self.lines:
            case = (line["method"], line["what"])
            if worst.get(case) != "failed":
                worst[case] = line["outcome"]
        return worst


def environment(folder: Path) -> Path:
    """Return the interpreter of an environment that holds google-genai 2.x; make it where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip cannot install it; its own words are on stderr.
    """
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    ready = folder / "ready"
    if not (ready / inside).exists():
        making = folder / f"making-{os.getpid()}"
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(making)], check=True)
        pip = [str(making / inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, OLD], check=True, stdout=subprocess.DEVNULL)
        try:
            making.rename(ready)
        except OSError:  # whoever else made one at the same time was first
            shutil.rmtree(making)
    return ready / inside


async def run(way: Way, python: Path, urls: list[str], blocked: Path) -> Ran:
    """Make all calls in a process of their own.

    Args:
        way: which ones.
        python: interpreter of the environment.
        urls: of the emulators that ``calls.py`` wants.
        blocked: folder that hides aiohttp from whoever looks for modules there first.
    """
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_CORE"))}
    surroundings = {name: value for name, value in surroundings.items() if "COVERAGE" not in name}
    if not way.aiohttp:
        surroundings["PYTHONPATH"] = str(blocked)
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(CALLS),
        *urls,
        "--mode",
        way.mode,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=surroundings,
    )
    out, err = await process.communicate()
    if process.returncode not in (0, 1) or not out:
        raise RuntimeError(f"{way}: {CALLS.name} ended with {process.returncode}: {err.decode()[-2000:]}")
    about, *lines = [json.loads(line) for line in out.split(b"\n") if line]
    return Ran(way, about, lines)


async def run_all(python_2: Path) -> list[Ran]:
    """Make all calls in all ways, three at a time: each waits a second now and then."""
    pythons = {"2.x": python_2, "3.x": Path(sys.executable)}
    turns = asyncio.Semaphore(3)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "aiohttp.py").write_text('raise ImportError("hidden")\n')
        async with Emulator(ANSWERS) as fast, Emulator(WAITS) as slow:

            async def one(way: Way) -> Ran:
                # Every other chunk is every other one of this way: no two ways share the emulator that counts them.
                async with turns, Emulator(SHAKES) as shaky:
                    urls = [fast.base_url, slow.base_url, shaky.base_url]
                    return await run(way, pythons[way.sdk], urls, Path(folder))

            return await asyncio.gather(*(one(way) for way in WAYS))


def markdown(ran: list[Ran]) -> str:
    """Return the matrix as a table: a row a case, a column a way."""
    heads = [f"{one.about['sdk']} {one.way.mode}, {one.about['transport']}" for one in ran]
    rows = ["| call | case | " + " | ".join(heads) + " | why not |", "|---" * (len(ran) + 3) + "|"]
    for method, what in ran[0].outcomes:
        cells = [one.outcomes.get((method, what), "-") for one in ran]
        reasons = {line["why"] for one in ran for line in one.lines if (line["method"], line["what"]) == (method, what)}
        why = " / ".join(sorted(reason for reason in reasons if reason))
        rows.append(f"| `{method}` | {what} | " + " | ".join(cells) + f" | {why} |")
    made = sum(len(one.lines) for one in ran)
    failed = sum(len(one.failed) for one in ran)
    rows += ["", f"{made} calls in {len(ran)} ways over v1 and v1beta, {failed} failed."]
    undriven = sorted({name for one in ran for name in one.about["undriven"]})
    rows += [f"Driven by nobody: {', '.join(undriven) or 'no public method'}."]
    return "\n".join(rows)


def main() -> None:
    """Run from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(markdown(asyncio.run(run_all(environment(Path(folder) / "sdk2")))) + "\n")


if __name__ == "__main__":
    main()
