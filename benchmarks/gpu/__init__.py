"""Benchmarks that need a GPU: `python -m benchmarks.gpu.run --help`, and `benchmarks.gpu.pytorch` beside it."""
