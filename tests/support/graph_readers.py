"""Small ONNX graphs for the tests of the tools, with functions that make, run and read them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32
Dims = Sequence[int | str | None]


def value(name: str, dims: Dims | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def weight(name: str, array: npt.ArrayLike) -> Any:
    return numpy_helper.from_array(np.asarray(array, np.float32), name)


def node(operator: str, inputs: str, outputs: str, name: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), outputs.split(), name=name, **attributes)


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any] = ()) -> Any:
    graph = helper.make_graph(list(nodes), "small", list(inputs), list(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scaled_network(width: int = 16, seed: int = 1) -> Any:
    """Return a network in raw units: scaler, two products, a norm, restorer, named as in the shipped ones."""
    random = np.random.default_rng(seed)
    nodes = [
        node("Constant", "", "big", "/scaler/Constant", value_float=1e9),
        node("Div", "x big", "unit", "/scaler/Div"),
        node("MatMul", "unit first", "hidden", "/first/MatMul"),
        node("LayerNormalization", "hidden scale", "normal", "/norm/LayerNormalization", axis=-1),
        node("Relu", "normal", "active", "/Relu"),
        node("MatMul", "active second", "out", "/second/MatMul"),
        node("Mul", "out big", "y", "/restorer/Mul"),
    ]
    weights = [
        weight("first", random.standard_normal((8, width)) / 3),
        weight("scale", np.ones(width)),
        weight("second", random.standard_normal((width, 8)) / 4),
    ]
    return model(nodes, [value("x", ["batch", 6, 8])], [value("y", ["batch", 6, 8])], weights)


def raw_windows(count: int = 24, seed: int = 2) -> dict[str, npt.NDArray[Any]]:
    """Return inputs of `scaled_network`, in raw units of 1e9."""
    random = np.random.default_rng(seed)
    return {"x": (random.standard_normal((count, 6, 8)) * 1e9).astype(np.float32)}


def run(graph: Any, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[npt.NDArray[Any]] = session.run(None, inputs)
    return found


def operators(graph: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in graph.graph.node]


def by_name(graph: onnx.ModelProto, name: str) -> Any:
    return next(each for each in graph.graph.node if each.name == name)
