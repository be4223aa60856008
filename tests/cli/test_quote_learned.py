"""What a quote knows of earlier answers in the home, and of ladders and deadlines."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool import CHEAP, FAST, ConfigurationError, Request, Settings
from carpool._core.estimate import Habit, Habits, Sketch
from carpool._core.messages import PutHabit, PutSeen
from carpool._core.routing import Seen
from carpool._quote import Learned, Quoter
from carpool._stores.disk import DiskStore
from carpool._upkeep import learned_at
from carpool.emulator import Plan
from carpool.settings import Route

from .program import Inside, Program, Service, write_rows

MODEL = "gemini-3.5-flash"
HERE, GOOGLE = "https://here.example", "https://generativelanguage.googleapis.com"
NOW = 1_795_219_200.0
USUAL_S: dict[Route, float] = {"batch": 600.0, "flex": 20.0, "standard": 5.0}


def habit(model: str, answers: int, tokens: int, *, counted: int = 10, base_url: str = HERE) -> Habit:
    """Return what so many answers of so many tokens taught (fewer than 16: those are not rounded)."""
    outputs = Sketch(buckets=[tokens, answers])
    return Habit(model=model, estimated=10, counted=counted, outputs=outputs, base_url=base_url)


def seen(route: Route, *durations_s: float, base_url: str = HERE) -> Seen:
    return Seen(model=MODEL, route=route, durations_s=list(durations_s), base_url=base_url)


def quoted(learned: Learned | None = None, *, text: str = "x" * 400, rows: int = 10, **more: Any) -> Any:
    settings = Settings(**{name: more.pop(name) for name in ("max_double_cost_per_day_usd", "ladder") & more.keys()})
    quoter = Quoter(more.pop("model", MODEL), more.pop("kind", "generate"), settings, NOW, learned=learned, **more)
    for _ in range(rows):
        quoter.add(Request(model=MODEL, contents=text))
    return quoter.quote()


def learned(*habits: Habit, seen: Any = ()) -> Learned:
    known = Habits()
    for one in habits:
        known.take(one)
    return Learned(known, seen)


# -- what a home knows


def test_a_second_quote_knows_how_long_the_answers_were(inside: Inside, service: Service, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"key": f"k{n}", "prompt": f"What is {n} times {n}?"} for n in range(40)])
    asked = ("quote", "in.jsonl", "--model", MODEL)
    first = json.loads(inside.run(*asked, "--json").out)
    assert inside.map("in.jsonl", "out.jsonl", CARPOOL_BATCH_REQUESTS_MAX="15").code == 0
    done = inside.run(*asked, "--json")
    second = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert second["basis"]["output_tokens"].startswith("as 40 earlier answers of this model: "), "10, and twice 15"
    assert second["output_tokens"]["p10"] <= service.ledger.output_tokens <= second["output_tokens"]["p90"]
    assert second["output_tokens"]["p90"] < first["output_tokens"]["p90"] / 10
    bill, money = Decimal(service.ledger.picousd) / 10**12, second["money"]["batch"]
    assert Decimal(str(money["p10_usd"])) <= bill <= Decimal(str(money["p90_usd"]))
    for of_others in (("--base-url", GOOGLE), ("--base-url", "https://127.0.0.1:8700")):
        assert json.loads(inside.run(*asked, *of_others, "--json").out) == first
    assert json.loads(inside.run(*asked, "--base-url", "http://127.0.0.1:1/", "--json").out) == second
    elsewhere = json.loads(inside.run(*asked, "--home", str(tmp_path / "other"), "--json").out)
    assert elsewhere == first
    assert not (tmp_path / "other").exists()


async def test_of_several_slots_the_one_that_saw_most_is_heard(tmp_path: Path) -> None:
    one, two = DiskStore(tmp_path, Settings(), slots_max=2), DiskStore(tmp_path, Settings(), slots_max=2)
    try:
        await one.open()
        await two.open()
        await one.commit([PutHabit(habit(MODEL, 30, 7)), PutHabit(habit("other", 3, 1)), PutSeen(seen("flex", 1.0))])
        await two.commit([PutHabit(habit(MODEL, 25, 9)), PutHabit(habit("other", 5, 2))])
        await two.commit([PutSeen(seen("flex", 2.0, 3.0)), PutSeen(seen("batch", 4.0))])
        habits, durations = learned_at(tmp_path, HERE)  # also while they are in use
    finally:
        await one.close()
        await two.close()
    assert (habits.lengths(MODEL).learned, habits.lengths(MODEL).p90) == (30, 7)
    assert [change.outputs.buckets for change in learned_at(tmp_path, HERE)[0].changes()] == []
    assert sorted((one.route, tuple(one.durations_s)) for one in durations) == [("batch", (4.0,)), ("flex", (2.0, 3.0))]


async def test_what_another_service_taught_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator above all: its answers come in seconds."""
    monkeypatch.delenv("CARPOOL_BASE_URL", raising=False)
    here, emulator = {"base_url": GOOGLE}, {"base_url": "http://127.0.0.1"}
    async with _store(tmp_path) as store:
        await store.commit([PutHabit(habit(MODEL, 30, 7, **here)), PutSeen(seen("flex", 900.0, **here))])
        await store.commit([PutHabit(habit(MODEL, 60, 1, **emulator)), PutSeen(seen("flex", 1.0, 1.0, **emulator))])
    for base_url, environ, answers, durations_s in (
        (None, "", 30, [900.0]),
        (GOOGLE, "http://127.0.0.1:1", 30, [900.0]),
        (None, "http://127.0.0.1:1", 60, [1.0, 1.0]),
        ("http://127.0.0.1:2/", "", 60, [1.0, 1.0]),
    ):
        monkeypatch.setenv("CARPOOL_BASE_URL", environ)
        habits, durations = learned_at(tmp_path, base_url)
        assert (habits.lengths(MODEL).learned, [one.durations_s for one in durations]) == (answers, [durations_s])
    with pytest.raises(ConfigurationError, match="base_url"):
        learned_at(tmp_path, "nowhere")


