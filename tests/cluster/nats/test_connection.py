"""Tests `streamd/cluster/nats/connection.py`: connections that are lost and come back, and those that are refused."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.cluster.log import Entry, LogAwayError, LogMessage, StreamPlan
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from tests.support.made_certificates import CertificateFolder
from tests.support.nats_servers import NatsServers, needs_nats_server, run_nats

PLAN = StreamPlan(name="s", subjects=("s.x",))


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(10.0):
        while not is_so():
            await asyncio.sleep(0.01)


async def connect(urls: tuple[str, ...], **settings: str | float) -> NatsLog:
    log = NatsLog(NatsSettings(urls=urls, **settings), replicas=1)  # type: ignore[arg-type]
    await log.start()
    return log


async def make_until_there(log: NatsLog) -> None:
    """Make the stream at a server that answers."""
    async with asyncio.timeout(20.0):
        while True:
            try:
                await log.make_stream(PLAN)
            except LogAwayError:
                await asyncio.sleep(0.02)
            else:
                return


async def append_until_stored(log: NatsLog, data: bytes) -> None:
    while True:
        try:
            await log.append("s.x", data, message_id=data.decode())
        except LogAwayError:
            await asyncio.sleep(0.02)
        else:
            return


@needs_nats_server
async def test_all_goes_on_when_a_server_was_killed_and_is_back(tmp_path: Path) -> None:
    with run_nats(tmp_path) as servers:
        log = await connect(servers.urls)
        await log.make_stream(PLAN)
        await log.make_bucket("b")
        read: list[tuple[int, bytes]] = []
        heard: list[LogMessage] = []
        seen: list[tuple[str, Entry | None]] = []

        async def follow() -> None:
            async for batch in log.read("s", "s.x"):
                read.extend((message.sequence, message.data) for message in batch)

        reader = asyncio.create_task(follow())
        await log.subscribe("core.x", heard.append)
        await log.table("b").watch(lambda key, entry: seen.append((key, entry)))
        await log.append("s.x", b"a")
        await wait_until(lambda: read == [(1, b"a")])

        servers.kill()
        await wait_until(lambda: not log.is_connected and log.away_since is not None)
        with pytest.raises(LogAwayError, match="no connection"):
            await log.append("s.x", b"lost")
        servers.start()
        await append_until_stored(log, b"b")
        assert log.away_since is None
        revision = await log.table("b").put("k", b"1", expected_revision=0)
        await log.publish("core.x", b"c")
        await wait_until(lambda: len(read) == 2 and len(heard) == 1 and len(seen) == 1)
        assert read == [(1, b"a"), (2, b"b")]
        assert (heard[0].data, seen) == (b"c", [("k", Entry(b"1", revision))])
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await log.close()


@needs_nats_server
async def test_a_server_that_is_silent_is_lost_and_another_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = NatsServers(tmp_path / "other")
    with run_nats(tmp_path) as silent:
        log = await connect((*silent.urls, *other.urls), ping_seconds=0.3, connect_seconds=0.5)
        other.start()
        try:
            silent.pause()
            with pytest.raises(LogAwayError):
                await log.append("s.x", b"", timeout_seconds=60.0)
            await make_until_there(log)
            await append_until_stored(log, b"a")
        finally:
            await log.close()
            other.kill()


@needs_nats_server
async def test_a_server_without_an_answer_of_jetstream_is_left_for_another_one(tmp_path: Path) -> None:
    (tmp_path / "useless").mkdir()
    useless = NatsServers(tmp_path / "useless", has_jetstream=False)
    useless.start()
    other = NatsServers(tmp_path)
    log = await connect((*useless.urls, *other.urls), failing_seconds=0.2)
    try:
        with pytest.raises(LogAwayError):
            await log.make_stream(PLAN)
        other.start()
        await make_until_there(log)
        await append_until_stored(log, b"a")
    finally:
        await log.close()
        useless.kill()
        other.kill()


@needs_nats_server
async def test_a_server_that_comes_later_is_found(tmp_path: Path) -> None:
    servers = NatsServers(tmp_path)
    log = NatsLog(NatsSettings(urls=servers.urls), replicas=1)
    with capture_logs() as logs:
        await log.start(wait_seconds=0.5)
    assert not log.is_connected
    assert [each["event"] for each in logs] == ["nats_unreachable", "nats_away_at_start"], "each reason once"
    heard: list[LogMessage] = []
    await log.subscribe("core.x", heard.append)
    servers.start()
    try:
        await wait_until(lambda: log.is_connected)
        await log.publish("core.x", b"a")
        await wait_until(lambda: len(heard) == 1)
    finally:
        await log.close()
        servers.kill()


@needs_nats_server
@pytest.mark.parametrize(
    ("server", "right", "wrong"),
    [
        ('user: "u", password: "p@s:s/%"', "u:p%40s%3As%2F%25@", "u:secret@"),
        ('token: "right"', "right@", "secret@"),
    ],
)
async def test_a_login_opens_and_another_one_is_reported_with_its_setting(
    server: str, right: str, wrong: str, tmp_path: Path
) -> None:
    with run_nats(tmp_path, settings=f"authorization {{ {server} }}") as servers:
        [address] = (url.removeprefix("nats://") for url in servers.urls)
        log = await connect((f"nats://{right}{address}",))
        assert log.is_connected
        assert not log.problem
        await log.close()
        other = NatsLog(NatsSettings(urls=(f"nats://{wrong}{address}",)), replicas=1)
        with capture_logs() as logs:
            await other.start(wait_seconds=0.5)
        assert not other.is_connected
        assert other.problem == logs[0]["error"]
        assert other.problem.startswith(f"{address}: nats: 'Authorization Violation'; expected [cluster] nats to name")
        assert not any("secret" in str(each) for each in logs)
        await other.close()


async def refuse(urls: tuple[str, ...], **settings: str | float) -> str:
    """Return why there is no connection; also the end takes a moment at most."""
    log = NatsLog(NatsSettings(urls=urls, connect_seconds=0.5, **settings), replicas=1)  # type: ignore[arg-type]
    await log.start(wait_seconds=0.3)
    assert not log.is_connected
    async with asyncio.timeout(5.0):
        await log.close()
    return log.problem


@needs_nats_server
async def test_tls_needs_the_ca_and_the_certificate_that_the_server_asks_for(tmp_path: Path) -> None:
    made, others = CertificateFolder(tmp_path / "tls"), CertificateFolder(tmp_path / "others")
    server, client, ca = made.issue("server"), made.issue("client"), str(made.folder / "ca.pem")
    files = {"tls_certificate": str(client.certificate), "tls_key": str(client.key)}
    settings = f'tls {{ cert_file: "{server.certificate}", key_file: "{server.key}", ca_file: "{ca}", verify: true }}'
    with run_nats(tmp_path, settings=settings) as servers:
        urls = servers.urls
        log = await connect(urls, tls_ca=ca, **files)
        await log.make_stream(PLAN)
        await log.close()
        assert "expected [cluster] nats_certificate_file" in await refuse(urls, tls_ca=ca)
        assert "expected [cluster] nats_ca_file" in await refuse(urls, tls_ca=str(others.folder / "ca.pem"), **files)


@needs_nats_server
async def test_no_password_is_sent_to_a_server_without_tls_if_tls_is_set(tmp_path: Path) -> None:
    made = CertificateFolder(tmp_path / "tls")
    with run_nats(tmp_path, settings="trace: true") as servers:
        [address] = (url.removeprefix("nats://") for url in servers.urls)
        problem = await refuse((f"tls://u:secret@{address}",), tls_ca=str(made.folder / "ca.pem"))
        assert "does not use TLS; expected [cluster] nats to begin with tls://" in problem
        assert "CONNECT" not in (tmp_path / "0.log").read_text()
        log = await connect(servers.urls)
        await log.close()
        assert "CONNECT" in (tmp_path / "0.log").read_text()
