"""Alerts of a cluster: a node evaluates those of its shards' servers, all nodes show those of all.

The state of alerts is in the table `alerts`, so the next owner of a shard goes on where the last one was. Runs on the
event loop, but for `select` and `keep`, which the thread of the alerts calls.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamd.cluster.alerts.alert_records import count_parts, find_record_key, list_record_keys
from streamd.cluster.alerts.alert_terms import AlertTerms, TermChanges
from streamd.cluster.alerts.cluster_silences import ClusterSilences
from streamd.cluster.alerts.owned_record import OwnedAlertRecord
from streamd.cluster.alerts.record_reader import RecordReader
from streamd.cluster.insisting import insist
from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import Entry, Log, LogAwayError, Unsubscribe
from streamd.cluster.shard_finder import share_finder
from streamd.core.alerts.silences import Silence
from streamd.core.arrays import Slots
from streamd.core.cluster.shards import ClusterNames
from streamd.core.state.directory import Directory
from streamd.runtime.alerts.alert import AlertChange, AlertKey, AlertState
from streamd.runtime.alerts.evaluator import AlertEvaluator
from streamd.runtime.alerts.shared_alerts import EvaluatorCall, OwnAlerts
from streamd.runtime.alerts.store import MAX_RESOLVED, DeliveryMark, StoredAlert, StoredChange

log = structlog.get_logger(__name__)

SILENCE_UPKEEP_SECONDS = 60.0


class ClusterAlerts:
    """The alerts of all nodes at one of them (`SharedAlerts`).

    `ready` is called once the alerts of the whole cluster are known. `wall` returns epoch seconds, `clock` monotonic
    ones.
    """

    def __init__(
        self,
        cluster_log: Log,
        names: ClusterNames,
        shards: int,
        directory: Directory,
        *,
        ready: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_ready = ready
        self._table = cluster_log.table(names.bucket("alerts"))
        self._shards = shards
        self._wall = wall
        self._clock = clock
        self._max_resolved = max(MAX_RESOLVED // (shards * count_parts(shards)), 1)
        self._silences = ClusterSilences(cluster_log.table(names.bucket("control")), self._call, wall)
        self._alerts: OwnAlerts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = asyncio.Event()
        self._is_ready = False
        self._reader = RecordReader(lambda changes: self._require_alerts().show(changes, is_own=False))
        self._fences: dict[int, int] = {}
        """The shards that are owned here."""
        self._parts: dict[str, OwnedAlertRecord] = {}
        """The records that are claimed."""
        self._claims: dict[int, asyncio.Task[None]] = {}
        self._claiming: dict[int, list[OwnedAlertRecord]] = {}
        """The records that are being claimed, by shard."""
        self._has_later_format = False
        self._ending: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._unsubscribe: list[Unsubscribe] = []
        self._failures = 0
        self._finder = share_finder(shards)
        self._terms = AlertTerms(directory, shards)  # of the thread

    # ------------------------------------------------------------ life
    def start(self) -> None:
        """Follow the tables, as soon as the alerts are open; call it when the buckets are there."""
        self._running = start_task(self._run())

    async def _run(self) -> None:
        await self._opened.wait()
        self._unsubscribe.append(await insist(self._silences.follow, "alerts_awaited"))
        self._unsubscribe.append(await insist(lambda: self._table.watch(self._see), "alerts_awaited"))
        self._reader.show_all()
        self._is_ready = True
        self.on_ready()
        for shard, fence in self._fences.items():
            self._begin_claim(shard, fence)
        while True:
            await asyncio.sleep(SILENCE_UPKEEP_SECONDS)
            await self._silences.remove_ended()

    async def close(self) -> None:
        """Keep nothing more; what is not stored is stored once."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for shard in list(self._fences):
            self._lose(shard)
        if self._ending:
            await asyncio.wait(self._ending)
        for unsubscribe in self._unsubscribe:
            with contextlib.suppress(LogAwayError):
                await unsubscribe()
        self._unsubscribe.clear()

    # ------------------------------------------------------------ shards
    def shard_gained(self, shard: int, fence: int) -> None:
        """Evaluate and keep the alerts of a shard's servers from now on, under a fence."""
        if self._fences.get(shard) == fence:
            return
        self._lose(shard)
        self._fences[shard] = fence
        if self._is_ready:
            self._begin_claim(shard, fence)

    def shard_lost(self, shard: int) -> None:
        """Keep the alerts of a shard's servers no more; another node does."""
        self._lose(shard)

    def _begin_claim(self, shard: int, fence: int) -> None:
        self._claims[shard] = start_task(self._claim(shard, fence))

    async def _claim(self, shard: int, fence: int) -> None:
        parts = [self._make_part(key, fence) for key in list_record_keys(shard, self._shards)]
        self._claiming[shard] = parts
        try:
            claimed = await asyncio.gather(*(part.claim() for part in parts))
        except asyncio.CancelledError:
            for part in parts:
                self._end_part(part)
            raise
        finally:
            if self._claiming.get(shard) is parts:
                del self._claiming[shard]
        if not all(claimed):
            log.info("alerts_not_claimed", shard=shard, fence=fence, reason="there is a later owner")
            for part in parts:
                self._end_part(part)
            return
        stored: list[StoredAlert] = []
        for part in parts:
            self._reader.show_news(part.key)  # what was claimed is what was read last
            self._parts[part.key] = part
            stored += part.active.values()
        resolved = sorted((alert for part in parts for alert in part.resolved), key=lambda alert: -alert.updated_at)
        alerts = self._require_alerts()
        alerts.adopt([each.alert for each in stored], resolved)
        alerts.call_evaluator(lambda evaluator: self._begin_term(evaluator, shard, fence, stored))

    def _make_part(self, key: str, fence: int) -> OwnedAlertRecord:
        return OwnedAlertRecord(
            key,
            fence,
            self._table,
            find_entry=self._reader.find_entry,
            show=self._show_own,
            fenced=self._note_fenced,
            max_resolved=self._max_resolved,
            clock=self._clock,
        )

    def _note_fenced(self, part: OwnedAlertRecord) -> None:
        log.info("alerts_fenced", record=part.key, fence=part.fence)
        self._lose(int(part.key.split(".")[1]))

    def _lose(self, shard: int) -> None:
        if self._fences.pop(shard, None) is None:
            return
        claim = self._claims.pop(shard, None)
        if claim is not None and not claim.done():
            claim.cancel()
        keys: list[AlertKey] = []
        for key in list_record_keys(shard, self._shards):
            part = self._parts.pop(key, None)
            if part is not None:
                keys += [*part.active, *(alert.key for alert in part.resolved)]
                self._failures += part.failures
                self._end_part(part)
            if self._is_ready:
                self._reader.show_news(key)
        if self._alerts is not None:
            self._alerts.release(keys)
            self._alerts.call_evaluator(lambda evaluator: self._end_term(evaluator, shard))

    def _end_part(self, part: OwnedAlertRecord) -> None:
        task = start_task(part.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def find_later_format(self) -> bool:
        """Whether a record could not be claimed, since a later release wrote it; from then on until the end."""
        self._has_later_format |= any(part.problem for parts in self._claiming.values() for part in parts)
        return self._has_later_format

    # ------------------------------------------------------------ readers
    def _see(self, key: str, entry: Entry | None) -> None:
        self._reader.note(key, entry)
        if self._is_ready and key not in self._parts:
            self._reader.show_news(key)

    def _show_own(self, part: OwnedAlertRecord, changes: Sequence[AlertChange]) -> None:
        self._reader.note_shown(part.key, part.revision, changes)
        self._require_alerts().show(changes, is_own=True)

    # ------------------------------------------------------------ as shared alerts
    def open(self, alerts: OwnAlerts) -> None:
        """Keep the alerts of this process."""
        self._alerts = alerts
        self._loop = asyncio.get_running_loop()
        self._opened.set()

    def _require_alerts(self) -> OwnAlerts:
        assert self._alerts is not None, "the alerts are open"
        return self._alerts

    def _call(self, call: EvaluatorCall) -> None:
        self._require_alerts().call_evaluator(call)

    async def add_silence(self, silence: Silence) -> None:
        """Let a silence hold at all nodes."""
        await self._silences.add(silence)

    async def end_silence(self, silence_id: str) -> Silence:
        """End a silence at all nodes."""
        return await self._silences.end(silence_id)

    def mark_delivered(self, receiver: str, key: AlertKey, starts_at: float, state: AlertState) -> None:
        """Note that a receiver has got an alert; an alert of another node's server is left to that node."""
        rule, server = key
        part = self._parts.get(find_record_key(server, self._finder.find(server), self._shards))
        if part is not None:
            part.mark(DeliveryMark(receiver, (rule, server), starts_at, state))

    def read_marks(self) -> frozenset[DeliveryMark]:
        """Return the marks of the alerts of this node's servers."""
        return frozenset(mark for part in self._parts.values() for mark in part.marks)

    # ------------------------------------------------------------ in the thread
    def select(self, slots: Slots) -> Slots:
        """Return those of slots whose servers' alerts are kept here."""
        return self._terms.select(slots)

    def keep(self, changes: Sequence[StoredChange]) -> None:
        """Pass changes to the records of their servers; those of other nodes' servers are dropped."""
        taken = self._terms.sort(changes)
        if not taken:
            return
        assert self._loop is not None, "the alerts are open"
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take, taken)

    def _take(self, changes: TermChanges) -> None:
        for key, fence, some in changes:
            part = self._parts.get(key)
            if part is not None and part.fence == fence:
                part.take(some)

    def _begin_term(
        self, evaluator: AlertEvaluator, shard: int, fence: int, stored: Sequence[StoredAlert]
    ) -> Sequence[StoredChange]:
        self._terms.begin(shard, fence)
        self._require_alerts().note_slots(self.select(evaluator.find_forecasts()))
        return evaluator.restore(stored, self._wall(), self._clock())

    def _end_term(self, evaluator: AlertEvaluator, shard: int) -> Sequence[StoredChange]:
        self._terms.end(shard, evaluator)
        return ()

    # ------------------------------------------------------------ reports
    def collect_metrics(self) -> Iterator[Metric]:
        """Yield the metric families of the node's alerts."""
        yield GaugeMetricFamily(
            "streamd_cluster_alerts_waiting",
            "Changes of alerts that wait until they are in the table of the cluster",
            value=sum(part.waiting for part in self._parts.values()),
        )
        yield CounterMetricFamily(
            "streamd_cluster_alert_failures",
            "Failed writes of alerts to the table of the cluster; each is repeated",
            value=self._failures + sum(part.failures for part in self._parts.values()),
        )
