"""``carpool doctor``: what is wrong around a program, before it is run.

Owns the command line, and how findings are shown. What is looked at is in ``checks``, and in ``intercept`` for calls.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from carpool.cli.console import Exit, UsageError, print_json, run

if TYPE_CHECKING:
    from carpool.cli.findings import Finding


def doctor(
    *command: Annotated[str, Parameter(name="COMMAND")],
    intercept: bool = False,
    openai: bool = False,
    deadline: str | None = None,
    ladder: str | None = None,
    json: bool = False,
) -> int:
    """Look for what is wrong: key, endpoint, batches, clock, home, disk, store, environment.

    Nothing is changed, no slot of the home is taken, and no request is paid for: the server is asked for a list of
    models and a list of jobs.

    With --intercept it runs a command as "carpool run" does, and tells whether its calls to Gemini come through. What
    goes around is named by host: as Python programs see it when they look up names and connect, and as a proxy sees it
    that all others are given. A program that is not Python and uses no proxy is not seen, nor are Python's calls by way
    of uvloop, aiodns or gRPC without a proxy. What the command asks for costs what it costs: point CARPOOL_BASE_URL at
    "carpool emulate" to try it for nothing.

    Args:
        command: with --intercept: the command and its arguments, behind --.
        intercept: run a command, and prove that its calls come through.
        openai: with --intercept: as for "carpool run"; calls to api.openai.com go around then.
        deadline: with --intercept: as for "carpool run".
        ladder: with --intercept: as for "carpool run".
        json: print one JSON object (with --intercept to stderr, since the command has stdout).
    """
    if not intercept:
        if command or openai or deadline is not None or ladder is not None:
            raise UsageError("a command and its options go with --intercept: carpool doctor --intercept -- COMMAND")
        return run(_examine(as_json=json))
    from carpool.cli.intercept import intercept as watch
    from carpool.cli.run import order_of

    order = order_of(command, openai=openai, deadline=deadline, ladder=ladder)
    return watch(order, as_json=json)


async def _examine(*, as_json: bool) -> int:
    from carpool.cli.checks import examine

    findings = [finding async for finding in examine(os.environ)]
    fine = all(finding.state != "failed" for finding in findings)
    if as_json:
        print_json({"ok": fine, "checks": [_told(finding) for finding in findings]})
    else:
        _show(findings)
    return Exit.OK if fine else Exit.FAILED


def _told(finding: Finding) -> dict[str, Any]:
    return msgspec.structs.asdict(finding)


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = f"{finding.state:<7}  {finding.name:<{width}}  {finding.found}"
        print(f"{line}. {finding.advice}" if finding.advice else line)
