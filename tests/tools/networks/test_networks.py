"""Tests `streamd/tools/networks`: properties of every network, for any weights."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")

from streamd.tools.networks.contract import NetworkContract  # noqa: E402
from streamd.tools.networks.patch import PatchForecaster  # noqa: E402
from streamd.tools.networks.registry import build_network  # noqa: E402
from streamd.tools.networks.scaling import QuantileOrder, WindowRestorer, WindowScaler, compute_past_calendar  # noqa: E402
from streamd.tools.training.augment import compute_calendar  # noqa: E402


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


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.3, 99.9, 3.7e12, -5.0])
def test_a_constant_is_forecast_as_itself(model: Any, inputs: Any, value: Any) -> None:
    past = torch.full_like(inputs[0], value)
    past[:, ::5] = torch.nan
    out = run(model, [past, *inputs[1:]])
    assert (out == torch.tensor(value)).all()


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


@pytest.mark.parametrize("mixing", ["none", "mean", "attention"])
def test_patch_forecaster_has_no_order_of_targets(inputs: Any, mixing: Any) -> None:
    contract = NetworkContract()
    torch.manual_seed(2)
    model = PatchForecaster(contract, width=16, layers=2, heads=2, mixing=mixing).eval()
    index = model.scaler.targets
    turned = inputs[0].clone()
    turned[:, :, index] = inputs[0][:, :, index.flip(0)]
    torch.testing.assert_close(
        run(model, [turned, *inputs[1:]]), run(model, inputs).flip(2), rtol=1e-4, atol=1e-4 * float(turned.max())
    )


def test_unmixed_targets_do_not_see_each_other(inputs: Any) -> None:
    model = PatchForecaster(NetworkContract(), width=16, layers=1, heads=2, mixing="none").eval()
    past = inputs[0].clone()
    past[:, :, model.scaler.targets[1:]] = torch.nan
    torch.testing.assert_close(run(model, [past, *inputs[1:]])[:, :, 0], run(model, inputs)[:, :, 0])


def test_quantiles_cannot_cross_even_in_half_precision() -> None:
    order = QuantileOrder((0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98))
    free = torch.randn(500, 7) * torch.tensor([0.01, 1.0, 30.0, 1000.0, 30.0, 1.0, 0.01])
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        assert (order(free.to(kind)).diff(dim=-1) >= 0).all()


def test_restoring_inverts_scaling() -> None:
    past = torch.rand(3, 288, 2) * 7e8 + 1e9
    _, window = WindowScaler([0, 1])(past)
    back = WindowRestorer([False, False])(window.values.transpose(1, 2).unsqueeze(-1), window)[..., 0]
    torch.testing.assert_close(back, past, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("highest", "percent", "most"), [(90.0, True, 100.0), (90.0, False, 180.0), (400.0, True, 800.0)]
)
def test_a_percentage_that_never_passed_100_never_will(highest: float, percent: bool, most: float) -> None:
    past = torch.linspace(0.0, highest, 288).view(1, 288, 1)
    _, window = WindowScaler([0])(past)
    far = (torch.full((1, 96, 1, 1), 2.0 * highest) / window.span - window.center) / window.spread
    assert float(WindowRestorer([percent])(far, window).max()) == pytest.approx(most, rel=1e-3)


def test_one_spike_does_not_flatten_the_rest() -> None:
    past = torch.randn(1, 288, 1) * 0.1 + 5.0
    past[0, 50] = 500.0
    values = WindowScaler([0])(past)[0].values
    assert values[0, 0, :50].std() > 0.01


def test_only_targets_are_scaled_alike() -> None:
    past = torch.rand(4, 288, 5) * 100
    past[:, ::9, 2] = float("nan")
    everything, targets = WindowScaler([3, 1, 2])(past)
    alone, same = WindowScaler([3, 1, 2], only_targets=True)(past)
    assert everything.values.shape == (4, 5, 288)
    for name in ("values", "observed", "center", "spread", "offset", "low", "span"):
        torch.testing.assert_close(getattr(alone, name), getattr(targets, name))
        assert torch.equal(getattr(same, name), getattr(alone, name))


def test_past_calendar_is_the_calendar_of_the_past() -> None:
    start = torch.tensor([86_400.0 * 3 + 7_200, 0.0])
    future = compute_calendar(start + 288 * 300, 96, 300)
    torch.testing.assert_close(
        compute_past_calendar(future, 288, 300), compute_calendar(start, 288, 300), rtol=0, atol=2e-5
    )


def test_errors_name_what_is_wrong(contract: Any) -> None:
    with pytest.raises(ValueError, match=r"'lstm'.*patch_forecaster"):
        build_network("lstm", contract)
    with pytest.raises(ValueError, match=r"\['gpu_user'\]"):
        NetworkContract(targets=("gpu_user",))
    with pytest.raises(ValueError, match="mixing 'all'"):
        PatchForecaster(contract, mixing="all")
