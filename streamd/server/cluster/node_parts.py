"""The parts of a node that need the service: what takes samples, what owns shards, what asks and shows other nodes."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from streamd import __version__
from streamd.cluster.forecasts.forecasts import ClusterForecasts
from streamd.cluster.forecasts.server_subjects import ServerSubjects
from streamd.cluster.log import Log
from streamd.cluster.nodes.node import ClusterNode
from streamd.cluster.nodes.node_settings import NodeCondition, NodeSettings
from streamd.cluster.rows.cluster_ingest import make_takers
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.core.cluster.shards import ClusterNames
from streamd.core.selection import make_forecast_slice
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.frames import FrameEncoder
from streamd.runtime.service import Service
from streamd.server.cluster.applied import AppliedCounts
from streamd.server.cluster.fleet_view import WholeFleet
from streamd.server.cluster.forgetting import ServerForgetter
from streamd.server.cluster.lag import LagWatch
from streamd.server.cluster.missing import MissingStreams
from streamd.server.cluster.nodes import NodeView
from streamd.server.cluster.own_shards import OwnShards
from streamd.server.cluster.remote_calls import CallServer, RemoteCalls
from streamd.server.cluster.report import add_cluster_metrics, add_shard_metrics
from streamd.server.config import ClusterSection


class NodeParts:
    """The parts of one node; `start` them once the node has joined.

    `describe` returns the node's condition, `read_time` epoch seconds, `find_calls` what answers the calls of others.
    """

    def __init__(
        self,
        settings: ClusterSection,
        name: str,
        cluster_log: Log,
        names: ClusterNames,
        service: Service,
        forecasts: ClusterForecasts,
        publisher: RowPublisher,
        *,
        own: OwnShards,
        describe: Callable[[], NodeCondition],
        read_time: Callable[[], float],
        find_calls: Callable[[], CallServer],
    ) -> None:
        self._settings = settings
        self._name = name
        self._log = cluster_log
        self._names = names
        self._service = service
        self._publisher = publisher
        self._own = own
        self.takers = make_takers(service, publisher, settings.shards, read_time)
        self.node = self._make_node(forecasts, describe)
        self.lag = LagWatch(cluster_log, names, self.node)
        self.view = self._make_view(forecasts, find_calls)
        self._missing = MissingStreams(cluster_log, names, self.node)
        self._fleet = WholeFleet(forecasts.mirrors, lambda: len(service.fleet))
        self._subjects = self._make_subjects() if settings.forecast_subjects else None
        if self._subjects is not None:
            forecasts.published = self._subjects.publish
        self._reader_ids = forecasts.reader_ids
        forecasts.hears_owners = self._hears_owners

    def _make_node(self, forecasts: ClusterForecasts, describe: Callable[[], NodeCondition]) -> ClusterNode:
        settings = NodeSettings(
            node=self._name,
            shards=self._settings.shards,
            lease_seconds=self._settings.lease_seconds,
            rebalance_delay_seconds=self._settings.rebalance_delay_seconds,
            max_clock_offset_seconds=self._settings.max_clock_offset_seconds,
            version=__version__,
        )
        return ClusterNode(settings, self._log, self._names, forecasts.make_shard, describe)

    def _make_view(self, forecasts: ClusterForecasts, find_calls: Callable[[], CallServer]) -> NodeView:
        shards = self._settings.shards
        remote = RemoteCalls(
            self._log,
            self._names,
            self._name,
            shards,
            find_owner=self._find_answerer,
            list_nodes=lambda: [each.node for each in self.node.list_alive()],
            answer_list=lambda call: find_calls().list_servers(call),
            has_forecast=forecasts.mirrors.has_forecast,
        )
        return NodeView(
            self.node,
            self._log,
            self._names.name,
            remote,
            forget=ServerForgetter(
                self._publisher,
                self._service.state.directory,
                shards,
                lambda: forecasts.log_clock.read(time.monotonic()),
            ).forget,
            publisher=self._publisher,
            show_all=lambda: self._fleet.show_all(),
            list_missing=lambda: sorted(self._missing.missing),
            refuses_after_seconds=self._settings.publish_timeout_seconds,
        )

    def _find_answerer(self, shard: int) -> str | None:
        """Return the node that can answer for a shard: one that only takes it over cannot yet."""
        owner = self.node.find_owner(shard)
        return None if owner == self._name and not self._own.is_owned(shard) else owner

    def _hears_owners(self) -> bool:
        """Whether heartbeats come of each node that has a shard: another one may hear it, and get its forecasts."""
        node, shards = self.node, range(self._settings.shards)
        return all(node.find_owner(shard) is not None for shard in shards if node.find_holder(shard).node)

    def _make_subjects(self) -> ServerSubjects:
        service = self._service
        frames, whole = FrameEncoder(service), make_forecast_slice(service.contract, None, None)
        return ServerSubjects(
            self._log,
            self._names,
            service.state.directory.names,
            lambda slot: frames.encode_forecast(slot, whole, Encoding.MSGPACK),
        )

    def add_metrics(self, forecasts: ClusterForecasts, applied: AppliedCounts) -> None:
        """Add the metrics of the node to those of the service."""
        metrics = self._service.metrics
        add_cluster_metrics(metrics, self.view, self.node, self._publisher)
        add_shard_metrics(metrics, self._log, self.node, forecasts, self.lag, applied)

    # ------------------------------------------------------------ life
    def start(self) -> None:
        """Do from now on what a node does at intervals."""
        if self._subjects is not None:
            self._subjects.start()
        self.lag.start()
        self._missing.start()
        self._reader_ids.start(self._settings.lease_seconds)

    def add_closers(self, closers: AsyncExitStack) -> None:
        """Let all parts be closed by a stack: those that watch the node first."""
        if self._subjects is not None:
            closers.push_async_callback(self._subjects.close)
        closers.callback(self._fleet.close)
        closers.push_async_callback(self.node.close)
        closers.push_async_callback(self._missing.close)
        closers.push_async_callback(self.lag.close)
