"""Run many seeds: ``python -m tests.simulation --seeds 100000 --start 0 --jobs 2``.

Owns the command. It prints each seed that fails, with what it says, and leaves with 1 if there was one. With
``--mutants [NAME ...]`` it looks for a seed that sees each planted fault, soonest, and leaves with 1 if there is none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence

import pytest

from . import mutants_around_jobs, mutants_of_jobs, mutants_of_sweeps
from .mutants import MUTANTS, sees
from .world import simulate

PLANTED = (mutants_of_jobs, mutants_around_jobs, mutants_of_sweeps)  # loaded, they are on the list
SOON_S = 0.3
"""A seed that sees a planted fault so soon is good enough."""
HUNT_S = 20.0
"""How long a better one than the first is looked for."""


def run_seed(seed: int) -> tuple[int, str]:
    """Return the seed, and what went wrong."""
    try:
        simulate(seed)
    except Exception:  # noqa: BLE001 - whatever it is, it is the seed's report
        return seed, traceback.format_exc()
    return seed, ""


def hunt(names: Sequence[str], seeds: range) -> bool:
    """Print for each planted fault a seed that sees it soon, and return whether all were seen."""
    found_all = True
    for name in names or MUTANTS:
        best: tuple[float, int] | None = None
        with pytest.MonkeyPatch.context() as patch:
            MUTANTS[name].plant(patch)
            hunted = time.process_time()
            for seed in (MUTANTS[name].likely, *seeds):
                began = time.process_time()
                if sees(seed):
                    found = (time.process_time() - began, seed)
                    best = found if best is None else min(best, found)
                if best is not None and (best[0] < SOON_S or time.process_time() - hunted > HUNT_S):
                    break
        found_all &= best is not None
        said = "not seen" if best is None else f"likely={best[1]} sees it in {best[0]:.2f} s"
        sys.stdout.write(f"{name}: {said} (was {MUTANTS[name].likely})\n")
        sys.stdout.flush()
    return found_all


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--stop-after", type=int, default=10, help="stop after so many failures")
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help="look for seeds that see planted faults; all of them"
    )
    args = parser.parse_args()
    if args.mutants is not None:
        return 0 if hunt(args.mutants, range(args.start, args.start + args.seeds)) else 1
    began, failed = time.monotonic(), []
    with multiprocessing.Pool(args.jobs) as pool:
        seeds = range(args.start, args.start + args.seeds)
        for seed, report in pool.imap_unordered(run_seed, seeds, chunksize=16):
            if report:
                failed.append(seed)
                sys.stdout.write(f"--- seed {seed}\n{report}\n")
                if len(failed) >= args.stop_after:
                    pool.terminate()
                    break
    took_s = time.monotonic() - began
    sys.stdout.write(f"{args.seeds} seeds from {args.start} in {took_s:.0f} s; failed: {sorted(failed) or 'none'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
