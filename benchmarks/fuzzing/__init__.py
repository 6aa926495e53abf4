"""Fuzzes the decoders of foreign protocols, by coverage with atheris or without it: `python -m benchmarks.fuzzing`."""
