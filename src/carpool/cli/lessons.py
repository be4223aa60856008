"""What the help of each command ends with: examples to copy, and how the process ends.

Owns these texts, for the terminal and for the reference. It must not know how a command works.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """How a command is used."""

    examples: tuple[str, ...]
    ok: str = "ok"
    """When the exit code is 0."""
    failed: str = "the command failed"
    """When it is 1."""
    usage: str = "wrong usage"
    """When it is 2."""
    late: str | None = None
    """When it is 3; ``None``: never."""
    interrupted: str | None = "interrupted"
    """When it is 130; ``None``: never."""

    @property
    def exit_codes(self) -> str:
        """Return the codes in words."""
        whens = {0: self.ok, 1: self.failed, 2: self.usage, 3: self.late, 130: self.interrupted}
        return "; ".join(f"{code} {when}" for code, when in whens.items() if when) + "."

    @property
    def epilogue(self) -> str:
        """Return the end of the command's help, in Markdown."""
        examples = "".join(f"    {line}\n" for line in self.examples)
        return f"Examples:\n\n{examples}\nExit codes: {self.exit_codes}"


LESSONS: Final[dict[str, Lesson]] = {
    "demo": Lesson(
        examples=("carpool demo", "carpool demo --requests 10000 --embeds 0 --json"),
        failed="a check failed",
    ),
    "emulate": Lesson(
        examples=(
            "carpool emulate --port 8700",
            "carpool emulate --port 0 --latency 0.5 --json",
            "carpool emulate --chaos 7",
        ),
        ok="ended by Ctrl-C or SIGTERM",
        usage="wrong usage, or the port is taken",
        interrupted=None,
    ),
    "serve": Lesson(
        examples=(
            "carpool serve",
            "carpool serve --deadline 4h --ladder cheap",
            "carpool serve --host 0.0.0.0 --token-file token.txt --allow-host carpool.internal --json",
        ),
        ok="ended by Ctrl-C or SIGTERM",
        usage="wrong usage, or the port is taken",
        interrupted="ended before all was closed, by a third Ctrl-C",
    ),
    "map": Lesson(
        examples=(
            "carpool map questions.jsonl answers.jsonl --model gemini-3.5-flash",
            "carpool map questions.jsonl answers.jsonl --model gemini-3.5-flash --ladder fast",
            "carpool map texts.jsonl - --model gemini-embedding-001 --kind embed --deadline 6h > vectors.jsonl",
        ),
        failed="a row has an error",
        late="a row has no answer by its deadline",
    ),
    "run": Lesson(
        examples=(
            "carpool run -- python app.py",
            "carpool run --deadline 4h -- python -m app --verbose",
            "carpool run --openai --json -- node app.js",
        ),
        ok="the command ended well",
        failed="the sidecar failed",
        usage="wrong usage; all other codes, and these too, are those of the command",
    ),
    "quote": Lesson(
        examples=(
            "carpool quote questions.jsonl --model gemini-3.5-flash",
            "carpool quote texts.jsonl --model gemini-embedding-001 --kind embed --json | jq .money.batch",
        ),
        failed="a row could not be sent",
        usage="wrong usage, or no row that could be sent",
    ),
    "receipt": Lesson(
        examples=(
            "carpool receipt",
            "carpool receipt --day yesterday --json | jq '.services[] | [.base_url, .total.paid_usd]'",
        ),
    ),
    "results": Lesson(
        examples=(
            "carpool results",
            "carpool results invoice-17 --deadline 4h",
            "carpool results invoice-17 invoice-18 --json > answers.jsonl",
        ),
        failed="a key is not known or has an error",
        late="an answer is not there by the deadline",
    ),
    "gc": Lesson(
        examples=("carpool gc --dry-run", "carpool gc --remote"),
    ),
    "doctor": Lesson(
        examples=(
            "carpool doctor",
            "carpool doctor --json | jq '.checks[] | select(.state == \"failed\")'",
            "carpool doctor --intercept -- python app.py",
        ),
        ok="nothing failed (a warning may be there); with --intercept: calls came through, and none went around",
        failed="a check failed; with --intercept: a call went around, or none came through",
    ),
    "completion": Lesson(
        examples=(
            "carpool completion bash > ~/.local/share/bash-completion/completions/carpool",
            "carpool completion zsh > ~/.zfunc/_carpool",
            "carpool completion fish > ~/.config/fish/completions/carpool.fish",
        ),
    ),
    "jobs ls": Lesson(
        examples=("carpool jobs ls", "carpool jobs ls --limit 0 --json"),
    ),
    "jobs show": Lesson(
        examples=("carpool jobs show batches/abc123", "carpool jobs show abc123 --json"),
    ),
    "jobs watch": Lesson(
        examples=("carpool jobs watch", "carpool jobs watch abc123 --deadline 24h && carpool jobs results abc123"),
        failed="a job did not succeed, or some of its requests failed",
        late="a job has not ended by the deadline",
    ),
    "jobs cancel": Lesson(
        examples=("carpool jobs cancel abc123", "carpool jobs cancel batches/abc123 --json"),
    ),
    "jobs rm": Lesson(
        examples=("carpool jobs rm abc123 def456", "carpool jobs rm abc123 --yes --json"),
        failed="a job could not be deleted, or was kept",
    ),
    "jobs results": Lesson(
        examples=("carpool jobs results abc123 | jq .key", "carpool jobs results abc123 -o answers.jsonl"),
        failed="a row has an error",
    ),
    "files ls": Lesson(
        examples=("carpool files ls", "carpool files ls --json"),
    ),
    "files upload": Lesson(
        examples=("carpool files upload talk.mp3", "carpool files upload page.bin --mime-type application/pdf --json"),
    ),
    "files rm": Lesson(
        examples=("carpool files rm files/abc123", "carpool files rm abc123 def456"),
    ),
}
"""By the words behind ``carpool``."""
