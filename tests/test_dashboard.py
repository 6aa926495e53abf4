"""Tests `monitoring/grafana/streamd.json`: what the script makes, in Grafana's own types, over metrics that exist."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from streamd.core.forecast_export.choice import ExportSettings
from streamd.runtime.remote_write.requests import CURVE_METRIC
from streamd.runtime.service import ServiceLimits
from tests.support.cluster_parts import make_unjoined_part
from tests.support.http_harness import NEED, HttpDaemonSettings, make_rows, run_http_daemon

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "monitoring/grafana/streamd.json"
METRIC = re.compile(r"\bstreamd_\w+")


def find_alert_metrics() -> set[str]:
    """Return the metrics of alerts, which a daemon without rules does not show, as the modules name them."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "streamd/runtime/alerts").glob("*.py"))
    named = set(re.findall(r'"(streamd_\w+)"', sources))
    assert len(named) >= 4
    return named | {f"{name}_total" for name in named}


def load_script() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("make_dashboard")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def find_panels() -> list[Panel]:
    board = Dashboard.from_json(json.loads(DASHBOARD.read_text(encoding="utf-8")))
    panels: list[Any] = board.panels or []
    return [each for each in panels if isinstance(each, Panel)]


def find_queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return targets + [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]


def test_the_file_is_what_the_script_makes() -> None:
    assert DASHBOARD.read_text(encoding="utf-8") == load_script().make_dashboard()


def test_grafana_s_own_types_read_it_and_write_the_same() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board
    assert len(find_panels()) > 25
    assert {each["name"] for each in board["templating"]["list"]} == {
        *("datasource", "instance", "server", "target", "horizon"),
    }


def test_each_graph_has_a_title_of_its_own_and_queries() -> None:
    panels = find_panels()
    graphs = [panel for panel in panels if panel.type_val != "row"]
    assert all(panel.targets for panel in graphs)
    titles = [panel.title for panel in graphs]
    assert len(set(titles)) == len(titles)
    places = [(each.grid_pos.x, each.grid_pos.y) for each in graphs if each.grid_pos is not None]
    assert len(set(places)) == len(graphs), "no graph covers another"


async def test_each_metric_in_it_is_one_of_the_daemon(tmp_path: Path) -> None:
    limits = ServiceLimits(exports=ExportSettings(servers=("*",), horizons=("2m",), max_age_steps=0))
    async with run_http_daemon(tmp_path / "alone", HttpDaemonSettings(service_limits=limits)) as daemon:
        await daemon.accept(make_rows("web-01", 1, range(NEED)))
        await daemon.service.pipeline.wait_idle()
        pages = [(await daemon.call("GET", path)).data.decode() for path in ("/metrics", "/metrics/forecasts")]
    async with run_http_daemon(tmp_path / "node", HttpDaemonSettings(cluster=make_unjoined_part())) as node:
        pages.append((await node.call("GET", "/metrics")).data.decode())
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", "\n".join(pages), re.MULTILINE))
    known = {name for name, kind in types.items() if kind != "histogram"}
    for part in ("bucket", "sum", "count"):
        known |= {f"{name}_{part}" for name, kind in types.items() if kind == "histogram"}
    named = {name for query in find_queries() for name in METRIC.findall(query)}
    assert len(named) > 25
    assert CURVE_METRIC in named, "it is in stores alone"
    assert named - known - {CURVE_METRIC} - find_alert_metrics() == set()


VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$server": "web-01", "$target": "cpu", "$horizon": "1h"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_reads_each_query(tmp_path: Path) -> None:
    queries = [each for each in find_queries() if not each.startswith("label_values")]
    for variable, value in VARIABLES.items():
        queries = [each.replace(variable, value) for each in queries]
    assert len(queries) > 30
    assert not [each for each in queries if "$" in each]
    file = tmp_path / "rules.yml"
    for expressions, status in ((queries, 0), (["sum(streamd_ready"], 1)):
        rules = [{"record": f"r{number}", "expr": each} for number, each in enumerate(expressions)]
        file.write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}), encoding="utf-8")
        checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
        assert checked.returncode == status, checked.stdout + checked.stderr
