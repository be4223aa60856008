"""What a page needs around it to be played: a service, files that it speaks of, variables, an interpreter.

Owns which pages are played where. A page with the line ``<!-- environment NAME -->`` uses a library that conflicts with
others, or is too large for everybody's tests: it is played in that environment of the matrix (``tests/frameworks``).
All others are played by the interpreter of the tests. It must not know what pages say.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import wave
from pathlib import Path
from typing import Final

from carpool.emulator import Emulator, Plan

from .play import blocks_of

ROOT: Final = Path(__file__).parents[2]
PLAYER: Final = Path(__file__).with_name("play.py")
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE: Final = {"python", "bash", "json"}
_ENVIRONMENT: Final = re.compile(r"^<!-- environment ([\w-]+) -->$", re.MULTILINE)
_TOLD: Final = ("CARPOOL_", "GOOGLE_", "GEMINI_", "OPENAI_")
_QUICK: Final = {
    "CARPOOL_LINGER_S": "0.05",
    "CARPOOL_LINGER_MAX_S": "0.2",
    "CARPOOL_POLL_MIN_S": "0.05",
    "CARPOOL_POLL_MAX_S": "1",
}
_PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)


def environment_of(page: Path) -> str | None:
    """Return the environment of the matrix that a page is played in; ``None``: that of the tests."""
    found = _ENVIRONMENT.search(page.read_text("utf-8"))
    return found[1] if found else None


def pages_of(environment: str | None) -> list[Path]:
    """Return the pages that are played in an environment."""
    return [page for page in PAGES if environment_of(page) == environment]


def count_of(page: Path) -> int:
    """Return how many blocks of a page are played."""
    blocks = blocks_of(page.read_text("utf-8"))
    return sum(block.language in RUNNABLE or block.note in {"prints", "file"} for block in blocks)


def named(path: Path) -> str:
    """Return a page's name."""
    return path.relative_to(ROOT).as_posix()


async def play(
    page: Path,
    folder: Path,
    *,
    python: str = sys.executable,
    programs: str = "",
    modules: Path | None = None,
    strict: bool = True,
) -> None:
    """Play a page to its end.

    Args:
        page: which.
        folder: an empty folder to play it in.
        python: the interpreter of an environment that has carpool, and what the page's own code needs.
        programs: the interpreter for programs that the page writes to files, where that is another one.
        modules: the folder ``node_modules`` of an environment, for pages with programs for Node.
        strict: whether warnings are errors; other people's libraries warn of each other.

    Raises:
        AssertionError: it is not as the page says; with all that the player said.
    """
    furnish(folder)
    if modules is not None:
        (folder / "node_modules").symlink_to(modules)
    async with Emulator(Plan(latency_s=0.05), data_dir=folder) as emulator:
        process = await asyncio.create_subprocess_exec(
            *(python, *(("-W", "error") if strict else ()), str(PLAYER), str(page)),
            cwd=folder,
            env=environ_of(emulator, folder, own=python == sys.executable) | {"PAGE_PYTHON": programs},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, said.decode()
    assert said.decode().splitlines()[-1] == str(count_of(page)), said.decode()


def furnish(folder: Path) -> None:
    """Make the files that pages speak of."""
    prompts = ["What is a batch?", "What is a carpool?", "Why is the sky blue?"]
    (folder / "questions.jsonl").write_text(
        "".join(f'{{"key": "q{n}", "prompt": "{p}"}}\n' for n, p in enumerate(prompts))
    )
    row = '{{"key": "g{n}", "request": {{"contents": [{{"parts": [{{"text": "{p}"}}]}}]}}}}\n'
    (folder / "google_rows.jsonl").write_text("".join(row.format(n=n, p=p) for n, p in enumerate(prompts)))
    (folder / "photo.png").write_bytes(_PNG)
    (folder / "report.pdf").write_bytes(b"%PDF-1.4\n%%EOF\n")
    (folder / "handbook.txt").write_text("The handbook of a car pool.\n" * 400)
    with wave.open(str(folder / "talk.wav"), "wb") as talk:
        talk.setparams((1, 2, 8_000, 0, "NONE", "not compressed"))
        talk.writeframes(b"\0\0" * 8_000)


def environ_of(emulator: Emulator, folder: Path, *, own: bool = True) -> dict[str, str]:
    """Return the variables of a page's process.

    Args:
        emulator: the service that it calls.
        folder: in which it is played.
        own: whether it is played by this interpreter, and finds modules where it does.
    """
    dropped = _TOLD if own else (*_TOLD, "PYTHON", "COV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    told = {
        "CARPOOL_BASE_URL": emulator.base_url,
        "CARPOOL_HOME": str(folder / "home"),
        "GEMINI_API_KEY": "any",
        "PWD": str(folder),
    }
    return kept | _QUICK | told
