"""The end of a demo's output: what to look at next, as commands with a few words on each. Starts nothing."""

import sys
from dataclasses import dataclass
from pathlib import Path

from streamd.tools.loadtest.demo_folder import DemoFolder
from streamd.tools.loadtest.terminal import Terminal

WORDS_WIDTH = 50
"""The characters that the words beside a command need."""

Step = tuple[str, str]
"""A command or an address, and what it is for."""


@dataclass(frozen=True, slots=True)
class KeptDaemon:
    """A daemon that runs on after the demo, and the process that feeds it."""

    url: str
    pid: int
    feeder_pid: int
    folder: DemoFolder


def list_next_steps(engines: Path, terminal: Terminal) -> list[str]:
    """Return the lines to print after a demo whose daemon was stopped."""
    program = format_program()
    steps = [
        (f"{program} demo --keep", "the same, and the daemon stays, with a page to look at"),
        (f"{program} serve --engines {engines}", "a daemon of your own"),
        (f"{program} replay --help", "a load test of any kind and size"),
    ]
    return [terminal.draw_rule("where to look next"), *_format_steps(steps, terminal)]


def list_kept_steps(kept: KeptDaemon, terminal: Terminal) -> list[str]:
    """Return the lines to print after a demo whose daemon runs on: first the page, then its token, then the rest."""
    folder = kept.folder
    first = [
        (f"{kept.url}/", "open this page; each server sends a row every five minutes"),
        (f"cat {folder.admin_token}", "the token to promote, roll back and silence with"),
    ]
    others = [
        (f"curl {kept.url}/v1/alerts", "what will cross its threshold, and when"),
        (f"curl -N '{kept.url}/v1/forecasts/stream?servers=machine-1-*'", "forecasts as they arrive"),
        (f"curl {kept.url}/v1/status", "loaded model, counts and latencies"),
        (f"curl {kept.url}/metrics", "for Prometheus"),
        (f"kill {kept.pid} {kept.feeder_pid}", "stop the daemon, and the process that sends its rows"),
        (f"{format_program()} serve --config {folder.settings}", "start the daemon again, without new rows"),
    ]
    return [
        terminal.draw_rule("the daemon runs on"),
        *_format_steps(first, terminal),
        "",
        *_format_steps(others, terminal),
    ]


def format_program() -> str:
    """Return the command that runs streamd with this Python, from the working directory if it can be."""
    here, python = Path.cwd(), Path(sys.executable)
    return f"{python.relative_to(here) if python.is_relative_to(here) else python} -m streamd"


def _format_steps(steps: list[Step], terminal: Terminal) -> list[str]:
    width = max(len(command) for command, _ in steps)
    if width + WORDS_WIDTH > terminal.width:
        return [line for command, words in steps for line in (f"  {terminal.dim('# ' + words)}", f"  {command}")]
    return [f"  {command:<{width}}  {terminal.dim('# ' + words)}" for command, words in steps]