@asynccontextmanager
async def _store(home: Path) -> AsyncGenerator[DiskStore]:
    store = DiskStore(home, Settings())
    await store.open()
    yield store
    await store.close()


def test_a_home_that_cannot_be_read_is_told_and_left_out(program: Program, tmp_path: Path) -> None:
    broken = tmp_path / "home" / "slot-0"
    broken.mkdir(parents=True, mode=0o700)
    (broken / "cache.db").write_bytes(b"no database at all, and long enough to be looked at" * 100)
    write_rows(tmp_path / "in.jsonl", [{"prompt": "x"}])
    done = program.run("quote", "in.jsonl", "--model", MODEL, "--json")
    assert (done.code, done.data["rows"]) == (0, 1)
    assert "what earlier answers taught cannot be read, and is left out: " in done.err
    assert "slot-0" in done.err


def test_what_was_counted_moves_the_middle_within_its_range() -> None:
    plain = quoted().input_tokens
    assert (plain.p10, plain.p50, plain.p90) == (850, 1_000, 1_150)
    for counted, middle in ((11, 1_100), (9, 900), (20, 1_150), (1, 850)):
        found = quoted(learned(habit(MODEL, 0, 1, counted=counted)))
        assert (found.input_tokens.p10, found.input_tokens.p50, found.input_tokens.p90) == (850, middle, 1_150)
        assert f"as earlier answers counted them: {counted / 10:.3g} of that" in found.basis["input_tokens"]
    assert quoted(learned(habit("other", 0, 1, counted=11))).input_tokens == plain
    assert quoted(learned(habit(MODEL, 0, 1))).basis == quoted().basis


def test_times_are_those_that_were_seen_once_they_are_enough() -> None:
    few, enough = [float(n) for n in range(1, 10)], [float(n * 100) for n in range(1, 11)]
    usual = quoted().time_s
    found = quoted(learned(seen=[seen("batch", *enough), seen("flex", *few)]))
    assert (found.time_s["batch"].p10, found.time_s["batch"].p50, found.time_s["batch"].p90) == (100, 500, 900)
    assert (found.time_s["flex"], found.time_s["standard"]) == (usual["flex"], usual["standard"])
    assert found.basis["time"].startswith("took so long in this home: batch as the last 10. Else assumed")
    quick = quoted(learned(seen=[seen("standard", *[0.2] * 10)])).time_s["standard"]
    assert (quick.p10, quick.p90) == (1, 1), "never nothing"


