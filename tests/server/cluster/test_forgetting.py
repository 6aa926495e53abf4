"""Tests `streamd/server/cluster/forgetting.py`: a server is forgotten once the order comes back from the log."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pytest

from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.core.errors import UnavailableError
from streamd.core.state.directory import DIRECTORY_COLUMNS, Directory
from streamd.core.state.layout import Layout
from streamd.server.cluster.forgetting import FORGET_SECONDS, GIVEN_UP_SECONDS, ORDER_SECONDS, ServerForgetter
from tests.support.virtual_time import run_in_virtual_time

OBEYED_SECONDS = 1.0
LOG_TIME = 1_700_000_000.0


@dataclass
class Orders:
    """A publisher whose log brings an order back after a while; `obey` does what it says."""

    obey: Callable[[], object]
    is_away: bool = False

    async def forget(self, server: str, shard: int, until: float) -> None:
        assert (server, shard, until) == ("web", 0, LOG_TIME + ORDER_SECONDS)
        if self.is_away:
            await asyncio.Event().wait()
        asyncio.get_running_loop().call_later(OBEYED_SECONDS, self.obey)


def make_directory() -> Directory:
    layout = Layout(DIRECTORY_COLUMNS, 1, {})
    directory = Directory(layout.make_views(bytearray(layout.nbytes)))
    directory.admit(0, "web", 1.0)
    return directory


async def forget(directory: Directory, obey: Callable[[], object], *, is_away: bool = False) -> float:
    """Forget the server; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        publisher = cast(RowPublisher, Orders(obey, is_away))
        await ServerForgetter(publisher, directory, 1, lambda: LOG_TIME).forget("web")
    finally:
        taken = loop.time() - began
        await asyncio.sleep(OBEYED_SECONDS)
    return taken


@pytest.mark.parametrize("comes_back", [False, True])
def test_it_is_done_when_the_order_is_obeyed_also_if_the_server_reports_again(comes_back: bool) -> None:
    directory = make_directory()

    def obey() -> None:
        directory.release(0)
        if comes_back:
            directory.admit(0, "web", 2.0)

    assert run_in_virtual_time(forget(directory, obey)) == pytest.approx(OBEYED_SECONDS, abs=0.05)
    assert ("web" in directory.slots) is comes_back


def test_an_order_that_does_not_come_back_in_time_will_be_obeyed_later() -> None:
    with pytest.raises(UnavailableError, match="the order to forget 'web' is in the log, and is carried out later"):
        run_in_virtual_time(forget(make_directory(), lambda: None))
    assert FORGET_SECONDS > OBEYED_SECONDS


def test_an_order_that_the_log_does_not_store_in_time_is_refused_only_once_it_does_not_count() -> None:
    with pytest.raises(UnavailableError, match="did not store the order to forget 'web' within 3 s; it does not count"):
        run_in_virtual_time(forget(make_directory(), lambda: None, is_away=True))
    assert GIVEN_UP_SECONDS > ORDER_SECONDS
