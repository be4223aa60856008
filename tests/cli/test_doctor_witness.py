"""The witness: which hosts it watches, and that programs do not notice it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import carpool
from carpool.surfaces.witness import Report, Watched, Witness, sitecustomize, watched_hosts

from .program import PATIENCE_S, Child

GOOGLE = "https://generativelanguage.googleapis.com"
NOWHERE = Watched("watched.invalid:[0-9]*", "127.0.0.1:9")


@pytest.mark.parametrize(
    "host",
    [
        "generativelanguage.googleapis.com",
        "GenerativeLanguage.GoogleAPIs.com.",
        "generativelanguage.mtls.googleapis.com",
        "aiplatform.googleapis.com",
        "us-central1-aiplatform.googleapis.com",
        "aiplatform.eu.rep.googleapis.com",
    ],
)
def test_googles_hosts_are_watched_whatever_the_upstream(host: str) -> None:
    for upstream in (GOOGLE, "http://127.0.0.1:8700", "https://gate.example/gemini"):
        assert watched_hosts(upstream).has(host, 443)


@pytest.mark.parametrize(
    "host",
    [
        "storage.googleapis.com",
        "generativelanguage.googleapis.com.evil.example",
        "xgenerativelanguage.googleapis.com",
        "api.openai.com",
        "localhost",
    ],
)
def test_others_are_not(host: str) -> None:
    assert not watched_hosts(GOOGLE).has(host, 443)


@pytest.mark.parametrize(
    ("upstream", "inside", "outside"),
    [
        ("https://gate.example", [("gate.example", 443)], [("gate.example", 80), ("x.gate.example", 443)]),
        ("https://gate.example:8443/x", [("GATE.example", 8443)], [("gate.example", 443), ("gate-example", 8443)]),
        ("http://127.0.0.1:8700", [("127.0.0.1", 8700), ("::1", 8700)], [("127.0.0.1", 8701)]),
        ("http://localhost:8700", [("localhost", 8700), ("127.0.0.1", 8700)], [("10.0.0.1", 8700)]),
        ("http://[::1]:8700", [("::1", 8700)], [("::2", 8700)]),
        ("https://10.1.2.3", [("10.1.2.3", 443)], [("10.1.2.4", 443), ("10.1.2.3", 80)]),
        ("https://[fd00::1]:8443", [("fd00::1", 8443)], [("fd00::2", 8443)]),
    ],
)
def test_the_upstream_is_watched(upstream: str, inside: list[tuple[str, int]], outside: list[tuple[str, int]]) -> None:
    watched = watched_hosts(upstream)
    assert [watched.has(*target) for target in inside] == [True] * len(inside)
    assert [watched.has(*target) for target in outside] == [False] * len(outside)


def test_openais_host_is_watched_when_asked() -> None:
    assert watched_hosts(GOOGLE, openai=True).has("api.openai.com", 443)


# -- programs


def run(code: str, *options: str, environ: dict[str, str] | None = None) -> tuple[str, Report]:
    """Run a program that is watched, and return what it prints and what was seen."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (environ or {})
    with Witness(NOWHERE) as witness:
        with Child(
            [sys.executable, *options, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=own | witness.watching(own),
        ) as process:
            out, _ = process.communicate(timeout=PATIENCE_S)
        return out, witness.report()


def targets(report: Report) -> list[str]:
    return [f"{call.host}:{call.port}" for call in report.calls]


CALLS = """
import asyncio, contextlib, socket

for look_up in (
    lambda: socket.getaddrinfo("watched.invalid", 443),
    lambda: socket.getaddrinfo(b"WATCHED.invalid.", "https"),
    lambda: socket.gethostbyname("watched.invalid"),
    lambda: socket.create_connection(("watched.invalid", 8443)),
    lambda: asyncio.run(asyncio.open_connection("watched.invalid", 80)),
    lambda: socket.getaddrinfo("other.invalid", 443),
    lambda: socket.getaddrinfo(None, 443),
):
    with contextlib.suppress(OSError):
        look_up()
for address in (("127.0.0.1", 9), ("127.0.0.1", 8)):
    with socket.socket() as one, contextlib.suppress(OSError):
        one.connect(address)
with socket.socket() as one:
    one.connect_ex(("127.0.0.1", 9))
with socket.socket(socket.AF_UNIX) as one, contextlib.suppress(OSError):
    one.connect("/no/such/socket")
print("done")
"""


def test_names_that_are_looked_up_and_addresses_that_are_connected_to_are_seen() -> None:
    out, report = run(CALLS)
    assert out == "done\n"
    names = [f"watched.invalid:{port}" for port in ("443", "443", "", "8443", "80")]
    assert targets(report) == [*names, "127.0.0.1:9", "127.0.0.1:9"]
    assert (report.programs, report.carpools, report.unreadable) == (1, 0, 0)
    assert {call.program for call in report.calls} == {"-c"}


def test_it_is_written_for_pythons_that_carpool_itself_does_not_run_on() -> None:
    source = Path(sitecustomize.__file__).read_text("utf-8")
    assert ast.parse(source, feature_version=(3, 8)).body
    assert "from __future__ import annotations" in source
    imported = [name for name in source.splitlines() if name.startswith(("import ", "from "))]
    assert not any("carpool" in name for name in imported)


def test_a_program_may_have_itself_watched() -> None:
    """The same as through the path, though from the package, so that it can be measured."""
    with Witness(NOWHERE) as witness:
        folder = witness.watching({})["PYTHONPATH"]
        setup = "from carpool.surfaces.witness.sitecustomize import go_on, watch\nimport sys\nfolder = sys.argv[1]\n"
        code = (
            f"{setup}watch(folder)\nsys.path.insert(0, folder)\ngo_on(folder)\nassert folder not in sys.path\n{CALLS}"
        )
        with Child([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True) as process:
            out, _ = process.communicate(timeout=PATIENCE_S)
        report = witness.report()
    assert out == "done\n"
    assert len(targets(report)) == 7
    assert report.programs == 1


def test_children_are_watched_too() -> None:
    code = (
        "import multiprocessing, socket, subprocess, sys\n"
        "def look_up(name):\n"
        "    try: socket.getaddrinfo(name, 443)\n"
        "    except OSError: pass\n"
        "child = multiprocessing.get_context('fork').Process(target=look_up, args=('watched.invalid',))\n"
        "child.start(); child.join()\n"
        "look_up = 'import socket; socket.gethostbyname(\"watched.invalid\")'\n"
        "subprocess.run([sys.executable, '-c', look_up], stderr=subprocess.DEVNULL)\n"
    )
    out, report = run(code)
    assert out == ""
    assert targets(report) == ["watched.invalid:443", "watched.invalid:"]
    assert report.programs == 2
    assert len({call.pid for call in report.calls}) == 2


def test_a_carpool_of_the_programs_own_is_noticed() -> None:
    path = {"PYTHONPATH": str(Path(carpool.__file__).parents[1])}
    assert run("import carpool; carpool.Client", environ=path)[1].carpools == 1
    assert run("import carpool; carpool.CarpoolError", environ=path)[1].carpools == 0


def test_a_python_that_ignores_its_environment_is_not_watched() -> None:
    out, report = run("print('done')", "-I")
    assert (out, report.programs, report.calls) == ("done\n", 0, [])


def test_the_sitecustomize_that_was_there_before_is_loaded_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.was_customized = __name__, __file__\n")
    code = "import sitecustomize, sys; print(sys.was_customized, sitecustomize.__file__, *sys.path, sep='\\n')"
    out, report = run(code, environ={"PYTHONPATH": str(tmp_path)})
    file = str(tmp_path / "sitecustomize.py")
    assert out.splitlines()[:2] == [str(("sitecustomize", file)), file]
    assert "carpool-witness-" not in out
    assert report.programs == 1


def test_an_error_in_it_is_told_as_ever(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise RuntimeError('of its own')\n")
    out, report = run("print('done')", environ={"PYTHONPATH": str(tmp_path)})
    assert "Error in sitecustomize" in out
    assert "RuntimeError: of its own" in out
    assert out.endswith("done\n")
    assert report.programs == 1


def test_a_program_does_not_notice_that_nothing_can_be_written_down() -> None:
    code = (
        "import os, pathlib, socket, sys\n"
        "report = pathlib.Path(os.environ['PYTHONPATH'].split(os.pathsep)[0]) / 'seen.jsonl'\n"
        "report.unlink()\n"
        "try: socket.gethostbyname('watched.invalid')\n"
        "except socket.gaierror: print('not found')\n"
        "report.touch()\n"
    )
    out, report = run(code)
    assert out == "not found\n"
    assert report.calls == []


def test_closing_all_files_does_not_blind_it() -> None:
    code = (
        "import os, socket\nos.closerange(3, 256)\ntry: socket.gethostbyname('watched.invalid')\nexcept OSError: pass"
    )
    assert targets(run(code)[1]) == ["watched.invalid:"]


def test_lines_of_others_are_counted_and_do_no_harm() -> None:
    with Witness(NOWHERE) as witness:
        folder = Path(witness.watching({})["PYTHONPATH"])
        with (folder / "seen.jsonl").open("ab") as file:
            file.write(
                b'{"pid": 1}\nnonsense\n\xff\n' + json.dumps({"pid": 1, "host": "a", "port": ""}).encode() + b"\n"
            )
        report = witness.report()
    assert (report.programs, targets(report), report.unreadable) == (1, ["a:"], 2)
    assert not folder.exists()


def test_the_path_that_was_there_stays_behind_it() -> None:
    with Witness(NOWHERE) as witness:
        first, *rest = witness.watching({"PYTHONPATH": os.pathsep.join(("/a", "/b"))})["PYTHONPATH"].split(os.pathsep)
    assert "carpool-witness-" in first
    assert rest == ["/a", "/b"]


def test_a_witness_that_was_not_entered_says_so() -> None:
    with pytest.raises(RuntimeError, match="not entered"):
        Witness(NOWHERE).report()
