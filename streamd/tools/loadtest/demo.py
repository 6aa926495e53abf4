"""The demo: replays the shipped servers into a running daemon and formats the forecasts as a table for people.

Does not start or stop that daemon; `demo_command.py` does.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from streamd.client import Client, ServerForecast
from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import read_fleet
from streamd.tools.loadtest.daemon import DaemonClient, DaemonContract
from streamd.tools.loadtest.demo_fleet import DemoStretch, choose_stretch
from streamd.tools.loadtest.forecast_table import (
    TargetForecast,
    find_most_varied,
    format_forecast_table,
    format_large_fan,
    make_fan,
)
from streamd.tools.loadtest.ledger import LedgerCount
from streamd.tools.loadtest.plan import Pace, SendPlan
from streamd.tools.loadtest.progress import ProgressLine
from streamd.tools.loadtest.result import ReplayResult, ReplaySetup
from streamd.tools.loadtest.run import Replay
from streamd.tools.loadtest.sender import ConnectionLimits
from streamd.tools.loadtest.subscriber import SubscriptionOptions
from streamd.tools.loadtest.terminal import Terminal, format_milliseconds, format_thousands
from streamd.tools.loadtest.verdict import ReplayVerdict
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm
from streamd.tools.loadtest.workers import WireOptions

ROWS_PER_SECOND = 60.0
"""A rate that two slow cores sustain with the default model; the stream takes about half a minute."""
AHEAD_STEPS = 72
"""The step of the forecast that the table shows."""
PAST_STEPS = 96
"""The steps of the past that the fan charts show."""
PREFERRED_TARGETS = ("cpu_user", "mem_used")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the demo."""

    contract: DaemonContract
    stretch: DemoStretch
    result: ReplayResult
    forecasts: list[list[TargetForecast]]
    """By server, then by target; empty if the demo was interrupted."""


async def run_demo(
    url: str,
    recording: Path,
    stop: asyncio.Event,
    rows_per_second: float = ROWS_PER_SECOND,
    now: float | None = None,
) -> DemoResult:
    """Fill the windows, stream ten hours, then read the latest forecasts.

    The stream ends at `now`, in epoch seconds; `None` keeps the times of the recording.
    """
    async with aiohttp.ClientSession() as session:
        daemon = DaemonClient(session, url)
        status = await daemon.fetch_status()
        contract = status.contract
        fleet = read_fleet(recording, contract.step_seconds).select_features(tuple(contract.features))
        stretch = choose_stretch(fleet, contract.context_length, contract.step_seconds, now)
        sent = stretch.sent
        plan = SendPlan(
            fleet=sent,
            selected=sent.find_rows(),
            connections=1,
            fill_steps=contract.context_length,
            step_seconds=contract.step_seconds,
            pace=Pace(rows_per_second),
        )
        setup = ReplaySetup(
            wire=WireOptions(url, "websocket", ClientEncoding.JSON, ClientForm.SAMPLES),
            subscription=SubscriptionOptions(),
            limits=ConnectionLimits(),
        )
        terminal = Terminal.detect(sys.stderr)
        replay = Replay(daemon, status, plan, setup, lambda ledger: ProgressLine(sys.stderr, terminal, ledger))
        result = await replay.run(stop)
        forecasts = [] if result.is_interrupted else await _fetch_forecasts(url, contract, stretch.whole)
        return DemoResult(contract, stretch, result, forecasts)


def format_demo(demo: DemoResult, terminal: Terminal) -> list[str]:
    """Format the lines to print: the table, one large fan chart, accounts and latencies."""
    step_hours = demo.contract.step_seconds / 3600
    fan_hours = min(PAST_STEPS, demo.contract.horizon) * step_hours
    servers = len(demo.result.plan.fleet.servers)
    lines = ["", terminal.draw_rule(f"forecasts of {servers} real servers"), ""]
    if demo.forecasts:
        ahead = min(AHEAD_STEPS, demo.contract.horizon)
        lines += format_forecast_table(demo.forecasts, ahead, ahead * step_hours, fan_hours, terminal)
        lines += ["", *format_large_fan(find_most_varied(demo.forecasts), fan_hours, terminal)]
    return [
        *lines,
        "",
        terminal.draw_rule("accounts"),
        *terminal.format_pairs(_format_accounts(demo.result, terminal)),
        "",
    ]


