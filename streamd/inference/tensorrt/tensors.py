"""Joins the tensors of a network's stages, and compares them between alternatives.

Knows tensors as specs, and nothing of TensorRT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamd.core.errors import BackendUnavailableError
from streamd.inference.runner import TensorSpec
from streamd.inference.tensorrt.plan_file import describe_plan, describe_stage


@dataclass(frozen=True, slots=True)
class StageTensors:
    """The tensors that one stage reads and those that it writes (`gives`)."""

    reads: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class NetworkTensors:
    """The tensors of all stages together, each name once; an axis may be open until a context knows its inputs."""

    inputs: list[TensorSpec]
    """Those that no stage gives."""
    intermediates: list[TensorSpec]
    """Those that a later stage reads; they never leave the device."""
    outputs: list[TensorSpec]
    """Those that no later stage reads."""
    stages: tuple[StageTensors, ...]
    """Each stage's own tensors, as any stage knows their shapes."""

    @property
    def groups(self) -> dict[str, list[TensorSpec]]:
        """All but the stages, by name."""
        return {"inputs": self.inputs, "intermediates": self.intermediates, "outputs": self.outputs}


def join_stages(stages: Sequence[StageTensors]) -> NetworkTensors:
    """Return the tensors of stages that run in this order, joined by their names.

    Raises `BackendUnavailableError` if a tensor is read in another type or shape than it has elsewhere, is written
    twice, or is read before it is written.
    """
    known: dict[str, TensorSpec] = {}
    first: dict[str, str] = {}
    given: set[str] = set()
    passed: set[str] = set()
    for index, stage in enumerate(stages):
        place = describe_stage(index, len(stages)) or "the engine"
        for spec in stage.reads:
            before = first.setdefault(spec.name, f"{place} reads")
            known[spec.name] = _joined(known.get(spec.name, spec), spec, before, f"{place} reads")
        passed |= given & {spec.name for spec in stage.reads}
        for spec in stage.gives:
            if spec.name in known:
                raise BackendUnavailableError(
                    f"tensor {spec.name!r}: {first[spec.name]} it, and {place} gives it, expected one stage to give it "
                    "and only later ones to read it"
                )
            known[spec.name], first[spec.name] = spec, f"{place} gives"
            given.add(spec.name)
    return NetworkTensors(
        [spec for name, spec in known.items() if name not in given],
        [spec for name, spec in known.items() if name in passed],
        [spec for name, spec in known.items() if name in given - passed],
        _as_known(known, stages),
    )


def merge_alternatives(found: Sequence[NetworkTensors]) -> tuple[NetworkTensors, ...]:
    """Return the tensors of each alternative, in the first one's order, with every shape as any of them knows it.

    Raises `BackendUnavailableError` if an alternative has other inputs, intermediates or outputs than the first, or
    one of them in another type or shape.
    """
    first = found[0]
    known = {spec.name: spec for specs in first.groups.values() for spec in specs}
    for index, each in enumerate(found[1:], 1):
        place = describe_plan(index, len(found))
        for kind, specs in each.groups.items():
            names, expected = (sorted(spec.name for spec in group) for group in (specs, first.groups[kind]))
            if names != expected:
                raise BackendUnavailableError(f"{place} has {kind} {names}, expected {expected} as plan 1 has")
            for spec in specs:
                known[spec.name] = _joined(known[spec.name], spec, "the plans before it have", f"{place} has")
    inputs, intermediates, outputs = ([known[spec.name] for spec in specs] for specs in first.groups.values())
    return tuple(NetworkTensors(inputs, intermediates, outputs, _as_known(known, each.stages)) for each in found)


def _as_known(known: Mapping[str, TensorSpec], stages: Sequence[StageTensors]) -> tuple[StageTensors, ...]:
    return tuple(
        StageTensors(*(tuple(known[spec.name] for spec in specs) for specs in (stage.reads, stage.gives)))
        for stage in stages
    )


def fill_open_axes(spec: TensorSpec, sizes: Sequence[int | None]) -> TensorSpec | None:
    """Return a tensor with its open axes as `sizes` has them, or `None` if an axis that both know differs."""
    if len(spec.shape) != len(sizes):
        return None
    pairs = list(zip(spec.shape, sizes, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return None
    return replace(spec, shape=tuple(other if own is None else own for own, other in pairs))


def _joined(one: TensorSpec, other: TensorSpec, how_one: str, how_other: str) -> TensorSpec:
    """Return a tensor with every size that either of two stages or alternatives knows."""
    joined = fill_open_axes(one, other.shape) if one.dtype == other.dtype else None
    if joined is None:
        raise BackendUnavailableError(
            f"tensor {one.name!r}: {how_other} it as {other.description}, but {how_one} it as {one.description}"
        )
    return joined
