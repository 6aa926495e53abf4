"""Tests `streamd/core/state/window_copies.py`: copies that another process does not tear."""

from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.rows import PackedRow
from streamd.core.state.window_copies import CopiedWindow, copy_window
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import FEATURES, Sizes

LENGTH = 4
READS_A_COPY = 5


class WrittenMeanwhile:
    """A store of whole rows whose values are their step; the next one is written at some of its reads."""

    def __init__(self, written_at: set[int]) -> None:
        sizes = Sizes(LENGTH, 2, 1)
        self.store = sizes.store(sizes.arrays())
        self.store.reset(0)
        self.step = 0
        self._reads = 0
        self._written_at = written_at
        for _ in range(LENGTH + 1):
            self.write()

    def write(self) -> None:
        self.step += 1
        row = PackedRow(np.full(FEATURES, self.step, np.float32).tobytes(), (1 << FEATURES) - 1)
        self.store.write_sample(0, self.step, row, None, 0.0)

    def __getattr__(self, name: str) -> Any:
        self._reads += 1
        if self._reads in self._written_at:
            self.write()
        return getattr(self.store, name)


def copy(store: object) -> tuple[CopiedWindow | None, list[float]]:
    values = np.empty((LENGTH, FEATURES), np.float32)
    copied = copy_window(cast("WindowStore", store), 0, values, np.empty(LENGTH, np.int32))
    return copied, values[:, 0].tolist()


@given(st.sets(st.integers(1, 6 * READS_A_COPY)))
def test_a_copy_is_the_window_at_one_moment(written_at: set[int]) -> None:
    store = WrittenMeanwhile(written_at)
    copied, values = copy(store)
    assert copied is not None
    assert values == [copied.newest - LENGTH + 1 + place for place in range(LENGTH)]
    assert copied.have == LENGTH


def test_there_is_no_copy_in_the_middle_of_a_change() -> None:
    store = WrittenMeanwhile(set())
    store.store.volatile["changes"][0] += 1
    assert copy(store)[0] is None
