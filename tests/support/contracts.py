"""A model contract that is small enough for tests."""

from typing import Any

from streamd.core.contract import ModelContract


def make_contract(**changes: Any) -> ModelContract:
    """Make a contract: 3 features, 2 targets (not in the features' order), 3 quantiles, 8 rows in, 4 steps out."""
    values: dict[str, Any] = {
        "features": ("cpu", "mem", "net"),
        "targets": ("mem", "cpu"),
        "quantiles": (0.1, 0.5, 0.9),
        "context_length": 8,
        "horizon": 4,
        "step_seconds": 300,
    }
    return ModelContract(**{**values, **changes})
