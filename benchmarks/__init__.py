"""Benchmarks: each says what it does not measure."""
