"""Tests `streamd/tools/networks/patch.py`: its memory, and how its targets see each other."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.contract import NetworkContract  # noqa: E402
from streamd.tools.networks.patch import PatchForecaster  # noqa: E402

CONTRACT = NetworkContract(memory_length=168)
NOTHING = torch.full((1, 168, 14), torch.nan)


@pytest.fixture
def network() -> Any:
    return PatchForecaster(CONTRACT, patch=48, width=16, layers=2, heads=2, mixing="none").eval()


@pytest.fixture
def memory(inputs: Any) -> Any:
    return inputs[0].mean(dim=1, keepdim=True) * (0.5 + torch.rand(5, 168, 14))


def run(model: Any, inputs: Any, memory: Any = None) -> Any:
    with torch.no_grad():
        return model(*inputs) if memory is None else model(*inputs, memory)


def test_a_memory_changes_the_forecast(network: Any, inputs: Any, memory: Any) -> None:
    out = run(network, inputs, memory)
    assert out.shape == (5, 96, 7, 7)
    assert (out.diff(dim=-1) >= 0).all()
    assert not torch.allclose(out, run(network, inputs, NOTHING), rtol=0.01)


def test_one_missing_memory_for_all_is_that_of_each(network: Any, inputs: Any) -> None:
    assert torch.equal(run(network, inputs, NOTHING), run(network, inputs, NOTHING.expand(5, -1, -1)))


@pytest.mark.parametrize("factor", [1e-3, 1e6])
def test_units_do_not_matter_with_a_memory(network: Any, inputs: Any, memory: Any, factor: float) -> None:
    out = run(network, inputs, memory)
    scaled = run(network, [inputs[0] * factor, *inputs[1:]], memory * factor)
    torch.testing.assert_close(scaled, out * factor, rtol=2e-4, atol=float(out.abs().max()) * factor * 1e-5)


@pytest.mark.parametrize("value", [torch.inf, 3e38, -1e29])
def test_an_absurd_memory_is_no_memory(network: Any, inputs: Any, value: float) -> None:
    assert run(network, inputs, torch.full((5, 168, 14), value)).isfinite().all()
    one = NOTHING.clone()
    one[0, 5] = value
    torch.testing.assert_close(run(network, inputs, one.expand(5, -1, -1)), run(network, inputs, NOTHING))


def test_a_constant_that_the_memory_knows_is_forecast_as_itself(network: Any, inputs: Any) -> None:
    past, memory = torch.full((5, 288, 14), 0.3), torch.full((5, 168, 14), 0.3)
    memory[:, ::3] = torch.nan
    assert (run(network, [past, *inputs[1:]], memory) == torch.tensor(0.3)).all()


def test_a_window_without_values_follows_its_memory(network: Any, inputs: Any) -> None:
    empty = [torch.full_like(inputs[0], torch.nan), *inputs[1:]]
    memory = 100.0 + torch.rand(5, 168, 14)
    out = run(network, empty, memory)
    assert (out > 80.0).all()
    assert (out < 130.0).all()


@pytest.mark.parametrize("mixing", ["none", "mean", "attention"])
def test_targets_have_no_order(inputs: Any, mixing: str) -> None:
    model = PatchForecaster(NetworkContract(), width=16, layers=2, heads=2, mixing=mixing).eval()
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


@pytest.mark.parametrize(
    ("contract", "options", "message"),
    [
        (CONTRACT, {"mixing": "all"}, "mixing 'all'"),
        (CONTRACT, {"patch": 36}, "patch 36: expected a divisor of the context's 288 steps and of the horizon's 96"),
        (CONTRACT, {"patch": 16}, "patch 16 with a memory of 168 periods of 12 steps: expected a multiple"),
        (NetworkContract(memory_length=168, context_length=576), {}, "a context of one day"),
        (NetworkContract(memory_length=100), {}, "memory of 100 periods .* whole days of memory"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(contract: NetworkContract, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchForecaster(contract, width=16, layers=1, heads=2, **options)
