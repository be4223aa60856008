"""``carpool demo``: what a newcomer sees first, without key and network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import carpool.emulator
from carpool.cli import demo, main

from .program import API_KEY, Child, Program, finish

# The program as it is typed, but for the seconds that jobs take so that a person can see something.
_QUICK = "import sys; from carpool.cli import demo, main; demo._LATENCY_S = (0.3, 0.7); sys.exit(main(sys.argv[1:]))"


def show(program: Program, *arguments: str, **environ: str) -> Child:
    return Child(
        [sys.executable, "-c", _QUICK, "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=program.folder,
        env=program.environ | environ,
    )


def test_the_demo_sends_files_and_inline_batches_and_all_checks_hold(tmp_path: Path) -> None:
    program = Program(tmp_path)
    # Whatever the environment holds stays outside: this would break every call, or leave this machine.
    hostile = {
        "CARPOOL_BASE_URL": "http://127.0.0.1:9",
        "CARPOOL_JOBS_MAX": "nonsense",
        "CARPOOL_HOME": str(tmp_path / "home"),
        "GOOGLE_API_KEY": API_KEY,
        "TMPDIR": str(tmp_path),
    }
    with (
        show(program, "--json") as whole,
        show(program) as printing,
        show(program, "--requests", "60", **hostile) as small,
    ):
        done, printed, shown = finish(whole), finish(printing), finish(small)

    assert done.code == 0, done.err
    data = done.data
    assert data["receipt"]["requests"] == 2_500
    assert data["checks"] == {"answers": True, "ledger": True}
    assert data["emulator"] is True
    assert data["jobs"] == sum(data["jobs_by_form"].values())
    assert all(number > 0 for number in data["jobs_by_form"].values())
    assert data["receipt"]["paid_usd"] > 0
    assert data["receipt"]["saved_usd"] == pytest.approx(data["receipt"]["paid_usd"])
    assert "2,500 of 2,500 done" in done.err

    # All of the README's receipt but the time is the same today: equal prompts have equal tokens, prices are bundled.
    assert printed.code == 0, printed.err
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    of_readme = readme.split("```\nReceipt")[1].split("```")[0]
    assert timeless(f"Receipt{of_readme}") == timeless(printed.out)

    assert shown.code == 0, shown.err
    for words in ("Receipt", "list price", "paid", "saved", "560 awaited calls", "no money was spent", "emulator"):
        assert words in shown.out
    assert "WRONG" not in shown.out
    assert API_KEY not in shown.out + shown.err
    assert list(tmp_path.iterdir()) == [], "the home of a demonstration goes away"


def timeless(text: str) -> list[str]:
    """Return the lines of a receipt without the time that the show took."""
    return [re.sub(r"[\d.]+ s\.$", "", line.rstrip()) for line in text.strip().splitlines()]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_LATENCY_S", (0.0, 0.1))


def run_demo(*arguments: str) -> int:
    return main(["demo", "--requests", "7", "--embeds", "3", *arguments])


@pytest.mark.usefixtures("at_once")
def test_a_wrong_answer_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(carpool.emulator, "expected_text", lambda prompt: "something else")
    assert run_demo() == 1
    assert "WRONG: 7 answers do not belong to their prompt" in capsys.readouterr().out


@pytest.mark.usefixtures("at_once")
def test_books_that_do_not_agree_are_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = carpool.emulator.Emulator.ledger

    def billed_more(self: Any) -> Any:
        ledger = real(self)
        return type("Ledger", (), {"rows_billed": ledger.rows_billed + 1, "live_calls": 0, "twice": ["k1"]})

    monkeypatch.setattr(carpool.emulator.Emulator, "ledger", billed_more)
    assert run_demo() == 1
    assert "WRONG: the emulator billed 11 requests, 1 of them twice" in capsys.readouterr().out


@pytest.mark.usefixtures("at_once")
def test_progress_goes_to_stderr_and_only_the_object_to_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run_demo("--json") == 0
    out, err = capfdbinary.readouterr()
    assert out.count(b"\n") == 1
    assert out.startswith(b"{")
    assert b"10 of 10 done" in err
