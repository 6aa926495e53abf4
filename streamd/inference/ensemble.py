"""Runs several versions as one: a lane runs its members' lanes on the same windows and averages each quantile.

Averaging quantiles of one level keeps their order: Ratcliff, "Group reaction time distributions and an analysis of
distribution statistics" (1979), after Vincent (1912).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from streamd.core.arrays import Float32
from streamd.core.errors import BackendUnavailableError
from streamd.inference.lane import Backend, Lane


class EnsembleBackend:
    """A backend whose lanes consist of one lane of each member; the members share their contract."""

    def __init__(self, members: Sequence[Backend]) -> None:
        if not members:
            raise BackendUnavailableError("an ensemble needs at least one member")
        self.members = tuple(members)
        self.name = _join_names([member.name for member in members])
        self.precision = _join_names([member.precision for member in members])
        self.default_lanes = min(member.default_lanes for member in members)

    def make_lane(self, index: int) -> "EnsembleLane":
        """Make a lane of every member; if a member raises, close the lanes made before and raise that."""
        lanes: list[Lane] = []
        with ExitStack() as made:
            for member in self.members:
                lane = member.make_lane(index)
                made.callback(lane.close)
                lanes.append(lane)
            ensemble = EnsembleLane(lanes)
            made.pop_all()
        return ensemble

    def describe(self) -> dict[str, Any]:
        """Return the description of each member."""
        return {"members": [member.describe() for member in self.members]}


class EnsembleLane:
    """A lane that runs its members one after another; its inputs are those of the member that reads most of them."""

    def __init__(self, members: Sequence[Lane]) -> None:
        first = members[0]
        if len({member.device for member in members}) > 1:
            raise BackendUnavailableError(f"an ensemble's lanes are on {[member.device for member in members]}")
        largest = min(member.buckets[-1] for member in members)
        self.name = first.name
        self.device = first.device
        self.buckets = tuple(sorted({size for each in members for size in each.buckets if size <= largest}))
        self.pads = any(member.pads for member in members)
        self.inputs = next((each.inputs for each in members if each.inputs.memory_cont is not None), first.inputs)
        self._members = tuple(members)

    def run(self, count: int) -> Float32:
        """Run the first `count` windows on every member; return the mean, `(count, horizon, targets, quantiles)`.

        Raises what a member raises. If one member gives NaN for a window, so does the ensemble.
        """
        total: Float32 | None = None
        given = self.inputs.view_first(count)
        for member in self._members:
            if member.inputs is not self.inputs:
                for name, buffer in member.inputs.view_first(count).items():
                    buffer[:] = given[name]
            made = member.run(count)
            total = made.copy() if total is None else total + made
        assert total is not None
        mean: Float32 = total / total.dtype.type(len(self._members))
        return mean

    def check(self) -> None:
        """Raise `LaneLostError` if a member's device is known not to answer."""
        for member in self._members:
            member.check()

    def describe(self) -> dict[str, Any]:
        """Return the description of each member."""
        return {"members": [member.describe() for member in self._members]}

    def close(self) -> None:
        """Close every member, even if another one raises."""
        with ExitStack() as closing:
            for member in self._members:
                closing.callback(member.close)


def _join_names(names: Sequence[str]) -> str:
    """Join the names, each once."""
    return "+".join(dict.fromkeys(names))
