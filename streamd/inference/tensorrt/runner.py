"""Any network's TensorRT plan on one stream: rows into pinned buffers, the bucket's graph, results out of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference.runner import Array, Arrays, TensorSpec
from streamd.inference.tensorrt.engine import Alternatives, SharedEngine, read_tensors
from streamd.inference.tensorrt.executor import TensorRtExecutor
from streamd.inference.tensorrt.library import TensorRtLibrary
from streamd.inference.tensorrt.profiles import choose_profiles

USUAL_BUCKETS = (1, 8, 32, 64, 128, 256)


class TensorRtRunner:
    """One stream; a batch runs as the next larger bucket. An `optional` input that a caller leaves out is NaN."""

    pads = True

    def __init__(
        self,
        name: str,
        engine: SharedEngine,
        buckets: tuple[int, ...],
        *,
        graphs: bool = True,
        optional: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.device = f"cuda:{engine.device}"
        self.buckets = buckets
        self._executor = TensorRtExecutor(name, engine, buckets, graphs=graphs)
        self.inputs = tuple(replace(spec, optional=spec.name in optional) for spec in self._executor.input_specs)
        self.outputs = tuple(self._executor.output_specs)
        self._closed = False

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """Run one batch."""
        if self._closed:
            raise BatchFailedError(f"runner {self.name} is closed")
        count = len(next(iter(feeds.values())))
        executor = self._executor
        executor.find_bucket(count)  # before anything is written
        for spec in self.inputs:
            rows = feeds.get(spec.name) if spec.optional else feeds[spec.name]
            executor.inputs[spec.name][:count] = np.nan if rows is None else rows
        executor.start(count)
        executor.wait()
        return {name: buffer[:count].copy() for name, buffer in executor.outputs.items()}

    def close(self) -> None:
        """Release the stream and all that is on it."""
        self._closed = True
        self._executor.close()


def find_plan_buckets(engine: SharedEngine, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the batch sizes to run a plan with: those that are wanted, else those of its profiles.

    Some alternative takes each of them in all its stages. Loads the plan if no lane holds it. Raises
    `BackendUnavailableError` if a wanted size fits no profile.
    """
    engines = engine.acquire()
    try:
        own, missing = _look_into(engine.library, engines, wanted)
    finally:
        del engines
        engine.release()
    if missing or not own:
        reason = f"no profile takes a batch of {missing}, expected some of {own}" if missing else "it has no profile"
        raise BackendUnavailableError(f"{engine.plan.path}: {reason}; build one: streamd engine build --buckets")
    return wanted or own


def _look_into(
    library: TensorRtLibrary, alternatives: Alternatives, wanted: tuple[int, ...] | None
) -> tuple[tuple[int, ...], list[int]]:
    """The batch sizes of the profiles that some alternative takes, and those of the wanted ones that none takes."""
    found = read_tensors(library, alternatives)

    def is_taken(size: int) -> bool:
        return choose_profiles(alternatives, found, size) is not None

    sizes: set[int] = set()
    for engines, each in zip(alternatives, found, strict=True):
        for engine, stage in zip(engines, each.stages, strict=True):
            sizes |= _own_buckets(engine, stage.reads)
    return tuple(filter(is_taken, sorted(sizes))), [size for size in wanted or () if not is_taken(size)]


def _own_buckets(engine: Any, reads: Sequence[TensorSpec]) -> set[int]:
    """Each static profile's size; of dynamic ones their three, and the usual sizes between."""
    sizes: set[int] = set()
    for profile in range(engine.num_optimization_profiles):
        shapes = [engine.get_tensor_profile_shape(each.name, profile) for each in reads]
        low, high = max(shape[0][0] for shape in shapes), min(shape[2][0] for shape in shapes)
        best = {int(shape[1][0]) for shape in shapes}
        sizes |= {size for size in {low, high, *best, *USUAL_BUCKETS} if low <= size <= high}
    return sizes
