"""A daemon past its capacity, with and without tokens, and under attack: `python -m benchmarks.overload`."""
