"""A small fake of three generations of TensorRT, which parses real ONNX and records the calls of a builder.

It refuses what the real one refuses: flags and members of other versions are missing, a network without its flag has
no batch axis, a cache of another device does not fit.
"""

import itertools
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

CACHE = b"timed on this device;"


class Recorder:
    """The calls of the last build and of those before it, and the failures to produce."""

    def __init__(self) -> None:
        self.network: Network | None = None
        self.config: Config | None = None
        self.networks: list[Network] = []
        self.configs: list[Config] = []
        self.parser_errors: list[tuple[str, str, str]] = []
        self.build_errors: list[str] = []
        self.refuse_types: set[int] = set()
        self.steps = 3
        self.during_build: Callable[[], None] = lambda: None


def make_tensorrt(version: str) -> Any:
    """Return a module as `import tensorrt` does; `module.recorder` is for the test."""
    major = int(version.split(".")[0])
    module: Any = ModuleType("tensorrt")
    module.__version__ = version
    module.recorder = Recorder()

    # Numbers differ between versions on purpose: code that relies on them fails here.
    types = ["FLOAT", "HALF", "INT8", "INT32", "BOOL"] + (["BF16", "INT64"] if major >= 9 else [])
    module.DataType = _enum("DataType", types, first=major)
    network_flags = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"], 11: ["STRONGLY_TYPED"]}[major]
    module.NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", network_flags)
    flags = ["TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    if major < 11:
        flags += ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    module.BuilderFlag = _enum("BuilderFlag", flags, first=major)
    module.LayerType = _enum(
        "LayerType", ["CONSTANT", "SHUFFLE", "ELEMENTWISE", "ITERATOR", "LOOP_OUTPUT"], first=major
    )
    module.MemoryPoolType = _enum("MemoryPoolType", ["WORKSPACE"])
    if major < 11:
        module.PreviewFeature = _enum("PreviewFeature", ["PROFILE_SHARING_0806"])
    module.ILogger = type("ILogger", (), {"Severity": _enum("Severity", _SEVERITIES), "__init__": lambda self: None})
    if major >= 10:
        module.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    module.Builder = lambda logger: Builder(module, logger, major)
    module.OnnxParser = lambda network, logger: Parser(module, network, logger)
    return module


_SEVERITIES = ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]


def _enum(name: str, members: list[str], first: int = 0) -> Any:
    return IntEnum(name, {member: first + number for number, member in enumerate(members)})


class Tensor:
    def __init__(self, name: str, dtype: Any) -> None:
        self.name, self.dtype, self.is_shape_tensor = name, dtype, False


