"""An ingest over a state folder, and records of its reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamd.core.arrays import Slots
from streamd.core.errors import InvalidInputError
from streamd.core.state.samples import IngestResult, Sample
from streamd.runtime.admission import Admission
from streamd.runtime.ingest import Ingest, IngestLoad
from streamd.runtime.state.state import State
from tests.support.state_files import LIMITS, opened, whole

START = 1_700_000_100
STEP = START // 300


class RecordingIngest:
    """An ingest, and records of its reports."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.due: list[tuple[str | None, int]] = []
        self.forgotten: list[int] = []
        self.load = IngestLoad()
        self.admission = Admission(state, self)
        self.ingest = Ingest(
            state,
            max_ahead_seconds=300.0,
            load=self.load,
            admission=self.admission,
            rows_due=self,
            server_contradicted=self,
        )

    def forget(self, slot: int) -> None:
        self.forgotten.append(slot)

    def contradict(self, slot: int) -> None:
        raise AssertionError("no server lies ahead of the clock here")

    def mark_due(self, slot: int, rows: int) -> None:
        self.due.append((self.state.directory.names[slot], rows))

    def mark_due_many(self, slots: Slots) -> None:
        self.due += [(self.state.directory.names[slot], 1) for slot in slots.tolist()]

    async def take(self, *samples: Sample | InvalidInputError) -> IngestResult:
        return await self.ingest.take_samples(enumerate(samples))


@contextmanager
def record_ingest(folder: Path, **limits: Any) -> Iterator[RecordingIngest]:
    with opened(folder, limits=replace(LIMITS, **limits)) as state:
        yield RecordingIngest(state)


def sample(server: str = "web-01", step: int = 0, values: dict[str, float | None] | None = None, **more: Any) -> Sample:
    return Sample(server, START + 300 * step, whole(1.0) if values is None else values, **more)
