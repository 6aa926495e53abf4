"""Opens the sockets on which the daemon accepts connections, or takes those that systemd passed (socket activation).

Binds and listens; which addresses are allowed is up to the caller, who sees them before the first connection is
accepted.
"""

import asyncio
import errno
import os
import socket
import ssl
import stat
import sys
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from streamd.core.errors import ConfigError, StateError
from streamd.runtime.background_tasks import BackgroundTasks

HANDSHAKE_TIMEOUT_SECONDS = 10.0
"""The time in which a TLS handshake must be complete, unless `serve` is given another."""

FIRST_INHERITED_DESCRIPTOR = 3
"""The first descriptor that systemd passes: SD_LISTEN_FDS_START of sd_listen_fds(3)."""

ACCEPTED_A_TURN = 32
"""Connections of one address that are accepted in a turn of the loop. uvloop accepts one, so that a newcomer would wait
for as many turns as connections came before it: seconds, while others flood."""

LINGER_SECONDS = 0.1
"""The time in which the first request of a connection arrives that was accepted just before a stop."""

MakeProtocol = Callable[[], asyncio.Protocol]

_PASSED = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True)
class ListenAddress:
    """An address on which connections are accepted: an IP address and a port, or the path of a Unix socket."""

    host: str
    """The IP address; the path of a Unix socket, where a leading `@` stands for the abstract namespace."""
    port: int
    is_unix: bool = False

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpListener:
    """The sockets of one daemon: bound or inherited, then accepting from `serve` until `stop`.

    A socket that systemd passed is a duplicate: the one that systemd keeps queues connections while no daemon runs, so
    that none is refused during a restart.
    """

    def __init__(self, sockets: Sequence[socket.socket], *, backlog: int, is_inherited: bool = False) -> None:
        self.is_inherited = is_inherited
        self.addresses = [_read_address(each) for each in sockets]
        self._sockets = list(sockets)
        self._backlog = backlog
        self._sites: list[web.BaseSite] = []

    @classmethod
    async def open(
        cls, host: str, port: int, *, backlog: int, inherited: Sequence[socket.socket] = ()
    ) -> "HttpListener":
        """Take the inherited sockets, or else bind to every address of `host`; accepts nothing yet.

        Raises `StateError` if no address can be bound.
        """
        if inherited:
            return cls(inherited, backlog=backlog, is_inherited=True)
        try:
            return cls(await _bind_all(host, port), backlog=backlog)
        except OSError as exc:
            raise _cannot_listen(f"{host}:{port}", exc) from exc

    @classmethod
    async def open_shared(cls, addresses: Sequence[tuple[str, int]], *, backlog: int) -> "HttpListener":
        """Bind to addresses, each an IP address and a port, that other processes of this daemon bind as well.

        The kernel gives each connection to one of those that accept (SO_REUSEPORT). Raises `StateError` if an address
        cannot be bound, as when another user or another program has it.
        """
        bound: list[socket.socket] = []
        for host, port in addresses:
            try:
                bound.append(_bind(_find_family(host), (host, port), is_shared=True))
            except OSError as exc:
                for each in bound:
                    each.close()
                raise _cannot_listen(f"{host}:{port}", exc) from exc
        return cls(bound, backlog=backlog)

    async def serve(
        self,
        runner: web.AppRunner,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_seconds: float = HANDSHAKE_TIMEOUT_SECONDS,
    ) -> None:
        """Accept connections from now on, over TLS if a context is given. Raises `StateError` if it cannot listen."""
        for each, address in zip(self._sockets, self.addresses, strict=True):
            site_type = _UnixSite if address.is_unix else _TcpSite
            site = site_type(runner, each, ssl_context=tls, backlog=self._backlog)
            site.handshake_timeout_seconds = handshake_timeout_seconds if tls is not None else None
            try:
                await site.start()
            except OSError as exc:
                # Two processes may bind one port at the same time; the second of them fails here.
                raise _cannot_listen(str(address), exc) from exc
            self._sites.append(site)

    async def stop(self) -> None:
        """Accept no more connections; the open ones stay.

        Behind an inherited socket, this waits for `LINGER_SECONDS`: a connection that was just accepted gets its answer
        here, because no other daemon will see it.
        """
        sites, self._sites = self._sites, []
        for site in sites:
            await site.stop()
        if self.is_inherited:
            await asyncio.sleep(LINGER_SECONDS)

    def close(self) -> None:
        """Close the sockets, in this process only; a socket that is closed already is skipped."""
        for each in self._sockets:
            each.close()


