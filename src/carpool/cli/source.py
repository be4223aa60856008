"""Where the lines of ``carpool map`` come from: a file, or standard input.

Owns reading without holding the event loop up, and the cutting of a stream into lines. It must not know rows.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Final

from carpool.cli.rows import read_lines

_BLOCK_BYTES: Final = 65_536
_LINES_A_TURN: Final = 1_000


def file_of(source: str) -> Path | None:
    """Return the path of a source that can be read more than once; ``None`` if it is a stream."""
    if source == "-":
        return None
    path = Path(source)
    return path if stat.S_ISREG(path.stat().st_mode) else None


async def lines_of(source: str, line_bytes_max: int) -> AsyncIterator[bytes]:
    """Iterate over the lines of a source; one that is too long is cut behind the limit, and ends the source.

    Raises:
        OSError: it cannot be read.
    """
    path = file_of(source)
    if path is None:
        handle = sys.stdin.fileno() if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        async for line in _lines_of_stream(handle, line_bytes_max):
            yield line
        return
    for number, line in enumerate(read_lines(path, line_bytes_max)):
        if number % _LINES_A_TURN == 0:
            await asyncio.sleep(0)
        yield line


async def _lines_of_stream(handle: int, line_bytes_max: int) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for block in _blocks(handle):
        rest += block
        start = 0
        while (stop := rest.find(b"\n", start)) >= 0:
            yield bytes(rest[start : stop + 1])
            start = stop + 1
        del rest[:start]
        if len(rest) > line_bytes_max:
            break
    if rest:
        yield bytes(rest)


async def _blocks(handle: int) -> AsyncIterator[bytes]:
    """Iterate over what a stream gives, as it comes.

    A thread of its own reads it: a read cannot be cancelled, and one in the loop's pool of threads would hold up the
    end of the program until somebody types something.
    """
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[bytes | OSError] = asyncio.Queue(maxsize=4)

    def read() -> None:
        block: bytes | OSError = b" "
        while block and not isinstance(block, OSError):
            try:
                block = os.read(handle, _BLOCK_BYTES)
            except OSError as error:
                block = error
            put = blocks.put(block)
            try:
                asyncio.run_coroutine_threadsafe(put, loop).result()
            except (RuntimeError, CancelledError):  # the loop is closed or closing: nobody wants it any more
                put.close()
                return

    threading.Thread(target=read, name="carpool-input", daemon=True).start()
    while block := await blocks.get():
        if isinstance(block, OSError):
            raise block
        yield block
