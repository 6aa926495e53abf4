"""Fixtures of small networks."""

from tests.support.training_fixtures import contract, inputs, model, one_thread

__all__ = ["contract", "inputs", "model", "one_thread"]
