"""The benchmarks: what is planned, what counts as met, and the page that shows it. That they run is CI's `--smoke`."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "benchmarks"
PAGE: Final = ROOT / "docs" / "explanation" / "performance.md"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def report_of(runs: list[dict[str, Any]], suites: list[str] | None = None) -> dict[str, Any]:
    plan = module("plan")
    planned = plan.groups(plan.FULL, plan.SUITES, uvloop=True)
    return {
        "kind": "made-up run",
        "suites": suites or [*plan.SUITES, "peers", "live"],
        "circumstances": {
            "when": "2026-01-01T00:00:00+00:00",
            "system": "Linux",
            "processor": "",
            "cpus": 2,
            "memory_gb": 8.0,
            "load_before": 0.0,
            "python": "CPython 3.11.7",
            "versions": {"aiohttp": "3.14"},
        },
        "commit": "abc",
        "sizes": plan.FULL._asdict(),
        "groups": [{"suite": group.suite, "facts": group.facts} for group in planned],
        "left_out": [],
        "runs": runs,
    }


def run_of(suite: str, role: str, number: int, line: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"suite": suite, "role": role, "round": number, "load": 0.5, "facts": facts, "line": line}


def cost(role: str, number: int, us: float, n: int = 100_000) -> dict[str, Any]:
    line = {
        "net_us_per_call": us,
        "cpu_us_per_call": us,
        "memory_mb": us,
        "net_wall_s": us * n / 1e6,
        "laps_wall_cpu_s": {"accept": [1.0, 1.0], "called": [0.5, 0.5], "durable": [0.25, 0.25]},
    }
    return run_of("floor", role, number, line, n=n, size=300, gc="on", loop="asyncio")


def found(report: dict[str, Any], part: str, what: str) -> Any:
    (result,) = [one for one in module("goals").results(report) if (one.part, one.what) == (part, what)]
    return result


def test_a_ratio_is_the_median_of_the_rounds_not_of_the_sides() -> None:
    rounds = [(10, 15), (20, 24), (40, 100)]
    runs = [
        cost(role, at, us)
        for at, both in enumerate(rounds)
        for role, us in zip(("floor", "automatic"), both, strict=True)
    ]
    result = found(report_of(runs), "net time against the floor", "automatic keys, 100,000 calls, default GC")
    assert result.figures == (1.5, 1.2, 2.5)
    assert result.figure == 1.5
    assert result.verdict == "met, by 6%"


def test_a_round_that_one_side_lacks_does_not_count() -> None:
    runs = [cost("floor", 0, 10), cost("automatic", 0, 20), cost("automatic", 1, 10)]
    result = found(report_of(runs), "net time against the floor", "automatic keys, 100,000 calls, default GC")
    assert result.figures == (2.0,)
    assert result.verdict == "**not met**, by 25%"


def test_a_limit_from_below_is_met_from_above() -> None:
    line = {f"{way}_mb_s": mb for way, mb in (("upload", 70.0), ("upload_bare", 100.0))}
    line |= {"download_bare_mb_s": 100.0, "download_blocks_mb_s": 50.0, "download_rows_mb_s": 40.0}
    report = report_of([run_of("transfer", "transfer", 0, line, n=100_000)])
    part = "throughput against a bare stream"
    assert found(report, part, "upload, from the store").verdict == "met, by 17%"
    assert found(report, part, "download, cut at lines").verdict == "**not met**, by 17%"
    assert found(report, part, "download, decoded to rows").verdict == ""


def test_a_goal_that_was_not_measured_stands_in_the_table_and_says_so() -> None:
    results = module("goals").results(report_of([]))
    judged = [result for result in results if result.limit is not None]
    assert len(judged) >= 30
    assert {result.verdict for result in judged} == {"not measured"}
    assert {result.met for result in judged} == {None}


def test_parts_that_were_not_asked_for_are_not_in_the_table() -> None:
    results = module("goals").results(report_of([], ["startup"]))
    assert {result.part for result in results} == {"import"}


def test_programs_of_a_group_take_turns_in_being_first() -> None:
    plan = module("plan")
    (group,) = plan.groups(plan.FULL, ["memory"], uvloop=False)
    order = [[program.role for number, _, program in plan.schedule([group]) if number == at] for at in range(3)]
    assert [sorted(roles) for roles in order] == [sorted(order[0])] * 3
    assert len({roles[0] for roles in order}) == 3


@pytest.mark.parametrize("size", ["FULL", "SMOKE"])
def test_every_measured_program_is_run(size: str) -> None:
    plan = module("plan")
    sizes = getattr(plan, size)
    planned = plan.smoke(sizes, uvloop=False) if size == "SMOKE" else plan.groups(sizes, plan.SUITES, uvloop=True)
    tells = re.compile(r"^ *harness\.(tell|measure)\(", re.MULTILINE)
    measured = {path.name for path in FOLDER.glob("*.py") if tells.search(path.read_text("utf-8"))}
    assert len(measured) >= 8
    assert {program.script for group in planned for program in group.programs} == measured


def test_the_page_shows_each_goal_and_is_the_same_when_renewed_again(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    report = report_of([cost(role, 0, us) for role, us in (("floor", 10), ("automatic", 15), ("explicit", 30))])
    module("report").renew(page, report)
    once = page.read_text("utf-8")
    assert "| automatic keys, 100,000 calls, default GC | <= 1.60x | 1.50x | once | met, by 6% |" in once
    assert "| explicit keys, 100,000 calls, default GC | <= 1.90x | 3.00x | once | **not met**, by 58% |" in once
    for result in module("goals").results(report):
        assert f"| {result.what} |" in once, result.what
    module("report").renew(page, report)
    assert page.read_text("utf-8") == once
    assert page.with_suffix(".svg").read_text("utf-8").startswith("<svg")


def test_the_harness_needs_nothing_but_python() -> None:
    """Programs of other libraries use it in environments without ours."""
    imported = re.findall(r"^(?:import|from) (\w+)", (FOLDER / "harness.py").read_text("utf-8"), re.MULTILINE)
    assert set(imported) - sys.stdlib_module_names == set()


def peer_of(name: str, n: int, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    metrics = ("cpu_us_per_call", "net_us_per_call", "memory_mb")
    made = [
        {side: {"n": n} | dict.fromkeys(metrics, us) for side, us in zip(("carpool", "peer"), both, strict=True)}
        for both in pairs
    ]
    summary = module("run_peers").summarise(made)
    return {"peer": name, "n": n, "pins": ["it==1"], "word": "less", "shim": "", "pairs": made, "summary": summary}


def test_other_ways_are_judged_by_the_one_by_hand_and_by_the_fastest_batcher(tmp_path: Path) -> None:
    names = [peer.name for peer in module("peers.catalogue").PEERS]
    assert {module("goals").BY_HAND_NAME, module("goals").NOTHING_KEPT_NAME} <= set(names)
    report = report_of([])
    report["peers"] = [
        peer_of(module("goals").BY_HAND_NAME, 100_000, [(24, 30), (28, 28), (21, 30)]),
        peer_of("slow", 10_000, [(20, 900)]),
        peer_of("quick", 10_000, [(20, 80)]),
        {"peer": "absent", "n": 10_000, "pins": ["absent==1"], "word": "", "shim": "", "missing": "no wheel"},
    ]
    part = "against other ways"
    by_hand = found(report, part, f"{module('goals').BY_HAND_NAME}: net time")
    assert (by_hand.figure, by_hand.met) == (0.8, True)
    assert found(report, part, "the fastest other awaitable batcher, quick: CPU time").figure == 0.25
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    module("report").renew(page, report)
    text = page.read_text("utf-8")
    assert "| slow | 10,000 | 900.0 | 0.022x (0.022 to 0.022) | 0.022x | 0.022x | less |" in text
    assert "- absent (absent==1): no wheel" in text
    picture = page.with_suffix(".svg").read_text("utf-8")
    assert [name for name in ("slow, 10,000", "quick, 10,000", "carpool, 10,000") if f">{name}<" not in picture] == []


def test_samples_count_for_who_was_at_work_and_imports_do_not() -> None:
    samples = (
        "thread (1): MainThread;run (harness.py:9);call (carpool/client.py:3);encode (carpool/_gemini/encode.py:7) 5\n"
        "thread (1): MainThread;run (harness.py:9) 2\n"
        "thread (1): MainThread;_find_and_load (<frozen importlib._bootstrap>:1);<module> (carpool/client.py:1) 9\n"
        "thread (2): carpool-store;Writer.run (carpool/_stores/writer.py:1);commit (diskcache/core.py:2) 3\n"
    )
    assert module("where").count(samples) == {
        ("loop", "carpool/_gemini/encode.py"): 5,
        ("loop", "the program, its tasks and futures"): 2,
        ("store", "diskcache"): 3,
    }


def test_the_drop_in_is_measured_over_one_batch(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / "drop_in.py"), "--calls", "100", "--pairs", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    live, ours = json.loads(path.read_text("utf-8"))
    assert (live["side"], live["batches"], live["right"]) == ("live", 0, 100)
    assert (ours["side"], ours["batches"], ours["right"]) == ("carpool", 1, 100)
    assert f"{ours['wall_s'] / live['wall_s']:.2f}" in done.stdout
