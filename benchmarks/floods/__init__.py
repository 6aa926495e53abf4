"""Each flood of requests and frames, alone: how long the loop and `/healthz` take: `python -m benchmarks.floods`."""
