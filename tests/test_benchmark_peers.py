"""The peers of the benchmark: their environments, how they are started, their stub. That they run is CI's `--smoke`."""

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

FOLDER: Final = Path(__file__).parent.parent / "benchmarks"
PINS: Final = ("made-up==1.0", "other[extra]==2.0")


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


class Installer:
    """What stands in for `python -m venv` and pip: it makes the folder, and notes what it was asked for."""

    def __init__(self, error: str = "") -> None:
        self.asked: list[list[str]] = []
        self._error = error

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        elif self._error:
            return subprocess.CompletedProcess(command, 1, "", f"Looking around\n{self._error}\n")
        return subprocess.CompletedProcess(command, 0, "", "")


def test_an_environment_is_made_once_and_again_when_its_pins_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environments, pip = module("peers.environments"), Installer()
    monkeypatch.setattr(subprocess, "run", pip)
    first = environments.make("peer", PINS, tmp_path)
    assert [command[2] for command in pip.asked] == ["venv", "pip"]
    assert pip.asked[1][-2:] == list(PINS)
    assert environments.make("peer", PINS, tmp_path) == first
    assert len(pip.asked) == 2
    (first.parent.parent / "left-over").touch()
    environments.make("peer", ("made-up==1.1",), tmp_path)
    assert len(pip.asked) == 4
    assert not (first.parent.parent / "left-over").exists()


def test_an_environment_that_pip_did_not_finish_is_not_used_and_its_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environments = module("peers.environments")
    monkeypatch.setattr(subprocess, "run", Installer("ERROR: No matching distribution found for made-up==1.0"))
    with pytest.raises(environments.NotInstalledError, match=r"^No matching distribution found for made-up==1\.0$"):
        environments.make("peer", PINS, tmp_path)
    pip = Installer()
    monkeypatch.setattr(subprocess, "run", pip)
    environments.make("peer", PINS, tmp_path)
    assert len(pip.asked) == 2


def test_a_smoke_run_takes_what_is_there_and_says_what_is_not() -> None:
    environments = module("peers.environments")
    assert environments.here(["pytest==0.1", "pydantic[email]==0.1"]) == Path(sys.executable)
    with pytest.raises(environments.NotInstalledError, match=r"^nobody-made-this is not here"):
        environments.here(["pytest==0.1", "nobody-made-this==1.0"])


def test_every_peer_has_a_program_an_environment_and_a_word_and_every_pin_is_exact() -> None:
    catalogue = module("peers.catalogue")
    assert {peer.environment for peer in catalogue.PEERS} == set(catalogue.ENVIRONMENTS)
    assert len({peer.name for peer in catalogue.PEERS}) == len(catalogue.PEERS)
    for peer in catalogue.PEERS:
        assert (FOLDER / "peers" / f"{peer.program[0]}.py").is_file(), peer.name
        assert peer.word, peer.name
        assert not peer.word.endswith("."), peer.name
    pins = [pin for pins in catalogue.ENVIRONMENTS.values() for pin in pins]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z-]+(\[[a-z]+\])?==[0-9.a]+", pin)] == []


def test_the_pins_are_those_that_the_page_beside_them_names() -> None:
    """Whoever brings a pin up to date reads what the page says of that version again."""
    page = (FOLDER / "peers" / "README.md").read_text("utf-8")
    for name, pins in module("peers.catalogue").ENVIRONMENTS.items():
        version = pins[0].partition("==")[2]
        assert re.search(rf"^\| {name.replace('-', '[-_]')}[^|]*\| {re.escape(version)} \|", page, re.MULTILINE), name


def test_a_peer_is_started_without_carpools_path(monkeypatch: pytest.MonkeyPatch) -> None:
    run_peers, catalogue = module("run_peers"), module("peers.catalogue")
    monkeypatch.setenv("PYTHONPATH", "src")
    peer = next(peer for peer in catalogue.PEERS if peer.name == "google-genai, inline batch")
    side = run_peers.peer_side(peer, Path("/env/bin/python"), 10, "http://stub", ["--gc", "on"])
    assert "PYTHONPATH" not in side.environ
    assert side.command[1:] == [
        *("-m", "peers.with_google_genai", "10", "--form", "inline"),
        *("--base-url", "http://stub", "--gc", "on"),
    ]
    assert run_peers.carpool_side("python", 10, "http://stub", []).environ["PYTHONPATH"] == "src"


def test_the_sides_of_a_pair_take_turns_and_the_ratio_is_carpools_share(monkeypatch: pytest.MonkeyPatch) -> None:
    run_peers = module("run_peers")
    order: list[str] = []
    cost = {"carpool": 20.0, "peer": 80.0}

    def run_once(side: Any) -> dict[str, float]:
        order.append(side.command[0])
        return dict.fromkeys(run_peers.METRICS, cost[side.command[0]])

    monkeypatch.setattr(run_peers, "run_once", run_once)
    sides = {name: run_peers.Side([name], None, {}, 1) for name in cost}
    pairs = run_peers.compare("both", sides, 2)
    assert order == ["carpool", "peer", "peer", "carpool"]
    summary = run_peers.summarise(pairs)["cpu_us_per_call"]
    assert summary == {"carpool": 20.0, "peer": 80.0, "ratio": 0.25, "ratio_min": 0.25, "ratio_max": 0.25}


def test_a_run_that_did_other_work_than_it_should_is_refused(tmp_path: Path) -> None:
    run_peers = module("run_peers")
    program = tmp_path / "program.py"
    program.write_text('print("a word before")\nprint(\'{"jobs": 2}\')\n', "utf-8")
    assert run_peers.run_once(run_peers.Side([sys.executable, str(program)], None, {}, 2)) == {"jobs": 2}
    with pytest.raises(run_peers.ProgramFailed, match="used 2 jobs, not 1"):
        run_peers.run_once(run_peers.Side([sys.executable, str(program)], None, {}, 1))


def test_what_was_not_measured_is_in_the_table_with_its_reason() -> None:
    run_peers = module("run_peers")
    common = {"n": 10, "pins": ("made-up==1.0",), "word": "does much", "shim": "", "peer": "one"}
    missing = common | {"missing": "no such version"}
    failed = common | {"peer": "two", "failed": "it ended with 1", "shim": "a bridge"}
    text = run_peers.table([missing, failed])
    assert re.search(r"^one +not installed$", text, re.MULTILINE)
    assert re.search(r"^two +FAILED$", text, re.MULTILINE)
    assert "one (made-up==1.0): does much.\n    not installed: no such version" in text
    assert "    Reached by a shim: a bridge.\n    FAILED: it ended with 1" in text


def test_the_other_wires_answer_every_id_with_a_line_that_decodes(tmp_path: Path) -> None:
    stub = module("peers.stub_other_wires")
    ids = [f"id-{i}" for i in range(5)]
    spaced = b"\n".join(json.dumps({"custom_id": one, "params": {}}).encode() for one in ids)
    dense = json.dumps([{"custom_id": one, "body": {}} for one in ids], separators=(",", ":")).encode()
    for requests, answer in ((spaced, stub.OPENAI_ANSWER), (dense, stub.ANTHROPIC_ANSWER)):
        target = tmp_path / "results"
        assert stub.write_answers(requests, target, answer) == 5
        rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
        assert rows == [{"custom_id": one, **answer} for one in ids]
    assert stub.write_answers(b"{}", tmp_path / "none", stub.OPENAI_ANSWER) == 0
