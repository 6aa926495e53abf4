"""The way to a daemon: its addresses, the token, TLS, and calls that are repeated while the daemon is busy or away.

Knows no call; `client.py` has them.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp
import msgspec
import yarl

from streamd.client.addresses import Addresses
from streamd.client.errors import ClientError
from streamd.client.failures import (
    MSGPACK_TYPE,
    decode_answer,
    make_unreachable_error,
    make_upgrade_refusal,
    read_refusal,
)
from streamd.client.retries import RetrySchedule

T = TypeVar("T")

LARGEST_FRAME_BYTES = 64 * 2**20
"""The largest WebSocket frame that is received; a batch of forecasts has about 1 MiB."""

KEEPALIVE_PROBE_SECONDS = 15
"""A connection on which nothing comes is probed at this interval, and ends after four probes without an answer."""

SOCKET_CLOSE_SECONDS = 2.0
"""The time that the closing of a WebSocket may take."""

Query = Iterable[tuple[str, str]]


class DaemonConnection:
    """An HTTP session with one daemon, or with the nodes of a cluster. Made by `Client`, which opens and closes it."""

    def __init__(
        self,
        urls: str | Sequence[str],
        token: str | None,
        *,
        tls: ssl.SSLContext | None,
        retry_seconds: float,
        timeout_seconds: float,
    ) -> None:
        """Raises `ValueError` if one of `urls` is not the base of an HTTP URL, or the token cannot be sent."""
        self._addresses = Addresses(urls)
        self._headers = make_authorization(token)
        self._tls = tls
        self.retry_seconds = retry_seconds
        self.timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the session; nothing is sent."""
        # Each subscription has a connection for as long as it lasts: a limit would let the next one wait for ever.
        connector = aiohttp.TCPConnector(ssl=self._tls or True, limit=0, socket_factory=_open_probed_socket)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self.timeout_seconds),
        )

    async def close(self) -> None:
        """Close the session and all its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ------------------------------------------------------------ calls
    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        query: Query = (),
        body: Any = None,
        retry_seconds: float | None = None,
    ) -> T:
        """Call, again while the daemon is busy or away, and return the decoded answer.

        Raises `RefusedError`, `DaemonUnreachableError`, or another `ClientError` if the answer is not the daemon's.
        """
        data = None if body is None else msgspec.msgpack.encode(body)
        schedule = RetrySchedule(self.retry_seconds if retry_seconds is None else retry_seconds)
        while True:
            address = self.address
            url = make_url(address, path, query)
            try:
                content_type, content = await self._call_once(method, url, data)
            except ClientError as error:
                await self.wait_or_raise(schedule, error, address)
                continue
            self._addresses.note_answer(address)
            try:
                return decode_answer(content, content_type, answer)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ClientError(f"{method} {url} gave an answer that is not of a daemon: {error}") from error

    async def _call_once(self, method: str, url: yarl.URL, data: bytes | None) -> tuple[str, bytes]:
        headers = {"Accept": MSGPACK_TYPE} if data is None else {"Accept": MSGPACK_TYPE, "Content-Type": MSGPACK_TYPE}
        try:
            # A redirect would send the token to another host.
            async with self._require_session().request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise make_unreachable_error(url, error) from error
        if response.status not in (200, 201, 204):
            raise read_refusal(f"{method} {url}", response, content)
        return response.content_type, content

    # ------------------------------------------------------------ WebSockets
    async def open_socket(
        self, address: str, path: str, *, answers_pings: bool = True
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket at an address, in one attempt. Raises `RefusedError` or `DaemonUnreachableError`."""
        url = make_url(address, path)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                socket = await self._require_session().ws_connect(
                    url,
                    max_msg_size=LARGEST_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=SOCKET_CLOSE_SECONDS),
                    autoping=answers_pings,
                )
            self._addresses.note_answer(address)
            return socket
        except aiohttp.WSServerHandshakeError as error:
            raise make_upgrade_refusal(url, error) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise make_unreachable_error(url, error) from error

    # ------------------------------------------------------------ addresses
    @property
    def address(self) -> str:
        """The address for the next attempt."""
        return self._addresses.current

    async def wait_or_raise(self, schedule: RetrySchedule, error: ClientError, address: str) -> None:
        """Wait until the next attempt after a failure of an address.

        Raises the error if another attempt would not help or comes too late.
        """
        is_fresh = self._addresses.leave(address, error)
        pause = schedule.next_pause(time.monotonic(), None if is_fresh else error.retry_after_seconds)
        if not error.is_temporary or pause is None:
            raise error
        await asyncio.sleep(pause)

    def _require_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ClientError("the client is not open; use it in `async with Client(...) as client:`")
        return self._session


def make_url(address: str, path: str, query: Query = ()) -> yarl.URL:
    """Return the URL of a path below an address."""
    return yarl.URL(address + path).with_query(list(query))


async def close_socket(socket: aiohttp.ClientWebSocketResponse | None) -> None:
    """Close a WebSocket, whatever its state is."""
    if socket is not None:
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            await socket.close()


def make_authorization(token: str | None) -> dict[str, str]:
    """Return the header that carries a token; raises `ValueError`, which does not show it."""
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token has characters that a header cannot have, such as a line break at its end")
    return {"Authorization": f"Bearer {token}"}


def _open_probed_socket(address: Any) -> socket.socket:
    """Open a socket whose peer is probed, so that a daemon whose machine is gone is noticed."""
    family, kind, protocol = address[:3]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_PROBE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_PROBE_SECONDS),
        ("TCP_KEEPCNT", 4),
    ):
        if (option := getattr(socket, name, None)) is not None:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened
