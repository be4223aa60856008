"""Documents say what the code does; that their code runs is shown in ``tests/docs``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final, get_args, get_type_hints

import pytest

import carpool
from carpool._core import breaker, concurrency, live, throttle
from carpool._core.live import EMBEDS_MAX
from carpool._core.model import TRANSITIONS, Failure
from carpool._core.routing import ENTER_SHARE, PRIOR_S, SAMPLES_MAX, USUAL_SHARE, Durations
from carpool._runtime.verdicts import VERDICTS
from carpool.emulator import FAULT_NAMES, Plan
from carpool.settings import Route

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ERRORS: Final = ROOT / "src" / "carpool" / "errors.py"
README: Final = (ROOT / "README.md").read_text("utf-8")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_of(page: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """Return what links can point at within a page: its headings, as GitHub spells them."""
    titles = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_diagram_of_job_states_is_the_table_of_transitions() -> None:
    text = (DOCS / "explanation" / "how_a_request_travels.md").read_text()
    block = text.split("<!-- transitions: begin -->")[1].split("<!-- transitions: end -->")[0]
    drawn = set(re.findall(r"(\w+) --> (\w+)", block))
    table = {(state.name, after.name) for state, states in TRANSITIONS.items() for after in states}
    assert drawn == table


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#?)([^)]*)\)", prose_of(page)):
        if target.startswith("https://"):
            continue
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors_of(linked), f"{target}#{anchor}"


def test_every_page_is_linked_from_the_index() -> None:
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", prose_of(DOCS / "index.md"))}
    assert {page for page in DOCS.rglob("*.md") if page.name != "index.md"} <= linked


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), f"run: python docs/generate.py\n{done.stdout}{done.stderr}"


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join((DOCS / "reference" / name).read_text("utf-8") for name in ("api.md", "errors.md", "settings.md"))
    missing = [name for name in carpool.__all__ if f"`{name}`" not in text and f"`carpool.{name}`" not in text]
    assert missing == []


def test_every_setting_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "settings.md").read_text("utf-8")
    assert [name for name in carpool.Settings.__struct_fields__ if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "reference"], ids=named)
def test_settings_and_faults_that_pages_name_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    known = set(carpool.Settings.__struct_fields__)
    variables = set(re.findall(r"\bCARPOOL_([A-Z_]+)\b", text)) - {"HOME", "BASE_URL", "TOKEN"}
    assert {name.lower() for name in variables} <= known
    quoted = set(re.findall(r"\"((?:create|get|list|upload|job|output|row)\.\w+)\"", text))
    assert quoted <= FAULT_NAMES


def test_the_figures_of_the_ladder_are_those_of_the_code() -> None:
    page = " ".join((DOCS / "explanation" / "ladder.md").read_text("utf-8").split())
    hours, minutes, seconds = PRIOR_S["batch"] / 3_600, PRIOR_S["flex"] / 60, PRIOR_S["standard"]
    unseen = Durations()
    below_batch_s, below_flex_s = (unseen.reserve_s("any", carpool.CHEAP, rung) for rung in (0, 1))
    defaults = carpool.Settings()
    for words in (
        f"The last {SAMPLES_MAX} are kept",
        "What nine of ten of them kept to is the *usual duration*",
        f"batch {hours:g} h, flex {minutes:g} min, standard {seconds:g} s",
        f"`CHEAP` leaves the batch {below_batch_s:,.0f} seconds before its deadline",
        f"and a call on flex {below_flex_s:g} seconds before",
        f"would not be entered any more: {PRIOR_S['flex'] + PRIOR_S['standard']:g} seconds before",
        f"it would be more than {live.WAIT_MAX_S:g} seconds",
        f"({breaker.ASKED_MAX_S / 60:g} minutes at most)",
        f"`attempts_max` times ({defaults.attempts_max})",
        f"pauses of {breaker.PAUSE_MIN_S:g} to {breaker.PAUSE_MAX_S:g} seconds",
        f"After {breaker.CLOSES_AFTER} probes that pass it closes",
        f"It begins at {concurrency.START:g}, grows",
        f"`Settings.live_calls_max` ({defaults.live_calls_max}) is the most",
        f"on one route, {throttle.CALLS_IN_ALL} what all have together",
        f"up to {EMBEDS_MAX} contents travel in one call",
        f"({defaults.max_double_cost_per_day_usd} USD; 0 forbids it)",
        "on standard every two seconds (every half second where only a limit holds it back); on flex every five",
        "For each second in which no call is refused twice as many may follow",
    ):
        assert words in page, words
    assert USUAL_SHARE == 0.9
    assert (breaker.URGENT_PAUSE_S, breaker.URGENT_CLOSED_S, breaker.OBEYING_PAUSE_S, breaker.TRUST_S) == (2, 0.5, 5, 1)
    assert (ENTER_SHARE["batch"], ENTER_SHARE["flex"]) == (0.75, 0.5), "three of four jobs, half of the calls of flex"
    for ladder in (carpool.CHEAP, carpool.FAST):
        assert str(ladder).replace("'", '"') in page


def test_the_pages_say_with_which_deadline_a_call_begins_where() -> None:
    """Before anything is known, and after three jobs, or one answer of flex."""
    unseen = Durations()
    begins = [carpool.CHEAP[unseen.enter("any", carpool.CHEAP, 0, 60.0 * minutes)] for minutes in range(600)]
    flex, batch = begins.index("flex"), begins.index("batch")
    assert begins == ["standard"] * flex + ["flex"] * (batch - flex) + ["batch"] * (600 - batch)
    bounds = f"{flex} minutes", f"{batch // 60} h {batch % 60} min"
    for name in ("explanation/ladder.md", "howto/deadlines.md"):
        page = (DOCS / name).read_text("utf-8")
        assert f"{bounds[0]}" in page
        assert f"| up to {bounds[1]} |" in page
    assert f"more than {bounds[1]} away" in README
    picture = (DOCS / "explanation" / "ladder.svg").read_text("utf-8")
    for rung in (0, 1):
        assert f">{unseen.reserve_s('any', carpool.CHEAP, rung):,.0f} s before*<" in picture
    learned: tuple[tuple[Route, float, float, int], ...] = (("batch", 20.0, 60.0, 3), ("flex", 0.1, 5.0, 1))
    for route, minutes, known, answers in learned:
        for count in (answers - 1, answers):
            seen = Durations()
            for _ in range(count):
                seen.saw("any", route, 60.0 * minutes)
            found = carpool.CHEAP[seen.enter("any", carpool.CHEAP, 0, 60.0 * known)]
            assert (found == route) == (count == answers)


def test_what_is_said_of_the_emulators_plan_is_in_it() -> None:
    text = prose_of(DOCS / "explanation" / "emulator.md")
    named = set(re.findall(r"\(`([a-z]+_[a-z_]+)`", text))
    assert len(named) >= 3
    assert named <= set(Plan.__struct_fields__)


def test_every_statement_about_the_service_has_its_evidence() -> None:
    """Rows of the tables of the emulator's page end with kinds of evidence that the page explains."""
    text = (DOCS / "explanation" / "emulator.md").read_text("utf-8")
    kinds = set(re.findall(r"^\| \*\*(\w+)\*\* \|", text, re.MULTILINE))
    tables = text.split("## Versions, keys, JSON")[1]
    rows = [row for row in re.findall(r"^\| .* \|$", tables, re.MULTILINE) if "what the emulator does" not in row]
    assert len(rows) > 40
    unlabelled = [row for row in rows if not kinds & set(re.findall(r"\w+", row.rstrip(" |").rpartition("| ")[2]))]
    assert [row for row in unlabelled if "none: by design" not in row] == []


