"""``carpool run``: a command whose Gemini calls come to a sidecar of this process, without a change to its code.

Owns the order of things: a client, a sidecar on a free port, the command with the variables that lead it there, and in
the end the account. It must not know how calls are answered, nor what becomes of signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from carpool.cli.child import CannotStartError, find_command, run_child
from carpool.cli.console import UsageError, counted, deadline_of, ladder_of, print_json, run, say

if TYPE_CHECKING:
    from carpool import Client, Receipt, Stats
    from carpool.settings import Ladder
    from carpool.surfaces.exchange import Traffic

_SETTLE_S: Final = 5.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run, and how its calls are answered."""

    command: tuple[str, ...]
    openai: bool = False
    deadline: str | None = None
    ladder: Ladder | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How it went."""

    code: int
    """What the command ended with."""
    traffic: Traffic
    stats: Stats
    receipt: Receipt


class _Progress(msgspec.Struct):
    """How far a run came."""

    code: int | None = None
    """What the command ended with; ``None``: it has not."""


def run_command(
    *command: Annotated[str, Parameter(name="COMMAND")],
    openai: bool = False,
    deadline: str | None = None,
    ladder: str | None = None,
    json: bool = False,
) -> int:
    """Run a command, and answer its Gemini calls through batch jobs.

    The command needs no change: it finds a sidecar of carpool by variables that Google's SDK (GOOGLE_GEMINI_BASE_URL)
    and LiteLLM (GEMINI_API_BASE) read, with --openai also OpenAI's (OPENAI_BASE_URL). The sidecar has the API key, and
    ends with the command. Calls that no batch can answer are passed on at list price, and counted. The receipt goes to
    stderr. The exit code is the command's own, 128 and a signal's number if one ended it; 126 and 127 say that it could
    not be run, or is not there.

    After a kill, a crash or Ctrl-C, run the same command again: calls whose requests were sent already get the answers
    to these.

    A program that names a base URL itself goes around the sidecar: "carpool doctor --intercept -- COMMAND" shows it.

    Args:
        command: the command and its arguments, behind --.
        openai: also answer calls to OpenAI's API, which the Gemini API understands: chat completions and embeddings.
        deadline: answer each call within so long, 90m or 4h, where it does not say itself how long it waits.
        ladder: routes that a call may take, in order: batch, flex, standard, with commas between them; cheap for all
            three, fast for standard,batch. Without it: cheap with a deadline, else batch.
        json: print one JSON object to stderr at the end, instead of the receipt.
    """
    order = order_of(command, openai=openai, deadline=deadline, ladder=ladder)
    progress = _Progress()
    try:
        find_command(order.command, os.environ)
        return run(_run(order, progress, as_json=json))
    except CannotStartError as error:
        say(str(error))
        return error.code
    except KeyboardInterrupt:
        if progress.code is None:
            raise
        say("interrupted while closing; what was sent stays on record: run the same command again to pick it up")
        return progress.code


def order_of(command: tuple[str, ...], *, openai: bool, deadline: str | None, ladder: str | None) -> Order:
    """Return what the command line orders.

    Raises:
        UsageError: there is no command.
        ConfigurationError: deadline or ladder are none.
    """
    if not command:
        raise UsageError("name a command behind --, such as: carpool run -- python app.py")
    deadline_of(deadline)
    return Order(command=command, openai=openai, deadline=deadline, ladder=ladder_of(ladder))


async def _run(order: Order, progress: _Progress, *, as_json: bool) -> int:
    ended = await run_through(order, os.environ, progress)
    if as_json:
        print_json(_told(ended), to_stderr=True)
    else:
        _tell(ended)
    return ended.code


async def run_through(order: Order, environ: Mapping[str, str], progress: _Progress | None = None) -> Ended:
    """Run a command with a sidecar.

    Args:
        order: what to run.
        environ: of the command, before it is led to the sidecar.
        progress: is told the command's exit code as soon as there is one.

    Raises:
        CannotStartError: the command is not there, or cannot be run.
        CarpoolError: there is no client or no sidecar.
    """
    from carpool import Client
    from carpool.cli.serve import sidecar_of
    from carpool.surfaces.environment import led_to
    from carpool.surfaces.exchange import Exchange
    from carpool.surfaces.limits import Limits

    progress = progress or _Progress()
    async with Client() as client:
        exchange = Exchange(client, deadline=order.deadline, ladder=order.ladder)
        # Whoever waits when the command has ended is none of it.
        sidecar = sidecar_of(client, exchange, limits=Limits(grace_s=0))
        async with sidecar:
            progress.code = await run_child(order.command, led_to(sidecar.url, environ, openai=order.openai))
        await _settle(client)
    return Ended(code=progress.code, traffic=exchange.traffic(), stats=client.stats(), receipt=client.receipt())


async def _settle(client: Client) -> None:
    """Let jobs be closed, and their inputs be deleted, where all is answered."""
    stats = client.stats()
    if stats.jobs and not stats.sent:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await client.drain()


def _tell(ended: Ended) -> None:
    from carpool.cli.receipt import print_receipt

    say(words_of(ended))
    if ended.stats.sent:
        say(
            f"{counted(ended.stats.sent, 'request')} left behind: their jobs go on, and running the same command again "
            "picks their answers up"
        )
    print_receipt(ended.receipt, jobs=ended.stats.jobs_created, file=sys.stderr)


def _told(ended: Ended) -> dict[str, Any]:
    return {
        "exit_code": ended.code,
        "came_through": ended.traffic.asked,
        "passed_through": ended.traffic.passed,
        "refused": ended.traffic.refused,
        "left_behind": ended.stats.sent,
        "reused": ended.stats.reused,
        "jobs": ended.stats.jobs_created,
        "receipt": _receipt_data(ended.receipt),
    }


def _receipt_data(receipt: Receipt) -> dict[str, Any]:
    from carpool.cli.receipt import receipt_data

    return receipt_data(receipt)


def words_of(ended: Ended) -> str:
    """Return what came through in words."""
    traffic = ended.traffic
    asked = sum(traffic.asked.values())
    if not asked and not traffic.passed and not traffic.refused:
        return "no call came through; 'carpool doctor --intercept -- COMMAND' shows where the calls of a command go"
    told = f"{counted(asked, 'request')} came through"
    if asked and set(ended.receipt.by_route) == {"batch"}:
        told += f" and {'was' if asked == 1 else 'were'} batched"
    if traffic.passed:
        told += f", {sum(traffic.passed.values()):,} passed through at list price: {_names(traffic.passed)}"
    if traffic.refused:
        told += f", {sum(traffic.refused.values()):,} refused: {_names(traffic.refused)}"
    return told


def _names(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({number:,})" for name, number in sorted(counts.items()))
