"""Proves that lanes can run a graph: it opens in ONNX Runtime, and returns a row for each row of its input.

A batch axis can be dynamic in name only: a batch size that is baked into the nodes shows when they run.
"""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from streamd.core.errors import BuildError, StreamdError
from streamd.inference.runner import Arrays, Runner
from streamd.tools.engine.gate.truth import make_random_windows
from streamd.tools.engine.graph.onnx_graph import OnnxModel, Signature, serialize_graph
from streamd.tools.engine.precision.ranges import CalibrationWindows

PROVEN_BATCHES = (1, 3)


def prove_file(path: Path, signature: Signature, windows: CalibrationWindows | None = None) -> None:
    """Run a graph's file on the CPU with batches of several sizes; raises `BuildError` with the reason if it fails.

    `windows` are inputs by name, each `(windows, ...)`, of any number; without them the inputs are random.
    """
    from streamd.tools.engine.gate.runners import open_graph

    rows = make_random_windows(signature, max(PROVEN_BATCHES)) if windows is None else windows
    try:
        runner = open_graph(path).runners[0]
    except StreamdError as exc:
        raise BuildError(f"{path}: no lane can open the graph: {exc}") from exc
    with closing(runner):
        for count in PROVEN_BATCHES:
            _prove_batch(
                path, runner, {name: values[np.arange(count) % len(values)] for name, values in rows.items()}, count
            )


def prove_model(model: OnnxModel, name: str, signature: Signature, windows: CalibrationWindows | None = None) -> None:
    """Write a graph into a temporary folder and prove it, as `prove_file` does."""
    with TemporaryDirectory(prefix="streamd-prove-") as folder:
        path = Path(folder) / name
        path.write_bytes(serialize_graph(model, name))
        prove_file(path, signature, windows)


def _prove_batch(path: Path, runner: Runner, feeds: Arrays, count: int) -> None:
    remedy = (
        "a batch size is baked into its nodes: export it from a batch of 2 or more" if count > 1 else "export again"
    )
    try:
        found = runner.run(feeds)
    except StreamdError as exc:
        raise BuildError(f"{path}: does not run with a batch of {count}: {exc}; {remedy}") from exc
    for name, values in found.items():
        if values.shape[:1] != (count,):
            raise BuildError(
                f"{path}: output {name!r} is {values.shape} for a batch of {count}, expected a row for each; {remedy}"
            )
