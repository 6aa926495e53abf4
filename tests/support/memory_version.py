"""Makes a small version whose forecast depends on its memory, in a way that a test computes by hand.

The forecast of a target is its newest value, plus the sum of its remembered means, each times its number (1 for the
oldest), plus 0.001 for each step of the horizon, plus the level of the quantile; what is missing counts as 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from streamd.core.contract import MEMORY_INPUT, MEMORY_LENGTH, ModelContract
from tests.support.contracts import make_contract
from tests.support.graph_readers import INT32, model, node, value, weight
from tests.support.made_versions import make, state_contract

Array = npt.NDArray[np.float32]


def make_memory_contract(**changes: Any) -> ModelContract:
    """Make a small contract whose memory has 168 hours, with rows of five minutes."""
    return make_contract(**{"context_length": 24, "memory_length": 168, **changes})


def make_memory_network(contract: ModelContract, *, has_default: bool = True) -> Any:
    """Make the graph; with `has_default`, its memory is an optional input, whose value is NaN."""
    shape = contract.input_shapes[MEMORY_INPUT]
    nodes = [
        node("IsNaN", MEMORY_INPUT, "forgotten", "/scaler/IsNaN"),
        node("Where", f"forgotten zero {MEMORY_INPUT}", "known", "/scaler/Where"),
        node("Mul", "known numbers", "weighed", "/Mul"),
        node("ReduceSum", "weighed second", "sums", "/ReduceSum", keepdims=0),
        node("Gather", "encoder_cont last", "newest", "/Gather", axis=1),
        node("IsNaN", "newest", "missing", "/scaler/IsNaN_1"),
        node("Where", "missing zero newest", "values", "/scaler/Where_1"),
        node("Add", "values sums", "levels", "/Add"),
        node("Gather", "levels columns", "chosen", "/Gather_1", axis=1),
        node("Unsqueeze", "chosen outer", "spread", "/Unsqueeze"),
        node("Add", "spread offsets", "shaped", "/Add_1"),
        node("Reshape", "shaped shape", "predictions", "/Reshape"),
    ]
    numbers = np.arange(1, contract.memory_length + 1)[None, :, None]
    weights = [
        weight("zero", np.float32(0)),
        weight("numbers", np.broadcast_to(numbers, (1, *shape))),
        weight("offsets", make_offsets(contract)[None]),
        _make_indices("second", [1]),
        _make_indices("outer", [1, 3]),
        _make_indices("shape", [-1, *contract.output_shape]),
        numpy_helper.from_array(np.array(contract.context_length - 1), "last"),
        _make_indices("columns", [contract.feature_index[name] for name in contract.targets]),
    ]
    if has_default:
        weights.append(weight(MEMORY_INPUT, np.full((1, *shape), np.nan)))
    inputs = [
        value(name, ["batch", *shape], *([INT32] if name.endswith("_cat") else []))
        for name, shape in contract.input_shapes.items()
    ]
    return model(nodes, inputs, [value("predictions", ["batch", *contract.output_shape])], weights)


def make_offsets(contract: ModelContract) -> Array:
    """Return what is added to a level: `(horizon, 1, quantiles)`."""
    steps = 0.001 * np.arange(1, contract.horizon + 1, dtype=np.float32)
    offsets: Array = steps[:, None, None] + np.asarray(contract.quantiles, np.float32)
    return offsets


def compute_memory_forecast(contract: ModelContract, newest: npt.ArrayLike, memory: npt.ArrayLike) -> Array:
    """Return the forecast `(horizon, targets, quantiles)` of a window by its `newest (features,)` row and its memory.

    `memory (length, features)` may be shorter than that of the contract: then it is the newest part.
    """
    means = np.asarray(memory, np.float32)
    numbers = np.arange(contract.memory_length - len(means) + 1, contract.memory_length + 1, dtype=np.float32)
    levels = np.nan_to_num(np.asarray(newest, np.float32)) + (np.nan_to_num(means) * numbers[:, None]).sum(0)
    columns = [contract.feature_index[name] for name in contract.targets]
    forecast: Array = levels[columns][None, :, None] + make_offsets(contract)
    return forecast


def compute_naive_memory(rows: Mapping[int, Sequence[float | None]], end: int, period: int, features: int) -> Array:
    """Return the memory `(168, features)` of a server for a forecast that begins at step `end`, element by element.

    `rows` are the values of the server by step, `None` where missing; `period` is the number of steps in an hour.
    """
    memory = np.full((MEMORY_LENGTH, features), np.nan, np.float32)
    for element in range(MEMORY_LENGTH):
        first = end // period - MEMORY_LENGTH + element
        for feature in range(features):
            total = shares = 0.0
            for hour, share in ((first, period - end % period), (first + 1, end % period)):
                is_complete = end >= (hour + 1) * period
                steps = range(hour * period, (hour + 1) * period) if is_complete and share else ()
                given = [rows[step][feature] for step in steps if step in rows]
                known = [value for value in given if value is not None]
                if known:
                    total, shares = total + share * sum(known) / len(known), shares + share
            if shares:
                memory[element, feature] = total / shares
    return memory


def make_memory_version(
    root: Path, name: str, contract: ModelContract, *, has_default: bool = True, **manifest: Any
) -> Path:
    """Make a version of this contract with the graph above."""
    stated = state_contract(contract) | {
        "architecture": "memory",
        "memory": {"length": contract.memory_length, "step_seconds": contract.memory_step_seconds},
    }
    path = make(root, name, **{**stated, **manifest})
    onnx.save(make_memory_network(contract, has_default=has_default), str(path / "model.onnx"))
    return path


def _make_indices(name: str, values: list[int]) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)
