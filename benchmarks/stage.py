"""What runs are started with: the stub server in a process of its own, the programs, and what they ran on.

Owns child processes. It uses the standard library only and stays small: a child's peak size is never below that of the
process that started it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIBRARIES = ("aiohttp", "anyio", "carpool", "diskcache", "msgspec", "uvloop")
RUN_TIMEOUT_S = 1_800
TOLD_CHARS = 4_000

Run = dict[str, Any]


class ProgramFailed(Exception):
    """A measured program did not come to its end; says with what."""


@contextlib.contextmanager
def stub_server(python: str = sys.executable, module: str = "stub_server") -> Iterator[str]:
    """Run a stub in a process of its own and yield its base URL."""
    command = [python, "-m", module]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise SystemExit(f"{module} did not start: {line!r}")
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()


def run_program(script: str, arguments: Sequence[str], python: str = sys.executable) -> Run:
    """Run a measured program to its end and return the line it printed; see ``run_command``."""
    return run_command([python, str(HERE / script), *arguments])


def run_command(command: Sequence[str], cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end and return the last line that it printed.

    Raises:
        ProgramFailed: it ended with an error, or took too long.
    """
    name = " ".join(command)
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{name} took more than {RUN_TIMEOUT_S} s") from None
    if done.returncode:
        raise ProgramFailed(f"{name} ended with {done.returncode}:\n{done.stderr[-TOLD_CHARS:]}")
    run: Run = json.loads(done.stdout.splitlines()[-1])  # some libraries say more before
    return run


def circumstances(python: str = sys.executable) -> dict[str, Any]:
    """Return what the figures are measured on."""
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": os.getloadavg()[0],
        **_asked(python),
    }


def _asked(python: str) -> dict[str, Any]:
    """Return what an interpreter says of itself and of the libraries that it has."""
    script = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'] in sys.argv[1:]}\n"
        "python = f'{platform.python_implementation()} {platform.python_version()}'\n"
        "print(json.dumps({'python': python, 'versions': dict(sorted(found.items()))}))\n"
    )
    done = subprocess.run([python, "-c", script, *LIBRARIES], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
