"""``carpool serve``: one queue for all programs of this machine, in whatever language they call Gemini.

Owns where the sidecar's token comes from, what is said when it listens, and what signals do. How calls are answered is
the surfaces' own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, UsageError, counted, deadline_of, ladder_of, print_json, run, say

if TYPE_CHECKING:
    from carpool import Client
    from carpool.settings import Ladder
    from carpool.surfaces.exchange import Exchange, Traffic
    from carpool.surfaces.server import Sidecar

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    host: str
    port: int
    token: str | None
    allow_hosts: tuple[str, ...]
    deadline: str | None
    ladder: Ladder | None
    home: Path | None
    base_url: str | None
    as_json: bool

    def __repr__(self) -> str:
        return f"_Order({self.host}:{self.port}, token={self.token is not None})"


def serve(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = 8711,
    token_file: Path | None = None,
    allow_host: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    deadline: str | None = None,
    ladder: str | None = None,
    home: Path | None = None,
    base_url: str | None = None,
    json: bool = False,
) -> int:
    """Answer the Gemini API on this machine, through batch jobs, until Ctrl-C or SIGTERM.

    Point any program at it, in any language: it answers as the service does, with what the service answered, as soon as
    a batch job has it. Calls of all programs share one queue. What cannot be batched is handed on to the service. The
    key that is used is this command's own; those that callers send go nowhere.

    Callers that wait are held with interim responses every 15 seconds. Whoever goes away and asks the same again gets
    the answer of the first time.

    Args:
        host: address to listen on. One that other machines reach needs a token, which callers give as their API key: it
            is in CARPOOL_TOKEN, or in a file.
        port: port to listen on, 0 for any free one.
        token_file: file with the token, instead of CARPOOL_TOKEN.
        allow_host: another name by which callers may address it, with or without a port; may be given several times.
        deadline: of calls that say nothing of theirs: 90m, 4h, or 06:00. Others say it in a header,
            x-carpool-deadline.
        ladder: routes that a call may take, in order: batch, flex, standard, with commas between them; cheap for all
            three, fast for standard,batch. Without it: cheap with a deadline, else batch.
        home: folder where state is kept, instead of the user's state folder.
        base_url: where to call, instead of Google.
        json: print one JSON object with the URL and the process id when it listens, and one with the receipt at the
            end.
    """
    deadline_of(deadline)  # what cannot be used is said now
    order = _Order(
        host=host,
        port=port,
        token=_token(token_file),
        allow_hosts=tuple(allow_host or ()),
        deadline=deadline,
        ladder=ladder_of(ladder),
        home=home,
        base_url=base_url,
        as_json=json,
    )
    return run(_serve(order))


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("CARPOOL_TOKEN") or None
    try:
        return path.read_text("utf-8").strip()
    except UnicodeDecodeError:
        raise UsageError(f"--token-file {path}: it is no text") from None
    except OSError as error:
        raise UsageError(f"--token-file {path}: {error.strerror}") from None


async def _serve(order: _Order) -> int:
    from carpool import Client
    from carpool.surfaces.exchange import Exchange

    ending = _Ending()
    with ending.on_signals():
        async with Client(base_url=order.base_url, home=order.home) as client:
            exchange = Exchange(client, deadline=order.deadline, ladder=order.ladder)
            upstream = order.base_url or os.environ.get("CARPOOL_BASE_URL")
            sidecar = sidecar_of(
                client,
                exchange,
                host=order.host,
                port=order.port,
                token=order.token,
                allow_hosts=order.allow_hosts,
                upstream=upstream,
            )
            async with contextlib.AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(sidecar)
                except OSError as error:
                    where = f"{order.host}:{order.port}"
                    raise UsageError(f"cannot listen on {where}: {error.strerror or error}") from None
                _tell(sidecar.url, order)
                await ending.asked.wait()
                ending.then = sidecar.hurry
                _tell_stop(sidecar)
        _tell_end(client, exchange.traffic(), order)
    return Exit.OK


def sidecar_of(client: Client, exchange: Exchange, **options: Any) -> Sidecar:
    """Return a sidecar on a client, with its pages.

    Args:
        client: an open client.
        exchange: what answers calls by it.
        options: of the sidecar.

    Raises:
        ConfigurationError: an option cannot be used.
    """
    from carpool.cli.receipt import receipt_data
    from carpool.surfaces.metrics import metrics_of
    from carpool.surfaces.server import Sidecar

    return Sidecar(
        exchange,
        health=client.health,
        metrics=lambda: metrics_of(client.stats(), client.receipt(), client.health(), exchange.traffic()),
        receipt=lambda: receipt_data(client.receipt()),
        **options,
    )


class _Ending:
    """What signals do: the first asks for the end, the second for a quick one, the third breaks off."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.then: Callable[[], None] = self.asked.set
        self._number = 0
        self._task = asyncio.current_task()

    @contextlib.contextmanager
    def on_signals(self) -> Generator[None]:
        """Have signals end this task, to the end of the block."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels the task, which stops all as well
            for number in _SIGNALS:
                loop.add_signal_handler(number, self.signalled)
        yield

    def signalled(self) -> None:
        """Take note of a signal."""
        self._number += 1
        if self._number == 1:
            self.asked.set()
        elif self._number == 2:
            self.then()
        elif self._task is not None:
            self._task.cancel()


def _tell(url: str, order: _Order) -> None:
    if order.as_json:
        print_json({"url": url, "pid": os.getpid()})
        return
    print(f"the sidecar listens on {url}; Ctrl-C ends it")
    print(f"google-genai:  export GOOGLE_GEMINI_BASE_URL={url}")
    print(f"LiteLLM:       export GEMINI_API_BASE={url}")
    print(f"OpenAI's SDK:  export OPENAI_BASE_URL={url}/v1beta/openai")
    if order.token is None:
        print("any API key will do: the sidecar uses its own")
    else:
        print("their API key is the sidecar's token")
    sys.stdout.flush()


def _tell_stop(sidecar: Sidecar) -> None:
    if waiting := sidecar.waiting:
        say(
            f"{counted(waiting, 'caller')} may wait {sidecar.limits.grace_s:g} seconds more for an answer, and then "
            "asks again; Ctrl-C ends that at once. What was sent stays on record"
        )


def _tell_end(client: Client, traffic: Traffic, order: _Order) -> None:
    from carpool.cli.receipt import print_receipt, receipt_data

    if order.as_json:
        print_json({"receipt": receipt_data(client.receipt()), "traffic": msgspec.to_builtins(traffic)})
        return
    print_receipt(client.receipt(), jobs=client.stats().jobs_created, file=sys.stdout)
    if traffic.passed:
        named = ", ".join(f"{name} {number:,}" for name, number in sorted(traffic.passed.items()))
        print(f"handed on to the service, at its own price: {named}")
