#!/usr/bin/env python3
"""Write the Grafana dashboard `monitoring/grafana/streamd.json`, which `tests/test_dashboard.py` compares with this.

Built with Grafana's own library, which is one of the development tools. `--check` writes nothing, and says whether the
file is as it should be.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode, VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    VariableRefresh,
    VariableSort,
)

PATH = Path(__file__).resolve().parents[1] / "monitoring/grafana/streamd.json"
DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
OF_DAEMON = 'instance=~"$instance"'
OF_SERVER = 'server="$server",target="$target"'


def add_up(metric: str, *labels: str) -> str:
    """Return a query for the sum of a gauge of all daemons, by labels."""
    by = f" by ({', '.join(labels)}) " if labels else ""
    return f"sum{by}({metric}{{{OF_DAEMON}}})"


def add_up_rate(metric: str, *labels: str) -> str:
    """Return a query for the increase of a counter in a second, of all daemons together, by labels."""
    by = f" by ({', '.join(labels)}) " if labels else ""
    return f"sum{by}(rate({metric}{{{OF_DAEMON}}}[$__rate_interval]))"


def find_quantiles(histogram: str) -> dict[str, str]:
    """Return queries for the median and the 99th percentile of a histogram."""
    rates = add_up_rate(f"{histogram}_bucket", "le")
    return {name: f"histogram_quantile({level}, {rates})" for name, level in (("median", 0.5), ("99 %", 0.99))}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One graph: its queries by the text of their legends, and where its meaning is not plain, a description."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    description: str = ""
    span: int = 8
    is_fan: bool = False
    """Whether the space between the outer quantiles is filled."""


ROWS: Mapping[str, Sequence[Graph]] = {
    "Forecast of a server": [
        Graph(
            title="$target of $server: forecasts at the times that are forecast",
            description=(
                "The newest forecast of each time, in the unit of the target. Needs a store that gets remote write "
                'with remote_write_time = "future" or "both".'
            ),
            queries={"{{quantile}}": f"last_over_time(streamd_forecast_at{{{OF_SERVER}}}[10m])"},
            span=16,
            is_fan=True,
        ),
        Graph(
            title="$target of $server: median by horizon",
            description="What the newest forecast said at each time, so long ahead.",
            queries={"in {{horizon}}": f'max by (horizon) (streamd_forecast{{{OF_SERVER},quantile="0.5"}})'},
        ),
        Graph(
            title="$target of $server: range in each horizon",
            queries={
                "in {{horizon}}": (
                    f'max by (horizon) (streamd_forecast{{{OF_SERVER},quantile="0.9"}}) - '
                    f'max by (horizon) (streamd_forecast{{{OF_SERVER},quantile="0.1"}})'
                )
            },
            description="The 0.9 quantile less the 0.1 quantile: how sure the model is.",
        ),
        Graph(
            title="Servers with the highest median of $target in $horizon",
            queries={"{{server}}": 'topk(10, streamd_forecast{target="$target",horizon="$horizon",quantile="0.5"})'},
        ),
        Graph(
            title="Age of forecasts",
            unit="s",
            description="Since the end of the newest row that a forecast was made from: a step is normal.",
            queries={
                "$server": 'time() - streamd_forecast_origin_timestamp_seconds{server="$server"}',
                "oldest": "time() - min(streamd_forecast_origin_timestamp_seconds)",
            },
        ),
    ],
    "Alerts": [
        Graph(title="Alerts by rule", queries={"{{rule}}: {{state}}": add_up("streamd_alerts", "rule", "state")}),
        Graph(
            title="Time until the threshold is crossed",
            unit="s",
            queries={"{{rule}} {{server}}": 'bottomk(10, streamd_alert_seconds_until{bound="likely"})'},
        ),
        Graph(
            title="Notifications",
            unit="ops",
            queries={
                "{{receiver}}: {{result}}": add_up_rate("streamd_alert_notifications_total", "receiver", "result")
            },
        ),
    ],
    "Work": [
        Graph(title="Rows by their end", unit="ops", queries={"{{state}}": add_up_rate("streamd_rows_total", "state")}),
        Graph(
            title="Samples by result",
            unit="ops",
            queries={
                "{{result}}": add_up_rate("streamd_samples_total", "result"),
                "agents: {{result}}": add_up_rate("streamd_agent_points_total", "result"),
            },
        ),
        Graph(title="Queue delay", unit="s", queries=find_quantiles("streamd_queue_delay_seconds")),
        Graph(title="From sample to subscriber", unit="s", queries=find_quantiles("streamd_forecast_age_seconds")),
        Graph(
            title="Windows in a batch",
            queries={"mean": f"{add_up_rate('streamd_batch_size_sum')} / {add_up_rate('streamd_batch_size_count')}"},
        ),
        Graph(title="Time of a batch in its lane", unit="s", queries=find_quantiles("streamd_inference_seconds")),
        Graph(
            title="Lanes",
            queries={
                "able to run": add_up("streamd_lanes"),
                "lost": add_up("streamd_lanes_lost"),
                "backends passed over": add_up("streamd_fallbacks"),
            },
        ),
        Graph(
            title="Waiting",
            queries={
                "servers that are due": add_up("streamd_due"),
                "in flight": add_up("streamd_in_flight"),
                "windows of callers": add_up("streamd_predict_waiting"),
            },
        ),
        Graph(
            title="Subscribers",
            queries={
                "subscribers": add_up("streamd_subscribers"),
                "forecasts that slow ones missed, a second": add_up_rate("streamd_forecasts_dropped_total"),
            },
        ),
    ],
    "Accuracy": [
        Graph(
            title="Loss by target",
            description="Mean pinball loss divided by the deviation of the series, over the recent steps.",
            queries={"{{version}} {{target}}": f"streamd_live_pinball{{{OF_DAEMON}}}"},
        ),
        Graph(
            title="Coverage",
            unit="percentunit",
            description="The share of values inside of the interval between two quantiles.",
            queries={"{{version}} {{interval}}": f"avg by (version, interval) (streamd_live_coverage{{{OF_DAEMON}}})"},
        ),
        Graph(
            title="Drift",
            description="Live loss divided by the loss in training: above 1, the model has become worse.",
            queries={"{{version}}": f"streamd_live_drift_ratio{{{OF_DAEMON}}}"},
        ),
    ],
    "State and stores": [
        Graph(title="Memory", unit="bytes", queries={"{{instance}}": f"streamd_resident_memory_bytes{{{OF_DAEMON}}}"}),
        Graph(
            title="Changes that may not be on the disk",
            unit="s",
            queries={"{{instance}}": f"streamd_state_unsynced_seconds{{{OF_DAEMON}}}"},
        ),
        Graph(
            title="Remote write",
            unit="ops",
            queries={
                "requests {{result}}": add_up_rate("streamd_remote_write_requests_total", "result"),
                "forecasts {{result}}": add_up_rate("streamd_remote_write_forecasts_total", "result"),
            },
        ),
    ],
    "Cluster": [
        Graph(
            title="Shards by node",
            description="Shards that are owned by each node. They move when a node comes or leaves.",
            queries={"{{instance}}": f'streamd_cluster_shards{{{OF_DAEMON},state="owning"}}'},
        ),
        Graph(
            title="Shards without a node, and nodes without NATS",
            queries={
                "shards without a node": f"max(streamd_cluster_shards_without_node{{{OF_DAEMON}}})",
                "nodes without NATS": f"count(streamd_cluster_connected{{{OF_DAEMON}}} == 0) or vector(0)",
            },
        ),
        Graph(
            title="Changes of leases a second",
            queries={"{{change}}": add_up_rate("streamd_cluster_lease_changes_total", "change")},
        ),
        Graph(
            title="Rows that wait for the log of the cluster",
            queries={"{{instance}}": f"streamd_cluster_waiting_bytes{{{OF_DAEMON}}}"},
            unit="bytes",
        ),
        Graph(
            title="Lag of owners behind the row logs, in messages",
            queries={"{{instance}}": add_up("streamd_cluster_lag_messages", "instance")},
        ),
        Graph(
            title="Clocks ahead of the middle of all nodes",
            queries={"{{instance}}": f"streamd_cluster_clock_ahead_seconds{{{OF_DAEMON}}}"},
            unit="s",
        ),
    ],
}
"""The graphs, by the heading of their row."""

STATS: Mapping[str, tuple[str, str]] = {
    "Servers": (add_up("streamd_servers"), "short"),
    "Daemons that are ready": (add_up("streamd_ready"), "short"),
    "Forecasts a second": (
        f'sum(rate(streamd_rows_total{{{OF_DAEMON},state="delivered"}}[$__rate_interval]))',
        "short",
    ),
    "Alerts that fire": (f'sum(streamd_alerts{{{OF_DAEMON},state="firing"}}) or vector(0)', "short"),
    "Lanes that can run": (add_up("streamd_lanes"), "short"),
    "Up for": (f"min(streamd_uptime_seconds{{{OF_DAEMON}}})", "s"),
}
"""The numbers at the top: a query and its unit by the title."""


def make_dashboard() -> str:
    """Return the dashboard as JSON, with a line for each value."""
    board = (
        Dashboard("streamd")
        .uid("streamd")
        .description("A fleet's forecasts, and the daemon that makes them.")
        .tags(["streamd"])
        .refresh("1m")
        .time("now-6h", "now+8h")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Store").type("prometheus"))
    )
    for name, label, query in (
        ("instance", "Daemon", "label_values(streamd_ready, instance)"),
        ("server", "Server", "label_values(streamd_forecast_origin_timestamp_seconds, server)"),
        ("target", "Target", 'label_values(streamd_forecast{server="$server"}, target)'),
        ("horizon", "Horizon", 'label_values(streamd_forecast{server="$server"}, horizon)'),
    ):
        board = board.with_variable(_make_variable(name, label, query))
    board = board.with_row(Row("Overview"))
    for title, (query, unit) in STATS.items():
        board = board.with_panel(_make_stat(title, query, unit))
    for heading, graphs in ROWS.items():
        board = board.with_row(Row(heading))
        for graph in graphs:
            board = board.with_panel(_make_graph(graph))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _make_variable(name: str, label: str, query: str) -> QueryVariable:
    variable = (
        QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    return variable.multi(True).include_all(True) if name == "instance" else variable


def _make_stat(title: str, query: str, unit: str) -> Stat:
    return (
        Stat()
        .title(title)
        .datasource(DATASOURCE)
        .unit(unit)
        .height(4)
        .span(WIDTH // len(STATS))
        .with_target(Dataquery().expr(query).instant().ref_id("A").datasource(DATASOURCE))
    )


def _make_graph(graph: Graph) -> Timeseries:
    panel = (
        Timeseries()
        .title(graph.title)
        .description(graph.description)
        .datasource(DATASOURCE)
        .unit(graph.unit)
        .height(8)
        .span(graph.span)
        .fill_opacity(0)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for place, (legend, query) in enumerate(graph.queries.items()):
        panel = panel.with_target(
            Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + place)).range().datasource(DATASOURCE)
        )
    if graph.is_fan:
        fan = [
            DynamicConfigValue(id_val="custom.fillBelowTo", value="0.1"),
            DynamicConfigValue(id_val="custom.fillOpacity", value=20),
        ]
        panel = panel.override_by_name("0.9", fan)
    return panel


def main() -> int:
    """Write or check the file; returns 1 if it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    made = make_dashboard()
    if parser.parse_args().check:
        if PATH.read_text(encoding="utf-8") == made:
            return 0
        print(f"{PATH}: not what this script makes; run it without --check", file=sys.stderr)
        return 1
    PATH.write_text(made, encoding="utf-8")
    print(PATH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
