"""The service as a pure machine: a call, the time and a seed in, a reply out.

Owns the way of a call through the service: key, operation, planned faults, the method itself, the log. The time is
given with each call and nothing ever waits, so a year can be played in a moment; chance comes from the seed alone. It
must not know about sockets, clocks or tasks.

A method that takes long for a large job works in slices: :meth:`World.steps` yields between them, so that a server can
do something else. :meth:`World.handle` does it all at once.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Generator
from typing import Final, assert_never

import msgspec

from . import models
from .batches import BatchService, JobView
from .files import FileService, commands_of
from .ledger import Ledger
from .messages import TYPE_PREFIX, ApiError, Call, Op, Reply, too_large, usual_error
from .plan import CallFault, Effect, Fault, Plan
from .rows import Kind
from .state import State

_LOG_CALLS_MAX: Final = 100_000
_SLOW_S: Final = 30.0

# A prefix before the version is accepted: base URLs may have a path.
_PATH: Final = re.compile(r".*?/(?:(?P<side>upload|download)/)?(?P<version>v1|v1beta|v1alpha)/(?P<rest>[^/].*)")
_MODEL: Final = re.compile(r"models/(?P<id>[^/:]+):(?P<verb>\w+)")
_BATCH: Final = re.compile(r"batches/(?P<id>[^/:]+)(?::(?P<verb>\w+))?")
_FILE: Final = re.compile(r"files/(?P<id>[^/:]+)(?::(?P<verb>\w+))?")
# Longer than any name that a client may choose.
_OUTPUT: Final = re.compile(r"files/batch-[a-z0-9]{36}")

_MODEL_OPS: Final[dict[str, tuple[Op, Kind]]] = {
    "generateContent": (Op.GENERATE, Kind.GENERATE),
    "countTokens": (Op.COUNT, Kind.GENERATE),
    "embedContent": (Op.EMBED, Kind.EMBED),
    "batchEmbedContents": (Op.EMBED_MANY, Kind.EMBED),
    "batchGenerateContent": (Op.CREATE, Kind.GENERATE),
    "asyncBatchEmbedContent": (Op.CREATE, Kind.EMBED),
}
_LIVE_OPS: Final = frozenset({Op.GENERATE, Op.COUNT, Op.EMBED, Op.EMBED_MANY})
_CHUNK_OPS: Final = frozenset({Op.UPLOAD_CHUNK, Op.UPLOAD_FINALIZE, Op.UPLOAD_QUERY, Op.UPLOAD_CANCEL})


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was received. Queries and headers, which hold secrets, are not kept.

    Attributes:
        method: HTTP method.
        path: without the query.
        op: the operation, see :class:`Op`.
        status: HTTP status answered, 0 if the connection was closed without an answer.
        body_bytes: size of the request's body.
        at: seconds since the epoch when it came.
    """

    method: str
    path: str
    op: str
    status: int
    body_bytes: int
    at: float


