"""Tests `streamd/server/doctor/cluster.py`: what it finds without NATS, with an empty one, and beside other nodes."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from streamd.cluster.log import Log
from streamd.cluster.meta import META_KEY, ClusterMeta
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError
from streamd.server.cluster.connecting import ConnectLog, make_nats_log
from streamd.server.config import ClusterSection, Config
from streamd.server.doctor.cluster import check_cluster
from streamd.server.doctor.findings import FindingLevel
from tests.support.nats_servers import NatsServers, needs_nats_server


def make_config(url: str, shards: int = 4) -> Config:
    return Config(cluster=ClusterSection(nats=url, shards=shards, replicas=1))


def find_one(config: Config) -> tuple[FindingLevel, str]:
    (finding,) = check_cluster(config)
    assert finding.subject == "cluster"
    assert finding.remedy or finding.level is FindingLevel.OK
    return finding.level, finding.text


def test_a_daemon_that_is_alone_has_nothing_to_check() -> None:
    assert list(check_cluster(Config())) == []


def test_a_client_that_is_missing_is_an_error() -> None:
    def refuse(config: Config, node: str) -> tuple[Log, ConnectLog]:
        raise ConfigError("[cluster] nats: needs the package nats-py")

    (finding,) = check_cluster(make_config("nats://127.0.0.1:1"), refuse)
    assert finding.level is FindingLevel.ERROR
    assert "needs the package nats-py" in finding.text


def test_servers_that_do_not_answer_are_an_error_without_their_password() -> None:
    def make_impatient(config: Config, node: str) -> tuple[Log, ConnectLog]:
        events, _ = make_nats_log(config, node)
        return events, lambda: asyncio.sleep(0)

    pytest.importorskip("nats")
    (finding,) = check_cluster(make_config("nats://streamd:secret@127.0.0.1:1"), make_impatient)
    assert finding.level is FindingLevel.ERROR
    assert finding.text.startswith("127.0.0.1:1: none of these servers of NATS can be used: no answer")


@needs_nats_server
def test_a_cluster_is_found_with_its_shards(tmp_path: Path) -> None:
    servers = NatsServers(tmp_path)
    servers.start()
    try:
        (url,) = servers.urls
        level, text = find_one(make_config(url))
        assert level is FindingLevel.OK
        assert "no node of the cluster 'streamd' was there yet" in text
        asyncio.run(record_meta(make_config(url)))
        level, text = find_one(make_config(url))
        assert level is FindingLevel.OK
        assert "has the cluster 'streamd' of 4 shards" in text
        level, text = find_one(make_config(url, shards=8))
        assert level is FindingLevel.ERROR
        assert "shards is 8, expected 4" in text
        asyncio.run(record(make_config(url), b"\xc1"))
        level, text = find_one(make_config(url))
        assert level is FindingLevel.ERROR
        assert f"the key {META_KEY!r} of the cluster's table of control cannot be read" in text
        asyncio.run(record(make_config(url), None))
        level, text = find_one(make_config(url))
        assert level is FindingLevel.OK
        assert "no node of the cluster 'streamd' was there yet" in text
    finally:
        servers.kill()


async def record(config: Config, value: bytes | None) -> None:
    """Put a value in the place of what the first node recorded, or remove it."""
    events, connect = make_nats_log(config, "first")
    await connect()
    try:
        table = events.table(ClusterNames("streamd").bucket("control"))
        await (table.delete(META_KEY) if value is None else table.put(META_KEY, value))
    finally:
        await events.close()


async def record_meta(config: Config) -> None:
    """Record what the first node of a cluster does."""
    meta = ClusterMeta(
        shards=4,
        aggregation="last",
        late_tolerance_steps=2,
        features=("cpu_user",),
        targets=("cpu_user",),
        quantiles=(0.5,),
        context_length=4,
        horizon=2,
        step_seconds=300,
    )
    events, connect = make_nats_log(config, "first")
    await connect()
    try:
        bucket = ClusterNames("streamd").bucket("control")
        await events.make_bucket(bucket)
        await events.table(bucket).put(META_KEY, msgspec.msgpack.encode(meta), expected_revision=0)
    finally:
        await events.close()
