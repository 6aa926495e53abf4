"""Holds layers in float32 in a network whose types the builder chooses: TensorRT before strong typing.

The parser makes one layer or several of a node, and helpers of its own between: those beside a pinned layer are
pinned too, or its values would pass through half precision on the way. A loop (an LSTM's) is never entered. What meets
raw units is no matter of pins, which 8.6 does not obey there, but of stages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamd.tools.engine.plan.library import TensorRt

LOOP_TYPES = ("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT", "CONDITION")
"""Layers at a loop's border: all within is without names of its own, and must not follow one neighbour."""


def pin_layers(library: TensorRt, network: Any, pinned: Iterable[str], nodes: Iterable[str]) -> int:
    """Pin the layers of the nodes in `pinned`, of all `nodes` of the graph; returns how many layers that are."""
    trt = library.module
    wanted, known = set(pinned), set(nodes)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    owners = [find_node_of_layer(layer.name, known) for layer in layers]
    chosen = {index for index, owner in enumerate(owners) if owner in wanted}
    borders = {int(getattr(trt.LayerType, name)) for name in LOOP_TYPES if hasattr(trt.LayerType, name)}
    helpers = {
        index
        for index, layer in enumerate(layers)
        if owners[index] is None and layer.num_inputs and int(layer.type) not in borders
    }
    touched = {name for index in chosen for name in _tensors(layers[index])}
    while joining := {index for index in helpers - chosen if touched.intersection(_tensors(layers[index]))}:
        chosen |= joining
        touched.update(name for index in joining for name in _tensors(layers[index]))
    return sum(_pin(trt, layers[index]) for index in sorted(chosen))


def find_node_of_layer(layer: str, nodes: set[str]) -> str | None:
    """The node that a layer is of, by its name (further layers of a node are numbered); None for helpers."""
    if layer in nodes:
        return layer
    base, _, number = layer.rpartition("_")
    return base if number.isdigit() and base in nodes else None


def _pin(trt: Any, layer: Any) -> bool:
    """Pin one layer, unless it handles no floats, makes a shape, or only changes one.

    With a pinned shuffle among pinned layers 8.6 finds no implementation for the whole graph (seen on an H200).
    """
    if int(layer.type) == int(trt.LayerType.SHUFFLE):
        return False
    floats = {int(trt.DataType.FLOAT), int(trt.DataType.HALF)}
    inputs = [tensor for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None]
    outputs = list(map(layer.get_output, range(layer.num_outputs)))
    if any(tensor.is_shape_tensor for tensor in outputs):
        return False
    computes = any(int(tensor.dtype) in floats for tensor in inputs)
    if computes:
        layer.precision = trt.DataType.FLOAT
    made = [index for index, tensor in enumerate(outputs) if int(tensor.dtype) in floats]
    for index in made:
        layer.set_output_type(index, trt.DataType.FLOAT)
    return computes or bool(made)


def _tensors(layer: Any) -> list[str]:
    tensors = [*map(layer.get_input, range(layer.num_inputs)), *map(layer.get_output, range(layer.num_outputs))]
    return [tensor.name for tensor in tensors if tensor is not None]
