"""Several networks as one: the same rows through each, and their outputs combined, output by output."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np

from streamd.core.errors import BatchFailedError, ConfigError
from streamd.inference.api.arrays import ArrayInputs
from streamd.inference.api.inference import InferenceEngine
from streamd.inference.api.sliding import Network
from streamd.inference.runner import Array, Arrays, TensorSpec

Combine = Callable[[Array], Array]
"""From `(members, ...)` to `(...)`."""

COMBINES: dict[str, Combine] = {
    "mean": lambda values: np.mean(values, axis=0, dtype=np.result_type(values.dtype, np.float32)),
    "median": lambda values: np.median(values, axis=0),
}


class Ensemble(Network):
    """Members with the same inputs and outputs, run at the same time; closing it closes them.

    Optional inputs may differ: each member gets those that it knows.

    `combine` is `mean`, `median`, or a function from an output of every member, `(members, batch, *shape)`, to one of
    them, `(batch, *shape)`; the output keeps its type. Raises `ConfigError` where members do not fit together.
    """

    def __init__(self, members: Sequence["InferenceEngine | Ensemble"], combine: str | Combine = "mean") -> None:
        if not members:
            raise ConfigError("an ensemble of nothing, expected at least one engine")
        if isinstance(combine, str) and combine not in COMBINES:
            raise ConfigError(f"combine is {combine!r}, expected one of {sorted(COMBINES)}, or a function")
        self.members = tuple(members)
        self.inputs, self.outputs = _join_inputs(self.members), self.members[0].outputs
        self.rows_at_once = min(member.rows_at_once for member in self.members)
        self._combine = COMBINES[combine] if isinstance(combine, str) else combine
        for number, member in enumerate(self.members[1:], start=1):
            _check("inputs", number, _list_needed(member.inputs), _list_needed(self.inputs))
            _check("outputs", number, member.outputs, self.outputs)
        labels = [spec.name for spec in self.outputs if spec.dtype.kind != "f"]
        if isinstance(combine, str) and labels:
            raise ConfigError(f"outputs {labels} are no floats: expected a function to combine them, not {combine!r}")
        self._threads = ThreadPoolExecutor(len(self.members), "streamd-ensemble")

    def __call__(self, inputs: ArrayInputs) -> Arrays:
        """Run rows, as one engine does; raises as it does, and `BatchFailedError` where outputs do not combine."""
        try:
            runs = [self._threads.submit(member, self._select_known(member, inputs)) for member in self.members]
        except RuntimeError as exc:
            raise BatchFailedError("the ensemble is closed") from exc
        results = [run.result() for run in runs]
        return {spec.name: self._combined(spec, [each[spec.name] for each in results]) for spec in self.outputs}

    def close(self) -> None:
        """Close the members; twice is harmless."""
        with ExitStack() as ends:
            for member in self.members:
                ends.callback(member.close)
            self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _select_known(self, member: Network, inputs: ArrayInputs) -> ArrayInputs:
        """Return the inputs without those that only other members know."""
        others = {spec.name for spec in self.inputs} - {spec.name for spec in member.inputs}
        if not others or not isinstance(inputs, Mapping):
            return inputs
        return {name: values for name, values in inputs.items() if name not in others}

    def _combined(self, spec: TensorSpec, outputs: list[Array]) -> Array:
        shapes = [each.shape for each in outputs]
        if len(set(shapes)) > 1:
            raise BatchFailedError(f"output {spec.name!r} is {shapes}, one a member; expected one shape")
        made = np.asarray(self._combine(np.stack(outputs)))
        if made.shape != shapes[0]:
            raise BatchFailedError(f"output {spec.name!r} was combined to {made.shape}, expected {shapes[0]}")
        return made.astype(spec.dtype, copy=False)


def _join_inputs(members: Sequence[Network]) -> tuple[TensorSpec, ...]:
    """Return the inputs of the first member, and the optional inputs of any."""
    first = members[0].inputs
    optional = {spec.name: spec for each in members for spec in each.inputs if spec.optional}
    return (*_list_needed(first), *optional.values())


def _list_needed(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in specs if not spec.optional)


def _check(what: str, number: int, found: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...]) -> None:
    """Raise `ConfigError` unless a member's tensors are the first one's; what is open in either fits."""
    others = {spec.name: spec for spec in expected}
    fits = {spec.name for spec in found} == set(others) and all(_alike(spec, others[spec.name]) for spec in found)
    if not fits:
        given = {spec.name: spec.description for spec in found}
        wanted = {spec.name: spec.description for spec in expected}
        raise ConfigError(f"{what} of member {number} are {given}, expected those of the first: {wanted}")


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    if not (one.ranked and other.ranked):
        return one.dtype == other.dtype
    same_axes = len(one.shape) == len(other.shape) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(one.shape, other.shape, strict=True)
    )
    return one.dtype == other.dtype and same_axes
