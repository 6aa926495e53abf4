"""Tests `streamd/runtime/ingest.py`.

Each sample is accepted or rejected alone, and each accepted one is in the window store.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from streamd.core.errors import DrainingError, InvalidInputError, MalformedError, StorageError
from streamd.core.state.samples import MAX_LISTED_ERRORS, IngestResult, Sample
from streamd.runtime.ingest import SLICE, Admission, Ingest, IngestLoad, to_epoch_seconds
from streamd.runtime.state.state import State
from tests.support.state_files import LIMITS, opened, rows_of, whole

START = 1_700_000_100
STEP = START // 300


class RecordingIngest:
    """An ingest, and records of its reports."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.due: list[tuple[str | None, int]] = []
        self.forgotten: list[int] = []
        self.load = IngestLoad()
        self.admission = Admission(state, self)
        self.ingest = Ingest(
            state,
            max_ahead_seconds=300.0,
            load=self.load,
            admission=self.admission,
            rows_due=self,
            server_contradicted=self,
        )

    def forget(self, slot: int) -> None:
        self.forgotten.append(slot)

    def contradict(self, slot: int) -> None:
        raise AssertionError("no server lies ahead of the clock here")

    def mark_due(self, slot: int, rows: int) -> None:
        self.due.append((self.state.directory.names[slot], rows))

    async def take(self, *samples: Sample | InvalidInputError) -> IngestResult:
        return await self.ingest.take_samples(enumerate(samples))


@contextmanager
def recording(folder: Path, **limits: Any) -> Iterator[RecordingIngest]:
    with opened(folder, limits=replace(LIMITS, **limits)) as state:
        yield RecordingIngest(state)


def sample(server: str = "web-01", step: int = 0, values: dict[str, float | None] | None = None, **more: Any) -> Sample:
    return Sample(server, START + 300 * step, whole(1.0) if values is None else values, **more)


