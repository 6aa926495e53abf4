"""Tests `streamd/runtime/admission.py`: new servers get a slot, and evict silent ones."""

import errno
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.core.errors import (
    InvalidServerError,
    NoCapacityError,
)
from streamd.runtime.admission import EVICT_AFTER_SECONDS
from tests.support.recording_ingest import record_ingest, sample


async def test_the_longest_silent_server_is_evicted(tmp_path: Path) -> None:
    with record_ingest(tmp_path, capacity=2) as at:
        await at.take(sample("a"), sample("b"))
        slots = dict(at.state.directory.slots)
        for long_ago, slot in enumerate(slots.values()):
            at.state.directory.touch(slot, float(long_ago))
        await at.take(sample("a", 1), sample("c"))
        assert at.forgotten == [slots["b"]], "a has reported since"
        assert at.admission.forgotten_servers == 1
        assert at.state.directory.slots == {"a": slots["a"], "c": slots["b"]}


async def test_a_server_that_was_seen_lately_is_not_evicted_for_a_newcomer(tmp_path: Path) -> None:
    with record_ingest(tmp_path, capacity=2) as at, capture_logs() as logs:
        await at.take(sample("a"), sample("b"))
        for _ in range(2):
            result = await at.take(sample("new-1"), sample("a", 1), sample("new-2"))
            assert [(error["index"], error["code"]) for error in result.errors] == [
                (0, "no_capacity"),
                (2, "no_capacity"),
            ]
            assert result.accepted == 1
        assert at.forgotten == []
        assert sorted(at.state.directory.slots) == ["a", "b"]
        assert at.admission.refused == 4
        assert [entry["event"] for entry in logs] == ["servers_refused"], "a change is logged, not each newcomer"


async def test_a_server_is_evicted_once_it_was_silent_for_the_whole_time(tmp_path: Path) -> None:
    with record_ingest(tmp_path, capacity=1) as at:
        await at.take(sample("a"))
        seen = at.state.directory.get_last_seen(0)
        with pytest.raises(NoCapacityError):
            at.admission.admit("b", seen + EVICT_AFTER_SECONDS - 1)
        with pytest.raises(InvalidServerError):
            at.admission.admit("", seen + EVICT_AFTER_SECONDS - 1)
        at.admission.admit("b", seen + EVICT_AFTER_SECONDS)
        assert list(at.state.directory.slots) == ["b"]


async def test_a_caller_with_the_right_evicts_at_once(tmp_path: Path) -> None:
    with record_ingest(tmp_path, capacity=1) as at:
        await at.take(sample("a"))
        seen = at.state.directory.get_last_seen(0)
        assert at.admission.find_or_admit("b", seen, may_evict=True) == 0
        assert at.admission.find_or_admit("b", seen) == 0, "a server that is known needs no right"
        assert at.admission.forgotten_servers == 1


async def test_a_full_disk_evicts_no_server_and_drops_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with record_ingest(tmp_path, capacity=2) as at:
        await at.take(sample("a"), sample("b"))
    with record_ingest(
        tmp_path, capacity=2
    ) as at:  # started again, it does not know which pieces of its files have space
        for slot in at.state.directory.slots.values():
            at.state.directory.touch(slot, 0.0)
        monkeypatch.setattr(os, "posix_fallocate", refuse)
        result = await at.take(sample("c"), sample("a", 1))
        assert [(error["index"], error["code"]) for error in result.errors] == [(0, "storage")]
        assert result.accepted == 1
        assert at.forgotten == [], "servers that wait for a lane still wait"
        assert sorted(at.state.directory.slots) == ["a", "b"]
        assert at.admission.forgotten_servers == 0
