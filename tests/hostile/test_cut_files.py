"""A result file cut at every byte, in every way in which a reply can end: each request still gets its own answer.

Never is a cut file taken for complete: what it lacks is fetched or asked for again, what it holds is taken once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from carpool import Client, Settings

from .attacks import chunked, head
from .server import Asked, Listener, World, answer_text, line_of, reply

ROWS: Final = 2
MODEL: Final = "gemini-3.5-flash"
ENDS: Final = ("length of the whole", "length of the part", "chunks without an end", "chunks with an end")


def ended(data: bytes, cut: int, end: str) -> tuple[bytes, bool]:
    """Return the bytes of a reply with the first ``cut`` bytes of a body, and whether the connection then breaks."""
    part = data[:cut]
    match end:
        case "length of the whole":
            return head(Content_Length=str(len(data))) + part, True
        case "length of the part":
            return reply(part), False
        case "chunks without an end":
            return head(Transfer_Encoding="chunked") + (chunked(part) if part else b""), True
        case _:
            return head(Transfer_Encoding="chunked") + (chunked(part) if part else b"") + chunked(b""), False


class Cutter(World):
    """Cuts the first download of each job of requests that were in no job before: after 0 bytes, after 1, and so on."""

    def __init__(self, end: str, size: int) -> None:
        super().__init__()
        self.end = end
        self.size = size
        self.cut: list[str] = []
        """Jobs whose file was cut: after as many bytes as there are before it."""
        self.known: set[str] = set()

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Cut, or answer."""
        name = asked.name.replace("files/out-", "batches/")
        texts = {text for _, text in self.jobs[name].rows} if asked.call == "download" else set[str]()
        if len(texts) < ROWS or texts & self.known or len(self.cut) == self.size:
            await super().answer(asked, writer)
            return
        part, broken = ended(self.output(name), len(self.cut), self.end)
        self.known |= texts
        self.cut.append(name)
        writer.write(part)
        await writer.drain()
        if broken:
            writer.transport.close()


def settings() -> Settings:
    """Return settings that make a job of every pair of requests."""
    return Settings(
        linger_s=0.01,
        linger_max_s=0.02,
        batch_requests_max=ROWS,
        inline_bytes_max=0,
        jobs_max=10_000,
        attempts_max=5,
        poll_min_s=0.02,
        poll_max_s=0.05,
        retry_min_s=0.01,
        retry_max_s=0.02,
        output_grace_s=0.05,
        call_timeout_s=20.0,
        line_bytes_max=65_536,
    )


@pytest.mark.parametrize("end", ENDS)
async def test_a_file_cut_at_any_byte_is_never_taken_for_complete(end: str, tmp_path: Path) -> None:
    line = len(line_of("t 0000 0", "t 0000 0"))
    world = Cutter(end, ROWS * line)
    async with Listener(world) as server:
        world.url = server.url
        async with Client(api_key="AIza-cut", base_url=server.url, home=tmp_path, settings=settings()) as client:
            # More than there are bytes: rows that are asked for again may share a job with new ones, which is not cut.
            texts = [f"t {job:04} {row}" for job in range(world.size + 200) for row in range(ROWS)]
            answers = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in texts))
            assert [answer.text for answer in answers] == [answer_text(text) for text in texts]
            receipt = client.receipt()
        assert len(world.cut) == world.size == len(world.output(world.cut[0]))
        billed = sum(len(job.rows) for job in world.jobs.values())
        # Where a reply says that it is whole, what it lacks is asked for again and no more; else it is fetched again.
        whole = sum(cut >= (row + 1) * line - 1 for cut in range(world.size) for row in range(ROWS))
        lacking = ROWS * world.size - whole if end in ("length of the part", "chunks with an end") else 0
        assert billed - len(texts) == lacking
        assert receipt.requests == len(texts)
