"""Show the daemon on real metrics, in about a minute: twelve real servers and their forecasts.

Starts a daemon of its own, replays the recorded fleet that ships, shows the forecasts and accounts for each of them.
`--keep` leaves the daemon running, with the rows that follow coming in as time passes.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from streamd.tools.loadtest.child import ChildDaemon, find_free_port
from streamd.tools.loadtest.demo import DemoResult, format_demo, run_demo
from streamd.tools.loadtest.demo_feeder import start_feeder
from streamd.tools.loadtest.demo_folder import DemoFolder, FeederJob
from streamd.tools.loadtest.demo_steps import KeptDaemon, list_kept_steps, list_next_steps
from streamd.tools.loadtest.errors import Exit, ReplayError
from streamd.tools.loadtest.report import choose_exit
from streamd.tools.loadtest.shipped import ShippedFiles, find_shipped_files
from streamd.tools.loadtest.terminal import Terminal

DEMO_FOLDER = Path(".demo")
"""Where a daemon that runs on keeps its state and its log, in the working directory."""
DEFAULT_PORT = 8002
DEMO_READY_SECONDS = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `streamd demo`."""
    parser.add_argument(
        "--keep", action="store_true", help="daemon left running afterwards [default: the daemon is stopped]"
    )


def main(args: argparse.Namespace) -> int:
    """Run the demo; returns 0 if every due row was forecast and delivered, or superseded."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops the daemon too, like Ctrl-C.
    terminal = Terminal.detect(sys.stdout)
    shipped = find_shipped_files()
    kept = _make_kept_folder() if args.keep else None
    folder = Path(tempfile.mkdtemp(prefix="streamd-demo-")) if kept is None else kept.path
    child = _make_child(shipped, folder, kept)
    is_kept = False
    try:
        demo = _run_daemon(child, shipped, terminal, now=None if kept is None else time.time())
        if demo.result.is_interrupted:
            raise KeyboardInterrupt
        is_kept = kept is not None
        if kept is None:
            steps = list_next_steps(shipped.engines, terminal)
        else:
            feeder = start_feeder(kept, _make_job(child, shipped, demo))
            steps = list_kept_steps(KeptDaemon(child.url, child.pid, feeder, kept), terminal)
        print("\n".join([*format_demo(demo, terminal), *steps]))
        return _choose_status(demo)
    except KeyboardInterrupt:
        print("demo: stopped, and its daemon too", file=sys.stderr)
        return Exit.INTERRUPTED
    except ReplayError as error:
        print(f"demo: {error}", file=sys.stderr)
        return Exit.LOST
    finally:
        if is_kept:
            child.detach()
        else:
            child.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _run_daemon(child: ChildDaemon, shipped: ShippedFiles, terminal: Terminal, now: float | None) -> DemoResult:
    print(terminal.draw_rule("streamd"), flush=True)
    print(f"  starting a daemon on {child.url}", flush=True)
    began = time.monotonic()
    child.start()
    child.wait_ready(DEMO_READY_SECONDS)
    print(f"  ready after {time.monotonic() - began:.1f} s; twelve real servers report", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_replay(child, shipped.fleet, now))


async def _replay(child: ChildDaemon, fleet: Path, now: float | None) -> DemoResult:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        return await run_demo(child.url, fleet, stop, now=now)
    except ReplayError as error:
        raise ReplayError(f"{error}\n{child.read_log_tail()}") from error


def _choose_status(demo: DemoResult) -> Exit:
    status = choose_exit(demo.result)
    return Exit.LOST if status is Exit.COMPLETE and not demo.forecasts else status


def _make_kept_folder() -> DemoFolder:
    """Make a folder for a daemon that runs on: a new one each time, as full windows would have no due rows."""
    folder = DEMO_FOLDER / time.strftime("%Y%m%d_%H%M%S")
    folder.mkdir(parents=True)
    return DemoFolder(folder)


def _make_child(shipped: ShippedFiles, folder: Path, kept: DemoFolder | None) -> ChildDaemon:
    if kept is None:
        return ChildDaemon(shipped.engines, folder, find_free_port())
    port = find_free_port(DEFAULT_PORT)
    kept.fill(shipped.engines, port)
    return ChildDaemon(kept.engines, folder, port, kept.settings)


def _make_job(child: ChildDaemon, shipped: ShippedFiles, demo: DemoResult) -> FeederJob:
    stretch = demo.stretch
    return FeederJob(
        url=child.url,
        recording=str(shipped.fleet),
        first_step=stretch.whole.first_step,
        next_step=stretch.whole.first_step + stretch.end,
        step_seconds=demo.contract.step_seconds,
    )
