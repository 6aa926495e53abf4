"""Tests `streamd/server/listening.py` with real sockets: addresses, socket activation, restarts."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

from streamd.core.errors import ConfigError, StateError
from streamd.server.listening import ACCEPTED_A_TURN, HttpListener, ListenAddress, take_inherited_sockets


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket as systemd makes it: bound, listening, and inherited by children."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.set_inheritable(True)
        yield made


def make_passed_environment(count: int, names: str = "") -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names, "HOME": "/"}


@asynccontextmanager
async def serving(listener: HttpListener, text: str) -> AsyncIterator[web.AppRunner]:
    """Serve one text on a listener."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await listener.serve(runner)
        yield runner
    finally:
        await runner.cleanup()
        listener.close()


async def fetch(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
        return await response.text()


# ---------------------------------------------------------------- bound sockets
@pytest.mark.parametrize("is_inherited", [False, True])
def test_many_that_connect_at_once_are_accepted_in_few_turns(listening: socket.socket, is_inherited: bool) -> None:
    async def count_turns(count: int) -> int:
        inherited = [listening.dup()] if is_inherited else []
        listener = await HttpListener.open("127.0.0.1", 0, backlog=2 * count, inherited=inherited)
        address, turns = (listener.addresses[0].host, listener.addresses[0].port), 0
        async with serving(listener, "accepted") as runner:
            assert runner.server is not None
            waiting = [socket.create_connection(address, timeout=5.0) for _ in range(count)]
            while len(runner.server.connections) < count:
                await asyncio.sleep(0)
                turns += 1
            assert await fetch(address[1]) == "accepted"
            for each in waiting:
                each.close()
        return turns

    # The daemon's loop; each connection needs two more turns once it is accepted. asyncio's loop accepts all at once.
    assert uvloop.run(count_turns(3 * ACCEPTED_A_TURN)) < ACCEPTED_A_TURN


async def test_the_addresses_are_known_before_the_first_connection_is_accepted() -> None:
    listener = await HttpListener.open("127.0.0.1", 0, backlog=16)
    (address,) = listener.addresses
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(socket.create_connection, (address.host, address.port))
    async with serving(listener, "bound"):
        assert await fetch(address.port) == "bound"
        await listener.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await fetch(address.port)


async def test_a_name_is_bound_at_every_address_of_it() -> None:
    listener = await HttpListener.open("localhost", 0, backlog=16)
    assert {address.host for address in listener.addresses} <= {"127.0.0.1", "::1"}
    assert len(listener.addresses) == len(set(listener.addresses))
    listener.close()


async def test_the_kernel_queues_as_many_connections_as_the_backlog() -> None:
    listener = await HttpListener.open("127.0.0.1", 0, backlog=300)
    address = (listener.addresses[0].host, listener.addresses[0].port)
    async with serving(listener, "queued"):
        # The loop stands still meanwhile: with the backlog of 128 that is usual, the 130th would wait for a timeout.
        waiting = [socket.create_connection(address, timeout=5.0) for _ in range(250)]
        for each in waiting:
            each.close()


async def test_an_address_in_use_is_named(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with pytest.raises(StateError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        await HttpListener.open("127.0.0.1", port, backlog=16)


async def test_several_processes_share_an_address_and_one_that_is_alone_does_not_join_them() -> None:
    first = await HttpListener.open("127.0.0.1", 0, backlog=8)
    addresses = [(address.host, address.port) for address in first.addresses]
    first.close()
    shared = [await HttpListener.open_shared(addresses, backlog=8) for _ in range(2)]
    async with serving(shared[0], "a"), serving(shared[1], "b"), aiohttp.ClientSession() as session:
        found = set()
        for _ in range(64):
            url = f"http://127.0.0.1:{addresses[0][1]}"
            async with session.get(url, headers={"Connection": "close"}) as answer:
                found.add(await answer.text())
        assert found == {"a", "b"}
        with pytest.raises(StateError, match="cannot listen"):
            await HttpListener.open(*addresses[0], backlog=8)


async def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(StateError, match=r"cannot listen on host\.invalid:80: "):
        await HttpListener.open("host.invalid", 80, backlog=16)


def test_addresses_are_written_as_in_urls() -> None:
    assert str(ListenAddress("127.0.0.1", 80)) == "127.0.0.1:80"
    assert str(ListenAddress("::1", 80)) == "[::1]:80"
    assert str(ListenAddress("/run/x", 0, is_unix=True)) == "/run/x"


# ---------------------------------------------------------------- socket activation
async def test_an_inherited_socket_refuses_no_connection_between_two_daemons(listening: socket.socket) -> None:
    port = listening.getsockname()[1]

    async def open_inherited() -> HttpListener:
        duplicate = os.dup(listening.fileno())
        environ = make_passed_environment(1)
        (taken,) = take_inherited_sockets(environ, first=duplicate)
        return await HttpListener.open("192.0.2.1", 1, backlog=16, inherited=[taken])

    first = await open_inherited()
    assert first.is_inherited
    assert first.addresses == [ListenAddress("127.0.0.1", port)]
    async with serving(first, "first"):
        assert await fetch(port) == "first"
        await first.stop()
        between = asyncio.create_task(fetch(port))  # while the former daemon drains
    for _ in range(5):
        await asyncio.sleep(0)
    assert not between.done()
    async with serving(await open_inherited(), "second"):
        assert await between == "second"


async def test_an_inherited_unix_socket_is_served_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(path))
        made.listen()
        taken = take_inherited_sockets(make_passed_environment(1), first=os.dup(made.fileno()))
        listener = await HttpListener.open("127.0.0.1", 0, backlog=16, inherited=taken)
        assert listener.addresses == [ListenAddress(str(path), 0, is_unix=True)]
        async with (
            serving(listener, "unix"),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.get("http://localhost/") as response,
        ):
            assert await response.text() == "unix"
        assert stat.S_ISSOCK(path.stat().st_mode)


def test_the_variables_are_removed_and_children_do_not_inherit_the_descriptor(listening: socket.socket) -> None:
    descriptor = os.dup(listening.fileno())
    os.set_inheritable(descriptor, True)
    environ = make_passed_environment(1, "http")
    with closing(take_inherited_sockets(environ, first=descriptor)[0]) as taken:
        assert environ == {"HOME": "/"}
        assert not taken.get_inheritable()
        assert not taken.getblocking()
    assert take_inherited_sockets(environ, first=descriptor) == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "one"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
)
def test_variables_for_another_process_count_as_no_activation(environ: dict[str, str]) -> None:
    assert take_inherited_sockets(environ, first=10**6) == []
    assert not {"LISTEN_PID", "LISTEN_FDS"} & set(environ)


def test_a_descriptor_that_cannot_be_served_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="descriptor 1000000 is not open, expected a socket of systemd"):
        take_inherited_sockets(make_passed_environment(1), first=10**6)
    not_a_socket = pytest.raises(ConfigError, match=r"\(http\) that systemd passed is not a socket")
    with (tmp_path / "file").open("w") as file, not_a_socket:
        take_inherited_sockets(make_passed_environment(1, "http"), first=file.fileno())
    no_stream = pytest.raises(ConfigError, match=r"\(unnamed\) .* is not a listening stream socket")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, no_stream:
        take_inherited_sockets(make_passed_environment(1), first=datagrams.fileno())
