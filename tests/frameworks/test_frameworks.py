"""Real libraries, as far as the environment of the tests holds them; and what the driver of all others notices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement

from carpool.emulator import EmulatorThread, JobView, Logged, expected_text, expected_values

from . import making
from .checks import REFUSED_MODEL, complaints, passed_through
from .making import ROOT, CannotMake, Place, here, make
from .matrix import Outcome, table, try_row
from .plan import PROGRAMS, Environment, Part, Row, read
from .running import ATTEMPTS, CALLS, KEY, Answered, Embedded, Failed, Ran, Refusal, Told, run

ROWS = read()
CI = [row for row in ROWS if row.ci]


@pytest.mark.parametrize("row", CI, ids=lambda row: row.name)
def test_fifty_calls_at_once_share_a_job_and_each_has_its_own_answer(row: Row) -> None:
    # What waits for longer than libraries do is left to `python -m tests.frameworks`.
    row = msgspec.structs.replace(row, parts=tuple(part for part in row.parts if part not in {"waits", "returns"}))
    outcome = try_row(row, here())
    assert outcome.wrong == ()
    assert (outcome.live_calls, outcome.gathered) == (0, row.jobs)
    assert outcome.refused_by == row.refusal
    assert outcome.tried == row.parts


def test_ci_tries_the_libraries_of_the_test_extra_and_curl() -> None:
    tried = {(row.program, row.mode) for row in CI}
    assert tried == {
        ("google_genai.py", "sync"), ("google_genai.py", "async"), ("openai_client.py", "async"), ("curl.py", "sync")
    }  # fmt: skip


# -- the plan


def test_rows_have_names_of_their_own_and_programs_that_are_there() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.program for row in ROWS} <= {path.name for path in PROGRAMS.iterdir()}
    assert all(row.stack and row.jobs for row in ROWS)


def test_every_library_has_a_lower_bound_and_where_it_must_stop() -> None:
    for environment in {row.environment.name: row.environment for row in ROWS}.values():
        assert environment.requires or environment.npm
        assert all("@^" in package for package in environment.npm)
        for text in environment.requires:
            operators = {bound.operator for bound in Requirement(text).specifier}
            assert operators == {">=", "<"}, f"{environment.name}: {text}"


def test_carpool_is_no_more_in_the_environments_of_the_sidecar_than_what_they_do_without() -> None:
    for row in ROWS:
        assert row.way == ("in-process" if row.environment.carpool else "sidecar")
        assert not (row.environment.carpool and row.environment.absent)


def test_a_row_whose_environment_is_not_there_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[environments.one]\nrequires = ["x"]\n[[rows]]\nenvironment = "two"\n')
    with pytest.raises(ValueError, match="no environment 'two'"):
        read(plan)


# -- the environments


class Shell:
    """Stands for pip and venv, which take their time; tells of a module whether it is in what was made."""

    def __init__(self, *modules: str) -> None:
        self.called: list[list[str]] = []
        self._modules = modules

    def __call__(self, command: list[str], folder: Path | None = None) -> str:
        self.called.append(command)
        return " ".join(name for name in command[4:] if name in self._modules)


def test_an_environment_is_made_once_and_anew_from_other_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell()
    monkeypatch.setattr(making, "_call", shell)
    one = Environment(name="one", requires=("some>=1,<2",), absent=("aiohttp",))
    made = make(one, tmp_path, tmp_path / "carpool.whl")
    assert made.interpreter.is_relative_to(tmp_path / "one")
    venv, pip, look = shell.called
    assert venv[-1] == str(tmp_path / "one")
    assert pip[-1] == "some>=1,<2"
    assert look[-2:] == ["aiohttp", "carpool"]
    shell.called.clear()
    assert make(one, tmp_path, tmp_path / "carpool.whl") == made
    assert [command[1] for command in shell.called] == ["-I"], "it is looked through, and not made again"
    shell.called.clear()
    make(msgspec.structs.replace(one, requires=("some>=2,<3",)), tmp_path, tmp_path / "carpool.whl")
    assert [command[-1] for command in shell.called[:2]] == [str(tmp_path / "one"), "some>=2,<3"]


def test_carpool_is_installed_anew_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    monkeypatch.setattr(making, "_call", shell)
    one = Environment(name="one", requires=("some>=1,<2",), carpool=True)
    for _ in range(2):
        make(one, tmp_path, tmp_path / "carpool.whl")
    assert [command[-1] for command in shell.called if "install" in command] == [str(tmp_path / "carpool.whl")] * 2


def test_an_environment_that_holds_what_must_not_be_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_call", Shell("carpool", "aiohttp"))
    with pytest.raises(CannotMake, match="one must not hold aiohttp, carpool"):
        make(Environment(name="one", requires=("some>=1,<2",), absent=("aiohttp",)), tmp_path, tmp_path / "carpool.whl")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "one" / "theirs"
    theirs.parent.mkdir()
    theirs.touch()
    with pytest.raises(CannotMake, match="choose another one for --keep"):
        make(Environment(name="one", requires=("some>=1,<2",)), tmp_path, tmp_path / "carpool.whl")
    assert theirs.exists()


def test_what_cannot_be_made_says_why_and_so_does_a_missing_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotMake, match=r"(?s)failed:.*what it said"):
        making._call([sys.executable, "-c", "raise SystemExit('what it said')"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotMake, match=r"node needs Node\.js: install node and npm"):
        make(Environment(name="node", npm=("undici@^7",)), tmp_path, tmp_path / "carpool.whl")


# -- the checks

ROW = msgspec.structs.replace(CI[0], stack="httpx2", jobs=1, refusal="some.Error")
PROMPTS = [f"prompt {number}" for number in range(CALLS)]
GOOD = Told(
    versions={},
    stack="httpx2 2.16",
    answers=[Answered(prompt, expected_text(prompt), "answer", alone=True) for prompt in PROMPTS],
    vectors=[],
    refusals=[Refusal("some.Error", "400: the matrix refuses this prompt")],
)


def ran(told: Told, *sizes: int, refused: int = 0, live: int = 0) -> Ran:
    """Return what a program was told, with jobs of so many requests, and so many attempts at what is refused."""
    with EmulatorThread() as emulator:
        books = emulator.ledger()
    sized = [("gemini-3.5-flash", size) for size in sizes] + [(REFUSED_MODEL, 1)] * refused
    jobs = [
        JobView(
            name="batches/x",
            display_name="",
            model=model,
            kind="generate",
            state="SUCCEEDED",
            rows=size,
            rows_done=size,
            file_name="",
            created_at=0.0,
            deleted=False,
        )
        for model, size in sized
    ]
    return Ran(told=told, jobs=jobs, ledger=msgspec.structs.replace(books, live_calls=live), requests=[])


def told(**changes: object) -> Told:
    return msgspec.structs.replace(GOOD, **changes)


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert list(complaints(ROW, "gather", ran(GOOD, CALLS))) == []
    assert list(complaints(ROW, "features", ran(GOOD, 1, refused=1))) == []
    assert list(complaints(ROW, "waits", ran(told(answers=GOOD.answers[:1]), 1))) == []
    assert list(complaints(ROW, "returns", ran(told(answers=GOOD.answers[:1]), 1))) == []
    assert list(complaints(ROW, "fails", ran(told(answers=[]), *[1] * ATTEMPTS))) == []


SWAPPED = [GOOD.answers[0], Answered(PROMPTS[1], GOOD.answers[0].got, "answer", alone=True), *GOOD.answers[2:]]
VECTORS = [Embedded(prompt, expected_values(prompt, 8)) for prompt in PROMPTS]
SWAPPED_VECTORS = [Embedded(PROMPTS[0], VECTORS[1].got), *VECTORS[1:]]
IN_A_TEXT = [Answered("prompt 0", expected_text("prompt 00"), "JSON", alone=False)]


@pytest.mark.parametrize(
    ("part", "made", "words"),
    [
        ("gather", ran(GOOD, CALLS - 1, 1), "jobs of [49, 1] requests, not 1 of 50"),
        ("gather", ran(GOOD), "jobs of [] requests"),
        ("gather", ran(GOOD, CALLS, live=1), "1 live calls"),
        ("gather", ran(told(stack="httpx 0.28"), CALLS), "sends with httpx 0.28, not with httpx2"),
        ("gather", ran(told(answers=SWAPPED), CALLS), "'prompt 1' was answered 'Answer to \"prompt 0"),
        ("gather", ran(told(answers=GOOD.answers[1:]), CALLS), "49 prompts were answered"),
        ("gather", ran(told(answers=[*GOOD.answers, GOOD.answers[0]]), CALLS), "51 times in all"),
        ("gather", ran(told(vectors=SWAPPED_VECTORS), CALLS), "'prompt 0' was embedded as"),
        ("gather", ran(told(vectors=VECTORS[1:]), CALLS), "49 texts were embedded"),
        ("features", ran(told(answers=[]), 1, refused=1), "nothing was answered"),
        ("features", ran(told(answers=IN_A_TEXT), 1, refused=1), "JSON: 'prompt 0' was answered"),
        ("features", ran(GOOD, 1, refused=2), "what is refused was sent 2 times"),
        ("features", ran(told(refusals=[]), 1, refused=1), "refused by [], not by some.Error"),
        ("features", ran(told(refusals=[Refusal("other.Error", "x")]), 1, refused=1), "refused by ['other.Error']"),
        ("features", ran(told(refusals=[Refusal("some.Error", "no")]), 1, refused=1), "the refusal says ['no']"),
        ("waits", ran(told(answers=GOOD.answers[:1]), 1, 1), "1 answers, of jobs of [1, 1] requests"),
        ("waits", ran(told(answers=[]), 1), "0 answers"),
        ("returns", ran(told(answers=GOOD.answers[:1]), 1, 1), "1 answers, of jobs of [1, 1] requests"),
        ("fails", ran(told(answers=[]), *[1] * ATTEMPTS, 1), "the library asked again"),
        ("fails", ran(told(answers=[], refusals=[]), *[1] * ATTEMPTS), "refused by [], not by some.Error"),
    ],
)
def test_what_is_wrong_is_noticed(part: Part, made: Ran, words: str) -> None:
    found = list(complaints(ROW, part, made))
    assert any(words in complaint for complaint in found), found


def test_calls_that_are_handed_on_are_counted_if_they_were_answered() -> None:
    log = [
        Logged(method="POST", path="/", op=op, status=status, body_bytes=0, at=0.0)
        for op, status in [("count", 200), ("models.get", 404), ("create", 200), ("upload.start", 200)]
    ]
    assert passed_through(msgspec.structs.replace(ran(GOOD), requests=log)) == 2


# -- the driver


def place(tmp_path: Path, program: str) -> Place:
    (tmp_path / "program.py").write_text(program)
    return Place(interpreter=Path(sys.executable), programs=tmp_path)


IN_PROCESS = Row(
    environment=Environment(name="one", carpool=True), program="program.py", mode="sync", stack="none", jobs=1
)


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"(?s)ended with 3.*what it said"):
        run(
            IN_PROCESS,
            "gather",
            place(tmp_path, "import sys; print('what it said', file=sys.stderr); sys.exit(3)"),
            tmp_path,
        )
    outcome = try_row(IN_PROCESS, place(tmp_path, "raise SystemExit('curl is not installed')"))
    assert [wrong.split("\n")[-2] for wrong in outcome.wrong] == ["curl is not installed"] * 2
    assert "| no |" in table([outcome])


def test_a_program_sees_nothing_of_the_testers_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "the-testers-own")
    monkeypatch.setenv("CARPOOL_HOME", "/nowhere")
    shows = (
        "import json, os\n"
        "print(json.dumps({'versions': dict(os.environ), 'stack': '', 'answers': [], 'vectors': [], 'refusals': []}))"
    )
    seen = run(IN_PROCESS, "gather", place(tmp_path, shows), tmp_path).told.versions
    assert "GOOGLE_API_KEY" not in seen
    assert seen["GEMINI_API_KEY"] == KEY
    assert seen["CARPOOL_HOME"] == str(tmp_path / "home")
    assert seen["CARPOOL_BATCH_REQUESTS_MAX"] == str(CALLS)


def test_the_command_lists_its_rows_and_refuses_names_that_are_none() -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.frameworks", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    listed = call("--list", "--only", "litellm", "node")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["litellm", "litellm", "node", "node"]
    refused = call("--only", "no such library")
    assert refused.returncode == 2
    assert "no row has no such library in its name" in refused.stderr


def test_the_table_has_a_line_for_each_row() -> None:
    outcomes = [Outcome(row="one", library="a 1.0"), Outcome(row="two", wrong=("all of it",))]
    lines = table(outcomes).splitlines()
    assert len(lines) == 4
    assert "| a 1.0 |" in lines[2]
    assert "| yes |" in lines[2]
    assert "| two |" in lines[3]
