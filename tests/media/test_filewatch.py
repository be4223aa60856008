"""Files that requests name: who is asked about them, how often, and what becomes of those that are too old."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from carpool import ClientClosed, ConfigurationError, FileError
from carpool._core.model import Fault
from carpool._filewatch import FileWatch, source_of
from carpool._ports import ProviderError
from carpool.errors import CarpoolError
from carpool.types import File, ServerError

START_S = 1_800_000_000.0
MARGIN_S = 86_400.0


def uri(name: str) -> str:
    return f"https://service.example/v1beta/files/{name}"


class World:
    """Files of a server, and what it was asked."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.files: dict[str, File] = {}
        self.calls: list[str] = []
        self.error: BaseException | None = None
        self.answer = asyncio.Event()
        self.answer.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.watch = FileWatch(self, MARGIN_S, lambda: self.now_s, self.start)  # type: ignore[arg-type]

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work(*args)))

    def put(self, name: str, left_s: float, state: str = "ACTIVE") -> File:
        expires_at = datetime.fromtimestamp(self.now_s + left_s, UTC).isoformat()
        file = File(name=f"files/{name}", uri=uri(name), mime_type="text/plain", expires_at=expires_at, state=state)
        self.files[file.name] = file
        return file

    def name_of(self, text: str) -> str:
        return f"files/{text.rpartition('/')[2]}" if "service.example" in text else ""

    async def get(self, name: str) -> File:
        self.calls.append(f"get {name}")
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        if name not in self.files:
            raise ProviderError(Fault(kind="refused", error=ServerError(403, "no permission", "PERMISSION_DENIED")))
        return self.files[name]

    async def usable(self, name: str) -> File:
        self.calls.append(f"usable {name}")
        return self.put(name.removeprefix("files/"), 48 * 3_600)

    async def upload(self, source: Path, mime_type: str, display_name: str) -> File:
        self.calls.append(f"upload {source.name}")
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        return self.put(f"new-{len(self.calls)}", 48 * 3_600)


async def test_a_file_of_which_nothing_is_known_is_asked_for_once() -> None:
    world = World()
    world.put("a", 48 * 3_600)
    assert await asyncio.gather(*(world.watch.renew([uri("a")]) for _ in range(10))) == [{}] * 10
    assert await world.watch.renew([uri("a"), uri("a"), "https://elsewhere.example/files/a", "gs://b/c"]) == {}
    assert world.calls == ["get files/a"]


async def test_a_file_that_is_still_processed_is_waited_for() -> None:
    world = World()
    world.put("a", 48 * 3_600, state="PROCESSING")
    assert await world.watch.renew([uri("a")]) == {}
    assert world.calls == ["get files/a", "usable files/a"]


@pytest.mark.parametrize(
    ("left_s", "refused"),
    [(MARGIN_S + 1, None), (MARGIN_S - 1, "expires in 24.0 h"), (-1, "expired")],
)
async def test_a_file_must_live_for_the_margin(left_s: float, refused: str | None) -> None:
    world = World()
    file = world.put("a", left_s)
    for known in (False, True):
        if known:
            world.watch.remember(file)
        if refused is None:
            assert await world.watch.renew([uri("a")]) == {}
            continue
        with pytest.raises(ConfigurationError) as caught:
            await world.watch.renew([uri("a")])
        for words in ("files/a", refused, file.expires_at, "Settings.file_margin_s", "client.files.upload"):
            assert words in str(caught.value)


async def test_a_file_without_an_expiry_lives_for_ever() -> None:
    world = World()
    world.watch.remember(File(name="files/a", uri=uri("a")))
    assert await world.watch.renew([uri("a")]) == {}
    assert world.calls == []


@pytest.mark.parametrize("state", ["missing", "FAILED"])
async def test_a_file_that_cannot_be_used_is_refused_each_time(state: str) -> None:
    world = World()
    if state == "FAILED":
        world.put("a", 48 * 3_600, state="FAILED")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"files/a.*upload it again"):
            await world.watch.renew([uri("a")])
    world.put("a", 48 * 3_600)
    assert await world.watch.renew([uri("a")]) == {}, "what is not there is not remembered"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="not_sent"),
        Fault(kind="unknown", error=ServerError(503)),
        Fault(kind="refused", error=ServerError(429)),
    ],
)
async def test_a_call_goes_on_if_nobody_can_be_asked(fault: Fault) -> None:
    world = World()
    world.error = ProviderError(fault)
    assert await world.watch.renew([uri("a")]) == {}
    world.error = None
    with pytest.raises(ConfigurationError):  # nothing was remembered
        await world.watch.renew([uri("a")])


