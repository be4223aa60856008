"""``carpool emulate``: the emulator as a process."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from pathlib import Path

import msgspec
import pytest

from carpool.cli import main
from carpool.cli.emulate import _plan
from carpool.emulator import Plan, chaos_plan
from carpool.emulator.chaos import told

from .program import Program, finish


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_serves_until_a_signal_and_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    with Program(tmp_path).start("emulate", "--port", "0", "--json") as process:
        assert process.stdout is not None
        base_url = json.loads(process.stdout.readline())["base_url"]
        with urllib.request.urlopen(f"{base_url}/emulator/ledger") as reply:  # noqa: S310 - our own emulator
            assert json.load(reply)["rows_billed"] == 0
        process.send_signal(number)
        done = finish(process)
    assert (done.code, done.err) == (0, "")


def test_it_says_how_to_point_a_client_at_it(tmp_path: Path) -> None:
    program = Program(tmp_path)
    with program.start("emulate", "--port", "0", "--latency", "0.1") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        base_url = lines[0].split()[4].rstrip(";")
        answered = program.map("-", "-", text='{"prompt": "hello"}\n', CARPOOL_BASE_URL=base_url)
        process.send_signal(signal.SIGTERM)
        finish(process)
    assert lines[1].endswith(f"export CARPOOL_BASE_URL={base_url}\n")
    assert f'"base_url": "{base_url}"' in lines[2]
    assert '"response"' in answered.out


def test_a_plan_comes_from_a_file_and_latency_wins_over_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"latency_s": 7, "faults": {"get.503": {"probability": 0.5}}}')
    assert _plan(path, None).latency_s == 7
    assert _plan(path, 1.5).latency_s == 1.5
    assert _plan(path, 1.5).faults["get.503"].probability == 0.5
    assert _plan(None, None).latency_s == 2


@pytest.mark.parametrize(
    "text",
    ['{"faults": {"get.504x": {}}}', '{"latency_s": -1}', '{"latencys": 1}', "{", b"\xff\xfe"],
    ids=["fault", "value", "field", "json", "utf-8"],
)
def test_a_plan_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert main(["emulate", "--plan", str(path)]) == 2
    shown = capsys.readouterr().err
    assert str(path) in shown
    assert shown.count("\n") == 1


def test_chaos_says_which_faults_it_plays(tmp_path: Path) -> None:
    with Program(tmp_path).start("emulate", "--port", "0", "--chaos", "7") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4 + len(told(chaos_plan(7))))]
        process.send_signal(signal.SIGTERM)
        finish(process)
    assert lines[3] == "it plays these faults:\n"
    assert lines[4:] == [f"  {line}\n" for line in told(chaos_plan(7))]


def test_chaos_gives_its_plan_as_json_and_plays_it(tmp_path: Path) -> None:
    with Program(tmp_path).start("emulate", "--port", "0", "--chaos", "7", "--latency", "0.5", "--json") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        request = urllib.request.Request(  # noqa: S310 - our own emulator
            f"{said['base_url']}/emulator/plan", json.dumps(said["plan"]).encode()
        )
        with urllib.request.urlopen(request) as reply:  # noqa: S310 - our own emulator
            again = json.load(reply)
        process.send_signal(signal.SIGTERM)
        finish(process)
    plan = msgspec.convert(said["plan"], Plan)
    assert plan == msgspec.structs.replace(chaos_plan(7), latency_s=0.5)
    assert msgspec.convert(again, Plan) == plan


def test_chaos_and_a_plan_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    assert main(["emulate", "--plan", str(path), "--chaos", "7"]) == 2
    assert "--plan and --chaos exclude each other" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["emulate", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
