"""Tests `streamd/tools/networks`: properties of every network, for any weights."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.contract import NetworkContract  # noqa: E402
from streamd.tools.networks.registry import build_network  # noqa: E402


def run(model: Any, inputs: Any) -> Any:
    with torch.no_grad():
        return model(*inputs)


def test_forecasts_have_the_contracts_shape_and_ordered_quantiles(model: Any, inputs: Any) -> None:
    out = run(model, inputs)
    assert out.shape == (5, 96, 7, 7)
    assert (out.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("factor", [1e-6, 0.5, 1024.0, 1e6])
def test_units_do_not_matter(model: Any, inputs: Any, factor: Any) -> None:
    out = run(model, inputs)
    scaled = run(model, [inputs[0] * factor, *inputs[1:]])
    torch.testing.assert_close(scaled, out * factor, rtol=2e-4, atol=float(out.abs().max()) * factor * 1e-5)


@pytest.mark.parametrize("hidden", ["rows", "features", "short", "ragged", "everything", "infinite", "one row"])
def test_missing_values_never_come_out(model: Any, inputs: Any, hidden: Any) -> None:
    past = inputs[0].clone()
    match hidden:
        case "rows":
            past[:, ::3] = torch.nan
        case "features":
            past[:, :, ::2] = torch.nan
        case "short":
            past[:, :-12] = torch.nan
        case "ragged":
            past[torch.rand_like(past) < 0.6] = torch.nan
        case "everything":
            past[:] = torch.nan
        case "infinite":
            past[:, 10:20] = torch.inf
            past[:, 20:30] = -torch.inf
            past[:, 40] = 3e38
        case "one row":
            past[:, :-1] = torch.nan
    out = run(model, [past, *inputs[1:]])
    assert out.isfinite().all()
    assert (out.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("position", [0, 150, 287])
@pytest.mark.parametrize("size", [1e3, -1e12, 6e28, torch.inf])
def test_one_absurd_value_is_forecast_as_if_it_was_missing(model: Any, inputs: Any, position: int, size: float) -> None:
    absurd, missing = inputs[0].clone(), inputs[0].clone()
    absurd[:, position], missing[:, position] = size * inputs[0].amax(1), torch.nan
    assert torch.equal(run(model, [absurd, *inputs[1:]]), run(model, [missing, *inputs[1:]]))


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.3, 99.9, 3.7e12, -5.0])
def test_a_constant_is_forecast_as_itself(model: Any, inputs: Any, value: Any) -> None:
    past = torch.full_like(inputs[0], value)
    past[:, ::5] = torch.nan
    out = run(model, [past, *inputs[1:]])
    assert (out == torch.tensor(value)).all()


@pytest.mark.parametrize("rows", [1, 5, 12, 23])
def test_few_equal_values_are_no_certainty_unless_they_are_zero(model: Any, inputs: Any, rows: int) -> None:
    past = torch.full_like(inputs[0], torch.nan)
    past[:, -rows:] = 40.0
    past[0, -rows:] = 0.0
    out = run(model, [past, *inputs[1:]])
    assert (out[0] == 0.0).all()
    assert (out[1:, ..., -1] > out[1:, ..., 0]).all()


def test_forecasts_stay_near_the_values_of_the_window(model: Any, inputs: Any) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(50.0)  # weights far from any that training gives
    out = run(model, inputs)
    seen = inputs[0].index_select(2, model.scaler.targets)
    low, high = seen.amin(1)[:, None, :, None], seen.amax(1)[:, None, :, None]
    reach = 1.5 * (high - low) * 1.001
    assert (out >= torch.clamp(low - reach, min=0.0)).all()
    assert (out <= high + reach).all()


def test_a_window_does_not_depend_on_its_neighbours(model: Any, inputs: Any) -> None:
    whole = run(model, inputs)
    alone = run(model, [t[2:3] for t in inputs])
    torch.testing.assert_close(alone, whole[2:3], rtol=1e-4, atol=1e-6 * float(whole[2].abs().max()))


def test_unknown_ids_and_statuses_are_bounded(model: Any, inputs: Any) -> None:
    past_cat, future_cat = inputs[1].clone(), inputs[3].clone()
    past_cat[..., 0], future_cat[..., 1] = 9999, -3
    past_cat[..., 1] = 77
    assert run(model, [inputs[0], past_cat, inputs[2], future_cat]).isfinite().all()


def test_errors_name_what_is_wrong(contract: Any) -> None:
    with pytest.raises(ValueError, match=r"'lstm'.*patch_forecaster"):
        build_network("lstm", contract)
    with pytest.raises(ValueError, match=r"\['gpu_user'\]"):
        NetworkContract(targets=("gpu_user",))
