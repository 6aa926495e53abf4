"""Tests `streamd/runtime/ingest.py`.

Each sample is accepted or rejected alone, and each accepted one is in the window store.
"""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from streamd.core.errors import (
    DrainingError,
    MalformedError,
    StorageError,
)
from streamd.core.state.samples import MAX_LISTED_ERRORS, Sample
from streamd.runtime.ingest import SLICE, to_epoch_seconds
from tests.support.recording_ingest import STEP, record_ingest, sample
from tests.support.state_files import rows_of, whole


async def test_good_samples_are_accepted_beside_bad_ones(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
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
    with record_ingest(tmp_path) as at:
        await at.take(sample("a", values={"cpu": 1e39}), change_time(sample("b"), -5.0))
        assert len(at.state.directory) == 0


async def test_features_that_the_model_does_not_know_are_counted_and_ignored(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
        result = await at.take(sample("a", values={"unknown": 1.0}), sample("b", values={"other": 1.0, "cpu": 2.0}))
        assert (result.accepted, result.rejected) == (2, 0)
        assert at.ingest.ignored_features == 2
        assert list(at.state.directory.slots) == ["b"], "a server without known features gets no window"


async def test_samples_are_rejected_while_the_disk_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full btrfs needs new space even for rows of known servers."""
    with record_ingest(tmp_path) as at:
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
    with record_ingest(tmp_path) as at:
        result = await at.take(sample("new", 1_000), sample("old", 0), sample("old", 1), sample("new", 0))
        assert [error["index"] for error in result.errors] == [3]


async def test_the_error_of_an_old_sample_names_the_newest_row(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
        await at.take(sample(step=20, values={"cpu": 1.0}))  # this row is still open
        result = await at.take(sample(step=0))
        assert f"newest row ends at {(STEP + 21) * 300}" in result.errors[0]["message"]


async def test_all_errors_are_counted_and_some_listed(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
        result = await at.take(*[MalformedError("unreadable")] * (MAX_LISTED_ERRORS + 5))
        assert result.rejected == MAX_LISTED_ERRORS + 5
        assert len(result.errors) == MAX_LISTED_ERRORS


async def test_a_long_body_is_taken_in_slices(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
        samples = [sample(step=step) for step in range(2 * SLICE + 1)]
        result = await at.take(*samples)
        assert result.accepted == len(samples)
        assert at.load.bodies == 0
        assert at.state.windows.closed_rows == len(samples)


async def test_a_body_of_new_servers_is_taken_in_more_slices(tmp_path: Path) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    with record_ingest(tmp_path, capacity=100) as at:
        samples = [sample(f"new-{number}") for number in range(100)]
        counting = asyncio.create_task(count_turns())
        assert (await at.take(*samples)).accepted == 100
        for_new, turns = turns, 0
        assert (await at.take(*samples)).accepted == 100
        counting.cancel()
        assert for_new >= 4, "to admit a server takes as long as many samples"
        assert turns <= 1


async def test_more_rows_are_expected_while_a_body_is_taken(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
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
    with record_ingest(tmp_path) as at:
        at.ingest.is_draining = True
        with pytest.raises(DrainingError):
            await at.take(sample())
        assert len(at.state.directory) == 0


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
