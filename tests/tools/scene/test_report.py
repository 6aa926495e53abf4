"""Tests `streamd/tools/scene/report.py`: the table and the verdict."""

from collections import Counter

from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.agents import CollectdAgent, PrometheusAgent, SceneAgent, SentCounts
from streamd.tools.scene.report import format_scene
from streamd.tools.scene.rows import SceneRow, check_rows
from streamd.tools.scene.scene import AgentResult, SceneResult

WHOLE: dict[int, SceneRow] = {key: {"cpu_idle": 90.0} for key in range(100, 110)}


def make_result(agent: SceneAgent, rows: dict[int, SceneRow], emptied: list[int] | None = None) -> AgentResult:
    return AgentResult(
        agent=agent,
        sent=SentCounts(delivered=1234.0, remark="a remark"),
        check=check_rows(agent.server, rows, 109),
        emptied=emptied or [],
        unmeasured=set(),
    )


def make_scene(*agents: AgentResult, difference: tuple[float, str] | None = None) -> SceneResult:
    return SceneResult(
        step_seconds=5,
        killed_at=521.0,
        back_at=533.0,
        agents=list(agents),
        difference=difference,
        compared_rows=10,
        forecasts=Counter({"prometheus-1": 7}),
        forecasts_after=Counter({"prometheus-1": 3}),
        counts={"collectd": {"taken": 12_345, "rejected too_old": 0}},
    )


def test_a_scene_without_loss_is_as_if_nothing_had_happened() -> None:
    result = make_scene(make_result(PrometheusAgent(), WHOLE), difference=(1e-8, "cpu_idle in step 104"))
    lines = format_scene(result, Terminal())
    assert result.list_faults() == []
    assert any(line.split() == ["prometheus-1", "1,234", "-", "-", "10/10", "0", "0", "0", "1", "7"] for line in lines)
    assert "  collectd  12,345 taken" in lines
    assert "  rows as if nothing had happened, of prometheus-1" in lines


def test_a_row_that_a_lossless_agent_lacks_is_a_fault() -> None:
    rows = {step: row for step, row in WHOLE.items() if step not in (104, 105, 107)}
    result = make_scene(make_result(PrometheusAgent(), rows))
    [fault] = result.list_faults()
    assert fault.startswith("prometheus-1: 3 of 10 rows missing (")
    shown = [line.split()[:9] for line in format_scene(result, Terminal())]
    assert ["prometheus-1", "1,234", "-", "-", "7/10", "3", "2", "0", "1"] in shown


def test_a_row_that_another_agent_lacks_is_none() -> None:
    rows = {step: row for step, row in WHOLE.items() if step != 105}
    result = make_scene(make_result(CollectdAgent(), rows))
    assert result.list_faults() == []
    assert "  no agent that keeps its samples took part" in format_scene(result, Terminal())


def test_values_that_are_lost_or_differ_are_faults() -> None:
    result = make_scene(make_result(CollectdAgent(), WHOLE, emptied=[101]), difference=(0.5, "cpu_idle in step 104"))
    assert result.list_faults() == [
        "collectd-1: 1 rows from before the kill have lost values",
        "prometheus-1: cpu_idle in step 104",
    ]
