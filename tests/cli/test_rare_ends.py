"""Rare ends of commands: a source that breaks, a loop that is gone, a disk that refuses the new file."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from carpool.cli.console import UsageError
from carpool.cli.output import Output
from carpool.cli.source import lines_of

from .program import Inside, Service, prompts, wait_until, write_rows

READER = "carpool-input"


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == READER}


def test_a_stream_that_breaks_ends_in_its_error_and_nobody_reads_on(tmp_path: Path) -> None:
    async def read() -> list[bytes]:
        return [line async for line in lines_of(str(tmp_path), 1_000)]

    others = readers()  # of other tests: one that waits for a line that never comes does not end
    # A folder can be opened and not be read, which is how a stream breaks.
    with pytest.raises(IsADirectoryError):
        asyncio.run(read())
    wait_until(lambda: not readers() - others)


def test_a_source_that_breaks_is_one_line_and_exit_1(inside: Inside, service: Service, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = inside.map("folder", "out.jsonl")
    assert done.code == 1
    assert (done.err.count("\n"), "Traceback" in done.err) == (1, False)
    assert os.strerror(errno.EISDIR) in done.err
    assert service.calls == 0


def test_whoever_reads_a_silent_stream_ends_with_the_loop_at_the_next_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR)
    others = readers()

    async def first() -> bytes:
        async for line in lines_of(str(pipe), 1_000):
            return line
        raise AssertionError("there is a line")

    os.write(handle, b"one\n")
    assert asyncio.run(first()) == b"one\n"
    [reader] = readers() - others  # it waits for a line, and does not hold up the end of the program
    assert reader.daemon
    os.write(handle, b"two\n")
    wait_until(lambda: not readers() - others)
    os.close(handle)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_error_rows_that_cannot_be_taken_out_stay_where_they_are(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    rows = b'{"key":"a","response":{}}\n{"key":"b","error":{"message":"no"}}\n'
    path.write_bytes(rows)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", full) if broken == "fsync" else (Path, "replace", full)))
        with pytest.raises(UsageError, match=f"cannot be written: {os.strerror(errno.ENOSPC)}"):
            Output.open(str(path))
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (rows, [path])
    output = Output.open(str(path))  # nothing is locked any more
    assert ("a" in output.done, "b" in output.done, output.retried) == (True, False, 1)
    output.close()
    assert path.read_bytes() == b'{"key":"a","response":{}}\n'


def test_a_key_that_comes_twice_is_told_with_both_lines_and_nothing_is_sent(
    inside: Inside, service: Service, tmp_path: Path
) -> None:
    rows = [*prompts(3), {"prompt": "without a key"}, {"key": "k1", "prompt": "again"}]
    write_rows(tmp_path / "in.jsonl", rows)
    done = inside.map("in.jsonl", "out.jsonl")
    assert (done.code, "the key 'k1' is on line 2 and again on line 5" in done.err) == (2, True)
    assert service.calls == 0


def keys_in(table: str) -> set[str]:
    return {line.split()[0] for line in table.splitlines() if line.strip()} & {f"k{number}" for number in range(3)}


def test_keys_that_a_limit_leaves_out_are_counted(inside: Inside, service: Service, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(3))
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    one = inside.run("results", "--limit", "1")
    assert one.code == 0
    assert len(keys_in(one.out)) == 1
    assert "not shown: 2 older keys; --limit 0 shows all" in one.err
    for limit in ("0", "3"):
        whole = inside.run("results", "--limit", limit)
        assert keys_in(whole.out) == {"k0", "k1", "k2"}
        assert "not shown" not in whole.err
