"""The simulation sees: each planted fault breaks a promise in at least one of a bounded number of seeds."""

from __future__ import annotations

import pytest

from . import mutants_around_jobs, mutants_of_jobs, mutants_of_sweeps
from .mutants import MUTANTS
from .world import simulate

SEEDS_MAX = 600
PLANTED = (mutants_of_jobs, mutants_around_jobs, mutants_of_sweeps)  # loaded, they are on the list


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.plant(monkeypatch)
    for seed in (mutant.likely, *range(SEEDS_MAX)):
        try:
            simulate(seed)
        except TypeError:  # the plant does not fit what it replaces any more: nothing was seen
            raise
        except Exception:  # noqa: BLE001 - a promise that is broken, or an engine that breaks on it
            return
    pytest.fail(f"not seen in {SEEDS_MAX} seeds: {mutant.reason}")
