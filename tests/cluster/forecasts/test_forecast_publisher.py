"""Tests `streamd/cluster/forecasts/forecast_publisher.py`."""

from pathlib import Path
from typing import Any

from streamd.cluster.forecasts.chain_appender import PublisherState
from streamd.cluster.log import LogFullError
from tests.support.forecast_rig import NAMES, make_forecast_rows, make_servers, run_forecast_rig
from tests.support.recorded_posts import listen_to_posts

SERVERS = make_servers(0, 3)


async def test_a_row_that_the_log_has_a_forecast_of_is_not_appended_again(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = await node.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(node, SERVERS, 11)
        board = node.read_board()
        held.offer(make_forecast_rows(node, SERVERS, 11))
        held.offer(make_forecast_rows(node, SERVERS, 10))
        await rig.wait_until(lambda: held.publisher.counts.known + held.publisher.pending.superseded == 6)
        assert node.read_board() == board
        assert len(await rig.check_log()) == 3


async def test_listeners_hear_of_each_row_once_if_the_answer_was_lost(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        await node.own(0, 1)
        recorded = listen_to_posts(node)
        for step in range(10, 16):
            node.made_log.lose_answers = step % 2
            node.made_log.repeat = int(step == 14)
            await rig.send(SERVERS, step)
            if step > 10:
                await rig.wait_forecast(node, SERVERS, step)
        assert len(recorded.heard) == len(set(recorded.heard)) == 15
        assert len(await rig.check_log()) == 15


async def test_listeners_hear_of_each_row_once_if_the_log_was_away(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = await node.own(0, 1)
        await rig.send(SERVERS, 10)
        await held.wait_caught_up()
        recorded = listen_to_posts(node)
        node.made_log.cut()
        held.offer(make_forecast_rows(node, SERVERS, 10))
        held.offer(make_forecast_rows(node, SERVERS, 11))
        await rig.wait_until(lambda: len(recorded.heard) >= 3)
        assert held.publisher.state is PublisherState.WAITING
        node.made_log.heal()
        await rig.wait_until(lambda: not held.publisher.waiting)
        assert len(recorded.heard) == len(set(recorded.heard))
        assert not held.publisher.is_away


async def test_a_log_that_is_full_is_as_one_that_is_away(tmp_path: Path, monkeypatch: Any) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = await node.own(0, 1)
        await rig.send(SERVERS, 10)
        await held.wait_caught_up()
        refusals = [1, 2]
        append = node.log.append

        async def refuse(subject: str, *given: Any, **options: Any) -> Any:
            if subject == NAMES.forecasts(0) and refusals:
                refusals.pop()
                raise LogFullError("the stream is full")
            return await append(subject, *given, **options)

        monkeypatch.setattr(node.log, "append", refuse)
        held.offer(make_forecast_rows(node, SERVERS, 10))
        await rig.wait_until(lambda: not held.publisher.waiting)
        assert held.publisher.counts.local == 3
        assert len(await rig.check_log()) == 3
