"""Plans loaded for lanes to share, and what TensorRT's versions call differently.

Written for TensorRT 10 and 11; 8.6 and the lean runtime differ where a function here says so.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.errors import BackendUnavailableError
from streamd.device import cuda
from streamd.device.runner import TensorSpec
from streamd.device.tensorrt_library import TensorRtLibrary


@dataclass(frozen=True)
class Plan:
    """A serialized engine. `lean_runtime` is the library that runs a plan of an older TensorRT, if it needs one."""

    path: Path
    precision: str
    lean_runtime: Path | None = None


class SharedEngine:
    """A plan on one device: loaded for the first lane that asks, released with the last that lets go."""

    def __init__(self, library: TensorRtLibrary, plan: Plan, device: int) -> None:
        self.library = library
        self.plan = plan
        self.device = device
        self._lock = threading.Lock()
        self._users = 0
        self._runtimes: tuple[Any, ...] = ()
        self._engine: Any = None

    def acquire(self) -> Any:
        """Return the `ICudaEngine`; raises `BackendUnavailableError` where the plan does not load here."""
        with self._lock:
            if self._engine is None:
                self._load()
            self._users += 1
            return self._engine

    def release(self) -> None:
        """Let go of the engine; its contexts must be gone by then."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._engine = None
                self._runtimes = ()
                cuda.let_go(self.device, "engines")

    def _load(self) -> None:
        cuda.use_device(self.device)
        plan, library = self.plan, self.library
        try:
            serialized = plan.path.read_bytes()
        except OSError as exc:
            raise BackendUnavailableError(f"{plan.path}: cannot be read: {exc.strerror or exc}") from exc
        library.errors.clear()
        runtimes = [library.module.Runtime(library.logger)]
        if plan.lean_runtime is not None:
            # The parent must outlive its child, or the process crashes.
            runtimes.append(runtimes[0].load_runtime(str(plan.lean_runtime)))
        if runtimes[-1] is None:
            raise BackendUnavailableError(f"{plan.lean_runtime}: no lean runtime: {library.last_error()}")
        engine = runtimes[-1].deserialize_cuda_engine(serialized)
        if engine is None:
            raise BackendUnavailableError(
                f"{plan.path}: TensorRT {library.version} cannot load this plan on {cuda.device_name(self.device)}: "
                f"{library.last_error()}; build one here: streamd engine build"
            )
        self._engine, self._runtimes = engine, tuple(reversed(runtimes))
        cuda.hold(self.device, "engines")


def tensors(library: TensorRtLibrary, engine: Any) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return an engine's inputs and outputs; an output's axis may be open until a context knows its inputs.

    Raises `BackendUnavailableError` where numpy lacks a type, or no batch goes through a tensor.
    """
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        given = engine.get_tensor_mode(name) == library.module.TensorIOMode.INPUT
        try:
            dtype = np.dtype(library.module.nptype(engine.get_tensor_dtype(name)))
        except TypeError as exc:
            raise BackendUnavailableError(f"tensor {name!r}: {exc}, expected a type that numpy has") from exc
        shape = tuple(engine.get_tensor_shape(name))
        if not shape:
            raise BackendUnavailableError(f"tensor {name!r} has no axes, expected a batch axis first")
        if given and -1 in shape[1:]:
            raise BackendUnavailableError(f"input {name!r} is {shape}, expected only the batch to be open")
        spec = TensorSpec(name, dtype, tuple(None if size == -1 else size for size in shape[1:]))
        (inputs if given else outputs).append(spec)
    return inputs, outputs


def profile_for(engine: Any, inputs: list[TensorSpec], batch: int) -> int | None:
    """Return the profile to run a batch with: of those that take it the narrowest, so a static one if there is."""
    widths = {}
    for profile in range(engine.num_optimization_profiles):
        shapes = [engine.get_tensor_profile_shape(each.name, profile) for each in inputs]
        if all(low[0] <= batch <= high[0] for low, _, high in shapes):
            widths[profile] = max(high[0] - low[0] for low, _, high in shapes)
    return min(widths, key=widths.__getitem__, default=None)


# ---------------------------------------------------------------- what versions call differently
def scratch_bytes(engine: Any) -> int:
    """The device memory that a context of any profile needs (10.1 and later count it in 64 bits)."""
    wide = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if wide is None else wide)


def make_context(library: TensorRtLibrary, engine: Any) -> Any:
    """Return a context without scratch memory of its own (8.6 has a function of its own for that)."""
    strategies = getattr(library.module, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(strategies.USER_MANAGED)


def give_scratch(context: Any, pointer: int, nbytes: int) -> None:
    """Give a context its scratch memory (8.6 takes it by a property)."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(pointer, nbytes)
    else:
        context.device_memory = pointer
