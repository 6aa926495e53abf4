"""Pins layers to float32 in a network whose types the builder chooses (TensorRT before strong typing).

The parser makes one or several layers of a node, and adds helper layers between. A helper beside a pinned layer is
pinned too; otherwise values would pass through half precision on their way. The layers within a loop (of an LSTM) are
never pinned. This module does not protect nodes that meet raw units: 8.6 ignores pins there, so `stages` does it.
"""

from collections.abc import Iterable
from typing import Any

from streamd.tools.engine.plan.library import TensorRt

LOOP_TYPES = ("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT", "CONDITION")
"""Layers at the border of a loop. The layers within have no names of nodes and must not be pinned with a neighbour."""


def pin_layers(library: TensorRt, network: Any, pinned: Iterable[str], nodes: Iterable[str]) -> int:
    """Pin the layers of the nodes in `pinned`; return the number of pinned layers.

    `nodes` are the names of all nodes of the graph. The rules, in this order:

    1. A layer of a pinned node is chosen.
    2. A helper (a layer of no node) that shares a tensor with a chosen layer is chosen too, and so on from helper to
       helper. A layer at the border of a loop is no helper, so the choice never enters a loop.
    3. Of the chosen layers, `_pin` pins those that compute with floats.
    """
    trt = library.module
    pinned_names, known = set(pinned), set(nodes)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    owners = [find_node_of_layer(layer.name, known) for layer in layers]
    chosen = {index for index, owner in enumerate(owners) if owner in pinned_names}
    borders = {int(getattr(trt.LayerType, name)) for name in LOOP_TYPES if hasattr(trt.LayerType, name)}
    helpers = {
        index
        for index, layer in enumerate(layers)
        if owners[index] is None and layer.num_inputs and int(layer.type) not in borders
    }
    touched = {name for index in chosen for name in _list_tensors(layers[index])}
    while joining := {index for index in helpers - chosen if touched.intersection(_list_tensors(layers[index]))}:
        chosen |= joining
        touched.update(name for index in joining for name in _list_tensors(layers[index]))
    return sum(_pin(trt, layers[index]) for index in sorted(chosen))


def find_node_of_layer(layer: str, nodes: set[str]) -> str | None:
    """Return the node to which a layer belongs, by its name (further layers of a node are numbered), or `None`."""
    if layer in nodes:
        return layer
    base, _, number = layer.rpartition("_")
    return base if number.isdigit() and base in nodes else None


def _pin(trt: Any, layer: Any) -> bool:
    """Pin one layer; return whether it was pinned.

    Left out are layers without floats, layers that compute a shape, and shuffles: if a shuffle is pinned among pinned
    layers, 8.6 finds no implementation for the whole graph (seen on an H200).
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


def _list_tensors(layer: Any) -> list[str]:
    tensors = [*map(layer.get_input, range(layer.num_inputs)), *map(layer.get_output, range(layer.num_outputs))]
    return [tensor.name for tensor in tensors if tensor is not None]
