"""Compare carpool with the floor in one way of many: runs of both in turn, each in a fresh process, against one stub.

    python benchmarks/compare.py [--n 100000] [--pairs 5] [--gc on|freeze] [--uvloop] [--json FILE]

For whoever works on carpool: it uses the interpreter that runs it. `run.py` measures everything.

Machines are noisy, so no time means anything alone: what is reported is the ratio of carpool to the floor within a
pair of neighbouring runs, its median over the pairs and its spread. Both sides of a pair make the same calls with the
same prompts in the same loop and GC mode. Compared are

net time     wall time from the first call to the last result, less the time during which the job was in the stub's
             hands: from its answer to the create until a poll of the client was first told that the job is done (the
             stub's own clock, the same for both sides)
CPU time     of all threads of the process, in the same interval, polling included
memory       peak resident size over what the process had before the first call

Opening a client (reading its store) and leaving it are outside all three and listed with the runs. With
`--subject floor` the floor is compared with itself: the spread that this shows is the machine's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage import ProgramFailed, Run, circumstances, run_program, stub_server

SUBJECTS = {"carpool": "carpool_client.py", "floor": "floor.py"}
METRICS = {
    "net_us_per_call": "net time, us a call",
    "cpu_us_per_call": "CPU time, us a call",
    "memory_mb": "memory over base, MB",
}


def run_once(subject: str, arguments: Sequence[str]) -> Run:
    """Run a measured program to its end and return the line it printed."""
    try:
        run = run_program(SUBJECTS[subject], arguments)
    except ProgramFailed as error:
        raise SystemExit(str(error)) from None
    if run["jobs"] != 1:
        raise SystemExit(f"{subject} used {run['jobs']} jobs, but the floor uses one: these do not compare")
    return run


def compare(args: argparse.Namespace, base_url: str) -> list[dict[str, Run]]:
    """Make the pairs of runs, in turn."""
    common = [str(args.n), "--size", str(args.size), "--gc", args.gc, "--embed", args.embed, "--base-url", base_url]
    common += ["--uvloop"] if args.uvloop else []
    own = ["--keys", args.keys, "--read", args.read] if args.subject == "carpool" else []
    pairs = []
    for number in range(1, args.pairs + 1):
        pair = {"floor": run_once("floor", common), "subject": run_once(args.subject, [*common, *own])}
        pairs.append(pair)
        figures = ", ".join(
            f"{label}: {pair['floor'][key]:.2f} / {pair['subject'][key]:.2f}" for key, label in METRICS.items()
        )
        print(f"pair {number} of {args.pairs}, floor / {args.subject}: {figures}", file=sys.stderr, flush=True)
    return pairs


def summarise(pairs: list[dict[str, Run]]) -> dict[str, dict[str, float]]:
    """Return, for each metric, the medians of both sides and the median and extremes of the ratios."""
    summary = {}
    for metric in METRICS:
        floor, subject = ([pair[side][metric] for pair in pairs] for side in ("floor", "subject"))
        ratios = [b / a for a, b in zip(floor, subject, strict=True)]
        summary[metric] = {
            "floor": statistics.median(floor),
            "subject": statistics.median(subject),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return summary


def table(args: argparse.Namespace, report: dict[str, Any]) -> str:
    """Return the summary as text."""
    here = report["circumstances"]
    loop = "uvloop" if args.uvloop else "asyncio"
    rows = [("", "floor", args.subject, "ratio", "spread")]
    for metric, label in METRICS.items():
        figures = report["summary"][metric]
        spread = f"{figures['ratio_min']:.2f} to {figures['ratio_max']:.2f}"
        rows.append((label, f"{figures['floor']:.2f}", f"{figures['subject']:.2f}", f"{figures['ratio']:.2f}", spread))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head = f"{args.n:,} calls of {args.size} bytes, pairs: {args.pairs}, GC: {args.gc}, loop: {loop}"
    if args.subject == "carpool":
        head += f", keys: {args.keys}, answers read: {args.read}"
    lines = [head, f"{here['python']}, {here['system']}, {here['cpus']} CPUs"]
    for label, *cells in rows:
        right = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{label.ljust(widths[0])}  {right}".rstrip())
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare carpool with the least that the same calls can cost.")
    parser.add_argument("--n", type=int, default=100_000, help="calls in a run")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs; 5 or more for a figure worth telling")
    parser.add_argument("--size", type=int, default=300, help="bytes of a prompt")
    parser.add_argument("--gc", choices=["on", "freeze"], default="on")
    parser.add_argument("--uvloop", action="store_true", help="needs uvloop installed")
    parser.add_argument("--embed", choices=["no", "yes"], default="no", help="embed instead of generate")
    parser.add_argument("--keys", choices=["automatic", "explicit"], default="automatic")
    parser.add_argument("--read", choices=["raw", "typed"], default="raw", help="what each caller reads of its answer")
    parser.add_argument("--subject", choices=sorted(SUBJECTS), default="carpool")
    parser.add_argument("--json", type=Path, help="write everything there too")
    return parser.parse_args()


def main() -> None:
    args = parse()
    before = circumstances()
    with stub_server() as base_url:
        pairs = compare(args, base_url)
    report = {"circumstances": before, "summary": summarise(pairs), "pairs": pairs}
    print(table(args, report))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
