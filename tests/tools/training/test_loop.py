"""Tests `streamd/tools/training/loop.py`, and the data, augmentation and loss that it uses.

No later day leaks into training, all numbers stay finite, and a resumed run continues as if it had not stopped.
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
from streamd.tools.training.augment import Augmentation  # noqa: E402
from streamd.tools.training.config import TrainingConfig  # noqa: E402
from streamd.tools.training.fleet import is_left_out  # noqa: E402
from streamd.tools.training.generated import generate_servers  # noqa: E402
from streamd.tools.training.loop import Trainer  # noqa: E402
from streamd.tools.training.loss import compute_masked_loss  # noqa: E402
from streamd.tools.training.pool import SeriesPool, SeriesSource, make_fleet_source  # noqa: E402

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    model={"width": 16, "layers": 1, "heads": 2}, steps=4, batch=8, precision="fp32", validate_every=2, warmup=1
)


def trainer(fleet: Any, contract: Any, folder: Any, config: Any = CONFIG) -> Any:
    torch.manual_seed(config.seed)
    model = build_network(config.architecture, contract, **config.model)
    values = generate_servers(3, 14, 600, CPU, 1)
    made = SeriesSource(name="generated", values=values, natural=torch.arange(14), weight=0.5, begin_seconds=0)
    return Trainer(model, contract, config, SeriesPool([make_fleet_source(fleet, 1.0), made], CPU, 384, 300), folder)


def test_the_pool_holds_training_days_only(fleet: Any) -> None:
    fleet.values[:, fleet.splits["train"][1] :] = 1e6
    pool = SeriesPool([make_fleet_source(fleet, 1.0)], CPU, 384, 300)
    draw = pool.draw_windows(200, 0.5)
    assert torch.nan_to_num(draw.values).max() < 1e4
    assert pool.flat.numel() == 5 * 3 * fleet.splits["train"][1]


def test_mapped_windows_have_their_series_where_the_map_puts_them(fleet: Any, contract: Any) -> None:
    draw = SeriesPool([make_fleet_source(fleet, 1.0)], CPU, 384, 300).draw_windows(50, 1.0)
    reported = (~draw.values.isnan()).any(1).all(0)
    assert [f for f, r in zip(contract.features, reported, strict=True) if r] == ["cpu_user", "mem_used", "net_in"]
    assert (draw.server == 0).all()


def test_drawn_windows_have_their_time(fleet: Any) -> None:
    quiet = make_fleet_source(fleet, 1.0)
    quiet.values[:] = torch.arange(quiet.values.shape[-1], dtype=torch.float32)
    draw = SeriesPool([quiet], CPU, 384, 300).draw_windows(20, 1.0)
    step = draw.values[:, 0, 0] / (draw.values[:, 1, 0] - draw.values[:, 0, 0])
    torch.testing.assert_close(draw.seconds, torch.round(step) * 300, rtol=0, atol=1)  # the fleet begins on a Monday


def test_excluded_machines_are_not_drawn(fleet: Any) -> None:
    assert make_fleet_source(fleet, 1.0, leave_out_every=5).values.shape[0] == 4
    assert [is_left_out(i, 5) for i in range(5)] == [False] * 4 + [True]


def test_every_variation_at_once_stays_finite(fleet: Any, contract: Any) -> None:
    most = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 1.0))
    pool = SeriesPool([make_fleet_source(fleet, 1.0)], CPU, 384, 300)
    x = most.add_incidents(most.vary_series(pool.draw_windows(64, 0.5), 288), 288)
    assert x[~x.isnan()].isfinite().all()
    past = most.hide_values(x[:, :288])
    assert past.isnan().float().mean() > 0.5
    torch.testing.assert_close(past[~past.isnan()], x[:, :288][~past.isnan()])


def test_incidents_begin_in_the_context(fleet: Any) -> None:
    changed = Augmentation(incident=1.0)
    x = SeriesPool([make_fleet_source(fleet, 1.0)], CPU, 384, 300).draw_windows(64, 1.0).values
    touched = (changed.add_incidents(x, 288) != x) & ~x.isnan()
    assert touched.any()
    ahead = touched[:, 288:].any(1)
    assert (touched[:, :288].any(1) | ~ahead).all()


def test_generated_series_are_sound() -> None:
    made = generate_servers(4, 14, 800, CPU, 7)
    assert made.shape == (4, 14, 800)
    assert made.isfinite().all()
    assert torch.equal(made, generate_servers(4, 14, 800, CPU, 7))


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
