"""The table, the page and the picture out of what `run.py` measured.

    python benchmarks/report.py results.json                                    # prints the tables
    python benchmarks/report.py results.json --page docs/explanation/performance.md

With `--page`, what stands between the marks of the page is written anew, and the picture beside it. Owns how figures
are shown; what they mean is said in `goals.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import goals
import picture
import plan

Report = dict[str, Any]
HEAD = ("", "limit", "seen", "spread", "", "made of")


def number(figure: float, unit: str) -> str:
    """Return a figure with as many digits as say something."""
    if unit == "x":
        return f"{figure:.2f}x"
    if unit == "/s":
        return f"{figure:,.0f}/s"
    digits = 0 if abs(figure) >= 100 else 1 if abs(figure) >= 10 else 2
    return f"{figure:,.{digits}f} {unit}"


def row(result: goals.Result) -> tuple[str, ...]:
    """Return the cells of a result."""
    limit = ""
    if result.limit is not None:
        limit = f"{'>=' if result.at_least else '<='} {number(result.limit, result.unit)}"
    figure = result.figure
    if figure is None:
        return (result.what, limit, "", "", result.verdict, result.beside)
    spread = f"{number(min(result.figures), result.unit)} to {number(max(result.figures), result.unit)}"
    if len(result.figures) == 1:
        spread = "once"
    return (result.what, limit, number(figure, result.unit), spread, result.verdict, result.beside)


def tally(found: Sequence[goals.Result]) -> str:
    """Return how many goals are met."""
    judged = [result for result in found if result.met is not None]
    missing = sum(result.figure is None and result.limit is not None for result in found)
    words = f"{sum(bool(result.met) for result in judged)} of {len(judged)} goals that were measured are met"
    return f"{words}; {missing} were not measured" if missing else words


def circumstances(report: Report) -> list[str]:
    """Return what the figures are of, in lines."""
    here = report["circumstances"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    loads = [record["load"] for record in report["runs"]]
    load = f"load average {statistics.median(loads):.1f} (most {max(loads):.1f})" if loads else "no runs"
    sizes = report["sizes"]
    calls = " / ".join(f"{sizes[name]:,}" for name in ("small", "middle", "large"))
    rounds = f"{sizes['pairs']} rounds, {sizes['large_pairs']} of the largest"
    machine = f"{here['cpus']} CPUs ({here['processor'] or 'unknown'}), {here['memory_gb']} GB"
    return [
        f"{here['when'][:10]}, {report['kind']}: {calls} calls, {rounds}",
        f"{here['python']}, {here['system']}, {machine}, {load} while it ran",
        versions + (f"; commit {report['commit']}" if report["commit"] else ""),
    ]


def combinations(report: Report) -> list[tuple[str, ...]]:
    """Return a row for every combination that was held against the floor."""
    runs = goals.Runs(report)
    rows = [
        combination(runs, group["facts"], role)
        for group in report["groups"]
        for role in ("automatic", "explicit", "typed")
        if group["suite"] == "floor" and runs.lines("floor", role, **group["facts"])
    ]
    return sorted(rows, key=lambda cells: int(cells[0].replace(",", "")))


def combination(runs: goals.Runs, facts: dict[str, Any], role: str) -> tuple[str, ...]:
    """Return one row: both sides' microseconds a call, and the ratios."""
    own, floor = runs.lines("floor", role, **facts), runs.lines("floor", "floor", **facts)
    keys, read = ("automatic", "types") if role == "typed" else (role, "raw")
    net, cpu, memory = map(goals.of, ("net_us_per_call", "cpu_us_per_call", "memory_mb"))
    ratios = runs.ratios(own, floor, net)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
    return (
        f"{facts['n']:,}",
        f"{facts['size']:,} B",
        goals.MODES[facts["gc"]].removesuffix(" GC"),
        facts["loop"],
        keys,
        read,
        *(f"{goals.median_of(side, net):.1f}" if side else "" for side in (floor, own)),
        f"{statistics.median(ratios):.2f}" if ratios else "",
        spread,
        *(f"{statistics.median(found):.2f}" if (found := runs.ratios(own, floor, of)) else "" for of in (cpu, memory)),
    )


COMBINATIONS = (
    *("calls", "prompt", "GC", "loop", "keys", "read"),
    *("floor us", "carpool us", "ratio", "spread", "CPU ratio", "memory ratio"),
)


def failures(report: Report) -> list[str]:
    """Return what could not be measured, and why, a line each."""
    failed = [record for record in report["runs"] if "failed" in record]
    lines = [f"{record['suite']}, {record['role']}: {record['failed']}" for record in failed] + report["left_out"]
    for one in report.get("peers", []):
        if reason := one.get("missing") or one.get("failed"):
            lines.append(f"{one['peer']} ({', '.join(one['pins'])}): {reason}")
    return lines


