"""Forecasts per second of engine versions on this machine's CPU, taking turns in one run.

ONNX Runtime alone, one thread, without the daemon. Not measured: the speed of the service.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from streamd.tools.training.checks import make_empty_inputs
from streamd.tools.training.evaluate import open_model


def main() -> None:
    """Print a table: version, batch size, forecasts per second (median of the rounds), ratio to the first version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", type=Path, help="folders of engine versions")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 32], help="batch sizes [default: 1 32]")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round [default: %(default)g]")
    args = parser.parse_args()
    models = {path.name: open_model(path, threads=1)[:2] for path in args.versions}
    for batch in args.batch:
        rates: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(args.rounds + 1):  # The first round is the warm-up.
            for name, (contract, predict) in models.items():
                feed = make_empty_inputs(contract, batch)
                feed["encoder_cont"][:] = np.random.default_rng(1).random(feed["encoder_cont"].shape)
                count, began = 0, time.perf_counter()
                while time.perf_counter() - began < args.seconds:
                    predict(feed)
                    count += batch
                rates[name].append(count / (time.perf_counter() - began))
        first = float(np.median(rates[args.versions[0].name][1:]))
        for name, values in rates.items():
            rate = float(np.median(values[1:]))
            print(f"batch {batch:>3}  {name:<44}{rate:>9.0f}/s{rate / first:>8.2f} x")


if __name__ == "__main__":
    main()
