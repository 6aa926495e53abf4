"""Networks of others, with random weights: exported, built, validated and timed (`python -m benchmarks.networks`).

Nothing is downloaded, and nothing is said of their accuracy on data: only that an engine computes what PyTorch does.
"""
