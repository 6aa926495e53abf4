"""TensorRT's runtime over the fake CUDA, as 8.6 and as 10 name things; its plans are JSON.

An engine computes `make_fake_forecast` of each window at the addresses that it was given, so that rows can be
distinguished. A plan that names what it `reads` and `gives` (`name: [type, shape, work]`) is a stage: its work, as
`double x`, moves bytes too.
"""
# ruff: noqa: N802 - the names are the library's

import ctypes
import enum
import json
import types
import weakref
from typing import Any

import numpy as np

from streamd.core.contract import ModelContract
from streamd.inference.fake import make_fake_forecast
from tests.support.fake_cuda import FakeCuda


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Severity(enum.Enum):
    ERROR = 1
    WARNING = 2


class ILogger:
    def __init__(self) -> None: ...


class Engine:
    def __init__(self, library: "FakeTensorRt", said: dict[str, Any]) -> None:
        self.library = library
        self.profiles: list[list[int]] = said["profiles"]
        self.num_optimization_profiles = len(self.profiles)
        contract = library.contract
        given = {
            name: ["int32" if name.endswith("_cat") else "float32", shape]
            for name, shape in contract.input_shapes.items()
        }
        forecasts = ["float32", said.get("output") or contract.output_shape, "forecast encoder_cont"]
        reads, gives = said.get("reads", given), said.get("gives", {"predictions": forecasts})
        self.tensors: dict[str, tuple[type, tuple[int, ...], TensorIOMode]] = {
            name: (getattr(np, dtype), tuple(shape), mode)
            for tensors, mode in ((reads, TensorIOMode.INPUT), (gives, TensorIOMode.OUTPUT))
            for name, (dtype, shape, *_) in tensors.items()
        }
        self.work: dict[str, list[str]] = {name: work.split() for name, (_, _, work) in gives.items()}
        self.left_open: str = said.get("open", "")
        """Whether what is given has its first axis left open: `settled` by a context, never (`unknown`), `by batch`."""
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size: int = said.get("scratch", 4096)
        self.name: str = said.get("name", "engine")

    def make(self, kind: type["Context"]) -> Any:
        if self.library.without_context == self.name:
            self.library.say("no resources for a context")
            return None
        return kind(self)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> type:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self.tensors[name][1]
        if not shape:
            return ()
        is_open = self.left_open and self.tensors[name][2] is TensorIOMode.OUTPUT
        return (-1, -1, *shape[1:]) if is_open else (-1, *shape)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.tensors[name][1]) for batch in self.profiles[profile]]


class Context:
    scratch: int | None = None

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.batch = 0
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        if profile in self.engine.library.unshared_profiles:
            self.engine.library.say(f"profile {profile} is in use by another context")
            return False
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "a shape before its profile"
        low, _, high = self.engine.profiles[self.profile]
        assert shape[1:] == self.engine.tensors[name][1]
        self.batch = shape[0]
        return low <= shape[0] <= high

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.batch, "a shape before the inputs'"
        first, *rest = self.engine.tensors[name][1]
        opened = {"unknown": -1, "by batch": first * self.batch}
        return (self.batch, opened.get(self.engine.left_open, first), *rest)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        library = self.engine.library
        assert self.scratch, "no scratch memory"
        assert set(self.addresses) == set(self.engine.tensors), "an address that was not told"
        low, _, high = self.engine.profiles[self.profile or 0]
        if library.cuda.streams[stream].captured is not None and low != high:
            library.say("a loop of dynamic shape cannot be captured")
            return False
        if library.refusals:
            library.say(library.refusals.pop(0))
            return False
        library.cuda.put(stream, self._compute)
        return True

    def _compute(self) -> None:
        library, size = self.engine.library, self.engine.device_memory_size
        assert self.scratch is not None
        assert ctypes.sizeof(library.cuda.memory[self.scratch]) >= size
        ctypes.memset(self.scratch, 0xAB, size)
        library.ran.append(self.engine.name)
        for name, (work, *given) in self.engine.work.items():
            out, rows = self._view(name), self._view(given[0])
            if work == "forecast":
                for row in range(self.batch):
                    forecast = make_fake_forecast(library.contract, rows[row]).ravel()
                    out[row].reshape(-1)[: len(forecast)] = forecast
            else:
                out[:] = rows * {"double": 2, "halve": 0.5}[work]

    def _view(self, name: str) -> Any:
        dtype, shape, _ = self.engine.tensors[name]
        size = self.batch * int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory: Any = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(self.batch, *shape)


class Context86(Context):
    """As 8.6 has it: scratch memory by a property."""

    @property
    def device_memory(self) -> int | None:
        return self.scratch

    @device_memory.setter
    def device_memory(self, pointer: int) -> None:
        self.scratch = pointer


class Context10(Context):
    """As 10 has it: scratch memory by a call that names its size."""

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert size >= self.engine.device_memory_size
        self.scratch = pointer


class Engine86(Engine):
    def create_execution_context_without_device_memory(self) -> Any:
        return self.make(Context86)


class Engine10(Engine):
    @property
    def device_memory_size_v2(self) -> int:
        return self.device_memory_size

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "user managed"
        return self.make(Context10)


class FakeTensorRt(types.ModuleType):
    """The module `tensorrt` of one generation."""

    ILogger = ILogger
    TensorIOMode = TensorIOMode
    Severity = Severity

    def __init__(self, version: str, cuda: FakeCuda, contract: ModelContract, name: str = "tensorrt") -> None:
        super().__init__(name)
        self.__version__ = version
        self.cuda = cuda
        self.contract = contract
        self.loaded = 0
        self.parents: list[str] = []
        self.refusals: list[str] = []
        """What the next enqueues are refused with."""
        self.without_context = ""
        """The engine that makes no context."""
        self.unshared_profiles: set[int] = set()
        """The profiles that no context gets any more."""
        self.ran: list[str] = []
        """The engines in the order in which they did their work."""
        self.gone: list[str] = []
        """The engines and runtimes in the order in which nothing held them any more."""
        self.logger: Any = None
        if not version.startswith("8"):
            self.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")

    def nptype(self, dtype: type) -> type:
        return dtype

    def say(self, message: str) -> None:
        self.logger.log(Severity.ERROR, message)

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger
        return _Runtime(self, "runtime")


class _Runtime:
    def __init__(self, library: FakeTensorRt, name: str) -> None:
        self.library = library
        weakref.finalize(self, library.gone.append, name)

    def load_runtime(self, path: str) -> Any:
        self.library.parents.append(path)
        return _Runtime(self.library, "lean runtime")

    def deserialize_cuda_engine(self, serialized: memoryview) -> Any:
        try:
            said = json.loads(bytes(serialized))
        except ValueError:
            self.library.say("magic tag does not match")
            return None
        self.library.loaded += 1
        kind = Engine86 if self.library.__version__.startswith("8") else Engine10
        engine = kind(self.library, said)
        weakref.finalize(engine, self.library.gone.append, engine.name)
        return engine
