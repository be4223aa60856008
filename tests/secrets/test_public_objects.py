"""What users hold in their hands shows neither prompt nor answer nor key when it is printed, alone or inside others."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import msgspec
import pytest

import carpool
from carpool import MemoryStore, Settings
from carpool._core.model import Fault
from carpool._core.output import Block, Row
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.encode import Encoder
from carpool.types import Facts, ServerError

from .disguises import API_KEY, TEXT, UPLOAD_ID, seen_in, shown_by

BODY = msgspec.json.encode({"candidates": [{"content": {"parts": [{"text": TEXT}]}}]})
FACTS = Facts(
    route="batch", job="batches/a", kind="generate", model="m", answered_at=0.0,
    cost=lambda _: None,
)  # fmt: skip
SAID = ServerError(400, TEXT, TEXT, {"said": TEXT})
REQUEST = carpool.Request(
    model="m", contents=[TEXT], config={"system_instruction": TEXT}, key="k", body={"contents": TEXT}
)
ANSWER = carpool.GenerateResponse("k", BODY, FACTS, 0.0)
ERROR = carpool.RequestRejected("no", key="k", message=TEXT, details=TEXT, status=TEXT)

HELD: dict[str, Any] = {
    "Request": REQUEST,
    "ServerError": SAID,
    "BatchJob": carpool.BatchJob(name="batches/a", error=SAID),
    "File": carpool.File(name="files/a", error=SAID),
    "Cache": carpool.Cache(name="cachedContents/a"),
    "Blob": carpool.Blob(TEXT.encode(), "text/plain"),
    "FunctionCall": carpool.FunctionCall(name="f", args={"text": TEXT}),
    "GenerateResponse": ANSWER,
    "EmbedResponse": carpool.EmbedResponse("k", BODY, FACTS, 0.0),
    "RequestReceipt": ANSWER.receipt,
    "Usage": ANSWER.usage,
    "Outcome": carpool.Outcome(key="k", response=ANSWER),
    "Outcome with an error": carpool.Outcome(key="k", error=ERROR),
    "error": ERROR,
    "Settings": Settings(),
    "Price": carpool.Price(input_usd=Decimal(1), output_usd=Decimal(1)) if hasattr(carpool, "Price") else None,
    "provider": DeveloperProvider(api_key=API_KEY),
    "provider's session": DeveloperProvider(api_key=API_KEY)._http,
    "encoded request": Encoder().generate("gemini-3.5-flash", TEXT, {"system_instruction": TEXT}),
    "fault": Fault(kind="refused", error=SAID),
    "block": Block.of([Row("k", BODY, SAID)]),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_is_not_shown(name: str) -> None:
    held = HELD[name]
    for text in (repr(held), str(held), repr([held]), f"{held}", f"{held!r:.500}", f"{(held,)}"):
        assert not seen_in(text), text


def test_every_public_type_is_among_them() -> None:
    structs = {
        name
        for name in carpool.__all__
        if isinstance(kind := getattr(carpool, name), type) and issubclass(kind, msgspec.Struct)
    }
    numbers = {"JobStats", "RouteTotals", "Receipt", "Stats"}  # hold nothing but numbers
    own_words = {"Alarm", "Health"}  # hold words of ours, which the watch over the whole run looks at
    assert structs - numbers - own_words <= HELD.keys()


def test_what_is_not_shown_is_there() -> None:
    assert REQUEST.contents == [TEXT]
    assert SAID.message == TEXT
    assert HELD["Blob"].data == TEXT.encode()
    assert HELD["FunctionCall"].args == {"text": TEXT}
    assert ANSWER.text == TEXT
    assert ERROR.message == TEXT


@pytest.mark.anyio
async def test_a_ticket_and_its_future_show_no_answer() -> None:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ticket = carpool.Ticket("k", future, lambda _: ANSWER)
    future.set_result((BODY, FACTS))
    assert repr(ticket) == "Ticket(key='k', done=True)"
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(ERROR)
    ticket = carpool.Ticket("k", failed, lambda _: ANSWER)
    assert not seen_in(f"{ticket!r} {failed!r}")
    with pytest.raises(carpool.RequestRejected) as caught:
        ticket.result()
    assert not seen_in(shown_by(caught.value))


def test_a_client_and_what_hangs_on_it_show_no_key(tmp_path: Any) -> None:
    client = carpool.Client(api_key=API_KEY, base_url="http://127.0.0.1:9", store=MemoryStore())
    for held in (client, client.settings, client.jobs, client.files, client.caches, client._runtime, MemoryStore()):
        assert not seen_in(f"{held!r} {held}")
    on_disk = carpool.Client(api_key=API_KEY, base_url="http://127.0.0.1:9", home=tmp_path)
    assert not seen_in(f"{on_disk!r} {on_disk._runtime._store!r}")


def test_the_origin_in_which_requests_are_filed_tells_the_key_s_owner_nothing_of_the_key() -> None:
    origin = DeveloperProvider(api_key=API_KEY).origin
    assert not seen_in(origin)
    assert UPLOAD_ID not in origin
    assert origin != DeveloperProvider(api_key=API_KEY + "x").origin
