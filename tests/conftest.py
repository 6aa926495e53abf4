"""For every test: stable property tests, event loops in debug mode, and no collector that visits all test modules."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings

# The same examples at every run, so that a red test is a change's doing; HYPOTHESIS_PROFILE=search looks further.
# Without the phase that explains a failure: on Python 3.11 it runs into the time limit, which hides the failure itself.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=80,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", parent=settings.get_profile("ci"), derandomize=False, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BOTH_LOOPS = ("tests/client", "tests/runtime/lanes")
"""Tests under these run on uvloop and on asyncio's own loop: the client runs on the loop of its program, and what lanes
hand to the loop comes from threads. All others run on uvloop, as the daemon does.
"""

SLOW_TESTS = ("tests/web/", "tests/server/", "tests/tools/", "tests/http/documents/test_interface.py")
"""The tests that start many processes; they come first, so that no worker has a long module left at the end."""


def pytest_sessionstart() -> None:
    """Stop the collector of garbage while tests are collected: there is none."""
    gc.disable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the modules for workers, which take them in this order (`--no-loadscope-reorder`), the longest first."""
    if hasattr(config, "workerinput"):
        sizes = Counter(item.nodeid.partition("::")[0] for item in items)
        items.sort(key=lambda item: (not item.nodeid.startswith(SLOW_TESTS), -sizes[item.nodeid.partition("::")[0]]))


def pytest_collection_finish() -> None:
    """Collect garbage as usual from now on."""
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _old_objects_are_frozen() -> None:
    """Let the collector pass over the tests and modules themselves: to visit them took a sixth of all CPU time."""
    if not gc.get_freeze_count():  # a daemon in this process has thawed them, or none is frozen yet
        gc.collect()
        gc.freeze()


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
