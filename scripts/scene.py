#!/usr/bin/env python3
"""Play the scene: real agents push into a daemon that is killed and started again, in about three minutes.

Gets the agents from Debian's packages and PyPI into `.scene`, and installs nothing. Needs no root. The exit status is 0
if no row of Prometheus and vmagent is missing.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from streamd.tools.loadtest.errors import Exit, ReplayError
from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.agents import ALL_AGENTS, SceneAgent
from streamd.tools.scene.report import format_scene
from streamd.tools.scene.scene import Scene, SceneOptions, ScenePlace, SceneResult

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the scene; returns 0 if the rows of the agents that keep their samples are whole."""
    options, keep = _read_options()
    terminal = Terminal.detect(sys.stdout)
    folder = Path(tempfile.mkdtemp(prefix="streamd-scene-"))
    scene = Scene(options, ScenePlace(cache=ROOT / ".scene", engines=ROOT / "engines", folder=folder), _write_line)
    try:
        agents = _fetch_agents(scene, terminal)
        _write_line(terminal.draw_rule("forecasts of this machine"))
        with asyncio.Runner() as runner:
            result = runner.run(_play(scene, agents))
        _write_line("\n".join(format_scene(result, terminal)))
        return Exit.LOST if result.list_faults() else Exit.COMPLETE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("scene: stopped, with every process of it", file=sys.stderr)
        return Exit.INTERRUPTED
    except ReplayError as error:
        print(f"scene: {error}", file=sys.stderr)
        return error.exit
    finally:
        if keep:
            _write_line(f"  configurations and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _read_options() -> tuple[SceneOptions, bool]:
    default = SceneOptions()
    parser = argparse.ArgumentParser(description="Real agents push into a daemon that is killed and started again.")
    parser.add_argument(
        "--agents",
        default=",".join(default.agents),
        help="names, separated by commas [default: %(default)s]",
    )
    parser.add_argument(
        "--step-seconds", type=int, default=default.step_seconds, help="length of a step [default: %(default)s]"
    )
    parser.add_argument(
        "--away-seconds",
        type=float,
        default=default.away_seconds,
        help="time from the kill to the next start [default: %(default)s]",
    )
    parser.add_argument(
        "--rows", type=int, default=default.rows_before, help="rows before and after the kill [default: %(default)s]"
    )
    parser.add_argument("--keep", action="store_true", help="folder with configurations and logs kept afterwards")
    given = parser.parse_args()
    agents = tuple(given.agents.split(","))
    if unknown := set(agents) - {agent.name for agent in ALL_AGENTS}:
        parser.error(f"--agents: {', '.join(sorted(unknown))}: expected some of {', '.join(default.agents)}")
    options = SceneOptions(
        agents=agents,
        step_seconds=given.step_seconds,
        away_seconds=given.away_seconds,
        rows_before=given.rows,
        rows_after=given.rows,
    )
    return options, given.keep


def _fetch_agents(scene: Scene, terminal: Terminal) -> list[SceneAgent]:
    _write_line(terminal.draw_rule("agents"))
    began = time.monotonic()
    agents = scene.fetch_agents()
    _write_line(
        "\n".join(
            terminal.format_pairs(
                [(agent.server, f"{agent.form}; {terminal.dim(scene.describe_agent(agent))}") for agent in agents]
            )
        )
    )
    for name, reason in scene.unavailable.items():
        _write_line(f"  {terminal.paint_bad(name)} cannot run here and is left out: {reason}")
    _write_line(terminal.dim(f"  packages are in .scene; {time.monotonic() - began:.1f} s"))
    return agents


async def _play(scene: Scene, agents: Sequence[SceneAgent]) -> SceneResult:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await scene.run(agents)


def _write_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
