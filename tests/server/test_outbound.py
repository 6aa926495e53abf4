"""Tests `streamd/server/outbound.py`: POSTs with a token, over TLS, and what becomes of those that fail."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from streamd.core.errors import ConfigError
from streamd.runtime.outbound import PostAnswer
from streamd.server import outbound
from streamd.server.outbound import OutboundClient, check_ca_file, read_receiver_token
from tests.support.made_certificates import CertificateFolder

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve(handle: Handle, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def post(url: str, **settings: str | float) -> PostAnswer:
    client = OutboundClient(**settings)  # type: ignore[arg-type]
    try:
        return await client.post(url, b"{}", {"Content-Type": "application/json"})
    finally:
        await client.close()


def answer(status: int, text: str = "", **headers: str) -> Handle:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(
            status=status, text=text, headers={name.replace("_", "-"): headers[name] for name in headers}
        )

    return handle


def write_token(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


async def test_an_answer_has_its_status_its_first_words_and_the_wait() -> None:
    async with serve(answer(429, "too\n many " + "x" * 10_000, Retry_After="7")) as url:
        got = await post(url)
    assert (got.status, got.retry_after_seconds, got.reason[:9]) == (429, 7.0, "too many ")
    assert len(got.reason) <= outbound.MAX_SHOWN_BYTES
    async with serve(answer(503, Retry_After="Sun, 29 Nov 2026 16:28:32 GMT")) as url:
        assert (await post(url)).retry_after_seconds is None


async def test_a_redirect_is_not_followed() -> None:
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with serve(handle) as url:
        assert (await post(f"{url}/here")).status == 307
    assert seen == ["/here"]


async def test_a_receiver_that_is_away_is_an_answer_without_a_status_or_a_secret() -> None:
    async with serve(answer(200)) as url:
        pass
    got = await post(url.replace("http://", "http://user:secret@"))
    assert got.status == 0
    assert "secret" not in got.reason
    assert got.reason


async def test_a_receiver_that_does_not_answer_is_left_in_time() -> None:
    async def wait(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with serve(wait) as url:
        assert await post(url, answer_seconds=0.05) == PostAnswer(0, "no answer in time")


async def test_the_token_is_read_again_when_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response()

    file = write_token(tmp_path / "token", b"first\n")
    async with serve(handle) as url:
        client = OutboundClient(token_file=str(file))
        try:
            await client.post(url, b"", {})
            write_token(file, b"second\n")
            await client.post(url, b"", {})
            monkeypatch.setattr(outbound, "TOKEN_SECONDS", 0.0)
            client._token_until = 0.0
            await client.post(url, b"", {})
            file.unlink()
            lost = await client.post(url, b"", {})
        finally:
            await client.close()
    assert seen == ["Bearer first", "Bearer first", "Bearer second"]
    assert lost.status == 0
    assert "the token of a receiver cannot be read" in lost.reason


@pytest.mark.parametrize("content", [b"", b"two words", b"a\tb", b"\xff\xfe"])
def test_a_token_that_is_no_single_word_is_refused_without_being_repeated(tmp_path: Path, content: bytes) -> None:
    file = write_token(tmp_path / "token", content)
    with pytest.raises(ConfigError, match="expected the token of a receiver") as raised:
        read_receiver_token(str(file))
    assert "words" not in str(raised.value)


async def test_a_receiver_is_checked_against_the_given_ca(tmp_path: Path) -> None:
    ours = CertificateFolder(tmp_path / "ours")
    CertificateFolder(tmp_path / "other")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = ours.issue("server")
    tls.load_cert_chain(files.certificate, files.key)
    async with serve(answer(200), tls) as url:
        assert (await post(url, ca_file=str(tmp_path / "ours/ca.pem"))).is_taken
        for settings in ({}, {"ca_file": str(tmp_path / "other/ca.pem")}):
            refused = await post(url, **settings)
            assert refused.status == 0
            assert "certificate verify failed" in refused.reason


def test_a_ca_file_that_has_no_certificate_is_refused(tmp_path: Path) -> None:
    check_ca_file("")
    with pytest.raises(ConfigError, match=r"no-file: the CAs of receivers cannot be read"):
        check_ca_file(str(tmp_path / "no-file"))
    with pytest.raises(ConfigError, match="expected certificates of CAs in PEM"):
        check_ca_file(str(write_token(tmp_path / "ca.pem", b"nothing")))
