"""Fixtures for tests of the networks and of training: small networks and a small fleet.

A `conftest.py` imports them. Test modules skip themselves without the extra `[train]`.
"""

from typing import Any

import numpy as np
import pytest

SMALL = {
    "patch_forecaster": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0},
    "temporal_fusion_transformer": {"hidden": 8, "heads": 2, "dropout": 0.0},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Let PyTorch use one thread and a fixed seed; a no-op without PyTorch, which some test modules do not need."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    torch.manual_seed(5)


@pytest.fixture
def contract() -> Any:
    from streamd.tools.networks.contract import NetworkContract

    return NetworkContract()


@pytest.fixture(params=sorted(SMALL))
def model(request: Any, contract: Any, one_thread: Any) -> Any:
    from streamd.tools.networks.registry import build_network

    return build_network(request.param, contract, **SMALL[request.param]).eval()


@pytest.fixture
def inputs(contract: Any) -> Any:
    """Return the four inputs of five servers in raw units: shares, percent, bytes."""
    import torch

    rng = torch.Generator().manual_seed(3)
    magnitude = torch.tensor([1.0, 100.0, 3e6, 40.0, 1e9]).view(5, 1, 1)
    past = torch.rand(5, contract.context_length, 14, generator=rng) * magnitude
    calendar = torch.rand(5, contract.horizon, 4, generator=rng) * 2 - 1
    past_cat = torch.zeros(5, contract.context_length, 2, dtype=torch.int32)
    return [past, past_cat, calendar, torch.zeros(5, contract.horizon, 2, dtype=torch.int32)]


@pytest.fixture
def fleet() -> Any:
    """Return a fleet of five machines, eight days and three metrics with a daily rhythm; one has a gap."""
    from streamd.tools.networks.contract import FEATURE_UNITS
    from streamd.tools.training.fleet import TrainingFleet

    rng = np.random.default_rng(1)
    time = np.arange(8 * 288) / 288
    level = 2 + np.sin(2 * np.pi * time)[None, :, None] + 0.1 * rng.standard_normal((5, len(time), 3))
    level[1, 100:130, 0] = np.nan
    columns = ["cpu", "mem", "net"]
    columns_by_feature = {"cpu_user": "cpu", "mem_used": "mem", "net_in": "net"}
    natural = [columns_by_feature.get(f) for f in FEATURE_UNITS]
    splits = {"train": (0, 1152), "val": (1152, 1440), "test": (1440, 2304)}
    names = [f"m{i}" for i in range(5)]
    return TrainingFleet(
        name="small",
        machines=names,
        columns=columns,
        values=level.astype(np.float32),
        natural=natural,
        begins=np.full(5, 1_578_268_800, np.int64),
        step_seconds=300,
        splits=splits,
        sha256={},
    )
