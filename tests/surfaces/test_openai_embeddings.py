"""Embeddings in OpenAI's shape: requests, and the list that answers them."""

from __future__ import annotations

import struct
import sys
from base64 import b64decode
from typing import Any

import msgspec
import pytest

from carpool.surfaces.openai.answers import embeddings_list
from carpool.surfaces.openai.requests import Untranslatable, read_embeddings

from .openai_support import posted, raw


@pytest.mark.parametrize(
    ("given", "count", "base64"),
    [
        ({"input": "a"}, 1, False),
        ({"input": ["a", "b"], "encoding_format": "base64"}, 2, True),
        ({"input": ["a"], "encoding_format": "float", "user": "u"}, 1, False),
        ({"input": ["a"] * 2048, "encoding_format": None, "dimensions": None}, 2048, False),
    ],
)
def test_embeddings_are_a_request_for_each_input(given: dict[str, Any], count: int, base64: bool) -> None:
    call = read_embeddings(raw({"model": "models/gemini-embedding-001", **given}))
    assert (call.model, call.asked) == ("gemini-embedding-001", "models/gemini-embedding-001")
    assert (len(call.bodies), call.base64) == (count, base64)
    assert call.bodies[0] == b'{"content":{"parts":[{"text":"a"}],"role":"user"}}'


def test_dimensions_of_embeddings() -> None:
    (body,) = read_embeddings(raw({"model": "m", "input": "a", "dimensions": 256})).bodies
    assert msgspec.json.decode(body)["outputDimensionality"] == 256


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [1, 2, 3]}, "input[0]"),
        ({"input": [[1, 2], [3]]}, "input[0]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "256"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "task_type": "CLUSTERING"}, "task_type"),
        ({"input": "a", "model": None}, "model"),
        ({"input": "a", "model": ""}, "model"),
    ],
)
def test_embeddings_that_are_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        read_embeddings(raw({"model": "gemini-embedding-001", **given}))
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


def test_tokens_are_refused_with_what_to_set() -> None:
    with pytest.raises(Untranslatable, match="check_embedding_ctx_length=False"):
        read_embeddings(raw({"model": "m", "input": [[1, 2]]}))


# -- answers


def listed(answers: list[bytes], **fields: Any) -> dict[str, Any]:
    inputs = ["a"] * len(answers)
    call = read_embeddings(raw({"model": "models/gemini-embedding-001", "input": inputs, **fields}))
    found: dict[str, Any] = msgspec.json.decode(embeddings_list(call, answers))
    return found


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    answers = [
        b'{"embedding":{"values":[0.1,-2,3e-05]},"tokenCount":"7"}',
        b'{"embedding":{"values":[1]},"usageMetadata":{"promptTokenCount":5}}',
    ]
    assert listed(answers) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.1, -2, 3e-05]},
            {"object": "embedding", "index": 1, "embedding": [1]},
        ],
        "model": "models/gemini-embedding-001",
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    }


def test_base64_is_of_32_bits_little_endian() -> None:
    found = listed([b'{"embedding":{"values":[1,-2.5,0.1]}}'], encoding_format="base64")
    packed = b64decode(found["data"][0]["embedding"], validate=True)
    assert struct.unpack("<3f", packed) == (1.0, -2.5, pytest.approx(0.1, rel=1e-6))


def test_machines_that_count_from_the_other_end_swap_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", {"little": "big", "big": "little"}[sys.byteorder])
    found = listed([b'{"embedding":{"values":[1,-2.5]}}'], encoding_format="base64")
    assert struct.unpack(">2f", b64decode(found["data"][0]["embedding"])) == (1.0, -2.5)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"", []),
        (b"garbled", []),
        (b"[]", []),
        (b"{}", []),
        (b'{"embedding":null}', []),
        (b'{"embedding":{}}', []),
        (b'{"embedding":{"values":"1"}}', []),
        (b'{"embedding":{"values":[]}}', []),
        (b'{"embedding":{"values":[1,null,"x",NaN,1e999]}}', [1.0, None, None, None, None]),
        (b'{"embedding":{"values":[1]},"tokenCount":"many","x":"\\ud800"}', [1.0]),
        (b'{"embedding":{"values":[' + b"9" * 400 + b"]}}", [None]),
        (b'{"embedding":' * 100_000, []),
    ],
)
def test_odd_answers_do_not_raise(answer: bytes, wanted: list[Any]) -> None:
    found = listed([answer])
    assert found["data"] == [{"object": "embedding", "index": 0, "embedding": wanted}]
    assert found["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    packed = b64decode(listed([answer], encoding_format="base64")["data"][0]["embedding"], validate=True)
    assert len(packed) == 4 * len(wanted)


def test_the_emulated_service_takes_each_request_and_its_answers_are_read() -> None:
    call = read_embeddings(raw({"model": "gemini-embedding-001", "input": ["one", "two"], "dimensions": 8}))
    answers = [posted(f"/v1beta/models/{call.model}:embedContent", body) for body in call.bodies]
    found = msgspec.json.decode(embeddings_list(call, answers))
    vectors = [row["embedding"] for row in found["data"]]
    assert [len(vector) for vector in vectors] == [8, 8]
    assert vectors[0] == msgspec.json.decode(answers[0])["embedding"]["values"]
    assert vectors[0] != vectors[1]
