"""What the service would have billed.

Owns the books: rows of jobs as they end, and live calls as they are answered. It must not know why a row was or was not
done, and it never sees credentials.
"""

from __future__ import annotations

from collections import Counter

import msgspec


class JobBill(msgspec.Struct, frozen=True, kw_only=True):
    """What one ended job cost.

    Attributes:
        name: ``batches/...``.
        display_name: as the job was created with.
        model: without ``models/``.
        state: how it ended, without prefix (``SUCCEEDED``).
        rows_ok: rows billed.
        rows_failed: rows with an error, which are not billed.
        prompt_tokens: billed input tokens.
        output_tokens: billed output tokens, thinking included.
    """

    name: str
    display_name: str
    model: str
    state: str
    rows_ok: int
    rows_failed: int
    prompt_tokens: int
    output_tokens: int


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the books.

    Attributes:
        jobs: bills of ended jobs, oldest end first.
        rows_billed: rows billed in all jobs.
        rows_failed: rows of all jobs that had an error.
        prompt_tokens: billed input tokens of all jobs.
        output_tokens: billed output tokens of all jobs.
        billed_by_key: times billed, by a row's key.
        billed_by_request: times billed in jobs, by :func:`carpool.emulator.request_digest`.
        twice: keys that were billed more than once, sorted.
        live_calls: live generate and embed requests answered with 200 (each request of a batchEmbedContents counts).
        live_by_request: the same by :func:`carpool.emulator.request_digest`.
        live_prompt_tokens: input tokens of live calls.
        live_output_tokens: output tokens of live calls.
    """

    jobs: list[JobBill]
    rows_billed: int
    rows_failed: int
    prompt_tokens: int
    output_tokens: int
    billed_by_key: dict[str, int]
    billed_by_request: dict[str, int]
    twice: list[str]
    live_calls: int
    live_by_request: dict[str, int]
    live_prompt_tokens: int
    live_output_tokens: int


class LedgerBook:
    """The books being written."""

    def __init__(self) -> None:
        self._jobs: list[JobBill] = []
        self._by_key: Counter[str] = Counter()
        self._by_request: Counter[str] = Counter()
        self._live: Counter[str] = Counter()
        self._live_prompt_tokens = 0
        self._live_output_tokens = 0

    def bill_job(self, bill: JobBill, *, keys: list[str], requests: list[str]) -> None:
        """Enter an ended job.

        Args:
            bill: the totals.
            keys: keys of the rows billed, as far as they had one.
            requests: digests of the rows billed.
        """
        self._jobs.append(bill)
        self._by_key.update(keys)
        self._by_request.update(requests)

    def bill_live(self, request: str, *, prompt_tokens: int, output_tokens: int) -> None:
        """Enter one live request by its digest."""
        self._live[request] += 1
        self._live_prompt_tokens += prompt_tokens
        self._live_output_tokens += output_tokens

    def snapshot(self) -> Ledger:
        """Return the books as they are."""
        return Ledger(
            jobs=list(self._jobs),
            rows_billed=sum(bill.rows_ok for bill in self._jobs),
            rows_failed=sum(bill.rows_failed for bill in self._jobs),
            prompt_tokens=sum(bill.prompt_tokens for bill in self._jobs),
            output_tokens=sum(bill.output_tokens for bill in self._jobs),
            billed_by_key=dict(self._by_key),
            billed_by_request=dict(self._by_request),
            twice=sorted(key for key, times in self._by_key.items() if times > 1),
            live_calls=self._live.total(),
            live_by_request=dict(self._live),
            live_prompt_tokens=self._live_prompt_tokens,
            live_output_tokens=self._live_output_tokens,
        )
