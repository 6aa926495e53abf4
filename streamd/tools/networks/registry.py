"""Architectures by the names that a version's `config.json` and a training configuration use.

This module only builds networks; it reads no weights.
"""

from typing import Any

from torch import nn

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.patch import PatchForecaster
from streamd.tools.networks.tft import TemporalFusionTransformer

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "temporal_fusion_transformer": TemporalFusionTransformer,
    "patch_forecaster": PatchForecaster,
}


def build_network(architecture: str, contract: NetworkContract, **options: Any) -> nn.Module:
    """Return a new network; `options` go to its constructor. Raises `ValueError` if the architecture is unknown."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: expected one of {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](contract, **options)
