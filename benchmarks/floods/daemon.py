"""A daemon that logs the longest turns of its event loop: `python -m benchmarks.floods.daemon LOG serve ...`.

A turn counts by the CPU time of its thread, so that other processes on the same cores do not count.
"""

import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import IO, Any

import uvloop

from streamd import cli

TICK_SECONDS = 0.001
"""A timer is due this often; what the loop does between two of its calls is one turn, and at most so much more."""

PERIOD_SECONDS = 0.1
"""A line with the longest turn is written this often."""


class TurnLog:
    """Measures the turns of one loop and writes the longest one of each period as a line of JSON."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._cpu = time.thread_time()
        self._wall = self._period_began = time.monotonic()
        self._longest_cpu = self._longest_wall = 0.0

    async def run(self, main: Coroutine[Any, Any, int]) -> int:
        """Run the daemon and measure its loop."""
        self._tick()
        try:
            return await main
        finally:
            self._timer.cancel()

    def _tick(self) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        self._longest_cpu = max(self._longest_cpu, cpu - self._cpu)
        self._longest_wall = max(self._longest_wall, wall - self._wall)
        if wall - self._period_began >= PERIOD_SECONDS:
            line = {"at": wall, "cpu": self._longest_cpu, "wall": self._longest_wall}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._period_began = wall
            self._longest_cpu = self._longest_wall = 0.0
        self._cpu, self._wall = cpu, wall
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)


def main() -> int:
    """Run the command `streamd` with a log of the turns of its loop."""
    run = uvloop.run
    with Path(sys.argv[1]).open("w", encoding="ascii") as file:

        def run_measured(daemon: Coroutine[Any, Any, int]) -> int:
            return run(TurnLog(file).run(daemon))

        uvloop.run = run_measured  # type: ignore[assignment]
        return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
