"""``client.jobs``: batch jobs on the server, whoever created them.

Owns the translation of provider errors for callers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from carpool._core.model import Failure
from carpool._ports import Provider, ProviderError
from carpool._runtime.verdicts import exception_for, fault_words
from carpool.errors import JobError
from carpool.responses import EmbedResponse, GenerateResponse, Outcome, decode_json
from carpool.types import BatchJob, Facts


class Jobs:
    """Jobs as the server shows them."""

    def __init__(self, provider: Provider, check: Callable[[], Any]) -> None:
        self._provider = provider
        self._check = check

    async def list(self) -> AsyncGenerator[BatchJob]:
        """Iterate over all jobs, newest first.

        Raises:
            JobError: the server cannot be reached, or refused.
        """
        self._check()
        try:
            async for job in self._provider.list_jobs():
                yield job
        except ProviderError as error:
            raise _job_error(error, "jobs") from None

    async def get(self, name: str) -> BatchJob:
        """Return a job by its name, with or without ``batches/``.

        Raises:
            JobError: there is no such job, or the server cannot be reached.
        """
        self._check()
        name = _full(name)
        try:
            return await self._provider.poll(name)
        except ProviderError as error:
            raise _job_error(error, name) from None

    async def cancel(self, name: str) -> None:
        """Cancel a job. What it has finished is paid for, and may still be fetched.

        Raises:
            JobError: as ``get``.
        """
        self._check()
        name = _full(name)
        try:
            await self._provider.cancel(name)
        except ProviderError as error:
            raise _job_error(error, name) from None

    async def delete(self, name: str) -> None:
        """Delete a job and its output; this does not cancel it.

        Raises:
            JobError: as ``get``.
        """
        self._check()
        name = _full(name)
        try:
            await self._provider.delete(name)
        except ProviderError as error:
            raise _job_error(error, name) from None

    async def results(self, name: str) -> AsyncGenerator[Outcome]:
        """Iterate over the rows of an ended job's output, as they come.

        Raises:
            JobError: the job has no output, or the server cannot be reached.
        """
        name = _full(name)
        job = await self.get(name)
        if not job.has_output:
            raise JobError(f"{name} has no output (its state is {job.state})", job=name)
        facts = Facts(
            route="batch",
            job=name,
            kind="generate",
            model=job.model.removeprefix("models/"),
            answered_at=0.0,
            cost=_unknown,
        )
        try:
            async for block in self._provider.fetch(job):
                for row in block.rows:
                    if row.error is not None:
                        yield Outcome(
                            key=row.key,
                            error=exception_for(Failure(kind="rejected", error=row.error, job=name), row.key),
                        )
                        continue
                    raw = bytes(row.response)
                    response: EmbedResponse | GenerateResponse = (
                        EmbedResponse(row.key, raw, facts, 0.0)
                        if _is_vector(raw)
                        else GenerateResponse(row.key, raw, facts, 0.0)
                    )
                    yield Outcome(key=row.key, response=response)
        except ProviderError as error:
            raise _job_error(error, name) from None


def _unknown(_: bytes) -> None:
    """Return what an answer cost of which nobody says at which price: nothing is known."""


def _is_vector(raw: bytes) -> bool:
    try:
        return "embedding" in decode_json(raw)
    except (ValueError, RecursionError):  # just too deep to be read here, which no vector is
        return False


def _full(name: str) -> str:
    return name if "/" in name else f"batches/{name}"


def _job_error(error: ProviderError, name: str) -> JobError:
    """Return what a caller is told of a failed call."""
    fault = error.fault
    return JobError(
        f"{name}: {fault_words(fault)}",
        code=fault.error.code or None,
        status=fault.error.status or None,
        message=fault.error.message or None,
        details=fault.error.details,
        job=name,
    )
