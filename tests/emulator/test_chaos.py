"""Plans out of a seed: always the same ones, of every fault there is, and nothing in them for ever."""

from __future__ import annotations

import msgspec
import pytest

from carpool.emulator import CALL_EFFECTS, FAULT_NAMES, JOB_FAULTS, Fault, Plan, chaos_plan
from carpool.emulator.__main__ import main
from carpool.emulator.chaos import told

SEEDS = range(201)
# Changes when a fault comes in or goes, or when its chances change: look at the new names, then write them down.
GOLDEN = {
    0: [
        "cancel.applied_later",
        "create.500",
        "create.dropped_after_apply",
        "download.302",
        "files.delete.503_empty",
        "files.get.504",
        "generate.502_html",
        "generate.cut",
        "generate.shed_flex",
        "get.slow",
        "output.late",
        "output.vanished",
        "row.doubled",
        "row.unknown_key",
        "upload.finalize.503_empty",
    ],
    42: [
        "create.429",
        "create.503_empty",
        "files.get.gzip_bomb",
        "generate.reset",
        "generate.shed_flex",
        "generate.slow",
        "job.partially_succeeded",
        "output.vanished",
        "row.line_separators",
        "upload.chunk.504",
        "upload.finalize.taken_in_part",
    ],
}


def kind_of(name: str) -> str:
    return name if name in JOB_FAULTS else name.rpartition(".")[2]


def test_the_same_seed_gives_the_same_plan() -> None:
    assert [chaos_plan(seed) for seed in SEEDS] == [chaos_plan(seed) for seed in SEEDS]
    assert len({msgspec.json.encode(chaos_plan(seed)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", GOLDEN)
def test_the_faults_of_a_seed_stay_what_they_were(seed: int) -> None:
    assert sorted(chaos_plan(seed).faults) == GOLDEN[seed]


def test_every_kind_of_fault_comes_in_some_seed() -> None:
    kinds = {kind_of(name) for seed in SEEDS for name in chaos_plan(seed).faults}
    assert kinds == set(CALL_EFFECTS) | set(JOB_FAULTS)


def test_every_seed_plays_some_faults_and_none_all() -> None:
    counts = [len(chaos_plan(seed).faults) for seed in SEEDS]
    assert min(counts) >= 3
    assert max(counts) < len(FAULT_NAMES) / 4


def test_nothing_is_for_ever() -> None:
    for seed in SEEDS:
        plan = chaos_plan(seed)
        for name, fault in plan.faults.items():
            assert fault.count is not None or fault.probability <= 0.5, (seed, name)
            # What reads as a verdict is none, since it comes once.
            assert kind_of(name) not in {"400", "403", "404"} or fault.count == 1, (seed, name)
        stuck = any(name.startswith("job.stuck") for name in plan.faults)
        assert plan.job_expiry_s <= 60 or not stuck
        assert not plan.create_ignores_deleted_file
        assert plan.delete_lag_s == 0


def test_plans_of_seeds_travel_as_json() -> None:
    for seed in SEEDS:
        plan = chaos_plan(seed)
        assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_any_integer_is_a_seed() -> None:
    assert chaos_plan(-1).faults
    assert chaos_plan(10**30).faults


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(), "always"),
        (Fault(count=1), "once"),
        (Fault(count=3), "3 times"),
        (Fault(probability=0.07), "7 %"),
        (Fault(probability=0.5, count=1), "50 %, once at most"),
        (Fault(every=4), "every 4th"),
        (Fault(every=4, probability=0.5, count=2), "every 4th, 50 % of these, 2 times at most"),
        (Fault(after=2, count=1), "always, after the first 2, once at most"),
        (Fault(count=1, seconds=2.0, bytes=7), "once, seconds=2.0, bytes=7"),
    ],
)
def test_a_fault_is_told_in_words(fault: Fault, words: str) -> None:
    assert told(Plan(faults={"get.503": fault})) == [f"get.503  {words}"]


def test_faults_are_told_in_the_order_of_their_names() -> None:
    assert told(Plan()) == []
    assert told(Plan(faults={"list.503": Fault(), "create.twin": Fault(count=1)})) == [
        "create.twin  once",
        "list.503     always",
    ]


def test_the_emulator_s_process_takes_chaos_or_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--chaos", "7", "--plan-json", "{}"])
    assert (stopped.value.code, "not allowed with" in capsys.readouterr().err) == (2, True)
    assert main(["--chaos", "7", "--host", "192.0.2.1", "--port", "0"]) == 2
    assert "cannot listen on" in capsys.readouterr().err
