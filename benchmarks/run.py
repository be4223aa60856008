"""Compare carpool with the floor: runs of both in turn, each in a fresh process, against one stub server.

    python benchmarks/run.py [--n 100000] [--pairs 5] [--gc on|freeze] [--uvloop] [--json FILE]
    python benchmarks/run.py --smoke

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
import contextlib
import datetime as dt
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SUBJECTS = {"carpool": "carpool_client.py", "floor": "floor.py"}
METRICS = {
    "net_us_per_call": "net time, us a call",
    "cpu_us_per_call": "CPU time, us a call",
    "memory_mb": "memory over base, MB",
}
LIBRARIES = ("aiohttp", "anyio", "carpool", "diskcache", "msgspec", "uvloop")
SMOKE_CALLS = 2_000
RUN_TIMEOUT_S = 1_800

Run = dict[str, Any]


@contextlib.contextmanager
def stub_server() -> Iterator[str]:
    """Run the stub in a process of its own and yield its base URL."""
    command = [sys.executable, str(HERE / "stub_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise SystemExit(f"the stub server did not start: {line!r}")
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()


def run_once(subject: str, arguments: Sequence[str]) -> Run:
    """Run a measured program to its end and return the line it printed."""
    command = [sys.executable, str(HERE / SUBJECTS[subject]), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode:
        raise SystemExit(f"{subject} ended with {done.returncode}:\n{done.stderr}")
    run: Run = json.loads(done.stdout)
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


def circumstances() -> dict[str, Any]:
    """Return what the figures were measured on."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


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
    parser.add_argument("--smoke", action="store_true", help=f"one pair of {SMOKE_CALLS:,} calls: does it run?")
    args = parser.parse_args()
    if args.smoke:
        args.n, args.pairs = SMOKE_CALLS, 1
    return args


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
