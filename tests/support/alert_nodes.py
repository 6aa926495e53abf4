"""Nodes of a cluster that have alerts only: each with a state of its own, over one made log."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from streamd.cluster.alerts.alert_records import decode_record
from streamd.cluster.alerts.cluster_alerts import ClusterAlerts
from streamd.core.alerts.settings import AlertSettings
from streamd.core.cluster.shards import ClusterNames
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey
from streamd.runtime.alerts.monitor import AlertMonitor
from streamd.runtime.alerts.store import DeliveryMark
from tests.support.alert_rig import FIRST_STEP, MODEL, Table, post_forecast
from tests.support.made_broker import BUCKET_PREFIX
from tests.support.made_log import MemoryLog, make_memory_log
from tests.support.state_files import opened, send, whole

NAMES = ClusterNames("streamd")
HIGH, LOW = 95.0, 50.0


class NotedReceivers:
    """The receivers of one node: what they were notified of, and what they adopted."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.adopted: list[str] = []
        self.released: list[str] = []

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        self.changes += [(each.kind, each.alert.server) for each in changes if each.kind in ("fired", "resolved")]

    def adopt(self, active: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        self.adopted += [alert.server for alert in active]

    def release(self, keys: AbstractSet[AlertKey]) -> None:
        self.released += sorted(server for _, server in keys)


class NotedReader:
    """A reader of a node's alerts: the changes that it was shown."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        names = [each.alert.key for each in changes]
        assert len(set(names)) == len(names), "each change is of another alert"
        self.changes += [(each.kind, each.alert.server) for each in changes if each.kind != "refreshed"]


class AlertNode:
    """One node: a state, a monitor and its keeper."""

    def __init__(self, folder: Path, log: MemoryLog, shards: int, rules: dict[str, Table]) -> None:
        self._stack = ExitStack()
        self.log = log
        self.state = self._stack.enter_context(opened(folder))
        self._wall = float(self.state.contract.to_origin(FIRST_STEP))
        self.ready = asyncio.Event()
        self.keeper = ClusterAlerts(
            log, NAMES, shards, self.state.directory, ready=self.ready.set, wall=lambda: self._wall
        )
        settings = AlertSettings(rules=rules)
        self.monitor = AlertMonitor(self.state, settings, shared=self.keeper, wall=lambda: self._wall)
        self.receivers, self.reader = NotedReceivers(), NotedReader()
        self.monitor.add_receivers(self.receivers)
        self.monitor.add_listener(self.reader)

    async def start(self) -> None:
        await self.monitor.start()
        self.keeper.start()
        await self.ready.wait()

    async def close(self) -> None:
        await self.keeper.close()
        self.monitor.close()
        self._stack.close()

    def row(self, server: str) -> int:
        """Give a server its next row, as the row log brings it to each node that follows; returns the step."""
        slot = self.state.directory.slots.get(server)
        step = FIRST_STEP if slot is None else self.state.windows.get_newest_step(slot) + 1
        send(self.state, server, step, whole(1.0))
        return step

    def forecast(self, server: str, top: float) -> None:
        """Give a server its next row, and post the forecast of it as the owner does."""
        step = self.row(server)
        slot = self.state.directory.slots[server]
        post_forecast(self.state, slot, step, top)
        self.monitor.forecasts_posted(np.array([slot]), np.array([step]), MODEL, np.empty((1, 2, 4, 3), np.float32))

    def count_waiting(self) -> int:
        """Return the changes that are not stored yet."""
        families = {family.name: family for family in self.keeper.collect_metrics()}
        return int(families["streamd_cluster_alerts_waiting"].samples[0].value)

    def list_marks(self) -> set[DeliveryMark]:
        """Return the marks of deliveries that the table has."""
        stream = self.log.broker.get_stream(f"{BUCKET_PREFIX}{NAMES.bucket('alerts')}")
        records = (decode_record(message.data) for message in stream.list_after(">", 0))
        return {mark for record in records for mark in record.marks}

    def list_active(self) -> list[tuple[str, str]]:
        return sorted((alert.server, alert.state.value) for alert in self.monitor.active.values())


async def wait_until(holds: Callable[[], bool], what: str = "") -> None:
    """Wait until something holds; fails after ten seconds."""
    try:
        async with asyncio.timeout(10.0):
            while not holds():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


def make_log() -> MemoryLog:
    """Return a log with the tables of a cluster."""
    return make_memory_log(NAMES, 0)
