"""The simulation sees: each planted fault breaks a promise in at least one of a bounded number of seeds."""

from __future__ import annotations

import pytest

from . import mutants_around_jobs, mutants_of_jobs, mutants_of_sweeps
from .mutants import MUTANTS, sees

SEEDS_MAX = 40
"""After the likely one. More would hide that it is no longer likely, and take minutes."""
PLANTED = (mutants_of_jobs, mutants_around_jobs, mutants_of_sweeps)  # loaded, they are on the list


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.plant(monkeypatch)
    if not any(sees(seed) for seed in (mutant.likely, *range(SEEDS_MAX))):
        pytest.fail(f"{mutant.reason} Not seen; another seed: python -m tests.simulation --mutants {name}")
