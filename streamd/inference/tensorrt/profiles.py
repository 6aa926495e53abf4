"""Chooses the alternative of a file that runs a batch, and its profiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamd.inference.runner import TensorSpec
from streamd.inference.tensorrt.engine import Alternatives
from streamd.inference.tensorrt.plan_file import describe_place
from streamd.inference.tensorrt.tensors import NetworkTensors, StageTensors


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """The alternative and profiles that run a batch; it holds no engine, so that keeping it does not keep one."""

    alternative: int
    """Its index."""
    alternatives: int
    """How many there are."""
    stages: tuple[StageTensors, ...]
    profiles: tuple[int, ...]
    """For each stage one, by its index in the stage's engine."""

    def describe_stage(self, index: int) -> str:
        """A stage as ` (plan 2 of 6, stage 2 of 3)`, within a sentence; what there is only one of is left out."""
        return _in_brackets(describe_place(self.alternative, self.alternatives, index, len(self.stages)))


def choose_profiles(alternatives: Alternatives, found: Sequence[NetworkTensors], batch: int) -> ProfileChoice | None:
    """Return what to run a batch with, or `None` if no alternative takes it in all stages; `found` are their tensors.

    A stage runs with its narrowest profile; of the alternatives it is the one whose widest stage is the narrowest, and
    of equals the first.
    """
    best, least = None, -1
    for index, each in enumerate(found):
        profiles = [profile for profile in _profiles(alternatives, found, index, batch) if profile is not None]
        if len(profiles) < len(each.stages):
            continue
        width = max(width for width, _ in profiles)
        if best is None or width < least:
            best, least = ProfileChoice(index, len(found), each.stages, tuple(place for _, place in profiles)), width
    return best


def describe_missing_stage(alternatives: Alternatives, found: Sequence[NetworkTensors], batch: int) -> str:
    """Return the stage of the only alternative that takes no such batch; empty where there are several alternatives."""
    if len(found) > 1:
        return ""
    index = _profiles(alternatives, found, 0, batch).index(None)
    return _in_brackets(describe_place(0, 1, index, len(found[0].stages)))


def find_profile(engine: Any, inputs: Sequence[TensorSpec], batch: int) -> tuple[int, int] | None:
    """Return the profile to run a batch with: of those that take it the narrowest, so a static one if there is.

    Its width, which is its largest batch less its smallest, and its index.
    """
    taking = []
    for profile in range(engine.num_optimization_profiles):
        shapes = [engine.get_tensor_profile_shape(each.name, profile) for each in inputs]
        if all(low[0] <= batch <= high[0] for low, _, high in shapes):
            taking.append((max(high[0] - low[0] for low, _, high in shapes), profile))
    return min(taking, default=None)


def _profiles(
    alternatives: Alternatives, found: Sequence[NetworkTensors], index: int, batch: int
) -> list[tuple[int, int] | None]:
    """Of each stage of an alternative the profile to run a batch with."""
    stages = zip(alternatives[index], found[index].stages, strict=True)
    return [find_profile(engine, stage.reads, batch) for engine, stage in stages]


def _in_brackets(place: str) -> str:
    return f" ({place})" if place else ""
