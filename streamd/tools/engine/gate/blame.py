"""Finds the nodes that make a lower precision wrong: compares every tensor of both graphs, run on ONNX Runtime.

A node is blamed for the error that it adds: the error of its output minus the largest error among its inputs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.tools.engine.gate.windows import ModelInputs
from streamd.tools.engine.graph.onnx_graph import OnnxModel, fold_constants, infer_element_types
from streamd.tools.engine.precision.half import FLOAT, FLOAT16
from streamd.tools.engine.precision.ranges import open_session_with_outputs

BLAME_WINDOWS = 4
TENSORS_PER_RUN = 40
"""Tensors that are fetched in one run, so that memory stays bounded for any graph."""

NOTICEABLE_ERROR = 1e-3
"""The first node that adds at least this much is reported as the first that is off."""

MAX_LAYERS = 5
"""Number of nodes that are reported."""


@dataclass(frozen=True)
class Layer:
    """A node of the graph with the error of its output."""

    node: str
    operator: str
    error: float
    """The norm of the difference, as a share of the exact tensor's norm."""

    added: float
    """The part of `error` that the node's inputs do not explain."""

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.error:.1e} off, of which it added {self.added:.1e}"


@dataclass(frozen=True)
class Blame:
    """The first node that is noticeably off, and those that added most, the worst first."""

    first: Layer | None
    worst: tuple[Layer, ...]


def find_blame(exact: OnnxModel, lower: OnnxModel, windows: ModelInputs, noticeable: float = NOTICEABLE_ERROR) -> Blame:
    """Compare the tensors that both graphs make, on a few windows, after folding the constants of both."""
    layers = compare_layers(fold_constants(exact), fold_constants(lower), windows)
    first = next((layer for layer in layers if layer.added >= noticeable), None)
    worst = sorted((layer for layer in layers if layer.added > 0), key=lambda layer: -layer.added)[:MAX_LAYERS]
    return Blame(first, tuple(worst))


def compare_layers(exact: OnnxModel, lower: OnnxModel, windows: ModelInputs) -> list[Layer]:
    """Return each node of the exact graph whose output the lower graph has too, in the graph's order."""
    some = {name: values[:BLAME_WINDOWS] for name, values in windows.items()}
    errors = _compute_errors(exact, lower, some)
    layers = []
    for node in exact.graph.node:
        found = [errors[name] for name in node.output if name in errors]
        if found:
            error = max(found)
            read = max((errors.get(name, 0.0) for name in node.input), default=0.0)
            layers.append(Layer(node.name, node.op_type, error, max(0.0, error - read)))
    return layers


def _compute_errors(exact: OnnxModel, lower: OnnxModel, windows: ModelInputs) -> dict[str, float]:
    """Return the error of each tensor that both graphs make as float32 or float16, by name."""
    types = infer_element_types(exact), infer_element_types(lower)
    made = {name for node in lower.graph.node for name in node.output}
    names = [
        name
        for node in exact.graph.node
        for name in node.output
        if name in made and types[0].get(name) == FLOAT and types[1].get(name) in (FLOAT, FLOAT16)
    ]
    errors: dict[str, float] = {}
    for start in range(0, len(names), TENSORS_PER_RUN):
        group = names[start : start + TENSORS_PER_RUN]
        expected, found = (
            open_session_with_outputs(model, group).run(group, dict(windows)) for model in (exact, lower)
        )
        errors |= {name: _compute_error(*pair) for name, *pair in zip(group, found, expected, strict=True)}
    return errors


def _compute_error(found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """Return the norm of the difference as a share of the expected norm, over the values that are finite in `expected`.

    Infinite if one of these is not finite in `found`; 0 for tensors of different shapes, which cannot be compared.
    """
    one, other = found.astype(np.float64), expected.astype(np.float64)
    if one.shape != other.shape:
        return 0.0
    known = np.isfinite(other)
    if not np.isfinite(one[known]).all():
        return float("inf")
    return float(np.linalg.norm(one[known] - other[known]) / max(float(np.linalg.norm(other[known])), 1e-30))
