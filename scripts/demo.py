#!/usr/bin/env python3
"""The main job on real metrics, in under a minute: a daemon, twelve real servers and their forecasts.

Starts a daemon of its own, replays ``examples/fleet``, shows what was forecast, accounts for every forecast
and ends. ``--keep`` leaves the daemon running.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from streamd.tools.loadtest.child import ChildDaemon, free_port
from streamd.tools.loadtest.demo import STREAM_STEPS, Demo, play, show
from streamd.tools.loadtest.errors import Exit, ReplayError
from streamd.tools.loadtest.options import SAMPLE
from streamd.tools.loadtest.report import exit_of
from streamd.tools.loadtest.terminal import Terminal

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".demo"
DEFAULT_PORT = 8002
READY_SECONDS = 90.0


def main() -> int:
    """Run the demo; its exit status is 0 when every due row was forecast and delivered, or superseded."""
    parser = argparse.ArgumentParser(description="Show the daemon at work on real metrics, in about a minute.")
    parser.add_argument("--keep", action="store_true", help="leave the daemon running afterwards")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with the daemon
    terminal = Terminal.of(sys.stdout)
    folder = _folder(keep)
    child = ChildDaemon(ROOT / "config.toml", folder, free_port(DEFAULT_PORT if keep else None))
    kept = False
    try:
        demo = _demo(child, terminal)
        if demo.result.interrupted:
            raise KeyboardInterrupt
        kept = keep
        print("\n".join([*show(demo, terminal), *_next_steps(child if kept else None, demo, terminal)]))
        return _status(demo)
    except KeyboardInterrupt:
        print("demo: stopped, and its daemon with it", file=sys.stderr)
        return Exit.INTERRUPTED
    except ReplayError as error:
        print(f"demo: {error}", file=sys.stderr)
        return Exit.LOST
    finally:
        if kept:
            child.leave()
        else:
            child.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _demo(child: ChildDaemon, terminal: Terminal) -> Demo:
    print(terminal.rule("streamd"), flush=True)
    print(f"  starting a daemon on {child.url}", flush=True)
    began = time.monotonic()
    child.start()
    child.wait_ready(READY_SECONDS)
    print(f"  ready after {time.monotonic() - began:.1f} s; twelve real servers report", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_play(child))


async def _play(child: ChildDaemon) -> Demo:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        return await play(child.url, ROOT / SAMPLE, stop)
    except ReplayError as error:
        raise ReplayError(f"{error}\n{child.tail()}") from error


def _status(demo: Demo) -> Exit:
    status = exit_of(demo.result)
    return Exit.LOST if status is Exit.COMPLETE and not demo.outlooks else status


def _folder(keep: bool) -> Path:
    """Of the daemon's state and log; a new one each time, for windows that are full already have nothing due."""
    if not keep:
        return Path(tempfile.mkdtemp(prefix="streamd-demo-"))
    folder = KEPT / time.strftime("%Y%m%d_%H%M%S")
    folder.mkdir(parents=True)
    return folder


def _next_steps(child: ChildDaemon | None, demo: Demo, terminal: Terminal) -> list[str]:
    python = Path(sys.executable)
    python = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    if child is None:
        steps = [
            ("make demo KEEP=1", "the same, and the daemon stays for you to ask"),
            (f"{python} -m streamd serve --config config.toml", "a daemon of your own"),
            (f"{python} scripts/replay.py --help", "load of any kind and size against it"),
            ("README.md, ARCHITECTURE.md", "how to use it, and how it is made"),
        ]
        return [terminal.rule("where to look next"), *_commands(steps, terminal)]
    server = demo.outlooks[0][0].server if demo.outlooks else "SERVER"
    rows_sent = demo.contract.context_length + STREAM_STEPS
    more = f"--url {child.url} --skip-rows {rows_sent} --speed 600"
    steps = [
        (f"curl {child.url}/v1/forecasts/{server}", "one server's latest forecast"),
        (f"curl -N '{child.url}/v1/forecasts/stream?servers=machine-1-*'", "forecasts as they come"),
        (f"curl {child.url}/v1/status", "what is loaded and how it does"),
        (f"curl {child.url}/metrics", "for Prometheus"),
        (f"{python} scripts/replay.py {more}", "the hours that follow, so that forecasts come"),
        (f"kill {child.pid}", "stop it; its state and log stay in " + str(child.log.parent.relative_to(ROOT))),
    ]
    return [terminal.rule(f"the daemon runs on at {child.url}"), *_commands(steps, terminal)]


def _commands(steps: list[tuple[str, str]], terminal: Terminal) -> list[str]:
    width = max(len(command) for command, _ in steps)
    if width + 50 > terminal.width:
        return [line for command, words in steps for line in (f"  {terminal.dim('# ' + words)}", f"  {command}")]
    return [f"  {command:<{width}}  {terminal.dim('# ' + words)}" for command, words in steps]


if __name__ == "__main__":
    sys.exit(main())
