"""What planned faults do to a call.

Owns the meaning of each :class:`Effect`: whether the call is answered at all, when it takes effect, what becomes of its
reply. It must not know what a call is about, beyond the file that a create names and the tier that a live call asks
for; nor how a reply goes onto a socket.
"""

from __future__ import annotations

import contextlib
import heapq
import zlib
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Final, assert_never
from urllib.parse import quote, urlencode

import msgspec

from .fields import as_object, as_str, camelise
from .files import FileService
from .messages import ApiError, Call, Op, Reply, decode_json, usual_error
from .plan import FLEX_OPS, CallFault, Effect, Fault
from .rows import read_create

Answer = Callable[[Call, float], Generator[None, None, Reply]]
"""Does what a call asks for at a time, in slices."""

_SLOW_S: Final = 30.0
_LATE_S: Final = 5.0
_DRIP_S: Final = 1.0
_RETRY_S: Final = 12.0
_BOMB_BYTES: Final = 1024 * 1024 * 1024
# Blank to JSON, and no line of a file.
_BLANKS: Final = b"\n" * (1024 * 1024)


def asks_for_flex(call: Call) -> bool:
    """Return whether a live call asks for the tier that may be shed."""
    try:
        body = as_object(camelise(decode_json(call.body)))
    except msgspec.DecodeError:
        return False
    return as_str(body.get("serviceTier")).lower().endswith("flex")


class Effects:
    """Plays call faults, and holds the calls that are to take effect later."""

    def __init__(self, files: FileService) -> None:
        self._files = files
        self._late: list[tuple[float, int, Call, Answer]] = []
        self._held = 0

    def play(
        self, call: Call, answer: Answer, now: float, *, op: Op, model: str, drawn: tuple[CallFault, Fault]
    ) -> Generator[None, None, Reply]:
        """Answer a call that a fault fires on.

        Args:
            call: the call.
            answer: does what it asks for.
            now: seconds since the epoch.
            op: what it asks for.
            model: that it is about, if it is a live call.
            drawn: the fault.

        Raises:
            ApiError: what ``answer`` raises, where the caller gets to know.
        """
        call_fault, fault = drawn
        refused = _refused(call_fault, fault, model if op in _LIVE_OPS else None)
        match call_fault.effect:
            case Effect.REFUSE:
                return refused
            case Effect.REDIRECT:
                return _redirected(call, fault)
            case Effect.DROP:
                return Reply(dropped=True)
            case Effect.DROP_MIDWAY:
                with contextlib.suppress(ApiError):
                    self._files.take_half(call)
                return Reply(dropped=True)
            case Effect.TAKE_HALF:
                return self._files.take_half(call)
            case Effect.WRONG_OFFSET:
                return self._files.misplace(call)
            case Effect.LOSE_FILE:
                with contextlib.suppress(ApiError):
                    self._files.lose(read_create(call.body).file_name)
            case Effect.TWIN:
                reply = yield from answer(call, now)
                with contextlib.suppress(ApiError):
                    yield from answer(call, now)
                return reply
            case Effect.ERROR_AFTER | Effect.DROP_AFTER:
                # A call that would have been refused has no effect, and that is not told either.
                with contextlib.suppress(ApiError):
                    yield from answer(call, now)
                return refused if call_fault.effect is Effect.ERROR_AFTER else Reply(dropped=True)
            case Effect.LATE:
                self._hold(call, answer, now + _or(fault.seconds, _LATE_S))
                return Reply(dropped=True) if fault.code is None else refused
            case Effect.FOREIGN_URL:
                call = msgspec.structs.replace(call, origin=fault.origin)
            case Effect.SLOW | Effect.CUT | Effect.RESET | Effect.DRIP | Effect.GZIP_BOMB:
                pass
            case _:
                assert_never(call_fault.effect)
        return _changed((yield from answer(call, now)), call_fault.effect, fault)

    # -- what takes effect later

    def _hold(self, call: Call, answer: Answer, at: float) -> None:
        self._held += 1
        heapq.heappush(self._late, (at, self._held, call, answer))

    def next_due(self, now: float) -> float | None:
        """Return when the next held call takes effect, None if that is after ``now`` or there is none."""
        return self._late[0][0] if self._late and self._late[0][0] <= now else None

    def apply_next(self) -> None:
        """Let the next held call take effect; nobody is told if it is refused."""
        at, _, call, answer = heapq.heappop(self._late)
        with contextlib.suppress(ApiError):
            for _ in answer(call, at):
                pass


_LIVE_OPS: Final = frozenset({Op.GENERATE, Op.COUNT, Op.EMBED, Op.EMBED_MANY}) | FLEX_OPS


def _or(given: float | None, usual: float) -> float:
    return usual if given is None else given


def _refused(call_fault: CallFault, fault: Fault, model: str | None) -> Reply:
    """Return the error of a call fault.

    Args:
        call_fault: whose code and body.
        fault: whose code, message and time to wait, where it has them.
        model: of a live call, None of any other.
    """
    if call_fault.body is not None:
        headers = {"Content-Type": call_fault.content_type}
        return Reply(status=call_fault.code, body=call_fault.body, headers=headers)
    code = fault.code or call_fault.code
    retry_s = _or(fault.seconds, _RETRY_S)
    return usual_error(code, model=model, message=fault.message, retry_s=retry_s, quota=fault.quota).reply()


def _redirected(call: Call, fault: Fault) -> Reply:
    # The key is not quoted back, wherever it came.
    query = urlencode({name: value for name, value in call.query.items() if name != "key"})
    target = f"{fault.origin}{quote(call.path, safe='/:')}" + (f"?{query}" if query else "")
    return Reply(status=fault.code or 302, headers={"Location": target, "Content-Type": "text/html; charset=UTF-8"})


def _changed(reply: Reply, effect: Effect, fault: Fault) -> Reply:
    """Return a reply as the fault lets it go out."""
    match effect:
        case Effect.SLOW:
            return msgspec.structs.replace(reply, delay_s=_or(fault.seconds, _SLOW_S))
        case Effect.CUT | Effect.RESET:
            body, half = _halved(reply.body)
            if not body:  # there is nothing in it to break off
                return Reply(dropped=True, reset=effect is Effect.RESET)
            at = half if fault.bytes is None else fault.bytes
            return msgspec.structs.replace(reply, body=body, breaks_at_bytes=at, reset=effect is Effect.RESET)
        case Effect.DRIP:
            return msgspec.structs.replace(reply, drip_bytes=fault.bytes or 1, drip_s=_or(fault.seconds, _DRIP_S))
        case Effect.GZIP_BOMB:
            body = _bomb(reply.body, _BOMB_BYTES if fault.bytes is None else fault.bytes)
            headers = {**reply.headers, "Content-Encoding": "gzip"}
            return msgspec.structs.replace(reply, body=body, headers=headers)
        case _:
            return reply


def _halved(body: bytes | Iterator[bytes]) -> tuple[bytes | Iterator[bytes], int]:
    """Return a body, and half its size; of one that is made as it is sent, half the size of its first block."""
    if isinstance(body, bytes):
        return body, len(body) // 2
    first = next(body, b"")
    return chain((first,), body), len(first) // 2


def _bomb(body: bytes | Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """Yield a body as gzip, with blanks after it that unpack to ``size_bytes``; it means the same as before."""
    packer = zlib.compressobj(1, wbits=31)
    for block in (body,) if isinstance(body, bytes) else body:
        yield packer.compress(block)
    while size_bytes > 0:
        yield packer.compress(_BLANKS[:size_bytes])
        size_bytes -= len(_BLANKS)
    yield packer.flush()
