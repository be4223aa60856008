"""Run many seeds and print a table by scenario: ``python -m tests.ladder_sim --seeds 1000 --start 0 --jobs 2``.

Owns the command. It prints each seed that breaks a promise, and leaves with 1 if there was one. Of the columns, *slow*
are those of the excused whose live call was accepted, and took longer than was left; *missed* is what the policy missed
that knows the distributions, *ratio* what was paid to what that policy paid, and *owed* the same with the full price
for each miss, on both sides.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback

from .policy import prepare
from .scenarios import SCENARIOS
from .world import Result, simulate


def run_seed(seed: int) -> tuple[int, Result | None, str]:
    """Return the seed, what it came to, and what went wrong."""
    try:
        return seed, simulate(seed), ""
    except Exception:  # noqa: BLE001 - whatever it is, it is the seed's report
        return seed, None, traceback.format_exc()


def table(results: list[Result]) -> str:
    """Return one line by scenario, and one of all."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.scenario, []).append(result)
    rows = [_row(name, group) for name, group in sorted(groups.items())]
    head = (
        f"{'scenario':24}{'seeds':>6}{'requests':>9}{'timed':>8}{'in time':>8}{'excused':>8}{'slow':>5}"
        f"{'unexc.':>7}{'held':>6}{'failed':>7}{'doubles':>8}{'twice':>7}{'paid $':>10}"
        f"{'clairv. $':>10}{'missed':>7}{'ratio':>7}{'owed':>7}  routes"
    )
    return "\n".join([head, *rows, _row("all", results)])


def _row(name: str, group: list[Result]) -> str:
    def total(field: str) -> int:
        return sum(getattr(result, field) for result in group)

    # One scenario's prices are a hundred times the others': in the sum of all it must not outweigh them.
    def picousd(field: str) -> int:
        return sum(getattr(result, field) // result.price_scale for result in group)

    paid, best = picousd("paid"), picousd("clairvoyant")
    owed = picousd("owed") / max(1, picousd("clairvoyant_owed"))
    routes = [sum(result.routes.get(route, 0) for result in group) for route in ("batch", "flex", "standard")]
    shares = "/".join(f"{100 * route / max(1, sum(routes)):.0f}" for route in routes)
    return (
        f"{name:24}{len(group):6}{total('requests'):9}{total('timed'):8}{total('in_time'):8}{total('excused'):8}"
        f"{total('slow'):5}{total('unexcused'):7}{total('held_back'):6}{total('failed'):7}{total('doubles'):8}{total('paid_twice'):7}"
        f"{paid / 1e12:10.2f}{best / 1e12:10.2f}{total('clairvoyant_missed'):7}{paid / max(1, best):7.3f}"
        f"{owed:7.3f}  {shares}"
    )


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.ladder_sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=140, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--every", type=int, default=0, help="print the table after so many seeds; 0: at the end alone")
    args = parser.parse_args()
    began = time.monotonic()
    results: list[Result] = []
    failed: list[int] = []
    for scenario in SCENARIOS[: args.seeds]:
        prepare(scenario)
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        seeds = range(args.start, args.start + args.seeds)
        for seed, result, report in pool.imap_unordered(run_seed, seeds, chunksize=4):
            if result is not None:
                results.append(result)
                if args.every and len(results) % args.every == 0:
                    sys.stdout.write(f"{table(results)}\n")
                    sys.stdout.flush()
            else:
                failed.append(seed)
                sys.stdout.write(f"--- seed {seed}\n{report}\n")
    sys.stdout.write(f"{table(results)}\n")
    took_s = time.monotonic() - began
    sys.stdout.write(f"{args.seeds} seeds from {args.start} in {took_s:.0f} s; failed: {sorted(failed) or 'none'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
