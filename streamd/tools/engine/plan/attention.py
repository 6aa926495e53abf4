"""Computes attention within many short sets for several sets at once: fewer and larger products, with a mask.

This module changes graphs only; it needs no TensorRT. A fused kernel computes one set and one head at a time. With 16
tokens a set, nearly all of its time is overhead (on an H200, 139 of the 740 us of a batch of 256). Therefore sets that
lie side by side become one set of at most 128 tokens, and a mask separates them. The numbers stay the same, because a
masked score has the weight zero exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx

MAX_JOINED_TOKENS = 128
"""The largest set that is made."""

MAX_SET_TOKENS = 32
"""The largest set that counts as short."""

MASK_VALUE = -1e4
"""A number that half precision holds and that is far below any score: its exponential is zero."""


class _Output:
    """The caller, as one of the readers of a tensor that is an output of the graph."""

    op_type = ""


_OUTPUT = _Output()


@dataclass(frozen=True)
class _Attention:
    """One attention: its reshapes into `(set, token, head, size)`, and the softmax between its two products."""

    reshapes: tuple[Any, ...]
    softmax: Any
    tokens: int


def join_attention(model: OnnxModel) -> OnnxModel:
    """Return a folded graph whose attention within short sets runs for several sets at once.

    Returns the given graph itself if it has no such attention. The form that is recognised is multi-head attention over
    `(set, token, width)` as exporters write it:

    1. three `Reshape` nodes to `(-1, token, head, size)`, for query, key and value, and their transposes;
    2. a `MatMul` of query and key, optionally a `Mul` by a constant, and `Softmax` over the last axis;
    3. a `MatMul` with the value, a `Transpose`, and a `Reshape` back to three axes.

    The number of sets of one row of a batch must be known, because the same number of sets is joined in every batch.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    joiner = _SetJoiner(copy)
    joined = 0
    for softmax in [node for node in copy.graph.node if node.op_type == "Softmax"]:
        attention = joiner.find_attention(softmax)
        count = joiner.count_joinable_sets(attention) if attention is not None else 1
        if attention is not None and count > 1:
            joiner.join_sets(attention, count)
            joined += 1
    if not joined:
        return model
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _SetJoiner:
    """Finds and changes attention in one graph. Knows who makes and reads each tensor, and the shapes of one row."""

    def __init__(self, model: OnnxModel) -> None:
        self.onnx = import_onnx()
        self.graph = model.graph
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        for output in model.graph.output:
            self.readers.setdefault(output.name, []).append(_OUTPUT)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.shapes = _infer_shapes_of_one_row(model)

    def find_attention(self, softmax: Any) -> _Attention | None:
        """Return the attention around a softmax, or `None` if it does not have the form of `join_attention`."""
        scores = self._find_only_maker(softmax.input[0], "Mul")
        factor = scores if scores is None or any(name in self.weights for name in scores.input) else None
        product = self._find_only_maker(factor.input[0] if factor is not None else softmax.input[0], "MatMul")
        after = self.readers.get(softmax.output[0], [])
        if product is None or len(after) != 1 or after[0].op_type != "MatMul":
            return None
        reshapes = tuple(self._find_reshape(name) for name in (*product.input, after[0].input[1]))
        shapes = [None if each is None else self._read_constant(each.input[1]) for each in reshapes]
        if any(shape is None or len(shape) != 4 or shape[0] != -1 for shape in shapes):
            return None
        if len({tuple(shape) for shape in shapes if shape is not None}) != 1 or not self._returns_to_tokens(after[0]):
            return None
        tokens = int(shapes[0][1]) if shapes[0] is not None else 0
        return _Attention(reshapes, softmax, tokens) if 0 < tokens <= MAX_SET_TOKENS else None

    def count_joinable_sets(self, attention: _Attention) -> int:
        """Return how many sets become one: as many as `MAX_JOINED_TOKENS` allows, and a divisor of a row's sets."""
        sets = {next(iter(self.shapes.get(each.output[0]) or [0])) for each in attention.reshapes}
        count = sets.pop() if len(sets) == 1 else 0
        fitting = [n for n in range(1, count + 1) if count % n == 0 and n * attention.tokens <= MAX_JOINED_TOKENS]
        return max(fitting, default=1)

    def join_sets(self, attention: _Attention, sets: int) -> None:
        """Let the reshapes make sets with `sets` times as many tokens, and add the mask before the softmax.

        The mask of two joined sets of two tokens, where `0` lets a token see another and `-` does not:

            0 0 - -
            0 0 - -
            - - 0 0
            - - 0 0
        """
        length = sets * attention.tokens
        for node in attention.reshapes:
            shape = self._read_constant(node.input[1])
            assert shape is not None
            node.input[1] = self._add_constant(f"{node.name}/joined", np.array([-1, length, *shape[2:]], np.int64))
        set_of = np.arange(length) // attention.tokens
        allowed = set_of[:, None] == set_of[None, :]
        mask = np.where(allowed, 0.0, MASK_VALUE).astype(np.float32).reshape(1, 1, length, length)
        name = f"{attention.softmax.name}/own_set"
        added = self.onnx.helper.make_node(
            "Add", [attention.softmax.input[0], self._add_constant(f"{name}_mask", mask)], [name], name=f"{name}_node"
        )
        attention.softmax.input[0] = name
        self.graph.node.insert(list(self.graph.node).index(attention.softmax), added)

    def _returns_to_tokens(self, product: Any) -> bool:
        """Whether the result of a product is transposed and reshaped back to tokens, so that sets no longer matter."""
        (after, *others) = self.readers.get(product.output[0], [None])
        if after is None or others or after.op_type != "Transpose":
            return False
        (back, *others) = self.readers.get(after.output[0], [None])
        shape = self._read_constant(back.input[1]) if back is not None and back.op_type == "Reshape" else None
        return not others and shape is not None and len(shape) == 3 and shape[0] == -1

    def _find_reshape(self, name: str) -> Any:
        """Return the `Reshape` before one to three transposes, or `None`."""
        node = self._find_only_maker(name, "Transpose")
        for _ in range(2):
            if node is not None and (further := self._find_only_maker(node.input[0], "Transpose")) is not None:
                node = further
        return self._find_only_maker(node.input[0], "Reshape") if node is not None else None

    def _find_only_maker(self, name: str, kind: str) -> Any:
        """Return the node of a kind that makes a tensor with a single reader, or `None`."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind and len(self.readers.get(name, [])) == 1 else None

    def _read_constant(self, name: str) -> list[int] | None:
        tensor = self.weights.get(name)
        return None if tensor is None else np.asarray(self.onnx.numpy_helper.to_array(tensor)).tolist()

    def _add_constant(self, name: str, values: Any) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(values, name))
        return name


def _infer_shapes_of_one_row(model: OnnxModel) -> dict[str, list[int]]:
    """Return the shape of every tensor for a batch of one row, as far as shapes can be inferred."""
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in copy.graph.output:
        value.type.tensor_type.shape.dim[0].Clear()
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    return {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in inferred.value_info}
