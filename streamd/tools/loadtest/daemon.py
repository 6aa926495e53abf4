"""What the daemon says of itself over HTTP: its contract, its counts, and which rows its windows hold."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import numpy as np

from streamd.tools.fleets.fleet import Bools, Fleet
from streamd.tools.loadtest.errors import UnreachableError

REQUEST_SECONDS = 10.0
PAGE = 1000
# Windows are read one by one so that what the daemon already holds is known exactly; beyond so many
# servers a window is taken to be free of gaps.
EXACT_SERVERS = 500
ABREAST = 16


T = TypeVar("T")


class DaemonContract(msgspec.Struct, frozen=True):
    """What the daemon's model takes and gives."""

    features: list[str]
    targets: list[str]
    quantiles: list[float]
    context_length: int
    horizon: int
    step_seconds: int
    need: int  # rows that a window must have to be forecast


class Rows(msgspec.Struct, frozen=True):
    """The daemon's totals since it started."""

    closed: int = 0
    warming: int = 0
    due: int = 0
    delivered: int = 0
    superseded: int = 0
    failed: int = 0
    forgotten: int = 0

    def since(self, before: Rows) -> Rows:
        """What was counted after ``before``."""
        names = self.__struct_fields__
        return Rows(**{name: getattr(self, name) - getattr(before, name) for name in names})


class Status(msgspec.Struct, frozen=True):
    """The part of ``/v1/status`` that a replay needs."""

    contract: DaemonContract
    rows: Rows
    due: int = 0  # waiting now
    in_flight: int = 0
    uptime_seconds: float = 0.0
    backend: str = ""
    engine: str = ""
    precision: str = ""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self.due == 0 and self.in_flight == 0


class Known(msgspec.Struct, frozen=True):
    """One line of ``/v1/servers``."""

    server: str
    have: int = 0
    origin: float | None = None


class Page(msgspec.Struct, frozen=True):
    """One page of ``/v1/servers``; ``next`` is None on the last one."""

    servers: list[Known]
    next: str | int | None = None


class Window(msgspec.Struct, frozen=True):
    """``/v1/servers?server=NAME``: ``values[row][feature]``, oldest first, None where missing."""

    server: str
    step_seconds: float
    origin: float
    values: list[list[float | None]]
    features: list[str] = []
    have: int = 0

    def steps(self) -> list[int]:
        """The steps of which the window really has a row, oldest first."""
        newest = round(self.origin / self.step_seconds) - 1
        oldest = newest - len(self.values) + 1
        return [oldest + row for row, values in enumerate(self.values) if any(value is not None for value in values)]


class DaemonClient:
    """A running daemon, asked over HTTP. Every call raises UnreachableError when it gets no usable answer."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def status(self) -> Status:
        """``/v1/status`` as it is now."""
        return await self._get("/v1/status", Status)

    async def known(self) -> list[Known]:
        """All servers that the daemon knows, page by page."""
        found: list[Known] = []
        path = f"/v1/servers?limit={PAGE}"
        while True:
            page = await self._get(path, Page)
            found += page.servers
            if page.next is None or not page.servers:
                return found
            path = f"/v1/servers?limit={PAGE}&cursor={quote(str(page.next), safe='')}"

    async def window(self, server: str) -> Window:
        """What the window of one server holds."""
        return await self._get(f"/v1/servers?server={quote(server, safe='')}", Window)  # a path cannot hold every name

    async def windows(self, servers: list[str]) -> list[Window]:
        """Several windows, a few requests abreast."""
        gate = asyncio.Semaphore(ABREAST)

        async def one(server: str) -> Window:
            async with gate:
                return await self.window(server)

        return await asyncio.gather(*map(one, servers))

    async def prior(self, fleet: Fleet, context_length: int, step_seconds: int) -> Bools:
        """``[context_length - 1 + T, N]``: rows that the daemon holds, on the fleet's grid and before it."""
        held = np.zeros((context_length - 1 + fleet.steps, len(fleet.servers)), dtype=np.bool_)
        numbers = {name: number for number, name in enumerate(fleet.servers)}
        known = [one for one in await self.known() if one.server in numbers and one.have and one.origin]
        begin = fleet.first_step - (context_length - 1)
        if len(known) <= EXACT_SERVERS:
            for window in await self.windows([one.server for one in known]):
                _mark(held, numbers[window.server], np.array(window.steps(), dtype=np.int64) - begin)
            return held
        for one in known:
            newest = round((one.origin or 0.0) / step_seconds) - 1
            _mark(held, numbers[one.server], np.arange(newest - one.have + 1, newest + 1) - begin)
        return held

    async def _get(self, path: str, kind: type[T]) -> T:
        url = f"{self._base_url}{path}"
        try:
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"no daemon at {url}: {str(error) or 'no answer'}") from error
        if response.status != 200:
            raise UnreachableError(
                f"{url}: HTTP {response.status}: {body[:200].decode(errors='replace')}; expected 200"
            )
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise UnreachableError(f"{url}: {error}; expected {kind.__name__} as the wire contract has it") from error


def _mark(held: Bools, server: int, at: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    held[at[(at >= 0) & (at < len(held))], server] = True
