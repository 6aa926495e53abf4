"""The route `/metrics/forecasts`: forecasts, and the crossing times of active alerts, as metrics that name servers.

A scrape is written in slices, because it may have 100,000 lines: one slice in a turn of the event loop.
"""

import re
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice

import numpy as np
from aiohttp import hdrs, web

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.forecast_export.exposition import (
    FORECAST_METRIC,
    LEFT_OUT_METRIC,
    OPENMETRICS_END,
    ORIGIN_METRIC,
    ForecastText,
    describe_forecast_metric,
    escape_label_value,
    format_family_head,
    format_origins,
)
from streamd.http.access.context import get_caller
from streamd.http.requests import find_owner
from streamd.runtime.alerts.alert_metrics import SECONDS_UNTIL_HELP, SECONDS_UNTIL_METRIC, iterate_seconds_until
from streamd.runtime.background import run_in_background
from streamd.runtime.forecast_exports import ForecastExports
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.service import Service

SLICE_SERVERS = 200
"""Servers of one slice, at most."""

NAMES_SECONDS = 0.002
"""The time after which a slice reads no more names: globs may be costly, and then few names fit."""

NAMES_AT_ONCE = 16
"""Names between two readings of the clock."""

SLICE_SAMPLES = 2_000
"""Lines of alerts in one slice."""

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_GZIP_WBITS, _GZIP_LEVEL = 31, 1
_REFUSED_QUALITY = re.compile(r"q=0(\.0*)?")


class ForecastMetricsRoutes:
    """The handler of `/metrics/forecasts`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turns = LoopTurns()

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/metrics/forecasts", self.get_forecast_metrics)

    async def get_forecast_metrics(self, request: web.Request) -> web.StreamResponse:
        """Return the metrics of the servers that the caller may read, as Prometheus text or as OpenMetrics."""
        is_open = _accepts(request.headers.getall("Accept", ()), "application/openmetrics-text")
        is_compressed = _accepts(request.headers.getall("Accept-Encoding", ()), "gzip")
        response = web.StreamResponse(headers={"Content-Type": OPENMETRICS_TYPE if is_open else TEXT_TYPE})
        if is_compressed:
            response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept, Accept-Encoding"
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS) if is_compressed else None
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return response
        async for data in self._write_slices(get_caller(request), find_owner(request), is_open=is_open):
            # zlib releases the interpreter, so that the loop goes on meanwhile.
            sent = data if compressor is None else await run_in_background(partial(compressor.compress, data))
            if sent:
                await response.write(sent)
        await response.write_eof(b"" if compressor is None else compressor.flush())
        return response

    async def _write_slices(self, caller: Caller, owner: object, *, is_open: bool) -> AsyncIterator[bytes]:
        if (exports := self._service.exports) is not None:
            scrape = ForecastScrape(exports, caller)
            yield scrape.format_heading()
            while not scrape.is_complete:
                yield scrape.format_next()
                await self._turns.wait(owner)
            for part in scrape.iterate_ends():
                yield part
                await self._turns.wait(owner)
        for part in self._iterate_alerts(caller):
            yield part
            await self._turns.wait(owner)
        if is_open:
            yield OPENMETRICS_END

    def _iterate_alerts(self, caller: Caller) -> Iterator[bytes]:
        monitor = self._service.alerts
        if monitor is None:
            return
        yield format_family_head(SECONDS_UNTIL_METRIC, SECONDS_UNTIL_HELP)
        samples = iterate_seconds_until(monitor, time.time(), lambda server: caller.may(Scope.READ, server))
        while some := list(islice(samples, SLICE_SAMPLES)):
            yield b"".join(
                b'%b{rule="%b",server="%b",bound="%b"} %b\n'
                % (
                    SECONDS_UNTIL_METRIC.encode(),
                    escape_label_value(each.rule),
                    escape_label_value(each.server),
                    escape_label_value(each.bound),
                    repr(float(each.seconds)).encode(),
                )
                for each in some
            )


class ForecastScrape:
    """One pass over the servers in the order of their names; each call of `format_next` handles some of them."""

    def __init__(self, exports: ForecastExports, caller: Caller) -> None:
        self._exports = exports
        self._caller = caller
        self._text = ForecastText(exports.export)
        self._now = exports.wall()
        self._cursor = ""
        self._origins: list[bytes] = []
        self._servers_left = exports.export.max_series // (len(exports.export.cells) + 1)
        self._left_out = 0
        self.is_complete = False

    def format_heading(self) -> bytes:
        """Return the lines before the forecasts."""
        return format_family_head(
            FORECAST_METRIC, describe_forecast_metric(self._exports.export, self._exports.contract.units)
        )

    def format_next(self) -> bytes:
        """Return the forecasts of the next servers."""
        exports = self._exports
        slots = exports.find_live(np.array(self._find_readable(), np.int64), self._now)
        kept = slots[: self._servers_left]
        self._servers_left -= len(kept)
        self._left_out += (len(slots) - len(kept)) * (len(exports.export.cells) + 1)
        found = exports.read_forecasts(kept)
        self._origins.append(format_origins(found.names, found.origins))
        return self._text.format_forecasts(found.names, found.values)

    def _find_readable(self) -> list[int]:
        """Return the slots of the next servers that are chosen and that the caller may read."""
        exports, caller, slots = self._exports, self._caller, self._exports.directory.slots
        names = exports.directory.iterate_names(after=self._cursor)
        readable: list[int] = []
        until = time.perf_counter() + NAMES_SECONDS
        while len(readable) < SLICE_SERVERS and time.perf_counter() < until:
            some = list(islice(names, NAMES_AT_ONCE))
            if not some:
                self.is_complete = True
                break
            self._cursor = some[-1]
            readable += [
                slots[name] for name in some if exports.is_chosen(slots[name], name) and caller.may(Scope.READ, name)
            ]
        return readable

    def iterate_ends(self) -> Iterator[bytes]:
        """Yield what follows the forecasts: the lines of a metric must stand together."""
        yield format_family_head(ORIGIN_METRIC, "The end of the newest row that the forecast of a server was made from")
        yield from filter(None, self._origins)
        yield format_family_head(
            LEFT_OUT_METRIC, "Series of forecasts that are not shown because of max_forecast_series"
        )
        yield b"%b %d\n" % (LEFT_OUT_METRIC.encode(), self._left_out)


def _accepts(fields: "tuple[str, ...] | list[str]", wanted: str) -> bool:
    """Whether the fields of a header name a value, and do not refuse it by a quality of 0."""
    for part in ",".join(fields).lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name == wanted:
            return not any(_REFUSED_QUALITY.fullmatch(each) for each in parameters)
    return False
