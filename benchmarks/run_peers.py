"""Compare carpool with what users would pick instead: runs of both in turn, each in a fresh process, same machine.

    python benchmarks/run_peers.py [--calls 10000] [--pairs 3] [--only autobatcher] [--json FILE]
    python benchmarks/run_peers.py --smoke

run.py calls `run_peers`; alone, this measures carpool as the Python that runs it has it.

Both sides of a pair do the same work: N calls with the same prompts, carried by one job that ends at once, and text
and usage of each answer read. Carpool does it durably, with its defaults for all that is not the size of the job. Some
peers speak another wire than Gemini's: they have a stub of their own, with answers that say as much. What is measured
is what run.py measures, and CPU time is the figure to compare, since peers wait between their polls.

Environments are made on the first run (minutes, about 1 GB) and kept; `--environments DIR` says where. A peer whose
environment cannot be made is in the table with the reason. A smoke run makes none: it runs the peers that this very
Python happens to have.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import environments
from peers.catalogue import ENVIRONMENTS, PEERS, Peer
from stage import ProgramFailed, Run, run_command, stub_server

HERE = Path(__file__).parent
METRICS = ("cpu_us_per_call", "net_us_per_call", "memory_mb")
SMOKE_CALLS = 200


@dataclass(frozen=True)
class Side:
    """How one program of a pair is started, and how many jobs it must come to."""

    command: list[str]
    cwd: Path | None
    environ: dict[str, str]
    jobs: int


def run_once(side: Side) -> Run:
    """Run a measured program to its end and return the line it printed."""
    run = run_command(side.command, side.cwd, side.environ)
    if run["jobs"] != side.jobs:
        name = " ".join(side.command)
        raise ProgramFailed(f"{name} used {run['jobs']} jobs, not {side.jobs}: these do not compare")
    return run


def interpreters(
    names: Iterable[str], folder: Path | None, *, smoke: bool
) -> dict[str, Path | environments.NotInstalledError]:
    """Return the Python of each environment, or why there is none."""
    found: dict[str, Path | environments.NotInstalledError] = {}
    for name in names:
        try:
            if smoke:
                found[name] = environments.here(ENVIRONMENTS[name])
            else:
                found[name] = environments.make(name, ENVIRONMENTS[name], folder or environments.default_folder())
        except environments.NotInstalledError as reason:
            found[name] = reason
    return found


def carpool_side(python: str, n: int, base_url: str, arguments: Sequence[str]) -> Side:
    command = [python, str(HERE / "carpool_client.py"), str(n), "--read", "typed", "--base-url", base_url]
    return Side([*command, *arguments], None, dict(os.environ), jobs=1)


def peer_side(peer: Peer, python: Path, n: int, base_url: str, arguments: Sequence[str]) -> Side:
    module, *own = peer.program
    command = [str(python), "-m", f"peers.{module}", str(n), *own, "--base-url", base_url]
    # Carpool's own path is of no use in a peer's environment, and might hold other versions of what is there.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return Side([*command, *arguments], HERE, environ, jobs=peer.jobs)


def compare(name: str, sides: dict[str, Side], pairs: int) -> list[dict[str, Run]]:
    """Make the pairs of runs, in turn, the other side first each time."""
    made = []
    for number in range(1, pairs + 1):
        order = list(sides) if number % 2 else list(reversed(sides))
        pair = {side: run_once(sides[side]) for side in order}
        made.append(pair)
        cpu = " / ".join(f"{pair[side]['cpu_us_per_call']:.1f}" for side in sides)
        print(f"{name}, pair {number} of {pairs}: CPU us a call {cpu}", file=sys.stderr, flush=True)
    return made


def summarise(pairs: Sequence[dict[str, Run]]) -> dict[str, dict[str, float]]:
    """Return, for each metric, the medians of both sides and the median and extremes of carpool's share."""
    summary = {}
    for metric in METRICS:
        carpool, peer = ([pair[side][metric] for pair in pairs] for side in ("carpool", "peer"))
        ratios = [a / b for a, b in zip(carpool, peer, strict=True)]
        summary[metric] = {
            "carpool": statistics.median(carpool),
            "peer": statistics.median(peer),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return summary


def run_peers(
    *,
    python: str = sys.executable,
    calls: int | None = None,
    pairs: int = 3,
    only: str = "",
    folder: Path | None = None,
    arguments: Sequence[str] = (),
    smoke: bool = False,
) -> list[dict[str, Any]]:
    """Compare carpool, as `python` has it, with each peer, and return a report a peer.

    `calls` caps what the catalogue says of each peer, `only` is a part of the names of those wanted, `arguments` go to
    both sides. A report says `peer`, `n`, `pins`, what the peer does less or more (`word`) and how it was reached
    (`shim`); with it come `pairs`, each of two lines as the programs print them, and their `summary`, or in place of
    both the reason why not, as `missing` (not installed) or `failed`.
    """
    reports = []
    python = os.path.abspath(python)  # noqa: PTH100 - a path that is resolved leaves the virtual environment
    wanted = [peer for peer in PEERS if only in peer.name]
    pythons = interpreters({peer.environment for peer in wanted}, folder, smoke=smoke)
    with stub_server(python) as gemini, stub_server(python, "peers.stub_other_wires") as others:
        for peer in wanted:
            pins, own = ENVIRONMENTS[peer.environment], pythons[peer.environment]
            n = min(peer.calls, calls or peer.calls, SMOKE_CALLS if smoke else peer.calls)
            report = {"peer": peer.name, "n": n, "pins": pins, "word": peer.word, "shim": peer.shim}
            reports.append(report)
            if isinstance(own, environments.NotInstalledError):
                report["missing"] = str(own)
                continue
            sides = {
                "carpool": carpool_side(python, n, gemini, arguments),
                "peer": peer_side(peer, own, n, gemini if peer.gemini else others, arguments),
            }
            try:
                made = compare(f"{peer.name}, {n:,} calls", sides, pairs)
                report |= {"pairs": made, "summary": summarise(made)}
            except ProgramFailed as reason:
                report["failed"] = str(reason)
    return reports


def table(reports: list[dict[str, Any]]) -> str:
    """Return the reports as text: figures first, then a word on each."""
    rows = [("", "calls", "CPU us: carpool", "peer", "ratio", "spread", "net ratio", "MB: carpool", "peer")]
    words = []
    for report in reports:
        name = report["peer"]
        words.append(f"{name} ({', '.join(report['pins'])}): {report['word']}.")
        if report["shim"]:
            words.append(f"    Reached by a shim: {report['shim']}.")
        if "summary" not in report:
            why = "not installed" if "missing" in report else "FAILED"
            words.append(f"    {why}: {report.get('missing') or report['failed']}")
            rows.append((name, why, *[""] * 7))
            continue
        cpu, net, memory = (report["summary"][metric] for metric in METRICS)
        rows.append(
            (
                name,
                f"{report['n']:,}",
                f"{cpu['carpool']:.1f}",
                f"{cpu['peer']:.1f}",
                f"{cpu['ratio']:.3f}",
                f"{cpu['ratio_min']:.3f} to {cpu['ratio_max']:.3f}",
                f"{net['ratio']:.3f}",
                f"{memory['carpool']:.0f}",
                f"{memory['peer']:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for first, *cells in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *words])


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare carpool with what users would pick instead.")
    parser.add_argument("--calls", type=int, help="at most so many in a run; default: what the catalogue says of each")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs; 3 or more for a figure worth telling")
    parser.add_argument("--only", default="", help="a part of the names of the peers wanted")
    parser.add_argument("--size", type=int, default=300, help="bytes of a prompt")
    parser.add_argument("--gc", choices=["on", "freeze"], default="on")
    parser.add_argument("--environments", type=Path, help="where they are kept; default: in the user's cache folder")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument("--smoke", action="store_true", help=f"one pair of {SMOKE_CALLS} calls, nothing installed")
    args = parser.parse_args()
    reports = run_peers(
        calls=args.calls,
        pairs=1 if args.smoke else args.pairs,
        only=args.only,
        folder=args.environments,
        arguments=["--size", str(args.size), "--gc", args.gc],
        smoke=args.smoke,
    )
    print(table(reports))
    if args.json is not None:
        args.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    if any("failed" in report for report in reports):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
