"""What of the environment reaches the service, and what of a call reaches those in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from carpool._gemini.developer import DeveloperProvider
from carpool._ports import ProviderError
from carpool.settings import Settings

KEY: Final = "AIza-canary-0123456789"
REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n"
    b"Set-Cookie: canary=1; Path=/\r\nConnection: close\r\n\r\n{}"
)


@asynccontextmanager
async def listening(reply: bytes) -> AsyncGenerator[tuple[int, list[str]]]:
    """Answer every call in the same way; yield the port, and the heads of the calls."""
    heard: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(reply)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


@asynccontextmanager
async def provider_at(base_url: str) -> AsyncGenerator[DeveloperProvider]:
    provider = DeveloperProvider(api_key=KEY, base_url=base_url, settings=Settings(call_timeout_s=20.0))
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


async def test_neither_netrc_nor_a_proxy_for_http_nor_cookies_have_a_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password canary\ndefault login somebody password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with listening(REPLY) as (port, heard), listening(REPLY) as (proxy, asked_to_pass):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        async with provider_at(f"http://127.0.0.1:{port}") as provider:
            for _ in range(2):
                assert await provider.find("nothing") == []
    assert len(heard) == 2
    assert asked_to_pass == []
    for head in heard:
        names = {line.partition(":")[0].lower() for line in head.splitlines()[1:]}
        assert not names & {"authorization", "cookie", "proxy-authorization"}
        assert "canary=1" not in head


async def test_a_proxy_for_https_is_asked_for_a_tunnel_and_sees_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as (proxy, heard):
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{proxy}")
        async with provider_at("https://service.example") as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.poll("batches/a")
    assert caught.value.fault.kind == "not_sent"
    assert [head.splitlines()[0] for head in heard] == ["CONNECT service.example:443 HTTP/1.1"]
    assert all(KEY not in head for head in heard)
    assert "user" not in str(caught.value.fault)
    assert "word" not in str(caught.value.fault)
