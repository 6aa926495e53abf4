"""Attention within many short sets, computed for several sets at once: fewer and larger products, behind a mask.

A fused kernel takes a set and a head at a time; with 16 tokens a set it is all overhead (on an H200, 139 of the
740 us of a batch of 256 went there). Sets that lie side by side become one of at most 128 tokens, and a mask keeps
each to itself: the same numbers, since what is masked weighs exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx

MAX_JOINED_TOKENS = 128
MAX_SET_TOKENS = 32
MASK_VALUE = -1e4
"""Within half precision, and far enough below any score: its exponential is zero."""


class _Output:
    """Stands for the caller among a tensor's readers."""

    op_type = ""


_OUTPUT = _Output()


@dataclass(frozen=True)
class _Attention:
    """One attention: its reshapes into (set, token, head, size), and the softmax between its products."""

    reshapes: tuple[Any, ...]
    softmax: Any
    tokens: int


def join_attention(model: OnnxModel) -> OnnxModel:
    """Return a folded graph whose attention within short sets runs for several sets at once, or the given one.

    Found is what exporters write of multi-head attention over (set, token, width): three Reshapes to (-1, token,
    head, size), transposes, a product, an optional factor, Softmax over the last axis, a product, and back. How many
    sets there are for each row of a batch must be known, since as many are joined in every batch.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    finder = _Finder(copy)
    made = 0
    for softmax in [node for node in copy.graph.node if node.op_type == "Softmax"]:
        found = finder.attention(softmax)
        joined = finder.sets_to_join(found) if found is not None else 1
        if found is not None and joined > 1:
            finder.join(found, joined)
            made += 1
    if not made:
        return model
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Finder:
    """A graph under change, its tensors' makers and readers, and their shapes where a batch is one row."""

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
        self.shapes = _shapes_of_one_row(model)

    def attention(self, softmax: Any) -> _Attention | None:
        """The attention around a softmax, or None where it is not of the form."""
        scores = self._maker(softmax.input[0], "Mul")
        factor = scores if scores is None or any(name in self.weights for name in scores.input) else None
        product = self._maker(factor.input[0] if factor is not None else softmax.input[0], "MatMul")
        after = self.readers.get(softmax.output[0], [])
        if product is None or len(after) != 1 or after[0].op_type != "MatMul":
            return None
        reshapes = tuple(self._reshape(name) for name in (*product.input, after[0].input[1]))
        shapes = [None if each is None else self._constant(each.input[1]) for each in reshapes]
        if any(shape is None or len(shape) != 4 or shape[0] != -1 for shape in shapes):
            return None
        if len({tuple(shape) for shape in shapes if shape is not None}) != 1 or not self._goes_back(after[0]):
            return None
        tokens = int(shapes[0][1]) if shapes[0] is not None else 0
        return _Attention(reshapes, softmax, tokens) if 0 < tokens <= MAX_SET_TOKENS else None

    def sets_to_join(self, found: _Attention) -> int:
        """The most sets that every batch has a whole multiple of and that make no more than `MAX_JOINED_TOKENS`."""
        sets = {next(iter(self.shapes.get(each.output[0]) or [0])) for each in found.reshapes}
        count = sets.pop() if len(sets) == 1 else 0
        fitting = [n for n in range(1, count + 1) if count % n == 0 and n * found.tokens <= MAX_JOINED_TOKENS]
        return max(fitting, default=1)

    def join(self, found: _Attention, sets: int) -> None:
        """Change the reshapes to sets times as many tokens, and add the mask before the softmax."""
        length = sets * found.tokens
        for node in found.reshapes:
            shape = self._constant(node.input[1])
            assert shape is not None
            node.input[1] = self._add(f"{node.name}/joined", np.array([-1, length, *shape[2:]], np.int64))
        of = np.arange(length) // found.tokens
        mask = np.where(of[:, None] == of[None, :], 0.0, MASK_VALUE).astype(np.float32).reshape(1, 1, length, length)
        name = f"{found.softmax.name}/own_set"
        added = self.onnx.helper.make_node(
            "Add", [found.softmax.input[0], self._add(f"{name}_mask", mask)], [name], name=f"{name}_node"
        )
        found.softmax.input[0] = name
        self.graph.node.insert(list(self.graph.node).index(found.softmax), added)

    def _goes_back(self, product: Any) -> bool:
        """Whether what comes of it is laid out by token again, whatever sets they are of."""
        (after, *others) = self.readers.get(product.output[0], [None])
        if after is None or others or after.op_type != "Transpose":
            return False
        (back, *others) = self.readers.get(after.output[0], [None])
        shape = self._constant(back.input[1]) if back is not None and back.op_type == "Reshape" else None
        return not others and shape is not None and len(shape) == 3 and shape[0] == -1

    def _reshape(self, name: str) -> Any:
        """The Reshape behind one or two transposes."""
        node = self._maker(name, "Transpose")
        for _ in range(2):
            if node is not None and (further := self._maker(node.input[0], "Transpose")) is not None:
                node = further
        return self._maker(node.input[0], "Reshape") if node is not None else None

    def _maker(self, name: str, kind: str) -> Any:
        """The node of a kind that makes a tensor which nothing else reads, or None."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind and len(self.readers.get(name, [])) == 1 else None

    def _constant(self, name: str) -> list[int] | None:
        tensor = self.weights.get(name)
        return None if tensor is None else np.asarray(self.onnx.numpy_helper.to_array(tensor)).tolist()

    def _add(self, name: str, values: Any) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(values, name))
        return name


def _shapes_of_one_row(model: OnnxModel) -> dict[str, list[int]]:
    """Every tensor's shape in a batch of one, those that can be inferred."""
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
