"""Tests `streamd/runtime/lanes/deployment.py` and `streamd/runtime/lanes/pool.py`: states, and their transitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.lanes.deployment import Deployment, DeploymentState
from streamd.runtime.lanes.pool import ClosingLanes, LanePool
from tests.support.pipeline_rig import make_fake_spec

LOADING, WARM, SERVING, RETIRING, CLOSED = DeploymentState

ALLOWED = {
    (LOADING, WARM),
    (WARM, SERVING),
    (SERVING, WARM),
    (WARM, RETIRING),
    (SERVING, RETIRING),
    (LOADING, CLOSED),
    (WARM, CLOSED),
    (SERVING, CLOSED),
    (RETIRING, CLOSED),
}
"""The transitions, written independently of the code."""


@given(st.lists(st.sampled_from(DeploymentState), max_size=12))
async def test_a_state_is_entered_only_from_allowed_states(states: list[DeploymentState]) -> None:
    deployment, naive = Deployment(make_fake_spec("a")), LOADING
    for state in states:
        if (naive, state) in ALLOWED:
            deployment.enter(state)
            naive = state
        else:
            with pytest.raises(ValueError, match=rf"a is {naive.value}, it can't become {state.value}"):
                deployment.enter(state)
        assert deployment.state is naive
        assert deployment.is_retiring == (naive in (RETIRING, CLOSED))


async def test_a_deployment_that_serves_is_not_retired() -> None:
    deployment = Deployment(make_fake_spec("a"))
    deployment.enter(WARM)
    pool = LanePool(deployment, ClosingLanes())
    with pytest.raises(AssertionError, match="serves"):
        pool.retire(deployment)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
async def test_one_deployment_serves_after_any_switches(order: list[int]) -> None:
    deployments = [Deployment(make_fake_spec(name)) for name in "abcd"]
    for each in deployments:
        each.enter(WARM)
    pool = LanePool(deployments[0], ClosingLanes())
    pool.switch(deployments[0])
    for number in order:
        former = pool.serving
        assert pool.switch(deployments[number]) is former
        assert [each.state for each in deployments] == [
            SERVING if index == number else WARM for index in range(len(deployments))
        ]
