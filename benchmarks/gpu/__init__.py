"""Benchmarks that need a GPU: see `python -m benchmarks.gpu.run --help`, and `benchmarks.gpu.pytorch` beside it."""
