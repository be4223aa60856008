"""Mutate the core and see who notices: ``python -m tests.mutation --count 250 --seed 1 --jobs 2``.

Owns the command. mutmut makes the mutants, each a change of one expression or statement inside a function, and runs the
tests of the core that pass through it; what survives them meets seeds of the simulation. It needs mutmut 3.8 or later
(``pip install '.[mutation]'``), works on a copy, and prints the change of each mutant that nobody noticed. It leaves
with 1 if fewer than ``--floor`` percent of all mutants were caught; those that change nothing (``equivalents``) are
named, but not counted as caught.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from .equivalents import reason_for

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = (
    "src",
    "tests/conftest.py",
    "tests/canary.py",
    "tests/core",
    "tests/simulation",
    "pyproject.toml",
    "README.md",
)
# A mutant that goes round for ever is stopped after four times what its tests take.
CONFIG: Final = """
[tool.mutmut]
source_paths = ["src/carpool/_core"]
pytest_add_cli_args_test_selection = ["tests/core"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
timeout_multiplier = 2.0
also_copy = ["src", "tests", "README.md"]
"""
NOBODY: Final = "carpool.nothing.*"
SURVIVED: Final = "survived"
SEED_S: Final = 1.0
"""Time that one seed of the simulation is given: ten times what it takes."""


class Bench:
    """A copy of the tree, and what is done to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        self._env.pop("MUTANT_UNDER_TEST", None)
        for name in COPIED:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        with (folder / "pyproject.toml").open("a", encoding="utf-8") as config:
            config.write(CONFIG)

    def mutmut(self, *arguments: str) -> str:
        """Run mutmut, and return what it says."""
        command = [sys.executable, "-m", "mutmut", *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self._env, text=True, check=False, stdout=-1, stderr=subprocess.STDOUT
        )
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return what is known of each mutant."""
        said = self.mutmut("results", "--all", "true")
        return dict(re.findall(r"^ +(\S+): (.+)$", said, re.MULTILINE))

    def change_by(self, mutant: str) -> tuple[str, str]:
        """Return the lines that a mutant changes, and what it makes of them."""
        lines = self.mutmut("show", mutant).splitlines()
        parts = ("\n".join(line[1:] for line in lines if re.match(f"[{sign}](?![-+]{{2}} )", line)) for sign in "-+")
        before, after = parts
        return before, after

    def is_seen(self, mutant: str, seeds: int) -> bool:
        """Return whether a seed of the simulation breaks a promise, or breaks off, under a mutant."""
        folder = self._folder / "mutants"
        command = [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds), "--stop-after", "1"]
        env = self._env | {"PYTHONPATH": str(folder / "src"), "MUTANT_UNDER_TEST": mutant}
        try:
            done = subprocess.run(
                command, cwd=folder, env=env, check=False, capture_output=True, timeout=60 + seeds * SEED_S
            )
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0


def run(bench: Bench, count: int, seed: int, jobs: int, seeds: int) -> dict[str, str]:
    """Try some mutants, and return who caught each of them; ``survived``: nobody."""
    bench.mutmut("run", "--max-children", str(jobs), NOBODY)  # makes them, and learns which tests pass through each
    names = sorted(bench.states())
    if not names:
        sys.exit("no mutants were made: does 'python -m mutmut --version' work?")
    chosen = names if count >= len(names) else sorted(random.Random(seed).sample(names, count))
    sys.stdout.write(f"{len(chosen)} of {len(names)} mutants\n")
    said = bench.mutmut("run", "--max-children", str(jobs), *chosen)
    states = bench.states()
    verdicts = {name: states[name] for name in chosen}
    if "not checked" in verdicts.values():
        sys.exit(f"mutmut stopped early:\n{said[-4_000:]}")
    left = [name for name in chosen if verdicts[name] in {SURVIVED, "no tests"}]
    verdicts |= dict.fromkeys(left, SURVIVED)
    if not seeds:
        return verdicts
    if bench.is_seen("", seeds):
        sys.exit("the simulation fails without a mutant")
    sys.stdout.write(f"{len(left)} survived the tests of the core; now the simulation\n")
    with ThreadPoolExecutor(jobs) as pool:
        for name, seen in zip(left, pool.map(lambda name: bench.is_seen(name, seeds), left), strict=True):
            verdicts[name] = "simulation" if seen else SURVIVED
    return verdicts


def tell(bench: Bench, verdicts: dict[str, str]) -> float:
    """Print what survived and the figures; return the percentage that was caught."""
    survived = [name for name, verdict in verdicts.items() if verdict == SURVIVED]
    equal, modules = 0, Counter(name.split(".")[2] for name in verdicts)
    for name in survived:
        before, after = bench.change_by(name)
        reason = reason_for(before, after)
        equal += reason is not None
        sys.stdout.write(f"\n{name}: {f'equivalent, {reason}' if reason else 'SURVIVED'}\n{before}\n{after}\n")
    lost = Counter(name.split(".")[2] for name in survived)
    for module, made in sorted(modules.items()):
        sys.stdout.write(f"{module:12} {made - lost[module]:4} of {made:4}\n")
    caught = len(verdicts) - len(survived)
    percent = 100 * caught / len(verdicts)
    by = ", ".join(f"{verdict} {number}" for verdict, number in Counter(verdicts.values()).most_common())
    sys.stdout.write(
        f"caught {caught} of {len(verdicts)}: {percent:.1f} % ({by}); of the survivors {equal} are equivalent, "
        f"{len(survived) - equal} want a test\n"
    )
    return percent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=250, help="mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=1, help="of the choice")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seeds", type=int, default=200, help="of the simulation, for each that survives the tests")
    parser.add_argument("--floor", type=float, default=90.0, help="percent of all that must be caught")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="carpool-mutation-") as folder:
        bench = Bench(Path(folder))
        percent = tell(bench, run(bench, args.count, args.seed, args.jobs, args.seeds))
    return 0 if percent >= args.floor else 1


if __name__ == "__main__":
    sys.exit(main())
