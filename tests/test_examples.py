"""The examples run as they are, without a key and without a network, and show what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

EXAMPLES: Final = Path(__file__).parent.parent / "examples"
TOLD: Final = ("CARPOOL_", "GOOGLE_", "GEMINI_")


def run(name: str, *arguments: str, folder: Path, code: int = 0, **environ: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith(TOLD)}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=own | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert code or not done.stderr
    return done.stdout + done.stderr


def test_the_docstrings_of_the_standard_library_are_searched(tmp_path: Path) -> None:
    said = run("stdlib_docs.py", "--limit", "300", "--query", "parse a date and time from a string", folder=tmp_path)
    assert said.startswith("SERVICE: the emulator")
    assert re.search(r"^601 awaited calls in [2-9] jobs \(\d of summaries, \d of vectors\)", said, re.MULTILINE)
    assert "Receipt: 601 requests, list price $0.0" in said
    neighbours = re.findall(r"^  (0\.\d{3})  ([\w.]+)\n +(.+)$", said, re.MULTILINE)
    assert len(neighbours) == 5
    assert [score for score, _, _ in neighbours] == sorted((score for score, _, _ in neighbours), reverse=True)
    # The summary is that of the object: the emulator's shows the beginning of what it was asked about.
    assert all(name[:50] in summary for _, name, summary in neighbours)
    assert list(tmp_path.iterdir()) == [], "it left something behind"


def test_neighbours_are_sensible(tmp_path: Path) -> None:
    """Of the whole library, since a few hundred docstrings may hold nothing that is near."""
    said = run("stdlib_docs.py", "--query", "convert a string to a date and time", folder=tmp_path)
    calls, jobs = re.findall(r"^([\d,]+) awaited calls in (\d+) jobs", said, re.MULTILINE)[0]
    assert int(calls.replace(",", "")) > 8_000
    assert int(jobs) < 20
    names = re.findall(r"^  0\.\d{3}  ([\w.]+)$", said, re.MULTILINE)
    assert sum(any(word in name for word in ("date", "time")) for name in names) >= 4, names


def test_a_key_in_the_environment_alone_spends_no_money(tmp_path: Path) -> None:
    """It would fail if it called anything: that port is closed."""
    environ = {"GEMINI_API_KEY": "AIza-canary", "CARPOOL_BASE_URL": "http://127.0.0.1:9"}
    said = run("images.py", "a red bicycle", folder=tmp_path, **environ)
    assert said.startswith("SERVICE: the emulator")


@pytest.mark.parametrize("name", ["stdlib_docs.py", "images.py", "two_ways.py"])
def test_live_wants_a_key(name: str, tmp_path: Path) -> None:
    said = run(name, "--live", folder=tmp_path, code=2)
    assert "--live needs a key" in said


def test_pictures_are_written(tmp_path: Path) -> None:
    said = run("images.py", "A red bicycle", "A blue car, seen from above", "--out", "drawn", folder=tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "drawn").iterdir()}
    assert set(files) == {"1-a-red-bicycle.png", "2-a-blue-car-seen-from-above.png"}
    for name, data in files.items():
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert re.search(rf"{name}: \d+ x \d+ pixels, {len(data):,} bytes", said)
    assert "2 awaited calls in 1 job" in said


def test_a_storm_is_not_noticed_and_deadlines_choose_the_way(tmp_path: Path) -> None:
    said = run("two_ways.py", "--seconds", "4", folder=tmp_path)
    seconds = [[int(word) for word in row.split()[1:]] for row in said.splitlines() if row.startswith("second ")]
    assert sum(live + batch for _, live, batch, _ in seconds) == 80
    assert sum(errors for _, _, _, errors in seconds) == 0
    assert seconds[0][1] > 0, "live before the storm"
    assert "(live_refused: " in said
    assert sum(batch for _, _, batch, _ in seconds) > 10, "in a batch while it lasts"
    _, guessed, learned = re.split(r"^gemini-.*$", said, flags=re.MULTILINE)
    for ways, hour in ((guessed, "flex"), (learned, "batch")):
        found = dict(re.findall(r"^ +(none|\d+[hm])  (\w+) ", ways, re.MULTILINE))
        assert found == {"none": "batch", "12h": "batch", "1h": hour, "10m": "standard"}
    assert said.splitlines()[-1].startswith("88 calls: ")
    assert list(tmp_path.iterdir()) == [], "it left something behind"
