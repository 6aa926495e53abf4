"""Replay a fleet's metrics into a daemon, read its forecasts, and account for each of them.

The command `streamd replay`: from its options to an exit status. The work is done in the other modules.
"""

import argparse
import asyncio
import json
import math
import signal
import sys
import threading
import time
from dataclasses import replace

import aiohttp
import uvloop

from streamd.tools.daemon_token import make_token_headers, read_token
from streamd.tools.fleets.errors import FleetError
from streamd.tools.fleets.fleet import Fleet, RecordedFleet, join_fleets, synthesize
from streamd.tools.fleets.readers import parse_mapping, read_fleet
from streamd.tools.loadtest import acked, capture_report, options, report
from streamd.tools.loadtest.capture_poster import CapturePoster
from streamd.tools.loadtest.capture_replay import CaptureReplay
from streamd.tools.loadtest.daemon import DaemonClient, DaemonContract
from streamd.tools.loadtest.errors import Exit, NothingError, ReplayError, UsageError
from streamd.tools.loadtest.plan import Pace, SendPlan
from streamd.tools.loadtest.progress import ProgressLine, StatusLine
from streamd.tools.loadtest.run import Replay
from streamd.tools.loadtest.shipped import find_shipped_files
from streamd.tools.loadtest.terminal import Terminal

