"""Loads plans that lanes share, and hides the differences between versions of TensorRT.

Written for TensorRT 10 and 11; the functions at the end say where 8.6 differs.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.errors import BackendUnavailableError
from streamd.inference import cuda
from streamd.inference.checked import read_checked
from streamd.inference.leaked import leak_deliberately
from streamd.inference.runner import TensorSpec
from streamd.inference.tensorrt.library import TensorRtLibrary
from streamd.inference.tensorrt.plan_file import describe_place, describe_plan, describe_stage, unpack_plans
from streamd.inference.tensorrt.tensors import NetworkTensors, StageTensors, join_stages, merge_alternatives

REBUILD_HINT = "build one here: streamd engine build"

Alternatives = tuple[tuple[Any, ...], ...]
"""`ICudaEngine`s: of each alternative its stages, in their order."""


@dataclass(frozen=True)
class Plan:
    """A serialized engine. `lean_runtime` is the library that runs a plan of an older TensorRT, if it needs one.

    With `sha256` another file is refused, whenever the plan is loaded.
    """

    path: Path
    precision: str
    lean_runtime: Path | None = None
    sha256: str = ""


class SharedEngine:
    """A plan on one device, loaded for the first lane that acquires it and released by the last.

    The file has one plan or several, as stages and alternatives (`plan_file.py`); their engines share the runtime.
    """

    def __init__(self, library: TensorRtLibrary, plan: Plan, device: int) -> None:
        self.library = library
        self.plan = plan
        self.device = device
        self._lock = threading.Lock()
        self._users = 0
        self._runtimes: list[Any] = []
        self._engines: Alternatives = ()

    def acquire(self) -> Alternatives:
        """Return the stages of each alternative; raises `BackendUnavailableError` if an engine does not load.

        Each engine counts as held on the device (`cuda.note_held`).
        """
        with self._lock:
            if not self._engines:
                self._load()
            self._users += 1
            return self._engines

    def release(self) -> None:
        """Give up one use; the last one destroys the engines, whose contexts must be destroyed before."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                if cuda.is_broken(self.device):
                    # Their destructors meet the device's error and throw it, which ends the process (seen with 8.6).
                    leak_deliberately(*self._runtimes, *chain.from_iterable(self._engines))
                count, self._engines = sum(map(len, self._engines)), ()
                self._drop_runtimes()
                for _ in range(count):
                    cuda.note_released(self.device, "engines")

    def _load(self) -> None:
        cuda.use_device(self.device)
        plan, library = self.plan, self.library
        content = read_checked(plan.path, plan.sha256)
        try:
            alternatives = unpack_plans(content)
        except BackendUnavailableError as exc:
            raise BackendUnavailableError(f"{plan.path}: {exc}; {REBUILD_HINT}") from exc
        library.errors.clear()
        engines: list[list[Any]] = []
        try:
            self._make_runtimes()
            for index, stages in enumerate(alternatives):
                engines.append([])
                for number, stage in enumerate(stages):
                    place = describe_place(index, len(alternatives), number, len(stages))
                    engines[-1].append(self._load_stage(stage, place))
        except BaseException:
            engines.clear()  # the error's traceback would keep them beyond their runtime
            self._drop_runtimes()
            raise
        self._engines = tuple(map(tuple, engines))
        for _ in chain(*engines):
            cuda.note_held(self.device, "engines")

    def _make_runtimes(self) -> None:
        plan, library = self.plan, self.library
        self._runtimes.append(library.module.Runtime(library.logger))
        if plan.lean_runtime is not None:
            lean = self._runtimes[0].load_runtime(str(plan.lean_runtime))
            if lean is None:
                raise BackendUnavailableError(f"{plan.lean_runtime}: no lean runtime: {library.take_last_error()}")
            self._runtimes.append(lean)

    def _drop_runtimes(self) -> None:
        """Destroy the runtimes: the parent must outlive its child, or the process crashes."""
        while self._runtimes:
            self._runtimes.pop()

    def _load_stage(self, serialized: memoryview, place: str) -> Any:
        engine = self._runtimes[-1].deserialize_cuda_engine(serialized)
        if engine is None:
            raise BackendUnavailableError(
                f"{self.plan.path}: TensorRT {self.library.version} cannot load {place or 'this plan'} on "
                f"{cuda.get_device_name(self.device)}: {self.library.take_last_error()}; {REBUILD_HINT}"
            )
        return engine


def read_tensors(library: TensorRtLibrary, alternatives: Alternatives) -> tuple[NetworkTensors, ...]:
    """Return the tensors of each alternative's stages; only the batch axis of an input is open.

    Raises `BackendUnavailableError` if numpy lacks a type, a tensor has no batch axis, the stages do not fit together
    (`join_stages`), or the alternatives differ (`merge_alternatives`).
    """
    found = []
    for index, engines in enumerate(alternatives):
        try:
            found.append(_tensors_of_stages(library, engines))
        except BackendUnavailableError as exc:
            place = describe_plan(index, len(alternatives))
            raise BackendUnavailableError(f"{place}: {exc}" if place else str(exc)) from exc
    return merge_alternatives(found)


def _tensors_of_stages(library: TensorRtLibrary, engines: Sequence[Any]) -> NetworkTensors:
    """Return the tensors of one alternative."""
    found = join_stages([_tensors_of(library, engine) for engine in engines])
    for spec in found.inputs:
        if None in spec.shape:
            raise BackendUnavailableError(
                f"input {spec.name!r} is {spec.description}, expected only the batch to be open"
            )
    for index, stage in enumerate(found.stages):
        if not stage.reads:
            place = describe_stage(index, len(engines)) or "the engine"
            raise BackendUnavailableError(f"{place} reads no tensor, expected at least one for a batch")
    return found


def _tensors_of(library: TensorRtLibrary, engine: Any) -> StageTensors:
    """Return the tensors that one engine reads and writes."""
    reads: list[TensorSpec] = []
    gives: list[TensorSpec] = []
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
        spec = TensorSpec(name, dtype, tuple(None if size == -1 else size for size in shape[1:]))
        (reads if given else gives).append(spec)
    return StageTensors(tuple(reads), tuple(gives))


# ---------------------------------------------------------------- differences between versions
def get_scratch_bytes(engine: Any) -> int:
    """Return the device memory in bytes that a context of any profile needs (64 bits from 10.1 on)."""
    wide = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if wide is None else wide)


def make_context(library: TensorRtLibrary, engine: Any) -> Any:
    """Return a context without scratch memory of its own (8.6 has a function of its own for that)."""
    strategies = getattr(library.module, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(strategies.USER_MANAGED)


def set_scratch(context: Any, pointer: int, nbytes: int) -> None:
    """Give a context its scratch memory (8.6 takes it by a property)."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(pointer, nbytes)
    else:
        context.device_memory = pointer
