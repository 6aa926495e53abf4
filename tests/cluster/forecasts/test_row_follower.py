"""Tests `streamd/cluster/forecasts/row_follower.py`."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.cluster.log import LogMessage
from streamd.core.errors import StorageError
from tests.support.forecast_rig import make_servers, run_forecast_rig

SERVERS = make_servers(0, 3)


async def test_rows_wait_while_nothing_can_be_written_and_the_reason_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.row_follower.STORAGE_SECONDS", 0.01)
    async with run_forecast_rig(tmp_path) as rig:
        held = rig.start("a").follow(0)
        apply, is_full = held._rows.apply, [True]

        async def apply_unless_full(messages: Sequence[LogMessage]) -> None:
            if is_full:
                raise StorageError("no space")
            await apply(messages)

        held._rows.apply = apply_unless_full  # type: ignore[method-assign]
        await rig.send(SERVERS, 10, 11)
        await rig.wait_until(lambda: held.describe()["problem"] == "no space")
        assert held.describe()["rows_sequence"] == 0
        is_full.clear()
        await held.wait_caught_up()
        assert (held.describe()["rows_sequence"], held.describe()["problem"]) == (2, "")


async def test_an_owner_goes_on_with_a_row_log_that_was_made_anew_and_without_the_orders_of_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.row_follower.SHORT_SECONDS", 0.0)
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = node.follow(0)
        await rig.send(SERVERS, 10, 11)
        await held.wait_caught_up()
        held._follower.chain.forgot_rows = 99  # the former log had an order there
        with capture_logs() as logs:
            await held.own(1)
        assert [(each["event"], each["last"]) for each in logs if each["log_level"] == "error"] == [
            ("rows_made_anew", 2)
        ]
        await rig.wait_forecast(node, SERVERS, 11)
        await rig.order_forget(SERVERS[0])
        await rig.wait_until(lambda: held._follower.chain.find_step(SERVERS[0]) is None)
        assert held._follower.chain.forgot_rows == 3
