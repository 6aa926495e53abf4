"""Tests `streamd/tools/training/backtest.py`: the arithmetic of the scores, the baselines, and `streamd evaluate`."""

import argparse
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")
pd = pytest.importorskip("pandas")

from streamd.tools.training import evaluate  # noqa: E402
from streamd.tools.training.alterations import keep_newest_rows  # noqa: E402
from streamd.tools.training.augment import compute_calendar  # noqa: E402
from streamd.tools.training.backtest import Backtest, compute_window_calendars  # noqa: E402
from streamd.tools.training.baselines import make_baseline_forecasts  # noqa: E402
from streamd.tools.training.checks import measure_constant_error  # noqa: E402
from streamd.tools.training.export import VersionWriter  # noqa: E402
from streamd.tools.training.predictors import make_torch_predictor  # noqa: E402


def test_windows_lie_inside_their_split(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    assert {o for _, o in backtest.windows} == set(range(1440, 2304 - 96 + 1, 60))
    assert backtest.scored == {"cpu": "cpu_user", "mem": "mem_used", "net": "net_in"}


@pytest.mark.parametrize("length", [0, 168])
def test_inputs_show_nothing_of_the_horizon(fleet: Any, contract: Any, length: int) -> None:
    backtest = Backtest(fleet, dataclasses.replace(contract, memory_length=length))
    windows = backtest.windows[3:5]
    before = backtest.make_inputs(windows)
    machine, origin = windows[0]
    backtest.features[machine, origin:] = -1.0
    after = backtest.make_inputs(windows[:1])
    assert len(after) == (5 if length else 4)
    for name, values in after.items():
        np.testing.assert_array_equal(values, before[name][:1])


def test_a_perfect_forecast_scores_zero_and_a_known_one_its_loss(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    actual = backtest.read_actual(backtest.windows)[..., None].repeat(7, -1)
    assert backtest.score_forecasts(actual).compute_totals() == {"nPL": 0.0, "nMAE": 0.0, "cov80": 1.0, "wQL": 0.0}
    off = backtest.score_forecasts(actual + 0.25).make_table().set_index("metric")
    scale = np.mean([np.nanstd(fleet.values[m, :, 0].astype(float)) ** -1 for m in range(5)])
    share = np.mean([1 - q for q in contract.quantiles])
    assert off.nPL["cpu"] == pytest.approx(0.25 * share * scale, rel=1e-3)
    assert off.nMAE["cpu"] == pytest.approx(0.25 * scale, rel=1e-3)


def test_only_windows_count_of_which_half_is_known_before_and_after(fleet: Any, contract: Any) -> None:
    fleet.values[0, 1400:1600, 0] = np.nan
    fleet.values[2, :, 1] = 7.0
    fleet.values[3] = np.nan
    backtest = Backtest(fleet, contract)
    counted = [backtest.scorable[[m == machine for m, _ in backtest.windows]].mean(axis=0) for machine in range(3)]
    assert counted[0][0] < 1.0
    assert counted[0][1] == counted[1][0] == 1.0
    assert counted[2].tolist() == [1.0, 0.0, 1.0]
    assert 3 not in {m for m, _ in backtest.windows}
    for (machine, origin), scorable in zip(backtest.windows, backtest.scorable[:, 0], strict=True):
        before, after = (np.isnan(fleet.values[machine, a:b, 0]).mean() for a, b in
                         ((origin - 288, origin), (origin, origin + 96)))  # fmt: skip
        assert scorable == (before <= 0.5 and after <= 0.5)


def test_a_machine_that_began_late_has_no_window_before_its_context(fleet: Any, contract: Any) -> None:
    fleet.values[4, :1500] = np.nan
    backtest = Backtest(fleet, contract)
    assert min(o for m, o in backtest.windows if m == 4) == 1440 + 6 * 60
    assert min(o for m, o in backtest.windows if m == 3) == 1440


def test_few_windows_of_each_machine_visit_all_times_of_day_together(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract, stride=12, windows_per_machine=12)
    counts = [sum(m == machine for m, _ in backtest.windows) for machine in range(5)]
    assert max(counts) <= 13
    assert min(counts) >= 8
    assert len({o % 288 for _, o in backtest.windows}) >= 20


def test_the_memory_is_that_of_the_machine_and_ends_at_the_origin(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, dataclasses.replace(contract, memory_length=168))
    cpu = contract.features.index("cpu_user")
    machine, origin = backtest.windows[0]
    memory = backtest.make_inputs([(machine, origin)])["memory_cont"]
    assert memory.shape == (1, 168, 14)
    hours = fleet.values[machine, origin - 1440 : origin, 0].reshape(-1, 12).mean(axis=1)
    np.testing.assert_allclose(memory[0, -120:, cpu], hours, rtol=1e-5)
    assert np.isnan(memory[0, :48, cpu]).all(), "the fleet began five days before"
    assert np.isnan(memory[..., contract.features.index("uptime")]).all()


def test_days_of_memory_beyond_those_asked_for_are_missing(fleet: Any, contract: Any) -> None:
    contract = dataclasses.replace(contract, memory_length=168)
    cpu = contract.features.index("cpu_user")
    for days in (0, 2):
        backtest = Backtest(fleet, contract, memory_days=days)
        memory = backtest.make_inputs(backtest.windows[:1])["memory_cont"]
        assert (~np.isnan(memory[0, :, cpu])).sum() == 24 * days


def test_an_alteration_changes_context_and_memory_alike(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, dataclasses.replace(contract, memory_length=168))
    cpu = contract.features.index("cpu_user")
    inputs = backtest.make_inputs(backtest.windows[:2], keep_newest_rows(24))
    assert (~np.isnan(inputs["encoder_cont"][0, :, cpu])).sum() == 24
    assert (~np.isnan(inputs["memory_cont"][0, :, cpu])).sum() == 2


def test_a_fleet_of_other_steps_has_no_memory(fleet: Any, contract: Any) -> None:
    hourly = dataclasses.replace(fleet, step_seconds=3600)
    backtest = Backtest(hourly, dataclasses.replace(contract, memory_length=168))
    assert np.isnan(backtest.make_inputs(backtest.windows[:2])["memory_cont"]).all()


def test_baselines_rank_as_expected_on_a_daily_rhythm(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    scores = {
        name: backtest.score_forecasts(f).compute_totals() for name, f in make_baseline_forecasts(backtest).items()
    }
    assert scores["timeofday7d_q"]["nPL"] < scores["window_q"]["nPL"] < scores["last_value"]["nPL"]
    assert 0.6 < scores["seasonal_naive_q"]["cov80"] < 0.95


def test_the_calendars_of_training_and_backtest_agree(contract: Any) -> None:
    monday = 1_578_268_800
    start = np.array([monday, monday + 3 * 86_400 + 5_400])
    expected = compute_calendar(torch.from_numpy(start - monday).float(), 96, 300).numpy()
    np.testing.assert_allclose(compute_window_calendars(start, 96, 300), expected, atol=1e-6)
    np.testing.assert_allclose(compute_window_calendars(start[:1], 96, 300)[0, 0], [0, 1, 0, 1], atol=1e-6)


def test_constants_are_forecast_exactly(model: Any, contract: Any) -> None:
    assert measure_constant_error(contract, make_torch_predictor(model)) == 0.0


def test_evaluate_scores_any_fleet_file(
    model: Any, fleet: Any, contract: Any, inputs: Any, tmp_path: Any, capsys: Any
) -> None:
    folder = tmp_path / "small_tensorrt_20260101_000000"
    writer = VersionWriter(folder, "patch_forecaster", contract)
    folder.mkdir()
    from streamd.tools.engine.output.atomic_version import write_json
    from streamd.tools.training.export import export_graph

    export_graph(model, contract, folder / "model.onnx")
    write_json(folder / "config.json", writer.make_manifest())
    rows = [
        pd.DataFrame({"machine": name, "ts": fleet.begins[0] + 300 * np.arange(2304), "cpu_user": fleet.values[i, :, 0],
                      "memory": fleet.values[i, :, 1]})
        for i, name in enumerate(fleet.machines[:2])
    ]  # fmt: skip
    table = tmp_path / "fleet.csv"
    pd.concat(rows).to_csv(table, index=False)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    arguments = ["--model", str(folder), "--data", str(table), "--map", "mem_used=memory", "--stride", "400"]
    out = [] if not _has_matplotlib() else ["--output", str(tmp_path / "out")]
    assert evaluate.main(parser.parse_args([*arguments, *out])) == 0
    printed = capsys.readouterr().out
    assert "seasonal_naive_q" in printed
    assert "memory" in printed
    if out:
        found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert found["fleets"]["fleet"]["totals"]["last_value"]["nPL"] > 0
        assert (tmp_path / "out" / "fleet.png").stat().st_size > 10_000


def test_evaluate_names_what_is_missing(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="neither an engine version"):
        evaluate.open_model(tmp_path)


def _has_matplotlib() -> Any:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True
