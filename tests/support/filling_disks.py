"""A daemon's state on a disk that fills and empties; a program, because the test is that it does not end by SIGBUS.

    python -m tests.support.filling_disks FOLDER NAME...

The state is opened once for each `NAME`, the prefix of the servers that are new then. Each line of output counts
samples by result.
"""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np

from streamd.core.arrays import Slots
from streamd.core.state.samples import Sample
from streamd.runtime.admission import Admission
from streamd.runtime.ingest import Ingest, IngestLoad
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.loop_mounts import fill, free
from tests.support.state_files import opened

CONTRACT = make_contract(
    features=tuple(f"f{number}" for number in range(14)),
    targets=("f0", "f1", "f2", "f3"),
    context_length=288,
    horizon=96,
)
LIMITS = WindowLimits(capacity=2_000, need=2, late_steps=288, grace_seconds=10.0)
SPACE_FOR = 140
"""More servers than the pieces that were reserved as a whole have space for."""

ROUNDS = (4_096, 20_000, 70_000, 140_000, 300_000, 2**20, 40_000)
"""The bytes that become free before the next servers arrive: few, so that a slot gets some of its pages and not all."""


def write_line(*words: str) -> None:
    """Write a line and flush it: the process may end at the next write to the state."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


class Sender:
    """Sends rows of servers through the real ingest, and posts forecasts as the pipeline does."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._ingest = Ingest(
            state,
            max_ahead_seconds=1e9,
            load=IngestLoad(),
            admission=Admission(state, self),
            rows_due=self,
            server_contradicted=self,
        )

    def mark_due(self, slot: int, rows: int) -> None:
        """Do nothing: `send` posts the forecasts."""

    def mark_due_many(self, slots: Slots) -> None:
        """Do nothing, as `mark_due`."""

    def forget(self, slot: int) -> None:
        """Do nothing: no data by slot."""

    def contradict(self, slot: int) -> None:
        """Do nothing: no clock is watched."""

    def send(self, what: str, servers: list[str], rows: int, stride: int = 1) -> None:
        """Send rows of each server, each `stride` steps after the last, and write the number of samples by result."""
        codes: dict[str, int] = {"accepted": 0}
        with asyncio.Runner() as runner:
            for _ in range(rows):
                samples = [(index, self._sample(server, stride)) for index, server in enumerate(servers)]
                result = runner.run(self._ingest.take_samples(samples))
                codes["accepted"] += result.accepted
                for error in result.errors:
                    codes[error["code"]] = codes.get(error["code"], 0) + 1
        self._post()
        write_line(what, *(f"{code}={count}" for code, count in sorted(codes.items()) if count))

    def _sample(self, server: str, stride: int) -> Sample:
        slot = self._state.directory.slots.get(server)
        step = 1_000 if slot is None else self._state.windows.get_latest_step(slot) + stride
        values: dict[str, float | None] = {name: float(place + step) for place, name in enumerate(CONTRACT.features)}
        return Sample(server=server, time=float(step * CONTRACT.step_seconds), values=values)

    def _post(self) -> None:
        for slot in self._state.directory.slots.values():
            if self._state.find_shortage() is None:
                forecast = np.full(CONTRACT.forecast_shape, slot, np.float32)
                self._state.board.post(slot, self._state.windows.get_newest_step(slot), 48, b"model", forecast)


def run(folder: Path, name: str) -> None:
    """Fill the disk and free some of it, several times; write the results of samples each time."""
    ballast = folder / "ballast"
    with opened(folder / "state", CONTRACT, LIMITS, time.monotonic()) as state:
        sender = Sender(state)
        known = list(state.directory.slots)
        if not known:
            known = [f"{name}-{number}" for number in range(20)]
            sender.send("first", known, 1)
            sender.send("first", known, 40)
            state.flush()
        fill(ballast)
        sender.send("reserved", [f"{name}-reserved-{number}" for number in range(SPACE_FOR)], 1)
        sender.send("full-new", [f"{name}-new-{number}" for number in range(10)], 1)
        sender.send("full-old", known, 12, stride=25)  # over every page of their windows
        state.flush()
        sender.send("full-old", known, 2)
        for number, size in enumerate(ROUNDS):
            free(ballast, size)
            sender.send("tight", [f"{name}-tight-{number}-{each}" for each in range(12)], 1)
            fill(ballast)
            state.reserve_whole_pieces()
            sender.send("full-old", list(state.directory.slots), 2)
        free(ballast, 80 * 2**20)
        sender.send("free-new", [f"{name}-free-{number}" for number in range(50)], 1)
        sender.send("free-old", known, 2)
        fill(ballast)
        sender.send("reserved", [f"{name}-last-{number}" for number in range(SPACE_FOR)], 1)
        sender.send("full-again", [f"{name}-late-{number}" for number in range(10)], 1)
    write_line("ended")


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        run(Path(sys.argv[1]), argument)
