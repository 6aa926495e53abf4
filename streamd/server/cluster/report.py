"""The metrics of a node of a cluster: its connection, its leases, its shards, and what waits."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamd.cluster.forecasts.forecasts import ClusterForecasts
from streamd.cluster.log import Log
from streamd.cluster.nodes.node import ClusterNode
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.core.cluster.cluster_view import list_unowned
from streamd.runtime.metrics import Metrics
from streamd.server.cluster.applied import AppliedCounts
from streamd.server.cluster.lag import LagWatch
from streamd.server.cluster.nodes import NodeView

_PREFIX = "streamd_cluster"


def add_cluster_metrics(metrics: Metrics, view: NodeView, node: ClusterNode, publisher: RowPublisher) -> None:
    """Add the connection, the place among the nodes, and the rows on their way into the log."""
    _add_connection(metrics, view, node)
    _add_rows(metrics, publisher)


def add_shard_metrics(
    metrics: Metrics,
    cluster_log: Log,
    node: ClusterNode,
    forecasts: ClusterForecasts,
    lag: LagWatch,
    applied: AppliedCounts,
) -> None:
    """Add the shards that are here, and what they read and wrote."""
    metrics.add_families(lambda: _collect_shards(node, forecasts, lag))
    metrics.add_labelled_counter("cluster_applied", "What was applied from row logs, by kind", "kind", applied.count)
    metrics.add_labelled_counter(
        "cluster_rows_rejected",
        "Rows of logs that their owner could not take, by error code",
        "code",
        applied.count_rejected,
    )
    metrics.add_labelled_counter(
        "cluster_log_repairs",
        "Defects of what was read from logs, by what became of them",
        "kind",
        lambda: {"fetched": cluster_log.fetched, **forecasts.chains.count_repairs()},
    )
    metrics.add_labelled_counter(
        "cluster_lease_changes",
        "Changes of leases by what became of the shard here: taken, released, lost, failed",
        "change",
        lambda: dict(node.lease_changes),
    )


def _add_connection(metrics: Metrics, view: NodeView, node: ClusterNode) -> None:
    metrics.add_gauge(
        "cluster_connected", "1 while there is a connection to NATS", lambda: float(not view.away_seconds)
    )
    metrics.add_gauge("cluster_away_seconds", "For how long NATS has been away", lambda: view.away_seconds)
    metrics.add_gauge("cluster_eligible", "1 while this node may own shards", lambda: float(node.may_own))
    metrics.add_gauge("cluster_nodes", "Nodes that are heard, this one included", lambda: len(node.list_alive()))
    metrics.add_gauge(
        "cluster_clock_ahead_seconds",
        "How far the clock of this node is ahead of the middle of all nodes' clocks",
        lambda: node.clock_ahead_seconds,
    )
    metrics.add_gauge(
        "cluster_shards_without_node",
        "Shards that no living node has, as this node sees it",
        lambda: len(
            list_unowned(
                {shard: node.find_holder(shard) for shard in range(node.settings.shards)},
                node.list_alive(),
                node.settings.shards,
            )
        ),
    )


def _add_rows(metrics: Metrics, publisher: RowPublisher) -> None:
    metrics.add_gauge(
        "cluster_waiting_bytes",
        "Bytes of rows that were taken and are not in the log yet",
        lambda: publisher.queued_bytes,
    )
    metrics.add_gauge(
        "cluster_waiting_shards", "Shards whose row log does not answer", lambda: publisher.waiting_shards
    )
    metrics.add_counter(
        "cluster_appended_messages", "Messages of rows that were appended", lambda: publisher.appended_messages
    )
    metrics.add_counter("cluster_appended_bytes", "Bytes of these messages", lambda: publisher.appended_bytes)
    metrics.add_counter(
        "cluster_append_retries", "Appends of rows that were made again without an answer", lambda: publisher.retries
    )
    metrics.add_counter(
        "cluster_rows_refused", "Times that rows were refused because too much waited", lambda: publisher.refused
    )
    metrics.add_counter(
        "cluster_rows_expired",
        "Senders that were answered 503 before their rows were in the log",
        lambda: publisher.expired,
    )


def _collect_shards(node: ClusterNode, forecasts: ClusterForecasts, lag: LagWatch) -> Iterator[Metric]:
    """Yield the families with a sample for each shard that is here."""
    states = GaugeMetricFamily(
        f"{_PREFIX}_shards", "Shards that are here, by what this node does with them", labels=["state"]
    )
    fences = GaugeMetricFamily(f"{_PREFIX}_fence", "The fence of each shard that this node owns", labels=["shard"])
    behind = GaugeMetricFamily(
        f"{_PREFIX}_lag_messages", "Messages of rows of a shard that are not in its windows yet", labels=["shard"]
    )
    waiting = GaugeMetricFamily(
        f"{_PREFIX}_forecasts_waiting", "Forecasts of a shard that are not in the log yet", labels=["shard"]
    )
    appended = CounterMetricFamily(
        f"{_PREFIX}_forecasts", "Forecasts of shards that are here, by their end", labels=["end"]
    )
    counts = {"following": 0, "owning": 0, "leaving": 0}
    for shard in range(node.settings.shards):
        held = node.find_held(shard)
        owned = forecasts.shards.get(shard)
        if held is None or owned is None:
            continue
        state, label = str(held.describe()["state"]), [str(shard)]
        counts[state] = counts.get(state, 0) + 1
        fences.add_metric(label, node.find_fence(shard) if owned.is_owning else 0)
        behind.add_metric(label, lag.messages.get(shard, 0))
        waiting.add_metric(label, owned.publisher.waiting)
    for state, count in counts.items():
        states.add_metric([state], count)
    done = forecasts.counts
    ends = {"appended": done.forecasts, "known": done.known, "local": done.local}
    ends["dropped"] = 0 if forecasts.sink is None else forecasts.sink.dropped
    for end, count in ends.items():
        appended.add_metric([end], count)
    yield from (states, fences, behind, waiting, appended)
