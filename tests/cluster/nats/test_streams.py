"""Tests `streamd/cluster/nats/streams.py`: streams that are there with other settings, and that cannot be made."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from streamd.cluster.log import LogFullError, LogSettingsError, StreamPlan
from streamd.cluster.nats.errors import ApiFault, translate_fault
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from streamd.cluster.nats.streams import make_stream, make_stream_config
from streamd.cluster.streams import ShardLimits, plan_streams, prepare_streams
from streamd.core.cluster.shards import ClusterNames
from tests.support.nats_servers import NatsServers, needs_nats_server, run_nats

LIMITS = ShardLimits(row_bytes=2**20, forecast_bytes=2**20)

pytestmark = needs_nats_server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with run_nats(Path(tmp_path_factory.mktemp("nats"))) as running:
        yield running


@pytest.fixture
async def log(servers: NatsServers) -> AsyncIterator[NatsLog]:
    made = NatsLog(NatsSettings(urls=servers.urls), replicas=1)
    await made.start()
    yield made
    await made.close()


async def test_all_streams_of_a_cluster_are_made_once(log: NatsLog) -> None:
    names = ClusterNames("whole")
    await prepare_streams(log, names, 2, LIMITS)
    await log.append(names.rows(1), b"x")
    await prepare_streams(log, names, 2, LIMITS)
    assert [(await log.read_state(plan.name)).messages for plan in plan_streams(names, 2, LIMITS)] == [0, 0, 0, 1, 0, 0]
    assert await log.table(names.bucket("leases")).read_all() == {}


async def test_a_limit_that_differs_is_set_anew(log: NatsLog) -> None:
    for max_bytes in (1_000, 100_000):
        await log.make_stream(StreamPlan(name="limited", subjects=("limited.x",), max_bytes=max_bytes))
    assert (await log.append("limited.x", bytes(50_000))).sequence == 1


async def test_a_lower_limit_removes_nothing(log: NatsLog) -> None:
    """Servers of 2.9 would remove the first messages; the limit is lowered once the stream is short enough."""

    async def lower() -> None:
        await log.make_stream(StreamPlan(name="long", subjects=("long.x",), max_bytes=100_000))

    await log.make_stream(StreamPlan(name="long", subjects=("long.x",)))
    for _ in range(3):
        await log.append("long.x", bytes(40_000))
    await lower()
    state = await log.read_state("long")
    assert (state.first, state.messages) == (1, 3)
    await log.purge("long", "long.x", below=3)
    await lower()
    with pytest.raises(LogFullError):
        await log.append("long.x", bytes(70_000))


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (StreamPlan(name="t", subjects=("t.y",)), "subjects"),
        (StreamPlan(name="t", subjects=("t.x",), allows_rollup=True), "allow_rollup_hdrs False, expected True"),
    ],
)
async def test_what_cannot_be_changed_is_named(log: NatsLog, plan: StreamPlan, named: str) -> None:
    await log.make_stream(StreamPlan(name="t", subjects=("t.x",)))
    with pytest.raises(LogSettingsError, match=f"stream t: .*{named}"):
        await log.make_stream(plan)


async def test_a_server_without_a_cluster_keeps_one_replica(log: NatsLog, servers: NatsServers) -> None:
    """One of 2.9 would take three, and have no stream any more at its next start."""
    plan = StreamPlan(name="alone", subjects=("alone.x",))
    await log.make_stream(plan)
    three = NatsLog(NatsSettings(urls=servers.urls), replicas=3)
    await three.start()
    with pytest.raises(LogSettingsError, match=r"stream alone: .*replicas"):
        await three.make_stream(plan)
    await three.close()


async def test_what_the_servers_cannot_hold_is_named(log: NatsLog, servers: NatsServers) -> None:
    with pytest.raises(LogSettingsError, match=r"stream big: .*storage.*max_file"):
        await log.make_stream(StreamPlan(name="big", subjects=("big.x",), max_bytes=2**40))
    three = NatsLog(NatsSettings(urls=servers.urls), replicas=3)
    await three.start()
    with pytest.raises(LogSettingsError, match=r"stream many: .*replicas"):
        await three.make_stream(StreamPlan(name="many", subjects=("many.x",)))
    await three.close()


class RefusingApi:
    """JetStream that refuses to make a stream, since another node is making it; it is found after some looks."""

    def __init__(self, looks: int, found: dict[str, object]) -> None:
        self.looks = looks
        self.found = found

    async def find(self, verb: str, request: bytes, answer_type: type[Any], place: str, missing: int) -> Any:
        self.looks -= 1
        return None if self.looks >= 0 else answer_type(self.found)

    async def call(self, verb: str, request: bytes, answer_type: type[Any], place: str, seconds: float) -> Any:
        raise translate_fault(ApiFault(400, 10_065, "subjects overlap with an existing stream"), place)


@pytest.mark.parametrize("looks", [1, 2, 4])
async def test_a_stream_that_another_node_makes_at_the_same_moment_is_compared(looks: int) -> None:
    config = make_stream_config(StreamPlan(name="t", subjects=("t.x",)), 1)
    await make_stream(cast(Any, RefusingApi(looks, dict(config))), config)
    with pytest.raises(LogSettingsError, match="stream t: is in NATS with other settings: subjects"):
        await make_stream(cast(Any, RefusingApi(looks, {**config, "subjects": ["t.y"]})), config)


async def test_subjects_that_a_stream_of_another_name_has_are_refused(log: NatsLog) -> None:
    await log.make_stream(StreamPlan(name="one", subjects=("one.x",)))
    with pytest.raises(LogSettingsError, match="stream two: NATS refuses: subjects overlap"):
        await log.make_stream(StreamPlan(name="two", subjects=("one.x",)))
