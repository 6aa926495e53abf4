"""Finds the tensors that do not fit half precision, by running the float32 graph on real windows.

ONNX Runtime returns the intermediate tensors in groups, so that memory stays bounded. This module changes no graph.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx, infer_element_types, serialize_graph
from streamd.tools.engine.precision.half import FLOAT, FLOAT16, round_to

FLOAT16_MAX = float(np.finfo(np.float16).max)
MARGIN = 4.0
"""A tensor within this factor of float16's largest value stays in float32, since other windows may be larger."""

LARGEST_LOSS = 0.01
"""The share of its norm that the tensor of a window may lose to rounding; only subnormal values lose so much."""

IMMATERIAL = 1e-3
"""If the norm of a window is below this share of the largest window's norm, its loss does not matter."""

BATCH = 8
BUDGET_BYTES = 256 * 2**20

CalibrationWindows = Mapping[str, npt.NDArray[Any]]
"""Inputs by name, each `(windows, ...)`."""


class RangeFinder:
    """Compares each tensor with itself after rounding to half precision."""

    def __init__(self, element: int = FLOAT16, budget_bytes: int = BUDGET_BYTES) -> None:
        self.element = element
        self.budget_bytes = budget_bytes
        self.misfits: dict[str, str] = {}

    def find_misfits(
        self, model: OnnxModel, windows: CalibrationWindows, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, str]:
        """Return the reason for each tensor that does not fit; `on_progress(done, total)` is called after each run."""
        self.misfits = {}
        for tensor in model.graph.initializer:
            if tensor.data_type == FLOAT:
                self._check_tensor(tensor.name, import_onnx().numpy_helper.to_array(tensor)[None])
        groups = self._group_tensors(model, windows)
        count = len(next(iter(windows.values())))
        total, done = len(groups) * -(-count // BATCH), 0
        for names in groups:
            session = open_session_with_outputs(model, names)
            for batch in split_into_batches(windows, BATCH):
                for name, values in zip(names, session.run(names, dict(batch)), strict=True):
                    self._check_tensor(name, values)
                done += 1
                if on_progress:
                    on_progress(done, total)
        return self.misfits

    def _check_tensor(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """Add a tensor to the misfits if it does not fit; `values` are `(windows, ...)`."""
        if name in self.misfits or not values.size:
            return
        rows = np.nan_to_num(values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1), nan=0.0)
        largest = float(np.abs(rows).max())
        if self.element == FLOAT16 and not largest * MARGIN <= FLOAT16_MAX:
            self.misfits[name] = f"reaches {largest:.3g}; float16 holds {FLOAT16_MAX:.0f}"
            return
        norm = np.linalg.norm(rows.astype(np.float64), axis=1)
        lost = np.linalg.norm(rows.astype(np.float64) - round_to(rows, self.element), axis=1)
        worst = float((lost / np.maximum(norm, max(IMMATERIAL * norm.max(), 1e-300))).max())
        if worst > LARGEST_LOSS:
            self.misfits[name] = f"loses {worst:.1%} to rounding; its largest value is {largest:.3g}"

    def _group_tensors(self, model: OnnxModel, windows: CalibrationWindows) -> list[list[str]]:
        """Return tensors in groups that fit the memory budget of one run, from their sizes for one window."""
        types = infer_element_types(model)
        given = {value.name for value in model.graph.input}
        names = [n for node in model.graph.node for n in node.output if types.get(n) == FLOAT and n not in given]
        first = {name: values[:1] for name, values in windows.items()}
        rows = min(BATCH, len(next(iter(windows.values()))))
        groups: list[list[str]] = [[]]
        free_bytes = self.budget_bytes
        for name, values in zip(names, open_session_with_outputs(model, names).run(names, first), strict=True):
            size = values.nbytes * rows
            if groups[-1] and size > free_bytes:
                groups.append([])
                free_bytes = self.budget_bytes
            groups[-1].append(name)
            free_bytes -= size
        return groups if names else []


def open_session_with_outputs(model: OnnxModel, names: list[str]) -> Any:
    """Open a session of ONNX Runtime on the CPU whose outputs include these tensors, intermediate or not."""
    import onnxruntime

    onnx = import_onnx()
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    there = {output.name for output in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(
        serialize_graph(wider, "a graph to compare"), options, providers=["CPUExecutionProvider"]
    )


def split_into_batches(windows: CalibrationWindows, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the windows by input name, `size` at a time."""
    count = len(next(iter(windows.values())))
    for start in range(0, count, size):
        yield {name: values[start : start + size] for name, values in windows.items()}
