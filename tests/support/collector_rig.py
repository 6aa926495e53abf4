"""A collector over a state folder, whose clock a test moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from streamd.core.arrays import Slots
from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.rules import parse_rule_set
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.admission import Admission
from streamd.runtime.aggregation.batch import CommitResult
from streamd.runtime.aggregation.collector import Collector, CollectorLimits
from streamd.runtime.aggregation.point_log import PointLog
from streamd.runtime.ingest import IngestLoad
from streamd.runtime.state.state import State
from tests.support.state_files import LIMITS, opened, rows_of

STEP = 300
BEGIN = 1_700_000_100.0
FIRST = int(BEGIN) // STEP
RULES = parse_rule_set(
    "test",
    {
        "server": ["host"],
        "cpu": {"metric": "cpu", "kind": "counter"},
        "mem": {"metric": "load"},
        "status": {"metric": "status", "kind": "state"},
    },
)

Sent = tuple[str, str, float, float]
"""Host, metric, seconds since `BEGIN`, value."""


class CollectorRig:
    """A collector over a state folder, with a clock that a test moves."""

    def __init__(self, state: State, evict_after_seconds: float = 0.0, **limits: float) -> None:
        self.state = state
        self.wall = BEGIN
        self.stepped = 0.0
        """By how much the wall clock was set; the monotonic one does not notice."""
        self.due: list[tuple[str | None, int]] = []
        self.forgotten: list[int] = []
        self.contradicted: list[int] = []
        features = (*state.contract.features, "status")
        self.collector = Collector(
            state,
            RuleMapping([RULES], features),
            PointLog(state.folder / "points", segment_seconds=STEP, retention_seconds=5 * STEP),
            replace(CollectorLimits(), **limits),  # type: ignore[arg-type]
            load=IngestLoad(),
            admission=Admission(state, self, evict_after_seconds),
            rows_due=self,
            server_contradicted=self,
            wall=lambda: self.wall + self.stepped,
            clock=lambda: self.wall - BEGIN,
        )

    def forget(self, slot: int) -> None:
        self.forgotten.append(slot)
        self.collector.forget(slot)

    def contradict(self, slot: int) -> None:
        self.contradicted.append(slot)

    def mark_due(self, slot: int, rows: int) -> None:
        self.due.append((self.state.directory.names[slot], rows))

    def mark_due_many(self, slots: Slots) -> None:
        self.due += [(self.state.directory.names[slot], 1) for slot in slots.tolist()]

    async def send(self, *sent: Sent, protocol: str = "test") -> CommitResult:
        batch = self.collector.start_batch(protocol)
        for host, metric, seconds, value in sent:
            batch.add_point(SourceSeries(metric, {"host": host} if host else {}), BEGIN + seconds, value)
        return await self.collector.commit(batch)

    def rows(self, host: str) -> dict[int, dict[str, float]]:
        """The rows of a server, by step since `FIRST`."""
        return {step - FIRST: row for step, row in rows_of(self.state, host).items()}


@contextmanager
def collecting(folder: Path, wall: float = BEGIN, **limits: float) -> Iterator[CollectorRig]:
    with opened(folder, limits=replace(LIMITS, need=1)) as state:
        rig = CollectorRig(state, **limits)
        rig.wall = wall
        rig.collector.restore()
        try:
            yield rig
        finally:
            rig.collector.close()
