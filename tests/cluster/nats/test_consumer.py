"""Tests `streamd/cluster/nats/consumer.py`: how often many consumers give signs; `test_reader.py` reads by them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamd.cluster.log import StreamPlan
from streamd.cluster.nats.api import JetStreamApi
from streamd.cluster.nats.consumer import NatsConsumer, choose_heartbeat_seconds
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from tests.support.nats_servers import needs_nats_server, run_nats


@pytest.mark.parametrize(
    ("consumers", "seconds"), [(1, 0.5), (64, 0.5), (128, 1.0), (341, 2.6640625), (512, 4.0), (3_000, 4.0)]
)
def test_many_consumers_give_a_sign_less_often_each(consumers: int, seconds: float) -> None:
    assert choose_heartbeat_seconds(consumers) == seconds


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[JetStreamApi]:
    with run_nats(tmp_path) as servers:
        log = NatsLog(NatsSettings(urls=servers.urls), replicas=1)
        await log.start()
        await log.make_stream(StreamPlan(name="s", subjects=("s.x",)))
        await log.append("s.x", b"1")
        yield log._api
        await log.close()


@needs_nats_server
async def test_the_longest_interval_is_one_that_servers_take_and_all_are_counted(api: JetStreamApi) -> None:
    api.consumers = 2_999
    consumer = NatsConsumer(api, "s", "s.x")
    await consumer.begin(0, 1.0)
    assert api.consumers == 3_000
    assert [message.data for message in await consumer.read(0)] == [b"1"]
    assert await consumer.read(1) == [], "a sign, and no refusal"
    assert consumer.is_idle
    for _ in range(2):
        await consumer.close()
    assert api.consumers == 2_999