def test_errors_that_are_said_to_be_raised_by_nothing_are_those() -> None:
    """Nothing names them, or only the words for a kind of verdict that the engine never gives."""
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    (said,) = re.findall(r"^Raised by nothing yet.*?: (.*)\.$", page, re.MULTILINE)
    code = {path: path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py"}
    uses = "".join(text for path, text in code.items() if path.name != "errors.py")
    given = "".join(text for path, text in code.items() if path.parent.name == "_core" and path.name != "model.py")
    verdicts = {kind: error.__name__ for kind, (error, _) in VERDICTS.items()}
    assert verdicts.keys() | {"budget", "overdue"} == set(get_args(get_type_hints(Failure)["kind"]))
    names = {name for name in dir(carpool.errors) if re.search(rf"^class {name}\b", code[ERRORS], re.MULTILINE)}
    unused = {name for name in names - {"_NamedError"} if not re.search(rf"\b{name}\b", uses)}
    never = set(verdicts.values()) - {error for kind, error in verdicts.items() if f'"{kind}"' in given}
    assert set(re.findall(r"`(\w+)`", said)) == unused | never


def test_the_readme_says_what_was_not_tried() -> None:
    assert "Nothing has been run against\nthe live service yet." in README


def test_the_readme_shows_two_commands_and_few_lines() -> None:
    assert "pip install . && carpool demo" in README
    assert "pip install '.[test]' && pytest" in README
    code = README.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


def test_nobody_promises_a_machine_of_ours() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home)/", page.read_text("utf-8")), named(page)
