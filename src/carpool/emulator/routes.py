"""Which operation a call asks for.

Owns methods and paths. It must not know what operations do.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from .files import commands_of
from .messages import Call, Op
from .rows import Kind

# A prefix before the version is accepted: base URLs may have a path.
_PATH: Final = re.compile(r".*?/(?:(?P<side>upload|download)/)?(?P<version>v1|v1beta|v1alpha)/(?P<rest>[^/].*)")
_MODEL: Final = re.compile(r"(?P<tuned>tunedModels/)?(?:models/)?(?P<id>[^/:]+)(?::(?P<verb>\w+))?")
_BATCH: Final = re.compile(r"batches/(?P<id>[^/:]+)(?::(?P<verb>\w+))?")
_CACHE: Final = re.compile(r"cachedContents/[^/:]+")
_FILE: Final = re.compile(r"files/(?P<id>[^/:]+)(?::(?P<verb>\w+))?")

_MODEL_OPS: Final[dict[str, tuple[Op, Kind]]] = {
    "generateContent": (Op.GENERATE, Kind.GENERATE),
    "streamGenerateContent": (Op.STREAM, Kind.GENERATE),
    "countTokens": (Op.COUNT, Kind.GENERATE),
    "embedContent": (Op.EMBED, Kind.EMBED),
    "batchEmbedContents": (Op.EMBED_MANY, Kind.EMBED),
    "batchGenerateContent": (Op.CREATE, Kind.GENERATE),
    "asyncBatchEmbedContent": (Op.CREATE, Kind.EMBED),
}
CHUNK_OPS: Final = frozenset({Op.UPLOAD_CHUNK, Op.UPLOAD_FINALIZE, Op.UPLOAD_QUERY, Op.UPLOAD_CANCEL})
_UPDATES: Final = {"updateGenerateContentBatch": Kind.GENERATE, "updateEmbedContentBatch": Kind.EMBED}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is about.

    Attributes:
        op: the operation.
        version: of the API.
        name: of the job, file or cache; of the model without ``models/``, or with ``tunedModels/``.
        verb: the method of a model.
        kind: of the requests of a model, or of the batch that is updated.
    """

    op: Op
    version: str = "v1beta"
    name: str = ""
    verb: str = ""
    kind: Kind = Kind.GENERATE


def target_of(call: Call) -> Target:
    """Read what a call is about off its method and path."""
    found = _PATH.fullmatch(call.path)
    if found is None:
        return Target(op=Op.UNKNOWN)
    side, version, rest = found["side"], found["version"], found["rest"]
    if side == "upload":
        return _upload_target(call, version, rest)
    if side is None and rest.partition("/")[0] in {"models", "tunedModels"}:
        return _model_target(call, version, rest)
    if side is None and rest.partition("/")[0] == "cachedContents":
        return _cache_target(call, version, rest)
    if side is None and (rest == "batches" or rest.startswith("batches/")):
        return _batch_target(call, version, rest)
    return _file_target(call, version, rest, download_side=side == "download")


def _model_target(call: Call, version: str, rest: str) -> Target:
    if "/" not in rest:
        listing = Op.MODELS_LIST if rest == "models" else Op.TUNED_LIST
        return Target(op=listing if call.method == "GET" else Op.UNKNOWN, version=version)
    found = _MODEL.fullmatch(rest)
    if found is None:
        return Target(op=Op.UNKNOWN, version=version)
    name, verb = (found["tuned"] or "") + found["id"], found["verb"]
    if verb is None:
        op = Op.MODELS_GET if call.method == "GET" else Op.UNKNOWN
        return Target(op=op, version=version, name=name)
    op, kind = _MODEL_OPS.get(verb, (Op.UNKNOWN, Kind.GENERATE))
    op = op if call.method == "POST" else Op.UNKNOWN
    return Target(op=op, version=version, name=name, verb=verb, kind=kind)


def _cache_target(call: Call, version: str, rest: str) -> Target:
    if rest == "cachedContents":
        listing = {"GET": Op.CACHES_LIST, "POST": Op.CACHES_CREATE}
        return Target(op=listing.get(call.method, Op.UNKNOWN), version=version)
    ops = {"GET": Op.CACHES_GET, "PATCH": Op.CACHES_UPDATE, "DELETE": Op.CACHES_DELETE}
    op = ops.get(call.method, Op.UNKNOWN) if _CACHE.fullmatch(rest) is not None else Op.UNKNOWN
    return Target(op=op, version=version, name=rest)


def _upload_target(call: Call, version: str, rest: str) -> Target:
    commands = commands_of(call)
    if call.method != "POST" or rest != "files":
        return Target(op=Op.UNKNOWN, version=version)
    if "upload_id" not in call.query:
        return Target(op=Op.UPLOAD_START if commands == frozenset({"start"}) else Op.UNKNOWN, version=version)
    if "query" in commands:
        return Target(op=Op.UPLOAD_QUERY, version=version)
    if "cancel" in commands:
        return Target(op=Op.UPLOAD_CANCEL, version=version)
    return Target(op=Op.UPLOAD_FINALIZE if "finalize" in commands else Op.UPLOAD_CHUNK, version=version)


def _batch_target(call: Call, version: str, rest: str) -> Target:
    if rest == "batches":
        return Target(op=Op.LIST if call.method == "GET" else Op.UNKNOWN, version=version)
    found = _BATCH.fullmatch(rest)
    if found is None:
        return Target(op=Op.UNKNOWN, version=version)
    ops: dict[tuple[str, str | None], Op] = {
        ("GET", None): Op.GET,
        ("DELETE", None): Op.DELETE,
        ("POST", "cancel"): Op.CANCEL,
    }
    name = f"batches/{found['id']}"
    if call.method == "PATCH" and found["verb"] in _UPDATES:
        return Target(op=Op.UPDATE, version=version, name=name, kind=_UPDATES[found["verb"]])
    return Target(op=ops.get((call.method, found["verb"]), Op.UNKNOWN), version=version, name=name)


def _file_target(call: Call, version: str, rest: str, *, download_side: bool) -> Target:
    if rest == "files" and not download_side:
        return Target(op=Op.FILES_LIST if call.method == "GET" else Op.UNKNOWN, version=version)
    if rest == "files:register" and call.method == "POST" and not download_side:
        return Target(op=Op.FILES_REGISTER, version=version)
    found = _FILE.fullmatch(rest)
    if found is None:
        return Target(op=Op.UNKNOWN, version=version)
    name = f"files/{found['id']}"
    if call.method == "GET" and found["verb"] == "download":
        return Target(op=Op.DOWNLOAD, version=version, name=name)
    ops: dict[tuple[str, str | None], Op] = {("GET", None): Op.FILES_GET, ("DELETE", None): Op.FILES_DELETE}
    op = Op.UNKNOWN if download_side else ops.get((call.method, found["verb"]), Op.UNKNOWN)
    return Target(op=op, version=version, name=name)
