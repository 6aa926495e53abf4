"""Runs a plan on one stream: for each bucket the stages' contexts and a CUDA graph; pinned buffers, one scratch block.

Knows tensors by name and nothing of forecasts. One owner at a time; `start` and `wait` may be called by a thread
other than the one that made it.
"""

from bisect import bisect_left
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import chain, groupby
from typing import Any, Protocol

import numpy.typing as npt

from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.inference import cuda
from streamd.inference.cuda import CudaError, CudaGraph, DeviceBuffer, Event, HostBuffer, Stream
from streamd.inference.leaked import leak_deliberately
from streamd.inference.runner import TensorSpec
from streamd.inference.tensorrt.engine import (
    Alternatives,
    SharedEngine,
    get_scratch_bytes,
    make_context,
    read_tensors,
    set_scratch,
)
from streamd.inference.tensorrt.profiles import ProfileChoice, choose_profiles, describe_missing_stage
from streamd.inference.tensorrt.tensors import fill_open_axes


class Finisher(Protocol):
    """Works on the outputs while they are on the device, and copies what the host needs of them."""

    def enqueue(self, bucket: int, stream: Stream) -> None:
        """Enqueue its work for a batch of a bucket's size."""
        ...

    def close(self) -> None:
        """Release its resources; a second call does nothing."""
        ...


MakeFinisher = Callable[["TensorRtExecutor"], Finisher]
"""Makes the finisher of an executor whose tensors are allocated (`input_specs`, `output_specs`, `pointers`)."""


