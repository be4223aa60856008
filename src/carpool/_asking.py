"""How a call becomes a request: its identity, its deadline, its ladder, what it leans on, and where it is asked.

Owns the way from an encoded request to the runtime's entrance, by way of other slots of the home where one may have it.
It must not know how requests are encoded, or what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from carpool._arguments import checked_key, without_batch
from carpool._core.model import EXPLICIT
from carpool._core.routing import BATCH_ONLY, choose
from carpool._deadline import ambient, parse_deadline
from carpool._gemini.encode import Encoded, Encoder, renewed
from carpool._showing import in_short
from carpool.errors import ConfigurationError, DeadlineExceeded
from carpool.types import Kind, Request

if TYPE_CHECKING:
    from carpool._filewatch import FileWatch
    from carpool._keeper import Keeper
    from carpool._runtime.awaiters import Asked
    from carpool._runtime.loop import Runtime
    from carpool._siblings import Siblings
    from carpool.responses import Response
    from carpool.settings import Ladder
    from carpool.types import Deadline


class Begun:
    """A request that was taken in, for a caller who awaits its future: he takes the response, or leaves."""

    __slots__ = ("_asked", "_kind", "_leave", "_schema", "future")

    def __init__(self, asked: Asked, kind: Kind, schema: Any, leave: Callable[[Asked], None]) -> None:
        self.future = asked.future
        self._asked = asked
        self._kind: Kind = kind
        self._schema = schema
        self._leave = leave

    def response(self) -> Response:
        """Return the response once the future is done, or raise its error."""
        return self._asked.response(self._kind, self._schema, self.future.result())

    def leave(self) -> None:
        """Note that the caller is gone: what was not sent is withdrawn, the rest is kept for whoever asks the same."""
        self._leave(self._asked)


class Asking:
    """Asks for requests of one client."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        encoder: Encoder,
        watch: FileWatch,
        keeper: Keeper,
        siblings: Siblings,
        ready: Callable[[], Any],
    ) -> None:
        self.encoder = encoder
        self._runtime = runtime
        self._watch = watch
        self._keeper = keeper
        self._siblings = siblings
        self._ready = ready
        self._usual_ladder = runtime.settings.ladder

    def ask(  # noqa: PLR0917 - keywords would cost on the hot path
        self,
        kind: Kind,
        model: str,
        encoded: Encoded,
        key: str | None,
        flags: int,
        until: float | None,
        ladder: Ladder | None,
    ) -> Asked:
        """Take an encoded request in, by the routes that its ladder names.

        Raises:
            ConfigurationError, NotBatchable, KeyConflict, RequestTooLarge, StoreFull: it is not taken in.
        """
        route = BATCH_ONLY
        if ladder is not None or until is not None or self._usual_ladder is not None:
            route = choose(ladder, self._usual_ladder, kind, timed=until is not None)
        if encoded.live_only:
            route = without_batch(route, encoded.live_only)
        if key is not None:
            checked_key(key)
            flags |= EXPLICIT
        asked = self._runtime.entrance.ask(
            kind, model, encoded.payload, encoded.digest, encoded.tokens, key, flags, until, route, encoded.limit
        )
        if encoded.uses is not None and encoded.uses.cache and not asked.kept:
            self._keeper.hold(encoded.uses.cache, asked.place)
        return asked

    def until(self, deadline: Deadline | None, key: str | None) -> float | None:
        """Return a deadline as seconds since the epoch.

        Raises:
            ConfigurationError, DeadlineExceeded: it is none, or has passed.
        """
        if deadline is None:
            return None
        until = parse_deadline(deadline, now := self._runtime.now())
        if until <= now:
            raise DeadlineExceeded(f"the deadline {in_short(deadline)} has passed already; nothing was sent", key=key)
        return until

    async def ask_around(  # noqa: PLR0917 - as ask
        self,
        kind: Kind,
        model: str,
        encoded: Encoded,
        key: str | None,
        flags: int,
        deadline: Deadline | None,
        ladder: Ladder | None,
    ) -> Asked:
        """Ask for what another slot of the home may have, or what names files."""
        until = self.until(deadline, key)

        async def ask_here() -> Asked:
            ready = encoded if encoded.uses is None else await self._with_files(encoded, key)
            self._ready()  # time has passed
            return self.ask(kind, model, ready, key, flags, until, ladder)

        if key is None or self._runtime.entrance.knows(checked_key(key), encoded.digest):
            return await ask_here()
        return await self._siblings.ask(key, encoded.digest, until, ask_here) or await ask_here()

    async def _with_files(self, encoded: Encoded, key: str | None) -> Encoded:
        """Return the request with files that live long enough; what is answered or sent already needs none."""
        uses = encoded.uses
        if uses is None or not uses.files or self._runtime.entrance.knows(key, encoded.digest):
            return encoded
        uris = await self._watch.renew(uses.files)
        self._ready()  # time has passed
        return renewed(encoded, uris) if uris else encoded

    def encode(self, request: Request, *, formed: bool = False) -> Encoded:
        """Encode a request; ``formed``: see ``Encoder.body``."""
        if request.kind not in ("generate", "embed"):
            raise ConfigurationError(
                f"Request.kind is {in_short(request.kind)}; it must be 'generate' or 'embed'", key=request.key
            )
        if request.body is not None:
            return self.encoder.body(request.kind, request.model, request.body, formed=formed)
        if request.kind == "embed":
            return self.encoder.embed(request.model, request.contents, request.config)
        return self.encoder.generate(request.model, request.contents, request.config)

    async def ask_request(self, request: Request, flags: int, occurred: dict[bytes, int] | None) -> tuple[Asked, Any]:
        """Ask for a row; return it with the schema that its answer is read with.

        A row without a key gets one: from its content and occurrence where these are counted, else an automatic one.
        """
        encoded = self.encode(request)
        if request.key is not None:
            asked = await self.ask_encoded(request, encoded, request.key, flags)
        elif occurred is not None:
            number = occurred[encoded.digest] = occurred.get(encoded.digest, 0) + 1
            asked = await self.ask_encoded(request, encoded, f"m{encoded.digest.hex()}.{number}", flags)
        else:
            engine = self._runtime.engine
            key = f"{engine.new_key(encoded.digest)}.{engine.book.store_id}"
            asked = await self.ask_encoded(request, encoded, key, flags, is_new=True)
        return asked, encoded.schema

    async def ask_encoded(
        self, request: Request, encoded: Encoded, key: str | None, flags: int, *, is_new: bool = False
    ) -> Asked:
        """Ask for a request under a key; ``is_new``: nobody else can have given it."""
        kind, model, ladder = request.kind, request.model, request.ladder
        deadline = ambient() if request.deadline is None else request.deadline
        if encoded.uses is None and (key is None or is_new or not self._siblings):
            return self.ask(kind, model, encoded, key, flags, self.until(deadline, key), ladder)
        return await self.ask_around(kind, model, encoded, key, flags, deadline, ladder)

    async def begin(self, request: Request) -> Begun:
        """Ask for a request of an adapter: under its own key, or an automatic one."""
        encoded = self.encode(request, formed=True)
        asked = await self.ask_encoded(request, encoded, request.key, 0)
        return Begun(asked, request.kind, encoded.schema, self._runtime.entrance.gone)
