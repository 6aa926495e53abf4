"""Tests `streamd/cluster/forecasts/server_subjects.py`."""

from pathlib import Path

import msgspec
import numpy as np

from streamd.cluster.forecasts.server_subjects import ServerSubjects
from streamd.cluster.log import LogMessage
from streamd.core.selection import make_forecast_slice
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.frames import FrameEncoder
from tests.support.forecast_rig import NAMES, RigNode, make_servers, run_forecast_rig

SERVERS = make_servers(0, 2)


def make_subjects(node: RigNode) -> ServerSubjects:
    """Make the publisher of a node as the daemon does."""
    frames = FrameEncoder(node.service)
    part = make_forecast_slice(node.service.contract, None, None)
    subjects = ServerSubjects(
        node.log,
        NAMES,
        node.state.directory.names,
        lambda slot: frames.encode_forecast(slot, part, Encoding.MSGPACK),
    )
    node.forecasts.published = subjects.publish
    return subjects


async def test_each_forecast_that_is_in_the_log_is_published_once_with_its_fence(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        got: list[LogMessage] = []
        await rig.log.subscribe("forecast.>", got.append)
        subjects = make_subjects(owner)
        subjects.start()
        await owner.own(0, 5)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_until(lambda: len(got) == 2)
        assert sorted(message.subject for message in got) == sorted(f"forecast.{server}" for server in SERVERS)
        frame = msgspec.msgpack.decode(got[0].data)
        assert (frame["type"], frame["fence"], frame["origin"]) == ("forecast", 5, 12 * 300)
        values = np.frombuffer(frame["values"]["data"], "<f4").reshape(frame["values"]["shape"])
        slot = owner.state.directory.slots[frame["server"]]
        forecast = owner.state.board.get_forecast(slot)
        assert forecast is not None
        assert values.transpose(0, 1, 2).tobytes() == forecast.values.tobytes()
        assert subjects.published == 2
        await subjects.close()


async def test_without_the_log_they_are_counted_as_lost(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        await owner.own(0, 5)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        subjects = make_subjects(owner)
        subjects.start()
        owner.made_log.cut()
        subjects.publish(np.array([owner.state.directory.slots[server] for server in SERVERS]))
        await rig.wait_until(lambda: subjects.lost == 2)
        await subjects.close()