async def test_a_file_from_an_unchanged_path_is_uploaded_again_once_for_all(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "a.txt"
    path.write_bytes(b"abc")
    world.watch.remember(world.put("a", 48 * 3_600), await source_of(path))
    assert await world.watch.renew([uri("a")]) == {}
    world.now_s += 25 * 3_600
    renewals = await asyncio.gather(*(world.watch.renew([uri("a")]) for _ in range(10)))
    assert renewals == [{uri("a"): uri("new-1")}] * 10
    assert await world.watch.renew([uri("a"), uri("new-1")]) == {uri("a"): uri("new-1")}
    world.now_s += 25 * 3_600
    assert await world.watch.renew([uri("a")]) == {uri("a"): uri("new-2")}
    assert world.calls == ["upload a.txt"] * 2
    world.watch.forget("files/new-2")
    assert await world.watch.renew([uri("a")]) == {uri("a"): uri("new-3")}, "a copy that was deleted is not used"


@pytest.mark.parametrize("change", ["longer", "later", "gone"])
async def test_a_file_from_a_path_that_changed_is_refused(change: str, tmp_path: Path) -> None:
    world, path = World(), tmp_path / "a.txt"
    path.write_bytes(b"abc")
    source = await source_of(path)
    assert source is not None
    world.watch.remember(world.put("a", 3_600), source)
    if change == "longer":
        path.write_bytes(b"abcd")
    elif change == "gone":
        path.unlink()
    else:
        path.touch()
        assert await source_of(path) != source
    with pytest.raises(ConfigurationError, match="is no longer what was uploaded"):
        await world.watch.renew([uri("a")])
    assert world.calls == []


async def test_an_upload_that_fails_is_told_to_each_caller_as_its_own_error(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "a.txt"
    path.write_bytes(b"abc")
    world.watch.remember(world.put("a", 3_600), await source_of(path))
    world.error = ProviderError(Fault(kind="refused", error=ServerError(400, "too large", "INVALID_ARGUMENT")))
    errors = await asyncio.gather(*(world.watch.renew([uri("a")]) for _ in range(3)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, FileError)
        assert (error.name, error.code, error.status) == ("files/a", 400, "INVALID_ARGUMENT")
    assert world.calls == ["upload a.txt"]


async def test_a_caller_that_is_cancelled_does_not_take_the_others_with_it() -> None:
    world = World()
    world.put("a", 48 * 3_600)
    world.answer.clear()
    first, second = (asyncio.create_task(world.watch.renew([uri("a")])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    world.answer.set()
    assert await second == {}
    assert first.cancelled()
    assert world.calls == ["get files/a"]


async def test_who_waits_while_the_client_is_closed_is_told_so() -> None:
    world = World()
    world.answer.clear()
    waiting = asyncio.create_task(world.watch.renew([uri("a")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.tasks[0].cancel()
    with pytest.raises(ClientClosed):
        await waiting


async def test_a_bug_hangs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.error = RuntimeError("a bug")
    with caplog.at_level(logging.ERROR, logger="carpool"), pytest.raises(CarpoolError, match="a bug of carpool"):
        await world.watch.renew([uri("a")])
    assert caplog.records


async def test_what_is_remembered_is_bounded_and_what_is_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool._filewatch._FILES_MAX", 3)
    world = World()
    for name in "abc":
        world.watch.remember(world.put(name, 48 * 3_600))
    await world.watch.renew([uri("a")])
    world.watch.remember(world.put("d", 48 * 3_600))
    await world.watch.renew([uri("a"), uri("c"), uri("d")])
    assert world.calls == []
    await world.watch.renew([uri("b")])
    assert world.calls == ["get files/b"]


async def test_without_a_provider_that_has_files_nothing_is_checked() -> None:
    world = World()
    assert await FileWatch(None, MARGIN_S, lambda: START_S, world.start).renew([uri("a")]) == {}
    assert world.tasks == []
