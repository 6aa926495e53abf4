"""Compares the speed of engine versions on this machine's CPU, call by call in turns.

ONNX Runtime alone, one thread, without the daemon. It measures processor time and not the clock's, and compares calls
that follow each other, so that other work on the machine changes little. Not measured: the speed of the service.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from streamd.core.contract import MEMORY_INPUT
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.checks import make_empty_inputs
from streamd.tools.training.evaluate import open_model

RAW_INPUTS = ("encoder_cont", MEMORY_INPUT)

MISSING = 0.05
"""The share of values that are missing, as some are in most fleets."""


def main() -> None:
    """Print a table: batch size, version, processor time of a window, speed relative to the first version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", type=Path, help="folders of engine versions; the first is compared with")
    parser.add_argument(
        "--batch", type=int, nargs="*", default=[1, 8, 32, 128], help="batch sizes [default: 1 8 32 128]"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each batch size [default: %(default)g]")
    args = parser.parse_args()
    models = [open_model(path, threads=1)[:2] for path in args.versions]
    for batch in args.batch:
        calls = [partial(predict, make_inputs(contract, batch)) for contract, predict in models]
        times = measure_in_turns(calls, args.seconds)
        ratios = np.median(times[:, :1] / times, axis=0)
        for path, each, ratio in zip(args.versions, np.median(times, axis=0), ratios, strict=True):
            print(f"batch {batch:>3}  {path.name:<40}{1e6 * each / batch:>8.0f} us a window{ratio:>7.2f} x")


def make_inputs(contract: NetworkContract, batch: int) -> dict[str, np.ndarray]:
    """Return inputs of random percentages, of which some are missing."""
    rng = np.random.default_rng(1)
    feed = make_empty_inputs(contract, batch)
    for name in feed.keys() & set(RAW_INPUTS):
        values = 100 * rng.random(feed[name].shape, np.float32)
        feed[name][:] = np.where(rng.random(values.shape) < MISSING, np.nan, values)
    return feed


def measure_in_turns(calls: Sequence[Callable[[], object]], seconds: float) -> np.ndarray:
    """Return the processor time of each call in each round, `(round, call)`, in seconds, within so many in all."""
    for call in calls:
        call()
    rounds: list[list[float]] = []
    began = time.perf_counter()
    while len(rounds) < 5 or time.perf_counter() - began < seconds:
        order = range(len(calls)) if len(rounds) % 2 else range(len(calls) - 1, -1, -1)
        took = [0.0] * len(calls)
        for i in order:
            start = time.process_time()
            calls[i]()
            took[i] = time.process_time() - start
        rounds.append(took)
    return np.array(rounds)


if __name__ == "__main__":
    main()
