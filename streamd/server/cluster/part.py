"""A daemon as a node of a cluster: what its `Daemon` does otherwise than one that is alone.

Made before the service, which gets its links; joins the cluster in the background, while the first version loads.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypedDict

import structlog

from streamd.cluster.alerts.cluster_alerts import ClusterAlerts
from streamd.cluster.control_restorer import ControlRestorer
from streamd.cluster.forecasts.fences import raise_revisions
from streamd.cluster.forecasts.forecasts import ClusterForecasts, ShardParts
from streamd.cluster.insisting import insist
from streamd.cluster.log import LogMissingError
from streamd.cluster.meta import ClusterMeta, check_meta, compare_meta, make_meta, read_meta
from streamd.cluster.nats.streams import BUCKET_PREFIX
from streamd.cluster.nodes.node import ClusterNode
from streamd.cluster.nodes.node_settings import NodeCondition
from streamd.cluster.rows.applier import Applier
from streamd.cluster.rows.cluster_ingest import ClusterIngest
from streamd.cluster.rows.cluster_singles import ClusterSingles
from streamd.cluster.rows.point_relay import PointRelay
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.rows.window_snapshots import WindowSnapshots
from streamd.cluster.streams import ShardLimits, prepare_streams
from streamd.cluster.versions.rollout import Rollout
from streamd.core.cluster.membership import NodePhase
from streamd.core.cluster.shards import ClusterNames
from streamd.http.app import HttpApp
from streamd.runtime.process_links import ProcessLinks
from streamd.runtime.service import Service
from streamd.runtime.state.state import State
from streamd.server.cluster.applied import AppliedCounts
from streamd.server.cluster.connecting import MakeLog, make_nats_log, make_node_name
from streamd.server.cluster.node_parts import NodeParts
from streamd.server.cluster.nodes import NodeView
from streamd.server.cluster.own_shards import OwnShards
from streamd.server.cluster.remote_calls import CallServer
from streamd.server.cluster.versions import ControlledVersions
from streamd.server.config import Config
from streamd.server.version_control.control import VersionControl

log = structlog.get_logger(__name__)

LEAVING = "this node is stopping; send again, to another node"
JOINING = "this node joins its cluster; send again later, or to another node"


class ClusterSeams(TypedDict, total=False):
    """The parts that the routes take from a cluster, as `make_http_app` names them."""

    nodes: NodeView
    taker: ClusterIngest | None
    singles: ClusterSingles | None
    points: PointRelay


class ClusterPart:
    """One node: its connection, its rows, its forecasts and its place among the others. Make it on the running loop.

    Raises `ConfigError` if the client of NATS is missing, or the node has no name that can be one.
    """

    def __init__(self, config: Config, make_log: MakeLog | None = None) -> None:
        settings = config.cluster
        self.node_name = settings.node or make_node_name(socket.gethostname())
        self.names = ClusterNames(settings.cluster_name)
        self.log, self._connect = (make_log or make_nats_log)(config, self.node_name)
        self.on_replaced: Callable[[], None] = lambda: None
        """Called if another run of this node's name was heard; this one must end."""
        self._config = config
        self._shards = settings.shards
        self._limits = ShardLimits(
            row_bytes=settings.shard_log_mb * 2**20, forecast_bytes=settings.shard_forecasts_mb * 2**20
        )
        self._forecasts: ClusterForecasts | None = None
        self._alerts: ClusterAlerts | None = None
        self._meta: ClusterMeta | None = None
        self._own: OwnShards | None = None
        self._service: Service | None = None
        self._parts: NodeParts | None = None
        self._calls: CallServer | None = None
        self._rollout: Rollout | None = None
        self._applied = AppliedCounts()
        self._publisher = RowPublisher(
            self.log,
            self.names,
            run=f"{self.node_name}-{secrets.token_hex(6)}",
            buffer_bytes=settings.buffer_mb * 2**20,
            publish_timeout_seconds=settings.publish_timeout_seconds,
        )
        self._publisher.refusal = JOINING
        self._closers = AsyncExitStack()
        """What was made is closed in the opposite order."""
        self._closers.push_async_callback(self.log.close)
        self._closers.push_async_callback(self._publisher.close)
        self._restorer = ControlRestorer(self.log.table(self.names.bucket("control")))
        self._closers.push_async_callback(self._restorer.close)

    # ------------------------------------------------------------ the service
    def make_links(self, state: State) -> ProcessLinks:
        """Return the links of a service over this state."""
        windows = self._config.windows
        self._meta = make_meta(
            state.contract,
            shards=self._shards,
            aggregation=windows.aggregation,
            late_tolerance_steps=windows.late_tolerance_steps,
        )
        self._alerts = ClusterAlerts(self.log, self.names, self._shards, state.directory, wall=self.read_time)
        self._closers.push_async_callback(self._alerts.close)
        self._forecasts = ClusterForecasts(
            self.node_name,
            self.log,
            self.names,
            self._shards,
            state,
            self._make_shard_parts,
            max_chain_bytes=self._limits.forecast_bytes,
            wall=self.read_time,
        )
        self._closers.push_async_callback(self._forecasts.close)
        self._forecasts.gate.changed = self._note_owning
        self._own = OwnShards(self._forecasts, self._shards)
        return replace(self._forecasts.links, shared_alerts=self._alerts)

    def _make_shard_parts(self, shard: int) -> ShardParts:
        service = self.service
        applier = Applier(service, shard, self._shards)
        self._applied.add(shard, applier)
        return ShardParts(rows=applier, snapshots=WindowSnapshots(self.log, self.names, service, applier, shard))

    def _note_owning(self, shard: int, is_owning: bool) -> None:
        follower = self.forecasts.chains.find(shard)
        if is_owning and follower is not None:
            self.alerts.shard_gained(shard, follower.chain.fence)
        else:
            self.alerts.shard_lost(shard)

    def read_time(self) -> float:
        """Return epoch seconds by the middle of all nodes' clocks."""
        return time.time() if self._parts is None else self._parts.node.read_cluster_time()

    def open(self, service: Service) -> None:
        """Serve a service that was built with the links."""
        self._service = service
        self.forecasts.open(service)
        self.alerts.on_ready = service.alert_subscriptions.begin
        service.metrics.add_families(self.alerts.collect_metrics)
        parts = self._parts = NodeParts(
            self._config.cluster,
            self.node_name,
            self.log,
            self.names,
            service,
            self.forecasts,
            self._publisher,
            own=self.own,
            describe=self._describe_condition,
            read_time=self.read_time,
            find_calls=lambda: self.calls,
        )
        parts.node.on_replaced = lambda: self.on_replaced()
        parts.add_metrics(self.forecasts, self._applied)
        parts.add_closers(self._closers)

    def list_seams(self) -> ClusterSeams:
        """Return what the routes take from this node."""
        takers = self.parts.takers
        return {"nodes": self.parts.view, "taker": takers.samples, "singles": takers.singles, "points": takers.points}

    def serve(self, http_app: HttpApp) -> None:
        """Answer the calls of other nodes by an application, from `join` on."""
        self._calls = CallServer(self.service, http_app.answers, self._shards, self.own.list_owned)
        self._closers.push_async_callback(self._calls.close)

    # ------------------------------------------------------------ versions
    def make_rollout(self, control: VersionControl) -> Rollout:
        """Return what changes the versions of the whole cluster, from `follow_versions` on."""
        node = self.node
        control.is_in_cluster = True
        self._rollout = Rollout(
            self.log.table(self.names.bucket("control")),
            self.node_name,
            lambda: [each.node for each in node.list_alive() if each.phase is NodePhase.SERVING],
            ControlledVersions(control, self.service),
            wall=self.read_time,
        )
        self._closers.push_async_callback(self._rollout.close)
        return self._rollout

    async def follow_versions(self) -> None:
        """Serve what the cluster does from now on; call it when a version serves here, and the node has joined."""
        assert self._rollout is not None, "it was made for the routes"
        await self._insist(self._rollout.start)

    # ------------------------------------------------------------ life
    async def join(self) -> None:
        """Join the cluster, however long NATS is away. Raises `ConfigError` if this node does not fit the others."""
        await self._connect()
        steps = (self._compare_meta, self._prepare_streams, self._raise_revisions, self._check_meta, self.node.start)
        for step in steps:
            await self._insist(step)
        self.alerts.start()
        await self._insist(lambda: self.calls.serve(self.log, self.names, self.node_name))
        self.parts.start()
        if self._publisher.refusal == JOINING:  # it may be leaving by now
            self._publisher.refusal = ""

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        await insist(step, "cluster_awaited", cluster=self.names.name)

    async def _compare_meta(self) -> None:
        """Compare what all nodes have in common before anything is made or changed, if there was a node."""
        assert self._meta is not None, "the links were made"
        bucket = self.names.bucket("control")
        try:
            await self.log.read_state(f"{BUCKET_PREFIX}{bucket}")
        except LogMissingError:
            return
        if (recorded := await read_meta(self.log.table(bucket))) is not None:
            compare_meta(self._meta, recorded, self.names.name)

    async def _prepare_streams(self) -> None:
        await prepare_streams(self.log, self.names, self._shards, self._limits)

    async def _raise_revisions(self) -> None:
        await raise_revisions(self.log, self.names, self._shards, self.service.contract.forecast_shape)

    async def _check_meta(self) -> None:
        assert self._meta is not None, "the links were made"
        others = await self.node.find_others()
        await check_meta(self.log.table(self.names.bucket("control")), self.names.name, self._meta, others)
        self._restorer.start()

    async def leave(self, seconds: float) -> None:
        """Take nothing more, bring what was taken into the log, and hand over all shards, within some seconds."""
        self._publisher.refusal = LEAVING
        try:
            async with asyncio.timeout(seconds):
                if self._rollout is not None:
                    await self._rollout.close()
                await self._publisher.wait_empty()
                await self.node.leave()
        except TimeoutError:
            log.warning("not_handed_over", shards=self.node.list_held(), waiting_bytes=self._publisher.queued_bytes)

    async def close(self) -> None:
        """End at once; what waits for the log is lost, unless `leave` has brought it there."""
        try:
            await self._closers.aclose()
        except Exception as exc:  # of one part: all others are closed, and the daemon has to close its state
            log.exception("cluster_closed_with_error", error=repr(exc))

    # ------------------------------------------------------------ parts
    @property
    def parts(self) -> NodeParts:
        """The parts that need the service."""
        assert self._parts is not None, "the part is open"
        return self._parts

    @property
    def node(self) -> ClusterNode:
        """The node."""
        return self.parts.node

    @property
    def forecasts(self) -> ClusterForecasts:
        """The way of forecasts through the log."""
        assert self._forecasts is not None, "the links were made"
        return self._forecasts

    @property
    def alerts(self) -> ClusterAlerts:
        """The alerts of the whole cluster."""
        assert self._alerts is not None, "the links were made"
        return self._alerts

    @property
    def own(self) -> OwnShards:
        """The shards that this node owns."""
        assert self._own is not None, "the links were made"
        return self._own

    @property
    def service(self) -> Service:
        """The service."""
        assert self._service is not None, "the part is open"
        return self._service

    @property
    def calls(self) -> CallServer:
        """The server of calls from other nodes."""
        assert self._calls is not None, "the part serves an application"
        return self._calls

    def _describe_condition(self) -> NodeCondition:
        service = self.service
        disk = ("disk",) if service.storage.problem is not None else ()
        later = ("format",) if self.alerts.find_later_format() else ()
        version = ("version",) if self._rollout is not None and self._rollout.problem else ()
        details = {
            "servers": float(self.own.count_servers()),
            "waiting_bytes": float(self._publisher.queued_bytes),
            "lag_messages": float(0 if self._parts is None else self._parts.lag.total),
        }
        return NodeCondition(is_ready=service.pipeline.is_ready, hindrances=(*disk, *version, *later), details=details)
