"""``scripts/replay.py``: from a command line to an exit status."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import uvloop

from streamd.tools.fleets.fleet import Fleet, RecordedFleet, check_grid, synthesize
from streamd.tools.fleets.readers import parse_mapping, read_fleet
from streamd.tools.loadtest import acked, options, report
from streamd.tools.loadtest.daemon import DaemonClient, DaemonContract
from streamd.tools.loadtest.errors import Exit, NothingError, ReplayError, UsageError
from streamd.tools.loadtest.plan import Pace, SendPlan
from streamd.tools.loadtest.progress import ProgressLine
from streamd.tools.loadtest.run import Replay
from streamd.tools.loadtest.terminal import Terminal

# A duration may need fewer steps than the files have: as many as it asks for, and one more.
SPARE_STEPS = 1


def main(arguments: list[str] | None = None) -> int:
    """The exit status of a replay; see ``errors.Exit``."""
    asked = options.parse(arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_verify(asked) if asked.verify else _replay(asked))
    except ReplayError as error:
        print(f"replay: {error}", file=sys.stderr)
        return error.exit


async def _replay(asked: argparse.Namespace) -> Exit:
    setup = options.setup_of(asked)
    stop = _stop_on_interrupt()
    async with aiohttp.ClientSession() as session:
        daemon = DaemonClient(session, setup.wire.base_url)
        status = await daemon.status()
        plan = make_plan(asked, status.contract)
        errors = Terminal.of(sys.stderr)
        replay = Replay(
            daemon, status, plan, setup, lambda ledger: ProgressLine(sys.stderr, errors, ledger, asked.quiet)
        )
        result = await replay.run(stop)
    for line in report.as_table(result, Terminal.of(sys.stdout)):
        print(line)
    if asked.json:
        asked.json.write_text(json.dumps(report.as_json(result), indent=2) + "\n")
    if asked.acked_list:
        accepted = result.ledger.accepted > 0
        acked.write_acked(asked.acked_list, plan.fleet, accepted, plan.step_seconds)
    return report.exit_of(result)


def _stop_on_interrupt() -> asyncio.Event:
    """An event that Ctrl-C sets, so that what is known by then is still told."""
    stop = asyncio.Event()
    if threading.current_thread() is threading.main_thread():  # signals go to no other
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    return stop


async def _verify(asked: argparse.Namespace) -> Exit:
    rows = acked.read_acked(asked.verify)
    async with aiohttp.ClientSession() as session:
        daemon = DaemonClient(session, asked.url.rstrip("/"))
        status = await daemon.status()
        found = await acked.verify(daemon, rows, status.contract.context_length)
    print(
        f"acked {found.acked:,}  found {found.found:,}"
        f"  older than the window {found.outside:,}  lost {len(found.lost):,}"
    )
    for server, step in found.lost[:20]:
        print(f"  lost: {server} step {step} (time {step * status.contract.step_seconds})")
    if asked.json:
        counts = {"acked": found.acked, "found": found.found, "outside": found.outside, "lost": found.lost}
        asked.json.write_text(json.dumps(counts, indent=2) + "\n")
    if not found.found and not found.lost:
        raise NothingError(f"{asked.verify}: no row of the list can be compared with a window: nothing was verified")
    return Exit.LOST if found.lost else Exit.COMPLETE


def make_plan(asked: argparse.Namespace, contract: DaemonContract) -> SendPlan:
    """The fleet that was asked for, and how its rows go out. Raises UsageError, or NothingError without a row."""
    pace = options.pace_of(asked)
    fleet = _fleet(asked, contract, pace)
    wanted = fleet.present()
    if asked.resume:
        wanted = acked.without(wanted, fleet, acked.read_acked(asked.resume))
    if not wanted.any():
        why = f"no row has a value of {', '.join(fleet.features)}"
        raise NothingError(f"{f'{asked.resume} has every row' if asked.resume else why}: there is nothing to send")
    return SendPlan(
        fleet=fleet,
        wanted=wanted,
        connections=min(asked.connections, len(fleet.servers)),
        fill_steps=min(asked.context_rows, fleet.steps),
        step_seconds=contract.step_seconds,
        pace=pace,
        samples_a_frame=asked.samples_a_frame,
        parts=asked.split,
    )


def _fleet(asked: argparse.Namespace, contract: DaemonContract, pace: Pace) -> Fleet:
    mapping = parse_mapping(asked.map)
    files = asked.files or [Path(__file__).resolve().parents[3] / options.SAMPLE]
    fleets = [read_fleet(path, contract.step_seconds, mapping) for path in files]
    base = joined(fleets).of_features(tuple(contract.features)).only(asked.servers)
    base = base.between(asked.skip_rows, base.steps)
    if not base.steps:
        raise UsageError(f"--skip-rows {asked.skip_rows}: nothing is left")
    steps = _steps(asked, base, pace, contract)
    if asked.synthetic:
        synthetic = synthesize(base, asked.synthetic, steps, asked.seed)
        return replace(synthetic, first_step=_now(contract, steps)) if asked.shift_to_now else synthetic
    cut = base.between(0, min(steps, base.steps))
    return cut.beginning_at(_now(contract, cut.steps)) if asked.shift_to_now else cut


def _steps(asked: argparse.Namespace, base: RecordedFleet, pace: Pace, contract: DaemonContract) -> int:
    """History and measured stretch together."""
    servers = asked.synthetic or len(base.servers)
    measured = asked.limit_rows
    if measured is None and asked.duration and pace.rate:
        measured = math.ceil(asked.duration * pace.rate / servers) + SPARE_STEPS
    if measured is None and asked.duration and pace.speed:
        measured = math.ceil(asked.duration * pace.speed / contract.step_seconds) + SPARE_STEPS
    if measured is None:
        measured = max(base.steps - asked.context_rows, 0)
    return int(asked.context_rows + measured)


def _now(contract: DaemonContract, steps: int) -> int:
    """The first step of a fleet whose last row is of the step that has just ended."""
    return int(time.time() // contract.step_seconds) - steps


def joined(fleets: list[RecordedFleet]) -> RecordedFleet:
    """Several files as one fleet, each on its own times; what a file lacks is missing there."""
    if len(fleets) == 1:
        return fleets[0]
    servers = tuple(sorted({name for fleet in fleets for name in fleet.servers}))
    features = tuple(dict.fromkeys(name for fleet in fleets for name in fleet.features))
    first = min(fleet.first_step for fleet in fleets)
    length = max(fleet.first_step + fleet.steps for fleet in fleets) - first
    check_grid("the times of all files", len(servers), length)
    series = np.full((len(servers), length, len(features)), np.nan, dtype=np.float32)
    for fleet in fleets:
        rows = np.array([servers.index(name) for name in fleet.servers])
        columns = np.array([features.index(name) for name in fleet.features])
        begin = fleet.first_step - first
        part = series[np.ix_(rows, np.arange(begin, begin + fleet.steps), columns)]
        series[np.ix_(rows, np.arange(begin, begin + fleet.steps), columns)] = np.where(
            np.isfinite(fleet.series), fleet.series, part
        )
    return RecordedFleet(servers, features, first, series)
