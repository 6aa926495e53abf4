"""Fixtures of small networks and a small fleet."""

from tests.support.training_fixtures import contract, fleet, inputs, model, one_thread

__all__ = ["contract", "fleet", "inputs", "model", "one_thread"]
