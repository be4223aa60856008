"""What a file of rows will cost is said before anything is spent, as a range, without a key and without a network."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import tracemalloc
from base64 import b64encode
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool import Request, Settings
from carpool._quote import Quoter
from carpool.emulator.answers import count_tokens
from carpool.emulator.media import picture, sound

from .program import Inside, Program, Service, write_rows

EXAMPLE = Path(__file__).parents[2] / "examples" / "stdlib_docs.py"
MODULES = (
    "argparse", "asyncio.streams", "calendar", "collections", "concurrent.futures", "configparser", "csv", "datetime",
    "decimal", "difflib", "email.message", "fractions", "functools", "heapq", "http.client", "inspect", "itertools",
    "json", "logging", "mailbox", "pathlib", "pickle", "random", "re", "shutil", "socket", "statistics", "string",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "unittest.mock", "urllib.request", "uuid", "zipfile",
)  # fmt: skip
NOW = 1_795_219_200.0


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stdlib_docs_for_quotes", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def docstrings(example: ModuleType) -> list[Any]:
    found: dict[str, Any] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for doc in example.documented(name, module):
            found[doc.name] = doc
        for public in example.public_names(module):
            value = getattr(module, public, None)
            for doc in example.documented(f"{name}.{public}", value):
                found[doc.name] = doc
            for member, inner in vars(value).items() if isinstance(value, type) else ():
                if not member.startswith("_"):
                    for doc in example.documented(f"{name}.{public}.{member}", inner):
                        found[doc.name] = doc
    return list(found.values())[:600]


def summary(example: ModuleType, doc: Any) -> dict[str, Any]:
    return {
        "contents": [{"parts": [{"text": f"{doc.name}: {doc.text}"}], "role": "user"}],
        "systemInstruction": {"parts": [{"text": example.INSTRUCTION}]},
        "generationConfig": {"maxOutputTokens": 64},
    }


def vector(example: ModuleType, doc: Any) -> dict[str, Any]:
    return {
        "content": {"parts": [{"text": f"{doc.name}: {doc.text}"}]},
        "outputDimensionality": example.DIMENSIONS,
        "taskType": "RETRIEVAL_DOCUMENT",
    }


@pytest.mark.parametrize("kind", ["generate", "embed"])
def test_the_quote_of_the_docstring_example_holds_its_bill(
    inside: Inside, service: Service, tmp_path: Path, example: ModuleType, kind: str
) -> None:
    make = summary if kind == "generate" else vector
    model = example.MODEL if kind == "generate" else example.EMBED_MODEL
    docs = docstrings(example)
    assert len(docs) >= 300
    rows = [{"key": doc.name, "request": make(example, doc)} for doc in docs]
    write_rows(tmp_path / "in.jsonl", rows)
    asked = ("in.jsonl", "--model", model, "--kind", kind)
    quote = json.loads(inside.run("quote", *asked, "--json").out)

    requests = [row["request"] for row in rows]
    shaped = [one if kind == "generate" else {"contents": [one["content"]]} for one in requests]
    counted = sum(int(str(count_tokens(one)["totalTokens"])) for one in shaped)
    assert quote["input_tokens"]["p50"] == pytest.approx(counted, rel=0.15)
    assert quote["input_tokens"]["p10"] <= counted <= quote["input_tokens"]["p90"]

    assert inside.run("map", "in.jsonl", "out.jsonl", *asked[1:]).code == 0
    ledger = service.ledger
    assert (ledger.rows_billed, ledger.unpriced) == (quote["rows"], 0)
    assert ledger.prompt_tokens == counted
    bill = Decimal(ledger.picousd) / 10**12
    money = quote["money"]["batch"]
    assert Decimal(str(money["p10_usd"])) <= bill <= Decimal(str(money["p90_usd"]))
    assert quote["output_tokens"]["p10"] <= ledger.output_tokens <= quote["output_tokens"]["p90"]
    assert bill < Decimal(str(quote["money"]["standard"]["p90_usd"]))
    if kind == "generate":
        assert quote["money"]["flex"] == money
    else:
        assert quote["money"].keys() == quote["time_s"].keys() == {"standard", "batch"}, "embeddings have no flex route"


def parts(*given: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(given)}], **more}


def media(mime_type: str, data: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": b64encode(data).decode()}}


PICTURE = media("image/png", picture(1_024, 768, b"abcdef"))
SOUND = media("audio/L16;rate=24000", sound(200, b"12345678"))  # 8 s
QUESTION = {"text": "What is it? Answer in one sentence."}
SCHEMA = {"type": "OBJECT", "properties": {"name": {"type": "STRING"}, "age": {"type": "INTEGER"}}}
FUNCTION = {"name": "find", "description": "finds a thing " * 9, "parameters": SCHEMA}
BILLED: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "letters": ("gemini-2.5-flash", [
        parts({"text": words * 40})
        for words in ("Дождь идёт. ", "天空为什么是蓝色的", "آسمان چرا آبی است", "🎉🚀", "3.14159 ", "a ", "\n\t ")
    ]),
    "media": ("gemini-2.5-flash", [
        parts(PICTURE, QUESTION), parts(QUESTION, PICTURE, PICTURE), parts(SOUND, QUESTION), parts(PICTURE, SOUND),
        parts({"fileData": {"fileUri": "https://x/files/a", "mimeType": "application/pdf"}}, QUESTION),
    ]),
    "long": ("gemini-3.1-pro-preview", [
        parts({"text": "It was a long story. " * (tokens // 5)}) for tokens in (150_000, 190_000, 205_000, 230_000)
    ]),
    "config": ("gemini-3.5-flash", [
        parts(QUESTION, generationConfig={"thinkingConfig": {"thinkingBudget": 200}, "maxOutputTokens": 300}),
        parts(QUESTION, generationConfig={"candidateCount": 4, "maxOutputTokens": 9}),
        parts(QUESTION, generationConfig={"responseMimeType": "application/json", "responseSchema": SCHEMA}),
        parts(QUESTION, tools=[{"functionDeclarations": [FUNCTION]}], systemInstruction={"parts": [QUESTION]}),
        parts({"text": "go"}, tools=[{"googleSearch": {}}]),
    ]),
    "drawn": ("gemini-3.1-flash-image", [
        parts(QUESTION, generationConfig={"responseModalities": ["IMAGE"]}), parts(PICTURE, QUESTION),
    ]),
    "vectors": ("gemini-embedding-001", [
        {"content": {"parts": [{"text": words * 20}]}} for words in ("The sea. ", "Дождь. ", "海")
    ]),
    "vectors of pictures": ("gemini-embedding-2", [
        {"content": {"parts": [PICTURE]}}, {"content": {"parts": [{"text": "The sea. " * 20}]}},
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", BILLED)
def test_the_range_holds_the_bill_of(inside: Inside, service: Service, tmp_path: Path, name: str) -> None:
    model, requests = BILLED[name]
    kind = "embed" if "embedding" in model else "generate"
    write_rows(tmp_path / "in.jsonl", [{"key": f"k{n}", "request": row} for n, row in enumerate(requests * 3)])
    asked = ("--model", model, "--kind", kind)
    done = inside.run("quote", "in.jsonl", *asked, "--json")
    quote = json.loads(done.out)
    assert (done.code, inside.run("map", "in.jsonl", "out.jsonl", *asked).code) == (0, 0)
    ledger = service.ledger
    assert (ledger.rows_billed, ledger.unpriced) == (len(requests) * 3, 0)
    assert quote["input_tokens"]["p10"] <= ledger.prompt_tokens <= quote["input_tokens"]["p90"]
    assert quote["output_tokens"]["p10"] <= ledger.output_tokens <= quote["output_tokens"]["p90"]
    money = quote["money"]["batch"]
    assert Decimal(str(money["p10_usd"])) <= Decimal(ledger.picousd) / 10**12 <= Decimal(str(money["p90_usd"]))


@given(words=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_the_range_holds_its_count(words: str) -> None:
    row = parts({"text": words or "x"})
    span = quoted("gemini-2.5-flash", row).input_tokens
    assert span.p10 <= int(str(count_tokens(row)["totalTokens"])) <= span.p90
    assert span.p10 <= span.p50 <= span.p90


def test_it_needs_no_key_no_network_and_no_home(program: Program, service: Service, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "How deep is the sea?"}] * 3)
    bare = Program(tmp_path, CARPOOL_HOME=str(tmp_path / "none"), CARPOOL_BASE_URL="http://127.0.0.1:9")
    bare.environ = {name: value for name, value in bare.environ.items() if not name.endswith("_API_KEY")}
    done = bare.run("quote", "in.jsonl", "--model", "gemini-3.5-flash")
    assert (done.code, done.err) == (0, "")
    assert "3 rows for gemini-3.5-flash" in done.out
    assert "1 batch (1 inline)" in done.out
    for words in (
        "list price (standard route)",
        "on the batch route",
        "on the flex route",
        "a guess: 16 to 2,048",
        "2026-11-20",
        "6 h",
    ):
        assert words in done.out
    assert service.calls == 0
    assert not (tmp_path / "none").exists()


def test_rows_may_come_from_standard_input_and_may_name_their_model(program: Program) -> None:
    rows = [{"request": {"model": "models/gemini-2.5-pro", "contents": [{"parts": [{"text": "x" * 400}]}]}}] * 2
    text = "\n\n" + "".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": 1}\n'
    done = program.run("quote", "-", "--json", text=text)
    quote = json.loads(done.out)
    assert (done.code, quote["model"], quote["rows"], quote["bad_rows"]) == (1, "gemini-2.5-pro", 2, 1)
    assert "standard input, line 5: " in done.err
    assert quote["input_tokens"] == {"p10": 170, "p50": 200, "p90": 230}


def test_a_byte_order_mark_before_the_first_row_is_none_of_it(inside: Inside, tmp_path: Path) -> None:
    row = '{"request": {"model": "gemini-2.5-pro", "contents": [{"parts": [{"text": "hello"}]}]}}\r\n'
    (tmp_path / "marked.jsonl").write_text(row * 2, "utf-8-sig")
    (tmp_path / "plain.jsonl").write_text(row * 2, "utf-8")
    marked, plain = (inside.run("quote", f"{name}.jsonl", "--json") for name in ("marked", "plain"))
    assert (marked.code, marked.out) == (0, plain.out)
    for name in ("marked", "plain"):
        assert inside.map(f"{name}.jsonl", f"{name}.out").code == 0
    assert (tmp_path / "marked.out").read_text() == (tmp_path / "plain.out").read_text(), "the same keys"
    (tmp_path / "marked.jsonl").write_text("\n\ufeff" + row, "utf-8")
    assert "line 2: it is not JSON" in inside.run("quote", "marked.jsonl", "--model", "gemini-2.5-pro").err


def test_rows_that_could_not_be_sent_are_told_with_their_line(inside: Inside, tmp_path: Path) -> None:
    rows = [
        '{"key": "a", "prompt": "fine"}',
        "not JSON",
        "",
        '{"key": "b", "request": {"content": {"parts": [{"text": "x"}]}}}',
        '{"key": "c", "prompt": ""}',
        '{"key": "d"}',
        '{"key": "e", "request": {"contents": [], "safetySetings": []}}',
        '{"key": "f", "prompt": "fine as well"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    done = inside.run("quote", "in.jsonl", "--model", "gemini-2.5-flash", "--json")
    quote = json.loads(done.out)
    assert (done.code, quote["rows"], quote["bad_rows"]) == (1, 2, 5)
    told = done.err.splitlines()
    assert [line.split(": ")[1] for line in told] == [f"in.jsonl, line {number}" for number in (2, 4, 5, 6, 7)]
    assert "A generate row says 'contents'" in told[1]
    assert "did you mean" in told[4].lower() or "safetySettings" in told[4]
    assert "Nothing was sent" not in done.err


def test_a_key_that_was_there_before_is_told_since_map_would_refuse_the_file(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"key": "a", "prompt": "x"}, {"prompt": "y"}, {"key": "a", "prompt": "z"}])
    done = inside.run("quote", "in.jsonl", "--model", "gemini-2.5-flash", "--json")
    assert (done.code, json.loads(done.out)["rows"]) == (1, 2)
    assert done.err == "carpool: in.jsonl, line 3: its key 'a' was there before\n"
    assert inside.map("in.jsonl", "out.jsonl").code == 2


def test_many_bad_rows_are_counted_not_all_told(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "fine"}, *[{"nonsense": 1}] * 30])
    done = inside.run("quote", "in.jsonl", "--model", "gemini-2.5-flash")
    assert (done.code, len(done.err.splitlines())) == (1, 21)
    assert "10 more rows cannot be sent either" in done.err


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (("in.jsonl",), '{"prompt": "x"}\n', "names no model: give one with --model"),
        (("in.jsonl", "--model", "gemini-2.5-flash"), "\n\n", "in.jsonl has no rows"),
        (("in.jsonl", "--model", "gemini-2.5-flash"), "{}\n", "no row that could be sent"),
        (("in.jsonl", "--model", "not a model"), '{"prompt": "x"}\n', "is not a model name"),
        (("in.jsonl", "--model", "imagen-4"), '{"prompt": "x"}\n', "Batch API does not take"),
        (("in.jsonl", "--model", "gemini-embedding-001"), '{"prompt": "x"}\n', "makes embeddings: say --kind embed"),
        (("in.jsonl", "--model", "models/gemini-2.5-pro", "--kind", "embed"), '{"prompt": "x"}\n', "no embeddings"),
        (("none.jsonl", "--model", "gemini-2.5-flash"), "", "none.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_quoted_says_why(
    inside: Inside, tmp_path: Path, arguments: tuple[str, ...], text: str, words: str
) -> None:
    (tmp_path / "in.jsonl").write_text(text, "utf-8")
    done = inside.run("quote", *arguments)
    assert done.code in {1, 2}
    assert words in done.err
    assert done.out == ""


def test_texts_to_embed_are_quoted_too(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "x" * 400}] * 2)
    done = inside.run("quote", "in.jsonl", "--model", "gemini-embedding-001", "--kind", "embed", "--json")
    quote = json.loads(done.out)
    assert (quote["input_tokens"]["p50"], quote["output_tokens"]["p90"]) == (200, 0)
    assert quote["basis"]["output_tokens"] == "embeddings have none"
    assert Decimal(str(quote["money"]["standard"]["p50_usd"])) == Decimal("0.00003")
    nobodys = inside.run("quote", "in.jsonl", "--model", "gemini-embedding-2", "--kind", "embed")
    assert "on the batch route" in nobodys.out
    assert "flex" not in nobodys.out


def test_a_quote_of_nothing_is_empty() -> None:
    quote = Quoter("gemini-2.5-flash", "generate", Settings(), NOW).quote()
    assert (quote.rows, quote.batches, quote.input_tokens.p90) == (0, 0, 0)


def test_a_line_that_is_too_long_ends_the_input(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "fine"}, {"prompt": "x" * 300_000}, {"prompt": "fine"}])
    done = inside.run("quote", "in.jsonl", "--model", "gemini-2.5-flash", "--json", CARPOOL_LINE_BYTES_MAX="65536")
    quote = json.loads(done.out)
    assert (done.code, quote["rows"], quote["bad_rows"]) == (1, 1, 1)
    assert "line 2: it is longer than" in done.err


def test_a_model_without_a_price_has_tokens_and_no_money(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "fine"}])
    done = inside.run("quote", "in.jsonl", "--model", "gemini-of-tomorrow")
    assert done.code == 0
    assert "the price of gemini-of-tomorrow is not known" in done.out
    assert "$" not in done.out
    assert json.loads(inside.run("quote", "in.jsonl", "--model", "gemini-of-tomorrow", "--json").out)["money"] is None


# -- what is counted


def quoted(model: str, *bodies: dict[str, Any], **settings: Any) -> Any:
    kind = "embed" if "embedding" in model else "generate"
    quoter = Quoter(model, kind, Settings(**settings), NOW)
    for body in bodies:
        quoter.add(Request(model=model, kind=kind, body=body))
    return quoter.quote()


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": content}]}], **more}


def test_batches_are_cut_as_they_will_be() -> None:
    rows = [text("x" * 100)] * 10
    assert (quoted("gemini-2.5-flash", *rows).batches, quoted("gemini-2.5-flash", *rows).inline) == (1, 1)
    assert quoted("gemini-2.5-flash", *rows, batch_requests_max=4).batches == 3
    assert quoted("gemini-2.5-flash", *rows, enqueued_tokens_max=50).batches == 5
    large = quoted("gemini-2.5-flash", *rows, file_bytes_max=1_024, inline_bytes_max=100)
    assert (large.batches, large.inline) == (2, 0)


def test_batches_that_do_not_fit_side_by_side_take_their_time_in_rounds() -> None:
    rows = [text("x" * 400)] * 10
    usual = quoted("gemini-2.5-flash", *rows)
    assert usual.rounds == 1
    few_jobs = quoted("gemini-2.5-flash", *rows, batch_requests_max=2, jobs_max=2)
    assert (few_jobs.batches, few_jobs.rounds) == (5, 3)
    assert few_jobs.time_s["batch"].p50 == 3 * usual.time_s["batch"].p50
    assert few_jobs.time_s["flex"] == usual.time_s["flex"]
    assert quoted("gemini-2.5-flash", *rows, enqueued_tokens_max=300).rounds == 4
    assert quoted("gemini-2.5-flash", *rows, enqueued_tokens_max=300, jobs_max=1).rounds == 4


def test_rounds_are_shown(inside: Inside, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "x"}] * 5)
    limits = {"CARPOOL_BATCH_REQUESTS_MAX": "2", "CARPOOL_JOBS_MAX": "2"}
    said = inside.run("quote", "in.jsonl", "--model", "gemini-2.5-flash", **limits).out
    assert "3 batches (3 inline), in 2 rounds one after the other" in said
    assert re.search(r"time of the batches +20 min +2 h +12 h", said)
    assert re.search(r"time of a standard call +2 s +10 s +1 min", said)


def test_a_prompt_that_may_be_long_is_dear_in_the_highest_case_alone() -> None:
    cap = {"generationConfig": {"maxOutputTokens": 1}}
    quote = quoted("gemini-2.5-pro", text("x" * 4 * 190_000, **cap))
    money = quote.money["standard"]
    assert money.p50_usd == Decimal("0.2375") + Decimal("0.00001")
    assert money.p90_usd == Decimal("0.54625") + Decimal("0.000015")
    assert quote.basis["notes"].startswith("1 row whose prompt is or may be long")
    assert "notes" not in quoted("gemini-2.5-pro", text("x" * 4 * 150_000, **cap)).basis


def test_thinking_that_a_row_allows_is_expected() -> None:
    def outputs(**config: Any) -> tuple[int, int, int]:
        found = quoted("gemini-2.5-flash", text("x", generationConfig=config)).output_tokens
        return found.p10, found.p50, found.p90

    assert outputs() == (16, 512, 2_048)
    assert outputs(thinkingConfig={"thinkingBudget": 8_000}) == (16, 4_512, 10_048)
    assert outputs(thinkingConfig={"thinkingBudget": 8_000}, maxOutputTokens=5_000) == (16, 4_512, 5_000)
    assert outputs(thinkingConfig={"thinkingBudget": -1}) == outputs(thinkingConfig={"thinkingBudget": 0}) == outputs()


def test_a_cap_counts_once_for_each_candidate() -> None:
    capped = text("x", generation_config={"max_output_tokens": 20, "candidate_count": 3})
    quote = quoted("gemini-2.5-flash", capped, text("x", generationConfig={"maxOutputTokens": 10}), text("x"))
    assert (quote.output_tokens.p10, quote.output_tokens.p50, quote.output_tokens.p90) == (
        48 + 10 + 16,
        60 + 10 + 512,
        60 + 10 + 2_048,
    )
    assert "no more than max_output_tokens in 2 rows" in quote.basis["output_tokens"]


def test_long_prompts_searches_and_pictures_have_their_prices() -> None:
    cap = {"generationConfig": {"maxOutputTokens": 1}}
    long = quoted("gemini-2.5-pro", text("x" * 4 * 300_000, **cap))
    assert long.money["standard"].p50_usd == Decimal("0.75") + Decimal("0.000015")
    assert long.basis["notes"].startswith("1 row whose prompt is or may be long")
    searching = quoted("gemini-3.5-flash", text("x" * 4, tools=[{"google_search": {}}], **cap))
    plain = quoted("gemini-3.5-flash", text("x" * 4, tools=[{"googlesearch": {}}], **cap))
    fees = [getattr(searching.money["batch"], name) for name in ("p10_usd", "p50_usd", "p90_usd")]
    for fee, place in zip(fees, (0, 1, 2), strict=True):
        assert fee == pytest.approx(Decimal("0.014") * place, abs=Decimal("0.0001"))
    assert plain.money["batch"].p90_usd < Decimal("0.001")
    drawn = quoted("gemini-2.5-flash-image", text("a cat"))
    assert drawn.money["standard"].p50_usd == pytest.approx(Decimal("0.0387"), rel=Decimal("0.01"))


def test_what_is_not_in_the_rows_is_noted() -> None:
    film = {"contents": [{"parts": [{"fileData": {"fileUri": "https://x/y", "mimeType": "video/mp4"}}]}]}
    quote = quoted("gemini-2.5-flash", film, text("x", cachedContent="cachedContents/a"))
    assert "1 medium whose length or size is not in the row" in quote.basis["notes"]
    assert "1 row with cached content" in quote.basis["notes"]
    named = quoted("gemini-2.5-flash", text("x", model="models/gemini-2.5-pro"), text("x", model="gemini-2.5-flash"))
    assert named.basis["notes"] == "1 row with another model's name: quoted, and sent, as for gemini-2.5-flash"
    shaped = text("x", generationConfig={"responseJsonSchema": {"type": "object"}})
    assert "1 row with responseJsonSchema, which batches" in quoted("gemini-2.5-flash", shaped).basis["notes"]
    assert "notes" not in quoted("gemini-2.5-flash", shaped, ladder=("flex", "standard")).basis
    unpriced = quoted("gemini-2.5-flash-preview-tts", text("x", tools=[{"googleSearch": {}}]))
    assert "not known and not counted" in unpriced.basis["notes"]


def test_an_embedding_of_a_document_has_no_price() -> None:
    page = {"content": {"parts": [{"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}}]}}
    quote = quoted("gemini-embedding-2", page)
    assert quote.money is None
    assert "none for documents" in quote.basis["money"]
    sound = {"content": {"parts": [{"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA" * 40_000}}]}}
    assert quoted("gemini-embedding-2", sound).money["standard"].p50_usd == Decimal(240) * Decimal("0.0000065")


def test_memory_does_not_grow_with_the_rows() -> None:
    quoter = Quoter("gemini-2.5-flash", "generate", Settings(), NOW)
    request = Request(model="gemini-2.5-flash", contents="x" * 1_000)
    for _ in range(200):
        quoter.add(request)
    tracemalloc.start()
    for _ in range(2_000):
        quoter.add(request)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
