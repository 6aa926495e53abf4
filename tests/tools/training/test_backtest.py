"""Tests `streamd/tools/training/backtest.py`: the arithmetic of the scores, the baselines, and `streamd evaluate`."""

import argparse
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
from streamd.tools.training.augment import compute_calendar  # noqa: E402
from streamd.tools.training.backtest import Backtest, compute_window_calendars  # noqa: E402
from streamd.tools.training.baselines import make_baseline_forecasts  # noqa: E402
from streamd.tools.training.checks import measure_constant_error, measure_hardship  # noqa: E402
from streamd.tools.training.export import VersionWriter  # noqa: E402
from streamd.tools.training.predictors import make_torch_predictor  # noqa: E402


def test_windows_lie_inside_their_split(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    assert {o for _, o in backtest.windows} == set(range(1440, 2304 - 96 + 1, 60))
    assert backtest.scored == {"cpu": "cpu_user", "mem": "mem_used", "net": "net_in"}


def test_inputs_show_nothing_of_the_horizon(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    windows = backtest.windows[3:5]
    before = backtest.make_inputs(windows)
    machine, origin = windows[0]
    backtest.features[machine, origin:] = -1.0
    np.testing.assert_array_equal(backtest.make_inputs(windows[:1])["encoder_cont"], before["encoder_cont"][:1])


def test_a_perfect_forecast_scores_zero_and_a_known_one_its_loss(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    actual = backtest.read_actual(backtest.windows)[..., None].repeat(7, -1)
    assert backtest.score_forecasts(actual).compute_totals() == {"nPL": 0.0, "nMAE": 0.0, "cov80": 1.0, "wQL": 0.0}
    off = backtest.score_forecasts(actual + 0.25).make_table().set_index("metric")
    scale = np.mean([np.nanstd(fleet.values[m, :, 0].astype(float)) ** -1 for m in range(5)])
    share = np.mean([1 - q for q in contract.quantiles])
    assert off.nPL["cpu"] == pytest.approx(0.25 * share * scale, rel=1e-3)
    assert off.nMAE["cpu"] == pytest.approx(0.25 * scale, rel=1e-3)


def test_baselines_rank_as_expected_on_a_daily_rhythm(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    scores = {
        name: backtest.score_forecasts(f).compute_totals() for name, f in make_baseline_forecasts(backtest).items()
    }
    assert scores["timeofday7d_q"]["nPL"] < scores["window24h_q"]["nPL"] < scores["last_value"]["nPL"]
    assert 0.6 < scores["seasonal_naive_q"]["cov80"] < 0.95


def test_the_calendars_of_training_and_backtest_agree(contract: Any) -> None:
    monday = 1_578_268_800
    start = np.array([monday, monday + 3 * 86_400 + 5_400])
    expected = compute_calendar(torch.from_numpy(start - monday).float(), 96, 300).numpy()
    np.testing.assert_allclose(compute_window_calendars(start, 96, 300), expected, atol=1e-6)
    np.testing.assert_allclose(compute_window_calendars(start[:1], 96, 300)[0, 0], [0, 1, 0, 1], atol=1e-6)


def test_hardship_is_measured_and_constants_are_forecast_exactly(model: Any, fleet: Any, contract: Any) -> None:
    predict = make_torch_predictor(model, torch.device("cpu"))
    backtest = Backtest(fleet, contract, stride=300)
    found = measure_hardship(backtest, predict)
    assert {"rows_missing_25%", "context_48", "half_of_features"} <= set(found)
    assert all(np.isfinite(v) for v in found.values())
    assert measure_constant_error(contract, predict) == 0.0


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
        pd.DataFrame({"machine": name, "ts": fleet.begin + 300 * np.arange(2304), "cpu_user": fleet.values[i, :, 0],
                      "memory": fleet.values[i, :, 1]})
        for i, name in enumerate(fleet.machines[:2])
    ]  # fmt: skip
    table = tmp_path / "fleet.csv"
    pd.concat(rows).to_csv(table, index=False)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    arguments = ["--model", str(folder), "--data", str(table), "--map", "mem_used=memory", "--stride", "200"]
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
