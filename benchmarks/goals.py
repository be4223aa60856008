"""The goals, and how far measured runs reach them.

Owns what each goal says, how its figure is taken from the runs, and the words for met and not met. It reads the
report that `run.py` writes, and measures nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Line = dict[str, Any]
Value = Callable[[Line], float]

COST = {"automatic": {"on": 1.6, "freeze": 1.8}, "explicit": {"on": 1.9, "freeze": 2.1}}
TYPED = 0.15
ACCEPT, ACCEPTED_A_SECOND = 1.6, 100_000
MEMORY, LARGE_PROMPTS = 1.7, 1.05
GROWTH = 1.35
LATENCY = 4.0
CALLBACK_MS = 20.0
RECOVERY_S = 5.0
THROUGHPUT = 0.6
IMPORT_S = 0.35
BY_HAND_TIME, BY_HAND_MEMORY, BATCHER = 0.9, 0.4, 0.35

MODES = {"on": "default GC", "freeze": "frozen GC"}
MODELESS = {"loop": "asyncio", "size": 300}


class Result(NamedTuple):
    """One row of the table: what was looked at, its limit, and what was seen."""

    part: str
    what: str
    limit: float | None
    """``None``: told, not judged."""
    figures: tuple[float, ...]
    """One a round."""
    unit: str = "x"
    at_least: bool = False
    beside: str = ""
    """What the figure is made of."""

    @property
    def figure(self) -> float | None:
        """The median."""
        return statistics.median(self.figures) if self.figures else None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; ``None`` if nothing was measured or there is no limit."""
        figure = self.figure
        if figure is None or self.limit is None:
            return None
        return figure >= self.limit if self.at_least else figure <= self.limit

    @property
    def verdict(self) -> str:
        """Met or not, and by how much of the limit."""
        if self.figure is None:
            return "not measured"
        if self.limit is None:
            return ""
        share = abs(self.figure / self.limit - 1)
        return f"{'met' if self.met else '**not met**'}, by {share:.{0 if share >= 0.01 else 1}%}"


