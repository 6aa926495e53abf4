#!/usr/bin/env python3
"""Play a scene with real programs and a daemon that is killed and started again.

`agents` (three minutes): real agents push; the exit status is 0 if no row of Prometheus and vmagent is missing.
`alerts` (a minute and a half): disks fill up, and Alertmanager is killed too; the exit status is 0 if it notified of
the begin and of the end of each alert exactly once.
`stores` (two minutes): forecasts go to Prometheus and VictoriaMetrics, which are killed; the exit status is 0 if each
shows every value that the daemon has.

Gets the programs from Debian's packages and PyPI into `.scene`, and installs nothing. Needs no root.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from streamd.tools.loadtest.errors import Exit, ReplayError
from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.agents import ALL_AGENTS, SceneAgent
from streamd.tools.scene.alert_scene import AlertScene, AlertSceneOptions, format_alert_scene
from streamd.tools.scene.report import format_scene
from streamd.tools.scene.scene import Scene, SceneOptions, ScenePlace
from streamd.tools.scene.store_scene import StoreScene, StoreSceneOptions, format_store_scene

ROOT = Path(__file__).resolve().parents[1]
CACHE, ENGINES = ROOT / ".scene", ROOT / "engines"

T = TypeVar("T")


def main() -> int:
    """Run a scene; returns 0 if it shows what it must."""
    name, options, keep = _read_options()
    terminal = Terminal.detect(sys.stdout)
    folder = Path(tempfile.mkdtemp(prefix="streamd-scene-"))
    try:
        return SCENES[name](options, folder, terminal)
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


def _play_agents(options: SceneOptions, folder: Path, terminal: Terminal) -> Exit:
    scene = Scene(options, ScenePlace(cache=CACHE, engines=ENGINES, folder=folder), _write_line)
    agents = _fetch_agents(scene, terminal)
    _write_line(terminal.draw_rule("forecasts of this machine"))
    with asyncio.Runner() as runner:
        result = runner.run(_stop_by_signal(scene.run(agents)))
    _write_line("\n".join(format_scene(result, terminal)))
    return Exit.LOST if result.list_faults() else Exit.COMPLETE


def _play_alerts(options: SceneOptions, folder: Path, terminal: Terminal) -> Exit:
    _write_line(terminal.draw_rule("alerts of disks that fill up"))
    scene = AlertScene(AlertSceneOptions(), cache=CACHE, engines=ENGINES, folder=folder, write_line=_write_line)
    with asyncio.Runner() as runner:
        result = runner.run(_stop_by_signal(scene.run()))
    _write_line("\n".join(format_alert_scene(result, terminal)))
    return Exit.LOST if result.list_faults() else Exit.COMPLETE


def _play_stores(options: SceneOptions, folder: Path, terminal: Terminal) -> Exit:
    _write_line(terminal.draw_rule("forecasts in stores of metrics"))
    scene = StoreScene(StoreSceneOptions(), cache=CACHE, engines=ENGINES, folder=folder, write_line=_write_line)
    with asyncio.Runner() as runner:
        results = runner.run(_stop_by_signal(scene.run()))
    _write_line("\n".join(format_store_scene(results, terminal)))
    return Exit.LOST if any(each.wrong for each in results) else Exit.COMPLETE


SCENES: dict[str, Callable[[SceneOptions, Path, Terminal], Exit]] = {
    "agents": _play_agents,
    "alerts": _play_alerts,
    "stores": _play_stores,
}
"""The scenes by name; the options are those of the first."""


def _read_options() -> tuple[str, SceneOptions, bool]:
    default = SceneOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scene", nargs="?", choices=SCENES, default="agents", help="name of the scene [default: %(default)s]"
    )
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
    return given.scene, options, given.keep


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


async def _stop_by_signal(play: Coroutine[Any, Any, T]) -> T:
    """Return the result of a scene; a signal cancels it, and it then ends its processes."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await play


def _write_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
