"""What a whole run consists of: groups of programs that are run in turn, and how often.

Owns which sizes, modes and programs there are. A group's programs are compared with each other and nothing else, so
they run one after the other in each round, in another order each time. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

SUITES = ("floor", "memory", "latency", "callbacks", "recovery", "transfer", "startup")
BYTES = 300
LARGE_BYTES = 2_000


class Sizes(NamedTuple):
    """How many calls a run makes, and how often it is repeated."""

    small: int
    middle: int
    large: int
    pairs: int
    large_pairs: int

    @property
    def curve(self) -> tuple[int, ...]:
        """Sizes that only the curve of cost over size needs."""
        return (3 * self.small, 3 * self.middle)


FULL = Sizes(10_000, 100_000, 1_000_000, pairs=5, large_pairs=3)
QUICK = Sizes(2_000, 20_000, 100_000, pairs=2, large_pairs=2)
SMOKE = Sizes(200, 200, 200, pairs=1, large_pairs=1)


class Program(NamedTuple):
    """One measured program: what it stands for in its group, its file, its arguments."""

    role: str
    script: str
    arguments: tuple[str, ...]
    needs_stub: bool = True


class Group(NamedTuple):
    """Programs that are compared with each other."""

    suite: str
    name: str
    facts: dict[str, str | int]
    rounds: int
    programs: tuple[Program, ...]


AUTOMATIC = Program("automatic", "carpool_client.py", ())
EXPLICIT = Program("explicit", "carpool_client.py", ("--keys", "explicit"))
TYPED = Program("typed", "carpool_client.py", ("--read", "typed"))
FLOOR = Program("floor", "floor.py", ())


def groups(sizes: Sizes, suites: Sequence[str], *, uvloop: bool) -> list[Group]:
    """Return all groups of some suites."""
    made = {
        "floor": lambda: _floor(sizes, uvloop=uvloop),
        "memory": lambda: _memory(sizes),
        "latency": lambda: [_alone("latency", sizes.pairs, "latency.py", str(min(300, sizes.small)))],
        "callbacks": lambda: _callbacks(sizes),
        "recovery": lambda: _recovery(sizes),
        "transfer": lambda: [_alone("transfer", sizes.pairs, "transfer.py", str(sizes.middle), "--size", "4000")],
        "startup": lambda: [_startup(sizes)],
    }
    return [group for suite in SUITES if suite in suites for group in made[suite]()]


def smoke(sizes: Sizes, *, uvloop: bool) -> list[Group]:
    """Return what suffices to see that everything runs."""
    n = sizes.small
    others = [group for suite in SUITES if suite != "floor" for group in groups(sizes, [suite], uvloop=uvloop)]
    return [
        _against_floor(n, 1, (FLOOR, AUTOMATIC, TYPED)),
        _against_floor(n, 1, (EXPLICIT,), gc="freeze", loop="uvloop" if uvloop else "asyncio"),
        # The first two of memory are its sides; elsewhere the last program does what the others do, and more.
        *(
            group._replace(programs=group.programs[:2] if group.suite == "memory" else group.programs[-1:])
            for group in others
        ),
    ]


def schedule(planned: Sequence[Group]) -> Iterator[tuple[int, Group, Program]]:
    """Iterate over the rounds: each group once a round as long as it has rounds left, its programs in turn."""
    for number in range(max((group.rounds for group in planned), default=0)):
        for group in planned:
            if number < group.rounds:
                first = number % len(group.programs)
                for program in (*group.programs[first:], *group.programs[:first]):
                    yield number, group, program


def _floor(sizes: Sizes, *, uvloop: bool) -> list[Group]:
    both = (FLOOR, AUTOMATIC, EXPLICIT)
    every = (*both, TYPED)
    small, middle, large = sizes.small, sizes.middle, sizes.large
    found = [_against_floor(n, sizes.pairs, both) for n in (small, *sizes.curve)]
    found += [_against_floor(middle, sizes.pairs, every, gc=gc) for gc in ("on", "freeze")]
    found.append(_against_floor(middle, sizes.pairs, both, size=LARGE_BYTES))
    if uvloop:
        found += [_against_floor(middle, sizes.pairs, both, gc=gc, loop="uvloop") for gc in ("on", "freeze")]
    return found + [_against_floor(large, sizes.large_pairs, both, gc=gc) for gc in ("on", "freeze")]


def _against_floor(
    n: int, rounds: int, programs: Sequence[Program], *, size: int = BYTES, gc: str = "on", loop: str = "asyncio"
) -> Group:
    arguments = (str(n), "--size", str(size), "--gc", gc, *(("--uvloop",) if loop == "uvloop" else ()))
    return Group(
        "floor",
        f"{n} calls of {size} bytes, GC {gc}, {loop}",
        {"n": n, "size": size, "gc": gc, "loop": loop},
        rounds,
        tuple(program._replace(arguments=(*arguments, *program.arguments)) for program in programs),
    )


def _memory(sizes: Sizes) -> list[Group]:
    n = str(sizes.large)
    sides = (("floor", "floor", BYTES), ("carpool", "carpool", BYTES), ("carpool, large", "carpool", LARGE_BYTES))
    programs = tuple(
        Program(role, "memory.py", (n, "--size", str(size), "--subject", subject)) for role, subject, size in sides
    )
    return [Group("memory", f"{n} calls in a job", {"n": sizes.large}, sizes.large_pairs, programs)]


def _callbacks(sizes: Sizes) -> list[Group]:
    n = str(sizes.large)
    programs = (
        Program("automatic", "callbacks.py", (n,)),
        Program("explicit", "callbacks.py", (n, "--keys", "explicit", "--retention")),
    )
    return [Group("callbacks", f"{n} calls", {"n": sizes.large}, sizes.large_pairs, programs)]


def _recovery(sizes: Sizes) -> list[Group]:
    n = str(sizes.large)
    programs = tuple(Program(state, "recovery.py", (n, "--state", state)) for state in ("waiting", "under-way"))
    return [Group("recovery", f"{n} requests", {"n": sizes.large}, sizes.large_pairs, programs)]


def _alone(suite: str, rounds: int, script: str, n: str, *arguments: str) -> Group:
    return Group(suite, suite, {"n": int(n)}, rounds, (Program(suite, script, (n, *arguments)),))


def _startup(sizes: Sizes) -> Group:
    program = Program("startup", "startup.py", (), needs_stub=False)
    return Group("startup", "startup", {}, 2 * sizes.pairs - 1, (program,))
