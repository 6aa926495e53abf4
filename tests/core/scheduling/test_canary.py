"""Tests `streamd/core/scheduling/canary.py`: the servers of a candidate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.canary import CanaryAssignment

SERVERS = [f"web-{number:04d}" for number in range(4_000)]
SHARES = st.floats(0.0, 1.0)
NAMES = st.text(min_size=1, max_size=30)
PLACE = 0.2125998671075957
"""Where `web-01` lies for candidate `a`, as it was first worked out: were it to change, servers would change hands."""


@given(NAMES, SHARES, SHARES)
def test_a_server_stays_as_the_share_grows(server: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if CanaryAssignment("patch_20260101_000000", low).includes(server):
        assert CanaryAssignment("patch_20260101_000000", high).includes(server)


@given(NAMES)
def test_a_share_of_0_is_no_server_and_of_1_every_server(server: str) -> None:
    assert not CanaryAssignment("a", 0.0).includes(server)
    assert CanaryAssignment("a", 1.0).includes(server)
    assert 0.0 <= CanaryAssignment("a", 1.0).compute_position(server) < 1.0


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_about_the_share_of_the_servers_is_included(share: float) -> None:
    found = sum(map(CanaryAssignment("a", share).includes, SERVERS)) / len(SERVERS)
    assert abs(found - share) < 4 * (share * (1 - share) / len(SERVERS)) ** 0.5


def test_the_choice_is_the_same_on_every_machine() -> None:
    assert CanaryAssignment("a", 1.0).compute_position("web-01") == PLACE
    assert not CanaryAssignment("a", PLACE).includes("web-01")
    assert CanaryAssignment("a", PLACE + 1e-9).includes("web-01")


def test_another_candidate_begins_with_other_servers() -> None:
    first, second = (
        {server for server in SERVERS if CanaryAssignment(name, 0.1).includes(server)} for name in ("a", "b")
    )
    assert len(first & second) < 0.3 * len(first)


def test_a_shadow_gets_the_servers_that_a_canary_would_get() -> None:
    for share in (0.0, 0.3, 1.0):
        shadow, canary = CanaryAssignment("a", share, shadow=True), CanaryAssignment("a", share)
        assert [shadow.includes(server) for server in SERVERS] == [canary.includes(server) for server in SERVERS]
    assert CanaryAssignment("a", 1.0, shadow=True).includes("web-01")
    assert not CanaryAssignment("a", 0.0, shadow=True).includes("web-01")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_invalid_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        CanaryAssignment("a", share)
