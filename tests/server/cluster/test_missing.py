"""Tests `streamd/server/cluster/missing.py`: what somebody has deleted in NATS is told."""

from typing import Any, cast

import pytest

from streamd.cluster.log import LogMissingError, StreamState
from streamd.cluster.streams import ShardLimits, prepare_streams
from streamd.core.cluster.shards import ClusterNames
from streamd.server.cluster.missing import MissingStreams
from tests.support.made_log import MemoryLog

LIMITS = ShardLimits(row_bytes=2**20, forecast_bytes=2**20)

NAMES = ClusterNames("streamd")


class NodeOfTwo:
    """A node that holds two shards."""

    def list_held(self) -> list[int]:
        return [0, 1]


async def test_a_deleted_stream_is_missing_until_it_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log, deleted = MemoryLog(), {NAMES.windows_stream(1), NAMES.rows_stream(7)}
    await prepare_streams(log, NAMES, 2, LIMITS)
    read = log.read_state

    async def read_state(stream: str) -> StreamState:
        if stream in deleted:
            raise LogMissingError(f"{stream}: stream not found")
        return await read(stream)

    monkeypatch.setattr(log, "read_state", read_state)
    watch = MissingStreams(log, NAMES, cast(Any, NodeOfTwo()))
    await watch.check()
    assert watch.missing == {NAMES.windows_stream(1)}
    log.cut()
    await watch.check()
    assert watch.missing == {NAMES.windows_stream(1)}, "nothing is known while the log is away"
    log.heal()
    deleted.clear()
    await watch.check()
    assert watch.missing == set()
