"""Tests `streamd/tools/scene/scene.py`: real Prometheus and collectd, and a daemon that is killed and comes back."""

from pathlib import Path

import pytest

from streamd.tools.loadtest.errors import NothingError
from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.agents import SceneAgent
from streamd.tools.scene.report import format_scene
from streamd.tools.scene.scene import Scene, SceneOptions, ScenePlace

ROOT = Path(__file__).resolve().parents[3]
SHORT = SceneOptions(
    agents=("prometheus", "collectd"),
    step_seconds=2,
    rows_before=3,
    min_context_rows=2,
    away_seconds=0.0,
    rows_after=2,
    patience_seconds=40.0,
)


def fetch_or_skip(scene: Scene) -> list[SceneAgent]:
    try:
        agents = scene.fetch_agents()
    except NothingError as error:
        pytest.skip(str(error))
    if scene.unavailable:
        pytest.skip(str(scene.unavailable))
    return agents


async def test_prometheus_and_collectd_go_on_over_a_kill(tmp_path: Path) -> None:
    lines: list[str] = []
    place = ScenePlace(cache=ROOT / ".scene", engines=ROOT / "engines", folder=tmp_path)
    scene = Scene(SHORT, place, lines.append)
    agents = fetch_or_skip(scene)
    result = await scene.run(agents)
    report = "\n".join([*lines, *format_scene(result, Terminal())])
    assert result.failures == {}, report
    assert result.list_faults() == [], report
    prometheus, collectd = result.agents
    assert prometheus.check.is_whole, report
    assert {"cpu_idle", "mem_used", "disk_usage", "load_average", "uptime"} <= set(prometheus.check.features), report
    assert result.compared_rows, report
    assert prometheus.sent.delivered, report
    # collectd drops what it cannot send at once; it still has rows from before and after the kill.
    assert min(collectd.check.rows) < result.killed_at // SHORT.step_seconds, report
    assert max(collectd.check.rows) > result.back_at // SHORT.step_seconds, report
    assert collectd.check.absurd == [], report
    assert result.forecasts["prometheus-1"] > result.forecasts_after["prometheus-1"] > 0, report


async def test_an_agent_that_cannot_be_had_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    place = ScenePlace(cache=tmp_path / "cache", engines=ROOT / "engines", folder=tmp_path)
    scene = Scene(SHORT, place, print)
    with pytest.raises(NothingError, match=r"no agent can run here:\n  prometheus: .*it is not Debian"):
        scene.fetch_agents()
    assert set(scene.unavailable) == {"prometheus", "collectd"}
