"""The picture of the page: how cost grows with the number of calls, and what other ways take. An SVG, written by hand.

Owns where things stand in it. The figures come out of the report.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import goals

WIDTH, HEIGHT = 880, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 790, 84, 320
BAR_HEIGHT, BAR_STEP, BARS_LEFT, BARS_RIGHT = 18, 30, 370, 790
STYLE = """
    .card { fill: #ffffff; stroke: #d5dae1 } .ink { fill: #1d2430 } .soft { fill: #5a6472 } .s { font-size: 12.5px }
    .b { font-weight: 600 } .grid { stroke: #d5dae1; stroke-width: 1 } .line { fill: none; stroke-width: 2.5 }
    .floor { stroke: #8a94a3 } .automatic { stroke: #2a7856 } .explicit { stroke: #3867b0 }
    .dot.floor { fill: #8a94a3 } .dot.automatic { fill: #2a7856 } .dot.explicit { fill: #3867b0 }
    .bar { fill: #ad5122 } .bar.own { fill: #2a7856 } .bar.least { fill: #8a94a3 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #12171f; stroke: #2d3542 } .ink { fill: #e8ecf2 } .soft { fill: #a3adbb } .grid { stroke: #2d3542 }
      .automatic { stroke: #63c39a } .explicit { stroke: #7ba7ee }
      .dot.automatic { fill: #63c39a } .dot.explicit { fill: #7ba7ee }
      .bar { fill: #bd5e2d } .bar.own { fill: #2f8460 }
    }
"""
FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
NAMES = {
    "floor": "the floor: by hand, not durable",
    "automatic": "carpool, keys of its own",
    "explicit": "carpool, keys of the caller's",
}


class Curve(NamedTuple):
    """Cost over size: medians, in microseconds a call."""

    role: str
    points: tuple[tuple[int, float], ...]


class Bar(NamedTuple):
    """What one way takes."""

    name: str
    kind: str
    """``""``, ``own`` or ``least``."""
    us: float


def curves(report: dict[str, Any]) -> list[Curve]:
    """Return a curve a role, of the runs with the default collector and short prompts."""
    runs = goals.Runs(report)
    sizes = sorted({group["facts"]["n"] for group in report["groups"] if group["suite"] == "floor"})
    found = []
    for role in NAMES:
        lines = {n: runs.lines("floor", role, n=n, gc="on", **goals.MODELESS) for n in sizes}
        points = tuple((n, goals.median_of(of_n, goals.of("net_us_per_call"))) for n, of_n in lines.items() if of_n)
        if points:
            found.append(Curve(role, points))
    return found


def bars(report: dict[str, Any]) -> list[Bar]:
    """Return a bar for each way that was measured, the cheapest first."""
    pairs = [one for one in report.get("peers", []) if "pairs" in one]
    if not pairs:
        return []
    found = [Bar(f"{one['peer']}, {one['n']:,}", "", one["summary"]["cpu_us_per_call"]["peer"]) for one in pairs]
    n = statistics.mode(one["n"] for one in pairs)
    us = statistics.median(
        pair["carpool"]["cpu_us_per_call"] for one in pairs for pair in one["pairs"] if one["n"] == n
    )
    found.append(Bar(f"carpool, {n:,}", "own", us))
    runs = goals.Runs(report)
    if floor := runs.lines("floor", "floor", n=n, gc="on", **goals.MODELESS):
        found.append(Bar(f"the floor, {n:,}", "least", goals.median_of(floor, goals.of("cpu_us_per_call"))))
    return sorted(found, key=lambda bar: bar.us)


def draw(report: dict[str, Any]) -> str:
    """Return the picture."""
    lines, ways = curves(report), bars(report)
    height = HEIGHT + (76 + BAR_STEP * len(ways) if ways else 0)
    words = "; ".join(
        f"{NAMES[curve.role]}: " + ", ".join(f"{us:.1f} us at {n:,}" for n, us in curve.points) for curve in lines
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
        f'     role="img" font-family="{FONTS}" font-size="14"',
        f'     aria-label="Net time a call over the number of calls. {escape(words)}.">',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="12"/>',
        *(_chart(lines) if lines else []),
        *(_bars(ways) if ways else []),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _chart(lines: Sequence[Curve]) -> list[str]:
    sizes = [n for curve in lines for n, _ in curve.points]
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    top_us = _round_up(max(us for curve in lines for _, us in curve.points))

    def x(n: int) -> float:
        return LEFT + (RIGHT - LEFT) * ((math.log10(n) - low) / (high - low) if high > low else 0.5)

    def y(us: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * us / top_us

    parts = [_text(28, 40, "Net time a call, by the number of calls", "ink b", size=18)]
    for step in range(5):
        us = top_us * step / 4
        parts.append(f'  <path class="grid" d="M{LEFT} {y(us):.1f}H{RIGHT}"/>')
        parts.append(_text(LEFT - 8, y(us) + 4, f"{us:g}", "soft s", anchor="end"))
    parts.append(_text(28, 60, "microseconds, default garbage collector, prompts of 300 bytes", "soft s"))
    parts += [_text(x(n), BOTTOM + 22, f"{n:,}", "soft s", anchor="middle") for n in sorted(set(sizes))]
    for curve in lines:
        path = "L".join(f"{x(n):.1f} {y(us):.1f}" for n, us in curve.points)
        parts.append(f'  <path class="line {curve.role}" d="M{path}"/>')
        parts += [
            f'  <circle class="dot {curve.role}" cx="{x(n):.1f}" cy="{y(us):.1f}" r="4"/>' for n, us in curve.points
        ]
        parts.append(_text(RIGHT + 12, y(curve.points[-1][1]) + 4, f"{curve.points[-1][1]:.1f} us", "ink s"))
    for at, curve in enumerate(sorted(lines, key=lambda one: -one.points[-1][1])):
        spot = LEFT + 34 + 250 * at
        parts.append(f'  <path class="line {curve.role}" d="M{spot - 34} 356H{spot - 10}"/>')
        parts.append(_text(spot, 360, NAMES[curve.role], "ink s"))
    return parts


def _bars(ways: Sequence[Bar]) -> list[str]:
    """Draw what each way takes, on a scale that multiplies by ten."""
    low = math.floor(math.log10(min(bar.us for bar in ways)))
    high = math.ceil(math.log10(max(bar.us for bar in ways)))
    parts = [
        _text(28, HEIGHT + 28, "CPU time a call, by the way that is taken and the number of calls", "ink b", size=18),
        _text(28, HEIGHT + 48, "microseconds; each step of the scale is ten times the one before", "soft s"),
    ]
    for at, bar in enumerate(ways):
        y = HEIGHT + 64 + BAR_STEP * at
        width = (BARS_RIGHT - BARS_LEFT) * (math.log10(bar.us) - low) / max(1, high - low)
        parts.append(_text(BARS_LEFT - 10, y + 14, bar.name, "ink s", anchor="end"))
        parts.append(
            f'  <rect class="bar {bar.kind}" x="{BARS_LEFT}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="3"/>'
        )
        parts.append(_text(BARS_LEFT + width + 8, y + 14, f"{bar.us:,.0f}", "soft s"))
    return parts


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "", size: int = 0) -> str:
    more = f' text-anchor="{anchor}"' if anchor else ""
    more += f' font-size="{size}"' if size else ""
    return f'  <text class="{kind}" x="{x:.0f}" y="{y:.0f}"{more}>{escape(words)}</text>'


def _round_up(us: float) -> float:
    """Return a round number that is not below."""
    step = 10 ** math.floor(math.log10(us))
    return next(step * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * factor >= us)