SPARE_STEPS = 1
"""A duration gets the steps that it needs and this many more, so that the rows do not end before the time does."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    options.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Replay a fleet or captures, or verify a list of acknowledged rows; returns one of the statuses of `Exit`."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if args.capture:
                return runner.run(_replay_captures(args))
            return runner.run(_verify(args) if args.verify else _replay(args))
    except ReplayError as error:
        print(f"replay: {error}", file=sys.stderr)
        return error.exit


async def _replay(args: argparse.Namespace) -> Exit:
    setup = options.make_setup(args)
    stop = _stop_on_interrupt()
    async with aiohttp.ClientSession(headers=make_token_headers(read_token(None))) as session:
        daemon = DaemonClient(session, setup.wire.base_url)
        status = await daemon.fetch_status()
        plan = make_plan(args, status.contract)
        terminal = Terminal.detect(sys.stderr)
        replay = Replay(
            daemon, status, plan, setup, lambda ledger: ProgressLine(sys.stderr, terminal, ledger, args.quiet)
        )
        result = await replay.run(stop)
    for line in report.format_replay_table(result, Terminal.detect(sys.stdout)):
        print(line)
    if args.json:
        args.json.write_text(json.dumps(report.build_replay_report(result), indent=2) + "\n")
    if args.acked_list:
        accepted = result.ledger.accepted > 0
        acked.write_acked(args.acked_list, plan.fleet, accepted, plan.step_seconds)
    return report.choose_exit(result)


async def _replay_captures(args: argparse.Namespace) -> Exit:
    setup = options.make_capture_setup(args)
    stop = _stop_on_interrupt()
    progress = StatusLine(sys.stderr, Terminal.detect(sys.stderr), args.quiet)
    async with aiohttp.ClientSession(headers=make_token_headers(read_token(None))) as session:
        daemon = DaemonClient(session, setup.url)
        poster = CapturePoster(
            session, setup.url, answer_seconds=setup.answer_seconds, reconnect_seconds=setup.reconnect_seconds
        )
        replay = CaptureReplay(daemon, poster, await daemon.fetch_status(), setup, progress.show)
        try:
            result = await replay.run(stop)
        finally:
            progress.clear()
    for line in capture_report.format_capture_table(result, Terminal.detect(sys.stdout)):
        print(line)
    if args.json:
        args.json.write_text(json.dumps(capture_report.build_capture_report(result), indent=2) + "\n")
    return result.choose_exit()


def _stop_on_interrupt() -> asyncio.Event:
    """Return an event that Ctrl-C sets, so that the results up to then are still reported."""
    stop = asyncio.Event()
    if threading.current_thread() is threading.main_thread():  # Other threads get no signals.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    return stop


async def _verify(args: argparse.Namespace) -> Exit:
    rows = acked.read_acked(args.verify)
    async with aiohttp.ClientSession(headers=make_token_headers(read_token(None))) as session:
        daemon = DaemonClient(session, args.url.rstrip("/"))
        status = await daemon.fetch_status()
        found = await acked.compare_acked(daemon, rows, status.contract.context_length)
    print(
        f"acked {found.acked:,}  found {found.found:,}"
        f"  older than the window {found.outside:,}  lost {len(found.lost):,}"
    )
    for server, step in found.lost[:20]:
        print(f"  lost: {server} step {step} (time {step * status.contract.step_seconds})")
    if args.json:
        counts = {"acked": found.acked, "found": found.found, "outside": found.outside, "lost": found.lost}
        args.json.write_text(json.dumps(counts, indent=2) + "\n")
    if not found.found and not found.lost:
        raise NothingError(f"{args.verify}: no row of the list can be compared with a window: nothing was verified")
    return Exit.LOST if found.lost else Exit.COMPLETE


def make_plan(args: argparse.Namespace, contract: DaemonContract) -> SendPlan:
    """Make the plan that the options request. Raises `UsageError`, or `NothingError` if there is no row to send."""
    pace = options.make_pace(args)
    fleet = _load_fleet(args, contract, pace)
    selected = fleet.find_rows()
    if args.resume:
        selected = acked.remove_acked(selected, fleet, acked.read_acked(args.resume))
    if not selected.any():
        why = f"no row has a value of {', '.join(fleet.features)}"
        raise NothingError(f"{f'{args.resume} has every row' if args.resume else why}: there is nothing to send")
    return SendPlan(
        fleet=fleet,
        selected=selected,
        connections=min(args.connections, len(fleet.servers)),
        fill_steps=min(args.context_rows, fleet.steps),
        step_seconds=contract.step_seconds,
        pace=pace,
        samples_a_frame=args.samples_a_frame,
        parts=args.split,
    )


def _load_fleet(args: argparse.Namespace, contract: DaemonContract, pace: Pace) -> Fleet:
    base = _read_files(args, contract).take_servers(args.servers)
    base = base.take_steps(args.skip_rows, base.steps)
    if not base.steps:
        raise UsageError(f"--skip-rows {args.skip_rows}: no step of the files is left; expected a smaller number")
    steps = _count_steps(args, base, pace, contract)
    if args.synthetic:
        synthetic = synthesize(base, args.synthetic, steps, args.seed)
        return replace(synthetic, first_step=_find_first_step(contract, steps)) if args.shift_to_now else synthetic
    cut = base.take_steps(0, min(steps, base.steps))
    return cut.move_to_step(_find_first_step(contract, cut.steps)) if args.shift_to_now else cut


def _read_files(args: argparse.Namespace, contract: DaemonContract) -> RecordedFleet:
    """Read all files as one fleet with the model's features. Raises `UsageError`."""
    files = args.files or [find_shipped_files().fleet]
    try:
        mapping = parse_mapping(args.map)
        fleets = [read_fleet(path, contract.step_seconds, mapping) for path in files]
        return join_fleets(fleets).select_features(tuple(contract.features))
    except FleetError as error:
        raise UsageError(str(error)) from error


def _count_steps(args: argparse.Namespace, base: RecordedFleet, pace: Pace, contract: DaemonContract) -> int:
    """Return the number of steps of the history and the measured stretch together."""
    servers = args.synthetic or len(base.servers)
    measured = args.limit_rows
    if measured is None and args.duration and pace.rate:
        measured = math.ceil(args.duration * pace.rate / servers) + SPARE_STEPS
    if measured is None and args.duration and pace.speed:
        measured = math.ceil(args.duration * pace.speed / contract.step_seconds) + SPARE_STEPS
    if measured is None:
        measured = max(base.steps - args.context_rows, 0)
    return int(args.context_rows + measured)


def _find_first_step(contract: DaemonContract, steps: int) -> int:
    """Return the first step of a fleet whose last row is of the step that has just ended."""
    return int(time.time() // contract.step_seconds) - steps
