"""Parts that are not plain data: bytes, files on disk, uploaded files; and what a request leans on because of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carpool import Blob, ConfigurationError, File, NotBatchable
from carpool._gemini.contents import INLINE_BYTES_MAX
from carpool._gemini.encode import Encoded, Encoder, Uses, renewed

MODEL = "gemini-3.5-flash"
URI = "https://generativelanguage.googleapis.com/v1beta/files/a"
FILE = File(name="files/a", uri=URI, mime_type="image/png", state="ACTIVE")
FILE_PART = {"fileData": {"fileUri": URI, "mimeType": "image/png"}}


def parts_of(contents: Any) -> Any:
    (turn,) = json.loads(Encoder().generate(MODEL, contents, None).payload)["contents"]
    assert turn["role"] == "user"
    return turn["parts"]


def inline(data: bytes, mime_type: str) -> dict[str, Any]:
    return {"inlineData": {"data": base64.urlsafe_b64encode(data).decode(), "mimeType": mime_type}}


def test_bytes_files_on_disk_and_uploaded_files_are_parts(tmp_path: Path) -> None:
    picture = tmp_path / "picture.webp"
    picture.write_bytes(b"\xfb\xff\xfe")
    assert parts_of(Blob(b"\xfb\xff", "image/png")) == [inline(b"\xfb\xff", "image/png")]
    assert parts_of(picture) == [inline(b"\xfb\xff\xfe", "image/webp")]
    assert parts_of(FILE) == [FILE_PART]
    assert parts_of(["look", picture, FILE, {"text": "and say"}, Blob(b"", "audio/wav")]) == [
        {"text": "look"},
        inline(b"\xfb\xff\xfe", "image/webp"),
        FILE_PART,
        {"text": "and say"},
        inline(b"", "audio/wav"),
    ]
    assert parts_of({"role": "user", "parts": [FILE, "look"]}) == [FILE_PART, {"text": "look"}]


def test_a_part_is_the_same_however_it_is_given() -> None:
    encoder = Encoder()
    as_dict = {"inline_data": {"data": b"\xfb\xff", "mime_type": "image/png"}}
    google = SimpleNamespace(uri=URI, mime_type="image/png")
    blobs = [encoder.generate(MODEL, ["a", given], None) for given in (Blob(b"\xfb\xff", "image/png"), as_dict)]
    files = [
        encoder.generate(MODEL, ["a", given], None) for given in (FILE, google, {"file_data": FILE_PART["fileData"]})
    ]
    for alike in (blobs, files):
        assert len({encoded.payload for encoded in alike}) == len({encoded.digest for encoded in alike}) == 1


def test_media_can_be_embedded_too(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(b"abc")
    encoded = Encoder().embed("gemini-embedding-2", text, None)
    assert json.loads(encoded.payload)["content"]["parts"] == [inline(b"abc", "text/plain")]


def test_what_cannot_be_sent_inline_says_what_to_do(tmp_path: Path) -> None:
    huge, untyped, missing = tmp_path / "huge.mp4", tmp_path / "untyped", tmp_path / "missing.png"
    with huge.open("wb") as file:
        file.truncate(INLINE_BYTES_MAX + 1)
    untyped.write_bytes(b"x")
    for given, why in [
        (huge, r"client\.files\.upload\(path\)"),
        (untyped, r"give carpool\.Blob"),
        (missing, "No such file"),
        (tmp_path.with_name(tmp_path.name) / ".." / "d.png", "No such file"),
        (Blob("text", "text/plain"), "must be bytes, not str"),  # type: ignore[arg-type]
        (Blob(b"x", ""), "has no mime type"),
        (File(name="files/a", uri=URI, mime_type="image/png", state="FAILED"), "could not process files/a"),
        (File(name="files/a", mime_type="image/png"), "no URI or no mime type"),
    ]:
        with pytest.raises(ConfigurationError, match=why) as caught:
            parts_of(["look", given])
        assert str(caught.value).startswith("contents[1]: ")
        assert str(caught.value).endswith("Nothing was sent.")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match="is not a file"):
        parts_of(folder)


# -------------------------------------------------------------------------------------------- what a request leans on


def test_most_requests_lean_on_nothing() -> None:
    encoder = Encoder()
    data = {"inline_data": {"data": b"x", "mime_type": "image/png"}}
    assert encoder.generate(MODEL, "a", {"temperature": 0.5}).uses is None
    assert encoder.generate(MODEL, ["a", data], None).uses is None
    assert encoder.embed(MODEL, ["a"], None).uses is None
    assert (
        encoder.body("generate", MODEL, {"contents": [{"parts": [{"text": '"fileData": cachedContent'}]}]}).uses is None
    )


def test_files_and_caches_that_a_request_names_are_known() -> None:
    encoder = Encoder()
    assert encoder.generate(MODEL, [FILE, "a", FILE], None).uses == Uses((URI,), "")
    assert encoder.embed(MODEL, FILE, None).uses == Uses((URI,), "")
    for _ in range(2):  # the second comes from the cache of configurations
        assert encoder.generate(MODEL, "a", {"cached_content": "c1"}).uses == Uses((), "cachedContents/c1")
    assert encoder.generate(MODEL, FILE, {"cached_content": "c1"}).uses == Uses((URI,), "cachedContents/c1")
    for cache in ("cachedContent", "cached_content"):
        for outer, inner in (("fileData", "fileUri"), ("file_data", "file_uri")):
            body = {"contents": {"parts": {outer: {inner: URI}}}, cache: "cachedContents/c1"}
            assert encoder.body("generate", MODEL, body).uses == Uses((URI,), "cachedContents/c1")
    body = {"content": {"parts": [{"fileData": {"fileUri": URI}}, {"fileData": {"fileUri": 5}}, "text", None]}}
    assert encoder.body("embed", MODEL, body).uses == Uses((URI,), "")


def test_a_request_with_renewed_files_is_still_the_same_request() -> None:
    call = {"function_call": {"name": "open", "args": {"fileUri": URI}}}
    turns = [{"role": "user", "parts": [URI, FILE]}, {"role": "model", "parts": [call]}]
    config = {"seed": 1, "top_p": 0.1}
    encoder = Encoder()
    before = encoder.generate(MODEL, turns, config)
    after = renewed(before, {URI: f"{URI}-2"})
    assert isinstance(after, Encoded)
    assert (after.digest, after.tokens, after.schema) == (before.digest, before.tokens, before.schema)
    wanted = before.payload.replace(b'"fileUri":"' + URI.encode(), b'"fileUri":"' + URI.encode() + b"-2", 1)
    assert after.payload == wanted, "text and the user's own data stay, and so does all else"


@pytest.mark.parametrize(
    "model",
    [
        "imagen-4.0-generate-001",
        "models/veo-3.1-generate-preview",
        "lyria-002",
        "gemini-2.0-flash-live-001",
        "gemini-3.1-flash-live",
        "gemini-live-2.5-flash-preview",
        "gemini-2.5-flash-native-audio-preview-09-2025",
    ],
)
def test_models_of_other_apis_are_refused_at_once(model: str) -> None:
    with pytest.raises(NotBatchable, match="does not take"):
        Encoder().generate(model, "a", None)


@pytest.mark.parametrize(
    "model", ["gemini-2.5-flash-preview-tts", "gemini-3-pro-image", "gemini-olive-1", "gemini-2.5-pro"]
)
def test_models_of_the_batch_api_are_not_taken_for_others(model: str) -> None:
    assert Encoder().generate(model, "a", None).payload
