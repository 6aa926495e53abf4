"""Whether a row's answer is its own: the same alone and in any company, which is what splitting and padding rest on."""

import numpy as np

from streamd.inference.runner import Arrays, Runner

LARGEST_DIFFERENCE = 0.05
"""How far a row's values may differ, as a share of the largest: low precisions round otherwise in other batch sizes."""

COMPARED_SHARE = 0.99
"""Of a row's values, so many must not differ by more: single ones may flip where a network is steep."""


def explain_dependence(runner: Runner, feeds: Arrays, together: Arrays) -> str | None:
    """Run the first of these rows alone and compare; return why rows depend on each other, or `None` if they do not.

    `together` is what the runner gave for all of `feeds`, two rows or more. Only floats are compared: a label may flip
    by a rounding. Raises what the runner raises.
    """
    alone = runner.run({name: rows[:1] for name, rows in feeds.items()})
    for name, values in alone.items():
        difference = _difference(values, together[name][:1])
        if not difference <= LARGEST_DIFFERENCE:
            count = len(next(iter(feeds.values())))
            return (
                f"output {name!r}: a row alone and among {count} differ by {difference:.2g} of its largest value: "
                "rows depend on each other (or the network draws random numbers), so it cannot be run in batches"
            )
    return None


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if one.dtype.kind != "f" or not one.size:
        return 0.0
    if one.shape != other.shape or (np.isfinite(one) != np.isfinite(other)).any():
        return np.inf
    known = np.isfinite(one)
    if not known.any():
        return 0.0
    first, second = one[known].astype(np.float64), other[known].astype(np.float64)
    scale = max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-30)
    return float(np.quantile(np.abs(first - second) / scale, COMPARED_SHARE))
