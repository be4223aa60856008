"""``carpool emulate``: the bundled emulator on a port.

Owns where its plan comes from and what is said when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, UsageError, print_json

if TYPE_CHECKING:
    from carpool.emulator import Plan

_LATENCY_S: Final = 2.0


def emulate(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = 8700,
    latency: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    plan: Path | None = None,
    chaos: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Run the bundled emulator of the Gemini API until Ctrl-C or SIGTERM.

    Answers are made up, but the same request always gets the same one. Any API key is taken; nothing costs anything.

    Args:
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        latency: seconds from a job's creation to its end; 2, or what the plan says.
        plan: JSON file with limits, latencies and faults to play: the fields of carpool.emulator.Plan.
        chaos: play a mix of faults made up from this number, in place of a plan; the same number, the same mix.
        seed: of all chance; the same seed and the same calls give the same faults.
        json: print the base URL, and the plan of a chaos, as one JSON object.
    """
    from carpool.emulator import serve

    chosen = _plan(plan, latency) if chaos is None else _chaos(chaos, plan, latency)

    def tell(base_url: str) -> None:
        if json:
            _tell_json(base_url, None if chaos is None else chosen)
        else:
            _tell(base_url, None if chaos is None else chosen)

    try:
        asyncio.run(serve(chosen, host=host, port=port, seed=seed, ready=tell))
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return Exit.OK


def _plan(path: Path | None, latency_s: float | None) -> Plan:
    from carpool.emulator import Plan

    if path is None:
        return Plan(latency_s=_LATENCY_S if latency_s is None else latency_s)
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--plan {path}: {error}") from None
    except OSError as error:
        raise UsageError(f"--plan {path}: {error.strerror}") from None
    return plan if latency_s is None else msgspec.structs.replace(plan, latency_s=latency_s)


def _chaos(seed: int, path: Path | None, latency_s: float | None) -> Plan:
    from carpool.emulator import chaos_plan

    if path is not None:
        raise UsageError("--plan and --chaos exclude each other: both say which faults to play")
    plan = chaos_plan(seed)
    return plan if latency_s is None else msgspec.structs.replace(plan, latency_s=latency_s)


def _tell(base_url: str, chaos: Plan | None) -> None:
    from carpool.emulator.chaos import told

    print(f"the emulator listens on {base_url}; Ctrl-C ends it")
    print(f"carpool:       export CARPOOL_BASE_URL={base_url}")
    print(f'google-genai:  genai.Client(api_key="any", http_options={{"base_url": "{base_url}"}})')
    if chaos is not None:
        print("it plays these faults:")
        for line in told(chaos):
            print(f"  {line}")
    sys.stdout.flush()


def _tell_json(base_url: str, chaos: Plan | None) -> None:
    more = {} if chaos is None else {"plan": msgspec.to_builtins(chaos)}
    print_json({"base_url": base_url, **more})
