"""Published networks with random weights: exported, built, validated and timed (`python -m benchmarks.networks`).

Nothing is downloaded. Not measured: their accuracy on data; only that an engine computes the same as PyTorch.
"""
