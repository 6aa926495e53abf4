"""Show the daemon on real metrics, in about a minute: twelve real servers and their forecasts.

Starts a daemon of its own, replays the recorded fleet that ships, shows the forecasts and accounts for each of them.
`--keep` leaves the daemon running.
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
from streamd.tools.loadtest.demo import STREAM_STEPS, DemoResult, format_demo, run_demo
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
    keep = args.keep
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops the daemon too, like Ctrl-C.
    terminal = Terminal.detect(sys.stdout)
    shipped = find_shipped_files()
    folder = _make_folder(keep)
    child = ChildDaemon(shipped.engines, folder, find_free_port(DEFAULT_PORT if keep else None))
    is_kept = False
    try:
        demo = _run_daemon(child, shipped, terminal)
        if demo.result.is_interrupted:
            raise KeyboardInterrupt
        is_kept = keep
        print("\n".join([*format_demo(demo, terminal), *_list_next_steps(child if is_kept else None, demo, terminal)]))
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


def _run_daemon(child: ChildDaemon, shipped: ShippedFiles, terminal: Terminal) -> DemoResult:
    print(terminal.draw_rule("streamd"), flush=True)
    print(f"  starting a daemon on {child.url}", flush=True)
    began = time.monotonic()
    child.start()
    child.wait_ready(DEMO_READY_SECONDS)
    print(f"  ready after {time.monotonic() - began:.1f} s; twelve real servers report", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_replay(child, shipped.fleet))


async def _replay(child: ChildDaemon, fleet: Path) -> DemoResult:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        return await run_demo(child.url, fleet, stop)
    except ReplayError as error:
        raise ReplayError(f"{error}\n{child.read_log_tail()}") from error


def _choose_status(demo: DemoResult) -> Exit:
    status = choose_exit(demo.result)
    return Exit.LOST if status is Exit.COMPLETE and not demo.forecasts else status


def _make_folder(keep: bool) -> Path:
    """Make a folder for the daemon's state and log: a new one each time, as full windows would have no due rows."""
    if not keep:
        return Path(tempfile.mkdtemp(prefix="streamd-demo-"))
    folder = DEMO_FOLDER / time.strftime("%Y%m%d_%H%M%S")
    folder.mkdir(parents=True)
    return folder


def _list_next_steps(child: ChildDaemon | None, demo: DemoResult, terminal: Terminal) -> list[str]:
    here, python = Path.cwd(), Path(sys.executable)
    streamd = f"{python.relative_to(here) if python.is_relative_to(here) else python} -m streamd"
    if child is None:
        steps = [
            (f"{streamd} demo --keep", "the same, and the daemon stays to be queried"),
            (f"{streamd} serve --engines {find_shipped_files().engines}", "a daemon of your own"),
            (f"{streamd} replay --help", "a load test of any kind and size"),
        ]
        return [terminal.draw_rule("where to look next"), *_format_commands(steps, terminal)]
    server = demo.forecasts[0][0].server if demo.forecasts else "SERVER"
    rows_sent = demo.contract.context_length + STREAM_STEPS
    more = f"--url {child.url} --skip-rows {rows_sent} --speed 600"
    steps = [
        (f"curl {child.url}/v1/forecasts/{server}", "one server's latest forecast"),
        (f"curl -N '{child.url}/v1/forecasts/stream?servers=machine-1-*'", "forecasts as they arrive"),
        (f"curl {child.url}/v1/status", "loaded model, counts and latencies"),
        (f"curl {child.url}/metrics", "for Prometheus"),
        (f"{streamd} replay {more}", "the hours that follow, for new forecasts"),
        (f"kill {child.pid}", "stop it; its state and log stay in " + str(child.log.parent)),
    ]
    return [terminal.draw_rule(f"the daemon runs on at {child.url}"), *_format_commands(steps, terminal)]


def _format_commands(steps: list[tuple[str, str]], terminal: Terminal) -> list[str]:
    width = max(len(command) for command, _ in steps)
    if width + 50 > terminal.width:
        return [line for command, words in steps for line in (f"  {terminal.dim('# ' + words)}", f"  {command}")]
    return [f"  {command:<{width}}  {terminal.dim('# ' + words)}" for command, words in steps]