async def _fetch_forecasts(url: str, contract: DaemonContract, whole: RecordedFleet) -> list[list[TargetForecast]]:
    shown = [name for name in PREFERRED_TARGETS if name in contract.targets] or contract.targets[:2]
    found = []
    async with Client(url) as client:
        for number, server in enumerate(whole.servers):
            forecast = await client.get_forecast(server)
            if isinstance(forecast, ServerForecast):
                found.append([_make_target_forecast(forecast, target, whole, number, contract) for target in shown])
    return found


def _make_target_forecast(
    forecast: ServerForecast, target: str, whole: RecordedFleet, server: int, contract: DaemonContract
) -> TargetForecast:
    series = whole.series[server, :, whole.features.index(target)].astype(np.float64)
    now = round(forecast.origin / contract.step_seconds) - whole.first_step
    values = forecast.values[forecast.targets.index(target)].astype(np.float64)
    fan = make_fan(values, forecast.quantiles, series[max(0, now - PAST_STEPS) : now], series[now:], PAST_STEPS)
    return TargetForecast(whole.servers[server], target, fan)


def _format_accounts(result: ReplayResult, terminal: Terminal) -> list[tuple[str, str]]:
    measured, acks = result.measured, result.acks
    fill = subtract_ends(count_ends(result.whole), count_ends(measured))
    verdict = terminal.paint_good("nothing missing, duplicated or out of order")
    if result.faults:
        faults = (f"{count:,} {name.replace('_', ' ')}" for name, count in result.faults.items())
        verdict = terminal.paint_bad(", ".join(faults))
    elif result.nothing_verified:
        verdict = terminal.paint_bad(result.nothing_verified)
    history, streamed = result.plan.count_rows()
    rejected = result.ledger.sum_count(LedgerCount.SAMPLES_REJECTED)
    unanswered = result.outcome.unanswered_samples
    acked = f"{unanswered:,} never acked" if unanswered else "all acked"
    acked += f", {rejected:,} rejected" if rejected else ""
    rate = measured.received / result.stream_seconds if result.stream_seconds else 0.0
    return [
        ("model", f"{result.status.engine} on {result.status.backend}"),
        ("due", f"{format_ends(count_ends(measured))}; {verdict}"),
        ("while filling", format_ends(fill)),
        ("samples", f"{history:,} to fill windows, {streamed:,} one by one; {acked}"),
        ("forecasts", f"{format_thousands(rate)} a second over {result.stream_seconds:.0f} s"),
        ("sample to ack", _format_latency(acks.p50_ms, acks.p99_ms)),
        ("sample to forecast", _format_latency(measured.latency.p50_ms, measured.latency.p99_ms)),
    ]


RowEnds = dict[str, int]
"""The number of due rows by what became of them, in words. Each due row is in exactly one."""


def count_ends(verdict: ReplayVerdict) -> RowEnds:
    """Count the due rows of a stretch by what became of them."""
    return {
        "received": verdict.received,
        "superseded by newer rows": verdict.superseded,
        "replaced before the reader took them": verdict.lagged,
        "interrupted": verdict.interrupted,
        "missing": verdict.missing,
    }


def subtract_ends(whole: RowEnds, part: RowEnds) -> RowEnds:
    """Return the ends of the rows outside of a part."""
    return {end: count - part[end] for end, count in whole.items()}


def format_ends(ends: RowEnds) -> str:
    """Format a sum with all ends that rows have, such as `1,440 = 1,389 received + 51 superseded by newer rows`."""
    shown = [f"{count:,} {end}" for end, count in ends.items() if count or end == "received"]
    return f"{sum(ends.values()):,} = {' + '.join(shown)}"


def _format_latency(p50_ms: float | None, p99_ms: float | None) -> str:
    return f"{format_milliseconds(p50_ms)} at the median, {format_milliseconds(p99_ms)} at the 99th percentile"
