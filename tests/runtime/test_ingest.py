"""Tests `streamd/runtime/ingest.py`.

Each sample is accepted or rejected alone, and each accepted one is in the window store.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import (
    DrainingError,
    MalformedError,
    StorageError,
    StreamdError,
)
from streamd.core.state.samples import MAX_LISTED_ERRORS, CellSample, Sample
from streamd.runtime.ingest import SLICE
from tests.support.recording_ingest import STEP, RecordingIngest, record_ingest, sample
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


# ---------------------------------------------------------------- a few single samples
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "", "x" * 257])
FIRST, *_, LAST = whole(1.0)
VALUES = st.none() | st.sampled_from([1.0, 2.5, float("nan"), float("inf"), 1e39])
FEW = st.lists(
    st.builds(
        sample,
        NAMES,
        st.sampled_from([-9, 0, 1, 2, 10**9]),
        st.fixed_dictionaries({}, optional={FIRST: VALUES, LAST: st.just(1.0)}),
        status=st.sampled_from([None, 3]),
    ),
    max_size=24,
)


@settings(max_examples=60)
@given(FEW)
async def test_a_few_samples_are_taken_as_those_of_a_body_are(
    tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]
) -> None:
    with (
        record_ingest(tmp_path_factory.mktemp("few"), capacity=4) as few,
        record_ingest(tmp_path_factory.mktemp("body"), capacity=4) as body,
    ):
        errors: list[StreamdError | None] = []
        while len(errors) < len(samples):
            errors += few.ingest.take_few([make_cells(few, each) for each in samples[len(errors) :]])
        result = await body.take(*samples)
        found = [(index, error.code) for index, error in enumerate(errors) if error is not None]
        assert found == [(error["index"], error["code"]) for error in result.errors]
        assert (few.ingest.accepted, few.ingest.rejected) == (body.ingest.accepted, body.ingest.rejected)
        assert few.due == body.due
        assert few.state.directory.slots == body.state.directory.slots
        for server in body.state.directory.slots:
            np.testing.assert_equal(rows_of(few.state, server), rows_of(body.state, server))
        assert few.load.bodies == 0


def make_cells(at: RecordingIngest, one: Sample) -> CellSample[Any]:
    values = [one.values.get(name) for name in at.state.contract.features]
    return CellSample(one.server, one.time, at.ingest.rows.cells_type(*values), one.status)


async def test_a_few_samples_that_are_much_work_are_taken_in_parts(tmp_path: Path) -> None:
    with record_ingest(tmp_path, capacity=16) as at:
        samples = [make_cells(at, sample(f"web-{number}")) for number in range(10)]
        assert at.ingest.take_few(samples) == [None] * 4, "new servers are work"
        assert at.ingest.take_few(samples[4:]) == [None] * 4
        again = [make_cells(at, sample(f"web-{number}", 1)) for number in range(8)]
        assert at.ingest.take_few(again) == [None] * 8


async def test_no_sample_is_taken_while_the_daemon_stops(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
        at.ingest.is_draining = True
        with pytest.raises(DrainingError):
            at.ingest.take_few([make_cells(at, sample())])
        assert len(at.state.directory) == 0


async def test_servers_that_become_due_in_a_few_samples_are_queued_before_one_of_them_is_forgotten(
    tmp_path: Path,
) -> None:
    with record_ingest(tmp_path, capacity=2, need=1) as at:
        at.admission._evict_after_seconds = -1.0
        at.ingest.take_few([make_cells(at, sample(name)) for name in ("a", "b", "c")])
        assert [name for name, _ in at.due] == ["a", "b", "c"], "at the time of its call, each slot was its server's"
        assert len(at.forgotten) == 1
