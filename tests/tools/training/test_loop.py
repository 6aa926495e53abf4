"""Tests `streamd/tools/training/loop.py`, and the configuration and the loss that it uses.

A resumed run continues as if it had not stopped.
"""

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")

from streamd.tools.networks.registry import build_network  # noqa: E402
from streamd.tools.training.config import TrainingConfig  # noqa: E402
from streamd.tools.training.loop import Trainer  # noqa: E402
from streamd.tools.training.loss import compute_masked_loss  # noqa: E402
from streamd.tools.training.pool import SeriesPool  # noqa: E402
from streamd.tools.training.sources import make_fleet_source  # noqa: E402

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    model={"width": 16, "layers": 1, "heads": 2}, steps=4, batch=8, precision="fp32", validate_every=2, warmup=1
)


def trainer(fleet: Any, contract: Any, folder: Any, config: Any = CONFIG) -> Any:
    torch.manual_seed(config.seed)
    model = build_network(config.architecture, contract, **config.model)
    pool = SeriesPool([make_fleet_source(fleet, 1.0)], CPU, 288, 96, 300)
    return Trainer(model, contract, config, pool, folder)


def test_the_pinball_loss_equals_one_computed_by_hand() -> None:
    levels = torch.tensor([0.1, 0.5])
    forecast = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])
    actual = torch.tensor([[[2.0], [math.nan]]])
    loss = compute_masked_loss(forecast, actual, torch.ones(1, 1), levels)
    assert loss.item() == pytest.approx((0.1 * 1.0 + 0.5 * 1.0) / 2)


def test_a_resumed_training_continues_where_it_stopped(fleet: Any, contract: Any, tmp_path: Any) -> None:
    whole = trainer(fleet, contract, tmp_path / "whole")
    whole.fit(quiet=True)
    first = trainer(fleet, contract, tmp_path / "parts")
    first.config = replace(CONFIG, steps=4)
    while first.done < 2:  # as if it was stopped after two steps
        first.model.train()
        first._set_rates(first.done / 4)
        first._run_step()
        first.done += 1
    first._record_point(None, 0.0, 0)
    first.save_checkpoint()
    second = trainer(fleet, contract, tmp_path / "parts")
    assert second.load_checkpoint()
    second.fit(quiet=True)
    for a, b in zip(whole.average.parameters(), second.average.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not list((tmp_path / "parts").glob("*.p[tk]*"))


@pytest.mark.parametrize("architecture", ["patch_forecaster", "temporal_fusion_transformer"])
def test_a_network_gets_what_its_contract_has(architecture: str, fleet: Any, contract: Any, tmp_path: Any) -> None:
    options = {"patch_forecaster": CONFIG.model, "temporal_fusion_transformer": {"hidden": 8, "heads": 2}}
    with_memory = architecture == "patch_forecaster"
    contract = replace(contract, memory_length=168 if with_memory else 0)
    run = trainer(fleet, contract, tmp_path, replace(CONFIG, architecture=architecture, model=options[architecture]))
    inputs, future, weight = run.draw_batch()
    assert [tuple(each.shape[1:]) for each in inputs] == list(contract.input_shapes.values())
    assert (future.shape, weight.shape) == ((8, 96, 7), (8, 7))
    others = [i for i in range(14) if i not in contract.target_index]
    assert inputs[0][..., others].isnan().all() == with_memory, "it draws no series that the network disregards"
    empty = inputs[0][..., contract.target_index].isnan().all(1)
    assert torch.equal(weight == 0, empty)


def test_training_lowers_the_loss_of_a_network_with_a_memory(fleet: Any, contract: Any, tmp_path: Any) -> None:
    config = replace(CONFIG, steps=24, validate_every=8, learning_rate=5e-3)
    run = trainer(fleet, replace(contract, memory_length=168), tmp_path, config)
    run.fit(lambda model: {"nPL": 1.0 if model.training else 0.5}, quiet=True)
    losses = [point["loss"] for point in run.curve]
    assert [point["step"] for point in run.curve] == [8.0, 16.0, 24.0]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    assert [point["nPL"] for point in run.curve] == [0.5] * 3, "the averaged weights are judged, in evaluation mode"
    assert (tmp_path / "weights.safetensors").is_file()


def test_the_checkpoint_of_another_run_is_refused(fleet: Any, contract: Any, tmp_path: Any) -> None:
    one = trainer(fleet, contract, tmp_path)
    one.fit(quiet=True)
    other = trainer(fleet, contract, tmp_path, replace(CONFIG, seed=2))
    with pytest.raises(ValueError, match="another configuration"):
        other.load_checkpoint()


def test_a_configuration_has_changes_applied_and_unknown_settings_refused(tmp_path: Any) -> None:
    (tmp_path / "c.toml").write_text("steps = 9\n[augmentation]\nnoise = 0.5\n")
    config = TrainingConfig.read(tmp_path / "c.toml", ["model.width=64", "sources.smd=0.0"])
    assert (config.steps, config.augmentation.noise, config.model) == (9, 0.5, {"width": 64})
    with pytest.raises(ValueError, match=r"unknown settings \['stepz'\]"):
        TrainingConfig.read(None, ["stepz=1"])
    with pytest.raises(ValueError, match="key=value"):
        TrainingConfig.read(None, ["steps"])