def in_columns(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows as text; the first `left` columns and the last lean left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        aligned = [
            cell.ljust(width) if at < left or at == len(widths) - 1 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def text(report: Report) -> str:
    """Return everything as plain text."""
    found = goals.results(report)
    rows = [HEAD]
    for at, result in enumerate(found):
        if not at or result.part != found[at - 1].part:
            rows.append((f"-- {result.part}", *("",) * (len(HEAD) - 1)))
        rows.append(tuple(cell.replace("*", "").replace("`", "") for cell in row(result)))
    parts = ["\n".join(circumstances(report)), in_columns(rows), tally(found)]
    if table := combinations(report):
        parts.append(in_columns([COMBINATIONS, *table], left=0))
    if rows := peers(report):
        parts.append(in_columns([PEERS[:-1], *(cells[:-1] for cells in rows)]))
    parts += [f"not measured: {line}" for line in failures(report)]
    return "\n\n".join(parts)


def markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as a table; the first is its head."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    lines.insert(1, "|" + "---|" * (lines[0].count("|") - 1))
    return lines


PEERS = ("", "calls", "CPU us a call", "carpool's CPU time to it", "net time", "memory", "what it does less or more")


def peers(report: Report) -> list[tuple[str, ...]]:
    """Return a row for every other way, and carpool's share of what it takes."""
    rows = []
    for one in report.get("peers", []):
        shim = f" (reached by a shim: {one['shim']})" if one["shim"] else ""
        word = one["word"] + shim
        if "summary" not in one:
            rows.append((one["peer"], f"{one['n']:,}", "not measured", "", "", "", word))
            continue
        cpu, net, memory = (one["summary"][name] for name in ("cpu_us_per_call", "net_us_per_call", "memory_mb"))
        shares = (f"{cpu['ratio']:.3f}x ({cpu['ratio_min']:.3f} to {cpu['ratio_max']:.3f})",)
        shares += tuple(f"{metric['ratio']:.3f}x" for metric in (net, memory))
        rows.append((one["peer"], f"{one['n']:,}", f"{cpu['peer']:.1f}", *shares, word))
    return rows


def laps(report: Report) -> list[tuple[str, ...]]:
    """Return where the microseconds of a call go: the accept phase, and all after it."""
    runs, n = goals.Runs(report), report["sizes"]["middle"]
    rows = []
    for gc, mode in goals.MODES.items():
        for role in ("floor", "automatic", "explicit"):
            lines = runs.lines("floor", role, n=n, gc=gc, **goals.MODELESS)
            if lines:
                accept, net = (goals.median_of(lines, of) for of in (goals.accepted_s, goals.of("net_wall_s")))
                name = "the floor" if role == "floor" else f"{role} keys"
                rows.append((f"{name}, {mode}", *(f"{s / n * 1e6:.1f}" for s in (accept, net - accept, net))))
    return rows


def million(report: Report) -> list[tuple[str, ...]]:
    """Return what the largest size needs of time, memory and disk."""
    runs, n = goals.Runs(report), report["sizes"]["large"]
    rows: list[tuple[str, ...]] = []
    for role in goals.COST:
        for gc, mode in goals.MODES.items():
            lines = runs.lines("floor", role, n=n, gc=gc, **goals.MODELESS)
            if lines:
                accept, net, memory = (
                    goals.median_of(lines, of)
                    for of in (goals.accepted_s, goals.of("net_wall_s"), goals.of("memory_mb"))
                )
                rows.append((f"{role} keys, {mode}", f"{accept:.1f} s", f"{net:.1f} s", f"{memory / 1e3:.2f} GB"))
    return rows


def on_disk(report: Report) -> list[str]:
    """Return what the largest size takes on disk, in a line."""
    runs, n = goals.Runs(report), report["sizes"]["large"]
    waiting, stored = runs.lines("recovery", "waiting", n=n), runs.lines("callbacks", "explicit", n=n)
    if not waiting or not stored:
        return []
    store_mb, results_mb = (
        goals.median_of(waiting, goals.of("store_mb")),
        goals.median_of(stored, goals.of("dropped_mb")),
    )
    line = f"On disk: {store_mb:,.0f} MB for the requests while they wait (prompts of {plan.BYTES} bytes)"
    return [f"{line}, and {results_mb:,.0f} MB for the results of explicit keys, until their time is past."]


def page(report: Report) -> str:
    """Return what stands between the marks of the page."""
    found = goals.results(report)
    lines = [f"{'; '.join(circumstances(report))}.", "", f"**{tally(found)}.**"]
    for part in dict.fromkeys(result.part for result in found):
        rows = [row(result) for result in found if result.part == part]
        lines += ["", *markdown([(part, *HEAD[1:]), *rows])]
    if table := combinations(report):
        lines += ["", "Every combination that was measured, net time in microseconds a call:", ""]
        lines += markdown([COMBINATIONS, *table])
    if rows := peers(report):
        lines += ["", "What carpool takes of what others take, its callers reading text and usage as theirs do:", ""]
        lines += markdown([PEERS, *rows])
    n = report["sizes"]
    if rows := laps(report):
        lines += ["", f"Microseconds a call at {n['middle']:,} calls, by phase:", ""]
        lines += markdown([("", "until all is accepted (carpool: on disk)", "after that", "together"), *rows])
    if rows := million(report):
        lines += ["", f"What {n['large']:,} calls need:", ""]
        lines += markdown([("", "until all is on disk", "net time in all", "memory over base"), *rows])
        lines += ["", *on_disk(report)]
    if missing := failures(report):
        lines += ["", "Not measured:", "", *(f"- {line.splitlines()[0]}" for line in missing)]
    return "\n".join(lines)


def between(path: Path, mark: str, lines: str) -> None:
    """Write what stands between two marks of a page anew."""
    marked = re.compile(rf"(<!-- {mark}: begin -->\n).*(<!-- {mark}: end -->)", re.DOTALL)
    new, count = marked.subn(lambda match: f"{match[1]}{lines}\n{match[2]}", path.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"{path} does not have the marks of its {mark} once")
    path.write_text(new, "utf-8")


def renew(path: Path, report: Report) -> None:
    """Write the figures of a page anew, and its picture."""
    between(path, "figures", page(report))
    path.with_suffix(".svg").write_text(picture.draw(report), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Show what benchmarks/run.py measured.")
    parser.add_argument("results", type=Path, help="what run.py wrote")
    parser.add_argument("--page", type=Path, help="a page to renew, and the picture beside it")
    args = parser.parse_args()
    report = json.loads(args.results.read_text("utf-8"))
    if args.page is None:
        print(text(report))
    else:
        renew(args.page, report)


if __name__ == "__main__":
    main()
