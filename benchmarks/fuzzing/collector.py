"""The whole path as a target: each body is decoded into a real collector over a state folder, and committed.

The first byte of a body chooses the decoder. What is checked after each: nothing but streamd's errors, every point is
counted once, and another server's points are taken. Now and then: the collector's counts agree with what it keeps, and
it starts again from its log.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.checks import Finding
from benchmarks.fuzzing.mutations import BodyShape
from benchmarks.fuzzing.targets import NOW, TARGETS, FuzzTarget, Sink
from benchmarks.harness import ROOT
from streamd.core.arrays import Slots
from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.series import SourceSeries
from streamd.repository.versions import EngineRepository
from streamd.rule_sets import list_rule_sets, load_rule_set
from streamd.runtime.admission import Admission
from streamd.runtime.aggregation.batch import PointBatch
from streamd.runtime.aggregation.collector import Collector, CollectorLimits
from streamd.runtime.aggregation.point_log import PointLog
from streamd.runtime.ingest import IngestLoad
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits

BODIES_BETWEEN_CHECKS = 50
BODIES_BETWEEN_STARTS = 3_000
CAPACITY = 64

_DECODERS = [target for target in TARGETS if target.name != "codings"]


class CollectorRig:
    """A collector over a state folder, with a clock that only this rig moves."""

    def __init__(self, folder: Path) -> None:
        self.bodies = 0
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._wall = NOW
        self._open()

    # ------------------------------------------------------------ the parts that the collector calls
    def forget(self, slot: int) -> None:
        """Drop the points of a slot that gets another server."""
        self.collector.forget(slot)

    def contradict(self, slot: int) -> None:
        """Do nothing: the clock of this rig is right."""

    def mark_due(self, slot: int, rows: int) -> None:
        """Do nothing: no forecast is made."""

    def mark_due_many(self, slots: Slots) -> None:
        """Do nothing, as `mark_due`."""

    # ------------------------------------------------------------ one body
    def take(self, body: bytes, sink: Sink) -> Iterator[None]:
        """Decode and commit a body; `sink` is not used."""
        target = _DECODERS[body[0] % len(_DECODERS)] if body else _DECODERS[0]
        batch = self.collector.start_batch(target.name)
        for _ in target.decode(body[1:], batch):
            yield
        self._commit(batch)
        yield
        self._check_others()
        self._move_on()

    def _commit(self, batch: PointBatch) -> None:
        points = sum(map(len, batch.points.values())) + sum(batch.ignored.values())
        rejected = batch.result.rejected
        result = self._loop.run_until_complete(self.collector.commit(batch))
        found = result.taken + result.ignored + result.rejected - rejected
        if found != points:
            raise Finding(f"{points} points were decoded, and {found} are counted")

    def _check_others(self) -> None:
        batch = self.collector.start_batch("sentinel")
        batch.add_point(SourceSeries("node_load1", {"server": "sentinel"}), self._wall, 1.0)
        result = self._loop.run_until_complete(self.collector.commit(batch))
        if result.taken != 1:
            raise Finding(f"another server's point is not taken: {result}")

    def _move_on(self) -> None:
        self.bodies += 1
        self._wall = NOW + self.bodies  # it never steps back
        if self.bodies % 10 == 0:
            self._loop.run_until_complete(self._close_rows())
        if self.bodies % BODIES_BETWEEN_CHECKS == 0:
            self._check_counts()
        if self.bodies % BODIES_BETWEEN_STARTS == 0:
            self.close()
            self._open()

    async def _close_rows(self) -> None:
        self.collector.close_overdue_rows()
        await asyncio.sleep(0)

    def _check_counts(self) -> None:
        table = self.collector.table
        series = sum(len(server.entries) for server in table.servers.values())
        points = sum(server.count_points() for server in table.servers.values())
        if (series, points) != (table.series, self.collector.points_kept):
            raise Finding(
                f"{series} series and {points} points are kept, "
                f"{table.series} and {self.collector.points_kept} are counted"
            )

    # ------------------------------------------------------------ start and end
    def _open(self) -> None:
        contract = EngineRepository(ROOT / "engines").choose().contract
        limits = WindowLimits(capacity=CAPACITY, need=48)
        self._state = open_state(self._folder, contract, limits, self._wall - NOW)
        mapping = RuleMapping(map(load_rule_set, list_rule_sets()), (*contract.features, "status"))
        step = contract.step_seconds
        self.collector = Collector(
            self._state,
            mapping,
            PointLog(self._folder / "points", segment_seconds=step, retention_seconds=5 * step),
            CollectorLimits(max_series=50_000, max_points=5_000_000),
            load=IngestLoad(),
            admission=Admission(self._state, self),
            rows_due=self,
            server_contradicted=self,
            wall=lambda: self._wall,
            clock=lambda: self._wall - NOW,
        )
        self.collector.restore()

    def close(self) -> None:
        """Close the collector and its files."""
        self.collector.close()
        self._state.close()


class CollectorTarget:
    """Makes the target when it is first used, in a folder that is removed at the end."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._rig: CollectorRig | None = None

    def decode(self, body: bytes, sink: Any) -> Iterator[None]:
        """Pass a body to the rig."""
        if self._rig is None:
            self._folder = tempfile.TemporaryDirectory(prefix="streamd-fuzz-")
            self._rig = CollectorRig(Path(self._folder.name))
        return self._rig.take(body, sink)


def list_collector_seeds() -> list[bytes]:
    """Return the seeds of all decoders, each behind the byte that chooses its decoder."""
    return [bytes([place]) + seed for place, target in enumerate(_DECODERS) for seed in target.list_seeds()]


COLLECTOR = FuzzTarget(
    name="collector",
    shape=BodyShape.BYTES,
    decode=CollectorTarget().decode,
    list_seeds=list_collector_seeds,
    is_stateless=False,
)
"""The whole path."""


def mutate_behind_first_byte(body: bytes) -> BodyShape:
    """Return the shape of what follows the first byte."""
    return _DECODERS[body[0] % len(_DECODERS)].shape if body else BodyShape.BYTES
