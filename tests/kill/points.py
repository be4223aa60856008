"""The points at which processes are killed on purpose, and what has to happen for a process to come by.

Owns the list. It must not know how anybody is killed, nor what is checked afterwards.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from carpool.emulator import Fault


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A point, and the world in which it is passed.

    Attributes:
        name: as it is passed.
        nth_max: it is passed at least so often.
        title: what it is, in words.
        form: the form of jobs that it needs.
        faults: of the server, without which it is not passed.
        later: whether only a process that finds the work of another one passes it.
        leaves: whether the process must leave its client.
        large: whether the input must be larger than one chunk of an upload.
        delay_max_s: how much later the kill comes, at most.
        settings: of the client.
        checkpoints: whether each commit is followed by a checkpoint.
        ladder: of the calls for words; empty: the batch route alone.
        stuck: whether jobs never end, and are left in time.
    """

    name: str
    title: str
    nth_max: int = 1
    form: str = ""
    faults: dict[str, Fault] = {}
    later: bool = False
    leaves: bool = False
    large: bool = False
    delay_max_s: float = 0.0
    settings: dict[str, Any] = {}
    checkpoints: bool = False
    ladder: tuple[str, ...] = ()
    stuck: bool = False


_LOST: Final = {"create.503": Fault(count=1)}
"""A create that has no effect, and nobody can know."""
_UNTOLD: Final = {"create.dropped_after_apply": Fault(count=1)}
"""A create that takes effect, and nobody is told."""
_LIVE_UNTOLD: Final = {"generate.dropped_after_apply": Fault(count=2)}
"""Live calls that are answered and billed, and nobody hears of it."""
_LIVE_REFUSED: Final = {"generate.429": Fault()}
_FAST: Final = ("standard", "batch")
_ALONE: Final = ("standard",)
_LAST: Final = ("batch", "standard")
_TIDY: Final = {"delete_remote": True}

