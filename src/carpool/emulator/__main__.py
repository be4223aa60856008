"""Run the emulator as a process: ``python -m carpool.emulator --port 8700``."""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from .chaos import chaos_plan
from .plan import Plan
from .server import serve


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Prints one line when ready.

    Args:
        arguments: of the command line, None for the process's own.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m carpool.emulator", description="Emulate the Gemini Developer API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8700, help="port to listen on, 0 for any free one (8700)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (0)")
    parser.add_argument("--data-dir", default=None, help="directory for temporary files (the system's)")
    played = parser.add_mutually_exclusive_group()
    played.add_argument("--plan-json", default="{}", help="a Plan as JSON: latency, limits, faults")
    played.add_argument("--chaos", type=int, default=None, help="play a mix of faults made up from this number")
    given = parser.parse_args(arguments)
    try:
        plan = msgspec.json.decode(given.plan_json, type=Plan) if given.chaos is None else chaos_plan(given.chaos)
    except msgspec.DecodeError as error:
        parser.error(f"--plan-json: {error}")
    try:
        asyncio.run(
            serve(
                plan,
                host=given.host,
                port=given.port,
                seed=given.seed,
                data_dir=given.data_dir,
                ready=lambda url: print(f"listening on {url}", flush=True),
            )
        )
    except OSError as error:
        print(f"cannot listen on {given.host}:{given.port}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