class _TcpSite(web.SockSite):
    """A site that accepts several connections in a turn of the loop, with a time limit for TLS handshakes.

    aiohttp has no such limit, and asyncio waits 60 s with a descriptor each.
    """

    handshake_timeout_seconds: float | None = None

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None, "the runner is set up"
        self._sock.setblocking(False)
        self._rush = _Rush(self._sock, server, self._tls_options)
        self._server = await self._listen(self._rush.make_protocol)

    @property
    def _tls_options(self) -> dict[str, Any]:
        return {"ssl": self._ssl_context, "ssl_handshake_timeout": self.handshake_timeout_seconds}

    async def _listen(self, make_protocol: MakeProtocol) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            make_protocol, sock=self._sock, backlog=self._backlog, **self._tls_options
        )

    async def stop(self) -> None:
        self._rush.is_over = True
        await super().stop()


class _UnixSite(_TcpSite):
    """A site on a Unix socket that is bound already; aiohttp has one for a path only."""

    async def _listen(self, make_protocol: MakeProtocol) -> asyncio.Server:
        # From Python 3.13 on, a server removes the file of its socket; this one belongs to systemd.
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        return await asyncio.get_running_loop().create_unix_server(
            make_protocol, sock=self._sock, backlog=self._backlog, **self._tls_options, **options
        )


class _Rush:
    """Accepts what waits on a socket behind a connection that the loop has accepted, up to `ACCEPTED_A_TURN`.

    The loop accepts the first one, at a third of the cost; so only who connects among many others pays it.
    """

    def __init__(self, sock: socket.socket, make_protocol: MakeProtocol, tls_options: dict[str, Any]) -> None:
        self.is_over = False
        """Whether no more is accepted."""
        self._sock = sock
        self._make_protocol = make_protocol
        self._tls_options = tls_options
        self._is_due = False
        self._opening = BackgroundTasks()

    def make_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a connection that the loop has accepted, and accept those behind it soon."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._accept_waiting)
        return self._make_protocol()

    def _accept_waiting(self) -> None:
        self._is_due = False
        for _ in range(ACCEPTED_A_TURN - 1):
            if self.is_over:
                return
            try:
                accepted, _ = self._sock.accept()
            except OSError:  # nothing waits, or there are too few descriptors, which the loop handles
                return
            accepted.setblocking(False)
            self._opening.start(self._open(accepted))

    async def _open(self, accepted: socket.socket) -> None:
        with suppress(OSError):  # the peer left, or its TLS handshake failed: the connection counts that
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, accepted, **self._tls_options)


def _cannot_listen(place: str, exc: OSError) -> StateError:
    return StateError(f"cannot listen on {place}: {exc.strerror or exc}")


def _read_address(bound: socket.socket) -> ListenAddress:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        path = os.fsdecode(name)
        return ListenAddress("@" + path[1:] if path.startswith("\0") else path, 0, is_unix=True)
    return ListenAddress(name[0], name[1])


# ---------------------------------------------------------------- binding
async def _bind_all(host: str, port: int) -> list[socket.socket]:
    """Bind to every address of a host; an address that this machine lacks is skipped if another can be bound.

    Raises `OSError` if none can be, or if an address is in use.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            bound.append(_bind(family, address))
        except OSError as exc:
            if exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # such as ::1 on a machine without IPv6
                missing = exc
                continue
            for each in bound:
                each.close()
            raise
    if not bound:
        raise missing or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return bound


def _find_family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(family: int, address: Any, *, is_shared: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" would take IPv4's port as well, and the binding of 0.0.0.0 beside it would then fail.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


# ---------------------------------------------------------------- socket activation
def take_inherited_sockets(
    environ: MutableMapping[str, str] = os.environ, first: int = FIRST_INHERITED_DESCRIPTOR
) -> list[socket.socket]:
    """Return the listening sockets that systemd passed to this process; empty without socket activation.

    Follows sd_listen_fds(3): the variables hold for the process `LISTEN_PID` only and are removed, and the descriptors
    are not inherited by children. Call it once, before a child is started. Raises `ConfigError` if a descriptor is not
    a listening stream socket.
    """
    pid, count, names = (environ.pop(variable, "") for variable in _PASSED)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    descriptors = range(first, first + int(count))
    for descriptor in descriptors:
        _require_open(descriptor)
        os.set_inheritable(descriptor, False)
    named = [*names.split(":"), *[""] * len(descriptors)]
    return [_adopt(descriptor, named[place] or "unnamed") for place, descriptor in enumerate(descriptors)]


def _require_open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError as exc:
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor} is not open, expected a socket of systemd") from exc


def _adopt(descriptor: int, name: str) -> socket.socket:
    place = f"the descriptor {descriptor} ({name}) that systemd passed"
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise ConfigError(f"{place} is not a socket, expected ListenStream= in its .socket unit")
    adopted = socket.socket(fileno=descriptor)
    is_listening = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    known = adopted.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if adopted.type != socket.SOCK_STREAM or not known or not is_listening:
        adopted.detach()  # the descriptor belongs to systemd's protocol: nothing here closes what it cannot use
        raise ConfigError(
            f"{place} is not a listening stream socket, expected ListenStream= and Accept=no in its .socket unit"
        )
    adopted.setblocking(False)
    return adopted
