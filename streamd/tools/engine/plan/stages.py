"""Cuts a graph into stages that run one after another: nodes that meet raw units, the core, and such nodes again.

This module changes graphs only; it needs no TensorRT. Within one network, TensorRT 8.6 rounds raw units to half
precision even if their nodes are pinned. In a network of their own, the nodes stay in float32.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.onnx_graph import (
    RANDOM_OPERATORS,
    OnnxModel,
    extract_signature,
    find_inner_reads,
    import_onnx,
)
from streamd.tools.engine.precision.half import QUANTIZERS
from streamd.tools.engine.precision.kept_nodes import PINNED_PREFIXES
from streamd.tools.engine.precision.ranges import open_session_with_outputs

BEFORE, CORE, AFTER = range(3)
"""The places of a node and of a stage, in the order in which they run."""

CROSSING = "/crossing"
"""The suffix of an output of the graph that also crosses to a later stage."""

MEASURED_BATCHES = (2, 3)
"""Two batch sizes distinguish the batch axis from an axis that happens to have that size, or a multiple of it."""


@dataclass(frozen=True)
class Stage:
    """One stage; only the core may lose precision."""

    model: OnnxModel
    is_core: bool


def cut_into_stages(model: OnnxModel, prefixes: Iterable[str] = PINNED_PREFIXES) -> tuple[Stage, ...]:
    """Return the stages of a folded graph, in the order in which they run; only one if nothing can be cut off.

        inputs -> before: nodes with a prefix that read only graph inputs, constants and each other
               -> core:   all other nodes
               -> after:  nodes with a prefix whose outputs are read only by each other
               -> outputs

    Each stage is a checked graph. Its inputs are the graph inputs and the tensors of earlier stages that it reads,
    under the same names:

    1. A tensor crosses as `(batch, *row)`, with a dynamic batch axis and a fixed row.
    2. A tensor without a batch axis (a shape) is computed again in the stage that reads it.
    3. A graph input that no node reads belongs to the first stage.
    4. A graph output that a later stage reads also crosses, as `<name>/crossing`.

    Raises `BuildError` if a tensor cannot be computed again, if the graph does not run on zeros (which shows the
    shapes), or if an axis is not as a batched engine needs it.
    """
    places = _place_nodes(model, tuple(prefixes))
    made = {name for node in model.graph.node for name in node.output}
    passing = any(output.name not in made for output in model.graph.output)
    if passing or CORE not in places or set(places) == {CORE}:
        return (Stage(model, is_core=True),)
    cutter = _Cutter(model, places)
    needed, stages = set(cutter.results), list[_Cut]()
    for place in (AFTER, CORE, BEFORE):
        stage = cutter.cut_stage(place, needed)
        if stage.outputs:
            stages.insert(0, stage)
            needed.update(stage.inputs)
    if len(stages) < 2 or all(stage.place != CORE for stage in stages):
        return (Stage(model, is_core=True),)
    stages[0].inputs[:0] = [name for name in cutter.inputs if name not in needed]
    shared = cutter.results.keys() & {name for stage in stages for name in stage.inputs}
    return tuple(Stage(cutter.make_graph(stage, shared), stage.place == CORE) for stage in stages)


def _place_nodes(model: OnnxModel, prefixes: tuple[str, ...]) -> list[int]:
    """Return the place of each node. Quantizers stay in the core: their names come from the tensors that they read."""
    nodes = list(model.graph.node)
    chosen = [node.name.startswith(prefixes) and node.op_type not in QUANTIZERS for node in nodes]
    places = [CORE] * len(nodes)
    made_in_core: set[str] = set()
    for index, node in enumerate(nodes):
        if chosen[index] and made_in_core.isdisjoint(_list_reads(node)):
            places[index] = BEFORE
        else:
            made_in_core.update(node.output)
    read_earlier: set[str] = set()
    for index, node in reversed(list(enumerate(nodes))):
        if places[index] == CORE and chosen[index] and read_earlier.isdisjoint(node.output):
            places[index] = AFTER
        else:
            read_earlier.update(_list_reads(node))
    return places


def _list_reads(node: Any) -> list[str]:
    """Return the names of the tensors that a node, or a graph within it, reads."""
    return [name for name in (*node.input, *find_inner_reads(node)) if name]


@dataclass(frozen=True)
class _Cut:
    """One stage before its graph is made."""

    place: int
    nodes: list[int]
    """Positions in the graph, including nodes that an earlier stage also computes."""

    inputs: list[str]
    outputs: list[str]


class _Cutter:
    """Cuts one graph into stages, from the place of each node."""

    def __init__(self, model: OnnxModel, places: list[int]) -> None:
        self.model, self.places, self.nodes = model, places, list(model.graph.node)
        self.makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        weights = {tensor.name for tensor in model.graph.initializer}
        self.inputs = {value.name: value for value in model.graph.input if value.name not in weights}
        self.results = {value.name: value for value in model.graph.output}
        self.batched = self._describe_batched([name for name, maker in self.makers.items() if places[maker] != AFTER])

    def cut_stage(self, place: int, needed: set[str]) -> _Cut:
        """Return the stage at a place; its outputs are those of the `needed` tensors that its nodes make."""
        nodes = {index for index, own in enumerate(self.places) if own == place}
        waiting, taken = sorted(nodes), set[str]()
        while waiting:
            for name in _list_reads(self.nodes[waiting.pop()]):
                maker = self.makers.get(name)
                if name in self.inputs or (name in self.batched and maker not in nodes):
                    taken.add(name)
                elif maker is not None and maker not in nodes:
                    self._check_repeatable(maker, name)
                    nodes.add(maker)
                    waiting.append(maker)
        # A node may have several outputs: one was taken as an input before another required the node itself.
        inputs = [name for name in (*self.inputs, *self.makers) if name in taken and self.makers.get(name) not in nodes]
        own = {name for name, maker in self.makers.items() if self.places[maker] == place}
        outputs = [name for name in dict.fromkeys((*self.results, *self.makers)) if name in needed & own]
        return _Cut(place, sorted(nodes), inputs, outputs)

    def make_graph(self, stage: _Cut, shared: Collection[str]) -> OnnxModel:
        """Return the checked graph of a stage; `shared` are the graph's outputs that also cross to a later stage."""
        onnx = import_onnx()
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        graph = made.graph
        for field in ("node", "initializer", "input", "output", "value_info", "quantization_annotation"):
            graph.ClearField(field)
        graph.node.extend(self.nodes[index] for index in stage.nodes)
        read = {name for node in graph.node for name in _list_reads(node)} | set(stage.outputs)
        graph.initializer.extend(tensor for tensor in self.model.graph.initializer if tensor.name in read)
        graph.input.extend(self.inputs.get(name) or self.batched[name] for name in stage.inputs)
        graph.output.extend(self.results.get(name) or self.batched[name] for name in stage.outputs)
        for name in shared:
            self._add_crossing(graph, name)
        onnx.checker.check_model(made, full_check=True)
        return made

    def _add_crossing(self, graph: Any, name: str) -> None:
        """Let an output cross under another name, because a tensor that a later stage reads counts as no output."""
        helper, other = import_onnx().helper, f"{name}{CROSSING}"
        crossing = import_onnx().ValueInfoProto()
        crossing.CopyFrom(self.batched[name])
        crossing.name = other
        if name in {output.name for output in graph.output}:
            graph.node.append(helper.make_node("Identity", [name], [other], name=f"{other}_given"))
            graph.output.append(crossing)
        for value in [value for value in graph.input if value.name == name]:
            graph.node.insert(0, helper.make_node("Identity", [other], [name], name=f"{other}_taken"))
            value.CopyFrom(crossing)

    def _check_repeatable(self, maker: int, name: str) -> None:
        """Raise `BuildError` if the node would make other numbers when it is computed again."""
        node = self.nodes[maker]
        if node.op_type in RANDOM_OPERATORS:
            raise BuildError(
                f"tensor {name!r} of node {node.name} ({node.op_type}) has no batch axis, so it cannot cross between"
                " stages, and it is random, so it cannot be computed again; expected the batch axis first"
            )

    def _describe_batched(self, names: list[str]) -> Mapping[str, Any]:
        """Return the tensors that have the batch axis first and no other axis that changes with it, by name."""
        onnx = import_onnx()
        specs = extract_signature(self.model, "the graph to cut into stages").inputs
        runs = []
        try:
            session = open_session_with_outputs(self.model, names)
            for size in MEASURED_BATCHES:
                # `extract_signature` has checked that no axis of an input but the batch is open.
                shapes = {spec.name: (size, *(axis or 0 for axis in spec.shape)) for spec in specs}
                runs.append(session.run(names, {each.name: np.zeros(shapes[each.name], each.dtype) for each in specs}))
        except Exception as exc:  # ONNX Runtime's errors share no class
            raise BuildError(f"the graph cannot be cut into stages, since it does not run on zeros: {exc}") from exc
        batch = next(iter(self.inputs.values())).type.tensor_type.shape.dim[0].dim_param or "batch"
        found = {}
        for name, *values in zip(names, *runs, strict=True):
            if not all(isinstance(value, np.ndarray) and value.ndim for value in values):
                continue
            row = values[0].shape[1:]
            if [value.shape for value in values] == [(size, *row) for size in MEASURED_BATCHES]:
                kind = onnx.helper.np_dtype_to_tensor_dtype(values[0].dtype)
                found[name] = onnx.helper.make_tensor_value_info(name, kind, [batch, *row])
        return found