class Layer:
    """A layer of one node, or a helper that the parser adds."""

    def __init__(self, name: str, kind: Any, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        self.name, self.type, self.inputs, self.outputs = name, kind, inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision: Any = None
        self.output_types: dict[int, Any] = {}

    def get_input(self, index: int) -> Tensor | None:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.output_types[index] = dtype


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.layers: list[Layer] = []
        self.inputs: list[Tensor] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def named(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)


class Parser:
    """Makes a layer of each node, and a helper before each node with a weight, as the real one does to broadcast.

    An input with an initializer of the same name is no input of the network, as with the real one.
    """

    def __init__(self, module: Any, network: Network, logger: Any) -> None:
        self._module, self._network, self._logger = module, network, logger
        self._errors: list[Any] = []
        self.num_errors = 0

    def parse(self, content: bytes) -> bool:
        model = onnx.load_model_from_string(content)
        refused = [t for t in model.graph.initializer if t.data_type in self._module.recorder.refuse_types]
        given = list(self._module.recorder.parser_errors)
        given += [(tensor.name, "Constant", f"type {tensor.data_type} is not taken") for tensor in refused]
        for number, (node, operator, text) in enumerate(given):
            self._errors.append(_parser_error(self._module, number, node, operator, text))
        self.num_errors = len(self._errors)
        self._fill(model)
        return not self._errors

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def _fill(self, model: Any) -> None:
        types = _tensor_types(self._module, model)
        tensors = {name: Tensor(name, dtype) for name, dtype in types.items()}
        weights = {tensor.name for tensor in model.graph.initializer}
        self._network.inputs += [tensors[each.name] for each in model.graph.input if each.name not in weights]
        kinds = self._module.LayerType
        numbers = itertools.count()
        for weight in sorted(weights):
            self._network.layers.append(Layer(weight, kinds.CONSTANT, [], [tensors[weight]]))
        for node in model.graph.node:
            inputs: list[Tensor | None] = []
            for name in node.input:
                tensor = tensors.get(name)
                if name in weights and tensor is not None:
                    broadcast = Tensor(f"{name}_{next(numbers)}", tensor.dtype)
                    helper = Layer(f"ONNXTRT_Broadcast_{next(numbers)}", kinds.SHUFFLE, [tensor], [broadcast])
                    self._network.layers.append(helper)
                    tensor = broadcast
                inputs.append(tensor)
            outputs = [tensors[name] for name in node.output if name]
            if node.op_type == "LSTM":
                self._fill_loop(inputs, outputs)
            else:
                self._network.layers.append(Layer(node.name, kinds.ELEMENTWISE, inputs, outputs))

    def _fill_loop(self, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        """Add the layers of a loop: without names of nodes, from border to border."""
        kinds, half = self._module.LayerType, self._module.DataType.HALF
        step, gate = Tensor("step", half), Tensor("gate", half)
        for kind, given, made in (
            (kinds.ITERATOR, inputs[:1], [step]),
            (kinds.ELEMENTWISE, [step], [gate]),
            (kinds.LOOP_OUTPUT, [gate], outputs[:1]),
        ):
            name = f"(Unnamed Layer* {len(self._network.layers)}) [{kind.name}]"
            self._network.layers.append(Layer(name, kind, list(given), list(made)))


def _parser_error(module: Any, number: int, node: str, operator: str, text: str) -> Any:
    error = SimpleNamespace(node=lambda: number, desc=lambda: text)
    if not module.__version__.startswith("8"):
        error.node_name, error.node_operator = lambda: node, lambda: operator
    return error


def _tensor_types(module: Any, model: Any) -> dict[str, Any]:
    names = {1: "FLOAT", 10: "HALF", 16: "HALF", 6: "INT32", 7: "INT32", 9: "BOOL", 3: "INT8"}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: getattr(module.DataType, names[kind]) for name, kind in types.items()}


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, minimum: Any, optimum: Any, maximum: Any) -> None:
        self.shapes[name] = (tuple(minimum), tuple(optimum), tuple(maximum))


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    def __init__(self, module: Any) -> None:
        self.flags = {module.BuilderFlag.TF32}
        self.pools: dict[Any, int] = {}
        self.profiles: list[Profile] = []
        self.preview: dict[Any, bool] = {}
        self.cache: Cache | None = None
        self.progress_monitor: Any = None
        self.builder_optimization_level: int | None = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool] = size

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        self.preview[feature] = on

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.content and not cache.content.startswith(CACHE) and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


class Builder:
    def __init__(self, module: Any, logger: Any, major: int) -> None:
        self._module, self._logger, self._major = module, logger, major

    def create_network(self, flags: int = 0) -> Network:
        if self._major == 8:
            assert flags & 1 << int(self._module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH), "implicit batch"
        network = self._module.recorder.network = Network(flags)
        self._module.recorder.networks.append(network)
        return network

    def create_builder_config(self) -> Config:
        config = self._module.recorder.config = Config(self._module)
        self._module.recorder.configs.append(config)
        return config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytearray | None:
        recorder, severity = self._module.recorder, self._module.ILogger.Severity
        recorder.during_build()
        self._logger.log(severity.VERBOSE, "tactics")
        self._logger.log(severity.WARNING, "weights are subnormal")
        if recorder.build_errors:
            for text in recorder.build_errors:
                self._logger.log(severity.ERROR, text)
            return None
        if config.progress_monitor is not None and not self._report(config.progress_monitor):
            return None
        if config.cache is not None:
            config.cache.content = config.cache.content or CACHE
            config.cache.content += b"one more;"
        return bytearray(f"plan of {network.num_layers} layers", "ascii")

    def _report(self, monitor: Any) -> bool:
        steps = self._module.recorder.steps
        monitor.phase_start("Building", None, steps)
        for step in range(steps):
            if not monitor.step_complete("Building", step):
                return False
        monitor.phase_finish("Building")
        return True
