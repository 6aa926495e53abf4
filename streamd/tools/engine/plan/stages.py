"""A graph cut into stages that run one after another: what meets raw units before and after, and the core between.

In one network TensorRT 8.6 rounds raw units to half precision whatever is pinned; a network of their own is right.
"""

from __future__ import annotations

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

CROSSING = "/crossing"

MEASURED_BATCHES = (2, 3)
"""Two batch sizes tell the batch axis from an axis that happens to have that size, or a multiple of it."""


@dataclass(frozen=True)
class Stage:
    """One stage; `is_core` where it may lose precision."""

    model: OnnxModel
    is_core: bool


def cut_into_stages(model: OnnxModel, prefixes: Iterable[str] = PINNED_PREFIXES) -> tuple[Stage, ...]:
    """Return the stages of a folded graph, in the order in which they run; one where nothing can be cut off.

    Before the core stand nodes with a prefix that read graph inputs, constants and each other only; after it, those
    whose outputs none but they read. Each stage is a checked graph that takes what it reads of the graph's inputs and
    of earlier stages, under the same names. What crosses is `(batch, *row)` with a dynamic batch axis and fixed rows;
    what has no batch axis (a shape) is computed again where it is read. An input that nothing reads is the first's.
    An output of the graph that a later stage reads crosses as `<name>/crossing`, beside the output itself.

    Raises `BuildError` where something cannot be computed again, where the graph does not run on zeros (which tells
    the shapes), or where an axis is not as a batched engine needs it.
    """
    places = _places(model, tuple(prefixes))
    made = {name for node in model.graph.node for name in node.output}
    passing = any(output.name not in made for output in model.graph.output)
    if passing or CORE not in places or set(places) == {CORE}:
        return (Stage(model, is_core=True),)
    cutter = _Cutter(model, places)
    wanted, stages = set(cutter.results), list[_Cut]()
    for place in (AFTER, CORE, BEFORE):
        stage = cutter.stage(place, wanted)
        if stage.outputs:
            stages.insert(0, stage)
            wanted.update(stage.inputs)
    if len(stages) < 2 or all(stage.place != CORE for stage in stages):
        return (Stage(model, is_core=True),)
    stages[0].inputs[:0] = [name for name in cutter.inputs if name not in wanted]
    shared = cutter.results.keys() & {name for stage in stages for name in stage.inputs}
    return tuple(Stage(cutter.write(stage, shared), stage.place == CORE) for stage in stages)


def _places(model: OnnxModel, prefixes: tuple[str, ...]) -> list[int]:
    """Where each node stands. Quantizers stay in the core: they are named after the tensors that they read."""
    nodes = list(model.graph.node)
    chosen = [node.name.startswith(prefixes) and node.op_type not in QUANTIZERS for node in nodes]
    places = [CORE] * len(nodes)
    made_in_core: set[str] = set()
    for index, node in enumerate(nodes):
        if chosen[index] and made_in_core.isdisjoint(_reads(node)):
            places[index] = BEFORE
        else:
            made_in_core.update(node.output)
    read_earlier: set[str] = set()
    for index, node in reversed(list(enumerate(nodes))):
        if places[index] == CORE and chosen[index] and read_earlier.isdisjoint(node.output):
            places[index] = AFTER
        else:
            read_earlier.update(_reads(node))
    return places


def _reads(node: Any) -> list[str]:
    """Names of tensors that a node reads, by itself or in graphs within it."""
    return [name for name in (*node.input, *find_inner_reads(node)) if name]


@dataclass(frozen=True)
class _Cut:
    """`nodes` by their numbers in the graph, those that an earlier stage computes too among them."""

    place: int
    nodes: list[int]
    inputs: list[str]
    outputs: list[str]


class _Cutter:
    """Cuts one graph whose nodes have their places."""

    def __init__(self, model: OnnxModel, places: list[int]) -> None:
        self.model, self.places, self.nodes = model, places, list(model.graph.node)
        self.makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        weights = {tensor.name for tensor in model.graph.initializer}
        self.inputs = {value.name: value for value in model.graph.input if value.name not in weights}
        self.results = {value.name: value for value in model.graph.output}
        self.batched = self._measure([name for name, maker in self.makers.items() if places[maker] != AFTER])

    def stage(self, place: int, wanted: set[str]) -> _Cut:
        """The stage at a place, which gives those of the wanted tensors that it makes."""
        nodes = {index for index, own in enumerate(self.places) if own == place}
        waiting, taken = sorted(nodes), set[str]()
        while waiting:
            for name in _reads(self.nodes[waiting.pop()]):
                maker = self.makers.get(name)
                if name in self.inputs or (name in self.batched and maker not in nodes):
                    taken.add(name)
                elif maker is not None and maker not in nodes:
                    self._check_again(maker, name)
                    nodes.add(maker)
                    waiting.append(maker)
        # Of a node with several outputs, one may have been taken before another called for the node itself.
        inputs = [name for name in (*self.inputs, *self.makers) if name in taken and self.makers.get(name) not in nodes]
        own = {name for name, maker in self.makers.items() if self.places[maker] == place}
        outputs = [name for name in dict.fromkeys((*self.results, *self.makers)) if name in wanted & own]
        return _Cut(place, sorted(nodes), inputs, outputs)

    def write(self, stage: _Cut, shared: Collection[str]) -> OnnxModel:
        """The graph of a stage, checked; `shared` are the outputs of the whole that cross too."""
        onnx = import_onnx()
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        graph = made.graph
        for field in ("node", "initializer", "input", "output", "value_info", "quantization_annotation"):
            graph.ClearField(field)
        graph.node.extend(self.nodes[index] for index in stage.nodes)
        read = {name for node in graph.node for name in _reads(node)} | set(stage.outputs)
        graph.initializer.extend(tensor for tensor in self.model.graph.initializer if tensor.name in read)
        graph.input.extend(self.inputs.get(name) or self.batched[name] for name in stage.inputs)
        graph.output.extend(self.results.get(name) or self.batched[name] for name in stage.outputs)
        for name in shared:
            self._add_crossing(graph, name)
        onnx.checker.check_model(made, full_check=True)
        return made

    def _add_crossing(self, graph: Any, name: str) -> None:
        """Let a tensor cross under a name of its own: what a later stage reads is no output of the whole."""
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

    def _check_again(self, maker: int, name: str) -> None:
        node = self.nodes[maker]
        if node.op_type in RANDOM_OPERATORS:
            raise BuildError(
                f"tensor {name!r} of node {node.name} ({node.op_type}) has no batch axis to cross between stages by,"
                " and computed again it would be another; expected the batch axis first"
            )

    def _measure(self, names: list[str]) -> Mapping[str, Any]:
        """Those of the tensors that have the batch axis first, and no other axis that changes with it, described."""
        onnx = import_onnx()
        specs = extract_signature(self.model, "the graph to cut into stages").inputs
        runs = []
        try:
            session = open_session_with_outputs(self.model, names)
            for size in MEASURED_BATCHES:
                shapes = {spec.name: (size, *(axis or 0 for axis in spec.shape)) for spec in specs}  # none is open
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
