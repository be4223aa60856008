"""What calls ask for: every spelling of a path that SDKs have, and what all else is counted as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.surfaces.messages import Call
from carpool.surfaces.routes import Chat, Embed, Embeddings, EmbedMany, Generate, Pass, passed, route


def post(path: str, query: str = "", method: str = "POST") -> Call:
    return Call(method=method, path=path, query=query)


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1beta", "/v1alpha", "/v1main", "/gateway/v1beta", "/a/b/v1"])
@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("models/gemini-3.5-flash", "gemini-3.5-flash"),
        ("tunedModels/mine-1", "tunedModels/mine-1"),
        ("models/gemini%2D3.5-flash", "gemini-3.5-flash"),
    ],
)
def test_any_version_and_none_and_any_prefix(prefix: str, model: str, name: str) -> None:
    path = f"{prefix}/{model}"
    assert route(post(f"{path}:generateContent")) == Generate(model=name)
    assert route(post(f"{path}%3AgenerateContent")) == Generate(model=name)
    assert route(post(f"{path}:streamGenerateContent")) == Generate(model=name, streamed=True)
    assert route(post(f"{path}:streamGenerateContent", "alt=sse")) == Generate(model=name, streamed=True, sse=True)
    assert route(post(f"{path}:streamGenerateContent", "$alt=sse&key=k")) == Generate(
        model=name, streamed=True, sse=True
    )
    assert route(post(f"{path}:embedContent")) == Embed(model=name)
    assert route(post(f"{path}:batchEmbedContents")) == EmbedMany(model=name)


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1beta/openai", "/openai/v1"])
def test_the_shapes_of_openai(prefix: str) -> None:
    assert route(post(f"{prefix}/chat/completions")) == Chat()
    assert route(post(f"{prefix}/embeddings")) == Embeddings()


@pytest.mark.parametrize(
    ("call", "target", "name"),
    [
        (post("/v1beta/files", method="GET"), "/v1beta/files", "GET files"),
        (post("/v1beta/files/abc", method="DELETE"), "/v1beta/files/abc", "DELETE files"),
        (post("/v1/files/abc:download", "alt=media", "GET"), "/v1/files/abc:download?alt=media", "GET files:download"),
        (post("/gw/upload/v1beta/files", "upload_id=7"), "/upload/v1beta/files?upload_id=7", "POST upload/files"),
        (post("/v1beta/models/m:countTokens"), "/v1beta/models/m:countTokens", "POST models:countTokens"),
        (post("/v1beta/models/m:strangeVerb"), "/v1beta/models/m:strangeVerb", "POST models"),
        (post("/v1beta/models", method="GET"), "/v1beta/models", "GET models"),
        (
            post("/v1beta/models/m:batchGenerateContent"),
            "/v1beta/models/m:batchGenerateContent",
            "POST models:batchGenerateContent",
        ),
        (post("/v1beta/models/m:generateContent", method="GET"), "/v1beta/models/m:generateContent", None),
        (post("/v1beta/openai/batches"), "/v1beta/openai/batches", "POST openai/batches"),
        (post("/v1beta/openai/strange/7"), "/v1beta/openai/strange/7", "POST openai"),
        (post("/whatever", method="BREW"), "/whatever", "OTHER other"),
        (
            post("/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent"),
            "/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent",
            "POST models:generateContent",
        ),
    ],
)
def test_all_else_is_handed_on_and_counted_under_few_names(call: Call, target: str, name: str | None) -> None:
    asked = route(call)
    assert isinstance(asked, Pass)
    assert asked.target == target
    assert name is None or asked.name == name


def test_a_call_that_carpool_could_answer_can_be_handed_on_too() -> None:
    call = post("/v1beta/models/m:generateContent")
    assert passed(call) == Pass(target="/v1beta/models/m:generateContent", name="POST models:generateContent")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/chat/completions", "/v1beta/openai/chat/completions"),
        ("/embeddings", "/v1beta/openai/embeddings"),
        ("/gw/v1/openai/chat/completions", "/v1/openai/chat/completions"),
    ],
)
def test_openais_shapes_are_handed_on_to_where_google_takes_them(path: str, target: str) -> None:
    assert passed(post(path)).target == target


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "PUT", "brew"]))
def test_no_path_is_too_strange_and_none_makes_a_name_of_its_own(path: str, method: str) -> None:
    call = Call(method=method, path=f"/{path}")
    asked = route(call)
    if isinstance(asked, Pass):
        assert asked.name.split(" ")[0] in ("GET", "POST", "PUT", "OTHER")
        assert len(asked.name) < 60
