"""Load, faults and checks at once against a real daemon that is killed and restarted: `python -m benchmarks.chaos`."""
