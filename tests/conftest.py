"""For every test: stable property tests, and event loops in debug mode."""

import asyncio
import os
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

# The same examples at every run, so that a red test is a change's doing; HYPOTHESIS_PROFILE=search looks further.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", parent=settings.get_profile("ci"), derandomize=False, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BOTH_LOOPS = ("tests/client", "tests/runtime/lanes")
"""Tests under these run on uvloop and on asyncio's own loop: the client runs on the loop of its program, and what lanes
hand to the loop comes from threads. All others run on uvloop, as the daemon does.
"""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the loops that an asynchronous test runs on, once on each."""
    if item.nodeid.startswith(BOTH_LOOPS):
        return {"uvloop": _uvloop_in_debug, "asyncio": _asyncio_in_debug}
    return {"uvloop": _uvloop_in_debug}


def _uvloop_in_debug() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
    loop.set_debug(True)
    return loop


def _asyncio_in_debug() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.set_debug(True)
    return loop