class TensorRtExecutor:
    """One stream with all that runs on it.

    `inputs` and `outputs` are pinned arrays by name, `(largest bucket, *shape)`; a batch is their first rows.
    With `spin`, who waits for a batch takes a core meanwhile and is awake sooner. With `make_finisher`, no tensor is
    copied: who starts a batch puts its inputs on the device before (`copy_rows`), and the finisher handles the outputs.
    Raises `BackendUnavailableError` where the engine does not fit or the device has no room; `DeviceLostError` where
    that is lost to this process.
    """

    def __init__(
        self,
        name: str,
        engine: SharedEngine,
        buckets: tuple[int, ...],
        *,
        graphs: bool = True,
        spin: bool = False,
        make_finisher: MakeFinisher | None = None,
    ) -> None:
        self.name = name
        self.buckets = buckets
        self.graphs: dict[int, str] = {}
        """By bucket: `captured`, or why it is enqueued piece by piece."""
        self._engine = engine
        self._spin = spin
        self._make_finisher = make_finisher
        self.finisher: Finisher | None = None
        self._alternatives: Alternatives = ()
        self._contexts: dict[int, list[Any]] = {bucket: [] for bucket in buckets}
        self._launches: dict[int, CudaGraph] = {}
        self._open = ExitStack()
        try:
            cuda.revive(engine.device)
            self._allocate()
            for bucket in buckets:
                self._prepare(bucket, graphs)
        except CudaError as error:
            self.close()
            raise cuda.make_unusable_error(engine.device, f"{name}: {error}{self._way_out(error)}") from error
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ making
    def _allocate(self) -> None:
        shared, own = self._engine, self._open
        self._alternatives = shared.acquire()
        own.callback(shared.release)
        own.callback(self._drop_contexts)
        self._tensors = read_tensors(shared.library, self._alternatives)
        self._chosen = {bucket: self._choose(bucket) for bucket in self.buckets}
        self.stream = own.enter_context(Stream())
        self._finished = own.enter_context(Event(blocking=not self._spin))
        # One block for all: on one stream no stage begins before the one before it has ended.
        self._scratch_bytes = max(map(get_scratch_bytes, chain(*self._alternatives)))
        self._scratch = own.enter_context(DeviceBuffer(self._scratch_bytes))
        groups = self._tensors[0].groups.values()
        self._specs = {spec.name: spec for group in groups for spec in group}
        for _, same in groupby(sorted(self.buckets, key=self._alternative), self._alternative):
            buckets = list(same)
            for index, stage in enumerate(self._chosen[buckets[0]].stages):
                for bucket in buckets:
                    self._make_context(index, bucket)
                for spec in stage.gives:  # before the next stage's contexts, which are given these shapes
                    self._specs[spec.name] = self._closed(self._specs[spec.name], index, buckets)
        most = self.buckets[-1]
        self._device = {
            name: own.enter_context(DeviceBuffer(each.count_bytes(most))) for name, each in self._specs.items()
        }
        self.input_specs, _, self.output_specs = ([self._specs[each.name] for each in group] for group in groups)
        self.inputs = {each.name: self._pinned(each, most) for each in self.input_specs}
        if self._make_finisher is None:
            self.outputs = {each.name: self._pinned(each, most) for each in self.output_specs}
        else:
            self.outputs = {}
            self.finisher = self._make_finisher(self)
            own.callback(self.finisher.close)

    @property
    def pointers(self) -> dict[str, int]:
        """The addresses of the tensors on the device, by name."""
        return {name: buffer.pointer for name, buffer in self._device.items()}

    def _choose(self, bucket: int) -> ProfileChoice:
        choice = choose_profiles(self._alternatives, self._tensors, bucket)
        if choice is None:
            place = describe_missing_stage(self._alternatives, self._tensors, bucket)
            raise BackendUnavailableError(f"{self._engine.plan.path}: no profile{place} takes a batch of {bucket}")
        return choice

    def _alternative(self, bucket: int) -> int:
        return self._chosen[bucket].alternative

    def _make_context(self, index: int, bucket: int) -> None:
        """Make a stage's context for a bucket; it knows its profile and the shapes of its inputs."""
        library, choice = self._engine.library, self._chosen[bucket]
        library.errors.clear()
        context = make_context(library, self._alternatives[choice.alternative][index])
        if context is None:
            place, reason = choice.describe_stage(index), library.take_last_error()
            raise BackendUnavailableError(f"{self.name}: no context{place} for a batch of {bucket}: {reason}")
        self._contexts[bucket].append(context)
        cuda.note_held(self._engine.device, "contexts")
        set_scratch(context, self._scratch.pointer, self._scratch_bytes)
        accepted = context.set_optimization_profile_async(choice.profiles[index], self.stream.handle)
        self.stream.synchronize()
        self._expect(accepted, index, bucket)  # a context without a profile may not be given shapes: 8.6 crashes
        names = [each.name for each in choice.stages[index].reads]
        taken = [context.set_input_shape(name, self._specs[name].make_batch_shape(bucket)) for name in names]
        self._expect(all(taken), index, bucket)

    def _closed(self, spec: TensorSpec, index: int, buckets: list[int]) -> TensorSpec:
        """Return what a stage gives, with all axes known: those its plan leaves open are read from its contexts."""
        shapes = {bucket: tuple(self._contexts[bucket][index].get_tensor_shape(spec.name)) for bucket in buckets}
        rest = shapes[buckets[-1]][1:]
        closed = fill_open_axes(spec, rest)
        if closed is None or -1 in rest or any(shape != (bucket, *rest) for bucket, shape in shapes.items()):
            place = self._chosen[buckets[0]].describe_stage(index)
            raise BackendUnavailableError(
                f"{self._engine.plan.path}: output {spec.name!r}{place} by batch is {shapes}, expected a row "
                f"for each, all of one shape, as {spec.description}"
            )
        return closed

    def _pinned(self, spec: TensorSpec, count: int) -> npt.NDArray[Any]:
        buffer = self._open.enter_context(HostBuffer(spec.count_bytes(count)))
        array = buffer.array(spec.dtype, spec.make_batch_shape(count))
        array[:] = 0
        return array

    def _prepare(self, bucket: int, graphs: bool) -> None:
        """Give a bucket's contexts the addresses of their tensors, run them once, and capture them."""
        for index, (context, stage) in enumerate(zip(self._contexts[bucket], self._chosen[bucket].stages, strict=True)):
            names = [each.name for each in (*stage.reads, *stage.gives)]
            accepted = [context.set_tensor_address(name, self._device[name].pointer) for name in names]
            self._expect(all(accepted), index, bucket)
        enqueue = partial(self._enqueue, bucket)
        self._run_once(enqueue)
        self.graphs[bucket] = self._capture(bucket, enqueue) if graphs else "not asked for"

    def _expect(self, accepted: bool, index: int, bucket: int) -> None:
        if not accepted:
            place, reason = self._chosen[bucket].describe_stage(index), self._engine.library.take_last_error()
            raise BackendUnavailableError(f"{self.name}: a batch of {bucket} was refused{place}: {reason}")

    def _run_once(self, enqueue: Any) -> None:
        try:
            enqueue()
            self.stream.synchronize()
        except BatchFailedError as error:
            raise BackendUnavailableError(str(error)) from error

    def _capture(self, bucket: int, enqueue: Any) -> str:
        """Capture a bucket's work as a graph and run that once; returns how it went."""
        try:
            graph = self._open.enter_context(self.stream.capture(enqueue))
            graph.launch(self.stream)
            self.stream.synchronize()
        except (CudaError, BatchFailedError) as error:
            if isinstance(error, CudaError) and error.sticky:
                raise
            return f"not captured: {error}"
        self._launches[bucket] = graph
        return "captured"

    # ------------------------------------------------------------ running
    def find_bucket(self, count: int) -> int:
        """The bucket that a batch of `count` runs as."""
        if not 0 < count <= self.buckets[-1]:
            raise BatchFailedError(f"{self.name}: a batch of {count}, expected 1 to {self.buckets[-1]}")
        return self.buckets[bisect_left(self.buckets, count)]

    def start(self, count: int, prepare: Callable[[], None] | None = None) -> None:
        """Put the first `count` rows of `inputs` on the stream; returns at once.

        `prepare` enqueues before them what they need.
        """
        bucket = self.find_bucket(count)
        try:
            cuda.use_device(self._engine.device)
            if prepare is not None:
                prepare()
            graph = self._launches.get(bucket)
            if graph is not None:
                graph.launch(self.stream)
            else:
                self._enqueue(bucket)
            self._finished.record(self.stream)
        except CudaError as error:
            raise self._lost(error) from error

    def copy_rows(self, first: int, last: int, only: str | None = None) -> None:
        """Enqueue copies of the rows from `first` to before `last` of all inputs, or of one, to the device."""
        if first >= last:
            return
        for spec in self.input_specs:
            if only is not None and spec.name != only:
                continue
            begin, end = spec.count_bytes(first) if first else 0, spec.count_bytes(last)
            pointer = self._device[spec.name].pointer + begin
            cuda.copy_to_device(pointer, self.inputs[spec.name][first:], end - begin, self.stream)

    def wait(self) -> None:
        """Wait, with the GIL released, until what was started is in `outputs`."""
        try:
            self._finished.synchronize()
        except CudaError as error:
            raise self._lost(error) from error

    def check(self) -> None:
        """Raise `LaneLostError` where the device reports an error; never blocks."""
        try:
            cuda.use_device(self._engine.device)
            self.stream.is_done()
        except CudaError as error:
            raise self._lost(error) from error

    def _enqueue(self, bucket: int) -> None:
        stream = self.stream
        if self.finisher is None:
            self.copy_rows(0, bucket)
        for index, context in enumerate(self._contexts[bucket]):
            if not context.execute_async_v3(stream.handle):
                place, reason = self._chosen[bucket].describe_stage(index), self._engine.library.take_last_error()
                raise BatchFailedError(f"{self.name}: a batch of {bucket}{place}: {reason}")
        if self.finisher is not None:
            self.finisher.enqueue(bucket, stream)
            return
        for spec in self.output_specs:
            cuda.copy_to_host(
                self.outputs[spec.name], self._device[spec.name].pointer, spec.count_bytes(bucket), stream
            )

    # ------------------------------------------------------------ ends
    def close(self) -> None:
        """Release all of it, in the opposite order of its making; twice is harmless."""
        self._open.close()

    def _drop_contexts(self) -> None:
        count = sum(map(len, self._contexts.values()))
        if cuda.is_broken(self._engine.device):
            leak_deliberately(*(context for contexts in self._contexts.values() for context in contexts))
        self._contexts.clear()
        for _ in range(count):
            cuda.note_released(self._engine.device, "contexts")
        self._alternatives = ()

    def _lost(self, error: CudaError) -> LaneLostError:
        return LaneLostError(f"{self.name}: {error}", device_gone=error.sticky)

    def _way_out(self, error: CudaError) -> str:
        if cuda.is_broken(self._engine.device):
            return "; the device is lost to this process: restart it to use the device again"
        if error.name != "cudaErrorMemoryAllocation":
            return ""
        try:
            free, total = cuda.get_memory_bytes(self._engine.device)
        except CudaError:
            return ""
        return f"; {free >> 20} of {total >> 20} MiB are free: open fewer lanes or smaller buckets"
