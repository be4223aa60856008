"""Documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from carpool._core.model import TRANSITIONS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_diagram_of_job_states_is_the_table_of_transitions() -> None:
    text = (DOCS / "explanation" / "how_a_request_travels.md").read_text()
    block = text.split("<!-- transitions: begin -->")[1].split("<!-- transitions: end -->")[0]
    drawn = set(re.findall(r"(\w+) --> (\w+)", block))
    table = {(state.name, after.name) for state, states in TRANSITIONS.items() for after in states}
    assert drawn == table