# -- ladders


def usual(*routes: Route) -> Learned:
    return learned(seen=[seen(route, *[USUAL_S[route]] * 10) for route in routes or USUAL_S])


def test_without_a_ladder_and_a_deadline_there_is_the_batch_alone() -> None:
    quote = quoted()
    assert (quote.way.ladder, quote.way.begins, quote.way.money) == (("batch",), "batch", quote.money["batch"])
    assert "ladder" not in quote.basis


@pytest.mark.parametrize(
    ("known", "left_s", "begins"),
    [
        (learned(), 9 * 3_600.0, "batch"),
        (learned(), 3_600.0, "flex"),
        (learned(), 300.0, "standard"),
        (usual(), 3_600.0, "batch"),
        (usual(), 300.0, "flex"),
        (usual(), 10.0, "standard"),
    ],
)
def test_a_deadline_says_on_which_rung_requests_begin(known: Learned, left_s: float, begins: Route) -> None:
    way = quoted(known, left_s=left_s).way
    assert (way.ladder, way.begins) == (CHEAP, begins)


def test_a_ladder_costs_from_its_cheapest_to_its_dearest_rung_and_what_is_paid_twice() -> None:
    cheap = quoted(left_s=9 * 3_600.0, max_double_cost_per_day_usd=Decimal(1))
    half, full = cheap.money["batch"], cheap.money["standard"]
    assert (cheap.way.money.p10_usd, cheap.way.money.p50_usd) == (half.p10_usd, half.p50_usd)
    assert cheap.way.money.p90_usd == full.p90_usd + 2 * half.p90_usd
    assert "$1 a day at most (Settings.max_double_cost_per_day_usd)" in cheap.basis["ladder"]
    some = quoted(left_s=9 * 3_600.0, max_double_cost_per_day_usd=Decimal("0.001"))
    assert some.way.money.p90_usd == full.p90_usd + Decimal("0.001")
    last = quoted(left_s=60.0)
    assert (last.way.begins, last.way.money) == ("standard", full)
    fast = quoted(ladder=FAST)
    assert (fast.way.begins, fast.way.money.p10_usd, fast.way.money.p50_usd, fast.way.money.p90_usd) == (
        "standard",
        half.p10_usd,
        full.p50_usd,
        full.p90_usd,
    )
    assert "twice" not in fast.basis["ladder"]
    assert quoted(ladder=FAST, left_s=60.0).way.money == fast.way.money, "none is left for a slower one in haste"


def test_the_ladder_of_the_settings_counts_and_one_without_prices_has_no_money() -> None:
    assert quoted(ladder=("flex", "standard")).way.begins == "flex"
    unknown = quoted(model="gemini-of-tomorrow", left_s=9 * 3_600.0)
    assert (unknown.way.begins, unknown.way.money) == ("batch", None)


def test_embeddings_pass_flex_over(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "The sea."}])
    asked = ("quote", "in.jsonl", "--model", "gemini-embedding-001", "--kind", "embed", "--json")
    way = json.loads(inside.run(*asked, "--deadline", "4h").out)["way"]
    assert (way["ladder"], way["begins"]) == (["batch", "standard"], "standard")
    assert inside.run(*asked, "--ladder", "flex").code == 2


def test_the_ladder_is_a_row_of_the_table(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "How deep is the sea?"}])
    asked = ("quote", "in.jsonl", "--model", MODEL)
    assert "price by the ladder, flex first" in inside.run(*asked, "--deadline", "4h").out
    assert "price by the ladder, standard first" in inside.run(*asked, "--ladder", "fast").out
    assert "by the ladder" not in inside.run(*asked).out
    for wrong in (("--deadline", "soon"), ("--ladder", "cheep"), ("--ladder", "batch,batch")):
        done = inside.run(*asked, *wrong)
        assert (done.code, done.out) == (2, ""), wrong


@pytest.fixture
def service() -> Any:
    with Service(Plan(latency_s=0.02)) as one:
        yield one
