"""Every block of code in README and docs runs, against the bundled emulator."""

from __future__ import annotations

import asyncio
import os
import sys
import wave
from pathlib import Path
from typing import Final

import pytest

from carpool.emulator import Emulator, Plan

from .play import Page, PageError, blocks_of, check_json, commands_of

ROOT: Final = Path(__file__).parents[2]
PLAYER: Final = Path(__file__).with_name("play.py")
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOLD: Final = ("CARPOOL_", "GOOGLE_", "GEMINI_")
QUICK: Final = {
    "CARPOOL_LINGER_S": "0.05",
    "CARPOOL_LINGER_MAX_S": "0.2",
    "CARPOOL_POLL_MIN_S": "0.05",
    "CARPOOL_POLL_MAX_S": "1",
}
PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)
RUNNABLE: Final = {"python", "bash", "json"}


def furnish(folder: Path) -> None:
    """Make the files that pages speak of."""
    prompts = ["What is a batch?", "What is a carpool?", "Why is the sky blue?"]
    (folder / "questions.jsonl").write_text(
        "".join(f'{{"key": "q{n}", "prompt": "{p}"}}\n' for n, p in enumerate(prompts))
    )
    row = '{{"key": "g{n}", "request": {{"contents": [{{"parts": [{{"text": "{p}"}}]}}]}}}}\n'
    (folder / "google_rows.jsonl").write_text("".join(row.format(n=n, p=p) for n, p in enumerate(prompts)))
    (folder / "photo.png").write_bytes(PNG)
    (folder / "report.pdf").write_bytes(b"%PDF-1.4\n%%EOF\n")
    (folder / "handbook.txt").write_text("The handbook of a car pool.\n" * 400)
    with wave.open(str(folder / "talk.wav"), "wb") as talk:
        talk.setparams((1, 2, 8_000, 0, "NONE", "not compressed"))
        talk.writeframes(b"\0\0" * 8_000)


def environ_of(emulator: Emulator, folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(TOLD)}
    told = {
        "CARPOOL_BASE_URL": emulator.base_url,
        "CARPOOL_HOME": str(folder / "home"),
        "GEMINI_API_KEY": "any",
        "PWD": str(folder),
    }
    return own | QUICK | told


def count_of(page: Path) -> int:
    blocks = blocks_of(page.read_text("utf-8"))
    return sum(block.language in RUNNABLE or block.note == "prints" for block in blocks)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
async def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    expected = count_of(page)
    furnish(tmp_path)
    async with Emulator(Plan(latency_s=0.05), data_dir=tmp_path) as emulator:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", str(PLAYER), str(page)),
            cwd=tmp_path,
            env=environ_of(emulator, tmp_path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, said.decode()
    assert said.decode().splitlines()[-1] == str(expected)


def test_blocks_are_found_with_what_stands_above_them() -> None:
    text = (
        "a\n\n<!-- exits 2 -->\n```bash\ncarpool x\n```\n\n  ```python\n  if 1:\n      pass\n  ```\n```\nplain\n```\n"
    )
    first, second = blocks_of(text)
    assert (first.language, first.code, first.note, first.value) == ("bash", "carpool x\n", "exits", 2)
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
