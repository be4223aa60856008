"""The service as a pure machine: a call, the time and a seed in, a reply out.

Owns the way of a call through the service: key, operation, planned faults, the method itself, the log. The time is
given with each call and nothing ever waits, so a year can be played in a moment; chance comes from the seed alone. It
must not know about sockets, clocks or tasks.

A method that takes long for a large job works in slices: :meth:`World.steps` yields between them, so that a server can
do something else. :meth:`World.handle` does it all at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator
from typing import Final, assert_never

import msgspec

from . import catalog, models, streaming
from .batches import BatchService
from .caches import CacheService
from .effects import Effects, asks_for_flex
from .files import FileService
from .jobs import JobView
from .ledger import Ledger
from .messages import TYPE_PREFIX, ApiError, Call, Op, Reply, no_such_model, too_large
from .plan import Plan
from .resources import Resources
from .routes import CHUNK_OPS, Target, target_of
from .state import State

_LOG_CALLS_MAX: Final = 100_000

# Longer than any name that a client may choose.
_OUTPUT: Final = re.compile(r"files/batch-[a-z0-9]{36}")


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
        self._caches = CacheService(self._state)
        self._resources = Resources(self._files, self._caches)
        self._batches = BatchService(self._state, self._files, self._resources)
        self._effects = Effects(self._files)
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
        return self._state.ledger.snapshot(self._caches.stored_token_s(now))

    def jobs(self, now: float) -> list[JobView]:
        """Return all jobs as of now, oldest first."""
        self.advance(now)
        return self._batches.views(now)

    def advance(self, now: float) -> None:
        """Let everything that ends or takes effect by now do so, in the order of time."""
        while (at := self._effects.next_due(now)) is not None:
            self._batches.advance(at)
            self._effects.apply_next()
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
        self._state.faults.advance(now)
        target = target_of(call)
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

    def _faulted(self, call: Call, target: Target, now: float) -> Generator[None, None, Reply]:
        def answer(call: Call, now: float) -> Generator[None, None, Reply]:
            return self._answer(call, target, now)

        drawn = None if call.more else self._state.faults.draw_for_call(target.op, lambda: asks_for_flex(call))
        if drawn is None:
            return (yield from answer(call, now))
        return (yield from self._effects.play(call, answer, now, op=target.op, model=target.name, drawn=drawn))

    def _answer(self, call: Call, target: Target, now: float) -> Generator[None, None, Reply]:
        """Check who calls and how much, then do what is asked."""
        if target.op not in CHUNK_OPS:
            if target.op is not Op.FILES_REGISTER:
                self._check_key(call)
            limit = self.plan.inline_bytes_max if target.op is Op.CREATE else self.plan.live_bytes_max
            if call.size_bytes > limit:
                raise too_large(limit)
        if target.op is Op.CREATE:
            models.check_model(self._state, target.name, target.verb, target.kind, target.version)
            return (yield from self._batches.create(call, target.kind, target.name, now))
        return self._answer_at_once(call, target, now)

    def _answer_at_once(self, call: Call, target: Target, now: float) -> Reply:
        of_job = _OUTPUT.fullmatch(target.name) is not None
        match target.op:
            case Op.GENERATE | Op.STREAM | Op.COUNT | Op.EMBED | Op.EMBED_MANY:
                return self._answer_live(call, target, now)
            case Op.MODELS_GET:
                return catalog.get_model(self._state, target.name, target.version)
            case Op.MODELS_LIST:
                return catalog.list_models(self._state, call, target.version)
            case Op.TUNED_LIST:
                return catalog.list_tuned(self._state, call)
            case Op.CACHES_CREATE:
                return self._caches.create(call, target.version, now)
            case Op.CACHES_GET:
                return self._caches.get(target.name, now)
            case Op.CACHES_LIST:
                return self._caches.list_caches(call, now)
            case Op.CACHES_UPDATE:
                return self._caches.update(target.name, call, now)
            case Op.CACHES_DELETE:
                return self._caches.delete(target.name, now)
            case Op.UPDATE:
                return self._batches.update(target.name, call, target.kind, now)
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
            case Op.FILES_REGISTER:
                return self._files.register(call)
            case Op.UNKNOWN if target.verb:
                raise no_such_model(target.name, target.version, target.verb)
            case Op.UNKNOWN | Op.CREATE:
                raise ApiError(404, "Method not found.")
            case _:
                assert_never(target.op)

    def _answer_live(self, call: Call, target: Target, now: float) -> Reply:
        models.check_model(self._state, target.name, target.verb, target.kind, target.version)
        live = models.Live(self._state, self._resources, call, target.name, now)
        match target.op:
            case Op.STREAM:
                return streaming.stream(live)
            case Op.COUNT:
                return live.count()
            case Op.EMBED:
                return live.embed()
            case Op.EMBED_MANY:
                return live.embed_many()
            case _:
                return live.generate()

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
