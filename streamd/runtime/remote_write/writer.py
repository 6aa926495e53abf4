"""Sends forecasts to a store of metrics by remote write, in rounds: what waits are marks of servers, not forecasts.

The newest forecast of a server is read off the board when it is sent, so a store that is away costs no memory. Bodies
are made in a thread. Runs on the event loop of the process that posts forecasts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.protocols.prometheus.series_encoding import WRITE_REQUEST_HEADERS
from streamd.runtime.background import run_in_background
from streamd.runtime.forecast_exports import ExportedForecasts, ForecastExports
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.outbound import PostAnswer, Poster, RetryWaits
from streamd.runtime.remote_write.requests import ForecastPart, RemoteWriteRequest, RequestMaker

log = structlog.get_logger(__name__)

SERIES_OF_REQUEST = 2_000
"""Series in a request, if one server has no more: the thread that makes it then keeps the loop waiting for 3 ms."""

SAMPLES_OF_REQUEST = 10_000
"""Samples in a request, if one server has no more; other senders put as many into one."""

CHOSEN_AT_ONCE = 2_000
"""Servers that are chosen in one turn of the loop."""

CHOSEN_BY_COSTLY_GLOBS = 20
"""The same if each may take 0.2 ms."""

RemoteWriteTime = Literal["now", "future", "both"]


@dataclass(frozen=True, kw_only=True)
class RemoteWriteSettings:
    """The settings of the section `remote_write`."""

    url: str
    times: RemoteWriteTime = "now"
    interval_seconds: float = 60.0

    @property
    def has_current(self) -> bool:
        """Whether the values at the chosen horizons are sent, with the time of the round."""
        return self.times != "future"

    @property
    def has_curves(self) -> bool:
        """Whether the curves are sent, with the times that are forecast."""
        return self.times != "now"


class RemoteWriter:
    """Sends the forecasts of one export; `run` it while the daemon serves.

    Each round sends the values at the chosen horizons of all chosen servers, and the curves of the forecasts that are
    new. What a round cannot send before the next one is due is superseded.
    """

    def __init__(
        self,
        exports: ForecastExports,
        settings: RemoteWriteSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        waits: RetryWaits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._exports = exports
        self._settings = settings
        self._clock = clock
        self._waits = waits or RetryWaits()
        self._sleep = sleep
        self._turns = LoopTurns()
        contract = exports.contract
        self._maker = RequestMaker(exports.export, contract.step_seconds, contract.horizon)
        # After a start all are new: to send a sample again changes nothing, and one may not have been sent before.
        self._is_new = exports.board.get_serials(np.arange(exports.directory.capacity)) > 0
        self._first_slot = 0
        self._blocked_until = float("-inf")
        self._last_problem = ""
        self.forecasts: Counter[str] = Counter(sent=0, superseded=0, rejected=0)
        """Forecasts by their end, since the start."""
        self.requests: Counter[str] = Counter(sent=0)
        """Requests by their answer, since the start."""
        self.samples = 0
        """Samples that the store took, since the start."""
        self.last_success = 0.0
        """When the store took a request (epoch seconds), 0 if it has not."""

    # ------------------------------------------------------------ new forecasts
    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        """Mark the servers whose forecasts are new."""
        if self._settings.has_curves:
            waiting = slots[self._is_new[slots]]
            if len(waiting):
                self.forecasts["superseded"] += int(np.count_nonzero(self._exports.find_chosen(waiting)))
        self._is_new[slots] = True

    def forget(self, slot: int) -> None:
        """Forget a slot that gets another server."""
        self._is_new[slot] = False

    # ------------------------------------------------------------ rounds
    async def run(self, poster: Poster) -> None:
        """Send rounds until the task is cancelled."""
        while True:
            began = self._clock()
            try:
                await self.send_round(poster, began + self._settings.interval_seconds)
            except Exception:
                # The daemon must not lose its metrics until the next start because of one defect.
                log.exception("remote_write_round_failed")
            due = max(began + self._settings.interval_seconds, self._blocked_until)
            await self._sleep(max(due - self._clock(), 0.0))

    async def send_round(self, poster: Poster, until: float) -> None:
        """Send one round; after `until` (monotonic seconds) it is abandoned if the store does not take it."""
        now = self._exports.wall()
        slots = self._order(await self._choose_servers(now))
        size = self._count_servers_of_request()
        for begin in range(0, len(slots), size):
            some = slots[begin : begin + size]
            if not await self._send_servers(poster, some, now, until):
                if self._settings.has_current:
                    self.forecasts["superseded"] += len(slots) - begin
                return
            self._first_slot = int(some[-1]) + 1
        self._first_slot = 0

    def _order(self, slots: Slots) -> Slots:
        """Return slots, those first that the last round did not reach."""
        return np.roll(slots, -int(np.searchsorted(slots, self._first_slot)))

    async def _choose_servers(self, now: float) -> Slots:
        exports, chosen = self._exports, []
        posted = exports.find_posted()
        if not self._settings.has_current:
            posted = posted[self._is_new[posted]]
        size = CHOSEN_BY_COSTLY_GLOBS if exports.export.globs.is_costly else CHOSEN_AT_ONCE
        for begin in range(0, len(posted), size):
            some = posted[begin : begin + size]
            exports.decide(some)
            chosen.append(exports.find_live(some[exports.find_chosen(some)], now))
            await self._turns.wait()
        return np.concatenate(chosen) if chosen else posted

    def _count_servers_of_request(self) -> int:
        export, horizon = self._exports.export, self._exports.contract.horizon
        current = len(export.cells) + 1 if self._settings.has_current else 0
        curves = len(export.target_names) * len(export.quantile_labels) if self._settings.has_curves else 0
        series, samples = current + curves, current + curves * horizon
        return max(1, min(SERIES_OF_REQUEST // series, SAMPLES_OF_REQUEST // samples))

    async def _send_servers(self, poster: Poster, slots: Slots, now: float, until: float) -> bool:
        """Send the forecasts of servers; returns `False` if the store has not taken them in time."""
        while True:
            live = self._exports.find_live(slots, now)  # a server may have been forgotten meanwhile
            new = live[self._is_new[live]]
            part = self._read_part(live, new, now)
            self._is_new[new] = False
            request = await run_in_background(partial(self._maker.make_request, part))
            if not request.samples:
                return True
            answer = await poster.post(self._settings.url, request.body, WRITE_REQUEST_HEADERS)
            if answer.is_taken or answer.is_refused:
                self._count_end(answer, len(live), request)
                return True
            self._is_new[new[self._exports.board.get_serials(new) > 0]] = True
            self._report_failure(answer)
            wait = self._waits.choose_wait(answer)
            self._blocked_until = self._clock() + wait
            if self._blocked_until >= until:
                return False
            await self._sleep(wait)

    def _read_part(self, slots: Slots, new: Slots, now: float) -> ForecastPart:
        exports, settings = self._exports, self._settings
        current: ExportedForecasts | None = exports.read_forecasts(slots) if settings.has_current else None
        curved = new if settings.has_curves else new[:0]
        return ForecastPart(
            current=current,
            now=now,
            curve_names=exports.read_names(curved),
            curve_origins=exports.read_origins(curved),
            curves=exports.read_curves(curved),
            curve_sent=exports.find_sent(curved),
        )

    # ------------------------------------------------------------ counts
    def _count_end(self, answer: PostAnswer, forecasts: int, request: RemoteWriteRequest) -> None:
        self._waits.end_failures()
        if answer.is_taken:
            if self._last_problem:
                log.info("remote_write_works_again")
                self._last_problem = ""
            self.forecasts["sent"] += forecasts
            self.requests["sent"] += 1
            self.samples += request.samples
            self.last_success = self._exports.wall()
            return
        self.forecasts["rejected"] += forecasts
        self.requests[f"rejected: {answer.status}"] += 1
        self._log_problem("remote_write_rejected", answer)

    def _report_failure(self, answer: PostAnswer) -> None:
        self.requests[f"retried: {answer.status or 'no_answer'}"] += 1
        self._log_problem("remote_write_fails", answer)

    def _log_problem(self, event: str, answer: PostAnswer) -> None:
        """Log a problem once, until another one comes or the store takes a request."""
        problem = f"{event} {answer.status}"
        if problem != self._last_problem:
            self._last_problem = problem
            log.warning(event, status=answer.status or None, reason=answer.reason)

    @property
    def waiting(self) -> int:
        """The number of new forecasts that are not sent yet, those of servers that are not chosen left out."""
        slots = np.flatnonzero(self._is_new)
        return int(np.count_nonzero(self._exports.find_chosen(slots)))


def collect_remote_write_metrics(writer: RemoteWriter | None) -> Iterable[Metric]:
    """Yield the metrics of a writer; without one they have no samples, or are 0."""
    families = (
        ("remote_write_forecasts", "Forecasts for the store of metrics, by their end", "result", "forecasts"),
        ("remote_write_requests", "Requests to the store of metrics, by its answer", "result", "requests"),
    )
    for name, text, label, counts in families:
        family = CounterMetricFamily(f"streamd_{name}", text, labels=[label])
        for value, count in sorted(getattr(writer, counts).items()) if writer is not None else ():
            family.add_metric([value], count)
        yield family
    yield GaugeMetricFamily(
        "streamd_remote_write_waiting",
        "Servers whose newest forecast was not sent to the store of metrics yet",
        value=0 if writer is None else writer.waiting,
    )
    yield CounterMetricFamily(
        "streamd_remote_write_samples",
        "Samples that the store of metrics took",
        value=0 if writer is None else writer.samples,
    )
    yield GaugeMetricFamily(
        "streamd_remote_write_last_success_timestamp_seconds",
        "When the store of metrics took a request last; 0 if it has not",
        value=0 if writer is None else writer.last_success,
    )