POINTS: Final[tuple[Point, ...]] = (
    Point(name="store_id.start", title="a new store: its database is there, its name is not on record"),
    Point(name="accept.before", title="accept: nothing is on disk", nth_max=3),
    Point(name="change.end", title="in a transaction: some values are written, none is committed", nth_max=12),
    Point(name="transaction.written", title="a transaction is written, and not known to be synced", nth_max=12),
    Point(name="accept.after", title="accept: on disk, nobody was told", nth_max=3),
    Point(name="seal.before", title="seal: the job is not on record", nth_max=3),
    Point(name="seal.after", title="seal: on record, nothing was sent", nth_max=3),
    Point(name="upload.start.calling", title="upload: before the first call", nth_max=2, form="file"),
    Point(name="upload.start.answered", title="upload: the session is open", nth_max=2, form="file"),
    Point(name="upload.chunk.sent", title="upload: a chunk is on its way", nth_max=2, form="file", large=True),
    Point(name="upload.chunk.answered", title="upload: a part is on the server", nth_max=2, form="file", large=True),
    Point(name="upload.finalize.sent", title="upload: the last chunk is on its way", nth_max=2, form="file"),
    Point(name="upload.known", title="upload: done, not on record", nth_max=2, form="file"),
    Point(name="intent.before", title="intent: not on record", nth_max=3),
    Point(name="intent.after", title="intent: on record, nothing was sent", nth_max=3),
    Point(name="create.calling", title="create: before the call", nth_max=3),
    Point(name="create.sent", title="create: sent, no reply", nth_max=3),
    Point(name="create.sent", title="create: sent, a moment later", nth_max=3, delay_max_s=0.004),
    Point(name="create.answered", title="create: the reply came, unread", nth_max=3),
    Point(name="create.known", title="create: the reply is read, the name not on record", nth_max=3),
    Point(name="create.lost", title="create: took effect, the reply is lost", faults=_UNTOLD),
    Point(name="doubt.before", title="doubt: a reply is lost, that is not on record", faults=_UNTOLD),
    Point(name="doubt.after", title="doubt: on record", faults=_UNTOLD),
    Point(name="find.calling", title="look: before the list is asked for", faults=_UNTOLD),
    Point(name="find.known", title="look: the job was found, that is not on record", faults=_UNTOLD),
    Point(name="looked.after", title="look: nothing was found, on record", faults=_LOST),
    Point(name="delete.calling", title="revoke: before the call", form="file", faults=_LOST),
    Point(name="delete.known", title="revoke: done, not on record", form="file", faults=_LOST),
    Point(name="revoked.after", title="revoke: on record", form="file", faults=_LOST),
    Point(name="again.before", title="second attempt: not on record", faults=_LOST),
    Point(name="again.after", title="second attempt: on record", faults=_LOST),
    Point(name="named.before", title="name: known, not on record", nth_max=3),
    Point(name="named.after", title="name: on record", nth_max=3),
    Point(name="poll.calling", title="poll: before the call", nth_max=4),
    Point(name="poll.ended", title="poll: the end of the job is seen", nth_max=3),
    Point(name="download.block", title="download: nothing is settled", nth_max=1),
    Point(name="download.block", title="download: in the middle", nth_max=8),
    Point(name="download.end", title="download: all rows are settled", nth_max=3),
    Point(name="rows.before", title="rows: come, not on disk", nth_max=6),
    Point(name="rows.before", title="rows: while they are written", nth_max=6, delay_max_s=0.003),
    Point(name="rows.after", title="rows: on disk, nobody was told", nth_max=6),
    Point(name="told.before", title="delivered: the caller has the answer", nth_max=12),
    Point(name="told.after", title="delivered: the caller has said so", nth_max=12),
    Point(name="closed.before", title="job closed: not on record", nth_max=3),
    Point(name="closed.after", title="job closed: on record", nth_max=3),
    Point(name="delete.calling", title="input delete: before the call", form="file"),
    Point(name="delete.answered", title="input delete: the reply came", form="file"),
    Point(name="delete.calling", title="remote delete: before the call", nth_max=2, form="inline", settings=_TIDY),
    Point(name="delete.known", title="remote delete: done", nth_max=2, form="inline", settings=_TIDY),
    Point(name="send.calling", title="live: before the call", nth_max=12, ladder=_ALONE),
    Point(name="send.sent", title="live: sent, no reply", nth_max=12, ladder=_FAST),
    Point(name="send.sent", title="live: sent, a moment later", nth_max=12, ladder=_ALONE, delay_max_s=0.004),
    Point(name="send.answered", title="live: the reply came, unread", nth_max=12, ladder=_FAST),
    Point(name="send.known", title="live: the reply is read, the answer not on disk", nth_max=12, ladder=_ALONE),
    Point(name="rows.before", title="live: the answer is not on disk", nth_max=6, ladder=_ALONE),
    Point(name="rows.after", title="live: the answer is on disk, nobody was told", nth_max=6, ladder=_FAST),
    Point(name="send.lost", title="live: answered, the reply is lost", ladder=_ALONE, faults=_LIVE_UNTOLD),
    Point(name="send.refused", title="live: refused, on the way to a batch", nth_max=2, ladder=_FAST,
          faults=_LIVE_REFUSED),
    Point(name="cancel.calling", title="leaving a job: before it is cancelled", ladder=_LAST, stuck=True),
    Point(name="cancel.known", title="leaving a job: cancelled", ladder=_LAST, stuck=True),
    Point(name="send.calling", title="leaving a job: before the live call", nth_max=6, ladder=_LAST, stuck=True),
    Point(name="send.known", title="leaving a job: answered live, not on disk", nth_max=6, ladder=_LAST, stuck=True),
    Point(name="transaction.start", title="checkpoint: a commit and its checkpoint", nth_max=8, checkpoints=True,
          delay_max_s=0.004),
    Point(name="leave.start", title="shutdown: about to leave", leaves=True),
    Point(name="clean.start", title="shutdown: the database is closed, the slot not marked", leaves=True),
    Point(name="clean.end", title="shutdown: marked as clean, still locked", leaves=True),
    Point(name="leave.end", title="shutdown: left", leaves=True),
    Point(name="open.before", title="recovery: before the store is opened", later=True),
    Point(name="in_use.end", title="recovery: the store is being opened", later=True),
    Point(name="load.record", title="recovery: records are read", nth_max=3, later=True),
    Point(name="meta.before", title="recovery: nothing of it is on record", later=True),
    Point(name="meta.after", title="recovery: on record", later=True),
    Point(name="list.calling", title="sweep: before the list is asked for", later=True),
    Point(name="list.answered", title="sweep: the list comes, unread", later=True),
    Point(name="list.known", title="sweep: the list is read", later=True),
)  # fmt: skip
"""All of them; one name may stand for several moments."""