class Runs:
    """The lines of a report, found by what they are of."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.sizes: dict[str, int] = report["sizes"]
        self._records = [record for record in report["runs"] if "line" in record]

    def lines(self, suite: str, role: str, **facts: Any) -> dict[int, Line]:
        """Return the lines of a role by round."""
        return {
            record["round"]: record["line"]
            for record in self._records
            if (record["suite"], record["role"]) == (suite, role)
            if facts.items() <= record["facts"].items()
        }

    def ratios(
        self, own: dict[int, Line], other: dict[int, Line], value: Value, base: Value | None = None
    ) -> tuple[float, ...]:
        """Return, for each round that has both, one's value as a multiple of the other's."""
        base = base or value
        return tuple(value(own[number]) / base(other[number]) for number in sorted(own.keys() & other.keys()))


def results(report: dict[str, Any]) -> list[Result]:
    """Return the whole table: a row for every goal of the suites that were asked for, measured or not."""
    runs, suites = Runs(report), report["suites"]
    parts: dict[str, tuple[Callable[[], Iterable[Result]], ...]] = {
        "floor": (lambda: _cost(runs), lambda: _typed(runs), lambda: _accept(runs), lambda: _growth(runs)),
        "memory": (lambda: _memory(runs),),
        "latency": (lambda: _latency(runs),),
        "callbacks": (lambda: _callbacks(runs),),
        "recovery": (lambda: _recovery(runs),),
        "transfer": (lambda: _transfer(runs),),
        "startup": (lambda: _startup(runs),),
        "peers": (lambda: _peers(report.get("peers", [])),),
        "live": (lambda: _live(report),),
    }
    return [result for suite, makers in parts.items() if suite in suites for make in makers for result in make()]


def of(key: str) -> Value:
    return lambda line: float(line[key])


def median_of(lines: dict[int, Line], value: Value) -> float:
    return statistics.median(value(line) for line in lines.values())


def _pair(own: dict[int, Line], other: dict[int, Line], value: Value, unit: str, base: Value | None = None) -> str:
    """Return both medians in words."""
    if not own or not other:
        return ""
    return f"{_short(median_of(own, value))} {unit} against {_short(median_of(other, base or value))}"


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def _cost(runs: Runs) -> Iterable[Result]:
    middle, large = runs.sizes["middle"], runs.sizes["large"]
    combinations = [(n, gc, "asyncio") for n in (middle, large) for gc in MODES]
    combinations += [(middle, gc, "uvloop") for gc in MODES]
    for role, limits in COST.items():
        for n, gc, loop in combinations:
            facts = {"n": n, "gc": gc, "loop": loop, "size": 300}
            own, floor = runs.lines("floor", role, **facts), runs.lines("floor", "floor", **facts)
            yield Result(
                "net time against the floor",
                f"{role} keys, {n:,} calls, {MODES[gc]}{', uvloop' if loop == 'uvloop' else ''}",
                limits[gc],
                runs.ratios(own, floor, of("net_us_per_call")),
                beside=_pair(own, floor, of("net_us_per_call"), "us a call") + _cpu(runs, own, floor),
            )


def _cpu(runs: Runs, own: dict[int, Line], floor: dict[int, Line]) -> str:
    """Return the ratio of CPU times in words: it suffers less from what else the machine does."""
    ratios = runs.ratios(own, floor, of("cpu_us_per_call"))
    return f"; CPU time {statistics.median(ratios):.2f}x" if ratios else ""


def _typed(runs: Runs) -> Iterable[Result]:
    for gc, mode in MODES.items():
        facts = {"n": runs.sizes["middle"], "gc": gc, **MODELESS}
        raw, typed, floor = (runs.lines("floor", role, **facts) for role in ("automatic", "typed", "floor"))
        value = of("net_us_per_call")
        rounds = sorted(raw.keys() & typed.keys() & floor.keys())
        yield Result(
            "answers read as types",
            f"what that adds to the ratio, {facts['n']:,} calls, {mode}",
            TYPED,
            tuple((value(typed[number]) - value(raw[number])) / value(floor[number]) for number in rounds),
            beside=_pair(typed, raw, value, "us a call") + (" raw" if rounds else ""),
        )


def accepted_s(line: Line) -> float:
    laps = line["laps_wall_cpu_s"]
    return float(laps["accept"][0] if "accept" in laps else laps["called"][0] + laps["durable"][0])


def _accept(runs: Runs) -> Iterable[Result]:
    for n in (runs.sizes["middle"], runs.sizes["large"]):
        for gc, mode in MODES.items():
            facts = {"n": n, "gc": gc, **MODELESS}
            own, floor = runs.lines("floor", "automatic", **facts), runs.lines("floor", "floor", **facts)
            yield Result(
                "accept, until all is on disk",
                f"against the floor's, which is not durable, {n:,} calls, {mode}",
                ACCEPT,
                runs.ratios(own, floor, accepted_s),
                beside=_pair(own, floor, accepted_s, "s"),
            )
    for n in (runs.sizes["middle"], runs.sizes["large"]):
        own = runs.lines("floor", "automatic", n=n, gc="freeze", **MODELESS)
        yield Result(
            "accept, until all is on disk",
            f"requests a second, {n:,} calls, frozen GC",
            ACCEPTED_A_SECOND,
            tuple(n / accepted_s(line) for line in own.values()),
            unit="/s",
            at_least=True,
        )


def _memory(runs: Runs) -> Iterable[Result]:
    large = runs.sizes["large"]
    floor, own, prompts = (runs.lines("memory", role, n=large) for role in ("floor", "carpool", "carpool, large"))
    peak, held = of("memory_mb"), of("held_mb")
    part, many = "memory over base", f"{large:,} calls"
    against = "MB"
    yield Result(
        part,
        f"{many} in a job, most on the way there",
        MEMORY,
        runs.ratios(own, floor, peak),
        beside=_pair(own, floor, peak, against),
    )
    yield Result(
        part,
        f"{many} in a job, held then",
        MEMORY,
        runs.ratios(own, floor, held),
        beside=_pair(own, floor, held, against),
    )
    facts = {"n": large, "gc": "on", **MODELESS}
    for role in COST:
        whole, by_hand = runs.lines("floor", role, **facts), runs.lines("floor", "floor", **facts)
        yield Result(
            part,
            f"{many} answered, most of the whole run, {role} keys",
            MEMORY,
            runs.ratios(whole, by_hand, peak),
            beside=_pair(whole, by_hand, peak, against),
        )
    for words, value in (("most on the way there", peak), ("held then", held)):
        yield Result(
            part,
            f"{many} of 2 KB against 300 B, {words}",
            LARGE_PROMPTS,
            runs.ratios(prompts, own, value),
            beside=_pair(prompts, own, value, against),
        )


def _growth(runs: Runs) -> Iterable[Result]:
    middle, large = runs.sizes["middle"], runs.sizes["large"]
    value = of("net_us_per_call")
    for role, limit in (("automatic", GROWTH), ("explicit", GROWTH), ("floor", None)):
        for gc, mode in MODES.items():
            many, fewer = (runs.lines("floor", role, n=n, gc=gc, **MODELESS) for n in (large, middle))
            yield Result(
                "growth of cost",
                f"{'the floor' if role == 'floor' else f'{role} keys'}, {large:,} calls against {middle:,}, {mode}",
                limit,
                runs.ratios(many, fewer, value),
                beside=_pair(many, fewer, value, "us a call"),
            )


def _latency(runs: Runs) -> Iterable[Result]:
    lines = runs.lines("latency", "latency")
    own, disk = of("submit_p50_us"), of("fsync_p50_us")
    yield Result(
        "accept to durable on an idle loop",
        "p50, against one append and fsync",
        LATENCY,
        runs.ratios(lines, lines, own, disk),
        beside=_pair(lines, lines, own, "us", disk),
    )


def _callbacks(runs: Runs) -> Iterable[Result]:
    large = runs.sizes["large"]
    part, phases = (
        "longest callback",
        {"results": CALLBACK_MS, "job": CALLBACK_MS, "retention": CALLBACK_MS, "accept": None},
    )
    words = {
        "results": "while results stream in",
        "job": "from durable to the first answer",
        "retention": "while stored results are dropped",
        "accept": "while calls come in",
    }
    for phase, limit in phases.items():
        for role in COST:
            if phase == "retention" and role == "automatic":
                continue  # nothing is stored
            lines = runs.lines("callbacks", role, n=large)
            seen = [line["phases"][phase] for line in lines.values() if phase in line["phases"]]
            yield Result(
                part,
                f"own CPU {words[phase]}, {large:,} calls, {role} keys",
                limit,
                tuple(one["cpu_ms"] for one in seen),
                unit="ms",
                beside=_worst(seen) if seen else "",
            )
    for role in COST:
        lines = runs.lines("callbacks", role, n=large)
        yield Result(
            part,
            f"longest garbage collection of a run, {role} keys, default GC",
            None,
            tuple(line["gc_longest_ms"] for line in lines.values()),
            unit="ms",
        )


def _worst(seen: list[Line]) -> str:
    """Return how long that was by the clock, and whose callback it was at the worst."""
    wall_ms = statistics.median(one["wall_ms"] for one in seen)
    name = max(seen, key=lambda one: float(one["cpu_ms"]))["worst_by_cpu"][0][1]
    return f"by the clock {_short(wall_ms)} ms; {name}"


def _recovery(runs: Runs) -> Iterable[Result]:
    large = runs.sizes["large"]
    for role, words in (("waiting", "that waited"), ("under-way", "of a job under way")):
        lines = runs.lines("recovery", role, n=large)
        cpu_s, store_mb = (_short(median_of(lines, of(key))) if lines else "" for key in ("recovery_cpu_s", "store_mb"))
        beside = f"{cpu_s} s CPU, a store of {store_mb} MB" if lines else ""
        yield Result(
            "recovery after a kill",
            f"{large:,} requests {words}",
            RECOVERY_S,
            tuple(line["recovery_s"] for line in lines.values()),
            unit="s",
            beside=beside,
        )


def _transfer(runs: Runs) -> Iterable[Result]:
    lines = runs.lines("transfer", "transfer")
    for what, limit, own, bare in (
        ("upload, from the store", THROUGHPUT, "upload_mb_s", "upload_bare_mb_s"),
        ("download, cut at lines", THROUGHPUT, "download_blocks_mb_s", "download_bare_mb_s"),
        ("download, decoded to rows", None, "download_rows_mb_s", "download_bare_mb_s"),
    ):
        yield Result(
            "throughput against a bare stream",
            what,
            limit,
            runs.ratios(lines, lines, of(own), of(bare)),
            at_least=True,
            beside=_pair(lines, lines, of(own), "MB/s", of(bare)),
        )


def _startup(runs: Runs) -> Iterable[Result]:
    lines = runs.lines("startup", "startup")
    google = sum(len(line["google_modules"]) for line in lines.values())
    beside = (
        ""
        if not lines
        else f"{google} modules of google-genai loaded"
        if google
        else "no module of google-genai loaded"
    )
    yield Result(
        "import",
        "`import carpool`, CPU",
        IMPORT_S,
        tuple(line["import_cpu_s"] for line in lines.values()),
        unit="s",
        beside=beside,
    )
    whole = tuple(line["import_cpu_s"] + line["client_cpu_s"] for line in lines.values())
    yield Result("import", "with `carpool.Client`, which loads the rest", IMPORT_S, whole, unit="s")


BY_HAND_NAME = "google-genai, file of dicts"
"""It matches answers with requests, so it keeps them until all are there."""
NOTHING_KEPT_NAME = f"{BY_HAND_NAME}, answers not kept"


def _peers(reports: list[dict[str, Any]]) -> Iterable[Result]:
    """Return the rows of other ways to do the same; each of their pairs is a round."""
    part = "against other ways"
    found = {one["peer"]: one for one in reports if "pairs" in one}
    for name in (BY_HAND_NAME, NOTHING_KEPT_NAME):
        judged = name == BY_HAND_NAME
        for metric, limit, words in (
            ("net_us_per_call", BY_HAND_TIME, "net time"),
            ("cpu_us_per_call", None, "CPU time"),
            ("memory_mb", BY_HAND_MEMORY, "memory over base"),
        ):
            yield _share(part, found.get(name), metric, limit if judged else None, f"{name}: {words}")
    fastest = fastest_batcher(reports)
    which = f", {fastest['peer']}" if fastest else ""
    name = f"the fastest other awaitable batcher{which}: CPU time"
    yield _share(part, fastest, "cpu_us_per_call", BATCHER, name)


def _share(part: str, report: dict[str, Any] | None, metric: str, limit: float | None, what: str) -> Result:
    if report is None:
        return Result(part, what, limit, ())
    pairs = [(pair["carpool"][metric], pair["peer"][metric]) for pair in report["pairs"]]
    own, other = (_short(statistics.median(side)) for side in zip(*pairs, strict=True))
    beside = f"{own} {'MB' if metric == 'memory_mb' else 'us a call'} against {other}, {report['n']:,} calls"
    return Result(part, what, limit, tuple(one / another for one, another in pairs), beside=beside)


def fastest_batcher(reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the awaitable batcher of another library that took the least CPU time a call."""
    awaitable = [one for one in reports if "summary" in one and not one["peer"].startswith("google-genai")]
    return min(awaitable, key=lambda one: float(one["summary"]["cpu_us_per_call"]["peer"]), default=None)


def _live(report: dict[str, Any]) -> Iterable[Result]:
    for metric, words in (("calls_per_s", "calls a second"), ("cpu_us_per_call", "CPU time a call")):
        one = report.get("live", {}).get(metric)
        figures = (one["ratio_min"], one["ratio"], one["ratio_max"]) if one else ()
        beside = f"{_short(one['carpool'])} against {_short(one['hand'])}" if one else ""
        yield Result("live calls against the same by hand", words, None, figures, beside=beside)