async def test_good_samples_are_accepted_beside_bad_ones(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        result = await at.take(
            sample(),
            sample(step=1, values={"cpu": 1e39}),
            MalformedError("unreadable"),
            sample("", 1),
            sample("x" * 257),
            change_time(sample(), float("nan")),
            change_time(sample(), -1.0),
            change_time(sample(), time.time() + 10_000),
            sample(step=-9),
            sample(step=1),
        )
        assert result.accepted == 2
        assert [(error["index"], error["code"]) for error in result.errors] == [
            (1, "invalid_value"),
            (2, "malformed"),
            (3, "invalid_server"),
            (4, "invalid_server"),
            (5, "invalid_time"),
            (6, "invalid_time"),
            (7, "too_far_ahead"),
            (8, "too_old"),
        ]
        assert result.rejected == 8
        assert rows_of(at.state, "web-01") == {STEP: whole(1.0), STEP + 1: whole(1.0)}
        assert at.due == [("web-01", 1)]
        assert len(at.state.directory) == 1
        assert at.ingest.accepted == 2
        assert sum(at.ingest.rejected.values()) == 8


def change_time(one: Sample, when: float) -> Sample:
    return Sample(one.server, when, one.values, one.status)


async def test_a_rejected_sample_admits_no_server(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        await at.take(sample("a", values={"cpu": 1e39}), change_time(sample("b"), -5.0))
        assert len(at.state.directory) == 0


async def test_features_that_the_model_does_not_know_are_counted_and_ignored(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        result = await at.take(sample("a", values={"unknown": 1.0}), sample("b", values={"other": 1.0, "cpu": 2.0}))
        assert (result.accepted, result.rejected) == (2, 0)
        assert at.ingest.ignored_features == 2
        assert list(at.state.directory.slots) == ["b"], "a server without known features gets no window"


async def test_samples_are_rejected_while_the_disk_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full btrfs needs new space even for rows of known servers."""
    with recording(tmp_path) as at:
        await at.take(sample())
        monkeypatch.setattr(at.state, "can_run_short", True)
        monkeypatch.setattr(at.state, "find_shortage", lambda: StorageError("full"))
        result = await at.take(sample(step=1), sample("web-02"), MalformedError("unreadable"))
        assert [error["code"] for error in result.errors] == ["storage", "storage", "malformed"]
        assert list(at.state.directory.slots) == ["web-01"]
        monkeypatch.undo()
        assert (await at.take(sample(step=1), sample("web-02"))).accepted == 2


async def test_history_is_accepted_at_its_own_time(tmp_path: Path) -> None:
    """A sample is too old compared with its server's newest row, not with the clock or with other servers."""
    with recording(tmp_path) as at:
        result = await at.take(sample("new", 1_000), sample("old", 0), sample("old", 1), sample("new", 0))
        assert [error["index"] for error in result.errors] == [3]


async def test_the_error_of_an_old_sample_names_the_newest_row(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        await at.take(sample(step=20, values={"cpu": 1.0}))  # this row is still open
        result = await at.take(sample(step=0))
        assert f"newest row ends at {(STEP + 21) * 300}" in result.errors[0]["message"]


async def test_all_errors_are_counted_and_some_listed(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        result = await at.take(*[MalformedError("unreadable")] * (MAX_LISTED_ERRORS + 5))
        assert result.rejected == MAX_LISTED_ERRORS + 5
        assert len(result.errors) == MAX_LISTED_ERRORS


async def test_a_long_body_is_taken_in_slices(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        samples = [sample(step=step) for step in range(2 * SLICE + 1)]
        result = await at.take(*samples)
        assert result.accepted == len(samples)
        assert at.load.bodies == 0
        assert at.state.windows.closed_rows == len(samples)


async def test_more_rows_are_expected_while_a_body_is_taken(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        seen: list[int] = []

        def samples() -> Iterator[tuple[int, Sample]]:
            for step in range(3):
                seen.append(at.load.bodies)
                yield step, sample(step=step)
            raise RuntimeError("a defect")

        with pytest.raises(RuntimeError, match="a defect"):
            await at.ingest.take_samples(samples())
        assert seen == [1, 1, 1]
        assert at.load.bodies == 0


async def test_no_sample_is_accepted_while_it_drains(tmp_path: Path) -> None:
    with recording(tmp_path) as at:
        at.ingest.is_draining = True
        with pytest.raises(DrainingError):
            await at.take(sample())
        assert len(at.state.directory) == 0


async def test_the_longest_silent_server_is_evicted(tmp_path: Path) -> None:
    with recording(tmp_path, capacity=2) as at:
        await at.take(sample("a"), sample("b"))
        slots = dict(at.state.directory.slots)
        for long_ago, slot in enumerate(slots.values()):
            at.state.directory.touch(slot, float(long_ago))
        await at.take(sample("a", 1), sample("c"))
        assert at.forgotten == [slots["b"]], "a has reported since"
        assert at.admission.forgotten_servers == 1
        assert at.state.directory.slots == {"a": slots["a"], "c": slots["b"]}


async def test_a_full_disk_evicts_no_server_and_drops_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with recording(tmp_path, capacity=2) as at:
        await at.take(sample("a"), sample("b"))
    with recording(tmp_path, capacity=2) as at:  # started again, it does not know which pieces of its files have space
        monkeypatch.setattr(os, "posix_fallocate", refuse)
        result = await at.take(sample("c"), sample("a", 1))
        assert [(error["index"], error["code"]) for error in result.errors] == [(0, "storage")]
        assert result.accepted == 1
        assert at.forgotten == [], "servers that wait for a lane still wait"
        assert sorted(at.state.directory.slots) == ["a", "b"]
        assert at.admission.forgotten_servers == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0),
        (1_763_708_400.5, 1_763_708_400.5),
        (datetime(2025, 11, 21, 7, 0, tzinfo=UTC), 1_763_708_400.0),
        (datetime(2025, 11, 21, 8, 0, tzinfo=timezone(timedelta(hours=1))), 1_763_708_400.0),
    ],
)
def test_times_are_converted_to_epoch_seconds(given: float | datetime, seconds: float) -> None:
    assert to_epoch_seconds(given) == seconds
