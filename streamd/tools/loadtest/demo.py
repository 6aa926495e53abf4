"""The demo's replay and what it shows: the shipped servers through a running daemon, as a table for people.

Starting and ending that daemon is not done here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import read_fleet
from streamd.tools.loadtest.daemon import DaemonClient, DaemonContract
from streamd.tools.loadtest.ledger import LedgerCount
from streamd.tools.loadtest.outlook import Outlook, fan_of, liveliest, outlook_table, portrait
from streamd.tools.loadtest.plan import Pace, SendPlan
from streamd.tools.loadtest.progress import ProgressLine
from streamd.tools.loadtest.result import ReplayResult, Setup
from streamd.tools.loadtest.run import Replay
from streamd.tools.loadtest.sender import Patience
from streamd.tools.loadtest.subscriber import SubscriptionOptions
from streamd.tools.loadtest.terminal import Terminal, milliseconds, thousands
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm
from streamd.tools.loadtest.workers import Wire

# Ten hours of each server at a rate that two slow cores hold with the default model, in about half a minute.
STREAM_STEPS = 120
ROWS_PER_SECOND = 60.0
# How far on the table looks, and how much of the past the fans show.
AHEAD_STEPS = 72
PAST_STEPS = 96
FAVOURITES = ("cpu_user", "mem_used")


@dataclass(frozen=True, slots=True)
class Demo:
    """What came of it."""

    contract: DaemonContract
    result: ReplayResult
    outlooks: list[list[Outlook]]  # by server, then by target


async def play(url: str, sample: Path, stop: asyncio.Event, rows_per_second: float = ROWS_PER_SECOND) -> Demo:
    """Fill the windows, stream ten hours, then ask for the latest forecasts."""
    async with aiohttp.ClientSession() as session:
        daemon = DaemonClient(session, url)
        status = await daemon.status()
        contract = status.contract
        whole = read_fleet(sample, contract.step_seconds).of_features(tuple(contract.features))
        sent = whole.between(0, contract.context_length + STREAM_STEPS)
        pace = Pace(rows_per_second)
        plan = SendPlan(sent, sent.present(), 1, contract.context_length, contract.step_seconds, pace)
        setup = Setup(
            Wire(url, "websocket", ClientEncoding.JSON, ClientForm.SAMPLES), SubscriptionOptions(), Patience()
        )
        terminal = Terminal.of(sys.stderr)
        replay = Replay(daemon, status, plan, setup, lambda ledger: ProgressLine(sys.stderr, terminal, ledger))
        result = await replay.run(stop)
        outlooks = [] if result.interrupted else await _outlooks(session, url, contract, whole)
        return Demo(contract, result, outlooks)


def show(demo: Demo, terminal: Terminal) -> list[str]:
    """The lines to print: table, one large fan, accounts and latencies."""
    step_hours = demo.contract.step_seconds / 3600
    fan_hours = min(PAST_STEPS, demo.contract.horizon) * step_hours
    servers = len(demo.result.plan.fleet.servers)
    lines = ["", terminal.rule(f"forecasts of {servers} real servers"), ""]
    if demo.outlooks:
        ahead = min(AHEAD_STEPS, demo.contract.horizon)
        lines += outlook_table(demo.outlooks, ahead, ahead * step_hours, fan_hours, terminal)
        lines += ["", *portrait(liveliest(demo.outlooks), fan_hours, terminal)]
    return [*lines, "", terminal.rule("accounts"), *terminal.pairs(_accounts(demo.result, terminal)), ""]


async def _outlooks(
    session: aiohttp.ClientSession, url: str, contract: DaemonContract, whole: RecordedFleet
) -> list[list[Outlook]]:
    shown = [name for name in FAVOURITES if name in contract.targets] or contract.targets[:2]
    found = []
    for number, server in enumerate(whole.servers):
        async with session.get(f"{url}/v1/forecasts/{server}") as response:
            forecast = msgspec.json.decode(await response.read(), type=_Latest)
        if forecast.values:
            found.append([_outlook(forecast, target, whole, number, contract) for target in shown])
    return found


def _outlook(forecast: _Latest, target: str, whole: RecordedFleet, server: int, contract: DaemonContract) -> Outlook:
    series = whole.series[server, :, whole.features.index(target)].astype(np.float64)
    now = round(forecast.origin / contract.step_seconds) - whole.first_step
    values = np.array(forecast.values[forecast.targets.index(target)], dtype=np.float64)
    fan = fan_of(values, forecast.quantiles, series[max(0, now - PAST_STEPS) : now], series[now:], PAST_STEPS)
    return Outlook(whole.servers[server], target, fan)


def _accounts(result: ReplayResult, terminal: Terminal) -> list[tuple[str, str]]:
    whole, measured, acks = result.whole, result.measured, result.acks
    fill = (whole.expected - measured.expected, whole.received - measured.received)
    verdict = terminal.good("nothing missing, duplicated or out of order")
    if result.faults:
        faults = (f"{count:,} {name.replace('_', ' ')}" for name, count in result.faults.items())
        verdict = terminal.bad(", ".join(faults))
    elif result.nothing:
        verdict = terminal.bad(result.nothing)
    history, streamed = result.plan.rows()
    rejected = result.ledger.total(LedgerCount.SAMPLES_REJECTED)
    unanswered = result.outcome.unanswered
    acked = f"{unanswered:,} never acked" if unanswered else "all acked"
    acked += f", {rejected:,} rejected" if rejected else ""
    rate = measured.received / result.stream_seconds if result.stream_seconds else 0.0
    return [
        ("model", f"{result.status.engine} on {result.status.backend}"),
        ("due", _sum(measured.expected, measured.received, measured.superseded) + f"; {verdict}"),
        ("while filling", _sum(*fill, whole.superseded - measured.superseded) + ", newer rows took their turn"),
        ("samples", f"{history:,} to fill windows, {streamed:,} one by one; {acked}"),
        ("forecasts", f"{thousands(rate)} a second over {result.stream_seconds:.0f} s"),
        ("sample to ack", _spread(acks.p50_ms, acks.p99_ms)),
        ("sample to forecast", _spread(measured.latency.p50_ms, measured.latency.p99_ms)),
    ]


def _sum(due: int, received: int, superseded: int) -> str:
    return f"{due:,} = {received:,} received + {superseded:,} superseded"


def _spread(p50_ms: float | None, p99_ms: float | None) -> str:
    return f"{milliseconds(p50_ms)} in the middle, {milliseconds(p99_ms)} at the 99th percentile"


class _Latest(msgspec.Struct):
    """``/v1/forecasts/{server}``; empty while the window is warming."""

    origin: float = 0.0
    targets: list[str] = []
    quantiles: list[float] = []
    values: Sequence[Sequence[Sequence[float | None]]] = []
