"""Play every attack at full size, and print tables: ``python -m tests.hostile [--only WORDS]``.

Owns the command: a line for each attack as it ends, then a line for each kind of attack, with the worst of all calls.
It leaves with 1 if anything was found that must not be.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from typing import Final

from .attacks import Sizes, all_attacks, behind_tls
from .playing import PEAK_KB_MAX, Result, play_all

FULL: Final = Sizes(
    body=2 << 30, line=4_000_000, error=100_000_000, rows=1_000_000, headers=256 << 20, floods=256 << 20
)


def row(result: Result) -> str:
    """Return a line of the table."""
    attack = result.attack
    ended = ", ".join(result.outcomes)
    peak, limit = result.peak_kb / 1024, PEAK_KB_MAX / 1024
    words = f"| {attack.name} | {attack.call} | {ended} | {result.seconds:.1f} | {peak:.1f} | {limit:.0f} |"
    return "\n".join([words, *(f"  !! {fault}" for fault in result.faults)])


def short(results: list[Result]) -> Iterator[str]:
    """Iterate over the lines of the short table: one for each kind of attack."""
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(result.attack.family or result.attack.name, []).append(result)
    for family, found in families.items():
        calls = sorted({result.attack.call for result in found})
        called = calls[0] if len(calls) == 1 else f"{len(calls)} kinds"
        ended = ", ".join(sorted({outcome for result in found for outcome in result.outcomes}))
        longest, peak = max(result.seconds for result in found), max(result.peak_kb for result in found) / 1024
        yield f"| {family} | {len(found)} | {called} | {ended} | {longest:.1f} | {peak:.1f} |"


async def main() -> int:
    """Play, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="play hostile servers against the client")
    parser.add_argument("--only", default="", help="attacks whose call and name hold these words")
    words = parser.parse_args().only
    sys.stdout.write("| attack | call | outcome | seconds | MiB over base | limit |\n|---|---|---|---:|---:|---:|\n")
    results: list[Result] = []
    for secure, listed in ((False, all_attacks(FULL)), (True, behind_tls())):
        attacks = [attack for attack in listed if words in f"{attack.call}: {attack.name}"]
        if not attacks:
            continue
        async for result in play_all(attacks, secure=secure):
            sys.stdout.write(f"{row(result)}\n")
            sys.stdout.flush()
            results.append(result)
    bad = sum(bool(result.faults) for result in results)
    head = "| attack | played | calls | outcomes | longest, s | highest, MiB |\n|---|---:|---|---|---:|---:|"
    sys.stdout.write("\n".join(["", head, *short(results), "", f"{len(results)} attacks, {bad} with findings", ""]))
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
