"""Tests `streamd/server/descriptors.py`: the limit of descriptors is raised, and some are left for other things."""

import resource

import pytest
import structlog

from streamd.server.descriptors import RESERVED_DESCRIPTORS, count_possible_connections, limit_connections


class Limits:
    """The limits of a process, in place of those of this one."""

    def __init__(self, soft: int, hard: int) -> None:
        self.soft, self.hard = soft, hard

    def get(self, _: int) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, _: int, limits: tuple[int, int]) -> None:
        assert limits[0] <= self.hard or self.hard == resource.RLIM_INFINITY
        assert limits[1] == self.hard, "a process cannot raise its hard limit again"
        self.soft = limits[0]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> type[Limits]:
    class Used(Limits):
        def __init__(self, soft: int, hard: int) -> None:
            super().__init__(soft, hard)
            monkeypatch.setattr(resource, "getrlimit", self.get)
            monkeypatch.setattr(resource, "setrlimit", self.set)

    return Used


@pytest.mark.parametrize("hard", [4_096, 1_000_000, resource.RLIM_INFINITY])
def test_a_low_soft_limit_is_raised_to_what_is_needed(use: type[Limits], hard: int) -> None:
    limits = use(1_024, hard)
    with structlog.testing.capture_logs() as events:
        assert limit_connections(3_000) == 3_000
    assert limits.soft == 3_000 + RESERVED_DESCRIPTORS
    assert events == []


@pytest.mark.parametrize("soft", [100_000, resource.RLIM_INFINITY])
def test_a_high_soft_limit_stays(use: type[Limits], soft: int) -> None:
    limits = use(soft, resource.RLIM_INFINITY)
    assert limit_connections(3_000) == 3_000
    assert limits.soft == soft


def test_a_low_hard_limit_allows_fewer_connections_and_is_logged(use: type[Limits]) -> None:
    limits = use(512, 1_024)
    with structlog.testing.capture_logs() as events:
        assert limit_connections(3_000) == 1_024 - RESERVED_DESCRIPTORS
    assert limits.soft == 1_024
    assert [(each["event"], each["max_connections"], each["descriptors"]) for each in events] == [
        ("connections_limited", 768, 1_024)
    ]


@pytest.mark.parametrize(("descriptors", "connections"), [(1_024, 768), (300, 150), (1, 1)])
def test_some_descriptors_are_left_however_few_there_are(descriptors: int, connections: int) -> None:
    assert count_possible_connections(descriptors) == connections