class _Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is about."""

    op: Op
    version: str = "v1beta"
    name: str = ""
    verb: str = ""
    kind: Kind = Kind.GENERATE


class World:
    """The emulated service.

    Args:
        plan: how it behaves.
        seed: of all chance.
        data_dir: directory for temporary files, None for the system's.
    """

    def __init__(self, plan: Plan | None = None, *, seed: int = 0, data_dir: str | None = None) -> None:
        self._state = State(plan or Plan(), seed=seed, data_dir=data_dir)
        self._files = FileService(self._state)
        self._batches = BatchService(self._state, self._files)
        self._log: deque[Logged] = deque(maxlen=_LOG_CALLS_MAX)

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._state.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._state.replace_plan(plan)

    @property
    def requests(self) -> list[Logged]:
        """The last 100,000 calls, oldest first."""
        return list(self._log)

    def ledger(self, now: float) -> Ledger:
        """Return the books as of now."""
        self.advance(now)
        return self._state.ledger.snapshot()

    def jobs(self, now: float) -> list[JobView]:
        """Return all jobs as of now, oldest first."""
        self.advance(now)
        return self._batches.views(now)

    def advance(self, now: float) -> None:
        """Let everything that ends by now end."""
        self._batches.advance(now)

    def handle(self, call: Call, now: float) -> Reply:
        """Answer a call.

        Args:
            call: the call.
            now: seconds since the epoch.
        """
        steps = self.steps(call, now)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                reply: Reply = stop.value
                return reply

    def steps(self, call: Call, now: float) -> Generator[None, None, Reply]:
        """Answer a call in slices; the generator returns the reply.

        Args:
            call: the call.
            now: seconds since the epoch.
        """
        self.advance(now)
        target = _target_of(call)
        try:
            reply = yield from self._faulted(call, target, now)
        except ApiError as error:
            reply = error.reply()
        if not call.more:
            self._log.append(
                Logged(
                    method=call.method,
                    path=call.path,
                    op=target.op.value,
                    status=0 if reply.dropped else reply.status,
                    body_bytes=call.size_bytes,
                    at=now,
                )
            )
        return reply

    def _faulted(self, call: Call, target: _Target, now: float) -> Generator[None, None, Reply]:
        drawn = None if call.more else self._state.faults.draw_for_call(target.op)
        if drawn is None:
            return (yield from self._answer(call, target, now))
        call_fault, fault = drawn
        match call_fault.effect:
            case Effect.REFUSE:
                return _refused(call_fault, fault, target)
            case Effect.DROP:
                return Reply(dropped=True)
            case Effect.DROP_MIDWAY:
                with contextlib.suppress(ApiError):
                    self._files.take_half(call)
                return Reply(dropped=True)
            case Effect.ERROR_AFTER | Effect.DROP_AFTER:
                # A call that would have been refused has no effect, and that is not told either.
                with contextlib.suppress(ApiError):
                    yield from self._answer(call, target, now)
                dropped = call_fault.effect is Effect.DROP_AFTER
                return Reply(dropped=True) if dropped else _refused(call_fault, fault, target)
            case Effect.SLOW:
                reply = yield from self._answer(call, target, now)
                return msgspec.structs.replace(reply, delay_s=_SLOW_S if fault.seconds is None else fault.seconds)
            case _:
                assert_never(call_fault.effect)

    def _answer(self, call: Call, target: _Target, now: float) -> Generator[None, None, Reply]:
        """Check who calls and how much, then do what is asked."""
        if target.op not in _CHUNK_OPS:
            self._check_key(call)
            limit = self.plan.inline_bytes_max if target.op is Op.CREATE else self.plan.live_bytes_max
            if call.size_bytes > limit:
                raise too_large(limit)
        if target.op is Op.CREATE:
            models.check_model(self._state, target.name, target.verb, target.kind, target.version)
            return (yield from self._batches.create(call, target.kind, target.name, now))
        return self._answer_at_once(call, target, now)

    def _answer_at_once(self, call: Call, target: _Target, now: float) -> Reply:
        if target.op in _LIVE_OPS:
            models.check_model(self._state, target.name, target.verb, target.kind, target.version)
        of_job = _OUTPUT.fullmatch(target.name) is not None
        match target.op:
            case Op.GENERATE:
                return models.generate(self._state, call, target.name)
            case Op.COUNT:
                return models.count(call)
            case Op.EMBED:
                return models.embed(self._state, call, target.name)
            case Op.EMBED_MANY:
                return models.embed_many(self._state, call, target.name)
            case Op.GET:
                return self._batches.get(target.name, now)
            case Op.LIST:
                return self._batches.list_jobs(call, now)
            case Op.CANCEL:
                return self._batches.cancel(target.name, now)
            case Op.DELETE:
                return self._batches.delete(target.name)
            case Op.UPLOAD_START:
                return self._files.start(call, now)
            case Op.UPLOAD_CHUNK | Op.UPLOAD_FINALIZE | Op.UPLOAD_QUERY | Op.UPLOAD_CANCEL:
                return self._files.go_on(call, now)
            case Op.FILES_GET:
                return (
                    self._batches.get_file(target.name, call, now)
                    if of_job
                    else self._files.get(target.name, call, now)
                )
            case Op.FILES_LIST:
                return self._files.list_files(call, now)
            case Op.FILES_DELETE:
                return self._batches.delete_file(target.name, now) if of_job else self._files.delete(target.name, now)
            case Op.DOWNLOAD:
                service = self._batches if of_job else self._files
                return service.download(target.name, now)
            case Op.UNKNOWN | Op.CREATE:
                raise ApiError(404, "Method not found.")
            case _:
                assert_never(target.op)

    def _check_key(self, call: Call) -> None:
        key = call.headers.get("x-goog-api-key") or call.query.get("key")
        if not key:
            # The live wording is not on record.
            raise ApiError(
                403,
                "Method doesn't allow unregistered callers (callers without established identity). Please use API Key "
                "or other form of API consumer identity to call this API.",
            )
        if self.plan.api_keys is not None and key not in self.plan.api_keys:
            message = "API key not valid. Please pass a valid API key."
            raise ApiError(
                400,
                message,
                details=[
                    {
                        "@type": TYPE_PREFIX + "google.rpc.ErrorInfo",
                        "reason": "API_KEY_INVALID",
                        "domain": "googleapis.com",
                        "metadata": {"service": "generativelanguage.googleapis.com"},
                    },
                    {"@type": TYPE_PREFIX + "google.rpc.LocalizedMessage", "locale": "en-US", "message": message},
                ],
            )


def _refused(call_fault: CallFault, fault: Fault, target: _Target) -> Reply:
    """Return the error of a call fault."""
    if call_fault.body is not None:
        headers = {"Content-Type": call_fault.content_type}
        return Reply(status=call_fault.code, body=call_fault.body, headers=headers)
    model = target.name if target.op in _LIVE_OPS else None
    return usual_error(fault.code or call_fault.code, model=model, message=fault.message).reply()


def _target_of(call: Call) -> _Target:
    """Read what a call is about off its method and path."""
    found = _PATH.fullmatch(call.path)
    if found is None:
        return _Target(op=Op.UNKNOWN)
    side, version, rest = found["side"], found["version"], found["rest"]
    if side == "upload":
        return _upload_target(call, version, rest)
    if side is None and (model := _MODEL.fullmatch(rest)) is not None:
        op, kind = _MODEL_OPS.get(model["verb"], (Op.UNKNOWN, Kind.GENERATE))
        op = op if call.method == "POST" else Op.UNKNOWN
        return _Target(op=op, version=version, name=model["id"], verb=model["verb"], kind=kind)
    if side is None and (rest == "batches" or rest.startswith("batches/")):
        return _batch_target(call, version, rest)
    return _file_target(call, version, rest, download_side=side == "download")


def _upload_target(call: Call, version: str, rest: str) -> _Target:
    commands = commands_of(call)
    if call.method != "POST" or rest != "files":
        return _Target(op=Op.UNKNOWN, version=version)
    if "upload_id" not in call.query:
        return _Target(op=Op.UPLOAD_START if commands == frozenset({"start"}) else Op.UNKNOWN, version=version)
    if "query" in commands:
        return _Target(op=Op.UPLOAD_QUERY, version=version)
    if "cancel" in commands:
        return _Target(op=Op.UPLOAD_CANCEL, version=version)
    return _Target(op=Op.UPLOAD_FINALIZE if "finalize" in commands else Op.UPLOAD_CHUNK, version=version)


def _batch_target(call: Call, version: str, rest: str) -> _Target:
    if rest == "batches":
        return _Target(op=Op.LIST if call.method == "GET" else Op.UNKNOWN, version=version)
    found = _BATCH.fullmatch(rest)
    if found is None:
        return _Target(op=Op.UNKNOWN, version=version)
    ops: dict[tuple[str, str | None], Op] = {
        ("GET", None): Op.GET,
        ("DELETE", None): Op.DELETE,
        ("POST", "cancel"): Op.CANCEL,
    }
    op = ops.get((call.method, found["verb"]), Op.UNKNOWN)
    return _Target(op=op, version=version, name=f"batches/{found['id']}")


def _file_target(call: Call, version: str, rest: str, *, download_side: bool) -> _Target:
    if rest == "files" and not download_side:
        return _Target(op=Op.FILES_LIST if call.method == "GET" else Op.UNKNOWN, version=version)
    found = _FILE.fullmatch(rest)
    if found is None:
        return _Target(op=Op.UNKNOWN, version=version)
    name = f"files/{found['id']}"
    if call.method == "GET" and found["verb"] == "download":
        return _Target(op=Op.DOWNLOAD, version=version, name=name)
    ops: dict[tuple[str, str | None], Op] = {("GET", None): Op.FILES_GET, ("DELETE", None): Op.FILES_DELETE}
    op = Op.UNKNOWN if download_side else ops.get((call.method, found["verb"]), Op.UNKNOWN)
    return _Target(op=op, version=version, name=name)
