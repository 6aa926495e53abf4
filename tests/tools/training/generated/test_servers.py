"""Tests `streamd/tools/training/generated/servers.py` and `compositions.py`: whole servers, by a table of shares."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated import servers as module  # noqa: E402
from streamd.tools.training.generated.compositions import compose_servers  # noqa: E402
from streamd.tools.training.generated.servers import MAKERS, SHARES, generate_servers  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made() -> Any:
    torch.set_num_threads(1)
    return generate_servers(60, 14, 2304, CPU, 1)


def test_series_are_finite_with_a_deviation_of_one(made: Any) -> None:
    assert made.values.shape == (60, 14, 2304)
    assert made.values.isfinite().all()
    deviation = made.values.std(-1)
    constant = deviation < 1e-3
    assert constant.float().mean() < 0.03
    torch.testing.assert_close(deviation[~constant], torch.ones(int((~constant).sum())), atol=1e-3, rtol=0)


def test_servers_begin_at_any_step_of_the_week(made: Any) -> None:
    assert made.begin_seconds.min() >= 0
    assert made.begin_seconds.max() < 604_800
    assert (made.begin_seconds % 300 == 0).all()
    assert len(made.begin_seconds.unique()) > 50


def test_the_same_seed_makes_the_same_servers_and_another_seed_others() -> None:
    one, same, other = (generate_servers(3, 14, 700, CPU, seed) for seed in (7, 7, 8))
    assert torch.equal(one.values, same.values)
    assert torch.equal(one.begin_seconds, same.begin_seconds)
    assert not torch.equal(one.values, other.values)


def test_chunks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERVERS_A_CHUNK", 2)
    values = generate_servers(5, 6, 600, CPU, 2).values
    assert (values.std(-1) > 0).float().mean() > 0.8
    assert len({tuple(row[:3].tolist()) for row in values[:, 0]}) == 5


def test_kinds_have_about_their_shares() -> None:
    wanted = {"composition": 0.5, "service": 0.25, "bursts": 0.25}
    made = generate_servers(400, 8, 48, CPU, 3, wanted)
    found = {name: (made.kinds == k).float().mean().item() for k, name in enumerate(made.names)}
    assert found == pytest.approx(wanted, abs=0.08)
    composed = made.kinds == made.names.index("composition")
    assert (composed.all(1) | ~composed.any(1)).all()


@pytest.mark.parametrize("kind", [*MAKERS, "composition"])
def test_each_kind_makes_whole_servers(kind: str) -> None:
    made = generate_servers(2, 5, 900, CPU, 4, {kind: 1.0})
    assert made.names == (kind,)
    assert made.values.isfinite().all()
    assert made.values.max() > 0


def test_the_table_has_each_kind_and_sums_to_one() -> None:
    assert set(SHARES) == {*MAKERS, "composition"}
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown kinds \['servce'\]"):
        generate_servers(1, 1, 300, CPU, 1, {"servce": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        generate_servers(1, 1, 300, CPU, 1, {"service": 0.0})


def test_the_series_of_a_composed_server_share_causes(draws: Any) -> None:
    x = compose_servers(draws, 6, 10)
    scaled = x - x.mean(-1, keepdim=True)
    within = torch.einsum("sal,sbl->sab", scaled, scaled).abs() / draws.length
    across = torch.einsum("sal,tal->st", scaled, scaled).abs() / draws.length / 10
    assert within.sum() - 60 > 6 * 90 * 0.1
    assert across.fill_diagonal_(0).max() < 0.5
