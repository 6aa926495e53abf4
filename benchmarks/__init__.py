"""Benchmarks. The docstring of each one lists what it does not measure."""
