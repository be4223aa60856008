"""Turn texts into picture files: one awaited call a picture, one batch job for all.

::

    python examples/images.py                                     # bundled emulator: no key, no network, no money
    python examples/images.py "a lighthouse in fog" "a red bicycle" --out pictures
    python examples/images.py --live                              # Google's service; needs a key, and costs money

Only ``--live`` calls Google. A key in the environment alone does not. The emulator draws squares of two colours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import mimetypes
import os
import re
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import carpool
from carpool.emulator import Emulator, Plan

MODEL = "gemini-3.1-flash-image"
PROMPTS = [
    "A lighthouse in fog, as a woodcut",
    "Four colleagues in a small car, seen from above",
    "An isometric map of a harbour",
    "A bowl of plums on a blue table, oil on canvas",
]
_PNG_HEADER = b"\x89PNG\r\n\x1a\n"


@contextlib.asynccontextmanager
async def opened(*, live: bool) -> AsyncGenerator[carpool.Client]:
    """Open a client: of Google's service if asked, else of an emulator in this process and a home that goes away."""
    if live:
        async with carpool.Client() as client:
            yield client
        return
    quick = carpool.Settings(linger_s=0.2, poll_min_s=0.25, poll_max_s=1.0)  # jobs of the emulator take seconds
    with tempfile.TemporaryDirectory(prefix="carpool-example-") as home:
        async with (
            Emulator(Plan(latency_s=1.0), data_dir=home) as emulator,
            carpool.Client(api_key="none-needed", base_url=emulator.base_url, home=home, settings=quick) as client,
        ):
            yield client


def size_of(picture: carpool.Blob) -> str:
    """Return width and height of a PNG, which stand at a fixed place of its header; of other formats nothing."""
    if not picture.data.startswith(_PNG_HEADER):
        return ""
    width, height = (int.from_bytes(picture.data[start : start + 4]) for start in (16, 20))
    return f"{width} x {height} pixels, "


def file_name(number: int, prompt: str, picture: carpool.Blob) -> str:
    """Return a name that says what is in the picture: ``1-a-lighthouse-in-fog.png``."""
    words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower())[:6])
    return f"{number}-{words}{mimetypes.guess_extension(picture.mime_type) or '.bin'}"


async def draw(client: carpool.Client, number: int, prompt: str, folder: Path) -> None:
    """Await one picture and write it."""
    config = {"response_modalities": ["TEXT", "IMAGE"], "image_config": {"aspect_ratio": "1:1"}}
    answer = await client.generate(MODEL, prompt, config=config)
    if not answer.images:  # the model may answer in words only, or refuse
        print(f"no picture for {prompt!r}: {answer.finish_reason}")
    for picture in answer.images:
        path = folder / file_name(number, prompt, picture)
        path.write_bytes(picture.data)
        print(f"{path}: {size_of(picture)}{len(picture.data):,} bytes")


async def draw_all(prompts: list[str], folder: Path, *, live: bool) -> None:
    """Await all pictures at once; each is written as it comes."""
    async with opened(live=live) as client:
        await asyncio.gather(*(draw(client, number, prompt, folder) for number, prompt in enumerate(prompts, 1)))
        stats, receipt = client.stats(), client.receipt()
    print(f"{receipt.requests} awaited calls in {stats.jobs_created} job(s).")
    if receipt.unknown_cost:
        print("Pictures have prices that carpool does not know; the bill is Google's.")


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS, help="what to draw (default: four pictures)")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder to write to (default: %(default)s)")
    service = parser.add_mutually_exclusive_group()
    service.add_argument("--emulator", action="store_true", help="use the bundled emulator (the default)")
    service.add_argument("--live", action="store_true", help="use Google's service, which costs money")
    arguments = parser.parse_args()
    if arguments.live and not (os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY")):
        parser.error("--live needs a key: set GOOGLE_API_KEY or GEMINI_API_KEY")

    print("SERVICE: " + ("GOOGLE'S. THIS COSTS MONEY." if arguments.live else "the emulator that comes with carpool."))
    arguments.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw_all(arguments.prompts, arguments.out, live=arguments.live))


if __name__ == "__main__":
    main()
