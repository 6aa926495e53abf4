"""Architectures by name: what a version's `config.json` and a training config call them."""

from __future__ import annotations

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
    """A new network of `architecture`; `options` are its constructor's. An unknown name is a ValueError."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: expected one of {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](contract, **options)
