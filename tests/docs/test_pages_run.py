"""Every block of code in README and docs runs, against the bundled emulator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from carpool.emulator import EmulatorThread

from .elsewhere import environments, pages_elsewhere
from .play import Block, Page, PageError, blocks_of, check_json, commands_of, run
from .stage import named, pages_of, play


@pytest.mark.parametrize("page", pages_of(None), ids=named)
async def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    await play(page, tmp_path)


def test_every_page_is_played_here_or_in_an_environment_of_the_matrix() -> None:
    known = environments()
    assert {page for page, _ in pages_elsewhere()}.isdisjoint(pages_of(None))
    for page, name in pages_elsewhere():
        assert name in known, f"{named(page)} names an environment that is not there"
        uses_carpool = "import carpool" in page.read_text("utf-8")
        assert known[name].carpool >= uses_carpool, f"{named(page)} imports carpool, which {name} does not hold"


def test_blocks_are_found_with_what_stands_above_them() -> None:
    text = (
        "a\n\n<!-- exits 2 -->\n```bash\ncarpool x\n```\n\n  ```python\n  if 1:\n      pass\n  ```\n```\nplain\n```\n"
    )
    first, second = blocks_of(text)
    assert (first.language, first.code, first.note, first.value) == ("bash", "carpool x\n", "exits", "2")
    assert (second.language, second.code, second.note) == ("python", "if 1:\n    pass\n", "")


def test_commands_are_taken_apart_and_those_that_a_test_cannot_run_left_out() -> None:
    code = "pip install . && carpool demo\ncarpool map a \\\n    b && carpool gc   # why\n# a comment\npytest\n"
    assert list(commands_of(code)) == ["carpool map a b", "carpool gc"]


def test_json_blocks_are_one_value_or_lines_of_values() -> None:
    check_json('{"a": 1}\n{"b": 2}\n')
    check_json('{\n"a": [1]\n}\n')
    with pytest.raises(ValueError, match="Expecting"):
        check_json('{"a": 1}\nb\n')


@pytest.mark.parametrize(
    "blocks",
    [
        "```python\nprint(1)\n```\n\n<!-- prints -->\n```text\n2\n```\n",
        "```python\nprint(1)\nprint(2)\n```\n\n<!-- prints -->\n```text\n1\n```\n",
        "```bash\ncarpool no-such-command\n```\n",
        "<!-- exits 1 -->\n```bash\ncarpool --help\n```\n",
        "<!-- parsed -->\n```bash\ncarpool map one two --no-such-option\n```\n",
        "<!-- parsed -->\n```bash\nmap one two\n```\n",
        "```bash\nrm -r everything\n```\n",
        "```bash\ncarpool serve --no-such-option\n```\n",
        "<!-- file a.py -->\n```python\nraise SystemExit(3)\n```\n\n```bash\npython a.py\n```\n",
        "<!-- file a.py -->\n```python\n```\n\n```bash\npython a.py\n```\n\n<!-- prints -->\n```text\n2\n```\n",
        "<!-- pytest -->\n```python\ndef test_it():\n    assert 1 == 2\n```\n",
    ],
)
def test_a_page_that_is_wrong_is_found(blocks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"# A page\n\n{blocks}")
    with pytest.raises(PageError, match=r"^line \d+: "):
        Page(tmp_path / "README.md").play()


def test_a_page_that_is_right_is_played_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [
        "```python\nimport asyncio\n\nawait asyncio.sleep(0)\nnumber = 7\n```\n",
        "```python\nprint('it is', number)\n```\n",
        "<!-- prints -->\n```text\nit ... 7\n```\n",
        "```text\nnot code\n```\n",
        "```bash\npip install x && rm x\n```\n",
    ]
    (tmp_path / "README.md").write_text("\n".join(blocks))
    assert Page(tmp_path / "README.md").play() == 4


def test_files_of_a_page_are_run_and_its_sidecar_is_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gemini_emulator: EmulatorThread
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARPOOL_BASE_URL", gemini_emulator.base_url)
    monkeypatch.setenv("CARPOOL_HOME", str(tmp_path / "home"))
    blocks = [
        "```bash\ncarpool serve --port 8711\n```\n",
        "<!-- file where.py -->\n```python\nimport sys\n\nprint(sys.argv[1:], 'http://127.0.0.1:8711')\n```\n",
        "```bash\npython where.py a 'b c'\n```\n",
        "<!-- prints -->\n```text\n['a', 'b c'] http://127.0.0.1:8711\n```\n",
        "```bash\ncurl -s http://127.0.0.1:8711/carpool/health\n```\n",
        '<!-- prints -->\n```text\n{"status":"ok"...}\n```\n',
    ]
    (tmp_path / "README.md").write_text("\n".join(blocks))
    assert Page(tmp_path / "README.md").play() == 6
    assert ":8711" not in (tmp_path / "where.py").read_text(), "any free port will do"


def test_programs_of_an_environment_of_their_own_find_nothing_where_carpool_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    said = [
        run(
            [sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'))"],
            Block("bash", "", 1, "", ""),
            own=own,
        )
        for own in (True, False)
    ]
    assert said == ["somewhere\n", "None\n"]
