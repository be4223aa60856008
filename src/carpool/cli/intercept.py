"""``carpool doctor --intercept``: whether the Gemini calls of a command come through, or go around.

Owns how what was seen is put together, and what is advised. It must not know how it is seen.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from carpool.cli.child import CannotStartError, find_command
from carpool.cli.console import Exit, counted, print_json, run, say
from carpool.cli.run import Order, run_through, words_of

if TYPE_CHECKING:
    from carpool.cli.run import Ended
    from carpool.surfaces.witness import Report

_VERTEX: Final = "aiplatform"
_VERTEX_ADVICE: Final = (
    "this is Vertex AI, which carpool does not call: unset GOOGLE_GENAI_USE_VERTEXAI and the like, and have the "
    "program use the Gemini API with an API key"
)
_ADVICE: Final = (
    "look for a base URL in the program's code or configuration, which wins over the variables, and take it out; some "
    "libraries read none of them, and want the URL of 'carpool serve' as their base URL; Python code that makes "
    "Google's client may use carpool.genai_client()"
)
_OWN_CARPOOL: Final = (
    "a Python program of this command uses carpool itself: its client calls the service by design, and makes batches "
    "of its own"
)
_UNSEEN: Final = (
    "not seen are programs that are not Python and use no proxy (Node before 22.21, Java), and Python's own calls by "
    "way of uvloop, aiodns or gRPC without a proxy"
)


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """A host that was called, though the sidecar should have been."""

    host: str
    port: str
    connections: int
    programs: list[str]
    """Python programs that called it."""
    seen_by: list[str]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a command's calls."""

    ended: Ended
    around: list[Around]
    programs: int
    """Python interpreters that were watched."""
    carpools: int
    """Of them, those with a carpool of their own."""

    @property
    def came(self) -> bool:
        """Whether any call came through."""
        traffic = self.ended.traffic
        return any(sum(counts.values()) for counts in (traffic.asked, traffic.passed, traffic.refused))

    @property
    def holds(self) -> bool:
        """Whether calls come through, and none goes around."""
        return self.came and not self.around


def intercept(order: Order, *, as_json: bool) -> int:
    """Run a command, and say which of its calls come through; the exit code says whether all do."""
    try:
        find_command(order.command, os.environ)
        proof = _proved(order)
    except CannotStartError as error:
        say(str(error))
        return error.code
    if as_json:
        print_json(_told(proof), to_stderr=True)
    else:
        _tell(proof)
    return Exit.OK if proof.holds else Exit.FAILED


def _proved(order: Order) -> Proof:
    found: list[Proof] = []

    async def prove() -> int:
        found.append(await _prove(order))
        return Exit.OK

    run(prove())
    return found[0]


async def _prove(order: Order) -> Proof:
    from carpool.client import GOOGLE_URL
    from carpool.surfaces.proxy import Proxies, RecordingProxy
    from carpool.surfaces.witness import Witness, watched_hosts

    watched = watched_hosts(os.environ.get("CARPOOL_BASE_URL") or GOOGLE_URL, openai=order.openai)
    proxied: Counter[tuple[str, str]] = Counter()

    def note(host: str, port: int) -> None:
        if watched.has(host, port):
            proxied[host.rstrip(".").lower(), str(port)] += 1

    with Witness(watched) as witness:
        async with RecordingProxy(Proxies.of(os.environ), note) as proxy:
            ended = await run_through(order, {**os.environ, **proxy.watching(), **witness.watching(os.environ)})
        report = witness.report()
    return Proof(ended=ended, around=_around(report, proxied), programs=report.programs, carpools=report.carpools)


def _around(report: Report, proxied: Counter[tuple[str, str]]) -> list[Around]:
    """Return what went around, by host and port."""
    python = Counter((call.host, call.port) for call in report.calls)
    return [
        Around(
            host=host,
            port=port,
            connections=python[host, port] + proxied[host, port],
            programs=sorted({call.program for call in report.calls if (call.host, call.port) == (host, port)}),
            seen_by=[name for name, seen in (("python", python), ("proxy", proxied)) if seen[host, port]],
        )
        for host, port in sorted(python.keys() | proxied.keys())
    ]


def _told(proof: Proof) -> dict[str, Any]:
    traffic = proof.ended.traffic
    return {
        "proved": proof.holds,
        "exit_code": proof.ended.code,
        "came_through": traffic.asked,
        "passed_through": traffic.passed,
        "refused": traffic.refused,
        "went_around": proof.around,
        "python_programs": proof.programs,
        "own_carpools": proof.carpools,
    }


def _tell(proof: Proof) -> None:
    ended = proof.ended
    say(words_of(ended) if proof.came else "no call to Gemini came through")
    for around in proof.around:
        port = f":{around.port}" if around.port else ""
        where = f", from {', '.join(filter(None, around.programs))}" if any(around.programs) else ""
        say(f"around it went: {around.host}{port}, {counted(around.connections, 'connection')}{where}")
    for advice in _advices(proof):
        say(advice)
    if ended.code:
        say(f"the command ended with exit code {ended.code}")
    watched = counted(proof.programs, "Python program") if proof.programs else "no Python program"
    say(f"watched: {watched}, and whatever uses proxies; {_UNSEEN}")
    say("proved: all calls to Gemini that were seen came through" if proof.holds else "not proved")


def _advices(proof: Proof) -> list[str]:
    """Return what to do."""
    vertex = [around for around in proof.around if _VERTEX in around.host]
    found = [f"what to do: {_VERTEX_ADVICE}"] if vertex else []
    if len(vertex) < len(proof.around):
        found.append(f"what to do: {_ADVICE}")
    if proof.around and proof.carpools:
        found.append(_OWN_CARPOOL)
    if not proof.came and not proof.around:
        found.append("what to do: either the command makes no call, or it makes it in a way that is not seen")
    traffic = proof.ended.traffic
    if proof.came and not traffic.asked:
        found.append("nothing of it was batched: these calls cost the list price")
    return found
