"""Tests `streamd/tools/networks/blending.py`: a network that says nothing forecasts a mean of simple forecasts."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.anchors import LevelAnchors, MemoryAnchors  # noqa: E402
from streamd.tools.networks.blending import AnchoredQuantiles  # noqa: E402
from streamd.tools.networks.contract import NetworkContract  # noqa: E402
from streamd.tools.networks.scaling import WindowScaler  # noqa: E402

TARGETS = 2


@pytest.fixture(params=[0, 168], ids=["without memory", "with memory"])
def network_contract(request: Any) -> NetworkContract:
    return NetworkContract(memory_length=request.param)


def scale(contract: NetworkContract, past: Any) -> Any:
    length = contract.memory_length
    scaler = WindowScaler(list(range(TARGETS)), 288, length, only_targets=True)
    return scaler(past, torch.rand(len(past), length, TARGETS) if length else None)[1]


def blend(contract: NetworkContract, window: Any, free: Any = None) -> Any:
    """Return the module and its quantiles of some free numbers; they are all 0 by default."""
    module = AnchoredQuantiles(contract)
    shape = (len(window.values), TARGETS, module.count, contract.horizon)
    free = torch.zeros(shape) if free is None else free * torch.randn(shape)
    return module, module(free, window, module.find_quantiles(window))


def test_a_silent_network_s_median_is_the_mean_of_all_anchors(network_contract: NetworkContract) -> None:
    window = scale(network_contract, torch.rand(3, 288, TARGETS).cumsum(1))
    module, found = blend(network_contract, window)
    levels, flat = LevelAnchors(network_contract)(window)
    quantiles = module.find_quantiles(window)
    anchors = [levels, flat.expand(-1, -1, -1, 96), quantiles[:, :, [3, 10]].expand(-1, -1, -1, 96)]
    if network_contract.memory_length:
        anchors.append(MemoryAnchors(network_contract)(window, levels[:, :, :1], flat[:, :, 1:2])[0])
    assert found.shape == (3, TARGETS, 7, 96)
    torch.testing.assert_close(found[:, :, 3], torch.cat(anchors, dim=2).mean(dim=2), rtol=1e-4, atol=1e-4)


def test_a_silent_network_forecasts_noise_as_the_window_s_quantiles(network_contract: NetworkContract) -> None:
    past = torch.rand(8, 288, TARGETS)
    window = scale(network_contract, past)
    exact = torch.quantile(window.values, torch.tensor(network_contract.quantiles), dim=2).permute(1, 2, 0)
    found = blend(network_contract, window)[1].mean(dim=3)
    torch.testing.assert_close(found[:, :, 3], exact[:, :, 3], rtol=0, atol=0.3)
    width, exact_width = found[:, :, 5] - found[:, :, 1], exact[:, :, 5] - exact[:, :, 1]
    assert (width > 0.9 * exact_width).all()
    assert (width < 2.5 * exact_width).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_quantiles_are_ordered_for_any_free_numbers(network_contract: NetworkContract, kind: Any) -> None:
    past = torch.rand(4, 288, TARGETS)
    past[0], past[1, :-3], past[2, :-80] = torch.nan, torch.nan, torch.nan
    window = scale(network_contract, past)
    with torch.autocast("cpu", kind, enabled=kind is not torch.float32):
        found = blend(network_contract, window, free=20.0)[1]
    assert found.isfinite().all()
    assert (found.diff(dim=2) >= 0).all()


@pytest.mark.parametrize(("rows", "stays"), [(1, True), (6, True), (23, True), (24, False)])
def test_the_median_of_few_values_stays_among_them(network_contract: NetworkContract, rows: int, stays: bool) -> None:
    past = torch.full((3, 288, TARGETS), float("nan"))
    past[:, -rows:] = 5.0 + torch.rand(3, rows, TARGETS)
    window = scale(network_contract, past)
    _, found = blend(network_contract, window, torch.tensor(50.0))
    median, least, most = found[:, :, 3], window.least, window.most
    assert bool(((median >= least - 1e-4) & (median <= most + 1e-4)).all()) is stays
