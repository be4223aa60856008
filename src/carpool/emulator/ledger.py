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
        cached_tokens: of the input tokens, those that were cached.
        thought_tokens: of the output tokens, those spent on thinking.
        image_tokens: of the output tokens, those of pictures.
        audio_tokens: of the output tokens, those of sound.
        picousd: what was charged, in 1e-12 USD.
        unpriced: of the rows billed, those whose model or use has no list price; they are not in the sum.
    """

    name: str
    display_name: str
    model: str
    state: str
    rows_ok: int
    rows_failed: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    picousd: int = 0
    unpriced: int = 0


class LiveBill(msgspec.Struct, frozen=True, kw_only=True):
    """What live calls of one model and one tier cost.

    Attributes:
        model: without ``models/``.
        tier: ``standard``, ``flex`` or ``priority``.
        calls: requests answered.
        prompt_tokens: as for a job.
        output_tokens: as for a job.
        cached_tokens: as for a job.
        thought_tokens: as for a job.
        image_tokens: as for a job.
        audio_tokens: as for a job.
        picousd: as for a job.
        unpriced: as for a job, in calls.
    """

    model: str
    tier: str
    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    picousd: int = 0
    unpriced: int = 0


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
        live: the same by model and tier, with what the tokens were spent on.
        cached_tokens: of the input tokens of all jobs, those that were cached.
        thought_tokens: of the output tokens of all jobs, those spent on thinking.
        image_tokens: of the output tokens of all jobs, those of pictures.
        audio_tokens: of the output tokens of all jobs, those of sound.
        cache_token_s: storage of caches: tokens times seconds.
        picousd: what was charged for jobs and live calls, in 1e-12 USD; storage of caches is not in it.
        unpriced: rows and live calls without a list price; they are not in the sum.
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
    live: list[LiveBill] = []
    cached_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    cache_token_s: float = 0.0
    picousd: int = 0
    unpriced: int = 0


class LedgerBook:
    """The books being written."""

    def __init__(self) -> None:
        self._jobs: list[JobBill] = []
        self._by_key: Counter[str] = Counter()
        self._by_request: Counter[str] = Counter()
        self._live: Counter[str] = Counter()
        self._tiers: dict[tuple[str, str], LiveBill] = {}

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

    def bill_live(self, request: str, bill: LiveBill) -> None:
        """Enter one live request.

        Args:
            request: its digest.
            bill: what it cost.
        """
        self._live[request] += 1
        sums = self._tiers.get((bill.model, bill.tier), LiveBill(model=bill.model, tier=bill.tier))
        added = {name: getattr(sums, name) + getattr(bill, name) for name in _COUNTS}
        self._tiers[bill.model, bill.tier] = msgspec.structs.replace(sums, **added)

    def snapshot(self, cache_token_s: float = 0.0) -> Ledger:
        """Return the books as they are.

        Args:
            cache_token_s: what caches cost by now.
        """
        live = list(self._tiers.values())
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
            live_prompt_tokens=sum(bill.prompt_tokens for bill in live),
            live_output_tokens=sum(bill.output_tokens for bill in live),
            live=live,
            cached_tokens=sum(bill.cached_tokens for bill in self._jobs),
            thought_tokens=sum(bill.thought_tokens for bill in self._jobs),
            image_tokens=sum(bill.image_tokens for bill in self._jobs),
            audio_tokens=sum(bill.audio_tokens for bill in self._jobs),
            cache_token_s=cache_token_s,
            picousd=sum(bill.picousd for bill in self._jobs) + sum(bill.picousd for bill in live),
            unpriced=sum(bill.unpriced for bill in self._jobs) + sum(bill.unpriced for bill in live),
        )


_COUNTS = tuple(name for name in LiveBill.__struct_fields__ if name not in {"model", "tier"})
