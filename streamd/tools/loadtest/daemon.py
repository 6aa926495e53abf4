"""The daemon's contract, its counts and the rows of its windows, read over HTTP.

Sends no samples and receives no forecasts.
"""

import asyncio
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import numpy as np

from streamd.tools.fleets.fleet import Bools, Fleet
from streamd.tools.loadtest.errors import UnreachableError

REQUEST_SECONDS = 10.0
PAGE_SERVERS = 1000
EXACT_SERVERS = 500
"""Up to so many servers each window is read, so that the rows which the daemon already holds are known exactly.

With more servers a window is assumed to have no gaps.
"""
CONCURRENT_REQUESTS = 16


T = TypeVar("T")


class DaemonContract(msgspec.Struct, frozen=True):
    """The inputs and outputs of the daemon's model."""

    features: list[str]
    targets: list[str]
    quantiles: list[float]
    context_length: int
    horizon: int
    step_seconds: int
    need: int
    """Rows that a window must have to be forecast."""
    units: dict[str, str] = {}


class RowTotals(msgspec.Struct, frozen=True):
    """The daemon's totals since it started."""

    closed: int = 0
    warming: int = 0
    due: int = 0
    delivered: int = 0
    superseded: int = 0
    failed: int = 0
    forgotten: int = 0

    def count_since(self, before: "RowTotals") -> "RowTotals":
        """Return the rows that were counted after `before`."""
        names = self.__struct_fields__
        return RowTotals(**{name: getattr(self, name) - getattr(before, name) for name in names})


class ProtocolTotals(msgspec.Struct, frozen=True):
    """The points that came by one foreign protocol since the daemon started; by reason or error code, if not taken."""

    taken: int = 0
    ignored: dict[str, int] = {}
    skipped: dict[str, int] = {}
    rejected: dict[str, int] = {}


class AgentTotals(msgspec.Struct, frozen=True):
    """The points of all foreign protocols, and the rows made of them, since the daemon started."""

    protocols: dict[str, ProtocolTotals] = {}
    rows: int = 0
    """Rows that were written, amendments included."""


class DaemonStatus(msgspec.Struct, frozen=True):
    """The part of `/v1/status` that a replay needs."""

    contract: DaemonContract
    rows: RowTotals
    due: int = 0
    """Rows that wait for their forecast at this moment."""
    in_flight: int = 0
    uptime_seconds: float = 0.0
    backend: str = ""
    engine: str = ""
    precision: str = ""
    agents: AgentTotals = AgentTotals()

    @property
    def is_idle(self) -> bool:
        """Whether no row waits for its forecast and no batch runs."""
        return self.due == 0 and self.in_flight == 0


class KnownServer(msgspec.Struct, frozen=True):
    """An entry of `/v1/servers`."""

    server: str
    have: int = 0
    origin: float | None = None


class ServerPage(msgspec.Struct, frozen=True):
    """A page of `/v1/servers`; `next` is `None` on the last one."""

    servers: list[KnownServer]
    next: str | int | None = None


class ServerWindow(msgspec.Struct, frozen=True):
    """The window of one server, from `/v1/servers?server=NAME`."""

    server: str
    step_seconds: float
    origin: float
    values: list[list[float | None]]
    """`(rows, features)`, the oldest row first; `None` where missing."""
    features: list[str] = []
    have: int = 0

    def list_steps(self) -> list[int]:
        """Return the steps of which the window really has a row, the oldest first."""
        newest = round(self.origin / self.step_seconds) - 1
        oldest = newest - len(self.values) + 1
        return [oldest + row for row, values in enumerate(self.values) if any(value is not None for value in values)]


class LatestForecast(msgspec.Struct, frozen=True, kw_only=True):
    """The latest forecast of a server, from `/v1/forecasts?server=NAME`; without one, the state of its window."""

    origin: float = 0.0
    targets: list[str] = []
    quantiles: list[float] = []
    values: list[list[list[float | None]] | None] = []
    """`(targets, steps, quantiles)`, `None` for a target that is unknown; empty without a forecast."""
    status: str = ""
    """`warming` or `pending` without a forecast."""
    have: int = 0
    need: int = 0


class DaemonClient:
    """A client of a running daemon's HTTP routes.

    Each call raises `UnreachableError` if it gets no usable answer.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def fetch_status(self) -> DaemonStatus:
        """Read `/v1/status`."""
        return await self._get("/v1/status", DaemonStatus)

    async def fetch_servers(self) -> list[KnownServer]:
        """Read all servers that the daemon knows, page by page."""
        found: list[KnownServer] = []
        path = f"/v1/servers?limit={PAGE_SERVERS}"
        while True:
            page = await self._get(path, ServerPage)
            found += page.servers
            if page.next is None or not page.servers:
                return found
            path = f"/v1/servers?limit={PAGE_SERVERS}&cursor={quote(str(page.next), safe='')}"

    async def fetch_window(self, server: str) -> ServerWindow:
        """Read the window of one server."""
        # The name is in the query, because a path cannot contain every name.
        return await self._get(f"/v1/servers?server={quote(server, safe='')}", ServerWindow)

    async def fetch_forecast(self, server: str) -> LatestForecast:
        """Read the latest forecast of one server."""
        return await self._get(f"/v1/forecasts?server={quote(server, safe='')}", LatestForecast)

    async def fetch_windows(self, servers: list[str]) -> list[ServerWindow]:
        """Read several windows, at most `CONCURRENT_REQUESTS` at a time."""
        gate = asyncio.Semaphore(CONCURRENT_REQUESTS)

        async def one(server: str) -> ServerWindow:
            async with gate:
                return await self.fetch_window(server)

        return await asyncio.gather(*map(one, servers))

    async def fetch_held_rows(self, fleet: Fleet, context_length: int, step_seconds: int) -> Bools:
        """Return the rows that the daemon already holds, `(context_length - 1 + T, N) bool`.

        The first `context_length - 1` steps are those before the fleet's grid.
        """
        held = np.zeros((context_length - 1 + fleet.steps, len(fleet.servers)), dtype=np.bool_)
        numbers = {name: number for number, name in enumerate(fleet.servers)}
        known = [one for one in await self.fetch_servers() if one.server in numbers and one.have and one.origin]
        begin = fleet.first_step - (context_length - 1)
        if len(known) <= EXACT_SERVERS:
            for window in await self.fetch_windows([one.server for one in known]):
                _mark_held(held, numbers[window.server], np.array(window.list_steps(), dtype=np.int64) - begin)
            return held
        for one in known:
            newest = round((one.origin or 0.0) / step_seconds) - 1
            _mark_held(held, numbers[one.server], np.arange(newest - one.have + 1, newest + 1) - begin)
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
            raise UnreachableError(f"{url}: {error}; expected {kind.__name__} as in the wire contract") from error


def _mark_held(held: Bools, server: int, at: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    held[at[(at >= 0) & (at < len(held))], server] = True
