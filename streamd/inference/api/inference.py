"""Runs any network with a batch axis as a function of arrays: one row, a batch, or more rows than a batch holds.

Knows runners and arrays only; `backends.py` knows the backends.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from streamd.core.contract import ModelContract
from streamd.core.errors import BatchFailedError, InferenceError
from streamd.core.scheduling.costs import CostTable
from streamd.inference.api.arrays import ArrayInputs, prepare_batch
from streamd.inference.api.backends import OPENERS, Opener, OpenOptions, open_runners
from streamd.inference.api.batches import make_unmeasured_costs, measure_buckets, split_rows
from streamd.inference.api.pool import RunnerPool
from streamd.inference.api.rows import explain_dependence
from streamd.inference.api.sliding import Network
from streamd.inference.api.unknown_targets import hide_unknown_targets
from streamd.inference.runner import Array, Arrays, Runner, TensorSpec


class InferenceEngine(Network):
    """A network that is ready to run; any thread may call any method. Use it as a context manager, or close it.

    `inputs` and `outputs` have a name, a type and a shape each. `fallbacks` are the backends that were passed over,
    each with its reason.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        *,
        backend: str,
        precision: str,
        fallbacks: Sequence[Mapping[str, str]] = (),
        check_rows: bool = False,
        contract: ModelContract | None = None,
    ) -> None:
        first = runners[0]
        self.backend = backend
        self.precision = precision
        self.fallbacks = tuple(fallbacks)
        self.inputs: tuple[TensorSpec, ...] = first.inputs
        self.outputs: tuple[TensorSpec, ...] = first.outputs
        self.buckets = first.buckets
        self.lanes = len(runners)
        self.rows_at_once = first.buckets[-1] * len(runners)
        self._pool = RunnerPool(runners)
        self._threads = ThreadPoolExecutor(len(runners), "streamd-engine") if len(runners) > 1 else None
        self._costs: CostTable | None = make_unmeasured_costs(first) if len(first.buckets) == 1 else None
        self._measuring = threading.Lock()
        self._must_check_rows = check_rows
        self._contract = contract

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str = "auto",
        precision: str = "auto",
        buckets: Sequence[int] | None = None,
        devices: Sequence[int] = (0,),
        lanes: int | None = None,
        threads: int | None = None,
        plans: str | os.PathLike[str] | None = None,
        lean_runtime: str | os.PathLike[str] | None = None,
        check_rows: bool = True,
        openers: Mapping[str, Opener] = OPENERS,
    ) -> Self:
        """Open an ONNX file, an engine version, a folder of plans (`streamd engine build --plans-only`) or one plan.

        `backend` is one of `openers` or `auto`, the first of them that runs here; `plans` are plans of an ONNX file;
        `buckets` are batch sizes, of which the largest limits one batch; `lanes` is how many batches run at the same
        time. By default one lane runs on the CPU, on `threads` threads (all cores), and four lanes on each GPU. With
        `check_rows`, the first batch of two rows or more also runs one of them alone, and a network whose rows depend
        on each other is refused: its answers would depend on how a call is split.

        Raises `ConfigError` for a wrong option, `RepositoryError` for files that cannot be read, and
        `BackendUnavailableError` with every reason if no backend runs it.
        """
        options = OpenOptions(
            precision=precision,
            buckets=None if buckets is None else tuple(sorted(set(buckets))),
            devices=tuple(devices),
            lanes=lanes,
            threads=threads,
            lean_runtime=None if lean_runtime is None else Path(lean_runtime),
        )
        source = (Path(path), None if plans is None else Path(plans))
        opened = open_runners(*source, backend, options, openers)
        return cls(
            opened.runners,
            backend=opened.backend,
            precision=opened.precision,
            fallbacks=[each.as_dict() for each in opened.passed_over],
            check_rows=check_rows,
            contract=opened.contract,
        )

    # ------------------------------------------------------------ running
    def __call__(self, inputs: ArrayInputs) -> Arrays:
        """Run any number of rows and return the outputs by name, their rows in the order given.

        `inputs` maps each input to its array, or is the array of the only input: `(batch, *shape)`, or `shape` for one
        row, whose outputs then have no batch axis either. Optional inputs may be left out. Integers are converted if
        their values survive; floats are rounded to the type of the network. NaN is passed on to the network. If it is
        an engine version, a target that no row of a window has a value of is NaN. Raises `InvalidTensorError`,
        `InferenceError`.
        """
        batch = prepare_batch(inputs, self.inputs)
        if not batch.count:
            return self._make_empty(batch.rows)
        sizes = split_rows(batch.count, self._find_costs(batch.count, batch.rows), self.lanes)
        stops = np.cumsum(sizes).tolist()
        spans = list(zip([0, *stops[:-1]], stops, strict=True))
        if len(spans) == 1 or self._threads is None:
            parts = [self._run(batch.part(*span)) for span in spans]
        else:
            parts = self._run_together([batch.part(*span) for span in spans])
        outputs = parts[0] if len(parts) == 1 else _join_parts(parts)
        return {name: values[0] for name, values in outputs.items()} if batch.single else outputs

    def warm_up(self, inputs: ArrayInputs | None = None) -> Mapping[int, float]:
        """Measure how long each bucket takes, on these rows or on zeros; returns seconds by bucket.

        Without this call, the first call that can choose between buckets measures them, on its own rows.
        """
        rows = self._make_zeros() if inputs is None else prepare_batch(inputs, self.inputs).rows
        if self._must_check_rows:
            self._run({name: values[: self.buckets[-1]] for name, values in rows.items()})
        with self._measuring:
            self._costs = costs = self._pool.use(lambda runner: measure_buckets(runner, rows))
        return dict(costs.seconds)

    def describe(self) -> dict[str, Any]:
        """Return the backend, lanes, tensors and bucket times as plain values."""
        costs = self._costs.seconds if self._costs is not None and len(self.buckets) > 1 else {}
        return {
            "backend": self.backend,
            "precision": self.precision,
            "inputs": {spec.name: spec.description for spec in self.inputs},
            "outputs": {spec.name: spec.description for spec in self.outputs},
            "buckets": list(self.buckets),
            "lanes": self._pool.healthy,
            "bucket_ms": {bucket: seconds * 1e3 for bucket, seconds in costs.items()},
            "fallbacks": [dict(each) for each in self.fallbacks],
        }

    def close(self) -> None:
        """Release the lanes, busy ones when their batch ends; a second call does nothing."""
        self._pool.close()
        if self._threads is not None:
            self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------ steps of a call
    def _find_costs(self, count: int, rows: Arrays) -> CostTable:
        if self._costs is None and count <= self.buckets[0]:
            return CostTable({self.buckets[0]: 1.0}, pads=True)  # one batch in any case, so its cost does not matter
        if self._costs is None:
            with self._measuring:
                if self._costs is None:
                    self._costs = self._pool.use(lambda runner: measure_buckets(runner, rows))
        return self._costs

    def _run(self, feeds: Arrays) -> Arrays:
        count = len(next(iter(feeds.values())))
        must_check = self._must_check_rows and count > 1
        outputs = self._pool.use(lambda runner: self._run_checked(runner, feeds) if must_check else runner.run(feeds))
        _check_counts(outputs, feeds)
        if self._contract is not None:
            hide_unknown_targets(self._contract, feeds, outputs)
        return outputs

    def _run_checked(self, runner: Runner, feeds: Arrays) -> Arrays:
        """Run a batch, and raise `BatchFailedError` if the answer of a row depends on the other rows."""
        outputs = runner.run(feeds)
        _check_counts(outputs, feeds)
        if reason := explain_dependence(runner, feeds, outputs):
            raise BatchFailedError(reason)
        self._must_check_rows = False
        return outputs

    def _run_together(self, parts: list[Arrays]) -> list[Arrays]:
        assert self._threads is not None
        try:
            runs = [self._threads.submit(self._run, part) for part in parts]
        except RuntimeError as exc:
            raise BatchFailedError("the engine is closed") from exc
        try:
            return [run.result() for run in runs]
        finally:
            for run in runs:
                run.cancel()

    def _make_empty(self, rows: Arrays) -> Arrays:
        """Return outputs without rows; shapes that the network leaves open are learned from a row of zeros."""
        if not all(spec.has_known_shape for spec in self.outputs):
            ones = {name: np.zeros((1, *values.shape[1:]), values.dtype) for name, values in rows.items()}
            return {name: values[:0] for name, values in self._run(ones).items()}
        return {spec.name: np.zeros(spec.make_batch_shape(0), spec.dtype) for spec in self.outputs}

    def _make_zeros(self) -> Arrays:
        needed = [spec for spec in self.inputs if not spec.optional]
        if open_axes := [spec.description for spec in needed if not spec.has_known_shape]:
            raise InferenceError(f"inputs with open axes {open_axes}: expected rows to warm up with")
        return {spec.name: np.zeros(spec.make_batch_shape(1), spec.dtype) for spec in needed}


def _check_counts(outputs: Arrays, feeds: Arrays) -> None:
    """Raise `BatchFailedError` unless there is a row of each output for each row that was given."""
    count = len(next(iter(feeds.values())))
    for name, values in outputs.items():
        if values.shape[:1] != (count,):
            raise BatchFailedError(f"output {name!r} is {values.shape} for {count} rows, expected a row for each")


def _join_parts(parts: list[Arrays]) -> Arrays:
    joined: Arrays = {}
    for name in parts[0]:
        pieces: list[Array] = [part[name] for part in parts]
        shapes = {piece.shape[1:] for piece in pieces}
        if len(shapes) > 1:
            raise BatchFailedError(f"output {name!r} has rows of shapes {sorted(shapes)}, expected one shape")
        joined[name] = np.concatenate(pieces)
    return joined
