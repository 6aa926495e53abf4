"""Tests `streamd/core/cluster/leases.py` and `streamd/core/cluster/forecast_chain.py`: the whole protocol as a model.

Nodes with these policies work over a naive log, whose messages are lost, late, copied and reordered; nodes crash, are
cut off, not heard, drained, see no changes, and have clocks that stand still or leap. The log checks each append.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.cluster.chain_entries import ChainEntry, EntryKind
from streamd.core.cluster.forecast_chain import ChainState, ForecastChain
from streamd.core.cluster.membership import Membership
from tests.support.made_cluster import ModelCluster, Policies, Step
from tests.support.made_cluster_log import ViolationError

WEIGHTS = {
    "deliver": 40,
    "tick": 20,
    "watch": 10,
    "row": 8,
    "drop": 4,
    "rounds": 4,
    "lossy": 4,
    "copy": 3,
    "wait": 2,
    "cut": 2,
    "mute": 2,
    "blind": 2,
    "oust": 2,
    "forget": 1,
    "crash": 1,
    "start": 1,
    "drain": 2,
    "clock": 1,
}
"""How often each thing happens: mostly messages that come in any order."""

BEGINNING: list[Step] = [("rounds", 7), ("row", 0), ("row", 1), ("row", 2), ("rounds", 7)]

steps = st.tuples(
    st.sampled_from([kind for kind, weight in WEIGHTS.items() for _ in range(weight)]), st.integers(0, 999)
)


@settings(max_examples=30)
@given(
    nodes=st.integers(1, 4),
    shards=st.integers(1, 3),
    schedule=st.lists(steps, min_size=30, max_size=150),
)
def test_no_row_is_forecast_twice_none_is_lost_and_no_fence_falls(
    nodes: int, shards: int, schedule: list[Step]
) -> None:
    run_schedule(ModelCluster(nodes, shards, servers=4), schedule)


def run_schedule(cluster: ModelCluster, schedule: list[Step]) -> None:
    """Do what a schedule says, then end all faults; raises `ViolationError`."""
    for step in [*BEGINNING, *schedule]:
        cluster.perform(step)
    cluster.settle()


# ---------------------------------------------------------------- it finds broken policies
class PassesOverFences(ForecastChain):
    """Goes on under its former fence when it reads a later marker."""

    def _follow_fence(self, entry: ChainEntry) -> None:
        self.fence = max(self.fence, entry.fence)
        if self.state is ChainState.CLAIMING and entry.fence == self._claim:
            self.state = ChainState.OWNING


class HasNoMarker(ForecastChain):
    """Owns without a marker in the chain."""

    def begin_claim(self, fence: int) -> ChainEntry:
        self._pending = replace(super().begin_claim(fence), kind=EntryKind.BATCH)
        return self._pending


class ForecastsAnyStep(ForecastChain):
    """Takes rows that have a forecast."""

    def select(self, forecasts: object, forgotten: object = ()) -> list[bool]:
        return [True for _ in forecasts]  # type: ignore[attr-defined]


class ForecastsBeforeItReads(ForecastChain):
    """Takes rows of before an order to forget, which the chain has, for new ones."""

    def needs_rows(self, applied: int) -> bool:
        return False


class PurgesWhatNoRecordHas(ForecastChain):
    """Removes all batches, whatever the records have."""

    @property
    def purge_below(self) -> int:
        return self.position


class PassesOverTheTail(ForecastChain):
    """Appends after another's entry without reading it."""

    def reject(self, last: int | None) -> None:
        super().reject(last)
        self.position = max(self.position, last or 0)


class RecordsNothing(ForecastChain):
    """Makes records without steps."""

    def begin_record(self) -> ChainEntry | None:
        entry = super().begin_record()
        self._pending = None if entry is None else replace(entry, steps={})
        return self._pending


class ForgetsTwice(ForecastChain):
    """Appends an order to forget that the chain has."""

    forgot_rows = property(lambda self: 0, lambda self, value: None)


class PassesOverRuns(Membership):
    """Takes a node that was restarted for the one that held its leases."""

    def is_alive(self, node: str, run: int, now: float) -> bool:
        return super().is_alive(node, self._newest[node].run if node in self._newest else run, now)


BROKEN = {
    **{
        chain.__name__: Policies(chain=chain)
        for chain in (
            *(PassesOverFences, HasNoMarker, ForecastsAnyStep, ForecastsBeforeItReads),
            *(PurgesWhatNoRecordHas, PassesOverTheTail, RecordsNothing, ForgetsTwice),
        )
    },
    "passes over runs": Policies(members=PassesOverRuns),
    "appends without compare-and-set": Policies(stream_compares=False),
    "changes leases without compare-and-set": Policies(table_compares=False),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_model_finds_a_policy_that_is_broken(broken: str) -> None:
    with pytest.raises(ViolationError):
        run_schedules(BROKEN[broken])


def run_schedules(policies: Policies) -> None:
    """Do up to a hundred schedules, until one shows that a promise is broken."""
    for seed in range(100):
        run_schedule(ModelCluster(2 + seed % 3, 2, servers=4, policies=policies), make_schedule(seed))


def make_schedule(seed: int) -> list[Step]:
    """Return a long schedule by chance."""
    chance = random.Random(seed)
    kinds = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=200)
    return [(kind, chance.randrange(1_000)) for kind in kinds]
