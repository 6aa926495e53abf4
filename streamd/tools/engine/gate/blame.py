"""Which nodes make a lower precision wrong: every tensor of both graphs on ONNX Runtime, compared in the graph's order.

A node's own part is what its output is further off than what it read: errors that merely pass through blame nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.tools.engine.gate.windows import ModelInputs
from streamd.tools.engine.graph.onnx_graph import OnnxModel, fold_constants, infer_element_types
from streamd.tools.engine.precision.half import FLOAT, FLOAT16
from streamd.tools.engine.precision.ranges import open_session_with_outputs

WINDOWS = 4
GROUP = 40
"""Tensors that are fetched in one run: memory stays bounded whatever the graph."""

NOTICEABLE = 1e-3
SHOWN = 5


@dataclass(frozen=True)
class Layer:
    """A node of the graph: `error` of its output, of which it `added` so much; both are shares of the tensor's norm."""

    node: str
    operator: str
    error: float
    added: float

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.error:.1e} off, of which it added {self.added:.1e}"


@dataclass(frozen=True)
class Blame:
    """The first node that is noticeably off, and those that added most, the worst first."""

    first: Layer | None
    worst: tuple[Layer, ...]


def find_blame(exact: OnnxModel, lower: OnnxModel, windows: ModelInputs, noticeable: float = NOTICEABLE) -> Blame:
    """Compare the tensors that both graphs make, on a few windows; both graphs have folded constants."""
    layers = compare_layers(fold_constants(exact), fold_constants(lower), windows)
    first = next((layer for layer in layers if layer.added >= noticeable), None)
    worst = sorted((layer for layer in layers if layer.added > 0), key=lambda layer: -layer.added)[:SHOWN]
    return Blame(first, tuple(worst))


def compare_layers(exact: OnnxModel, lower: OnnxModel, windows: ModelInputs) -> list[Layer]:
    """Each node of the exact graph whose output the lower one has too, in the graph's order."""
    some = {name: values[:WINDOWS] for name, values in windows.items()}
    errors = _errors(exact, lower, some)
    layers = []
    for node in exact.graph.node:
        found = [errors[name] for name in node.output if name in errors]
        if found:
            error = max(found)
            read = max((errors.get(name, 0.0) for name in node.input), default=0.0)
            layers.append(Layer(node.name, node.op_type, error, max(0.0, error - read)))
    return layers


def _errors(exact: OnnxModel, lower: OnnxModel, windows: ModelInputs) -> dict[str, float]:
    types = infer_element_types(exact), infer_element_types(lower)
    made = {name for node in lower.graph.node for name in node.output}
    names = [
        name
        for node in exact.graph.node
        for name in node.output
        if name in made and types[0].get(name) == FLOAT and types[1].get(name) in (FLOAT, FLOAT16)
    ]
    errors: dict[str, float] = {}
    for start in range(0, len(names), GROUP):
        group = names[start : start + GROUP]
        wanted, found = (open_session_with_outputs(model, group).run(group, dict(windows)) for model in (exact, lower))
        errors |= {name: _error(*pair) for name, *pair in zip(group, found, wanted, strict=True)}
    return errors


def _error(found: npt.NDArray[np.floating], wanted: npt.NDArray[np.floating]) -> float:
    """The norm of the difference as a share of the wanted one's; what is not finite in both is left out."""
    one, other = found.astype(np.float64), wanted.astype(np.float64)
    if one.shape != other.shape:
        return 0.0
    known = np.isfinite(other)
    if not np.isfinite(one[known]).all():
        return float("inf")
    return float(np.linalg.norm(one[known] - other[known]) / max(float(np.linalg.norm(other[known])), 1e-30))
