"""Tests `streamd/tools/captures/dump_samples.py`: samples in the order of series become slices in the order of time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.mapping.series import SourceSeries
from streamd.tools.captures import dump_samples as module
from streamd.tools.captures.dump_samples import DumpSamples
from streamd.tools.captures.errors import CaptureError

STEP_SECONDS = 60
Sample = tuple[int, int, float]
"""Series, milliseconds, value."""


@contextmanager
def keep(samples: Sequence[Sample], run_samples: int = 3) -> Iterator[DumpSamples]:
    kept = DumpSamples(run_samples=run_samples)
    try:
        for series, time_ms, value in samples:
            kept.add_point(SourceSeries("up", {"instance": str(series)}), time_ms / 1000, value)
        kept.finish()
        yield kept
    finally:
        kept.close()


def list_slices(kept: DumpSamples) -> list[list[Sample]]:
    """Return the samples of each slice, with the label of a series in place of its number."""
    return [
        [
            (int(dict(kept.labels[series])[b"instance"]), time, value)
            for series, time, value in zip(
                part.series.tolist(), part.times_ms.tolist(), part.values.tolist(), strict=True
            )
        ]
        for part in kept.iterate_slices(STEP_SECONDS)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-200_000, 400_000), st.floats(-9, 9))),
    st.integers(1, 12),
)
def test_slices_have_all_samples_step_by_step(samples: list[Sample], run_samples: int) -> None:
    with keep(samples, run_samples) as kept:
        slices = list_slices(kept)
        assert sorted(sample for part in slices for sample in part) == sorted(samples)
        steps = [{time // (STEP_SECONDS * 1000) for _, time, _ in part} for part in slices]
        assert all(len(each) == 1 for each in steps)
        newest = [next(iter(each)) for each in steps]
        assert newest == sorted(set(newest))
        assert kept.samples == len(samples)
        times = [time for _, time, _ in samples]
        assert (kept.first_ms, kept.last_ms) == ((min(times), max(times)) if times else (0, 0))
        assert kept.repeated == len(samples) - len({sample[:2] for sample in samples})


def test_of_samples_with_the_same_time_the_later_line_is_the_last() -> None:
    samples = [(0, 1_000, float(number)) for number in range(10)]
    with keep(samples) as kept:
        assert list_slices(kept) == [samples]


def test_a_slice_has_at_most_so_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SLICE_SAMPLES", 4)
    samples = [(series, time, 1.0) for series in range(2) for time in range(0, 60_000, 6_000)]
    with keep([*samples, *[(3, 90_000, 1.0)] * 6]) as kept:
        slices = list_slices(kept)
    assert max(map(len, slices[:-1])) <= 4
    assert len(slices[-1]) == 6  # of one millisecond
    assert [max(time for _, time, _ in part) for part in slices] == sorted(
        max(time for _, time, _ in part) for part in slices
    )
    assert sum(map(len, slices)) == 26


def test_labels_are_sorted_and_have_the_name() -> None:
    with keep([]) as kept:
        kept.bind(b"x", SourceSeries("up", {"job": "é", "Zone": "1"}))
        assert kept.labels == [((b"Zone", b"1"), (b"__name__", b"up"), (b"job", "é".encode()))]


def test_a_place_without_space_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"the samples of a dump cannot be kept in .*: No such file .*; set TMPDIR"):
        DumpSamples(folder=tmp_path / "missing")


def test_a_full_disk_ends_the_reading_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with keep([]) as kept:
        monkeypatch.setattr("numpy.memmap", fail)
        for _ in range(2):
            kept.add_point(SourceSeries("up", {}), 1.0, 1.0)
        with pytest.raises(CaptureError, match="No space left on device"):
            kept.add_point(SourceSeries("up", {}), 2.0, 1.0)
