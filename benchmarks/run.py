"""Measure everything, and print one table in which every goal stands: met or not, and by how much.

    python benchmarks/run.py                          # all of it, in an environment of its own: about an hour
    python benchmarks/run.py --quick                  # smaller sizes, two rounds: some minutes
    python benchmarks/run.py --only floor,memory      # some of it
    python benchmarks/run.py --smoke                  # does every program run? seconds; installs nothing

It makes a virtual environment outside of the checkout, with carpool as it is in this checkout and uvloop, and one for
each library that carpool is compared with (`peers/`). Programs are run in turn, each in a fresh process, against a stub
server that does next to nothing; times mean nothing alone, so what counts is the ratio of neighbouring runs, the median
over all rounds, and its spread. Everything that was measured goes into a JSON file as it comes; `report.py` makes the
tables, the page of the documentation and its picture of it. To compare in one way only: `compare.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import picture
import plan
import report
import run_peers
from peers import environments
from stage import ProgramFailed, circumstances, run_program, stub_server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS, LIVE = "peers", "live"
SMOKE_PEER = "google-genai, file of its types"
SUITES = (*plan.SUITES, PEERS, LIVE)
KINDS = {"full": plan.FULL, "quick": plan.QUICK, "smoke": plan.SMOKE}


def measure(
    planned: Sequence[plan.Group], python: str, base_url: str, found: dict[str, Any], target: Path | None
) -> None:
    """Run the programs in turn, and add what each told to what was found."""
    schedule = list(plan.schedule(planned))
    began = time.monotonic()
    for done, (number, group, program) in enumerate(schedule):
        arguments = [*program.arguments, *(("--base-url", base_url) if program.needs_stub else ())]
        record = {
            "suite": group.suite,
            "facts": group.facts,
            "role": program.role,
            "round": number,
            "load": os.getloadavg()[0],
        }
        say(f"{done + 1} of {len(schedule)}, {time.monotonic() - began:.0f} s: {group.name}: {program.role}")
        try:
            line = run_program(program.script, arguments, python)
            if group.suite == "floor" and line["jobs"] != 1:
                record["failed"] = f"{line['jobs']} jobs, but the floor uses one: these do not compare"
            else:
                record["line"] = line
        except ProgramFailed as error:
            record["failed"] = str(error)
            say(record["failed"])
        found["runs"].append(record)
        write(found, target)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def write(found: dict[str, Any], target: Path | None) -> None:
    """Write what was found so far; whoever breaks a long run off keeps it."""
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def own_environment(folder: Path, left_out: list[str]) -> str:
    """Make, or bring up to date, the environment that carpool is measured in; return its interpreter."""
    try:
        python = environments.make("carpool", (str(ROOT), "uvloop"), folder)
    except environments.NotInstalledError as error:
        left_out.append(f"uvloop: {error}")
        python = environments.make("carpool", (str(ROOT),), folder)
    say("installing carpool as it is here")  # the environment may be from before the last change
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--force-reinstall", str(ROOT)], check=True)
    return str(python)


def commit() -> str:
    """Return the commit of this checkout, with a + if something was changed since; empty if git does not know."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],  # noqa: S607 - whichever git there is
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def measure_live(python: str, kind: str, found: dict[str, Any]) -> None:
    """Let `live.py` make its pairs of live calls."""
    arguments = {"full": [], "quick": ["--n", "2000", "--pairs", "2"], "smoke": ["--smoke"]}[kind]
    say("live calls")
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        target = Path(folder) / "live.json"
        command = [python, str(HERE / "live.py"), *arguments, "--json", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            say(done.stderr)
            found["left_out"].append(f"live calls: {done.stderr.strip().splitlines()[-1]}")
        else:
            found["live"] = json.loads(target.read_text("utf-8"))["summary"]


def measure_peers(args: argparse.Namespace, python: str, sizes: plan.Sizes, found: dict[str, Any]) -> None:
    """Let carpool and each other library make their pairs; without an environment of their own, those that are here."""
    say("other libraries")
    found["peers"] = run_peers.run_peers(
        python=python,
        calls=None if args.kind == "full" else sizes.middle,
        pairs=sizes.large_pairs,
        only=SMOKE_PEER if args.kind == "smoke" else "",
        folder=args.environments,
        smoke=args.kind == "smoke" or args.here,
    )


def begin(
    kind: str, suites: list[str], python: str, sizes: plan.Sizes, planned: Sequence[plan.Group]
) -> dict[str, Any]:
    """Return a report that holds no figures yet."""
    return {
        "kind": f"{kind} run",
        "suites": suites,
        "circumstances": circumstances(python),
        "commit": commit(),
        "sizes": sizes._asdict(),
        "groups": [{"suite": group.suite, "facts": group.facts} for group in planned],
        "left_out": [],
        "runs": [],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", dest="kind", action="store_const", const="quick", help="smaller sizes, two rounds")
    kind.add_argument("--smoke", dest="kind", action="store_const", const="smoke", help="does every program run?")
    parser.set_defaults(kind="full")
    parser.add_argument("--only", default=",".join(SUITES), help=f"suites out of {', '.join(SUITES)}; with commas")
    parser.add_argument("--here", action="store_true", help="measure in the interpreter that runs this")
    parser.add_argument(
        "--environments", type=Path, default=environments.default_folder(), help="where environments are kept"
    )
    parser.add_argument("--json", type=Path, help="where all figures go; bench-data/results.json if not a smoke run")
    parser.add_argument("--pairs", type=int, help="rounds, of the largest size too")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    if args.json is None and args.kind != "smoke":
        args.json = ROOT / "bench-data" / "results.json"
    return args


def main() -> None:
    args = parse()
    sizes = KINDS[args.kind]
    if args.pairs:
        sizes = sizes._replace(pairs=args.pairs, large_pairs=args.pairs)
    left_out: list[str] = []
    here = args.here or args.kind == "smoke"
    if not here:
        os.environ.pop("PYTHONPATH", None)  # what is measured is what is installed
    python = sys.executable if here else own_environment(args.environments, left_out)
    uvloop = "uvloop" in circumstances(python)["versions"]
    planned = plan.smoke(sizes, uvloop=uvloop) if args.kind == "smoke" else plan.groups(sizes, args.only, uvloop=uvloop)
    found = begin(args.kind, args.only, python, sizes, planned)
    found["left_out"] = left_out if uvloop or left_out else ["uvloop: this interpreter does not have it"]
    with stub_server(python) as base_url:
        measure(planned, python, base_url, found, args.json)
    if LIVE in args.only:
        measure_live(python, args.kind, found)
    write(found, args.json)
    if PEERS in args.only:
        measure_peers(args, python, sizes, found)
    write(found, args.json)
    failed = sum("failed" in record for record in [*found["runs"], *found.get("peers", [])])
    failed += LIVE in args.only and LIVE not in found
    if args.kind == "smoke":
        report.page(found)  # it is made, and not shown: so few calls say nothing
        picture.draw(found)
        print(f"{len(found['runs'])} programs ran, live calls and another library; {failed} failed")
    else:
        print(report.text(found))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
