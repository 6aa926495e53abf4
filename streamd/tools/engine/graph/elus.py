"""Writes `Elu` out as maximum, minimum and exponential, because the compiler of TensorRT 11 fails at the operator.

The graph stays equal up to rounding. The compiler's message, in every precision, for the `Elu` behind the attention of
a Temporal Fusion Transformer: "Error during shape inference ... There are 2 inputs. Expected 1" (seen with 11.4; graphs
with less around it compile). TensorRT 8.6 takes the operator.
"""

from typing import Any

import numpy as np

from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx, infer_element_types

FIRST_VERSION = 11
"""The first major version of TensorRT that does not get the operator."""


def write_out_elus(model: OnnxModel) -> OnnxModel:
    """Return a folded graph without `Elu` in float32, or the given graph itself if it has none.

    Elu(x) is max(x, 0) + alpha * (exp(min(x, 0)) - 1), so no exponential overflows. An `Elu` in a graph within a node
    stays as it is.
    """
    types = infer_element_types(model)
    written = [node for node in model.graph.node if _can_write(node, types)]
    if not written:
        return model
    onnx = import_onnx()
    names = {node.name for node in written}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    zero, one = _make_constant(copy, "zero", 0.0), _make_constant(copy, "one", 1.0)
    for node in nodes:
        copy.graph.node.extend(_write_elu(copy, node, zero, one) if node.name in names else [node])
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _can_write(node: Any, types: dict[str, int]) -> bool:
    float_type = import_onnx().TensorProto.FLOAT
    return bool(node.op_type == "Elu" and types.get(node.input[0]) == float_type)


def _write_elu(model: OnnxModel, node: Any, zero: str, one: str) -> list[Any]:
    """Return the nodes that replace an `Elu`; their names begin with its name."""
    helper = import_onnx().helper
    alpha = next((each.f for each in node.attribute if each.name == "alpha"), 1.0)
    x, base = node.input[0], node.name
    steps = [
        ("Max", [x, zero], "positive"),
        ("Min", [x, zero], "negative"),
        ("Exp", [f"{base}/negative"], "exponential"),
        ("Sub", [f"{base}/exponential", one], "below"),
    ]
    if alpha != 1.0:
        steps.append(("Mul", [f"{base}/below", _make_constant(model, f"{base}/alpha", alpha)], "scaled"))
    steps.append(("Add", [f"{base}/positive", f"{base}/{steps[-1][2]}"], "sum"))
    nodes = [helper.make_node(kind, given, [f"{base}/{key}"], name=f"{base}/{key}_node") for kind, given, key in steps]
    nodes[-1].output[0] = node.output[0]
    return nodes


def _make_constant(model: OnnxModel, key: str, value: float) -> str:
    """Add a scalar to the graph; return its name."""
    name = key if "/" in key else f"/elu/{key}"
    model.graph.initializer.append(import_onnx().numpy_helper.from_array(np.array(value, np.float32), name))
    return name
