"""A subscriber: reads forecasts, checks each of them on arrival and records it in the ledger.

Writes its own plane of the ledger and its own line of counts; missing forecasts are found later, in `verdict.py`.
"""

import asyncio
import contextlib
import fnmatch
import time
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from streamd.tools.fleets.fleet import Bools, Fleet
from streamd.tools.loadtest.errors import LinkLostError, UnreachableError
from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.links import CLOSE_SECONDS, CONNECT_SECONDS
from streamd.tools.loadtest.quantiles import count_faults
from streamd.tools.loadtest.received_values import read_values
from streamd.tools.loadtest.sender import RECONNECT_PAUSE_SECONDS
from streamd.tools.loadtest.wire import ENCODERS, ClientEncoding, ClientTensor, decode_forecasts

DISORDERED_AND_INFINITE = [LedgerCount.DISORDERED, LedgerCount.INFINITE]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionOptions:
    """The options of a subscription; `None` and empty ones are left to the daemon's default."""

    servers: tuple[str, ...] = ("*",)
    encoding: ClientEncoding = ClientEncoding.MSGPACK
    batch: bool = True
    dtype: str | None = None
    every: int | None = None
    targets: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()

    def make_message(self) -> dict[str, Any]:
        """Make the subscribe message."""
        message: dict[str, Any] = {"type": "subscribe", "servers": list(self.servers)}
        if self.batch:
            message["batch"] = True
        for name in ("dtype", "every", "targets", "quantiles"):
            if value := getattr(self, name):
                message[name] = value
        return message

    def match_servers(self, servers: tuple[str, ...]) -> Bools:
        """Return `(N,) bool`: whether a glob matches the server."""
        return np.array(
            [any(fnmatch.fnmatchcase(name, glob) for glob in self.servers) for name in servers],
            dtype=np.bool_,
        )


class Subscriber:
    """A subscription that is read until it is closed, or until reconnecting fails for `reconnect_seconds`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        subscription: SubscriptionOptions,
        *,
        fleet: Fleet,
        step_seconds: int,
        ledger: Ledger,
        index: int,
        reconnect_seconds: float,
    ) -> None:
        self.loss: str | None = None
        """The reason why reading ended early, or `None`."""
        self._session = session
        self._url = f"{base_url}/v1/forecasts"
        self._subscription = subscription
        self._numbers = {name: number for number, name in enumerate(fleet.servers)}
        self._first_step = fleet.first_step
        self._step_seconds = step_seconds
        self._steps, self._servers = ledger.shape.steps, ledger.shape.servers
        # Plain arrays of one axis: files as arrays, and two axes, take three times as long for each frame.
        self._sent_at = _flatten(ledger.sent_at)
        self._received = _flatten(ledger.received[index])
        self._context = _flatten(ledger.context[index])
        self._latency_seconds = _flatten(ledger.latency_seconds[index])
        self._counts = ledger.subscriber_counts(index)
        self._reconnect_seconds = reconnect_seconds
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe and begin to read. Raises `UnreachableError` if the daemon refuses the subscription."""
        try:
            await self._subscribe()
        except LinkLostError as error:
            raise UnreachableError(str(error)) from error
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Stop reading and close the connection."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None
        await self._disconnect()

    async def _subscribe(self) -> None:
        await self._disconnect()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._socket = socket = await self._session.ws_connect(self._url, max_msg_size=0, heartbeat=30.0)
                payload = ENCODERS[self._subscription.encoding](self._subscription.make_message())
                text = self._subscription.encoding is ClientEncoding.JSON
                await socket.send_frame(payload, aiohttp.WSMsgType.TEXT if text else aiohttp.WSMsgType.BINARY)
                message = await socket.receive()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkLostError(f"{self._url}: {str(error) or 'no answer'}") from error
        if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            raise LinkLostError(f"{self._url}: closed before it answered the subscription")
        answer = decode_forecasts(message.data)
        if answer.type != "subscribed":
            raise UnreachableError(
                f"{self._url}: {answer.code or answer.type}: {answer.message}; expected 'subscribed'"
            )

    async def _read(self) -> None:
        """Read, and subscribe again if the connection is lost, for at most `reconnect_seconds`."""
        while True:
            assert self._socket is not None
            async for message in self._socket:
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    self._read_frame(message.data)
            if not await self._resubscribe():
                self.loss = f"{self._url}: closed by the daemon"
                return

    async def _resubscribe(self) -> bool:
        give_up_at = time.monotonic() + self._reconnect_seconds
        while time.monotonic() < give_up_at:
            try:
                await self._subscribe()
            except (LinkLostError, UnreachableError):
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)
            else:
                self._counts[LedgerCount.RECONNECTS] += 1
                return True
        return False

    def _read_frame(self, data: bytes | str) -> None:
        now = time.monotonic()
        try:
            frame = decode_forecasts(data)
            if frame.type == "forecasts":
                origins, contexts = _to_array(frame.origins), _to_array(frame.contexts)
                self._record_forecasts(now, frame.servers, origins, contexts, read_values(frame))
            elif frame.type == "forecast":
                origins, contexts = np.array([frame.origin]), np.array([frame.context])
                self._record_forecasts(now, [frame.server], origins, contexts, read_values(frame))
            elif frame.type == "lagged":
                self._counts[LedgerCount.LAGGED] += frame.dropped
            elif frame.type == "error":
                self._counts[LedgerCount.MALFORMED] += 1
        except (msgspec.MsgspecError, ValueError, TypeError):
            self._counts[LedgerCount.MALFORMED] += 1

    def _record_forecasts(
        self,
        now: float,
        names: list[str],
        origins: NDArray[Any],
        contexts: NDArray[Any],
        values: NDArray[Any],
    ) -> None:
        """Record n forecasts; `values` is `(n, target, step, quantile)`."""
        if not len(names) == len(origins) == len(contexts) == len(values) or values.ndim != 4:
            raise ValueError(f"{len(names)} servers with values {values.shape}; expected (n, target, step, quantile)")
        counts = self._counts
        counts[LedgerCount.FORECAST_FRAMES] += 1
        servers = np.fromiter(map(self._numbers.get, names, repeat(-1)), np.intp, len(names))
        # A forecast's origin is the time at which its newest row ends: one step after that row began.
        steps = np.rint(origins / self._step_seconds).astype(np.intp) - (1 + self._first_step)
        ours = (servers >= 0) & (steps >= 0) & (steps < self._steps)
        places = steps * self._servers + servers
        if not ours.all():
            counts[LedgerCount.FOREIGN] += int((~ours).sum())
            places, contexts = places[ours], contexts[ours]
        counts[LedgerCount.FORECASTS] += len(places)
        counts[DISORDERED_AND_INFINITE] += count_faults(values)
        np.add.at(self._received, places, np.uint8(1))
        self._context[places] = contexts
        self._latency_seconds[places] = now - self._sent_at[places]

    async def _disconnect(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._socket.close()
            self._socket = None


def _flatten(plane: NDArray[Any]) -> NDArray[Any]:
    """Return the cells of a plane `(T, N)` of the ledger as a view `(T * N,)`."""
    return np.asarray(plane).reshape(-1)


def _to_array(found: ClientTensor | list[Any]) -> NDArray[Any]:
    if isinstance(found, ClientTensor):
        return found.view_array()
    return np.array(found, dtype=np.float64)
