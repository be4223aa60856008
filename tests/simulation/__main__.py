"""Run many seeds: ``python -m tests.simulation --seeds 100000 --start 0 --jobs 2``.

Owns the command. It prints each seed that fails, with what it says, and leaves with 1 if there was one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback

from .world import simulate


def run_seed(seed: int) -> tuple[int, str]:
    """Return the seed, and what went wrong."""
    try:
        simulate(seed)
    except Exception:  # noqa: BLE001 - whatever it is, it is the seed's report
        return seed, traceback.format_exc()
    return seed, ""


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--stop-after", type=int, default=10, help="stop after so many failures")
    args = parser.parse_args()
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
