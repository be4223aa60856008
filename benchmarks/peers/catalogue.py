"""The peers: what a user would pick instead, how each is run here, and what it does less or more than carpool.

Needs the standard library only. A word on a peer says what its pinned version does, read from its source.
"""

from __future__ import annotations

from dataclasses import dataclass

FILE_CALLS = 100_000
CALLS = 10_000
SLOW_CALLS = 1_000

# What pip is asked for, an environment each. Only what a user would name is pinned; the rest is what pip makes of it.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "google-genai": ("google-genai==3.4.0",),
    "autobatcher": ("autobatcher==0.12.0", "openai==2.54.0"),
    "llmfleet": ("llmfleet==0.1.0", "anthropic==2.12.0"),
    "inspect-ai": ("inspect-ai==0.3.285", "google-genai==3.4.0"),
    "batchling": ("batchling==0.1.0a3", "httpx==0.28.1"),
    "pydantic-ai": ("pydantic-ai-slim[google]==2.68.0", "google-genai==2.34.0"),
}
BY_HAND = "nothing on disk but the requests, keys are line numbers, no retries of rows, no callers that wait"
BATCHER = (
    "part of an evaluation framework; all in memory; no digests; errors by row; creates and polls are retried; a row "
    "that is missing leaves its caller waiting, a job that failed leaves all"
)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to do the work of N calls, measured by one program."""

    name: str
    environment: str
    program: tuple[str, ...]
    """The module under `peers`, and arguments of its own."""
    calls: int = CALLS
    """With how many calls it is measured: fewer where more would take minutes."""
    jobs: int = 1
    """How many jobs a run comes to."""
    gemini: bool = True
    """Whether it speaks Gemini's wire; the others have a stub of their own."""
    word: str
    """What it does less or more than carpool."""
    shim: str = ""
    """What had to be reached around, where configuration did not suffice to measure it here."""


PEERS = (
    Peer(
        name="google-genai, file of dicts",
        environment="google-genai",
        program=("with_google_genai", "--form", "dicts"),
        calls=FILE_CALLS,
        word=f"a script: {BY_HAND}",
    ),
    Peer(
        name="google-genai, file of dicts, answers not kept",
        environment="google-genai",
        program=("with_google_genai", "--form", "sizes"),
        calls=FILE_CALLS,
        word=f"a script: {BY_HAND}; of each answer it keeps a number",
    ),
    Peer(
        name="google-genai, file of its types",
        environment="google-genai",
        program=("with_google_genai", "--form", "types"),
        calls=FILE_CALLS,
        word=f"a script: {BY_HAND}; requests and answers are checked by pydantic",
    ),
    Peer(
        name="google-genai, inline batch",
        environment="google-genai",
        program=("with_google_genai", "--form", "inline"),
        word="a script: nothing on disk, answers in the order of the requests, 20 MB a job at most, no callers that "
        "wait",
    ),
    Peer(
        name="google-genai, live calls",
        environment="google-genai",
        program=("with_google_genai", "--form", "live"),
        jobs=0,
        word="no batch: the full price, an HTTP exchange a call; answers at once",
    ),
    Peer(
        name="autobatcher",
        environment="autobatcher",
        program=("with_autobatcher",),
        gemini=False,
        word="OpenAI's wire; all in memory; no digests; errors by row, but a line that is not JSON fails all after it; "
        "rows and jobs that fail are not sent again; answers are pydantic models, and rows of a running job are handed "
        "out where the server has them",
    ),
    Peer(
        name="llmfleet",
        environment="llmfleet",
        program=("with_llmfleet",),
        gemini=False,
        word="Anthropic's wire, through a client that blocks the loop; all in memory; no digests; a row's error is "
        "handed out as its answer; nothing is sent again; jobs run one after another; its time grows with the square "
        "of a job's requests; answers are pydantic models",
    ),
    Peer(
        name="inspect_ai, its Google batcher",
        environment="inspect-ai",
        program=("with_inspect_ai", "--through", "batcher"),
        word=BATCHER,
        shim="the batcher is no public interface; it is given requests that are ready",
    ),
    Peer(
        name="inspect_ai, get_model().generate()",
        environment="inspect-ai",
        program=("with_inspect_ai", "--through", "model"),
        calls=SLOW_CALLS,
        word=f"{BATCHER}; makes a Google client for each call; retries calls, counts usage, knows tools",
    ),
    Peer(
        name="batchling",
        environment="batchling",
        program=("with_batchling",),
        word="takes calls out of httpx and aiohttp, for ten providers; in memory until the job is made, then digests "
        "are stored, by which a later run finds it; errors by row; nothing is sent again; a poll that fails fails the "
        "whole job",
        shim="its HTTP client is sent to the stub, for no base URL can be set; on Python 3.11 its list of states is "
        "made a set, without which every job fails there",
    ),
    Peer(
        name="pydantic-ai, BatchModelRequests",
        environment="pydantic-ai",
        program=("with_pydantic_ai",),
        calls=SLOW_CALLS,
        word="whole agent runs: tools, checked outputs, traces, several providers; in memory until the job is made, "
        "then a run that is resumed from a stored history finds it; errors by row; rows that failed for a while are "
        "sent again, twice at most",
    ),
)
