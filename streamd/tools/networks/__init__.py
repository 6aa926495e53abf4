"""Networks in plain PyTorch: the Temporal Fusion Transformer, the patch forecaster, and the reader of their weights.

This package knows tensors and the model contract. It does not import the daemon, the repository or training data.
"""
